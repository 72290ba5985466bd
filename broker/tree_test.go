package broker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/lawnberry/lawnberry/topic"
)

func newTestSession(id string) *session {
	return &session{id: id, subs: make(map[string]*subscription), inbound: make(map[uint16]inbound)}
}

func subscribeTo(t *tree, s *session, filter string) *subscription {
	sub := &subscription{session: s, filter: filter, qos: 1}
	name, inner, _ := topic.SplitShared(filter)
	t.add(sub, name, inner)
	return sub
}

// receivers returns the ids of the sessions that a message on name goes to, and the names of the shared groups.
func receivers(t *tree, name string) []string {
	r, _ := t.match(name, nil)
	var ids []string
	for _, d := range r.deliveries {
		ids = append(ids, d.session.id)
	}
	for _, g := range r.groups {
		ids = append(ids, "group "+g.name)
	}
	slices.Sort(ids)
	return ids
}

// randomLevels makes a topic or filter of few, short levels, so that matches are frequent.
func randomLevels(r *rand.Rand, levels ...string) string {
	parts := make([]string, 1+r.IntN(4))
	for i := range parts {
		parts[i] = levels[r.IntN(len(levels))]
	}
	return strings.Join(parts, "/")
}

func TestTreeMatchesAsTheFiltersDo(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var tr tree
	sessions := map[string]*session{}
	for round := range 3000 {
		filter := randomLevels(r, "a", "b", "", "+", "$x")
		if r.IntN(3) == 0 {
			filter += "/#"
		} else if r.IntN(10) == 0 {
			filter = "#"
		}
		id := fmt.Sprint("s", r.IntN(20))
		s := sessions[id]
		if s == nil {
			s = newTestSession(id)
			sessions[id] = s
		}
		switch r.IntN(3) {
		case 0, 1:
			subscribeTo(&tr, s, filter)
		case 2:
			_, had := s.subs[filter]
			if got := tr.remove(s, filter); got != had {
				t.Fatalf("remove(%s, %q) = %v, want %v", id, filter, got, had)
			}
		}
		name := randomLevels(r, "a", "b", "", "$x")
		if name == "" {
			continue
		}
		var want []string
		for id, s := range sessions {
			for f := range s.subs {
				if topic.Match(f, name) {
					want = append(want, id)
					break
				}
			}
		}
		slices.Sort(want)
		if got := receivers(&tr, name); !slices.Equal(got, want) {
			t.Fatalf("round %d: %q goes to %v, want %v", round, name, got, want)
		}
	}
	for _, s := range sessions {
		tr.removeAll(s)
	}
	if len(tr.root.children) != 0 || tr.count != 0 {
		t.Fatalf("after all left: %d children at the root, count %d", len(tr.root.children), tr.count)
	}
}

func TestTreeMergesOverlappingSubscriptions(t *testing.T) {
	var tr tree
	s := newTestSession("s")
	for i, f := range []string{"a/+", "a/#", "+/b"} {
		tr.add(&subscription{session: s, filter: f, qos: byte(i), id: uint32(i + 1), asPublish: i == 1}, "", f)
	}
	r, _ := tr.match("a/b", nil)
	if len(r.deliveries) != 1 {
		t.Fatalf("%d deliveries, want 1", len(r.deliveries))
	}
	d := r.deliveries[0]
	slices.Sort(d.ids)
	if d.qos != 2 || !slices.Equal(d.ids, []uint32{1, 2, 3}) || !d.asPublish {
		t.Fatalf("got qos %d, ids %v, retain as published %v", d.qos, d.ids, d.asPublish)
	}
}

func TestTreeNoLocalSkipsOnlyThePublisher(t *testing.T) {
	var tr tree
	a, b := newTestSession("a"), newTestSession("b")
	for _, s := range []*session{a, b} {
		tr.add(&subscription{session: s, filter: "x", noLocal: true}, "", "x")
	}
	r, _ := tr.match("x", a)
	if len(r.deliveries) != 1 || r.deliveries[0].session != b {
		t.Fatalf("got %d deliveries", len(r.deliveries))
	}
}

func TestTreeReplacesASubscription(t *testing.T) {
	var tr tree
	s := newTestSession("s")
	for _, f := range []string{"x/y", "$share/g/x/y"} {
		subscribeTo(&tr, s, f)
		name, inner, _ := topic.SplitShared(f)
		if tr.add(&subscription{session: s, filter: f, qos: 2}, name, inner) == nil {
			t.Errorf("%s: replaced subscription counted as new", f)
		}
	}
	if tr.count != 2 || tr.shared != 1 {
		t.Errorf("count %d, shared %d", tr.count, tr.shared)
	}
	if got := receivers(&tr, "x/y"); !slices.Equal(got, []string{"group g", "s"}) {
		t.Errorf("receivers %v", got)
	}
	tr.removeAll(s)
	if tr.count != 0 || tr.shared != 0 || len(tr.root.children) != 0 {
		t.Errorf("left over: count %d, shared %d, %d children", tr.count, tr.shared, len(tr.root.children))
	}
}

func TestRetainedMatchesAsTheFiltersDo(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var store retained
	names := map[string]bool{}
	for range 3000 {
		name := randomLevels(r, "a", "b", "", "$x")
		if name == "" {
			continue
		}
		if r.IntN(3) > 0 {
			store.set(&message{topic: name, expires: never}, 1000, 1<<20)
			names[name] = true
		} else {
			store.remove(name, nil)
			delete(names, name)
		}
		if store.count != len(names) {
			t.Fatalf("count %d, want %d", store.count, len(names))
		}
		filter := randomLevels(r, "a", "b", "", "+", "$x")
		if r.IntN(2) == 0 {
			filter += "/#"
		}
		var want []string
		for n := range names {
			if topic.Match(filter, n) {
				want = append(want, n)
			}
		}
		slices.Sort(want)
		var got []string
		for _, m := range store.match(nil, filter) {
			got = append(got, m.topic)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Fatalf("%q matches %q, want %q", filter, got, want)
		}
	}
	for n := range names {
		store.remove(n, nil)
	}
	if len(store.root.children) != 0 || store.bytes != 0 {
		t.Fatalf("left over: %d children, %d bytes", len(store.root.children), store.bytes)
	}
}

func TestRetainedLimitAndExpiry(t *testing.T) {
	var store retained
	for i := range 3 {
		if got := store.set(&message{topic: fmt.Sprint("t/", i), expires: never}, 2, 1<<20); got != (i < 2) {
			t.Errorf("message %d stored: %v", i, got)
		}
	}
	if !store.set(&message{topic: "t/0", expires: 100}, 2, 1<<20) {
		t.Error("replacing is refused at the limit")
	}
	if m := store.get("t/0", 99); m == nil {
		t.Error("gone before its expiry")
	}
	if m := store.get("t/0", 100); m != nil {
		t.Error("still there after its expiry")
	}
	for _, m := range store.expired(100) {
		store.remove(m.topic, m)
	}
	if store.count != 1 {
		t.Errorf("count %d after clearing away, want 1", store.count)
	}
}

func BenchmarkMatch(b *testing.B) {
	var tr tree
	for i := range 100_000 {
		s := newTestSession(fmt.Sprint(i))
		subscribeTo(&tr, s, fmt.Sprintf("lawnberry/device%d/+/data", i))
	}
	b.ReportAllocs()
	for b.Loop() {
		if r, _ := tr.match("lawnberry/device4711/gps/data", nil); len(r.deliveries) != 1 {
			b.Fatal("no match")
		}
	}
}
