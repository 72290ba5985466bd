package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

const (
	contentType  = "application/json"
	encodingKey  = "content-encoding"
	encodingGzip = "gzip"
	willKey      = "will"
)

// PublishOption changes one publication.
type PublishOption func(*publishing)

type publishing struct {
	qos         byte
	setQoS      bool
	retain      bool
	setRetain   bool
	volatile    bool
	unlimited   bool
	expiry      time.Duration
	user        [][2]string
	response    string
	correlation []byte
	traced      context.Context // whose trace PublishAsync continues; nil is none
}

// WithQoS replaces the registry's QoS: 0, 1 or 2. A critical message goes out at QoS 2 all the same.
func WithQoS(qos byte) PublishOption {
	return func(p *publishing) { p.qos, p.setQoS = qos, true }
}

// WithRetain replaces the registry's retain flag.
func WithRetain(retain bool) PublishOption {
	return func(p *publishing) { p.retain, p.setRetain = retain, true }
}

// WithExpiry lets the message expire after d: the outbox, a broker of MQTT 5 (in whole seconds, rounded up) and
// receivers of an envelope drop it then.
func WithExpiry(d time.Duration) PublishOption {
	return func(p *publishing) { p.expiry = d }
}

// WithUser adds a user property, over MQTT 5.
func WithUser(key, value string) PublishOption {
	return func(p *publishing) { p.user = append(p.user, [2]string{key, value}) }
}

// Volatile keeps the message out of Options.Dir: it is of no use to another process.
func Volatile() PublishOption { return func(p *publishing) { p.volatile = true } }

// WithResponse sets Response Topic (as Publish takes it) and Correlation Data, over MQTT 5.
func WithResponse(topic string, correlation []byte) PublishOption {
	return func(p *publishing) { p.response, p.correlation = topic, correlation }
}

// A publication is a message on its way out. It is in one of: a lane of the outbox, a link's write buffer (QoS 0), or
// the session's in-flight list (QoS 1 and 2). Once submitted, Client.mu guards it.
type publication struct {
	Receipt
	publishing
	topic    string // full
	body     []byte
	props    []byte // encoded for MQTT 5, without the message expiry
	deadline time.Time
	class    topic.Class
	birth    bool
	rate     int // messages per minute on this topic; 0 is no limit
	category category
	held     bool      // by the limiter
	seq      uint64    // in the spool; 0 is not there
	step     spoolStep // of QoS 2 in the spool

	unawaited bool // nobody waits for the end of its handshake

	queued     bool // in the outbox
	again      bool // in the outbox, and a former process may have sent it, with this identifier
	released   bool // PUBREC received; only PUBREL and PUBCOMP are left [MQTT-4.3.3-6]
	id         uint16
	link       *link         // on whose wire it is; nil after that link went down
	sent       time.Duration // when, by Client.clock
	call       *call         // to be told of the acknowledgement's reason code
	prev, next *publication
}

// Publish sends m on topic, which may be relative to the namespace, full, or marked by [topic.Absolute].
//
// QoS and retain flag are those of the topic's definition unless options say otherwise; a critical message has QoS 2.
// An empty Sender becomes this client's id. An empty raw message with the retain flag clears a retained topic.
//
// It returns nil once m is safe: acknowledged by the broker at QoS 1 and 2, written at QoS 0, or in the outbox while
// there is no connection (on the disk, with Options.Dir). It returns a *[message.Error] if m breaks a rule of the wire format, also as ErrTooLarge above
// Limits.MaxPayload; ErrTooLarge if it is over the broker's own limit; ErrFull when the outbox holds Outbox.Max messages
// of the topic's class and the class refuses; ErrRateLimited as [Rates] says; ErrNotStored when Options.Dir fails: a message on a safety topic is then on its way
// all the same, others are not; *[RefusedError] when the broker refuses; ErrClosed; and ctx's error when
// that ends first: m may be delivered nevertheless. Messages of one goroutine to one topic keep their order.
// Publish may be called concurrently, and by handlers.
func (c *Client) Publish(ctx context.Context, topic string, m message.Message, opts ...PublishOption) (err error) {
	if err := ctx.Err(); err != nil {
		_ = c.reject(sending, topic, m.Metadata.ID, err)
		return fmt.Errorf("publish %s: %w", topic, err)
	}
	p, span, err := c.prepareTraced(ctx, topic, m, opts)
	if span != nil {
		defer func() { span.End(err) }()
	}
	if err != nil {
		return fmt.Errorf("publish %s: %w", topic, err)
	}
	p.birth = ctx.Value(birthKey{}) == c
	wait := c.waits.Get().(chan error)
	p.wait = wait
	if err = c.submit(ctx, p, true); err == nil {
		select {
		case err = <-wait:
			c.waits.Put(wait)
			return c.publishError(topic, err)
		case <-ctx.Done():
			err = c.overdue(ctx, p)
		}
	}
	c.mu.Lock()
	p.wait = nil
	c.mu.Unlock()
	select { // it may have become safe meanwhile
	case err = <-wait:
	default:
	}
	c.waits.Put(wait)
	return c.publishError(topic, err)
}

