package demo

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	estop "github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

// Navigation is navigation: the mission, fed with the estimates of sensor_fusion, and its set points sent to the motors.
//
// It has control of them, by a lease, while the mission drives. When the lease is lost, or the emergency stop is engaged, the mission is
// interrupted; it goes on with a command to that effect alone. Taking the lease anew by itself would not do: from here nobody can tell
// a reading that was late for a moment from somebody who has stopped the mower and is about to reach under it.
type navigation struct {
	poses latest[positionData]
	node  *node
	latch *estop.Latch

	steering sync.Mutex // held while the lease is taken or given back
	tried    time.Time  // when the lease was last asked for without a command; guarded by steering

	mu        sync.Mutex   // guards everything below
	lease     *estop.Lease // nil without control
	drop      func()       // frees what lease has
	mission   *mission
	position  positionData
	poseAt    time.Time // when the last estimate came, zero before the first
	poseCount int       // estimates that have come
	moving    bool      // the last set point was not the final zero
	reported  string    // the activity that was announced last
	planned   int       // leg of the route that the path was published from, -1 when it must be published again

	changed latest[struct{}] // of the activity
}

// navigationDetails are the details of the status on navigation/status, whose status is the activity.
type navigationDetails struct {
	Activity string  `json:"activity"`
	AreaDone float64 `json:"area_done"` // 0 to 1
	Progress float64 `json:"progress"`  // percent
	// Interrupted says why the mission was interrupted, for people; "" when it was not, or somebody has paused it.
	Interrupted string `json:"interrupted"`
	Leg         int    `json:"leg"`
	Legs        int    `json:"legs"`
}

type (
	// activityAnswer is the result of the commands that change what the mower does.
	activityAnswer struct {
		Activity string  `json:"activity"`
		AreaDone float64 `json:"area_done"`
	}
	positionAnswer struct {
		positionData
		Activity    string `json:"activity"`
		Interrupted string `json:"interrupted" doc:"why the mission was interrupted, so that it waits for resume; empty when it was not"`
	}
	pathData struct {
		Activity string      `json:"activity"`
		Points   []pathPoint `json:"points"`   // what is planned next; the first is where it began
		Boundary []pathPoint `json:"boundary"` // the lawn's corners
		Dock     pathPoint   `json:"dock"`
	}
	pathPoint struct {
		X float64 `json:"x"`
		Y float64 `json:"y"`
	}
)

const (
	positionEvery = 5               // estimates to one position that is published
	posePatience  = 3 * time.Second // without an estimate before the service calls itself degraded
	pathLegs      = 5               // after so many legs the path is published again
	pathPoints    = 24
	steerPeriod   = 100 * time.Millisecond // in which the lease is looked after
	takeAgain     = 5 * time.Second        // when the mower is charged and control is refused
)

func newNavigation(speed float64) *navigation {
	return &navigation{
		poses:   newLatest[positionData](),
		mission: newMission(controlDelay(speed)),
		changed: newLatest[struct{}](),
		planned: -1,
	}
}

func (g *navigation) needs() []string { return []string{"sensor_fusion"} }

func (g *navigation) health(context.Context) (service.State, string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.poseAt.IsZero() {
		return service.Healthy, ""
	}
	if since := time.Since(g.poseAt); since > posePatience {
		return service.Degraded, "no position for " + since.Round(time.Second).String()
	}
	return service.Healthy, ""
}

