package cloudlog

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A collector is a log server.
type collector struct {
	t      *testing.T
	server *httptest.Server

	mu      sync.Mutex // guards the fields below
	status  int        // what it answers; 0 takes the batch
	keys    map[string]int
	batches []int // lines of each
	lines   []map[string]any
	tries   int
}

func newCollector(t *testing.T, address string) *collector {
	c := &collector{t: t, keys: map[string]int{}}
	c.server = httptest.NewUnstartedServer(http.HandlerFunc(c.serve))
	if address != "" {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.server.Listener.Close()
		c.server.Listener = l
	}
	c.server.Start()
	t.Cleanup(c.server.Close)
	return c
}

func (c *collector) serve(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tries++
	if c.status != 0 {
		w.WriteHeader(c.status)
		return
	}
	var lines []map[string]any
	if err := json.NewDecoder(r.Body).Decode(&lines); err != nil {
		c.t.Errorf("not JSON: %v", err)
	}
	if r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("Authorization") != "Bearer secret" {
		c.t.Errorf("%s %v", r.Method, r.Header)
	}
	if c.keys[r.Header.Get("Idempotency-Key")]++; c.keys[r.Header.Get("Idempotency-Key")] == 1 {
		c.batches = append(c.batches, len(lines))
		c.lines = append(c.lines, lines...)
	}
	w.WriteHeader(http.StatusNoContent)
}

func (c *collector) answer(status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status = status
}

// numbers returns the attribute n of the lines that have come with it, and how many said that lines are missing.
func (c *collector) numbers() (n []int, missing int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.lines {
		if v, ok := l["n"].(float64); ok {
			n = append(n, int(v))
		} else if l["msg"] == "log lines are missing" {
			missing += int(l["lines"].(float64))
		}
	}
	return n, missing
}

func begin(t *testing.T, o Options) (*Sink, *slog.Logger) {
	t.Helper()
	o.Token, o.firstRetry = "secret", 5*time.Millisecond
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, s) })
	return s, slog.New(s.Handler(slog.DiscardHandler, slog.LevelInfo))
}

func end(t *testing.T, s *Sink) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		t.Error(err)
	}
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for late := time.Now().Add(20 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// inOrder fails the test unless n is from, from+1 ... to-1.
func inOrder(t *testing.T, n []int, from, to int) {
	t.Helper()
	if len(n) != to-from {
		t.Errorf("%d lines came, want %d", len(n), to-from)
		return
	}
	for i, v := range n {
		if v != from+i {
			t.Errorf("line %d came at %d", v, from+i)
			return
		}
	}
}

func TestBatches(t *testing.T) {
	t.Parallel()
	c := newCollector(t, "")
	s, log := begin(t, Options{Endpoint: c.server.URL, Dir: t.TempDir(), Lines: 10, Flush: time.Hour})
	for i := range 25 {
		log.With("a", 1).WithGroup("").Info("line", "n", i)
		log.Debug("not for the server", "n", -1)
	}
	eventually(t, "20 lines", func() bool { n, _ := c.numbers(); return len(n) == 20 })
	n, missing := c.numbers()
	inOrder(t, n, 0, 20) // the rest waits for more, or for its time
	c.mu.Lock()
	defer c.mu.Unlock()
	if missing != 0 || !slices.Equal(c.batches, []int{10, 10}) || c.lines[0]["level"] != "INFO" || c.lines[0]["a"] != 1.0 || c.lines[0]["time"] == nil {
		t.Errorf("batches %v, %d missing, %v", c.batches, missing, c.lines[0])
	}
	if st := s.Stats(); st.Lost != 0 || st.Failing {
		t.Errorf("%+v", st)
	}
}

// Lines that are too few for a batch are sent when their time has come.
func TestFlush(t *testing.T) {
	t.Parallel()
	c := newCollector(t, "")
	_, log := begin(t, Options{Endpoint: c.server.URL, Dir: t.TempDir(), Lines: 1000, Flush: 20 * time.Millisecond})
	for i := range 5 {
		log.Info("line", "n", i)
	}
	eventually(t, "5 lines", func() bool { n, _ := c.numbers(); return len(n) == 5 })
	n, _ := c.numbers()
	inOrder(t, n, 0, 5)
}

// The server is away, the process is replaced in between, and the last line of a file was cut by a crash: what was written comes, in order, once.
func TestOffline(t *testing.T) {
	t.Parallel()
	c := newCollector(t, "")
	address, dir := c.server.Listener.Addr().String(), t.TempDir()
	c.server.Close()
	s, log := begin(t, Options{Endpoint: "http://" + address, Dir: dir, Lines: 7, Flush: time.Hour})
	for i := range 100 {
		log.Info("line", "n", i)
	}
	eventually(t, "a failed attempt", func() bool { return s.Stats().Failing && s.Stats().Waiting == 14 })
	end(t, s)
	if left, _ := filepath.Glob(filepath.Join(dir, "*"+readySuffix)); len(left) != 15 {
		t.Fatalf("%d files, want 15", len(left))
	}
	// A process that was killed leaves a file that was not complete, and a line that is cut.
	last := filepath.Join(dir, "ffffffff-ffff-7fff-bfff-ffffffffffff"+openSuffix)
	if err := os.WriteFile(last, []byte(`{"n":100}`+"\n"+`{"n":10`), 0o600); err != nil {
		t.Fatal(err)
	}
	again := newCollector(t, address)
	s, log = begin(t, Options{Endpoint: "http://" + address, Dir: dir, Lines: 7, Flush: time.Millisecond})
	eventually(t, "101 lines", func() bool { n, _ := again.numbers(); return len(n) == 101 })
	n, _ := again.numbers()
	inOrder(t, n, 0, 101)
	log.Info("line", "n", 101)
	eventually(t, "live lines", func() bool { n, _ := again.numbers(); return len(n) == 102 })
	end(t, s)
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("%d files are left", len(left))
	}
}

