package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/fleet"
)

func (t *tool) fleetJob(f *fleetAccess) *cobra.Command {
	c := &cobra.Command{
		Use:   "job",
		Short: "Commands that the engine keeps until the mower comes",
		Long: `job is about commands for mowers that may be offline: the engine keeps each until the mower comes. After its deadline it is not run any more. It
runs once at most, and how it ended is in the history of the mower.`,
		Example: `  lawnberry fleet job add mower-0042 navigation update_map version=12 --deadline 48h
  lawnberry fleet job ls
  lawnberry fleet job wait mower-0042 8c0b5a9e-63c2-4a7a-b1f7-0c3f6f0b9f52`,
	}
	asGroup(c)
	c.AddCommand(t.fleetJobAdd(f), t.fleetJobLs(f), t.fleetJobCancel(f), t.fleetJobWait(f))
	return c
}

func (t *tool) fleetJobAdd(f *fleetAccess) *cobra.Command {
	var s mowerSelection
	var deadline, limit time.Duration
	c := &cobra.Command{
		Use:   "add [MOWER[,MOWER...]] SERVICE COMMAND [PARAMETERS]",
		Short: "Leave a command for mowers, and print its id",
		Long: `add leaves COMMAND with PARAMETERS, a JSON object or name=value pairs, for a service of each mower, and prints the id of the job, of several
mowers with the mower before it. The engine has it on its disks then. It keeps 64 jobs of a mower, and 512 KiB of them; a list that is full is refused with
code 4. The emergency stop has room beyond that, and needs no permission (job add MOWER emergency_stop engage).

--deadline is when it is too late to begin, --limit how long it may run. With --where or --all the mowers are not named.`,
		Example: `  lawnberry fleet job add mower-0042 navigation dock --deadline 8h
  lawnberry fleet job add --where 'battery<20' navigation dock --yes`,
		Args: arguments(2, -1, "SERVICE", "COMMAND"),
		RunE: func(c *cobra.Command, args []string) error {
			args, err := s.take(args)
			switch {
			case err != nil:
				return err
			case len(args) < 2:
				return &failure{exitUsage, fmt.Errorf("COMMAND is missing"), helpHint(c)}
			case deadline < time.Second || deadline > 31*24*time.Hour:
				return usagef("--deadline %s: want 1s to 744h", deadline)
			case limit <= 0 || limit > 24*time.Hour:
				return usagef("--limit %s: want up to 24h", limit)
			}
			if err := checkLevel("service", args[0]); err != nil {
				return err
			}
			parameters, err := parameterPairs(args[2:])
			if err != nil {
				return err
			}
			until := time.Now().Add(deadline)
			return f.withMowers(c.Context(), t, &s, "Leave the job for", func(ctx context.Context, o fleet.Operator, mowers []string) error {
				return t.eachMower(ctx, mowers, &s, func(ctx context.Context, mower string) mowerResult {
					id, err := o.AddJob(ctx, mower, args[0], args[1], parameters, until, limit)
					result, _ := json.Marshal(map[string]string{"job": id}) // a text
					r := newMowerResult(mower, result, err)
					r.text = id
					return r
				})
			})
		},
	}
	c.Flags().DurationVar(&deadline, "deadline", 24*time.Hour, "begin it within this `TIME`, or not at all")
	c.Flags().DurationVar(&limit, "limit", 30*time.Second, "how long it may run")
	s.flags(c, "leave it for", 50)
	return c
}

func (t *tool) fleetJobLs(f *fleetAccess) *cobra.Command {
	c := &cobra.Command{
		Use:   "ls [MOWER]",
		Short: "List the jobs that the engine keeps",
		Long: `ls lists the jobs that wait for their mowers, and those that their mowers have begun. One whose deadline is past stays until its mower comes and
says that it has not run. Those that have ended are in the history, see wait. When the list of a mower cannot be read, those of the others are
printed, and the end is code 1.`,
		Example: `  lawnberry fleet job ls
  lawnberry fleet job ls mower-0042 --json`,
		Args: arguments(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			mower := ""
			if len(args) == 1 {
				if mower = args[0]; fleet.CheckMower(mower) != nil {
					return usagef("%v", fleet.CheckMower(mower))
				}
			}
			return f.withOperator(c.Context(), t, func(ctx context.Context, o fleet.Operator) error {
				jobs, unread := o.Jobs(ctx, mower)
				if unread != nil && !errors.Is(unread, fleet.ErrJobsUnreadable) {
					return unread
				}
				if t.json {
					return errors.Join(writeJSON(t.stdout, jobs), unread)
				}
				rows := table{header: []string{"MOWER", "JOB", "SERVICE", "COMMAND", "OPERATOR", "ADDED", "DEADLINE", "STATE"}}
				for _, j := range jobs {
					state, deadline := "waits", "in "+shortDuration(time.Until(j.Expires))
					if j.Begun {
						state = "begun"
					}
					if past := time.Since(j.Expires); past > 0 {
						deadline = shortDuration(past) + " ago"
					}
					rows.add(text(j.Mower), text(j.ID), text(j.Service), text(j.Command), text(j.Operator),
						text(shortDuration(time.Since(j.Added))+" ago"), text(deadline), text(state))
				}
				rows.write(t.stdout, t.colour(t.stdout))
				return unread
			})
		},
	}
	return c
}