func (g *navigation) setup(ctx context.Context, n *node) error {
	g.node = n
	for _, c := range []struct {
		command, text string
		do            func(*mission) error
		drives        bool
	}{
		{"start_mowing", "Leaves the dock and mows the lawn.", (*mission).StartMowing, true},
		{"pause", "Stops where the mower is, until resume.", (*mission).Pause, false},
		{"resume", "Goes on after pause, or after an interruption.", (*mission).Resume, true},
		{"dock", "Drives back to the dock.", (*mission).Dock, true},
	} {
		service.Handle(n.Service, c.command, func(ctx context.Context, _ struct{}) (activityAnswer, error) {
			return g.command(ctx, c.command, c.do, c.drives)
		}, service.Description(c.text))
	}
	service.Handle(n.Service, "get_position", func(context.Context, struct{}) (positionAnswer, error) {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.poseAt.IsZero() {
			return positionAnswer{}, errors.New("the position is not known yet: sensor_fusion has sent no estimate")
		}
		return positionAnswer{g.position, g.mission.activity(), g.mission.cut}, nil
	}, service.Description("Tells where the mower is and what it is doing."), service.Repeatable())

	var err error
	if g.latch, err = n.openLatch(ctx); err != nil {
		return err
	}
	g.latch.OnChange(g.stopped)
	n.atEnd(func(ctx context.Context) {
		g.steering.Lock()
		defer g.steering.Unlock()
		g.leave(ctx)
	})
	if err := n.on(ctx, "sensors/fusion/data", g.estimate, client.WithQueue(client.Queue{Max: 10, Full: client.DropOldest})); err != nil {
		return err
	}
	if err := n.on(ctx, "sensors/power/data", g.contacts); err != nil {
		return err
	}
	// The events come at once, the state of the battery every few seconds.
	for _, kind := range []string{"battery_low", "battery_charged"} {
		if _, err := n.OnEvent(ctx, kind, func(_ context.Context, e service.Event) {
			if b, err := decode[batteryEvent](e.EventData); err == nil {
				g.battery(b.Level)
			}
		}); err != nil {
			return err
		}
	}
	return n.on(ctx, "power/battery", func(d *client.Delivery) {
		if b, err := message.SensorOf[batteryData](d.Message); err == nil && !d.Retained {
			g.battery(b.Level)
		}
	})
}

// command runs a command of the mission. One that drives needs control of the motors.
func (g *navigation) command(ctx context.Context, name string, do func(*mission) error, drives bool) (activityAnswer, error) {
	g.steering.Lock()
	defer g.steering.Unlock()
	if drives {
		if err := g.take(ctx); err != nil {
			return activityAnswer{}, refusal(name, err)
		}
	}
	g.mu.Lock()
	err := do(g.mission)
	g.noticeLocked()
	answer, idle := activityAnswer{g.mission.activity(), round(g.mission.areaDone(), 4)}, !g.mission.drives()
	g.mu.Unlock()
	if idle {
		g.leave(ctx)
	}
	return answer, err
}

// refusal has a command refused that needs control of the motors, for the reason for which that is refused.
func refusal(command string, err error) error {
	text := "no control of the motors: " + err.Error()
	if said := (*client.CommandError)(nil); errors.As(err, &said) && said.Code == client.CodeRefused {
		text = said.Message
	}
	return &client.CommandError{Service: "navigation", Command: command, Code: client.CodeRefused, Message: text}
}

