package cli

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

// A list is what a pane can show: the ids of its rows in their order, and the cells of each, made when they are shown.
type list struct {
	header []string
	ids    []string
	cells  func(i int) []cell
	order  string // by which it is sorted
}

// orders are the ways to sort a pane; the first is where it begins.
func orders(p pane) []string {
	switch p {
	case paneServices:
		return []string{"id", "state", "heartbeat", "cpu", "memory"}
	case paneTopics:
		return []string{"rate", "bandwidth", "age", "delay", "name"}
	case paneAlerts:
		return []string{"severity", "time"}
	}
	return nil
}

// newList makes the list of those items that fit the filter. name is what the filter looks at, and the id unless ids differ.
func newList[T any](m *topModel, header []string, items []T, id, words func(*T) string, cells func(*T) []cell) list {
	filter := strings.ToLower(m.filter)
	var shown []*T
	l := list{header: header}
	for i := range items {
		if filter == "" || strings.Contains(strings.ToLower(words(&items[i])), filter) {
			shown = append(shown, &items[i])
			l.ids = append(l.ids, id(&items[i]))
		}
	}
	l.cells = func(i int) []cell { return cells(shown[i]) }
	return l
}

// list returns what a pane can show.
func (m *topModel) list(p pane) list {
	var l list
	switch p {
	case paneServices:
		l = m.serviceList()
	case paneTopics:
		l = m.topicList()
	case paneAlerts:
		l = m.alertList()
	case paneEvents:
		l = newList(m, []string{"EVENT", "TIME", "FROM", "DATA"}, m.bus.events, eventID,
			func(e *eventLine) string { return e.Type + " " + e.Source + " " + e.Sender + " " + string(e.Data) },
			func(e *eventLine) []cell {
				return []cell{m.name(e.Type), text(e.Time.Local().Format(time.TimeOnly)), m.name(cmp.Or(e.Source, e.Sender)), text(compact(e.Data))}
			})
	case paneStop:
		id := func(p *safety.Participant) string { return p.Service }
		l = newList(m, []string{"STOP", "STATE", "STANDS", "AFTER", "WHEN", "WHY"}, m.bus.hub.Participants, id, id, m.participant)
	case paneBroker:
		names := slices.Sorted(maps.Keys(m.bus.figures))
		same := func(name *string) string { return *name }
		l = newList(m, []string{"BROKER", "VALUE"}, names, same, same, func(name *string) []cell { return []cell{text(*name), text(m.bus.figures[*name])} })
	}
	if ways := orders(p); ways != nil {
		l.order = ways[m.order[p]]
	}
	return l
}

// eventID tells an event from the others.
func eventID(e *eventLine) string {
	return strconv.FormatInt(e.Time.UnixNano(), 36) + " " + e.Type + " " + e.Sender
}

// name is a name as far as there is room for it beside figures.
func (m *topModel) name(s string) cell { return text(clip(printable(s), max(m.width*2/5, 12))) }

// clip cuts a text that has no colours.
func clip(s string, width int) string {
	if visible(s) <= width {
		return s
	}
	return fit(s, max(width-1, 0)) + "…"
}

func (m *topModel) serviceList() list {
	services := slices.Clone(m.bus.services)
	by := func(less func(a, b *serviceInfo) int) {
		slices.SortStableFunc(services, func(a, b serviceInfo) int { return less(&a, &b) })
	}
	switch orders(paneServices)[m.order[paneServices]] {
	case "state":
		by(func(a, b *serviceInfo) int {
			return cmp.Or(badState(b.State)-badState(a.State), cmp.Compare(a.State, b.State))
		})
	case "heartbeat":
		by(func(a, b *serviceInfo) int { return a.LastSeen.Compare(b.LastSeen) })
	case "cpu":
		by(func(a, b *serviceInfo) int { return cmp.Compare(b.Resources.CPU, a.Resources.CPU) })
	case "memory":
		by(func(a, b *serviceInfo) int { return cmp.Compare(b.Resources.Memory, a.Resources.Memory) })
	}
	return newList(m, []string{"SERVICE", "STATE", "SEEN", "   CPU", "   MEM", "UPTIME", "TYPE", "REASON"}, services,
		func(s *serviceInfo) string { return s.ID },
		func(s *serviceInfo) string { return s.ID + " " + s.Type + " " + s.State },
		func(s *serviceInfo) []cell {
			cpu, memory := "     -", "     -"
			if resources(s) {
				cpu, memory = fmt.Sprintf("%5.1f%%", s.Resources.CPU), fmt.Sprintf("%5.1f%%", s.Resources.Memory)
			}
			return []cell{
				m.name(s.ID), {clip(printable(s.State), 14), stateStyle(s.State)}, text(fmt.Sprintf("%-6s", s.age())), text(cpu), text(memory),
				text(fmt.Sprintf("%-6s", s.uptime())), m.name(s.Type), text(s.Reason),
			}
		})
}

