package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/lawnberry/lawnberry/message"
)

// A HistoryQuery says what is wanted of the history.
type HistoryQuery struct {
	Mowers  []string  // none is all
	Filters []string  // of topics; none is all
	Since   time.Time // zero is the beginning
	Until   time.Time // zero is now
	// Limit keeps the last so many, sorted by time; 0 is all, as they were stored.
	Limit int
	// Follow goes on with what comes. Until is of no account then.
	Follow bool
	// Patience is how long nothing may come while there should be something, until it ends with ErrSilent; 0 is until ctx ends.
	Patience time.Duration
}

// ErrSilent: the engine has not sent what it has.
var ErrSilent = errors.New("the engine has not sent what it has: its cluster may have no majority")

// A Record is a message of the history.
type Record struct {
	Mower   string          `json:"mower"`
	Topic   string          `json:"topic"`
	Time    time.Time       `json:"time"`              // when the mower had it, by its clock
	Stored  time.Time       `json:"stored"`            // when the engine had it
	Message json.RawMessage `json:"message,omitempty"` // what was said on the mower's bus; as a text in JSON where it is no JSON itself
	Problem string          `json:"problem,omitempty"` // why there is no message
}

// Bounds of a record, which any mower can make.
const (
	maxBatch      = 16 << 20 // bytes, inflated
	maxBatchLines = 100_000
	maxHistory    = 1_000_000 // messages that a limit may ask for
	clockError    = 10 * time.Minute
)

// A source is a stream that is read.
type source struct {
	stream string
	items  chan item
}

// An item is a record as it is stored, or the end of what there was.
type item struct {
	subject string
	headers nats.Header
	body    []byte
	stored  time.Time
	end     bool
	err     error
}

// History reads messages of the history, and ends after an error or with ctx. Those of one topic of one mower come in their order. Batches are
// unpacked. A message counts by the time when the mower had it, so one that came late, after an outage, is in its place.
//
// It survives the loss of connections and servers, and goes on where it was.
func History(ctx context.Context, js jetstream.JetStream, q HistoryQuery) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		ctx, end := context.WithCancel(ctx)
		var work sync.WaitGroup
		defer work.Wait()
		defer end()
		sources, err := q.open(ctx, js, &work)
		if err != nil {
			yield(Record{}, err)
			return
		}
		if err := q.read(ctx, sources, yield); err != nil && !errors.Is(err, errStopped) {
			yield(Record{}, err)
		}
	}
}

// errStopped: the caller wants no more.
var errStopped = errors.New("stopped")

// subjects returns what is to be read.
func (q HistoryQuery) subjects() ([]string, error) {
	mowers, filters := q.Mowers, q.Filters
	if len(mowers) == 0 {
		mowers = []string{"*"}
	}
	if len(filters) == 0 {
		filters = []string{"#"}
	}
	var subjects []string
	for _, m := range mowers {
		if m != "*" {
			if err := CheckMower(m); err != nil {
				return nil, err
			}
		}
		for _, f := range filters {
			if f == "" {
				return nil, errors.New("a filter of topics is empty")
			}
			subjects = append(subjects, subjectRoot+"."+m+"."+FilterTokens(f))
		}
	}
	return withoutCovered(subjects), nil
}

// open starts to read the streams that have what is wanted.
func (q HistoryQuery) open(ctx context.Context, js jetstream.JetStream, work *sync.WaitGroup) ([]*source, error) {
	if q.Limit < 0 || q.Limit > maxHistory {
		return nil, fmt.Errorf("want a limit of up to %d messages", maxHistory)
	}
	subjects, err := q.subjects()
	if err != nil {
		return nil, err
	}
	var streams []jetstream.StreamConfig
	for began, pause := time.Now(), firstPause; ; pause = min(2*pause, longestPause) {
		if streams, err = listStreams(ctx, js); err == nil {
			break
		}
		if ctx.Err() != nil || time.Since(began) > steadyTime || errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, nats.ErrPermissionViolation) {
			return nil, fmt.Errorf("the engine's streams cannot be listed: %w", err)
		}
		select {
		case <-time.After(pause): // it is electing, perhaps
		case <-ctx.Done():
		}
	}
	var sources []*source
	for _, cfg := range streams {
		if cfg.Retention == jetstream.WorkQueuePolicy || cfg.Mirror != nil {
			continue // jobs that nobody but the mower may take, and copies
		}
		wanted := overlapping(subjects, cfg.Subjects)
		if len(wanted) == 0 {
			continue
		}
		s := &source{stream: cfg.Name, items: make(chan item, 64)}
		sources = append(sources, s)
		work.Go(func() { q.follow(ctx, js, s, wanted) })
	}
	if sources == nil {
		return nil, fmt.Errorf("the engine has no stream for %s: it was not set up for a fleet, or these credentials are of another account", strings.Join(subjects, ", "))
	}
	return sources, nil
}

