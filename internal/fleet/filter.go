package fleet

import (
	"errors"
	"fmt"
	"strings"

	"github.com/lawnberry/lawnberry/topic"
)

// A Filter says which topics go up, and as what.
type Filter struct {
	Filter string // relative to the namespace
	Class  Class
	// Rate is how many messages a minute of each topic go up at most, of telemetry and state: of those that come faster the latest value counts,
	// and the history of telemetry has as many. 0 is all of them. Events and alerts have no rate.
	Rate int
}

// MaxRate is of a filter, messages per minute.
const MaxRate = 60_000

// DefaultFilters returns what goes up unless something else is said.
func DefaultFilters() []Filter {
	return []Filter{
		{"safety/emergency_stop", Alert, 0},
		{"safety/alerts/+", Alert, 0},
		{"weather/alerts", Alert, 0},
		{"system/events/+", Event, 0},
		{"system/services/+/status", State, 0},
		{"system/health", State, 0},
		{"navigation/status", State, 0},
		{"navigation/position", Telemetry, 60},
		{"power/battery", Telemetry, 60},
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
	if _, err := ParseClass(string(f.Class)); err != nil {
		return fmt.Errorf("class %w", err)
	}
	for _, never := range NeverUp() {
		if topic.Overlap(f.Filter, never) {
			return fmt.Errorf("it matches topics of %s, which do not go up: name what is to go up, such as power/# or system/events/+", never)
		}
	}
	if f.Rate < 0 || f.Rate > MaxRate {
		return fmt.Errorf("rate %d does not fit, want 0 to %d messages per minute", f.Rate, MaxRate)
	}
	if f.Rate > 0 && (f.Class == Event || f.Class == Alert) {
		return fmt.Errorf("the class %s has no rate: every message goes up", f.Class)
	}
	return nil
}

// NeverUp are topics that do not go up: what is between two programs of the mower, and names that the uplink's own records have.
func NeverUp() []string { return []string{"commands/#", "responses/#", "fleet/#"} }
