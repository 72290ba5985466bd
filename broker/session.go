package broker

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// A session is what the broker keeps for one client id [MQTT-4.1]. It outlives its connections until it expires.
type session struct {
	broker *Broker
	id     string
	subs   map[string]*subscription // by filter; guarded by broker.tree.mu

	// inbound is the QoS 2 packet identifiers received and not yet released. Owned by the reader of the connection that
	// holds the session.
	inbound map[uint16]inbound

	grant atomic.Pointer[grant] // what its client may do; nil is everything. Stored with mu held

	mu    sync.Mutex // guards everything below
	conn  *conn      // nil while offline
	last  *conn      // the connection that holds the session, until it has ended
	ended bool       // no longer a session; what arrives is discarded

	owner   string    // the user whose session it is; see Identity
	durable bool      // kept in the store
	number  uint64    // its number there
	head    *group    // what the record of the session became durable with
	awaited *group    // the last group that the session's writer waits for
	sent    [2]uint64 // the order after the last message sent, ordinary and urgent
	unsaid  bool      // sent has changed since it was stored
	loose   uint32    // messages that could not be stored; it begins anywhere
	refuse  []item    // taken out of the queue and yet to be removed from the store

	order    uint64
	judged   uint64 // what has a lower order was queued before the rights were what they are
	urgent   lane
	ordinary lane
	queued   int // QoS 1 and 2 messages in the lanes
	bytes    int // their size
	stored   int // QoS 1 and 2 messages in the lanes that are retained ones for a new subscription; not in queued and bytes
	replay   int // size of those
	bytes0   int // size of the QoS 0 messages in the lanes
	window   window
	resend   []uint16 // identifiers to send again on this connection, oldest first

	expiry      time.Duration // forever is kept until a clean start
	expiryTimer *time.Timer
	connects    int   // how often a connection took the session
	will        *will // of the present connection, or delayed from the last one
	willTimer   *time.Timer
	dropped     uint64 // messages lost at a bound
	logged      uint64 // how many of them the log has
	cause       string // why the last was lost
	behind      bool   // the queue has been more than half full ever since the present connection took the session
	pace, pace0 pace   // of what is taken out for sending: at QoS 1 and 2, and at QoS 0
}

// urgentRoom is how many urgent messages find room in a queue that others have filled.
const urgentRoom = 1_000

const forever = time.Duration(1<<63 - 1)

// An inbound is the state of a QoS 2 message from the client that has not been released.
type inbound struct {
	counted bool   // against the receive maximum of the present connection
	late    bool   // a request or a response: its publisher waits for other things than the handshake
	group   *group // what it is durable with, nil when it is in memory only
}

// lost reports whether the message could not be stored: it was refused, and its identifier is free again.
func (i inbound) lost() bool { return i.group != nil && i.group.state.Load() == failed }

// verdict is what became of a message at one session.
type verdict uint8

const (
	ignored  verdict = iota // nobody there to take it: session ended, or QoS 0 while offline
	accepted                // queued
	crowded                 // queued, behind enough others that the publisher should let them out
	brimming                // queued, and the queue is more than half full
	refused                 // a bound is reached: lost for this session
)

// enqueue queues m for the session. It never waits. A stored message is a retained one for a new subscription: many may
// come at once, whatever the bounds of the queue, and they cost little, being in memory anyway.
//
// While the store fails, a durable session gets what it can be sent at once, and t is told that it is not durable.
func (s *session) enqueue(m *message, d *delivery, t *txn, retain, stored bool) verdict {
	qos := min(m.qos, d.qos)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || qos == 0 && s.conn == nil || !s.mayReceive(m.topic) {
		return ignored
	}
	l := s.lane(m.urgent)
	o := &s.broker.limits
	size := m.size()
	it := item{message: m, delivery: d, order: s.order, qos: qos, retain: retain, stored: stored}
	s.order++
	save := s.durable && qos > 0 && t.group != nil
	if save && t.failing && !t.owed {
		save, t.unstored = false, true
		if s.conn == nil {
			s.drop("the store fails")
			return refused
		}
	}
	switch {
	case qos == 0:
		s.push0(l, it, size)
	case stored && s.stored < o.retained+int(o.queue.Load()) && s.replay+size <= o.retainedBytes+int(o.queueBytes.Load()):
		l.reliable.push(s.prepare(it, l, t, save))
		s.stored++
		s.replay += size
	case !stored && (s.room(size) || m.urgent && l.reliable.count < urgentRoom):
		l.reliable.push(s.prepare(it, l, t, save))
		s.queued++
		s.bytes += size
	default:
		s.drop("its queue is full")
		if s.conn != nil && !s.behind {
			s.conn.stopLocked(packet.QuotaExceeded, "too slow: its queue is full")
		}
		return refused
	}
	if s.conn == nil {
		return accepted
	}
	s.conn.wakeBy(t.by)
	return s.fullness(l)
}

