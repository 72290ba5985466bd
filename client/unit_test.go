package client

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSecret(t *testing.T) {
	o := Options{Username: "mower", Password: "grass"}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "options", o.Password, "all", o.Password)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", o.Password)
	encoded, err := json.Marshal(map[string]any{"p": o.Password, "l": []Secret{o.Password}})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{
		fmt.Sprint(o.Password), fmt.Sprintf("%s %v %+v %#v %q %x %X %d", o.Password, o.Password, o, o, o.Password, o.Password, o.Password, o.Password),
		fmt.Sprint([]Secret{o.Password}, &o.Password, fmt.Errorf("x %w", fmt.Errorf("%v", o.Password))), o.Password.String(), o.Password.GoString(),
		log.String(), string(encoded),
	} {
		if strings.Contains(s, "grass") || strings.Contains(s, "6772617373") || strings.Contains(strings.ToLower(s), fmt.Sprintf("%x", "grass")) {
			t.Errorf("%s shows the secret", s)
		}
	}
	if string(o.Password) != "grass" {
		t.Error("the secret cannot be used")
	}
	if fmt.Sprint(Secret("")) != "" {
		t.Error("no secret is shown as one")
	}
}

// A quantile is within an eighth of the true one.
func TestHistogram(t *testing.T) {
	var h histogram
	if q := h.quantiles(); q != (Quantiles{}) {
		t.Errorf("%+v", q)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	var all []time.Duration
	for range 10_000 {
		d := time.Duration(float64(time.Microsecond) * (1 + rng.ExpFloat64()*float64(int(1)<<rng.IntN(24))))
		all = append(all, d)
		h.record(d)
	}
	slices.Sort(all)
	q := h.quantiles()
	for name, v := range map[string][2]time.Duration{"p50": {q.P50, all[4999]}, "p99": {q.P99, all[9899]}} {
		if ratio := float64(v[0]) / float64(v[1]); ratio < 0.85 || ratio > 1.15 {
			t.Errorf("%s is %v, in truth %v", name, v[0], v[1])
		}
	}
	if q.Count != 10_000 || q.Max != all[len(all)-1] {
		t.Errorf("%+v", q)
	}
	for _, d := range []time.Duration{-time.Second, 0, 1, time.Microsecond, 7999, 8 * time.Microsecond, time.Hour, 100 * 24 * time.Hour, 1<<63 - 1} {
		i := bucket(d)
		if i < 0 || i >= len(h.buckets) {
			t.Fatalf("%v: bucket %d", d, i)
		}
		if i < len(h.buckets)-1 && d > 0 && (upper(i)+time.Microsecond <= d || i > 0 && upper(i-1) >= d.Truncate(time.Microsecond)) {
			t.Errorf("%v: bucket %d is %v to %v", d, i, upper(i-1), upper(i))
		}
	}
}

// Packet identifiers are unique in flight and the least recently used comes next.
func TestPacketIdentifiers(t *testing.T) {
	var s session
	s.init()
	rng := rand.New(rand.NewPCG(3, 4))
	var flying []*publication
	last := make(map[uint16]int)
	for i := range 20_000 {
		if len(flying) < sendMaximum && (len(flying) == 0 || rng.IntN(2) == 0) {
			p := &publication{}
			s.begin(p)
			if p.id == 0 || s.get(p.id) != p {
				t.Fatalf("identifier %d", p.id)
			}
			if before, used := last[p.id]; used && i-before < (sendMaximum-len(flying))/2 {
				t.Fatalf("identifier %d again after %d steps", p.id, i-before)
			}
			flying = append(flying, p)
			continue
		}
		j := rng.IntN(len(flying))
		p := flying[j]
		last[p.id] = i
		id := p.id
		s.end(p)
		if s.get(id) != nil {
			t.Fatal("still there")
		}
		flying = slices.Delete(flying, j, j+1)
	}
	if s.flight.n != len(flying) {
		t.Errorf("%d in flight, want %d", s.flight.n, len(flying))
	}
	seen := make(map[uint16]bool)
	for p := s.flight.head; p != nil; p = p.next {
		if seen[p.id] {
			t.Fatalf("identifier %d twice", p.id)
		}
		seen[p.id] = true
	}
	if s.get(0) != nil || s.get(65535) != nil {
		t.Error("identifiers that cannot be")
	}
}

func TestIdentifiers(t *testing.T) {
	c, err := newClient(Options{})
	if err != nil {
		t.Fatal(err)
	}
	tab := &c.table
	make1 := func(filter string) *Subscription {
		s, err := c.newSubscription(filter, nil)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, resumed := range []bool{false, true} {
		tab.reset(true)
		if resumed {
			tab.resume()
		}
		a := make1("a")
		h := tab.add(a)
		first := tab.identifier(h)
		var others []*Subscription
		for range 300 { // the generations wrap around
			s := make1("a")
			others = append(others, s)
			if tab.add(s) != h {
				t.Fatal("another filter")
			}
		}
		got, generation := tab.identified(tab.identifier(h))
		if got != h || h.fresh[generation] != others[299] || len(h.subs) != 301 {
			t.Errorf("%v", got)
		}
		if got, _ := tab.identified(first); got != h {
			t.Error("the first identifier is not known any more")
		}
		for _, id := range []uint32{0, 1, first + 1<<20, 268_435_455} {
			if got, _ := tab.identified(id); got != nil && got != h && got.filter != "lawnberry/responses/"+c.id {
				t.Errorf("identifier %d is known", id)
			}
		}
		if id := tab.identifier(h); id == 0 || id > 268_435_455 {
			t.Errorf("identifier %d", id)
		}
		for _, s := range append(others, a) {
			if unneeded := tab.remove(s); (len(unneeded) == 1) != (s == a) {
				t.Fatalf("%d unneeded", len(unneeded))
			}
		}
		tab.drop(h)
		if got, _ := tab.identified(first); got != nil {
			t.Error("still known")
		}
	}
}
