package safety

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
	"github.com/lawnberry/lawnberry/topic"
)

// GuardOptions configure a guard.
type GuardOptions struct {
	// Safety are the services whose lease must be fresh: they watch for hazards, and without them nothing may move. nil is "safety";
	// an empty slice is none.
	Safety []string
	// SafetyLease is how long such a service may be silent; 0 is the lease that it announces, or 1 s if it announces none.
	SafetyLease time.Duration
	// OnChange, when not nil, is told when the permit is given, and when it is lost and why. The calls come one after the other, in order,
	// from a goroutine of their own.
	OnChange func(permit bool, cause string)
	Logger   *slog.Logger // nil is discarded
}

// A Guard gives a service that drives motors or a blade leave to do so: its permit. It is there only while
//
//   - the emergency stop is released, and known to be;
//   - the link to the broker is alive: this service's own heartbeats come back within its lease, and it calls itself healthy;
//   - the safety services are healthy or degraded, and their leases fresh;
//   - every topic that is required is fresh;
//   - nobody has disarmed it, and drive (see Run) does not hang.
//
// A permit that is lost comes back with Arm alone. The methods may be called concurrently.
type Guard struct {
	svc   *service.Service
	latch *Latch
	o     GuardOptions
	log   *slog.Logger
	base  time.Time

	armed atomic.Pointer[armed] // nil while there is no permit, whatever the time is
	until atomic.Int64          // nanoseconds from base on: when something will be stale

	arming sync.Mutex // held by Arm

	mu         sync.Mutex // guards the fields below
	conditions []*condition
	failing    int         // conditions that do not hold
	timer      *time.Timer // runs out when the next of those that do may not any more
	cause      string      // of the last loss
	lost       time.Time   // when that was
	losses     uint64      // so far
	disarmed   uint64      // calls of Disarm so far
	disarmedBy string      // cause of the last
	running    bool        // Run is
	stopped    bool        // since the last loss stop has returned
	stopTook   time.Duration
	stoppedAt  time.Time
	changed    chan struct{} // closed and replaced with each change
	onLoss     []func(cause string)
	news       []transition
	telling    bool
	closed     bool

	wakeUp chan struct{} // of Run, holds one token
	subs   []*client.Subscription
}

// armed is what a permit was given for.
type armed struct{ turn, conn uint64 }

type transition struct {
	permit bool
	cause  string
}

// A condition holds while something was heard of it within a time, and that was not bad.
type condition struct {
	what   string // for people: "nothing on sensors/tilt/data", "safety is silent"
	within time.Duration
	last   time.Time // when something was heard; zero is never
	bad    string    // why it does not hold, whatever was heard when
	again  bool      // it was stale: only what is heard after the hub has answered counts
	source bool      // it stands against a release of the emergency stop
}

// cause returns why it does not hold, "" if it does.
func (c *condition) cause(now time.Time) string {
	switch {
	case c.bad != "":
		return c.bad
	case c.last.IsZero():
		return c.what
	case now.Sub(c.last) >= c.within:
		return fmt.Sprintf("%s for %v", c.what, c.within)
	}
	return ""
}

const (
	subscribeTime = 10 * time.Second // for one subscription
	armTime       = 2 * time.Second  // that Arm takes at most
	foreignLease  = time.Second      // of a safety service that announces none
)

// NewGuard makes a guard without required topics. The service has to be of the safety class (service.Options.Safety), so that a dead link
// is noticed in time. In a service, call it in Options.Setup.
func NewGuard(ctx context.Context, svc *service.Service, l *Latch, o GuardOptions) (*Guard, error) {
	if o.Safety == nil {
		o.Safety = []string{"safety"}
	}
	g := &Guard{
		svc: svc, latch: l, o: o, log: o.Logger, base: time.Now(), cause: "not armed yet", lost: time.Now(),
		changed: make(chan struct{}), wakeUp: make(chan struct{}, 1),
	}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	if l.c != svc.Client() {
		return nil, fmt.Errorf("guard of %s: its latch is another client's, whose connection says nothing about this one's", svc.ID())
	}
	g.timer = time.AfterFunc(time.Hour, g.look)
	lease := svc.Lease()
	if lease > maxOwnLease {
		return nil, fmt.Errorf("guard of %s: its lease is %v, so that a dead link would be noticed too late: set Safety in the service's options, or a HeartbeatTimeout up to %v",
			svc.ID(), lease, maxOwnLease)
	}
	err := g.watchService(ctx, svc.ID(), "the link to the broker is silent", func(s service.State) string {
		if s == service.Healthy {
			return ""
		}
		return "this service is " + string(s)
	}, false, lease, lease)
	for _, id := range o.Safety {
		if err == nil {
			err = g.watchService(ctx, id, id+" is silent", func(s service.State) string {
				if s == service.Healthy || s == service.Degraded {
					return ""
				}
				return id + " is " + string(s)
			}, true, o.SafetyLease, foreignLease)
		}
	}
	if err != nil {
		g.unsubscribe()
		return nil, err
	}
	l.mu.Lock()
	l.guards = append(l.guards, g)
	l.mu.Unlock()
	return g, nil
}

