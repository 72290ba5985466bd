package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	estop "github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

// An observer is a client of its own that listens to everything but commands, as anybody on the bus could, and knows the
// demo only from there. It leaves commands/+ alone because a command to a service that nobody serves fails at once only
// when nobody else listens either.
type observer struct {
	ledger *ledger
	client *client.Client
	latch  *estop.Latch

	mu       sync.Mutex // guards everything below
	states   map[string]service.State
	worst    map[string]service.State // since watching began, until it ended
	watching bool
	changed  chan struct{} // closed and replaced at every change of a state, and at the first position and battery

	position Position
	placed   bool // a position has come
	battery  batteryData
	powered  bool // the state of the battery has come
	activity string
	cut      string // why the mission was interrupted
	areaDone float64
	alert    string
	alertAt  time.Time
	stop     stopWatch
}

const (
	observerID = "demo"
	hubTime    = 10 * time.Second // that the hub of the emergency stop has to answer
)

// everything is what the observer subscribes to.
func everything() []string {
	return []string{"sensors/#", "responses/+", "navigation/#", "safety/#", "power/#", "vision/#", "weather/#", "system/#"}
}

// observe connects an observer.
func observe(ctx context.Context, o client.Options, l *ledger) (*observer, error) {
	b := &observer{
		ledger:  l,
		states:  map[string]service.State{},
		worst:   map[string]service.State{},
		changed: make(chan struct{}),
		battery: batteryData{Level: math.NaN()},
	}
	o.ID = observerID
	o.CleanStart = true
	c, err := client.Connect(ctx, o)
	if err != nil {
		return nil, err
	}
	b.client = c
	for _, filter := range everything() {
		// A queue that a pause of the whole process does not fill.
		if _, err := c.Subscribe(ctx, filter, b.arrived, client.WithQueue(client.Queue{Max: 20_000, Full: client.DropOldest})); err != nil {
			_ = c.Close(ctx)
			return nil, fmt.Errorf("watch %s: %w", filter, err)
		}
	}
	if b.latch, err = estop.OpenLatch(ctx, c, estop.LatchOptions{Logger: o.Logger}); err != nil {
		_ = c.Close(ctx)
		return nil, err
	}
	b.latch.OnChange(func(s estop.State) {
		now := time.Now()
		b.mu.Lock()
		defer b.mu.Unlock()
		b.stop.turn(s, now)
	})
	return b, nil
}

// close ends the observer.
func (b *observer) close(ctx context.Context) error {
	return errors.Join(b.latch.Close(ctx), b.client.Close(ctx))
}

// awaitHub waits until the hub has told the state of the emergency stop, which must be released unless the demo may release it.
func (b *observer) awaitHub(ctx context.Context, mayRelease bool) error {
	ctx, cancel := context.WithTimeout(ctx, hubTime)
	defer cancel()
	if err := b.latch.Settle(ctx); err != nil {
		return fmt.Errorf("the state of the emergency stop is not known: the broker needs its hub, which lawnberry serve has: %w", err)
	}
	if s := b.latch.State(); s.Engaged && !mayRelease {
		return fmt.Errorf("the emergency stop is engaged: %s (%s): release it with lawnberry estop release --sequence %d", s.Reason, s.By, s.Sequence)
	}
	return nil
}

// arrived takes note of one message. Subscriptions call it concurrently.
func (b *observer) arrived(_ context.Context, d *client.Delivery) {
	m := &d.Message
	if m.Raw || m.Metadata.ID == "" {
		return // of a stranger, or an alert that is cleared
	}
	if !d.Retained {
		b.ledger.Arrived(m.Metadata.Sender, d.Topic, m.Metadata.ID, d.Received)
	}
	b.learn(d)
}

