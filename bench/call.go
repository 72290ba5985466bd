package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	lawnberry "github.com/lawnberry/lawnberry/client"
)

const (
	callMeasure     = "command and response, QoS 2"
	callP50         = callMeasure + ", p50"
	callP99         = callMeasure + ", p99"
	callAllocations = callMeasure + ", allocations of both ends"
)

// plainNATS is nats-server without MQTT and JetStream.
var plainNATS = kind{name: "nats-server, request and reply", start: selfServer("plain-nats")}

// A caller is one end that asks and another that answers, one command at a time, both in this process.
type caller struct {
	name    string
	ask     func() error // one round trip; the answer is checked
	close   func()
	asked   int64
	reached atomic.Int64 // commands that the other end has seen
	times   []time.Duration
	mallocs uint64
}

// run asks for a while.
func (c *caller) run(during time.Duration) error {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for end := time.Now().Add(during); time.Now().Before(end); {
		began := time.Now()
		if err := c.ask(); err != nil {
			return err
		}
		c.times = append(c.times, time.Since(began))
		c.asked++
	}
	runtime.ReadMemStats(&after)
	c.mallocs += after.Mallocs - before.Mallocs
	return nil
}

// calls measures Call beside NATS, which delivers at most once, and the bare relay: one round, with the turns of trips.
func (r *report) calls(ours, dir string, scale float64) error {
	var stops []func()
	defer func() {
		for _, stop := range slices.Backward(stops) {
			stop()
		}
	}()
	var callers []*caller
	add := func(name string, connect func(c *caller) error) error {
		c := &caller{name: name, times: make([]time.Duration, 0, 1<<16)} // that does not grow while allocations are counted
		if err := connect(c); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		stops = append(stops, c.close)
		callers = append(callers, c)
		return nil
	}
	start := func(k kind) (*server, error) {
		s, err := k.run(ours, dir, false)
		if err == nil {
			stops = append(stops, s.stop)
		}
		return s, err
	}
	relay, err := start(kindNamed("relay"))
	if err != nil {
		return err
	}
	broker, err := start(kindNamed("lawnberry"))
	if err != nil {
		return err
	}
	other, err := start(plainNATS)
	if err != nil {
		return err
	}
	if err := errors.Join(
		add("relay", func(c *caller) error { return c.overRelay(relay) }),
		add("lawnberry", func(c *caller) error { return c.overClient("tcp://" + broker.address) }),
		add("lawnberry, Unix socket", func(c *caller) error { return c.overClient("unix://" + broker.dir + "/lawnberry.sock") }),
		add(plainNATS.name, func(c *caller) error { return c.overNATS("nats://" + other.address) }),
	); err != nil {
		return err
	}
	each := time.Duration(float64(2*time.Second) * scale / turns)
	for turn := range turns + 1 {
		for _, c := range callers {
			if err := c.run(each); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			if turn == 0 { // warming up
				c.times, c.mallocs, c.asked = c.times[:0], 0, 0
				c.reached.Store(0)
			}
		}
	}
	for _, c := range callers {
		if n := c.reached.Load(); n != c.asked {
			return fmt.Errorf("%s: %d commands reached the target, of %d", c.name, n, c.asked)
		}
		r.add(callP50, c.name, "µs", quantile(c.times, 0.5))
		r.add(callP99, c.name, "µs", quantile(c.times, 0.99))
		if c.name != "relay" {
			r.add(callAllocations, c.name, "a call", float64(c.mallocs)/float64(c.asked))
		}
	}
	return nil
}

// overRelay measures the four hops alone: prepared bytes there, and back.
func (c *caller) overRelay(s *server) error {
	p, err := newPair(s, "tcp", s.address, 0)
	if err != nil {
		return err
	}
	c.close = p.close
	c.ask = func() error {
		c.reached.Add(1) // an answer comes to what has been answered only
		p.asker.send("q/tcp", 0)
		return errors.Join(p.asker.flush(), p.asker.await())
	}
	return nil
}

// echo is what goes there and back: parameters of 200 bytes.
type echo struct {
	Path string `json:"path"`
}

var (
	parameters = echo{strings.Repeat("p", 200-len(`{"path":""}`))}
	encoded, _ = json.Marshal(parameters)
)

// overClient measures Call, with both ends of our client.
func (c *caller) overClient(url string) error {
	ctx := context.Background()
	target, err := lawnberry.Connect(ctx, lawnberry.Options{URL: url, FailFast: true})
	if err != nil {
		return err
	}
	asker, err := lawnberry.Connect(ctx, lawnberry.Options{URL: url, FailFast: true})
	if err != nil {
		return errors.Join(err, target.Close(ctx))
	}
	c.close = func() { _, _ = asker.Close(ctx), target.Close(ctx) }
	if _, err := target.ServeCommands(ctx, target.ID(), nil, func(_ context.Context, r *lawnberry.Request) (any, error) {
		c.reached.Add(1)
		return r.Parameters, nil
	}); err != nil {
		c.close()
		return err
	}
	c.ask = func() error {
		var got echo
		if err := asker.Call(ctx, target.ID(), "echo", &parameters, &got); err != nil {
			return err
		}
		if got != parameters {
			return fmt.Errorf("the answer is %q", got.Path)
		}
		return nil
	}
	return nil
}

// overNATS measures request and reply of the NATS client.
func (c *caller) overNATS(url string) error {
	target, err := nats.Connect(url)
	if err != nil {
		return err
	}
	asker, err := nats.Connect(url)
	if err != nil {
		target.Close()
		return err
	}
	c.close = func() {
		asker.Close()
		target.Close()
	}
	if _, err := target.Subscribe("echo", func(m *nats.Msg) {
		c.reached.Add(1)
		if err := m.Respond(m.Data); err != nil {
			fail(err)
		}
	}); err != nil {
		c.close()
		return err
	}
	if err := target.Flush(); err != nil {
		c.close()
		return err
	}
	c.ask = func() error {
		m, err := asker.Request("echo", encoded, patience)
		if err != nil {
			return err
		}
		if !bytes.Equal(m.Data, encoded) {
			return fmt.Errorf("the answer is %q", m.Data)
		}
		return nil
	}
	return nil
}

// quantile returns a quantile of times in µs, and sorts them.
func quantile(times []time.Duration, q float64) float64 {
	slices.Sort(times)
	return float64(times[int(q*float64(len(times)-1))].Nanoseconds()) / 1000
}
