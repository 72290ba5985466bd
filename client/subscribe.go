package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/topic"
)

// Handler handles one message; messages of one subscription arrive one after the other, in order. Its ctx ends when the
// subscription is cancelled or the client closes. It may use every method of the Client and the Subscription; if
// it calls Close, it passes on its ctx. A panic is recovered, logged and counted.
type Handler func(ctx context.Context, d *Delivery)

// SubscribeOption changes one subscription.
type SubscribeOption func(*subscribing)

type subscribing struct {
	maxQoS    byte
	noLocal   bool
	published bool
	invalid   bool
	lateAck   bool
	queue     Queue
	timeout   time.Duration
	freshness *freshness
	serve     func(s *Subscription, d *Delivery) // instead of the Handler
	peek      func(d *Delivery)                  // called by the reader before the message is queued, must not wait
}

// WithMaxQoS bounds the QoS at which the broker sends; 2 by default.
func WithMaxQoS(qos byte) SubscribeOption { return func(s *subscribing) { s.maxQoS = qos } }

// WithNoLocal leaves out what this client has published itself. Where the broker cannot do it (MQTT 3.1.1, or another
// handler of the same filter wants those messages), they are known by their sender; raw messages have none and come.
func WithNoLocal() SubscribeOption { return func(s *subscribing) { s.noLocal = true } }

// WithRetainAsPublished has Delivery.Retained tell also of messages that were published as retained ones while this client was subscribed, where
// otherwise it tells of those alone that had been before. It needs MQTT 5, and that every handler of this client for the same filter has it.
func WithRetainAsPublished() SubscribeOption { return func(s *subscribing) { s.published = true } }

// WithQueue replaces the bound of the handler's queue, Queue{Max: 1000, Full: ByClass}. With ByClass and Refuse a
// message of QoS 1 or 2 is never dropped: the broker waits. DropOldest and Latest apply to every QoS.
func WithQueue(q Queue) SubscribeOption { return func(s *subscribing) { s.queue = q } }

// WithHandlerTimeout bounds each call of the handler: its ctx ends after d. A handler that runs on nevertheless is logged and
// counted ([HandlerStats].Overruns); nobody can stop it, so what comes after it waits, and so does the acknowledgement of its message.
func WithHandlerTimeout(d time.Duration) SubscribeOption {
	return func(s *subscribing) { s.timeout = d }
}

// WithLateAck has no message be acknowledged before the handler has returned, however much waits for it. Without it, when hundreds wait for a slow handler, some
// are acknowledged while they wait, so that other handlers of the client go on: a process that dies then has lost those. With it a slow handler holds up the
// others, and the broker keeps what comes.
func WithLateAck() SubscribeOption { return func(s *subscribing) { s.lateAck = true } }

// WithInvalid also delivers what fails validation, as raw, with Delivery.Invalid set (for debugging).
func WithInvalid() SubscribeOption { return func(s *subscribing) { s.invalid = true } }

// A Subscription is a handler that is registered for a filter. Its methods may be called concurrently.
type Subscription struct {
	c           *Client
	filter      string // as given
	full, match string // as in SUBSCRIBE, and without $share/group/
	shared      bool
	h           Handler
	sink        func(d *Delivery) // instead of h and its queue: called by the reader, must not wait
	subscribing
	ctx                                context.Context
	cancel                             context.CancelFunc
	waiting                            backlog
	backlog                            atomic.Int32 // the length of waiting, readable without its lock
	handled, dropped, panics, overruns atomic.Uint64
	busy, longest                      atomic.Int64 // nanoseconds

	// Guarded by Client.mu.
	gone    bool
	settled bool // result was sent
	result  chan error
	refused error               // the broker's latest answer
	seen    map[string]struct{} // topics on which something was delivered; without subscription identifiers
}

// Subscribe registers h for a filter (relative, full, $share/..., or marked by [topic.Absolute]) and returns when the
// broker has confirmed. While there is no connection it waits for one, until ctx ends. A filter that the broker refuses
// gives a *[RefusedError].
//
// Several subscriptions may have the same or overlapping filters: each handler gets each message once, and retained
// messages when it subscribes. After a reconnect to a broker that has forgotten the session retained messages
// come again. Handlers of one client for the same shared filter are one member of the group: each gets what the
// member gets.
//
// When the broker resumes a session from before this process (no CleanStart, and an ID and SessionExpiry that
// outlived it), the messages it kept wait for a handler, and go to the first whose filter matches. They wait
// until 5 s after the client was connected, or after the last Subscribe since then has returned.
func (c *Client) Subscribe(ctx context.Context, filter string, h Handler, opts ...SubscribeOption) (*Subscription, error) {
	s, err := c.newSubscription(filter, opts)
	if err != nil {
		return nil, fmt.Errorf("subscribe %s: %w", filter, err)
	}
	s.h = h
	s.ctx, s.cancel = context.WithCancel(c.life)
	c.mu.Lock()
	if c.closing {
		c.mu.Unlock()
		s.cancel()
		return nil, fmt.Errorf("subscribe %s: %w", filter, ErrClosed)
	}
	held := c.table.add(s)
	c.handlers++
	go s.handle()
	if s.freshness != nil {
		rel, _ := c.opts.Topics.Relative(s.match)
		s.freshness.begin(s.match, rel)
	}
	if c.link != nil {
		c.sendSubscribe(c.link, held, s)
	}
	c.unpark(s)
	c.settling++
	c.mu.Unlock()

	select {
	case err = <-s.result:
	case <-ctx.Done():
		err = ctx.Err()
	case <-c.dying:
		err = ErrClosed
	}
	c.mu.Lock()
	c.settling--
	c.extendParking()
	c.mu.Unlock()
	if err == nil {
		return s, nil
	}
	_ = s.withdraw()
	var refused *RefusedError
	if errors.As(err, &refused) {
		return nil, err
	}
	return nil, fmt.Errorf("subscribe %s: %w", filter, err)
}

