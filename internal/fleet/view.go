package fleet

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// ViewOptions say what a view looks at. The zero value is all of every mower.
type ViewOptions struct {
	// Filters are of the topics whose messages are wanted; nil is all. Those of [StateFilters] are always.
	Filters []string
	// Mower, when not empty, is the only one that is wanted.
	Mower string
	// MaxMowers bounds how many are kept; 0 is 200,000. Others are counted.
	MaxMowers int
	Logger    *slog.Logger // nil is discarded
}

const (
	defaultMaxMowers = 200_000
	defaultInterval  = 10 * time.Second // of presence, where it does not say
	longestInterval  = time.Hour
)

// A View is the fleet as the engine has it, in memory: a copy of its buckets that follows them. When it cannot follow for any reason, it says so
// ([View.Link]), keeps what it has, and copies anew; what is not there any more is gone then. Its methods may be called concurrently.
type View struct {
	o     ViewOptions
	link  func() (server string, connected bool)
	log   *slog.Logger
	ready chan struct{}
	end   context.CancelFunc
	work  sync.WaitGroup

	mu       sync.Mutex // guards the fields below
	mowers   map[string]*Mower
	feeds    map[*Feed]struct{}
	buckets  map[string]*bucketState
	leftOut  map[string]struct{} // ids beyond the bound, as many as fit in it
	messages uint64
	odd      uint64

	enrolment bool // there is a bucket of who is enrolled
	isReady   bool
}

// A bucketState is how far the copy of a bucket is.
type bucketState struct {
	current bool
	since   time.Time
	problem error
	copies  uint64
}

// A Link says whether a view can be relied on.
type Link struct {
	Connected bool      `json:"connected"` // to the engine
	Current   bool      `json:"current"`   // what is shown is what the engine has
	Since     time.Time `json:"since"`     // either
	Problem   string    `json:"problem"`   // why not
	Server    string    `json:"server"`    // of the engine
	Copies    uint64    `json:"copies"`    // how often buckets were copied
	Messages  uint64    `json:"messages"`  // that were heard
	Odd       uint64    `json:"odd"`       // whose key or document is not by the contract
	LeftOut   int       `json:"left_out"`  // mowers beyond the bound
}

// OpenView starts to copy the fleet. It returns at once; [View.Ready] says when there is something to see. Close it.
func OpenView(js jetstream.JetStream, o ViewOptions) *View {
	v, ctx := newView(o, func() (string, bool) {
		nc := js.Conn()
		if !nc.IsConnected() {
			return "", false
		}
		return nc.ConnectedUrlRedacted(), true
	})
	one := cmp.Or(o.Mower, "*")
	filters := []string{one + ".>"}
	if o.Filters != nil {
		filters = nil
		for _, f := range append(StateFilters(), o.Filters...) {
			filters = append(filters, one+"."+FilterTokens(f))
		}
		filters = withoutCovered(filters)
	}
	for _, m := range []*mirror{
		{bucket: BucketPresence, filters: []string{one}, put: v.putPresence, sweep: v.sweepPresence},
		{bucket: BucketState, filters: filters, put: v.putState, sweep: v.sweepState},
		{bucket: BucketMowers, filters: []string{one}, put: v.putEnrolled, sweep: v.sweepEnrolled, optional: true},
	} {
		m.js, m.report, m.log = js, v.report, v.log
		v.work.Go(func() { m.run(ctx) })
	}
	return v
}

// newView makes one that has nothing to follow yet. The context ends with it.
func newView(o ViewOptions, link func() (server string, connected bool)) (*View, context.Context) {
	o.MaxMowers = cmp.Or(max(o.MaxMowers, 0), defaultMaxMowers)
	ctx, end := context.WithCancel(context.Background())
	v := &View{
		o: o, link: link, log: o.Logger, ready: make(chan struct{}), end: end,
		mowers: map[string]*Mower{}, feeds: map[*Feed]struct{}{}, buckets: map[string]*bucketState{}, leftOut: map[string]struct{}{},
	}
	if v.log == nil {
		v.log = slog.New(slog.DiscardHandler)
	}
	now := time.Now()
	for _, name := range []string{BucketPresence, BucketState, BucketMowers} {
		v.buckets[name] = &bucketState{since: now}
	}
	v.work.Go(func() { v.listen(ctx) })
	return v, ctx
}

// withoutCovered leaves out filters that others include, which a consumer may not have beside each other.
func withoutCovered(filters []string) []string {
	slices.Sort(filters)
	filters = slices.Compact(filters)
	return slices.DeleteFunc(slices.Clone(filters), func(f string) bool {
		return slices.ContainsFunc(filters, func(o string) bool { return o != f && covers(o, f) })
	})
}

// covers reports whether everything that b selects is selected by a. Both are of NATS.
func covers(a, b string) bool {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i, t := range as {
		switch {
		case t == ">":
			return i < len(bs)
		case i >= len(bs), bs[i] == ">", t != "*" && t != bs[i]:
			return false
		}
	}
	return len(as) == len(bs)
}

