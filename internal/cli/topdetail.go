package cli

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// detail is everything about what is looked into.
func (m *topModel) detail() []string {
	switch m.focus {
	case paneTopics:
		return m.topicDetail()
	case paneAlerts:
		return m.alertDetail()
	case paneEvents:
		return m.eventDetail()
	}
	return m.serviceDetail()
}

// A page is text in parts.
type page struct {
	m     *topModel
	lines []string
}

func (m *topModel) page(title string) *page {
	return &page{m, []string{paint(m.colour, bold, printable(title))}}
}

func (p *page) part(title string, rows table) {
	if len(rows.rows) == 0 {
		return
	}
	if title != "" {
		p.lines = append(p.lines, "", paint(p.m.colour, bold, title))
	}
	rows.indent = "  "
	p.lines = append(p.lines, tableLines(rows, p.m.colour)...)
}

func (p *page) says(text string) { p.lines = append(p.lines, "  "+printable(text)) }

func (m *topModel) serviceDetail() []string {
	p := m.page("service " + m.open)
	i := slices.IndexFunc(m.bus.services, func(s serviceInfo) bool { return s.ID == m.open })
	if i < 0 {
		p.says("it has not announced itself")
		return p.lines
	}
	s := m.bus.services[i]
	s.Commands = m.bus.commands
	p.part("", table{rows: s.about()})
	needs := table{}
	for _, id := range slices.Concat(s.Dependencies, s.Optional) {
		state := "not there"
		if i := slices.IndexFunc(m.bus.services, func(s serviceInfo) bool { return s.ID == id }); i >= 0 {
			state = m.bus.services[i].State
		}
		needs.add(text(id), cell{state, stateStyle(state)})
	}
	p.part("Its dependencies", needs)
	metrics := table{}
	for _, row := range m.bus.stats {
		metrics.add(text(row[0]), text(row[1]))
	}
	if m.bus.why != "" {
		metrics.add(cell{"not known: " + m.bus.why, yellow})
	}
	p.part("What it counts", metrics)
	sends := table{header: []string{"TOPIC", "HZ", "COUNT"}}
	for _, v := range m.bus.topics {
		if n := slices.IndexFunc(v.Senders, func(c senderCount) bool { return c.Sender == s.ID }); n >= 0 {
			sends.add(text(v.Topic), text(fmt.Sprintf("%.2f", v.Rate)), text(fmt.Sprint(v.Senders[n].Count)))
		}
	}
	slices.SortFunc(sends.rows, func(a, b []cell) int { return cmp.Compare(a[0].text, b[0].text) })
	p.part("What it sends", sends)
	last := table{}
	for _, e := range m.bus.events {
		var about struct {
			Service string `json:"service_id"`
		}
		_ = json.Unmarshal(e.Data, &about) // data may be anything
		if e.Source == s.ID || e.Sender == s.ID || about.Service == s.ID {
			last.add(text(e.Time.Local().Format(time.TimeOnly)), text(e.Type), text(compact(e.Data)))
		}
	}
	p.part("Its last events", last)
	return p.lines
}

func (m *topModel) topicDetail() []string {
	p := m.page("topic " + m.open)
	i := slices.IndexFunc(m.bus.topics, func(v topicView) bool { return v.Topic == m.open })
	if i < 0 {
		p.says("nothing has come on it")
		return p.lines
	}
	v := m.bus.topics[i]
	rows := table{}
	row := func(name, format string, values ...any) {
		rows.add(cell{name, bold}, text(fmt.Sprintf(format, values...)))
	}
	row("rate", "%.2f a second", v.Rate)
	row("bandwidth", "%.0f bytes a second", v.Bytes)
	row("messages", "%d since top began", v.Count)
	for _, s := range []struct {
		name string
		q    quantity
		spread
	}{{"between two", hz(), v.gaps}, {"size", bandwidth(), v.sizes}, {"late", delay(), v.delays}} {
		if s.n > 0 {
			row(s.name, "min %.2f  mean %.2f  max %.2f  stddev %.2f %s", s.lowest, s.mean, s.utmost, s.deviation(), s.q.unit)
		}
	}
	for _, s := range v.Senders {
		row("from", "%s, %d messages", s.Sender, s.Count)
	}
	if len(v.Senders) == maxSenders {
		row("from", "and maybe others")
	}
	p.part("", rows)
	p.lines = append(p.lines, "", paint(m.colour, bold, "Last messages"))
	for _, d := range m.bus.messages {
		kind, body := inWords(&d)
		if d.Size > maxTopBody && len(d.Message.Payload) == maxTopBody {
			body += "..."
		}
		mark := " "
		if d.Retained {
			mark = "r"
		}
		at := paint(m.colour, dim, d.Received.Local().Format("15:04:05.000")+" "+mark)
		p.lines = append(p.lines, fmt.Sprintf("  %s %s %s %s", at,
			paint(m.colour, kind.style, kind.text), printable(d.Message.Metadata.Sender), printable(body)))
	}
	return p.lines
}

func (m *topModel) alertDetail() []string {
	p := m.page("alert " + m.open)
	for _, a := range m.bus.alerts {
		if a.AlertType == m.open {
			body, _ := json.Marshal(a) // it came as JSON
			p.json(body)
			return p.lines
		}
	}
	p.says("it is cleared")
	return p.lines
}

func (m *topModel) eventDetail() []string {
	p := m.page("event")
	for i := range m.bus.events {
		if e := &m.bus.events[i]; eventID(e) == m.open {
			body, _ := json.Marshal(e) // it came as JSON
			p.json(body)
			return p.lines
		}
	}
	p.says("later events have taken its place")
	return p.lines
}

// json shows JSON with a value on each line.
func (p *page) json(body []byte) {
	var b bytes.Buffer
	if json.Indent(&b, body, "", "  ") != nil {
		p.says(string(body))
		return
	}
	for line := range strings.SplitSeq(b.String(), "\n") {
		p.says(line)
	}
}

// topHelp explains the keys.
func topHelp() []string {
	lines := []string{"lawnberry top: the bus, live", ""}
	keys := table{rows: [][]cell{
		{text("s, space"), text("STOP: engages the emergency stop at once, also while a filter is typed (space)")},
		{text("j k, arrows"), text("the next row, the one before; PgUp PgDn Home End, g G")},
		{text("Tab, h l, 1-6"), text("another part: services, topics, alerts, events, stop, broker")},
		{text("Enter"), text("look into a service, a topic, an alert or an event; Esc goes back")},
		{text("/"), text("show only what has these letters in it; Esc shows all again")},
		{text("o"), text("sort otherwise")},
		{text("Ctrl-Z, q"), text("go to the background, end")},
	}}
	return append(append(lines, tableLines(keys, false)...), "",
		"There is no key that releases the emergency stop: who releases it should have looked",
		"at the mower, and names the state that they have seen. It is done by",
		"  lawnberry estop release",
		"which shows the state and asks.", "",
		"HZ and BYTES/S are of the last ten seconds, of what comes rarely of the last two messages.",
		"Late is the time from a message's timestamp to its receipt, as far as the clocks agree;",
		"command is the round trip of one to the hub of the emergency stop. What was retained before",
		"top began is shown, and not measured.")
}
