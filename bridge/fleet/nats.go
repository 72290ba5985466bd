package fleet

import (
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/lawnberry/lawnberry/internal/fleet"
)

// A natsEngine is the connection to NATS. It is there from the beginning, whether or not the engine is: subscriptions may be made at once, and
// are made at the engine each time that it is reached.
type natsEngine struct {
	mower string
	nc    *nats.Conn
}

func connectNATS(o Options) (*natsEngine, error) {
	e := &natsEngine{mower: o.Mower}
	options := []nats.Option{
		nats.Name("lawnberry uplink of " + o.Mower), nats.CustomInboxPrefix(fleet.InboxPrefix(o.Mower)),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.IgnoreAuthErrorAbort(), nats.ReconnectWait(time.Second),
		nats.ReconnectBufSize(-1), // what cannot be sent stays in the outbox
		nats.PingInterval(10 * time.Second), nats.MaxPingsOutstanding(2),
	}
	if o.Credentials != "" {
		options = append(options, nats.UserCredentials(o.Credentials))
	}
	if o.CAFile != "" {
		options = append(options, nats.RootCAs(o.CAFile))
	}
	var err error
	if e.nc, err = nats.Connect(o.URL, options...); err != nil {
		return nil, fmt.Errorf("engine %s: %w", o.URL, err)
	}
	return e, nil
}

func (e *natsEngine) close() { e.nc.Close() }
