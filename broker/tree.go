package broker

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/topic"
)

// A subscription is one session's subscription to one filter. It is replaced, never changed, while in the tree.
type subscription struct {
	session   *session
	filter    string // as subscribed, $share/group/ included
	qos       byte
	noLocal   bool
	asPublish bool // retain as published
	id        uint32
	group     *shareGroup // nil for an ordinary subscription
	since     uint64      // the generation of the tree from which on it is there
	index     int         // in node.subs or group.members; guarded by tree.mu
	own       *delivery   // of this subscription alone, for a group
}

// A shareGroup is the members of one shared subscription: same name, same filter.
type shareGroup struct {
	name    string
	filter  string // $share/name/ included
	node    *node
	members []*subscription // guarded by tree.mu
	next    atomic.Uint32
}

// A node is one level of the subscription tree.
type node struct {
	parent   *node
	level    string
	children map[string]*node
	subs     []*subscription
	groups   []*shareGroup
}

// tree holds all subscriptions.
type tree struct {
	generation atomic.Uint64 // of subs; changes with every change

	mu     sync.RWMutex // guards everything below, and session.subs of every session
	root   node
	count  int
	shared int
	size   int // what they are reckoned to take, bytes
}

// What things are reckoned to take beyond their text, bytes. A filter has a node for each level, however short that is.
const (
	nodeSize         = 320
	subscriptionSize = 256
)

// same reports whether sub and other ask for the same.
func (sub *subscription) same(other *subscription) bool {
	return sub.filter == other.filter && sub.qos == other.qos && sub.noLocal == other.noLocal &&
		sub.asPublish == other.asPublish && sub.id == other.id
}

// has reports whether the session has the same subscription already.
func (t *tree) has(sub *subscription) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	old := sub.session.subs[sub.filter]
	return old != nil && old.same(sub)
}

// add inserts sub, replacing and returning the session's subscription to the same filter.
func (t *tree) add(sub *subscription, groupName, filter string) (old *subscription) {
	t.mu.Lock()
	defer t.mu.Unlock()
	sub.since = t.generation.Load() + 1
	defer t.generation.Store(sub.since)
	s := sub.session
	old = s.subs[sub.filter]
	if old != nil {
		t.detach(old)
	}
	n := t.reach(filter)
	if groupName == "" {
		sub.index = len(n.subs)
		n.subs = append(n.subs, sub)
	} else {
		i := slices.IndexFunc(n.groups, func(g *shareGroup) bool { return g.name == groupName })
		if i < 0 {
			i = len(n.groups)
			n.groups = append(n.groups, &shareGroup{name: groupName, filter: sub.filter, node: n})
		}
		sub.group = n.groups[i]
		sub.own = sub.delivery()
		sub.index = len(sub.group.members)
		sub.group.members = append(sub.group.members, sub)
		t.shared++
	}
	s.subs[sub.filter] = sub
	t.count++
	t.size += subscriptionSize + len(sub.filter)
	return old
}

// store stores the subscriptions of s.
func (t *tree) store(s *session, x *txn) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for filter, sub := range s.subs {
		x.add(op{kind: putSubscription, session: s.number, text: filter, value: appendSubscription(nil, sub, false)})
	}
}

// remove takes away the session's subscription to filter and reports whether there was one.
func (t *tree) remove(s *session, filter string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	sub := s.subs[filter]
	if sub == nil {
		return false
	}
	delete(s.subs, filter)
	n := t.detach(sub)
	t.prune(n)
	t.generation.Add(1)
	return true
}

// removeAll takes away all of the session's subscriptions.
func (t *tree) removeAll(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(s.subs) == 0 {
		return
	}
	for _, sub := range s.subs {
		t.prune(t.detach(sub))
	}
	clear(s.subs)
	t.generation.Add(1)
}

// full reports whether s has limit subscriptions, or all sessions together maxSize bytes of them, and s none to filter.
func (t *tree) full(s *session, filter string, limit, maxSize int) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return (len(s.subs) >= limit || t.size >= maxSize) && s.subs[filter] == nil
}

// reach returns the node of filter, making it when missing. Caller holds mu.
func (t *tree) reach(filter string) *node {
	n := &t.root
	for level := range strings.SplitSeq(filter, "/") {
		child := n.children[level]
		if child == nil {
			child = &node{parent: n, level: level}
			t.size += nodeSize
			if n.children == nil {
				n.children = make(map[string]*node)
			}
			n.children[level] = child
		}
		n = child
	}
	return n
}

// group returns the group of a shared subscription as it is now, nil when it has no members.
func (t *tree) group(filter string) *shareGroup {
	name, inner, _ := topic.SplitShared(filter)
	t.mu.RLock()
	defer t.mu.RUnlock()
	n := &t.root
	for level := range strings.SplitSeq(inner, "/") {
		if n = n.children[level]; n == nil {
			return nil
		}
	}
	if i := slices.IndexFunc(n.groups, func(g *shareGroup) bool { return g.name == name }); i >= 0 {
		return n.groups[i]
	}
	return nil
}