func (c *Client) publishError(topic string, err error) error {
	var refused *RefusedError
	if err == nil || errors.As(err, &refused) {
		return err
	}
	return fmt.Errorf("publish %s: %w", topic, err)
}

// PublishAsync is Publish without waiting: the receipt tells when the message is safe, or why not. While connected it
// waits for room if Outbox.Max messages of the topic's class wait already.
func (c *Client) PublishAsync(topic string, m message.Message, opts ...PublishOption) *Receipt {
	p, span, err := c.prepareTraced(context.Background(), topic, m, opts)
	if err == nil {
		err = c.submit(context.Background(), p, false)
	}
	if span != nil {
		span.End(err)
	}
	if err != nil {
		r := &Receipt{c: c}
		c.mu.Lock()
		r.settle(c.publishError(topic, err))
		c.mu.Unlock()
		return r
	}
	return &p.Receipt
}

// prepare does what needs no lock: checks, encoding, compression.
func (c *Client) prepare(name string, m message.Message, opts []PublishOption) (*publication, error) {
	p := &publication{Receipt: Receipt{c: c}}
	for _, o := range opts {
		o(&p.publishing)
	}
	return p, c.fill(p, name, &m)
}

// prepareTraced is prepare, with the span that the message belongs to; nil without a Tracer.
func (c *Client) prepareTraced(ctx context.Context, name string, m message.Message, opts []PublishOption) (*publication, Span, error) {
	if c.opts.Tracer == nil {
		p, err := c.prepare(name, m, opts)
		return p, nil, err
	}
	return c.prepareSpan(ctx, name, m, opts)
}

// fill is prepare for a publication that is there already.
func (c *Client) fill(p *publication, name string, m *message.Message) error {
	if err := c.tryFill(p, name, m); err != nil {
		return c.reject(sending, name, m.Metadata.ID, err)
	}
	return nil
}

func (c *Client) tryFill(p *publication, name string, m *message.Message) error {
	full, err := c.resolve(name)
	if err != nil {
		return err
	}
	p.topic = full
	if err := c.classify(p, m); err != nil {
		return err
	}
	if !m.Raw && m.Metadata.Sender == "" {
		m.Metadata.Sender = c.id
	}
	c.expire(p, m)
	e, err := c.encode(full, m, false)
	if err != nil {
		return err
	}
	p.body = e.body
	return c.properties(p, m, &e)
}

// resolve returns the full form of a topic name.
func (c *Client) resolve(name string) (string, error) {
	full, err := c.opts.Topics.Resolve(name)
	if err == nil && strings.ContainsAny(full, "+#") {
		err = topic.CheckName(full)
	}
	if err == nil && strings.HasPrefix(full, "$share/") {
		err = &topic.Error{What: "topic name", Topic: full, Rule: "is a shared filter, to which nothing can be published"}
	}
	return full, err
}

