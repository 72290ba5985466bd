package homeassistant

import (
	"bytes"
	"sync"
	"time"
)

// A slot is a retained topic and what is to be on it.
type slot struct {
	payload []byte    // what is to be there
	sent    []byte    // what was sent last; nil when nothing was, on this connection
	at      time.Time // when it was sent, or tried
	failed  bool      // to be tried again
	touched bool      // its source has said the same again
	refresh time.Duration
}

// states are the retained topics of all entities. Each is sent when it has changed, and not more than once in every gap; what a topic had
// meanwhile is left out. Its methods may be called concurrently.
type states struct {
	gap  time.Duration
	wake chan struct{} // holds a token when there may be something to send

	mu    sync.Mutex // guards slots
	slots map[string]*slot
}

func newStates(gap time.Duration) *states {
	return &states{gap: gap, wake: make(chan struct{}, 1), slots: map[string]*slot{}}
}

// set says what is to be on a topic. With refresh it is sent again after that time, if it is set again meanwhile: so that it does not expire
// while its source says the same.
func (s *states) set(topic string, payload []byte, refresh time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.slots[topic]
	if x == nil {
		x = &slot{}
		s.slots[topic] = x
	}
	x.touched = x.touched || bytes.Equal(x.payload, payload)
	x.payload, x.refresh = payload, refresh
	s.nudge()
}

// drop has a topic sent no more, and reports whether there was one.
func (s *states) drop(topic string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, there := s.slots[topic]
	delete(s.slots, topic)
	return there
}

// again has everything sent again.
func (s *states) again() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.slots {
		x.sent, x.failed = nil, false
	}
	s.nudge()
}

func (s *states) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// A sending is something to send.
type sending struct {
	topic   string
	payload []byte
}

// due returns what is to be sent now, taken for sent, and how long until there may be more; 0 is until somebody sets something.
func (s *states) due(now time.Time) (list []sending, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for topic, x := range s.slots {
		changed := x.sent == nil || !bytes.Equal(x.sent, x.payload)
		if !changed && !(x.touched && x.refresh > 0 && now.Sub(x.at) >= x.refresh) {
			continue // what is said again comes with the next set
		}
		if left := s.gap - now.Sub(x.at); !x.at.IsZero() && left > 0 && (x.sent != nil || x.failed) {
			if wait == 0 || left < wait {
				wait = left
			}
			continue
		}
		x.sent, x.at, x.touched, x.failed = x.payload, now, false, false
		list = append(list, sending{topic, x.payload})
	}
	return list, wait
}

// unsent says that what due returned did not go out.
func (s *states) unsent(topic string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.slots[topic]; x != nil {
		x.sent, x.failed = nil, true
	}
	s.nudge()
}

// topics returns all of them.
func (s *states) topics() (all []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for topic := range s.slots {
		all = append(all, topic)
	}
	return all
}