// detach removes sub from its node or group, leaving the node in place. Caller holds mu.
func (t *tree) detach(sub *subscription) *node {
	t.count--
	t.size -= subscriptionSize + len(sub.filter)
	if g := sub.group; g != nil {
		t.shared--
		g.members = swapRemove(g.members, sub.index)
		if len(g.members) == 0 {
			g.node.groups = slices.DeleteFunc(g.node.groups, func(x *shareGroup) bool { return x == g })
		}
		return g.node
	}
	_, filter, _ := topic.SplitShared(sub.filter)
	n := t.reach(filter)
	n.subs = swapRemove(n.subs, sub.index)
	return n
}

func swapRemove(list []*subscription, i int) []*subscription {
	last := len(list) - 1
	list[i] = list[last]
	list[i].index = i
	list[last] = nil
	return list[:last]
}

// prune removes n and its ancestors while they are empty. Caller holds mu.
func (t *tree) prune(n *node) {
	for n.parent != nil && len(n.subs) == 0 && len(n.groups) == 0 && len(n.children) == 0 {
		delete(n.parent.children, n.level)
		t.size -= nodeSize
		n = n.parent
	}
}

// A route is how the messages of one topic from one publisher are distributed, as of one generation of the tree.
type route struct {
	topic      string
	code       packet.Code // why a client may not publish on topic, or Success
	generation uint64
	deliveries []*delivery
	groups     []*shareGroup
}

// A delivery is how one session gets the messages of one topic: the union of its matching subscriptions. Immutable.
type delivery struct {
	session   *session
	qos       byte // the highest granted [MQTT-3.3.4-2]
	asPublish bool
	ids       []uint32    // subscription identifiers of all matching subscriptions [MQTT-3.3.4-3]
	group     *shareGroup // not nil when through a shared subscription
}

func (sub *subscription) delivery() *delivery {
	d := &delivery{session: sub.session, qos: sub.qos, asPublish: sub.asPublish, group: sub.group}
	if sub.id != 0 {
		d.ids = []uint32{sub.id}
	}
	return d
}

// match returns the route for a topic as published by from (nil: the broker itself), and the generation it holds for.
func (t *tree) match(topic string, from *session) (route, uint64) {
	m := matching{from: from}
	t.mu.RLock()
	generation := t.generation.Load()
	m.walk(&t.root, topic, true)
	t.mu.RUnlock()
	return route{topic: topic, code: forbidden(topic), generation: generation, deliveries: m.deliveries, groups: m.groups}, generation
}

// matching collects one route.
type matching struct {
	from       *session
	deliveries []*delivery
	groups     []*shareGroup
	bySession  map[*session]int // index in deliveries, once there are many
}

// walk visits the nodes that match rest, the remaining levels of the topic. Caller holds tree.mu.
func (m *matching) walk(n *node, rest string, first bool) {
	level, tail, more := strings.Cut(rest, "/")
	m.step(n.children[level], tail, more)
	if first && strings.HasPrefix(level, "$") { // wildcards do not match a leading $ [MQTT-4.7.2-1]
		return
	}
	m.step(n.children["+"], tail, more)
	if n := n.children["#"]; n != nil {
		m.take(n)
	}
}

func (m *matching) step(n *node, tail string, more bool) {
	switch {
	case n == nil:
	case more:
		m.walk(n, tail, false)
	default:
		m.take(n)
		if n := n.children["#"]; n != nil { // a/# matches a
			m.take(n)
		}
	}
}

func (m *matching) take(n *node) {
	for _, sub := range n.subs {
		if sub.noLocal && sub.session == m.from {
			continue
		}
		if d := m.find(sub.session); d != nil {
			d.qos = max(d.qos, sub.qos)
			d.asPublish = d.asPublish || sub.asPublish
			if sub.id != 0 {
				d.ids = append(d.ids, sub.id)
			}
			continue
		}
		if m.bySession != nil {
			m.bySession[sub.session] = len(m.deliveries)
		}
		m.deliveries = append(m.deliveries, sub.delivery())
	}
	m.groups = append(m.groups, n.groups...)
}

// find returns the delivery that was already collected for s.
func (m *matching) find(s *session) *delivery {
	if m.bySession == nil && len(m.deliveries) > 16 {
		m.bySession = make(map[*session]int, 4*len(m.deliveries))
		for i, d := range m.deliveries {
			m.bySession[d.session] = i
		}
	}
	if m.bySession != nil {
		if i, ok := m.bySession[s]; ok {
			return m.deliveries[i]
		}
		return nil
	}
	for _, d := range m.deliveries {
		if d.session == s {
			return d
		}
	}
	return nil
}