// enqueueLive queues QoS 0 messages of one topic from by that are not to be sent as retained. It never waits.
func (s *session) enqueueLive(messages []*message, d *delivery, by *conn) verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.conn == nil || !s.mayReceive(messages[0].topic) {
		return ignored
	}
	l := s.lane(messages[0].urgent)
	for _, m := range messages {
		s.push0(l, item{message: m, delivery: d, order: s.order}, m.size())
		s.order++
	}
	s.conn.wakeBy(by)
	return s.fullness(l)
}

// push0 puts a QoS 0 message of that size in l, where it takes the place of the oldest ones when there is no room. Caller holds mu.
func (s *session) push0(l *lane, it item, size int) {
	o := &s.broker.limits
	for l.qos0.count > 0 && (l.qos0.count >= o.queue0 || s.bytes0+size > o.queue0Bytes) {
		s.bytes0 -= l.qos0.pop().message.size()
		s.drop("too slow for its QoS 0 messages")
	}
	l.qos0.push(it)
	s.bytes0 += size
}

// fullness tells a publisher how full the queue is, of which l is a lane. Caller holds mu.
func (s *session) fullness(l *lane) verdict {
	o := &s.broker.limits
	switch half, half0 := s.halfFull(), l.qos0.count > o.queue0/2 || s.bytes0 > o.queue0Bytes/2; {
	case half || half0:
		now := s.broker.now()
		if half && s.pace.lively(now) || half0 && s.pace0.lively(now) {
			return brimming
		}
	case s.queued+l.qos0.count > crowd:
		return crowded
	}
	return accepted
}

func (s *session) lane(urgent bool) *lane {
	if urgent {
		return &s.urgent
	}
	return &s.ordinary
}

// room reports whether a message of that size fits in the queue. Caller holds mu.
func (s *session) room(size int) bool {
	o := &s.broker.limits
	return s.queued < int(o.queue.Load()) && s.bytes+size <= int(o.queueBytes.Load())
}

// halfFull reports whether the queue is more than half full. Caller holds mu.
func (s *session) halfFull() bool {
	o := &s.broker.limits
	return s.queued > int(o.queue.Load())/2 || s.bytes > int(o.queueBytes.Load())/2
}

// state reports whether a connection holds the session, and whether m fits in its queue.
func (s *session) state(m *message, t *txn) (online, room bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil && s.durable && t.failing && !t.owed {
		return false, false
	}
	return s.conn != nil, s.room(m.size())
}

// drop counts a lost message. The first is logged at once, and those that double the count; see logLoss for the others.
// Caller holds mu.
func (s *session) drop(cause string) {
	s.dropped++
	s.cause = cause
	s.broker.stats.dropped.Add(1)
	if s.dropped >= 2*s.logged {
		s.logLoss()
	}
}

// logLoss logs how many messages were lost, unless the log has it. It is called at times, and when the session ends, so that
// the log has the exact number in the end. Caller holds mu.
func (s *session) logLoss() {
	if s.dropped == s.logged {
		return
	}
	s.logged = s.dropped
	s.broker.log.Warn("messages dropped", "client", s.id, "reason", s.cause, "dropped", s.dropped,
		"queued", s.queued, "bytes", s.bytes+s.bytes0)
}

