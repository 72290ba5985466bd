package app

import (
	"context"

	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/loglevel"
)

// Reload takes in what c says now of the keys that can change while the system runs, but for the log's levels, whose handlers are the
// caller's. A configuration that cannot be used changes nothing.
func (a *App) Reload(c *config.Config) error {
	if err := a.SetAccess(c); err != nil {
		return err
	}
	switch b := &c.Broker; {
	case a.broker != nil:
		a.broker.SetLimits(b.MaxConnections, b.MaxQueuedMessages, b.MaxQueuedBytes)
	case a.mosquitto != nil:
		a.mosquitto.SetLimits(b.MaxConnections, b.MaxQueuedMessages, b.MaxQueuedBytes)
	}
	return nil
}

// LevelsChanged has a broker that is another program log what the levels of the log are by now.
func (a *App) LevelsChanged() error {
	if a.mosquitto == nil {
		return nil
	}
	return a.mosquitto.SetLogLevel()
}

// watchLevels has a broker that is another program follow the levels of the log, until ctx ends.
func (a *App) watchLevels(ctx context.Context, levels *loglevel.Levels) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-levels.Changed():
		}
		if err := a.LevelsChanged(); err != nil && ctx.Err() == nil {
			a.log.Error("the broker logs as before", "error", err)
		}
	}
}
