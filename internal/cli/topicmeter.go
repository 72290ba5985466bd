package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/client"
)

// maxMetered is how many topics a meter keeps apart.
const maxMetered = 1000

// A quantity is what a meter measures of messages.
type quantity struct {
	verb, short, long string
	unit              string // of the values
	perSecond         string // the header of what comes in a second; "" shows none
	// of returns the value of a message. ok is false when it has none; before is when the message before came on that topic, zero for the first.
	of func(d *client.Delivery, before time.Time) (value float64, ok bool)
	// rate is what comes in a second.
	rate func(m *measured, span time.Duration) float64
}

// hz measures how often messages come, by the time between two.
func hz() quantity {
	return quantity{
		verb: "hz", short: "Measure how often messages come", unit: "ms", perSecond: "HZ",
		long: "HZ is how many messages come in a second; MIN, MEAN, MAX and STDDEV are the milliseconds between two of a topic.",
		of: func(d *client.Delivery, before time.Time) (float64, bool) {
			return inMilliseconds(d.Received.Sub(before)), !before.IsZero()
		},
		rate: func(m *measured, _ time.Duration) float64 {
			if between := m.last.Sub(m.first).Seconds(); between > 0 {
				return float64(m.count-1) / between
			}
			return 0
		},
	}
}

// bandwidth measures the payloads as they come over the wire.
func bandwidth() quantity {
	return quantity{
		verb: "bw", short: "Measure how many bytes messages take", unit: "bytes", perSecond: "BYTES/S",
		long: `BYTES/S is what comes in a second since the subscription; MIN, MEAN, MAX and STDDEV are the bytes of a payload, as it comes: compressed,
where it is.`,
		of:   func(d *client.Delivery, _ time.Time) (float64, bool) { return float64(d.Size), true },
		rate: func(m *measured, span time.Duration) float64 { return m.values.sum() / span.Seconds() },
	}
}

// delay measures how old messages are when they come.
func delay() quantity {
	return quantity{
		verb: "delay", short: "Measure how old messages are when they come", unit: "ms",
		long: `MIN, MEAN, MAX and STDDEV are the milliseconds from the timestamp in a message's metadata to its receipt, so that they hold as far as the two
clocks agree: a negative delay is a clock that is ahead. Messages without
metadata, or that are refused as invalid or too old, are counted apart.`,
		of: func(d *client.Delivery, _ time.Time) (float64, bool) {
			at := d.Message.Metadata.Timestamp
			return inMilliseconds(d.Received.Sub(d.Message.Metadata.Time())), d.Invalid == nil && !d.Message.Raw && at > 0
		},
	}
}

func inMilliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// A spread is the distribution of values, of which none is kept.
type spread struct {
	n              int
	mean, squares  float64 // squares is the sum of the squared distances from the mean
	lowest, utmost float64
}

func (s *spread) add(v float64) {
	if s.n++; s.n == 1 {
		s.lowest, s.utmost = v, v
	}
	s.lowest, s.utmost = min(s.lowest, v), max(s.utmost, v)
	off := v - s.mean
	s.mean += off / float64(s.n)
	s.squares += off * (v - s.mean)
}

func (s *spread) sum() float64 { return s.mean * float64(s.n) }

// deviation is the standard deviation of the values.
func (s *spread) deviation() float64 {
	if s.n == 0 {
		return 0
	}
	return math.Sqrt(s.squares / float64(s.n))
}

// A measured is a topic with what was measured on it.
type measured struct {
	count       int // of messages
	first, last time.Time
	values      spread
}

// take counts a message that came at a time, and its value if it has one.
func (p *measured) take(at time.Time, value float64, ok bool) {
	if p.count++; p.count == 1 {
		p.first = at
	}
	p.last = at
	if ok {
		p.values.add(value)
	}
}

// A meter is the flags of a verb that measures, and what it has measured.
type meter struct {
	dialler
	quantity
	span, every time.Duration
	limit       int

	full  chan struct{} // closed when limit messages have come
	heard chan struct{} // closed with the first message

	mu      sync.Mutex // guards what follows
	began   time.Time
	count   int
	without int // messages that have no such value
	others  int // messages of topics beyond maxMetered
	topics  map[string]*measured
}

