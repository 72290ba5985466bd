package topic

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestResolve(t *testing.T) {
	long := strings.Repeat("x", 65535)
	for _, tt := range []struct{ ns, in, want string }{
		{"", "sensors/gps/data", "lawnberry/sensors/gps/data"},
		{"", "lawnberry/sensors/gps/data", "lawnberry/sensors/gps/data"},
		{"", "lawnberry", "lawnberry"},
		{"", "lawnberry/", "lawnberry/"},
		{"", "lawnberryx", "lawnberry/lawnberryx"},
		{"", "#", "lawnberry/#"},
		{"", "+/gps/#", "lawnberry/+/gps/#"},
		{"", "/x", "lawnberry//x"},
		{"", "absolute:homeassistant/#", "homeassistant/#"},
		{"", "absolute:$x/y", "$x/y"},
		{"", "absolute:" + long, long},
		{"", "$SYS/broker/uptime", "$SYS/broker/uptime"},
		{"", "$SYS/#", "$SYS/#"},
		{"", "$SYS", "$SYS"},
		{"", "$share/g/sensors/+/data", "$share/g/lawnberry/sensors/+/data"},
		{"", "$share/g/lawnberry/#", "$share/g/lawnberry/#"},
		{"", "$share/g/#", "$share/g/lawnberry/#"},
		{"", "$share/g/absolute:homeassistant/#", "$share/g/homeassistant/#"},
		{"", "$share/g/$SYS/#", "$share/g/$SYS/#"},
		{"", "absolute:$share/g/homeassistant/#", "$share/g/homeassistant/#"},
		{"garden/mower1", "sensors/gps/data", "garden/mower1/sensors/gps/data"},
		{"garden/mower1", "garden/mower1/sensors/gps/data", "garden/mower1/sensors/gps/data"},
		{"garden/mower1", "garden/x", "garden/mower1/garden/x"},
		{"garden/mower1", "garden/mower10/x", "garden/mower1/garden/mower10/x"},
	} {
		got, err := newRegistry(t, tt.ns).Resolve(tt.in)
		if err != nil || got != tt.want {
			t.Errorf("%s: Resolve(%.40q) = %.60q, %v; want %.60q", tt.ns, tt.in, got, err, tt.want)
		}
	}

	r := newRegistry(t, "")
	for in, want := range map[string]string{
		"":                         "is empty",
		"absolute:":                "is empty",
		"$share/g/absolute:":       "no filter",
		"$share/g":                 "no filter",
		"$share//a":                "no share name",
		"$share/+/a":               "share name",
		"$share/g/$share/h/a":      "inside a shared filter",
		"$share/g/absolute:a/#/b":  "last level",
		"$foo/bar":                 "absolute:$foo/bar",
		"$":                        "begins with $",
		"a\x00b":                   "NUL",
		"a\xffb":                   "UTF-8",
		"a/#/b":                    "last level",
		"a+":                       "level of its own",
		long:                       "65545 bytes",
		"$share/g/" + long[:65530]: "bytes long",
	} {
		got, err := r.Resolve(in)
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), want) || got != "" || e.Topic != in {
			t.Errorf("Resolve(%.40q) = %q, %v; want an *Error with %q", in, got, err, want)
		}
	}
}

func TestRelative(t *testing.T) {
	r := newRegistry(t, "")
	for _, tt := range []struct {
		full, rel string
		ok        bool
	}{
		{"lawnberry/sensors/gps/data", "sensors/gps/data", true},
		{"lawnberry/#", "#", true},
		{"lawnberry//x", "/x", true},
		{"homeassistant/x", "homeassistant/x", false},
		{"lawnberryx/y", "lawnberryx/y", false},
		{"lawnberry", "lawnberry", false},
		{"$SYS/x", "$SYS/x", false},
		{"", "", false},
		// What the rest would read as is something else.
		{"lawnberry/", "lawnberry/", true},
		{"lawnberry/lawnberry", "lawnberry/lawnberry", true},
		{"lawnberry/lawnberry/x", "lawnberry/lawnberry/x", true},
		{"lawnberry/$SYS/x", "lawnberry/$SYS/x", true},
		{"lawnberry/absolute:x", "lawnberry/absolute:x", true},
	} {
		rel, ok := r.Relative(tt.full)
		if rel != tt.rel || ok != tt.ok {
			t.Errorf("Relative(%q) = %q, %v", tt.full, rel, ok)
		}
		if !ok {
			continue
		}
		if full, err := r.Resolve(rel); err != nil || full != tt.full {
			t.Errorf("Resolve(%q) = %q, %v; want %q back", rel, full, err, tt.full)
		}
	}
}

