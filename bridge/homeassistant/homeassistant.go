package homeassistant

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
	"github.com/lawnberry/lawnberry/topic"
)

// ID is the bridge's service. It has the commands publish, remove and migrate.
const ID = "home_assistant"

// Options configure a bridge.
type Options struct {
	Settings
	Client client.Options // how to reach the broker; ID and Will are set by Start. The bridge has two connections
	Logger *slog.Logger   // nil is discarded

	// Jitter is within which everything is sent again, at a random time, when Home Assistant has started; 0 is 3 s, negative is at once.
	Jitter time.Duration
	// PingEvery is how often the mower's service is asked whether it is there, for latency and link quality; 0 is 30 s.
	PingEvery time.Duration

	patience time.Duration // in tests: how long all sources may be silent
}

// A Bridge is a running bridge. Its methods may be called concurrently.
type Bridge struct {
	o      Options
	log    *slog.Logger
	svc    *service.Service
	latch  *safety.Latch
	home   *client.Client // what Home Assistant sees: its Will is the availability
	ready  atomic.Bool    // it sees the mower
	states *states
	events *allowance
	link   link

	ctx  context.Context // ends with Stop
	end  context.CancelFunc
	work sync.WaitGroup

	rebuild chan struct{} // holds a token when the document may have changed
	arrived chan struct{} // holds a token when the mower's service has come
	birth   chan struct{} // holds a token when Home Assistant has started

	publishing sync.Mutex // held while a document or a value is published, or all removed; taken before mu

	mu       sync.Mutex // guards the fields below
	seen     Seen
	known    map[string]service.Info  // services that have announced themselves
	document []byte                   // as it is published; nil when it is not
	alerts   map[string]service.Alert // that stand, by type
	removed  bool                     // somebody wants it removed
	ended    bool
	steering *run // the command that the mower's service runs for us, or has; nil without
	busy     int  // commands that run
}

const (
	conflation    = time.Second // between two values of a topic
	settleTime    = time.Second // that services have to come and go before the document is published again
	againAtMost   = 5 * time.Second
	publishTime   = 5 * time.Second
	retryTime     = 2 * time.Second
	firstSettle   = 200 * time.Millisecond
	defaultJitter = 3 * time.Second
	defaultPing   = 30 * time.Second
)

// Start starts a bridge and returns when Home Assistant sees the mower, as far as it is there.
func Start(ctx context.Context, o Options) (_ *Bridge, err error) {
	if o.Settings, err = o.withDefaults(); err != nil {
		return nil, fmt.Errorf("bridge to Home Assistant: %w", err)
	}
	if o.Jitter == 0 {
		o.Jitter = defaultJitter
	}
	if o.PingEvery <= 0 {
		o.PingEvery = defaultPing
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	b := &Bridge{
		o: o, log: o.Logger, states: newStates(conflation), events: newAllowance(20, 5),
		rebuild: make(chan struct{}, 1), birth: make(chan struct{}, 1), arrived: make(chan struct{}, 1),
		known: map[string]service.Info{}, alerts: map[string]service.Alert{}, seen: Seen{Sources: map[string]string{}},
	}
	b.ctx, b.end = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = fmt.Errorf("bridge to Home Assistant: %w", errors.Join(err, b.Stop(context.WithoutCancel(ctx))))
		}
	}()
	if err := b.connect(ctx); err != nil {
		return nil, err
	}
	near := o.Client
	near.CleanStart = true
	if _, err = service.Start(ctx, service.Options{
		ID: ID, Version: o.Version, Client: near, Logger: o.Logger,
		Setup: func(ctx context.Context, s *service.Service) error { b.svc = s; return b.setup(ctx) },
	}); err != nil {
		return nil, err
	}
	b.svc.OnService(func(i service.Info, _ service.State) { b.heard(i, true) })
	for i := range b.svc.Services("") {
		b.heard(i, false)
	}
	if err := b.appear(ctx); err != nil {
		return nil, err
	}
	b.work.Go(b.send)
	b.work.Go(b.keepDocument)
	b.work.Go(b.answerBirths)
	b.work.Go(b.measure)
	return b, nil
}

