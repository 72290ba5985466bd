package service_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
)

// python returns an interpreter that has paho-mqtt.
func python(t *testing.T) string {
	t.Helper()
	for _, p := range []string{os.Getenv("LAWNBERRY_TEST_PYTHON"), "python3", "/usr/bin/python3"} {
		if p != "" && exec.Command(p, "-c", "import paho.mqtt.client").Run() == nil {
			return p
		}
	}
	t.Fatal("no Python with paho-mqtt found: run make test, or install Debian's package python3-paho-mqtt")
	return ""
}

// sight is one line that the peer prints.
type sight struct {
	Saw        string
	ID, State  string
	To         string
	Success    bool
	Result     any
	Error      string
	Sensor     string
	Payload    struct{ Data map[string]any }
	Compressed bool
	Event      string
	Data       map[string]any
	Command    string
	Sender     string
	Details    map[string]any
}

// pythonPeer is testdata/peer.py at work.
type pythonPeer struct {
	t      *testing.T
	cmd    *exec.Cmd
	sights chan sight
	seen   []sight
}

func startPython(t *testing.T, url, other string) *pythonPeer {
	t.Helper()
	host, port, err := net.SplitHostPort(strings.TrimPrefix(url, "tcp://"))
	if err != nil {
		t.Fatal(err)
	}
	p := &pythonPeer{t: t, sights: make(chan sight, 1000)}
	p.cmd = exec.Command(python(t), "testdata/peer.py", host, port, other)
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var s sight
			if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
				t.Errorf("the peer printed %q: %v", lines.Text(), err)
			}
			p.sights <- s
		}
	}()
	t.Cleanup(func() {
		p.kill()
		<-read
	})
	return p
}

func (p *pythonPeer) kill() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
}

// await returns the first line that fits, also one printed before.
func (p *pythonPeer) await(what string, fits func(s sight) bool) sight {
	p.t.Helper()
	for _, s := range p.seen {
		if fits(s) {
			return s
		}
	}
	deadline := time.After(20 * time.Second)
	for {
		select {
		case s := <-p.sights:
			p.seen = append(p.seen, s)
			if fits(s) {
				return s
			}
		case <-deadline:
			p.t.Fatalf("the Python peer never saw %s; it saw %+v", what, p.seen)
		}
	}
}

type addParameters struct{ A, B int }

