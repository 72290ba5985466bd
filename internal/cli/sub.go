package cli

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
)

// A listening is the flags of sub.
type listening struct {
	dialler
	count    int
	span     time.Duration
	qos      int
	noRetain bool
}

func (t *tool) subVerb() *cobra.Command {
	l := &listening{}
	c := &cobra.Command{
		Use:   "sub FILTER...",
		Short: "Print the messages of topics as they arrive",
		Long: `sub prints what arrives on the topics that match one of the filters: when, on which topic, the type of message, who
sent it, and the payload; with --json, one object per line. An r marks what was retained before. What breaks the wire
format is printed too, with the rule that it breaks. -v says when the subscriptions are in place.
It ends when interrupted, after --count messages, or after --for, and then with code 5 when --count is not reached.`,
		Example: `  lawnberry sub 'sensors/#' 'system/events/+'
  lawnberry sub navigation/position --count 1 --for 5s --json
  lawnberry sub 'absolute:$SYS/#'`,
		Args:              arguments(1, -1, "FILTER"),
		RunE:              func(c *cobra.Command, args []string) error { return l.run(c.Context(), t, args) },
		ValidArgsFunction: t.completeTopics(-1),
	}
	l.flags(c, 0, "give up, with code 5, when nothing has arrived after this long (default never)")
	f := c.Flags()
	f.IntVarP(&l.count, "count", "n", 0, "end after `N` messages")
	f.DurationVar(&l.span, "for", 0, "end after this long")
	f.IntVarP(&l.qos, "qos", "q", 2, "highest quality of service to receive with, `0` to 2")
	f.BoolVar(&l.noRetain, "no-retained", false, "leave out messages that were retained before")
	return c
}

func (l *listening) run(ctx context.Context, t *tool, filters []string) error {
	if l.count < 0 || l.span < 0 {
		return usagef("--count and --for cannot be negative")
	}
	if l.qos < 0 || l.qos > 2 {
		return usagef("--qos %d: want 0, 1 or 2", l.qos)
	}
	o, _, err := l.options(t)
	if err != nil {
		return err
	}
	for _, f := range filters {
		if _, err := o.Topics.Resolve(f); err != nil {
			return err
		}
	}
	c, err := l.connect(ctx, o)
	if err != nil {
		return err
	}
	p := &messagePrinter{t: t, log: o.Logger, colour: t.colour(t.stdout), max: l.count, full: make(chan struct{}), first: make(chan struct{})}
	err = l.listen(ctx, c, filters, p)
	if n := c.Stats().Dropped; n > 0 {
		o.Logger.Warn("messages were dropped: they came faster than the output takes them", "dropped", n)
	}
	if failed := disconnect(c); err == nil {
		err = failed
	}
	return err
}

// listen prints until something ends it.
func (l *listening) listen(ctx context.Context, c *client.Client, filters []string, p *messagePrinter) error {
	confirmed, cancel := context.WithTimeoutCause(ctx, connectTimeout, failf(exitTimeout, "the broker did not confirm the subscription within %s", connectTimeout))
	defer cancel()
	for _, f := range filters {
		_, err := c.Subscribe(confirmed, f, func(_ context.Context, d *client.Delivery) {
			if !d.Retained || !l.noRetain {
				p.print(d)
			}
		}, client.WithMaxQoS(byte(l.qos)), client.WithInvalid())
		if err != nil {
			return because(confirmed, err)
		}
	}
	p.log.Info("subscribed", "filters", filters)
	var over, silent <-chan time.Time
	if l.span > 0 {
		timer := time.NewTimer(l.span)
		defer timer.Stop()
		over = timer.C
	}
	if l.timeout > 0 {
		timer := time.NewTimer(l.timeout)
		defer timer.Stop()
		silent = timer.C
	}
	first := p.first
	for {
		select {
		case <-p.full:
			return p.failed()
		case <-first: // with a count, all of it has to come in time
			first = nil
			if l.count == 0 {
				silent = nil
			}
		case <-silent:
			return p.missing(l.timeout)
		case <-over:
			if l.count > 0 {
				return p.missing(l.span)
			}
			return p.failed()
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(cause, errInterrupted) {
				return cause
			}
			return p.failed() // an interrupt is how sub without an end ends
		}
	}
}

// A messagePrinter prints deliveries, which come from a goroutine per filter, up to a number of them.
type messagePrinter struct {
	t      *tool
	log    *slog.Logger
	colour bool
	max    int           // 0 is no limit
	first  chan struct{} // closed with the first message
	full   chan struct{} // closed with the last

	mu      sync.Mutex // guards what follows, and the order of the output
	printed int
	err     error
}