// badState says how much a state deserves to be looked at.
func badState(state string) int {
	switch stateStyle(state) {
	case red:
		return 2
	case yellow, plain:
		return 1
	}
	return 0
}

// busiest sorts topics by their rate.
func busiest(a, b topicView) int {
	return cmp.Or(cmp.Compare(b.Rate, a.Rate), cmp.Compare(b.Count, a.Count), cmp.Compare(a.Topic, b.Topic))
}

func (m *topModel) topicList() list {
	topics := slices.Clone(m.bus.topics)
	sort := busiest
	late := func(v *topicView) float64 {
		if v.DelayMS == nil {
			return math.Inf(-1)
		}
		return *v.DelayMS
	}
	switch orders(paneTopics)[m.order[paneTopics]] {
	case "bandwidth":
		sort = func(a, b topicView) int { return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), busiest(a, b)) }
	case "age":
		sort = func(a, b topicView) int { return cmp.Or(b.LastSeen.Compare(a.LastSeen), busiest(a, b)) }
	case "delay":
		sort = func(a, b topicView) int { return cmp.Or(cmp.Compare(late(&b), late(&a)), busiest(a, b)) }
	case "name":
		sort = func(a, b topicView) int { return cmp.Compare(a.Topic, b.Topic) }
	}
	slices.SortFunc(topics, sort)
	return newList(m, []string{"TOPIC", "    HZ", " BYTES/S", "AGE", "DELAY MS", "  COUNT", "FROM"}, topics,
		func(v *topicView) string { return v.Topic },
		func(v *topicView) string { return v.Topic },
		func(v *topicView) []cell {
			age, delay := "-", "-"
			if !v.LastSeen.IsZero() {
				age = m.age(v.LastSeen)
			}
			if v.DelayMS != nil {
				delay = fmt.Sprintf("%.2f", *v.DelayMS)
			}
			from := make([]string, len(v.Senders))
			for i, s := range v.Senders {
				from[i] = s.Sender
			}
			return []cell{
				m.name(v.Topic), text(fmt.Sprintf("%6.2f", v.Rate)), text(fmt.Sprintf("%8.0f", v.Bytes)), text(fmt.Sprintf("%-6s", age)),
				text(fmt.Sprintf("%8s", delay)), text(fmt.Sprintf("%7d", v.Count)), text(clip(printable(strings.Join(from, ", ")), 200)),
			}
		})
}

func (m *topModel) alertList() list {
	alerts := slices.Clone(m.bus.alerts) // the worst first
	if orders(paneAlerts)[m.order[paneAlerts]] == "time" {
		slices.SortStableFunc(alerts, func(a, b service.Alert) int { return b.Time.Compare(a.Time) })
	}
	return newList(m, []string{"ALERT", "SEVERITY", "LAST", "COUNT", "ACKNOWLEDGED", "FROM", "MESSAGE"}, alerts,
		func(a *service.Alert) string { return a.AlertType },
		func(a *service.Alert) string {
			return a.AlertType + " " + a.Severity + " " + a.Sender + " " + a.Message
		},
		func(a *service.Alert) []cell {
			acknowledged := cell{"no", yellow}
			if a.Acknowledged {
				acknowledged = cell{clip(printable(cmp.Or(a.AcknowledgedBy, "yes")), 16), green}
			}
			return []cell{
				m.name(a.AlertType), {a.Severity, severityStyle(a.Severity)}, text(fmt.Sprintf("%-6s", m.age(a.Time))),
				text(fmt.Sprintf("%5d", a.Count)), acknowledged, m.name(a.Sender), text(a.Message),
			}
		})
}

// participant shows who has to stop, and when it has.
func (m *topModel) participant(p *safety.Participant) []cell {
	stands, after := standing(m.bus.hub.Status, *p)
	when, why := "-", p.Cause
	if p.Stopped && p.At > 0 && p.At < 1<<40 {
		when = time.UnixMilli(int64(p.At * 1000)).Local().Format("15:04:05.000")
	}
	for _, h := range p.Hazards {
		why += "; " + h.Message
	}
	state := cell{cmp.Or(string(p.State), "gone"), stateStyle(cmp.Or(string(p.State), "offline"))}
	return []cell{m.name(p.Service), state, stands, text(after), text(when), text(strings.TrimPrefix(why, "; "))}
}
