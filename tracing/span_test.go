package tracing

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/lawnberry/lawnberry/client"
)

// A span that waits does not keep more of a message than is sent of it.
func TestSpansAreBounded(t *testing.T) {
	tr := &Tracer{o: Options{SampleRatio: 1}, queue: make(chan *span, 1), stop: make(chan struct{})}
	long := strings.Repeat("x", 1<<16)
	_, s := tr.StartSpan(context.Background(), client.SpanServe, client.Traced{Topic: long}, "", "")
	s.Describe(client.Traced{ClientID: long, Topic: long, MessageID: long, Target: long, Command: long})
	s.End(errors.Join(errors.New(long), &client.CommandError{Code: long}))
	got := <-tr.queue
	for _, text := range []string{got.failure, got.failureType, got.what.ClientID, got.what.Topic, got.what.MessageID, got.what.Target, got.what.Command} {
		if len(text) != maxText {
			t.Errorf("%d bytes, want %d", len(text), maxText)
		}
	}
}
