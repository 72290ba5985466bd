package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/faultnet"
	"github.com/lawnberry/lawnberry/internal/load"
	"github.com/lawnberry/lawnberry/internal/mosquittotest"
)

// runBench runs a verb of bench and returns what it prints.
func runBench(t *testing.T, want int, args ...string) (stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	environ := []string{"LAWNBERRY_DATA_DIR=" + t.TempDir()}
	if code := Run(ctx, append([]string{"bench"}, args...), strings.NewReader(""), &out, &errs, environ); code != want {
		t.Fatalf("bench %s: code %d, want %d\n%s%s", strings.Join(args, " "), code, want, out.String(), errs.String())
	}
	return out.String(), errs.String()
}

func TestBenchMosquitto(t *testing.T) {
	url := "tcp://" + mosquittotest.Start(t, "max_queued_messages 0")
	for _, args := range [][]string{
		{"latency", "--count", "200"},
		{"latency", "--closed", "--count", "50", "--qos", "2", "--mqtt", "3.1.1"},
		{"throughput", "--count", "1000", "--publishers", "2", "--subscribers", "2", "--qos", "0", "--retain"},
		{"command", "--count", "20"},
		{"command", "--count", "20", "--mqtt", "3.1.1"},
	} {
		text, complaint := runBench(t, exitDone, append(args, "--json", "--warm-up", "0s", "--broker", url)...)
		r, err := load.Parse([]byte(text))
		if err != nil || complaint != "" {
			t.Fatalf("%v: %v\n%s%s", args, err, text, complaint)
		}
		if r.Broker.URL != url || !strings.Contains(r.Broker.Version, "mosquitto version 2") || r.Lost != 0 || r.Latency == nil {
			t.Errorf("%v: %s", args, text)
		}
		if r.BrokerUsage.Source != "process" || r.BrokerUsage.Memory == nil || !strings.Contains(r.Broker.Process, "(mosquitto)") {
			t.Errorf("%v: what Mosquitto uses: %+v of %q", args, r.BrokerUsage, r.Broker.Process)
		}
	}
}

// What a broker loses is said, with code 1.
func TestBenchLoses(t *testing.T) {
	proxy, err := faultnet.Start(mosquittotest.Start(t, "max_inflight_messages 500", "max_queued_messages 1"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	proxy.Set(faultnet.Down, faultnet.Faults{Delay: 20 * time.Millisecond})
	text, complaint := runBench(t, exitFailed, "throughput", "--publishers", "4", "--count", "8000", "--warm-up", "0s", "--timeout", "3s",
		"--broker", "tcp://"+proxy.Addr())
	if !strings.HasSuffix(complaint, "of 8000 messages were lost\n") || strings.Contains(text, "\n0 lost") ||
		!strings.Contains(text, " lost, 0 twice, 0 out of order") {
		t.Errorf("%s%s", text, complaint)
	}
}

// The names of --json stay as they are; those of the measurement are pinned where they are made.
func TestBenchNames(t *testing.T) {
	text, err := json.Marshal(benchOutput{Result: &load.Result{}, Verdict: []string{"x"}, Differences: []load.Difference{{}}, Unlike: []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]json.RawMessage
	var difference []map[string]any
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(all["differences"], &difference); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bench", "latency_ms", "lost", "verdict", "differences", "settings_changed"} {
		if all[name] == nil {
			t.Errorf("%s is missing in %s", name, text)
		}
	}
	names := []string{}
	for name := range difference[0] {
		names = append(names, name)
	}
	slices.Sort(names)
	if got, want := strings.Join(names, " "), "before figure noise_percent now percent unit verdict"; got != want {
		t.Errorf("a difference has %s, want %s", got, want)
	}
}

func TestVerdicts(t *testing.T) {
	latency := func(slowest float64, late, of int64) *load.Result {
		return &load.Result{Kind: load.Latency, Latency: &load.LatencyFigures{Count: of, P99: slowest, Max: slowest}, TooLate: late}
	}
	throughput := func(rate, asked float64) *load.Result {
		return &load.Result{Kind: load.Throughput, Latency: &load.LatencyFigures{Count: 1}, Received: load.Volume{PerSecond: rate},
			Settings: load.Settings{Rate: asked, Subscribers: 1}}
	}
	busy := latency(3, 0, 10)
	busy.Late = 2.5
	lossy := latency(3, 0, 10)
	lossy.Lost = 1
	for _, tt := range []struct {
		r    *load.Result
		want string
	}{
		{latency(3.1, 0, 1000), "fast enough for the emergency stop: the slowest of 1,000 took 3.10 ms, and 50 ms are allowed"},
		{latency(130, 5, 1000),
			"not always fast enough for the emergency stop: 5 of 1,000 took longer than the 50 ms that are allowed, the slowest 130 ms"},
		{latency(130, 250, 1000), "too slow for the emergency stop: 25.0% took longer than the 50 ms that are allowed"},
		{&load.Result{Kind: load.Latency}, "nothing came: the figures say nothing"},
		{busy, "this machine was too busy to send on time"},
		{lossy, "and some were lost, which is worse than late"},
		{throughput(1_234_567, 0), "fast enough for a mower: 1,234,567 messages a second, and it needs 1,000"},
		{throughput(999, 0), "too slow for a mower: 999 messages a second"},
		{throughput(99.9, 100), "it kept up with the 100 messages a second that --rate asks for"},
		{throughput(50, 100), "too slow for a mower: 50 messages a second"},
	} {
		if got := strings.Join(verdicts(tt.r), "\n"); !strings.Contains(got, tt.want) {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

func TestProgressBar(t *testing.T) {
	var out bytes.Buffer
	p := &progressBar{w: &out}
	p.show(load.Progress{WarmingUp: true, Elapsed: 1500 * time.Millisecond, Share: 0.5})
	p.show(load.Progress{Elapsed: 9 * time.Second, Share: 1, Sent: 9000, Received: 8999})
	p.clear()
	p.clear()
	want := "\r[###############               ] 1s, warming up" + clearLine +
		"\r[##############################] 9s, 9,000 sent, 8,999 received" + clearLine + "\r" + clearLine
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	nowhere := newProgressBar(&tool{stderr: &out})
	out.Reset()
	nowhere.show(load.Progress{})
	nowhere.clear()
	if out.Len() > 0 {
		t.Errorf("no terminal, and yet %q", out.String())
	}
}

func TestBrokerOf(t *testing.T) {
	for address, want := range map[string]string{
		"":                             "tcp://localhost:1883",
		"tcp://ann:secret@10.1.2.3":    "tcp://10.1.2.3",
		"wss://ann@example.org:1/mqtt": "wss://example.org:1/mqtt",
		"unix:///none.sock":            "unix:///none.sock",
	} {
		if got := brokerOf(address); got.shown != want {
			t.Errorf("%q: got %q, want %q", address, got.shown, want)
		}
	}
}