// maxOwnLease is the longest lease of a service with a guard.
const maxOwnLease = 2 * time.Second

// watchService makes a condition of a service's heartbeats. lease 0 is what it announces, or otherwise what other says.
func (g *Guard) watchService(ctx context.Context, id, what string, judge func(service.State) string, source bool, lease, other time.Duration) error {
	if err := topic.CheckLevel("service id", id); err != nil {
		return err
	}
	c := g.add(&condition{what: what, within: max(lease, time.Millisecond), source: source})
	return g.subscribe(ctx, "system/services/"+id+"/status", func(_ context.Context, d *client.Delivery) {
		p, err := message.Payload[message.Status](d.Message)
		if err != nil {
			g.hear(c, d.Received, judge(service.Offline), 0)
			return
		}
		within := lease
		if within == 0 {
			var details struct {
				Lease float64 `json:"heartbeat_timeout"`
			}
			within = other
			if json.Unmarshal(p.Details, &details) == nil && details.Lease > 0 && details.Lease < 3600 {
				within = time.Duration(details.Lease * float64(time.Second))
			}
		}
		bad := judge(service.State(p.Status))
		if d.Retained && bad == "" {
			return // it may be of any age
		}
		g.hear(c, d.Received, bad, within)
	})
}

// Require has the permit depend on a topic, without wildcards: that something came on it within a time. What is retained does not count. It
// returns once the broker has confirmed the subscription.
func (g *Guard) Require(name string, within time.Duration) error {
	if err := topic.CheckName(name); err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	if within <= 0 {
		return fmt.Errorf("guard: %s within %v: want more than 0", name, within)
	}
	ctx, cancel := context.WithTimeout(context.Background(), subscribeTime)
	defer cancel()
	c := g.add(&condition{what: "nothing on " + name, within: within, source: true})
	return g.subscribe(ctx, name, func(_ context.Context, d *client.Delivery) {
		if !d.Retained {
			g.hear(c, d.Received, "", 0)
		}
	})
}

func (g *Guard) subscribe(ctx context.Context, filter string, h client.Handler) error {
	sub, err := g.svc.Subscribe(ctx, filter, h, client.WithQueue(client.Queue{Max: 100, Full: client.DropOldest}))
	if err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	g.mu.Lock()
	g.subs = append(g.subs, sub)
	g.mu.Unlock()
	return nil
}

// add adds a condition, which does not hold yet.
func (g *Guard) add(c *condition) *condition {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.conditions = append(g.conditions, c)
	g.weighLocked(time.Now())
	return c
}

// hear takes note of a sign of life. within 0 leaves the time as it is.
func (g *Guard) hear(c *condition, at time.Time, bad string, within time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hearLocked(c, at, bad, within)
}

// hearLocked is hear. g.mu is held.
func (g *Guard) hearLocked(c *condition, at time.Time, bad string, within time.Duration) {
	now := time.Now()
	// What was stale for a moment, as everything is in a process that was frozen, must not become fresh unnoticed.
	if c.last.IsZero() || now.Sub(c.last) >= c.within || c.bad != "" {
		g.weighLocked(now)
		c.again = true
	}
	c.last, c.bad = at, bad
	if within > 0 {
		c.within = within
	}
	g.weighLocked(now)
}

