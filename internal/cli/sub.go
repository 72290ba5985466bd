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
	retained bool // the same the other way round

	selection
	// show prints a delivery, and reports whether it did: what it does not print is not counted. nil prints what is selected.
	show func(d *client.Delivery) (bool, error)
}

func (t *tool) subVerb() *cobra.Command {
	l := &listening{}
	c := &cobra.Command{
		Use:   "sub FILTER...",
		Short: "Print the messages of topics as they arrive",
		Long: `sub prints what arrives on the topics that match one of the filters: when, on which topic, the type of message, who
sent it, and the payload; with --json, one object per line. An r marks what was retained before. What breaks the wire
format is printed too, with the rule that it breaks. -v says when the subscriptions are in place.
It ends when interrupted, after --count messages, or after --for, and then with code 5 when --count is not reached.

--sender, --type and --priority choose messages by their metadata; what has none is left out then. --field prints nothing but values, with tabs
between, and nothing for a message that has none of them. A --template sees .Topic, .Payload, .Metadata (Timestamp, ID, Sender, Type, Priority and
so on), .QoS, .Retained and .Received, and has a function json. --count counts what is printed.`,
		Example: `  lawnberry sub 'sensors/#' 'system/events/+'
  lawnberry sub sensors/weather/data --field time --field payload.data.temperature
  lawnberry sub '#' --type alert --type event --priority high
  lawnberry sub 'sensors/#' --template '{{.Metadata.Sender}} {{json .Payload.data}}'
  lawnberry sub navigation/position --count 1 --for 5s --json
  lawnberry sub 'absolute:$SYS/#'`,
		Args: arguments(1, -1, "FILTER"),
		RunE: func(c *cobra.Command, args []string) error {
			if c.Flags().Changed("since-retained") {
				if l.noRetain && l.retained {
					return usagef("--since-retained and --no-retained exclude each other")
				}
				l.noRetain = !l.retained
			}
			return l.run(c.Context(), t, args)
		},
		ValidArgsFunction: t.completeTopics(-1),
	}
	l.ending(c, "messages")
	l.selection.flags(c)
	f := c.Flags()
	f.IntVarP(&l.qos, "qos", "q", 2, "highest quality of service to receive with, `0` to 2")
	f.BoolVar(&l.retained, "since-retained", true, "begin with the messages that were retained before; it does unless told not to")
	f.BoolVar(&l.noRetain, "no-retained", false, "leave out messages that were retained before")
	return c
}

// ending adds the flags that say when to end, and with which broker.
func (l *listening) ending(c *cobra.Command, what string) {
	l.dialler.flags(c, 0, "give up, with code 5, when nothing has arrived after this long (default never)")
	c.Flags().IntVarP(&l.count, "count", "n", 0, "end after `N` "+what)
	c.Flags().DurationVar(&l.span, "for", 0, "end after this long")
}

func (l *listening) run(ctx context.Context, t *tool, filters []string) error {
	if l.count < 0 || l.span < 0 {
		return usagef("--count and --for cannot be negative")
	}
	if l.qos < 0 || l.qos > 2 {
		return usagef("--qos %d: want 0, 1 or 2", l.qos)
	}
	if err := l.check(); err != nil {
		return err
	}
	o, _, err := l.options(t)
	if err != nil {
		return err
	}
	show := l.show
	if show == nil {
		if show, err = l.shower(t, o.Logger); err != nil {
			return err
		}
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
	err = l.listen(ctx, c, filters, l.printer(show, o.Logger))
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
	log   *slog.Logger
	show  func(d *client.Delivery) (bool, error)
	max   int           // 0 is no limit
	first chan struct{} // closed with the first message
	full  chan struct{} // closed with the last

	mu      sync.Mutex // guards what follows, and the order of the output
	printed int
	err     error
}

func (l *listening) printer(show func(d *client.Delivery) (bool, error), log *slog.Logger) *messagePrinter {
	return &messagePrinter{log: log, show: show, max: l.count, full: make(chan struct{}), first: make(chan struct{})}
}

func (p *messagePrinter) print(d *client.Delivery) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.max > 0 && p.printed == p.max || p.err != nil {
		return
	}
	var shown bool
	if shown, p.err = p.show(d); !shown && p.err == nil {
		return
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

// showMessage prints a delivery, for people or as JSON.
func (t *tool) showMessage(d *client.Delivery) (bool, error) {
	if t.json {
		return true, writeJSONLine(t.stdout, newRecord(d))
	}
	return true, t.line(d)
}

// line prints a delivery for people.
func (t *tool) line(d *client.Delivery) error {
	colour := t.colour(t.stdout)
	kind, body := inWords(d)
	mark := " "
	if d.Retained {
		mark = "r"
	}
	_, err := fmt.Fprintf(t.stdout, "%s %s %s %s %s %s\n",
		paint(colour, dim, d.Received.Format("15:04:05.000")), paint(colour, dim, mark),
		paint(colour, bold, fmt.Sprintf("%-28s", printable(d.Topic))),
		paint(colour, kind.style, fmt.Sprintf("%-11s", kind.text)), fmt.Sprintf("%-18s", printable(d.Message.Metadata.Sender)), printable(body))
	return err
}

// inWords returns what a delivery is, and what is in it.
func inWords(d *client.Delivery) (kind cell, body string) {
	kind = cell{string(d.Message.Metadata.Type), cyan}
	switch {
	case d.Invalid != nil:
		kind = cell{"invalid", red}
	case d.Message.Raw:
		kind = cell{"raw", dim}
	case d.Message.Metadata.Type == message.TypeAlert:
		kind.style = yellow
	}
	body = compact(d.Message.Payload)
	switch {
	case !utf8.ValidString(body):
		body = fmt.Sprintf("(%d bytes) %x", len(body), body)
	case len(body) == 0:
		body = "(empty)"
	}
	if d.Invalid != nil {
		body = d.Invalid.Error() + ": " + body
	}
	return kind, body
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
