package service_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/service"
)

// A command to a type runs once, whether the broker shares it among the services of the type or, over MQTT 3.1.1, each hears it
// and they know whose turn it is. When one is gone the others answer. Seen failing over 3.1.1 with leads always true.
func TestReplicas(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	for name, o := range map[string]client.Options{
		"5":     {URL: b.URL()},
		"3.1.1": {Dial: old(strings.TrimPrefix(b.URL(), "tcp://"))},
	} {
		t.Run("MQTT "+name, func(t *testing.T) {
			t.Parallel()
			kind := "kind-" + strings.ReplaceAll(name, ".", "-")
			var ran [3]atomic.Int32
			services := make([]*service.Service, 4)
			var all sync.WaitGroup
			for i := range services { // the last one is the caller
				so := service.Options{ID: fmt.Sprintf("%s-%d", kind, i), Type: kind, Client: o}
				if i == len(ran) {
					so.ID, so.Type = "caller-"+kind, "caller"
				} else {
					so.Setup = func(_ context.Context, s *service.Service) error {
						service.Handle(s, "count", func(context.Context, struct{}) (int32, error) { return ran[i].Add(1), nil })
						return nil
					}
				}
				all.Go(func() {
					var err error
					if services[i], err = service.Start(testContext(t), so); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			for _, s := range services {
				if s == nil {
					return
				}
				t.Cleanup(func() { stop(t, s) })
			}
			for _, s := range services {
				for _, other := range services {
					awaitState(t, s, other.ID(), service.Healthy)
				}
			}
			call := func(n int32) (each [3]int32) {
				t.Helper()
				before := int32(0)
				for i := range ran {
					before += ran[i].Load()
				}
				for range n {
					if err := services[3].Call(testContext(t), kind, "count", nil, nil); err != nil {
						t.Error(err)
					}
				}
				// What is for one of them is for no other.
				for i := range ran {
					if err := services[3].Call(testContext(t), services[i].ID(), "ping", nil, nil); err != nil && i > 0 {
						t.Error(err)
					}
				}
				sum := -before
				for i := range ran {
					each[i] = ran[i].Load()
					sum += each[i]
				}
				if sum != n {
					t.Errorf("%d calls, %d ran: %v", n, sum, each)
				}
				return each
			}
			if each := call(12); name == "5" && (each[0] == 0 || each[1] == 0 || each[2] == 0) || name != "5" && each[0] != 12 {
				t.Errorf("%v", each)
			}
			stop(t, services[0])
			for _, s := range services[1:] {
				awaitState(t, s, services[0].ID(), service.Offline)
			}
			call(12)
			// A command for one of them on the topic of all.
			if name == "5" {
				before := ran[2].Load()
				for i := range 4 {
					body := envelope("py", "command", map[string]any{"target": services[2].ID(), "command": "count"}, map[string]any{"message_id": fmt.Sprint(kind, i), "correlation_id": "c"})
					p := newPeer(t, b, fmt.Sprint("py-", i))
					p.say("commands/"+kind, body, client.WithQoS(2))
				}
				eventually(t, "it gets them", func() bool { return ran[2].Load() == before+4 })
			}
		})
	}
}
