package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/safety"
)

func (t *tool) estopVerbs() *cobra.Command {
	c := &cobra.Command{
		Use:   "estop",
		Short: "The emergency stop: engage it, see it, release it",
		Long: `estop engages the emergency stop, shows it, and releases it. It is engaged or released; unknown is engaged, and so it is at the very
first start. Everybody who is let in may engage it and see it; with access control to release it is a right, which admins have.

Releasing starts nothing: whatever moved has to be commanded anew.`,
		Example: `  lawnberry estop engage --reason 'a dog on the lawn'
  lawnberry estop status
  lawnberry estop release`,
	}
	asGroup(c)
	c.AddCommand(t.estopEngage(), t.estopRelease(), t.estopStatus(), t.estopWatch(), t.estopForget())
	return c
}

const byUsage = "in the name of `WHOM` (default the user who logs in, else $USER, else cli)"

// hubPatience is how long engage waits for the hub and the guards, once the broker has the message.
const hubPatience = time.Second

func (t *tool) estopEngage() *cobra.Command {
	var d dialler
	var by, reason string
	c := &cobra.Command{
		Use:   "engage",
		Short: "Stop whatever moves, and keep it from moving",
		Long: `engage engages the emergency stop. It says so as soon as the broker has it, which hands it to everybody who has to stop. Then it waits, for a
second at most, until the hub has confirmed it and every guard has confirmed that it stands, and says who has and who has not.

It ends with code 0 when all stand, and with code 5 when the broker has it but the hub or a guard has not confirmed it in that
time: the emergency stop is engaged then too. With any other code it is not known to be: press the button on the mower.`,
		Example: `  lawnberry estop engage
  lawnberry estop engage --reason 'a dog on the lawn' --by anna`,
		Args: arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			o, cfg, err := d.options(t)
			if err != nil {
				return err
			}
			by = cmp.Or(by, cfg.Identity(), t.operator(""))
			return t.connected(c.Context(), &d, o, func(ctx context.Context, c *client.Client) error {
				return t.engage(ctx, c, by, reason)
			})
		},
	}
	d.flags(c, connectTimeout, "give up after this long")
	c.Flags().StringVarP(&reason, "reason", "r", "", "say `TEXT` to whoever looks")
	c.Flags().StringVar(&by, "by", "", byUsage)
	return c
}

// withBroker calls f with a connection, within --timeout.
func (t *tool) withBroker(ctx context.Context, d *dialler, f func(context.Context, *client.Client) error) error {
	o, _, err := d.options(t)
	if err != nil {
		return err
	}
	return t.connected(ctx, d, o, f)
}

// connected is withBroker with options.
func (t *tool) connected(ctx context.Context, d *dialler, o client.Options, f func(context.Context, *client.Client) error) error {
	c, err := d.connect(ctx, o)
	if err != nil {
		return err
	}
	ctx, cancel := d.bound(ctx)
	defer cancel()
	err = because(ctx, f(ctx, c))
	return errors.Join(err, disconnect(c))
}

// An engaged is what engage says with --json.
type engaged struct {
	Engaged   bool          `json:"engaged"`
	BrokerMS  float64       `json:"broker_ms"` // until the broker had it
	Confirmed bool          `json:"confirmed"` // by the hub
	Sequence  uint64        `json:"sequence"`  // 0 while it is not confirmed
	Stopped   []stoppedUnit `json:"stopped"`
	Missing   []string      `json:"missing"` // who has not confirmed that it stands
}

// A stoppedUnit is a guard that stands.
type stoppedUnit struct {
	Service string  `json:"service_id"`
	MS      float64 `json:"ms"` // from the hub's hearing of the engagement
}

