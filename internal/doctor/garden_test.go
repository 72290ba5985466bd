package doctor_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/doctor"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// eventually waits until f is true.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// A garden is a mower in order: a data directory, a broker, the hub of a released emergency stop, and the service mission.
type garden struct {
	t       *testing.T
	dir     string // data directory
	file    string // of the configuration; "" without
	url     string // of the broker; "" without
	hub     *safety.Hub
	mission *service.Service
	o       doctor.Options
}

// write writes a file in the data directory and returns its path.
func (g *garden) write(name, text string, mode os.FileMode) string {
	g.t.Helper()
	path := filepath.Join(g.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		g.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		g.t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // past the umask
		g.t.Fatal(err)
	}
	return path
}

// ends calls f at the end of the test, with a time for it.
func (g *garden) ends(what string, f func(context.Context) error) {
	g.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := f(ctx); err != nil {
			g.t.Errorf("%s: %v", what, err)
		}
	})
}

func (g *garden) startBroker(o broker.Options) {
	g.t.Helper()
	o.Listeners, o.SysInterval = []broker.Listener{{Network: "tcp", Address: "127.0.0.1:0"}}, 20*time.Millisecond
	b, err := broker.Start(g.t.Context(), o)
	if err != nil {
		g.t.Fatal(err)
	}
	g.ends("broker", b.Stop)
	g.url = b.URL()
}

// startHub starts the hub, and releases the emergency stop.
func (g *garden) startHub() {
	g.t.Helper()
	var err error
	g.hub, err = safety.StartHub(g.t.Context(), safety.HubOptions{Client: client.Options{URL: g.url}, File: filepath.Join(g.t.TempDir(), "stop.json")})
	if err != nil {
		g.t.Fatal(err)
	}
	g.ends("hub", g.hub.Stop)
	if err := safety.Release(g.t.Context(), g.client("person"), "person", g.hub.Status().Sequence); err != nil {
		g.t.Fatal(err)
	}
}

func (g *garden) startMission() {
	g.t.Helper()
	s, err := service.Start(g.t.Context(), service.Options{ID: "mission", Type: "test", Version: "1.2.3", Client: client.Options{URL: g.url}})
	if err != nil {
		g.t.Fatal(err)
	}
	g.ends("mission", s.Stop)
	g.mission = s
}

// client connects one that ends with the test.
func (g *garden) client(id string) *client.Client {
	g.t.Helper()
	c, err := client.Connect(g.t.Context(), client.Options{URL: g.url, ID: id, CleanStart: true, SessionExpiry: -1})
	if err != nil {
		g.t.Fatal(err)
	}
	g.ends(id, c.Close)
	return c
}

// status is what a service says of itself, which tells its processes apart by their pid.
func status(id, state string, at time.Time, pid int) message.Message {
	return message.NewRaw(fmt.Appendf(nil,
		`{"metadata": {"timestamp": %.3f, "message_id": "%s %d", "sender": "%s", "message_type": "status", "priority": 0},
		"payload": {"status": "%s", "uptime": 5, "version": "1", "details": {"service_id": "%s", "service_type": "test", "pid": %d}}}`,
		float64(at.UnixMilli())/1000, id, at.UnixNano(), id, state, id, pid))
}

// publish publishes, and returns when the broker has it.
func (g *garden) publish(c *client.Client, topic string, m message.Message, opts ...client.PublishOption) {
	g.t.Helper()
	if err := c.Publish(g.t.Context(), topic, m, append(opts, client.Unlimited())...); err != nil {
		g.t.Fatal(err)
	}
}

// repeat calls f again and again until the test ends.
func (g *garden) repeat(f func(n int)) {
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			f(n)
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	g.t.Cleanup(func() { stop(); <-ended })
}

// away makes a session that is kept and whose client is gone, which gets all readings.
func (g *garden) away() {
	g.t.Helper()
	c, err := client.Connect(g.t.Context(), client.Options{URL: g.url, ID: "away", SessionExpiry: time.Hour})
	if err != nil {
		g.t.Fatal(err)
	}
	if _, err := c.Subscribe(g.t.Context(), "sensors/+/data", func(context.Context, *client.Delivery) {}); err != nil {
		g.t.Fatal(err)
	}
	if err := c.Close(g.t.Context()); err != nil {
		g.t.Fatal(err)
	}
}

// certificate writes one that expires then, to the data directory.
func (g *garden) certificate(expires time.Time) {
	g.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		g.t.Fatal(err)
	}
	about := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "broker"}, NotBefore: expires.Add(-90 * 24 * time.Hour), NotAfter: expires,
	}
	der, err := x509.CreateCertificate(rand.Reader, about, about, &key.PublicKey, key)
	if err != nil {
		g.t.Fatal(err)
	}
	g.write("tls/broker.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), 0o644)
}

// examine returns what is found, as "severity check: id", sorted, and the report.
func (g *garden) examine() ([]string, doctor.Report) {
	g.t.Helper()
	r, err := doctor.Examine(g.t.Context(), g.o)
	if err != nil {
		g.t.Fatal(err)
	}
	found := []string{}
	for _, f := range r.Findings {
		found = append(found, fmt.Sprintf("%s %s: %s", f.Severity, f.Check, f.ID))
		if f.What == "" || f.Why == "" || f.Fix == "" || f.Command == "" || strings.ContainsAny(f.Command, "{}") {
			g.t.Errorf("a finding that does not say all: %+v", f)
		}
	}
	slices.Sort(found)
	return found, r
}

// load reads the configuration as far as it goes, and makes the options of an examination by it.
func (g *garden) load(text string) {
	g.t.Helper()
	if text != "" {
		g.file = filepath.Join(g.t.TempDir(), "mower.yaml")
		if err := os.WriteFile(g.file, []byte(text), 0o600); err != nil {
			g.t.Fatal(err)
		}
	}
	loaded, err := config.Salvage(g.file, nil)
	g.o = doctor.Options{
		Loaded: loaded, Failed: err, DataDir: g.dir, Listen: 300 * time.Millisecond,
		SlowSync: time.Hour, SlowTrip: time.Hour, // how fast this machine is is not the subject
	}
	usable := *loaded.Config
	usable.Security.Signing.Enabled, usable.Security.Encryption.Enabled = false, false
	g.o.Client, g.o.Unknown = usable.ClientOptions()
	g.o.Client.ID = "probe"
}