// fill appends what may be sent on c now, up to about limit bytes. Caller holds mu.
func (s *session) fill(buf []byte, c *conn, limit int) []byte {
	now := s.broker.now()
	for len(s.resend) > 0 && len(buf)+c.apart < limit {
		f := s.window.get(s.resend[0])
		if f == nil { // acknowledged meanwhile
			s.resend = s.resend[1:]
			continue
		}
		if f.release {
			buf = packet.AppendAck(buf, packet.PUBREL, c.version, f.id, packet.Success)
		} else {
			if c.unacked >= c.sendMax {
				break
			}
			if !s.mayStillReceive(&f.item) {
				s.unqueue(&f.item)
				s.window.remove(f)
				s.broker.stats.denied.Add(1)
				s.resend = s.resend[1:]
				continue
			}
			var sent bool
			if buf, sent = c.appendPublish(buf, &f.item, f.id, true, now); !sent { // too large for this connection [MQTT-3.1.2-25]
				s.unqueue(&f.item)
				s.window.remove(f)
				s.drop("too large for its connection")
				s.resend = s.resend[1:]
				continue
			}
			f.counted = true
			c.unacked++
		}
		s.resend = s.resend[1:]
	}
	for len(buf)+c.apart < limit {
		r := s.next(c)
		if r == nil {
			break
		}
		it := r.pop()
		switch size := it.message.size(); {
		case it.qos == 0:
			s.bytes0 -= size
			s.pace0.step(now)
		case it.stored:
			s.stored--
			s.replay -= size
		default:
			s.queued--
			s.bytes -= size
			s.pace.step(now)
		}
		if it.group != nil && it.group.state.Load() == failed && !it.owed { // its publisher was told
			s.drop("the store failed")
			continue
		}
		if !s.mayStillReceive(&it) {
			s.broker.stats.denied.Add(1)
			s.unqueue(&it)
			continue
		}
		if it.message.expires <= now {
			s.broker.stats.expired.Add(1)
			s.unqueue(&it)
			continue
		}
		var id uint16
		var f *inflight
		if it.qos > 0 {
			f = s.window.add(it)
			id = f.id
		}
		var sent bool
		if buf, sent = c.appendPublish(buf, &it, id, false, now); !sent {
			if f != nil {
				s.unqueue(&it)
				s.window.remove(f)
			}
			s.drop("too large for its connection")
			continue
		}
		if f != nil {
			c.unacked++
			if it.group != nil {
				s.mark(&it)
			}
		}
	}
	s.behind = s.behind && s.halfFull()
	if c.published > 0 {
		stats := &s.broker.stats
		stats.sent.Add(c.published)
		stats.published.Add(c.published)
		stats.publishedBytes.Add(c.publishedBytes)
		c.published, c.publishedBytes = 0, 0
	}
	return buf
}

// next returns the ring with the message to send next on c, nil when none may be sent now. Caller holds mu.
func (s *session) next(c *conn) *ring {
	open := len(s.resend) == 0 && c.unacked < c.sendMax && s.window.count < maxInflight
	if r := s.urgent.next(open && s.clear(&s.urgent.reliable)); r != nil {
		return r
	}
	return s.ordinary.next(open && s.clear(&s.ordinary.reliable))
}

// clear reports whether nothing keeps the first message of r: that its packet identifier is in use, or, at QoS 2, that it is
// not durable yet. Caller holds mu.
func (s *session) clear(r *ring) bool {
	it := r.front()
	if it == nil || it.id == 0 {
		return true
	}
	if it.qos == 2 && it.group != nil && it.group.state.Load() == pending {
		return false
	}
	return s.window.get(it.id) == nil
}

// ready reports whether fill would append something. Caller holds mu.
func (s *session) ready(c *conn) bool {
	if len(s.resend) > 0 {
		f := s.window.get(s.resend[0])
		if f == nil || f.release || c.unacked < c.sendMax {
			return true
		}
	}
	return s.next(c) != nil
}

// acknowledge handles PUBACK, PUBREC and PUBCOMP from the client. For a PUBREC it returns the code to answer with
// in PUBREL; answer is false when nothing is to be sent.
func (s *session) acknowledge(c *conn, a *packet.Ack, t *txn) (code packet.Code, answer bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.window.get(a.ID)
	switch a.Kind {
	case packet.PUBACK:
		if f == nil {
			return 0, false, nil
		}
		if f.qos != 1 {
			return 0, false, protocolError("PUBACK for a message sent with QoS 2 [MQTT-4.3.3]")
		}
		s.settle(c, f, t)
	case packet.PUBREC:
		if f == nil {
			return packet.PacketIDNotFound, true, nil
		}
		if f.qos != 2 {
			return 0, false, protocolError("PUBREC for a message sent with QoS 1 [MQTT-4.3.2]")
		}
		if a.Code >= 0x80 { // the client does not want it: the flow ends here [MQTT-4.3.3]
			s.settle(c, f, t)
			return 0, false, nil
		}
		if !f.release && f.group != nil {
			// The client forgets the identifier at PUBREL: after a crash it must not get the message again.
			t.discard(s, &f.item)
			t.add(op{kind: putRelease, session: s.number, id: f.id, order: f.order})
			t.wanted = true
		}
		f.release = true
		f.message = nil // PUBREL is all that may follow [MQTT-4.3.3-6]
		return packet.Success, true, nil
	case packet.PUBCOMP:
		if f == nil {
			return 0, false, nil
		}
		if f.qos != 2 || !f.release && a.Code < 0x80 {
			return 0, false, protocolError("PUBCOMP without PUBREL [MQTT-4.3.3]")
		}
		s.settle(c, f, t)
	}
	return 0, false, nil
}

// settle ends the flow of f. Caller holds mu.
func (s *session) settle(c *conn, f *inflight, t *txn) {
	if f.group != nil {
		if f.release {
			t.add(op{kind: deleteRelease, session: s.number, id: f.id})
		} else {
			t.discard(s, &f.item)
		}
	}
	if f.counted && c.unacked > 0 {
		c.unacked--
	}
	s.window.remove(f)
	if s.conn != nil && s.ready(s.conn) {
		s.conn.wake.Signal()
	}
}