func (t *tool) engage(ctx context.Context, c *client.Client, by, reason string) error {
	began := time.Now()
	id, err := safety.Engage(ctx, c, by, reason)
	if err != nil {
		return err
	}
	took := time.Since(began)
	if !t.json {
		fmt.Fprintf(t.stdout, "emergency stop engaged: the broker has it after %s\n", milliseconds(took))
	}
	result := engaged{Engaged: true, BrokerMS: float64(took.Microseconds()) / 1000, Stopped: []stoppedUnit{}, Missing: []string{}}
	limited, cancel := context.WithTimeout(ctx, hubPatience)
	defer cancel()
	var s safety.Status
	var silent error
	for told := false; ; {
		if !result.Confirmed {
			if result.Confirmed, err = safety.Confirmed(limited, c, id); err != nil {
				silent = err
			}
		}
		if result.Confirmed {
			if now, err := safety.ReadStatus(limited, c); err == nil {
				s = now
				if !told && !t.json {
					fmt.Fprintf(t.stdout, "the hub has confirmed it, sequence %d\n", s.Sequence)
					told = true
				}
				if len(missing(s)) == 0 {
					break
				}
			}
		}
		if !pause(limited, 10*time.Millisecond) {
			break
		}
	}
	if cause := context.Cause(ctx); cause != nil && !result.Confirmed && errors.Is(cause, errInterrupted) {
		return cause
	}
	result.Sequence = s.Sequence
	result.Missing = append(result.Missing, missing(s)...)
	rows := table{indent: "  "}
	for _, p := range s.Participants {
		if p.Confirmed {
			result.Stopped = append(result.Stopped, stoppedUnit{p.Service, p.AfterMS})
			rows.add(text(p.Service), cell{"stands", green}, text(fmt.Sprintf("after %.1f ms", p.AfterMS)))
		} else if p.Actuator {
			rows.add(text(p.Service), cell{"has NOT confirmed that it stands", red})
		}
	}
	if t.json {
		if err := writeJSON(t.stdout, result); err != nil {
			return err
		}
	} else {
		rows.write(t.stdout, t.colour(t.stdout))
		if result.Sequence > 0 && len(rows.rows) == 0 {
			fmt.Fprintln(t.stdout, "no service that drives motors or a blade has reported")
		}
	}
	switch {
	case !result.Confirmed || result.Sequence == 0:
		return failf(exitTimeout, "the emergency stop is engaged, the broker has it; but the hub has not confirmed it (%s), so it is not known who has stopped",
			hubSilence(silent))
	case len(result.Missing) > 0:
		return failf(exitTimeout, "the emergency stop is engaged, but not everybody has confirmed within %s that it stands: %s", hubPatience, strings.Join(result.Missing, ", "))
	}
	return nil
}

// missing returns the guards that have not confirmed that they stand.
func missing(s safety.Status) (ids []string) {
	for _, p := range s.Participants {
		if p.Actuator && !p.Confirmed {
			ids = append(ids, p.Service)
		}
	}
	return ids
}

// hubSilence says why the hub did not answer.
func hubSilence(err error) string {
	var command *client.CommandError
	switch {
	case err == nil:
		return "no answer"
	case errors.As(err, &command):
		return cmp.Or(command.Message, err.Error())
	}
	return err.Error()
}

func (t *tool) estopRelease() *cobra.Command {
	var d dialler
	var by string
	var sequence uint64
	var yes bool
	c := &cobra.Command{
		Use:   "release",
		Short: "Allow moving again, which starts nothing",
		Long: `release asks the hub to release the emergency stop with a sequence number: that of the state that you have seen. If somebody has
engaged it since, it has another number and stays engaged. On a terminal release shows the state and asks; elsewhere
--sequence is needed.

It is refused, with code 4, while a service reports a hazard, a guard misses a source that it requires or has not confirmed that it stands, or a
service that has reported is gone; each reason is named.`,
		Example: `  lawnberry estop release
  lawnberry estop release --sequence 5 --by anna`,
		Args: arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			named := c.Flags().Changed("sequence")
			if named && sequence == 0 {
				return usagef("--sequence 0: want the number that estop status shows")
			}
			if !named && !isTerminal(t.stdin) {
				return usagef("--sequence is missing: name the state that you have seen, see \"lawnberry estop status\"")
			}
			o, cfg, err := d.options(t)
			if err != nil {
				return err
			}
			by = cmp.Or(by, cfg.Identity(), t.operator(""))
			return t.connected(c.Context(), &d, o, func(ctx context.Context, c *client.Client) error {
				if !named {
					s, err := t.askToRelease(ctx, c, yes)
					if err != nil || s == 0 {
						return err
					}
					sequence = s
				}
				return t.release(ctx, c, by, sequence)
			})
		},
	}
	d.flags(c, time.Minute, "give up after this long, also while it asks")
	c.Flags().Uint64VarP(&sequence, "sequence", "s", 0, "the `NUMBER` of the state that you have seen (default on a terminal: shown, and asked)")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "on a terminal: show the state, and do not ask")
	c.Flags().StringVar(&by, "by", "", byUsage)
	return c
}

