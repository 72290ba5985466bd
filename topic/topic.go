// Package topic knows every topic of a mower: what it carries, its quality of service, whether it is
// retained, how often it may be sent, and which filters match it.
//
// A [Registry] holds the definitions under one namespace. Everywhere a topic or filter is named it may be
// relative to the namespace ("sensors/gps/data") or full ("lawnberry/sensors/gps/data"); [Registry.Resolve]
// turns either into what goes over MQTT. The rules of MQTT itself ([Match], [CheckName], [CheckFilter],
// [SplitShared]) are plain functions that know no namespace.
package topic

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultNamespace is the first level of every topic of the bus unless configured otherwise.
const DefaultNamespace = "lawnberry"

// Class says how the client treats a topic when a bound is reached.
type Class uint8

const (
	Sensor  Class = iota // readings: of no use when old; the oldest is dropped first
	State                // the latest value per topic is what counts
	Command              // commands and responses: refused rather than dropped
	Event                // events and logs
	Safety               // never limited, never dropped, always first
)

// String returns the class in lower case: "sensor", "state", "command", "event" or "safety".
func (c Class) String() string {
	switch c {
	case Sensor:
		return "sensor"
	case State:
		return "state"
	case Command:
		return "command"
	case Event:
		return "event"
	case Safety:
		return "safety"
	}
	return fmt.Sprintf("Class(%d)", uint8(c))
}

// MarshalText returns the class as String does.
func (c Class) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// A Definition describes one topic pattern.
type Definition struct {
	Pattern     string // relative to the namespace; + and # as in a topic filter
	Type        string // sensor_data, status, commands, ... (the second column of the wire format's table)
	Description string
	QoS         byte // recommended: 0, 1 or 2
	Retain      bool
	Rate        int // messages per minute per concrete topic; 0 is unlimited
	Class       Class
	// StaleAfter is how old a last value may be until a reader should take it for old: its publisher would have sent another by then. 0
	// is never, for what is published only now and then.
	StaleAfter time.Duration

	// What follows is for people and for documents made from the registry: nothing is checked against it.

	Address   string // Pattern with names in place of its wildcards: sensors/{sensor}/data; "" is Pattern as it is
	Publisher string // who publishes there, and for whom if not for everybody
	Message   string // message_type of what is published there, such as sensor_data; "" is any
	Units     string // of the numbers in what is published there: "voltage V, current A"; "" has none
}

// A Registry resolves and describes topics. It may be used concurrently; lookups take no lock.
// Its zero value is of no use: New makes one.
type Registry struct {
	namespace string // "lawnberry"
	prefix    string // "lawnberry/"

	mu    sync.Mutex // held by Register, which replaces table
	table atomic.Pointer[table]
}

// A table is immutable once published.
type table struct {
	defs []Definition   // in registration order
	at   map[string]int // pattern to its index in defs
	root *node
}

// A node is one level of the patterns. It is immutable once published.
type node struct {
	def     *Definition      // of the pattern that ends here
	literal map[string]*node // by level
	plus    *node
	hash    *Definition // of the pattern that continues with #
}

