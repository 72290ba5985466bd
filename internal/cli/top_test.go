package cli

import (
	"context"
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

// A topBus is a broker with the hub of the emergency stop, to look at with top.
type topBus struct {
	t      *testing.T
	url    string
	dir    string
	broker *broker.Broker
}

func startTopBus(t *testing.T) *topBus {
	t.Helper()
	b := &topBus{t: t, dir: t.TempDir()}
	b.start("127.0.0.1:0")
	t.Cleanup(func() {
		if err := stop(b.broker.Stop, 20*time.Second); err != nil {
			t.Errorf("stop broker: %v", err)
		}
	})
	hub, err := safety.StartHub(t.Context(), safety.HubOptions{Client: client.Options{URL: b.url}, File: t.TempDir() + "/emergency_stop.json"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(hub.Stop, 20*time.Second); err != nil {
			t.Errorf("stop hub: %v", err)
		}
	})
	return b
}

// start begins a broker without what the one before had stored.
func (b *topBus) start(address string) {
	b.t.Helper()
	started, err := broker.Start(b.t.Context(), broker.Options{Listeners: []broker.Listener{{Network: "tcp", Address: address}}})
	if err != nil {
		b.t.Fatal(err)
	}
	b.broker = started
	for e := range started.Endpoints() {
		b.url = e.URL
	}
}

// restart ends the broker, calls meanwhile, and starts another one at the same address.
func (b *topBus) restart(meanwhile func()) {
	b.t.Helper()
	if err := stop(b.broker.Stop, 20*time.Second); err != nil {
		b.t.Fatal(err)
	}
	meanwhile()
	at, err := url.Parse(b.url)
	if err != nil {
		b.t.Fatal(err)
	}
	b.start(at.Host)
}

// client connects somebody else.
func (b *topBus) client(id string) *client.Client {
	b.t.Helper()
	c, err := client.Connect(b.t.Context(), client.Options{URL: b.url, ID: id})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = disconnect(c) })
	return c
}

// release releases the emergency stop, as it is engaged at the first start.
func (b *topBus) release() {
	b.t.Helper()
	c := b.client("releaser")
	b.eventually("the emergency stop is released", func() bool {
		s, err := safety.ReadStatus(b.t.Context(), c)
		return err == nil && (!s.Engaged || safety.Release(b.t.Context(), c, "tester", s.Sequence) == nil)
	})
}

// top opens a feed and a model of it.
func (b *topBus) top() *topModel {
	b.t.Helper()
	o := client.Options{URL: b.url, ID: "top", CleanStart: true, SessionExpiry: -1, FailFast: true}
	f, err := openFeed(b.t.Context(), &dialler{timeout: 20 * time.Second}, o, config.Default(), "anna")
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = f.close(context.Background()) })
	m := newTopModel(f, false)
	m.Update(tea.WindowSizeMsg{Width: 200, Height: 60})
	return m
}

func (b *topBus) eventually(what string, ok func() bool) {
	b.t.Helper()
	deadline := time.After(60 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			b.t.Fatalf("never: %s", what)
		}
	}
}

// shows waits until the screen has all these texts.
func (b *topBus) shows(m *topModel, wants ...string) {
	b.t.Helper()
	var all string
	defer func() {
		if b.t.Failed() {
			b.t.Logf("the screen is\n%s", all)
		}
	}()
	for _, want := range wants {
		b.eventually(want+" on the screen", func() bool {
			m.Update(redraw{})
			all = m.View().Content
			return strings.Contains(all, want)
		})
	}
}

// press sends a model keys, each by its name or as the letter that it is.
func press(m *topModel, keys ...string) (last tea.Cmd) {
	codes := map[string]rune{
		"enter": tea.KeyEnter, "esc": tea.KeyEscape, "tab": tea.KeyTab, "down": tea.KeyDown, "up": tea.KeyUp, "backspace": tea.KeyBackspace,
		"pgdown": tea.KeyPgDown, "end": tea.KeyEnd,
	}
	for _, k := range keys {
		switch code, named := codes[k]; {
		case named:
			_, last = m.Update(tea.KeyPressMsg{Code: code})
		case strings.HasPrefix(k, "alt+"):
			_, last = m.Update(tea.KeyPressMsg{Code: rune(k[4]), Mod: tea.ModAlt})
		case k == "ctrl+c":
			_, last = m.Update(tea.KeyPressMsg{Code: 'c', Mod: tea.ModCtrl})
		default:
			for _, r := range k {
				_, last = m.Update(tea.KeyPressMsg{Code: r, Text: string(r)})
			}
		}
	}
	return last
}

