package client

import (
	"context"
	"fmt"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/topic"
)

// A session is the outgoing half of the session state [MQTT-4.1.0-1]: what is unacknowledged, in the order it was sent.
// Client.mu guards it.
type session struct {
	flight list                          // sent and not yet acknowledged to the end
	byID   [sendMaximum + 1]*publication // of flight, and those of the outbox that have an identifier ahead of their turn
	free   [sendMaximum]uint16           // ring of packet identifiers that nobody uses
	first  int                           // of free
	used   int                           // identifiers that are not free
	ahead  int                           // of used, those of the outbox
	resend *publication                  // the next of flight that this link has not seen
}

func (s *session) init() {
	for i := range s.free {
		s.free[i] = uint16(i + 1)
	}
}

// begin puts p in flight with a packet identifier of its own, which it may have already. There is one, as long as
// used < sendMaximum.
func (s *session) begin(p *publication) {
	if p.id == 0 {
		s.reserve(p)
	}
	s.ahead--
	s.flight.pushBack(p)
}

// end takes p out of flight.
func (s *session) end(p *publication) {
	if s.resend == p {
		s.resend = p.next
	}
	s.flight.remove(p)
	s.ahead++
	s.unreserve(p)
}

// reserve gives p an identifier ahead of its turn. The least recently used comes next, so that a late acknowledgement of its
// former use does no harm.
func (s *session) reserve(p *publication) {
	p.id = s.free[s.first]
	s.first = (s.first + 1) % sendMaximum
	s.byID[p.id] = p
	s.used++
	s.ahead++
}

// take reserves the identifier that p had in a former process. It reports false if that is impossible.
func (s *session) take(p *publication) bool {
	for i := range sendMaximum - s.used {
		at := (s.first + i) % sendMaximum
		if s.free[at] == p.id {
			s.free[at] = s.free[s.first]
			s.free[s.first] = p.id
			s.reserve(p)
			return true
		}
	}
	return false
}

// unreserve frees the identifier of p.
func (s *session) unreserve(p *publication) {
	s.byID[p.id] = nil
	s.free[(s.first+sendMaximum-s.used)%sendMaximum] = p.id
	s.used--
	s.ahead--
	p.id = 0
}

func (s *session) get(id uint16) *publication {
	if int(id) >= len(s.byID) {
		return nil
	}
	return s.byID[id]
}

// submit hands p to the wire if it may go now, else to the outbox, after waiting for room there while connected. With now
// it also writes, as far as it can without waiting; without, more may come together before the writer does.
func (c *Client) submit(ctx context.Context, p *publication, now bool) error {
	if err := c.trySubmit(ctx, p, now); err != nil {
		return p.reject(err)
	}
	return nil
}

func (c *Client) trySubmit(ctx context.Context, p *publication, now bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refusing {
		return ErrClosed
	}
	if pass, err := c.admit(p); !pass {
		return err
	}
	for {
		if c.refusing {
			return ErrClosed
		}
		l := c.link
		if p.birth && l == nil {
			return ErrNotConnected
		}
		if l != nil && c.nothingBefore(p) && c.mayPass(l, p) {
			c.transmit(l, p)
			if now {
				c.writeNow(l)
			} else {
				l.push()
			}
			return nil
		}
		if !c.box.full(p) {
			break
		}
		if l == nil {
			if c.dropExpired(p.class); !c.box.full(p) {
				break
			}
			displaced, err := c.box.makeRoom(p)
			if err != nil {
				return err
			}
			c.dropped(displaced)
			break
		}
		if err := c.awaitRoom(ctx); err != nil {
			return err
		}
	}
	c.box.add(p)
	if c.link == nil {
		c.secure(p)
	}
	return nil
}

// secure makes p, which no connection carries, safe.
func (c *Client) secure(p *publication) {
	if c.spools(p) {
		c.store(p)
	} else {
		p.accept(nil)
	}
}

// awaitRoom lets go of c.mu until the outbox has more room, or the connection is lost.
func (c *Client) awaitRoom(ctx context.Context) error {
	if c.room == nil {
		c.room = make(chan struct{})
	}
	room := c.room
	c.mu.Unlock()
	defer c.mu.Lock()
	select {
	case <-room:
		return nil
	case <-ctx.Done():
		return &ruleError{reason: ReasonFull, text: ctx.Err().Error(), cause: ctx.Err()}
	}
}

// roomMade wakes all that wait for room.
func (c *Client) roomMade() {
	if c.room != nil {
		close(c.room)
		c.room = nil
	}
}

