package fleet

import (
	"fmt"
	"slices"
	"strings"
)

// A Class says what becomes of a topic's messages on their way to the fleet.
type Class string

const (
	// State is a topic whose latest value counts: it goes to the latest values, conflated, and has no history.
	State Class = "state"
	// Telemetry goes to the latest values, and to the history in batches; while the engine is away the oldest are dropped first.
	Telemetry Class = "telemetry"
	// Event goes to the history, each message on its own, and is on the disk before the bus has its acknowledgement.
	Event Class = "event"
	// Alert is an event that is also among the latest values, and is dropped last.
	Alert Class = "alert"
)

// Classes returns all classes, those that are dropped first first.
func Classes() []Class { return []Class{Telemetry, State, Event, Alert} }

// ParseClass returns the class of that name.
func ParseClass(name string) (Class, error) {
	if c := Class(strings.ToLower(name)); slices.Contains(Classes(), c) {
		return c, nil
	}
	return "", fmt.Errorf("%q is unknown, want state, telemetry, event or alert", name)
}

// Latest reports whether the latest value of the class's topics is kept at the engine.
func (c Class) Latest() bool { return c != Event }

// History reports whether all messages of the class's topics are.
func (c Class) History() bool { return c != State }
