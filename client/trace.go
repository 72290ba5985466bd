package client

import (
	"context"
	"errors"
	"slices"

	"github.com/lawnberry/lawnberry/message"
)

// The user properties that carry a trace from one program to the next (W3C Trace Context over MQTT 5).
const (
	traceParentKey = "traceparent"
	traceStateKey  = "tracestate"
)

// SpanKind says what a span stands for.
type SpanKind uint8

// The kinds of spans.
const (
	SpanPublish SpanKind = iota // a message is published, until it is safe
	SpanHandle                  // a handler has a message
	SpanCall                    // a command is sent, until its answer is there
	SpanServe                   // a command is run
)

// A Tracer is told what the client does (Options.Tracer). It makes of that what it likes: package tracing sends spans to an OpenTelemetry
// collector. Its methods are called concurrently, and must not wait: messages wait for them.
type Tracer interface {
	// StartSpan begins a span, the child of the one that ctx carries. Of SpanHandle and SpanServe the parent is the span that
	// parent and state name, as they came in the message: unchecked, from anybody; "" if there was none. The context it returns is
	// ctx, and carries the new span.
	StartSpan(ctx context.Context, kind SpanKind, what Traced, parent, state string) (context.Context, Span)
}

// A Span is one piece of work in a trace. Its methods are called from one goroutine after the other.
type Span interface {
	// Propagate returns what the message says of the span, in the user properties traceparent and tracestate; "" is left out.
	Propagate() (parent, state string)
	// Describe replaces what StartSpan was told: more is known now.
	Describe(what Traced)
	// End ends the span. err is what went wrong, nil if nothing did.
	End(err error)
}

// Traced is what a span is about.
type Traced struct {
	ClientID  string
	Topic     string // full once it is known, else as it was given to Publish
	MessageID string // of the envelope; "" of a raw message
	Target    string // of a command
	Command   string
	QoS       byte
	Size      int // bytes of the payload as it goes over the wire; 0 is not known yet
}

// errHandlerPanicked is what the span of such a handler ends with.
var errHandlerPanicked = errors.New("the handler panicked")

// TracedBy makes a publication of PublishAsync, which has no ctx of its own, part of ctx's trace.
func TracedBy(ctx context.Context) PublishOption {
	return func(p *publishing) { p.traced = ctx }
}

// prepareSpan is prepare for a client with a Tracer. A message that has a trace of its own already, by WithUser, is passed on as it is: the
// span is nil.
func (c *Client) prepareSpan(ctx context.Context, name string, m message.Message, opts []PublishOption) (p *publication, span Span, err error) {
	p = &publication{Receipt: Receipt{c: c}}
	for _, o := range opts {
		o(&p.publishing)
	}
	if p.traced != nil {
		ctx, p.traced = p.traced, nil
	}
	given := func(kv [2]string) bool { return kv[0] == traceParentKey }
	if !slices.ContainsFunc(p.user, given) {
		_, span = c.opts.Tracer.StartSpan(ctx, SpanPublish, Traced{ClientID: c.id, Topic: name, MessageID: m.Metadata.ID}, "", "")
		p.carry(span)
	}
	err = c.fill(p, name, &m)
	if err == nil && span != nil {
		p.describe(span, &m, "", "")
	}
	return p, span, err
}

// carry has the message say that it belongs to span.
func (p *publishing) carry(span Span) {
	parent, state := span.Propagate()
	if parent == "" {
		return
	}
	p.user = append(p.user[:len(p.user):len(p.user)], [2]string{traceParentKey, parent})
	if state != "" {
		p.user = append(p.user, [2]string{traceStateKey, state})
	}
}

// describe tells span of a publication that is filled in.
func (p *publication) describe(span Span, m *message.Message, target, command string) {
	span.Describe(Traced{ClientID: p.c.id, Topic: p.topic, MessageID: m.Metadata.ID, Target: target, Command: command, QoS: p.qos, Size: len(p.body)})
}

// tracedCall is call with a span.
func (c *Client) tracedCall(ctx context.Context, target, command string, parameters, result any, opts []CallOption) error {
	ctx, span := c.opts.Tracer.StartSpan(ctx, SpanCall, Traced{ClientID: c.id, Topic: "commands/" + target, Target: target, Command: command}, "", "")
	opts = append(opts[:len(opts):len(opts)], func(o *calling) { o.span = span })
	err := c.call(ctx, target, command, parameters, result, opts)
	span.End(err)
	return err
}

// tracedDelivery begins the span of what is done with d.
func (c *Client) tracedDelivery(ctx context.Context, kind SpanKind, d *Delivery, target, command string) (context.Context, Span) {
	parent, _ := d.user(traceParentKey)
	state, _ := d.user(traceStateKey)
	return c.opts.Tracer.StartSpan(ctx, kind, Traced{
		ClientID: c.id, Topic: d.FullTopic(), MessageID: d.Message.Metadata.ID, Target: target, Command: command, QoS: d.QoS, Size: d.Size,
	}, parent, state)
}

// tracedHandler calls the handler of s in a span.
func (s *Subscription) tracedHandler(ctx context.Context, d *Delivery) {
	ctx, span := s.c.tracedDelivery(ctx, SpanHandle, d, "", "")
	err := errHandlerPanicked
	defer func() { span.End(err) }()
	s.h(ctx, d)
	err = nil
}

// tracedCommand runs a command in a span.
func (s *commandServer) tracedCommand(ctx context.Context, r *Request) (result any, err error) {
	ctx, span := s.c.tracedDelivery(ctx, SpanServe, r.Delivery, r.Target, r.Command)
	err = errHandlerPanicked
	defer func() { span.End(err) }()
	result, err = s.h(ctx, r)
	return result, err
}
