package app

import (
	"fmt"
	"log/slog"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/tracing"
)

// startTracing has what runs in this process be traced, if the configuration wants it.
func (a *App) startTracing(o Options) (err error) {
	if !o.Config.Monitoring.Tracing.Enabled {
		return nil
	}
	options := o.Config.TracingOptions("lawnberry")
	options.Version, options.Logger = o.Version, a.part("tracing")
	if a.tracer, err = tracing.Start(options); err != nil {
		return fmt.Errorf("monitoring.tracing: %w", err)
	}
	a.logTo(slog.New(tracing.LogHandler(a.root.Handler())))
	return nil
}

// tracerOf returns the tracer as clients want it: nil without.
func (a *App) tracerOf() client.Tracer {
	if a.tracer == nil {
		return nil
	}
	return a.tracer
}