// nothingBefore reports whether nothing that goes before p waits in the outbox.
func (c *Client) nothingBefore(p *publication) bool {
	for i := range p.lane() + 1 {
		if c.box.lanes[i].n > 0 {
			return false
		}
	}
	return true
}

// mayPass reports whether p, the next of its lane, may be sent now.
func (c *Client) mayPass(l *link, p *publication) bool {
	in := p.lane()
	if l.farewell || !l.setup || in > birthLane && !l.ready || len(l.out) >= highWater {
		return false
	}
	if p.qos == 0 {
		return true
	}
	if p.numbers() && p.step != numbered {
		if c.number(p); p.step != numbered {
			return false
		}
	}
	reserve := 0
	if in == mainLane {
		reserve = l.reserve
	}
	return l.quota > reserve && (p.id != 0 || c.used < sendMaximum) && c.resend == nil
}

// pump sends what may be sent: first what this link has to see again, then the lanes of the outbox.
func (c *Client) pump(l *link) {
	c.pumpAgain(l)
	before := c.box.len()
	for i := range c.box.lanes {
		for p := c.box.lanes[i].head; p != nil && c.mayPass(l, p); p = c.box.lanes[i].head {
			c.box.remove(p)
			c.transmit(l, p)
			l.push()
		}
		p := c.box.lanes[i].head
		if p != nil && p.numbers() && c.ahead < spoolNumbers/2 {
			c.number(p) // and those behind it, before they are due
		}
		if p != nil && lane(i) == safetyLane && p.step == numbering {
			break // for spoolPatience at most
		}
	}
	if c.box.len() < before {
		c.roomMade()
		c.settled() // nothing is left to be acknowledged if all were expired or refused
	}
}

// pumpAgain repeats what was in flight when the last connection was lost, in order [MQTT-4.4.0-1] [MQTT-4.6.0-1].
func (c *Client) pumpAgain(l *link) {
	for p := c.resend; p != nil && !l.farewell && len(l.out) < highWater; p = c.resend {
		if p.released {
			l.out = packet.AppendAck(l.out, packet.PUBREL, l.version, p.id, packet.Success)
		} else {
			if l.quota <= 0 {
				break
			}
			l.quota--
			p.link, p.sent = l, c.clock()
			c.append(l, p, true)
		}
		c.resend = p.next
		l.push()
	}
}

// dropped settles what makeRoom has taken out, if anything.
func (c *Client) dropped(displaced *publication) {
	if displaced != nil {
		displaced.lose(ErrDropped)
	}
}

// dropExpired takes out of the outbox what is past its deadline and takes room in a full class.
func (c *Client) dropExpired(class topic.Class) {
	for p := c.box.lanes[mainLane].head; p != nil; {
		next := p.next
		if p.class == class && !p.again && p.expired() {
			c.box.remove(p)
			p.lose(ErrExpired)
		}
		p = next
	}
}

// transmit appends p to l's write buffer, or settles it if it cannot go this way.
func (c *Client) transmit(l *link, p *publication) {
	if p.expired() {
		c.leaveOut(l, p, ErrExpired)
		return
	}
	if p.retain && !l.server.retain {
		c.leaveOut(l, p, &RefusedError{Op: "publish", Topic: p.topic, Code: byte(packet.RetainNotSupported)})
		return
	}
	if l.version == packet.V311 && c.sealer.policy(p.topic) == VerifyRequired {
		c.leaveOut(l, p, errNoProperties)
		return
	}
	p.qos = min(p.qos, l.server.maxQoS) // [MQTT-3.2.2-11]
	o := c.outgoing(p, p.again)
	if size := o.Size(l.version); size > l.server.maxPacket { // [MQTT-3.2.2-15]
		c.leaveOut(l, p, fmt.Errorf("%w: a packet of %d bytes, the broker's limit is %d", ErrTooLarge, size, l.server.maxPacket))
		return
	}
	c.stats.sent.Add(1)
	p.link, p.sent = l, c.clock()
	if p.qos == 0 {
		l.out = o.Append(l.out, l.version)
		l.unwritten = append(l.unwritten, written{p, len(l.out)})
	} else {
		c.begin(p)
		l.quota--
		o.ID = p.id
		l.out = o.Append(l.out, l.version)
	}
}

// leaveOut settles p, which is not sent. If a former process has sent it, its identifier has to be freed before another
// message gets it [MQTT-4.3.3-11].
func (c *Client) leaveOut(l *link, p *publication, err error) {
	if p.again {
		l.out = packet.AppendAck(l.out, packet.PUBREL, l.version, p.id, packet.Success)
	}
	p.lose(err)
}

func (c *Client) append(l *link, p *publication, dup bool) {
	o := c.outgoing(p, dup)
	l.out = o.Append(l.out, l.version)
}

