package cli

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/natstest"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

// leakChecked runs the tests and then looks for goroutines that they left behind.
type leakChecked struct{ *testing.M }

func (m leakChecked) Run() int {
	code := m.M.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func TestMain(m *testing.M) {
	testscript.Main(leakChecked{m}, map[string]func(){
		"lawnberry": func() {
			os.Exit(Run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Environ()))
		},
		"testservice": testService,
		"testguard":   testGuard,
		"testliar":    testLiar,
		"testpanic":   testPanic,
	})
}

// walkParameters are how far to go.
type walkParameters struct {
	Steps int `json:"steps" doc:"how many"`
	Goal  struct {
		X float64 `json:"x" doc:"metres east"`
		Y float64 `json:"y"`
	} `json:"goal"`
	Tags []string `json:"tags"`
}

func (w *walkParameters) SetDefaults() { w.Steps = 1 }

type walked struct {
	Steps int       `json:"steps"`
	At    time.Time `json:"at" doc:"when it arrived"`
}

// testService is a service with the id and the broker's URL of its arguments: echo returns its parameters, fail fails,
// hang never answers, walk reports progress. Further arguments are what it depends on, with a question mark if optional.
func testService() {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	ctx := context.Background()
	var required, optional []string
	for _, id := range os.Args[3:] {
		if name, found := strings.CutSuffix(id, "?"); found {
			optional = append(optional, name)
		} else {
			required = append(required, id)
		}
	}
	s, err := service.Start(ctx, service.Options{
		ID: os.Args[1], Dependencies: required, Optional: optional, Type: "test", Version: "1.2.3", Client: client.Options{URL: os.Args[2]},
		Endpoints: map[string]string{"data": "sensors/test/data"}, Metadata: map[string]any{"colour": "green"},
	})
	fail(err)
	service.Handle(s, "echo", func(_ context.Context, p map[string]any) (map[string]any, error) { return p, nil },
		service.Description("Returns its parameters."), service.Repeatable())
	service.Handle(s, "walk", func(ctx context.Context, w walkParameters) (walked, error) {
		service.ReportProgress(ctx, map[string]int{"of": w.Steps})
		return walked{Steps: w.Steps}, nil
	}, service.Description("Walks some steps."))
	service.Handle(s, "fail", func(context.Context, struct{}) (any, error) { return nil, errors.New("the blade is stuck") })
	service.Handle(s, "hang", func(ctx context.Context, _ struct{}) (any, error) { <-ctx.Done(); <-s.Done(); return nil, ctx.Err() })
	<-s.Done()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	fail(s.Stop(ctx))
}

// testGuard is a service with a motor, with the id and the broker's URL of its arguments. go sets it going, hazard says that there is one, clear
// that it is over, and jam keeps the motor from stopping until free.
func testGuard() {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	ctx := context.Background()
	var latch *safety.Latch
	var guard *safety.Guard
	var jammed atomic.Bool
	s, err := service.Start(ctx, service.Options{
		ID: os.Args[1], Type: "test", Client: client.Options{URL: os.Args[2]}, Safety: true, Heartbeat: 200 * time.Millisecond, HeartbeatTimeout: 2 * time.Second,
		Setup: func(ctx context.Context, s *service.Service) (err error) {
			if latch, err = safety.OpenLatch(ctx, s.Client(), safety.LatchOptions{}); err != nil {
				return err
			}
			guard, err = safety.NewGuard(ctx, s, latch, safety.GuardOptions{Safety: []string{}})
			return err
		},
	})
	fail(err)
	none := func(f func(ctx context.Context) error) func(context.Context, struct{}) (struct{}, error) {
		return func(ctx context.Context, _ struct{}) (struct{}, error) { return struct{}{}, f(ctx) }
	}
	service.Handle(s, "go", none(guard.Arm))
	service.Handle(s, "hazard", none(func(ctx context.Context) error { return latch.SetHazard(ctx, "tilt", "it is tilted by 40 degrees") }))
	service.Handle(s, "clear", none(func(context.Context) error { latch.ClearHazard("tilt"); return nil }))
	service.Handle(s, "jam", none(func(context.Context) error { jammed.Store(true); return nil }))
	service.Handle(s, "free", none(func(context.Context) error { jammed.Store(false); return nil }))
	running, end := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		ended <- guard.Run(running, 10*time.Millisecond, func(context.Context) error { return nil }, func(string) error {
			if jammed.Load() {
				return errors.New("the motor is jammed")
			}
			return nil
		})
	}()
	<-s.Done()
	end()
	fail(<-ended)
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	guard.Close()
	fail(latch.Close(ctx))
	fail(s.Stop(ctx))
}

