package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/tracing"
)

// A trace is the flag of a verb that can begin one.
type trace struct {
	wanted bool
	id     string
}

func (r *trace) flags(c *cobra.Command) {
	c.Flags().BoolVar(&r.wanted, "trace", false, "begin a trace that is recorded by everybody in it, and print its id on standard error")
}

// begin begins a trace, if it is wanted, and has o carry it on. end sends the spans, where the configuration names a collector.
func (r *trace) begin(ctx context.Context, t *tool, o *client.Options, cfg *config.Config) (traced context.Context, end func(), err error) {
	if !r.wanted {
		return ctx, func() {}, nil
	}
	options := cfg.TracingOptions("lawnberry-cli")
	options.Version, options.Logger, options.SampleRatio = buildInfo().Version, o.Logger, 0 // of what else is heard nothing is recorded
	tracer, err := tracing.Start(options)
	if err != nil {
		return ctx, nil, fmt.Errorf("monitoring.tracing: %w", err)
	}
	o.Tracer = tracer
	traced = tracing.NewTrace(ctx)
	r.id = tracing.TraceID(traced)
	if t.json {
		err = writeJSONLine(t.stderr, map[string]string{"trace_id": r.id})
	} else {
		_, err = fmt.Fprintf(t.stderr, "trace %s\n", r.id)
	}
	end = func() { _ = stop(tracer.Stop, closeTimeout) }
	if err != nil {
		end()
		return ctx, nil, err
	}
	return traced, end, nil
}
