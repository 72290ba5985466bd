package cli

import (
	"slices"
	"testing"
	"time"
)

// Who is silent is judged by the lease that each service announces; a clock that is wrong makes nobody heard.
func TestSilentByLease(t *testing.T) {
	t.Parallel()
	r := newRoll()
	for id, s := range map[string]serviceInfo{
		"usual":       {LastSeen: time.Now().Add(-time.Minute)},
		"usual-dead":  {LastSeen: time.Now().Add(-2 * time.Minute)},
		"future":      {LastSeen: time.Now().Add(2 * time.Minute)},
		"safety-dead": {LastSeen: time.Now().Add(-time.Minute), Lease: 0.5},
		"patient":     {LastSeen: time.Now().Add(-5 * time.Minute), Lease: 600},
		"ended":       {LastSeen: time.Now().Add(-time.Hour), State: "offline"},
		"heard":       {LastSeen: time.Now().Add(-time.Hour)},
	} {
		r.services[id] = s
	}
	r.heard["heard"] = true
	got := r.silent(90 * time.Second)
	slices.Sort(got)
	if want := []string{"future", "safety-dead", "usual-dead"}; !slices.Equal(got, want) {
		t.Errorf("silent are %v, want %v", got, want)
	}
}
