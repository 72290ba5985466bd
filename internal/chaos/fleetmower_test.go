package chaos

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	bridge "github.com/lawnberry/lawnberry/bridge/fleet"
	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

// fleetEnv tells a process of this test binary to be mowers of a fleet: a fleetOrder.
const fleetEnv = "LAWNBERRY_TEST_FLEET"

// A fleetOrder is what a process of mowers is told.
type fleetOrder struct {
	First int     // number of the first mower
	Count int     // of mowers
	URL   string  // of the engine; "" is that they have no uplink
	Dir   string  // of all of them
	Speed float64 // how many times faster than a real mower they say what they do
}

func mowerName(n int) string { return fmt.Sprintf("mower-%04d", n) }

// saidFile is where a mower writes what its bus has accepted, a line for each message: topic and message_id.
func saidFile(dir string, n int) string { return filepath.Join(dir, mowerName(n)+".said") }

// A saying is something that a mower says again and again.
type saying struct {
	topic string
	every time.Duration
	make  func(n int) (message.Message, error)
}

// sayings are what a mower says at its real rates: its position and its battery every second, states of its services every half minute, what it does and how
// it is every twelve seconds, an event every ten seconds, an alert every minute.
func sayings() []saying {
	reading := func(kind string, data func(n int) map[string]any) func(int) (message.Message, error) {
		return func(n int) (message.Message, error) {
			return message.NewSensorData("simulated", message.SensorData{SensorType: kind, Data: data(n), Quality: 1, Status: "healthy"})
		}
	}
	status := func(id string) func(int) (message.Message, error) {
		return func(n int) (message.Message, error) {
			return message.NewStatus(id, message.Status{Status: "healthy", Uptime: float64(n), Version: "1.0.0", Details: json.RawMessage(fmt.Sprintf(
				`{"service_id":%q,"service_type":%q,"state":"healthy","activity":"mowing","progress":%d,"dependencies":[]}`, id, id, n%100))})
		}
	}
	all := []saying{
		{"navigation/position", time.Second, reading("position", func(n int) map[string]any {
			return map[string]any{
				"x": float64(n%600) / 10, "y": float64(n / 600), "heading": float64(n % 360), "speed": 0.5, "accuracy": 0.012,
				"latitude": 47.370001 + float64(n)*1e-7, "longitude": 8.540001,
			}
		})},
		{"power/battery", time.Second, reading("battery", func(n int) map[string]any {
			return map[string]any{"level": 100 - float64(n%8000)/100, "voltage": 27.1, "current": -1.5, "power": -40.65, "charging": false, "temperature": 31.2}
		})},
		{"navigation/status", 12 * time.Second, status("navigation")},
		{"system/health", 12 * time.Second, status("health")},
		{"system/events/blade", 10 * time.Second, func(n int) (message.Message, error) {
			data := json.RawMessage(fmt.Sprintf(`{"n":%d,"speed":2800}`, n))
			return message.NewEvent("hardware", message.Event{EventType: "blade", EventData: data, Source: "hardware", Category: "hardware"})
		}},
		{"safety/alerts/tilt", time.Minute, func(n int) (message.Message, error) {
			return message.NewAlert("safety", message.Alert{AlertType: "tilt", Severity: "warning", Message: fmt.Sprintf("tilted, for the %d. time", n)})
		}},
	}
	for _, id := range []string{"hardware", "navigation", "safety", "power", "vision", "weather", "sensor_fusion"} {
		all = append(all, saying{"system/services/" + id + "/status", 30 * time.Second, status(id)})
	}
	return all
}

// inHistory is whether each message of a topic has to be in the history.
func inHistory(name string) (fleet.Class, bool) {
	for _, f := range fleet.DefaultFilters() {
		if topic.Match(f.Filter, name) {
			return f.Class, f.Class.History()
		}
	}
	return "", false
}

// beMowers is mowers with a bus and an uplink each, until SIGTERM; then they say nothing more, and the process ends when the engine has everything, with
// code 0. A line is written to standard output when all of them are there, and one with the figures of the uplinks at the end.
func beMowers() {
	var order fleetOrder
	try := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	try(json.Unmarshal([]byte(os.Getenv(fleetEnv)), &order))
	ctx, end := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer end()
	var mowers []*simulated
	for i := range order.Count {
		m, err := newSimulated(order, order.First+i)
		try(err)
		mowers = append(mowers, m)
	}
	fmt.Println("there")
	var talk sync.WaitGroup
	for _, m := range mowers {
		talk.Go(func() { m.talk(ctx, order.Speed) })
	}
	talk.Wait()
	var sum bridge.Stats
	for _, m := range mowers {
		for m.uplink.Stats().Backlog.Records > 0 {
			time.Sleep(20 * time.Millisecond)
		}
		s := m.uplink.Stats()
		sum.Sent += s.Sent
		sum.Latest += s.Latest
		sum.Conflated += s.Conflated
		sum.Resolved += s.Resolved
		sum.Repeated += s.Repeated
	}
	for _, m := range mowers {
		m.stop()
	}
	text, err := json.Marshal(sum)
	try(err)
	fmt.Println(string(text))
}

