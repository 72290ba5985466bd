package load

import (
	"context"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/client"
)

// A subscriber judges what comes over one connection.
type subscriber struct {
	c *client.Client
	r *run

	mu        sync.Mutex // guards what follows
	sequences []sequence // by publisher
	times     *times
	received  uint64 // messages of the measurement, those that came again included
	bytes     uint64
	foreign   uint64 // messages that are none of this run's
	cuts      [tenths]cut
	last      time.Duration // when the last message of this run came, since its begin
	lastReal  time.Duration // the last of the measurement
	probed    []bool        // by publisher: its probe has come
	missing   int           // probes that have not
	ready     chan struct{} // closed when all have
}

// A cut is what came of one slice of the measurement.
type cut struct {
	n           uint64
	first, last time.Duration // since the begin of the run
}

func newSubscriber(r *run) *subscriber {
	return &subscriber{r: r, sequences: make([]sequence, r.plan.Publishers), times: newTimes(),
		probed: make([]bool, r.plan.Publishers), missing: r.plan.Publishers, ready: make(chan struct{})}
}

// take judges one message; it is the handler of the subscription.
func (s *subscriber) take(_ context.Context, d *client.Delivery) {
	now := s.r.now()
	st, ok := readStamp(d.Message.Payload)
	if !ok || st.run != s.r.id || int(st.publisher) >= len(s.sequences) {
		s.mu.Lock()
		s.foreign++
		s.mu.Unlock()
		return
	}
	heard := true
	s.mu.Lock()
	s.last = now
	switch st.phase {
	case probing:
		if !s.probed[st.publisher] {
			s.probed[st.publisher] = true
			if s.missing--; s.missing == 0 {
				close(s.ready)
			}
		}
	case measuring:
		s.received++
		s.bytes += uint64(len(d.Message.Payload))
		s.lastReal = now
		if s.sequences[st.publisher].take(st.number) == again {
			heard = false
			break
		}
		i := s.r.slice(st)
		s.times.add(i, now-st.due)
		c := &s.cuts[i]
		if c.n++; c.n == 1 {
			c.first = now
		}
		c.last = now
	}
	s.mu.Unlock()
	if heard && s.r.plan.Closed {
		s.r.publishers[st.publisher].heard(st)
	}
}

// distinct returns how many messages of the measurement have come, each counted once, and when the last message of any kind came.
func (s *subscriber) distinct() (n uint64, last time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.sequences {
		n += s.sequences[i].distinct
	}
	return n, s.last
}
