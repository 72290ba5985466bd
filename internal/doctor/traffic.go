package doctor

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/internal/access"
	"github.com/lawnberry/lawnberry/internal/app"
	"github.com/lawnberry/lawnberry/internal/identity"
	"github.com/lawnberry/lawnberry/topic"
)

const (
	mostTopics = 10  // that are named; the rest is counted
	growth     = 100 // messages more in the broker's queues that are no chance
)

// topics names what is published where nothing is defined, or, with access control, where no rule allows it.
func (x *examination) topics(h *heard, defined *topic.Registry) {
	rules := x.rules()
	controlled := rules != nil && x.o.Loaded.Config.Security.AccessControl.Enabled
	h.mu.Lock()
	defer h.mu.Unlock()
	more := 0
	say := func(id, what string, values ...string) {
		if x.count(id) == mostTopics {
			more++
			return
		}
		x.find(id, what, values...)
	}
	for _, name := range slices.Sorted(maps.Keys(h.topics)) {
		t := h.topics[name]
		by := ""
		if t.Sender != "" {
			by = " by " + t.Sender
		}
		if controlled {
			if why := rules.refuse(t); why != "" {
				say("topic-not-allowed", fmt.Sprintf("something is published on %s%s: %s", t.Topic, by, why), "id", cmp.Or(t.Sender, "USER"), "topic", t.Topic)
				continue
			}
		}
		if _, ok := defined.Lookup(name); !ok && (rules == nil || !rules.allowed(name)) { // what a rule names somebody has thought of
			say("topic-undefined", fmt.Sprintf("something is published on %s%s, which nobody defined", t.Topic, by))
		}
	}
	if more > 0 {
		x.report.Findings[len(x.report.Findings)-1].What += fmt.Sprintf("; and so on %d more topics", more)
	}
	if controlled {
		x.definitions(rules, defined)
	}
}

// count returns how many findings there are of a kind.
func (x *examination) count(id string) (n int) {
	for _, f := range x.report.Findings {
		if f.ID == id {
			n++
		}
	}
	return n
}

// definitions looks whether a rule denies what a definition gives.
func (x *examination) definitions(rules *rulebook, defined *topic.Registry) {
	c := x.o.Loaded.Config
	for _, id := range slices.Sorted(maps.Keys(c.ServiceDefinitions)) {
		for _, filter := range c.ServiceDefinitions[id].Topics.Publish {
			full, err := defined.Resolve(filter)
			if err != nil || topic.CheckName(full) != nil {
				continue // a filter may be denied in part on purpose
			}
			r, err := rules.bus.Client(rules.bus.Subject(id, id, rules.roles[id]...))
			if err != nil {
				continue
			}
			if d := r.Explain(access.Publish, full); !d.Allowed && d.Rule != nil {
				x.find("definition-not-allowed", fmt.Sprintf("service_definitions.%s publishes %s, and a rule denies it: %s", id, filter, d.Rule), "id", id,
					"topic", filter)
			}
		}
	}
}

// A rulebook is who may publish what.
type rulebook struct {
	bus   *access.Bus
	roles map[string][]string // of users
}

// rules returns who may publish what, whether or not that is checked; nil when the configuration does not say it.
func (x *examination) rules() *rulebook {
	bus, err := app.AccessOf(x.o.Loaded.Config)
	if err != nil {
		return nil // that was said of the configuration
	}
	r := &rulebook{bus, map[string][]string{}}
	if b, err := identity.Load(x.o.DataDir); x.o.DataDir != "" && err == nil {
		for _, u := range b.Users {
			if u.Role != "" {
				r.roles[u.Name] = []string{u.Role}
			}
		}
	}
	return r
}

// refuse says why a message like those that came may not be published; "" when it may, or when who sent it is not known well enough to say.
func (r *rulebook) refuse(t *Traffic) string {
	if partOfServe(t.Sender) {
		return ""
	}
	who := r.who(t.Sender)
	if who == "" { // people use programs with names of their own: somebody has to have the right
		if r.allowed(t.full) {
			return ""
		}
		return "no rule gives anybody but an admin the right"
	}
	c, err := r.bus.Client(r.bus.Subject(who, who, r.roles[who]...))
	if err != nil {
		return err.Error()
	}
	switch d := c.Explain(access.Publish, t.full); {
	case d.Allowed:
		return ""
	case d.Rule == nil:
		return "no rule allows it"
	default:
		return "a rule denies it: " + d.Rule.String()
	}
}

