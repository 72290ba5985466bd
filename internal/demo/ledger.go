package demo

import (
	"errors"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/client"
)

// A ledger compares what the services published with what the observer received.
//
// A message whose id its publisher knows is entered before it is published and crossed out, once, when the observer
// receives that id on that topic. What the service package composes itself (events, alerts, responses) has an id that the
// publisher never learns: of those the ledger counts, per sender and topic, how many were sent and how many different ones
// arrived. A command itself is delivered when its response came back. Not counted, because they are not the demo's own
// publications: what the packages service and safety say by themselves (status, heartbeats, the lease of the motors, reports and
// questions about the emergency stop), commands of others and their responses, and the empty messages that clear a retained alert. QoS 0 (vision/frame_analysis) is counted like the rest:
// on one host nothing excuses its loss.
//
// A publication that was refused counts as published, so it is lost unless it arrived all the same.
//
// A ledger's methods may be called concurrently.
type ledger struct {
	mu        sync.Mutex // guards everything below
	final     bool       // nothing is in flight any more
	published uint64     // by id, and commands
	delivered uint64     // of these
	inCalls   uint64     // commands that wait for their response
	forgotten uint64     // lost ones that are no longer in pending
	refused   uint64
	twice     uint64
	pending   map[string]sent // by message id
	counted   map[flow]*count
	recent    [2]map[string]struct{} // ids that arrived, the newer ones first
	latency   histogram              // one way
	trips     histogram              // round trips of commands
	ok        uint64                 // commands
	failed    uint64
	rate      rate // of deliveries
}

type sent struct {
	topic string
	at    time.Time
}

// A flow is one sender's messages on one topic.
type flow struct{ sender, topic string }

type count struct {
	sent, arrived uint64
	last          time.Time // of the last one sent
}

const (
	onTheWay   = time.Second // after which a message that has not arrived counts as lost, as long as things run
	recentIDs  = 20_000      // that are remembered at least, to know a message that arrives twice
	maxPending = 100_000     // ids that are waited for at most
)

func newLedger() *ledger {
	return &ledger{
		pending: map[string]sent{},
		counted: map[flow]*count{},
		recent:  [2]map[string]struct{}{{}, {}},
	}
}

// Sending enters a message that is about to be published.
func (l *ledger) Sending(topic, id string) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.published++
	if len(l.pending) >= maxPending {
		l.forgotten++
		return
	}
	l.pending[id] = sent{topic, now}
}

// Counting enters a message with an unknown id that is about to be published, or surely has been.
func (l *ledger) Counting(sender, topic string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flowLocked(sender, topic).sent++
}

func (l *ledger) flowLocked(sender, topic string) *count {
	c := l.counted[flow{sender, topic}]
	if c == nil {
		c = &count{}
		l.counted[flow{sender, topic}] = c
	}
	c.last = time.Now()
	return c
}

// Refused notes that a publication returned an error.
func (l *ledger) Refused() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused++
}

// Calling enters a command; the function returned takes its outcome.
func (l *ledger) Calling(caller, target string) (done func(err error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.published++
	l.inCalls++
	response := l.flowLocked(target, "responses/"+caller) // now, so that it may overtake done
	began := time.Now()
	return func(err error) {
		took := time.Since(began)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.inCalls--
		if answered(err) {
			l.delivered++
			response.sent++
			response.last = time.Now()
			l.trips.add(took)
		}
		if err == nil {
			l.ok++
		} else {
			l.failed++
		}
	}
}

// answered reports whether a call came to its target and back, with whatever answer.
func answered(err error) bool {
	if err == nil {
		return true
	}
	var failed *client.CommandError
	if !errors.As(err, &failed) {
		return false
	}
	switch failed.Code {
	case client.CodeFailed, client.CodeBadParameters, client.CodeUnknownCommand:
		return true
	}
	return false
}

// Arrived notes that the observer received a message.
func (l *ledger) Arrived(sender, topic, id string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, again := l.recent[0][id]; again {
		l.twice++
		return
	}
	if _, again := l.recent[1][id]; again {
		l.twice++
		return
	}
	if s, ok := l.pending[id]; ok {
		if s.topic != topic {
			return // at the wrong place: that does not count as delivered
		}
		delete(l.pending, id)
		l.delivered++
		l.latency.add(at.Sub(s.at))
	} else {
		c := l.counted[flow{sender, topic}]
		if c == nil {
			return // not the demo's
		}
		c.arrived++
	}
	l.rate.add(at)
	if len(l.recent[0]) >= recentIDs {
		l.recent[1], l.recent[0] = l.recent[0], make(map[string]struct{}, recentIDs)
	}
	l.recent[0][id] = struct{}{}
}

// account is the ledger's result.
type account struct {
	published, delivered, lost, onTheWay uint64
	refused, twice                       uint64
	latency, trips                       Latency
	ok, failed                           uint64
	perSecond                            float64
}

// Account sums up: published is delivered and lost and onTheWay, which is 0 after Close.
func (l *ledger) Account() account {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	a := account{
		published: l.published, delivered: l.delivered, lost: l.forgotten,
		refused: l.refused, twice: l.twice,
		latency: l.latency.latency(), trips: l.trips.latency(),
		ok: l.ok, failed: l.failed,
		perSecond: l.rate.perSecond(now),
	}
	missing := func(n uint64, since time.Time) {
		if l.final || now.Sub(since) > onTheWay {
			a.lost += n
		} else {
			a.onTheWay += n
		}
	}
	for _, s := range l.pending {
		missing(1, s.at)
	}
	for _, c := range l.counted {
		a.published += c.sent
		a.delivered += min(c.sent, c.arrived)
		missing(c.sent-min(c.sent, c.arrived), c.last)
	}
	// Commands without an answer: those that still run are on their way, the others lost.
	settled := a.published - a.delivered - a.lost - a.onTheWay
	running := min(l.inCalls, settled)
	if l.final {
		running = 0
	}
	a.onTheWay += running
	a.lost += settled - running
	return a
}

// Close declares that nothing is in flight any more: what is missing is lost.
func (l *ledger) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.final = true
}

// A rate counts what happened in the last two seconds, in slots of a tenth.
type rate struct {
	began time.Time // of the first slot, zero before the first add
	slot  int64     // the newest, counted from began
	slots [rateSlots]uint32
}

const (
	rateSlots = 20
	slotTime  = 100 * time.Millisecond
)

func (r *rate) add(at time.Time) {
	if r.began.IsZero() {
		r.began = at
	}
	r.advance(at)
	r.slots[r.slot%rateSlots]++
}

func (r *rate) advance(now time.Time) {
	slot := int64(now.Sub(r.began) / slotTime)
	for empty := min(slot-r.slot, rateSlots); empty > 0; empty-- {
		r.slots[(slot-empty+1)%rateSlots] = 0
	}
	r.slot = max(r.slot, slot)
}

func (r *rate) perSecond(now time.Time) float64 {
	if r.began.IsZero() {
		return 0
	}
	r.advance(now)
	var n uint32
	for _, c := range r.slots {
		n += c
	}
	span := min(now.Sub(r.began), rateSlots*slotTime).Seconds()
	return float64(n) / max(span, slotTime.Seconds())
}
