package cli

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/fleet"
)

type testFleet struct{ mowers []*fleet.Mower }

func (f *testFleet) Mowers() []*fleet.Mower { return append([]*fleet.Mower{}, f.mowers...) }
func (f *testFleet) Link() fleet.Link {
	return fleet.Link{Connected: true, Current: true, Server: "nats://x"}
}

func testMowers(n int) *testFleet {
	f := &testFleet{}
	for i := range n {
		charge := float64(i % 100)
		m := &fleet.Mower{ID: fmt.Sprintf("m%04d", i), Online: i%10 != 0, State: "mowing", Battery: &charge, Heard: time.Now(), Messages: uint64(i)}
		if i == n/2 {
			m.Alerts, m.Worst = []fleet.RaisedAlert{{Type: "tilt", Severity: "error", Message: "\x1b[31mleans\n"}}, "error"
		}
		f.mowers = append(f.mowers, m)
	}
	return f
}

// The screen has as many lines as it should, whatever its size, and nothing of a mower on it moves the cursor; alerts are first.
func TestFleetTop(t *testing.T) {
	all, err := fleet.ParseWhere("")
	if err != nil {
		t.Fatal(err)
	}
	f := testMowers(3000)
	m := newFleetModel(f, all, false)
	for _, size := range [][2]int{{200, 50}, {80, 24}, {40, 10}, {10, 3}, {1, 1}} {
		m.width, m.height = size[0], size[1]
		lines := m.lines()
		if len(lines) != size[1] {
			t.Errorf("%v: %d lines", size, len(lines))
		}
		for _, l := range lines {
			if strings.ContainsAny(l, "\x1b\n") || visible(l) > size[0] {
				t.Errorf("%v: %q", size, l)
			}
		}
	}
	m.width, m.height = 160, 20
	says := func(want string) {
		t.Helper()
		if text := strings.Join(m.lines(), "\n"); !strings.Contains(text, want) {
			t.Errorf("it does not say %q:\n%s", want, text)
		}
	}
	says("3000 mowers   300 offline   1 with alerts")
	if !strings.HasPrefix(m.lines()[3], ">m1500") || !strings.Contains(m.lines()[3], `error tilt: \x1b[31mleans\n`) {
		t.Errorf("%q", m.lines()[3])
	}
	press := func(keys ...string) {
		for _, k := range keys {
			text := ""
			if len(k) == 1 {
				text = k
			}
			m.key(k, text)
		}
	}
	press("/")
	press(strings.Split("battery<", "")...)
	says("at its end: want a value after <")
	if len(m.shown) != 2970 { // that have any charge: the last that was a condition
		t.Errorf("%d are shown of a condition that is none", len(m.shown))
	}
	press("2", "enter")
	says("60 of them: battery<2")
	press("o", "G")
	if got := m.shown[m.row()].ID; got != "m2901" {
		t.Errorf("the last one is %s", got)
	}
	press("enter")
	says("mower     m2901")
	press("esc", "esc")
	if len(m.shown) != 3000 || m.open != "" {
		t.Errorf("%d are shown", len(m.shown))
	}
	m.rates = meterRates{}
	now := time.Now()
	m.look(now)
	for i := range f.mowers {
		with := *f.mowers[i]
		with.Messages += 20
		f.mowers[i] = &with
	}
	m.look(now.Add(10 * time.Second))
	says("6000 messages/s")
}
