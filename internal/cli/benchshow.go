package cli

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/internal/load"
)

// leastPerSecond is how many messages a second a mower needs.
const leastPerSecond = 1000

// A benchOutput is what bench prints.
type benchOutput struct {
	*load.Result

	Verdict     []string          `json:"verdict"`
	Differences []load.Difference `json:"differences,omitempty"`
	Unlike      []string          `json:"settings_changed,omitempty"` // since the measurement that it is compared with
}

// verdicts says what the figures mean for a mower.
func verdicts(r *load.Result) []string {
	var v []string
	if r.Latency == nil {
		return []string{"nothing came: the figures say nothing"}
	}
	stop, slowest := load.Stop.Milliseconds(), timeInWords(r.Latency.Max)
	switch share := float64(r.TooLate) / float64(r.Latency.Count); {
	case r.Kind == load.Throughput:
		v = append(v, enough(r))
		if r.Loop == "full" {
			v = append(v, "the times are those of messages that wait in full queues; what it is like otherwise shows bench latency")
		}
	case r.TooLate == 0:
		v = append(v, fmt.Sprintf("fast enough for the emergency stop: the slowest of %s took %s, and %d ms are allowed",
			thousands(uint64(r.Latency.Count)), slowest, stop))
	case share < 0.01:
		v = append(v, fmt.Sprintf("not always fast enough for the emergency stop: %s of %s took longer than the %d ms that are allowed, the slowest %s",
			thousands(uint64(r.TooLate)), thousands(uint64(r.Latency.Count)), stop, slowest))
	default:
		v = append(v, fmt.Sprintf("too slow for the emergency stop: %.1f%% took longer than the %d ms that are allowed", share*100, stop))
	}
	if r.Late > max(1, r.Latency.P99/2) {
		v = append(v, fmt.Sprintf("this machine was too busy to send on time: one in a hundred left %s late or more, which the times include",
			timeInWords(r.Late)))
	}
	if r.Lost > 0 {
		v = append(v, "and some were lost, which is worse than late")
	}
	return v
}

// enough says whether a mower can do with so many messages.
func enough(r *load.Result) string {
	rate := r.Received.PerSecond
	switch asked := r.Settings.Rate * float64(r.Settings.Subscribers); {
	case rate >= leastPerSecond:
		return fmt.Sprintf("fast enough for a mower: %s messages a second, and it needs %s", thousands(uint64(rate)), thousands(leastPerSecond))
	case asked > 0 && asked < leastPerSecond && rate > asked*0.95:
		return fmt.Sprintf("it kept up with the %g messages a second that --rate asks for; whether it can do the %s of a mower shows without --rate",
			r.Settings.Rate, thousands(leastPerSecond))
	}
	return fmt.Sprintf("too slow for a mower: %s messages a second, and it needs %s", thousands(uint64(rate)), thousands(leastPerSecond))
}

