package app

import (
	"context"
	"path/filepath"
	"time"

	bridge "github.com/lawnberry/lawnberry/bridge/fleet"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/metrics"
)

// fleetDir is where the uplink keeps what waits, in the data directory.
const fleetDir = "fleet"

// fleetOptions returns the options of the uplink that a configuration wants.
func (a *App) fleetOptions(o Options) (bridge.Options, error) {
	f := &o.Config.Integration.Fleet
	c, err := a.within(o.Config, bridge.ID)
	if err != nil {
		return bridge.Options{}, err
	}
	up, err := o.Config.FleetFilters()
	if err != nil {
		return bridge.Options{}, err
	}
	return bridge.Options{
		Mower: f.MowerID, Version: o.Version, Client: c, Logger: a.part("fleet"), Engine: o.Config.FleetEngine(), Dir: filepath.Join(a.dataDir, fleetDir),
		Up: up, BatchInterval: f.BatchInterval, Outbox: fleetBounds(&f.Outbox), Down: f.Down, KeysFile: f.KeysFile, Unsigned: f.AllowUnsigned,
		SessionExpiry: f.SessionExpiry,
	}, nil
}

func fleetBounds(o *config.FleetOutbox) bridge.Bounds {
	return bridge.Bounds{
		Bytes: int64(o.MaxSize),
		Class: map[fleet.Class]int64{fleet.Telemetry: int64(o.TelemetrySize), fleet.Event: int64(o.EventSize), fleet.Alert: int64(o.AlertSize)},
		Age:   map[fleet.Class]time.Duration{fleet.Telemetry: o.TelemetryAge, fleet.Event: o.EventAge, fleet.Alert: o.AlertAge},
	}
}

// startFleet starts the uplink to a fleet, if the configuration wants it. A mower is whole without: what keeps the uplink from starting, such as a file
// that is missing, is logged, and nothing else.
func (a *App) startFleet(ctx context.Context, o Options) {
	if !o.Config.Integration.Fleet.Enabled {
		return
	}
	options, err := a.fleetOptions(o)
	if err == nil {
		var u *bridge.Uplink
		if u, err = bridge.Start(ctx, options); err == nil {
			a.fleet.Store(u)
			return
		}
	}
	a.part("fleet").Error("there is no uplink to the fleet, and the fleet cannot stop this mower, until this program is started again", "error", err)
}

// fleetFigures returns the figures of the uplink; ok is false without one.
func (a *App) fleetFigures() (f metrics.Uplink, ok bool) {
	u := a.fleet.Load()
	if u == nil {
		return f, false
	}
	s := u.Stats()
	f = metrics.Uplink{
		Connected: s.Connected, Taken: s.Taken, Thinned: s.Thinned, Sent: s.Sent, Latest: s.Latest, Conflated: s.Conflated, Resolved: s.Resolved, Repeated: s.Repeated,
		Refused: s.Refused, Backlog: s.Backlog.Records, BacklogBytes: s.Backlog.Bytes, DiskFailed: s.Disk != nil, Dropped: map[string]uint64{},
	}
	if s.Backlog.Oldest != nil {
		f.Oldest = max(0, time.Since(*s.Backlog.Oldest))
	}
	for _, class := range fleet.Classes() {
		f.Dropped[string(class)] = s.Lost[class].Count
	}
	return f, true
}
