package cli

import (
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"
)

// redrawEvery is how often top looks at what is new.
const redrawEvery = 500 * time.Millisecond

// A pane is a part of top's screen.
type pane int

const (
	paneServices pane = iota
	paneTopics
	paneAlerts
	paneEvents
	paneStop
	paneBroker
	paneCount
)

var paneNames = [paneCount]string{"services", "topics", "alerts", "events", "stop", "broker"}

// A topSource is what top shows, and what it can do.
type topSource interface {
	view() busView
	stop()             // engages the emergency stop, without waiting
	watch(name string) // keeps the messages of a topic, of none for ""
	inspect(id string) // looks closely at a service, at none for ""
}

// A topModel is the state of top's screen: what is chosen, filtered and opened. It knows no terminal. One goroutine uses it.
type topModel struct {
	source        topSource
	colour        bool
	width, height int
	bus           busView

	focus     pane
	chosen    [paneCount]string // the id of the row; "" is the first, whichever that is
	first     [paneCount]int    // row that is shown
	order     [paneCount]int    // of the ways to sort
	filter    string
	filtering bool // it is being typed
	help      bool
	open      string // the id of the row of focus that is looked into; "" is none
	scroll    int    // of help, and of what is open
	rows      int    // that were shown of focus, or of what is open
}

func newTopModel(source topSource, colour bool) *topModel {
	m := &topModel{source: source, colour: colour, width: 80, height: 24, rows: 1}
	m.bus = source.view()
	return m
}

// A redraw has the model look at what is new.
type redraw struct{}

func nextRedraw() tea.Cmd {
	return tea.Tick(redrawEvery, func(time.Time) tea.Msg { return redraw{} })
}

// Init begins to redraw.
func (m *topModel) Init() tea.Cmd { return nextRedraw() }

// Update takes in what happened.
func (m *topModel) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case redraw:
		m.bus = m.source.view()
		return m, nextRedraw()
	case tea.WindowSizeMsg:
		m.width, m.height = max(msg.Width, 1), max(msg.Height, 1)
	case tea.PasteMsg:
		if m.filtering {
			m.typed(msg.Content)
		}
	case tea.KeyPressMsg:
		name, text := msg.String(), msg.Key().Text
		if rest, both := strings.CutPrefix(name, "alt+"); both { // as a terminal sends it, it may have been Esc and another key
			m.key("esc", "")
			name, text = rest, ""
		}
		next := m.key(name, text)
		return m, next
	}
	return m, nil
}

// View draws the screen.
func (m *topModel) View() tea.View {
	v := tea.NewView(strings.Join(m.lines(), "\n"))
	v.AltScreen = true
	return v
}

// key does what a key says. text is what it types.
func (m *topModel) key(name, text string) tea.Cmd {
	switch {
	case name == "ctrl+c":
		return tea.Quit
	case name == "ctrl+z":
		return tea.Suspend
	case name == "space", !m.filtering && (name == "s" || name == "S"):
		m.source.stop()
		m.bus = m.source.view()
	case m.filtering:
		m.filterKey(name, text)
	case name == "q":
		return tea.Quit
	case m.help:
		m.scrollKey(name, func() { m.help = false })
	case name == "?":
		m.help, m.scroll = true, 0
	case m.open != "":
		m.scrollKey(name, m.back)
	default:
		m.listKey(name)
	}
	return nil
}

// typed adds to the filter what can be shown, up to its bound.
func (m *topModel) typed(text string) {
	for _, r := range text {
		if s := string(r); r != utf8.RuneError && printable(s) == s && len(m.filter)+len(s) <= maxFilter {
			m.filter += s
		}
	}
}

// maxFilter bounds a filter, in bytes.
const maxFilter = 100

func (m *topModel) filterKey(name, text string) {
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
	m.chosen[m.focus], m.first[m.focus] = "", 0
}

// step returns by how much a key moves; all is to an end.
func (m *topModel) step(name string) (by int, ok bool) {
	const all = 1 << 30
	switch name {
	case "up", "k":
		return -1, true
	case "down", "j":
		return 1, true
	case "pgup", "ctrl+b":
		return -max(m.rows-1, 1), true
	case "pgdown", "ctrl+f":
		return max(m.rows-1, 1), true
	case "home", "g":
		return -all, true
	case "end", "G":
		return all, true
	}
	return 0, false
}

// scrollKey moves in what is longer than the screen; back leaves it.
func (m *topModel) scrollKey(name string, back func()) {
	if by, ok := m.step(name); ok {
		m.scroll = max(m.scroll+by, 0) // lines bounds it from above
		return
	}
	switch name {
	case "esc", "backspace", "left", "h", "enter", "?":
		m.scroll = 0
		back()
	}
}

// back closes what is looked into.
func (m *topModel) back() {
	m.open, m.scroll = "", 0
	m.source.watch("")
	m.source.inspect("")
}

func (m *topModel) listKey(name string) {
	if by, ok := m.step(name); ok {
		m.move(by)
		return
	}
	switch name {
	case "tab", "right", "l":
		m.focus = (m.focus + 1) % paneCount
	case "shift+tab", "left", "h":
		m.focus = (m.focus + paneCount - 1) % paneCount
	case "1", "2", "3", "4", "5", "6":
		m.focus = pane(name[0] - '1')
	case "/":
		m.filtering = true
	case "esc":
		m.filter = ""
	case "o":
		m.order[m.focus] = (m.order[m.focus] + 1) % max(len(orders(m.focus)), 1)
		m.chosen[m.focus], m.first[m.focus] = "", 0
	case "enter":
		m.enter()
	}
}

// move chooses another row.
func (m *topModel) move(by int) {
	ids := m.list(m.focus).ids
	if len(ids) == 0 {
		return
	}
	at := min(max(m.at(m.focus, ids)+by, 0), len(ids)-1)
	m.chosen[m.focus] = ids[at]
	if at == 0 {
		m.chosen[m.focus] = "" // it stays with the first, whichever that is
	}
}

// at is the index of the chosen row. One that is gone is the first.
func (m *topModel) at(p pane, ids []string) int {
	return max(slices.Index(ids, m.chosen[p]), 0)
}

// enter looks into the chosen row.
func (m *topModel) enter() {
	ids := m.list(m.focus).ids
	if len(ids) == 0 || m.focus == paneBroker {
		return
	}
	m.open, m.scroll = ids[m.at(m.focus, ids)], 0
	switch m.focus {
	case paneStop: // who reports is a service
		m.focus, m.chosen[paneServices] = paneServices, m.open
		m.source.inspect(m.open)
	case paneServices:
		m.source.inspect(m.open)
	case paneTopics:
		m.source.watch(m.open)
	}
	m.bus = m.source.view()
}
