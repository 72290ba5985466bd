// Package doctor looks for what is wrong with a mower: in its files, with its broker, and among its services. It changes nothing, but for asking
// the services to announce themselves.
package doctor

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/config"
)

// Severity says how bad a finding is.
type Severity string

// An error has to be repaired, a warning should be looked at, a note is good to know.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
	Note    Severity = "note"
)

// A Finding is something that is not as it should be.
type Finding struct {
	ID       string   `json:"id"` // of the kind
	Severity Severity `json:"severity"`
	Check    string   `json:"check"` // what was looked at, such as "certificates"
	What     string   `json:"what"`
	Why      string   `json:"why"`     // it matters
	Fix      string   `json:"fix"`     // the command, and what else there is to do
	Command  string   `json:"command"` // that repairs it, or shows what to repair; for a shell
}

// Figures are what was measured.
type Figures struct {
	Broker      string             `json:"broker"`                     // its URL; "" when there is none
	MQTT        string             `json:"mqtt,omitempty"`             // version
	RoundTripMS float64            `json:"round_trip_qos0_ms"`         // median
	ExactlyMS   float64            `json:"round_trip_qos2_ms"`         // median, until QoS 2 has come back
	SyncMS      float64            `json:"fsync_ms"`                   // median
	FreeMB      uint64             `json:"free_mb"`                    // on the disk of the data directory
	Services    int                `json:"services"`                   // that answer
	ClocksMS    map[string]float64 `json:"clock_difference_ms"`        // by service: its clock less ours, with the way of the message in it
	Dropped     uint64             `json:"messages_dropped"`           // by the broker
	Waiting     uint64             `json:"messages_waiting,omitempty"` // stored by the broker, retained ones not counted
}

// A Report is the result.
type Report struct {
	OK       bool      `json:"ok"` // no errors
	Findings []Finding `json:"findings"`
	Figures  Figures   `json:"figures"`
	Bus      *Bus      `json:"-"` // what was heard; nil when the broker could not be listened to
}

// Options say what to look at.
type Options struct {
	Loaded  *config.Loaded // of config.Salvage, so that the problems are in it
	Failed  error          // why the configuration file cannot be read; nil when it can
	DataDir string         // "" is not looked at
	Client  client.Options
	// Unknown is why Client cannot be used, and the bus is not looked at; nil when it can.
	Unknown error
	// Own is that Client reaches the broker which the configuration would start here.
	Own      bool
	Listen   time.Duration // how long to listen to the bus
	MinFree  uint64        // MB that should be free on the disk
	SlowSync time.Duration // a write that takes longer until it is durable is too slow; 0 is 50 ms
	// SlowTrip is the round trip at QoS 2 beyond which the broker waits for the delayed acknowledgement of TCP; 0 is 25 ms.
	SlowTrip time.Duration
	Now      func() time.Time // nil is time.Now
}

// An examination is one run.
type examination struct {
	o      Options
	kinds  []Kind
	report Report
	open   map[string]bool // files that others may read or change, which is said once
}

// Examine looks at everything. Only the end of ctx is an error: what does not work is a finding.
func Examine(ctx context.Context, o Options) (Report, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	o.SlowSync, o.SlowTrip = cmp.Or(o.SlowSync, slowSync), cmp.Or(o.SlowTrip, nagle)
	x := &examination{
		o: o, kinds: kinds(), open: map[string]bool{},
		report: Report{Findings: []Finding{}, Figures: Figures{ClocksMS: map[string]float64{}}},
	}
	x.permissions()
	x.configuration()
	x.users()
	x.certificates()
	x.disk()
	x.fleet(ctx)
	if err := x.bus(ctx); err != nil {
		return Report{}, err
	}
	rank := []Severity{Error, Warning, Note}
	slices.SortStableFunc(x.report.Findings, func(a, b Finding) int {
		return cmp.Compare(slices.Index(rank, a.Severity), slices.Index(rank, b.Severity))
	})
	x.report.Findings = slices.Compact(x.report.Findings)
	x.report.OK = !slices.ContainsFunc(x.report.Findings, func(f Finding) bool { return f.Severity == Error })
	return x.report, nil
}
