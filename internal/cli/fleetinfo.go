package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/internal/fleet"
)

func (t *tool) fleetInfo(f *fleetAccess) *cobra.Command {
	l := fleetLook{fleetAccess: f}
	c := &cobra.Command{
		Use:   "info MOWER",
		Short: "Tell all that is known of a mower",
		Long: `info tells what a mower says of itself, the alerts that stand, which commands the fleet may send it, and the latest message of each topic. It ends with
code 4 when the engine knows no such mower.`,
		Example: `  lawnberry fleet info mower-0042
  lawnberry fleet info mower-0042 --json`,
		Args: arguments(1, 1, "MOWER"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := fleet.CheckMower(args[0]); err != nil {
				return usagef("%w", err)
			}
			if err := l.check(); err != nil {
				return err
			}
			return l.withView(c.Context(), t, fleet.ViewOptions{Mower: args[0]}, func(_ context.Context, v *fleet.View) error {
				m, known := v.Mower(args[0])
				if l := v.Link(); !known && !l.Current {
					return failf(exitTimeout, "the engine does not say whether it knows a mower %s: %s", args[0], cmp.Or(l.Problem, "its state is being read"))
				}
				if !known {
					return failf(exitRefused, "the engine knows no mower %s", args[0])
				}
				return t.showMower(m)
			})
		},
	}
	l.timeFlag(c)
	return c
}

func (t *tool) showMower(m *fleet.Mower) error {
	if t.json {
		return writeJSON(t.stdout, m.Report(time.Now()))
	}
	for _, line := range mowerLines(m, time.Now(), t.colour(t.stdout), 120) {
		if _, err := fmt.Fprintln(t.stdout, line); err != nil {
			return err
		}
	}
	return nil
}

// mowerLines shows a mower, for lines of a width.
func mowerLines(m *fleet.Mower, now time.Time, colour bool, width int) (lines []string) {
	rows := table{}
	row := func(name string, c cell) { rows.add(cell{name, bold}, c) }
	row("mower", text(m.ID))
	link := mowerColumn{name: "online"}.cell(m, now)
	if !m.Since.IsZero() {
		link.text += " for " + shortDuration(now.Sub(m.Since).Truncate(time.Second))
	}
	row("link", link)
	for _, name := range []string{"state", "battery", "stop", "version", "enrolled"} {
		row(name, mowerColumn{name: name}.cell(m, now))
	}
	if m.X != nil && m.Y != nil {
		row("position", text(fmt.Sprintf("x %.2f m, y %.2f m", *m.X, *m.Y)))
	}
	if m.Latitude != nil {
		row("on earth", text(fmt.Sprintf("%.6f, %.6f", *m.Latitude, *m.Longitude)))
	}
	if p := m.Presence; p != nil {
		waits := plural(int(m.Backlog), "message")
		if m.Oldest != nil {
			waits += ", the oldest " + shortDuration(now.Sub(*m.Oldest).Truncate(time.Second)) + " old"
		}
		row("backlog", text(waits))
		for _, class := range fleet.Classes() {
			if lost := p.Lost[class]; lost.Count > 0 {
				row("lost", cell{fmt.Sprintf("%s of class %s, for %s", plural(int(lost.Count), "message"), class, cmp.Or(lost.Why, "no reason given")), yellow})
			}
		}
		commands := strings.Join(p.Commands, ", ")
		if p.Unsigned {
			commands += " (unsigned too)"
		}
		row("commands", text(clip(cmp.Or(commands, "none; the emergency stop can be engaged"), 500)))
	}
	if age, ok := m.Age(now); ok {
		row("heard", text(shortDuration(age.Truncate(time.Second))+" ago"))
	}
	lines = append(lines, tableLines(rows, colour)...)
	if len(m.Alerts) > 0 {
		rows := table{header: []string{"ALERT", "SEVERITY", "SINCE", "MESSAGE"}}
		for _, a := range m.Alerts {
			said := a.Message
			if a.Acknowledged {
				said += " (acknowledged)"
			}
			rows.add(text(a.Type), cell{a.Severity, severityStyle(a.Severity)}, text(shortDuration(now.Sub(a.Time).Truncate(time.Second))), text(said))
		}
		lines = append(append(lines, ""), tableLines(rows, colour)...)
	}
	if topics := m.Topics(); len(topics) > 0 {
		rows := table{header: []string{"TOPIC", "AGE", "BYTES", "MESSAGE"}}
		for _, msg := range slices.All(topics) {
			said := "too large to show"
			if msg.Body != nil {
				said = briefly(msg.Body)
			}
			rows.add(text(clip(msg.Topic, 40)), text(shortDuration(now.Sub(msg.Time).Truncate(time.Second))), text(fmt.Sprint(msg.Size)), text(clip(printable(clip(said, 4*width)), max(width-60, 20))))
		}
		lines = append(append(lines, ""), tableLines(rows, colour)...)
		if n := m.LeftOut(); n > 0 {
			lines = append(lines, fmt.Sprintf("and messages of %s more that are not kept", plural(n, "topic")))
		}
	}
	return lines
}
