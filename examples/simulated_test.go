package examples

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/demo"
	estop "github.com/lawnberry/lawnberry/safety"
)

// simulate runs a broker with the simulated mower until the end of the test, and returns its URL. Nobody releases the emergency stop but once, at
// the start.
func simulate(t *testing.T) string {
	t.Helper()
	url, _ := simulateWith(t, demo.Options{Seed: 7})
	return url
}

// simulateWith is simulate with other options of the mower, which ends with the test or before, by stop.
func simulateWith(t *testing.T, options demo.Options) (url string, stop func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	atEnd := func(stop func(context.Context) error) {
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			_ = stop(ctx)
		})
	}
	b, err := broker.Start(ctx, broker.Options{Listeners: []broker.Listener{{Network: "tcp", Address: "127.0.0.1:0"}}})
	if err != nil {
		t.Fatal(err)
	}
	atEnd(b.Stop)
	o := client.Options{URL: b.URL()}
	hub, err := estop.StartHub(ctx, estop.HubOptions{Client: o})
	if err != nil {
		t.Fatal(err)
	}
	atEnd(hub.Stop)
	c, err := client.Connect(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(ctx) }()
	for { // nobody has said anything against it yet
		engaged, err := release(ctx, c)
		if err == nil && !engaged {
			break
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
	options.Client = o
	d, err := demo.Start(ctx, options)
	if err != nil {
		t.Fatal(err)
	}
	atEnd(d.Stop)
	return b.URL(), func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := d.Stop(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// release releases the emergency stop if it is engaged, and reports whether it was.
func release(ctx context.Context, c *client.Client) (engaged bool, err error) {
	s, err := estop.ReadStatus(ctx, c)
	if err != nil || !s.Engaged {
		return false, err
	}
	return true, estop.Release(ctx, c, "", s.Sequence)
}

// awaitEngaged waits until the emergency stop is engaged, as the hub says, and one of its causes contains a text. The simulated mower may have a
// reason of its own before. It returns the reason that is shown.
func awaitEngaged(t *testing.T, c *client.Client, cause string) string {
	t.Helper()
	var s estop.Status
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if s, err = estop.ReadStatus(t.Context(), c); err == nil && s.Engaged && slices.ContainsFunc(s.Causes, func(c estop.Cause) bool { return strings.Contains(c.Reason, cause) }) {
			return s.Reason
		}
	}
	t.Fatalf("not engaged for %q: %+v, %v", cause, s, err)
	return ""
}