func (c *Client) newSubscription(filter string, opts []SubscribeOption) (*Subscription, error) {
	s := &Subscription{c: c, filter: filter, subscribing: subscribing{maxQoS: 2}, result: make(chan error, 1)}
	for _, o := range opts {
		o(&s.subscribing)
	}
	s.waiting.more.L = &s.waiting.mu
	if s.queue.Max <= 0 {
		s.queue.Max = defaultQueue
	}
	if s.maxQoS > 2 {
		return nil, fmt.Errorf("QoS %d: must be 0, 1 or 2", s.maxQoS)
	}
	full, err := c.opts.Topics.Resolve(filter)
	if err != nil {
		return nil, err
	}
	s.full = full
	_, s.match, s.shared = topic.SplitShared(full)
	if s.shared && s.noLocal {
		return nil, errors.New("a shared subscription cannot leave out own messages [MQTT-3.8.3-4]")
	}
	return s, nil
}

// Filter returns the filter as it was given to Subscribe.
func (s *Subscription) Filter() string { return s.filter }

// Unsubscribe ends the subscription: no message that waits for its handler, and no later one, reaches it. A handler that
// is running is not waited for, so that it may call Unsubscribe itself. It returns when the broker has confirmed, at
// once if there is nothing to confirm or no connection, or with ctx's error; the subscription has ended in any case.
func (s *Subscription) Unsubscribe(ctx context.Context) error {
	for _, o := range s.withdraw() {
		select {
		case <-o.done:
		case <-s.c.dying:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("unsubscribe %s: %w", s.filter, ctx.Err())
		}
	}
	return nil
}

// withdraw takes s out of service and returns what the broker has to confirm.
func (s *Subscription) withdraw() []*operation {
	c := s.c
	c.mu.Lock()
	if s.gone {
		c.mu.Unlock()
		return nil
	}
	s.gone = true
	var asked []*operation
	for _, h := range c.table.remove(s) {
		c.table.merged(h)
		c.table.drop(h)
		c.table.stale[h.filter] = true
		if c.link != nil {
			asked = append(asked, c.sendUnsubscribe(c.link, h.filter))
		}
	}
	c.mu.Unlock()
	for _, it := range s.stop() {
		c.letGo(it)
	}
	return asked
}

// An operation is a SUBSCRIBE or UNSUBSCRIBE that the broker has not answered.
type operation struct {
	h      *held         // of SUBSCRIBE
	sub    *Subscription // for whom; nil is all of h
	filter string        // of UNSUBSCRIBE
	first  bool          // a new connection waits for it
	done   chan struct{}
}

// operations are told apart by packet identifiers above those of publications.
type operations struct {
	pending map[uint16]*operation
	last    uint16
	restore int           // of pending, how many are first
	idle    chan struct{} // closed when that is none
}

const firstOperation = 0x8000

func (c *Client) register(o *operation) uint16 {
	for {
		if c.ops.last++; c.ops.last < firstOperation {
			c.ops.last = firstOperation
		}
		if _, used := c.ops.pending[c.ops.last]; !used {
			break
		}
	}
	if c.ops.pending == nil {
		c.ops.pending = make(map[uint16]*operation)
	}
	c.ops.pending[c.ops.last] = o
	return c.ops.last
}

// renew asks for h again, which the session should have. That of a broker that was killed may be older: Mosquitto saves sessions now and then, and says that
// one is present whose last subscriptions it has lost. Retained messages come only (MQTT 5) if it has.
func (c *Client) renew(l *link, h *held) {
	h.next(nil)
	c.askFor(l, h, nil, 1)
}

// sendSubscribe asks the broker for h, on behalf of s or of all of its handlers.
func (c *Client) sendSubscribe(l *link, h *held, s *Subscription) { c.askFor(l, h, s, 0) }