// thousands is a number with a comma after each three digits.
func thousands(n uint64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// timeInWords is a time in milliseconds, with three digits that say something.
func timeInWords(ms float64) string {
	switch {
	case ms < 1:
		return fmt.Sprintf("%.3f ms", ms)
	case ms < 10:
		return fmt.Sprintf("%.2f ms", ms)
	case ms < 100:
		return fmt.Sprintf("%.1f ms", ms)
	case ms < 10_000:
		return fmt.Sprintf("%.0f ms", ms)
	}
	return fmt.Sprintf("%.1f s", ms/1000)
}

// inBytes is an amount of bytes.
func inBytes(n float64) string {
	switch {
	case n < 1e3:
		return fmt.Sprintf("%.0f B", n)
	case n < 1e6:
		return fmt.Sprintf("%.1f kB", n/1e3)
	case n < 1e9:
		return fmt.Sprintf("%.1f MB", n/1e6)
	}
	return fmt.Sprintf("%.2f GB", n/1e9)
}

// print writes it for people.
func (o *benchOutput) print(t *tool) error {
	var b strings.Builder
	colour := t.colour(t.stdout)
	r := o.Result
	o.head(&b)
	if l := r.Latency; l != nil {
		figures := table{header: []string{"LATENCY", "P50", "P90", "P99", "P99.9", "MAX", "MEAN", "STDDEV"}}
		row := []cell{text(fmt.Sprintf("of %s", thousands(uint64(l.Count))))}
		for _, v := range []float64{l.P50, l.P90, l.P99, l.P999, l.Max, l.Mean, l.StdDev} {
			row = append(row, text(timeInWords(v)))
		}
		figures.add(row...)
		figures.write(&b, colour)
		fmt.Fprintln(&b)
		histogram(&b, r.Bars)
		fmt.Fprintln(&b)
	}
	volumes := table{header: []string{"", "MESSAGES", "BYTES", "MESSAGES/S", "BYTES/S"}}
	for _, v := range []struct {
		name string
		of   load.Volume
	}{{"sent", r.Sent}, {"received", r.Received}} {
		volumes.add(text(v.name), text(thousands(v.of.Messages)), text(inBytes(float64(v.of.Bytes))),
			text(thousands(uint64(v.of.PerSecond))), text(inBytes(v.of.BytesPerSecond)))
	}
	volumes.write(&b, colour)
	o.losses(&b, colour)
	for _, u := range []struct {
		who string
		of  load.Usage
	}{{"bench", r.Load}, {"broker", r.BrokerUsage}} {
		fmt.Fprintf(&b, "%s: %s\n", u.who, usage(u.of, r.Seconds))
	}
	fmt.Fprintln(&b)
	for _, v := range o.Verdict {
		fmt.Fprintln(&b, v)
	}
	o.changes(&b, colour)
	_, err := fmt.Fprint(t.stdout, b.String())
	return err
}

// head says what was measured.
func (o *benchOutput) head(b *strings.Builder) {
	r, s := o.Result, o.Settings
	broker := cmp.Or(r.Broker.Version, "a broker that does not say what it is")
	if r.Broker.Process != "" {
		broker += ", " + r.Broker.Process
	}
	loops := map[string]string{"open": ", open loop", "closed": ", closed loop"}
	fmt.Fprintf(b, "%s%s: %s (%s), MQTT %s\n", r.Kind, loops[r.Loop], printable(r.Broker.URL), printable(broker), r.Broker.MQTT)
	pace := "as fast as it goes"
	switch {
	case s.Rate > 0:
		pace = fmt.Sprintf("%g a second", s.Rate)
	case r.Loop == "closed":
		pace = "each when the one before had come"
	}
	if r.Kind == load.Command {
		whose := "an echo"
		if s.Service != "" {
			whose = s.Service + " " + s.Command
		}
		fmt.Fprintf(b, "%s, called over %d connections, %d B, QoS %d, %s, measured for %.1f s\n", whose, s.Publishers, s.Size, s.QoS, pace, r.Seconds)
	} else {
		retained := ""
		if s.Retain {
			retained = ", retained"
		}
		fmt.Fprintf(b, "%d to %d, %d B, QoS %d%s, %s, measured for %.1f s\n", s.Publishers, s.Subscribers, s.Size, s.QoS, retained, pace, r.Seconds)
	}
	if r.Interrupted {
		fmt.Fprintln(b, "interrupted: this is what was measured until then")
	}
	fmt.Fprintln(b)
}

// losses says what did not come as it should.
func (o *benchOutput) losses(b *strings.Builder, colour bool) {
	r := o.Result
	count := func(n uint64, what string) string {
		s := plain
		if n > 0 {
			s = red
		}
		return paint(colour, s, thousands(n)+" "+what)
	}
	fmt.Fprintf(b, "%s, %s, %s", count(r.Lost, "lost"), count(r.Duplicates, "twice"), count(r.Disordered, "out of order"))
	if r.Foreign > 0 {
		fmt.Fprintf(b, ", and %s messages of others on these topics", thousands(r.Foreign))
	}
	fmt.Fprintln(b)
}

// usage says what one side has used.
func usage(u load.Usage, seconds float64) string {
	if u.Source == "unknown" {
		return "unknown what it used"
	}
	cpu := "processor unknown"
	if u.CPU != nil {
		cpu = fmt.Sprintf("%.2f s of processor", *u.CPU)
		if seconds > 0 {
			cpu += fmt.Sprintf(" (%.0f%% of a core)", *u.CPU/seconds*100)
		}
	}
	memory := "memory unknown"
	if u.Memory != nil {
		memory = inBytes(float64(*u.Memory)) + " of memory"
		if u.Source == "$SYS" {
			memory += " on its heap, as it says itself"
		}
	}
	return cpu + ", " + memory
}

// histogram draws bars as long as their share of the longest.
func histogram(b *strings.Builder, bars []load.Bar) {
	const widest = 40
	var most, all int64
	for _, bar := range bars {
		most, all = max(most, bar.Count), all+bar.Count
	}
	for _, bar := range bars {
		length := int(bar.Count * widest / most)
		if bar.Count > 0 {
			length = max(length, 1)
		}
		fmt.Fprintf(b, "up to %9s  %-*s %6.2f%%  %s\n", bound(bar.UpTo), widest, strings.Repeat("#", length),
			float64(bar.Count)/float64(all)*100, thousands(uint64(bar.Count)))
	}
}

// bound is the bound of a bar, which is 1, 2 or 5 of a power of ten.
func bound(ms float64) string {
	return time.Duration(ms * float64(time.Millisecond)).Round(time.Microsecond).String()
}

// changes says what is different since the measurement that it is compared with.
func (o *benchOutput) changes(b *strings.Builder, colour bool) {
	if len(o.Differences) == 0 {
		return
	}
	fmt.Fprintln(b)
	rows := table{header: []string{"SINCE THEN", "BEFORE", "NOW", "CHANGE", ""}}
	styles := map[string]style{load.Better: green, load.Worse: red}
	for _, d := range o.Differences {
		change := "-"
		if d.Percent != nil {
			change = fmt.Sprintf("%+.1f%%", *d.Percent)
		}
		rows.add(text(d.Figure), text(inUnit(d.Before, d.Unit)), text(inUnit(d.Now, d.Unit)), text(change), cell{d.Verdict, styles[d.Verdict]})
	}
	rows.write(b, colour)
	if len(o.Unlike) > 0 {
		fmt.Fprintf(b, "it was measured differently: %s\n", printable(strings.Join(o.Unlike, "; ")))
	}
}

func inUnit(v float64, unit string) string {
	switch unit {
	case "ms":
		return timeInWords(v)
	case "messages", "messages/s":
		return thousands(uint64(max(v, 0)))
	}
	return fmt.Sprintf("%.2f %s", v, unit)
}

// A progressBar is one line on a terminal that standard error is; elsewhere it is nothing.
type progressBar struct {
	w     io.Writer // nil is nowhere
	shown bool
}

func newProgressBar(t *tool) *progressBar {
	if !isTerminal(t.stderr) {
		return &progressBar{}
	}
	return &progressBar{w: t.stderr}
}

// show draws the line anew. It and clear are not called at the same time.
func (p *progressBar) show(now load.Progress) {
	if p.w == nil {
		return
	}
	const width = 30
	done := int(now.Share * width)
	line := fmt.Sprintf("[%s%s] %s", strings.Repeat("#", done), strings.Repeat(" ", width-done), shortDuration(now.Elapsed.Truncate(time.Second)))
	if now.WarmingUp {
		line += ", warming up"
	} else {
		line += fmt.Sprintf(", %s sent, %s received", thousands(now.Sent), thousands(now.Received))
	}
	fmt.Fprintf(p.w, "\r%s%s", line, clearLine)
	p.shown = true
}

// clear removes the line.
func (p *progressBar) clear() {
	if p.shown {
		fmt.Fprintf(p.w, "\r%s", clearLine)
		p.shown = false
	}
}