// A busy server is tried again with the same key, one that refuses is not, and says so in the count.
func TestAnswers(t *testing.T) {
	t.Parallel()
	c := newCollector(t, "")
	var said bytes.Buffer
	s, log := begin(t, Options{Endpoint: c.server.URL, Dir: t.TempDir(), Lines: 1, Logger: slog.New(slog.NewTextHandler(&said, nil))})
	c.answer(http.StatusServiceUnavailable)
	log.Info("line", "n", 0)
	eventually(t, "three attempts", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return c.tries >= 3 })
	c.answer(0)
	eventually(t, "the line", func() bool { n, _ := c.numbers(); return len(n) == 1 })
	c.answer(http.StatusBadRequest)
	log.Info("line", "n", 1)
	eventually(t, "the loss", func() bool { return s.Stats().Lost == 1 })
	c.answer(0)
	log.Info("line", "n", 2)
	eventually(t, "the next line", func() bool { n, missing := c.numbers(); return len(n) == 2 && missing == 1 })
	end(t, s)
	for _, want := range []string{"cannot be reached", "is back", "refuses them"} {
		if strings.Count(said.String(), want) != 1 {
			t.Errorf("%q is not said once: %s", want, said.String())
		}
	}
}

// Files take no more room than they may: the oldest go, and the server hears how many.
func TestRoom(t *testing.T) {
	t.Parallel()
	c := newCollector(t, "")
	c.answer(http.StatusServiceUnavailable)
	dir := t.TempDir()
	s, log := begin(t, Options{Endpoint: c.server.URL, Dir: dir, Lines: 10, MaxBytes: 20_000})
	const sent = 1000
	for i := range sent {
		log.Info("line", "n", i, "text", strings.Repeat("x", 100))
		if i%100 == 0 {
			eventually(t, "room in the queue", func() bool { return len(s.lines) == 0 })
		}
	}
	log.Info("too long", "text", strings.Repeat("x", maxLine))
	eventually(t, "all lines in files", func() bool { return s.Stats().Lost > 0 && len(s.lines) == 0 })
	var size int64
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			size += info.Size()
		}
	}
	if size > 20_000 {
		t.Errorf("files have %d bytes", size)
	}
	c.answer(0)
	eventually(t, "the rest", func() bool { return s.Stats().Waiting == 0 })
	end(t, s) // and with it the batch that grew
	n, missing := c.numbers()
	if len(n)+missing != sent+1 || len(n) == 0 || n[len(n)-1] != sent-1 {
		t.Errorf("%d lines came and %d are missing, want %d in all; the last is %v", len(n), missing, sent+1, n[max(0, len(n)-1):])
	}
	inOrder(t, n, sent-len(n), sent)
}

// A server that takes the connection and says nothing does not hold up the end.
func TestSilentServer(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir := t.TempDir()
	s, log := begin(t, Options{Endpoint: "http://" + l.Addr().String(), Dir: dir, Lines: 1})
	for i := range 2 * queueLength {
		log.Info("line", "n", i) // never waits
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := s.Stop(ctx); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the end took %v", took)
	}
	lines := 0
	files, _ := filepath.Glob(filepath.Join(dir, "*"+readySuffix))
	for _, f := range files {
		body, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		lines += bytes.Count(body, []byte{'\n'})
	}
	if st := s.Stats(); lines+int(st.Lost) != 2*queueLength {
		t.Errorf("%d lines in files, %+v, want %d in all", lines, st, 2*queueLength)
	}
}

func TestWrongEndpoint(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"", "logs", "ftp://host/", "http://", "http://[::1"} {
		if _, err := Start(Options{Endpoint: url, Dir: t.TempDir()}); err == nil {
			t.Errorf("%q is taken", url)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(Options{Endpoint: "http://localhost/", Dir: file}); err == nil {
		t.Error("a file is taken for a directory")
	}
}

// What may be secret in the endpoint is not in the log, neither of a server that is away nor of one that refuses.
func TestEndpointIsNotLogged(t *testing.T) {
	t.Parallel()
	c := newCollector(t, "")
	c.answer(http.StatusForbidden)
	away, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = away.Close()
	for _, server := range []string{c.server.URL, "http://" + away.Addr().String()} {
		var own bytes.Buffer
		s, log := begin(t, Options{
			Endpoint: strings.Replace(server, "//", "//ann:hunter2@", 1) + "/logs?key=hunter3", Dir: t.TempDir(), Lines: 1, Logger: slog.New(slog.NewTextHandler(&own, nil)),
		})
		log.Info("x")
		end(t, s)
		if text := own.String(); strings.Contains(text, "hunter") || !strings.Contains(text, server+"/logs") {
			t.Errorf("the log: %s", text)
		}
	}
}
