package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/internal/fleet"
)

func (t *tool) fleetStop(f *fleetAccess) *cobra.Command {
	var s mowerSelection
	var reason string
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "estop MOWER[,MOWER...]...",
		Short: "Engage the emergency stop of mowers",
		Long: `estop engages the emergency stop of each mower, and says which have confirmed it. Whoever the engine lets in may do so: it needs no key and no
permission of the mower. It cannot release it: that is done beside the mower.

It ends with code 0 when all mowers have engaged it and all their guards have confirmed that what they guard stands. It ends with code 5 when any has not:
each is named, and MAY STILL MOVE. A mower that is offline cannot be stopped from here. With --all and --where those that are selected when the others have
answered are stopped too, and it ends with code 5 when the engine cannot say which those are.`,
		Example: `  lawnberry fleet estop mower-0042 --reason 'a dog on the lawn'
  lawnberry fleet estop --all --reason 'thunderstorm' --yes
  lawnberry fleet estop --where 'state=mowing'`,
		Args: arguments(0, -1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				if s.all || s.where != "" {
					return usagef("%q and --all or --where exclude each other", args[0])
				}
				args = []string{strings.Join(args, ",")}
			}
			s.stops, f.stops = true, true
			if _, err := s.take(args); err != nil {
				return err
			}
			if timeout <= 0 {
				return usagef("--timeout %s: want more than 0", timeout)
			}
			err := f.withMowers(c.Context(), t, &s, "Engage the emergency stop of", func(ctx context.Context, o fleet.Operator, mowers []string) error {
				return t.stopMowers(ctx, o, mowers, &s, reason, timeout)
			})
			if err != nil && !s.begun && exitCode(err) != exitUsage {
				return nobodyStopped(err, s.mowers)
			}
			return err
		},
	}
	c.Flags().StringVarP(&reason, "reason", "r", "", "say `TEXT` to whoever looks")
	c.Flags().DurationVar(&timeout, "timeout", 10*time.Second, "give a mower up after this long")
	s.flags(c, "stop", 200)
	return c
}

// notStopped begins what is said of a mower that is not known to have been stopped.
const notStopped = "NOT STOPPED, it may still move: "

// nobodyStopped says of an error that came before any mower was asked what that means. It keeps its code.
func nobodyStopped(err error, mowers []string) error {
	list := &detailed{text: "NOBODY WAS STOPPED: " + err.Error()}
	for _, m := range mowers {
		list.details = append(list.details, m+": "+notStopped+"not asked")
	}
	return &failure{exitCode(err), list, ""}
}

func (t *tool) stopMowers(ctx context.Context, o fleet.Operator, mowers []string, s *mowerSelection, reason string, timeout time.Duration) error {
	return t.eachMower(ctx, mowers, s, func(ctx context.Context, mower string) mowerResult {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		s, err := o.Stop(ctx, mower, reason)
		switch {
		case err != nil:
			r := newMowerResult(mower, nil, err)
			r.Error = notStopped + r.Error
			r.err = failf(exitTimeout, "%s: %s", mower, r.Error)
			return r
		case !s.Confirmed:
			err = fmt.Errorf("engaged, but the hub of its emergency stop has not confirmed it: it may still move")
		case len(s.Missing) > 0:
			err = fmt.Errorf("engaged, but not everybody has confirmed that it stands: %s", strings.Join(s.Missing, ", "))
		}
		result, _ := json.Marshal(s) // numbers and names
		r := newMowerResult(mower, result, nil)
		r.text = fmt.Sprintf("%s emergency stop engaged, sequence %d, all guards stand", mower, s.Sequence)
		if err != nil {
			r.OK, r.Error, r.err = false, err.Error(), failf(exitTimeout, "%s: %w", mower, err)
		}
		return r
	})
}
