package cli

import (
	"cmp"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/lawnberry/lawnberry/safety"
)

// reversed is how the chosen row looks.
const reversed style = "7"

// From these heights of the screen on, in lines, there is room for these parts of it.
const (
	linkFrom    = 2
	footerFrom  = 4
	tabsFrom    = 6
	standsFrom  = 7
	figuresFrom = 8
)

// lines draws the screen: no more lines than it has, none longer.
func (m *topModel) lines() []string {
	head := m.header()
	var foot []string
	if m.height >= footerFrom {
		foot = []string{m.footer()}
	}
	room := max(m.height-len(head)-len(foot), 0)
	var body []string
	switch {
	case m.help:
		body = m.scrolled(topHelp(), room)
	case m.open != "":
		body = m.scrolled(m.detail(), room)
	default:
		body = m.panes(room)
	}
	body = body[:min(len(body), room)]
	for len(body) < room {
		body = append(body, "")
	}
	all := append(append(head, body...), foot...)
	all = all[:min(len(all), m.height)]
	for i := range all {
		all[i] = fit(all[i], m.width)
	}
	return all
}

// header is what always stands above: first of all the emergency stop.
func (m *topModel) header() []string {
	head := []string{m.stopLine()}
	if stands := m.standsLine(); stands != "" && m.height >= standsFrom {
		head = append(head, stands)
	}
	if m.height >= linkFrom {
		head = append(head, m.linkLine())
	}
	if m.height >= figuresFrom {
		head = append(head, m.figuresLine())
	}
	if m.height >= tabsFrom && !m.help && m.open == "" {
		head = append(head, m.tabs())
	}
	return head
}

// age is how long ago a time is, in whole seconds.
func (m *topModel) age(at time.Time) string {
	return shortDuration(m.bus.at.Sub(at).Truncate(time.Second))
}

func (m *topModel) ago(at time.Time) string { return m.age(at) + " ago" }

// stopLine says what the emergency stop is, as every program that heeds it knows it.
func (m *topModel) stopLine() string {
	s := m.bus.state
	switch {
	case s.Engaged && !s.Known && s.By == "":
		return paint(m.colour, red, "STOP unknown, which is engaged") + ": " + printable(strings.TrimPrefix(s.Reason, "not known: "))
	case s.Engaged:
		since := ""
		if !s.Since.IsZero() {
			since = " " + m.ago(s.Since)
		}
		return paint(m.colour, red, "STOP ENGAGED"+since+" by "+printable(cmp.Or(s.By, "?"))) + ": " + printable(s.Reason)
	}
	return paint(m.colour, green, "STOP released") + " " + m.ago(s.Since) + " by " + printable(s.By) + paint(m.colour, dim, "   s or space: STOP")
}

// standsLine says what became of a press, and who stands; "" while there is nothing of it.
func (m *topModel) standsLine() string {
	var parts []string
	if p := m.bus.press; !p.At.IsZero() && (m.bus.state.Engaged || !p.Confirmed) {
		what := "pressed " + p.At.Local().Format(time.TimeOnly)
		switch {
		case p.Confirmed:
			what += fmt.Sprintf(", sent after %s, confirmed", milliseconds(p.Took))
		case p.Error != "":
			what += paint(m.colour, red, ", NOT SENT YET: "+printable(p.Error))
		case p.Busy:
			what += ", is being sent"
		case !m.bus.link.Connected:
			what += paint(m.colour, red, ", NOT SENT YET: it is as soon as there is a connection")
		default:
			what += fmt.Sprintf(", sent after %s, not confirmed by the hub yet", milliseconds(p.Took))
		}
		parts = append(parts, what)
	}
	if m.bus.state.Engaged && m.bus.hub.Engaged && m.bus.hub.Known && m.bus.link.Connected {
		parts = append(parts, m.stands(m.bus.hub.Status))
	}
	return strings.Join(parts, "; ")
}

// stands says who has stopped, when, and who has not.
func (m *topModel) stands(s safety.Status) string {
	var yes, no []string
	for _, p := range s.Participants {
		switch {
		case p.Actuator && p.Confirmed:
			yes = append(yes, fmt.Sprintf("%s after %.1f ms", printable(p.Service), p.AfterMS))
		case p.Actuator:
			no = append(no, printable(p.Service))
		}
	}
	var parts []string
	if len(no) > 0 {
		parts = append(parts, paint(m.colour, red, "NOT CONFIRMED: "+strings.Join(no, ", ")))
	}
	if len(yes) > 0 {
		parts = append(parts, "stopped: "+strings.Join(yes, ", "))
	}
	if len(parts) == 0 {
		return "no service that drives something has reported"
	}
	return strings.Join(parts, "; ")
}

