package topic

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func newRegistry(t testing.TB, namespace string) *Registry {
	t.Helper()
	r, err := New(namespace)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestStandard holds the wire format's table, row by row.
func TestStandard(t *testing.T) {
	type row struct {
		pattern, typ string
		qos          byte
		retain       bool
		rate         int
		class        Class
		stale        time.Duration
	}
	want := []row{
		{"sensors/+/data", "sensor_data", 1, false, 100, Sensor, 15 * time.Second},
		{"sensors/+/status", "status", 1, true, 20, State, 3 * time.Minute},
		{"commands/+", "commands", 2, false, 0, Command, 0},
		{"responses/+", "responses", 2, false, 0, Command, 0},
		{"navigation/position", "navigation", 1, true, 20, State, 10 * time.Second},
		{"navigation/path", "navigation", 1, true, 10, State, 0},
		{"navigation/status", "navigation", 1, true, 5, State, 30 * time.Second},
		{"safety/alerts/+", "alerts", 2, true, 0, Safety, 0},
		{"safety/emergency_stop", "alerts", 2, true, 0, Safety, 0},
		{"safety/reports/+", "status", 2, true, 0, Safety, 0},
		{"safety/hazards", "alerts", 2, false, 50, Safety, 0},
		{"power/battery", "power", 1, true, 20, State, 15 * time.Second},
		{"power/solar", "power", 1, true, 20, State, 20 * time.Second},
		{"power/consumption", "power", 1, false, 60, Sensor, 10 * time.Second},
		{"vision/detections", "vision", 1, false, 30, Sensor, 10 * time.Second},
		{"vision/frame_analysis", "vision", 0, false, 10, Sensor, 30 * time.Second},
		{"weather/current", "weather", 1, true, 12, State, time.Minute},
		{"weather/forecast", "weather", 1, true, 1, State, 15 * time.Minute},
		{"weather/alerts", "weather", 2, true, 20, Event, 0},
		{"system/health", "status", 1, true, 5, State, 90 * time.Second},
		{"system/health_check", "status", 1, false, 0, Event, 0},
		{"system/services/+/status", "status", 1, true, 10, State, 90 * time.Second},
		{"system/services/+/commands", "events", 1, true, 10, State, 0},
		{"system/services/+/commands/+", "events", 1, true, 10, State, 0},
		{"system/events/+", "events", 1, false, 60, Event, 0},
		{"system/logs/+", "events", 0, false, 100, Event, 0},
	}
	var got []row
	for d := range newRegistry(t, "").All() {
		got = append(got, row{d.Pattern, d.Type, d.QoS, d.Retain, d.Rate, d.Class, d.StaleAfter})
		if d.Description == "" {
			t.Errorf("%s has no description", d.Pattern)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestNamespace(t *testing.T) {
	for in, want := range map[string]string{"": "lawnberry", "lawnberry": "lawnberry", "lawnberry/": "lawnberry", "farm/mower1": "farm/mower1"} {
		if got := newRegistry(t, in).Namespace(); got != want {
			t.Errorf("New(%q).Namespace() = %q, want %q", in, got, want)
		}
	}
	for _, bad := range []string{"/", "//", "/farm", "farm//mower", "farm/+", "#", "$SYS", "a\x00b", "a\xff", "absolute:x", strings.Repeat("x", 1025)} {
		_, err := New(bad)
		var e *Error
		if !errors.As(err, &e) || e.What != "namespace" {
			t.Errorf("New(%q): %v, want an *Error about the namespace", bad, err)
		}
	}
}

func TestLookup(t *testing.T) {
	for _, ns := range []string{"", "farm/mower1"} {
		r := newRegistry(t, ns)
		for _, d := range []Definition{
			{Pattern: "sensors/gps/data", Type: "gps"},
			{Pattern: "sensors/+/data/raw", Type: "raw"},
			{Pattern: "a/#", Type: "a#"},
			{Pattern: "a/+/c", Type: "a+c"},
			{Pattern: "a/b/#", Type: "ab#"},
			{Pattern: "a/b/x", Type: "abx"},
			{Pattern: "b/+/c/d", Type: "b+cd"},
			{Pattern: "b/x/c/e", Type: "bxce"},
			{Pattern: "/x", Type: "/x"},
			{Pattern: r.Namespace() + "/full/+", Type: "full"},
		} {
			if err := r.Register(d); err != nil {
				t.Fatal(err)
			}
		}
		for _, tt := range []struct{ topic, want string }{ // want is the type, "" is not found
			{"sensors/imu/data", "sensor_data"},
			{"sensors//data", "sensor_data"},
			{"sensors/gps/data", "gps"},
			{"sensors/gps/data/raw", "raw"},
			{"sensors/gps", ""},
			{"sensors/gps/data/x", ""},
			{"sensors", ""},
			{"commands/navigation", "commands"},
			{"commands", ""},
			{"commands/a/b", ""},
			{"system/services/navigation/status", "status"},
			{"a", "a#"},
			{"a/", "a#"},
			{"a/z", "a#"},
			{"a/z/c", "a+c"},
			{"a/z/d", "a#"},
			{"a/b", "ab#"},
			{"a/b/c", "ab#"},
			{"a/b/x", "abx"},
			{"a/b/x/y", "ab#"},
			{"b/x/c/d", "b+cd"}, // back from the more specific b/x/c
			{"b/x/c/e", "bxce"},
			{"b/x/c/f", ""},
			{"/x", "/x"},
			{"full/1", "full"},
			{"sensors/+/data", "sensor_data"}, // as registered
			{"commands/#", ""},
			{"a/#", "a#"},
			{"", ""},
			{"$SYS/broker/uptime", ""},
			{"$share/g/sensors/gps/data", ""},
			{"absolute:sensors/gps/data", ""},
		} {
			check := func(topic string) {
				t.Helper()
				d, ok := r.Lookup(topic)
				if d.Type != tt.want || ok != (tt.want != "") {
					t.Errorf("Lookup(%q) = %q, %v; want %q", topic, d.Type, ok, tt.want)
				}
			}
			check(tt.topic)
			if tt.topic != "" && tt.topic[0] != '$' && !strings.HasPrefix(tt.topic, absolute) {
				check(r.Namespace() + "/" + tt.topic)
				check(Absolute(r.Namespace() + "/" + tt.topic))
			}
		}
	}
}

// TestLookupNamespace is about topics that are, or look like, the namespace.
func TestLookupNamespace(t *testing.T) {
	r := newRegistry(t, "")
	for _, topic := range []string{"lawnberry", "lawnberry/", "lawnberryx/commands/a", "lawnberry/lawnberry"} {
		if d, ok := r.Lookup(topic); ok {
			t.Errorf("Lookup(%q) found %s", topic, d.Pattern)
		}
	}
	if err := r.Register(Definition{Pattern: "#", Type: "all"}); err != nil {
		t.Fatal(err)
	}
	for topic, want := range map[string]bool{
		"lawnberry": true, "lawnberry/": true, "anything": true, "lawnberry/a/b": true,
		"$SYS/broker": false, "absolute:other/x": false, "": false,
	} {
		if _, ok := r.Lookup(topic); ok != want {
			t.Errorf("with #, Lookup(%q) = %v, want %v", topic, ok, want)
		}
	}
}

// TestLookupAgainstMatch compares the trie with a search of all patterns.
func TestLookupAgainstMatch(t *testing.T) {
	r := newRegistry(t, "")
	patterns := []string{"a", "a/+", "a/#", "a/b", "+/b", "+/+/c", "a/+/c", "+", "+/b/#", "a/b/c/d", "/", "/+", "+/"}
	for _, p := range patterns {
		if err := r.Register(Definition{Pattern: p, Type: p}); err != nil {
			t.Fatal(err)
		}
	}
	levels := []string{"a", "b", "c", "d", "x", ""}
	var names func(prefix string, depth int)
	names = func(prefix string, depth int) {
		for _, l := range levels {
			name := prefix + l
			if name != "" {
				var best string
				for d := range r.All() {
					if Match(d.Pattern, name) && (best == "" || moreSpecific(d.Pattern, best)) {
						best = d.Pattern
					}
				}
				d, ok := r.Lookup(name)
				if d.Pattern != best || ok != (best != "") {
					t.Errorf("Lookup(%q) = %q, want %q", name, d.Pattern, best)
				}
			}
			if depth > 1 {
				names(name+"/", depth-1)
			}
		}
	}
	names("", 4)
}

// moreSpecific compares level by level from the left: a name, then +, then #.
func moreSpecific(a, b string) bool {
	rank := map[string]int{"+": 1, "#": 2}
	as, bs := strings.Split(a, "/"), strings.Split(b, "/")
	for i := range min(len(as), len(bs)) {
		if rank[as[i]] != rank[bs[i]] {
			return rank[as[i]] < rank[bs[i]]
		}
	}
	return len(as) < len(bs) // "a" before "a/#"
}

func TestRegister(t *testing.T) {
	r := newRegistry(t, "")
	before := slices.Collect(r.All())

	// The same pattern, relative or full, replaces and keeps its place.
	for _, pattern := range []string{"commands/+", "lawnberry/commands/+"} {
		want := Definition{Pattern: pattern, Type: "x", QoS: 1, Class: Event}
		if err := r.Register(want); err != nil {
			t.Fatal(err)
		}
		want.Pattern = "commands/+"
		if d, _ := r.Lookup("commands/a"); d != want {
			t.Errorf("got %+v", d)
		}
		after := slices.Collect(r.All())
		if len(after) != len(before) || after[2] != want {
			t.Errorf("after Register(%q): %d definitions, the third is %+v", pattern, len(after), after[2])
		}
	}

	// Whatever is below safety/ is Safety.
	if err := r.Register(Definition{Pattern: "safety/blade/+", Type: "alerts", Class: Event}); err != nil {
		t.Fatal(err)
	}
	if d, _ := r.Lookup("safety/blade/left"); d.Class != Safety {
		t.Errorf("safety/blade/left is of class %s", d.Class)
	}

	for _, tt := range []struct {
		def  Definition
		want string
	}{
		{Definition{Pattern: ""}, "is empty"},
		{Definition{Pattern: "lawnberry"}, "below the namespace"},
		{Definition{Pattern: "lawnberry/"}, "below the namespace"},
		{Definition{Pattern: "a/#/b"}, "not its last level"},
		{Definition{Pattern: "a+"}, "level of its own"},
		{Definition{Pattern: "$SYS/x"}, "begin with $"},
		{Definition{Pattern: "$share/g/a"}, "begin with $"},
		{Definition{Pattern: "absolute:a"}, "inside the namespace"},
		{Definition{Pattern: "a\x00"}, "NUL"},
		{Definition{Pattern: "a", QoS: 3}, "QoS 3"},
		{Definition{Pattern: "a", Rate: -1}, "rate of -1"},
		{Definition{Pattern: "a", StaleAfter: -time.Second}, "stale after -1s"},
		{Definition{Pattern: "a", Class: 9}, "class 9"},
	} {
		err := r.Register(tt.def)
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Register(%+v): %v, want an error with %q", tt.def, err, tt.want)
		}
	}
}

// TestConcurrent registers and looks up at once: a lookup sees all of a definition or nothing of it, and what was
// registered before it began.
func TestConcurrent(t *testing.T) {
	r := newRegistry(t, "")
	const n = 100
	var wg sync.WaitGroup
	for g := range 2 {
		wg.Go(func() {
			for i := range n {
				p := fmt.Sprintf("own/%d/%d/+", g, i)
				if err := r.Register(Definition{Pattern: p, Type: p, Rate: i}); err != nil {
					t.Error(err)
				}
				if d, ok := r.Lookup(fmt.Sprintf("own/%d/%d/x", g, i)); !ok || d.Type != p {
					t.Errorf("%s is not found after its registration", p)
				}
			}
		})
		wg.Go(func() {
			for i := range n {
				p := fmt.Sprintf("own/%d/%d/+", g, i)
				if d, ok := r.Lookup(fmt.Sprintf("lawnberry/own/%d/%d/x", g, i)); ok && (d.Type != p || d.Rate != i) {
					t.Errorf("got %+v for %s", d, p)
				}
				for d := range r.All() {
					if d.Type == "" {
						t.Errorf("%s has no type", d.Pattern)
					}
				}
			}
		})
	}
	wg.Wait()
	if got, want := len(slices.Collect(r.All())), len(standard())+2*n; got != want {
		t.Errorf("%d definitions, want %d", got, want)
	}
}

func TestAllStopsEarly(t *testing.T) {
	n := 0
	for range newRegistry(t, "").All() {
		if n++; n == 3 {
			break
		}
	}
	if n != 3 {
		t.Errorf("%d iterations", n)
	}
}

func TestClassString(t *testing.T) {
	for c, want := range map[Class]string{Sensor: "sensor", State: "state", Command: "command", Event: "event", Safety: "safety", 9: "Class(9)"} {
		if c.String() != want {
			t.Errorf("Class(%d).String() = %q, want %q", uint8(c), c, want)
		}
	}
}

func TestAllocations(t *testing.T) {
	r := newRegistry(t, "")
	for name, f := range map[string]func(){
		"Lookup relative": func() { r.Lookup("system/services/navigation/status") },
		"Lookup full":     func() { r.Lookup("lawnberry/system/services/navigation/status") },
		"Lookup unknown":  func() { r.Lookup("lawnberry/system/nothing/of/the/kind") },
		"Match":           func() { Match("lawnberry/+/navigation/#", "lawnberry/services/navigation/status") },
		"Match shared":    func() { Match("$share/g/lawnberry/#", "lawnberry/services/navigation/status") },
		"Resolve full":    func() { r.Resolve("lawnberry/sensors/+/data") },
		"Relative":        func() { r.Relative("lawnberry/sensors/gps/data") },
		"CheckName":       func() { CheckName("lawnberry/sensors/gps/data") },
		"CheckFilter":     func() { CheckFilter("$share/g/lawnberry/+/gps/#") },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	r := newRegistry(b, "")
	for name, topic := range map[string]string{
		"relative": "system/services/navigation/status",
		"full":     "lawnberry/system/services/navigation/status",
		"unknown":  "lawnberry/system/services/navigation/nothing",
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r.Lookup(topic)
			}
		})
	}
}

func BenchmarkMatch(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if !Match("lawnberry/sensors/+/data", "lawnberry/sensors/gps/data") {
			b.Fatal("no match")
		}
	}
}

func BenchmarkResolve(b *testing.B) {
	r := newRegistry(b, "")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Resolve("sensors/gps/data"); err != nil {
			b.Fatal(err)
		}
	}
}
