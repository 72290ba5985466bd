package fleet

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/lawnberry/lawnberry/internal/fleet"
)

// A history sends what is in the outbox: the records of a topic one after the other, those of different topics at the same time, as many as
// the engine acknowledges soon. One goroutine owns it.
type history struct {
	box    *outbox
	engine engine
	log    *slog.Logger

	topics  map[string]*topicState
	window  int // records that may be unacknowledged
	flying  int
	bytes   int
	results chan result

	sent, resolved, repeated atomic.Uint64 // messages; records that were in doubt; records that the engine knew
	refused                  atomic.Int64  // topics that the engine does not take
}

// A topicState is how it stands with a topic that the engine did not take.
type topicState struct {
	until  time.Time // it is not tried again before
	pause  time.Duration
	warned time.Time
	since  time.Time // of the first refusal
	known  bool      // it counts among those that are refused
}

// A result is what became of a sending.
type result struct {
	sending

	n    int    // records that the engine has, from this one on; 0 is none
	in   string // the stream
	err  error
	open bool // whether the engine has it is not known
	took time.Duration
}

const (
	firstWindow  = 8
	maxWindow    = 64
	maxFlying    = 256 << 10 // bytes that are unacknowledged, unless one record has more
	soon         = 250 * time.Millisecond
	late         = time.Second
	ackTime      = 10 * time.Second
	firstPause   = 250 * time.Millisecond
	longestPause = 15 * time.Second
	warnAfter    = 5 * time.Second // a stream has no leader for as long, now and then
	warnEvery    = 10 * time.Minute
	maxTries     = 5
)

func newHistory(box *outbox, e engine, log *slog.Logger) *history {
	return &history{box: box, engine: e, log: log, topics: map[string]*topicState{}, window: firstWindow, results: make(chan result, maxWindow)}
}

// run sends until ctx ends, and then waits for what is on its way as long as finish lasts. again has a token when the engine has come or gone.
func (h *history) run(ctx, finish context.Context, again <-chan struct{}) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		wait := h.fill(finish)
		timer.Reset(wait)
		select {
		case r := <-h.results:
			h.land(&r)
		case <-h.box.wake:
		case <-again:
			for _, t := range h.topics { // what it did not take yesterday it may take today
				t.until, t.pause = time.Time{}, 0
			}
			h.window = firstWindow
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	for h.flying > 0 {
		r := <-h.results // send ends with finish
		h.land(&r)
	}
}

// fill sends as much as may be on its way, and returns when to look again.
func (h *history) fill(ctx context.Context) time.Duration {
	if _, ok := h.engine.connected(); !ok {
		return time.Second
	}
	now := time.Now()
	next := now.Add(time.Second)
	may := func(topic string, _ fleet.Class) bool {
		t := h.topics[topic]
		if t == nil || !now.Before(t.until) {
			return true
		}
		if t.until.Before(next) {
			next = t.until
		}
		return false
	}
	for h.flying < h.window && (h.flying == 0 || h.bytes < maxFlying) {
		s, ok := h.box.next(may)
		if !ok {
			break
		}
		h.flying++
		h.bytes += len(s.body)
		go func() {
			began := time.Now()
			r := h.send(ctx, s)
			r.took = time.Since(began)
			h.results <- r
		}()
	}
	return max(time.Millisecond, next.Sub(now))
}

// send has a record stored, once.
func (h *history) send(ctx context.Context, s sending) (r result) {
	r.sending = s
	stream, doubt := s.stream, s.doubt
	var zero uint64
	for range maxTries {
		var expect *uint64
		if doubt {
			expect = &zero // of a stream that is not known, whose answer names it unless it has nothing of the topic
			if stream != "" {
				id, sequence, err := h.last(ctx, stream, s.topic)
				if err != nil {
					r.err, r.open = err, true
					return r
				}
				h.resolved.Add(1)
				i := slices.Index(h.box.firstIDs(s.order), id)
				if id == s.id { // also when it was dropped meanwhile
					i = 0
				}
				if id != "" && i >= 0 {
					r.n, r.in = i+1, stream
					return r
				}
				expect = &sequence
			}
		}
		done, err := h.store(ctx, &s.record, expect)
		var no *rejection
		switch {
		case err == nil:
			if done.duplicate {
				h.repeated.Add(1)
			}
			r.n, r.in = 1, done.stream
			return r
		case errors.As(err, &no) && no.kind == unequal && no.stream != "": // there is more than was known of
			doubt, stream = true, no.stream
			r.err, r.open = err, true
			continue
		}
		r.err, r.open = err, doubt
		if !errors.Is(err, errUnsent) && no == nil {
			r.open = true
		}
		return r
	}
	return r
}

func (h *history) store(ctx context.Context, r *record, expect *uint64) (stored, error) {
	ctx, cancel := context.WithTimeout(ctx, ackTime)
	defer cancel()
	return h.engine.store(ctx, r, expect)
}

func (h *history) last(ctx context.Context, stream, topic string) (string, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, ackTime)
	defer cancel()
	return h.engine.last(ctx, stream, topic)
}

// land takes in what became of a sending.
func (h *history) land(r *result) {
	h.flying--
	h.bytes -= len(r.body)
	t := h.topics[r.topic]
	var no *rejection
	switch {
	case r.n > 0:
		h.box.stored(r.order, r.in, r.n)
		h.sent.Add(uint64(r.count)) // of a crash's leftovers, those of the first
		if t != nil {
			if t.known {
				h.refused.Add(-1)
			}
			delete(h.topics, r.topic)
		}
		switch {
		case r.took < soon:
			h.window = min(h.window+1, maxWindow)
		case r.took > late:
			h.window = max(1, h.window/2)
		}
		return
	case errors.As(r.err, &no) && no.kind == tooLarge:
		h.log.Error("a record of the fleet's history is lost", "topic", r.topic, "messages", r.count, "reason", advice(r.topic, r.err))
		h.box.hopeless(r.order, "size")
		return
	}
	h.box.unsent(r.order, r.open)
	if errors.Is(r.err, errUnsent) || errors.Is(r.err, errCut) || errors.Is(r.err, context.Canceled) {
		return // it is tried again when the engine is there
	}
	h.window = max(1, h.window/2)
	now := time.Now()
	if t == nil {
		t = &topicState{since: now}
		h.topics[r.topic] = t
	}
	t.pause = min(max(2*t.pause, firstPause), longestPause)
	t.until = now.Add(t.pause)
	if now.Sub(t.since) > warnAfter {
		if !t.known {
			t.known = true
			h.refused.Add(1)
		}
		if t.warned.IsZero() || now.Sub(t.warned) > warnEvery {
			t.warned = now
			h.log.Warn("history of a topic does not go to the fleet, it waits", "topic", r.topic, "reason", advice(r.topic, r.err))
		}
	}
}