// New returns a registry of the standard topics under namespace ("" is [DefaultNamespace]). The namespace may
// have several levels ("farm/mower1") and may be written with a slash at its end. The error is an *[Error].
func New(namespace string) (*Registry, error) {
	if namespace == "" {
		namespace = DefaultNamespace
	}
	ns := strings.TrimSuffix(namespace, "/")
	if err := checkNamespace(ns); err != nil {
		return nil, err
	}
	r := &Registry{namespace: ns, prefix: ns + "/"}
	r.table.Store(&table{root: &node{}})
	for _, d := range standard() {
		if err := r.Register(d); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func checkNamespace(ns string) error {
	fail := func(rule string) error { return &Error{What: "namespace", Topic: ns, Rule: rule} }
	if err := CheckName(ns); err != nil {
		return fail(err.(*Error).Rule)
	}
	switch {
	case ns[0] == '$':
		return fail("must not begin with $, which belongs to the broker")
	case strings.HasPrefix(ns, absolute):
		return fail("must not begin with " + absolute)
	case slices.Contains(strings.Split(ns, "/"), ""):
		return fail("must not have an empty level")
	case len(ns) > maxNamespace:
		return fail(fmt.Sprintf("is %d bytes long: the limit is %d", len(ns), maxNamespace))
	}
	return nil
}

const maxNamespace = 1024 // bytes; leaves room for the topics below it

// Namespace returns the namespace without a trailing slash.
func (r *Registry) Namespace() string { return r.namespace }

// Register adds a definition, or replaces the one with the same pattern, which keeps its place in All. The pattern
// may be full; it is kept relative. Whatever lies below safety/ is of class Safety, whichever class d names.
//
// The error is an *[Error] and names the rule that d breaks. Register may be called concurrently with everything else.
func (r *Registry) Register(d Definition) error {
	pattern, err := r.checkPattern(d)
	if err != nil {
		return err
	}
	d.Pattern = pattern
	if pattern == "safety" || strings.HasPrefix(pattern, "safety/") {
		d.Class = Safety
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.table.Load()
	next := &table{defs: slices.Clone(old.defs), at: old.at, root: old.root.with(pattern, &d)}
	if i, ok := old.at[pattern]; ok {
		next.defs[i] = d
	} else {
		next.at = make(map[string]int, len(old.at)+1)
		maps.Copy(next.at, old.at)
		next.at[pattern] = len(next.defs)
		next.defs = append(next.defs, d)
	}
	r.table.Store(next)
	return nil
}

// checkPattern returns d's pattern relative to the namespace.
func (r *Registry) checkPattern(d Definition) (string, error) {
	fail := func(rule string) (string, error) {
		return "", &Error{What: "definition of", Topic: d.Pattern, Rule: rule}
	}
	switch {
	case strings.HasPrefix(d.Pattern, absolute):
		return fail("must lie inside the namespace " + r.namespace)
	case strings.HasPrefix(d.Pattern, "$"):
		return fail("must not begin with $, which belongs to the broker")
	case d.Pattern == r.namespace || d.Pattern == r.prefix:
		return fail("must name a level below the namespace " + r.namespace)
	}
	full, err := r.Resolve(d.Pattern)
	if err != nil {
		return fail(err.(*Error).Rule)
	}
	switch {
	case d.QoS > 2:
		return fail(fmt.Sprintf("has QoS %d: must be 0, 1 or 2", d.QoS))
	case d.Rate < 0:
		return fail(fmt.Sprintf("has a rate of %d messages per minute: must be 0 (unlimited) or more", d.Rate))
	case d.StaleAfter < 0:
		return fail(fmt.Sprintf("is stale after %v: must be 0 (never) or more", d.StaleAfter))
	case d.Class > Safety:
		return fail(fmt.Sprintf("has the unknown class %d", uint8(d.Class)))
	}
	return full[len(r.prefix):], nil
}

// with returns a copy of n in which pattern has the definition d. It copies only the nodes on the way.
func (n *node) with(pattern string, d *Definition) *node {
	c := &node{}
	if n != nil {
		*c = *n
	}
	level, rest, more := strings.Cut(pattern, "/")
	if level == "#" {
		c.hash = d
		return c
	}
	var child *node
	if level == "+" {
		child = c.plus
	} else {
		child = c.literal[level]
	}
	if more {
		child = child.with(rest, d)
	} else {
		last := &node{}
		if child != nil {
			*last = *child
		}
		last.def = d
		child = last
	}
	if level == "+" {
		c.plus = child
		return c
	}
	literal := make(map[string]*node, len(c.literal)+1)
	maps.Copy(literal, c.literal)
	literal[level] = child
	c.literal = literal
	return c
}

// Lookup returns the definition for a concrete topic, relative or full. The most specific pattern wins: compared
// level by level from the left, a name is more specific than +, and + than #. A pattern exactly as it was registered
// finds its own definition.
//
// It does not allocate and takes no lock.
func (r *Registry) Lookup(topic string) (Definition, bool) {
	t := r.table.Load()
	rel, outside := topic, false
	if after, ok := strings.CutPrefix(rel, absolute); ok {
		rel, outside = after, true
	}
	switch {
	case strings.HasPrefix(rel, r.prefix):
		rel = rel[len(r.prefix):]
	case rel == r.namespace: // "lawnberry/#" matches "lawnberry"
		if t.root.hash != nil {
			return *t.root.hash, true
		}
		return Definition{}, false
	case outside || rel == "" || rel[0] == '$':
		return Definition{}, false
	}
	if d := t.root.find(rel); d != nil {
		return *d, true
	}
	return Definition{}, false
}

func (n *node) find(rel string) *Definition {
	level, rest, more := cutLevel(rel)
	if level == "#" {
		return n.hash
	}
	if c := n.literal[level]; c != nil {
		if d := c.end(rest, more); d != nil {
			return d
		}
	}
	if n.plus != nil {
		if d := n.plus.end(rest, more); d != nil {
			return d
		}
	}
	return n.hash
}

func (n *node) end(rest string, more bool) *Definition {
	if more {
		return n.find(rest)
	}
	if n.def != nil {
		return n.def
	}
	return n.hash // "a/#" matches "a" [MQTT-4.7.1-2]
}

// All yields the definitions in registration order, as they were when the iteration began.
func (r *Registry) All() iter.Seq[Definition] {
	return func(yield func(Definition) bool) {
		for _, d := range r.table.Load().defs {
			if !yield(d) {
				return
			}
		}
	}
}