// A simulated mower has a bus and an uplink of its own.
type simulated struct {
	broker *broker.Broker
	uplink *bridge.Uplink
	c      *client.Client
	said   *os.File
}

func newSimulated(order fleetOrder, n int) (m *simulated, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	m = &simulated{}
	home := filepath.Join(order.Dir, mowerName(n))
	// Processes are killed here, not the machine: what the system has is safe.
	if m.broker, err = broker.Start(ctx, broker.Options{Dir: filepath.Join(home, "store"), Sync: -1}); err != nil {
		return nil, err
	}
	near := client.Options{Dial: m.broker.Dial, Probe: time.Hour}
	up := fleet.DefaultFilters()
	for i := range up {
		up[i].Rate = 0 // that of what is said is enough
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	if order.URL != "" {
		m.uplink, err = bridge.Start(ctx, bridge.Options{
			Mower: mowerName(n), Version: "1.0.0", Client: near, Engine: fleet.Engine{URL: order.URL}, Dir: filepath.Join(home, "fleet"), Up: up, Logger: log,
		})
		if err != nil {
			return nil, err
		}
	}
	near.ID, near.CleanStart = "simulated", true
	if m.c, err = client.Connect(ctx, near); err != nil {
		return nil, err
	}
	m.said, err = os.OpenFile(saidFile(order.Dir, n), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	return m, err
}

// talk says what a mower says until ctx ends. What the bus has accepted is written down.
func (m *simulated) talk(ctx context.Context, speed float64) {
	var all sync.WaitGroup
	for _, s := range sayings() {
		all.Go(func() {
			every := time.Duration(float64(s.every) / speed)
			wait := time.NewTimer(rand.N(every))
			defer wait.Stop()
			for n := 0; ; n++ {
				select {
				case <-wait.C:
					wait.Reset(every)
				case <-ctx.Done():
					return
				}
				x, err := s.make(n)
				if err == nil {
					err = m.c.Publish(context.Background(), s.topic, x, client.Unlimited())
				}
				if err != nil {
					fmt.Fprintln(os.Stderr, s.topic, err)
					os.Exit(1)
				}
				if _, history := inHistory(s.topic); history {
					fmt.Fprintf(m.said, "%s %s\n", s.topic, x.Metadata.ID)
				}
			}
		})
	}
	all.Wait()
}

func (m *simulated) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_ = m.c.Close(ctx)
	_ = m.uplink.Stop(ctx)
	_ = m.broker.Stop(ctx)
	_ = m.said.Close()
}

// A herd is a process of mowers.
type herd struct {
	t     testing.TB
	order fleetOrder
	cmd   *exec.Cmd
	lines chan string
}

func (h *herd) start() {
	h.t.Helper()
	text, err := json.Marshal(h.order)
	must(h.t, err)
	h.cmd = exec.Command(os.Args[0])
	h.cmd.Env = append(environment(), fleetEnv+"="+string(text), "GORACE=atexit_sleep_ms=0")
	h.cmd.Stderr = h.t.Output()
	h.cmd.SysProcAttr = process(0)
	out, err := h.cmd.StdoutPipe()
	must(h.t, err, h.cmd.Start())
	h.lines = make(chan string, 4)
	go func(lines chan<- string) {
		defer close(lines)
		for in := bufio.NewScanner(out); in.Scan(); {
			lines <- in.Text()
		}
	}(h.lines)
}

// says waits for a line, which is "" when the process has ended instead.
func (h *herd) says(ctx context.Context) string {
	h.t.Helper()
	select {
	case line := <-h.lines:
		return line
	case <-ctx.Done():
		h.t.Fatalf("the mowers from %s on do not go on", mowerName(h.order.First))
		return ""
	}
}

// startHerd starts mowers, and waits until all are there.
func startHerd(ctx context.Context, t *testing.T, order fleetOrder) *herd {
	t.Helper()
	h := &herd{t: t, order: order}
	t.Cleanup(h.kill)
	h.start()
	if line := h.says(ctx); line != "there" {
		t.Fatalf("the mowers say %q", line)
	}
	return h
}

// kill ends the process by SIGKILL.
func (h *herd) kill() {
	if h.cmd == nil || h.cmd.ProcessState != nil {
		return
	}
	_ = h.cmd.Process.Kill()
	for range h.lines {
	}
	_ = h.cmd.Wait() // killed
}

// finish has the mowers say nothing more, and waits until the engine has everything.
func (h *herd) finish(ctx context.Context) (s bridge.Stats) {
	h.t.Helper()
	line := h.says(ctx)
	for range h.lines {
	}
	must(h.t, json.Unmarshal([]byte(line), &s), h.cmd.Wait())
	return s
}
