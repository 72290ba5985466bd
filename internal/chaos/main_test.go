// Package chaos holds the fault tests of the broker as people run it: the command lawnberry serve as a process of its own,
// with bare clients that count every message. Each test injects the fault that it names and prints what it counted.
//
// They are short by default. With LAWNBERRY_CHAOS=long in the environment they take the numbers that the broker promises
// to stand, which is what "make chaos" does.
package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// built is where the command is built to, once.
var built struct {
	dir         string
	plain, race func() (string, error)
}

func TestMain(m *testing.M) {
	if dir := os.Getenv(smallDiskEnv); dir != "" {
		holdSmallDisk(dir)
		return
	}
	if os.Getenv(outboxEnv) != "" {
		beOutbox()
		return
	}
	if os.Getenv(targetEnv) != "" {
		beTarget()
		return
	}
	if os.Getenv(safetyEnv) != "" {
		bePart()
		return
	}
	if os.Getenv(fleetEnv) != "" {
		beMowers()
		return
	}
	dir, err := os.MkdirTemp("", "lawnberry-chaos-")
	if err == nil {
		err = os.Chmod(dir, 0o755) // others than root run what is built there
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	built.dir = dir
	built.plain = sync.OnceValues(func() (string, error) { return build("lawnberry") })
	built.race = sync.OnceValues(func() (string, error) { return build("lawnberry-race", "-race") })
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

func build(name string, flags ...string) (string, error) {
	path := filepath.Join(built.dir, name)
	args := append([]string{"build", "-o", path}, flags...)
	c := exec.Command("go", append(args, "github.com/lawnberry/lawnberry/cmd/lawnberry")...)
	c.Env = os.Environ()
	if len(flags) == 0 { // as make build does; the race detector needs the other
		c.Env = append(c.Env, "CGO_ENABLED=0")
	}
	out, err := c.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
}

// long reports whether the long forms are to be run.
func long() bool { return os.Getenv("LAWNBERRY_CHAOS") == "long" }

// raced is whether the tests run with the race detector.
var raced = sync.OnceValue(func() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
})

// pick returns the number for the short or the long form.
func pick[T any](short, ifLong T) T {
	if long() {
		return ifLong
	}
	return short
}

// tally prints a line of the table that make chaos ends with (scripts/chaos): a fault, how many times it was injected, and what became
// of the messages meanwhile. What was refused was not sent; what is lost was acknowledged.
func tally(t testing.TB, fault string, times int, b balance) {
	t.Helper()
	t.Logf("fault=%s times=%d sent=%d delivered=%d lost=%d duplicated=%d out_of_order=%d", fault, times, b.Published-b.Refused,
		b.Published-b.Refused-b.Lost, b.Lost, b.Duplicates, b.Misordered)
}

// seeded returns random numbers whose seed is printed. LAWNBERRY_CHAOS_SEED sets it.
func seeded(t testing.TB) *rand.Rand {
	seed := rand.Uint64()
	if s, err := strconv.ParseUint(os.Getenv("LAWNBERRY_CHAOS_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("LAWNBERRY_CHAOS_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// within returns a context that ends the test's patience.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// A server is "lawnberry serve" on one data directory and port, which it keeps over its restarts.
type server struct {
	t    testing.TB
	Dir  string
	Addr string   // host:port
	Env  []string // beside the port and the directory
	Args []string // further ones of serve
	// Plain is for figures: the command without the race detector, also when the tests run with it.
	Plain bool
	// Prefix is a command that runs the server's, given as further arguments.
	Prefix []string
	// User is who runs it; 0 is who runs the test.
	User uint32
	// Faulty is that the store is made to fail. Else a failure of it fails the test.
	Faulty bool

	cmd   *exec.Cmd
	log   *logBuffer
	ended chan struct{} // closed when the process has ended
}

// newServer prepares a server that is not running yet. It is killed when the test ends.
func newServer(t testing.TB) *server {
	t.Helper()
	s := &server{t: t, Dir: filepath.Join(t.TempDir(), "data"), Addr: freeAddress(t)}
	t.Cleanup(func() {
		s.kill()
		if t.Failed() && s.log != nil {
			log := s.log.String()
			t.Logf("the last of serve's log:\n%s", log[max(0, len(log)-8000):])
		}
	})
	return s
}

// freeAddress returns an address of this host that nobody listens on. It is below the ports that the system gives to
// outgoing connections, else a client that dials while the server is down would now and then reach itself.
func freeAddress(t testing.TB) string {
	t.Helper()
	for range 1000 {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(12_000+rand.IntN(20_000))))
		if err == nil {
			address := l.Addr().String()
			l.Close()
			return address
		}
	}
	t.Fatal("no free port")
	return ""
}

// spawn starts the process and does not wait for anything.
func (s *server) spawn() {
	s.t.Helper()
	program := built.plain
	if raced() && !s.Plain {
		program = built.race
	}
	path, err := program()
	if err != nil {
		s.t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(s.Addr)
	args := append(slices.Clone(s.Prefix), path, "serve", "--data-dir", s.Dir)
	args = append(args, s.Args...)
	s.cmd = exec.Command(args[0], args[1:]...)
	s.cmd.Env = append(environment(), "LAWNBERRY_BROKER_PORT="+port, "LAWNBERRY_BROKER_BIND_ADDRESS=127.0.0.1",
		"LAWNBERRY_BROKER_MAX_CONNECTIONS=5000", "GORACE=atexit_sleep_ms=0")
	s.cmd.Env = append(s.cmd.Env, s.Env...)
	s.cmd.SysProcAttr = process(s.User)
	s.log = &logBuffer{}
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended, cmd := make(chan struct{}), s.cmd
	s.ended = ended
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
}

// environment is ours without what configures lawnberry.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "LAWNBERRY_") })
}

// start starts the process and returns how long it took until it answered a CONNECT.
func (s *server) start() time.Duration {
	s.t.Helper()
	began := time.Now()
	s.spawn()
	if err := s.ready(time.Minute); err != nil {
		s.t.Fatal(err)
	}
	return time.Since(began)
}

// ready waits until a CONNECT is answered.
func (s *server) ready(patience time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		p := newPeer(peerOptions{ID: "ready"})
		err := p.connect(ctx, s.Addr)
		if err == nil {
			p.disconnect(0)
			return nil
		}
		select {
		case <-s.ended:
			return fmt.Errorf("serve ended by itself: %v\n%s", s.cmd.ProcessState, s.log)
		case <-ctx.Done():
			_ = s.cmd.Process.Signal(syscall.SIGQUIT) // it says where it hangs
			<-s.ended
			return fmt.Errorf("serve does not answer: %w\n%s", err, s.log)
		case <-tick.C:
		}
	}
}

// running reports whether the process runs.
func (s *server) running() bool {
	if s.ended == nil {
		return false
	}
	select {
	case <-s.ended:
		return false
	default:
		return true
	}
}

// kill ends the process with SIGKILL, if it runs, and looks into its log.
func (s *server) kill() {
	s.t.Helper()
	if s.ended == nil {
		return
	}
	alive := s.running()
	_ = s.cmd.Process.Kill()
	<-s.ended
	if !alive && s.cmd.ProcessState.ExitCode() != 0 {
		s.t.Errorf("serve had ended by itself: %v\n%s", s.cmd.ProcessState, s.log)
	}
	s.inspect()
	s.ended = nil
}

// stop ends the process with SIGTERM, and returns its exit code and how long it took.
func (s *server) stop() (code int, took time.Duration) {
	s.t.Helper()
	began := time.Now()
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.ended:
	case <-time.After(30 * time.Second):
		s.t.Errorf("serve does not end on SIGTERM\n%s", s.log)
		_ = s.cmd.Process.Kill()
		<-s.ended
	}
	took = time.Since(began)
	s.inspect()
	s.ended = nil
	return s.cmd.ProcessState.ExitCode(), took
}