// listStreams returns the streams that have something of mowers.
func listStreams(ctx context.Context, js jetstream.JetStream) (all []jetstream.StreamConfig, err error) {
	listing, end := context.WithTimeout(ctx, 2*requestTime) // a question or an answer may be lost with a node, and ctx may last
	defer end()
	names := js.StreamNames(listing, jetstream.WithStreamListSubject(subjectRoot+".>"))
	for name := range names.Name() {
		request, cancel := context.WithTimeout(ctx, requestTime)
		s, failed := js.Stream(request, name)
		cancel()
		switch {
		case errors.Is(failed, jetstream.ErrStreamNotFound): // removed meanwhile
		case failed != nil:
			err = fmt.Errorf("stream %s: %w", name, failed)
		default:
			all = append(all, s.CachedInfo().Config)
		}
	}
	if failed := names.Err(); failed != nil && !errors.Is(failed, jetstream.ErrEndOfData) {
		err = failed
	}
	return all, err
}

// overlapping returns the subjects that a stream may have something of.
func overlapping(subjects, stream []string) []string {
	var found []string
	for _, s := range subjects {
		if slices.ContainsFunc(stream, func(have string) bool { return overlap(strings.Split(s, "."), strings.Split(have, ".")) }) {
			found = append(found, s)
		}
	}
	return found
}

// overlap reports whether there is a subject that both select.
func overlap(a, b []string) bool {
	for i := 0; ; i++ {
		switch {
		case i == len(a) || i == len(b):
			return len(a) == len(b)
		case a[i] == ">" || b[i] == ">":
			return true
		case a[i] != "*" && b[i] != "*" && a[i] != b[i]:
			return false
		}
	}
}

