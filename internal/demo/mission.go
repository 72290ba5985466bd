package demo

import (
	"errors"
	"fmt"
	"slices"
)

// Activities of the mower, as navigation reports them.
const (
	docked   = "docked"
	charging = "charging" // docked, and the battery fills
	mowing   = "mowing"
	paused   = "paused"
	docking  = "docking" // on the way to the dock
	stopped  = "stopped" // the emergency stop is engaged
)

// A mission is what navigation knows and decides: the route, how much of it is done, and what the mower should do now.
// It drives from estimated poses, one call of drive each. It is not safe for concurrent use.
type mission struct {
	route    []leg
	next     int // index in route of the leg that is being cut, len(route) when the lawn is done
	total    float64
	done     float64 // length that is cut, without the current leg
	current  float64 // length that is cut of the current leg
	detour   []leg   // to drive before the route goes on, or into the dock
	follower follower

	doing      string // docked, mowing, paused or docking
	before     string // what was paused: mowing or docking
	cut        string // what interrupted it, "" when somebody has paused it
	waiting    bool   // goes home for the battery's sake, and mows on when it is charged
	engaged    bool   // the emergency stop
	arrivedAgo int    // poses seen since the dock should have been reached

	// As far as power has reported.
	contact  bool
	charging bool
	battery  float64 // percent

	at pose
}

func newMission(delay float64) *mission {
	m := &mission{
		route: mowingRoute(), follower: follower{delay: delay},
		doing:   docked,
		contact: true, battery: 100 * batteryAtStart, at: dockPose,
	}
	for _, l := range m.route {
		if l.Cut {
			m.total += l.length()
		}
	}
	return m
}

// activity is what to report.
func (m *mission) activity() string {
	switch {
	case m.engaged && m.doing != docked:
		return stopped
	case m.doing == docked && m.charging:
		return charging
	}
	return m.doing
}

// areaDone is the part of the lawn that is mown, 0 to 1.
func (m *mission) areaDone() float64 { return min(1, (m.done+m.current)/m.total) }

// StartMowing begins, or goes on, with the lawn; a finished lawn is begun again.
func (m *mission) StartMowing() error {
	switch {
	case m.doing == mowing:
		return nil
	case m.battery < batteryLow:
		return fmt.Errorf("the battery is at %.0f %%, too low to mow: dock, and wait until it is at %.0f %%", m.battery, batteryEnough)
	case m.doing == paused && m.before == mowing:
		return m.Resume()
	}
	m.mow()
	return nil
}

// mow plans the way from here to where the route goes on.
func (m *mission) mow() {
	if m.next == len(m.route) {
		m.route, m.next, m.done = mowingRoute(), 0, 0
	}
	// What was cut of the current leg is done; from there it goes on.
	l := m.route[m.next]
	if m.current > 0 {
		cut := min(m.current, l.length())
		m.done += cut
		l.From = point{l.From.X + (l.To.X-l.From.X)*cut/l.length(), l.From.Y + (l.To.Y-l.From.Y)*cut/l.length()}
		m.route = slices.Clone(m.route)
		m.route[m.next], m.current = l, 0
	}
	from := m.at.at()
	m.detour = nil
	if from.distance(dockPose.at()) < 0.3 {
		m.detour = append(m.detour, leg{From: from, To: dockApproach, Reverse: true})
		from = dockApproach
	}
	if from.distance(l.From) > 2*arrived {
		m.detour = append(m.detour, leg{From: from, To: l.From})
	}
	m.waiting = false
	m.set(mowing)
}

// Pause stops where it is, until Resume.
func (m *mission) Pause() error {
	switch m.doing {
	case docked:
		return errors.New("the mower is in the dock: there is nothing to pause")
	case paused:
		m.cut = "" // now somebody wants it
		return nil
	}
	m.before, m.doing = m.doing, paused
	return nil
}

// Interrupt stops where it is because control of the motors was lost; it takes another command to go on.
func (m *mission) Interrupt(why string) {
	if m.drives() {
		m.before, m.doing, m.cut = m.doing, paused, why
	}
}

// drives reports whether it moves the mower, for which it needs control of the motors.
func (m *mission) drives() bool { return m.doing == mowing || m.doing == docking }

