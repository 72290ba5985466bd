package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
	"github.com/lawnberry/lawnberry/topic"
)

// The bounds of what top keeps, whatever the bus sends.
const (
	maxTopTopics   = 5000
	maxTopServices = 2000
	maxTopEvents   = 200
	maxTopFigures  = 500  // of the broker
	maxTopName     = 512  // bytes of a topic, beyond which it is one of the others
	maxTopBody     = 2048 // bytes of a message
	maxTopMessages = 50   // of the topic that is looked at
)

// A feed collects what happens on the bus, for top.
type feed struct {
	c       *client.Client
	latch   *safety.Latch
	timeout time.Duration // the lease of services that announce none
	roll    *roll
	poke    chan struct{} // holds one when the hub has news
	ready   chan struct{} // closed when what the broker retains is here
	began   time.Time
	ctx     context.Context // of all that runs here
	end     context.CancelFunc
	wg      sync.WaitGroup

	mu       sync.Mutex // guards what follows
	link     linkView
	topics   map[string]*topicLine
	others   int // messages of topics beyond those
	all      window
	events   []eventLine // the oldest first
	book     *service.AlertBook
	bookOf   uint64 // the connection that it is of
	figures  map[string]string
	missing  []string // what cannot be seen, and why
	hub      hubView
	press    pressView
	watched  string // the topic that is looked at
	messages []client.Delivery
	look     *serviceLook
}

// A linkView is the connection to the broker.
type linkView struct {
	URL        string    `json:"url"`
	Connected  bool      `json:"connected"`
	Since      time.Time `json:"since"`
	Cause      string    `json:"cause,omitempty"` // why it was lost
	Reconnects uint64    `json:"reconnects"`
}

// A hubView is the last answer of the hub of the emergency stop.
type hubView struct {
	safety.Status
	At    time.Time     // of the answer; zero before the first
	Took  time.Duration // the command's round trip
	Error string        // why there is no answer
}

// A pressView is what became of the last press of STOP.
type pressView struct {
	At        time.Time
	Busy      bool
	Took      time.Duration // until the broker had it
	Confirmed bool          // by the hub
	Error     string
}

// openFeed connects, and begins to collect. What it has to wait for comes later, but for the latch: STOP works from the beginning.
func openFeed(ctx context.Context, d *dialler, o client.Options, cfg *config.Config, by string) (*feed, error) {
	o.Safety, o.Probe = true, 0
	c, err := d.connect(ctx, o)
	if err != nil {
		return nil, err
	}
	f := &feed{
		c: c, timeout: cfg.Services.HeartbeatTimeout, roll: newRoll(), poke: make(chan struct{}, 1), ready: make(chan struct{}), began: time.Now(),
		topics: map[string]*topicLine{}, figures: map[string]string{}, book: &service.AlertBook{},
	}
	f.roll.most = maxTopServices
	f.ctx, f.end = context.WithCancel(context.WithoutCancel(ctx))
	f.link = linkView{URL: withoutLogin(o.URL), Connected: true, Since: f.began}
	c.OnConnection(f.connection)
	limited, cancel := d.bound(ctx)
	defer cancel()
	if f.latch, err = safety.OpenLatch(limited, c, safety.LatchOptions{By: by, Logger: o.Logger}); err != nil {
		f.end()
		_ = disconnect(c)
		return nil, because(limited, err)
	}
	f.latch.OnChange(func(safety.State) { f.news() })
	f.wg.Go(f.collect)
	f.wg.Go(f.watchHub)
	return f, nil
}

// close ends the feed. Its error says if an emergency stop that was engaged here is not known to be.
func (f *feed) close(ctx context.Context) error {
	f.mu.Lock()
	pressed := f.press
	f.mu.Unlock()
	if !pressed.At.IsZero() && !pressed.Confirmed {
		limited, cancel := context.WithTimeout(ctx, hubPatience)
		_ = f.latch.Settle(limited) // else the error says so
		cancel()
	}
	state := f.latch.State()
	f.end()
	f.wg.Wait()
	bye, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	_ = f.latch.Close(bye)
	err := disconnect(f.c)
	f.mu.Lock()
	pressed = f.press
	f.mu.Unlock()
	switch {
	case pressed.At.IsZero() || pressed.Confirmed || state.Known && state.Engaged:
		return err
	case err != nil:
		return &failure{exitNoBroker, errors.New("the emergency stop was not sent: " + err.Error()), "press the button on the mower"}
	}
	return failf(exitTimeout, "the emergency stop was engaged, the broker has it; but the hub has not confirmed it, so it is not known who has stopped")
}

func (f *feed) news() {
	select {
	case f.poke <- struct{}{}:
	default:
	}
}

