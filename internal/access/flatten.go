package access

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lawnberry/lawnberry/topic"
)

// A Plain is a right for brokers that know no order of rules: of one identity what is denied goes before what is allowed, and what
// nothing allows is denied. A denial is of both verbs.
type Plain struct {
	Identity string // "" is everyone, of whom each has his own denials
	Allow    bool
	Verbs    Verb   // Publish, Subscribe or both
	Filter   string // full; of everyone a level %c stands for the client id
}

// Flat is a policy for such a broker.
type Flat struct {
	Rights []Plain
	Lost   []string // what somebody may do by the rules and cannot with this, for people
	// Mute are the services that may not send commands to the hub of the emergency stop: nothing that they drive moves.
	Mute []string
}

// Flatten makes plain rights for subjects, which are all who are known, of the rules. What cannot be said without an order is denied, never
// allowed. Who has no right to release an emergency stop may not send the hub commands at all, since such a broker does not
// look into them. It is an error when somebody could not engage the emergency stop who may.
func (b *Bus) Flatten(subjects []Subject) (Flat, error) {
	f := flattener{bus: b}
	nobody := b.policy.Rights(Subject{Identity: "\x00"})
	for i := range b.policy.rules { // for everyone, also for those whom nobody knows
		r := &b.policy.rules[i]
		if f.isPattern(r) {
			f.flat.Rights = append(f.flat.Rights, Plain{"", true, r.Verbs & (Publish | Subscribe), r.Filter})
		}
	}
	if !nobody.May(Publish, b.stop) {
		f.flat.Lost = append(f.flat.Lost, "who is neither a user nor a service nor named in a rule cannot engage the emergency stop")
	}
	for _, s := range subjects {
		if err := f.subject(s); err != nil {
			return Flat{}, err
		}
	}
	return f.flat, nil
}

type flattener struct {
	bus  *Bus
	flat Flat
}

// isPattern reports whether a rule is passed on as one for everyone: those about the client id, and the emergency stop.
func (f *flattener) isPattern(r *Rule) bool {
	if r.Identity != "" || r.Role != "" || !r.Allow || r.Verbs&(Publish|Subscribe) == 0 || strings.Contains(r.Filter, "%u") {
		return false
	}
	return r.Filter == f.bus.stop || strings.Contains(r.Filter, "%c") && wholeLevels(r.Filter)
}

// wholeLevels reports whether %c in a filter is always a level of its own.
func wholeLevels(filter string) bool {
	for l := range strings.SplitSeq(filter, "/") {
		if l != "%c" && strings.Contains(l, "%c") {
			return false
		}
	}
	return true
}

// A claim is a rule with the names of one subject in its filter.
type claim struct {
	rule    *Rule
	filter  string // with + for the client id
	pattern bool
	wide    bool // it denies for every client id what is meant for one
}

// claims are the rules about s, in their order.
func (f *flattener) claims(s Subject) (all []claim) {
	const mark = "\x00" // in no topic
	for i := range f.bus.policy.rules {
		r := &f.bus.policy.rules[i]
		if r.Identity != "" && r.Identity != s.Identity || r.Role != "" && !slices.Contains(s.Roles, r.Role) {
			continue
		}
		bound := *r
		bound.Filter = strings.ReplaceAll(r.Filter, "%c", mark)
		filter, ok := fill(&bound, s)
		if !ok {
			continue
		}
		pattern, wide := f.isPattern(r), false
		if strings.Contains(filter, mark) {
			if r.Allow && !pattern { // one of those for everyone is more often there
				if !f.elsewhere(r) {
					f.flat.Lost = append(f.flat.Lost, fmt.Sprintf("%s: %s, as the rule is not for everyone: %s", s.Identity, r.Filter, r.Source))
				}
				continue
			}
			levels := strings.Split(filter, "/")
			for i, l := range levels {
				if strings.Contains(l, mark) {
					levels[i] = "+"
				}
			}
			filter = strings.Join(levels, "/")
			if wide = !r.Allow; wide {
				f.flat.Lost = append(f.flat.Lost, fmt.Sprintf("%s: %s, which is denied for every client id: %s", s.Identity, filter, r.Source))
			}
		}
		all = append(all, claim{r, filter, pattern, wide})
	}
	return all
}