// who returns the service or user that a sender is, which may have added something to its name after a hyphen; "" for anybody else.
func (r *rulebook) who(sender string) string {
	known := func(name string) bool { return name != "" && (r.bus.IsService(name) || r.roles[name] != nil) }
	for name := sender; name != ""; {
		if known(name) {
			return name
		}
		i := strings.LastIndexByte(name, '-')
		if i < 0 {
			return ""
		}
		name = name[:i]
	}
	return ""
}

// allowed reports whether some rule lets somebody but an admin publish on a topic.
func (r *rulebook) allowed(name string) bool {
	for _, rule := range r.bus.Policy().Rules() {
		if !rule.Allow || rule.Verbs&access.Publish == 0 || rule.Role == access.Admin && rule.Identity == "" {
			continue
		}
		levels := strings.Split(rule.Filter, "/")
		for i, l := range levels {
			if strings.Contains(l, "%u") || strings.Contains(l, "%c") {
				levels[i] = "+"
			}
		}
		if topic.Match(strings.Join(levels, "/"), name) {
			return true
		}
	}
	return false
}

// figures looks at what the broker says of itself under $SYS.
func (x *examination) figures(h *heard) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.sys) == 0 {
		x.find("broker-silent", "the broker says nothing under $SYS")
		return
	}
	number := func(said map[string]string, name string) uint64 {
		n, err := strconv.ParseUint(said[name], 10, 64)
		if err != nil {
			return 0
		}
		return n
	}
	f := &x.report.Figures
	f.Dropped = number(h.sys, "publish/messages/dropped")
	refused := number(h.sys, "clients/denied") // messages among it count as dropped too
	if lost := f.Dropped - min(f.Dropped, refused); lost > 0 {
		x.find("broker-dropped", fmt.Sprintf("the broker has lost %d messages at a bound since its start", lost))
	}
	for _, name := range slices.Sorted(maps.Keys(h.sys)) {
		if id, ok := strings.CutPrefix(name, "sessions/"); ok && strings.HasSuffix(id, "/dropped") && h.sys[name] != "" {
			x.find("session-dropped", fmt.Sprintf("the session %s has lost %s messages", strings.TrimSuffix(id, "/dropped"), h.sys[name]))
		}
	}
	waiting := func(said map[string]string) uint64 {
		stored, retained := number(said, "messages/stored"), number(said, "retained messages/count")
		return max(stored, retained) - retained
	}
	f.Waiting = waiting(h.sys)
	bound := uint64(max(x.o.Loaded.Config.Broker.MaxQueuedMessages, 0))
	switch before := waiting(h.first); {
	case bound > 0 && f.Waiting > bound/2:
		x.find("queue-long", fmt.Sprintf("%d messages wait in the broker", f.Waiting))
	case f.Waiting >= before+growth:
		x.find("queue-growing", fmt.Sprintf("%d messages wait in the broker, after %d a moment before", f.Waiting, before))
	}
	if refused > 0 {
		x.find("rights-denied", fmt.Sprintf("the broker has refused %d times what somebody has no right to", refused))
	}
	if n := number(h.sys, "store/failures"); n > 0 {
		x.find("store-failing", fmt.Sprintf("the broker could not store something %d times", n), "dir",
			cmp.Or(x.o.Loaded.Config.Broker.PersistenceLocation, x.o.DataDir))
	}
	x.ownCertificate(h.sys["certificate/expires_in"])
}

// ownCertificate looks at what the broker says of its certificate, whose file may be on another computer.
func (x *examination) ownCertificate(said string) {
	n, unit, _ := strings.Cut(said, " ")
	left, err := strconv.ParseInt(n, 10, 64)
	if err != nil || unit != "seconds" || x.count("certificate-expired")+x.count("certificate-expiring") > 0 {
		return
	}
	switch left := time.Duration(min(max(left, -1e9), 1e9)) * time.Second; {
	case left <= 0:
		x.find("certificate-expired", "the broker's certificate has expired")
	case left < certificateTime:
		x.find("certificate-expiring", fmt.Sprintf("the broker's certificate expires in %.0f days", left.Hours()/24))
	}
}