// classify sets class, QoS and retain flag.
func (c *Client) classify(p *publication, m *message.Message) error {
	var def topic.Definition
	_, defined := c.opts.Topics.Relative(p.topic)
	if defined {
		def, defined = c.opts.Topics.Lookup(p.topic)
	}
	p.class = undefined
	if defined {
		p.class, p.rate = def.Class, def.Rate
	}
	p.category = categoryOf(m)
	if p.setQoS && p.qos > 2 {
		return badQoS(p.qos)
	}
	priority := m.Metadata.Priority
	if m.Raw {
		priority = message.Normal
	}
	if p.setQoS {
		p.qos = message.QoS(priority, p.qos, true)
	} else {
		p.qos = message.QoS(priority, def.QoS, defined)
	}
	if !p.setRetain {
		p.retain = def.Retain
	}
	return nil
}

func badQoS(qos byte) error {
	return &ruleError{reason: ReasonOption, text: fmt.Sprintf("QoS %d: must be 0, 1 or 2", qos)}
}

// expire sets the deadline from the option and the envelope, whichever comes first.
func (c *Client) expire(p *publication, m *message.Message) {
	if p.expiry > 0 {
		p.deadline = time.Now().Add(p.expiry)
		if !m.Raw && m.Metadata.ExpiresAt == 0 {
			m.Metadata.ExpiresAt = message.Seconds(p.deadline)
			return
		}
	}
	if m.Raw || m.Metadata.ExpiresAt == 0 {
		return
	}
	now := time.Now()
	left := time.Duration((m.Metadata.ExpiresAt - message.Seconds(now)) * float64(time.Second))
	if at := now.Add(left); p.deadline.IsZero() || at.Before(p.deadline) {
		p.deadline = at
	}
}

// An encoded message is its body and what user properties say of it.
type encoded struct {
	body       []byte
	compressed bool
	proof      [][2]string // that it is signed or encrypted
}

// encode validates and encodes m for a full topic, signs and encrypts it.
func (c *Client) encode(full string, m *message.Message, will bool) (e encoded, err error) {
	lim := c.opts.Limits
	if _, inside := c.opts.Topics.Relative(full); !inside {
		lim.CompressAbove = -1
	}
	if c.sealer.seals(full) {
		return c.seal(full, m, will, lim)
	}
	e.body, e.compressed, err = message.Encode(m, lim)
	if e.compressed && c.mustStayPlain(full) {
		lim.CompressAbove = -1
		e.body, e.compressed, err = message.Encode(m, lim)
	}
	return e, encodeError(err)
}