func (f *feed) connection(connected bool, cause error) {
	f.mu.Lock()
	f.link.Connected, f.link.Since, f.link.Cause = connected, time.Now(), ""
	if cause != nil {
		f.link.Cause = cause.Error()
	}
	f.mu.Unlock()
	if connected { // who was not heard without a connection has the whole lease again
		f.roll.mu.Lock()
		f.roll.since = time.Now()
		f.roll.mu.Unlock()
	}
	f.news()
}

// collect subscribes. What is refused is missing from the view, which says so.
func (f *feed) collect() {
	queue := client.WithQueue(client.Queue{Max: 10_000, Full: client.DropOldest})
	failed := func(what string, err error) {
		if err != nil && f.ctx.Err() == nil {
			f.mu.Lock()
			f.missing = append(f.missing, what+": "+err.Error())
			f.mu.Unlock()
		}
	}
	subscribe := func(what, filter string, take client.Handler, opts ...client.SubscribeOption) {
		_, err := f.c.Subscribe(f.ctx, filter, take, opts...)
		failed(what, err)
	}
	subscribe("alerts", alertTopic("+"), func(_ context.Context, d *client.Delivery) { f.takeAlert(d) }, queue)
	subscribe("events", "system/events/+", func(_ context.Context, d *client.Delivery) { f.takeEvent(d) }, queue)
	subscribe("topics", "#", func(_ context.Context, d *client.Delivery) { f.takeTopic(d) }, queue, client.WithInvalid(), client.WithMaxQoS(0))
	subscribe("broker", topic.Absolute("$SYS/broker/#"), func(_ context.Context, d *client.Delivery) { f.takeFigure(d) }, queue, client.WithInvalid())
	failed("services", f.roll.take(f.ctx, f.c, f.timeout))
	close(f.ready)
}

func (f *feed) takeAlert(d *client.Delivery) {
	f.mu.Lock()
	f.renewLocked()
	book := f.book
	f.mu.Unlock()
	book.Take(d)
}

// renewLocked begins with no alerts and figures after a reconnect: those that stand come again, and those that were cleared meanwhile do not.
func (f *feed) renewLocked() {
	if n := f.c.Connection(); n != 0 && n != f.bookOf {
		if f.bookOf != 0 {
			f.book, f.figures = &service.AlertBook{}, map[string]string{}
		}
		f.bookOf = n
	}
}

func (f *feed) takeEvent(d *client.Delivery) {
	e, ok := newEventLine(d)
	if !ok {
		return
	}
	if len(e.Data) > maxTopBody {
		e.Data, _ = json.Marshal(string(e.Data[:maxTopBody]) + "...") // a string always encodes
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.events) == maxTopEvents {
		f.events = slices.Delete(f.events, 0, 1)
	}
	f.events = append(f.events, e)
}

func (f *feed) takeFigure(d *client.Delivery) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.renewLocked()
	name, ok := strings.CutPrefix(d.Topic, "$SYS/broker/")
	if _, known := f.figures[name]; !ok || !known && len(f.figures) >= maxTopFigures || len(name) > maxTopName {
		return
	}
	f.figures[name] = string(d.Message.Payload[:min(len(d.Message.Payload), 200)])
}

// watchHub asks the hub, each second and when there is news.
func (f *feed) watchHub() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if f.c.Connected() {
			limited, cancel := context.WithTimeout(f.ctx, 2*time.Second)
			began := time.Now()
			s, err := readStop(limited, f.c)
			cancel()
			f.mu.Lock()
			f.hub = hubView{Status: s, At: began, Took: time.Since(began)}
			if err != nil {
				f.hub.Error, f.hub.Took = err.Error(), 0
			}
			f.mu.Unlock()
		}
		select {
		case <-tick.C:
		case <-f.poke:
		case <-f.ctx.Done():
			return
		}
	}
}

// stop engages the emergency stop, and does not wait. While one press is on its way another adds nothing.
func (f *feed) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.press.Busy || f.ctx.Err() != nil {
		return
	}
	began := time.Now()
	f.press = pressView{At: began, Busy: true}
	f.wg.Go(func() {
		err := f.latch.Engage(f.ctx, "STOP was pressed in lawnberry top")
		took := time.Since(began)
		f.mu.Lock()
		f.press.Busy, f.press.Took = false, took
		if err != nil {
			f.press.Error = err.Error()
		}
		f.mu.Unlock()
		if f.latch.Settle(f.ctx) == nil { // also what was not sent is said again
			f.mu.Lock()
			if f.press.At.Equal(began) {
				f.press.Confirmed, f.press.Error = true, ""
			}
			f.mu.Unlock()
		}
		f.news()
	})
}

// watch keeps the messages of one topic from now on, of none for "".
func (f *feed) watch(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.watched == name {
		return
	}
	f.watched, f.messages = name, nil
	if line := f.topics[name]; line != nil {
		f.messages = append(f.messages, copied(line.last))
	}
}