func (t *tool) topicMeter(q quantity) *cobra.Command {
	m := &meter{quantity: q, full: make(chan struct{}), heard: make(chan struct{}), topics: map[string]*measured{}}
	c := &cobra.Command{
		Use:   q.verb + " FILTER",
		Short: q.short,
		Long: fmt.Sprintf(`%s measures what arrives on each topic that the filter matches; messages that were retained before are left out. On a terminal the table is drawn
anew each second. It ends when interrupted, after --count messages, or after --for, and then with code 5 when --count is not
reached; and prints the last table.

%s`, q.verb, q.long),
		Example: fmt.Sprintf("  lawnberry topic %s 'sensors/#'\n  lawnberry topic %[1]s sensors/gps/data --for 10s --json", q.verb),
		Args:    arguments(1, 1, "FILTER"),
		RunE: func(c *cobra.Command, args []string) error {
			if m.limit < 0 || m.span < 0 || m.every < 0 {
				return usagef("--count, --for and --every cannot be negative")
			}
			return m.run(c.Context(), t, args[0])
		},
		ValidArgsFunction: t.completeTopics(1),
	}
	m.flags(c, 0, "give up, with code 5, when nothing has arrived after this long (default never)")
	c.Flags().IntVarP(&m.limit, "count", "n", 0, "end after `N` messages")
	c.Flags().DurationVar(&m.span, "for", 0, "end after this long")
	c.Flags().DurationVar(&m.every, "every", 0, "print the table each time this long has passed, with --json as a line (default on a terminal 1s, else at the end alone)")
	return c
}

func (m *meter) run(ctx context.Context, t *tool, filter string) error {
	o, _, err := m.options(t)
	if err != nil {
		return err
	}
	if _, err := o.Topics.Resolve(filter); err != nil {
		return err
	}
	c, err := m.connect(ctx, o)
	if err != nil {
		return err
	}
	err = m.measure(ctx, t, c, o.Logger, filter)
	if n := c.Stats().Dropped; n > 0 {
		o.Logger.Warn("messages were dropped: they came faster than they could be counted", "dropped", n)
	}
	if failed := disconnect(c); err == nil {
		err = failed
	}
	return err
}

func (m *meter) measure(ctx context.Context, t *tool, c *client.Client, log *slog.Logger, filter string) error {
	confirmed, cancel := context.WithTimeoutCause(ctx, connectTimeout, failf(exitTimeout, "the broker did not confirm the subscription within %s", connectTimeout))
	defer cancel()
	m.began = time.Now()
	if _, err := c.Subscribe(confirmed, filter, func(_ context.Context, d *client.Delivery) { m.take(d) }, client.WithInvalid()); err != nil {
		return because(confirmed, err)
	}
	log.Info("subscribed", "filter", filter)
	live := isTerminal(t.stdout) && !t.json && m.every == 0
	every := m.every
	if live {
		every = time.Second
		fmt.Fprint(t.stdout, enterScreen)
	}
	err := m.wait(ctx, every, func() error {
		if live {
			return m.draw(t)
		}
		return m.print(t)
	})
	if live {
		fmt.Fprint(t.stdout, leaveScreen)
	}
	if failed := m.print(t); err == nil {
		err = failed
	}
	return err
}

// wait calls show each time that every has passed, until something ends the measuring.
func (m *meter) wait(ctx context.Context, every time.Duration, show func() error) error {
	var tick <-chan time.Time
	if every > 0 {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		tick = ticker.C
	}
	over, stopOver := after(m.span)
	defer stopOver()
	silent, stopSilent := after(m.timeout)
	defer stopSilent()
	heard := m.heard
	for {
		select {
		case <-m.full:
			return nil
		case <-heard: // with a count, all of it has to come in time
			heard = nil
			if m.limit == 0 {
				silent = nil
			}
		case <-silent:
			return m.missing(m.timeout)
		case <-over:
			if m.limit > 0 {
				return m.missing(m.span)
			}
			return nil
		case <-tick:
			if err := show(); err != nil {
				return err
			}
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(cause, errInterrupted) {
				return cause
			}
			return nil
		}
	}
}

// after returns a channel that tells once d has passed, never for 0, and what frees it.
func after(d time.Duration) (<-chan time.Time, func()) {
	if d <= 0 {
		return nil, func() {}
	}
	timer := time.NewTimer(d)
	return timer.C, func() { timer.Stop() }
}

// missing is the error of too few messages within d.
func (m *meter) missing(d time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.limit > 0 {
		return failf(exitTimeout, "%d of %d messages within %s", m.count, m.limit, d)
	}
	return failf(exitTimeout, "no message within %s", d)
}

