package client

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/message"
)

// A handler may say how far it is, if its caller wants to know: the request has the user property progress then. What it
// says goes the way of the response, as an event of the type progress with {"progress": value} and the request's correlation
// id, which nobody takes for the response. It goes out at QoS 1, at most once in progressGap, the latest value alone, and never
// after the response.
const (
	progressKey   = "progress"
	eventProgress = "progress"
	progressGap   = 100 * time.Millisecond
	progressLife  = 10 * time.Second // how long such an event is worth sending
)

// CallOption changes one call.
type CallOption func(*calling)

type calling struct {
	progress    func(value json.RawMessage)
	unannounced bool
	once        bool // QoS 1
	span        Span // nil without a Tracer
}

// AtLeastOnce sends the request at QoS 1, not 2. Some brokers, such as Mosquitto, can say at QoS 1 alone that nobody serves the
// target. Our targets run it once all the same.
func AtLeastOnce() CallOption { return func(o *calling) { o.once = true } }

// WithProgress has f called with what the target's handler reports about its progress, over MQTT 5. The calls come one after
// the other, in order, from the goroutine of Call and before it returns, so f must not take long. Of values that come faster than
// f takes them, or than 10 a second, the latest counts.
func WithProgress(f func(value json.RawMessage)) CallOption {
	return func(o *calling) { o.progress = f }
}

// Progress reports to the caller of a command how far its handler is, if the caller wants to know (WithProgress). value is
// anything that encodes as JSON. ctx is that of the handler, or derived from it. It never waits, and does nothing after the
// handler has returned or with another ctx.
func Progress(ctx context.Context, value any) {
	if p, ok := ctx.Value(reporterKey{}).(*reporter); ok {
		p.report(value)
	}
}

// reporterKey marks the context of a handler whose caller wants to know of its progress.
type reporterKey struct{}

// A reporter sends what one handler reports.
type reporter struct {
	c *Client
	r *Request

	mu      sync.Mutex // guards the fields below; held while sending, so that nothing is sent after close
	latest  json.RawMessage
	timer   *time.Timer // runs while latest waits to be sent
	last    time.Time   // when something was sent
	already bool        // something was
	closed  bool
}

// withReporter returns ctx for the handler of r, and what to call when it has returned.
func (c *Client) withReporter(ctx context.Context, r *Request) (context.Context, func()) {
	if _, wanted := r.Delivery.user(progressKey); !wanted || r.replyTo == "" {
		return ctx, func() {}
	}
	p := &reporter{c: c, r: r}
	return context.WithValue(ctx, reporterKey{}, p), p.close
}

func (p *reporter) report(value any) {
	raw, err := message.EncodeJSON(value)
	if err != nil {
		_ = p.c.reject(sending, p.r.replyTo, "", err)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.latest = raw
	switch wait := progressGap - time.Since(p.last); {
	case p.timer != nil: // takes the latest when it ends
	case p.already && wait > 0:
		p.timer = time.AfterFunc(wait, p.flush)
	default:
		p.send()
	}
}

func (p *reporter) flush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer = nil
	if !p.closed {
		p.send()
	}
}

// close lets nothing more out.
func (p *reporter) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.timer != nil {
		p.timer.Stop()
	}
}

// send sends the latest value, unless there is no connection: it would come too late. p.mu is held.
func (p *reporter) send() {
	p.last, p.already = time.Now(), true
	if !p.c.Connected() {
		return
	}
	data, err := message.EncodeJSON(struct {
		Progress json.RawMessage `json:"progress"`
	}{p.latest})
	var m message.Message
	if err == nil {
		m, err = message.NewEvent(p.c.id, message.Event{EventType: eventProgress, EventData: data})
	}
	if err != nil {
		_ = p.c.reject(sending, p.r.replyTo, "", err)
		return
	}
	m.Metadata.CorrelationID = p.r.correlation
	_ = p.c.offer(p.r.replyTo, m, WithQoS(1), WithRetain(false), WithExpiry(progressLife),
		func(o *publishing) { o.correlation = p.r.Delivery.CorrelationData })
}

// offer publishes m if there is room for it, and waits for nothing.
func (c *Client) offer(topic string, m message.Message, opts ...PublishOption) error {
	p, err := c.prepare(topic, m, opts)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // a full outbox is not waited for
	return c.submit(ctx, p, false)
}

// progressed takes in what a handler reports, for the call that waits. It never waits: an older value makes room. The error is for
// what is no progress.
func (k *call) progressed(d *Delivery) error {
	if k.progress == nil { // nobody wants to know
		return errUnexpected
	}
	e, err := message.Payload[message.Event](d.Message)
	if err != nil {
		return err
	}
	if e.EventType != eventProgress {
		return errUnexpected
	}
	var data struct {
		Progress json.RawMessage `json:"progress"`
	}
	if json.Unmarshal(e.EventData, &data) != nil || data.Progress == nil {
		return &message.Error{Reason: message.ReasonMissingField, Field: "payload.event_data", Rule: "has no progress"}
	}
	select {
	case <-k.progress:
	default:
	}
	select {
	case k.progress <- data.Progress:
	default:
	}
	return nil
}

// awaitEnd waits for the end of a call, and has its progress told meanwhile. done and late are when ctx ends.
func (c *Client) awaitEnd(ctx context.Context, k *call, o *calling, done <-chan struct{}, late <-chan time.Time) (r callResult, ended bool) {
	for {
		select {
		case r = <-k.result:
			select {
			case v := <-k.progress: // it came first
				o.progress(v)
			default:
			}
			return r, true
		case v := <-k.progress:
			o.progress(v)
			continue
		case <-done:
		case <-late:
		case <-c.dying:
			return r, false
		}
		select {
		case r = <-k.result:
		default:
			r.err = ctx.Err()
		}
		return r, true
	}
}

// EndCalls ends the calls to target that wait for an answer with the code offline and a message: whoever knows that target is
// gone, such as a service that sees the others, spares them the wait. What was sent may have run.
func (c *Client) EndCalls(target, text string) {
	c.calls.mu.Lock()
	defer c.calls.mu.Unlock()
	for _, k := range c.calls.pending {
		if k.target == target {
			k.finish(callResult{err: &CommandError{Service: target, Command: k.command, Code: CodeOffline, Message: text}})
		}
	}
}
