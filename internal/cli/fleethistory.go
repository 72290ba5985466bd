package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/topic"
)

func (t *tool) fleetHistory(f *fleetAccess) *cobra.Command {
	l := fleetLook{fleetAccess: f}
	var since, until string
	var all bool
	q := fleet.HistoryQuery{}
	c := &cobra.Command{
		Use:   "history MOWER[,MOWER...] [TOPIC...]",
		Short: "Print what mowers have said",
		Long: `history prints messages of the history that the engine keeps: readings, events and alerts, each with the time when the mower had it. Topics are
relative and may be filters (power/#, system/events/+); without any it prints all. --since and --until are a time ago (90m, 36h, 7d) or a time
(2026-05-01, 2026-05-01T12:30, by the local clock, or with a zone), by the mower's clock.

It keeps the last --limit messages of that span, and sorts them by time. With --limit 0 it prints all, as they were stored. A state that has no history,
such as that of a service, is in "lawnberry fleet info".`,
		Example: `  lawnberry fleet history mower-0042
  lawnberry fleet history mower-0042 power/battery --since 7d --limit 0 --json
  lawnberry fleet history mower-0042,mower-0043 'system/events/+' --follow
  lawnberry fleet history --all 'safety/#' --since 1d`,
		Args: arguments(0, -1),
		RunE: func(c *cobra.Command, args []string) error {
			if !all {
				if len(args) == 0 {
					return usagef("MOWER is missing: name one or more, or all with --all")
				}
				var err error
				if q.Mowers, err = mowerList(args[0]); err != nil {
					return err
				}
				args = args[1:]
			}
			for _, f := range args {
				if err := topic.CheckFilter(f); err != nil {
					return usagef("%w", err)
				}
			}
			q.Filters = args
			var err error
			now := time.Now()
			if q.Since, err = timeOf(since, now); err != nil {
				return usagef("--since %q: %w", since, err)
			}
			if q.Until, err = timeOf(until, now); err != nil {
				return usagef("--until %q: %w", until, err)
			}
			switch {
			case q.Limit < 0 || q.Limit > 1_000_000:
				return usagef("--limit %d: want 0 for all, or up to a million", q.Limit)
			case q.Follow && until != "":
				return usagef("--follow goes on for ever: --until makes no sense with it")
			case until != "" && q.Until.Before(q.Since):
				return usagef("--until is before --since")
			}
			if err := l.check(); err != nil {
				return err
			}
			if err := l.noHistory(t); err != nil {
				return err
			}
			return l.withJetStream(c.Context(), t, func(ctx context.Context, js jetstream.JetStream) error {
				return interrupted(ctx, t.printHistory(ctx, js, q, l.timeout))
			})
		},
	}
	l.timeFlag(c)
	c.Flags().Lookup("timeout").Usage = "give up when nothing has come for this long"
	c.Flags().StringVar(&since, "since", "1h", "from this `TIME` on; \"\" is the beginning")
	c.Flags().StringVar(&until, "until", "", "up to this `TIME`")
	c.Flags().IntVarP(&q.Limit, "limit", "n", 1000, "the last `N` of them; 0 is all")
	c.Flags().BoolVarP(&q.Follow, "follow", "f", false, "go on with what comes")
	c.Flags().BoolVar(&all, "all", false, "of all mowers")
	return c
}

// timeOf reads a time, or how long ago one is; "" is none.
func timeOf(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseFloat(days, 64); err == nil && n >= 0 && n < 36_500 {
			return now.Add(-time.Duration(n * 24 * float64(time.Hour))), nil
		}
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04:05", "2006-01-02 15:04", time.DateOnly} {
		if at, err := time.ParseInLocation(layout, text, time.Local); err == nil { //nolint:gosmopolitan // as its user reads the clock
			return at, nil
		}
	}
	return time.Time{}, errors.New("want a time ago such as 90m or 7d, or a time such as 2026-05-01T12:30")
}

// printHistory prints records. patience is how long it waits for the next while there should be one.
func (t *tool) printHistory(ctx context.Context, js jetstream.JetStream, q fleet.HistoryQuery, patience time.Duration) error {
	colour := t.colour(t.stdout)
	several := len(q.Mowers) != 1
	q.Patience = patience
	for r, err := range fleet.History(ctx, js, q) {
		if err != nil {
			if errors.Is(err, fleet.ErrSilent) {
				return failf(exitTimeout, "%w", err)
			}
			return err
		}
		if t.json {
			if err := writeJSONLine(t.stdout, r); err != nil {
				return err
			}
			continue
		}
		mower := ""
		if several {
			mower = r.Mower + "  "
		}
		said := briefly(r.Message)
		if r.Problem != "" {
			said = paint(colour, yellow, r.Problem)
		} else {
			said = printable(said)
		}
		if _, err := fmt.Fprintf(t.stdout, "%s  %s%s  %s\n", r.Time.Local().Format("2006-01-02 15:04:05.000"), mower, paint(colour, cyan, printable(r.Topic)), said); err != nil {
			return err
		}
	}
	return nil
}

// briefly returns what a message says, without what it says of itself: the readings, or else the payload, or else all.
func briefly(body []byte) string {
	var m struct {
		Metadata json.RawMessage `json:"metadata"`
		Payload  json.RawMessage `json:"payload"`
	}
	if json.Unmarshal(body, &m) != nil || m.Metadata == nil || m.Payload == nil {
		return compact(body)
	}
	var readings struct {
		Kind string          `json:"sensor_type"`
		Data json.RawMessage `json:"data"`
	}
	if json.Unmarshal(m.Payload, &readings) == nil && readings.Kind != "" && readings.Data != nil {
		return compact(readings.Data)
	}
	return compact(m.Payload)
}
