package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/internal/fleet"
)

// A fleetLook is the flags of a verb that looks at the fleet.
type fleetLook struct {
	*fleetAccess
	whereText string
	timeout   time.Duration

	where *fleet.Where
}

func (l *fleetLook) flags(c *cobra.Command) {
	c.Flags().StringVarP(&l.whereText, "where", "w", "", "only mowers that `CONDITION` is true of, such as 'battery<20 and state=mowing'; see \"lawnberry fleet ls --help\"")
	l.timeFlag(c)
}

func (l *fleetLook) timeFlag(c *cobra.Command) {
	c.Flags().DurationVar(&l.timeout, "timeout", selectTime, "give up after this long, if the engine's state cannot be read")
}

// check reads the flags.
func (l *fleetLook) check() (err error) {
	if l.timeout <= 0 {
		return usagef("--timeout %s: want more than 0", l.timeout)
	}
	if l.where, err = fleet.ParseWhere(l.whereText); err != nil {
		return usagef("--where: %w", err)
	}
	return nil
}

// withView calls do with a view of the fleet that has been read.
func (l *fleetLook) withView(ctx context.Context, t *tool, o fleet.ViewOptions, do func(ctx context.Context, v *fleet.View) error) error {
	return l.withViews(ctx, t, func(ctx context.Context, views fleetViews) error {
		var err error
		if o.Logger, err = t.logger(nil, slog.LevelError); err != nil {
			return err
		}
		v := views(o)
		defer v.Close()
		limited, cancel := context.WithTimeout(ctx, l.timeout)
		defer cancel()
		if err := v.Wait(limited); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return failf(exitTimeout, "the fleet's state could not be read in %s: %s", l.timeout, cmp.Or(v.Link().Problem, "the engine is slow"))
		}
		return do(ctx, v)
	})
}

// withJetStream calls do with a connection to the engine.
func (l *fleetLook) withJetStream(ctx context.Context, t *tool, do func(ctx context.Context, js jetstream.JetStream) error) error {
	nc, err := l.dialNATS(ctx, t)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	err = do(ctx, js)
	if errors.Is(err, nats.ErrPermissionViolation) {
		return &failure{exitRefused, err, "these credentials may not read the fleet's state: see --credentials"}
	}
	return err
}

// interrupted returns nil for what ended by a signal.
func interrupted(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if errors.Is(err, errInterrupted) {
		return nil
	}
	return err
}

// A mowerColumn is a column of a list of mowers.
type mowerColumn struct {
	name  string // as in a selector
	title string
}

var defaultColumns = []string{"id", "online", "state", "battery", "stop", "alerts", "backlog", "age", "version"}

// mowerColumns reads a list of columns: fields of selectors, or topic:path.
func mowerColumns(names []string) ([]mowerColumn, []string, error) {
	columns := make([]mowerColumn, 0, len(names))
	var topics []string
	for _, name := range names {
		name = strings.TrimSpace(name)
		w, err := fleet.ParseWhere(name)
		if err != nil || w.All() || strings.ContainsAny(name, " ()<>=!~'\"") {
			return nil, nil, usagef("%q is no column: want fields of a mower such as battery, or topic:path such as power/battery:voltage", name)
		}
		topics = append(topics, w.Topics()...)
		title := strings.ToUpper(name)
		if strings.Contains(name, ":") {
			title = name
		} else if name = strings.ToLower(name); name == "id" {
			title = "MOWER"
		}
		columns = append(columns, mowerColumn{name, title})
	}
	return columns, topics, nil
}

// value returns what a column has of a mower.
func (c mowerColumn) value(m *fleet.Mower, now time.Time) fleet.Value {
	if i := strings.LastIndexByte(c.name, ':'); i >= 0 {
		if msg := m.Topic(c.name[:i]); msg != nil {
			return msg.At(c.name[i+1:])
		}
		return fleet.Value{}
	}
	return m.Field(c.name, now)
}

// cell shows a column of a mower.
func (c mowerColumn) cell(m *fleet.Mower, now time.Time) cell {
	v := c.value(m, now)
	if !v.Known() {
		return text("-")
	}
	switch c.name {
	case "online":
		if m.Online {
			return cell{"online", green}
		}
		return cell{"offline", red}
	case "battery":
		s := plain
		if *m.Battery < 20 {
			s = yellow
		}
		if m.Charging {
			return cell{fmt.Sprintf("%.0f%% +", *m.Battery), s}
		}
		return cell{fmt.Sprintf("%.0f%%", *m.Battery), s}
	case "stop":
		if m.Stop == fleet.StopEngaged {
			return cell{"ENGAGED", red}
		}
	case "alerts":
		if len(m.Alerts) == 0 {
			return text("-")
		}
		return cell{fmt.Sprintf("%d %s", len(m.Alerts), m.Worst), severityStyle(m.Worst)}
	case "worst":
		return cell{m.Worst, severityStyle(m.Worst)}
	case "age":
		age, _ := m.Age(now)
		return text(shortDuration(age.Truncate(time.Second)))
	case "lost", "backlog":
		if n, _ := v.Number(); n > 0 {
			return cell{v.Text(), yellow}
		}
	case "x", "y":
		n, _ := v.Number()
		return text(strconv.FormatFloat(n, 'f', 2, 64))
	}
	return text(clip(v.Text(), 60))
}

// sortMowers sorts by a column, with a minus in front from the greatest on; those without a value are last. Of equals the id decides.
func sortMowers(all []*fleet.Mower, by string, now time.Time) error {
	name, down := strings.CutPrefix(by, "-")
	columns, _, err := mowerColumns([]string{name})
	if err != nil {
		return usagef("--sort: %w", errors.Unwrap(err))
	}
	slices.SortFunc(all, func(a, b *fleet.Mower) int {
		va, vb := columns[0].value(a, now), columns[0].value(b, now)
		order := 0
		switch {
		case va.Known() != vb.Known():
			if va.Known() {
				return -1
			}
			return 1
		case columns[0].name == "worst":
			order = cmp.Compare(a.WorstRank(), b.WorstRank())
		default:
			order = va.Compare(vb)
		}
		if down {
			order = -order
		}
		return cmp.Or(order, cmp.Compare(a.ID, b.ID))
	})
	return nil
}
