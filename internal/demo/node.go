package demo

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/loglevel"
	"github.com/lawnberry/lawnberry/message"
	estop "github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

// A role is what distinguishes one service of the demo from the others.
type role interface {
	needs() []string // ids of the services that it depends on
	// health is asked before every heartbeat, the first time before setup.
	health(ctx context.Context) (service.State, string)
	// setup registers commands and subscriptions, before anybody sees the service healthy.
	setup(ctx context.Context, n *node) error
	// begin starts what goes on by itself, with every and follow, once the service is healthy.
	begin(n *node)
}

// A node is one running service of the demo: a service.Service, the goroutines that work for it, and the entries in the
// ledger of what it sends.
type node struct {
	*service.Service
	id     string
	role   role
	ledger *ledger
	log    *slog.Logger
	began  time.Time

	working context.Context // ends first, when no new work should begin
	rest    context.CancelFunc
	sending context.Context // ends when what was begun must end too
	abandon context.CancelFunc
	work    sync.WaitGroup

	mu       sync.Mutex // guards the fields below
	warnedAt time.Time  // when a failure was last logged
	last     []func(ctx context.Context)
}

const (
	sendTime = 5 * time.Second // for one publication
	callTime = 2 * time.Second // for one command between services of the demo
)

// startNode starts a service and returns when it is healthy and works.
func startNode(ctx context.Context, id string, r role, o Options, l *ledger) (*node, error) {
	n := &node{id: id, role: r, ledger: l, began: time.Now()}
	n.working, n.rest = context.WithCancel(context.Background())
	n.sending, n.abandon = context.WithCancel(context.Background())
	level := new(slog.LevelVar)
	level.Set(lowest(o.Logger))
	levels := loglevel.New(level)
	o.Logger = slog.New(levels.Handler(o.Logger.Handler()))
	n.log = o.Logger.With("service", id)
	co := o.Client
	co.CleanStart = true // nothing from before this demo
	if url := o.urls[id]; url != "" {
		co.URL = url
	}
	so := service.Options{
		ID: id, Type: typeOf(id), Version: version,
		Client:           co,
		Dependencies:     r.needs(),
		Heartbeat:        heartbeat,
		HeartbeatTimeout: 3 * heartbeat,
		Health:           r.health,
		Metadata:         map[string]any{"simulated": true},
		Logger:           o.Logger,
		LogLevels:        levels,
		Setup: func(ctx context.Context, s *service.Service) error {
			n.Service = s
			s.OnShutdown(n.leave) // also when the shutdown command asks for it: the demo goes on, and safety sees it
			return r.setup(ctx, n)
		},
	}
	if id == "hardware_interface" || id == "safety" { // their silence has to be noticed at once, and a dead link too
		so.Safety, so.Heartbeat, so.HeartbeatTimeout = true, 0, 0
	}
	if _, err := service.Start(ctx, so); err != nil {
		n.leave(ctx)
		return nil, err
	}
	r.begin(n)
	return n, nil
}

// lowest returns the lowest level that a log takes.
func lowest(log *slog.Logger) slog.Level {
	for _, l := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if log.Enabled(context.Background(), l) {
			return l
		}
	}
	return slog.LevelError + 1
}

// quiet ends the node's own work: nothing new begins, and what was begun is waited for until ctx ends. The service stays.
// It is idempotent.
func (n *node) quiet(ctx context.Context) {
	n.rest()
	stop := context.AfterFunc(ctx, n.abandon)
	n.work.Wait()
	stop()
	n.abandon()
}

// leave is quiet, and ends what was to be ended before the service goes.
func (n *node) leave(ctx context.Context) {
	n.quiet(ctx)
	n.mu.Lock()
	last := n.last
	n.last = nil
	n.mu.Unlock()
	for i := len(last) - 1; i >= 0; i-- {
		last[i](ctx)
	}
}

// atEnd has f called when the service has ended its work and is about to leave, those of later calls first.
func (n *node) atEnd(f func(ctx context.Context)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last = append(n.last, f)
}

// openLatch opens the latch of the service, until it leaves.
func (n *node) openLatch(ctx context.Context) (*estop.Latch, error) {
	l, err := estop.OpenLatch(ctx, n.Client(), estop.LatchOptions{Logger: n.log})
	if err != nil {
		return nil, err
	}
	n.atEnd(func(ctx context.Context) {
		if err := l.Close(ctx); err != nil {
			n.log.Debug("the latch was not closed cleanly", "error", err)
		}
	})
	return l, nil
}

