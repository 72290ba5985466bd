package demo

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	estop "github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

// Safety is safety: it engages the emergency stop when there is a hazard, and has it not released before the hazard is over. It never
// releases it itself, nor sets anything going.
type safety struct {
	mu       sync.Mutex // guards everything below
	node     *node
	latch    *estop.Latch
	frameAt  time.Time // when vision last published a frame, zero before the first
	person   object    // the nearest one in the last frame with one in range
	near     bool      // a person is, or was until clearFrames ago
	clear    int       // frames without a person in range since then
	tilt     float64   // degrees
	tilted   bool
	lifted   bool
	obstacle float64 // m
	blocked  bool
	healthy  map[string]bool // watched services that have been healthy once
	lost     map[string]service.State
	told     map[string]hazard // by reason, what the others know; of the goroutine that acts alone

	changed latest[struct{}]
}

// A hazard is a reason to stop the mower.
type hazard struct {
	Reason   string `json:"reason"`
	Severity string `json:"severity"`
	Text     string `json:"message"`
	alert    string // type of the alert
	details  map[string]any
}

type safetyAnswer struct {
	Clear   bool     `json:"clear"`
	Hazards []hazard `json:"hazards"`
}

const (
	clearFrames   = 3               // without a person in range before the person counts as gone
	framePatience = 6 * time.Second // without a frame before the mower is stopped: vision sends one every two
	tiltLimit     = 25.0            // degrees; over 5 below
	obstacleLimit = 0.25            // m; over 0.1 beyond
	checkPeriod   = 250 * time.Millisecond
)

// watched are the services without which the mower must not move.
func watched() []string {
	return []string{"hardware_interface", "navigation", "sensor_fusion", "vision"}
}

func newSafety() *safety {
	return &safety{
		obstacle: ultrasonicRange,
		healthy:  map[string]bool{},
		lost:     map[string]service.State{},
		told:     map[string]hazard{},
		changed:  newLatest[struct{}](),
	}
}

func (s *safety) needs() []string { return []string{"hardware_interface", "vision"} }

func (s *safety) health(context.Context) (service.State, string) { return service.Healthy, "" }

func (s *safety) setup(ctx context.Context, n *node) error {
	s.node = n
	service.Handle(n.Service, "get_status", func(context.Context, struct{}) (safetyAnswer, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		hazards := s.hazardsLocked(time.Now())
		return safetyAnswer{Clear: len(hazards) == 0, Hazards: hazards}, nil
	}, service.Description("Tells whether the mower may move, and what stands against it."), service.Repeatable())
	var err error
	if s.latch, err = n.openLatch(ctx); err != nil {
		return err
	}
	n.atEnd(func(context.Context) { // nobody watches any more, which is reason enough; and the mower of the demo is gone soon
		for reason := range s.told {
			s.latch.ClearHazard(reason)
		}
	})
	n.OnService(s.service)
	for filter, h := range map[string]func(*client.Delivery){
		"vision/detections":       s.frame,
		"sensors/ultrasonic/data": s.ultrasonic,
		"sensors/tilt/data":       s.tilting,
		"sensors/lift/data":       s.lifting,
	} {
		if err := n.on(ctx, filter, h); err != nil {
			return err
		}
	}
	return nil
}

// wakeLocked lets the goroutine that acts look again.
func (s *safety) wakeLocked() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

func (s *safety) frame(d *client.Delivery) {
	f, err := message.SensorOf[detectionData](d.Message)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frameAt = time.Now()
	near := object{Distance: personRange}
	for _, o := range f.Objects {
		if o.Class == "person" && o.Distance < near.Distance {
			near = o
		}
	}
	if near.Distance < personRange {
		s.person, s.clear = near, 0
		if !s.near {
			s.near = true
			s.wakeLocked()
		}
	} else if s.near {
		if s.clear++; s.clear >= clearFrames {
			s.near = false
			s.wakeLocked()
		}
	}
}

func (s *safety) ultrasonic(d *client.Delivery) {
	r, err := message.SensorOf[ultrasonicReading](d.Message)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.obstacle = min(r.Left, r.Centre, r.Right)
	if blocked := s.obstacle < obstacleLimit || s.blocked && s.obstacle < obstacleLimit+0.1; blocked != s.blocked {
		s.blocked = blocked
		s.wakeLocked()
	}
}

func (s *safety) tilting(d *client.Delivery) {
	r, err := message.SensorOf[tiltReading](d.Message)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tilt = r.Tilt
	if tilted := s.tilt > tiltLimit || s.tilted && s.tilt > tiltLimit-5; tilted != s.tilted {
		s.tilted = tilted
		s.wakeLocked()
	}
}

