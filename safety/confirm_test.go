package safety_test

import (
	"context"
	"encoding/json"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

// TestForgedConfirmation has somebody say in the name of a hub that hangs that it has taken in an emergency stop: that releases nothing.
func TestForgedConfirmation(t *testing.T) {
	b := &bus{t: t, dir: filepath.Join(t.TempDir(), "bus")}
	b.startBroker()
	t.Cleanup(func() { b.stopBroker() })
	ctx := testContext(t)
	state := func(engaged bool, confirms ...string) map[string]any {
		return map[string]any{
			"engaged": engaged, "reason": "", "by": "operator", "since": 1763884800, "sequence": 7, "epoch": "of the hub", "confirms": confirms,
		}
	}
	var hangs atomic.Bool
	hub, err := service.Start(ctx, service.Options{ID: safety.HubID, Client: client.Options{URL: b.url()},
		Setup: func(_ context.Context, s *service.Service) error {
			service.Handle(s, "confirm", func(ctx context.Context, q struct {
				Heard []string `json:"heard"`
			}) (map[string]any, error) {
				if hangs.Load() {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				a := state(false)
				a["known"] = q.Heard
				return a, nil
			}, service.Repeatable())
			return nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = hub.Stop(ctx)
	})
	latch := b.latch("latch")
	eventually(t, "released", latch.Released)
	hangs.Store(true)

	burglar := b.client("burglar")
	say := func(from string, about map[string]any) string {
		t.Helper()
		raw, err := json.Marshal(about)
		if err != nil {
			t.Fatal(err)
		}
		m, err := message.NewAlert(from, message.Alert{AlertType: "emergency_stop", Severity: "critical", Message: "stop", Context: raw})
		if err != nil {
			t.Fatal(err)
		}
		if err := burglar.Publish(ctx, "safety/emergency_stop", m); err != nil {
			t.Fatal(err)
		}
		return m.Metadata.ID
	}
	since := 1763884800
	engage := func(reason string) string { // longer ago than the one before, so that it is the reason that counts
		since--
		return say("burglar", map[string]any{"engaged": true, "reason": reason, "since": since})
	}
	for _, engaged := range []bool{false, true} {
		id := engage("first")
		eventually(t, "engaged", func() bool { return latch.State().Engaged })
		var mu sync.Mutex
		var released []safety.State
		cancel := latch.OnChange(func(s safety.State) {
			mu.Lock()
			defer mu.Unlock()
			if !s.Engaged {
				released = append(released, s)
			}
		})
		say(safety.HubID, state(engaged, id))
		engage("second") // comes behind it
		eventually(t, "the second is the reason", func() bool { return latch.State().Reason == "second" })
		cancel()
		mu.Lock()
		if len(released) > 0 || latch.Released() {
			t.Errorf("a forged confirmation, engaged %v, has released it: %+v", engaged, released)
		}
		mu.Unlock()
		hangs.Store(false)
		eventually(t, "released again, as the hub says so when it is asked, and that it has heard both", latch.Released)
		hangs.Store(true)
	}
}
