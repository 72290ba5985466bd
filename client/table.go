package client

import (
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/lawnberry/lawnberry/topic"
)

// A table knows the handlers of this client and which filters the broker holds for them. Client.mu guards it.
type table struct {
	handlers []*Subscription  // in the order of Subscribe; never changed in place
	version  uint64           // of handlers
	held     map[string]*held // by filter
	stale    map[string]bool  // filters that the broker may still hold in the session and nobody wants
	noLocal  int              // handlers with WithNoLocal

	// Over MQTT 5 each held filter has subscription identifiers: its place in byIndex, and which SUBSCRIBE it was.
	identifiers bool
	byIndex     []*held // nil where one has gone
	base        uint32  // of the first of byIndex

	// While copies of a message may come for reasons that cannot be told apart, the latest message ids are remembered.
	resumed bool // the session was made by a process before this one
	merging int  // filters that replace others and are not confirmed
	recent  [256]recentID
	next    int // of recent
}

type recentID struct {
	id, topic string
	foreign   bool
}

// A held filter is one that the broker has, or shall have, a subscription for.
type held struct {
	filter     string // as in SUBSCRIBE
	index      int
	generation uint8
	fresh      map[uint8]*Subscription // by generation: who gets the retained messages; nil is all
	subs       []*Subscription         // its handlers; never changed in place
	replaces   []*held                 // without identifiers: what the broker need not hold once it holds this
	confirmed  bool                    // the broker has it
}

const generationBits = 8

// reset makes a table of what the handlers need, for a broker that holds nothing.
func (t *table) reset(identifiers bool) {
	t.held = make(map[string]*held)
	t.stale = make(map[string]bool)
	t.identifiers, t.byIndex, t.base = identifiers, nil, 1
	t.resumed, t.merging = false, 0
	for _, s := range t.handlers {
		s.seen = nil
		h := t.hold(s)
		for _, r := range h.replaces {
			t.drop(r)
		}
		t.merged(h)
		h.fresh[h.generation] = nil
	}
}

// resume notes that the broker's session is older than this process. Its subscriptions carry identifiers that must
// not be mistaken for ours.
func (t *table) resume() {
	t.resumed = true
	t.base = 1 + rand.Uint32N(1<<19)
}

// identified returns the filter that a subscription identifier belongs to, or nil.
func (t *table) identified(id uint32) (h *held, generation uint8) {
	i := id>>generationBits - t.base
	if !t.identifiers || int64(i) >= int64(len(t.byIndex)) {
		return nil, 0
	}
	return t.byIndex[i], uint8(id)
}

func (t *table) identifier(h *held) uint32 {
	return (t.base+uint32(h.index))<<generationBits | uint32(h.generation)
}

// add registers s.
func (t *table) add(s *Subscription) *held {
	t.handlers = append(t.handlers[:len(t.handlers):len(t.handlers)], s)
	t.version++
	if s.noLocal {
		t.noLocal++
	}
	return t.hold(s)
}

// hold finds or makes the filter that the broker has to hold for s, and gives it a new generation, of which s gets the
// retained messages.
func (t *table) hold(s *Subscription) *held {
	filter, replaced := s.full, []*held(nil)
	if !t.identifiers && !s.shared {
		filter, replaced = t.disjoint(filter)
	}
	h := t.held[filter]
	if h == nil {
		h = &held{filter: filter, fresh: make(map[uint8]*Subscription), generation: 255}
		t.held[filter] = h
		t.index(h)
		delete(t.stale, filter)
	}
	h.subs = append(h.subs[:len(h.subs):len(h.subs)], s)
	for _, r := range replaced {
		for _, old := range r.subs {
			if !slices.Contains(h.subs, old) {
				h.subs = append(h.subs, old)
			}
		}
		if len(h.replaces) == 0 {
			t.merging++
		}
		if !slices.Contains(h.replaces, r) {
			h.replaces = append(h.replaces, r)
		}
	}
	h.next(s)
	return h
}

// next gives h a new generation, of which s gets the retained messages.
func (h *held) next(s *Subscription) {
	h.generation++
	h.fresh[h.generation] = s
}

