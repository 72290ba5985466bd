package app

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/systemd"
	"github.com/lawnberry/lawnberry/safety"
)

// probe returns a probe of a running system, and how it finds it.
func probe(t *testing.T, a *App, c *config.Config) (check func(within time.Duration) error, p *Probe) {
	t.Helper()
	p, err := a.Probe(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = p.Close(ctx)
	})
	return func(within time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		return p.Check(ctx)
	}, p
}

// hang makes the broker of a stand still, holding its lock, until free is called.
func hang(t *testing.T, a *App) (free func()) {
	t.Helper()
	held, wait, freed := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(freed)
		first := true
		a.broker.Disconnect(func(broker.Client) bool {
			if first {
				first = false
				close(held)
				<-wait
			}
			return false
		}, "", false)
	}()
	<-held
	return func() { close(wait); <-freed }
}

// A system that works is healthy, with and without a hub, with users and with access control.
func TestProbe(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*config.Config){
		"with a hub":    func(*config.Config) {},
		"without a hub": func(c *config.Config) { c.Safety.EmergencyStop.Enabled = false },
		"access control": func(c *config.Config) {
			c.Broker.Auth.Enabled, c.Broker.Auth.Username, c.Broker.Auth.Password = true, "anna", "a long password"
			c.Security.AccessControl.Enabled = true
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := settings()
			change(c)
			a := start(t, Options{Config: c, DataDir: t.TempDir()})
			check, _ := probe(t, a, c)
			for range 3 {
				if err := check(30 * time.Second); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// A hub that was told to end is not healthy: nobody could release the emergency stop any more.
func TestProbeWithoutItsHub(t *testing.T) {
	t.Parallel()
	c := settings()
	a := start(t, Options{Config: c})
	check, _ := probe(t, a, c)
	if err := a.Hub().Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := check(30 * time.Second); err == nil || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("got %v", err)
	}
}

// A broker that hangs is not fed for, and is again when it goes on. With a Watch that feeds whatever the probe says this fails.
func TestHungBroker(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", name)
	t.Setenv("WATCHDOG_USEC", "1500000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	hear := func() string {
		t.Helper()
		buf := make([]byte, 4096)
		_ = manager.SetReadDeadline(time.Now().Add(60 * time.Second))
		n, err := manager.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	fed := func(message string) bool { return strings.HasPrefix(message, "WATCHDOG=1") }

	c := settings()
	a := start(t, Options{Config: c, DataDir: t.TempDir()})
	_, p := probe(t, a, c)
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- systemd.New(nil).Watch(ctx, p.Check) }()
	for !fed(hear()) {
	}
	free := hang(t, a)
	message := hear()
	for n := 0; fed(message); n++ { // what was on its way
		if n > 2 {
			free()
			t.Fatal("fed, and the broker hangs")
		}
		message = hear()
	}
	for n := 2; n <= 4; n++ {
		if message = hear(); fed(message) {
			t.Errorf("fed, and the broker hangs")
		}
	}
	if !strings.Contains(message, "hold a lock for ever") {
		t.Errorf("got %q", message)
	}
	free()
	for !fed(hear()) {
	}
	end()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A stuck is a log that holds up whoever engages the emergency stop, as a standard error that nobody reads does.
type stuck struct {
	slog.Handler
	held, wait chan struct{}
}

func (s stuck) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "emergency stop engaged" {
		close(s.held)
		<-s.wait
	}
	return s.Handler.Handle(ctx, r)
}

func (s stuck) Enabled(context.Context, slog.Level) bool { return true }
func (s stuck) WithAttrs([]slog.Attr) slog.Handler       { return s }
func (s stuck) WithGroup(string) slog.Handler            { return s }

// A hub that hangs is not healthy, though the broker is.
func TestHungHub(t *testing.T) {
	t.Parallel()
	c := settings()
	log := stuck{slog.DiscardHandler, make(chan struct{}), make(chan struct{})}
	a := start(t, Options{Config: c, Logger: slog.New(log)})
	check, _ := probe(t, a, c)
	if err := check(30 * time.Second); err != nil {
		t.Fatal(err)
	}
	by := dial(t, client.Options{URL: a.URL()})
	if _, err := safety.Engage(t.Context(), by, "anna", "a dog"); err != nil {
		t.Fatal(err)
	}
	<-log.held
	for range 2 {
		if err := check(time.Second); err == nil {
			t.Error("healthy")
		}
	}
	close(log.wait)
	if err := check(30 * time.Second); err != nil {
		t.Error(err)
	}
}

// A hang that is not one of locks is seen by what goes through the broker.
func TestHungConnection(t *testing.T) {
	t.Parallel()
	for _, withHub := range []bool{true, false} {
		c := settings()
		c.Safety.EmergencyStop.Enabled = withHub
		a := start(t, Options{Config: c})
		check, p := probe(t, a, c)
		if err := p.Close(t.Context()); err != nil { // nothing comes through any more
			t.Fatal(err)
		}
		if err := check(time.Second); err == nil {
			t.Errorf("hub %v: healthy", withHub)
		}
	}
}