// learn remembers what the live view shows. What it cannot make sense of is not the demo's.
func (b *observer) learn(d *client.Delivery) {
	switch t := d.Topic; {
	case strings.HasPrefix(t, "system/services/"):
		id := strings.TrimSuffix(strings.TrimPrefix(t, "system/services/"), "/status")
		if p, err := message.Payload[message.Status](d.Message); err == nil && slices.Contains(serviceIDs[:], id) {
			b.setState(id, service.State(p.Status))
		}
	case t == "navigation/position":
		if p, err := message.SensorOf[positionData](d.Message); err == nil {
			b.mu.Lock()
			b.position = Position{X: p.X, Y: p.Y, Heading: p.Heading, Speed: p.Speed}
			if !b.placed && !d.Retained {
				b.placed = true
				b.changedLocked()
			}
			b.mu.Unlock()
		}
	case t == "navigation/status":
		p, err := message.Payload[message.Status](d.Message)
		if err != nil {
			return
		}
		var details navigationDetails
		if json.Unmarshal(p.Details, &details) == nil {
			b.mu.Lock()
			b.activity, b.cut, b.areaDone = p.Status, details.Interrupted, details.AreaDone
			b.mu.Unlock()
		}
	case t == "power/battery":
		if p, err := message.SensorOf[batteryData](d.Message); err == nil {
			b.mu.Lock()
			b.battery = p
			if !b.powered && !d.Retained {
				b.powered = true
				b.changedLocked()
			}
			b.mu.Unlock()
		}
	case t == "sensors/motors/data" && !d.Retained:
		if r, err := message.SensorOf[motorReading](d.Message); err == nil {
			b.mu.Lock()
			b.stop.read(r, d.Message.Metadata.Time())
			b.mu.Unlock()
		}
	case strings.HasPrefix(t, "safety/alerts/") && !d.Retained:
		if p, err := message.Payload[message.Alert](d.Message); err == nil {
			b.mu.Lock()
			b.alert, b.alertAt = p.Message, d.Received
			b.mu.Unlock()
		}
	}
}

// interrupted reports whether the mission waits for somebody to have it go on.
func (b *observer) interrupted() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cut != ""
}

// states from best to worst, as the summary judges them.
func badness(s service.State) int {
	order := []service.State{service.Healthy, service.Starting, service.ShuttingDown, service.Degraded, service.Failing, service.Offline}
	if i := slices.Index(order, s); i >= 0 {
		return i
	}
	return len(order) // unknown
}

func (b *observer) setState(id string, s service.State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.states[id] = s
	if b.watching && badness(s) > badness(b.worst[id]) {
		b.worst[id] = s
	}
	b.changedLocked()
}

func (b *observer) changedLocked() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// awaitHealthy waits until every service of the demo has announced that it is healthy, and position and battery are known.
// When ctx ends it names what is not.
func (b *observer) awaitHealthy(ctx context.Context) error {
	for {
		b.mu.Lock()
		var not []string
		for _, id := range serviceIDs {
			if s := b.states[id]; s != service.Healthy {
				not = append(not, fmt.Sprintf("%s (%s)", id, orUnseen(s)))
			}
		}
		if !b.placed {
			not = append(not, "navigation (has sent no position)")
		}
		if !b.powered {
			not = append(not, "power (has not reported the battery)")
		}
		changed := b.changed
		b.mu.Unlock()
		if len(not) == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("not healthy: %s: %w", strings.Join(not, ", "), context.Cause(ctx))
		}
	}
}

func orUnseen(s service.State) string {
	if s == "" {
		return "never seen"
	}
	return string(s)
}

// watch begins, or ends, holding every state but healthy against its service.
func (b *observer) watch(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.watching = on
	if on {
		for _, id := range serviceIDs {
			b.worst[id] = b.states[id]
		}
	}
}

// view fills in what the observer knows.
func (b *observer) view(v *View) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v.Services = serviceViews(b.states)
	v.Position, v.Activity, v.AreaDone = b.position, b.activity, b.areaDone
	v.Battery, v.Charging = b.battery.Level, b.battery.Charging
	v.LastAlert, v.LastAlertAt = b.alert, b.alertAt
	v.Stop = b.stop.view()
}

func (b *observer) stops() EmergencyStops {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stop.total
}

// judged returns the services with the worst state of each.
func (b *observer) judged() []ServiceView {
	b.mu.Lock()
	defer b.mu.Unlock()
	return serviceViews(b.worst)
}

func serviceViews(states map[string]service.State) []ServiceView {
	views := make([]ServiceView, 0, len(serviceIDs))
	for _, id := range serviceIDs {
		views = append(views, ServiceView{ID: id, Type: typeOf(id), State: string(states[id])})
	}
	return views
}
