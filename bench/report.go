package main

import (
	"fmt"
	"slices"
	"strings"
)

// A goal compares two figures of one run.
type goal struct {
	text       string
	measure    string
	us         string
	them       []string // the best of them counts
	factor     float64
	least      bool // ours is at least factor times theirs, otherwise at most
	highIsGood bool // of theirs the highest is the best
}

var mosquittos = []string{"mosquitto", "mosquitto, nodelay"}

func goals() []goal {
	var g []goal
	for _, f := range flows {
		for qos, factor := range []float64{5, 4, 6} {
			m := flowName(byte(qos), f.name)
			g = append(g, goal{m + fmt.Sprintf(": at least %g times the better Mosquitto", factor), m, "lawnberry", mosquittos, factor, true, true})
			if qos == 0 {
				g = append(g, goal{m + ": at least 0.7 of the bare relay", m, "lawnberry", []string{"relay"}, 0.7, true, true})
			}
			g = append(g, goal{m + ": processor time per message at most a quarter of Mosquitto's", m + ", CPU", "lawnberry", mosquittos, 0.25, false, false})
		}
	}
	q0, q2 := "request and response, QoS 0, p50", "request and response, QoS 2, p50"
	return append(g,
		goal{"stored session, synced: at least 3 times mochi with Pebble", "stored, QoS 1, 64 publishers", "lawnberry", []string{"mochi"}, 3, true, true},
		goal{"round trip at QoS 0: at most 1.3 times the bare relay", q0, "lawnberry", []string{"relay"}, 1.3, false, false},
		goal{"round trip at QoS 2: at most half of Mosquitto with nodelay", q2, "lawnberry", []string{"mosquitto, nodelay"}, 0.5, false, false},
		goal{"round trip at QoS 0 over the Unix socket: at most 0.85 of TCP", q0, "lawnberry, Unix socket", []string{"lawnberry"}, 0.85, false, false},
		goal{"round trip at QoS 2 over the Unix socket: at most 0.85 of TCP", q2, "lawnberry, Unix socket", []string{"lawnberry"}, 0.85, false, false},
		goal{"command at QoS 2: at most 1.6 times the bare relay's four hops", callP50, "lawnberry", []string{"relay"}, 1.6, false, false},
		goal{"command at QoS 2: no slower than NATS request and reply", callP50, "lawnberry", []string{plainNATS.name}, 1, false, false},
	)
}

var limits = []struct {
	measure string
	limit   float64
}{
	{"memory, 5,000 idle connections", 150},
	{"memory, 100,000 retained of 200 B", 120},
	{"memory, idle", 30},
	{demoCPU, 2},
	{demoRSS, 40},
	{"match among 100,000 subscriptions", 5},
	{callAllocations, 25},
}

func number(v float64) string {
	switch {
	case v >= 1_000_000:
		return fmt.Sprintf("%d,%03d,000", int(v)/1_000_000, int(v)/1000%1000)
	case v >= 100_000:
		return fmt.Sprintf("%.0f,000", v/1000)
	case v >= 1000:
		return fmt.Sprintf("%d,%03d", int(v)/1000, int(v)%1000)
	case v >= 10:
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// judge says whether a goal is met, "" when it was not measured.
func (r *report) judge(g goal) string {
	ours := r.get(g.measure, g.us)
	var best float64
	for _, name := range g.them {
		if v := r.get(g.measure, name).median(); v > 0 && (best == 0 || v > best == g.highIsGood) {
			best = v
		}
	}
	if ours == nil || best == 0 {
		return ""
	}
	ratio := ours.median() / best
	word := "missed"
	if g.least == (ratio >= g.factor) || ratio == g.factor {
		word = "met"
	}
	return fmt.Sprintf("| %s | %.2f | %s |\n", g.text, ratio, word)
}

func (r *report) markdown() string {
	var b strings.Builder
	b.WriteString("# Benchmarks\n\nWritten by `make bench`. The brokers run as processes of their own, all loaded by the same client (MQTT 3.1.1 on a bare socket, prepared " +
		"bytes, at most 100 unacknowledged messages a publisher), one after the other in each round. A figure is the median of the rounds, with the lowest and the " +
		"highest. Every message is counted and its order is checked. The relay forwards the same bytes without being a broker, read in pieces of 32 KiB as io.Copy does: it is the limit. For round trips all of them run beside each " +
		"other and take turns of a tenth of a second. " +
		"Commands are calls through our Go client, 200 bytes of parameters there and back, both ends of it in one process and each broker in another; beside them the same " +
		"with the Go client of NATS and nats-server, which delivers at most once, and the relay.\n\n")
	fmt.Fprintf(&b, "Machine: %s. Rounds: %d. Versions:", r.Machine, r.Rounds)
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range r.Versions {
			if !yield(name) {
				return
			}
		}
	}) {
		fmt.Fprintf(&b, " %s %s;", name, r.Versions[name])
	}
	b.WriteString(" lawnberry of this tree, with its store on (every acknowledged change synced).\n")
	b.WriteString("Mosquitto is measured as Debian installs it, and with `set_tcp_nodelay true`, `max_queued_messages 0` and `max_inflight_messages 0` (nodelay). " +
		"mochi has room for 1,048,576 waiting packets a client instead of its 8,192, and for 65,535 in flight.\n")
	last := ""
	for _, x := range r.sorted() {
		if x.Measure != last {
			fmt.Fprintf(&b, "\n## %s\n\n| | %s | lowest | highest | lost |\n|---|---|---|---|---|\n", x.Measure, x.Unit)
			last = x.Measure
		}
		lost := ""
		if x.Of > 0 {
			lost = fmt.Sprintf("%d of %d", x.Lost, x.Of)
		}
		if x.Wrong > 0 {
			lost += fmt.Sprintf(", %d out of order", x.Wrong)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", x.Broker, number(x.median()), number(slices.Min(x.Values)), number(slices.Max(x.Values)), lost)
	}
	if len(r.Notes) > 0 {
		b.WriteString("\n## What went wrong\n\n")
		for _, n := range r.Notes {
			fmt.Fprintf(&b, "- %s\n", n)
		}
	}
	b.WriteString("\n## Goals\n\n| Goal | Ratio or figure | |\n|---|---|---|\n")
	for _, g := range goals() {
		b.WriteString(r.judge(g))
	}
	for _, l := range limits {
		if x := r.get(l.measure, "lawnberry"); x != nil {
			word := "missed"
			if x.median() < l.limit {
				word = "met"
			}
			fmt.Fprintf(&b, "| %s: under %g %s | %s | %s |\n", l.measure, l.limit, x.Unit, number(x.median()), word)
		}
	}
	b.WriteString("\nTo repeat: `make bench`; a quick look: `make bench BENCHFLAGS=--quick`. Other load on the machine changes the figures, the ratios less.\n")
	return b.String()
}

// sorted returns the results with those of one measure together.
func (r *report) sorted() []*result {
	var order []string
	for _, x := range r.Results {
		if !slices.Contains(order, x.Measure) {
			order = append(order, x.Measure)
		}
	}
	out := slices.Clone(r.Results)
	slices.SortStableFunc(out, func(a, b *result) int { return slices.Index(order, a.Measure) - slices.Index(order, b.Measure) })
	return out
}
