package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/internal/fleet"
)

func (t *tool) fleetWatch(f *fleetAccess) *cobra.Command {
	l := fleetLook{fleetAccess: f}
	var count int
	c := &cobra.Command{
		Use:   "watch",
		Short: "Print a line for each change in the fleet that matters",
		Long: `watch prints a line when a mower comes online or goes offline, when an alert is raised, gets worse or ends, when an emergency stop is engaged or
released, when a mower does something else, when it loses messages, has another version, or is enrolled or revoked. What changes to and fro between
two looks, which are parts of a second apart, is not seen: the history has it (lawnberry fleet history).

With --where it tells of mowers that the condition is true of before or after the change. When the engine cannot be heard it says so, and when it can again, as
nobody should take silence for calm.`,
		Example: `  lawnberry fleet watch
  lawnberry fleet watch --where 'id~"berlin-*"' --json`,
		Args: arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if count < 0 {
				return usagef("--count cannot be negative")
			}
			if err := l.check(); err != nil {
				return err
			}
			return l.withView(c.Context(), t, fleet.ViewOptions{Filters: l.where.Topics()}, func(ctx context.Context, v *fleet.View) error {
				return interrupted(ctx, t.watchFleet(ctx, v, l.where, count))
			})
		},
	}
	l.flags(c)
	c.Flags().IntVarP(&count, "count", "n", 0, "end after `N` changes")
	return c
}

// A fleetLine is a line of watch.
type fleetLine struct {
	Time     time.Time `json:"time"`
	Mower    string    `json:"mower,omitempty"`
	What     string    `json:"what"` // watching, link, online, offline, alert, cleared, stop, state, lost, version, enrolled, gone
	Text     string    `json:"text"`
	Severity string    `json:"severity,omitempty"` // of an alert
}

func (l fleetLine) style() style {
	switch {
	case l.What == "offline", l.What == "stop" && l.Text == fleet.StopEngaged, l.What == "link" && l.Severity != "":
		return red
	case l.What == "alert":
		return severityStyle(l.Severity)
	case l.What == "online", l.What == "cleared", l.What == "stop" && l.Text == fleet.StopReleased:
		return green
	}
	return plain
}

func (t *tool) watchFleet(ctx context.Context, v *fleet.View, where *fleet.Where, count int) error {
	feed, all := v.Follow()
	defer feed.Close()
	colour := t.colour(t.stdout)
	say := func(l fleetLine) error {
		if t.json {
			return writeJSONLine(t.stdout, l)
		}
		_, err := fmt.Fprintf(t.stdout, "%s  %-20s  %s  %s\n", l.Time.Local().Format(time.TimeOnly), cmp.Or(l.Mower, "-"), paint(colour, l.style(), fmt.Sprintf("%-8s", l.What)), printable(l.Text))
		return err
	}
	now := time.Now()
	online, alerts, watched := 0, 0, 0
	for _, m := range all {
		if where.Match(m, now) {
			watched++
			online += map[bool]int{true: 1}[m.Online]
			alerts += map[bool]int{true: 1}[len(m.Alerts) > 0]
		}
	}
	text := fmt.Sprintf("%s, %d online, %d with alerts", plural(watched, "mower"), online, alerts)
	if err := say(fleetLine{Time: now, What: "watching", Text: text}); err != nil {
		return err
	}
	link := fleet.Link{Current: true}   // so that it is told also when it is not from the beginning
	tick := time.NewTicker(time.Second) // for the connection, which tells nobody
	defer tick.Stop()
	for told := 0; ; {
		select {
		case <-feed.Changed():
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if now := v.Link(); now.Current != link.Current {
			link = now
			l := fleetLine{Time: time.Now(), What: "link", Text: "the engine is heard again, and what has changed meanwhile follows"}
			if !now.Current {
				l.Severity, l.Text = "error", "the engine is not heard: "+cmp.Or(now.Problem, "the state is being read")
			}
			if err := say(l); err != nil {
				return err
			}
		}
		for _, c := range feed.Take() {
			if !matches(where, c) {
				continue
			}
			for _, l := range fleetLines(c.Before, c.After) {
				if err := say(l); err != nil {
					return err
				}
				if told++; told == count {
					return nil
				}
			}
		}
	}
}

// matches reports whether a change is of a mower that a condition is true of, before or after it.
func matches(where *fleet.Where, c fleet.MowerChange) bool {
	now := time.Now()
	return c.After != nil && where.Match(c.After, now) || c.Before != nil && where.Match(c.Before, now)
}

// fleetLines tells what has changed of a mower that somebody would want to know. before is nil of one that is new, after of one that is gone.
func fleetLines(before, after *fleet.Mower) (lines []fleetLine) {
	now := time.Now()
	if after == nil {
		return []fleetLine{{Time: now, Mower: before.ID, What: "gone", Text: "the engine does not know it any more"}}
	}
	if before == nil {
		before = &fleet.Mower{ID: after.ID, State: after.State, Version: after.Version, Lost: after.Lost, Enrolled: new(bool)}
	}
	say := func(what, severity, format string, args ...any) {
		lines = append(lines, fleetLine{Time: now, Mower: after.ID, What: what, Severity: severity, Text: fmt.Sprintf(format, args...)})
	}
	if before.Online != after.Online {
		if after.Online {
			say("online", "", "it is there, version %s, %d messages wait", cmp.Or(after.Version, "unknown"), after.Backlog)
		} else {
			say("offline", "", "it is not there any more")
		}
	}
	if after.Stop != before.Stop && after.Stop != "" && (after.Stop == fleet.StopEngaged || before.Stop != "") {
		say("stop", "", "%s", after.Stop)
	}
	for _, a := range after.Alerts {
		i := slices.IndexFunc(before.Alerts, func(b fleet.RaisedAlert) bool { return a.Topic == b.Topic })
		switch {
		case i < 0 || before.Alerts[i].Severity != a.Severity || before.Alerts[i].Type != a.Type:
			say("alert", a.Severity, "%s: %s: %s", a.Severity, a.Type, a.Message)
		case a.Acknowledged && !before.Alerts[i].Acknowledged:
			say("alert", a.Severity, "%s: %s: acknowledged", a.Severity, a.Type)
		}
	}
	for _, b := range before.Alerts {
		if !slices.ContainsFunc(after.Alerts, func(a fleet.RaisedAlert) bool { return a.Topic == b.Topic }) {
			say("cleared", b.Severity, "%s", b.Type)
		}
	}
	if before.State != after.State && after.State != "" {
		say("state", "", "%s", after.State)
	}
	if after.Lost > before.Lost {
		say("lost", "", "%d messages of its history, %d in all", after.Lost-before.Lost, after.Lost)
	}
	if before.Version != after.Version && before.Version != "" {
		say("version", "", "%s, was %s", after.Version, before.Version)
	}
	if is, was := after.Enrolled, before.Enrolled; is != nil && was != nil && *is != *was {
		say("enrolled", "", "%s", map[bool]string{true: "enrolled", false: "revoked"}[*is])
	}
	return lines
}
