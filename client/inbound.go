package client

import (
	"sync/atomic"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/topic"
)

// An inbound is a received message until it is acknowledged and handled.
type inbound struct {
	d       Delivery
	full    string // topic
	id      uint16
	qos     byte
	pending atomic.Int32 // handlers that have not returned
	proof   *proof       // its signature, which fits; nil without one

	// Guarded by Client.mu.
	subs   []*Subscription
	due    bool // in an ackQueue
	done   bool // all handlers returned
	parked bool
	kept   bool // not to be acknowledged before it is done
}

// incoming is the receiving half of the session state. Client.mu guards it.
type incoming struct {
	acks    [2]ackQueue         // of QoS 1 and 2, each in the order of receipt [MQTT-4.6.0-2] [MQTT-4.6.0-3]
	exactly map[uint16]*inbound // QoS 2 until PUBREL [MQTT-4.3.3-10]; nil once PUBREC was sent
	orphans map[uint16]*inbound // QoS 1 that came over a lost connection and were not acknowledged

	// What a session from before this process brings before any handler is there waits for one.
	parking  bool
	parked   []*inbound
	parkedAt *time.Timer
	until    time.Time // it ends, unless somebody is subscribing still
	settling int       // calls of Subscribe that wait for their confirmation
}

// parkingTime is how long messages of a resumed session wait for somebody to subscribe.
const parkingTime = 5 * time.Second

// An ackQueue holds the messages that are to be acknowledged, in the order of receipt.
type ackQueue struct {
	q        []*inbound
	head     int
	finished int // of them done
}

func (a *ackQueue) len() int { return len(a.q) - a.head }

func (a *ackQueue) push(in *inbound) {
	if a.head > 32 && a.head > len(a.q)/2 {
		n := copy(a.q, a.q[a.head:])
		clear(a.q[n:])
		a.q, a.head = a.q[:n], 0
	}
	a.q = append(a.q, in)
	in.due = true
	if in.done {
		a.finished++
	}
}

func (a *ackQueue) pop() {
	in := a.q[a.head]
	a.q[a.head] = nil
	a.head++
	in.due = false
	if in.done {
		a.finished--
	}
}

// knows reports whether p was received before, over this connection or a lost one of the same session. It is then
// not handled again, only acknowledged.
func (c *Client) knows(l *link, p *packet.Publish, n *name) bool {
	var old *inbound
	if p.QoS == 2 {
		o, known := c.exactly[p.ID]
		if !known {
			return false
		}
		if o == nil {
			c.control(l, packet.PUBREC, p.ID, packet.Success)
			return true
		}
		old = o
	} else {
		o := c.orphans[p.ID]
		if o == nil {
			return false
		}
		delete(c.orphans, p.ID)
		if !p.Dup || o.full != n.full {
			return false // the identifier was free again
		}
		old = o
	}
	if !old.due {
		c.acks[p.QoS-1].push(old)
		c.flushAcks(l)
	}
	return true
}

// expectAck queues in for its acknowledgement. One that nobody wants is acknowledged, or parked.
func (c *Client) expectAck(l *link, in *inbound, unwanted bool) {
	switch {
	case in.pending.Load() > 0:
	case unwanted && c.parking:
		in.parked = true
		c.parked = append(c.parked, in)
	default:
		in.done = true
	}
	if in.qos == 2 {
		if c.exactly == nil {
			c.exactly = make(map[uint16]*inbound)
		}
		c.exactly[in.id] = in
	}
	c.acks[in.qos-1].push(in)
	c.flushAcks(l)
}

// handled is told by each handler of in that it has returned.
func (c *Client) handled(in *inbound) {
	if in.qos == 0 {
		return
	}
	if in.pending.Add(-1) > 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.finished(in)
}

func (c *Client) finished(in *inbound) {
	if !in.done {
		in.done = true
		if in.due {
			c.acks[in.qos-1].finished++
		}
	}
	if c.link != nil {
		c.flushAcks(c.link)
	}
}

// flushAcks acknowledges what may be: in order, what is done, and what a handler that lags behind delays others with.
func (c *Client) flushAcks(l *link) {
	for i := range c.acks {
		a := &c.acks[i]
		for a.len() > 0 {
			in := a.q[a.head]
			if !in.done && !c.ackAhead(l, a, in) {
				break
			}
			a.pop()
			if in.qos == 1 {
				c.control(l, packet.PUBACK, in.id, packet.Success)
			} else if _, open := c.exactly[in.id]; open {
				c.exactly[in.id] = nil
				c.control(l, packet.PUBREC, in.id, packet.Success)
			}
		}
	}
}

