package fleet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestMowerTopics(t *testing.T) {
	m := &Mower{ID: "m"}
	put := func(topic, body string) {
		t.Helper()
		before := *m
		m = m.with(newMessage(topic, testNow, []byte(body)), body == "")
		if before.ID != "m" {
			t.Fatal("the mower before has changed")
		}
	}
	alert := func(kind, severity string) string {
		return fmt.Sprintf(`{"metadata": {"timestamp": 1700000000.5}, "payload": {"alert_type": %q, "severity": %q, "message": "look"}}`, kind, severity)
	}
	put(topicAlerts+"tilt", alert("tilt", "warning"))
	put(topicAlerts+"blade", alert("blade", "error"))
	if len(m.Alerts) != 2 || m.Worst != "error" || m.Alerts[0].Type != "blade" || m.Alerts[0].Time.Unix() != 1_700_000_000 || m.Alerts[1].Message != "look" {
		t.Errorf("%+v", m.Alerts)
	}
	put(topicStop, "anything")
	if m.Stop != StopEngaged || m.Worst != "critical" || len(m.Alerts) != 3 {
		t.Errorf("%q %+v", m.Stop, m.Alerts)
	}
	for _, claim := range []string{
		`{"metadata": {"sender": "someone"}, "payload": {"context": {"engaged": false}}}`,
		`{"metadata": {"sender": "emergency_stop"}, "payload": {"context": {"engaged": "false"}}}`,
		`{"metadata": {"sender": "emergency_stop"}, "payload": {"context": {}}}`,
		`{"metadata": {"sender": "emergency_stop"}, "payload": {"data": {"context": {"engaged": false}}, "context": {"engaged": true}}}`,
		`{}`, `released`, `null`,
	} {
		put(topicStop, claim)
		if m.Stop != StopEngaged {
			t.Errorf("%s releases", claim)
		}
	}
	put(topicStop, `{"metadata": {"sender": "emergency_stop"}, "payload": {"context": {"engaged": false}}}`)
	if m.Stop != StopReleased || m.Worst != "error" || len(m.Alerts) != 2 {
		t.Errorf("%q %+v", m.Stop, m.Alerts)
	}
	put(topicStop, "")
	put(topicAlerts+"blade", "")
	put(topicAlerts+"tilt", "\x00\xff")
	if m.Stop != "" || len(m.Alerts) != 1 || m.Worst != "error" || m.Alerts[0].Type != "tilt" || !strings.Contains(m.Alerts[0].Message, "cannot be read") {
		t.Errorf("%q %+v", m.Stop, m.Alerts)
	}
	put(topicAlerts+"tilt", "")
	put(topicWeather, alert("storm", "critical"))
	if m.Worst != "critical" || m.Alerts[0].Type != "storm" {
		t.Errorf("%+v", m.Alerts)
	}

	put(topicGPS, `{"payload": {"data": {"latitude": 48.1, "longitude": 11.5}}}`)
	put(topicPosition, `{"payload": {"data": {"x": 1, "y": 2, "heading": 90}}}`)
	if m.Latitude == nil || *m.Latitude != 48.1 || m.X == nil || *m.X != 1 || *m.Heading != 90 {
		t.Errorf("%+v", m)
	}
	put(topicPosition, `{"payload": {"data": {"x": 1e300, "y": "2", "latitude": 91, "longitude": 0}}}`)
	if *m.Latitude != 48.1 || m.X != nil || m.Y != nil {
		t.Errorf("%+v", m)
	}
	put(topicPosition, `{"payload": {"data": {"latitude": 10, "longitude": 20}}}`)
	if *m.Latitude != 10 {
		t.Error("the position says where it is, not the receiver")
	}
	put(topicGPS, "")
	put(topicPosition, "")
	if m.Latitude != nil || m.X != nil {
		t.Errorf("%+v", m)
	}
}

