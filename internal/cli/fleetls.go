package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/internal/fleet"
)

func (t *tool) fleetLs(f *fleetAccess) *cobra.Command {
	l := fleetLook{fleetAccess: f}
	var columns []string
	var by string
	var fields strings.Builder
	for _, w := range fleet.WhereFields() {
		fmt.Fprintf(&fields, "  %-10s %s\n", w.Name, w.Doc)
	}
	c := &cobra.Command{
		Use:   "ls",
		Short: "List the mowers",
		Long: `ls lists the mowers that the engine knows, or with --where those that a condition is true of. A condition compares fields with values, by
= != < <= > >= and ~ (contains, or with * and ? a pattern), joined by and, or, not and parentheses:

` + fields.String() + `
and topic:path is a value in the latest message of a topic, such as power/battery:voltage<24. A number may have its unit (20%, 24V, 5m); a text with
spaces stands in quotes. A field alone is true when it is there and not 0: not online, alerts. What is not known matches only !=, and what not
turns around. Case matters for ids alone.

It lists what is there also when that is none. With code 5 there may be more, which the engine does not tell, or which do not fit.`,
		Example: `  lawnberry fleet ls
  lawnberry fleet ls --where 'battery<20% and state=mowing'
  lawnberry fleet ls --where 'alerts or not online' --sort -worst
  lawnberry fleet ls --where 'id~"berlin-*" and power/battery:voltage<24V' --columns id,power/battery:voltage,age
  lawnberry fleet ls --where 'version<1.4' --json`,
		Args: arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := l.check(); err != nil {
				return err
			}
			shown, topics, err := mowerColumns(columns)
			if err != nil {
				return err
			}
			sorted, more, err := mowerColumns([]string{strings.TrimPrefix(by, "-")})
			if err != nil || len(sorted) != 1 {
				return usagef("--sort %q: want a column, with a - in front from the greatest on", by)
			}
			topics = append(append(topics, more...), l.where.Topics()...)
			return l.withView(c.Context(), t, fleet.ViewOptions{Filters: append([]string{}, topics...)}, func(_ context.Context, v *fleet.View) error {
				all := v.Select(l.where)
				if err := sortMowers(all, by, time.Now()); err != nil {
					return err
				}
				return errors.Join(t.listMowers(all, shown), notAll(v))
			})
		},
	}
	l.flags(c)
	c.Flags().StringSliceVar(&columns, "columns", defaultColumns, "show these `COLUMNS`: fields, or topic:path, with commas between them")
	c.Flags().StringVar(&by, "sort", "id", "sort by `COLUMN`, with a - in front from the greatest on; mowers without a value are last")
	return c
}

// A mowerLine is a mower in JSON.
type mowerLine struct {
	*fleet.Mower
	Age    *float64               `json:"age_s"`            // seconds since it was heard; null if it never was
	Values map[string]fleet.Value `json:"values,omitempty"` // of columns that are values of topics
}

func newMowerLine(m *fleet.Mower, columns []mowerColumn, now time.Time) mowerLine {
	l := mowerLine{Mower: m}
	if age, ok := m.Age(now); ok {
		s := age.Seconds()
		l.Age = &s
	}
	if m.Alerts == nil {
		with := *m
		with.Alerts = []fleet.RaisedAlert{}
		l.Mower = &with
	}
	for _, c := range columns {
		if strings.Contains(c.name, ":") {
			if l.Values == nil {
				l.Values = map[string]fleet.Value{}
			}
			l.Values[c.name] = c.value(m, now)
		}
	}
	return l
}

func (t *tool) listMowers(all []*fleet.Mower, columns []mowerColumn) error {
	now := time.Now()
	if t.json {
		lines := make([]mowerLine, 0, len(all))
		for _, m := range all {
			lines = append(lines, newMowerLine(m, columns, now))
		}
		return writeJSON(t.stdout, struct {
			Mowers []mowerLine `json:"mowers"`
		}{lines})
	}
	if len(all) == 0 {
		_, err := fmt.Fprintln(t.stdout, "no mowers")
		return err
	}
	rows := table{}
	for _, c := range columns {
		rows.header = append(rows.header, c.title)
	}
	for _, m := range all {
		var cells []cell
		for _, c := range columns {
			cells = append(cells, c.cell(m, now))
		}
		rows.add(cells...)
	}
	rows.write(t.stdout, t.colour(t.stdout))
	return nil
}