// weighLocked works out until when all conditions hold, takes the permit away if one does not, and has itself called again when the next one
// may become stale. g.mu is held.
func (g *Guard) weighLocked(now time.Time) {
	var next time.Time
	why, failing := "", 0
	for _, c := range g.conditions {
		if cause := c.cause(now); cause != "" {
			if failing++; why == "" {
				why = cause
			}
		} else if end := c.last.Add(c.within); next.IsZero() || end.Before(next) {
			next = end
		}
	}
	if !next.IsZero() && !g.closed {
		g.timer.Reset(next.Sub(now))
	}
	if a := g.armed.Load(); a != nil {
		switch {
		case failing > 0:
			g.loseLocked(why)
		case !g.latch.isReleased(a.turn, a.conn):
			g.loseLocked(g.whyNotReleased())
		default:
			g.until.Store(int64(next.Sub(g.base)))
		}
	}
	if failing != g.failing {
		g.failing = failing
		g.noticeLocked()
	}
}

// look finds what has become stale.
func (g *Guard) look() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.weighLocked(time.Now())
}

// wake is called by the latch, with its lock held, when the emergency stop has changed.
func (g *Guard) wake() {
	a := g.armed.Load()
	if a != nil && !g.latch.isReleased(a.turn, a.conn) {
		go g.look() // whose lock comes after the latch's elsewhere
	}
}

// whyNotReleased says why the emergency stop took the permit.
func (g *Guard) whyNotReleased() string {
	if g.svc.Client().Connection() == 0 {
		return "the connection to the broker is lost"
	}
	if why := g.latch.why.Load(); why != nil {
		return "emergency stop: " + *why
	}
	return "emergency stop"
}

// loseLocked takes the permit away. g.mu is held.
func (g *Guard) loseLocked(cause string) {
	if g.armed.Swap(nil) == nil {
		return
	}
	g.cause, g.lost, g.stopped = cause, time.Now(), false
	g.losses++
	g.log.Warn("permit lost", "cause", cause)
	for _, f := range g.onLoss {
		f(cause)
	}
	g.tellLocked(false, cause)
	g.noticeLocked()
}

// noticeLocked lets those look who wait. g.mu is held.
func (g *Guard) noticeLocked() {
	close(g.changed)
	g.changed = make(chan struct{})
	token(g.wakeUp)
	g.latch.reportSoon()
}

// tellLocked tells OnChange. g.mu is held.
func (g *Guard) tellLocked(permit bool, cause string) {
	if g.o.OnChange == nil {
		return
	}
	g.news = append(g.news, transition{permit, cause})
	if !g.telling {
		g.telling = true
		go g.deliver()
	}
}

func (g *Guard) deliver() {
	for {
		g.mu.Lock()
		if len(g.news) == 0 {
			g.telling = false
			g.mu.Unlock()
			return
		}
		n := g.news[0]
		g.news = g.news[1:]
		g.mu.Unlock()
		g.o.OnChange(n.permit, n.cause)
	}
}

// Permit reports whether motors and blade may turn, now. It takes no lock and costs some 30 ns: ask before every command to a motor.
func (g *Guard) Permit() bool {
	a := g.armed.Load()
	return a != nil && int64(time.Since(g.base)) < g.until.Load() && g.latch.isReleased(a.turn, a.conn)
}

// Causes returns what stands against a permit now, for people; nothing if there is one, or if the guard has only to be armed.
func (g *Guard) Causes() []string {
	s := g.latch.State()
	g.mu.Lock()
	defer g.mu.Unlock()
	var causes []string
	if s.Engaged {
		causes = append(causes, "emergency stop: "+describe(s))
	}
	now := time.Now()
	for _, c := range g.conditions {
		if why := c.cause(now); why != "" {
			causes = append(causes, why)
		}
	}
	return causes
}

// describe says who has engaged it and why.
func describe(s State) string {
	if s.By == "" {
		return s.Reason
	}
	return s.Reason + " (" + s.By + ")"
}

// A BlockedError is what stands against a permit.
type BlockedError struct {
	Causes []string // for people
}

func (e *BlockedError) Error() string { return "not permitted: " + strings.Join(e.Causes, "; ") }

// Arm gives the permit, if nothing stands against it, which is a *[BlockedError]; whatever the machine was told to do before counts no
// more. Call it where somebody commands that the machine moves, and only there. It asks the hub about the emergency stop, and
// waits for what was stale to be heard again: some milliseconds mostly, 2 s at most.
func (g *Guard) Arm(ctx context.Context) error { return g.arm(ctx, g.disarms()) }

// disarms returns how often Disarm was called.
func (g *Guard) disarms() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.disarmed
}

