package cli

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"

	tea "charm.land/bubbletea/v2"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

// A fakeSource is a bus that does not change.
type fakeSource struct {
	bus       busView
	stops     int
	watched   string
	inspected string
}

func (s *fakeSource) view() busView     { return s.bus }
func (s *fakeSource) stop()             { s.stops++ }
func (s *fakeSource) watch(name string) { s.watched = name }
func (s *fakeSource) inspect(id string) { s.inspected = id }

// hostile is what a bus may carry that nobody's terminal should get.
const hostile = "a\x1b[2J\x1b]0;title\a\r\n\t\u202e\x80b"

func hostileBus() busView {
	now := time.Now()
	v := busView{
		at: now, link: linkView{URL: hostile, Since: now, Cause: hostile, Reconnects: 3}, rate: 1e9, bytes: 1e12, lost: 5, others: 7, unlisted: 2,
		state: safety.State{Engaged: true, Known: true, By: hostile, Reason: hostile, Since: now}, missing: []string{hostile},
		press: pressView{At: now, Error: hostile}, figures: map[string]string{hostile: hostile}, why: hostile,
		latency: client.Quantiles{Count: 1, P50: time.Second}, stats: [][2]string{{hostile, hostile}}, commands: []service.Command{{Name: hostile,
			Description: hostile}},
	}
	v.hub = hubView{Status: safety.Status{State: v.state}, Error: hostile}
	v.hub.Participants = []safety.Participant{
		{Report: safety.Report{Service: hostile, Actuator: true, Stopped: true, At: 1e300, Cause: hostile,
			Hazards: []safety.Hazard{{Message: hostile}}}, State: hostile},
		{Report: safety.Report{Service: hostile + "2", Actuator: true}, Confirmed: true, AfterMS: 3},
	}
	for i := range 40 {
		v.services = append(v.services, serviceInfo{
			ID: fmt.Sprint(hostile, i), Type: hostile, State: hostile, Reason: hostile, Version: hostile, LastSeen: now, Uptime: 1e300,
			Dependencies: []string{hostile}, Metadata: map[string]json.RawMessage{hostile: json.RawMessage(`"` + "x" + `"`)},
			Resources: message.Resources{CPU: 1e300},
		})
		v.topics = append(v.topics, topicView{
			Topic: fmt.Sprint(hostile, i), Rate: float64(i), LastSeen: now, Senders: []senderCount{{hostile, 1}}, gaps: spread{n: 1},
			sizes: spread{n: 1}, delays: spread{n: 1},
		})
		v.alerts = append(v.alerts, service.Alert{Alert: message.Alert{AlertType: fmt.Sprint(hostile, i), Severity: hostile, Message: hostile,
			Context: json.RawMessage("{}")}, Sender: hostile})
		v.events = append(v.events, eventLine{Time: now.Add(time.Duration(i)), Type: hostile, Source: hostile, Sender: hostile,
			Data: json.RawMessage(`{"service_id": "` + fmt.Sprint(i) + `"}`)})
		v.messages = append(v.messages, client.Delivery{Topic: hostile, Received: now, Message: message.Message{Raw: true,
			Payload: []byte(strings.Repeat(hostile, 30))}})
	}
	return v
}

var styles = regexp.MustCompile("\x1b\\[[0-9]*m")