// A mower has a bounded number of topics and bytes; what its fields are read from always fits.
func TestMowerBounds(t *testing.T) {
	m := &Mower{ID: "m"}
	for i := range 100 {
		m = m.with(newMessage(fmt.Sprint("t/", i), testNow, bytes.Repeat([]byte{'x'}, 20_000)), false)
	}
	if len(m.topics) != maxTopics || m.LeftOut() != 100-maxTopics || m.bytes > maxMowerBytes {
		t.Errorf("%d topics, %d left out, %d bytes", len(m.topics), m.LeftOut(), m.bytes)
	}
	m = m.with(newMessage(topicBattery, testNow, []byte(`{"payload": {"data": {"level": 5}}}`)), false)
	if m.Battery == nil || *m.Battery != 5 {
		t.Error("the battery did not fit")
	}
	for i := range 200 {
		m = m.with(newMessage(topicAlerts+fmt.Sprint(i), testNow, bytes.Repeat([]byte{'x'}, 20_000)), false)
	}
	if len(m.topics) > maxTopics+maxCoreTopics || m.bytes > maxMowerBytes+maxCoreBytes || len(m.Alerts) == 0 {
		t.Errorf("%d topics, %d bytes", len(m.topics), m.bytes)
	}
	if msg := newMessage("t", testNow, make([]byte, maxMessage+1)); msg.Body != nil || msg.Size != maxMessage+1 {
		t.Error("a message that is too large is kept")
	}
	sum := 0
	for _, msg := range m.topics {
		sum += len(msg.Body)
	}
	if sum != m.bytes {
		t.Errorf("%d bytes, counted %d", sum, m.bytes)
	}
}

// FuzzMower: nothing that a mower puts into its documents breaks anything; what is read of it is valid text and bounded, and encodes as JSON.
func FuzzMower(f *testing.F) {
	topics := []string{topicBattery, topicStatus, topicPosition, topicGPS, topicStop, topicWeather, topicAlerts + "x", "sensors/x/data"}
	for _, body := range []string{
		"", "{", "null", "5", `"text"`, "[]", `{"payload": 5}`, `{"payload": {"data": {"level": 1e308, "x": -1e300}}}`, "\x1f\x8b\x08\x00nonsense", "\x1f\x8b", "\xff\x00",
		`{"payload": {"status": "\u0000\u001b[2J", "details": {"activity": 7}}}`, `{"payload": {"alert_type": {}, "severity": "critical", "message": ["x"]}}`,
		`{"metadata": {"sender": "emergency_stop", "timestamp": -1e99}, "payload": {"context": {"engaged": false}, "severity": "warning", "message": "\ud800"}}`,
		`{"version": "\u001b", "backlog": {"records": -5, "oldest": "2020-01-01T00:00:00Z"}, "lost": {"alert": {"count": 18446744073709551615}, "event": {"count": 9}}, "interval": -1}`,
		strings.Repeat("[", 20_000),
	} {
		for i := range topics {
			f.Add(byte(i), []byte(body))
		}
	}
	selectors := []*Where{}
	for _, text := range []string{"battery<20 or x>1 and state~m", "sensors/x/data:a.b.0>5", "worst>=error", "version>1", "age>5"} {
		w, err := ParseWhere(text)
		if err != nil {
			f.Fatal(err)
		}
		selectors = append(selectors, w)
	}
	f.Fuzz(func(t *testing.T, which byte, body []byte) {
		topic := topics[int(which)%len(topics)]
		m := (&Mower{ID: "m"}).with(newMessage(topic, testNow, body), len(body) == 0)
		if p, ok := readPresence(body); ok {
			m.take(p)
			if i := m.interval(); i <= 0 || i > longestInterval {
				t.Errorf("an interval of %s", i)
			}
		}
		for _, text := range []string{m.State, m.Worst, m.Version, m.Stop} {
			if !utf8.ValidString(text) || len(text) > maxStateText {
				t.Errorf("%q", text)
			}
		}
		for _, a := range m.Alerts {
			if !utf8.ValidString(a.Message+a.Type) || len(a.Message) > maxAlertText || SeverityRank(a.Severity) == 0 {
				t.Errorf("%+v", a)
			}
		}
		for _, w := range selectors {
			w.Match(m, testNow)
		}
		if _, err := json.Marshal(m); err != nil {
			t.Error(err)
		}
		if m.Backlog < 0 {
			t.Error(m.Backlog)
		}
		// The same bytes as a record of the history, and as a batch.
		for _, h := range []map[string][]string{nil, {HeaderBatch: {"2"}}} {
			n := 0
			for r := range unpack(h, body, testNow) {
				n++
				if r.Time.After(testNow.Add(clockError)) {
					t.Errorf("it happened at %s", r.Time)
				}
				if _, err := json.Marshal(r); err != nil {
					t.Error(err)
				}
			}
			if n > maxBatchLines+1 {
				t.Errorf("%d messages", n)
			}
		}
		if again := m.with(newMessage(topic, time.Time{}, nil), true); len(again.Alerts) != 0 || again.Battery != nil || again.X != nil || again.bytes != 0 {
			t.Errorf("what is gone is there: %+v", again)
		}
	})
}