func TestForService(t *testing.T) {
	r := newRegistry(t, "garden/mower1")
	common := []string{"system/services/+/status", "system/events/+", "system/health_check", "system/health", "safety/emergency_stop"}
	for _, tt := range []struct {
		id, typ   string
		own, more []string
	}{
		{"gps1", "sensors", []string{"commands/gps1", "responses/gps1", "commands/sensors"}, []string{"sensors/+/data", "sensors/+/status"}},
		{"navigation", "navigation", []string{"commands/navigation", "responses/navigation"}, []string{"navigation/+"}},
		{"guard", "safety", []string{"commands/guard", "responses/guard", "commands/safety"}, []string{"safety/+"}},
		{"bms", "power", []string{"commands/bms", "responses/bms", "commands/power"}, []string{"power/+"}},
		{"cam", "vision", []string{"commands/cam", "responses/cam", "commands/vision"}, []string{"vision/+"}},
		{"w", "weather", []string{"commands/w", "responses/w", "commands/weather"}, []string{"weather/+"}},
		{"s", "system", []string{"commands/s", "responses/s", "commands/system"}, []string{"system/+"}},
		{"web", "web", []string{"commands/web", "responses/web"}, nil},
		{"x", "", []string{"commands/x", "responses/x"}, nil},
		{"", "power", []string{"commands/power"}, []string{"power/+"}},
		{"+", "#", nil, nil},
		{"a/b", "c/d", nil, nil},
	} {
		want := slices.Concat(tt.own, common, tt.more)
		got := r.ForService(tt.id, tt.typ)
		if !slices.Equal(got, want) {
			t.Errorf("ForService(%q, %q) = %q, want %q", tt.id, tt.typ, got, want)
		}
		for _, f := range got {
			if _, err := r.Resolve(f); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestTree(t *testing.T) {
	r := newRegistry(t, "")
	if err := r.Register(Definition{Pattern: "sensors", Type: "own", Description: "between"}); err != nil {
		t.Fatal(err)
	}
	root := r.Tree()
	if root.Level != "lawnberry" || root.Definition != nil {
		t.Errorf("the root is %+v", root)
	}
	found := map[string]Definition{}
	var walk func(n *Node, path []string)
	walk = func(n *Node, path []string) {
		if !slices.IsSortedFunc(n.Children, func(a, b *Node) int { return strings.Compare(a.Level, b.Level) }) {
			t.Errorf("the children of %v are not sorted", path)
		}
		if n.Definition != nil {
			found[strings.Join(path, "/")] = *n.Definition
		}
		for _, c := range n.Children {
			walk(c, append(slices.Clone(path), c.Level))
		}
	}
	walk(root, nil)
	n := 0
	for d := range r.All() {
		n++
		if found[d.Pattern] != d {
			t.Errorf("%s: the tree has %+v", d.Pattern, found[d.Pattern])
		}
	}
	if len(found) != n {
		t.Errorf("the tree has %d definitions, want %d", len(found), n)
	}
}

func TestWriteMarkdown(t *testing.T) {
	r := newRegistry(t, "farm")
	if err := r.Register(Definition{Pattern: "own/a|b", Type: "own", Description: "one\ntwo | three"}); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := r.WriteMarkdown(&b); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"## sensors",
		"| `farm/sensors/+/status` | Health of one sensor | the service that reads the sensor | status | status | 1 | yes | 20 | 3m0s | state |",
		"| `farm/system/health_check` | Asks every service to announce itself now | anybody, for all services | status | status | 1 | no | - | - | event |",
		"## own",
		"| `farm/own/a\\|b` | one two \\| three | - | any | own | 0 | no | - | - | sensor |",
		"- `farm/power/solar`: voltage V, current A, power W",
		"- `farm`",
		"  - `sensors`",
		"    - `+`",
		"      - `status`: Health of one sensor",
		"    - `a|b`: one two | three",
	} {
		if !strings.Contains(b.String(), "\n"+line+"\n") {
			t.Errorf("no line %q in\n%s", line, &b)
		}
	}
	if err := r.WriteMarkdown(failing{}); !errors.Is(err, errFailing) {
		t.Errorf("to a writer that fails: %v", err)
	}
}

// The names in an address stand where the pattern has wildcards, and only there; a narrower topic made from a wider one does without.
func TestNamed(t *testing.T) {
	r := newRegistry(t, "")
	for d := range r.All() {
		if strings.Contains(d.Pattern, "+") == (d.Named() == d.Pattern) || d.Publisher == "" || d.Message == "" {
			t.Errorf("%s is %s, a %q published by %q", d.Pattern, d.Named(), d.Message, d.Publisher)
		}
	}
	d, _ := r.Lookup("sensors/gps/data")
	d.Pattern = "sensors/gps/data"
	if got := d.Named(); got != "sensors/gps/data" {
		t.Errorf("a narrower topic is %s", got)
	}
}

var errFailing = errors.New("disk full")

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errFailing }
