package access

import (
	"slices"

	"github.com/lawnberry/lawnberry/topic"
)

// The roles that rules are generated for.
const (
	Admin    = "admin"    // everything, releasing an emergency stop included
	Operator = "operator" // a person: sees everything, sends commands
	Viewer   = "viewer"   // sees everything but commands and their responses
	Worker   = "service"  // every service of a mower
)

// A Service is what a definition says of a service.
type Service struct {
	ID, Type           string
	Dependencies       []string // ids; it may send them commands
	Publish, Subscribe []string // filters, relative to the namespace or full
}

// Generate returns the rules that follow from the topics of the bus and the services that are defined.
//
// Everyone who is let in may engage the emergency stop and see it. A service announces itself and nobody else, hears what every
// service hears, answers, emits events, raises alerts, and sends commands to those it depends on. Beyond that it publishes
// and subscribes what its definition lists.
func Generate(bus *topic.Registry, services []Service) ([]Rule, error) {
	g := generator{bus: bus}
	const everyone = "everyone who is let in"
	g.allow("", "", Publish|Subscribe, everyone, stopTopic)
	g.allow("", "", Publish, everyone, "commands/"+hubID) // to engage it, and to ask for its state; to release it needs the right
	g.allow("", "", Subscribe, everyone, "responses/%c")  // to hear the answer
	g.allow(hubID, "", All, "the hub of the emergency stop", stopTopic)
	g.allow("", Admin, All, "role admin", "#", topic.Absolute("#"), topic.Absolute("$SYS/#"))
	g.allow("", Operator, Publish, "role operator", "commands/+", "system/health_check", velocity)
	g.allow("", Operator, Subscribe, "role operator", "#")
	g.allow("", Viewer, Publish, "role viewer", "system/health_check")
	g.deny("", Viewer, Subscribe, "role viewer", "commands/#", "responses/#")
	g.allow("", Viewer, Subscribe, "role viewer", "#")

	const worker = "every service"
	g.allow("", Worker, Publish, worker, "system/services/%u/#", "responses/+", "system/events/+", "system/logs/+", "safety/alerts/+",
		"safety/reports/%u", "system/health_check", "commands/%u")
	g.allow("", Worker, Subscribe, worker, "commands/%u", "responses/%u", "responses/%c", "system/services/+/#", "system/events/+", "system/health_check",
		"system/health", "safety/alerts/+")
	for _, s := range services {
		source := "service_definitions." + s.ID
		g.allow(s.ID, "", Subscribe, source, bus.ForService(s.ID, s.Type)...)
		if topic.CheckLevel("type", s.Type) == nil {
			g.allow(s.ID, "", Publish, source, "commands/"+s.Type)
			for _, twin := range services {
				if twin.Type == s.Type { // it passes on what another is to run
					g.allow(s.ID, "", Publish, source, "commands/"+twin.ID)
				}
			}
		}
		for _, id := range s.Dependencies {
			g.allow(s.ID, "", Publish, source, "commands/"+id)
			if i := slices.IndexFunc(services, func(d Service) bool { return d.ID == id }); i >= 0 && topic.CheckLevel("type", services[i].Type) == nil {
				g.allow(s.ID, "", Publish, source, "commands/"+services[i].Type)
			}
		}
		g.allow(s.ID, "", Publish, source, s.Publish...)
		g.allow(s.ID, "", Subscribe, source, s.Subscribe...)
	}
	return g.rules, g.err
}

// velocity are the set points of whoever drives. They count with the token of the lease, which a command gives.
const velocity = "navigation/velocity"

// reports are what services tell about hazards and about having stopped.
const reports = "safety/reports/+"

type generator struct {
	bus   *topic.Registry
	rules []Rule
	err   error
}

func (g *generator) allow(identity, role string, verbs Verb, source string, filters ...string) {
	g.add(Rule{Identity: identity, Role: role, Allow: true, Verbs: verbs, Source: source}, filters)
}

func (g *generator) deny(identity, role string, verbs Verb, source string, filters ...string) {
	g.add(Rule{Identity: identity, Role: role, Verbs: verbs, Source: source}, filters)
}

func (g *generator) add(r Rule, filters []string) {
	for _, f := range filters {
		full, err := g.bus.Resolve(f)
		if err != nil {
			if g.err == nil {
				g.err = err
			}
			continue
		}
		r.Filter = full
		g.rules = append(g.rules, r)
	}
}
