package cli

import (
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/lawnberry/lawnberry/internal/demo"
)

// The lawn of the demo, in metres, and the size of its map on the screen.
const (
	lawnWidth  = 20.0
	lawnDepth  = 15.0
	mapColumns = 40
	mapRows    = 11 // at most; fewer on a low terminal
	panelWidth = 36 // of the services, beside the map
)

// A view draws the state of a demo as lines for a terminal. It remembers where the mower has been.
type view struct {
	url    string
	colour bool
	been   map[[2]int]bool // cells of half a metre
	last   demo.Position
	drawn  bool
}

func newView(url string, colour bool) *view {
	return &view{url: url, colour: colour, been: map[[2]int]bool{}}
}

// trailCell is the size of the cells that the trail is kept in, in metres.
const trailCell = 0.5

// follow marks the way from the last position.
func (v *view) follow(p demo.Position) {
	steps := 1
	if distance := math.Hypot(p.X-v.last.X, p.Y-v.last.Y); v.drawn && distance < 5 {
		steps = 1 + int(distance/trailCell*2)
	}
	for i := 1; i <= steps; i++ {
		part := float64(i) / float64(steps)
		x, y := v.last.X+(p.X-v.last.X)*part, v.last.Y+(p.Y-v.last.Y)*part
		v.been[[2]int{int(x / trailCell), int(y / trailCell)}] = true
	}
	v.last, v.drawn = p, true
}

// frame returns the lines of one frame, no longer than width and at most height.
func (v *view) frame(d demo.View, log []string, width, height int) []string {
	if d.Activity != "" { // else there is no position yet
		v.follow(d.Position)
	}
	lines := []string{
		fit(paint(v.colour, bold, "lawnberry demo")+"  "+shortDuration(d.Uptime.Truncate(time.Second))+"  "+v.url, width),
		"",
	}
	figures := v.figures(d, width)
	left := v.services(d)
	rows := min(mapRows, height-len(lines)-len(figures)-len(log)-3)
	var right []string
	if width >= panelWidth+mapColumns+2 && rows >= 4 {
		right = v.lawn(d, rows)
	}
	for i := range max(len(left), len(right)) {
		line := ""
		if i < len(left) {
			line = left[i]
		}
		if i < len(right) {
			line += strings.Repeat(" ", max(0, panelWidth-visible(line))) + right[i]
		}
		lines = append(lines, fit(line, width))
	}
	lines = append(append(lines, ""), figures...)
	for _, l := range log {
		lines = append(lines, fit(paint(v.colour, dim, printable(l)), width))
	}
	return lines[:min(len(lines), height)]
}

func (v *view) services(d demo.View) []string {
	rows := table{header: []string{"SERVICE", "STATE"}}
	for _, s := range d.Services {
		rows.add(text(s.ID), cell{s.State, stateStyle(s.State)})
	}
	var b strings.Builder
	rows.write(&b, v.colour)
	return strings.Split(strings.TrimRight(b.String(), "\n"), "\n")
}

func (v *view) figures(d demo.View, width int) []string {
	lost := plain
	if d.Lost > 0 {
		lost = red
	}
	failed := plain
	if d.CommandsFailed > 0 {
		failed = red
	}
	alert, alertStyle := "none", dim
	if d.LastAlert != "" {
		alert, alertStyle = d.LastAlert+", "+shortDuration(time.Since(d.LastAlertAt).Truncate(time.Second))+" ago", yellow
	}
	lines := [][2]string{
		{"position", fmt.Sprintf("x %5.2f m  y %5.2f m  heading %3.0f°  %4.2f m/s", d.Position.X, d.Position.Y, d.Position.Heading, d.Position.Speed)},
		{"activity", fmt.Sprintf("%s, %.0f%% of the lawn done", orUnknown(d.Activity), d.AreaDone*100)},
		{"stop", v.stop(d.Stop)},
		{"motors", v.motors(d.Stop)},
		{"battery", v.battery(d)},
		{"messages", fmt.Sprintf("%.1f/s  %d published  %d delivered  ", d.RatePerSecond, d.Published, d.Delivered) + paint(v.colour, lost, fmt.Sprintf("%d lost", d.Lost))},
		{"latency", fmt.Sprintf("p50 %s  p99 %s  max %s, one way", milliseconds(d.P50), milliseconds(d.P99), milliseconds(d.Max))},
		{"commands", fmt.Sprintf("%d done  ", d.CommandsOK) + paint(v.colour, failed, fmt.Sprintf("%d failed", d.CommandsFailed)) +
			fmt.Sprintf("  round trip p50 %s  p99 %s", milliseconds(d.RoundTrip.P50), milliseconds(d.RoundTrip.P99))},
		{"alert", paint(v.colour, alertStyle, printable(alert))},
	}
	shown := make([]string, 0, len(lines))
	for _, l := range lines {
		shown = append(shown, fit(paint(v.colour, bold, fmt.Sprintf("%-10s", l[0]))+l[1], width))
	}
	return shown
}

