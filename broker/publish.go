package broker

import (
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// routeCache remembers the routes of the topics that one publisher uses.
type routeCache struct {
	from       *session
	generation uint64
	routes     map[string]*route
	last       *route // the one asked for last, to save looking it up
	size       int    // topics (the more the longer), and the deliveries of each
}

// maxRoutes bounds the size of a cache; a publisher of more topics starts it afresh now and then.
const maxRoutes = 16_384

// known returns the cached route's own copy of topic, to save making another.
func (c *routeCache) known(topic []byte) (string, bool) {
	if c.last != nil && c.last.topic == string(topic) {
		return c.last.topic, true
	}
	r, ok := c.routes[string(topic)]
	if !ok {
		return "", false
	}
	return r.topic, true
}

// route returns the present route of topic.
func (c *routeCache) route(b *Broker, topic string) *route {
	if c.routes != nil {
		if c.generation == b.tree.generation.Load() {
			if r := c.last; r != nil && r.topic == topic {
				return r
			}
			if r := c.routes[topic]; r != nil {
				c.last = r
				return r
			}
		} else {
			c.forget()
		}
	}
	r, generation := b.tree.match(topic, c.from)
	if c.routes != nil {
		if generation != c.generation || c.size >= maxRoutes {
			c.forget()
			c.generation = generation
		}
		c.routes[topic] = &r
		c.last = &r
		c.size += 1 + len(r.deliveries) + len(r.groups) + len(topic)/256
	}
	return &r
}

func (c *routeCache) forget() {
	clear(c.routes)
	c.last, c.size = nil, 0
}

// distribute stores m when it is retained, and queues it for everyone it concerns. It never waits for a subscriber.
// The code is what a publisher is told at QoS 1 and 2; fullest is the worst that the queues had to say. What is to be
// stored is added to t.
func (b *Broker) distribute(m *message, routes *routeCache, t *txn) (code packet.Code, fullest verdict) {
	m.urgent = strings.HasPrefix(m.topic, b.urgentPrefix)
	if !m.retain {
		return b.fanOut(m, routes.route(b, m.topic), t)
	}
	mu := b.retained.stripe(m.topic)
	mu.Lock()
	defer mu.Unlock()
	stored := true
	if len(m.payload) == 0 {
		b.retained.remove(m.topic, nil) // [MQTT-3.3.1-6]
		t.retain(m.topic, nil)
	} else if stored = b.setRetained(m); !stored {
		b.log.Warn("retained message not stored: too many", "topic", m.topic, "limit", b.limits.retained, "limit_bytes", b.limits.retainedBytes)
		if b.retained.remove(m.topic, nil) { // none is better than one that holds no more
			t.retain(m.topic, nil)
		}
	}
	if stored && len(m.payload) > 0 {
		t.retain(m.topic, m)
	}
	if m.qos > 0 {
		t.wanted = true
		t.unstored = t.failing
	}
	// The route is read after the store: who subscribed before gets m live, who subscribed later finds it stored.
	r := routes.route(b, m.topic)
	m.routed = r.generation
	code, fullest = b.fanOut(m, r, t)
	switch {
	case !stored || t.unstored:
		code = packet.QuotaExceeded
	case code == packet.NoMatchingSubscribers && len(m.payload) > 0:
		code = packet.Success // it was stored
	}
	return code, fullest
}

// setRetained stores m as the retained message of its topic, unless a bound is reached. What concerns safety finds room beyond it.
func (b *Broker) setRetained(m *message) bool {
	count, size := b.limits.retained, b.limits.retainedBytes
	if m.urgent {
		count += urgentRoom
		size += urgentRoom << 10
	}
	return b.retained.set(m, count, size)
}

func (b *Broker) fanOut(m *message, r *route, t *txn) (packet.Code, verdict) {
	if len(r.deliveries) == 0 && len(r.groups) == 0 {
		return packet.NoMatchingSubscribers, ignored
	}
	fullest := ignored
	for _, d := range r.deliveries {
		fullest = max(fullest, d.session.enqueue(m, d, t, m.retain && d.asPublish, false))
	}
	for _, g := range r.groups {
		fullest = max(fullest, b.deliverShared(g, m, t))
	}
	if fullest == refused || t.unstored {
		return packet.QuotaExceeded, fullest
	}
	return packet.Success, fullest
}

// deliverShared gives m to one member of g: the next connected one with room for it, else one whose session is kept. Only
// when none has room is it lost, to the member whose turn it is.
func (b *Broker) deliverShared(g *shareGroup, m *message, t *txn) verdict {
	b.tree.mu.RLock()
	defer b.tree.mu.RUnlock()
	n := uint32(len(g.members))
	if n == 0 {
		return ignored
	}
	start := g.next.Add(1)
	const connected, kept, full = 0, 1, 2
	for choice := range 3 {
		for i := range n {
			sub := g.members[(start+i)%n]
			if online, room := sub.session.state(m, t); choice != full && (!room || online != (choice == connected)) {
				continue
			}
			v := sub.session.enqueue(m, sub.own, t, m.retain && sub.asPublish, false)
			if v != ignored && (v != refused || choice == full) {
				return v
			}
		}
	}
	return ignored
}

// onPublish handles a PUBLISH from the client.
func (c *conn) onPublish(first byte, body []byte) error {
	b, s, p := c.broker, c.session, &c.publish
	if err := p.Decode(first, body, c.version); err != nil {
		return err
	}
	c.count.publishes++
	c.count.publishBytes += uint64(len(p.Payload))
	if len(p.Properties.SubscriptionIDs) > 0 {
		return protocolError("PUBLISH: subscription identifier from a client [MQTT-3.3.4-6]")
	}
	topic, err := c.topicOf(p)
	if err != nil {
		return err
	}
	if p.QoS == 2 {
		if in, again := c.received(p.ID); again { // sent again before its PUBREL [MQTT-4.3.3-10]
			c.prompt = true
			c.answerAfter(in.group, packet.PUBREC, p.ID, packet.Success)
			return nil
		}
		if c.pending >= receiveMax {
			c.forgetLost()
		}
		if c.pending >= receiveMax && c.version == packet.V5 { // MQTT 3.1.1 has no such limit
			return &packet.Error{Code: packet.ReceiveMaximumExceeded,
				Text: fmt.Sprintf("more than %d QoS 2 messages without PUBREL [MQTT-3.3.4-7]", receiveMax)}
		}
	}
	r := c.routes.route(b, topic)
	code := r.code
	if code == packet.Success {
		if reason, ok := s.grant.Load().mayPublish(topic, p.Payload, p.Retain && p.Properties.MessageExpiry.OK); !ok {
			code = packet.NotAuthorized
			c.deny("publish", topic, reason)
		}
	}
	if code == packet.Success && p.QoS == 0 && !p.Retain {
		if len(r.deliveries) > 0 || len(r.groups) > 0 {
			m := newMessage(topic, &p.Properties, p.Payload)
			m.expires = b.deadline(p.Properties.MessageExpiry)
			c.collect(r, m)
		}
		return nil
	}
	c.deliver()
	t := &c.txn
	*t = txn{}
	if code == packet.Success {
		m := newMessage(topic, &p.Properties, p.Payload)
		m.expires = b.deadline(p.Properties.MessageExpiry)
		m.qos, m.retain = p.QoS, p.Retain
		if m.qos > 0 || m.retain {
			b.begin(t)
		}
		t.by = c
		var fullest verdict
		code, fullest = b.distribute(m, &c.routes, t)
		if p.QoS == 2 && (code < 0x80 || c.version != packet.V5 && !t.unstored) {
			c.receive(p.ID, t)
		}
		b.finish(t)
		if !m.urgent {
			c.giveWay(fullest)
		}
	} else {
		b.stats.dropped.Add(1)
		b.log.Debug("publication refused", "client", s.id, "topic", topic, "code", code.String())
		if p.QoS == 2 && c.version != packet.V5 {
			b.begin(t)
			c.receive(p.ID, t)
			b.finish(t)
		}
	}
	if t.unstored && p.QoS > 0 && c.version != packet.V5 {
		// MQTT 3.1.1 cannot refuse one message: the client keeps it and sends it again when it comes back.
		return &packet.Error{Code: packet.QuotaExceeded, Text: "the store fails, and MQTT 3.1.1 has no other way to say so"}
	}
	// With the group of t the message becomes ours: no acknowledgement leaves before.
	switch p.QoS {
	case 1:
		c.prompt = true
		c.answerAfter(t.durable(), packet.PUBACK, p.ID, code)
	case 2:
		c.prompt = c.prompt || code != packet.Success || !c.correlated()
		c.answerAfter(t.durable(), packet.PUBREC, p.ID, code)
	}
	return nil
}

// correlated reports whether the message in c.publish is a request or a response of a client that takes late answers: what it waits for is
// the response, and what else it has to be told can leave with that.
func (c *conn) correlated() bool { return c.late && c.publish.Properties.CorrelationData != nil }

// A bundle is QoS 0 messages of one topic that came one right after the other and are queued together, to save taking the lock of each
// session for each of them.
type bundle struct {
	route    *route
	messages []*message
	narrow   bool // a queue is filling up: the publisher is to be slowed by every message
}

// largestBundle is how many messages are collected at most.
const largestBundle = 64

// collect adds m to the bundle, and delivers what cannot be in one bundle with it. Reader only.
func (c *conn) collect(r *route, m *message) {
	if c.bundle.route != r {
		c.deliver()
		c.bundle.route = r
	}
	m.urgent = strings.HasPrefix(m.topic, c.broker.urgentPrefix)
	c.bundle.messages = append(c.bundle.messages, m)
	// Messages for a group go to one member each, so they keep their place among those for a member's own subscriptions.
	if len(c.bundle.messages) >= largestBundle || c.bundle.narrow || len(r.groups) > 0 {
		c.deliver()
	}
}

// deliver queues the messages of the bundle. Reader only; it comes before everything else that the reader does.
func (c *conn) deliver() {
	messages := c.bundle.messages
	if len(messages) == 0 {
		return
	}
	fullest := ignored
	for _, d := range c.bundle.route.deliveries {
		fullest = max(fullest, d.session.enqueueLive(messages, d, c))
	}
	for _, g := range c.bundle.route.groups {
		for _, m := range messages {
			fullest = max(fullest, c.broker.deliverShared(g, m, &txn{}))
		}
	}
	urgent := messages[0].urgent
	clear(messages)
	c.bundle.messages = messages[:0]
	c.bundle.narrow = fullest == brimming
	if !urgent {
		c.giveWay(fullest)
	}
}

// received returns what is known of a QoS 2 message that the client has not released, and whether there is one.
func (c *conn) received(id uint16) (inbound, bool) {
	in, known := c.session.inbound[id]
	if known && in.lost() {
		c.freeID(id, in)
		return inbound{}, false
	}
	return in, known
}

// receive notes a QoS 2 message that awaits its PUBREL.
func (c *conn) receive(id uint16, t *txn) {
	in := inbound{counted: true, late: c.correlated()}
	if c.durable && t.group != nil && !t.failing {
		t.add(op{kind: putInbound, session: c.session.number, id: id})
		t.wanted = true
		in.group = t.group
	}
	c.session.inbound[id] = in
	c.pending++
}

// freeID forgets a QoS 2 message from the client, whose identifier is free again.
func (c *conn) freeID(id uint16, in inbound) {
	delete(c.session.inbound, id)
	if in.counted {
		c.pending--
	}
}

// forgetLost forgets the QoS 2 messages that were refused because they could not be stored.
func (c *conn) forgetLost() {
	for id, in := range c.session.inbound {
		if in.lost() {
			c.freeID(id, in)
		}
	}
}

// giveWay slows a publisher whose messages meet full queues. It is bounded: a subscriber can cost a publisher a
// millisecond a message, and never more.
func (c *conn) giveWay(fullest verdict) {
	switch fullest {
	case crowded:
		c.writeLate()
		runtime.Gosched()
	case brimming:
		c.writeLate()
		time.Sleep(brake)
	}
}

// onRelease handles PUBREL.
func (c *conn) onRelease(id uint16) {
	in, known := c.received(id)
	if !known {
		c.prompt = true
		c.answerAfter(nil, packet.PUBCOMP, id, packet.PacketIDNotFound)
		return
	}
	c.freeID(id, in)
	// The client may use the identifier again after PUBCOMP: after a crash it must not be taken for the old one.
	var t txn
	if in.group != nil {
		c.broker.begin(&t)
		if t.group != nil {
			t.add(op{kind: deleteInbound, session: c.session.number, id: id})
			t.wanted = true
		}
		c.broker.finish(&t)
	}
	c.prompt = c.prompt || !in.late
	c.answerAfter(t.durable(), packet.PUBCOMP, id, packet.Success)
}

// topicOf returns the topic of p, resolving and learning its alias [MQTT-3.3.2.3.4].
func (c *conn) topicOf(p *packet.Publish) (string, error) {
	alias := int(p.Properties.TopicAlias.V)
	if p.Properties.TopicAlias.OK && (alias == 0 || alias > inboundAliases) {
		return "", &packet.Error{Code: packet.TopicAliasInvalid,
			Text: fmt.Sprintf("topic alias %d, want 1 to %d [MQTT-3.3.2-9]", alias, inboundAliases)}
	}
	if len(p.Topic) == 0 {
		if alias > len(c.aliases) || alias == 0 || c.aliases[alias-1] == "" {
			return "", protocolError("PUBLISH: unknown topic alias (section 3.3.2.3.4)")
		}
		return c.aliases[alias-1], nil
	}
	topic, known := c.routes.known(p.Topic)
	if !known {
		topic = string(p.Topic)
	}
	if alias > 0 {
		for len(c.aliases) < alias {
			c.aliases = append(c.aliases, "")
		}
		c.aliases[alias-1] = topic
	}
	return topic, nil
}

// forbidden returns why a client may not publish on topic, or Success.
func forbidden(topic string) packet.Code {
	switch {
	case reserved(topic):
		return packet.NotAuthorized
	case strings.Count(topic, "/") >= maxLevels:
		return packet.TopicNameInvalid
	}
	return packet.Success
}

// reserved reports whether topic is the broker's own. Below $SYS there is one that is not: a Mosquitto that is bridged to us says there,
// also by its Will, whether it is connected, unless it is told not to.
func reserved(topic string) bool {
	if topic == "$SYS" || strings.HasPrefix(topic, "$share/") {
		return true
	}
	rest, sys := strings.CutPrefix(topic, "$SYS/")
	if !sys {
		return false
	}
	bridge, _ := strings.CutPrefix(rest, "broker/connection/")
	name, state, _ := strings.Cut(bridge, "/")
	return bridge == rest || name == "" || state != "state"
}