// take counts a message.
func (m *meter) take(d *client.Delivery) {
	if d.Retained {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.limit > 0 && m.count == m.limit {
		return
	}
	name := d.Topic
	p := m.topics[name]
	var before time.Time
	if p != nil {
		before = p.last
	}
	value, ok := m.of(d, before)
	switch {
	case !ok && m.verb != "hz": // the first message of a topic has no time since the one before, and counts
		m.without++
		return
	case p == nil && len(m.topics) == maxMetered:
		m.others++
		return
	case p == nil:
		p = &measured{}
		m.topics[name] = p
	}
	p.take(d.Received, value, ok)
	if m.count++; m.count == 1 {
		close(m.heard)
	}
	if m.count == m.limit {
		close(m.full)
	}
}

// A topicMeasure is a topic's line of a meter as JSON.
type topicMeasure struct {
	Topic     string   `json:"topic"`
	Count     int      `json:"count"`
	PerSecond *float64 `json:"per_second,omitempty"`
	Min       *float64 `json:"min"` // null while there is no value
	Mean      *float64 `json:"mean"`
	Max       *float64 `json:"max"`
	Deviation *float64 `json:"stddev"`
}

// A measurement is what a meter says with --json.
type measurement struct {
	What    string         `json:"what"`
	Unit    string         `json:"unit"` // of min, mean, max and stddev
	Seconds float64        `json:"seconds"`
	Topics  []topicMeasure `json:"topics"`
	Without int            `json:"without_value,omitempty"` // messages
	Others  int            `json:"others,omitempty"`        // messages of topics beyond those
}

// result returns what was measured, sorted by topic.
func (m *meter) result() measurement {
	m.mu.Lock()
	defer m.mu.Unlock()
	span := time.Since(m.began)
	r := measurement{What: m.verb, Unit: m.unit, Seconds: span.Seconds(), Topics: []topicMeasure{}, Without: m.without, Others: m.others}
	for _, name := range slices.Sorted(maps.Keys(m.topics)) {
		p := m.topics[name]
		line := topicMeasure{Topic: name, Count: p.count}
		if m.rate != nil {
			perSecond := m.rate(p, span)
			line.PerSecond = &perSecond
		}
		if v := p.values; v.n > 0 {
			deviation := v.deviation()
			line.Min, line.Mean, line.Max, line.Deviation = &v.lowest, &v.mean, &v.utmost, &deviation
		}
		r.Topics = append(r.Topics, line)
	}
	return r
}

func (m *meter) print(t *tool) error {
	r := m.result()
	switch {
	case t.json && m.every > 0:
		return writeJSONLine(t.stdout, r)
	case t.json:
		return writeJSON(t.stdout, r)
	}
	var b strings.Builder
	m.table(&b, r, t.colour(t.stdout))
	_, err := fmt.Fprint(t.stdout, b.String())
	return err
}

// draw shows what was measured so far in place of what the screen showed.
func (m *meter) draw(t *tool) error {
	r := m.result()
	var b strings.Builder
	m.table(&b, r, t.colour(t.stdout))
	width, height := t.screenSize()
	lines := []string{fmt.Sprintf("topic %s, %s", m.verb, shortDuration(time.Duration(r.Seconds*float64(time.Second))))}
	lines = append(lines, strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")...)
	if len(lines) > height {
		lines = append(lines[:max(0, height-1)], fmt.Sprintf("and %d more lines", len(lines)-height+1))
	}
	for i := range lines {
		lines[i] = fit(lines[i], width)
	}
	t.draw(lines)
	return nil
}

func (m *meter) table(b *strings.Builder, r measurement, colour bool) {
	if len(r.Topics) == 0 {
		fmt.Fprintln(b, "no messages")
	} else {
		unit := " (" + strings.ToUpper(r.Unit) + ")"
		header := []string{"TOPIC", "COUNT"}
		if m.perSecond != "" {
			header = append(header, m.perSecond)
		}
		rows := table{header: append(header, "MIN"+unit, "MEAN", "MAX", "STDDEV")}
		for _, l := range r.Topics {
			cells := []cell{text(l.Topic), text(fmt.Sprint(l.Count))}
			if m.perSecond != "" {
				cells = append(cells, text(fmt.Sprintf("%.2f", *l.PerSecond)))
			}
			for _, v := range []*float64{l.Min, l.Mean, l.Max, l.Deviation} {
				shown := "-"
				if v != nil {
					shown = fmt.Sprintf("%.2f", *v)
				}
				cells = append(cells, text(shown))
			}
			rows.add(cells...)
		}
		rows.write(b, colour)
	}
	if r.Without > 0 {
		fmt.Fprintf(b, "%d messages without metadata, or refused as invalid or too old\n", r.Without)
	}
	if r.Others > 0 {
		fmt.Fprintf(b, "%d messages of further topics\n", r.Others)
	}
}