// Whatever the bus carries, and however small the screen is, nothing leaves its lines, and nothing moves the cursor.
func TestTopFits(t *testing.T) {
	t.Parallel()
	screens := map[string][]string{
		"help": {"?"}, "help's end": {"?", "end"}, "filter": {"/", "a"}, "filtered": {"/", "xyz", "enter"}, "services": {"1"}, "topics": {"2",
			"end"}, "alerts": {"3"},
		"events": {"4", "pgdown"}, "stop": {"5"}, "broker": {"6"}, "service": {"1", "enter"}, "topic": {"2", "down", "enter"}, "alert": {"3", "enter"},
		"event": {"4", "enter", "end"}, "who stops": {"5", "enter"},
	}
	for _, colour := range []bool{false, true} {
		for name, keys := range screens {
			for _, size := range [][2]int{{80, 24}, {40, 10}, {300, 100}, {1, 1}, {13, 2}, {20, 3}, {30, 4}, {31, 5}, {20, 6}, {25, 7}, {25, 8},
				{1000, 9}, {0, 0}} {
				m := newTopModel(&fakeSource{bus: hostileBus()}, colour)
				m.Update(tea.WindowSizeMsg{Width: size[0], Height: size[1]})
				m.View()
				press(m, keys...)
				lines := strings.Split(m.View().Content, "\n")
				if len(lines) != max(size[1], 1) {
					t.Errorf("%s at %v: %d lines", name, size, len(lines))
				}
				if !strings.Contains(styles.ReplaceAllString(lines[0], ""), "STOP ENGAGED"[:min(size[0], 12)]) {
					t.Errorf("%s at %v: the emergency stop is not above all: %q", name, size, lines[0])
				}
				for _, line := range lines {
					if n := visible(line); n > max(size[0], 1) {
						t.Errorf("%s at %v: %d columns: %q", name, size, n, line)
					}
					bare := line
					if colour {
						bare = styles.ReplaceAllString(line, "")
					}
					for _, r := range bare {
						if !unicode.IsPrint(r) {
							t.Fatalf("%s at %v, colour %v: %q in %q", name, size, colour, r, line)
						}
					}
				}
			}
		}
	}
}

// Nothing on the bus, and a bus that is not there, can be shown as well.
func TestTopOfNothing(t *testing.T) {
	t.Parallel()
	m := newTopModel(&fakeSource{}, false)
	for _, keys := range [][]string{{"1", "enter"}, {"2", "enter", "down", "end"}, {"3", "enter"}, {"4", "enter"}, {"5", "enter"}, {"6",
		"enter"}, {"o"}} {
		press(m, keys...)
		m.View()
		if m.open != "" {
			t.Errorf("%v: %q is open", keys, m.open)
		}
		press(m, "esc")
	}
}

func TestTopChoosesAndSorts(t *testing.T) {
	t.Parallel()
	late := 5.0
	source := &fakeSource{bus: busView{at: time.Now(), topics: []topicView{
		{Topic: "b", Rate: 2, Bytes: 10, LastSeen: time.Now().Add(-time.Hour)}, {Topic: "a", Rate: 1, Bytes: 30,
			LastSeen: time.Now().Add(-time.Minute)},
		{Topic: "c", Rate: 3, Bytes: 20, DelayMS: &late, LastSeen: time.Now().Add(-2 * time.Hour)},
	}}}
	m := newTopModel(source, false)
	press(m, "2")
	for _, want := range []string{"c b a", "a c b", "a b c", "c b a", "a b c", "c b a"} {
		if got := strings.Join(m.list(paneTopics).ids, " "); got != want {
			t.Errorf("by %s: %s, want %s", m.list(paneTopics).order, got, want)
		}
		press(m, "o")
	}
	m.order[paneTopics] = 0
	// What is chosen stays chosen when others overtake it; who has chosen nothing looks at the first.
	press(m, "down")
	source.bus.topics[0].Rate = 100
	m.Update(redraw{})
	if press(m, "enter"); m.open != "b" || source.watched != "b" {
		t.Errorf("%q is open, %q watched", m.open, source.watched)
	}
	if press(m, "esc"); m.open != "" || source.watched != "" {
		t.Errorf("%q is open, %q watched", m.open, source.watched)
	}
	press(m, "down", "down", "up", "up", "up")
	source.bus.topics[1].Rate = 1000
	m.Update(redraw{})
	if press(m, "enter"); m.open != "a" {
		t.Errorf("%q is open", m.open)
	}
	press(m, "esc", "/", "xyc", "backspace", "backspace", "backspace", "c", "enter")
	if ids := m.list(paneTopics).ids; len(ids) != 1 || ids[0] != "c" || m.filter != "c" {
		t.Errorf("filter %q: %v", m.filter, ids)
	}
	m.Update(tea.PasteMsg{Content: "no filter is typed"})
	press(m, "/")
	m.Update(tea.PasteMsg{Content: strings.Repeat("\x1bo", 200)})
	if len(m.filter) != maxFilter || strings.Contains(m.filter, "\x1b") {
		t.Errorf("filter %q", m.filter)
	}
	if press(m, "esc"); m.filter != "" || m.filtering {
		t.Errorf("filter %q", m.filter)
	}
	press(m, "?")
	if !strings.Contains(m.View().Content, "lawnberry estop release") {
		t.Error("the help does not say how to release")
	}
	press(m, "esc")
	for range paneCount {
		press(m, "tab")
	}
	if m.focus != paneTopics {
		t.Errorf("the focus is %d", m.focus)
	}
}

