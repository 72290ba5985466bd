package web

import (
	"slices"
	"sync"
	"time"
)

// Bounds of what waits for one browser.
const (
	maxQueued      = 1000    // messages
	maxQueuedBytes = 1 << 20 // of them
	maxSafety      = 10_000  // messages below safety/, which are never left out; beyond it the connection ends
	maxReplies     = 1000    // answers to what it asked; beyond it too
)

// A queue is what waits for one browser, in three lanes: messages below safety/, which are all kept; answers to what it asked; and other
// messages, of which the latest of each topic is kept when there are too many.
type queue struct {
	signal chan struct{} // holds one token while there may be something

	mu      sync.Mutex // guards the fields below
	safety  [][]byte
	replies [][]byte
	waiting []*waiting          // in their order
	latest  map[string]*waiting // of them, by topic
	bytes   int                 // of them
	dropped uint64              // messages left out
	told    uint64              // of which the browser knows
	tellAt  time.Time           // not before
	over    string              // why the connection has to end
	timers  map[string]*conflated
	closed  bool
}

// waiting is a message that waits; its frame is nil once it was replaced.
type waiting struct {
	topic string
	frame []byte
}

// conflated is a topic with a rate of its own.
type conflated struct {
	next  time.Time // when the next one may go
	frame []byte    // the latest, that waits for it
	timer *time.Timer
}

func newQueue() *queue {
	return &queue{signal: make(chan struct{}, 1), latest: map[string]*waiting{}, timers: map[string]*conflated{}}
}

// put queues a message. gap is the least time between two of the topic, 0 for none.
func (q *queue) put(s *sample, gap time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed || q.over != "":
		return
	case s.safety:
		if len(q.safety) >= maxSafety {
			q.over = "too many safety messages wait"
		} else {
			q.safety = append(q.safety, s.frame)
		}
	case gap > 0:
		q.conflate(s, gap)
		return
	default:
		q.append(s.name, s.frame)
	}
	q.wake()
}

// conflate sends one at once, and of those that follow within gap the latest. q.mu is held.
func (q *queue) conflate(s *sample, gap time.Duration) {
	c := q.timers[s.name]
	if c == nil {
		c = &conflated{}
		q.timers[s.name] = c
	}
	now := time.Now()
	if !now.Before(c.next) && c.frame == nil {
		c.next = now.Add(gap)
		q.append(s.name, s.frame)
		q.wake()
		return
	}
	first := c.frame == nil
	c.frame = s.frame
	if first {
		c.timer = time.AfterFunc(c.next.Sub(now), func() {
			q.mu.Lock()
			defer q.mu.Unlock()
			if c.frame != nil && !q.closed {
				q.append(s.name, c.frame)
				c.frame, c.next = nil, time.Now().Add(gap)
				q.wake()
			}
		})
	}
}

// append adds a message to the ordinary lane, and keeps to its bounds. q.mu is held.
func (q *queue) append(topic string, frame []byte) {
	full := len(q.latest) > 0 && (len(q.waiting) >= maxQueued || q.bytes+len(frame) > maxQueuedBytes)
	if full {
		if old := q.latest[topic]; old != nil { // the newest value takes its place
			q.bytes += len(frame) - len(old.frame)
			old.frame = frame
			q.dropped++
			q.shrink()
			return
		}
	}
	w := &waiting{topic, frame}
	q.waiting = append(q.waiting, w)
	q.latest[topic] = w
	q.bytes += len(frame)
	q.shrink()
}

// shrink leaves out what is over the bounds: first what is not the latest of its topic, the oldest first, then the oldest. q.mu is held.
func (q *queue) shrink() {
	if len(q.waiting) <= maxQueued && q.bytes <= maxQueuedBytes {
		return
	}
	target, bytes := maxQueued*9/10, maxQueuedBytes*9/10 // not for each message anew
	for _, latestToo := range []bool{false, true} {
		n := len(q.waiting)
		q.waiting = slices.DeleteFunc(q.waiting, func(w *waiting) bool {
			if n <= target && q.bytes <= bytes || !latestToo && q.latest[w.topic] == w {
				return false
			}
			n--
			q.bytes -= len(w.frame)
			q.dropped++
			if q.latest[w.topic] == w {
				delete(q.latest, w.topic)
			}
			return true
		})
	}
}

// reply queues an answer to what the browser asked.
func (q *queue) reply(frame []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.replies) >= maxReplies {
		q.over = "too many answers wait"
	} else if !q.closed {
		q.replies = append(q.replies, frame)
	}
	q.wake()
}

func (q *queue) wake() {
	select {
	case q.signal <- struct{}{}:
	default:
	}
}

// take returns the next frame, and how many messages were left out if the browser is to be told now. over is why the connection has to end.
func (q *queue) take() (frame []byte, dropped uint64, over string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.over != "":
		return nil, 0, q.over
	case len(q.safety) > 0:
		frame, q.safety = q.safety[0], q.safety[1:]
		return frame, 0, ""
	case len(q.replies) > 0:
		frame, q.replies = q.replies[0], q.replies[1:]
		return frame, 0, ""
	case q.dropped != q.told && !time.Now().Before(q.tellAt):
		q.told, q.tellAt = q.dropped, time.Now().Add(time.Second)
		return nil, q.dropped, ""
	case len(q.waiting) == 0:
		if q.dropped != q.told {
			time.AfterFunc(time.Until(q.tellAt), q.wake)
		}
		return nil, 0, ""
	}
	w := q.waiting[0]
	q.waiting[0] = nil
	q.waiting = q.waiting[1:]
	q.bytes -= len(w.frame)
	if q.latest[w.topic] == w {
		delete(q.latest, w.topic)
	}
	return w.frame, 0, ""
}

func (q *queue) droppedTotal() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped
}

// length returns how many messages wait, and their bytes.
func (q *queue) length() (n, bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.safety) + len(q.waiting), q.bytes
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.safety, q.replies, q.waiting, q.latest = nil, nil, nil, nil
	for _, c := range q.timers {
		if c.timer != nil {
			c.timer.Stop()
		}
	}
	q.timers = nil
}
