package fleet

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/fleet"
)

// ID is the service of the uplink on the mower's bus.
const ID = "fleet"

// Options configure an uplink. Mower, Engine and Dir are required.
type Options struct {
	Mower   string         // the mower's id in the fleet
	Version string         // of the program
	Client  client.Options // how to reach the bus; ID and what concerns sessions are set by Start. The uplink has two connections
	Logger  *slog.Logger   // nil is discarded

	Engine fleet.Engine // where the fleet meets; its Log is Logger

	// SessionExpiry is how long an MQTT engine keeps jobs for a mower that is away; 0 is 7 days.
	SessionExpiry time.Duration

	Dir string // of the outbox and of the record of commands; a directory of the uplink's own, made when missing

	Up            []fleet.Filter // what goes up; nil is fleet.DefaultFilters
	BatchInterval time.Duration  // the longest that telemetry waits for its batch to be full; 0 is 10 s
	Outbox        Bounds

	Down     []string // commands that the fleet may send, as service/command with * for any; nil is none
	KeysFile string   // keys of the operators whose signatures count; "" is none
	Unsigned bool     // commands need no signature
}

const defaultBatchInterval = 10 * time.Second

// withDefaults returns o with its defaults, or what is wrong with it.
func (o Options) withDefaults() (Options, error) {
	if err := fleet.CheckMower(o.Mower); err != nil {
		return o, err
	}
	if _, err := o.Engine.Protocol(); err != nil {
		return o, err
	}
	if o.Dir == "" {
		return o, errors.New("the directory is missing")
	}
	if o.Version == "" {
		o.Version = "0.0.0"
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.BatchInterval <= 0 {
		o.BatchInterval = defaultBatchInterval
	}
	if o.Up == nil {
		o.Up = fleet.DefaultFilters()
	}
	for _, f := range o.Up {
		if err := f.Check(); err != nil {
			return o, fmt.Errorf("filter %s: %w", f.Filter, err)
		}
	}
	return o, nil
}

func (o Options) engine() fleet.Engine {
	e := o.Engine
	e.Log = o.Logger
	return e
}
