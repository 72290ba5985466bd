package broker

import (
	"strings"

	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/topic"
)

// onSubscribe handles SUBSCRIBE: each filter gets its own code, then the retained messages follow.
func (c *conn) onSubscribe(p *packet.Subscribe) {
	var id uint32
	if len(p.Properties.SubscriptionIDs) > 0 {
		id = p.Properties.SubscriptionIDs[0]
	}
	ack := packet.Suback{ID: p.ID}
	made := make([]change, 0, len(p.Subscriptions))
	var t txn
	if c.durable {
		c.broker.begin(&t)
	}
	for _, e := range p.Subscriptions {
		x, code := c.subscribe(&e, id, &t)
		ack.Codes = append(ack.Codes, code)
		made = append(made, x)
	}
	c.broker.finish(&t)
	if g := t.durable(); g != nil && t.wanted {
		<-g.done
		if g.state.Load() == failed {
			c.broker.begin(&t) // what could not be stored is kept for the next attempt: this takes it back
			for i := len(made) - 1; i >= 0; i-- {
				if c.undo(made[i], &t) {
					ack.Codes[i] = packet.QuotaExceeded
					made[i] = change{}
				}
			}
			c.broker.finish(&t)
		}
	}
	c.send(&ack, &ack.Properties)
	c.flush()
	for _, x := range made {
		if x.replay {
			c.broker.sendRetained(x.sub, c)
			if x.stored {
				c.broker.begin(&t)
				t.add(op{kind: putSubscription, session: c.session.number, text: x.sub.filter, value: appendSubscription(nil, x.sub, false)})
				c.broker.finish(&t)
			}
		}
	}
}

// A change is what one entry of a SUBSCRIBE did.
type change struct {
	sub, old *subscription // old is the one that sub has replaced
	replay   bool          // retained messages follow
	stored   bool
}

// undo takes back x, which could not be stored, and reports whether there was something to take back.
func (c *conn) undo(x change, t *txn) bool {
	if x.sub == nil || !x.stored {
		return false
	}
	s, filter := c.session, x.sub.filter
	c.broker.log.Warn("subscription refused: the store fails", "client", s.id, "filter", filter)
	if x.old == nil {
		c.broker.tree.remove(s, filter)
		t.add(op{kind: deleteSubscription, session: s.number, text: filter})
		return true
	}
	old := *x.old
	old.group, old.own = nil, nil
	name, inner, _ := topic.SplitShared(filter)
	c.broker.tree.add(&old, name, inner)
	t.add(op{kind: putSubscription, session: s.number, text: filter, value: appendSubscription(nil, &old, false)})
	return true
}

func (c *conn) subscribe(e *packet.Subscription, id uint32, t *txn) (x change, code packet.Code) {
	filter := string(e.Filter)
	if topic.CheckFilter(filter) != nil || strings.Count(filter, "/") >= maxLevels {
		return change{}, packet.TopicFilterInvalid
	}
	b, s := c.broker, c.session
	if g := s.grant.Load(); g != nil && g.rights != nil && !g.rights.MaySubscribe(filter) {
		c.deny("subscribe", filter, "no right to anything in this filter")
		return change{}, packet.NotAuthorized
	}
	if b.tree.full(s, filter, b.limits.subscriptions, b.limits.subscriptionBytes) {
		return change{}, packet.QuotaExceeded
	}
	groupName, inner, _ := topic.SplitShared(filter)
	sub := &subscription{
		session: s, filter: filter, qos: e.QoS,
		noLocal: e.NoLocal, asPublish: e.RetainAsPublished, id: id,
	}
	if t.failing && c.saved() && !b.tree.has(sub) {
		// After a crash the session would be there and the subscription would not: its client would wait for ever.
		b.log.Warn("subscription refused: the store fails", "client", s.id, "filter", filter)
		return change{}, packet.QuotaExceeded
	}
	x = change{sub: sub, old: b.tree.add(sub, groupName, inner)}
	x.replay = sub.group == nil && (e.RetainHandling == 0 || e.RetainHandling == 1 && x.old == nil)
	if t.group != nil && (x.replay || x.old == nil || !x.old.same(sub)) {
		t.add(op{kind: putSubscription, session: s.number, text: filter, value: appendSubscription(nil, sub, x.replay)})
		t.wanted = !t.failing
		x.stored = true
	}
	b.log.Debug("subscribed", "client", s.id, "filter", filter, "qos", e.QoS)
	return x, packet.Code(e.QoS)
}

// saved reports whether the session would be there after a crash.
func (c *conn) saved() bool {
	s := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.head != nil && s.head.state.Load() == committed
}

// sendRetained queues the retained messages that match sub, but for those that came live since sub is there, for c, the
// connection that holds the session, or nil.
func (b *Broker) sendRetained(sub *subscription, c *conn) {
	s := sub.session
	d := sub.delivery()
	for _, m := range b.retained.match(nil, sub.filter) {
		if c != nil && (m.qos == 0 || sub.qos == 0) {
			c.awaitRoom()
		}
		var t txn
		if m.qos > 0 && sub.qos > 0 {
			b.begin(&t)
			t.owed = true
		}
		mu := b.retained.stripe(m.topic)
		mu.Lock()
		if m := b.retained.get(m.topic, b.now()); m != nil && m.routed < sub.since {
			s.enqueue(m, d, &t, true, true)
		}
		mu.Unlock()
		b.finish(&t)
		if c != nil && c.stopped.Load() {
			return
		}
	}
}

// awaitRoom waits until the session's QoS 0 queue is not in danger of overflowing, so that a large set of retained
// messages reaches a client that reads.
func (c *conn) awaitRoom() {
	s := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	o := &c.broker.limits
	for !c.stopping && (max(s.ordinary.qos0.count, s.urgent.qos0.count) > o.queue0/2 || s.bytes0 > o.queue0Bytes/2) {
		c.room.Wait()
	}
}

func (c *conn) onUnsubscribe(p *packet.Unsubscribe) {
	ack := packet.Unsuback{ID: p.ID}
	var t txn
	if c.durable {
		c.broker.begin(&t)
	}
	for _, f := range p.Filters {
		code := packet.Success
		filter := string(f)
		switch {
		case topic.CheckFilter(filter) != nil:
			code = packet.TopicFilterInvalid
		case !c.broker.tree.remove(c.session, filter):
			code = packet.NoSubscriptionExisted
		case t.group != nil:
			t.add(op{kind: deleteSubscription, session: c.session.number, text: filter})
			t.wanted = !t.failing
		}
		ack.Codes = append(ack.Codes, code)
	}
	c.broker.finish(&t)
	if g := t.durable(); g != nil && t.wanted {
		<-g.done // while the store fails it is stored later; at worst a crash brings the subscription back
	}
	c.send(&ack, &ack.Properties)
}