// every calls f at once and then each period, late or never when f takes longer, until the node rests.
func (n *node) every(period time.Duration, f func()) {
	n.work.Go(func() {
		t := time.NewTicker(period)
		defer t.Stop()
		for n.working.Err() == nil {
			f()
			select {
			case <-t.C:
			case <-n.working.Done():
			}
		}
	})
}

// A latest hands the newest of several values to a goroutine.
type latest[T any] chan T

func newLatest[T any]() latest[T] { return make(chan T, 1) }

// put replaces the value that waits. It has one caller at a time.
func (l latest[T]) put(v T) {
	select {
	case <-l:
	default:
	}
	l <- v
}

// follow calls f with the newest value of l, again and again, until the node rests.
func follow[T any](n *node, l latest[T], f func(T)) {
	n.work.Go(func() {
		for {
			select {
			case v := <-l:
				f(v)
			case <-n.working.Done():
				return
			}
		}
	})
}

// on subscribes. h is not called once the node rests.
func (n *node) on(ctx context.Context, filter string, h func(d *client.Delivery), opts ...client.SubscribeOption) error {
	_, err := n.Subscribe(ctx, filter, func(_ context.Context, d *client.Delivery) {
		if n.working.Err() == nil && !d.Message.Raw {
			h(d)
		}
	}, opts...)
	return err
}

// send publishes a message that a constructor of package message returned.
func (n *node) send(topic string, m message.Message, err error) {
	if err == nil {
		n.ledger.Sending(topic, m.Metadata.ID)
		ctx, cancel := context.WithTimeout(n.sending, sendTime)
		defer cancel()
		if err = n.Publish(ctx, topic, m); err == nil {
			return
		}
	}
	n.refused("a message was not sent", topic, err)
}

// sendData publishes a sensor_data message. The bus has no type of its own for positions, batteries, detections and
// weather: on their topics, too, a sensor_data message says what something is like now.
func (n *node) sendData(topic, kind string, data any, units map[string]string) {
	m, err := message.NewSensorData(n.id, message.SensorData{
		SensorType: kind, DeviceID: &n.id, Data: data, Units: units, Quality: 1, Status: "healthy",
	})
	n.send(topic, m, err)
}

// sendStatus publishes a status message about something other than the service itself.
func (n *node) sendStatus(topic, status string, details any) {
	about, err := message.EncodeJSON(details)
	if err != nil {
		n.refused("a message was not sent", topic, err)
		return
	}
	m, err := message.NewStatus(n.id, message.Status{
		Status: status, Uptime: round(time.Since(n.began).Seconds(), 3), Version: version, Details: about,
	})
	n.send(topic, m, err)
}

// event emits an event.
func (n *node) event(kind string, data any) {
	n.ledger.Counting(n.id, "system/events/"+kind)
	ctx, cancel := context.WithTimeout(n.sending, sendTime)
	defer cancel()
	if err := n.EmitEvent(ctx, kind, data, service.WithCategory(typeOf(n.id))); err != nil {
		n.refused("an event was not emitted", kind, err)
	}
}

// alert raises an alert.
func (n *node) alert(kind, severity, text string, details any) {
	about, err := message.EncodeJSON(details)
	if err == nil {
		n.ledger.Counting(n.id, "safety/alerts/"+kind)
		ctx, cancel := context.WithTimeout(n.sending, sendTime)
		defer cancel()
		err = n.EmitAlert(ctx, message.Alert{AlertType: kind, Severity: severity, Message: text, AutoResolve: true, Context: about})
	}
	if err != nil {
		n.refused("an alert was not raised", kind, err)
	}
}

// clear takes an alert back.
func (n *node) clear(kind string) {
	ctx, cancel := context.WithTimeout(n.sending, sendTime)
	defer cancel()
	if err := n.ClearAlert(ctx, kind); err != nil {
		n.refused("an alert was not cleared", kind, err)
	}
}

func (n *node) refused(what, which string, err error) {
	n.ledger.Refused()
	n.complain(what, which, err)
}

// complain logs a failure, and of many only one every few seconds.
func (n *node) complain(what, which string, err error) {
	n.mu.Lock()
	now := time.Now()
	again := now.Sub(n.warnedAt) < 5*time.Second
	if !again {
		n.warnedAt = now
	}
	n.mu.Unlock()
	level := slog.LevelWarn
	if again {
		level = slog.LevelDebug
	}
	n.log.Log(context.Background(), level, what, "name", which, "error", err)
}

// decode decodes JSON.
func decode[T any](raw json.RawMessage) (v T, err error) {
	err = json.Unmarshal(raw, &v)
	return v, err
}
