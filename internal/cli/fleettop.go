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

func (t *tool) fleetTop(f *fleetAccess) *cobra.Command {
	l := fleetLook{fleetAccess: f}
	var count int
	c := &cobra.Command{
		Use:   "top",
		Short: "Watch the fleet on the whole screen, mowers with alerts first",
		Long: `top shows the fleet live: mowers with alerts first, what each does, its charge, its messages per second, and what waits in its outbox. Arrow keys
or j and k choose, Enter looks into a mower, Esc goes back, / filters by a condition as --where has them, o sorts otherwise, q ends it.

It has no key that does anything to a mower: lawnberry fleet estop stops one. Messages per second are latest values that came through the engine, of the last
10 seconds. With --json it prints a line each second, and needs no terminal.`,
		Example: `  lawnberry fleet top
  lawnberry fleet top --where 'state=mowing'
  lawnberry fleet top --json --count 10`,
		Args: arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case count < 0:
				return usagef("--count cannot be negative")
			case count > 0 && !t.json:
				return usagef("--count needs --json: on a screen nothing is counted")
			}
			if err := l.check(); err != nil {
				return err
			}
			if err := t.wantsScreenFor("fleet top", `"lawnberry fleet top --json", "lawnberry fleet watch" and "lawnberry fleet ls"`); err != nil {
				return err
			}
			return l.withView(c.Context(), t, fleet.ViewOptions{}, func(ctx context.Context, v *fleet.View) error {
				m := newFleetModel(v, l.where, t.colour(t.stdout))
				if t.json {
					return interrupted(ctx, t.printFleet(ctx, m, count))
				}
				return t.showScreen(ctx, m)
			})
		},
	}
	l.flags(c)
	c.Flags().IntVarP(&count, "count", "n", 0, "with --json: end after `N` lines")
	return c
}

// A fleetTopLine is a line of fleet top --json.
type fleetTopLine struct {
	Time    time.Time  `json:"time"`
	Link    fleet.Link `json:"engine"`
	Mowers  int        `json:"mowers"`
	Online  int        `json:"online"`
	Alerts  int        `json:"with_alerts"`
	Stopped int        `json:"stopped"`
	Backlog int64      `json:"backlog"`
	Rate    float64    `json:"per_second"`
	Shown   []topMower `json:"shown"` // those that are selected, with alerts first
}

// A topMower is a mower in it.
type topMower struct {
	ID      string   `json:"id"`
	Online  bool     `json:"online"`
	State   string   `json:"state"`
	Battery *float64 `json:"battery"`
	Stop    string   `json:"stop"`
	Worst   string   `json:"worst"`
	Alerts  int      `json:"alerts"`
	Rate    float64  `json:"per_second"`
	Backlog int64    `json:"backlog"`
}

func (t *tool) printFleet(ctx context.Context, m *fleetModel, count int) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for printed := 0; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		m.look(time.Now())
		l := fleetTopLine{
			Time: m.at, Link: m.link, Mowers: m.sum.mowers, Online: m.sum.online, Alerts: m.sum.alerts, Stopped: m.sum.stopped, Backlog: m.sum.backlog, Rate: m.sum.rate,
			Shown: []topMower{},
		}
		for _, w := range m.shown {
			l.Shown = append(l.Shown, topMower{w.ID, w.Online, w.State, w.Battery, w.Stop, w.Worst, len(w.Alerts), m.rates.of(w), w.Backlog})
		}
		if err := writeJSONLine(t.stdout, l); err != nil {
			return err
		}
		if printed++; printed == count {
			return nil
		}
	}
}

// A fleetSource is what fleet top shows.
type fleetSource interface {
	Mowers() []*fleet.Mower
	Link() fleet.Link
}

// fleetSum is what the head of the screen says.
type fleetSum struct {
	mowers, online, alerts, stopped int
	backlog                         int64
	rate                            float64
}

