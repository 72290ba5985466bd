package client

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// run connects, and connects again, until ctx ends. What comes of the first connection goes to result; attempts at it
// end with first.
func (c *Client) run(ctx, first context.Context, result chan<- error) {
	defer close(c.halted)
	log := c.opts.Logger
	var cause *ConnectError
	for attempt, established := 0, false; ; attempt++ {
		trying := ctx
		if !established {
			trying = first
		}
		begun := time.Now()
		l, present, err := c.dialAny(trying, !established, c.attemptTime(attempt, established))
		if err == nil {
			up := time.Now()
			err = c.serve(ctx, trying, l, present, !established, func() {
				if !established {
					established, trying = true, ctx
					result <- nil
				}
			})
			begun = time.Now()
			var birth *birthError
			if !established && errors.As(err, &birth) {
				result <- err
				return
			}
			if established && time.Since(up) > c.opts.ReconnectDelay {
				attempt = 0
			}
		}
		if ctx.Err() != nil && established {
			return
		}
		if !established {
			if cause == nil || first.Err() == nil {
				cause = c.connectError(err)
			}
			if c.opts.FailFast || first.Err() != nil || cause.permanent() {
				result <- cause
				return
			}
		}
		if !established && attempt == 0 {
			log.Warn("no broker yet, trying again", "broker", c.endpoint.Load().name, "error", err)
		}
		delay := max(c.delay(attempt, err)-time.Since(begun), 0)
		log.Debug("reconnecting", "broker", c.endpoint.Load().name, "in", delay, "error", err)
		if !pause(trying, delay) {
			if !established {
				result <- cause
			}
			return
		}
	}
}

// dialAny tries one address after the other until one answers, beginning with the one that did last. When none does, the error is that of the
// first for which trying again may help, and what endpoint says is that one.
func (c *Client) dialAny(ctx context.Context, first bool, most time.Duration) (l *link, present bool, err error) {
	const others = 3 * time.Second // for an address when there are more
	n := len(c.endpoints)
	var failed *endpoint
	for i := range n {
		ep := c.endpoints[(c.start+i)%n]
		if c.endpoint.Swap(ep) != ep { // it may be another broker
			c.version, c.v5 = packet.V5, false
		}
		limit := most
		if i < n-1 {
			limit = min(limit, others)
		}
		l, present, cause := c.dial(ctx, first, limit)
		if cause == nil {
			c.start = (c.start + i) % n
			return l, present, nil
		}
		if isTimeout(cause) {
			c.abandoned.add()
		}
		if failed == nil || c.connectError(err).permanent() {
			failed, err = ep, cause
		}
		if ctx.Err() != nil {
			break
		}
		if i < n-1 {
			c.opts.Logger.Warn("no answer from one address of the broker, trying the next", "broker", ep.name, "error", cause)
		}
	}
	c.endpoint.Store(failed)
	return nil, false, err
}

func (c *Client) connectError(err error) *ConnectError {
	e := &ConnectError{URL: c.endpoint.Load().name, Err: err}
	var refused *refusal
	if errors.As(err, &refused) {
		e.Code = byte(refused.code)
	}
	return e
}

// attemptTime bounds an attempt to connect. After a connection was lost, an attempt may have begun while the network lost everything,
// and will never get its answer: then the next one must come soon. How soon, the connections before tell; now and then there is
// time for a way that has become longer.
func (c *Client) attemptTime(attempt int, established bool) time.Duration {
	const now = 8
	if !established || attempt%now == now-1 {
		return c.opts.ConnectTimeout
	}
	return min(max(quickAttempt, 6*c.roundTrip), c.opts.ConnectTimeout)
}

const quickAttempt = time.Second

// abandoned counts attempts to connect that got no answer in time. A network that held their CONNECT back may deliver it much later; then
// the broker takes it for another client with our id.
type abandoned struct {
	mu   sync.Mutex // guards the fields below
	n    int
	last time.Time
}

const (
	maxAbandoned  = 8
	abandonedLife = 2 * time.Minute // longer, TCP does not keep what nobody acknowledges, or hardly
)

func (a *abandoned) add() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.n, a.last = min(a.n+1, maxAbandoned), time.Now()
}

// wasAbandoned reports whether it may have been an abandoned attempt that has taken the place of a connection. Each is an excuse for one
// such event, so that two clients with one id still do not put each other out for ever.
func (c *Client) wasAbandoned() bool {
	a := &c.abandoned
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.n == 0 || time.Since(a.last) > abandonedLife {
		a.n = 0
		return false
	}
	a.n--
	return true
}

// isTimeout reports whether a time has passed.
func isTimeout(err error) bool {
	var slow interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &slow) && slow.Timeout()
}

// delay is how long after the begin of an attempt the next one comes: full jitter, so that many clients do not come back at once. Whom
// another client with the same id has put out waits much longer, or the two would put each other out for ever. Whom the broker has told
// that it has too much to do waits for half of the time at least.
func (c *Client) delay(attempt int, cause error) time.Duration {
	o := &c.opts
	var said *DisconnectError
	if errors.As(cause, &said) && said.TakenOver() {
		const patience = 30
		longest := max(300*time.Second, o.MaxReconnect)
		d := grow(patience*o.ReconnectDelay, o.ReconnectFactor, attempt, longest)
		return d/2 + rand.N(d/2+1)
	}
	d := grow(o.ReconnectDelay, o.ReconnectFactor, attempt, o.MaxReconnect)
	if overloaded(cause) {
		return d/2 + rand.N(d/2+1)
	}
	return rand.N(d + 1)
}

