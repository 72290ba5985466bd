package mosquitto

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
)

// ownerDir tells a process of this test binary to run an engine in that directory until it is killed.
const ownerDir = "LAWNBERRY_TEST_OWNER_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(ownerDir); dir != "" {
		owner(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

func owner(dir string) {
	b, err := Start(context.Background(), Options{Dir: dir, Listeners: local()})
	if err != nil {
		panic(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(b.Stats()); err != nil {
		panic(err)
	}
	select {}
}

const patience = 20 * time.Second

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func local() []Listener { return []Listener{{Network: "tcp", Address: "127.0.0.1:0"}} }

// shortDir is a directory whose path leaves room for a socket's name.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lm")
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "m")
}

// start runs an engine that lets everybody in unless o says otherwise, until the test ends.
func start(t testing.TB, o Options) *Broker {
	t.Helper()
	b, err := tryStart(t, o)
	check(t, err)
	return b
}

func tryStart(t testing.TB, o Options) (*Broker, error) {
	t.Helper()
	if o.Dir == "" {
		o.Dir = shortDir(t)
	}
	if o.Listeners == nil {
		o.Listeners = local()
		o.Logins.Anonymous = true
	}
	b, err := Start(testContext(t), o)
	if err == nil {
		t.Cleanup(func() { stop(t, b) })
	}
	return b, err
}

func stop(t testing.TB, b *Broker) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := b.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// quick has it notice a hung process soon.
func quick(s *times) {
	s.probe, s.patience = 20*time.Millisecond, 600*time.Millisecond
}

func connect(t testing.TB, o client.Options) *client.Client {
	t.Helper()
	c, err := tryConnect(t, o)
	check(t, err)
	return c
}

func tryConnect(t testing.TB, o client.Options) (*client.Client, error) {
	t.Helper()
	o.FailFast = true
	c, err := client.Connect(testContext(t), o)
	if err == nil {
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = c.Close(ctx)
		})
	}
	return c, err
}

// heard collects what comes on a filter.
type heard struct {
	mu   sync.Mutex
	seen []string
}

func listen(t testing.TB, c *client.Client, filter string) *heard {
	t.Helper()
	h := &heard{}
	_, err := c.Subscribe(testContext(t), filter, func(_ context.Context, d *client.Delivery) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.seen = append(h.seen, "lawnberry/"+d.Topic+"="+string(d.Message.Payload))
	})
	check(t, err)
	return h
}

func (h *heard) has(text string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Contains(h.seen, text)
}

func publish(t testing.TB, c *client.Client, topic, text string, opts ...client.PublishOption) {
	t.Helper()
	check(t, c.Publish(testContext(t), topic, message.NewRaw([]byte(text)), append(opts, client.WithQoS(1))...))
}

// A record of the log.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logged) has(parts ...string) bool {
	for line := range strings.SplitSeq(l.String(), "\n") {
		if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(line, p) }) {
			return true
		}
	}
	return false
}

func newLog(level slog.Level) (*logged, *slog.Logger) {
	l := &logged{}
	return l, slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: level}))
}