// look takes in what is there now.
func (m *fleetModel) look(now time.Time) {
	all := m.source.Mowers()
	m.at, m.link = now, m.source.Link()
	m.rates.take(all, now)
	m.sum = fleetSum{mowers: len(all)}
	m.shown = m.shown[:0]
	for _, w := range all {
		if w.Online {
			m.sum.online++
		}
		if len(w.Alerts) > 0 {
			m.sum.alerts++
		}
		if w.Stop == fleet.StopEngaged {
			m.sum.stopped++
		}
		m.sum.backlog += w.Backlog
		m.sum.rate += m.rates.of(w)
		if m.where.Match(w, now) {
			m.shown = append(m.shown, w)
		}
	}
	m.sort()
}

// fleetOrders are the ways to sort.
var fleetOrders = []string{"alerts first", "id", "least battery", "most messages", "largest backlog", "longest silence"}

func (m *fleetModel) sort() {
	by := func(a, b *fleet.Mower) int {
		switch m.order {
		case 0:
			return cmp.Or(cmp.Compare(b.WorstRank(), a.WorstRank()), cmp.Compare(len(b.Alerts), len(a.Alerts)), compareBool(b.Online, a.Online))
		case 2:
			return cmp.Compare(batteryOf(a), batteryOf(b))
		case 3:
			return cmp.Compare(m.rates.of(b), m.rates.of(a))
		case 4:
			return cmp.Compare(b.Backlog, a.Backlog)
		case 5:
			return a.Heard.Compare(b.Heard)
		}
		return 0
	}
	slices.SortFunc(m.shown, func(a, b *fleet.Mower) int { return cmp.Or(by(a, b), cmp.Compare(a.ID, b.ID)) })
}

func compareBool(a, b bool) int {
	n := map[bool]int{true: 1}
	return cmp.Compare(n[a], n[b])
}

// batteryOf is the charge, or more than any where it is not known.
func batteryOf(m *fleet.Mower) float64 {
	if m.Battery == nil {
		return 1e9
	}
	return *m.Battery
}

// meterRates are messages per second of mowers, over the last ten seconds or so.
type meterRates struct {
	samples []rateSample // the oldest first, a second apart at least
	per     map[string]float64
}

type rateSample struct {
	at    time.Time
	count map[string]uint64
}

const rateSpan = 10 * time.Second

// take takes in how many messages have been heard.
func (r *meterRates) take(all []*fleet.Mower, now time.Time) {
	if n := len(r.samples); n > 0 && now.Sub(r.samples[n-1].at) < time.Second {
		return
	}
	count := make(map[string]uint64, len(all))
	for _, m := range all {
		count[m.ID] = m.Messages
	}
	r.samples = append(r.samples, rateSample{now, count})
	for len(r.samples) > 2 && now.Sub(r.samples[0].at) > rateSpan {
		r.samples = slices.Delete(r.samples, 0, 1)
	}
	old := r.samples[0]
	r.per = make(map[string]float64, len(all))
	if span := now.Sub(old.at).Seconds(); span > 0 {
		for id, n := range count {
			if before, known := old.count[id]; known && n >= before {
				r.per[id] = float64(n-before) / span
			}
		}
	}
}

func (r *meterRates) of(m *fleet.Mower) float64 { return r.per[m.ID] }

// header is what stands above: whether it can be relied on, and the whole fleet in figures.
func (m *fleetModel) header() []string {
	link := paint(m.colour, green, "engine "+printable(m.link.Server))
	if !m.link.Current {
		link = paint(m.colour, red, "NOT CURRENT since "+m.link.Since.Local().Format(time.TimeOnly)+": "+printable(cmp.Or(m.link.Problem, "the state is being read")))
	}
	figure := func(n int, what string, s style) string {
		text := fmt.Sprintf("%d %s", n, what)
		if n == 0 {
			return text
		}
		return paint(m.colour, s, text)
	}
	sums := []string{
		plural(m.sum.mowers, "mower"), figure(m.sum.mowers-m.sum.online, "offline", yellow), figure(m.sum.alerts, "with alerts", red), figure(m.sum.stopped, "stopped", red),
		fmt.Sprintf("%.0f messages/s", m.sum.rate), fmt.Sprintf("%d waiting", m.sum.backlog),
	}
	return []string{link, strings.Join(sums, "   ")}
}
