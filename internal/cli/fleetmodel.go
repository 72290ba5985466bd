package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"

	"github.com/lawnberry/lawnberry/internal/fleet"
)

// A fleetModel is the state of fleet top's screen. It knows no terminal. One goroutine uses it.
type fleetModel struct {
	source        fleetSource
	colour        bool
	width, height int

	at    time.Time
	link  fleet.Link
	sum   fleetSum
	rates meterRates
	shown []*fleet.Mower // that the condition is true of, sorted

	where     *fleet.Where
	filter    string
	problem   string // of the filter
	filtering bool   // it is being typed
	order     int
	chosen    string // the id of the row; "" is the first, whichever that is
	first     int    // row that is shown
	rows      int    // that were shown
	open      string // the id of the mower that is looked into; "" is none
	scroll    int
}

func newFleetModel(source fleetSource, where *fleet.Where, colour bool) *fleetModel {
	m := &fleetModel{source: source, colour: colour, width: 80, height: 24, rows: 1, where: where, filter: where.String()}
	m.look(time.Now())
	return m
}

// Init begins to redraw.
func (m *fleetModel) Init() tea.Cmd { return nextRedraw() }

// Update takes in what happened.
func (m *fleetModel) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case redraw:
		m.look(time.Now())
		return m, nextRedraw()
	case tea.WindowSizeMsg:
		m.width, m.height = max(msg.Width, 1), max(msg.Height, 1)
	case tea.PasteMsg:
		if m.filtering {
			m.typed(msg.Content)
		}
	case tea.KeyPressMsg:
		name, text := msg.String(), msg.Key().Text
		next := m.key(name, text)
		return m, next
	}
	return m, nil
}

// View draws the screen.
func (m *fleetModel) View() tea.View {
	v := tea.NewView(strings.Join(m.lines(), "\n"))
	v.AltScreen = true
	return v
}

// key does what a key says. text is what it types.
func (m *fleetModel) key(name, text string) tea.Cmd {
	switch {
	case name == "ctrl+c":
		return tea.Quit
	case name == "ctrl+z":
		return tea.Suspend
	case m.filtering:
		m.filterKey(name, text)
		return nil
	case name == "q":
		return tea.Quit
	}
	by, moves := m.step(name)
	switch {
	case m.open != "" && moves:
		m.scroll = max(m.scroll+by, 0) // lines bounds it from above
	case m.open != "":
		switch name {
		case "esc", "backspace", "left", "h", "enter":
			m.open, m.scroll = "", 0
		}
	case moves:
		m.move(by)
	case name == "/":
		m.filtering = true
	case name == "esc":
		m.filter = ""
		m.parse()
	case name == "o":
		m.order = (m.order + 1) % len(fleetOrders)
		m.chosen, m.first = "", 0
		m.sort()
	case name == "enter" && len(m.shown) > 0:
		m.open = m.shown[m.row()].ID
	}
	return nil
}

func (m *fleetModel) filterKey(name, text string) {
	switch name {
	case "enter", "tab", "down", "up":
		m.filtering = false
	case "esc":
		m.filtering, m.filter = false, ""
	case "ctrl+u":
		m.filter = ""
	case "backspace":
		if _, size := utf8.DecodeLastRuneInString(m.filter); size > 0 {
			m.filter = m.filter[:len(m.filter)-size]
		}
	default:
		m.typed(text)
	}
	m.parse()
}

// typed adds to the filter what can be shown.
func (m *fleetModel) typed(text string) {
	for _, r := range text {
		if s := string(r); r != utf8.RuneError && printable(s) == s && len(m.filter)+len(s) <= 4*maxFilter {
			m.filter += s
		}
	}
}

// parse makes a condition of what was typed; while it is none, the one before stays.
func (m *fleetModel) parse() {
	m.problem = ""
	w, err := fleet.ParseWhere(m.filter)
	if err != nil {
		m.problem = err.Error()
		return
	}
	m.where, m.chosen, m.first = w, "", 0
	m.look(time.Now())
}

// step returns by how much a key moves; all is to an end.
func (m *fleetModel) step(name string) (by int, ok bool) {
	return (&topModel{rows: m.rows}).step(name)
}

