package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	estop "github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

// Hardware is hardware_interface: it owns the world, publishes what the sensors read, and drives the motors by the set points on
// velocityTopic. It has a guard, so nothing turns while anything stands against it, and a seat, so only who has the lease drives. The
// dead man in the world is another matter: that is the motors' own controller, which stops when this program does not feed it.
type hardware struct {
	world *world
	latch *estop.Latch
	guard *estop.Guard
	seat  *estop.Seat

	mu    sync.Mutex // guards everything below
	seen  readings   // what was published last
	cause string     // for which the permit was lost last
	want  order      // the last set point that was admitted

	refused atomic.Uint64 // set points
}

// An order is a set point with where it comes from. The zero value is none.
type order struct {
	setPoint
	sender string
	sent   time.Time // by the sender's clock
	at     time.Time // when it came
}

// The set points of the motors stream: one replaces the other, and an old one is worth nothing, so they are no commands,
// which would have to be answered. hardware_interface refuses those that took longer than the dead-man time.
const velocityTopic = "navigation/velocity"

const (
	physicsPeriod = 20 * time.Millisecond
	sensorPeriod  = 100 * time.Millisecond
	drivePeriod   = 50 * time.Millisecond // in which the motor controller is fed

	// How old the readings may be on which somebody has to judge whether the mower may move: some are missing then, and they have to
	// come back through the broker. The cameras see a person coming from far away, and send an empty frame every two seconds.
	tiltPatience = 800 * time.Millisecond
	liftPatience = 500 * time.Millisecond
)

// A sensor is one that hardware_interface reads and publishes on sensors/{id}/data.
type sensor struct {
	id    string
	every int // sensor periods
	data  func(r *readings) any
	units map[string]string
}

// sensors lists the sensors in the order in which they are published: sensor_fusion wants the gyroscope before the
// odometers, and the satellites last.
func sensors() []sensor {
	return []sensor{
		{"imu", 1, func(r *readings) any { return r.IMU },
			map[string]string{"orientation": "deg", "angular_velocity": "rad/s", "acceleration": "m/s²", "temperature": "°C"}},
		{"odometry", 1, func(r *readings) any { return r.Odometry }, map[string]string{"left": "m", "right": "m", "speed": "m/s"}},
		{"gps", 2, func(r *readings) any { return r.GPS },
			map[string]string{"latitude": "deg", "longitude": "deg", "altitude": "m", "speed": "m/s", "accuracy": "m"}},
		{"ultrasonic", 1, func(r *readings) any { return r.Ultrasonic }, map[string]string{"front_left": "m", "front_center": "m", "front_right": "m"}},
		{"tilt", 2, func(r *readings) any { return r.Tilt }, map[string]string{"roll": "deg", "pitch": "deg", "tilt": "deg"}},
		{"lift", 1, func(r *readings) any { return r.Lift }, map[string]string{}},
		{"motors", 5, func(r *readings) any { return r.Motors }, map[string]string{"linear": "m/s", "angular": "rad/s", "stood_for": "s"}},
		{"power", 5, func(r *readings) any { return r.Power },
			map[string]string{"voltage": "V", "current": "A", "state_of_charge": "%", "temperature": "°C", "load": "W", "blade_load": "W", "solar_voltage": "V", "solar_current": "A"}},
		{"environment", 50, func(r *readings) any { return r.Environment },
			map[string]string{"temperature": "°C", "humidity": "%", "pressure": "hPa", "light": "lx"}},
	}
}

func (h *hardware) needs() []string { return nil }

func (h *hardware) health(context.Context) (service.State, string) { return service.Healthy, "" }

type (
	sensorQuery struct {
		ID string `json:"sensor_id" doc:"such as gps, imu or tilt; it must be given"`
	}
	sensorAnswer struct {
		ID    string            `json:"sensor_id"`
		Data  any               `json:"data"`
		Units map[string]string `json:"units"`
	}
	simulation struct {
		Tilt   *float64 `json:"tilt,omitempty" doc:"degrees that the mower leans by, beyond what the ground slopes"`
		Lifted *bool    `json:"lifted,omitempty" doc:"somebody holds the mower, its wheels off the ground"`
		Person bool     `json:"person,omitempty" doc:"somebody walks past the mower"`
	}
	simulated struct {
		Tilt   float64 `json:"tilt" doc:"degrees from upright"`
		Lifted bool    `json:"lifted"`
	}
)

func (q sensorQuery) Validate() error {
	if q.ID == "" {
		return errors.New("parameters.sensor_id is missing: it must be one of " + sensorNames())
	}
	return nil
}

func (q simulation) Validate() error {
	switch {
	case q == simulation{}:
		return errors.New("nothing to simulate: want parameters.tilt, parameters.lifted or parameters.person")
	case q.Tilt != nil && math.Abs(*q.Tilt) > 180:
		return errors.New("parameters.tilt must be -180 to 180")
	}
	return nil
}

func sensorNames() string {
	var names []string
	for _, s := range sensors() {
		names = append(names, s.id)
	}
	return strings.Join(names, ", ")
}