func (m *topModel) linkLine() string {
	l := m.bus.link
	if !l.Connected {
		line := paint(m.colour, red, "DISCONNECTED since "+l.Since.Local().Format(time.TimeOnly)+", "+m.ago(l.Since)) + " " + printable(l.URL)
		if l.Cause != "" {
			line += ": " + printable(l.Cause)
		}
		return line
	}
	line := fmt.Sprintf("%7.1f msg/s  %s/s  %s  connected %s", m.bus.rate, sizeOf(m.bus.bytes), printable(l.URL), m.age(l.Since))
	if l.Reconnects > 0 {
		line += ", " + plural(int(l.Reconnects), "reconnect")
	}
	return line
}

// sizeOf is a number of bytes as people compare them.
func sizeOf(n float64) string {
	for _, unit := range []string{"B", "kB", "MB"} {
		if n < 1000 {
			return fmt.Sprintf("%.1f %s", n, unit)
		}
		n /= 1000
	}
	return fmt.Sprintf("%.1f GB", n)
}

func (m *topModel) figuresLine() string {
	line := "late: no message says"
	if q := m.bus.latency; q.Count > 0 {
		line = fmt.Sprintf("late p50 %s  p99 %s  max %s", milliseconds(q.P50), milliseconds(q.P99), milliseconds(q.Max))
	}
	switch {
	case m.bus.hub.Took > 0:
		line += "  command " + milliseconds(m.bus.hub.Took)
	case m.bus.hub.Error != "":
		line += "  " + paint(m.colour, yellow, printable(m.bus.hub.Error))
	}
	if m.bus.lost > 0 {
		line += paint(m.colour, yellow, fmt.Sprintf("  %d too fast to count", m.bus.lost))
	}
	if beyond := m.bus.others + m.bus.unlisted; beyond > 0 {
		line += paint(m.colour, yellow, fmt.Sprintf("  %d messages of more topics and services than are kept", beyond))
	}
	for _, what := range m.bus.missing {
		line += paint(m.colour, yellow, "  no "+printable(what))
	}
	return line
}

// tabs names the panes, with what is in them.
func (m *topModel) tabs() string {
	var parts []string
	for p := range paneCount {
		name, st := fmt.Sprintf("%s %d", paneNames[p], m.size(p)), plain
		switch p {
		case paneServices:
			healthy := 0
			for _, s := range m.bus.services {
				if s.State == "healthy" {
					healthy++
				}
			}
			if name = fmt.Sprintf("services %d/%d", healthy, len(m.bus.services)); healthy < len(m.bus.services) {
				st = yellow
			}
		case paneAlerts:
			open := 0
			for _, a := range m.bus.alerts {
				if !a.Acknowledged {
					open++
				}
			}
			if open > 0 {
				name, st = fmt.Sprintf("alerts %d, %d new", len(m.bus.alerts), open), red
			}
		}
		if p == m.focus {
			if ways := orders(p); ways != nil {
				name += " by " + ways[m.order[p]]
			}
			name = "[" + name + "]"
		}
		parts = append(parts, paint(m.colour, st, name))
	}
	return strings.Join(parts, "  ")
}

func (m *topModel) size(p pane) int {
	switch p {
	case paneTopics:
		return len(m.bus.topics)
	case paneAlerts:
		return len(m.bus.alerts)
	case paneEvents:
		return len(m.bus.events)
	case paneStop:
		return len(m.bus.hub.Participants)
	case paneBroker:
		return len(m.bus.figures)
	}
	return len(m.bus.services)
}

func (m *topModel) footer() string {
	if m.filtering {
		return "/" + printable(m.filter) + "_" + paint(m.colour, dim, "  Enter: keep  Esc: all  space: STOP")
	}
	keys := "q: quit  s: STOP  ?: help  Tab: next  Enter: look into  /: filter  o: order"
	if m.help || m.open != "" {
		keys = "Esc: back  s: STOP  q: quit  arrows, PgUp, PgDn: scroll"
	}
	if m.filter != "" && !m.help && m.open == "" {
		return "filter " + paint(m.colour, yellow, printable(m.filter)) + paint(m.colour, dim, "  Esc: all  "+keys)
	}
	return paint(m.colour, dim, keys)
}