// inspect fails the test when the process has panicked or raced, or its store failed.
func (s *server) inspect() {
	s.t.Helper()
	log := s.log.String()
	signs := []string{"panic: ", "fatal error: ", "WARNING: DATA RACE"}
	if !s.Faulty {
		signs = append(signs, `"msg":"store failed"`, `"msg":"the store fails`, "make no sense", "set aside")
	}
	for _, bad := range signs {
		if i := strings.Index(log, bad); i >= 0 {
			s.t.Errorf("serve: %s", log[i:min(len(log), i+6000)])
		}
	}
}

// A logLine is what tests look at of a line of serve's log.
type logLine struct {
	Msg, Client, Code, Reason, Error string
	Dropped                          int
}

// said returns the lines of serve's log with that message, about that client or, when it is "", any.
func (s *server) said(msg, client string) (lines []logLine) {
	for text := range strings.Lines(s.log.String()) {
		var l logLine
		if json.Unmarshal([]byte(text), &l) == nil && l.Msg == msg && (client == "" || l.Client == client) {
			lines = append(lines, l)
		}
	}
	return lines
}

// pid returns the process id.
func (s *server) pid() int { return s.cmd.Process.Pid }

// rss returns the resident memory of the process in bytes, now and at its highest.
func (s *server) rss() (now, highest int64) {
	s.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid()))
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var kb int64
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kb); err == nil {
			now = kb << 10
		}
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kb); err == nil {
			highest = kb << 10
		}
	}
	return now, highest
}

// logBuffer keeps what a process prints, the first and the last of it.
type logBuffer struct {
	mu         sync.Mutex
	head, tail []byte
	cut        int
}

const logPart = 256 << 10

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := len(p)
	if room := logPart - len(b.head); room > 0 {
		k := min(room, len(p))
		b.head, p = append(b.head, p[:k]...), p[k:]
	}
	b.tail = append(b.tail, p...)
	if over := len(b.tail) - 2*logPart; over > 0 {
		over += logPart
		b.cut += over
		b.tail = append(b.tail[:0], b.tail[over:]...)
	}
	return n, nil
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var s bytes.Buffer
	s.Write(b.head)
	if b.cut > 0 {
		fmt.Fprintf(&s, "\n... %d bytes ...\n", b.cut)
	}
	s.Write(b.tail)
	return s.String()
}

// eventually waits for a condition.
func eventually(t testing.TB, patience time.Duration, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !condition() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// must fails the test with the first error.
func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