func (h *hardware) setup(ctx context.Context, n *node) error {
	h.seen = h.world.Read()
	service.Handle(n.Service, "read_sensor", func(_ context.Context, q sensorQuery) (sensorAnswer, error) { return h.read(q.ID) },
		service.Description("Reads one sensor now."), service.Repeatable())
	service.Handle(n.Service, "simulate", func(_ context.Context, q simulation) (simulated, error) { return h.simulate(q), nil }, service.Description("Simulates what happens to a mower, such as that somebody lifts it, to see what the others make of it."))
	var err error
	if h.latch, err = n.openLatch(ctx); err != nil {
		return err
	}
	h.guard, err = estop.NewGuard(ctx, n.Service, h.latch, estop.GuardOptions{Safety: []string{"safety"}, OnChange: func(permit bool, cause string) {
		n.log.Info("the motors may turn, or not", "permit", permit, "cause", cause)
		h.changed(cause)
	}})
	if err != nil {
		return err
	}
	n.atEnd(func(context.Context) { h.guard.Close() })
	for name, within := range map[string]time.Duration{
		"sensors/tilt/data": tiltPatience, "sensors/lift/data": liftPatience, "vision/detections": framePatience,
	} {
		if err := h.guard.Require(name, within); err != nil {
			return err
		}
	}
	h.seat = estop.NewSeat(h.guard, estop.SeatOptions{})
	return n.on(ctx, velocityTopic, func(d *client.Delivery) { h.take(d, n.log) }, client.WithQueue(client.Queue{Max: 10, Full: client.DropOldest}))
}

func (h *hardware) simulate(q simulation) simulated {
	if q.Tilt != nil {
		h.world.Tilt(*q.Tilt)
	}
	if q.Lifted != nil {
		h.world.Lift(*q.Lifted)
	}
	if q.Person {
		h.world.Visit()
	}
	r := h.world.Read()
	return simulated{r.Tilt.Tilt, r.Lift.Lifted}
}

// changed is told what the guard permits.
func (h *hardware) changed(cause string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cause = cause
}

func (h *hardware) read(id string) (sensorAnswer, error) {
	h.mu.Lock()
	seen := h.seen
	h.mu.Unlock()
	for _, s := range sensors() {
		if s.id == id {
			return sensorAnswer{ID: id, Data: s.data(&seen), Units: s.units}, nil
		}
	}
	return sensorAnswer{}, fmt.Errorf("there is no sensor %q: it must be one of %s", id, sensorNames())
}

// take takes a set point of who has the lease: not one that is older than the dead-man time, nor one that was sent before the last.
func (h *hardware) take(d *client.Delivery, log *slog.Logger) {
	s, err := message.SensorOf[setPoint](d.Message)
	sent := d.Message.Metadata.Time()
	if err != nil || d.Retained || time.Since(sent) > deadMan {
		return
	}
	if err := h.seat.Admit(d.Message.Metadata.Sender, s.Token); err != nil {
		h.refused.Add(1)
		log.Debug("a set point is refused", "error", err)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if sent.Before(h.want.sent) && h.want.sent.Sub(sent) < deadMan { // a larger step back is one of the clock
		return
	}
	h.want = order{s, d.Message.Metadata.Sender, sent, d.Received}
}

// drive feeds the motor controller, as long as set points come. The guard calls it while there is a permit.
func (h *hardware) drive(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	o := h.want
	switch {
	case ctx.Err() != nil: // stop is called, or was
	case o.at.IsZero():
	case time.Since(o.at) > deadMan, h.seat.Admit(o.sender, o.Token) != nil: // what a driver wanted who drives no more
		h.world.Drive(0, 0, false)
	default:
		h.world.Drive(o.Linear, o.Angular, o.Blade)
	}
	return nil
}

// halt stops wheels and blade. The guard calls it when the permit is lost.
func (h *hardware) halt(string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.want = order{sent: h.want.sent}
	h.world.Stop()
	return nil
}

// motors completes a reading with who drives.
func (h *hardware) motors(r motorReading) motorReading {
	r.Driver, r.Permit = h.seat.Driver(), h.guard.Permit()
	if !r.Permit {
		h.mu.Lock()
		r.Cause = h.cause
		h.mu.Unlock()
	}
	return r
}

func (h *hardware) begin(n *node) {
	last := time.Now()
	var told motorReading
	n.every(physicsPeriod, func() {
		now := time.Now()
		h.world.Advance(now.Sub(last))
		last = now
		m := h.motors(h.world.Motors())
		if m.Wheels != told.Wheels || (m.Blade > 0) != (told.Blade > 0) || m.Driver != told.Driver || m.Permit != told.Permit {
			told = m
			n.sendData("sensors/motors/data", "motors", m, map[string]string{"linear": "m/s", "angular": "rad/s", "stood_for": "s"})
		}
	})
	all := sensors()
	tick := 0
	n.every(sensorPeriod, func() {
		r := h.world.Read()
		r.Motors = h.motors(r.Motors)
		h.mu.Lock()
		h.seen = r
		h.mu.Unlock()
		for _, s := range all {
			if tick%s.every == 0 {
				n.sendData("sensors/"+s.id+"/data", s.id, s.data(&r), s.units)
			}
		}
		tick++
	})
	n.every(time.Minute, func() {
		for _, s := range all {
			n.sendStatus("sensors/"+s.id+"/status", "healthy", map[string]any{
				"sensor_id": s.id, "rate_hz": float64(time.Second) / float64(sensorPeriod) / float64(s.every),
			})
		}
	})
	n.work.Go(func() { // whatever ends the service, the motors do not go on
		if err := h.guard.Run(n.working, drivePeriod, h.drive, h.halt); err != nil {
			n.log.Error("the mower may move", "error", err)
		}
		h.world.Advance(time.Second) // nobody else lets time pass any more
	})
}