// attach gives the session to c, which resends what was in flight. The caller made sure that no other connection holds it.
func (s *session) attach(c *conn, w *will, expiry time.Duration, durable bool, t *txn) {
	for id, in := range s.inbound {
		if in.lost() {
			delete(s.inbound, id)
			continue
		}
		in.counted = false
		s.inbound[id] = in
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.owner == "" {
		s.owner = c.identity.User
	}
	s.keep(durable, expiry, w, t)
	stopTimer(&s.expiryTimer)
	stopTimer(&s.willTimer)
	s.connects++
	s.conn, s.last = c, c
	s.setGrant(c.grant)
	s.will = w
	s.expiry = expiry
	s.behind = s.halfFull()
	s.pace.trust(s.broker.now())
	s.pace0.trust(s.broker.now())
	s.resend = s.resend[:0]
	for i := range s.window.slots {
		if f := &s.window.slots[i]; f.id != 0 {
			f.counted = false
			s.resend = append(s.resend, f.id)
		}
	}
	slices.SortFunc(s.resend, func(a, b uint16) int {
		return cmp.Compare(s.window.get(a).sent, s.window.get(b).sent)
	})
}

// detach takes the session from c. The Will, when there is one left, is published now or after its delay, and the
// session ends when its expiry has passed [MQTT-3.1.2-8, MQTT-3.1.3-9, MQTT-4.1.0-2].
func (s *session) detach(c *conn) {
	var t txn
	s.broker.begin(&t)
	defer s.broker.finish(&t)
	s.mu.Lock()
	if s.conn != c {
		s.mu.Unlock()
		return
	}
	s.conn = nil
	for _, l := range []*lane{&s.urgent, &s.ordinary} {
		for l.qos0.count > 0 {
			l.qos0.pop()
		}
	}
	s.bytes0 = 0
	w, expiry := s.will, s.expiry
	if w != nil && w.delay > 0 && expiry > 0 {
		later := w
		s.willTimer = time.AfterFunc(min(w.delay, expiry), func() { s.broker.publishDelayedWill(s, later) })
		w = nil
	} else {
		if w != nil && t.group != nil {
			t.add(op{kind: deleteWill, session: s.number})
		}
		s.will = nil
	}
	if expiry > 0 && expiry != forever {
		connects := s.connects
		s.expiryTimer = time.AfterFunc(expiry, func() { s.broker.expire(s, connects) })
	}
	if s.durable && expiry > 0 {
		h := head{client: s.id, owner: s.owner, expiry: expiry, away: s.broker.now()}
		t.add(op{kind: putHead, session: s.number, value: h.append(nil)})
	}
	s.mu.Unlock()
	if w != nil {
		s.broker.publishWill(s, w, &t)
	}
	if expiry == 0 {
		s.broker.end(s, &t)
	}
}

// online reports whether a connection holds the session.
func (s *session) online() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn != nil
}

// takeWill removes and returns the Will, when is nil or the one that must still be there.
func (s *session) takeWill(when *will, t *txn) *will {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.will
	if w == nil || when != nil && w != when {
		return nil
	}
	s.will = nil
	stopTimer(&s.willTimer)
	if t.group != nil {
		t.add(op{kind: deleteWill, session: s.number})
	}
	return w
}

// close marks the session ended and returns the shared subscriptions' messages that nobody has got yet, oldest first,
// for other members of their groups [MQTT-4.8.2-5].
func (s *session) close(t *txn) (orphans []item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.logLoss()
	if s.durable && t.group != nil {
		t.add(op{kind: deleteSession, session: s.number})
	}
	stopTimer(&s.expiryTimer)
	stopTimer(&s.willTimer)
	for i := range s.window.slots {
		if f := &s.window.slots[i]; f.id != 0 && f.qos == 1 && f.delivery.group != nil {
			orphans = append(orphans, f.item)
		}
	}
	for _, l := range []*lane{&s.urgent, &s.ordinary} {
		for l.reliable.count > 0 {
			if it := l.reliable.pop(); it.delivery.group != nil {
				orphans = append(orphans, it)
			}
		}
	}
	slices.SortFunc(orphans, func(a, b item) int { return cmp.Compare(a.order, b.order) })
	s.window = window{}
	s.resend = nil
	s.queued, s.bytes, s.stored, s.replay = 0, 0, 0, 0
	return orphans
}

func stopTimer(t **time.Timer) {
	if *t != nil {
		(*t).Stop()
		*t = nil
	}
}
