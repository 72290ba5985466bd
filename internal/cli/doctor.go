package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/doctor"
)

// An examiner is the flags of a verb that examines.
type examiner struct {
	dialler
	listen, slowSync time.Duration
	minFree          uint64
}

func (e *examiner) flags(c *cobra.Command) {
	e.dialler.flags(c, time.Minute, "give up after this long")
	c.Flags().DurationVar(&e.listen, "listen", 2*time.Second, "listen to the bus for this long")
	c.Flags().DurationVar(&e.slowSync, "slow-sync", 50*time.Millisecond, "warn when a small write takes longer than this until it is durable")
	c.Flags().Uint64Var(&e.minFree, "min-free", 500, "warn when less than so many `MB` are free on the disk")
}

// options returns what to examine, with what there is: only a wrong command line is an error.
func (e *examiner) options(t *tool) (doctor.Options, error) {
	fail := func(err error) (doctor.Options, error) { return doctor.Options{}, err }
	if e.listen < 0 || e.listen > time.Hour {
		return fail(usagef("--listen %s: want a duration up to 1h", e.listen))
	}
	if e.slowSync <= 0 {
		return fail(usagef("--slow-sync %s: want more than 0", e.slowSync))
	}
	if err := e.checkFlags(t); err != nil {
		return fail(err)
	}
	if _, err := t.logger(nil, slog.LevelWarn); err != nil {
		return fail(err)
	}
	loaded, failed := config.Salvage(t.configPath(), t.environ)
	loaded.Problems = t.settleUsers(loaded, loaded.Problems)
	given, _ := e.url(t)        // it was checked
	dir, _ := t.dataDirectory() // without one it is not looked at
	o := doctor.Options{
		Loaded: loaded, Failed: failed, DataDir: dir, Own: given == "" && loaded.Config.OwnBroker(), Listen: e.listen, MinFree: e.minFree,
		SlowSync: e.slowSync,
	}
	usable := *loaded.Config
	if usable.CheckKeys().Err() != nil { // that is a finding; without them there is still much to be seen
		usable.Security.Signing.Enabled, usable.Security.Encryption.Enabled = false, false
	}
	o.Client, o.Unknown = e.optionsOf(t, &usable)
	o.Client.Logger = nil // what it would log is found here
	return o, nil
}

// examine runs an examination. Only the end of ctx, or of --timeout, is an error.
func (e *examiner) examine(ctx context.Context, o doctor.Options) (doctor.Report, error) {
	ctx, cancel := e.bound(ctx)
	defer cancel()
	r, err := doctor.Examine(ctx, o)
	return r, because(ctx, err)
}

func (t *tool) doctorVerb() *cobra.Command {
	var e examiner
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what is wrong, and say how to repair it",
		Long: `doctor looks at the configuration, the files of the data directory and their disk, reaches the broker, measures it, listens to the bus, asks
the services, and looks at the emergency stop. Each finding says what is wrong, why it matters and what repairs it. It changes nothing.
docs/doctor.md lists all that it may find.

A configuration that cannot be used is a finding too: the rest is looked at with what is right in it.

It ends with code 1 if there is an error; warnings and notes alone are 0.`,
		Example: `  lawnberry doctor
  lawnberry doctor --json
  lawnberry doctor --broker tcp://192.168.1.7:1883 --listen 10s`,
		Args: arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			o, err := e.options(t)
			if err != nil {
				return err
			}
			r, err := e.examine(c.Context(), o)
			if err != nil {
				return err
			}
			if t.json {
				err = writeJSON(t.stdout, r)
			} else {
				showReport(t.stdout, r, t.colour(t.stdout))
			}
			if err == nil && !r.OK {
				err = fmt.Errorf("there is something to repair: %s", plural(count(r, doctor.Error), "error"))
			}
			return err
		},
	}
	e.flags(c)
	return c
}

func count(r doctor.Report, s doctor.Severity) (n int) {
	for _, f := range r.Findings {
		if f.Severity == s {
			n++
		}
	}
	return n
}

// showReport writes findings for people.
func showReport(w io.Writer, r doctor.Report, colour bool) {
	styles := map[doctor.Severity]style{doctor.Error: red, doctor.Warning: yellow, doctor.Note: dim}
	for _, f := range r.Findings {
		fmt.Fprintf(w, "%s  %s: %s\n", paint(colour, styles[f.Severity], fmt.Sprintf("%-7s", f.Severity)), f.Check, oneLine(f.What))
		fmt.Fprintf(w, "         why: %s\n         fix: %s\n", oneLine(f.Why), oneLine(f.Fix))
	}
	if len(r.Findings) > 0 {
		fmt.Fprintln(w)
	}
	g := r.Figures
	rows := table{}
	row := func(name, value string) { rows.add(cell{name, bold}, text(value)) }
	if g.Broker != "" {
		row("broker", g.Broker+", MQTT "+g.MQTT)
		row("round trip", fmt.Sprintf("QoS 0 %.2f ms, QoS 2 %.2f ms", g.RoundTripMS, g.ExactlyMS))
		row("services", fmt.Sprintf("%d answer", g.Services))
	}
	if g.FreeMB > 0 {
		row("disk", fmt.Sprintf("%d MB free, durable after %.2f ms", g.FreeMB, g.SyncMS))
	}
	rows.write(w, colour)
	fmt.Fprintf(w, "%s, %s, %s\n", plural(count(r, doctor.Error), "error"), plural(count(r, doctor.Warning), "warning"), plural(count(r,
		doctor.Note), "note"))
}