// arm is Arm for a command that came when Disarm had been called that often: after another call it counts no more.
func (g *Guard) arm(ctx context.Context, disarmed uint64) error {
	g.arming.Lock()
	defer g.arming.Unlock()
	if g.disarms() == disarmed && g.Permit() {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, armTime, errors.New("not permitted in time"))
	defer cancel()
	s, turn, err := g.latch.confirm(ctx)
	answered := time.Now()
	switch {
	case err != nil:
		return &BlockedError{[]string{"the hub of the emergency stop does not answer: " + err.Error()}}
	case s.Engaged:
		return &BlockedError{[]string{"emergency stop: " + describe(s)}}
	}
	a := &armed{turn, g.latch.over.Load()}
	for {
		g.mu.Lock()
		causes, waiting := g.obstaclesLocked(answered)
		if g.disarmed != disarmed {
			causes = append(causes, g.disarmedBy)
		}
		if len(causes) == 0 && len(waiting) == 0 && !g.closed {
			err := g.armLocked(a)
			g.mu.Unlock()
			return err
		}
		changed := g.changed
		closed := g.closed
		g.mu.Unlock()
		if closed {
			return &BlockedError{[]string{"the guard is closed"}}
		}
		if len(causes) > 0 {
			return &BlockedError{causes}
		}
		select {
		case <-changed:
		case <-time.After(5 * time.Millisecond): // signs of life that change nothing are not told
		case <-ctx.Done():
			return &BlockedError{append(waiting, context.Cause(ctx).Error())}
		}
	}
}

// obstaclesLocked returns what stands against arming, and what has to be heard again since the hub has answered. g.mu is held.
func (g *Guard) obstaclesLocked(answered time.Time) (causes, waiting []string) {
	now := time.Now()
	for _, c := range g.conditions {
		switch why := c.cause(now); {
		case c.bad != "", why != "" && now.Sub(answered) >= c.within:
			causes = append(causes, why)
		case why != "", c.again && c.last.Before(answered):
			waiting = append(waiting, c.what)
		}
	}
	return causes, waiting
}

// armLocked gives the permit. g.mu is held.
func (g *Guard) armLocked(a *armed) error {
	for _, c := range g.conditions {
		c.again = false
	}
	g.until.Store(0)
	g.armed.Store(a)
	g.weighLocked(time.Now())
	if g.armed.Load() == nil {
		return &BlockedError{[]string{g.cause}}
	}
	g.cause, g.stopped = "", false
	g.log.Info("permit given")
	g.tellLocked(true, "")
	g.noticeLocked()
	return nil
}

// Disarm takes the permit away, for a cause.
func (g *Guard) Disarm(cause string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.disarmLocked(cause)
}

// disarmLocked is Disarm. g.mu is held.
func (g *Guard) disarmLocked(cause string) {
	g.disarmed++ // also for an Arm that is under way
	g.disarmedBy = cause
	g.loseLocked(cause)
}

// Close takes the permit away for good. It is idempotent. Run ends.
func (g *Guard) Close() {
	g.mu.Lock()
	g.loseLocked("the guard is closed")
	first := !g.closed
	g.closed = true
	g.timer.Stop()
	g.noticeLocked()
	g.mu.Unlock()
	if first {
		g.unsubscribe()
	}
}

func (g *Guard) unsubscribe() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	g.mu.Lock()
	subs := g.subs
	g.subs = nil
	g.mu.Unlock()
	for _, s := range subs {
		_ = s.Unsubscribe(ctx)
	}
}

// reportInto adds what this guard has to report. It is called with the latch's lock held.
func (g *Guard) reportInto(r *Report) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.running {
		return
	}
	if !r.Actuator {
		r.Actuator, r.Stopped = true, true
	}
	permit := g.armed.Load() != nil
	if permit || !g.stopped {
		r.Stopped = false
	} else {
		r.StopMS = max(r.StopMS, milliseconds(g.stopTook))
		r.At = max(r.At, message.Seconds(g.stoppedAt))
	}
	if !permit && r.Cause == "" {
		r.Cause = g.cause
	}
	now := time.Now()
	for _, c := range g.conditions {
		if !c.source {
			continue
		}
		switch {
		case c.bad != "":
			r.Stale = append(r.Stale, c.bad)
		case c.cause(now) != "":
			r.Stale = append(r.Stale, c.what)
		}
	}
}
