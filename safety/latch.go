package safety

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
)

// LatchOptions configure a latch.
type LatchOptions struct {
	By     string       // who engages, as others see it; "" is the client's id
	Logger *slog.Logger // nil is discarded
}

// A Latch is what a program knows of the emergency stop, and how it engages it. There is one for a client. Its methods may be called
// concurrently.
type Latch struct {
	c   *client.Client
	o   LatchOptions
	log *slog.Logger

	// turns is odd while the emergency stop is released, and known to be over the connection in over; it grows by one with each change. So
	// whoever remembers an odd number can tell by one load that it is still released, and has not been engaged in between.
	turns atomic.Uint64
	over  atomic.Uint64
	why   atomic.Pointer[string] // why it was last not released, for people

	stop *client.Subscription // to safety/emergency_stop

	ctx    context.Context // ends with Close
	end    context.CancelFunc
	work   sync.WaitGroup
	began  time.Time
	asking sync.Mutex    // held by the one who asks the hub
	ask    chan struct{} // holds one token while the hub is to be asked
	report chan struct{} // holds one token while there may be something to report

	mu        sync.Mutex // guards the fields below
	closed    bool
	hub       service.State // as its status says; "" is never heard of
	conn      uint64        // connection on which the hub has answered
	state     State         // as the hub has answered last; its Known is set by view
	pending   map[string]*pending
	questions uint64 // asked so far
	unknown   string // why the state is not known
	gone      uint64 // how often the hub was
	hazards   []Hazard
	speaks    bool // it has said something of a hazard, also that there is none
	guards    []*Guard
	told      Report // what was reported last
	watchers  []*watcher
	changed   chan struct{} // closed and replaced with each change

	cancels []func()
}

// A pending engagement was heard or made here, and the hub has not answered since that it has taken it in.
type pending struct {
	by, reason string
	since      time.Time
	at         time.Time // when it was heard or made, or said again
	hubs       bool      // the hub has said so by itself: an answer to a later question counts in any case
	before     uint64    // of hubs: questions that were asked before
}

const (
	askTime     = time.Second            // for one question to the hub
	askAgain    = time.Second            // between questions while the state is not known
	confirmTime = 100 * time.Millisecond // that the hub has to take in an engagement, before it is asked whether it has
	sayAgain    = 300 * time.Millisecond // after which an engagement that the hub does not know is said again
	maxPending  = 128                    // engagements; further ones are not told apart
	reportGap   = 50 * time.Millisecond  // between two reports of the same kind
)

// OpenLatch makes the latch of a client. It returns once the broker has confirmed what the latch is subscribed to. The state is not known
// then: see Confirm and OnChange. In a service, call it in Options.Setup.
func OpenLatch(ctx context.Context, c *client.Client, o LatchOptions) (*Latch, error) {
	if o.By == "" {
		o.By = c.ID()
	}
	l := &Latch{
		c: c, o: o, log: o.Logger, began: time.Now(),
		ask: make(chan struct{}, 1), report: make(chan struct{}, 1), changed: make(chan struct{}),
		pending: map[string]*pending{}, unknown: "the hub has not confirmed it yet", state: State{Since: time.Now()},
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	l.ctx, l.end = context.WithCancel(context.Background())
	var err error
	l.stop, err = c.Subscribe(ctx, stopTopic, l.onStop, client.WithInvalid(), client.WithQueue(client.Queue{Max: 10_000}))
	if err != nil {
		l.end()
		return nil, fmt.Errorf("emergency stop: %w", err)
	}
	hub, err := c.Subscribe(ctx, "system/services/"+HubID+"/status", l.onHub)
	if err != nil {
		l.end()
		_ = l.stop.Unsubscribe(ctx)
		return nil, fmt.Errorf("emergency stop: %w", err)
	}
	l.cancels = append(l.cancels, c.OnConnection(l.onConnection), func() {
		ctx, cancel := context.WithTimeout(context.Background(), askTime)
		defer cancel()
		_, _ = l.stop.Unsubscribe(ctx), hub.Unsubscribe(ctx)
	})
	l.work.Go(l.askHub)
	l.work.Go(l.reportAll)
	l.askSoon()
	return l, nil
}

// Close ends the latch. Its report is taken back, unless a hazard stands; what it has said stays said. It is idempotent.
func (l *Latch) Close(ctx context.Context) error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.decideLocked()
	told, hazards := l.told.Service != "", len(l.hazards) > 0
	l.mu.Unlock()
	l.end()
	for _, cancel := range l.cancels {
		cancel()
	}
	l.work.Wait()
	l.mu.Lock()
	for _, w := range l.watchers {
		w.end()
	}
	l.watchers = nil
	l.mu.Unlock()
	if !told || hazards || !l.c.Connected() {
		return nil
	}
	return l.c.Publish(ctx, reportTopic+l.c.ID(), message.NewRaw(nil), client.WithRetain(true))
}

