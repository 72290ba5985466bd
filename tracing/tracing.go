// Package tracing sends what clients and services do to an OpenTelemetry collector, as spans, by OTLP over HTTP.
//
// A [Tracer] is what [client.Options].Tracer wants. Messages carry the trace that they belong to in the user properties traceparent and
// tracestate (W3C Trace Context), so that a command, what its handler publishes, and what becomes of that are one tree, whatever
// programs and languages are in it. Over MQTT 3.1.1, which has no user properties, a trace ends.
//
// Nothing waits for the collector: spans are collected in a bounded queue and sent in batches by one goroutine. What does not fit into the queue or
// cannot be sent is lost and counted.
package tracing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lawnberry/lawnberry/client"
)

const (
	defaultQueue = 2048
	maxBatch     = 512
	batchDelay   = time.Second     // the longest that a span waits for others
	sendTimeout  = 5 * time.Second // of one request
	stopTimeout  = time.Second     // of what Stop still sends
)

// Options configure a Tracer. The zero value samples nothing and sends nothing: it passes traces on.
type Options struct {
	Service string // service.name of the spans; "" is lawnberry
	Version string // service.version; "" is left out
	// Endpoint is the http or https URL of the collector, such as http://localhost:4318; without a path /v1/traces is added. "" sends nothing.
	Endpoint string
	// SampleRatio is the share of the traces that begin here which is recorded, 0 to 1. Of a trace that came with a message, the message
	// says whether it is recorded.
	SampleRatio float64
	Queue       int          // spans that wait to be sent; 0 is 2,048
	Logger      *slog.Logger // nil is discarded; told once when the collector cannot be reached, and once when it can again
}

// A Tracer makes spans and sends them. Its methods may be called concurrently.
type Tracer struct {
	o       Options
	queue   chan *span // nil without an endpoint
	sender  *sender
	cancel  context.CancelFunc // of what is being sent
	stop    chan struct{}      // closed by Stop
	stopped sync.Once
	done    chan struct{} // closed when nothing is sent any more
	dropped atomic.Uint64
	sent    atomic.Uint64
}

var _ client.Tracer = (*Tracer)(nil)

// Start returns a Tracer, or an error about an option. It does not look whether the collector is there. Stop has to be called.
func Start(o Options) (*Tracer, error) {
	if !(o.SampleRatio >= 0 && o.SampleRatio <= 1) {
		return nil, fmt.Errorf("sample ratio %g: must be 0 to 1", o.SampleRatio)
	}
	if o.Service == "" {
		o.Service = "lawnberry"
	}
	if o.Queue <= 0 {
		o.Queue = defaultQueue
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	t := &Tracer{o: o, stop: make(chan struct{}), done: make(chan struct{})}
	if o.Endpoint == "" {
		close(t.done)
		return t, nil
	}
	target, err := CheckEndpoint(o.Endpoint)
	if err != nil {
		return nil, err
	}
	life, cancel := context.WithCancel(context.Background())
	t.cancel, t.queue, t.sender = cancel, make(chan *span, o.Queue), newSender(target, o)
	go t.run(life)
	return t, nil
}

// CheckEndpoint returns the URL that spans are posted to, or an error when text is no URL of a collector.
func CheckEndpoint(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Hostname() == "" {
		return "", errors.New("must be an http or https URL, such as http://localhost:4318")
	}
	if u.User != nil {
		return "", errors.New("must not contain a user name or a password, which would be shown")
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/v1/traces"
	}
	return u.String(), nil
}

// Stats are figures of a Tracer.
type Stats struct {
	Sent    uint64 // spans that the collector took
	Dropped uint64 // spans that were lost: the queue was full, or the collector could not be reached
}

// Stats returns what has become of the spans so far.
func (t *Tracer) Stats() Stats { return Stats{Sent: t.sent.Load(), Dropped: t.dropped.Load()} }

// Stop sends what waits, for a second and as long as ctx allows, and ends. Spans that end later are lost. It is idempotent.
func (t *Tracer) Stop(ctx context.Context) error {
	t.stopped.Do(func() { close(t.stop) })
	late := time.NewTimer(stopTimeout)
	defer late.Stop()
	select {
	case <-t.done:
	case <-late.C:
	case <-ctx.Done():
	}
	if t.cancel != nil {
		t.cancel()
	}
	<-t.done // soon now: the request is over
	return nil
}

// run is the goroutine that sends.
func (t *Tracer) run(ctx context.Context) {
	defer close(t.done)
	defer t.sender.close()
	batch := make([]*span, 0, maxBatch)
	delay := time.NewTimer(batchDelay)
	defer delay.Stop()
	for {
		select {
		case s := <-t.queue:
			if len(batch) == 0 {
				delay.Reset(batchDelay)
			}
			if batch = append(batch, s); len(batch) < maxBatch {
				continue
			}
		case <-delay.C:
		case <-t.stop:
			for more := true; more; {
				select {
				case s := <-t.queue:
					batch = append(batch, s)
				default:
					more = false
				}
			}
			t.send(ctx, batch)
			return
		}
		t.send(ctx, batch)
		clear(batch)
		batch = batch[:0]
	}
}

func (t *Tracer) send(ctx context.Context, batch []*span) {
	for len(batch) > 0 {
		n := min(len(batch), maxBatch)
		if t.sender.post(ctx, batch[:n]) {
			t.sent.Add(uint64(n))
		} else {
			t.dropped.Add(uint64(n))
		}
		batch = batch[n:]
	}
}

// enqueue takes a span that has ended. It does not wait.
func (t *Tracer) enqueue(s *span) {
	select {
	case <-t.stop:
		t.dropped.Add(1)
		return
	default:
	}
	select {
	case t.queue <- s:
	default:
		t.dropped.Add(1)
	}
}

// StartSpan implements [client.Tracer].
func (t *Tracer) StartSpan(ctx context.Context, kind client.SpanKind, what client.Traced, parent, state string) (context.Context, client.Span) {
	s := &span{t: t, kind: kind, what: what}
	return t.begin(ctx, s, parent, state)
}

// Begin begins a span of the program's own, named name, the child of the one that ctx carries or the first of a new trace. End must be called.
func (t *Tracer) Begin(ctx context.Context, name string) (context.Context, client.Span) {
	return t.begin(ctx, &span{t: t, own: name}, "", "")
}

func (t *Tracer) begin(ctx context.Context, s *span, parent, state string) (context.Context, client.Span) {
	from, ok := parse(parent, state)
	if ok {
		from.remote = true
	} else {
		from, ok = ctx.Value(placeKey{}).(place)
	}
	if ok {
		s.place, s.parent, s.remote = from, from.span, from.remote
		s.place.remote = false
	} else {
		for s.place.trace == [16]byte{} {
			fill(s.place.trace[:])
		}
		if t.o.SampleRatio > 0 && rand.Float64() < t.o.SampleRatio {
			s.place.flags = sampled
		}
	}
	s.place.span = [8]byte{}
	for s.place.span == [8]byte{} {
		fill(s.place.span[:])
	}
	if s.recorded() {
		s.began = time.Now()
	}
	return context.WithValue(ctx, placeKey{}, s.place), s
}

// fill fills b with random bytes.
func fill(b []byte) {
	for i := range b {
		if i%8 == 0 {
			r := rand.Uint64()
			for k := i; k < min(i+8, len(b)); k++ {
				b[k] = byte(r >> (8 * (k - i)))
			}
		}
	}
}
