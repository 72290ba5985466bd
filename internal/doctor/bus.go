package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/app"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
)

const (
	connectTime = 5 * time.Second
	answerTime  = 2 * time.Second
	stopTime    = time.Second // in which all have confirmed the emergency stop
	trips       = 7
	warmUp      = 25 // round trips: at first TCP acknowledges at once
	wrongClock  = 2 * time.Second
	nagle       = 25 * time.Millisecond // a round trip beyond it waits for the delayed acknowledgement of TCP
)

// bus looks at the broker and at what is on it.
func (x *examination) bus(ctx context.Context) error {
	if x.o.Unknown != nil {
		x.find("broker-unknown", x.o.Unknown.Error(), "file", x.o.Loaded.File)
		return nil
	}
	c, err := client.Connect(ctx, x.connection())
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if refused := (*client.ConnectError)(nil); errors.As(err, &refused) && refused.Refused() {
			x.find("broker-refuses", err.Error())
			return nil
		}
		x.find("broker-unreachable", err.Error())
		if x.o.Own {
			x.ports()
		}
		return nil
	}
	defer func() { x.leave(ctx, c) }()
	s, ok := c.Server()
	if ok {
		x.server(s)
	}
	x.roundTrips(ctx, c)
	heard, err := x.listen(ctx, c)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		x.find("broker-deaf", err.Error())
		return nil
	}
	x.topics(heard, c.Topics())
	x.figures(heard)
	x.ask(ctx, c, heard)
	x.services(heard)
	x.report.Bus = heard.seen(s, x.stop(ctx, c))
	return context.Cause(ctx)
}

// connection returns how to reach the broker.
func (x *examination) connection() client.Options {
	o := x.o.Client
	o.ConnectTimeout, o.FailFast, o.CleanStart, o.SessionExpiry, o.Dir = connectTime, true, true, -1, ""
	return o
}

func (x *examination) leave(ctx context.Context, c *client.Client) {
	bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = c.Close(bye)
}

func (x *examination) server(s client.Server) {
	x.report.Figures.Broker, x.report.Figures.MQTT = s.URL, map[byte]string{4: "3.1.1", 5: "5.0"}[s.Version]
	for _, f := range app.Examine(s) {
		id := "broker-lacks"
		if f.Fatal {
			id = "broker-unusable"
		}
		x.find(id, "the broker: "+f.What).Why = f.Means
	}
}

// roundTrips measures how long a message takes to another connection of ours, and the answer back, as a command does.
func (x *examination) roundTrips(ctx context.Context, c *client.Client) {
	back := make(chan struct{}, warmUp+trips+1)
	self := "responses/" + c.ID()
	sub, err := c.Subscribe(ctx, self, func(context.Context, *client.Delivery) { back <- struct{}{} })
	if err != nil {
		x.find("round-trip-unknown", err.Error())
		return
	}
	defer func() { _ = sub.Unsubscribe(ctx) }()
	o := x.connection()
	o.ID += "-echo"
	echo, err := client.Connect(ctx, o)
	if err != nil {
		x.find("round-trip-unknown", err.Error())
		return
	}
	defer func() { x.leave(ctx, echo) }()
	there := "responses/" + echo.ID()
	if _, err := echo.Subscribe(ctx, there, func(_ context.Context, d *client.Delivery) {
		echo.PublishAsync(self, message.NewRaw([]byte("{}")), client.WithQoS(d.QoS), client.Unlimited())
	}); err != nil {
		x.find("round-trip-unknown", err.Error())
		return
	}
	// Who may not publish there is told so at QoS 1, and not at QoS 0.
	limited, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	if err := c.Publish(limited, self, message.NewRaw([]byte("{}")), client.WithQoS(1), client.Unlimited()); err != nil {
		if refused := (*client.RefusedError)(nil); errors.As(err, &refused) {
			x.find("round-trip-unknown", err.Error())
		} else if ctx.Err() == nil {
			x.find("round-trip-lost", "a message was not acknowledged: "+err.Error())
		}
		return
	}
	select {
	case <-back:
	case <-limited.Done():
		if ctx.Err() == nil {
			x.find("round-trip-lost", fmt.Sprintf("a message of QoS 1 did not come back within %v", answerTime))
		}
		return
	}
	measure := func(qos byte) (time.Duration, bool) {
		var all []time.Duration
		for range warmUp + trips {
			began := time.Now()
			r := c.PublishAsync(there, message.NewRaw([]byte("{}")), client.WithQoS(qos), client.Unlimited())
			late := time.NewTimer(answerTime)
			select {
			case <-back:
			case <-late.C:
				x.find("round-trip-lost", fmt.Sprintf("a message of QoS %d did not come back within %v", qos, answerTime))
				return 0, false
			case <-ctx.Done():
				return 0, false
			}
			if err := r.Wait(ctx); err != nil {
				return 0, false
			}
			all = append(all, time.Since(began))
			late.Stop()
		}
		all = all[warmUp:]
		slices.Sort(all)
		return all[len(all)/2], true
	}
	fast, ok := measure(0)
	if !ok {
		return
	}
	exact, ok := measure(2)
	if !ok {
		return
	}
	x.report.Figures.RoundTripMS, x.report.Figures.ExactlyMS = milliseconds(fast), milliseconds(exact)
	if exact > x.o.SlowTrip && exact > 3*fast {
		x.find("round-trip-slow", fmt.Sprintf("a round trip takes %.0f ms at QoS 2, and %.1f ms at QoS 0", milliseconds(exact), milliseconds(fast)))
	}
}

