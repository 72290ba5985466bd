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
	var fresh []*subscription // those that get retained messages
	for _, e := range p.Subscriptions {
		sub, isNew, code := c.subscribe(&e, id)
		ack.Codes = append(ack.Codes, code)
		if code < 0x80 && sub.group == nil && (e.RetainHandling == 0 || e.RetainHandling == 1 && isNew) {
			fresh = append(fresh, sub)
		}
	}
	c.send(&ack, &ack.Properties)
	c.flush()
	for _, sub := range fresh {
		c.sendRetained(sub)
	}
}

func (c *conn) subscribe(e *packet.Subscription, id uint32) (sub *subscription, isNew bool, code packet.Code) {
	filter := string(e.Filter)
	if topic.CheckFilter(filter) != nil || strings.Count(filter, "/") >= maxLevels {
		return nil, false, packet.TopicFilterInvalid
	}
	b, s := c.broker, c.session
	if b.tree.full(s, filter, b.limits.subscriptions) {
		return nil, false, packet.QuotaExceeded
	}
	groupName, inner, _ := topic.SplitShared(filter)
	sub = &subscription{
		session: s, filter: filter, qos: e.QoS,
		noLocal: e.NoLocal, asPublish: e.RetainAsPublished, id: id,
	}
	isNew = b.tree.add(sub, groupName, inner)
	b.log.Debug("subscribed", "client", s.id, "filter", filter, "qos", e.QoS)
	return sub, isNew, packet.Code(e.QoS)
}

// sendRetained queues the retained messages that match sub, but for those that came live since sub is there.
func (c *conn) sendRetained(sub *subscription) {
	b, s := c.broker, c.session
	d := sub.delivery()
	for _, m := range b.retained.match(nil, sub.filter) {
		if m.qos == 0 || sub.qos == 0 {
			c.awaitRoom()
		}
		mu := b.retained.stripe(m.topic)
		mu.Lock()
		if m := b.retained.get(m.topic, b.now()); m != nil && m.routed < sub.since {
			s.enqueue(m, d, true, true)
		}
		mu.Unlock()
		if c.stopped.Load() {
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
	for _, f := range p.Filters {
		code := packet.Success
		filter := string(f)
		switch {
		case topic.CheckFilter(filter) != nil:
			code = packet.TopicFilterInvalid
		case !c.broker.tree.remove(c.session, filter):
			code = packet.NoSubscriptionExisted
		}
		ack.Codes = append(ack.Codes, code)
	}
	c.send(&ack, &ack.Properties)
}
