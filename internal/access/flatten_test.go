package access_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/lawnberry/lawnberry/internal/access"
	"github.com/lawnberry/lawnberry/topic"
)

// allowed is how a broker that knows no order decides.
func allowed(rights []access.Plain, identity, clientID string, verb access.Verb, name string) bool {
	for _, who := range []string{identity, ""} {
		for _, allow := range []bool{false, true} {
			for _, r := range rights {
				filter := strings.ReplaceAll(r.Filter, "%c", clientID)
				if r.Identity == who && r.Allow == allow && r.Verbs&verb != 0 && topic.Match(filter, name) {
					return allow
				}
			}
		}
	}
	return false
}

// Whatever the rules, nobody may do more than they say, but for what nobody could tell without looking into messages; and without
// denials nobody may do less.
func TestFlattenNeverAllowsMore(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	topics, err := topic.New("")
	if err != nil {
		t.Fatal(err)
	}
	levels := []string{"commands", "safety", "emergency_stop", "responses", "navigation", "+", "#", "%u", "%c"}
	filter := func() string {
		for {
			var l []string
			for range 1 + r.IntN(3) {
				l = append(l, levels[r.IntN(len(levels))])
			}
			if f := "lawnberry/" + strings.Join(l, "/"); topic.CheckFilter(f) == nil {
				return f
			}
		}
	}
	names := []string{"x"}
	for _, a := range []string{"commands", "safety", "responses", "navigation", "other"} {
		names = append(names, "lawnberry/"+a)
		for _, b := range []string{"emergency_stop", "navigation", "ann", "bob-1", "other"} {
			names = append(names, "lawnberry/"+a+"/"+b, "lawnberry/"+a+"/"+b+"/x")
		}
	}
	who := []string{"", "ann", "bob", "navigation"}
	roles := []string{"", access.Operator, access.Viewer, access.Admin, access.Worker}
	const hub, stop = "lawnberry/commands/emergency_stop", "lawnberry/safety/emergency_stop"
	compared, less, refused := 0, 0, 0
	for range 600 {
		var rules []access.Rule
		denies := false
		for range r.IntN(4) {
			rule := access.Rule{
				Identity: who[r.IntN(len(who))], Role: roles[r.IntN(len(roles))], Allow: r.IntN(2) == 0,
				Verbs: []access.Verb{access.Publish, access.Subscribe, access.All}[r.IntN(3)], Filter: filter(), Source: "own",
			}
			denies = denies || !rule.Allow
			rules = append(rules, rule)
		}
		bus, err := access.NewBus(topics, []access.Service{{ID: "navigation", Type: "navigation"}}, rules)
		if err != nil {
			t.Fatal(err)
		}
		subjects := []access.Subject{
			bus.Subject("ann", "%c", access.Viewer), bus.Subject("bob", "%c", access.Operator), bus.Subject("root", "%c", access.Admin), bus.Subject("navigation", "%c"),
		}
		flat, err := bus.Flatten(subjects)
		if err != nil {
			refused++
			continue
		}
		for _, s := range subjects {
			client := s.Identity + "-1"
			rights := bus.Policy().Rights(access.Subject{Identity: s.Identity, ClientID: client, Roles: s.Roles})
			for _, name := range names {
				for _, verb := range []access.Verb{access.Publish, access.Subscribe} {
					compared++
					want, got := rights.May(verb, name), allowed(flat.Rights, s.Identity, client, verb, name)
					muted := name == hub && !rights.May(access.Release, stop)
					if muted && verb == access.Publish && got {
						t.Fatalf("%v: %s may release by a command", rules, s.Identity)
					}
					if got && !want {
						t.Fatalf("%v: %s may %s %s\n%v", rules, s.Identity, verb, name, flat.Rights)
					}
					if want && !got && !muted {
						less++
						if name == stop && verb == access.Publish {
							t.Fatalf("%v: %s may not engage", rules, s.Identity)
						}
						said := slices.ContainsFunc(flat.Lost, func(l string) bool { return strings.HasPrefix(l, s.Identity+": ") })
						if !said {
							t.Fatalf("%v: %s may not %s %s, and it is not said: %q\n%v", rules, s.Identity, verb, name, flat.Lost, flat.Rights)
						}
					}
				}
			}
		}
	}
	if compared < 100_000 || refused == 0 || less == 0 {
		t.Errorf("%d compared, %d less, %d refused: this tests too little", compared, less, refused)
	}
	t.Logf("%d compared, %d less, %d refused", compared, less, refused)
}

// Without rules of one's own: what is lost, who cannot ask the hub, and how that is changed.
func TestFlattenStandard(t *testing.T) {
	t.Parallel()
	topics, err := topic.New("")
	if err != nil {
		t.Fatal(err)
	}
	services := []access.Service{{ID: "blade", Type: "hardware"}, {ID: "weather", Type: "weather", Publish: []string{"weather/current"}}}
	let := access.Rule{Identity: "blade", Allow: true, Verbs: access.Release, Filter: "lawnberry/safety/emergency_stop", Source: "rule 1"}
	bus, err := access.NewBus(topics, services, []access.Rule{let})
	if err != nil {
		t.Fatal(err)
	}
	flat, err := bus.Flatten([]access.Subject{
		bus.Subject("blade", ""), bus.Subject("weather", ""), bus.Subject("olga", "", access.Operator), bus.Subject("vera", "", access.Viewer), bus.Subject("root", "", access.Admin),
	})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(flat.Mute, []string{"weather"}) {
		t.Errorf("mute: %q", flat.Mute)
	}
	if len(flat.Lost) != 1 || !strings.HasPrefix(flat.Lost[0], "vera: subscribe lawnberry/responses/%c") {
		t.Errorf("lost: %q", flat.Lost)
	}
	const hub, stop = "lawnberry/commands/emergency_stop", "lawnberry/safety/emergency_stop"
	for who, asks := range map[string]bool{"blade": true, "weather": false, "olga": false, "vera": false, "root": true, "stranger": false} {
		if got := allowed(flat.Rights, who, "c", access.Publish, hub); got != asks {
			t.Errorf("%s may ask the hub: %t", who, got)
		}
		for _, verb := range []access.Verb{access.Publish, access.Subscribe} {
			if !allowed(flat.Rights, who, "c", verb, stop) {
				t.Errorf("%s may not %s the emergency stop", who, verb)
			}
		}
	}
	for _, tt := range []struct {
		who  string
		verb access.Verb
		name string
		want bool
	}{
		{"olga", access.Publish, "commands/blade", true}, {"olga", access.Subscribe, "vision/detections", true}, {"olga", access.Publish, "sensors/gps/data", false},
		{"vera", access.Subscribe, "vision/detections", true}, {"vera", access.Subscribe, "commands/blade", false}, {"vera", access.Publish, "commands/blade", false},
		{"weather", access.Publish, "weather/current", true}, {"weather", access.Publish, "system/services/weather/status", true},
		{"weather", access.Publish, "system/services/blade/status", false}, {"weather", access.Subscribe, "commands/weather", true},
		{"weather", access.Subscribe, "commands/blade", false}, {"stranger", access.Subscribe, "vision/detections", false},
		{"stranger", access.Subscribe, "responses/c", true}, {"stranger", access.Subscribe, "responses/d", false},
	} {
		if got := allowed(flat.Rights, tt.who, "c", tt.verb, "lawnberry/"+tt.name); got != tt.want {
			t.Error(fmt.Sprint(tt, " is ", got))
		}
	}
}