// setup registers what the bridge hears on the bus, and its commands.
func (b *Bridge) setup(ctx context.Context) (err error) {
	if b.latch, err = safety.OpenLatch(ctx, b.svc.Client(), safety.LatchOptions{By: "Home Assistant", Logger: b.log}); err != nil {
		return err
	}
	b.latch.OnChange(b.showStop)
	b.show(entityVersion, object{"installed_version": b.o.Version}, 0)
	b.show(entityMower, object{"activity": "none", "detail": unknownActivity, "progress": nil}, 0)
	b.showLink()
	b.showProblem()
	if err := b.listen(ctx); err != nil {
		return err
	}
	service.Handle(b.svc, "publish", func(ctx context.Context, _ struct{}) (published, error) { return b.publishNow(ctx) },
		service.Description("Publishes the discovery document for Home Assistant, also after it was removed."))
	service.Handle(b.svc, "remove", func(ctx context.Context, _ struct{}) (published, error) { return b.removeNow(ctx) },
		service.Description("Removes the mower from Home Assistant, until publish or the next start."))
	service.Handle(b.svc, "migrate", func(ctx context.Context, _ struct{}) (migrated, error) { return b.migrateNow(ctx) },
		service.Description("Replaces discovery topics of single components by the document of the device."))
	return nil
}

// connect connects to where Home Assistant looks. Until the bridge is ready nothing is said there.
func (b *Bridge) connect(ctx context.Context) (err error) {
	far := b.o.Client
	far.ID = ID + "-" + strings.ToLower(crand.Text()[:8])     // a second bridge, which is refused as a service, takes nobody's place
	far.CleanStart, far.SessionExpiry, far.Dir = true, -1, "" // what Home Assistant wanted while we were away it wants no more
	far.Signing, far.Encryption = nil, nil                    // it knows neither
	far.Limits.MaxPayload, far.Limits.MaxAge = max(far.Limits.MaxPayload, MaxPayload), -1
	far.Rates, far.Logger = client.Rates{}, b.log
	far.Will = &client.Will{Topic: topic.Absolute(b.o.availability()), Message: message.NewRaw([]byte("offline")), QoS: 1, Retain: true}
	far.Birth = func(ctx context.Context, c *client.Client) error {
		if !b.ready.Load() || b.isRemoved() {
			return nil
		}
		b.mu.Lock()
		document := b.document
		b.mu.Unlock()
		if document != nil { // the broker may have lost it
			if err := put(ctx, c, b.o.Topic(), document); err != nil {
				return err
			}
		}
		if err := put(ctx, c, b.o.availability(), []byte("online")); err != nil {
			return err
		}
		b.states.again()
		return nil
	}
	b.home, err = client.Connect(ctx, far)
	return err
}

// appear shows the mower to Home Assistant, and obeys it from then on.
func (b *Bridge) appear(ctx context.Context) error {
	old, err := Retained(ctx, b.home, b.o.Topic())
	if err != nil {
		return err
	}
	b.mu.Lock()
	b.document = old[b.o.Topic()]
	b.mu.Unlock()
	if err := b.obey(ctx); err != nil {
		return err
	}
	b.ready.Store(true)
	_, err = b.publishNow(ctx)
	return err
}

// show says what is to be on an entity's state topic.
func (b *Bridge) show(entity string, state object, refresh time.Duration) {
	b.states.set(b.o.stateTopic(entity), encode(state), refresh)
}

// showAttributes says what the attributes of an entity are.
func (b *Bridge) showAttributes(entity string, attributes object) {
	b.states.set(b.o.attributesTopic(entity), encode(attributes), 0)
}

// tell publishes an event, which is not retained. What comes too often is left out, and logged.
func (b *Bridge) tell(entity string, event object) {
	if !b.events.take(time.Now()) {
		b.log.Warn("events for Home Assistant come too often, one is left out", "entity", entity)
		return
	}
	ctx, cancel := context.WithTimeout(b.ctx, publishTime)
	defer cancel()
	err := b.home.Publish(ctx, topic.Absolute(b.o.stateTopic(entity)), message.NewRaw(encode(event)), client.WithQoS(1), client.WithRetain(false),
		client.WithExpiry(time.Minute))
	if err != nil && b.ctx.Err() == nil {
		b.log.Warn("an event did not go to Home Assistant", "entity", entity, "error", err)
	}
}

