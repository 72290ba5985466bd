package cli

import (
	"slices"
	"strings"
	"testing"
)

func drawn(services ...serviceInfo) string {
	var b strings.Builder
	newGraph(services).write(&b, false)
	return b.String()
}

func TestGraphText(t *testing.T) {
	t.Parallel()
	got := drawn(
		serviceInfo{ID: "camera", State: "error", Reason: "lens dirty"},
		serviceInfo{ID: "display", State: "healthy"},
		serviceInfo{ID: "hardware", State: "offline", Reason: "connection lost"},
		serviceInfo{ID: "mission", State: "degraded", Reason: "dependency navigation is starting", Dependencies: []string{"navigation"}, Optional: []string{"camera"}},
		serviceInfo{ID: "navigation", State: "starting", Dependencies: []string{"gps", "hardware"}},
		serviceInfo{ID: "planner", State: "degraded", Reason: "dependency navigation is starting", Dependencies: []string{"navigation", "display"}},
		serviceInfo{ID: "weather", State: "offline", Reason: "did not start", Dependencies: []string{"gps"}},
	)
	want := `
gps       never seen                 blocks mission, navigation, planner, weather
hardware  offline (connection lost)  blocks mission, navigation, planner

SERVICE         STATE       WHY
mission         degraded    lacks navigation
├─ navigation   starting    waits for gps, hardware
│  ├─ gps       never seen
│  └─ hardware  offline     connection lost
└─ camera       error       optional; lens dirty
planner         degraded    lacks navigation
├─ navigation   starting    waits for gps, hardware; drawn above
└─ display      healthy
weather         offline     lacks gps; did not start
└─ gps          never seen
`
	if got != want[1:] {
		t.Errorf("got\n%s", got)
	}
}

func TestGraphCycle(t *testing.T) {
	t.Parallel()
	services := []serviceInfo{
		{ID: "a", State: "starting", Dependencies: []string{"b"}},
		{ID: "b", State: "starting", Dependencies: []string{"c", "d"}},
		{ID: "c", State: "starting", Dependencies: []string{"a"}},
		{ID: "d", State: "healthy", Optional: []string{"d", "a"}}, // optional ones are no cycle
		{ID: "self", State: "degraded", Dependencies: []string{"self"}},
	}
	want := `
cycle  a -> b -> c -> a  remove one of these dependencies
cycle  self -> self      remove one of these dependencies

SERVICE     STATE     WHY
self        degraded
└─ self     degraded  drawn above
a           starting  waits for b
└─ b        starting  waits for c
   ├─ c     starting  waits for a
   │  └─ a  starting  waits for b; drawn above
   └─ d     healthy
      ├─ d  healthy   optional; drawn above
      └─ a  starting  optional; waits for b; drawn above
`
	if got := drawn(services...); got != want[1:] {
		t.Errorf("got\n%s", got)
	}
	for _, line := range []string{`"a" -> "b" [color=red, penwidth=2, label="cycle"]`, `"b" -> "d"`, `"d" -> "a" [style=dashed]`} {
		if dot := newGraph(services).dot(); !slices.Contains(strings.Split(dot, "\n"), "\t"+line) {
			t.Errorf("no %s in\n%s", line, dot)
		}
	}
}

// A service's words can neither end a string of Graphviz's nor move the terminal's cursor.
func TestGraphOfHostileWords(t *testing.T) {
	t.Parallel()
	services := []serviceInfo{{ID: `x"]; y [label="\`, State: "error", Reason: "\x1b[2J\nsecond", Dependencies: []string{"gone", "gone"}}}
	dot := newGraph(services).dot()
	for _, want := range []string{
		`"x\"]; y [label=\"\\" [label="x\"]; y [label=\"\\\nerror\n\\x1b[2J\nsecond", fillcolor=lightsalmon]`,
		`"x\"]; y [label=\"\\" -> "gone" [color=red, penwidth=2, label="blocks", dir=both, arrowtail=tee]`,
	} {
		if strings.Count(dot, "\t"+want+"\n") != 1 {
			t.Errorf("no %s in\n%s", want, dot)
		}
	}
	if text := drawn(services...); strings.Contains(text, "\x1b") || strings.Count(text, "gone") != 3 {
		t.Errorf("%q", text)
	}
}

func TestEmptyGraph(t *testing.T) {
	t.Parallel()
	if g := newGraph(nil); len(g.roots()) != 0 || !strings.HasSuffix(g.dot(), "}\n") {
		t.Errorf("%+v", g)
	}
}