// askFor sends SUBSCRIBE; retained says which retained messages are to come [MQTT-3.8.3.1].
func (c *Client) askFor(l *link, h *held, s *Subscription, retained byte) {
	o := &operation{h: h, sub: s, done: make(chan struct{})}
	if code := l.server.lacks(h); code != packet.Success {
		c.subscribed(o, code, "")
		return
	}
	p := packet.Subscribe{Subscriptions: []packet.Subscription{{Filter: []byte(h.filter), QoS: h.qos()}}}
	if l.version == packet.V5 {
		s := &p.Subscriptions[0]
		s.NoLocal, s.RetainAsPublished, s.RetainHandling = h.noLocal(), h.asPublished(), retained
		if c.table.identifiers {
			p.Properties.SubscriptionIDs = []uint32{c.table.identifier(h)}
		}
	}
	p.ID = c.register(o)
	c.sendControl(l, &p)
}

// lacks returns the reason why the server cannot hold h, as it has said itself [MQTT-3.2.2-17 and others].
func (s *server) lacks(h *held) packet.Code {
	group, inner, shared := topic.SplitShared(h.filter)
	switch {
	case shared && group != "" && !s.shared:
		return packet.SharedSubsNotSupported
	case !s.wildcard && strings.ContainsAny(inner, "+#"):
		return packet.WildcardSubsNotSupported
	}
	return packet.Success
}

func (c *Client) sendUnsubscribe(l *link, filter string) *operation {
	o := &operation{filter: filter, done: make(chan struct{})}
	p := packet.Unsubscribe{ID: c.register(o), Filters: [][]byte{[]byte(filter)}}
	c.sendControl(l, &p)
	return o
}

// sendControl appends a packet whose strings were checked before.
func (c *Client) sendControl(l *link, p packet.Packet) {
	if l.farewell {
		return
	}
	out, err := p.Append(l.out, l.version)
	if err != nil {
		c.opts.Logger.Error("packet cannot be encoded", "type", p.Type(), "error", err)
		return
	}
	l.out = out
	l.push()
}

// answered takes in SUBACK or UNSUBACK; UNSUBACK has no codes that matter.
func (c *Client) answered(l *link, id uint16, codes []packet.Code, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.ops.pending[id]
	if o == nil || l.farewell || (o.h == nil) != (len(codes) == 0) {
		return
	}
	delete(c.ops.pending, id)
	if o.h == nil {
		if c.table.held[o.filter] == nil {
			delete(c.table.stale, o.filter)
		}
		close(o.done)
	} else {
		c.subscribed(o, codes[0], text)
	}
	if o.first {
		if c.ops.restore--; c.ops.restore == 0 {
			close(c.ops.idle)
			c.ops.idle = nil
		}
	}
}

// subscribed takes in the broker's answer to o.
func (c *Client) subscribed(o *operation, code packet.Code, text string) {
	close(o.done)
	h := o.h
	if code < packet.UnspecifiedError {
		h.confirmed = true
		for _, r := range c.table.merged(h) {
			c.table.drop(r)
			c.table.stale[r.filter] = true
			if c.link != nil {
				c.sendUnsubscribe(c.link, r.filter)
			}
		}
		c.settle(o, nil)
		return
	}
	c.opts.Logger.Warn("subscription refused by the broker", "filter", h.filter, "reason", code.String(), "text", printable(text))
	if len(c.table.merged(h)) > 0 { // the narrower filters stay
		c.table.drop(h)
	}
	c.settle(o, &RefusedError{Op: "subscribe", Topic: h.filter, Code: byte(code), Text: text})
}

// settle tells whoever waits for o.
func (c *Client) settle(o *operation, err error) {
	for _, s := range o.h.subs {
		if o.sub != nil && o.sub != s {
			continue
		}
		s.refused = err
		if !s.settled {
			s.settled = true
			s.result <- err
		}
	}
}

// restore brings the broker's subscriptions in line with the table after a connection was made, and returns a channel
// that is closed when the broker has answered.
func (c *Client) restore(l *link, present, first bool) <-chan struct{} {
	t := &c.table
	if !present || first || t.identifiers != l.server.identifiers {
		t.reset(l.server.identifiers)
		if present && first {
			t.resume()
		}
		for _, h := range t.held {
			c.sendSubscribe(l, h, nil)
		}
	} else {
		for filter := range t.stale {
			if t.held[filter] == nil {
				c.sendUnsubscribe(l, filter)
			}
		}
		for _, s := range t.handlers {
			if h := t.find(s); h != nil && !s.settled {
				h.next(s)
				c.sendSubscribe(l, h, s)
			}
		}
		for _, h := range t.held {
			switch {
			case !h.confirmed || len(h.replaces) > 0:
				c.sendSubscribe(l, h, nil)
			case !l.late: // not our broker, whose sessions are as they were or not there
				c.renew(l, h)
			}
		}
	}
	for _, o := range c.ops.pending {
		o.first = true
	}
	if c.ops.restore = len(c.ops.pending); c.ops.restore == 0 {
		return c.always
	}
	c.ops.idle = make(chan struct{})
	return c.ops.idle
}

// abandon ends what the lost connection leaves unanswered: UNSUBSCRIBE is repeated, and so is SUBSCRIBE.
func (c *Client) abandon() {
	for _, o := range c.ops.pending {
		close(o.done)
	}
	c.ops.pending, c.ops.idle, c.ops.restore = nil, nil, 0
}
