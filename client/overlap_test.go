package client

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/brokertest"
	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

// Every handler gets each message once, whatever overlaps, and retained ones when it subscribes.
func TestOverlappingFilters(t *testing.T) {
	modes(t, func(t *testing.T, b brokertest.Broker, o Options) {
		c := connect(t, o)
		publisher := connect(t, Options{URL: b.URL()})
		publish(t, publisher, "a/1/c", "retained", WithRetain(true))
		filters := []string{"a/1/c", "a/+/c", "a/1/+", "a/#", "a/1/c", "+/1/#", "#", "b", "a/1/c/#"}
		var ks []*collector
		var subs []*Subscription
		for _, f := range filters {
			k := newCollector()
			ks = append(ks, k)
			subs = append(subs, subscribe(t, c, f, k.handle))
			k.settle(t, c)
		}
		for _, q := range []byte{0, 1, 2} {
			publish(t, publisher, "a/1/c", "live"+strconv.Itoa(int(q)), WithQoS(q))
			publish(t, publisher, "a/2/c", "other"+strconv.Itoa(int(q)), WithQoS(q))
		}
		for i, k := range ks {
			matches := func(n string) bool { return topic.Match("lawnberry/"+filters[i], "lawnberry/"+n) }
			var wanted []string
			if matches("a/1/c") {
				wanted = append(wanted, "retained")
			}
			for q := range 3 {
				if matches("a/1/c") {
					wanted = append(wanted, "live"+strconv.Itoa(q))
				}
				if matches("a/2/c") {
					wanted = append(wanted, "other"+strconv.Itoa(q))
				}
			}
			k.wait(t, len(wanted))
			got := k.settle(t, c)
			// QoS 0, 1 and 2 may overtake each other.
			slices.Sort(got)
			slices.Sort(wanted)
			if !slices.Equal(got, wanted) {
				t.Errorf("%s (handler %d): got %q, want %q", filters[i], i, got, wanted)
			}
		}
		// Taking handlers away leaves the others alone.
		for i, s := range subs[:len(subs)-2] {
			if err := s.Unsubscribe(testContext(t)); err != nil {
				t.Fatal(err)
			}
			for j := i + 1; j < len(subs); j++ {
				ks[j].mu.Lock()
				ks[j].got = nil
				ks[j].mu.Unlock()
			}
			ks[i].mu.Lock()
			ks[i].got = nil
			ks[i].mu.Unlock()
			publish(t, publisher, "a/1/c", "after", WithQoS(1))
			for j := i + 1; j < len(subs); j++ {
				if filters[j] != "b" {
					ks[j].wait(t, 1)
				}
			}
			if got := ks[i].settle(t, c); len(got) != 0 {
				t.Errorf("handler %d got %q after Unsubscribe", i, got)
			}
		}
	})
}

// copier is a broker of MQTT 3.1.1 that sends a copy of a message for each filter that matches, as it may
// [MQTT-3.3.5-1].
func copier(_ int, s *script) {
	hello, ok := s.next().(*packet.Connect)
	if !ok {
		return
	}
	if hello.Version == packet.V5 {
		s.version = packet.V311
		s.send(&packet.Connack{Code: packet.UnsupportedVersion})
		return
	}
	s.send(&packet.Connack{})
	var filters []string
	kept := &packet.Publish{Topic: []byte("lawnberry/a/b/c"), Payload: []byte("retained"), Retain: true}
	copies := func(id string) {
		for _, f := range filters {
			if topic.Match(f, "lawnberry/a/b/c") {
				s.send(&packet.Publish{Topic: []byte("lawnberry/a/b/c"), Payload: fmt.Appendf(nil,
					`{"metadata":{"timestamp":%f,"message_id":%q,"sender":"s","message_type":"event","priority":1},"payload":{}}`, message.Seconds(time.Now()), id)})
			}
		}
	}
	for {
		switch p := s.next().(type) {
		case nil:
			return
		case *packet.Subscribe:
			f := string(p.Subscriptions[0].Filter)
			if !slices.Contains(filters, f) {
				filters = append(filters, f)
			}
			s.send(&packet.Suback{ID: p.ID, Codes: []packet.Code{packet.GrantedQoS2}})
			if topic.Match(f, string(kept.Topic)) {
				s.send(kept)
			}
			copies(fmt.Sprint("after ", p.ID)) // before the client unsubscribes what this filter replaces
		case *packet.Unsubscribe:
			filters = slices.DeleteFunc(filters, func(f string) bool { return f == string(p.Filters[0]) })
			s.send(&packet.Unsuback{ID: p.ID})
		case *packet.Publish:
			if p.QoS == 1 {
				s.send(&packet.Ack{Kind: packet.PUBACK, ID: p.ID})
			}
			for _, f := range filters {
				if topic.Match(f, string(p.Topic)) {
					s.send(&packet.Publish{Topic: p.Topic, Payload: p.Payload})
				}
			}
		}
	}
}