// Close ends a view.
func (v *View) Close() {
	v.end()
	v.work.Wait()
}

// Ready is closed once everything has been copied for the first time.
func (v *View) Ready() <-chan struct{} { return v.ready }

// Wait waits until everything has been copied for the first time. Its error says what is in the way.
func (v *View) Wait(ctx context.Context) error {
	select {
	case <-v.ready:
		return nil
	case <-ctx.Done():
		if p := v.Link().Problem; p != "" {
			return fmt.Errorf("%s: %w", p, ctx.Err())
		}
		return fmt.Errorf("the fleet's state was not read in time: %w", ctx.Err())
	}
}

// Link says whether the view can be relied on.
func (v *View) Link() Link {
	l := Link{Current: true}
	l.Server, l.Connected = v.link()
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, name := range []string{BucketPresence, BucketState, BucketMowers} {
		b := v.buckets[name]
		l.Copies += b.copies
		if !b.current && l.Current {
			l.Current, l.Since = false, b.since
			if b.problem != nil {
				l.Problem = b.problem.Error()
			}
		}
		if l.Current && b.since.After(l.Since) {
			l.Since = b.since
		}
	}
	if !l.Connected {
		l.Current = false
		l.Problem = "the connection to the engine is lost"
	}
	l.Messages, l.Odd, l.LeftOut = v.messages, v.odd, len(v.leftOut)
	return l
}

// report takes in how far the copy of a bucket is.
func (v *View) report(bucket string, current bool, problem error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	b := v.buckets[bucket]
	if b.current != current {
		b.since = time.Now()
	}
	if current && !b.current {
		b.copies++
	}
	b.current, b.problem = current, problem
	for _, b := range v.buckets {
		current = current && b.current
	}
	if current && !v.isReady {
		v.isReady = true
		close(v.ready)
	}
	for f := range v.feeds {
		f.wake()
	}
}

// Mowers returns all mowers, in no order.
func (v *View) Mowers() []*Mower {
	v.mu.Lock()
	defer v.mu.Unlock()
	all := make([]*Mower, 0, len(v.mowers))
	for _, m := range v.mowers {
		all = append(all, m)
	}
	return all
}

// Mower returns a mower.
func (v *View) Mower(id string) (*Mower, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	m, ok := v.mowers[id]
	return m, ok
}

// Select returns the mowers that a selector selects, sorted by id.
func (v *View) Select(w *Where) []*Mower {
	now := time.Now()
	all := slices.DeleteFunc(v.Mowers(), func(m *Mower) bool { return !w.Match(m, now) })
	slices.SortFunc(all, func(a, b *Mower) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

// A MowerChange is what has become of a mower. Before is nil of a new one, After of one that is gone.
type MowerChange struct {
	ID            string
	Before, After *Mower
}

// A Feed tells of changes. What changes several times before it is taken is one change, so a feed never holds more than one of each mower.
type Feed struct {
	v      *View
	signal chan struct{}
	before map[string]*Mower // guarded by v.mu: of those that have changed
}

// Follow returns a feed of the changes from now on, with what is there now. Close it.
func (v *View) Follow() (*Feed, []*Mower) {
	f := &Feed{v: v, signal: make(chan struct{}, 1), before: map[string]*Mower{}}
	v.mu.Lock()
	v.feeds[f] = struct{}{}
	all := make([]*Mower, 0, len(v.mowers))
	for _, m := range v.mowers {
		all = append(all, m)
	}
	v.mu.Unlock()
	return f, all
}

// Changed receives when there may be something to take, or the view's link has changed.
func (f *Feed) Changed() <-chan struct{} { return f.signal }

// Take returns what has changed since the last time, sorted by id.
func (f *Feed) Take() []MowerChange {
	f.v.mu.Lock()
	changes := make([]MowerChange, 0, len(f.before))
	for id, before := range f.before {
		if after := f.v.mowers[id]; after != before {
			changes = append(changes, MowerChange{id, before, after})
		}
	}
	clear(f.before)
	f.v.mu.Unlock()
	slices.SortFunc(changes, func(a, b MowerChange) int { return cmp.Compare(a.ID, b.ID) })
	return changes
}

// Close ends a feed.
func (f *Feed) Close() {
	f.v.mu.Lock()
	defer f.v.mu.Unlock()
	delete(f.v.feeds, f)
}

func (f *Feed) wake() {
	select {
	case f.signal <- struct{}{}:
	default:
	}
}

// set puts a mower in its place, nil for none, and tells of it. v.mu is held.
func (v *View) set(id string, m *Mower) {
	before := v.mowers[id]
	if m == nil {
		delete(v.mowers, id)
	} else {
		v.mowers[id] = m
	}
	for f := range v.feeds {
		if _, known := f.before[id]; !known {
			f.before[id] = before
		}
		f.wake()
	}
}