// overloaded reports whether the broker has said, in CONNACK or DISCONNECT, that coming back at once makes it worse.
func overloaded(cause error) bool {
	var code packet.Code
	var refused *refusal
	var said *DisconnectError
	switch {
	case errors.As(cause, &refused):
		code = refused.code
	case errors.As(cause, &said) && !said.Ours:
		code = packet.Code(said.Code)
	}
	switch code {
	case packet.ServerUnavailable, packet.ServerBusy, packet.QuotaExceeded, packet.ConnectionRateExceeded:
		return true
	}
	return false
}

// grow returns d * factor^n, at most longest.
func grow(d time.Duration, factor float64, n int, longest time.Duration) time.Duration {
	if f := float64(d) * math.Pow(factor, float64(n)); f < float64(longest) {
		return time.Duration(f)
	}
	return longest
}

// pause waits for d, or returns false when ctx ends before.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// A birthError is what Birth returned.
type birthError struct{ err error }

func (e *birthError) Error() string { return "birth: " + e.err.Error() }
func (e *birthError) Unwrap() error { return e.err }

// serve uses l until it ends, and returns why it did. setup bounds the time until it is ready, which it tells by ready.
func (c *Client) serve(ctx, setup context.Context, l *link, present, first bool, ready func()) error {
	c.mu.Lock()
	l.resumed, l.began = present, time.Now()
	if !present {
		c.forget()
	}
	c.resume(l, present)
	c.link = l
	if present && first {
		c.startParking()
		c.freeIdentifiers(l)
	}
	l.loops.Add(3)
	go c.read(l)
	go c.write(l)
	go c.watch(l)
	restored := c.restore(l, present, first)
	c.pump(l)
	c.mu.Unlock()

	err := c.prepareLink(setup, l, restored)
	if err == nil {
		c.mu.Lock()
		l.ready = true
		c.extendParking()
		c.connections++
		l.number = c.connections
		if l.err == nil {
			c.connection.Store(l.number)
		}
		c.since = time.Now()
		if !first {
			c.stats.reconnects.Add(1)
		}
		c.pump(l)
		c.mu.Unlock()
		c.opts.Logger.Info("connected", "broker", c.endpoint.Load().name, "client", c.id, "mqtt", l.version.String(), "session", present)
		c.tellStates(true, nil)
		ready()
		select {
		case <-l.down:
		case <-ctx.Done():
		}
	}
	c.fail(l, err)
	l.loops.Wait()
	c.roundTrip = l.roundTrip

	c.mu.Lock()
	wasReady := l.ready
	if err == nil {
		err = l.err
	}
	c.link = nil
	c.suspend(l)
	c.interrupt()
	c.abandon()
	c.settled()
	c.mu.Unlock()
	if wasReady {
		c.tellStates(false, err)
		if ctx.Err() == nil && err != nil { // not after a DISCONNECT of ours
			c.opts.Logger.Warn("connection lost", "broker", c.endpoint.Load().name, "client", c.id, "error", err)
		}
	}
	return err
}

// prepareLink waits until the subscriptions are restored and calls Birth.
func (c *Client) prepareLink(ctx context.Context, l *link, restored <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, c.opts.ConnectTimeout)
	defer cancel()
	var err error
	select {
	case <-restored:
	case <-l.down:
		err = errLinkDown
	case <-ctx.Done():
		err = fmt.Errorf("the broker does not confirm the subscriptions: %w", ctx.Err())
	}
	if err == nil {
		c.mu.Lock()
		l.setup = true
		c.mu.Unlock()
		err = c.birth(ctx, l)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	return err
}

// errLinkDown stands for l.err, which says more.
var errLinkDown = errors.New("connection lost")

func (c *Client) birth(ctx context.Context, l *link) error {
	if c.opts.Birth == nil {
		return nil
	}
	ctx, cancel := context.WithCancel(context.WithValue(ctx, birthKey{}, c))
	defer cancel()
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-l.down:
			cancel()
		case <-done:
		}
	}()
	if err := c.opts.Birth(ctx, c); err != nil {
		return &birthError{err}
	}
	return nil
}

// states tells one who wants to know of changes, in order, from a goroutine of its own that lives while there is something to tell.
type states struct {
	f func(connected bool, cause error)

	mu      sync.Mutex // guards the fields below
	queue   []change
	running bool
	stopped bool
}

type change struct {
	connected bool
	cause     error
}

func newStates(f func(connected bool, cause error)) *states { return &states{f: f} }

func (s *states) tell(connected bool, cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return
	}
	s.queue = append(s.queue, change{connected, cause})
	if !s.running {
		s.running = true
		go s.drain()
	}
}

func (s *states) drain() {
	for {
		s.mu.Lock()
		if len(s.queue) == 0 || s.stopped {
			s.running = false
			s.mu.Unlock()
			return
		}
		next := s.queue[0]
		s.queue = s.queue[1:]
		s.mu.Unlock()
		s.f(next.connected, next.cause)
	}
}

// stop ends it: no call begins any more.
func (s *states) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
}