// What is left out is counted by topics, not by messages; and however many alerts there are, the emergency stop is seen.
func TestLeftOut(t *testing.T) {
	m := &Mower{ID: "m"}
	for range 3 {
		for i := range 2 * (maxTopics + maxCoreTopics) {
			m = m.with(newMessage(fmt.Sprintf("safety/alerts/a%03d", i), testNow, []byte("{}")), false)
		}
		for i := range 10 {
			m = m.with(newMessage(fmt.Sprintf("camera/%d", i), testNow, []byte("{}")), false)
		}
	}
	if want := maxTopics + maxCoreTopics + 10; m.LeftOut() != want || len(m.topics) != maxTopics+maxCoreTopics {
		t.Errorf("%d topics, %d left out, want %d", len(m.topics), m.LeftOut(), want)
	}
	m = m.with(newMessage(topicStop, testNow, []byte("?")), false)
	if m.Stop != StopEngaged {
		t.Errorf("the emergency stop is %q", m.Stop)
	}
	left := m.LeftOut()
	m = m.with(newMessage("camera/1", testNow, nil), true) // it is gone
	if m.LeftOut() != left-1 {
		t.Errorf("%d left out, want %d", m.LeftOut(), left-1)
	}
	m = m.with(newMessage("safety/alerts/a000", testNow, nil), true)
	m = m.with(newMessage(topicStop, testNow, nil), true)
	m = m.with(newMessage("safety/alerts/a255", testNow, []byte("{}")), false) // there is room now
	if m.LeftOut() != left-2 || m.Topic("safety/alerts/a255") == nil {
		t.Errorf("%d left out, want %d", m.LeftOut(), left-2)
	}
}

func TestCovers(t *testing.T) {
	got := withoutCovered([]string{"m.a.b", "m.*.b", "m.c.>", "m.c.d", "m.c.*", "m.e", "m.e"})
	if want := "m.*.b m.c.> m.e"; strings.Join(got, " ") != want {
		t.Errorf("%q, want %q", got, want)
	}
	for _, tt := range []struct {
		a, b string
		want bool
	}{{"a.>", "*.b", true}, {"a.*", "a.b.c", false}, {"a.b", "a.b", true}, {"a.>", "a", false}, {"lawnberry.m.power.>", "lawnberry.*.safety.>", false}} {
		if got := overlap(strings.Split(tt.a, "."), strings.Split(tt.b, ".")); got != tt.want {
			t.Errorf("%s and %s overlap: %v", tt.a, tt.b, got)
		}
	}
}

func TestKeeper(t *testing.T) {
	var k keeper
	for i, r := range []Record{{Topic: "a", Time: testNow.Add(5)}, {Topic: "a", Time: testNow.Add(9)}, {Topic: "b", Time: testNow.Add(7)}, {Topic: "a", Time: testNow.Add(3)}, {Topic: "b", Time: testNow.Add(10)}} {
		r.Mower, r.Problem = "m", fmt.Sprint(i)
		k.add(r, 4)
	}
	var got []string
	for _, r := range k.last(4) {
		got = append(got, r.Problem)
	}
	if s := strings.Join(got, " "); s != "2 1 3 4" { // 3 was said after 1, whatever the clock said
		t.Error(s)
	}
	for i := range 5000 {
		k.add(Record{Topic: "c", Time: testNow.Add(time.Duration(i))}, 4)
	}
	if len(k.kept) > 2000 || k.last(4)[3].Time != testNow.Add(4999) {
		t.Error(len(k.kept))
	}
}
