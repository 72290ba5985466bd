package access_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/lawnberry/lawnberry/internal/access"
	"github.com/lawnberry/lawnberry/topic"
)

func policy(t testing.TB, rules ...access.Rule) *access.Policy {
	t.Helper()
	p, err := access.New(rules)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The first rule that fits decides, and without one nothing is allowed.
func TestFirstRuleDecides(t *testing.T) {
	t.Parallel()
	p := policy(t,
		access.Rule{Identity: "ann", Verbs: access.Publish, Filter: "a/secret", Source: "1"},
		access.Rule{Identity: "ann", Allow: true, Verbs: access.Publish | access.Subscribe, Filter: "a/+", Source: "2"},
		access.Rule{Role: "guest", Verbs: access.All, Filter: "#", Source: "3"},
		access.Rule{Allow: true, Verbs: access.Subscribe, Filter: "#", Source: "4"},
	)
	for _, tt := range []struct {
		who   string
		roles []string
		verb  access.Verb
		topic string
		want  bool
		rule  string
	}{
		{"ann", nil, access.Publish, "a/secret", false, "1"},
		{"ann", nil, access.Subscribe, "a/secret", true, "2"},
		{"ann", []string{"guest"}, access.Publish, "a/b", true, "2"},
		{"ann", []string{"guest"}, access.Subscribe, "b", false, "3"},
		{"bob", nil, access.Subscribe, "b", true, "4"},
		{"bob", nil, access.Publish, "b", false, ""},
		{"bob", nil, access.Subscribe, "$SYS/broker/uptime", false, ""},
		{"bob", nil, access.Release, "a/b", false, ""},
	} {
		r := p.Rights(access.Subject{Identity: tt.who, ClientID: tt.who, Roles: tt.roles})
		d := r.Explain(tt.verb, tt.topic)
		rule := ""
		if d.Rule != nil {
			rule = d.Rule.Source
		}
		if d.Allowed != tt.want || rule != tt.rule {
			t.Errorf("%s %v %v %s: %t by rule %q", tt.who, tt.roles, tt.verb, tt.topic, d.Allowed, rule)
		}
		for range 2 { // asked again it is remembered
			if r.May(tt.verb, tt.topic) != tt.want {
				t.Errorf("%s %v %v %s: May disagrees", tt.who, tt.roles, tt.verb, tt.topic)
			}
		}
	}
}

// A name that stands in a filter stands for itself, whatever is in it.
func TestNamesInFilters(t *testing.T) {
	t.Parallel()
	p := policy(t,
		access.Rule{Verbs: access.Publish, Filter: "denied/%u/#"},
		access.Rule{Allow: true, Verbs: access.Publish, Filter: "denied/#"},
		access.Rule{Allow: true, Verbs: access.Publish, Filter: "own/%u/%c/x-%u"},
	)
	for _, tt := range []struct{ identity, client, topic string }{
		{"ann", "c", "own/ann/c/x-ann"}, {"ann", "c", "denied/bob/x"}, {"Ünal", "c d", "own/Ünal/c d/x-Ünal"},
	} {
		if r := p.Rights(access.Subject{Identity: tt.identity, ClientID: tt.client}); !r.May(access.Publish, tt.topic) {
			t.Errorf("%s with %s may not publish %s", tt.identity, tt.client, tt.topic)
		}
	}
	for _, tt := range []struct{ identity, client, topic string }{
		{"ann", "c", "own/bob/c/x-bob"}, {"ann", "c", "denied/ann/x"},
		{"+", "c", "own/bob/c/x-bob"}, {"#", "c", "own/#/c/x-#"}, {"a/c", "c", "own/a/c/c/x-a"}, {"", "c", "own//c/x-"},
		{"%c", "c", "own/c/c/x-c"}, {"ann", "+", "own/ann/c/x-ann"}, {"$SYS", "c", "own/$SYS/c/x-$SYS"},
		{"+", "c", "denied/bob/x"}, {"#", "c", "denied/bob"}, // what is denied by a name that could be anyone's is denied
	} {
		if r := p.Rights(access.Subject{Identity: tt.identity, ClientID: tt.client}); r.May(access.Publish, tt.topic) {
			t.Errorf("%q with %q may publish %s", tt.identity, tt.client, tt.topic)
		}
	}
}

// A subscription is refused only when nothing in it is allowed.
func TestFilterIsNotRefusedForNothing(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	levels := []string{"a", "b", "+", "#"}
	filter := func() string {
		for {
			var l []string
			for range 1 + r.IntN(3) {
				l = append(l, levels[r.IntN(len(levels))])
			}
			if f := strings.Join(l, "/"); topic.CheckFilter(f) == nil {
				return f
			}
		}
	}
	var names []string
	for _, a := range []string{"a", "b", "c"} {
		names = append(names, a)
		for _, b := range []string{"a", "b", "c"} {
			names = append(names, a+"/"+b)
			for _, c := range []string{"a", "b", "c"} {
				names = append(names, a+"/"+b+"/"+c, a+"/"+b+"/"+c+"/d")
			}
		}
	}
	refused := 0
	for range 20_000 {
		var rules []access.Rule
		for range 1 + r.IntN(4) {
			rules = append(rules, access.Rule{Allow: r.IntN(2) == 0, Verbs: access.Subscribe, Filter: filter()})
		}
		rights := policy(t, rules...).Rights(access.Subject{Identity: "x"})
		f := filter()
		d := rights.ExplainFilter(f)
		if d.Allowed {
			continue
		}
		refused++
		for _, n := range names {
			if topic.Match(f, n) && rights.May(access.Subscribe, n) {
				t.Fatalf("%v: %s is refused, but %s is allowed", rules, f, n)
			}
		}
	}
	if refused < 1000 {
		t.Errorf("%d refused: this tests nothing", refused)
	}
}

func TestBadFilter(t *testing.T) {
	t.Parallel()
	if _, err := access.New([]access.Rule{{Filter: "a/#/b", Source: "rule 7"}}); err == nil || !strings.Contains(err.Error(), "rule 7") {
		t.Errorf("got %v", err)
	}
}

func TestManyTopics(t *testing.T) {
	t.Parallel()
	r := policy(t, access.Rule{Allow: true, Verbs: access.Publish, Filter: "a/+"}).Rights(access.Subject{Identity: "x"})
	for i := range 10_000 {
		if !r.May(access.Publish, fmt.Sprint("a/", i)) || r.May(access.Publish, fmt.Sprint("b/", i)) {
			t.Fatal(i)
		}
	}
}

func BenchmarkMay(b *testing.B) {
	bus, err := topic.New("")
	if err != nil {
		b.Fatal(err)
	}
	a, err := access.NewBus(bus, []access.Service{{ID: "gps", Type: "sensors", Publish: []string{"sensors/gps/data"}}}, nil)
	if err != nil {
		b.Fatal(err)
	}
	c, err := a.Client(a.Subject("gps", "gps"))
	if err != nil {
		b.Fatal(err)
	}
	payload := []byte(`{"metadata":{"timestamp":1763884800.1,"message_id":"9b2f7c1e-3f43-4f0e-9a54-0d5b1b6a5b7e","sender":"gps","message_type":"sensor_data",` +
		`"priority":1},"payload":{"sensor_type":"gps","data":{"latitude":48.1,"longitude":11.5,"altitude":519.2}}}`)
	b.Run("MayPublish", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if !c.MayPublish("lawnberry/sensors/gps/data") {
				b.Fatal("no")
			}
		}
	})
	b.Run("MaySend", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := c.MaySend("lawnberry/sensors/gps/data", payload, false); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// Topics of the greatest length are not remembered: four thousand of them would be a quarter of a GiB for each client.
func TestLongTopicsAreNotRemembered(t *testing.T) {
	r := policy(t, access.Rule{Allow: true, Verbs: access.Publish, Filter: "a/+"}).Rights(access.Subject{Identity: "x"})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range 1000 {
		if !r.May(access.Publish, fmt.Sprintf("a/%065000d", i)) {
			t.Fatal(i)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if kept := int64(after.HeapAlloc) - int64(before.HeapAlloc); kept > 8<<20 { // 65 MB when they are remembered
		t.Errorf("%d bytes are kept", kept)
	}
	runtime.KeepAlive(r)
}