// Released reports whether the emergency stop is released, and known to be. It takes no lock.
func (l *Latch) Released() bool {
	turn := l.turns.Load()
	return l.isReleased(turn, l.over.Load())
}

// isReleased reports whether it has been released since turns was turn, over that connection.
func (l *Latch) isReleased(turn, conn uint64) bool {
	return turn%2 == 1 && conn != 0 && conn == l.c.Connection() && turn == l.turns.Load()
}

// State returns what is known.
func (l *Latch) State() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.viewLocked()
}

// viewLocked is the state as others see it.
func (l *Latch) viewLocked() State {
	s := l.state
	s.Known = l.knownLocked() == ""
	switch {
	case len(l.pending) > 0:
		s.Engaged = true
		if l.state.Engaged && s.Known {
			break // the hub's reason is the first
		}
		var first *pending
		for _, p := range l.pending {
			if first == nil || p.since.Before(first.since) {
				first = p
			}
		}
		s.Reason, s.By, s.Since = first.reason, first.by, first.since
	case !s.Known:
		s.Engaged, s.By = true, ""
		s.Reason = "not known: " + l.knownLocked()
	}
	return s
}

// knownLocked returns why the state is not known, "" if it is.
func (l *Latch) knownLocked() string {
	switch conn := l.c.Connection(); {
	case l.closed:
		return "the latch is closed"
	case conn == 0:
		return "there is no connection to the broker"
	case l.conn != conn && l.unknown == "":
		return "the connection was lost, and the hub has not confirmed it since"
	}
	return l.unknown
}

// decideLocked works out whether it is released, and tells those who want to know. l.mu is held.
func (l *Latch) decideLocked() {
	released := !l.state.Engaged && len(l.pending) == 0 && l.knownLocked() == ""
	s := l.viewLocked()
	if s.Engaged {
		why := describe(s)
		l.why.Store(&why)
	}
	if was := l.turns.Load()%2 == 1; was && (!released || l.conn != l.over.Load()) {
		l.turns.Add(1)
	}
	if was := l.turns.Load()%2 == 1; released && !was {
		l.over.Store(l.conn)
		l.turns.Add(1)
	}
	close(l.changed)
	l.changed = make(chan struct{})
	for _, w := range l.watchers {
		w.tell(s)
	}
	for _, g := range l.guards {
		g.wake()
	}
	l.reportSoon()
}

func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (l *Latch) askSoon()    { token(l.ask) }
func (l *Latch) reportSoon() { token(l.report) }

// Engage engages the emergency stop: here at once, before it returns, and for everybody when the message arrives. It returns nil when the
// message is safe in the sense of the client's Publish, also in the outbox while there is no connection; otherwise its error says why not,
// and it is said again until the hub has confirmed it. It overtakes what else waits to be sent. Engaging what is engaged changes nothing
// but the sequence number, so that no release undoes it whose sender has not seen it.
func (l *Latch) Engage(ctx context.Context, reason string) error {
	return l.EngageBy(ctx, l.o.By, reason)
}

