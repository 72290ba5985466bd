package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/safety"
)

func (t *tool) estopStatus() *cobra.Command {
	var d dialler
	c := &cobra.Command{
		Use:   "status",
		Short: "Show the emergency stop: by whom and why, who stands, what stands against releasing it",
		Long: `status shows what the hub knows of the emergency stop: since when it is engaged, by whom and for which reasons, its sequence number,
what stands against releasing it, and which services have reported. When the hub does not answer the state is unknown, which is
engaged; it ends with code 4 or 5 then.`,
		Example: `  lawnberry estop status
  lawnberry estop status --json`,
		Args: arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return t.withBroker(c.Context(), &d, func(ctx context.Context, c *client.Client) error {
				s, err := readStop(ctx, c)
				if t.json {
					if failed := writeJSON(t.stdout, s); failed != nil {
						return failed
					}
					return err
				}
				t.showStop(t.stdout, s)
				return err
			})
		},
	}
	d.flags(c, 5*time.Second, "wait this long for the answer")
	return c
}

// readStop asks the hub. When it does not answer, the state is unknown, and the error says why.
func readStop(ctx context.Context, c *client.Client) (safety.Status, error) {
	s, err := safety.ReadStatus(ctx, c)
	if err != nil {
		err = noHub(because(ctx, err))
		return safety.Status{
			State:  safety.State{Engaged: true, Reason: "not known: the hub does not answer"},
			Causes: []safety.Cause{}, Against: []string{}, Participants: []safety.Participant{},
		}, err
	}
	return s, nil
}

// showStop writes what the hub knows for people.
func (t *tool) showStop(w io.Writer, s safety.Status) {
	colour := t.colour(w)
	about := table{}
	row := func(name, value string, st style) { about.add(cell{name, bold}, cell{value, st}) }
	switch {
	case !s.Known:
		row("emergency stop", "unknown, which is engaged", red)
	case s.Engaged:
		row("emergency stop", "engaged", red)
	default:
		row("emergency stop", "released", green)
	}
	if s.Known {
		row("sequence", strconv.FormatUint(s.Sequence, 10), plain)
		row("since", when(s.Since), plain)
		row("by", s.By, plain)
	}
	if s.Engaged {
		row("reason", s.Reason, plain)
	}
	about.write(w, colour)
	if !s.Known {
		return
	}
	if len(s.Causes) > 1 {
		fmt.Fprintln(w)
		rows := table{header: []string{"SEQUENCE", "SINCE", "BY", "REASON"}}
		for _, c := range s.Causes {
			rows.add(text(strconv.FormatUint(c.Sequence, 10)), text(when(c.Since)), text(c.By), text(c.Reason))
		}
		rows.write(w, colour)
	}
	if len(s.Participants) > 0 {
		fmt.Fprintln(w)
		rows := table{header: []string{"SERVICE", "STATE", "STANDS", "AFTER", "HAZARDS", "MISSES"}}
		for _, p := range s.Participants {
			stands, after := standing(s, p)
			var hazards []string
			for _, h := range p.Hazards {
				hazards = append(hazards, h.Message)
			}
			state := cell{cmp.Or(string(p.State), "gone"), stateStyle(cmp.Or(string(p.State), "offline"))}
			rows.add(text(p.Service), state, stands, text(after), cell{cmp.Or(strings.Join(hazards, ", "), "-"), red},
				text(cmp.Or(strings.Join(p.Stale, ", "), "-")))
		}
		rows.write(w, colour)
	}
	switch {
	case !s.Engaged:
	case len(s.Against) == 0:
		fmt.Fprintf(w, "\nNothing stands against releasing it: lawnberry estop release --sequence %d\n", s.Sequence)
	default:
		fmt.Fprintln(w, "\nAgainst releasing it:")
		for _, reason := range s.Against {
			fmt.Fprintf(w, "  %s\n", printable(reason))
		}
	}
}

// standing says whether a service that drives something stands, and after what time.
func standing(s safety.Status, p safety.Participant) (stands cell, after string) {
	after = "-"
	switch {
	case !p.Actuator:
		return text("-"), after
	case p.Confirmed:
		return cell{"yes", green}, fmt.Sprintf("%.1f ms", p.AfterMS)
	case s.Engaged:
		return cell{"not confirmed", red}, after
	case p.Stopped:
		return text("yes"), after
	case p.Cause == "":
		return cell{"no, it has a permit", yellow}, after
	}
	return cell{"not yet", yellow}, after
}

// when is a time as people look for it, with how long ago it was by this clock.
func when(at time.Time) string {
	return at.Local().Format(time.DateTime) + " (" + shortDuration(time.Since(at)) + " ago)"
}

func (t *tool) estopWatch() *cobra.Command {
	var d dialler
	c := &cobra.Command{
		Use:   "watch",
		Short: "Print each change of the emergency stop, as a program that heeds it knows it",
		Long: `watch prints the state of the emergency stop, and then each change, a line each, until it is interrupted. It is what every program knows
that heeds it: also when the connection is lost, or the hub gone, with which the state is unknown, which is engaged.`,
		Example: `  lawnberry estop watch
  lawnberry estop watch --json`,
		Args: arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error { return t.watchStop(c.Context(), &d) },
	}
	d.flags(c, connectTimeout, "give up connecting after this long")
	return c
}

// firstWord is how long watch gives the hub for its first answer.
const firstWord = time.Second

// A stopChange is a line of watch with --json.
type stopChange struct {
	Time time.Time `json:"time"`
	safety.State
}

func (t *tool) watchStop(ctx context.Context, d *dialler) error {
	o, _, err := d.options(t)
	if err != nil {
		return err
	}
	o.Safety, o.Probe = true, 0 // a lost connection is a change
	c, err := d.connect(ctx, o)
	if err != nil {
		return err
	}
	limited, cancel := d.bound(ctx)
	defer cancel()
	l, err := safety.OpenLatch(limited, c, safety.LatchOptions{})
	if err != nil {
		_ = disconnect(c)
		return because(limited, err)
	}
	settled, cancel := context.WithTimeout(ctx, firstWord)
	defer cancel()
	_ = l.Settle(settled) // else what it prints first says why it is not known
	failed := make(chan error, 1)
	end := l.OnChange(func(s safety.State) {
		if err := t.printStop(stopChange{time.Now(), s}); err != nil {
			select {
			case failed <- err:
			default:
			}
		}
	})
	select {
	case err = <-failed:
	case <-ctx.Done():
		if cause := context.Cause(ctx); cause != errInterrupted {
			err = cause
		}
	}
	end()
	bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	_ = l.Close(bye)
	_ = disconnect(c)
	return err
}

func (t *tool) printStop(s stopChange) error {
	if t.json {
		return writeJSONLine(t.stdout, s)
	}
	colour := t.colour(t.stdout)
	clock := s.Time.Local().Format("15:04:05.000")
	var err error
	switch {
	case !s.Known && s.By == "":
		_, err = fmt.Fprintf(t.stdout, "%s %s %s\n", clock, paint(colour, red, "unknown "), printable(strings.TrimPrefix(s.Reason, "not known: ")))
	case s.Engaged:
		_, err = fmt.Fprintf(t.stdout, "%s %s sequence %d, by %s: %s\n", clock, paint(colour, red, "engaged "), s.Sequence, printable(s.By), printable(s.Reason))
	default:
		_, err = fmt.Fprintf(t.stdout, "%s %s sequence %d, by %s\n", clock, paint(colour, green, "released"), s.Sequence, printable(s.By))
	}
	return err
}