// copied is a delivery whose payload does not change any more.
func copied(d client.Delivery) client.Delivery {
	d.Message.Payload = bytes.Clone(d.Message.Payload)
	return d
}

// A serviceLook is a service that is looked at closely.
type serviceLook struct {
	id   string
	roll *roll // its commands
	end  context.CancelFunc

	mu    sync.Mutex // guards what follows
	stats [][2]string
	why   string // there are none
}

// inspect looks at one service closely from now on, at none for "".
func (f *feed) inspect(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.look != nil && f.look.id == id || f.ctx.Err() != nil:
		return
	case f.look != nil:
		f.look.end()
		f.look = nil
	}
	if id == "" {
		return
	}
	l := &serviceLook{id: id, roll: newRoll(), why: "asked for"}
	if err := checkLevel("service", id); err != nil { // a report may name anything
		f.look, l.why, l.end = l, err.Error(), func() {}
		return
	}
	var ctx context.Context
	ctx, l.end = context.WithCancel(f.ctx)
	f.look = l
	f.wg.Go(func() { l.run(ctx, f.c) })
}

// run asks a service for what it counts, every two seconds.
func (l *serviceLook) run(ctx context.Context, c *client.Client) {
	s, err := c.Subscribe(ctx, "system/services/"+l.id+"/commands/#", func(_ context.Context, d *client.Delivery) { l.roll.describe(d) })
	if err == nil {
		defer func() {
			bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_ = s.Unsubscribe(bye) // else it ends with the connection
		}()
	}
	for ok := true; ok; ok = pause(ctx, 2*time.Second) {
		limited, cancel := context.WithTimeout(ctx, 2*time.Second)
		var result json.RawMessage
		err := errors.New("no connection")
		if c.Connected() {
			err = c.Call(limited, l.id, "status", nil, &result)
		}
		cancel()
		l.mu.Lock()
		if err != nil {
			l.why = err.Error()
		} else {
			l.stats, l.why = flatten(result), ""
		}
		l.mu.Unlock()
	}
}

// A busView is what is known of the bus at one time.
type busView struct {
	at       time.Time
	link     linkView
	state    safety.State // as every program that heeds it knows it
	hub      hubView
	press    pressView
	services []serviceInfo
	topics   []topicView
	others   int // messages of topics that are not among those
	unlisted int // statuses of services that are not among those
	rate     float64
	bytes    float64
	latency  client.Quantiles
	alerts   []service.Alert
	events   []eventLine // the newest first
	figures  map[string]string
	missing  []string
	lost     uint64 // messages that came faster than they could be counted
	received uint64

	messages []client.Delivery // of the topic that is looked at, the newest first
	commands []service.Command // of the service that is looked at
	stats    [][2]string
	why      string // there are no stats
}

// settled is how long after a connection came up what is retained is taken to be here.
const settled = 2 * time.Second

// view returns what is known now.
func (f *feed) view() busView {
	now := time.Now()
	stats := f.c.Stats()
	v := busView{at: now, state: f.latch.State(), latency: stats.OneWay, lost: stats.Dropped, received: stats.Received}
	f.mu.Lock()
	v.link = f.link
	v.link.Reconnects = stats.Reconnects
	if s, ok := f.c.Server(); ok {
		v.link.URL = s.URL
	}
	fresh := v.link.Connected && now.Sub(v.link.Since) > settled
	if fresh {
		f.renewLocked()
	}
	v.hub, v.press, v.others = f.hub, f.press, f.others
	second := f.second(now)
	messages, size := f.all.sum(second)
	span := f.span(second)
	v.rate, v.bytes = float64(messages)/span, float64(size)/span
	v.topics = make([]topicView, 0, len(f.topics))
	for name, line := range f.topics {
		v.topics = append(v.topics, line.view(name, now, second, span))
	}
	v.events = slices.Clone(f.events)
	slices.Reverse(v.events)
	v.figures, v.missing = maps.Clone(f.figures), slices.Clone(f.missing)
	v.messages = slices.Clone(f.messages)
	slices.Reverse(v.messages)
	book, look := f.book, f.look
	f.mu.Unlock()
	v.alerts = book.Alerts()
	if fresh { // while nothing comes nobody is silent
		f.roll.expire(f.timeout)
	}
	v.services = f.roll.list()
	f.roll.mu.Lock()
	v.unlisted = f.roll.others
	f.roll.mu.Unlock()
	if look != nil {
		look.roll.mu.Lock()
		v.commands = look.roll.commandsLocked(look.id)
		look.roll.mu.Unlock()
		look.mu.Lock()
		v.stats, v.why = look.stats, look.why
		look.mu.Unlock()
	}
	return v
}

// resources reports whether a service has said what it uses.
func resources(s *serviceInfo) bool { return s.Resources != message.Resources{} }