// send sends what is due, until the bridge ends.
func (b *Bridge) send() {
	t := time.NewTimer(time.Hour)
	defer t.Stop()
	for {
		var list []sending
		wait := time.Duration(0)
		if b.ready.Load() && b.home.Connected() && !b.isRemoved() { // else Birth or publish has everything sent
			list, wait = b.states.due(time.Now())
		}
		for _, x := range list {
			if err := b.sendOne(x); err != nil {
				if b.ctx.Err() != nil {
					return
				}
				b.log.Warn("a value did not go to Home Assistant, it is sent again", "topic", x.topic, "error", err)
				b.states.unsent(x.topic)
			}
		}
		if wait == 0 {
			wait = time.Hour
		}
		t.Reset(wait)
		select {
		case <-b.states.wake:
		case <-t.C:
		case <-b.ctx.Done():
			return
		}
	}
}

// sendOne sends a value, unless the mower is removed.
func (b *Bridge) sendOne(x sending) error {
	b.publishing.Lock()
	defer b.publishing.Unlock()
	if b.isRemoved() {
		return nil
	}
	ctx, cancel := context.WithTimeout(b.ctx, publishTime)
	defer cancel()
	return put(ctx, b.home, x.topic, x.payload)
}

func (b *Bridge) isRemoved() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.removed
}

// answerBirths sends everything again after Home Assistant has started, until the bridge ends.
func (b *Bridge) answerBirths() {
	for {
		select {
		case <-b.birth:
		case <-b.ctx.Done():
			return
		}
		wait := time.Duration(0)
		if b.o.Jitter > 0 {
			wait = rand.N(b.o.Jitter)
		}
		if !b.pause(wait) {
			return
		}
		if !b.isRemoved() {
			b.log.Info("Home Assistant has started: everything is sent again")
			if err := b.sendAll(b.ctx); err != nil && b.ctx.Err() == nil {
				b.log.Warn("not everything was sent again", "error", err)
			}
		}
		if b.o.Jitter > 0 && !b.pause(againAtMost) { // whatever somebody sends
			return
		}
	}
}

// sendAll sends availability, document and values.
func (b *Bridge) sendAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*publishTime)
	defer cancel()
	b.publishing.Lock()
	defer b.publishing.Unlock()
	b.mu.Lock()
	document := b.document
	b.mu.Unlock()
	var err error
	if document != nil {
		err = put(ctx, b.home, b.o.Topic(), document)
	}
	b.states.again()
	return errors.Join(err, put(ctx, b.home, b.o.availability(), []byte("online")))
}

// pause waits, and reports whether the bridge goes on.
func (b *Bridge) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-b.ctx.Done():
		return false
	}
}

// Stop ends the bridge: Home Assistant shows the mower as unavailable. It is idempotent, and takes until ctx ends at most, or 2 s.
func (b *Bridge) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	b.mu.Lock()
	if b.ended {
		b.mu.Unlock()
		return nil
	}
	b.ended = true
	b.mu.Unlock()
	b.end()
	b.work.Wait()
	var errs []error
	if b.home != nil {
		if b.ready.Load() && b.home.Connected() && !b.isRemoved() {
			errs = append(errs, put(ctx, b.home, b.o.availability(), []byte("offline")))
		}
		errs = append(errs, b.home.Close(ctx))
	}
	if b.latch != nil {
		_ = b.latch.Close(ctx)
	}
	if b.svc != nil {
		errs = append(errs, b.svc.Stop(ctx))
	}
	return errors.Join(errs...)
}

// An allowance is what may happen at once, and each second.
type allowance struct {
	most, each float64

	mu   sync.Mutex // guards the fields below
	left float64
	at   time.Time
}

func newAllowance(most, each float64) *allowance {
	return &allowance{most: most, each: each, left: most}
}

// take reports whether one more may happen.
func (a *allowance) take(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.at.IsZero() {
		a.left = min(a.most, a.left+a.each*now.Sub(a.at).Seconds())
	}
	a.at = now
	if a.left < 1 {
		return false
	}
	a.left--
	return true
}
