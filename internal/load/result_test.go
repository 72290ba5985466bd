package load

import (
	"encoding/json"
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestTimes(t *testing.T) {
	ts := newTimes()
	if ts.figures() != nil || ts.bars() != nil {
		t.Error("figures of nothing")
	}
	for i := 1; i <= 1000; i++ {
		ts.add(i%tenths, time.Duration(i)*time.Millisecond)
	}
	l := ts.figures()
	near := func(what string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > want*0.002 {
			t.Errorf("%s: %g, want %g", what, got, want)
		}
	}
	near("min", l.Min, 1)
	near("p50", l.P50, 500)
	near("p90", l.P90, 900)
	near("p99", l.P99, 990)
	near("p99.9", l.P999, 999)
	near("max", l.Max, 1000)
	near("mean", l.Mean, 500.5)
	near("stddev", l.StdDev, 288.675)
	if l.Count != 1000 {
		t.Errorf("%d times", l.Count)
	}
	near("over 50 ms", float64(ts.over(50*time.Millisecond)), 950)
	var all int64
	for _, b := range ts.bars() {
		all += b.Count
	}
	bars := ts.bars()
	if all != 1000 || bars[0].UpTo != 1 || bars[len(bars)-1].UpTo != 1000 {
		t.Errorf("bars %v", bars)
	}

	// A time that no histogram holds is the slowest all the same, and none is below 0.
	ts.add(0, 3*longestTime)
	ts.add(0, -time.Hour)
	if l := ts.figures(); l.Max != inMilliseconds(float64(3*longestTime)) || l.Count != 1002 {
		t.Errorf("%+v", l)
	}
}

func TestMergedTimes(t *testing.T) {
	whole, a, b := newTimes(), newTimes(), newTimes()
	for i := range 1000 {
		d := time.Duration(i*i) * time.Microsecond
		whole.add(i%tenths, d)
		[]*times{a, b}[i%2].add(i%tenths, d)
	}
	a.merge(b)
	got, want := *a.figures(), *whole.figures()
	if math.Abs(got.Mean-want.Mean) > 1e-6 || got.P99 != want.P99 || got.Max != want.Max || got.Count != want.Count {
		t.Errorf("%+v, want %+v", got, want)
	}
	if a.spread().P50 != whole.spread().P50 {
		t.Error("the spread differs")
	}
}

func TestPlanCheck(t *testing.T) {
	for _, tt := range []struct {
		field string
		wrong func(p *Plan)
	}{
		{"size", func(p *Plan) { p.Size = 0 }},
		{"size", func(p *Plan) { p.Size = MaxSize + 1 }},
		{"qos", func(p *Plan) { p.QoS = 3 }},
		{"qos", func(p *Plan) { p.QoS = -1 }},
		{"qos", func(p *Plan) { p.Kind, p.QoS = Command, 0 }},
		{"publishers", func(p *Plan) { p.Publishers = 0 }},
		{"callers", func(p *Plan) { p.Kind, p.Publishers = Command, MaxPublishers+1 }},
		{"subscribers", func(p *Plan) { p.Subscribers = -1 }},
		{"rate", func(p *Plan) { p.Rate = math.NaN() }},
		{"rate", func(p *Plan) { p.Rate = math.Inf(1) }},
		{"rate", func(p *Plan) { p.Rate = -1 }},
		{"rate", func(p *Plan) { p.Rate = 1e-9 }},
		{"rate", func(p *Plan) { p.Closed = true }},
		{"closed", func(p *Plan) { p.Kind, p.Closed, p.Rate = Throughput, true, 0 }},
		{"duration", func(p *Plan) { p.Count, p.Duration = 0, 0 }},
		{"duration", func(p *Plan) { p.Count, p.Duration = 0, -time.Second }},
		{"duration", func(p *Plan) { p.Count, p.Duration = 0, MaxDuration+1 }},
		{"count", func(p *Plan) { p.Duration = time.Second }},
		{"count", func(p *Plan) { p.Count = -1 }},
		{"count", func(p *Plan) { p.Count, p.Publishers = 3, 4 }},
		{"warm-up", func(p *Plan) { p.WarmUp = -1 }},
		{"timeout", func(p *Plan) { p.Patience = 0 }},
	} {
		p := aPlan(Latency, "")
		if err := p.Check(); err != nil {
			t.Fatal(err)
		}
		tt.wrong(&p)
		var bad *PlanError
		if err := p.Check(); !errors.As(err, &bad) || bad.Field != tt.field {
			t.Errorf("%+v: got %v, want a complaint about %s", p, err, tt.field)
		}
	}
}

// The names stay as they are: others have kept results.
func TestNamesOfJSON(t *testing.T) {
	one, many := 1.0, uint64(1)
	text, err := json.Marshal(&Result{Latency: &LatencyFigures{}, Bars: []Bar{{}}, Errors: map[string]int{"timeout": 1},
		Settings: Settings{Topic: "x", Service: "x", Command: "x"}, Load: Usage{&one, &many, ""}, BrokerUsage: Usage{&one, &many, ""}})
	if err != nil {
		t.Fatal(err)
	}
	var tree any
	if err := json.Unmarshal(text, &tree); err != nil {
		t.Fatal(err)
	}
	var names []string
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, below := range v {
				walk(path+"."+k, below)
			}
		case []any:
			walk(path+"[]", v[0])
		default:
			names = append(names, strings.TrimPrefix(path, "."))
		}
	}
	walk("", tree)
	const want = `bench broker.mqtt broker.process broker.url broker.version broker_usage.cpu_seconds broker_usage.memory_bytes broker_usage.source
		duplicates errors.timeout foreign histogram[].count histogram[].up_to_ms interrupted latency_ms.count latency_ms.max latency_ms.mean
		latency_ms.min latency_ms.p50 latency_ms.p90 latency_ms.p99 latency_ms.p99_9 latency_ms.stddev load_usage.cpu_seconds
		load_usage.memory_bytes load_usage.source loop lost lost_here out_of_order over_50_ms received.bytes received.bytes_per_second
		received.messages received.messages_per_second refused retained_left seconds sent.bytes sent.bytes_per_second sent.messages
		sent.messages_per_second sent_late_p99_ms settings.command settings.count settings.duration_seconds settings.publishers settings.qos
		settings.rate settings.retain settings.service settings.size settings.subscribers settings.topic settings.warm_up_seconds
		spread_percent.max spread_percent.mean spread_percent.messages_per_second spread_percent.p50 spread_percent.p90 spread_percent.p99
		spread_percent.p99_9`
	if got := slices.Sorted(slices.Values(names)); !slices.Equal(got, strings.Fields(want)) {
		t.Errorf("names are\n%s\nwant\n%s", strings.Join(got, " "), strings.Join(strings.Fields(want), " "))
	}
}