// askToRelease shows the state and asks whether to release it. It returns 0 if not.
func (t *tool) askToRelease(ctx context.Context, c *client.Client, yes bool) (uint64, error) {
	s, err := readStop(ctx, c)
	if err != nil {
		return 0, err
	}
	t.showStop(t.stderr, s)
	if !s.Engaged {
		return 0, failf(exitRefused, "the emergency stop is released already")
	}
	if yes {
		return s.Sequence, nil
	}
	agreed, err := t.confirm(ctx, fmt.Sprintf("Release the emergency stop, sequence %d?", s.Sequence))
	switch {
	case err != nil:
		return 0, err
	case !agreed:
		return 0, failf(exitFailed, "not released")
	}
	return s.Sequence, nil
}

func (t *tool) release(ctx context.Context, c *client.Client, by string, sequence uint64) error {
	err := safety.Release(ctx, c, by, sequence)
	var command *client.CommandError
	var refused *client.RefusedError
	switch {
	case err == nil:
		if t.json {
			return writeJSON(t.stdout, map[string]any{"engaged": false, "sequence": sequence + 1})
		}
		fmt.Fprintf(t.stdout, "emergency stop released, sequence %d; nothing moves until it is commanded to\n", sequence+1)
		return nil
	case errors.As(err, &refused):
		return &failure{exitRefused, errors.New("not released: it needs the right to release, which this user has not"), "admins have it, see \"lawnberry acl ls\""}
	case errors.As(err, &command) && command.Code == client.CodeRefused:
		if s, gone := safety.ReadStatus(ctx, c); gone == nil && s.Engaged && s.Sequence == sequence && len(s.Against) > 0 {
			return failf(exitRefused, "%w", &detailed{"not released", s.Against})
		}
		return failf(exitRefused, "not released: %s", strings.TrimPrefix(command.Message, "not released: "))
	}
	return noHub(err)
}

// noHub explains that nobody answers for the emergency stop.
func noHub(err error) error {
	var command *client.CommandError
	if errors.As(err, &command) && slices.Contains([]string{client.CodeNoSuchService, client.CodeOffline, client.CodeTimeout}, command.Code) {
		return &failure{exitCode(err), fmt.Errorf("the state of the emergency stop is not known: %w", err), "it runs in \"lawnberry serve\""}
	}
	return err
}

func (t *tool) estopForget() *cobra.Command {
	var d dialler
	c := &cobra.Command{
		Use:   "forget SERVICE",
		Short: "Forget a service that will not come back, and what it has reported",
		Long: `forget has the hub forget what a service has reported on the emergency stop: a service that is gone stands against a release until
it comes back or is forgotten. One that runs cannot be forgotten. With access control it needs the right to release.`,
		Example: "  lawnberry estop forget old_blade",
		Args:    arguments(1, 1, "SERVICE"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkLevel("service", args[0]); err != nil {
				return err
			}
			return t.withBroker(c.Context(), &d, func(ctx context.Context, c *client.Client) error {
				err := safety.Forget(ctx, c, args[0])
				var command *client.CommandError
				var refused *client.RefusedError
				switch {
				case errors.As(err, &refused):
					return failf(exitRefused, "not forgotten: it needs the right to release the emergency stop, which this user has not")
				case errors.As(err, &command) && command.Code == client.CodeRefused:
					return failf(exitRefused, "%s", command.Message)
				case err != nil:
					return noHub(err)
				case t.json:
					return writeJSON(t.stdout, map[string]string{"service_id": args[0], "result": "forgotten"})
				}
				_, err = fmt.Fprintf(t.stdout, "%s forgotten\n", args[0])
				return err
			})
		},
	}
	d.flags(c, connectTimeout, "give up after this long")
	c.ValidArgsFunction = func(c *cobra.Command, args []string, _ string) (found []cobra.Completion, _ cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		limited := dialler{broker: d.broker, timeout: completionTime}
		_ = t.withBroker(c.Context(), &limited, func(ctx context.Context, c *client.Client) error { // a shell has no use for errors
			s, err := safety.ReadStatus(ctx, c)
			for _, p := range s.Participants {
				found = append(found, cobra.CompletionWithDesc(p.Service, printable(cmp.Or(string(p.State), "gone"))))
			}
			return err
		})
		return found, cobra.ShellCompDirectiveNoFileComp
	}
	return c
}
