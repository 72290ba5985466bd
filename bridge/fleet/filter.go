package fleet

import (
	"slices"
	"strings"

	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/topic"
)

// A selection finds the filter of a topic.
type selection struct{ filters []fleet.Filter }

// of returns the index of the most specific filter that matches a topic: compared level by level from the left, a name is more specific than
// +, and + than #. Of equal ones it is the first.
func (s selection) of(name string) (best int, ok bool) {
	for i, f := range s.filters {
		if topic.Match(f.Filter, name) && (!ok || moreSpecific(f.Filter, s.filters[best].Filter)) {
			best, ok = i, true
		}
	}
	return best, ok
}

// bySpecificity returns the indices of the filters, the more specific one of two that match the same topic first. In that order they are subscribed: what
// comes meanwhile, and what the bus has kept, goes to the first that is there.
func (s selection) bySpecificity() []int {
	order := make([]int, len(s.filters))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int {
		a, b := s.filters[i].Filter, s.filters[j].Filter
		switch {
		case moreSpecific(a, b):
			return -1
		case moreSpecific(b, a):
			return 1
		}
		return 0
	})
	return order
}

// moreSpecific compares two filters that match the same topic; of others it says which comes first in an order of all.
func moreSpecific(a, b string) bool {
	as, bs := strings.Split(a, "/"), strings.Split(b, "/")
	for i := 0; i < len(as) && i < len(bs); i++ {
		if x, y := breadth(as[i]), breadth(bs[i]); x != y {
			return x < y
		}
	}
	return len(as) < len(bs) // a, and a/# that matches it too
}

func breadth(level string) int {
	switch level {
	case "#":
		return 2
	case "+":
		return 1
	}
	return 0
}
