package client

import (
	"strings"
	"sync"
	"time"
)

// WithDeadline says that a message is expected on each topic of the subscription at least every d. When none has come for that long
// the topic is stale, and f is told so, with how long nothing came; and again when something comes. It is measured when
// messages are received, on the monotonic clock: neither a slow handler nor other traffic on the connection changes anything, nor
// what is written in a message. While there is no connection nothing is received, so everything is stale in time.
//
// A topic without wildcards is expected from the moment of Subscribe on; with wildcards each topic from its first message
// on, for at most 2,048 of them. A retained message may be of any age: it makes a topic expected, but not fresh.
//
// f is called by a goroutine of its own, for each topic stale and fresh in turn; it may take its time, and call Unsubscribe. No
// call begins after Unsubscribe has returned.
func WithDeadline(d time.Duration, f func(topic string, stale bool, age time.Duration)) SubscribeOption {
	return func(s *subscribing) { s.freshness = newFreshness(d, f) }
}

// A freshness knows which topics of a subscription are stale.
type freshness struct {
	d time.Duration
	f func(topic string, stale bool, age time.Duration)

	mu         sync.Mutex
	topics     map[string]*expected
	head, tail *expected // the fresh ones, the one that was quiet for longest first
	timer      *time.Timer
	news       []staleness
	telling    bool // a goroutine delivers news
	stopped    bool
}

type expected struct {
	topic      string
	last       time.Time
	stale      bool
	prev, next *expected
}

type staleness struct {
	topic string
	stale bool
	age   time.Duration
}

func newFreshness(d time.Duration, f func(topic string, stale bool, age time.Duration)) *freshness {
	return &freshness{d: max(d, time.Millisecond), f: f, topics: make(map[string]*expected)}
}

// begin expects what a filter without wildcards names.
func (x *freshness) begin(filter, topic string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !strings.ContainsAny(filter, "+#") {
		x.expect(topic, time.Now())
	}
	x.arm()
}

// seen notes a message on a topic.
func (x *freshness) seen(topic string, at time.Time, retained bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.stopped {
		return
	}
	e := x.topics[topic]
	switch {
	case e == nil && len(x.topics) >= maxNames:
		return
	case e == nil:
		x.expect(topic, at)
	case retained:
		return
	case e.stale:
		e.stale = false
		x.tell(staleness{topic, false, at.Sub(e.last)})
		e.last = at
		x.link(e)
	default:
		x.unlink(e)
		e.last = at
		x.link(e)
	}
	x.arm()
}

func (x *freshness) expect(topic string, at time.Time) {
	e := &expected{topic: topic, last: at}
	x.topics[topic] = e
	x.link(e)
}

// arm has the timer run for the first of the fresh ones. Later ones only ever come after it.
func (x *freshness) arm() {
	if x.head == nil || x.timer != nil || x.stopped {
		return
	}
	x.timer = time.AfterFunc(max(time.Until(x.head.last.Add(x.d)), 0), x.look)
}

// look finds what has become stale.
func (x *freshness) look() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.timer = nil
	now := time.Now()
	for e := x.head; e != nil && !x.stopped && now.Sub(e.last) >= x.d; e = x.head {
		x.unlink(e)
		e.stale = true
		x.tell(staleness{e.topic, true, now.Sub(e.last)})
	}
	x.arm()
}

func (x *freshness) tell(n staleness) {
	x.news = append(x.news, n)
	if !x.telling {
		x.telling = true
		go x.deliver()
	}
}

func (x *freshness) deliver() {
	for {
		x.mu.Lock()
		if len(x.news) == 0 || x.stopped {
			x.telling = false
			x.mu.Unlock()
			return
		}
		n := x.news[0]
		x.news = x.news[1:]
		x.mu.Unlock()
		x.f(n.topic, n.stale, n.age)
	}
}

func (x *freshness) stop() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.stopped = true
	if x.timer != nil {
		x.timer.Stop()
	}
}

func (x *freshness) link(e *expected) {
	e.prev, e.next = x.tail, nil
	if x.tail == nil {
		x.head = e
	} else {
		x.tail.next = e
	}
	x.tail = e
}

func (x *freshness) unlink(e *expected) {
	if e.prev == nil {
		x.head = e.next
	} else {
		e.prev.next = e.next
	}
	if e.next == nil {
		x.tail = e.prev
	} else {
		e.next.prev = e.prev
	}
	e.prev, e.next = nil, nil
}