// encodeError marks what is over the payload limit with ErrTooLarge.
func encodeError(err error) error {
	var bad *message.Error
	if errors.As(err, &bad) && bad.Reason == message.ReasonTooLarge {
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	return err
}

func (c *Client) mustStayPlain(full string) bool {
	for _, f := range c.uncompressed {
		if topic.Match(f, full) {
			return true
		}
	}
	return false
}

// properties encodes what MQTT 5 carries beside the body. The usual ones are shared.
func (c *Client) properties(p *publication, m *message.Message, e *encoded) error {
	if p.response == "" && p.correlation == nil && len(p.user) == 0 && len(e.proof) == 0 {
		switch {
		case e.compressed:
			p.props = c.propsGzip
		case !m.Raw:
			p.props = c.propsJSON
		}
		return nil
	}
	var out packet.Properties
	if !m.Raw {
		out.ContentType = jsonType
	}
	switch p.response {
	case "":
	case c.responses.full:
		out.ResponseTopic = c.responseTopic
	default:
		full, err := c.resolve(p.response)
		if err != nil {
			return fmt.Errorf("response topic: %w", err)
		}
		out.ResponseTopic = []byte(full)
	}
	out.CorrelationData = p.correlation
	if e.compressed {
		out.User = append(out.User, packet.UserProperty{Key: []byte(encodingKey), Value: []byte(encodingGzip)})
	}
	for _, kv := range e.proof {
		out.User = append(out.User, packet.UserProperty{Key: []byte(kv[0]), Value: []byte(kv[1])})
	}
	for _, kv := range p.user {
		if err := checkProperty(kv); err != nil {
			return err
		}
		out.User = append(out.User, packet.UserProperty{Key: []byte(kv[0]), Value: []byte(kv[1])})
	}
	if len(out.CorrelationData) > 65535 {
		return &ruleError{reason: ReasonOption, text: fmt.Sprintf("correlation data: %d bytes: the limit is 65535", len(out.CorrelationData))}
	}
	p.props = out.AppendForwarded(p.body[len(p.body):]) // there is room behind most bodies
	return nil
}

var jsonType = []byte(contentType)

// commonProperties encodes the properties of a plain and of a compressed envelope.
func commonProperties() (plain, compressed []byte) {
	p := packet.Properties{ContentType: []byte(contentType)}
	plain = p.AppendForwarded(nil)
	p.User = []packet.UserProperty{{Key: []byte(encodingKey), Value: []byte(encodingGzip)}}
	return plain, p.AppendForwarded(nil)
}

// checkProperty checks that both parts of a user property are strings of MQTT [MQTT-1.5.4-1] [MQTT-1.5.4-2].
func checkProperty(kv [2]string) error {
	for _, s := range kv {
		if len(s) > 65535 || strings.ToValidUTF8(s, "") != s || strings.IndexByte(s, 0) >= 0 {
			return &ruleError{reason: ReasonOption,
				text: fmt.Sprintf("user property %q: must be UTF-8 without NUL, at most 65535 bytes", printable(kv[0]))}
		}
	}
	return nil
}

func (p *publication) expired() bool { return !p.deadline.IsZero() && !time.Now().Before(p.deadline) }

// settle notes the final outcome; if it is an error, no answer will come. Client.mu is held.
func (p *publication) settle(err error) {
	p.Receipt.settle(err)
	if p.id != 0 {
		p.c.unreserve(p)
	}
	if p.seq != 0 {
		p.c.spool.forget(p)
	}
	if err != nil && p.call != nil {
		p.call.finish(callResult{err: err})
	}
}

// A Receipt tells what became of an asynchronous publication. Its methods may be called concurrently.
type Receipt struct {
	c *Client

	// Guarded by Client.mu.
	safe, final     bool
	unheard         bool
	err             error
	wait            chan error // of Publish
	doneCh, finalCh chan struct{}
}

// Done is closed when the message is safe in the sense of Publish, or lost.
func (r *Receipt) Done() <-chan struct{} {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	return r.channel(&r.doneCh, r.safe)
}

// Delivered is closed when the broker has acknowledged the message (QoS 1, 2) or it is written (QoS 0), or lost. It
// differs from Done for messages that were accepted by the outbox while there was no connection.
func (r *Receipt) Delivered() <-chan struct{} {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	return r.channel(&r.finalCh, r.final)
}

// channel makes *ch on first use, as most publications never need it.
func (r *Receipt) channel(ch *chan struct{}, over bool) <-chan struct{} {
	if *ch == nil {
		if over {
			return r.c.always
		}
		*ch = make(chan struct{})
	}
	return *ch
}

// Err says why the message is not safe; it is valid after Done. A message that the outbox had accepted can still be
// lost: ErrExpired, ErrDropped (by a newer one of its class), ErrSuperseded, *RefusedError, ErrClosed; Err says so from then on.
func (r *Receipt) Err() error {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	return r.err
}

// Unheard reports whether the broker has said that nobody is subscribed to the topic (MQTT 5); it is valid after Delivered. Brokers need not say so.
func (r *Receipt) Unheard() bool {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	return r.unheard
}

// Wait waits for Done and returns Err, or ctx's error when that ends first.
func (r *Receipt) Wait(ctx context.Context) error {
	select {
	case <-r.Done():
		return r.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// accept notes that the message is safe. Client.mu is held.
func (r *Receipt) accept(err error) {
	if r.safe {
		return
	}
	r.safe, r.err = true, err
	if r.wait != nil {
		r.wait <- err
		r.wait = nil
	}
	if r.doneCh != nil {
		close(r.doneCh)
	}
}

// settle notes the final outcome. Client.mu is held.
func (r *Receipt) settle(err error) {
	r.accept(err)
	if r.final {
		return
	}
	r.final = true
	if err != nil || errors.Is(r.err, ErrNotStored) {
		r.err = err
	}
	if r.finalCh != nil {
		close(r.finalCh)
	}
}