// Over MQTT 3.1.1 the copies of a message cannot be told apart: there must be none.
func TestCopiesOverV311(t *testing.T) {
	c := connect(t, Options{Dial: scripted(t, copier)})
	filters := []string{"a/b/c", "a/+/c", "a/b/+", "a/#", "a/b/c", "x/+/z", "x/y/+", "+/b/c"}
	var ks []*collector
	for _, f := range filters {
		k := newCollector()
		ks = append(ks, k)
		subscribe(t, c, f, k.handle)
	}
	eventually(t, "the filters are joined", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.table.merging == 0 && len(c.table.stale) == 0
	})
	for i := range 3 {
		publish(t, c, "a/b/c", strconv.Itoa(i), WithQoS(0))
		publish(t, c, "x/y/z", strconv.Itoa(i), WithQoS(1))
	}
	for i, k := range ks {
		wanted := []string{"0", "1", "2"}
		if topic.Match(filters[i], "a/b/c") {
			wanted = append([]string{"retained"}, wanted...)
		}
		k.settle(t, c)
		got, ids := []string{}, make(map[string]bool)
		for _, d := range k.all() {
			if d.Message.Raw {
				got = append(got, string(d.Message.Payload))
			} else if id := d.Message.Metadata.ID; ids[id] {
				t.Errorf("%s (handler %d): %s came twice while filters were joined", filters[i], i, id)
			} else {
				ids[id] = true
			}
		}
		if !slices.Equal(got, wanted) {
			t.Errorf("%s (handler %d): got %q, want %q", filters[i], i, got, wanted)
		}
		if topic.Match(filters[i], "a/b/c") != (len(ids) > 0) {
			t.Errorf("%s (handler %d): %v", filters[i], i, ids)
		}
	}
}

func TestOverlap(t *testing.T) {
	for _, tt := range []struct{ a, b, cover string }{ // cover "" is no overlap
		{"a", "a", "a"},
		{"a", "b", ""},
		{"a", "+", "+"},
		{"a", "a/b", ""},
		{"a", "a/#", "a/#"},
		{"a/#", "a/#", "a/#"},
		{"a/b/c", "a/#", "a/#"},
		{"a/+/c", "a/b/+", "a/+/+"},
		{"+/b", "a/#", "+/#"},
		{"a/+", "+/b", "+/+"},
		{"a/+/c", "a/b/d", ""},
		{"a/+", "a/+/#", "a/+/#"},
		{"+", "#", "#"},
		{"$SYS/#", "#", ""},
		{"$SYS/#", "+/a", ""},
		{"$SYS/#", "$SYS/a", "$SYS/#"},
		{"a//b", "a/+/b", "a/+/b"},
		{"a/", "a/+", "a/+"},
		{"a/", "a", ""},
	} {
		for _, swap := range []bool{false, true} {
			a, b := tt.a, tt.b
			if swap {
				a, b = b, a
			}
			if got := topic.Overlap(a, b); got != (tt.cover != "") {
				t.Errorf("overlap(%q, %q) = %v", a, b, got)
			} else if got {
				if c := cover(a, b); c != tt.cover {
					t.Errorf("cover(%q, %q) = %q, want %q", a, b, c, tt.cover)
				}
			}
		}
	}
	// Against an oracle: all filters and topics of up to three levels of two names.
	var filters, names []string
	var build func(prefix []string)
	build = func(prefix []string) {
		if len(prefix) > 0 {
			f := strings.Join(prefix, "/")
			if topic.CheckFilter(f) == nil {
				filters = append(filters, f)
			}
			if topic.CheckName(f) == nil {
				names = append(names, f)
			}
		}
		if len(prefix) < 4 {
			for _, l := range []string{"a", "b", "+", "#"} {
				build(append(prefix[:len(prefix):len(prefix)], l))
			}
		}
	}
	build(nil)
	matched := make(map[string][]int)
	for _, f := range filters {
		for i, n := range names {
			if topic.Match(f, n) {
				matched[f] = append(matched[f], i)
			}
		}
	}
	for _, a := range filters {
		for _, b := range filters {
			both := false
			for _, i := range matched[a] {
				if _, found := slices.BinarySearch(matched[b], i); found {
					both = true
					break
				}
			}
			if both && !topic.Overlap(a, b) {
				t.Fatalf("overlap(%q, %q) misses a topic", a, b)
			}
			if topic.Overlap(a, b) {
				c := cover(a, b)
				for _, i := range append(slices.Clone(matched[a]), matched[b]...) {
					if !topic.Match(c, names[i]) {
						t.Fatalf("cover(%q, %q) = %q does not match %q", a, b, c, names[i])
					}
				}
			}
		}
	}
}
