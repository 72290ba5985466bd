package service_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/service"
)

// A caller does not wait for a service that died, nor for the last one of a type. Seen failing without watchTargets: it waits until its
// deadline.
func TestCallOfAServiceThatDies(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	caller := start(t, b, service.Options{ID: "caller"})
	for _, target := range []string{"victim", "kind"} {
		c := &cord{b: b}
		var runs atomic.Int32
		victim := start(t, b, service.Options{ID: "victim", Type: "kind", Client: client.Options{Dial: c.dial}, Setup: func(_ context.Context, s *service.Service) error {
			service.Handle(s, "hang", func(ctx context.Context, _ struct{}) (any, error) {
				runs.Add(1)
				<-ctx.Done()
				return nil, ctx.Err()
			})
			return nil
		}})
		awaitState(t, caller, "victim", service.Healthy)
		done := make(chan error, 1)
		go func() { done <- caller.Call(testContext(t), target, "hang", nil, nil) }()
		eventually(t, "it runs", func() bool { return runs.Load() == 1 })
		c.pull()
		err := <-done
		if e := asCommandError(err); e == nil || e.Code != client.CodeOffline || e.Service != target || e.Command != "hang" || !strings.Contains(e.Message, "outcome unknown") {
			t.Errorf("%s: %v", target, err)
		}
		c.plug()
		stop(t, victim)
	}
}

// A handler reports progress through the service.
func TestReportProgress(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	seen := make(chan string, 10)
	svc := start(t, b, service.Options{ID: "nav", Setup: func(_ context.Context, s *service.Service) error {
		service.Handle(s, "walk", func(ctx context.Context, _ struct{}) (string, error) {
			service.ReportProgress(ctx, map[string]any{"percent": 50})
			return <-seen, nil
		})
		return nil
	}})
	var result string
	err := svc.Call(testContext(t), "nav", "walk", nil, &result, client.WithProgress(func(v json.RawMessage) { seen <- string(v) }))
	if err != nil || result != `{"percent":50}` {
		t.Error(result, err)
	}
}