// due reports whether it would mow again after having charged: see StartMowing.
func (m *mission) due() bool { return m.doing == docked && m.waiting && m.battery >= batteryEnough }

// Resume goes on with what was paused.
func (m *mission) Resume() error {
	if m.doing != paused {
		return fmt.Errorf("the mower is %s: nothing is paused", m.activity())
	}
	m.set(m.before)
	return nil
}

// Dock drives home.
func (m *mission) Dock() error {
	if m.doing == docked || m.doing == docking {
		m.waiting = false
		return nil
	}
	m.waiting = false
	m.goHome()
	return nil
}

func (m *mission) goHome() {
	from := m.at.at()
	m.detour = nil
	if from.distance(dockPose.at()) < 0.8 && from.distance(dockApproach) > 0.1 {
		// Too near to turn into the right direction: some way out first.
		m.detour = append(m.detour, leg{From: from, To: dockApproach, Reverse: true})
		from = dockApproach
	}
	m.detour = append(m.detour,
		leg{From: from, To: dockApproach},
		leg{From: dockApproach, To: dockPose.at()})
	m.arrivedAgo = 0
	m.set(docking)
}

func (m *mission) set(doing string) {
	m.doing, m.cut = doing, ""
	m.follower.begin()
}

// A setPoint is what the motors should do.
type setPoint struct {
	Linear  float64 `json:"linear"`  // m/s
	Angular float64 `json:"angular"` // rad/s, positive turns left
	Blade   bool    `json:"blade"`
	Token   string  `json:"token"` // of the lease of who sends it
}

// drive decides, from a new estimate of the pose, what to do until the next one comes. moving is false when no set point
// should be sent at all, so that the motors stop by themselves.
func (m *mission) drive(p pose) (s setPoint, moving bool) {
	m.at = p
	if m.doing == mowing && m.battery < batteryLow {
		m.waiting = true
		m.goHome()
	}
	switch m.doing {
	case mowing:
		return m.driveRoute(), true
	case docking:
		return m.driveHome(), true
	}
	return setPoint{}, false
}

func (m *mission) driveRoute() setPoint {
	if s, ok := m.driveDetour(); ok {
		return s
	}
	for m.next < len(m.route) {
		l := m.route[m.next]
		v, w, done := m.follower.follow(m.at, l, cruise)
		if !done {
			if along, _ := l.progress(m.at.at()); l.Cut {
				m.current = max(m.current, min(along, l.length()))
			}
			return setPoint{Linear: v, Angular: w, Blade: l.Cut}
		}
		if l.Cut {
			m.done += l.length()
		}
		m.current = 0
		m.next++
		m.follower.begin()
	}
	m.goHome()
	return setPoint{}
}

// driveDetour drives the detour, if there is one.
func (m *mission) driveDetour() (s setPoint, ok bool) {
	for len(m.detour) > 0 {
		l := m.detour[0]
		fastest := cruise
		if l.Reverse || l.To == dockPose.at() {
			fastest = reverse
		}
		v, w, done := m.follower.follow(m.at, l, fastest)
		if !done {
			return setPoint{Linear: v, Angular: w}, true
		}
		m.detour = m.detour[1:]
		m.follower.begin()
	}
	return setPoint{}, false
}

const dockPatience = 30 // poses to wait for the dock's contacts before another try

func (m *mission) driveHome() setPoint {
	if s, ok := m.driveDetour(); ok {
		return s
	}
	if m.contact {
		m.doing = docked
		return setPoint{}
	}
	if m.arrivedAgo++; m.arrivedAgo > dockPatience {
		m.goHome()
	}
	return setPoint{}
}

// path returns the rest of what is planned, as far as a number of points.
func (m *mission) path(limit int) []point {
	var points []point
	add := func(l leg) {
		if len(points) == 0 {
			points = append(points, l.From)
		}
		points = append(points, l.To)
	}
	if m.doing == docked {
		return nil
	}
	for _, l := range m.detour {
		add(l)
	}
	if m.doing == mowing || m.doing == paused && m.before == mowing {
		for _, l := range m.route[min(m.next, len(m.route)):] {
			if len(points) >= limit {
				break
			}
			add(l)
		}
	}
	return points
}

// controlDelay is the simulated time, in seconds, between a measurement and the effect of the set point made of it.
func controlDelay(speed float64) float64 { return 0.12 * speed }
