package broker

import "time"

// An item is one message queued for one session.
type item struct {
	message  *message
	delivery *delivery
	order    uint64 // of arrival in the session
	group    *group // what the item is durable with, nil when it is in memory only
	op       uint32 // its place in the group
	id       uint16 // the packet identifier to send it with; 0 is any
	qos      byte
	retain   bool // the retain flag to send
	owed     bool // kept when the store fails; see txn.owed
	stored   bool // a retained message for a new subscription; see session.stored
}

// ring is a first-in, first-out queue that grows and shrinks with its content.
type ring struct {
	items []item // len is a power of two or 0
	head  int
	count int
}

func (r *ring) push(it item) {
	if r.count == len(r.items) {
		r.resize(max(16, 2*len(r.items)))
	}
	r.items[(r.head+r.count)&(len(r.items)-1)] = it
	r.count++
}

func (r *ring) front() *item {
	if r.count == 0 {
		return nil
	}
	return &r.items[r.head]
}

// at returns the i-th item, counted from the front.
func (r *ring) at(i int) *item { return &r.items[(r.head+i)&(len(r.items)-1)] }

func (r *ring) pop() item {
	it := r.items[r.head]
	r.items[r.head] = item{}
	r.head = (r.head + 1) & (len(r.items) - 1)
	r.count--
	if r.count == 0 && len(r.items) > 1024 {
		*r = ring{}
	}
	return it
}

func (r *ring) resize(n int) {
	items := make([]item, n)
	for i := range r.count {
		items[i] = r.items[(r.head+i)&(len(r.items)-1)]
	}
	r.items, r.head = items, 0
}

// A lane is the messages of one urgency. QoS 0 is kept apart because its bound drops the oldest; the order of arrival
// is restored when both are read.
type lane struct {
	qos0     ring
	reliable ring   // QoS 1 and 2
	ids      uint16 // packet identifiers given in a durable session
}

func (l *lane) count() int { return l.qos0.count + l.reliable.count }

// In a durable session a message gets its packet identifier when it is queued, and is stored with it: so a message is sent
// with the same identifier before and after a crash, and a client that has got it at QoS 2 knows it again. Each lane
// gives out its own identifiers, in turn, since messages of one lane are sent in that order.
//
// A message that cannot be stored has one that stored messages never have. After a crash the broker does not know of it,
// while the client may: with an identifier of another message that one would be taken for the same.
const (
	urgentIDs   = 4096
	looseIDs    = 4096
	ordinaryIDs = 1<<16 - 1 - urgentIDs - looseIDs
)

// looseID returns the identifier of the n-th message that cannot be stored.
func looseID(n uint32) uint16 { return ordinaryIDs + urgentIDs + 1 + uint16(n%looseIDs) }

// number gives the lane's next packet identifier.
func (l *lane) number(urgent bool) uint16 {
	if urgent {
		l.ids = l.ids%urgentIDs + 1
		return ordinaryIDs + l.ids
	}
	l.ids = l.ids%ordinaryIDs + 1
	return l.ids
}

// goOn has the lane give out the identifiers after id.
func (l *lane) goOn(id uint16) {
	if id > ordinaryIDs {
		id -= ordinaryIDs
	}
	l.ids = id
}

// next returns the ring that holds the oldest message that may be sent; window tells whether QoS 1 and 2 may.
func (l *lane) next(window bool) *ring {
	a, b := l.qos0.front(), l.reliable.front()
	if !window {
		b = nil
	}
	switch {
	case a == nil && b == nil:
		return nil
	case b == nil || a != nil && a.order < b.order:
		return &l.qos0
	}
	return &l.reliable
}

// A pace is how many messages were lately taken out of a session's queue, to tell a session that does its best from one that
// is stuck or as good as stuck. Publishers are slowed for the former alone: a slowed one still sends about a thousand messages
// a second, so whoever takes far fewer is not helped by it, and everybody else would wait.
type pace struct {
	began       int64 // the present span, on the broker's clock
	now, lately int   // messages in it, and in the one before
}

const (
	paceSpan  = 100 * time.Millisecond
	livelyCut = 50 // messages in one to two spans, from which on a session is lively
)

// step counts a message.
func (p *pace) step(now int64) {
	p.turn(now)
	p.now++
}

// trust takes a session for lively in the present span: its connection is new.
func (p *pace) trust(now int64) { *p = pace{began: now, lately: livelyCut} }

// turn begins a new span when the present one is over.
func (p *pace) turn(now int64) {
	switch age := now - p.began; {
	case age >= 2*int64(paceSpan):
		*p = pace{began: now}
	case age >= int64(paceSpan):
		*p = pace{began: p.began + int64(paceSpan), lately: p.now}
	}
}

// lively reports whether messages are being taken out fast enough for publishers to give way.
func (p *pace) lively(now int64) bool {
	p.turn(now)
	return p.lately+p.now >= livelyCut
}

// An inflight is a QoS 1 or 2 message that was sent and is not yet acknowledged to the end.
type inflight struct {
	item
	id      uint16 // 0 is an unused slot; item.id is 0 when it was not given beforehand
	sent    uint64 // order of the first sending
	release bool   // PUBREC has come: PUBREL is what is outstanding
	counted bool   // against the receive maximum of the current connection
}

// window is the messages in flight to one session: a table by packet identifier whose size is a power of two, so that
// an identifier's slot is its low bits. An identifier is used only when its slot is free.
type window struct {
	slots []inflight
	count int
	last  uint16 // the identifier given last
	sent  uint64 // messages ever added
}

func (w *window) get(id uint16) *inflight {
	if len(w.slots) == 0 || id == 0 {
		return nil
	}
	if f := &w.slots[int(id)&(len(w.slots)-1)]; f.id == id {
		return f
	}
	return nil
}

// add puts it in the window, with the packet identifier that it has, which is not in use, or else a new one. The caller
// keeps count below 32,768.
func (w *window) add(it item) *inflight {
	if 2*w.count >= len(w.slots) {
		w.grow()
	}
	for it.id != 0 {
		if f := &w.slots[int(it.id)&(len(w.slots)-1)]; f.id == 0 {
			*f = inflight{item: it, id: it.id, sent: w.sent, counted: true}
			w.count++
			w.sent++
			return f
		}
		w.grow() // at 65,536 every identifier has a slot of its own
	}
	for {
		w.last++
		if w.last == 0 {
			w.last = 1
		}
		if f := &w.slots[int(w.last)&(len(w.slots)-1)]; f.id == 0 {
			*f = inflight{item: it, id: w.last, sent: w.sent, counted: true}
			w.count++
			w.sent++
			return f
		}
	}
}

func (w *window) grow() {
	old := w.slots
	w.slots = make([]inflight, max(16, 2*len(old)))
	for _, f := range old {
		if f.id != 0 {
			w.slots[int(f.id)&(len(w.slots)-1)] = f
		}
	}
}

func (w *window) remove(f *inflight) {
	*f = inflight{}
	w.count--
}