func (t *tool) fleetJobCancel(f *fleetAccess) *cobra.Command {
	var unreadable bool
	c := &cobra.Command{
		Use:   "cancel MOWER JOB",
		Short: "Take a job back",
		Long: `cancel takes a job back. It ends with code 0 when the mower has not begun it: then it will not run. It ends with code 5 when the mower has begun it,
which is not taken back: it may run, or have run. Code 4 is a job that the engine does not have.

With --unreadable, and without JOB, it removes the list of jobs of a mower when that cannot be read, whatever is in it. A mower that meets such a list runs
no jobs, and engages its emergency stop, as there may be one in it.`,
		Example: `  lawnberry fleet job cancel mower-0042 8c0b5a9e-63c2-4a7a-b1f7-0c3f6f0b9f52
  lawnberry fleet job cancel mower-0042 --unreadable`,
		Args: arguments(1, 2, "MOWER"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := fleet.CheckMower(args[0]); err != nil {
				return usagef("%v", err)
			}
			if unreadable != (len(args) == 1) {
				return &failure{exitUsage, errors.New("want either JOB or --unreadable"), helpHint(c)}
			}
			return f.withOperator(c.Context(), t, func(ctx context.Context, o fleet.Operator) error {
				if unreadable {
					return t.removeUnreadableJobs(ctx, o, args[0])
				}
				begun, err := o.CancelJob(ctx, args[0], args[1])
				switch {
				case errors.Is(err, fleet.ErrNoJob):
					return failf(exitRefused, "job %s of %s: %w", args[1], args[0], err)
				case err != nil && begun:
					return failf(exitTimeout, "%w", err)
				case err != nil:
					return err
				case begun:
					return failf(exitTimeout, "job %s was not taken back: %s has begun it, so it may run, or have run; see \"lawnberry fleet job wait\"", args[1], args[0])
				}
				if t.json {
					return writeJSON(t.stdout, map[string]string{"job": args[1], "mower": args[0], "result": "cancelled"})
				}
				_, err = fmt.Fprintf(t.stdout, "job %s of %s cancelled\n", printable(args[1]), args[0])
				return err
			})
		},
	}
	c.Flags().BoolVar(&unreadable, "unreadable", false, "remove a list of jobs that cannot be read")
	return c
}

func (t *tool) removeUnreadableJobs(ctx context.Context, o fleet.Operator, mower string) error {
	err := o.RemoveUnreadableJobs(ctx, mower)
	switch {
	case errors.Is(err, fleet.ErrNoJob):
		return failf(exitRefused, "the list of jobs of %s can be read, or there is none: nothing was removed", mower)
	case err != nil:
		return err
	case t.json:
		return writeJSON(t.stdout, map[string]string{"mower": mower, "result": "removed"})
	}
	_, err = fmt.Fprintf(t.stdout, "the list of jobs of %s was removed\n", mower)
	return err
}

func (t *tool) fleetJobWait(f *fleetAccess) *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "wait MOWER JOB",
		Short: "Wait until a job has ended, and print its result",
		Long: `wait prints the result of a job that has ended, and waits for that if need be. Code 4 is a job that was refused or has failed; code 5 is one that
has not ended in time, or may have run: the mower was restarted while it did. A job whose deadline passed while the mower was away ends with code 5, as not
run, when it comes back; at an MQTT engine it has no end.`,
		Example: `  lawnberry fleet job wait mower-0042 8c0b5a9e-63c2-4a7a-b1f7-0c3f6f0b9f52 --timeout 1h`,
		Args:    arguments(2, 2, "MOWER", "JOB"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := fleet.CheckMower(args[0]); err != nil {
				return usagef("%v", err)
			}
			if timeout <= 0 {
				return usagef("--timeout %s: want more than 0", timeout)
			}
			return f.withOperator(c.Context(), t, func(ctx context.Context, o fleet.Operator) error {
				limited, cancel := context.WithTimeout(ctx, timeout)
				defer cancel()
				e, err := o.WaitJob(limited, args[0], args[1])
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err != nil {
					return err
				}
				if t.json {
					if err := writeJSON(t.stdout, e); err != nil {
						return err
					}
				}
				if !e.Success {
					return &client.CommandError{Service: e.Service, Command: e.Command, Code: e.Code, Message: args[0] + ": " + e.Error}
				}
				if !t.json {
					t.printMower(mowerResult{Mower: args[0], OK: true, Result: e.Result}, false)
				}
				return nil
			})
		},
	}
	c.Flags().DurationVar(&timeout, "timeout", time.Minute, "give up after this long")
	return c
}
