package fleet

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"
)

var testNow = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// testMower mows with a low battery, an alert and an odd reading or two.
func testMower(t testing.TB) *Mower {
	t.Helper()
	m := &Mower{ID: "berlin-07", Online: true, Version: "v1.10.2", Backlog: 1200, Lost: 3, Heard: testNow.Add(-90 * time.Second), Presence: &Presence{}}
	for topic, body := range map[string]string{
		topicBattery:            `{"metadata": {}, "payload": {"data": {"level": 17.5, "voltage": 23.9, "cells": [3.9, 4.1], "note": "24.5"}, "units": {"level": "%", "voltage": "V"}}}`,
		topicStatus:             `{"metadata": {}, "payload": {"status": "busy", "details": {"activity": "Mowing", "area": 0}}}`,
		topicPosition:           `{"payload": {"data": {"x": -3.5, "y": 2, "latitude": 52.5, "longitude": 13.4}}}`,
		topicStop:               `{"metadata": {"sender": "emergency_stop"}, "payload": {"context": {"engaged": false}}}`,
		topicAlerts + "tilt":    `{"payload": {"alert_type": "tilt", "severity": "error", "message": "tilted by 40 degrees"}}`,
		"sensors/raw/data":      `5`,
		"system/health":         `{"status": "healthy", "payload": {"ready": true, "text": ""}}`,
		"sensors/nonsense/data": "\xff{",
	} {
		m = m.with(newMessage(topic, testNow, []byte(body)), false)
	}
	return m
}

func TestWhere(t *testing.T) {
	m := testMower(t)
	for _, tt := range []struct {
		text string
		want bool
	}{
		{"", true},
		{"  ", true},
		{"battery<20 and state=mowing", true},
		{"battery<20%", true},
		{"battery=17.5", true},
		{"battery>=17.5 and battery<=17.5", true},
		{"battery!=17.5", false},
		{"battery>2e1", false},
		{"BATTERY<20 AND State=MOWING", true},
		{"state='mowing'", true},
		{`state="mow\ing"`, true},
		{"state~ow", true},
		{"state~mo*", true},
		{"state~mo", true},
		{"state~m?wing", true},
		{"state~m?", false},
		{"state!=docked", true},
		{"id=berlin-07", true},
		{"id=Berlin-07", false}, // an id is exact
		{"id~'berlin-*'", true},
		{"id~BERLIN", true},
		{"id~berlin-*8", false},
		{"online", true},
		{"online=false", false},
		{"not online", false},
		{"not not online", true},
		{"stop=released", true},
		{"stop!=engaged", true},
		{"alerts", true},
		{"alerts=1", true},
		{"worst>=warning", true},
		{"worst>error", false},
		{"worst=error", true},
		{"version<1.10.3 and version>1.9", true},
		{"version=1.10.2", true},
		{"version~1.10", true},
		{"version>=1.10.2.1", false},
		{"backlog>1000 and lost>0", true},
		{"age>1m and age<2m", true},
		{"age=90", true},
		{"age>0.5h", false},
		{"x<0m and y=2", true},
		{"latitude>52° and longitude<13.5deg", true},
		{"enrolled", false}, // nothing is known of it
		{"enrolled=true", false},
		{"enrolled!=true", true},
		{"not enrolled=true", true},
		{"power/battery:voltage<24", true},
		{"power/battery:voltage<24V", true},
		{"power/battery:voltage<24mV", false}, // another unit than the message's
		{"power/battery:voltage!=24mV", true},
		{"power/battery:cells.1>4", true},
		{"power/battery:cells>4", false}, // a list is no value
		{"power/battery:cells.9>4", false},
		{"power/battery:note>24", true}, // a text that is a number
		{"power/battery:none<24", false},
		{"power/battery:none!=24", true},
		{"not power/battery:none<24", true},
		{"navigation/status:activity=mowing", true},
		{"navigation/status:area", false},
		{"navigation/status:area=0", true},
		{"system/health:status=healthy", true},
		{"system/health:ready", true},
		{"system/health:ready=false", false},
		{"system/health:ready!=7", true},
		{"system/health:text", false},
		{"sensors/raw/data:x=5", false},
		{"sensors/nonsense/data:x", false},
		{`"power/battery:voltage"<24`, true},
		{"battery<10 or state=mowing and online", true},
		{"(battery<10 or state=mowing) and not online", false},
		{"battery<10 or battery<15 or battery<20", true},
		{"not (battery<10 or battery>90)", true},
	} {
		w, err := ParseWhere(tt.text)
		if err != nil {
			t.Errorf("%q: %v", tt.text, err)
			continue
		}
		for range 2 { // the second time from what is remembered
			if got := w.Match(m, testNow); got != tt.want {
				t.Errorf("%q selects it: %v", tt.text, got)
			}
		}
		if w.String() != tt.text {
			t.Errorf("%q is %q", tt.text, w)
		}
	}
}

// Of a mower that has said nothing, nothing is known.
func TestWhereUnknown(t *testing.T) {
	m := &Mower{ID: "new"}
	for _, f := range WhereFields() {
		switch f.Name {
		case "id", "online", "alerts":
			continue
		}
		value := map[FieldKind]string{KindText: "released", KindNumber: "1", KindBool: "true", KindSeverity: "info", KindVersion: "1.0", KindDuration: "1s"}[f.Kind]
		for text, want := range map[string]bool{f.Name: false, f.Name + "=" + value: false, f.Name + "!=" + value: true, "not " + f.Name + "=" + value: true} {
			w, err := ParseWhere(text)
			if err != nil {
				t.Fatal(err)
			}
			if got := w.Match(m, testNow); got != want {
				t.Errorf("%q selects it: %v", text, got)
			}
		}
	}
}

