package broker

import (
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// How a connection answers what the client sends: at once, or when the store has what the answer says.

// An answer is an acknowledgement that waits for the store.
type answer struct {
	group *group // nil when it no longer has to wait
	kind  packet.Type
	id    uint16
	code  packet.Code
	own   bool // it says that something of the group is durable, and does not only keep its place
}

// answerAfter hands an acknowledgement to the writer once g is committed; nil is at once, but not before those that it comes
// after [MQTT-4.6.0-2, MQTT-4.6.0-3]. Reader only.
func (c *conn) answerAfter(g *group, kind packet.Type, id uint16, code packet.Code) {
	own := g != nil && g.state.Load() != committed
	if !own {
		g = c.after
	}
	if g == nil || g.state.Load() == committed {
		c.after = nil
		c.answer(kind, id, code)
		return
	}
	c.after = g
	c.gated = append(c.gated, answer{group: g, kind: kind, id: id, code: code, own: own})
}

// release hands the answers to the writer whose groups are done.
func (c *conn) release() {
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	c.releaseLocked()
}

// releaseLocked is release for a caller that holds session.mu.
func (c *conn) releaseLocked() {
	kept := c.held[:0]
	var before [16]*group // by kind: what the last of those waits for that are kept
	for _, a := range c.held {
		if a.own && (a.kind == packet.PUBCOMP || a.kind == packet.PUBREL && !c.cramped()) {
			c.awaitCommit(&a)
		}
		if !a.own { // what it must not overtake may wait for another group by now [MQTT-4.6.0-4]
			if g := before[a.kind&0xf]; g != nil {
				a.group = g
			}
		}
		if a.group.state.Load() == pending {
			kept = append(kept, a)
			before[a.kind&0xf] = a.group
			continue
		}
		if a.own && a.group.state.Load() == failed && a.kind != packet.PUBREL { // a message
			if c.version != packet.V5 {
				c.stopLocked(packet.QuotaExceeded, "the store fails, and MQTT 3.1.1 has no other way to say so")
				continue
			}
			a.code = packet.QuotaExceeded
		}
		if !c.stopping {
			c.control = packet.AppendAck(c.control, a.kind, c.version, a.id, a.code)
			c.broker.stats.sent.Add(1)
		}
	}
	clear(c.held[len(kept):])
	c.held = kept
	if len(kept) == 0 {
		c.held = nil
	}
	c.wake.Signal()
	c.room.Signal()
}

// cramped reports whether half of what may be in flight at QoS 1 and 2 is. Then a PUBREL no longer waits for a store that fails, or what
// concerns safety would soon wait with it. At worst the broker crashes before the store works again, and the client gets the message
// twice. Caller holds session.mu.
func (c *conn) cramped() bool {
	return 2*c.unacked >= c.sendMax || 2*c.session.window.count >= maxInflight
}

// awaitCommit has a, whose group may have failed, wait for a later group, with which what it says is stored. Caller holds session.mu.
func (c *conn) awaitCommit(a *answer) {
	for a.group.state.Load() == failed {
		g := c.broker.journal.current.Load()
		if g == a.group { // the journal is closed
			a.group = newGroup()
			return
		}
		a.group = g
		c.await(g)
	}
}

// await has g let the connection know when it is done. Caller holds session.mu.
func (c *conn) await(g *group) {
	if c.awaited != g {
		c.awaited = g
		g.await(c)
	}
}

// answer hands an acknowledgement to the writer. Reader only.
func (c *conn) answer(kind packet.Type, id uint16, code packet.Code) {
	c.out = packet.AppendAck(c.out, kind, c.version, id, code)
	c.count.sent++
}

const (
	lateness = time.Millisecond // how long an answer that nobody waits for waits for company, or twice that
	lateSize = 64               // bytes of them
)

// wakeLate has the writer look for work within twice lateness: what is there then may leave earlier, with something else. Caller holds
// session.mu.
func (c *conn) wakeLate() {
	if c.due {
		return
	}
	c.due, c.seen = true, c.writes
	if c.delay == nil {
		c.delay = time.AfterFunc(lateness, c.tooLate)
	} else {
		c.delay.Reset(lateness)
	}
}

// tooLate wakes the writer, unless what is there is newer than the last write and so may wait a little more.
func (c *conn) tooLate() {
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	c.due = false
	switch {
	case c.writes == c.seen:
		c.wake.Signal()
	case len(c.control) > 0:
		c.wakeLate()
	}
}

// flush hands the collected answers to the writer. A client that does not read them is not read from either.
func (c *conn) flush() {
	if len(c.out) == 0 && len(c.gated) == 0 {
		return
	}
	s := c.session
	s.mu.Lock()
	for (len(c.control) > maxControl || len(c.held) > maxHeld) && !c.stopping {
		c.room.Wait()
	}
	if !c.stopping {
		c.control = append(c.control, c.out...)
		switch {
		case len(c.gated) > 0:
			for i := range c.gated {
				c.await(c.gated[i].group)
			}
			c.held = append(c.held, c.gated...)
			c.releaseLocked()
		case c.prompt || len(c.control) > lateSize:
			c.wakeBy(c)
		default:
			c.wakeLate()
		}
	}
	s.mu.Unlock()
	c.out = c.out[:0]
	c.prompt = false
	c.gated = c.gated[:0]
	c.writeLate()
}