// leastRows is how many lines a pane needs that is not the chosen one.
const leastRows = 5

// panes draws the chosen pane, and as many others, in their order, as there is room for.
func (m *topModel) panes(room int) []string {
	number := min(max(room/leastRows-1, 1), int(paneCount))
	shown := map[pane]int{m.focus: 0} // lines of each
	for p := pane(0); p < paneCount && len(shown) < number; p++ {
		shown[p] = 0
	}
	left := room
	for p := range shown {
		if p != m.focus {
			shown[p] = leastRows - 1
			left -= leastRows
		}
	}
	need := len(m.list(m.focus).ids) + 1
	shown[m.focus] = max(min(left, need), min(left, leastRows))
	left -= shown[m.focus]
	for p := pane(0); p < paneCount && left > 0; p++ { // what is left goes to those who can use it
		if lines, ok := shown[p]; ok && p != m.focus {
			more := min(max(m.size(p)+1-lines, 0), left)
			shown[p] += more
			left -= more
		}
	}
	var all []string
	for p := range paneCount {
		lines, ok := shown[p]
		if !ok {
			continue
		}
		if len(all) > 0 {
			all = append(all, "")
		}
		all = append(all, m.paneLines(p, lines)...)
	}
	return all
}

// paneLines draws a pane: the header, and the rows around the chosen one.
func (m *topModel) paneLines(p pane, height int) []string {
	l := m.list(p)
	rows := max(height-1, 1)
	at := m.at(p, l.ids)
	first := min(max(m.first[p], at-rows+1, 0), at, max(len(l.ids)-rows, 0))
	m.first[p] = first
	if p == m.focus {
		m.rows = rows
	}
	shown := table{header: l.header}
	for i := first; i < min(first+rows, len(l.ids)); i++ {
		cells := l.cells(i)
		if p == m.focus && i == at {
			for j := range cells {
				cells[j].style = plain
			}
		}
		shown.add(cells...)
	}
	lines := tableLines(shown, m.colour)
	for i := range lines {
		mark := "  "
		if i > 0 && p == m.focus && first+i-1 == at {
			mark = "> "
			lines[i] = paint(m.colour, reversed, lines[i])
		}
		lines[i] = mark + lines[i]
	}
	if len(l.ids) == 0 {
		why := "none"
		if m.filter != "" {
			why = "none fits the filter"
		}
		lines = append(lines, "  "+paint(m.colour, dim, why))
	}
	return lines[:min(len(lines), max(height, 1))]
}

func tableLines(t table, colour bool) []string {
	var b strings.Builder
	t.write(&b, colour)
	return strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
}

// scrolled is the part of lines that is to be seen.
func (m *topModel) scrolled(long []string, room int) []string {
	var lines []string
	for _, line := range long {
		lines = append(lines, wrap(line, m.width)...)
	}
	m.rows = max(room, 1)
	m.scroll = min(m.scroll, max(len(lines)-m.rows, 0))
	return lines[m.scroll:]
}

// wrap breaks a line where the screen ends; what follows is indented.
func wrap(line string, width int) []string {
	const indent = "      "
	if visible(line) <= width || width <= 2*len(indent) {
		return []string{line}
	}
	var lines []string
	var b strings.Builder
	shown, colour := 0, "" // the codes of the style that holds
	for i := 0; i < len(line); {
		if line[i] == '\x1b' {
			if end := strings.IndexByte(line[i:], 'm'); end >= 0 {
				colour = line[i : i+end+1]
				if colour == styleEnd {
					colour = ""
				}
				b.WriteString(line[i : i+end+1])
				i += end + 1
				continue
			}
		}
		if shown == width {
			if colour != "" {
				b.WriteString(styleEnd)
			}
			lines = append(lines, b.String())
			b.Reset()
			b.WriteString(indent + colour)
			shown = len(indent)
		}
		_, size := utf8.DecodeRuneInString(line[i:])
		b.WriteString(line[i : i+size])
		shown++
		i += size
	}
	return append(lines, b.String())
}