// stop looks at the emergency stop.
func (x *examination) stop(ctx context.Context, c *client.Client) *safety.Status {
	s, err := readStop(ctx, c)
	if err == nil && len(unconfirmed(&s)) > 0 { // it may have been engaged just now
		t := time.NewTimer(stopTime)
		defer t.Stop()
		select {
		case <-t.C:
			s, err = readStop(ctx, c)
		case <-ctx.Done():
			return nil
		}
	}
	if err != nil {
		x.find("stop-unknown", "the state of the emergency stop is not known: "+err.Error())
		return nil
	}
	what := fmt.Sprintf("the emergency stop is engaged by %s: %s", s.By, s.Reason)
	switch {
	case !s.Engaged:
	case len(s.Against) > 0:
		x.find("stop-held", what).Fix += "; first: " + strings.Join(s.Against, "; ")
	default:
		x.find("stop-engaged", what, "sequence", strconv.FormatUint(s.Sequence, 10))
	}
	for _, id := range unconfirmed(&s) {
		x.find("stop-unconfirmed", id+" has not confirmed that it stands")
	}
	return &s
}

func readStop(ctx context.Context, c *client.Client) (safety.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	return safety.ReadStatus(ctx, c)
}

// unconfirmed returns the services that have not confirmed that they stand.
func unconfirmed(s *safety.Status) (ids []string) {
	for _, p := range s.Participants {
		if s.Engaged && p.Actuator && !p.Confirmed {
			ids = append(ids, p.Service)
		}
	}
	return ids
}

// seen returns what was heard, for others.
func (h *heard) seen(s client.Server, stop *safety.Status) *Bus {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := &Bus{Server: s, Sys: maps.Clone(h.sys), Services: []Service{}, Topics: []Traffic{}, Alerts: []Alert{}, Events: append([]Event{},
		h.events...), Stop: stop}
	for _, id := range slices.Sorted(maps.Keys(h.services)) {
		m := h.services[id]
		one := Service{ID: id, Live: m.runs(), State: m.state, Status: m.payload, Answer: m.answer, OffsetMS: milliseconds(m.offset)}
		if m.silence != nil {
			one.Silence = m.silence.Error()
		}
		b.Services = append(b.Services, one)
	}
	for _, name := range slices.Sorted(maps.Keys(h.topics)) {
		b.Topics = append(b.Topics, *h.topics[name])
	}
	for _, name := range slices.Sorted(maps.Keys(h.alerts)) {
		b.Alerts = append(b.Alerts, h.alerts[name])
	}
	return b
}
