package tracing

import (
	"errors"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/client"
)

// A span is one piece of work. It belongs to who began it, until it is in the queue.
type span struct {
	t      *Tracer
	place  place
	parent [8]byte // zero is none
	remote bool    // the parent is in another program, or may be
	kind   client.SpanKind
	own    string // the name of a span of the program's own; "" is one of kind
	what   client.Traced

	began, ended time.Time
	failure      string // what went wrong
	failureType  string // "" is nothing
}

// recorded reports whether the span will be sent.
func (s *span) recorded() bool { return s.place.flags&sampled != 0 && s.t.queue != nil }

// Propagate implements [client.Span].
func (s *span) Propagate() (parent, state string) { return s.place.String(), s.place.state }

// Describe implements [client.Span].
func (s *span) Describe(what client.Traced) { s.what = what }

// End implements [client.Span].
func (s *span) End(err error) {
	if !s.recorded() || !s.ended.IsZero() {
		return
	}
	s.ended = time.Now()
	if err != nil {
		s.failure, s.failureType = err.Error(), "_OTHER"
		var command *client.CommandError
		if errors.As(err, &command) {
			s.failureType = command.Code
		}
	}
	s.bound()
	s.t.enqueue(s)
}

// bound lets go of what will not be sent: thousands of spans may wait, and what is in a message is anybody's.
func (s *span) bound() {
	for _, text := range []*string{&s.own, &s.failure, &s.failureType, &s.what.ClientID, &s.what.Topic, &s.what.MessageID, &s.what.Target, &s.what.Command} {
		if len(*text) > maxText {
			*text = strings.Clone((*text)[:maxText])
		}
	}
}

// operation returns the name and the type of what a span stands for, by the conventions for messaging.
func (s *span) operation() (name, kind string) {
	switch s.kind {
	case client.SpanHandle:
		return "process", "process"
	case client.SpanCall:
		return "call", "send"
	case client.SpanServe:
		return "serve", "process"
	}
	return "publish", "send"
}

func (s *span) name() string {
	if s.own != "" {
		return s.own
	}
	name, _ := s.operation()
	if s.what.Command != "" {
		return name + " " + s.what.Target + " " + s.what.Command
	}
	return name + " " + s.what.Topic
}
