package load

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestSequence(t *testing.T) {
	for _, tt := range []struct {
		name                             string
		numbers                          []uint64
		distinct, duplicates, disordered uint64
	}{
		{"in order", []uint64{0, 1, 2, 3}, 4, 0, 0},
		{"the first is missing", []uint64{1, 2, 3}, 3, 0, 0},
		{"one is missing", []uint64{0, 1, 3}, 3, 0, 0},
		{"one comes twice", []uint64{0, 1, 1, 2}, 3, 1, 0},
		{"one comes three times", []uint64{0, 0, 0}, 1, 2, 0},
		{"two are exchanged", []uint64{0, 2, 1, 3}, 4, 0, 1},
		{"one is late, and comes again", []uint64{0, 2, 3, 1, 1}, 4, 1, 1},
		{"backwards", []uint64{3, 2, 1, 0}, 4, 0, 3},
		{"a gap of more than is remembered", []uint64{0, 3 * remembered, 3*remembered - 1}, 3, 0, 1},
		{"older than what is remembered", []uint64{0, 2 * remembered, 1}, 2, 1, 0},
		{"the oldest that is remembered", []uint64{0, remembered, 1}, 3, 0, 1},
		{"the same place, a round later", []uint64{5, remembered + 5, remembered + 5, remembered + 4}, 3, 1, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s sequence
			for _, n := range tt.numbers {
				s.take(n)
			}
			if s.distinct != tt.distinct || s.duplicates != tt.duplicates || s.disordered != tt.disordered {
				t.Errorf("%d distinct, %d duplicates, %d out of order; want %d, %d, %d",
					s.distinct, s.duplicates, s.disordered, tt.distinct, tt.duplicates, tt.disordered)
			}
		})
	}
}

// What the window of fixed size says is what remembering everything says, as long as nothing is later than the window.
func TestSequenceRemembersEnough(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var s sequence
	seen := map[uint64]bool{}
	var highest, duplicates, disordered uint64
	for i := range 200_000 {
		n := uint64(i)/2 + random.Uint64N(remembered/2)
		got, want := s.take(n), fresh
		switch {
		case seen[n]:
			want = again
			duplicates++
		case n < highest:
			want = late
			disordered++
		}
		if got != want {
			t.Fatalf("message %d, number %d: got %d, want %d", i, n, got, want)
		}
		seen[n], highest = true, max(highest, n)
	}
	if s.distinct != uint64(len(seen)) || s.duplicates != duplicates || s.disordered != disordered {
		t.Errorf("%d, %d, %d; want %d, %d, %d", s.distinct, s.duplicates, s.disordered, len(seen), duplicates, disordered)
	}
	if duplicates == 0 || disordered == 0 {
		t.Error("the numbers have neither duplicates nor disorder")
	}
}

func TestStamp(t *testing.T) {
	want := stamp{run: 1<<32 - 1, publisher: 65535, phase: measuring, number: 1<<64 - 1, due: 5 * time.Hour}
	b := filling(MinSize)
	want.put(b)
	if got, ok := readStamp(b); !ok || got != want {
		t.Errorf("%+v %v", got, ok)
	}
	for _, other := range []string{"", "LBb1", `{"metadata": {}, "payload": {"what": "others send"}}`} {
		if s, ok := readStamp([]byte(other)); ok {
			t.Errorf("%q is taken for %+v", other, s)
		}
	}
}