func (c *Client) outgoing(p *publication, dup bool) packet.Outgoing {
	o := packet.Outgoing{Topic: p.topic, Forwarded: p.props, Payload: p.body, Dup: dup, Retain: p.retain, QoS: p.qos, ID: p.id}
	if !p.deadline.IsZero() {
		o.MessageExpiry = packet.Some(seconds(time.Until(p.deadline)))
	}
	return o
}

// acknowledged takes in PUBACK, PUBREC or PUBCOMP.
func (c *Client) acknowledged(l *link, a *packet.Ack) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.get(a.ID)
	if p != nil && p.queued { // it has not been sent
		p = nil
	}
	if a.Kind == packet.PUBREC {
		c.received(l, p, a)
		return
	}
	if p == nil || p.qos == 1 != (a.Kind == packet.PUBACK) || a.Kind == packet.PUBCOMP && !p.released {
		return // of a session that the broker lost, of what a former process left there, or its mistake
	}
	if a.Kind == packet.PUBACK && p.call != nil {
		p.call.acknowledged(a.Code)
	}
	c.finish(l, p, a)
}

// received takes in PUBREC.
func (c *Client) received(l *link, p *publication, a *packet.Ack) {
	if p == nil || p.qos != 2 {
		if !l.farewell && a.Code < packet.UnspecifiedError {
			l.out = packet.AppendAck(l.out, packet.PUBREL, l.version, a.ID, packet.PacketIDNotFound)
			l.push()
		}
		return
	}
	if p.call != nil {
		p.call.acknowledged(a.Code)
	}
	if a.Code >= packet.UnspecifiedError {
		c.finish(l, p, a)
		return
	}
	p.unheard = a.Code == packet.NoMatchingSubscribers
	if p.seq != 0 {
		c.noteRelease(p)
		return
	}
	p.released = true
	if !l.farewell {
		l.out = packet.AppendAck(l.out, packet.PUBREL, l.version, p.id, packet.Success)
		if p.unawaited {
			c.pushLate(l)
		} else {
			l.push()
		}
	}
}

// finish ends the flight of p.
func (c *Client) finish(l *link, p *publication, a *packet.Ack) {
	if p.link == l {
		c.stats.roundTrip.record(c.clock() - p.sent)
		l.quota++
	}
	c.end(p)
	p.unheard = p.unheard || a.Kind == packet.PUBACK && a.Code == packet.NoMatchingSubscribers
	if a.Code >= packet.UnspecifiedError && a.Kind != packet.PUBCOMP {
		p.lose(&RefusedError{Op: "publish", Topic: p.topic, Code: byte(a.Code), Text: string(a.Properties.ReasonString)})
	} else {
		p.settle(nil)
	}
	c.pump(l)
	c.settled()
}

// resume prepares the session for l: what was in flight is repeated if the broker still has the session, else it goes
// out as new, before what waits in the outbox. What the broker took over with PUBREC is its own then [MQTT-4.3.3-6].
func (c *Client) resume(l *link, present bool) {
	if present {
		c.resend = c.flight.head
		return
	}
	for i := range c.box.lanes {
		for p := c.box.lanes[i].head; p != nil; p = p.next {
			p.again = false
		}
	}
	for p := c.flight.tail; p != nil; p = c.flight.tail {
		c.end(p)
		c.unnumber(p)
		switch {
		case p.released:
			p.settle(nil)
		case p.birth:
			p.lose(ErrNotConnected)
		default:
			c.box.unpop(p)
		}
	}
	c.resend = nil
}

// suspend notes that the connection is lost: what was not sent goes back to the outbox, and all that is there or in
// flight is safe now, as far as the promise of Publish goes.
func (c *Client) suspend(l *link) {
	for l.writing { // which does not take long, as the connection is closed
		l.rests.Wait()
	}
	back := append(l.inWrite, l.unwritten...)
	for i := len(back) - 1; i >= 0; i-- {
		c.box.unpop(back[i].p)
	}
	l.inWrite, l.unwritten, l.out, l.spare, l.cur, l.done = nil, nil, nil, nil, nil, 0
	for p := c.flight.head; p != nil; p = p.next {
		p.link = nil
		if p.birth {
			p.accept(ErrNotConnected)
		} else {
			c.secure(p)
		}
	}
	c.resend = nil
	for p := c.box.lanes[birthLane].head; p != nil; p = c.box.lanes[birthLane].head {
		c.box.remove(p)
		p.lose(ErrNotConnected)
	}
	for i := range c.box.lanes {
		for p := c.box.lanes[i].head; p != nil; p = p.next {
			c.secure(p)
		}
	}
	c.roomMade()
}
