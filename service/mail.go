package service

import (
	"context"
	"errors"
	"sync"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
)

// maxMail bounds the announcements that wait while the link is slow; beyond it the oldest goes.
const maxMail = 256

// letter is an announcement or an event of the service's own.
type letter struct {
	topic   string
	message message.Message
	options []client.PublishOption
}

// mail is what the service has to say by itself, in order. One goroutine delivers it, so that who changes a state never
// waits for the network.
type mail struct {
	signal    chan struct{} // holds one token while there may be something to deliver
	delivered chan struct{} // closed when everything is delivered after close

	mu      sync.Mutex // guards the fields below
	letters []letter
	lost    int
	closed  bool
}

func newMail() *mail {
	return &mail{signal: make(chan struct{}, 1), delivered: make(chan struct{})}
}

// put adds one. It never waits; after close it does nothing.
func (m *mail) put(l letter) {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return
	}
	if len(m.letters) >= maxMail {
		m.letters = m.letters[1:]
		m.lost++
	}
	m.letters = append(m.letters, l)
	m.mu.Unlock()
	m.rouse()
}

// close lets nothing more in.
func (m *mail) close() {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.rouse()
}

func (m *mail) rouse() {
	select {
	case m.signal <- struct{}{}:
	default:
	}
}

// take returns the next one; more is false when there will be none.
func (m *mail) take() (l letter, ok, more bool, lost int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.letters) == 0 {
		return letter{}, false, !m.closed, 0
	}
	l, m.letters = m.letters[0], m.letters[1:]
	lost, m.lost = m.lost, 0
	return l, true, true, lost
}

// deliver publishes the mail until it is closed and empty. Publish ends when the client is closed at the latest.
func (s *Service) deliver() {
	defer close(s.mail.delivered)
	for {
		l, ok, more, lost := s.mail.take()
		if lost > 0 {
			s.log.Warn("announcements dropped: the link is too slow for them", "dropped", lost)
		}
		switch {
		case ok:
			err := s.client.Publish(context.Background(), l.topic, l.message, l.options...)
			if errors.Is(err, client.ErrClosed) {
				return
			}
			if err != nil {
				s.log.Warn("announcement failed", "topic", l.topic, "error", err)
			}
		case !more:
			return
		default:
			<-s.mail.signal
		}
	}
}