// testLiar says, until it is told to end, that there is a service late, whose clock is an hour behind, and one called twin, which two processes
// claim to be. Its argument is the broker's URL.
func testLiar() {
	ctx, end := signal.NotifyContext(context.Background(), os.Interrupt)
	defer end()
	c, err := client.Connect(ctx, client.Options{URL: os.Args[1], CleanStart: true, SessionExpiry: -1})
	if err != nil {
		fmt.Fprintln(os.Stderr, err) // the script finds no service
		return
	}
	defer func() {
		bye, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		_ = c.Close(bye)
	}()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		for id, at := range map[string]time.Time{"late": time.Now().Add(-time.Hour), "twin": time.Now()} {
			text := fmt.Sprintf(`{"metadata": {"timestamp": %.3f, "message_id": "%s %d", "sender": "%s", "message_type": "status", "priority": 0},
				"payload": {"status": "healthy", "uptime": 5, "version": "1", "details": {"service_id": "%s", "service_type": "test", "pid": %d}}}`,
				float64(at.UnixMilli())/1000, id, n, id, id, 100+n%2*map[string]int{"twin": 1}[id])
			c.PublishAsync("system/services/"+id+"/status", message.NewRaw([]byte(text)), client.WithRetain(false), client.Unlimited())
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("GORACE", "atexit_sleep_ms=0") // else every program sleeps for a second at its end under -race
			e.Setenv("LAWNBERRY_DATA_DIR", e.WorkDir+"/data")
			e.Setenv("LAWNBERRY_BROKER_PORT", "0")
			e.Setenv("LAWNBERRY_INTEGRATION_WEBSOCKET_BRIDGE_PORT", "0")
			e.Setenv("SOCKET", "unix://"+e.WorkDir+"/data/lawnberry.sock")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":      cmdExits,
			"signal":     cmdSignal,
			"hangup":     cmdHangup,
			"occupy":     cmdOccupy,
			"waitsocket": cmdWaitSocket,
			"waitline":   cmdWaitLine,
			"eventually": cmdEventually,
			"freeport":   cmdFreePort,
			"natsserver": cmdNATSServer,
			"untilexits": cmdUntilExits,
			"engine":     cmdEngine(t),
			"fleetjob":   cmdFleetJob,
			"mower":      cmdMower,
			"retain":     cmdRetain,
			"page":       cmdPage,
			"past":       cmdPast,
		},
	})
}

// cmdExits runs a program that has to end with a code: exits CODE program arguments...
func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE program arguments...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	switch err := ts.Exec(args[1], args[2:]...); {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// cmdSignal sends a signal to everything in the background, which has 30 seconds to end before it is killed, and thereby
// fails the wait that has to follow: signal TERM
func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	signals := map[string]os.Signal{"TERM": syscall.SIGTERM, "INT": syscall.SIGINT}
	if neg || len(args) != 1 || signals[args[0]] == nil {
		ts.Fatalf("usage: signal TERM|INT")
	}
	for _, c := range ts.BackgroundCmds() {
		ts.Check(c.Process.Signal(signals[args[0]]))
		late := time.AfterFunc(30*time.Second, func() { _ = c.Process.Kill() })
		ts.Defer(func() { late.Stop() })
	}
}

// cmdHangup sends SIGHUP to everything in the background: hangup
func cmdHangup(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: hangup")
	}
	for _, c := range ts.BackgroundCmds() {
		ts.Check(c.Process.Signal(syscall.SIGHUP))
	}
}

// cmdOccupy listens on a free port, named in an environment variable: occupy NAME
func cmdOccupy(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: occupy NAME")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { _ = l.Close() })
	ts.Setenv(args[0], strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
}

// cmdWaitSocket waits until somebody listens on a Unix socket: waitsocket PATH
func cmdWaitSocket(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: waitsocket PATH")
	}
	poll(ts, "no one listens on "+args[0], func() bool {
		c, err := net.Dial("unix", ts.MkAbs(args[0]))
		if err != nil {
			return false
		}
		_ = c.Close()
		return true
	})
}

// cmdWaitLine waits until a file has a line that matches: waitline PATTERN FILE
func cmdWaitLine(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: waitline PATTERN FILE")
	}
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	poll(ts, fmt.Sprintf("no line %q in %s", args[0], args[1]), func() bool {
		text, err := os.ReadFile(ts.MkAbs(args[1]))
		return err == nil && pattern.Match(text)
	})
}

// cmdEventually runs a program again and again until it succeeds and its output matches: eventually PATTERN program arguments...
func cmdEventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: eventually PATTERN program arguments...")
	}
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	poll(ts, fmt.Sprintf("never printed %q", args[0]), func() bool {
		return ts.Exec(args[1], args[2:]...) == nil && pattern.MatchString(ts.ReadFile("stdout"))
	})
}

// cmdFreePort names a port that nobody listens on in an environment variable, one that the system gives to no outgoing connection:
// freeport NAME
func cmdFreePort(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: freeport NAME")
	}
	for range 1000 {
		port := strconv.Itoa(12_000 + rand.IntN(20_000))
		if l, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			_ = l.Close()
			ts.Setenv(args[0], port)
			return
		}
	}
	ts.Fatalf("no free port")
}

// cmdNATSServer sets NATS_SERVER to the path of a nats-server, which is built when there is none: natsserver
func cmdNATSServer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: natsserver")
	}
	path, err := natstest.Build()
	ts.Check(err)
	ts.Setenv("NATS_SERVER", path)
}

// cmdUntilExits runs a program again and again until it ends with a code: untilexits CODE program arguments...
func cmdUntilExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: untilexits CODE program arguments...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	poll(ts, "never ended with code "+args[0], func() bool {
		var exit *exec.ExitError
		return errors.As(ts.Exec(args[1], args[2:]...), &exit) && exit.ExitCode() == want
	})
}

// poll waits for a condition.
func poll(ts *testscript.TestScript, complaint string, ok func() bool) {
	deadline := time.Now().Add(time.Minute)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			ts.Fatalf("%s", complaint)
		}
		<-tick.C
	}
}