// EngageBy is [Latch.Engage] in the name of somebody.
func (l *Latch) EngageBy(ctx context.Context, by, reason string) error {
	m, err := l.engage(by, reason)
	if err != nil {
		return fmt.Errorf("emergency stop: %w", err)
	}
	r := l.c.PublishAsync(stopTopic, m, client.WithRetain(true), client.Unlimited())
	if err := r.Wait(ctx); err != nil {
		return fmt.Errorf("emergency stop: %w", err)
	}
	return nil
}

// engage engages here, and returns the message that tells the others.
func (l *Latch) engage(by, reason string) (message.Message, error) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	m, err := engagement(by, reason, now, l.state.Sequence+1)
	id := m.Metadata.ID
	if err != nil {
		id = unsaid // and will be said again
	}
	m.Metadata.Sender = l.c.ID()
	l.pend(id, &pending{by: speakable(by), reason: speakable(reason), since: now, at: now})
	return m, err
}

// pend takes in an engagement that the hub is to confirm.
func (l *Latch) pend(id string, p *pending) {
	if len(l.pending) >= maxPending {
		id = further // said again, as one
	}
	if l.pending[id] == nil {
		l.pending[id] = p
	}
	time.AfterFunc(confirmTime, l.askSoon)
	l.decideLocked()
}

// Confirm asks the hub, and returns the state as it is known then. Its error says that the hub did not answer.
func (l *Latch) Confirm(ctx context.Context) (State, error) {
	s, _, err := l.confirm(ctx)
	return s, err
}

// confirm is Confirm. turn is what turns was then: odd if it is released.
func (l *Latch) confirm(ctx context.Context) (s State, turn uint64, err error) {
	l.asking.Lock()
	defer l.asking.Unlock()
	l.mu.Lock()
	conn := l.c.Connection()
	q := confirmQuery{Sequence: l.state.Sequence}
	l.questions++
	question, gone := l.questions, l.gone
	for id, p := range l.pending {
		if !p.hubs {
			q.Heard = append(q.Heard, id)
		}
	}
	l.mu.Unlock()
	var a confirmAnswer
	if conn == 0 {
		err = client.ErrNotConnected
	} else {
		err = l.c.Call(ctx, HubID, commandConfirm, q, &a, client.Unannounced(), client.AtLeastOnce())
	}
	if err == nil {
		err = l.stop.Drain(ctx) // what came before the answer counts
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && gone != l.gone {
		err = errors.New("the hub has gone after its answer")
		l.askSoon()
	}
	if err != nil {
		if l.conn != conn || conn == 0 {
			l.unknown = "the hub does not answer: " + err.Error()
		}
		l.decideLocked()
		return l.viewLocked(), l.turns.Load(), err
	}
	since := heard{stopContext: stopContext{Since: a.Since}}
	l.conn, l.unknown = conn, ""
	l.state = State{Engaged: a.Engaged, Reason: a.Reason, By: a.By, Since: since.since(), Sequence: a.Sequence}
	var again []*pending
	now := time.Now()
	for id, p := range l.pending {
		switch {
		case p.hubs && p.before < question, slices.Contains(a.Known, id):
			delete(l.pending, id)
		case p.hubs || now.Sub(p.at) < sayAgain:
			time.AfterFunc(confirmTime, l.askSoon)
		case slices.Contains(q.Heard, id): // it never got there, or the hub has forgotten it
			delete(l.pending, id)
			again = append(again, p)
		}
	}
	for _, p := range again {
		l.repeatLocked(p, now)
	}
	l.decideLocked()
	return l.viewLocked(), l.turns.Load(), nil
}

// repeatLocked says an engagement again. l.mu is held.
func (l *Latch) repeatLocked(p *pending, now time.Time) {
	m, err := engagement(p.by, p.reason, p.since, l.state.Sequence+1)
	p.at = now
	if err != nil {
		l.pending[unsaid] = p
		return
	}
	m.Metadata.Sender = l.c.ID()
	l.pending[m.Metadata.ID] = p
	l.log.Warn("the hub does not know of an emergency stop: it is said again", "by", p.by, "reason", p.reason)
	l.c.PublishAsync(stopTopic, m, client.WithRetain(true), client.Unlimited())
}

// onStop takes in a message on safety/emergency_stop.
func (l *Latch) onStop(_ context.Context, d *client.Delivery) {
	h := read(d)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch h.kind {
	case nothing:
	case claims:
		l.askSoon()
	case engages:
		l.pend(h.id, &pending{by: h.By, reason: h.Reason, since: h.since(), at: d.Received})
	case ofHub:
		if *h.Engaged { // until it has answered a question that is asked from now on
			l.pending[hubSays] = &pending{by: h.By, reason: h.Reason, since: h.since(), at: d.Received, hubs: true, before: l.questions}
			l.decideLocked()
		}
		if *h.Engaged || h.Sequence != l.state.Sequence || l.state.Engaged {
			l.askSoon()
		}
	}
}

// What is pending beside messages with an id.
const (
	hubSays = "-hub"     // what the hub has published
	unsaid  = "-unsaid"  // what could not be published
	further = "-further" // all beyond maxPending
)

// onHub hears whether the hub is there.
func (l *Latch) onHub(_ context.Context, d *client.Delivery) {
	p, err := message.Payload[message.Status](d.Message)
	state := service.State(p.Status)
	if err != nil {
		state = service.Offline
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.hub
	l.hub = state
	switch state {
	case service.Offline, service.ShuttingDown:
		l.gone++
		if was != state || l.unknown == "" {
			l.unknown = "the hub is " + string(state)
			l.conn = 0
			l.decideLocked()
		}
	default:
		if was != state || l.knownLocked() != "" {
			l.askSoon()
		}
	}
}

// onConnection hears of a connection that is up or lost.
func (l *Latch) onConnection(bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.decideLocked()
	l.askSoon()
	l.told = Report{Service: l.told.Service} // the broker may have lost it
}

// askHub asks the hub when there is a reason to, and again while the state is not known or the hub has not confirmed what is pending.
func (l *Latch) askHub() {
	again := time.NewTimer(askAgain)
	defer again.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-l.ask:
		case <-again.C:
			l.mu.Lock()
			settled := l.knownLocked() == "" && len(l.pending) == 0
			l.mu.Unlock()
			if settled {
				again.Reset(askAgain)
				continue
			}
		}
		if l.c.Connected() {
			ctx, cancel := context.WithTimeout(l.ctx, askTime)
			if _, err := l.Confirm(ctx); err != nil && l.ctx.Err() == nil {
				l.log.Debug("the hub of the emergency stop did not answer", "error", err)
				if !isCode(err, client.CodeTimeout) && !pause(l.ctx, confirmTime) {
					cancel()
					return
				}
			}
			cancel()
		}
		again.Reset(askAgain)
	}
}

