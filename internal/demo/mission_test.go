package demo

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestMissionCommands(t *testing.T) {
	type act = func(m *mission) error
	start, pause, resume, dock := (*mission).StartMowing, (*mission).Pause, (*mission).Resume, (*mission).Dock
	cut := func(m *mission) error { m.Interrupt("no control"); return nil }
	engage := func(m *mission) error { m.engaged = true; m.Interrupt("emergency stop"); return nil }
	release := func(m *mission) error { m.engaged = false; return nil }
	battery := func(percent float64) act {
		return func(m *mission) error { m.battery = percent; return nil }
	}
	for _, test := range []struct {
		name string
		do   []act
		want string // activity
		err  string // of the last act
	}{
		{"start", []act{start}, mowing, ""},
		{"start twice", []act{start, start}, mowing, ""},
		{"pause", []act{start, pause}, paused, ""},
		{"pause twice", []act{start, pause, pause}, paused, ""},
		{"pause in the dock", []act{pause}, docked, "nothing to pause"},
		{"resume", []act{start, pause, resume}, mowing, ""},
		{"resume when mowing", []act{start, resume}, mowing, "the mower is mowing: nothing is paused"},
		{"start when paused", []act{start, pause, start}, mowing, ""},
		{"dock", []act{start, dock}, docking, ""},
		{"dock in the dock", []act{dock}, docked, ""},
		{"dock when paused", []act{start, pause, dock}, docking, ""},
		{"pause on the way home", []act{start, dock, pause, resume}, docking, ""},
		{"start on the way home", []act{start, dock, start}, mowing, ""},
		{"start from a paused way home", []act{start, dock, pause, start}, mowing, ""},
		{"interrupted", []act{start, cut}, paused, ""},
		{"interrupted and resumed", []act{start, cut, resume}, mowing, ""},
		{"interrupted on the way home", []act{start, dock, cut, resume}, docking, ""},
		{"interrupted in the dock", []act{cut}, docked, ""},
		{"engaged", []act{start, engage}, stopped, ""},
		{"engaged in the dock", []act{engage}, docked, ""},
		{"released", []act{start, engage, release}, paused, ""},
		{"released and resumed", []act{start, engage, release, resume}, mowing, ""},
		{"paused, engaged, released", []act{start, pause, engage, release}, paused, ""},
		{"engaged, paused, released", []act{start, engage, pause, release}, paused, ""},
		{"release does not start", []act{engage, release}, docked, ""},
		{"start with a low battery", []act{battery(15), start}, docked, "the battery is at 15 %"},
	} {
		m := newMission(0.1)
		m.contact = false
		var err error
		for _, a := range test.do {
			err = a(m)
		}
		if got := m.activity(); got != test.want {
			t.Errorf("%s: activity %s, want %s", test.name, got, test.want)
		}
		if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
			t.Errorf("%s: error %v, want %q", test.name, err, test.err)
		}
	}
}

func TestOnlyWorkMoves(t *testing.T) {
	m := newMission(0.1)
	m.contact = false
	check := func(what string, want bool) {
		t.Helper()
		if s, moving := m.drive(dockPose); moving != want || !want && s != (setPoint{}) {
			t.Errorf("%s: moving %v, %+v", what, moving, s)
		}
	}
	check("docked", false)
	_ = m.StartMowing()
	check("mowing", true)
	m.Interrupt("person")
	check("interrupted", false)
	if m.cut != "person" {
		t.Errorf("interrupted by %q", m.cut)
	}
	_ = m.Resume()
	check("resumed", true)
	if m.cut != "" {
		t.Errorf("resumed, but interrupted by %q", m.cut)
	}
	_ = m.Pause()
	m.Interrupt("person")
	check("paused", false)
	if m.cut != "" {
		t.Errorf("what was paused was interrupted by %q", m.cut)
	}
}

func TestGoesOnWhereItLeftOff(t *testing.T) {
	r := newRig(t, 1, 1)
	r.world.visits.next = math.Inf(1)
	if err := r.mission.StartMowing(); err != nil {
		t.Fatal(err)
	}
	r.until("a tenth of the lawn", time.Hour, func() bool { return r.mission.areaDone() > 0.1 })
	if err := r.mission.Dock(); err != nil {
		t.Fatal(err)
	}
	done := r.mission.areaDone()
	r.until("docked", 10*time.Minute, func() bool { return r.mission.doing == docked })
	r.until("charging", time.Minute, func() bool { return r.mission.activity() == charging })
	r.until("fully charged", 2*time.Hour, func() bool { return r.mission.battery > 95 })
	if got := r.mission.activity(); got != charging && got != docked {
		t.Errorf("sent home by hand it left by itself: %s", got)
	}
	if got := r.mission.areaDone(); got != done {
		t.Errorf("the area done changed in the dock from %.3f to %.3f", done, got)
	}
	if err := r.mission.StartMowing(); err != nil {
		t.Fatal(err)
	}
	if got := r.mission.areaDone(); math.Abs(got-done) > 1e-9 {
		t.Errorf("it begins again at %.4f instead of %.4f", got, done)
	}
	r.until("all of it", 3*time.Hour, func() bool { return r.mission.next == len(r.mission.route) && r.mission.doing == docked })
	if c := r.world.Covered(); c < 0.97 {
		t.Errorf("covered %.3f", c)
	}
	if got := r.mission.areaDone(); math.Abs(got-1) > 1e-6 {
		t.Errorf("area done %.6f at the end", got)
	}
	if err := r.mission.StartMowing(); err != nil || r.mission.areaDone() > 0.01 {
		t.Errorf("a finished lawn does not begin again: %v, area done %.3f", err, r.mission.areaDone())
	}
}

func TestDockTriesAgain(t *testing.T) {
	r := newRig(t, 1, 1)
	r.world.visits.next = math.Inf(1)
	_ = r.mission.StartMowing()
	r.until("on the lawn", time.Minute, func() bool { return r.world.blade == 1 })
	_ = r.mission.Dock()
	tries := 0
	r.until("three tries", 10*time.Minute, func() bool {
		r.world.at.X = max(r.world.at.X, dockPose.X+0.2) // something lies in the dock
		if r.mission.arrivedAgo == dockPatience {
			tries++
		}
		return tries == 3
	})
	r.until("docked", 10*time.Minute, func() bool { return r.mission.doing == docked })
}

func TestRouteStaysOnTheLawn(t *testing.T) {
	var cut float64
	for i, l := range mowingRoute() {
		for _, p := range []point{l.From, l.To} {
			if p.X < bladeWidth/2-1e-9 || p.X > lawnWidth-bladeWidth/2+1e-9 || p.Y < bladeWidth/2-1e-9 || p.Y > lawnHeight-bladeWidth/2+1e-9 {
				t.Errorf("leg %d: %v is nearer to the edge than the blade allows", i, p)
			}
		}
		if l.Cut {
			cut += l.length()
		}
	}
	if least := lawnWidth * lawnHeight / bladeWidth; cut < least {
		t.Errorf("%.0f m of cutting cannot cover the lawn, which needs %.0f", cut, least)
	}
}

func TestPath(t *testing.T) {
	m := newMission(0.1)
	if p := m.path(20); p != nil {
		t.Errorf("a docked mower plans %v", p)
	}
	_ = m.StartMowing()
	if p := m.path(20); len(p) < 15 || len(p) > 25 || p[0] != dockPose.at() {
		t.Errorf("%d points: %v", len(p), p)
	}
	_ = m.Dock()
	if p := m.path(20); len(p) == 0 || p[len(p)-1] != dockPose.at() {
		t.Errorf("the way home does not end in the dock: %v", p)
	}
}