func TestWhereErrors(t *testing.T) {
	for _, tt := range []struct {
		text string
		at   int
		says string
	}{
		{"batery<20", 0, `"batery" is no field`},
		{"battery<", 8, "want a value after <, not the end"},
		{"battery<<20", 8, "want a value after <"},
		{"battery 20", 8, "want and, or"},
		{"battery < 20 %", 13, "want and, or"},
		{"battery<low", 8, "want a number, also with %"},
		{"battery<20V", 8, "want a number, also with %"},
		{"alerts>2x", 7, "want a number"},
		{"state<3", 5, "state is a text"},
		{"online>true", 6, "true or false"},
		{"online=yes", 7, "want true or false"},
		{"stop=stopped", 5, "want engaged or released"},
		{"worst>bad", 6, "want info, warning, error or critical"},
		{"version<new", 8, "want a version"},
		{"age>5y", 4, "want seconds"},
		{"battery~2", 7, "~ is for texts"},
		{"battery<20 and", 14, "want a field"},
		{"and battery<20", 0, "want a field"},
		{"battery<20 && online", 11, `want "and"`},
		{"battery<20 | online", 11, `want "or"`},
		{"!online", 0, `want "not"`},
		{"(battery<20", 0, "never closed"},
		{"battery<20)", 10, "never opened"},
		{"(battery<20 online)", 12, "closing parenthesis"},
		{"state='mowing", 6, "quotation mark"},
		{"power/battery<20", 0, "path of a value"},
		{"power/battery:<20", 14, "path after the colon"},
		{":level<20", 0, "topic before the colon"},
		{"power/+:level<20", 0, "want one topic"},
		{"power/battery:level<low", 20, "want a number after <"},
		{"ä", 0, "is no field"},
		{"online and \xff", 11, "no UTF-8"},
		{strings.Repeat("(", 60) + "online", 50, "nested too deeply"},
		{strings.Repeat("not ", 60) + "online", 200, "nested too deeply"},
		{strings.Repeat("online or ", 100) + "online", 1000, "too many comparisons"},
		{strings.Repeat(" ", 5000), 4096, "too long"},
	} {
		_, err := ParseWhere(tt.text)
		var at *WhereError
		if !errors.As(err, &at) || at.At != tt.at || !strings.Contains(at.Problem, tt.says) {
			t.Errorf("%.40q: %v", tt.text, err)
		}
	}
	_, err := ParseWhere("größe<1")
	if want := `selector "größe<1": at character 1: "größe" is no field`; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Error(err)
	}
	_, err = ParseWhere("id=ä or x")
	if err != nil {
		t.Error(err)
	}
}

func TestWhereTopics(t *testing.T) {
	w, err := ParseWhere("b/c:x<1 or not (a/b:y=2 and b/c:z=1) or battery<3")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(w.Topics(), " "); got != "a/b b/c" {
		t.Error(got)
	}
	var none *Where
	if !none.All() || len(none.Topics()) != 0 || !none.Match(&Mower{}, testNow) {
		t.Error("no selector selects not all")
	}
}

// FuzzWhere: no text breaks the parser; an error is about a place in it; what is read selects the same mowers as its negation leaves out.
func FuzzWhere(f *testing.F) {
	for _, s := range []string{
		"battery<20 and state=mowing", "not (online or worst>=error) and id~'b*'", "power/battery:voltage<24V", `state="a\"b"`, "age>5m", "((", "x=1e999",
		"version>=v1.2-rc", "~", "battery=-.5e+3%", "a:b:c=1", "\x00=1", "id~***?*", "lost<1 or", "x<+", "x<1.", "not not x",
	} {
		f.Add(s)
	}
	m := testMower(f)
	f.Fuzz(func(t *testing.T, text string) {
		w, err := ParseWhere(text)
		if err != nil {
			var at *WhereError
			if !errors.As(err, &at) || at.At < 0 || at.At > len(text) || at.Error() == "" {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		w.Topics()
		if w.All() {
			return
		}
		not, err := ParseWhere("not (" + text + ")")
		if err != nil {
			if len(text)+6 > maxWhere || strings.Contains(err.Error(), "deeply") {
				return
			}
			t.Fatalf("%q: %v", text, err)
		}
		if w.Match(m, testNow) == not.Match(m, testNow) {
			t.Errorf("%q and its negation are the same", text)
		}
	})
}

func TestGlob(t *testing.T) {
	for _, tt := range []struct {
		pattern, text string
		want          bool
	}{
		{"", "", true}, {"*", "", true}, {"?", "", false}, {"a*b*c", "aXbYc", true}, {"a*b*c", "aXbY", false}, {"*a", "ba", true}, {"?ä*", "xäy", true},
		{strings.Repeat("*a", 50) + "b", strings.Repeat("a", 2000), false},
	} {
		if got := globMatch([]rune(tt.pattern), []rune(tt.text)); got != tt.want {
			t.Errorf("%.20q matches %.20q: %v", tt.pattern, tt.text, got)
		}
	}
	if numberEnd("1e5m") != 3 || numberEnd("1em") != 1 || numberEnd("-.5") != 3 || numberEnd(".") != 0 || numberEnd("1.") != 2 || numberEnd("+") != 0 {
		t.Error("numbers end elsewhere")
	}
	if l := (literal{text: "1e999"}); l.number() && math.IsInf(l.num, 0) {
		t.Error("infinite")
	}
}