func TestWrap(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		line  string
		width int
		want  []string
	}{
		{"short", 20, []string{"short"}},
		{"0123456789012345678901234567", 20, []string{"01234567890123456789", "      01234567"}},
		{"01234\x1b[31m567890123456789012345\x1b[0m67", 20, []string{"01234\x1b[31m567890123456789\x1b[0m", "      \x1b[31m012345\x1b[0m67"}},
		{"0123456789", 5, []string{"0123456789"}}, // too narrow: cut
	} {
		if got := wrap(tt.line, tt.width); strings.Join(got, "|") != strings.Join(tt.want, "|") {
			t.Errorf("%q: got %q, want %q", tt.line, got, tt.want)
		}
	}
}

func TestWindow(t *testing.T) {
	t.Parallel()
	var w window
	for second := int64(1); second <= 40; second++ {
		for range second {
			w.add(second, 10)
		}
	}
	if n, size := w.sum(40); n != 30+31+32+33+34+35+36+37+38+39 || size != 10*n {
		t.Errorf("%d messages, %d bytes", n, size)
	}
	if n, _ := w.sum(45); n != 35+36+37+38+39+40 {
		t.Errorf("later %d messages", n)
	}
	if n, size := w.sum(1000); n != 0 || size != 0 {
		t.Errorf("much later %d messages, %d bytes", n, size)
	}
}

// Memory is bounded, whatever the bus sends; what is not kept is counted.
func TestTopBounds(t *testing.T) {
	t.Parallel()
	f := &feed{c: startTopBus(t).client("bounds"), roll: newRoll(), topics: map[string]*topicLine{}, figures: map[string]string{},
		book: &service.AlertBook{}, began: time.Now()}
	f.roll.most = maxTopServices
	status, err := message.NewStatus("x", message.Status{Status: "healthy"})
	if err != nil {
		t.Fatal(err)
	}
	event, err := message.NewEvent("x", message.Event{EventType: "e", EventData: json.RawMessage(`"` + strings.Repeat("e", 9000) + `"`),
		Source: "x"})
	if err != nil {
		t.Fatal(err)
	}
	const sent = maxTopTopics + 1000
	for i := range sent {
		m := status
		m.Metadata.Sender = fmt.Sprint("x", i)
		m.Payload = []byte(strings.Repeat("p", 9000))
		f.takeTopic(&client.Delivery{Topic: fmt.Sprint("t/", i), Message: m, Received: f.began, Size: 9000})
		f.takeTopic(&client.Delivery{Topic: "one", Message: m, Received: f.began, Size: 9000})
		f.takeFigure(&client.Delivery{Topic: fmt.Sprint("$SYS/broker/", i), Message: m})
		f.roll.add(&client.Delivery{Topic: fmt.Sprintf("system/services/%d/status", i), Message: status, Received: f.began})
		f.takeEvent(&client.Delivery{Topic: "system/events/e", Message: event, Received: f.began})
	}
	if len(f.topics) != maxTopTopics || f.others != sent+1-maxTopTopics || len(f.figures) != maxTopFigures || len(f.events) != maxTopEvents ||
		len(f.roll.services) != maxTopServices || f.roll.others != sent-maxTopServices {
		t.Errorf("%d topics and %d others, %d figures, %d events, %d services and %d others", len(f.topics), f.others, len(f.figures),
			len(f.events), len(f.roll.services), f.roll.others)
	}
	if one := f.topics["one"]; len(one.senders) != maxSenders || len(one.last.Message.Payload) != maxTopBody || one.gaps.count != sent {
		t.Errorf("%d senders, %d bytes, %d messages", len(one.senders), len(one.last.Message.Payload), one.gaps.count)
	}
	if e := f.events[0]; len(e.Data) > 2*maxTopBody {
		t.Errorf("an event of %d bytes", len(e.Data))
	}
	f.takeTopic(&client.Delivery{Topic: strings.Repeat("t", maxTopName+1), Message: status, Received: f.began})
	f.watch("one")
	for range 2 * maxTopMessages {
		f.takeTopic(&client.Delivery{Topic: "one", Message: status, Received: f.began})
	}
	if len(f.messages) != maxTopMessages {
		t.Errorf("%d messages of the topic that is watched", len(f.messages))
	}
}
