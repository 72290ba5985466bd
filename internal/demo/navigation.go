package demo

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
)

// Navigation is navigation: the mission, fed with the estimates of sensor_fusion, and its set points sent to the motors.
type navigation struct {
	poses latest[positionData]

	mu        sync.Mutex // guards everything below
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
	Activity string   `json:"activity"`
	AreaDone float64  `json:"area_done"` // 0 to 1
	Progress float64  `json:"progress"`  // percent
	HeldBy   []string `json:"held_by"`   // reasons for which safety holds the mower
	Leg      int      `json:"leg"`
	Legs     int      `json:"legs"`
}

type (
	// activityAnswer is the result of the commands that change what the mower does.
	activityAnswer struct {
		Activity string  `json:"activity"`
		AreaDone float64 `json:"area_done"`
	}
	positionAnswer struct {
		positionData
		Activity string `json:"activity"`
	}
	pathData struct {
		Activity string      `json:"activity"`
		Points   []pathPoint `json:"points"` // what is planned next; the first is where it began
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
	for _, c := range []struct {
		command, text string
		do            func(*mission) error
	}{
		{"start_mowing", "Leaves the dock and mows the lawn.", (*mission).StartMowing},
		{"pause", "Stops where the mower is, until resume.", (*mission).Pause},
		{"resume", "Goes on after pause.", (*mission).Resume},
		{"dock", "Drives back to the dock.", (*mission).Dock},
	} {
		service.Handle(n.Service, c.command, func(context.Context, struct{}) (activityAnswer, error) { return g.command(c.do) },
			service.Description(c.text))
	}
	service.Handle(n.Service, "hold", func(_ context.Context, q holdQuery) (holdAnswer, error) {
		return g.hold(func(m *mission) { m.Hold(q.Reason) }), nil
	}, service.Description("Keeps the mower where it is until the same reason is released."))
	service.Handle(n.Service, "release", func(_ context.Context, q holdQuery) (holdAnswer, error) {
		return g.hold(func(m *mission) { m.Release(q.Reason) }), nil
	}, service.Description("Releases what was held for a reason; the mower goes on when none is left."))
	service.Handle(n.Service, "get_position", func(context.Context, struct{}) (positionAnswer, error) {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.poseAt.IsZero() {
			return positionAnswer{}, errors.New("the position is not known yet: sensor_fusion has sent no estimate")
		}
		return positionAnswer{g.position, g.mission.activity()}, nil
	}, service.Description("Tells where the mower is and what it is doing."), service.Repeatable())

	n.OnService(g.guard)
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

// command runs a command of the mission.
func (g *navigation) command(do func(*mission) error) (activityAnswer, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	err := do(g.mission)
	g.noticeLocked()
	return activityAnswer{g.mission.activity(), round(g.mission.areaDone(), 4)}, err
}

func (g *navigation) hold(do func(*mission)) holdAnswer {
	g.mu.Lock()
	defer g.mu.Unlock()
	do(g.mission)
	g.noticeLocked()
	return holdAnswer{g.mission.holding()}
}

func (g *navigation) battery(level float64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mission.battery = level
}

// guard holds the mower while safety is not there to do it.
func (g *navigation) guard(i service.Info, old service.State) {
	if i.ID != "safety" {
		return
	}
	switch {
	case i.State == service.Healthy || i.State == service.Degraded:
		g.hold(func(m *mission) { m.Release(safetyAway) })
	case old == service.Healthy || old == service.Degraded:
		g.hold(func(m *mission) { m.Hold(safetyAway) })
	}
}

const safetyAway = "safety_away" // reason to hold the mower

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
	n.every(2*time.Second, func() { g.status(n) })
	n.every(6*time.Second, func() { g.path(n) })
}

// control is one turn of the control loop.
func (g *navigation) control(n *node, p positionData) {
	g.mu.Lock()
	g.position, g.poseAt = p, time.Now()
	s, moving := g.mission.drive(p.pose())
	last := g.moving && !moving // one zero at the end, so that the motors need not wait for the dead man
	g.moving = moving
	g.noticeLocked()
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
		HeldBy: m.holding(), Leg: m.next, Legs: len(m.route),
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
	data := pathData{Activity: g.mission.activity(), Points: []pathPoint{}}
	for _, p := range g.mission.path(pathPoints) {
		data.Points = append(data.Points, pathPoint{round(p.X, 3), round(p.Y, 3)})
	}
	g.mu.Unlock()
	n.sendData("navigation/path", "path", data, map[string]string{"points": "m"})
}