func TestTopShowsTheBus(t *testing.T) {
	t.Parallel()
	b := startTopBus(t)
	b.release()
	s, err := service.Start(t.Context(), service.Options{ID: "mower", Type: "test", Client: client.Options{URL: b.url}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stop(s.Stop, 20*time.Second) })
	service.Handle(s, "dock", func(context.Context, struct{}) (struct{}, error) { return struct{}{}, nil }, service.Description("Drives home."))
	if err := s.EmitAlert(t.Context(), message.Alert{AlertType: "tilt", Severity: "error", Message: "it \x1b[2Jtilts"}); err != nil {
		t.Fatal(err)
	}
	m := b.top()
	b.shows(m, "STOP released", "services 2/2", "mower ", "healthy", "alerts 1, 1 new", `it \x1b[2Jtilts`, "command ")
	if err := s.EmitEvent(t.Context(), "rain", map[string]string{"how": "much"}); err != nil {
		t.Fatal(err)
	}
	stranger := b.client("stranger")
	for range 3 {
		if err := stranger.Publish(t.Context(), "system/note", message.NewRaw([]byte("wet\a grass"))); err != nil {
			t.Fatal(err)
		}
	}
	b.shows(m, "rain", `{"how":"much"}`, "system/note", "late p50")

	press(m, "1", "/", "mow", "enter", "enter")
	b.shows(m, "service mower", "command dock", "Drives home.",
		"What it counts", "mqtt stats connected", "What it sends", "system/events/rain", "Its last events")
	press(m, "esc", "esc", "2", "/", "note", "enter", "enter")
	b.shows(m, "topic system/note", "messages     3 since", `wet\a grass`, "raw")
	if err := stranger.Publish(t.Context(), "system/note", message.NewRaw([]byte("dry grass"))); err != nil {
		t.Fatal(err)
	}
	b.shows(m, "dry grass")
	press(m, "esc", "esc", "3", "enter")
	b.shows(m, "alert tilt", `"severity": "error"`)
	press(m, "esc")
	if err := s.AckAlert(t.Context(), "tilt"); err != nil {
		t.Fatal(err)
	}
	b.shows(m, "alerts 1 by severity]")
	press(m, "6")
	b.shows(m, "clients/connected")
	if press(m, "q") == nil || press(m, "ctrl+c") == nil {
		t.Error("q and Ctrl-C do not end it")
	}
}

// One press engages, as another client sees it, whatever the screen shows.
func TestTopStops(t *testing.T) {
	t.Parallel()
	for name, before := range map[string][]string{"lists": nil, "help": {"?"}, "filter": {"/", "a"}, "service": {"1", "enter"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := startTopBus(t)
			b.release()
			m := b.top()
			b.shows(m, "STOP released", "services 1/1")
			press(m, before...)
			press(m, " ")
			other := b.client("other")
			b.eventually("another client sees it engaged by anna", func() bool {
				s, err := safety.ReadStatus(t.Context(), other)
				return err == nil && s.Known && s.Engaged && s.By == "anna"
			})
			b.shows(m, "STOP ENGAGED", "by anna: STOP was pressed in lawnberry top", ", confirmed", "no service that drives something has reported")
			if err := m.source.(*feed).close(t.Context()); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
}

// s is a letter while a filter is typed, and else STOP.
func TestTopLetterStops(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"s", "S"} {
		source := &fakeSource{}
		m := newTopModel(source, false)
		if press(m, "/", key); source.stops != 0 || m.filter != key {
			t.Errorf("%s typed: %d stops, filter %q", key, source.stops, m.filter)
		}
		if press(m, "enter", key); source.stops != 1 {
			t.Errorf("%s pressed: %d stops", key, source.stops)
		}
		if press(m, "/", "alt+"+strings.ToLower(key)); source.stops != 2 { // Esc and s, one right after the other
			t.Errorf("Esc and %s pressed: %d stops", key, source.stops)
		}
	}
}

// A press that reaches nobody is said at the end; and a broker that is back hears it.
func TestTopSurvivesTheBroker(t *testing.T) {
	t.Parallel()
	b := startTopBus(t)
	b.release()
	raiser := b.client("raiser")
	alert, err := message.NewAlert("raiser", message.Alert{AlertType: "tilt", Severity: "error", Message: "it tilts"})
	if err != nil {
		t.Fatal(err)
	}
	if err := raiser.Publish(t.Context(), "safety/alerts/tilt", alert); err != nil {
		t.Fatal(err)
	}
	m, lost := b.top(), b.top()
	b.shows(m, "STOP released", "alerts 1, 1 new", "services 1/1")
	b.shows(lost, "STOP released")
	b.restart(func() {
		b.shows(m, "DISCONNECTED since", "STOP unknown, which is engaged", "alerts 1, 1 new")
		press(m, "s")
		b.shows(m, "NOT SENT YET")
		b.shows(lost, "DISCONNECTED since")
		press(lost, "s")
		err := lost.source.(*feed).close(t.Context())
		if exitCode(err) != exitNoBroker || !strings.Contains(err.Error(), "was not sent") || !strings.Contains(err.Error(), "press the button") {
			t.Errorf("got %v", err)
		}
	})
	// The broker has forgotten the alert.
	b.shows(m, " reconnect", "STOP ENGAGED", "by anna", ", confirmed", "alerts 0", "services 1/1", "clients/connected")
}

// A service that has come again from the broker, with an old status, is not taken for silent.
func TestRollKeepsWhatItHeard(t *testing.T) {
	t.Parallel()
	r := newRoll()
	m, err := message.NewStatus("gps", message.Status{Status: "healthy", Details: json.RawMessage(`{"heartbeat_timeout": 5}`)})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	r.add(&client.Delivery{Topic: "system/services/gps/status", Message: m, Received: now})
	m.Metadata.Timestamp -= 20
	r.add(&client.Delivery{Topic: "system/services/gps/status", Message: m, Received: now, Retained: true})
	r.expire(time.Minute)
	if s := r.list()[0]; !s.LastSeen.Equal(now) || s.State != "healthy" {
		t.Errorf("last seen %s, %s", now.Sub(s.LastSeen), s.State)
	}
	s := r.services["gps"]
	s.LastSeen = now.Add(-time.Hour)
	r.services["gps"], r.since = s, now
	if r.expire(time.Minute); r.list()[0].State != "healthy" {
		t.Error("silence without a connection counts")
	}
	r.since = now.Add(-time.Hour)
	if r.expire(time.Minute); r.list()[0].State != "offline" {
		t.Error("silence with one does not count")
	}
}