// TestPythonPeer has a service on paho-mqtt and MQTT 3.1.1 and one of ours discover, command and hear each other.
func TestPythonPeer(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	b := newBroker(t)
	svc, err := service.Start(ctx, service.Options{
		ID: "go_peer", Type: "sensors", Version: "2.0.0",
		Client:    client.Options{URL: b.URL()},
		Endpoints: map[string]string{"rain": "sensors/rain/data"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = svc.Stop(context.Background()) }()
	service.Handle(svc, "add", func(_ context.Context, p addParameters) (int, error) {
		return p.A + p.B, nil
	})
	rain := make(chan message.Message, 1)
	if _, err := svc.Subscribe(ctx, "sensors/rain/data", func(_ context.Context, d *client.Delivery) {
		rain <- d.Message
	}); err != nil {
		t.Fatal(err)
	}
	quits := make(chan service.Event, 1)
	if _, err := svc.OnEvent(ctx, "python_quits", func(_ context.Context, e service.Event) { quits <- e }); err != nil {
		t.Fatal(err)
	}

	peer := startPython(t, b.URL(), "go_peer")
	if err := svc.WaitFor(ctx, "python_peer"); err != nil {
		t.Fatalf("the Python service was not discovered: %v", err)
	}
	info, ok := svc.Service("python_peer")
	if !ok || info.Version != "1.2.3" || info.Type != "system" || info.Metadata["language"] != "python" || info.Resources.CPU != 1.5 {
		t.Errorf("known of the Python service: %+v", info)
	}

	s := peer.await("the Go service", func(s sight) bool { return s.Saw == "service" && s.ID == "go_peer" && s.State == "healthy" })
	if s.Details["service_id"] != "go_peer" || s.Details["version"] != "2.0.0" || s.Details["state"] != "healthy" {
		t.Errorf("details of the Go service as Python sees them: %v", s.Details)
	}
	answer := func(to string, success bool) sight {
		return peer.await(fmt.Sprintf("a response to %s with success %v", to, success), func(s sight) bool {
			return s.Saw == "response" && s.To == to && s.Success == success
		})
	}
	if r := answer("add", true); r.Result != 5.0 {
		t.Errorf("add answered %v", r.Result)
	}
	if r := answer("add", false); !strings.Contains(strings.ToLower(r.Error), "a") || r.Error == "" {
		t.Errorf("add with a string answered %q, which does not name the field", r.Error)
	}
	if r := answer("no_such_command", false); !strings.Contains(r.Error, "add") {
		t.Errorf("an unknown command answered %q, which does not name the known ones", r.Error)
	}
	if r, _ := answer("ping", true).Result.(map[string]any); r["pong"] != true || r["service_id"] != "go_peer" {
		t.Errorf("ping answered %v", r)
	}
	if r, _ := answer("status", true).Result.(map[string]any); r["state"] != "healthy" || r["service_id"] != "go_peer" {
		t.Errorf("status answered %v", r)
	}

	var echoed map[string]any
	if err := svc.Call(ctx, "python_peer", "echo", map[string]any{"text": "grüße", "n": 1}, &echoed); err != nil {
		t.Fatalf("echo: %v", err)
	}
	if echoed["text"] != "grüße" || echoed["n"] != 1.0 {
		t.Errorf("echo answered %v", echoed)
	}
	var failed *client.CommandError
	if err := svc.Call(ctx, "python_peer", "fly", nil, nil); !errors.As(err, &failed) || !strings.Contains(failed.Message, "echo and quit") {
		t.Errorf("an unknown command of the Python service gave %v", err)
	}

	long := strings.Repeat("blade ", 400)
	for _, data := range []map[string]any{{"value": 21.5}, {"note": long}} {
		if err := svc.PublishSensor(ctx, message.SensorData{SensorType: "motor", Data: data}); err != nil {
			t.Fatal(err)
		}
	}
	peer.await("a plain reading", func(s sight) bool {
		return s.Saw == "sensor" && s.Sensor == "motor" && !s.Compressed && s.Payload.Data["value"] == 21.5
	})
	peer.await("a compressed reading", func(s sight) bool {
		return s.Saw == "sensor" && s.Sensor == "motor" && s.Compressed && s.Payload.Data["note"] == long
	})
	if err := svc.EmitEvent(ctx, "blade_changed", map[string]any{"hours": 12}); err != nil {
		t.Fatal(err)
	}
	peer.await("an event", func(s sight) bool {
		return s.Saw == "event" && s.Event == "blade_changed" && s.Data["hours"] == 12.0 && s.Sender == "go_peer"
	})
	select {
	case m := <-rain:
		r, err := message.SensorOf[struct {
			Raining bool
			Note    string
		}](m)
		if err != nil || !r.Raining || len(r.Note) != 2000 {
			t.Errorf("the compressed reading from Python: %+v, %v", r, err)
		}
	case <-ctx.Done():
		t.Fatal("no reading came from Python")
	}

	if err := svc.Call(ctx, "python_peer", "quit", nil, nil); err != nil {
		t.Errorf("quit: %v", err)
	}
	select {
	case e := <-quits:
		if e.Sender != "python_peer" || e.Category != "system" {
			t.Errorf("event from Python: %+v", e)
		}
	case <-ctx.Done():
		t.Fatal("no event came from Python")
	}
	offline := make(chan struct{}, 1)
	defer svc.OnService(func(i service.Info, _ service.State) {
		if i.ID == "python_peer" && i.State == service.Offline {
			select {
			case offline <- struct{}{}:
			default:
			}
		}
	})()
	killed := time.Now()
	peer.kill()
	select {
	case <-offline:
		t.Logf("offline %v after SIGKILL", time.Since(killed))
	case <-time.After(time.Minute):
		t.Error("the killed Python service was not seen offline")
	}
}