func TestCompare(t *testing.T) {
	before, err := Parse([]byte(`{"bench": "throughput", "loop": "full", "settings": {"size": 200, "qos": 1}, "lost": 2,
		"received": {"messages": 1000, "messages_per_second": 1000},
		"latency_ms": {"p50": 1, "p90": 2, "p99": 10, "p99_9": 20, "max": 0, "mean": 1}, "spread_percent": {"p99": 15},
		"load_usage": {"cpu_seconds": 1, "memory_bytes": 1000000, "source": "process"},
		"broker_usage": {"cpu_seconds": 2, "memory_bytes": 50000000, "source": "process"}}`))
	if err != nil {
		t.Fatal(err)
	}
	now, err := Parse([]byte(`{"bench": "throughput", "loop": "full", "settings": {"size": 400, "qos": 1}, "lost": 0, "duplicates": 1,
		"received": {"messages": 1000, "messages_per_second": 1200},
		"latency_ms": {"p50": 1.04, "p90": 1.5, "p99": 14, "p99_9": 21.5, "max": 9, "mean": 1}, "spread_percent": {"p99": 20},
		"load_usage": {"cpu_seconds": 1.05, "memory_bytes": 1000000, "source": "process"},
		"broker_usage": {"cpu_seconds": 3, "memory_bytes": 20000000, "source": "$SYS"}}`))
	if err != nil {
		t.Fatal(err)
	}
	differences, unlike, err := Compare(before, now)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"p50": WithinNoise, "p90": Better, "p99": WithinNoise, // by 40 %, and the two spread by 2 * 25 %
		"p99.9": Worse, "max": Worse, "mean": WithinNoise, "received": Better, "lost": Better, "duplicates": Worse, "out of order": WithinNoise,
		"bench CPU": WithinNoise, "bench memory": WithinNoise, "broker CPU": Worse, // the broker's memory was measured otherwise
	}
	got := map[string]string{}
	for _, d := range differences {
		got[d.Figure] = d.Verdict
		if (d.Percent == nil) != (d.Before == 0) {
			t.Errorf("%s: percent %v of %g", d.Figure, d.Percent, d.Before)
		}
		if d.Figure == "received" && math.Abs(*d.Percent-20) > 1e-9 {
			t.Errorf("received: %g %%", *d.Percent)
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if !slices.Equal(unlike, []string{"size 400, was 200"}) {
		t.Errorf("unlike %q", unlike)
	}

	// However much two measurements waver, a hundredth is no noise.
	wavering := Result{Kind: Latency, Latency: &LatencyFigures{P50: 100}, Spread: Spread{P50: 200}}
	quick := Result{Kind: Latency, Latency: &LatencyFigures{P50: 1}, Spread: Spread{P50: 200}}
	for want, pair := range map[string][2]*Result{Better: {&wavering, &quick}, Worse: {&quick, &wavering}} {
		if differences, _, _ := Compare(pair[0], pair[1]); differences[0].Verdict != want {
			t.Errorf("got %+v, want %s", differences[0], want)
		}
	}

	// What is next to nothing has no percentage that JSON could say.
	quick.Latency = &LatencyFigures{P50: 1e-320}
	if differences, _, _ := Compare(&quick, &wavering); differences[0].Percent != nil || differences[0].Verdict != Worse {
		t.Errorf("got %+v, want worse without a percentage", differences[0])
	}

	// A hundredth of a second more or less of processor says nothing of a hundred messages.
	for want, seconds := range map[string][2]float64{WithinNoise: {0.14, 0}, Worse: {0.14, 1}} {
		long := Result{Kind: Latency, Received: Volume{Messages: 1000}, Load: Usage{CPU: &seconds[0]}}
		short := Result{Kind: Latency, Received: Volume{Messages: 100}, Load: Usage{CPU: &seconds[1]}}
		differences, _, _ := Compare(&long, &short)
		i := slices.IndexFunc(differences, func(d Difference) bool { return d.Figure == "bench CPU" })
		if got := differences[i].Verdict; got != want {
			t.Errorf("%v s of processor: %s, want %s", seconds, got, want)
		}
	}

	// At a rate that was asked for the rate says nothing.
	before.Settings.Rate, now.Settings.Rate = 5, 5
	if differences, _, _ := Compare(before, now); slices.ContainsFunc(differences, func(d Difference) bool { return d.Figure == "received" }) {
		t.Error("compares rates that were asked for")
	}
	if _, _, err := Compare(before, &Result{Kind: Latency, Loop: "open"}); err == nil {
		t.Error("compares throughput with latency")
	}
	for _, text := range []string{"", "{}", "[]", `{"bench": "lathe"}`, `{"bench": 1}`, `{"error": "x", "code": 3}`,
		`{"bench": "latency", "latency_ms": {"p50": -1}}`, `{"bench": "latency", "spread_percent": {"p90": 1.7e308}}`,
		`{"bench": "latency", "load_usage": {"cpu_seconds": -1}}`} {
		if _, err := Parse([]byte(text)); err == nil {
			t.Errorf("takes %q for a result", text)
		}
	}
}
