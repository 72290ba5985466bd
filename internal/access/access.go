// Package access decides who may do what on the bus: rules, the rights of one client that follow from them, and the reason of
// every decision.
//
// The rules are read in their order, and the first that speaks of the client, the verb and the topic decides. When none does, it
// is not allowed. A subscription may be wider than the rights of its client: the broker grants it when there is anything in it
// to be had, and asks of each message before it is delivered.
package access

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/lawnberry/lawnberry/topic"
)

// A Verb is what a client wants to do, or a set of that.
type Verb uint8

// The verbs.
const (
	Publish   Verb = 1 << iota // send messages on topics
	Subscribe                  // receive messages on topics
	Release                    // end an emergency stop, beside publishing on its topic
	All       = Publish | Subscribe | Release
)

var verbNames = []struct {
	verb Verb
	name string
}{{Publish, "publish"}, {Subscribe, "subscribe"}, {Release, "release"}}

// ParseVerb returns the verb of a name: publish, subscribe, release, or all.
func ParseVerb(name string) (Verb, error) {
	if name == "all" {
		return All, nil
	}
	for _, v := range verbNames {
		if v.name == name {
			return v.verb, nil
		}
	}
	return 0, fmt.Errorf("unknown verb %q: want publish, subscribe, release or all", name)
}

func (v Verb) String() string {
	if v == All {
		return "all"
	}
	var names []string
	for _, n := range verbNames {
		if v&n.verb != 0 {
			names = append(names, n.name)
		}
	}
	return strings.Join(names, "+")
}

// A Rule allows or denies something to somebody.
type Rule struct {
	Identity string // whom it is about; "" is everyone that Role does not leave out
	Role     string // whom it is about; "" is every role
	Allow    bool
	Verbs    Verb
	// Filter is the full topic filter that it is about. A level %u or %c, or such a part of one, stands for the client's identity
	// or client id.
	Filter string
	Source string // where it comes from, for people
}

func (r Rule) String() string {
	who := "everyone"
	switch {
	case r.Identity != "" && r.Role != "":
		who = fmt.Sprintf("%s as %s", r.Identity, r.Role)
	case r.Identity != "":
		who = r.Identity
	case r.Role != "":
		who = "role " + r.Role
	}
	word := "deny"
	if r.Allow {
		word = "allow"
	}
	return fmt.Sprintf("%s %s %s %s (%s)", word, who, r.Verbs, r.Filter, r.Source)
}

// A Subject is a client that is let in.
type Subject struct {
	Identity, ClientID string
	Roles              []string
}

// Decision is an answer, and why.
type Decision struct {
	Allowed bool
	Rule    *Rule // that decided, nil when none spoke of it
}

// A Policy is an ordered list of rules. It does not change.
type Policy struct {
	rules []Rule
}

// New returns the policy of rules, of which the first that fits decides.
func New(rules []Rule) (*Policy, error) {
	for i := range rules {
		if err := topic.CheckFilter(rules[i].Filter); err != nil {
			return nil, fmt.Errorf("%s: %w", rules[i].Source, err)
		}
	}
	return &Policy{slices.Clone(rules)}, nil
}

// Rules returns all rules, in their order.
func (p *Policy) Rules() []Rule { return slices.Clone(p.rules) }

// Rights returns what s may do.
func (p *Policy) Rights(s Subject) *Rights {
	r := &Rights{verdicts: make(map[question]bool)}
	for i := range p.rules {
		rule := &p.rules[i]
		if rule.Identity != "" && rule.Identity != s.Identity || rule.Role != "" && !slices.Contains(s.Roles, rule.Role) {
			continue
		}
		if filter, ok := fill(rule, s); ok {
			r.rules = append(r.rules, bound{rule, filter})
		}
	}
	return r
}

// fill puts s in the filter of rule. A name that is no level of a topic gets nothing that is allowed by its name, and
// everything that is denied by it: it could be meant to match more.
func fill(rule *Rule, s Subject) (filter string, ok bool) {
	if !strings.Contains(rule.Filter, "%") {
		return rule.Filter, true
	}
	levels := strings.Split(rule.Filter, "/")
	for i, l := range levels {
		for _, name := range []struct{ mark, value string }{{"%u", s.Identity}, {"%c", s.ClientID}} {
			if !strings.Contains(l, name.mark) {
				continue
			}
			if topic.CheckLevel("name", name.value) != nil || strings.Contains(name.value, "%") || strings.HasPrefix(name.value, "$") {
				if rule.Allow {
					return "", false
				}
				l = "+"
				break
			}
			l = strings.ReplaceAll(l, name.mark, name.value)
		}
		levels[i] = l
	}
	return strings.Join(levels, "/"), true
}

// bound is a rule with the names of one client in its filter.
type bound struct {
	rule   *Rule
	filter string
}

// question is what is asked again and again.
type question struct {
	verb  Verb
	topic string
}

// What is remembered for one client is bounded.
const (
	maxVerdicts = 4096
	maxTopic    = 256 // bytes; what is asked of longer topics is decided each time
)

// Rights is what one client may do. Its methods may be called concurrently.
type Rights struct {
	rules []bound

	mu       sync.RWMutex // guards verdicts
	verdicts map[question]bool
}

// Explain decides on one topic, and says which rule did. verb is a single one.
func (r *Rights) Explain(verb Verb, name string) Decision {
	for _, b := range r.rules {
		if b.rule.Verbs&verb != 0 && topic.Match(b.filter, name) {
			return Decision{b.rule.Allow, b.rule}
		}
	}
	return Decision{}
}

// May reports whether verb, a single one, is allowed on a topic.
func (r *Rights) May(verb Verb, name string) bool {
	if len(name) > maxTopic {
		return r.Explain(verb, name).Allowed
	}
	q := question{verb, name}
	r.mu.RLock()
	allowed, known := r.verdicts[q]
	r.mu.RUnlock()
	if known {
		return allowed
	}
	allowed = r.Explain(verb, name).Allowed
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.verdicts) >= maxVerdicts {
		clear(r.verdicts)
	}
	r.verdicts[q] = allowed
	return allowed
}

// ExplainFilter decides whether there is anything to be had from a subscription to filter, which may be a shared one, and says
// which rule decided. It never refuses where a topic is allowed; where it grants too much, no message is.
func (r *Rights) ExplainFilter(filter string) Decision {
	_, filter, _ = topic.SplitShared(filter)
	for i, b := range r.rules {
		if b.rule.Verbs&Subscribe == 0 || !topic.Overlap(b.filter, filter) {
			continue
		}
		if !b.rule.Allow {
			if topic.Covers(b.filter, filter) {
				return Decision{false, b.rule}
			}
			continue
		}
		hidden := func(before bound) bool {
			return before.rule.Verbs&Subscribe != 0 && !before.rule.Allow && topic.Covers(before.filter, b.filter)
		}
		if !slices.ContainsFunc(r.rules[:i], hidden) {
			return Decision{true, b.rule}
		}
	}
	return Decision{}
}
