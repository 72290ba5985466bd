package demo

import (
	"time"
)

// View is what the live view shows at one moment. Everything in it was learned from the bus, by the demo's observer.
type View struct {
	Services []ServiceView // in the order of their ids
	Uptime   time.Duration // since Start began

	Published     uint64  // messages that the services published so far
	Delivered     uint64  // of these, received by the observer
	Lost          uint64  // of these, missing for longer than a second
	RatePerSecond float64 // deliveries per second, over the last two seconds

	// One-way latency, from just before Publish to the observer's receipt.
	P50, P99, Max time.Duration
	RoundTrip     Latency // of the commands sent so far

	CommandsOK, CommandsFailed uint64

	Position Position
	Activity string  // of navigation: mowing, paused, stopped, docking, docked, charging; "" until it has reported
	Battery  float64 // percent, 0 to 100; NaN until power has reported
	Charging bool
	AreaDone float64 // of the lawn, 0 to 1

	Stop StopView

	LastAlert   string    // text of the last alert, "" when there was none
	LastAlertAt time.Time // when it arrived
}

// StopView is the emergency stop, and what became of the motors.
type StopView struct {
	Engaged    bool      // also while it is not known
	Reason, By string    // why it is engaged and who has engaged it; By is "" while it is not known
	Since      time.Time // when it was engaged or released

	Known  bool   // the motors have reported
	Wheels bool   // they turn
	Blade  bool   // it turns
	Driver string // who has control of the motors, "" when nobody has
	Cause  string // why they may not turn, "" when they may

	Engagements uint64        // while the demo ran
	Last        time.Duration // from the publication of the last one that met turning wheels until they stood; 0 before the first
}

// ServiceView is one line of the list of services.
type ServiceView struct {
	ID    string `json:"id"`
	Type  string `json:"type"`
	State string `json:"state"` // a service.State
}

// Position is a place on the lawn: X metres east and Y metres north of its south-west corner.
type Position struct {
	X, Y    float64
	Heading float64 // degrees, 0 to 360, clockwise from north
	Speed   float64 // metres per second, negative when reversing
}

// Latency is the summary of a latency's distribution.
type Latency struct {
	Count         uint64
	P50, P99, Max time.Duration
}

// Summary is the account of a demo, in the form that it is printed in.
type Summary struct {
	// Services are the seven with the worst state that each was seen in between Start and Stop.
	Services  []ServiceView `json:"services"`
	Published uint64        `json:"published"`
	Delivered uint64        `json:"delivered"`
	// Lost is Published minus Delivered once everything in flight has arrived, that is after Stop. Before, what is
	// younger than a second is in neither.
	Lost          uint64      `json:"lost"`
	RatePerSecond float64     `json:"rate_per_s"`
	Latency       LatencyMS   `json:"latency_ms"`
	RoundTrip     LatencyMS   `json:"round_trip_ms"`
	Commands      CommandsRun `json:"commands"`
	// EmergencyStops tells of those that were engaged while the demo ran. They are no fault of it.
	EmergencyStops EmergencyStops `json:"emergency_stops"`
	// Refused counts, within Lost and elsewhere, publications that returned an error; each was logged.
	Refused uint64 `json:"refused,omitempty"`
	// Duplicates counts deliveries of a message that had been delivered already. QoS 1 allows them; they are not in Delivered.
	Duplicates uint64 `json:"duplicates,omitempty"`
}

// LatencyMS is a latency in milliseconds.
type LatencyMS struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// EmergencyStops counts engagements of the emergency stop.
type EmergencyStops struct {
	Engaged uint64 `json:"engaged"`
	// Stopped are those that met turning wheels, and SlowestMS is the longest time from the publication of one of them until the
	// wheels stood, ms. Most of it is braking: 0.2 s from full speed.
	Stopped   uint64  `json:"stopped"`
	SlowestMS float64 `json:"slowest_ms"`
}

// CommandsRun counts the commands that the demo sent, by outcome.
type CommandsRun struct {
	OK     uint64 `json:"ok"`
	Failed uint64 `json:"failed"`
}

// OK reports whether all seven services were healthy throughout, nothing was lost and no command failed.
func (s Summary) OK() bool {
	if len(s.Services) != len(serviceIDs) || s.Lost != 0 || s.Commands.Failed != 0 {
		return false
	}
	for _, v := range s.Services {
		if v.State != "healthy" {
			return false
		}
	}
	return true
}

func (l Latency) milliseconds() LatencyMS {
	ms := func(d time.Duration) float64 { return float64(d.Round(time.Microsecond)) / float64(time.Millisecond) }
	return LatencyMS{P50: ms(l.P50), P99: ms(l.P99), Max: ms(l.Max)}
}