// index finds a place for h. Places are reused late, since messages for the former filter may still be on their way.
func (t *table) index(h *held) {
	const enough = 4096
	h.index = len(t.byIndex)
	if h.index >= enough {
		if i := slices.Index(t.byIndex, nil); i >= 0 {
			h.index = i
			t.byIndex[i] = h
			return
		}
	}
	t.byIndex = append(t.byIndex, h)
}

// merged notes that h has taken the place of what it replaces, and returns that.
func (t *table) merged(h *held) []*held {
	replaced := h.replaces
	if len(replaced) > 0 {
		t.merging--
		h.replaces = nil
	}
	return replaced
}

// find returns the held filter that serves s.
func (t *table) find(s *Subscription) *held {
	if h := t.held[s.full]; h != nil && slices.Contains(h.subs, s) {
		return h
	}
	for _, h := range t.held {
		if len(h.replaces) == 0 && slices.Contains(h.subs, s) {
			return h
		}
	}
	return nil
}

// disjoint widens filter until it overlaps with no other held filter, other than those that it replaces.
func (t *table) disjoint(filter string) (wide string, replaced []*held) {
	for again := true; again; {
		again = false
		for f := range t.held {
			if f != filter && !strings.HasPrefix(f, "$share/") && topic.Overlap(f, filter) {
				if wider := cover(f, filter); wider != filter {
					filter, again = wider, true
				}
			}
		}
	}
	for f, h := range t.held {
		if f != filter && !strings.HasPrefix(f, "$share/") && topic.Overlap(f, filter) {
			replaced = append(replaced, h)
		}
	}
	return filter, replaced
}

// drop forgets a filter that the broker does not hold any more.
func (t *table) drop(h *held) {
	if t.held[h.filter] == h {
		delete(t.held, h.filter)
	}
	if h.index < len(t.byIndex) && t.byIndex[h.index] == h {
		t.byIndex[h.index] = nil
	}
}

// remove takes s out. It returns the filters that nobody needs now.
func (t *table) remove(s *Subscription) (unneeded []*held) {
	i := slices.Index(t.handlers, s)
	if i < 0 {
		return nil
	}
	t.handlers = slices.Delete(slices.Clone(t.handlers), i, i+1)
	t.version++
	if s.noLocal {
		t.noLocal--
	}
	for _, h := range t.held {
		j := slices.Index(h.subs, s)
		if j < 0 {
			continue
		}
		h.subs = slices.Delete(slices.Clone(h.subs), j, j+1)
		for g, owner := range h.fresh {
			if owner == s {
				delete(h.fresh, g)
			}
		}
		if len(h.subs) == 0 {
			unneeded = append(unneeded, h)
		}
	}
	return unneeded
}

// matching returns the handlers whose filters match n, from n's cache if the table has not changed.
func (t *table) matching(n *name) []*Subscription {
	if n.version == t.version && n.version != 0 {
		return n.subs
	}
	n.subs, n.version = nil, t.version
	for _, s := range t.handlers {
		if topic.Match(s.match, n.full) {
			n.subs = append(n.subs, s)
		}
	}
	return n.subs[:len(n.subs):len(n.subs)]
}

// repeated reports whether a message is a copy of one received lately, and remembers it. Filters of a former process
// (foreign) may overlap with ours; without identifiers all look the same.
func (t *table) repeated(id string, n *name, foreign bool) bool {
	joining := !t.identifiers && (t.merging > 0 || len(t.stale) > 0)
	if id == "" || !t.resumed && !joining {
		return false
	}
	for i := range t.recent {
		if r := &t.recent[i]; r.id == id && r.topic == n.full && (!t.identifiers || r.foreign != foreign) {
			return true
		}
	}
	t.recent[t.next] = recentID{id, n.full, foreign}
	t.next = (t.next + 1) % len(t.recent)
	return false
}

// qos is the highest that a handler of h asks for.
func (h *held) qos() byte {
	var q byte
	for _, s := range h.subs {
		q = max(q, s.maxQoS)
	}
	return q
}

// noLocal reports whether no handler of h wants this client's own messages.
func (h *held) noLocal() bool {
	for _, s := range h.subs {
		if !s.noLocal {
			return false
		}
	}
	return len(h.subs) > 0
}

// asPublished reports whether every handler of h wants to know of live messages whether they were published as retained ones.
func (h *held) asPublished() bool {
	for _, s := range h.subs {
		if !s.published {
			return false
		}
	}
	return len(h.subs) > 0
}