// row is the index of the chosen row. One that is gone is the first.
func (m *fleetModel) row() int {
	return max(slices.IndexFunc(m.shown, func(w *fleet.Mower) bool { return w.ID == m.chosen }), 0)
}

func (m *fleetModel) move(by int) {
	if len(m.shown) == 0 {
		return
	}
	at := min(max(m.row()+by, 0), len(m.shown)-1)
	m.chosen = m.shown[at].ID
	if at == 0 {
		m.chosen = "" // it stays with the first, whichever that is
	}
}

// lines draws the screen: no more lines than it has, none longer.
func (m *fleetModel) lines() []string {
	head := m.header()
	foot := m.footer()
	room := max(m.height-len(head)-len(foot), 0)
	var body []string
	if m.open != "" {
		body = m.detail(room)
	} else {
		body = m.list(room)
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

func (m *fleetModel) footer() []string {
	keys := "q: quit  Enter: look into  /: condition  o: order (" + fleetOrders[m.order] + ")"
	switch {
	case m.filtering:
		keys = "/" + printable(m.filter) + "_" + paint(m.colour, dim, "  Enter: keep  Esc: all")
		if m.problem != "" {
			return []string{paint(m.colour, red, printable(m.problem)), keys}
		}
		return []string{keys}
	case m.open != "":
		keys = "Esc: back  q: quit  arrows, PgUp, PgDn: scroll"
	case m.problem != "":
		return []string{paint(m.colour, red, printable(m.problem)), paint(m.colour, dim, keys)}
	case !m.where.All():
		return []string{fmt.Sprintf("%d of them: ", len(m.shown)) + paint(m.colour, yellow, printable(m.where.String())) + paint(m.colour, dim, "  Esc: all  "+keys)}
	}
	return []string{paint(m.colour, dim, keys)}
}

func (m *fleetModel) detail(room int) []string {
	i := slices.IndexFunc(m.source.Mowers(), func(w *fleet.Mower) bool { return w.ID == m.open })
	if i < 0 {
		return []string{"mower " + printable(m.open) + " is gone"}
	}
	lines := mowerLines(m.source.Mowers()[i], m.at, m.colour, m.width)
	m.rows = max(room, 1)
	m.scroll = min(m.scroll, max(len(lines)-m.rows, 0))
	return lines[m.scroll:]
}

// list draws as many rows as there is room for, the chosen one among them.
func (m *fleetModel) list(room int) []string {
	if len(m.shown) == 0 {
		return []string{"", "  no mowers"}
	}
	m.rows = max(room-1, 1)
	at := m.row()
	m.first = min(max(m.first, at-m.rows+1), at)
	m.first = max(min(m.first, len(m.shown)-m.rows), 0)
	rows := table{header: []string{"MOWER", "LINK", "STATE", "BATTERY", "STOP", "MSG/S", "BACKLOG", "HEARD", "ALERTS"}}
	columns := map[string]mowerColumn{}
	for _, name := range []string{"online", "state", "battery", "stop", "backlog", "age"} {
		columns[name] = mowerColumn{name: name}
	}
	for _, w := range m.shown[m.first:min(m.first+m.rows, len(m.shown))] {
		alert := text("-")
		if len(w.Alerts) > 0 {
			a := w.Alerts[0]
			alert = cell{clip(fmt.Sprintf("%s %s: %s", a.Severity, a.Type, a.Message), 200), severityStyle(a.Severity)}
			if n := len(w.Alerts) - 1; n > 0 {
				alert.text = fmt.Sprintf("(+%d) %s", n, alert.text)
			}
		}
		state := columns["state"].cell(w, m.at)
		state.text = clip(printable(state.text), 16)
		rows.add(text(clip(w.ID, 24)), columns["online"].cell(w, m.at), state, columns["battery"].cell(w, m.at), columns["stop"].cell(w, m.at),
			text(fmt.Sprintf("%.1f", m.rates.of(w))), columns["backlog"].cell(w, m.at), columns["age"].cell(w, m.at), alert)
	}
	lines := tableLines(rows, m.colour)
	if row := at - m.first + 1; row < len(lines) {
		plainLine := tableLines(table{header: rows.header, rows: rows.rows}, false)[row]
		if m.colour {
			lines[row] = paint(true, reversed, plainLine)
		} else {
			lines[row] = ">" + plainLine
		}
	}
	return lines
}
