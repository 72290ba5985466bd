package fleet

import (
	"errors"
	"fmt"
	"strings"

	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/topic"
)

// A Filter says which topics go up, and as what.
type Filter struct {
	Filter string // relative to the namespace
	Class  fleet.Class
	// Rate is how many messages a minute of each topic go up at most, of telemetry and state: of those that come faster the latest value counts,
	// and the history of telemetry has as many. 0 is all of them. Events and alerts have no rate.
	Rate int
}

// maxRate is of a filter, messages per minute.
const maxRate = 60_000

// DefaultFilters returns what goes up unless something else is said.
func DefaultFilters() []Filter {
	return []Filter{
		{"safety/emergency_stop", fleet.Alert, 0},
		{"safety/alerts/+", fleet.Alert, 0},
		{"weather/alerts", fleet.Alert, 0},
		{"system/events/+", fleet.Event, 0},
		{"system/services/+/status", fleet.State, 0},
		{"system/health", fleet.State, 0},
		{"navigation/status", fleet.State, 0},
		{"navigation/position", fleet.Telemetry, 60},
		{"power/battery", fleet.Telemetry, 60},
	}
}

// Check returns what is wrong with f. Commands and responses do not go up, since they are between two programs of the mower, nor does what is
// outside its namespace.
func (f Filter) Check() error {
	if strings.HasPrefix(f.Filter, "$") || strings.HasPrefix(f.Filter, topic.Absolute("")) {
		return errors.New("only topics of the mower's namespace go up: name it without the namespace, such as power/battery")
	}
	if err := topic.CheckFilter(f.Filter); err != nil {
		return err
	}
	if _, err := fleet.ParseClass(string(f.Class)); err != nil {
		return fmt.Errorf("class %w", err)
	}
	for _, never := range neverUp() {
		if topic.Overlap(f.Filter, never) {
			return fmt.Errorf("it matches topics of %s, which do not go up: name what is to go up, such as power/# or system/events/+", never)
		}
	}
	if f.Rate < 0 || f.Rate > maxRate {
		return fmt.Errorf("rate %d does not fit, want 0 to %d messages per minute", f.Rate, maxRate)
	}
	if f.Rate > 0 && (f.Class == fleet.Event || f.Class == fleet.Alert) {
		return fmt.Errorf("the class %s has no rate: every message goes up", f.Class)
	}
	return nil
}

// neverUp are topics that do not go up: what is between two programs of the mower, and names that the uplink's own records have.
func neverUp() []string { return []string{"commands/#", "responses/#", "fleet/#"} }

// A selection finds the filter of a topic.
type selection struct{ filters []Filter }

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

// moreSpecific compares two filters that match the same topic.
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
