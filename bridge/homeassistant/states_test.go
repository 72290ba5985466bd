package homeassistant

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// A topic is sent at once, then once in a gap at most, and only if it has changed or is to be kept from expiring.
func TestStatesDue(t *testing.T) {
	s := newStates(time.Second)
	now := time.Now()
	due := func(after time.Duration, want string, wait time.Duration) {
		t.Helper()
		list, left := s.due(now.Add(after))
		slices.SortFunc(list, func(a, b sending) int { return len(a.topic) - len(b.topic) })
		got := ""
		for _, x := range list {
			got += fmt.Sprintf("%s=%s ", x.topic, x.payload)
		}
		if got != want || left != wait {
			t.Errorf("after %v: got %q and %v, want %q and %v", after, got, left, want, wait)
		}
	}
	ms := time.Millisecond
	due(0, "", 0)
	s.set("a", []byte("1"), 0)
	s.set("bb", []byte("1"), 0)
	due(0, "a=1 bb=1 ", 0)
	due(0, "", 0)
	s.set("a", []byte("1"), 0) // the same
	due(2000*ms, "", 0)
	s.set("a", []byte("2"), 0)
	due(2000*ms, "a=2 ", 0)
	s.set("a", []byte("3"), 0)
	due(2100*ms, "", 900*ms)
	s.set("a", []byte("4"), 0) // the latest counts
	due(2999*ms, "", ms)
	due(3000*ms, "a=4 ", 0)
	s.set("a", []byte("5"), 0)
	s.set("a", []byte("4"), 0) // as it was
	due(5000*ms, "", 0)

	s.unsent("a") // tried again, but not at once
	due(3500*ms, "", 500*ms)
	due(4000*ms, "a=4 ", 0)
	s.again()
	due(4001*ms, "a=4 bb=1 ", 0)

	s.set("bb", []byte("1"), 5*time.Second)
	due(6000*ms, "", 0)
	due(9001*ms, "bb=1 ", 0)
	due(20000*ms, "", 0) // its source has not said so again
	s.set("bb", []byte("1"), 5*time.Second)
	due(20000*ms, "bb=1 ", 0)
	if !s.drop("bb") || s.drop("bb") || len(s.topics()) != 1 {
		t.Error("it is not dropped")
	}
	s.unsent("bb")
	s.again()
	due(30000*ms, "a=4 ", 0)
}

func TestAllowance(t *testing.T) {
	a, now := newAllowance(3, 1), time.Now()
	for i := range 5 {
		if got := a.take(now); got != (i < 3) {
			t.Errorf("the %dth: %v", i+1, got)
		}
	}
	if !a.take(now.Add(time.Second)) || a.take(now.Add(time.Second)) {
		t.Error("after a second there is not one more")
	}
	now, n := now.Add(time.Hour), 0
	for a.take(now) {
		n++
	}
	if n != 3 {
		t.Errorf("after an hour there are %d", n)
	}
}

func TestOrigin(t *testing.T) {
	for _, tt := range []struct {
		o              Origin
		x, y, lat, lon float64
	}{
		{Origin{0, 0}, 111.32, -111.32, -0.001, 0.001},
		{Origin{60, 10}, 111.32, 0, 60, 10.002},
		{Origin{-45, -170}, 0, 1113.2, -44.99, -170},
	} {
		if lat, lon := tt.o.place(tt.x, tt.y); lat != tt.lat || lon != tt.lon {
			t.Errorf("%v, %v of %v is %v, %v, want %v, %v", tt.x, tt.y, tt.o, lat, lon, tt.lat, tt.lon)
		}
	}
}
