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

// Options configure an uplink. Mower, URL and Dir are required.
type Options struct {
	Mower   string         // the mower's id in the fleet
	Version string         // of the program
	Client  client.Options // how to reach the bus; ID and what concerns sessions are set by Start. The uplink has two connections
	Logger  *slog.Logger   // nil is discarded

	URL         string // of the engine: nats://, tls://, or several separated by commas
	Credentials string // file of the mower's credentials; "" has none
	CAFile      string // authorities that may have signed the engine's certificate, PEM; "" is the system's

	Dir string // of the outbox and of the record of commands; a directory of the uplink's own, made when missing

	Up            []Filter      // what goes up; nil is DefaultFilters
	BatchInterval time.Duration // the longest that telemetry waits for its batch to be full; 0 is 10 s
	Outbox        Bounds

	Down     []string // commands that the fleet may send, as service/command with * for any; nil is none
	KeysFile string   // keys of the operators whose signatures count; "" is none
	Unsigned bool     // commands need no signature
}

// Bounds are what the outbox holds. Zero is the default.
type Bounds struct {
	Bytes  int64                         // in all; 0 is 64 MiB
	ByByte map[fleet.Class]int64         // of a class; none is Bytes
	Age    map[fleet.Class]time.Duration // none is 7 days for telemetry, 30 for events, 365 for alerts
}

const defaultBatchInterval = 10 * time.Second

// withDefaults returns o with its defaults, or what is wrong with it.
func (o Options) withDefaults() (Options, error) {
	if err := fleet.CheckMower(o.Mower); err != nil {
		return o, err
	}
	if o.URL == "" {
		return o, errors.New("the URL of the engine is missing")
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
		o.Up = DefaultFilters()
	}
	for _, f := range o.Up {
		if err := f.Check(); err != nil {
			return o, fmt.Errorf("filter %s: %w", f.Filter, err)
		}
	}
	return o, nil
}
