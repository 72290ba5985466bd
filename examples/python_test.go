package examples

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
)

// The guide shows the Python service as it is.
func TestGuideShowsPythonService(t *testing.T) {
	code, err := os.ReadFile("python-service/soil.py")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../docs/first-service.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), "```python\n"+string(code)+"```\n") {
		t.Error("docs/first-service.md does not show examples/python-service/soil.py as it is")
	}
}

// A sightings is the states of a service, in order.
type sightings struct {
	mu     sync.Mutex // guards states
	states []service.State
	more   chan struct{}
}

func (s *sightings) add(state service.State) {
	s.mu.Lock()
	s.states = append(s.states, state)
	s.mu.Unlock()
	select {
	case s.more <- struct{}{}:
	default:
	}
}

// await waits until the service was seen in these states one after the other, and forgets them.
func (s *sightings) await(t *testing.T, want ...service.State) {
	t.Helper()
	late := time.After(patience)
	for {
		s.mu.Lock()
		rest, seen := want, s.states
		for i, state := range seen {
			if state == rest[0] {
				if rest = rest[1:]; len(rest) == 0 {
					s.states = seen[i+1:]
					break
				}
			}
		}
		s.mu.Unlock()
		if len(rest) == 0 {
			return
		}
		select {
		case <-s.more:
		case <-late:
			t.Fatalf("soil was seen as %v, want %v", seen, want)
		}
	}
}

// TestPythonService has the service on paho-mqtt announce itself, answer, refuse what is old, crash and stop.
func TestPythonService(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	b, err := broker.Start(ctx, broker.Options{Listeners: []broker.Listener{{Network: "tcp", Address: "127.0.0.1:0"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Stop(context.WithoutCancel(ctx)) }()
	svc, err := service.Start(ctx, service.Options{ID: "watcher", Type: "watcher", Client: client.Options{URL: b.URL()}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = svc.Stop(context.WithoutCancel(ctx)) }()
	soil := &sightings{more: make(chan struct{}, 1)}
	defer svc.OnService(func(i service.Info, _ service.State) {
		if i.ID == "soil" {
			soil.add(i.State)
		}
	})()
	responses := make(chan message.Response, 100)
	if _, err := svc.Subscribe(ctx, "responses/asker", func(_ context.Context, d *client.Delivery) {
		if r, err := message.Payload[message.Response](d.Message); err == nil {
			responses <- r
		}
	}); err != nil {
		t.Fatal(err)
	}
	readings := make(chan float64, 100)
	if _, err := svc.Subscribe(ctx, "sensors/soil/data", func(_ context.Context, d *client.Delivery) {
		if r, err := message.SensorOf[struct{ Moisture float64 }](d.Message); err == nil {
			readings <- r.Moisture
		} else {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}

	// What was retained for it, and what is long past, is not done: the first answer is to a later command.
	send := func(command string, retain bool, expires float64) {
		t.Helper()
		m, err := message.NewCommand("asker", message.Command{Target: "soil", Command: command})
		if err != nil {
			t.Fatal(err)
		}
		m.Metadata.CorrelationID, m.Metadata.ExpiresAt = message.NewID(), expires
		body, _, err := message.Encode(&m, message.Limits{CompressAbove: -1})
		if err != nil {
			t.Fatal(err)
		}
		// As bytes, since the client sends nothing that is past its time.
		if err := svc.Publish(ctx, "commands/soil", message.NewRaw(body), client.WithQoS(2), client.WithRetain(retain)); err != nil {
			t.Fatal(err)
		}
	}
	send("shutdown", true, 0)
	python := startPythonService(t, b.URL())
	soil.await(t, service.Healthy)
	python.expect("soil is healthy")
	send("shutdown", false, message.Seconds(time.Now().Add(-time.Second)))
	send("dig", false, 0)
	select {
	case r := <-responses:
		if r.Success || r.Error == nil || !strings.Contains(*r.Error, `unknown command "dig", known are: ping, read, shutdown, status`) {
			t.Errorf("dig is answered with %+v", r)
		}
	case <-ctx.Done():
		t.Fatal("no answer to dig")
	}
	if err := svc.Publish(ctx, "commands/soil", message.NewRaw(nil), client.WithRetain(true)); err != nil {
		t.Fatal(err)
	}

	var answer struct{ Moisture float64 }
	if err := svc.Call(ctx, "soil", "read", map[string]string{"unit": "fraction"}, &answer); err != nil || answer.Moisture < 0.2 || answer.Moisture > 0.6 {
		t.Errorf("read: %+v, %v", answer, err)
	}
	for _, junk := range []string{
		"", "wet", "[1]", `{"metadata":{}}`, "\x1f\x8bjunk", `{"metadata":{"sender":"x"},"payload":7}`,
		`{"metadata":{"sender":"a/+/#"},"payload":{"target":"soil","command":"ping"}}`,
		`{"metadata":{"sender":7},"payload":{"target":"soil","command":"ping"}}`,
		strings.Repeat("[", 9000)} {
		if err := svc.Publish(ctx, "commands/soil", message.NewRaw([]byte(junk))); err != nil {
			t.Fatal(err)
		}
	}
	for _, command := range []string{"ping", "status"} {
		var told struct {
			ServiceID string `json:"service_id"`
		}
		if err := svc.Call(ctx, "soil", command, nil, &told); err != nil || told.ServiceID != "soil" {
			t.Errorf("%s: %+v, %v", command, told, err)
		}
	}
	select {
	case r := <-readings:
		if r < 20 || r > 60 {
			t.Errorf("%g %% of water", r)
		}
	case <-ctx.Done():
		t.Fatal("no reading came")
	}

	// It crashes, and the broker says so; it comes back, and goes in an orderly way.
	if err := python.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = python.cmd.Wait()
	soil.await(t, service.Offline)
	python = startPythonService(t, b.URL())
	soil.await(t, service.Healthy)
	if err := python.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	python.end(0)
	soil.await(t, service.ShuttingDown, service.Offline)
	python = startPythonService(t, b.URL())
	soil.await(t, service.Healthy)
	if err := svc.Call(ctx, "soil", "shutdown", nil, nil); err != nil {
		t.Error(err)
	}
	python.end(0)
	soil.await(t, service.Offline)
}

func startPythonService(t *testing.T, url string) *program {
	t.Helper()
	return runCommand(t, "soil", url, pahoPython(t), filepath.Join("python-service", "soil.py"))
}
