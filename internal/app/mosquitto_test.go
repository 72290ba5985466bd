package app

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/broker/mosquitto"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/demo"
	"github.com/lawnberry/lawnberry/internal/identity"
	"github.com/lawnberry/lawnberry/internal/pki"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

// withMosquitto is a configuration whose broker is Mosquitto.
func withMosquitto(c *config.Config) *config.Config {
	c.Broker.Engine = config.EngineMosquitto
	return c
}

// shortDir is a data directory whose path leaves room for the name of a socket.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "la")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// withPasswords adds users who can log in to Mosquitto.
func withPasswords(t testing.TB, dir string, roles map[string]string) {
	t.Helper()
	withRoles(t, dir, roles)
	err := identity.Edit(dir, func(b *identity.Book) error {
		for name := range roles {
			if err := b.Change(name, func(u *identity.User) { u.Mosquitto = mosquitto.Verifier("password of " + name) }); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func logTo(l *logLines) *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// Everything is there as with the embedded broker: the hub, which keeps its state over a restart, the supervisor and the bridge; over the socket
// and over TCP. What is not promised is said.
func TestMosquittoServes(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	c := withMosquitto(settings())
	c.Integration.WebSocketBridge = config.WebSocketBridge{Enabled: true, Port: 0, MaxConnections: 3}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for round, engaged := range []bool{true, false} {
		var lines logLines
		a, err := Start(ctx, Options{Config: c, DataDir: dir, Version: "1.2.3", Logger: logTo(&lines)})
		if err != nil {
			t.Fatal(err)
		}
		stopped := false
		stop := func() {
			if err := a.Stop(context.Background()); err != nil {
				t.Error(err)
			}
			stopped = true
		}
		t.Cleanup(func() {
			if !stopped {
				stop()
			}
		})
		at := urls(a)
		if at["tcp"] != a.URL() || at["unix"] != "unix://"+filepath.Join(dir, "lawnberry.sock") {
			t.Fatalf("endpoints %v, URL %s", at, a.URL())
		}
		for _, url := range at {
			s, err := safety.ReadStatus(ctx, dial(t, client.Options{URL: url}))
			if err != nil || !s.Known || s.Engaged != engaged {
				t.Fatalf("round %d over %s: %+v, %v", round, url, s, err)
			}
		}
		if round == 0 {
			if err := safety.Release(ctx, dial(t, client.Options{URL: a.URL()}), "anna", 1); err != nil {
				t.Fatal(err)
			}
		}
		v := visitor{t: t, url: slices.Collect(slices.Values(a.Bridge().URLs()))[0]}
		if status, answer := v.do("GET", "/api/stats", nil); status != 200 || answer["broker"].(map[string]any)["engine"] != "mosquitto" {
			t.Errorf("%d: %v", status, answer)
		}
		if !strings.Contains(lines.String(), "promises less than the embedded one") || !strings.Contains(lines.String(), "overtake nothing") {
			t.Errorf("the log does not say what is not promised:\n%s", &lines)
		}
		stop()
		<-a.Done()
		if left, _ := filepath.Glob(filepath.Join(dir, "*.sock")); len(left) > 0 {
			t.Errorf("%q is left", left)
		}
	}
}

// When Mosquitto is killed all parts come back, system/health says so, and nobody takes it for a release.
func TestMosquittoIsKilled(t *testing.T) {
	t.Parallel()
	a := start(t, Options{Config: withMosquitto(settings()), DataDir: shortDir(t)})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	svc, err := service.Start(ctx, service.Options{ID: "x", Type: "sensors", Client: client.Options{URL: a.URL()}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = svc.Stop(context.Background()) }()
	c := dial(t, client.Options{URL: a.URL(), ID: "watcher"})
	health := make(chan string, 64)
	if _, err := c.Subscribe(ctx, "system/health", func(_ context.Context, d *client.Delivery) { health <- string(d.Message.Payload) }); err != nil {
		t.Fatal(err)
	}
	if _, err := safety.Engage(ctx, c, "anna", "a dog"); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(a.mosquitto.Stats().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for said := false; !said; {
		select {
		case h := <-health:
			said = strings.Contains(h, "the broker: Mosquitto had to be started again (1 times by now)") && strings.Contains(h, `"degraded"`)
		case <-ctx.Done():
			t.Fatal("system/health does not say it")
		}
	}
	var s safety.Status
	eventually(t, "the hub answers", func() bool {
		look, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		s, err = safety.ReadStatus(look, c)
		return err == nil
	})
	if !s.Engaged {
		t.Errorf("got %+v", s)
	}
	eventually(t, "the service is back", func() bool { return svc.Client().Connected() })
}

// What stands in the way is said with what to do about it, and nothing is left running.
func TestMosquittoCannotStart(t *testing.T) {
	t.Parallel()
	port := occupy(t)
	for _, tt := range []struct {
		name   string
		change func(c *config.Config, dir string)
		want   string
	}{
		{"port taken", func(c *config.Config, _ string) { c.Broker.Port = port }, "or set broker.port"},
		{"no program", func(c *config.Config, dir string) { c.Broker.Mosquitto.Binary = filepath.Join(dir, "none") }, "broker.mosquitto.binary"},
		{"WebSocket without logins", func(c *config.Config, _ string) { c.Broker.WebSockets = config.WebSockets{Enabled: true} }, "needs logins"},
		{"user without a password for it", func(_ *config.Config, dir string) { withRoles(t, dir, map[string]string{"ann": ""}) }, `"lawnberry user passwd ann"`},
		{"user with a colon", func(_ *config.Config, dir string) { withPasswords(t, dir, map[string]string{"a:b": ""}) }, "no name with a colon"},
		{"access control without users", func(c *config.Config, _ string) { c.Security.AccessControl.Enabled = true }, "lawnberry user add"},
		{"an emergency stop that somebody could not engage", func(c *config.Config, dir string) {
			withPasswords(t, dir, map[string]string{"ann": ""})
			c.Security.AccessControl.Enabled = true
			c.Security.AccessControl.Rules = []any{
				map[string]any{"identity": "ann", "deny": "subscribe", "filter": "safety/#"},
				map[string]any{"identity": "ann", "allow": "all", "filter": "#"},
			}
		}, "could not engage the emergency stop"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := shortDir(t)
			c := withMosquitto(settings())
			tt.change(c, dir)
			a, err := Start(t.Context(), Options{Config: c, DataDir: dir})
			if err == nil {
				_ = a.Stop(context.Background())
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v", err)
			}
		})
	}
	c := withMosquitto(settings())
	c.Broker.Port = port
	a := start(t, Options{Config: c, DataDir: shortDir(t), AnyPort: true})
	dial(t, client.Options{URL: a.URL()})
	var busy *BusyError
	if _, err := Start(t.Context(), Options{Config: withMosquitto(settings()), DataDir: a.DataDir()}); !errors.As(err, &busy) {
		t.Errorf("got %v", err)
	}
}

// Users of the file and the configuration log in, those who come and go meanwhile too; the socket asks nobody.
func TestMosquittoUsers(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	withPasswords(t, dir, map[string]string{"ann": "", "bob": ""})
	c := withMosquitto(settings())
	c.Broker.Auth = config.Auth{Enabled: true, Username: "mower", Password: "password of mower"}
	c.Broker.WebSockets.Enabled, c.Broker.WebSockets.Port = true, 0
	var lines logLines
	a := start(t, Options{Config: c, DataDir: dir, Logger: logTo(&lines)})
	tryAs := func(name string) error {
		c, err := client.Connect(t.Context(), as(a, name))
		if err == nil {
			_ = c.Close(t.Context())
		}
		return err
	}
	for _, name := range []string{"ann", "bob", "mower"} {
		if err := tryAs(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		o := as(a, name)
		o.URL = urls(a)["ws"]
		dial(t, o)
	}
	if tryAs("eve") == nil {
		t.Error("eve comes in")
	}
	dial(t, client.Options{URL: urls(a)["unix"]})
	bob := dial(t, as(a, "bob"))
	withPasswords(t, dir, map[string]string{"eve": ""})
	eventually(t, "eve comes in", func() bool { return tryAs("eve") == nil })
	if err := identity.Edit(dir, func(b *identity.Book) error {
		return errors.Join(b.Change("bob", func(u *identity.User) { u.Disabled = true }), b.Add("old", "", identity.Hash("password of old")))
	}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "bob is put out", func() bool { return !bob.Connected() && tryAs("bob") != nil })
	if tryAs("ann") != nil {
		t.Error("ann does not come in any more")
	}
	eventually(t, "it is said who cannot log in", func() bool { return strings.Contains(lines.String(), "user old has no password for Mosquitto") })
	if text := lines.String(); strings.Contains(text, "password of") || strings.Contains(text, "$7$") {
		t.Error("a secret is in the log")
	}
}

// With access control services do what they may and no more; who has no right to release does not, and who has no right to ask the hub is named.
func TestMosquittoAccess(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	withPasswords(t, dir, map[string]string{"blade": "", "gps": "", "navigation": "", "ann": "operator", "vic": "viewer", "root": "admin"})
	c := withMosquitto(ruled())
	c.Security.AccessControl.Rules = []any{map[string]any{"identity": "blade", "allow": "release", "filter": "safety/emergency_stop"}}
	var lines logLines
	a := start(t, Options{Config: c, DataDir: dir, Logger: logTo(&lines)})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	run := func(id string) *service.Service {
		d := c.ServiceDefinitions[id]
		s, err := service.Start(ctx, service.Options{ID: id, Type: d.ServiceType, Dependencies: d.Dependencies, Client: as(a, id)})
		if err != nil {
			t.Fatalf("%s: %v", id, err)
		}
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			_ = s.Stop(ctx)
		})
		return s
	}
	blade, gps := run("blade"), run("gps")
	service.Handle(blade, "spin", func(_ context.Context, p spin) (spin, error) { return p, nil })
	navigation := run("navigation")
	var result spin
	if err := navigation.Call(ctx, "blade", "spin", spin{7}, &result); err != nil || result.RPM != 7 {
		t.Errorf("%v, %v", result, err)
	}
	if err := gps.PublishSensor(ctx, message.SensorData{SensorType: "gps", Data: map[string]any{"latitude": 48.1}}); err != nil {
		t.Error(err)
	}
	denied := func(what string, err error) {
		t.Helper()
		var code *client.RefusedError
		if !errors.As(err, &code) || code.Code != 0x87 {
			t.Errorf("%s: %v, want a refusal", what, err)
		}
	}
	text := message.NewRaw([]byte("x"))
	denied("gps for navigation", gps.Publish(ctx, "navigation/position", text))
	denied("gps as navigation", gps.Publish(ctx, "system/services/navigation/status", text))
	root, ann, vic := dial(t, as(a, "root")), dial(t, as(a, "ann")), dial(t, as(a, "vic"))
	denied("a viewer's command", vic.Publish(ctx, "commands/blade", text, client.WithQoS(1)))
	denied("an operator's to the hub", ann.Publish(ctx, "commands/emergency_stop", text, client.WithQoS(1)))
	if err := ann.Publish(ctx, "commands/blade", text, client.WithQoS(1)); err != nil {
		t.Error(err)
	}
	for _, who := range []*client.Client{vic, ann, gps.Client()} { // a right of everyone
		before := a.Hub().Status().Sequence
		if _, err := safety.Engage(ctx, who, "", "test"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "engaged", func() bool { return a.Hub().Status().Sequence > before })
	}
	s, err := safety.ReadStatus(ctx, root)
	if err != nil || !s.Engaged {
		t.Fatalf("%+v, %v", s, err)
	}
	if err := safety.Release(ctx, ann, "ann", s.Sequence); err == nil {
		t.Error("an operator has released it")
	}
	if err := safety.Release(ctx, root, "root", s.Sequence); err != nil {
		t.Error(err)
	}
	latch, err := safety.OpenLatch(ctx, blade.Client(), safety.LatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = latch.Close(context.Background()) }()
	eventually(t, "blade knows that it is released", func() bool { return latch.State().Known && !latch.State().Engaged })
	said := lines.String()
	for _, want := range []string{"navigation may not ask the hub", "gps may not ask the hub", "the sender that a message names is not looked at"} {
		if !strings.Contains(said, want) {
			t.Errorf("%q is not said", want)
		}
	}
	if strings.Contains(said, "blade may not ask the hub") {
		t.Error("blade is named")
	}
	// Without the rule, from one moment to the next.
	changed := *c
	changed.Security.AccessControl.Rules = nil
	if err := a.SetAccess(&changed); err != nil {
		t.Fatal(err)
	}
	eventually(t, "blade may not ask any more", func() bool {
		return blade.Publish(ctx, "commands/emergency_stop", text, client.WithQoS(1)) != nil
	})
	if a.mosquitto.Stats().Restarts != 0 {
		t.Errorf("%+v", a.mosquitto.Stats())
	}
}

// Certificates that are new are taken in while it runs; a pair that does not fit is not.
func TestMosquittoCertificates(t *testing.T) {
	t.Parallel()
	authority, err := pki.Create(filepath.Join(t.TempDir(), "pki"), "test", false)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(name string) pki.Certificate {
		cert, err := authority.Issue(pki.Request{Name: name, Server: true, Hosts: []string{"127.0.0.1"}, Force: true})
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	first := issue("broker")
	c := withMosquitto(settings())
	c.Broker.TLS = config.ServerTLS{Enabled: true, CertFile: first.CertFile, KeyFile: first.KeyFile}
	a := start(t, Options{Config: c, DataDir: shortDir(t)})
	serial := func() string { return serverSerial(t, strings.TrimPrefix(a.URL(), "ssl://")) }
	before := serial()
	issue("broker")
	eventually(t, "the new certificate", func() bool { return serial() != before })
	dial(t, client.Options{URL: urls(a)["unix"]})
}

// The demo's mower works on it.
func TestMosquittoDemo(t *testing.T) {
	t.Parallel()
	a := start(t, Options{Config: withMosquitto(settings()), Demo: &demo.Options{}})
	c := dial(t, client.Options{URL: a.URL()})
	seen := make(chan struct{}, 64)
	for _, filter := range []string{"navigation/position", "power/battery", "sensors/+/data"} {
		if _, err := c.Subscribe(t.Context(), filter, func(context.Context, *client.Delivery) {
			select {
			case seen <- struct{}{}:
			default:
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		select {
		case <-seen:
		case <-time.After(20 * time.Second):
			t.Fatal("nothing comes")
		}
	}
	if !a.Hub().Status().Engaged && a.Demo() == nil {
		t.Error("no demo")
	}
}

// serverSerial is the number of the certificate that a server shows.
func serverSerial(t *testing.T, address string) string {
	t.Helper()
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", address, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // it is only looked at
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
}
