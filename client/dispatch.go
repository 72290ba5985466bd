package client

import (
	"bytes"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

// Delivery is one received message. It belongs to the handler, except for what the slices hold, which other handlers
// of the same message may read.
type Delivery struct {
	Topic           string // relative when inside the namespace, else the full topic
	Message         message.Message
	QoS             byte
	Retained        bool
	Dup             bool
	Received        time.Time // with monotonic clock
	ResponseTopic   string
	CorrelationData []byte
	ContentType     string
	User            [][2]string   // user properties in order
	Expiry          time.Duration // remaining message expiry; 0 is none
	Invalid         error         // with WithInvalid: the rule that the message breaks, usually a *message.Error
	Size            int           // bytes of the payload as it came: still compressed, encrypted or signed

	shared   bool // other subscriptions have it too
	in       *inbound
	answerTo string // ResponseTopic as Publish takes it
	begun    bool   // its acknowledgement is no more the business of whoever called the handler
	backlog  bool   // the broker may have kept it until this session was resumed
}

// FullTopic returns the topic as it went over MQTT, with the namespace. Of a delivery that was not received it is Topic.
func (d *Delivery) FullTopic() string {
	if d.in == nil {
		return d.Topic
	}
	return d.in.full
}

// Hold has the message of a delivery not be acknowledged when its handler returns, but when release is called, which may be never: then it comes again
// to the next process, if the broker keeps the session. A handler calls it before it returns, once. What is held counts among what the broker may
// have unacknowledged.
func (c *Client) Hold(d *Delivery) (release func()) {
	d.begun = true
	c.keep(d.in)
	return func() { c.handled(d.in) }
}

// user returns the value of the first user property of that name.
func (d *Delivery) user(key string) (string, bool) {
	for _, kv := range d.User {
		if kv[0] == key {
			return kv[1], true
		}
	}
	return "", false
}

// A name is a topic as it was received, with what is known of it. The reader keeps the names it has seen.
type name struct {
	full, rel string
	absolute  string // full, as Publish takes it
	status    bool   // system/services/+/status, which is exempt from the age limit
	command   bool   // commands/+, whose deadline is judged by more than clocks
	safety    bool   // safety/#
	verify    Verification

	subs    []*Subscription // whose filters match, without subscription identifiers
	version uint64          // of the table of subscriptions, when subs was made
}

const maxNames = 2048

func (r *receiver) name(topicName []byte) *name {
	if n := r.names[string(topicName)]; n != nil {
		return n
	}
	if len(r.names) >= maxNames {
		clear(r.names)
	}
	n := &name{full: string(topicName)}
	n.absolute = topic.Absolute(n.full)
	inside := false
	n.rel, inside = r.c.opts.Topics.Relative(n.full)
	n.status = inside && topic.Match("system/services/+/status", n.rel)
	n.command = inside && topic.Match("commands/+", n.rel)
	n.safety = inside && topic.Match("safety/#", n.rel)
	n.verify = r.c.sealer.policy(n.full)
	r.names[n.full] = n
	return n
}

// publish takes in the PUBLISH in r.pub.
func (r *receiver) publish() error {
	c, l, p := r.c, r.l, &r.pub
	if p.Properties.TopicAlias.OK { // we allow none [MQTT-3.3.2-9]
		return &packet.Error{Code: packet.TopicAliasInvalid, Text: "PUBLISH: a topic alias, of which we allow none"}
	}
	c.stats.received.Add(1)
	n := r.name(p.Topic)
	in := &inbound{full: n.full, id: p.ID, qos: p.QoS}
	r.deliver(&in.d, n, p)
	in.d.backlog = n.command && l.resumed && in.d.Received.Sub(l.began) < backlogTime
	id, invalid := c.judge(in, n)

	c.mu.Lock()
	if p.QoS > 0 {
		if l.open++; l.open > receiveMaximum && l.version == packet.V5 { // [MQTT-3.3.4-9]
			c.mu.Unlock()
			return &packet.Error{Code: packet.ReceiveMaximumExceeded, Text: "PUBLISH: more unacknowledged than our receive maximum"}
		}
		if c.knows(l, p, n) {
			c.mu.Unlock()
			return nil
		}
	}
	targets, known := c.route(n, p, &in.d.Message)
	if invalid == nil && in.proof != nil && len(targets) > 0 {
		id, invalid = in.proof.id, c.sealer.replayed(in, p.Properties.SubscriptionIDs)
		in.d.Invalid = invalid
	}
	if invalid != nil {
		targets = debuggers(targets)
	}
	in.subs, in.d.shared = targets, len(targets) > 1
	for _, s := range targets {
		if s.sink == nil {
			in.pending.Add(1)
		}
		in.kept = in.kept || s.lateAck
	}
	if p.QoS > 0 {
		c.expectAck(l, in, invalid == nil && !known)
	}
	c.mu.Unlock()

	if invalid != nil {
		_ = c.reject(receiving, n.full, id, invalid)
	}
	hand(in, targets)
	return nil
}

// hand gives in to its handlers; each gets a Delivery of its own. The last one gets the original, since a handler that
// has got it may change it at once.
func hand(in *inbound, targets []*Subscription) {
	for i, s := range targets {
		d := &in.d
		if i < len(targets)-1 {
			other := in.d
			d = &other
		}
		if s.freshness != nil {
			s.freshness.seen(d.Topic, d.Received, d.Retained)
		}
		if s.peek != nil && d.Invalid == nil {
			s.peek(d)
		}
		if s.sink != nil {
			s.sink(d)
		} else {
			s.c.letGo(s.push(item{in, d}))
		}
	}
}

// deliver fills d from p, of which nothing may be kept: its bytes belong to the reader's buffer.
func (r *receiver) deliver(d *Delivery, n *name, p *packet.Publish) {
	d.Topic, d.QoS, d.Retained, d.Dup = n.rel, p.QoS, p.Retain, p.Dup
	d.Received, d.Size = time.Now(), len(p.Payload)
	props := &p.Properties
	d.Message, d.CorrelationData = copyOf(p.Payload, props.CorrelationData)
	if props.ResponseTopic != nil {
		to := r.name(props.ResponseTopic)
		d.ResponseTopic, d.answerTo = to.full, to.absolute
	}
	switch ct := props.ContentType; {
	case string(ct) == contentType:
		d.ContentType = contentType
	case ct != nil:
		d.ContentType = string(ct)
	}
	for _, u := range props.User {
		d.User = append(d.User, [2]string{string(u.Key), string(u.Value)})
	}
	if props.MessageExpiry.OK {
		d.Expiry = time.Duration(props.MessageExpiry.V) * time.Second
	}
}

// copyOf copies what a message has. A small payload shares its copy with the correlation data, which may be kept for longer.
func copyOf(payload, correlation []byte) (message.Message, []byte) {
	const small = 1024 // bytes
	if correlation == nil || len(payload) > small {
		return message.NewRaw(bytes.Clone(payload)), bytes.Clone(correlation)
	}
	n := len(payload)
	both := append(append(make([]byte, 0, n+len(correlation)), payload...), correlation...)
	return message.NewRaw(both[:n:n]), both[n:]
}

// judge decodes the body in d and holds it against the rules. What breaks one stays raw; its id is returned as far as it is known.
func (c *Client) judge(in *inbound, n *name) (id string, err error) {
	if c.opts.Foreign {
		return "", nil
	}
	d := &in.d
	lim := c.opts.Limits
	body, err := c.unseal(d, n)
	var m message.Message
	if err == nil {
		m, err = message.Decode(body, lim)
	}
	if err == nil {
		err = c.verify(in, n, &m, body)
	}
	if err == nil {
		_, will := d.user(willKey)
		if d.Retained || n.status || will {
			lim.MaxAge = -1
		}
		if err = m.CheckAge(d.Received, lim); err == nil || c.inTime(d, n, &m) {
			d.Message = m
			if !m.Raw && !d.Retained && !will { // whose times say nothing of how long they were on their way
				c.stats.oneWay.record(d.Received.Sub(m.Metadata.Time()))
			}
			return "", nil
		}
	}
	d.Invalid = err
	return m.Metadata.ID, err
}

// debuggers returns those of subs that want to see invalid messages.
func debuggers(subs []*Subscription) []*Subscription {
	var out []*Subscription
	for _, s := range subs {
		if s.invalid {
			out = append(out, s)
		}
	}
	return out
}

// route returns the subscriptions that get the message in p: those of the subscription identifiers in it or, without,
// those whose filters match. A retained message is for those only that have just subscribed. known is false if nothing
// here has to do with the message, so that a handler may still come for it.
func (c *Client) route(n *name, p *packet.Publish, m *message.Message) (out []*Subscription, known bool) {
	t := &c.table
	ids := p.Properties.SubscriptionIDs
	foreign := false // by an identifier that a former process has made
	for i, id := range ids {
		h, generation := t.identified(id)
		switch {
		case h == nil:
			foreign = true
		case !p.Retain:
			out = join(out, h.subs, i == 0)
		default:
			if s, ok := h.fresh[generation]; ok && s != nil {
				out = join(out, []*Subscription{s}, false)
			} else if ok {
				out = join(out, h.subs, i == 0)
			}
		}
	}
	if len(ids) == 0 || foreign && t.resumed {
		out = t.matching(n)
	}
	if !t.identifiers {
		if p.Retain {
			out = firstSeen(out, n)
		}
		noteSeen(out, n, p.Retain)
	}
	known = len(out) > 0
	if known && t.repeated(m.Metadata.ID, n, foreign) {
		return nil, true
	}
	if t.noLocal > 0 && !m.Raw && m.Metadata.Sender == c.id {
		out = notLocal(out)
	}
	return out, known
}

// join appends more to subs; the first is taken as it is, for it is never changed.
func join(subs, more []*Subscription, first bool) []*Subscription {
	if first {
		return more
	}
	return append(subs[:len(subs):len(subs)], more...)
}

// firstSeen returns those that have had nothing on this topic yet. Without subscription identifiers that is how a
// retained message that came because of another handler's subscription is known.
func firstSeen(subs []*Subscription, n *name) []*Subscription {
	var out []*Subscription
	for _, s := range subs {
		if _, seen := s.seen[n.full]; !seen {
			out = append(out, s)
		}
	}
	return out
}

// noteSeen notes that subs have had something on this topic. What comes before the broker has confirmed comes because of
// another handler's filter, and the retained message is still to come.
func noteSeen(subs []*Subscription, n *name, retained bool) {
	for _, s := range subs {
		if !retained && !s.settled {
			continue
		}
		if s.seen == nil {
			s.seen = make(map[string]struct{})
		}
		if len(s.seen) < maxNames {
			s.seen[n.full] = struct{}{}
		}
	}
}

func notLocal(subs []*Subscription) []*Subscription {
	var out []*Subscription
	for _, s := range subs {
		if !s.noLocal {
			out = append(out, s)
		}
	}
	return out
}