// stop says what the emergency stop is.
func (v *view) stop(s demo.StopView) string {
	since := shortDuration(time.Since(s.Since).Truncate(time.Second))
	switch {
	case s.Engaged && s.By == "":
		return paint(v.colour, yellow, "engaged, as long as it is "+printable(s.Reason))
	case s.Engaged:
		return paint(v.colour, red, fmt.Sprintf("ENGAGED by %s for %s: %s", printable(s.By), since, printable(s.Reason)))
	}
	return paint(v.colour, green, "released") + fmt.Sprintf("  %s so far%s", plural(int(s.Engagements), "engagement"), lastStop(s))
}

func lastStop(s demo.StopView) string {
	if s.Last <= 0 {
		return ""
	}
	return fmt.Sprintf(", the wheels stood after %.0f ms", float64(s.Last)/float64(time.Millisecond))
}

// motors says what turns, and who drives or why nobody does.
func (v *view) motors(s demo.StopView) string {
	if !s.Known {
		return "unknown"
	}
	turns := func(what string, does bool) string {
		if does {
			return what + " turning"
		}
		return what + " standing"
	}
	line := turns("wheels", s.Wheels) + ", " + turns("blade", s.Blade)
	if s.Driver != "" {
		return line + ", driven by " + printable(s.Driver)
	}
	if s.Engaged {
		line += lastStop(s)
	}
	if s.Cause != "" {
		line += ", stopped: " + printable(s.Cause)
	}
	return line
}

func (v *view) battery(d demo.View) string {
	if math.IsNaN(d.Battery) {
		return "unknown"
	}
	const cells = 20
	full := min(max(int(d.Battery/100*cells+0.5), 0), cells)
	s := green
	switch {
	case d.Battery < 20:
		s = red
	case d.Battery < 40:
		s = yellow
	}
	bar := paint(v.colour, s, strings.Repeat("█", full)) + strings.Repeat("░", cells-full)
	note := ""
	if d.Charging {
		note = "  charging"
	}
	return fmt.Sprintf("%s %5.1f%%%s", bar, d.Battery, note)
}

// lawn draws the map, north up: what is mown, and the mower with its heading.
func (v *view) lawn(d demo.View, rows int) []string {
	column := func(x float64) int { return min(max(int(x/lawnWidth*mapColumns), 0), mapColumns-1) }
	row := func(y float64) int { return min(max(rows-1-int(y/lawnDepth*float64(rows)), 0), rows-1) }
	grid := make([][]rune, rows)
	for i := range grid {
		grid[i] = []rune(strings.Repeat(" ", mapColumns))
	}
	for c := range v.been {
		grid[row((float64(c[1])+0.5)*trailCell)][column((float64(c[0])+0.5)*trailCell)] = '·'
	}
	arrows := []rune("↑↗→↘↓↙←↖") // clockwise from north
	arrow := arrows[int(math.Mod(d.Position.Heading+360+22.5, 360)/45)%len(arrows)]
	mowerRow, mowerColumn := row(d.Position.Y), column(d.Position.X)
	border := "+" + strings.Repeat("-", mapColumns) + "+"
	lines := []string{border}
	for i, g := range grid {
		line := string(g)
		if i == mowerRow {
			line = string(g[:mowerColumn]) + paint(v.colour, bold, string(arrow)) + string(g[mowerColumn+1:])
		}
		lines = append(lines, "|"+line+"|")
	}
	return append(lines, border)
}

// statusLine is the state of a demo in one line, for where there is no terminal.
func statusLine(d demo.View) string {
	healthy := 0
	for _, s := range d.Services {
		if s.State == "healthy" {
			healthy++
		}
	}
	battery := "?"
	if !math.IsNaN(d.Battery) {
		battery = fmt.Sprintf("%.1f%%", d.Battery)
	}
	line := fmt.Sprintf("%-6s %d/%d healthy  %s  x %.2f y %.2f  battery %s  %.1f msg/s  delivered %d  lost %d  p99 %s",
		shortDuration(d.Uptime.Truncate(time.Second)), healthy, len(d.Services), orUnknown(d.Activity), d.Position.X, d.Position.Y, battery,
		d.RatePerSecond, d.Delivered, d.Lost, milliseconds(d.P99))
	if d.Stop.Engaged {
		line += "  emergency stop: " + printable(d.Stop.Reason)
	}
	if d.LastAlert != "" {
		line += "  alert: " + printable(d.LastAlert)
	}
	return line
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return printable(s)
}

// fit cuts a line to the width of the terminal, leaving out its colours' codes in the count.
func fit(line string, width int) string {
	if visible(line) <= width {
		return line
	}
	var b strings.Builder
	shown := 0
	for i := 0; i < len(line); {
		if line[i] == '\x1b' {
			end := strings.IndexByte(line[i:], 'm')
			if end < 0 {
				break
			}
			b.WriteString(line[i : i+end+1])
			i += end + 1
			continue
		}
		r, size := utf8.DecodeRuneInString(line[i:])
		if shown < width {
			b.WriteRune(r)
			shown++
		}
		i += size
	}
	return b.String()
}

// visible counts the characters of a line that show.
func visible(line string) int {
	n := 0
	for i := 0; i < len(line); {
		if line[i] == '\x1b' {
			if end := strings.IndexByte(line[i:], 'm'); end >= 0 {
				i += end + 1
				continue
			}
		}
		_, size := utf8.DecodeRuneInString(line[i:])
		i += size
		n++
	}
	return n
}
