package service

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/client"
)

// An expectation is what a call of Expect knows of its topics.
type expectation struct {
	every time.Duration
	stale []string // topics, in the order in which they became so
}

// Expect subscribes h to filter as Subscribe does, and has this service Degraded, with the topic in the reason, while nothing comes
// on a topic for longer than every: sensor data that must not be old, say. It is healthy again by itself with the next message.
// What is stale, and when, is told at [client.WithDeadline], which is for who wants to act on it. cancel ends the subscription and
// what it says of the state; it may be called again.
//
// Before Start has returned, in Options.Setup, what is stale takes effect when the service would become healthy.
func (s *Service) Expect(ctx context.Context, filter string, every time.Duration, h client.Handler, opts ...client.SubscribeOption) (cancel func(ctx context.Context) error, err error) {
	x := &expectation{every: every}
	s.mu.Lock()
	s.expected = append(s.expected, x)
	s.mu.Unlock()
	forget := func() {
		s.update(func() { s.expected = slices.DeleteFunc(s.expected, func(y *expectation) bool { return y == x }) })
	}
	watch := client.WithDeadline(every, func(topic string, stale bool, _ time.Duration) {
		s.update(func() {
			x.stale = slices.DeleteFunc(x.stale, func(t string) bool { return t == topic })
			if stale {
				x.stale = append(x.stale, topic)
			}
		})
	})
	sub, err := s.client.Subscribe(ctx, filter, h, append(slices.Clone(opts), watch)...)
	if err != nil {
		forget()
		return nil, err
	}
	return func(ctx context.Context) error {
		defer forget()
		return sub.Unsubscribe(ctx)
	}, nil
}

// staleVerdictLocked is degraded while a topic is stale. The reason names at most a few.
func (s *Service) staleVerdictLocked() verdict {
	var stale []string
	n := 0
	for _, x := range s.expected {
		for _, topic := range x.stale {
			if n++; n <= 3 {
				stale = append(stale, fmt.Sprintf("nothing on %s for %s", topic, readable(x.every)))
			}
		}
	}
	switch {
	case n == 0:
		return verdict{state: Healthy}
	case n > 3:
		stale = append(stale, fmt.Sprintf("and %d more", n-3))
	}
	return verdict{Degraded, strings.Join(stale, ", ")}
}
