package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/lawnberry/lawnberry/client"
)

const (
	// mqttQuiet is how long a broker has to say nothing of what it retains until that is taken for all: there is no word for the end.
	mqttQuiet = time.Second
	mqttQueue = 100_000 // messages that wait to be looked at; beyond it the broker waits
)

// A mqttMirror copies what an MQTT engine retains of the fleet, and follows it. Each connection is another copy.
type mqttMirror struct {
	v          *View
	engine     Engine
	conn       atomic.Pointer[MQTTConn]
	generation uint64
	last       atomic.Int64 // when something retained came, Unix nanoseconds
}

// OpenMQTTView is [OpenView] at an MQTT 5 engine. Who is enrolled is not known there.
func OpenMQTTView(e Engine, o ViewOptions) *View {
	m := &mqttMirror{engine: e}
	v, ctx := newView(o, func() (string, bool) {
		if m.conn.Load() == nil {
			return "", false
		}
		return e.URL, true
	})
	m.v = v
	v.work.Go(func() {
		e.KeepMQTT(ctx, MQTTSession{}, mqttPause, m.up, m.down)
		if c := m.conn.Load(); c != nil {
			over, cancel := context.WithTimeout(context.Background(), answerGrace)
			defer cancel()
			c.Close(over)
		}
	})
	return v
}

func (m *mqttMirror) down(err error) {
	m.conn.Store(nil)
	for _, bucket := range []string{BucketPresence, BucketState, BucketMowers} {
		m.v.report(bucket, false, err)
	}
	m.v.log.Info("fleet: state is copied anew", "error", err)
}

// up copies what there is over a new connection.
func (m *mqttMirror) up(ctx context.Context, c *MQTTConn) error {
	m.generation++
	m.conn.Store(c)
	m.last.Store(time.Now().UnixNano())
	one := cmp.Or(m.v.o.Mower, "+")
	filters := []string{PresenceTopic(one)}
	if m.v.o.Filters == nil {
		filters = append(filters, StateTopic(one, "#"))
	} else {
		for _, f := range append(StateFilters(), m.v.o.Filters...) {
			filters = append(filters, StateTopic(one, f))
		}
	}
	slices.Sort(filters)
	generation := m.generation
	errs := make(chan error, len(filters))
	var work sync.WaitGroup
	alive, cancel := context.WithCancel(ctx) // ends with the connection
	defer cancel()
	go func() {
		select {
		case <-c.Lost():
			cancel()
		case <-alive.Done():
		}
	}()
	for _, f := range slices.Compact(filters) {
		work.Go(func() {
			if _, err := c.Hear(alive, f, func(_ context.Context, d *client.Delivery) { m.put(d, generation) },
				client.WithQueue(client.Queue{Max: mqttQueue})); err != nil {
				errs <- err
			}
		})
	}
	work.Wait()
	var err error
	select {
	case err = <-errs:
		err = fmt.Errorf("the broker does not let us read the fleet's state: %w", err)
	default:
		err = m.wait(alive, c)
	}
	switch {
	case ctx.Err() != nil:
		return nil
	case alive.Err() != nil:
		return c.Cause()
	case err != nil:
		return err
	}
	m.v.sweepPresence(generation, true)
	m.v.sweepState(generation, true)
	m.v.sweepEnrolled(generation, false)
	for _, bucket := range []string{BucketPresence, BucketState, BucketMowers} {
		m.v.report(bucket, true, nil)
	}
	return nil
}

// wait waits until the broker has sent what it retains, or the connection ends. It has when it was silent and then answers something else at once: a
// broker, or a line to it, that is slow, or was stopped, sends that answer behind what it retains.
func (m *mqttMirror) wait(ctx context.Context, c *MQTTConn) error {
	tick := time.NewTicker(mqttQuiet / 10)
	defer tick.Stop()
	quietSince := time.Now()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		last := m.last.Load()
		if time.Since(quietSince) < mqttQuiet || time.Since(time.Unix(0, last)) < mqttQuiet {
			continue
		}
		asked := time.Now()
		sub, err := c.Hear(ctx, AnswerTopic("+", uuid.NewString()), func(context.Context, *client.Delivery) {})
		var refused *client.RefusedError
		if err != nil && !errors.As(err, &refused) { // a refusal is an answer as well
			return err
		}
		if sub != nil {
			if err := sub.Unsubscribe(ctx); err != nil {
				return err
			}
		}
		if m.last.Load() == last && time.Since(asked) < mqttQuiet {
			return nil
		}
		quietSince = time.Now()
	}
}

// put takes in a message.
func (m *mqttMirror) put(d *client.Delivery, generation uint64) {
	now := time.Now()
	if d.Retained {
		m.last.Store(now.UnixNano())
	}
	mower, kind, rest, err := ParseMQTTTopic(d.FullTopic())
	if m.v.isOdd(err != nil) {
		return
	}
	body := MQTTBody(d)
	e := entry{key: mower, body: body, at: now, gone: len(body) == 0, live: !d.Retained, generation: generation}
	if d.Retained {
		e.at = sentAt(d, now)
	}
	switch kind {
	case "presence":
		m.v.putPresence(e)
	case "state":
		e.key = StateKey(mower, rest)
		m.v.putState(e)
	}
}

// sentAt is when a mower has sent a message, as far as it says so and that can be: the zero time is not known.
func sentAt(d *client.Delivery, now time.Time) time.Time {
	s, err := strconv.ParseFloat(UserProperty(d, HeaderTime), 64)
	if err != nil || !(s > 0) || s > 1e11 {
		return time.Time{}
	}
	at := time.UnixMicro(int64(s * 1e6))
	if at.After(now) {
		return now
	}
	return at
}