// take takes control of the motors, unless the mission has it. g.steering is held.
func (g *navigation) take(ctx context.Context) error {
	g.mu.Lock()
	has := g.lease != nil && g.lease.Err() == nil && g.mission.drives()
	g.mu.Unlock()
	if has {
		return nil
	}
	g.leave(ctx) // what an interrupted mission had may not have run out yet
	life, end := context.WithCancel(g.node.working)
	patience := context.AfterFunc(ctx, end) // for taking it, not for having it
	l, err := estop.TakeLease(life, g.node, "hardware_interface")
	if err != nil || !patience() {
		end()
		if err == nil {
			err = context.Cause(ctx)
		}
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lease, g.drop = l, end
	return nil
}

// leave gives control of the motors back. g.steering is held.
func (g *navigation) leave(ctx context.Context) {
	g.mu.Lock()
	l, drop := g.lease, g.drop
	g.lease, g.drop = nil, nil
	g.mu.Unlock()
	if l == nil {
		return
	}
	defer drop()
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	if err := l.Leave(ctx); err != nil {
		g.node.complain("control of the motors was not given back, it runs out", "hardware_interface", err)
	}
}

// steer looks after the lease: a lost one interrupts the mission, one that is not needed any more is given back, and a mower that has
// charged for the mission's sake needs one again.
func (g *navigation) steer() {
	if !g.steering.TryLock() { // a command does
		return
	}
	defer g.steering.Unlock()
	g.mu.Lock()
	g.holdLocked()
	idle, due := g.lease != nil && !g.mission.drives(), g.mission.due() && !g.mission.engaged
	g.mu.Unlock()
	if idle {
		g.leave(g.node.sending)
	}
	if !due || time.Since(g.tried) < takeAgain {
		return
	}
	g.tried = time.Now()
	ctx, cancel := context.WithTimeout(g.node.sending, callTime)
	defer cancel()
	if err := g.take(ctx); err != nil {
		g.node.complain("charged, but no control of the motors", "hardware_interface", err)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.mission.StartMowing(); err != nil {
		g.node.log.Debug("charged, but not mowing", "error", err)
	}
	g.noticeLocked()
}

// holdLocked interrupts a mission that has lost control of the motors.
func (g *navigation) holdLocked() {
	if !g.mission.drives() {
		return
	}
	why := "no control of the motors"
	if g.lease != nil {
		err := g.lease.Err()
		if err == nil {
			return
		}
		why = err.Error()
	}
	g.mission.Interrupt(why)
	g.noticeLocked()
}

// stopped is told the state of the emergency stop.
func (g *navigation) stopped(s estop.State) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mission.engaged = s.Engaged
	if s.Engaged {
		g.mission.Interrupt("emergency stop: " + s.Reason)
	}
	g.noticeLocked()
}

func (g *navigation) battery(level float64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mission.battery = level
}

// contacts learns from the power sensor whether the dock is reached.
func (g *navigation) contacts(d *client.Delivery) {
	if r, err := message.SensorOf[powerReading](d.Message); err == nil {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.mission.contact, g.mission.charging = r.Docked, r.Charging
	}
}

func (g *navigation) estimate(d *client.Delivery) {
	if p, err := message.SensorOf[positionData](d.Message); err == nil && time.Since(d.Message.Metadata.Time()) < deadMan {
		g.poses.put(p)
	}
}

// noticeLocked lets the announcements know of another activity.
func (g *navigation) noticeLocked() {
	if g.mission.activity() != g.reported {
		g.planned = -1
		select {
		case g.changed <- struct{}{}:
		default:
		}
	}
}

func (g *navigation) begin(n *node) {
	follow(n, g.poses, func(p positionData) { g.control(n, p) })
	follow(n, g.changed, func(struct{}) { g.announce(n) })
	n.every(steerPeriod, g.steer)
	n.every(2*time.Second, func() { g.status(n) })
	n.every(6*time.Second, func() { g.path(n) })
}

// control is one turn of the control loop.
func (g *navigation) control(n *node, p positionData) {
	g.mu.Lock()
	g.position, g.poseAt = p, time.Now()
	g.holdLocked()
	s, moving := g.mission.drive(p.pose())
	last := g.moving && !moving // one zero at the end, so that the motors need not wait for the dead man
	g.moving = moving
	g.noticeLocked()
	if g.lease != nil {
		s.Token = g.lease.Token()
	}
	last = last && g.lease != nil
	publish := g.poseCount%positionEvery == 0
	g.poseCount++
	g.mu.Unlock()
	if moving || last {
		s.Linear, s.Angular = round(s.Linear, 4), round(s.Angular, 4)
		n.sendData(velocityTopic, "velocity", s, map[string]string{"linear": "m/s", "angular": "rad/s"})
	}
	if publish {
		n.sendData("navigation/position", "position", p, positionUnits())
	}
}

// announce publishes another activity, as status and as event.
func (g *navigation) announce(n *node) {
	g.mu.Lock()
	was, is := g.reported, g.mission.activity()
	g.reported = is
	area := round(g.mission.areaDone(), 4)
	g.mu.Unlock()
	if was == is {
		return
	}
	g.status(n)
	n.event("activity_changed", map[string]any{"old_activity": was, "new_activity": is, "area_done": area})
}

func (g *navigation) status(n *node) {
	g.mu.Lock()
	m := g.mission
	details := navigationDetails{
		Activity: m.activity(), AreaDone: round(m.areaDone(), 4), Progress: round(100*m.areaDone(), 1),
		Interrupted: m.cut, Leg: m.next, Legs: len(m.route),
	}
	g.mu.Unlock()
	n.sendStatus("navigation/status", details.Activity, details)
}

// path publishes what is planned when it has changed.
func (g *navigation) path(n *node) {
	g.mu.Lock()
	if g.planned >= 0 && g.mission.next < g.planned+pathLegs && g.mission.next >= g.planned {
		g.mu.Unlock()
		return
	}
	g.planned = g.mission.next
	data := pathData{
		Activity: g.mission.activity(), Points: pathOf(g.mission.path(pathPoints)),
		Boundary: pathOf(lawnBoundary()), Dock: pathOf([]point{dockPose.at()})[0],
	}
	g.mu.Unlock()
	n.sendData("navigation/path", "path", data, map[string]string{"points": "m", "boundary": "m", "dock": "m"})
}

func pathOf(points []point) []pathPoint {
	path := []pathPoint{}
	for _, p := range points {
		path = append(path, pathPoint{round(p.X, 3), round(p.Y, 3)})
	}
	return path
}