// follow hands on what a stream has, until all that was there has been, or for ever.
func (q HistoryQuery) follow(ctx context.Context, js jetstream.JetStream, s *source, subjects []string) {
	send := func(i item) error {
		select {
		case s.items <- i:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	c := &consumer{js: js, stream: s.stream, filters: subjects, policy: jetstream.DeliverAllPolicy}
	if !q.Since.IsZero() {
		since := q.Since.Add(-clockError) // by the mower's clock
		c.policy, c.start = jetstream.DeliverByStartTimePolicy, &since
	}
	ended := false
	c.complete = func() error {
		if !ended {
			ended = true
			if err := send(item{end: true}); err != nil {
				return err
			}
		}
		if !q.Follow {
			return errStopped
		}
		return nil
	}
	for pause := firstPause; ; {
		err := c.run(ctx, func(msg jetstream.Msg, about *jetstream.MsgMetadata) error {
			pause = firstPause
			err := send(item{subject: msg.Subject(), headers: msg.Headers(), body: msg.Data(), stored: about.Timestamp})
			if err == nil {
				c.policy, c.sequence, c.start = jetstream.DeliverByStartSequencePolicy, about.Sequence.Stream+1, nil
			}
			return err
		})
		switch {
		case ctx.Err() != nil, errors.Is(err, errStopped):
			return
		case errors.Is(err, jetstream.ErrStreamNotFound):
			_ = send(item{end: true, err: fmt.Errorf("stream %s: %w", s.stream, err)}) // ctx has ended else
			return
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		pause = min(2*pause, longestPause)
	}
}

// read merges the streams by the time when their records were stored, and unpacks those.
func (q HistoryQuery) read(ctx context.Context, sources []*source, yield func(Record, error) bool) error {
	next := func(s *source) (item, error) {
		var late <-chan time.Time
		if q.Patience > 0 {
			t := time.NewTimer(q.Patience)
			defer t.Stop()
			late = t.C
		}
		select {
		case i := <-s.items:
			return i, i.err
		case <-late:
			return item{}, fmt.Errorf("stream %s: %w", s.stream, ErrSilent)
		case <-ctx.Done():
			return item{}, ctx.Err()
		}
	}
	var last keeper
	say := func(r Record) error {
		if q.Limit > 0 {
			last.add(r, q.Limit)
			return nil
		}
		if !yield(r, nil) {
			return errStopped
		}
		return nil
	}
	heads := map[*source]item{}
	refill := func(s *source) error {
		i, err := next(s)
		if err != nil {
			return err
		}
		delete(heads, s)
		if !i.end {
			heads[s] = i
		}
		return nil
	}
	for _, s := range sources {
		if err := refill(s); err != nil {
			return err
		}
	}
	for len(heads) > 0 {
		var first *source
		for s, i := range heads {
			if first == nil || i.stored.Before(heads[first].stored) {
				first = s
			}
		}
		if err := q.unpack(heads[first], say); err != nil {
			return err
		}
		if err := refill(first); err != nil {
			return err
		}
	}
	for _, r := range last.last(q.Limit) {
		if !yield(r.Record, nil) {
			return errStopped
		}
	}
	if !q.Follow {
		return nil
	}
	return q.live(ctx, sources, yield)
}

// live hands on what comes.
func (q HistoryQuery) live(ctx context.Context, sources []*source, yield func(Record, error) bool) error {
	ctx, end := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer end()
	all := make(chan item)
	for _, s := range sources {
		work.Go(func() {
			for {
				select {
				case i := <-s.items:
					select {
					case all <- i:
					case <-ctx.Done():
						return
					}
				case <-ctx.Done():
					return
				}
			}
		})
	}
	for {
		select {
		case i := <-all:
			if i.err != nil {
				return i.err
			}
			if err := q.unpack(i, func(r Record) error {
				if !yield(r, nil) {
					return errStopped
				}
				return nil
			}); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// unpack hands on the messages of a record that are wanted.
func (q HistoryQuery) unpack(i item, say func(Record) error) error {
	mower, topic, err := ParseHistorySubject(i.subject)
	if err != nil {
		return nil // of nobody: a stream may have more than the fleet's
	}
	for r := range unpack(i.headers, i.body, i.stored) {
		r.Mower, r.Topic, r.Stored = mower, topic, i.stored
		if r.Time.Before(q.Since) || !q.Until.IsZero() && !q.Follow && r.Time.After(q.Until) {
			continue
		}
		if err := say(r); err != nil {
			return err
		}
	}
	return nil
}

// unpack returns the messages of a record, which may be any bytes. What cannot be read is a record with a problem.
func unpack(h nats.Header, body []byte, stored time.Time) iter.Seq[Record] {
	return func(yield func(Record) bool) {
		problem := func(format string, args ...any) bool {
			return yield(Record{Time: stored, Problem: fmt.Sprintf(format, args...)})
		}
		if message.IsCompressed(body) {
			plain, err := message.Inflate(body, message.Limits{MaxPayload: maxBatch})
			if err != nil {
				problem("it cannot be inflated: %v", err)
				return
			}
			body = plain
		}
		if h.Get(HeaderBatch) == "" {
			yield(Record{Time: happened(body, stored), Message: asJSON(body)})
			return
		}
		lines := 0
		for line := range bytes.Lines(body) {
			if line = bytes.TrimSpace(line); len(line) == 0 {
				continue
			}
			if lines++; lines > maxBatchLines {
				problem("the batch has more than %d messages", maxBatchLines)
				return
			}
			var one struct {
				T float64         `json:"t"`
				M json.RawMessage `json:"m"`
			}
			if json.Unmarshal(line, &one) != nil || one.M == nil {
				if !problem("a line of a batch cannot be read") {
					return
				}
				continue
			}
			at := stored
			if t, ok := plausible(one.T, stored); ok {
				at = t
			}
			if !yield(Record{Time: at, Message: one.M}) {
				return
			}
		}
		if want, err := strconv.Atoi(h.Get(HeaderBatch)); err != nil || want != lines {
			problem("the batch says that it has %.20q messages, and has %d", h.Get(HeaderBatch), lines)
		}
	}
}

// plausible returns a time in Unix seconds, unless it is none, or after the record was stored.
func plausible(seconds float64, stored time.Time) (time.Time, bool) {
	if !(seconds > 0) || seconds > 1e11 || math.IsNaN(seconds) {
		return time.Time{}, false
	}
	at := time.UnixMicro(int64(seconds * 1e6))
	return at, !at.After(stored.Add(clockError))
}

// happened is when a mower said something, by the envelope, or else when it was stored.
func happened(body []byte, stored time.Time) time.Time {
	var e struct {
		Metadata struct {
			Timestamp float64 `json:"timestamp"`
		} `json:"metadata"`
	}
	if json.Unmarshal(body, &e) == nil {
		if at, ok := plausible(e.Metadata.Timestamp, stored); ok {
			return at
		}
	}
	return stored
}

// asJSON returns a body that is JSON as it is, and any other as a text.
func asJSON(body []byte) json.RawMessage {
	if json.Valid(body) {
		return bytes.Clone(body)
	}
	text, err := json.Marshal(strings.ToValidUTF8(string(body), "\uFFFD"))
	if err != nil {
		return json.RawMessage(`""`)
	}
	return text
}

// A keeper keeps the last records by time, those of a topic in their order whatever their times: a clock may have been set back.
type keeper struct {
	kept   []kept
	latest map[[2]string]time.Time // of each mower and topic
}

type kept struct {
	at time.Time
	Record
}

func (k *keeper) add(r Record, limit int) {
	if k.latest == nil {
		k.latest = map[[2]string]time.Time{}
	}
	id, at := [2]string{r.Mower, r.Topic}, r.Time
	if before := k.latest[id]; before.After(at) {
		at = before
	}
	k.latest[id] = at
	if k.kept = append(k.kept, kept{at, r}); len(k.kept) >= 2*limit+1000 {
		k.shrink(limit)
	}
}

func (k *keeper) shrink(limit int) {
	slices.SortStableFunc(k.kept, func(a, b kept) int { return a.at.Compare(b.at) })
	k.kept = slices.Delete(k.kept, 0, max(len(k.kept)-limit, 0))
}

// last returns the last records, sorted.
func (k *keeper) last(limit int) []kept {
	k.shrink(limit)
	return k.kept
}
