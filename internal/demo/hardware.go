package demo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
)

// Hardware is hardware_interface: it owns the world, publishes what the sensors read, and drives the motors by the set
// points on velocityTopic, as long as these keep coming and nobody holds the motors with the command stop.
type hardware struct {
	world *world

	mu       sync.Mutex // guards everything below
	seen     readings   // what was published last
	setPoint time.Time  // by the sender's clock, of the last set point that was accepted
}

// The set points of the motors stream: one replaces the other, and an old one is worth nothing, so they are no commands,
// which would have to be answered. hardware_interface refuses those that took longer than the dead-man time.
const velocityTopic = "navigation/velocity"

const (
	physicsPeriod = 20 * time.Millisecond
	sensorPeriod  = 100 * time.Millisecond
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
	holdQuery struct {
		Reason string `json:"reason" doc:"what for; it must be given"`
	}
	holdAnswer struct {
		HeldBy []string `json:"held_by" doc:"the reasons that hold now"`
	}
)

func (q sensorQuery) Validate() error {
	if q.ID == "" {
		return errors.New("parameters.sensor_id is missing: it must be one of " + sensorNames())
	}
	return nil
}

func (q holdQuery) Validate() error {
	if q.Reason == "" {
		return errors.New("parameters.reason is missing")
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
	service.Handle(n.Service, "stop", func(_ context.Context, q holdQuery) (holdAnswer, error) {
		h.world.Stop(q.Reason)
		return holdAnswer{h.world.Stops()}, nil
	}, service.Description("Stops wheels and blade until the same reason is released."))
	service.Handle(n.Service, "release", func(_ context.Context, q holdQuery) (holdAnswer, error) {
		if !h.world.Release(q.Reason) {
			n.log.Debug("released what was not held", "reason", q.Reason)
		}
		return holdAnswer{h.world.Stops()}, nil
	}, service.Description("Releases what was stopped for a reason; the mower may move when none is left."))
	return n.on(ctx, velocityTopic, h.drive, client.WithQueue(client.Queue{Max: 10, Full: client.DropOldest}))
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

// drive takes a set point: not one that is older than the dead-man time, nor one that was sent before the last.
func (h *hardware) drive(d *client.Delivery) {
	s, err := message.SensorOf[setPoint](d.Message)
	at := d.Message.Metadata.Time()
	if err != nil || d.Retained || time.Since(at) > deadMan {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if at.Before(h.setPoint) && h.setPoint.Sub(at) < deadMan { // a larger step back is one of the clock
		return
	}
	h.setPoint = at
	h.world.Drive(s.Linear, s.Angular, s.Blade)
}

func (h *hardware) begin(n *node) {
	last := time.Now()
	n.every(physicsPeriod, func() {
		now := time.Now()
		h.world.Advance(now.Sub(last))
		last = now
	})
	all := sensors()
	tick := 0
	n.every(sensorPeriod, func() {
		r := h.world.Read()
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
		<-n.working.Done()
		h.world.Stop("shutdown")
		h.world.Advance(time.Second) // nobody else lets time pass any more
	})
}