// ackAhead reports whether in, the first in a, is to be acknowledged before its handlers returned: because so many are
// unacknowledged, or done but waiting behind it, that other handlers would soon get nothing. A handler whose
// queue is over its bound makes the broker wait instead.
func (c *Client) ackAhead(l *link, a *ackQueue, in *inbound) bool {
	if a.finished < l.ackBlocked && c.acks[0].len()+c.acks[1].len() < l.ackAhead {
		return false
	}
	for _, s := range in.subs {
		if int(s.backlog.Load()) > s.queue.Max {
			return false
		}
	}
	return !in.parked && !in.kept
}

// keep lets nobody acknowledge in before handled is called.
func (c *Client) keep(in *inbound) {
	c.mu.Lock()
	defer c.mu.Unlock()
	in.kept = true
}

// control appends an acknowledgement packet.
func (c *Client) control(l *link, kind packet.Type, id uint16, code packet.Code) {
	if l.farewell {
		return
	}
	if kind == packet.PUBACK || kind == packet.PUBCOMP {
		l.open = max(l.open-1, 0) // the message may have come over an earlier link
	}
	l.out = packet.AppendAck(l.out, kind, l.version, id, code)
	c.pushLate(l)
}

// release takes in PUBREL.
func (c *Client) release(l *link, id uint16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	code := packet.PacketIDNotFound
	if _, known := c.exactly[id]; known {
		code = packet.Success
		delete(c.exactly, id)
	}
	c.control(l, packet.PUBCOMP, id, code)
}

// interrupt notes that the connection is lost. What is not acknowledged comes again if the session lives on.
func (c *Client) interrupt() {
	for i := range c.acks {
		a := &c.acks[i]
		for _, in := range a.q[a.head:] {
			in.due = false
			switch {
			case in.parked: // as if it had not been received
				delete(c.exactly, in.id)
			case in.qos == 1:
				if c.orphans == nil {
					c.orphans = make(map[uint16]*inbound)
				}
				c.orphans[in.id] = in
			}
		}
		*a = ackQueue{}
	}
	c.parked = nil
}

// forget notes that the broker has no session any more: packet identifiers mean nothing now.
func (c *Client) forget() {
	c.exactly, c.orphans = nil, nil
	c.endParking()
}

func (c *Client) startParking() {
	c.parking, c.until = true, time.Now().Add(parkingTime)
	c.parkedAt = time.AfterFunc(parkingTime, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.parkingOver()
	})
}

// parkingOver ends parking if its time is over and nobody is subscribing.
func (c *Client) parkingOver() {
	if !c.parking {
		return
	}
	left := time.Until(c.until)
	if c.settling > 0 {
		left = parkingTime
	}
	if left > 0 {
		c.parkedAt.Reset(left)
		return
	}
	c.endParking()
}

// extendParking has what is parked wait for another while: somebody subscribes to one thing after the other.
func (c *Client) extendParking() {
	if c.parking {
		c.until = time.Now().Add(parkingTime)
	}
}

// endParking gives up waiting for handlers: what nobody wanted until now is acknowledged and counted as dropped.
func (c *Client) endParking() {
	c.parking = false
	if c.parkedAt != nil {
		c.parkedAt.Stop()
		c.parkedAt = nil
	}
	for _, in := range c.parked {
		in.parked = false
		_ = c.reject(receiving, in.full, in.d.Message.Metadata.ID, errUnwanted)
		c.finished(in)
	}
	c.parked = nil
}

// unpark gives s what has been waiting for a handler like it.
func (c *Client) unpark(s *Subscription) {
	rest := c.parked[:0]
	for _, in := range c.parked {
		if !topic.Match(s.match, in.full) {
			rest = append(rest, in)
			continue
		}
		in.parked, in.kept = false, s.lateAck
		in.subs = []*Subscription{s}
		if in.proof != nil {
			_ = c.sealer.replayed(in, nil) // remembered as received from now on
		}
		if s.sink != nil {
			c.finished(in)
			s.sink(&in.d)
			continue
		}
		in.pending.Store(1)
		if lost := s.push(item{in, &in.d}); lost.in != nil && lost.in.pending.Add(-1) == 0 {
			c.finished(lost.in)
		}
	}
	clear(c.parked[len(rest):])
	c.parked = rest
}