func isCode(err error, code string) bool {
	var said *client.CommandError
	return errors.As(err, &said) && said.Code == code
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Settle waits until the state is known, and the hub has confirmed all that was engaged here.
func (l *Latch) Settle(ctx context.Context) error {
	for {
		l.mu.Lock()
		why, open, changed := l.knownLocked(), len(l.pending), l.changed
		l.mu.Unlock()
		if why == "" && open == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if why == "" {
				why = "the hub has not confirmed the emergency stop"
			}
			return fmt.Errorf("%s: %w", why, context.Cause(ctx))
		case <-l.ctx.Done():
			return errors.New("the latch is closed")
		}
	}
}

// Release asks the hub to release the emergency stop, whose state with that sequence number the caller has seen, and waits until it is
// released here. The error says why not: a *[client.CommandError] with the code refused names all reasons.
func (l *Latch) Release(ctx context.Context, sequence uint64) error {
	if err := l.c.Call(ctx, HubID, commandRelease, releaseQuery{Sequence: sequence}, nil, client.Unannounced()); err != nil {
		return err
	}
	for {
		l.mu.Lock()
		changed := l.changed
		l.mu.Unlock()
		s, err := l.Confirm(ctx)
		switch {
		case err != nil:
			return err
		case !s.Engaged:
			return nil
		case s.Known && s.Sequence > sequence+1:
			return fmt.Errorf("engaged again by %s: %s", s.By, s.Reason)
		}
		select {
		case <-changed:
		case <-time.After(confirmTime):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