func (s *safety) lifting(d *client.Delivery) {
	r, err := message.SensorOf[liftReading](d.Message)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Lifted != s.lifted {
		s.lifted = r.Lifted
		s.wakeLocked()
	}
}

// service takes note of the services that come and go. It may not have been told that one became healthy, when that was
// before it listened; but then the old state says so.
func (s *safety) service(i service.Info, old service.State) {
	if !slices.Contains(watched(), i.ID) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	works := func(state service.State) bool { return state == service.Healthy || state == service.Degraded }
	s.healthy[i.ID] = s.healthy[i.ID] || works(i.State) || works(old)
	switch {
	case works(i.State):
		delete(s.lost, i.ID)
	case s.healthy[i.ID]:
		s.lost[i.ID] = i.State
	}
	s.wakeLocked()
}

// hazardsLocked returns the hazards there are now, sorted by reason.
func (s *safety) hazardsLocked(now time.Time) []hazard {
	hazards := []hazard{}
	if s.lifted {
		hazards = append(hazards, hazard{"lifted", "critical", "The wheels are off the ground", "lifted", map[string]any{}})
	}
	if s.blocked {
		hazards = append(hazards, hazard{"obstacle", "warning", fmt.Sprintf("Something is %.2f m ahead", s.obstacle),
			"obstacle_detected", map[string]any{"distance": s.obstacle}})
	}
	if s.near {
		hazards = append(hazards, hazard{"person", "critical", fmt.Sprintf("A person is %.1f m away", s.person.Distance),
			"person_detected", map[string]any{"distance": s.person.Distance, "bearing": s.person.Bearing, "confidence": s.person.Confidence}})
	}
	for _, id := range watched() {
		if state, ok := s.lost[id]; ok {
			hazards = append(hazards, hazard{"service_" + id, "error", fmt.Sprintf("The service %s is %s", id, orGone(state)),
				"service_lost", map[string]any{"service_id": id, "state": state}})
		}
	}
	if s.tilted {
		hazards = append(hazards, hazard{"tilt", "error", fmt.Sprintf("The mower leans by %.0f degrees", s.tilt),
			"tilt_detected", map[string]any{"tilt": s.tilt}})
	}
	if !s.frameAt.IsZero() && now.Sub(s.frameAt) > framePatience {
		hazards = append(hazards, hazard{"vision_silent", "error", "The cameras send nothing",
			"vision_silent", map[string]any{"seconds": round(now.Sub(s.frameAt).Seconds(), 1)}})
	}
	return hazards
}

func orGone(s service.State) string {
	if s == "" {
		return "gone" // its status was removed
	}
	return string(s)
}

func (s *safety) begin(n *node) {
	n.work.Go(func() {
		t := time.NewTicker(checkPeriod)
		defer t.Stop()
		for n.working.Err() == nil {
			s.act()
			select {
			case <-s.changed:
			case <-t.C:
			case <-n.working.Done():
			}
		}
	})
}

// act responds to what has changed: it stops the mower first, and tells about it then. It runs in one goroutine.
func (s *safety) act() {
	s.mu.Lock()
	hazards := s.hazardsLocked(time.Now())
	s.mu.Unlock()
	for _, h := range hazards {
		if _, known := s.told[h.Reason]; known {
			continue
		}
		s.told[h.Reason] = h
		s.engage(h)
	}
	for reason, h := range s.told {
		if slices.ContainsFunc(hazards, func(h hazard) bool { return h.Reason == reason }) {
			continue
		}
		delete(s.told, reason)
		s.latch.ClearHazard(reason)
		s.tell(h, false)
		s.node.clear(h.alert)
	}
}

func (s *safety) engage(h hazard) {
	s.node.ledger.Counting(s.node.id, "safety/emergency_stop")
	ctx, cancel := context.WithTimeout(s.node.sending, sendTime)
	defer cancel()
	if err := s.latch.SetHazard(ctx, h.Reason, h.Text); err != nil {
		s.node.complain("an emergency stop was not sent, it is said again", h.Reason, err)
	}
	s.tell(h, true)
	s.node.alert(h.alert, h.Severity, h.Text, h.details)
}

// tell publishes that a hazard began, or is over.
func (s *safety) tell(h hazard, active bool) {
	about := map[string]any{"active": active, "reason": h.Reason}
	for k, v := range h.details {
		about[k] = v
	}
	details, err := message.EncodeJSON(about)
	if err != nil {
		s.node.refused("a hazard was not told", h.Reason, err)
		return
	}
	text, severity := h.Text, h.Severity
	if !active {
		text, severity = "Over: "+h.Text, "info"
	}
	m, err := message.NewAlert(s.node.id, message.Alert{AlertType: h.Reason, Severity: severity, Message: text, AutoResolve: true, Context: details})
	s.node.send("safety/hazards", m, err)
}
