package cli

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/fleetui"
)

func (t *tool) fleetUI(f *fleetAccess) *cobra.Command {
	var listen string
	var readOnly bool
	c := &cobra.Command{
		Use:   "ui",
		Short: "Serve a page with the whole fleet: alerts first, a table and a map of thousands",
		Long: `ui serves a page for browsers on this machine, and prints its URL, until it is interrupted. The URL has a key in it that lets in: whoever has it sees
the fleet and can stop mowers by these credentials, so give it to nobody. Another run has another key.

The page lists mowers with alerts first, filters by conditions as --where of the other verbs has them, shows where the mowers are, and stops one: the button
engages the emergency stop, and says loudly when that was not confirmed. Nothing is loaded from elsewhere. With --read-only there is no such button.`,
		Example: `  lawnberry fleet ui
  lawnberry fleet ui --listen 127.0.0.1:9010 --read-only`,
		Args: arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			f.stops = true
			return f.withFleet(c.Context(), t, func(ctx context.Context, views fleetViews, o fleet.Operator) error {
				return t.serveFleet(ctx, views, o, listen, readOnly)
			})
		},
	}
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:0", "`ADDRESS` of loopback to listen on; port 0 is a free one")
	c.Flags().BoolVar(&readOnly, "read-only", false, "no STOP")
	return c
}

func (t *tool) serveFleet(ctx context.Context, views fleetViews, op fleet.Operator, listen string, readOnly bool) error {
	log, err := t.logger(nil, slog.LevelWarn)
	if err != nil {
		return err
	}
	v := views(fleet.ViewOptions{Logger: log})
	defer v.Close()
	o := fleetui.Options{View: v, Address: listen, Logger: log, Stop: op.Stop}
	if readOnly {
		o.Stop = nil
	}
	u, err := fleetui.Start(o)
	if err != nil {
		return failf(exitFailed, "%w", err)
	}
	defer func() {
		bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		_ = u.Stop(bye) // nobody waits for pages that do not go
	}()
	if t.json {
		err = writeJSONLine(t.stdout, map[string]string{"url": u.URL()})
	} else {
		_, err = fmt.Fprintln(t.stdout, u.URL())
	}
	if err != nil {
		return err
	}
	<-ctx.Done()
	return interrupted(ctx, nil)
}
