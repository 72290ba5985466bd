package app

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/demo"
	"github.com/lawnberry/lawnberry/internal/seal"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

func dial(t *testing.T, o client.Options) *client.Client {
	t.Helper()
	o.FailFast = true
	c, err := client.Connect(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = c.Close(ctx)
	})
	return c
}

// When Start returns the hub answers, and what was released stays so over a restart; in a directory that is kept.
func TestHub(t *testing.T) {
	t.Parallel()
	o := Options{Config: settings(), DataDir: t.TempDir(), Version: "1.2.3"}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, want := range []struct {
		engaged  bool
		sequence uint64
	}{{true, 1}, {false, 2}, {true, 5}} {
		a, err := Start(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		c := dial(t, client.Options{URL: a.URL()})
		s, err := safety.ReadStatus(ctx, c) // at once: nothing is waited for
		if err != nil || !s.Known || s.Engaged != want.engaged || s.Sequence != want.sequence {
			t.Fatalf("got %+v, %v, want %+v", s, err, want)
		}
		switch want.sequence {
		case 1:
			err = safety.Release(ctx, c, "anna", 1)
		case 2:
			if _, err = safety.Engage(ctx, c, "anna", "a dog"); err == nil {
				err = os.Remove(filepath.Join(o.DataDir, stateFile))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		if want.sequence == 2 {
			eventually(t, "engaged", func() bool { return a.Hub().Status().Engaged })
			if s := a.Hub().Status(); s.Sequence != 3 {
				t.Fatalf("got %+v", s)
			}
		}
		if err := a.Stop(ctx); err != nil {
			t.Fatal(err)
		}
		if want.sequence == 2 { // the file says that it was released, and the broker that it is engaged
			raw := `{"engaged":false,"reason":"","by":"x","since":"2026-11-28T21:44:41Z","sequence":4}`
			if err := os.WriteFile(filepath.Join(o.DataDir, stateFile), []byte(raw), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	temporary := start(t, Options{Config: settings()})
	if _, err := os.Stat(filepath.Join(temporary.DataDir(), stateFile)); err == nil {
		t.Error("a file in a directory that is not kept")
	}
}

// One bus has one hub: who comes to a broker elsewhere uses the one that is there, and brings one where there is none.
func TestHubOfAnother(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, enabled := range []bool{true, false} {
		c := settings()
		c.Safety.EmergencyStop.Enabled = enabled
		there := start(t, Options{Config: c})
		if (there.Hub() != nil) != enabled {
			t.Fatalf("enabled %v: %v", enabled, there.Hub())
		}
		if enabled { // else the demo would not begin
			if err := safety.Release(ctx, dial(t, client.Options{URL: there.URL()}), "test", 1); err != nil {
				t.Fatal(err)
			}
		}
		here := start(t, Options{Config: settings(), Broker: there.URL(), Demo: &demo.Options{Seed: 1}})
		if (here.Hub() == nil) != enabled {
			t.Errorf("enabled there %v: here %v", enabled, here.Hub())
		}
		if _, err := safety.ReadStatus(ctx, dial(t, client.Options{URL: there.URL()})); err != nil {
			t.Error(err)
		}
	}
}

// Nobody takes the place of the hub who only uses its name.
func TestNobodyPutsTheHubOut(t *testing.T) {
	t.Parallel()
	a := start(t, Options{Config: settings(), DataDir: t.TempDir()})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := client.Connect(ctx, client.Options{URL: a.URL(), ID: safety.HubID, FailFast: true})
	if err == nil {
		_ = c.Close(ctx)
	}
	var refused *client.ConnectError
	if !errors.As(err, &refused) || !refused.Refused() {
		t.Errorf("got %v, want a refusal", err)
	}
	if s, err := safety.ReadStatus(ctx, dial(t, client.Options{URL: a.URL()})); err != nil || !s.Known {
		t.Errorf("%+v, %v", s, err)
	}
}

// A hub that cannot start is an error of Start.
func TestHubThatCannotStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, stateFile), 0o700); err != nil { // cannot be read
		t.Fatal(err)
	}
	a, err := Start(t.Context(), Options{Config: settings(), DataDir: dir})
	if err == nil {
		_ = a.Stop(context.Background())
	}
	if err == nil || !strings.Contains(err.Error(), "emergency stop: ") {
		t.Errorf("got %v", err)
	}
}

// With access control and signing it is as all services: what its configuration says is asked of it too, and its right is nobody else's.
func TestHubUnderAccessControl(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	withRoles(t, dir, map[string]string{"ann": "operator", "root": "admin", "blade": ""})
	c := ruled()
	keys := filepath.Join(t.TempDir(), "keys")
	k, err := seal.Generate(seal.HMAC, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := seal.Create(keys, k); err != nil {
		t.Fatal(err)
	}
	c.Security.Signing.Enabled, c.Security.Signing.KeyFile = true, keys
	c.Security.Signing.Policies = map[string]string{"commands/+": "require", "responses/+": "require"}
	a := start(t, Options{Config: c, DataDir: dir})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	signed, err := c.ClientOptions()
	if err != nil {
		t.Fatal(err)
	}
	with := func(name string) client.Options {
		o := as(a, name)
		o.Signing = signed.Signing
		return o
	}
	unsigned, err := safety.ReadStatus(ctx, dial(t, as(a, "root")))
	if err == nil {
		t.Errorf("an unsigned question was answered: %+v", unsigned)
	}
	root, ann := dial(t, with("root")), dial(t, with("ann"))
	if err := safety.Release(ctx, ann, "", 1); !refusedByBroker(err) {
		t.Errorf("an operator's release: %v", err)
	}
	if err := safety.Release(ctx, root, "", 1); err != nil {
		t.Fatal(err)
	}
	id, err := safety.Engage(ctx, ann, "", "a dog")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "confirmed", func() bool { ok, err := safety.Confirmed(ctx, ann, id); return ok && err == nil })
	if s, err := safety.ReadStatus(ctx, ann); err != nil || !s.Engaged || s.Sequence != 3 {
		t.Errorf("%+v, %v", s, err)
	}

	// A guard reports under its own name, and is confirmed.
	o := with("blade")
	var guard *safety.Guard
	svc, err := service.Start(ctx, service.Options{
		ID: "blade", Type: "actuator", Client: o, Safety: true, Heartbeat: 200 * time.Millisecond, HeartbeatTimeout: 2 * time.Second,
		Setup: func(ctx context.Context, s *service.Service) error {
			latch, err := safety.OpenLatch(ctx, s.Client(), safety.LatchOptions{})
			if err == nil {
				guard, err = safety.NewGuard(ctx, s, latch, safety.GuardOptions{Safety: []string{}})
			}
			t.Cleanup(func() { _ = latch.Close(context.Background()) })
			return err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = svc.Stop(context.Background()) })
	running, end := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		done <- guard.Run(running, 10*time.Millisecond, func(context.Context) error { return nil }, func(string) error { return nil })
	}()
	eventually(t, "the guard has confirmed", func() bool {
		p := a.Hub().Status().Participants
		return len(p) == 1 && p[0].Service == "blade" && p[0].Confirmed
	})
	end()
	if err := <-done; err != nil {
		t.Error(err)
	}
	guard.Close()
}

func refusedByBroker(err error) bool {
	var refused *client.RefusedError
	return errors.As(err, &refused) && refused.Code == 0x87
}
