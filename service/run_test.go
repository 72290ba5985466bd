package service_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/faultnet"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
)

// programURL tells a process of this test binary to be a service as its users write it; with programHangs a function of
// OnShutdown never returns.
const (
	programURL   = "LAWNBERRY_TEST_PROGRAM_URL"
	programHangs = "LAWNBERRY_TEST_PROGRAM_HANGS"
)

func program(url string) (status int) {
	ctx, stop := service.SignalContext(context.Background())
	defer stop()
	svc, err := service.Start(ctx, service.Options{ID: "program", Client: client.Options{URL: url}})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	svc.OnShutdown(func(context.Context) {
		fmt.Println("stopping")
		if os.Getenv(programHangs) != "" {
			select {}
		}
	})
	fmt.Println("started")
	if err := svc.Run(ctx); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// TestSignals is a program's end by signals: the first stops it in good order, the second at once. It was seen to fail (the second
// part, by its time limit) without the second receive of SignalContext.
func TestSignals(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	p := newPeer(t, b, "watcher", "system/services/+/status")
	run := func(more ...string) (*exec.Cmd, *bufio.Scanner) {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), append(more, programURL+"="+b.URL())...)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		return cmd, bufio.NewScanner(out)
	}
	expect := func(lines *bufio.Scanner, want string) {
		t.Helper()
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("it says %q, want %q", lines.Text(), want)
		}
	}

	cmd, lines := run()
	expect(lines, "started")
	signal(t, cmd, syscall.SIGTERM)
	expect(lines, "stopping")
	if err := cmd.Wait(); err != nil {
		t.Errorf("after one signal: %v", err)
	}
	p.awaitStates("program", "starting", "healthy", "shutting_down", "offline")

	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		cmd, lines = run(programHangs + "=1")
		expect(lines, "started")
		signal(t, cmd, syscall.SIGTERM)
		expect(lines, "stopping")
		began := time.Now()
		signal(t, cmd, s)
		err := cmd.Wait()
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 128+int(s) {
			t.Errorf("after %v as the second signal: %v, want the status %d", s, err, 128+int(s))
		}
		if took := time.Since(began); took > 8*time.Second { // Run alone would give up after 10 s
			t.Errorf("the second signal took %v", took)
		}
	}
}

func signal(t *testing.T, cmd *exec.Cmd, s syscall.Signal) {
	t.Helper()
	if err := cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// Run ends with the command shutdown too.
func TestRun(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	other := start(t, b, service.Options{ID: "other"})
	a := start(t, b, service.Options{ID: "a"})
	ended := make(chan error, 1)
	go func() { ended <- a.Run(testContext(t)) }()
	if err := other.Call(testContext(t), "a", "shutdown", nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	awaitState(t, other, "a", service.Offline)
}

// TestStopRefusesCommands: what has been put to rest stays at rest. It was seen to fail without the refusal: the handler ran.
func TestStopRefusesCommands(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	other := start(t, b, service.Options{ID: "other"})
	a := start(t, b, service.Options{ID: "a"})
	service.Handle(a, "spin", func(context.Context, struct{}) (any, error) {
		t.Error("the handler ran after Stop had begun")
		return nil, nil
	})
	begun, release := make(chan struct{}), make(chan struct{})
	a.OnShutdown(func(context.Context) {
		close(begun)
		<-release
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		stop(t, a)
	}()
	<-begun
	err := other.Call(testContext(t), "a", "spin", nil, nil)
	if e := (*client.CommandError)(nil); !errors.As(err, &e) || e.Code != client.CodeRefused || !strings.Contains(err.Error(), "stopping") {
		t.Errorf("a command while stopping: %v", err)
	}
	if err := other.Call(testContext(t), "a", "ping", nil, nil); err != nil {
		t.Errorf("ping while stopping: %v", err)
	}
	close(release)
	<-ended
}

// TestStopDelivers: what was published before Stop arrives although the connection is away when Stop begins, and the goodbye
// comes last. Without a connection Stop ends with its ctx and says how much is lost.
func TestStopDelivers(t *testing.T) {
	t.Parallel()
	const messages = 500
	b := newBroker(t)
	p := newPeer(t, b, "watcher", "#")
	away := func() (*service.Service, *faultnet.Proxy) {
		u, err := url.Parse(b.URL())
		if err != nil {
			t.Fatal(err)
		}
		proxy, err := faultnet.Start(u.Host)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(proxy.Close)
		svc, err := service.Start(testContext(t), service.Options{ID: "a", Client: client.Options{
			URL: "tcp://" + proxy.Addr(), ReconnectDelay: 10 * time.Millisecond, MaxReconnect: 50 * time.Millisecond,
		}})
		if err != nil {
			t.Fatal(err)
		}
		p.awaitStates("a", "starting", "healthy")
		proxy.Refuse(true)
		proxy.Cut(false)
		eventually(t, "the connection is away", func() bool { return !svc.Client().Connected() })
		for i := range messages {
			m, err := message.NewEvent("a", message.Event{EventType: "counted", EventData: fmt.Appendf(nil, `{"n":%d}`, i)})
			if err != nil {
				t.Fatal(err)
			}
			svc.Client().PublishAsync("system/events/counted", m, client.Unlimited())
		}
		return svc, proxy
	}

	svc, proxy := away()
	ended := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		ended <- svc.Stop(ctx)
	}()
	<-svc.Done()
	proxy.Refuse(false)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	eventually(t, "the goodbye", func() bool { s := p.states("a"); return s[len(s)-1] == "offline" })
	got := p.events("counted")
	if len(got) != messages {
		t.Fatalf("%d of %d messages had arrived when the goodbye did", len(got), messages)
	}
	for i, s := range got {
		if want := fmt.Sprintf(`{"n":%d}`, i); s != want {
			t.Fatalf("message %d is %s", i, s)
		}
	}

	p = newPeer(t, b, "watcher2", "system/services/a/status")
	p.awaitStates("a", "offline")
	p.mu.Lock()
	p.seen, p.read = nil, 0
	p.mu.Unlock()
	svc, _ = away()
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	err := svc.Stop(ctx)
	if err == nil || !strings.Contains(err.Error(), "messages were not delivered") {
		t.Errorf("Stop without a connection: %v", err)
	}
	t.Log(err)
}