// elsewhere reports whether a rule for everyone allows what r does.
func (f *flattener) elsewhere(r *Rule) bool {
	return slices.ContainsFunc(f.bus.policy.rules, func(o Rule) bool { return f.isPattern(&o) && o.Filter == r.Filter && o.Verbs&r.Verbs == r.Verbs })
}

// subject adds the rights of one identity.
func (f *flattener) subject(s Subject) error {
	all := f.claims(s)
	releases := f.bus.policy.Rights(Subject{s.Identity, s.Identity, s.Roles}).May(Release, f.bus.stop)
	var denied []string
	deny := func(filter string) {
		if !slices.Contains(denied, filter) {
			denied = append(denied, filter)
		}
	}
	for i, d := range all {
		if d.rule.Allow {
			continue
		}
		for _, a := range all[i+1:] {
			both := d.rule.Verbs & a.rule.Verbs & (Publish | Subscribe)
			if a.rule.Allow && both != 0 && topic.Overlap(d.filter, a.filter) && (a.pattern || !topic.Covers(d.filter, a.filter)) {
				deny(d.filter)
			}
		}
	}
	var rights []Plain
	for i, a := range all {
		if !a.rule.Allow || a.pattern && a.rule.Filter != f.bus.stop { // what is for everyone may not hold for every client id: the stop is everyone's own too
			continue
		}
		for _, verb := range []Verb{Publish, Subscribe} {
			hidden := func(d claim) bool { return !d.rule.Allow && d.rule.Verbs&verb != 0 && topic.Covers(d.filter, a.filter) }
			if a.rule.Verbs&verb == 0 || slices.ContainsFunc(all[:i], hidden) {
				continue
			}
			if verb == Publish && !releases && topic.Overlap(a.filter, f.bus.hub) {
				if topic.Covers(f.bus.hub, a.filter) {
					continue
				}
				deny(f.bus.hub)
			}
			rights = merge(rights, Plain{s.Identity, true, verb, a.filter})
		}
	}
	if err := f.losses(s, all, denied, releases); err != nil {
		return err
	}
	if !releases && slices.Contains(s.Roles, Worker) {
		f.flat.Mute = append(f.flat.Mute, s.Identity)
	}
	for _, filter := range denied {
		f.flat.Rights = append(f.flat.Rights, Plain{s.Identity, false, Publish | Subscribe, filter})
	}
	f.flat.Rights = append(f.flat.Rights, rights...)
	return nil
}

// merge adds a right, to one for the same filter if there is one.
func merge(rights []Plain, p Plain) []Plain {
	for i := range rights {
		if rights[i].Filter == p.Filter {
			rights[i].Verbs |= p.Verbs
			return rights
		}
	}
	return append(rights, p)
}

// losses notes what denials take that the rules allow.
func (f *flattener) losses(s Subject, all []claim, denied []string, releases bool) error {
	named := s
	named.ClientID = s.Identity
	for _, filter := range denied {
		if filter == f.bus.hub {
			continue // is said of all
		}
		for i, a := range all {
			if !a.rule.Allow || !topic.Overlap(filter, a.filter) {
				continue
			}
			for _, verb := range []Verb{Publish, Subscribe} {
				before := func(d claim) bool {
					return !d.wide && !d.rule.Allow && d.rule.Verbs&verb != 0 && topic.Covers(d.filter, filter)
				}
				if a.rule.Verbs&verb == 0 || slices.ContainsFunc(all[:i], before) {
					continue // it was denied anyway
				}
				if verb == Publish && a.filter == f.bus.hub && !releases {
					continue
				}
				if verb == Publish && topic.Match(filter, f.bus.stop) && f.bus.policy.Rights(named).May(Publish, f.bus.stop) {
					return fmt.Errorf("%s could not engage the emergency stop with this engine: what denies %s there denies to publish on it as well; "+
						"change that rule, or set broker.engine to embedded", s.Identity, filter)
				}
				f.flat.Lost = append(f.flat.Lost, fmt.Sprintf("%s: %s %s, as far as it is in %s, which is denied", s.Identity, verb, a.rule.Filter, filter))
			}
		}
	}
	return nil
}
