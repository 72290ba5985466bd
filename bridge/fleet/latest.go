package fleet

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// The latest values go to the engine at once, one of each topic at a time: of those that come meanwhile, or faster than the topic's rate,
// the newest is sent. Its methods may be called concurrently.
type latest struct {
	engine engine
	log    *slog.Logger
	wake   chan struct{} // holds a token when there may be something to send

	sent, conflated, left atomic.Uint64

	mu    sync.Mutex // guards the fields below
	slots map[string]*slot
	busy  int
	swept time.Time // of those that have nothing to send
}

// A slot is the value of one topic.
type slot struct {
	body    []byte        // nil removes the topic
	waits   bool          // body is to be sent
	gap     time.Duration // between two values
	due     time.Time
	busy    bool // one is on its way
	pause   time.Duration
	warned  time.Time
	arrived time.Time // body
}

const (
	maxSlots      = 4096 // topics that have something to send, or had just now; of others the latest value does not go to the fleet
	maxLatestBusy = 64
	latestTime    = 5 * time.Second // for an acknowledgement
)

func newLatest(e engine, log *slog.Logger) *latest {
	return &latest{engine: e, log: log, wake: make(chan struct{}, 1), slots: map[string]*slot{}}
}

// set says what the latest value of a topic is; nil is that there is none any more.
func (l *latest) set(topic string, body []byte, gap time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.slots[topic]
	if s == nil {
		if now := time.Now(); len(l.slots) >= maxSlots && now.Sub(l.swept) > time.Second {
			l.swept = now
			maps.DeleteFunc(l.slots, func(_ string, s *slot) bool { return !s.waits && !s.busy && !now.Before(s.due) })
		}
		if len(l.slots) >= maxSlots {
			if l.left.Add(1) == 1 {
				l.log.Warn("too many topics: of further ones the latest values do not go to the fleet", "topics", maxSlots)
			}
			return
		}
		s = &slot{}
		l.slots[topic] = s
	}
	if s.waits {
		l.conflated.Add(1)
	}
	s.body, s.waits, s.gap, s.arrived = body, true, gap, time.Now()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run sends until ctx ends.
func (l *latest) run(ctx context.Context, again <-chan struct{}) {
	var work sync.WaitGroup
	defer work.Wait()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait := time.Second
		if _, ok := l.engine.connected(); ok {
			wait = l.fill(ctx, &work)
		}
		timer.Reset(wait)
		select {
		case <-l.wake:
		case <-timer.C:
		case <-again:
			l.hurry()
		case <-ctx.Done():
			return
		}
	}
}

// hurry forgets the pauses between attempts: the engine is back.
func (l *latest) hurry() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.slots {
		if s.pause > 0 {
			s.pause, s.due = 0, time.Time{}
		}
	}
}

// fill sends what is due, and returns when to look again.
func (l *latest) fill(ctx context.Context, work *sync.WaitGroup) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	wait := time.Second
	for topic, s := range l.slots {
		if l.busy >= maxLatestBusy {
			break // the next to land wakes run
		}
		if !s.waits || s.busy {
			continue
		}
		if left := s.due.Sub(now); left > 0 {
			wait = min(wait, left)
			continue
		}
		s.busy, s.waits = true, false
		l.busy++
		body := s.body
		work.Go(func() {
			limited, cancel := context.WithTimeout(ctx, latestTime)
			defer cancel()
			l.landed(topic, l.engine.keep(limited, topic, body), now)
		})
	}
	return max(wait, time.Millisecond)
}

// landed takes in what became of a value.
func (l *latest) landed(topic string, err error, began time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.slots[topic]
	s.busy = false
	l.busy--
	select {
	case l.wake <- struct{}{}:
	default:
	}
	if err == nil {
		l.sent.Add(1)
		s.pause, s.due = 0, began.Add(s.gap)
		if !s.waits {
			if s.body == nil || s.gap == 0 {
				delete(l.slots, topic)
			}
			s.body = nil // the engine has it
		}
		return
	}
	newer := s.waits
	s.waits = true // what is the latest by now
	var no *rejection
	if !errors.As(err, &no) {
		s.pause = firstPause
		s.due = time.Now().Add(s.pause)
		return
	}
	s.pause = min(max(2*s.pause, firstPause), longestPause)
	s.due = time.Now().Add(s.pause)
	if no.kind == tooLarge {
		s.waits = newer
	}
	if time.Since(s.warned) > warnEvery && (s.pause > warnAfter || no.kind == tooLarge) {
		s.warned = time.Now()
		l.log.Warn("the latest value of a topic does not go to the fleet", "topic", topic, "reason", advice("$KV "+topic, err))
	}
}