func (p *messagePrinter) print(d *client.Delivery) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.max > 0 && p.printed == p.max || p.err != nil {
		return
	}
	if p.t.json {
		p.err = writeJSONLine(p.t.stdout, newRecord(d))
	} else {
		p.err = p.line(d)
	}
	p.printed++
	if p.printed == 1 {
		close(p.first)
	}
	if p.printed == p.max || p.err != nil {
		close(p.full)
	}
}

// failed returns what went wrong with the output.
func (p *messagePrinter) failed() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// missing is the error of too few messages within d.
func (p *messagePrinter) missing(d time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.max > 0 {
		return failf(exitTimeout, "%d of %d messages within %s", p.printed, p.max, d)
	}
	return failf(exitTimeout, "no message within %s", d)
}

// line prints a delivery for people.
func (p *messagePrinter) line(d *client.Delivery) error {
	kind, sender, kindStyle := string(d.Message.Metadata.Type), d.Message.Metadata.Sender, cyan
	switch {
	case d.Invalid != nil:
		kind, kindStyle = "invalid", red
	case d.Message.Raw:
		kind, kindStyle = "raw", dim
	}
	if kind == string(message.TypeAlert) {
		kindStyle = yellow
	}
	mark := " "
	if d.Retained {
		mark = "r"
	}
	body := compact(d.Message.Payload)
	switch {
	case !utf8.ValidString(body):
		body = fmt.Sprintf("(%d bytes) %x", len(body), body)
	case len(body) == 0:
		body = "(empty)"
	}
	if d.Invalid != nil {
		body = d.Invalid.Error() + ": " + body
	}
	_, err := fmt.Fprintf(p.t.stdout, "%s %s %s %s %s %s\n",
		paint(p.colour, dim, d.Received.Format("15:04:05.000")), paint(p.colour, dim, mark),
		paint(p.colour, bold, fmt.Sprintf("%-28s", printable(d.Topic))),
		paint(p.colour, kindStyle, fmt.Sprintf("%-11s", kind)), fmt.Sprintf("%-18s", printable(sender)), printable(body))
	return err
}

// A record is a delivery as JSON.
type record struct {
	Time            time.Time       `json:"time"` // of receipt
	Topic           string          `json:"topic"`
	QoS             byte            `json:"qos"`
	Retained        bool            `json:"retained"`
	Dup             bool            `json:"dup,omitempty"`
	Metadata        *metadata       `json:"metadata,omitempty"` // absent from a raw message
	Payload         json.RawMessage `json:"payload"`            // of a raw message: its JSON, else its text
	Base64          []byte          `json:"payload_base64,omitempty"`
	Invalid         string          `json:"invalid,omitempty"` // the rule of the wire format that it breaks
	ResponseTopic   string          `json:"response_topic,omitempty"`
	CorrelationData string          `json:"correlation_data,omitempty"` // as text, or in base64
	ContentType     string          `json:"content_type,omitempty"`
	User            [][2]string     `json:"user_properties,omitempty"`
	Expiry          float64         `json:"expires_in,omitempty"` // seconds
}

// metadata is the envelope's, by its names on the wire.
type metadata struct {
	Timestamp     float64  `json:"timestamp"`
	ID            string   `json:"message_id"`
	Sender        string   `json:"sender"`
	Type          string   `json:"message_type"`
	Priority      int      `json:"priority"`
	CorrelationID *string  `json:"correlation_id"`
	ExpiresAt     *float64 `json:"expires_at"`
	RetryCount    int      `json:"retry_count"`
}

func newRecord(d *client.Delivery) record {
	r := record{
		Time: d.Received, Topic: d.Topic, QoS: d.QoS, Retained: d.Retained, Dup: d.Dup,
		ResponseTopic: d.ResponseTopic, CorrelationData: asText(d.CorrelationData), ContentType: d.ContentType,
		User: d.User, Expiry: d.Expiry.Seconds(),
	}
	if d.Invalid != nil {
		r.Invalid = d.Invalid.Error()
	}
	body := d.Message.Payload
	switch {
	case json.Valid(body):
		r.Payload = body
	case utf8.Valid(body):
		r.Payload, _ = encodeJSON(string(body), "") // a valid string always encodes
	default:
		r.Base64 = body
	}
	if m := d.Message.Metadata; !d.Message.Raw {
		r.Metadata = &metadata{Timestamp: m.Timestamp, ID: m.ID, Sender: m.Sender, Type: string(m.Type), Priority: int(m.Priority), RetryCount: m.RetryCount}
		if m.CorrelationID != "" {
			r.Metadata.CorrelationID = &m.CorrelationID
		}
		if m.ExpiresAt != 0 {
			r.Metadata.ExpiresAt = &m.ExpiresAt
		}
	}
	return r
}

// asText returns bytes as they are when they are text, and else in base64.
func asText(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	return base64.StdEncoding.EncodeToString(b)
}
