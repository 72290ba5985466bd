// Hardware is a service that owns sensors and motors: it publishes readings, lets others read one on demand, and drives while it may.
//
//	go run ./cmd/lawnberry serve      # in a terminal of its own
//	go run ./examples/hardware
//	go run ./cmd/lawnberry call hardware_interface read_sensor '{"sensor_id": "tilt"}'
//	go run ./cmd/lawnberry call hardware_interface stop
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"log"
	"math"
	"os"
	"sync/atomic"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

// A sensor reads the hardware. These only pretend: the mower drives in a circle and meets a slope every 20 seconds.
type sensor struct {
	units map[string]string
	read  func(t float64) map[string]float64
}

var sensors = map[string]sensor{
	"gps": {map[string]string{"x": "m", "y": "m"}, func(t float64) map[string]float64 {
		return map[string]float64{"x": 10 + 5*math.Cos(t/10), "y": 7 + 5*math.Sin(t/10)}
	}},
	"tilt": {map[string]string{"angle": "deg"}, func(t float64) map[string]float64 {
		return map[string]float64{"angle": 20 + 15*math.Sin(2*math.Pi*t/20)}
	}},
}

type readSensor struct {
	SensorID string `json:"sensor_id" doc:"gps or tilt"`
}

func main() {
	url := flag.String("broker", cmp.Or(os.Getenv("LAWNBERRY_BROKER_URL"), "tcp://localhost:1883"), "`URL` of the broker")
	limit := flag.Duration("for", 0, "end after this time; 0 is never")
	flag.Parse()
	ctx, stop := service.SignalContext(context.Background())
	defer stop()
	if *limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, *limit)
		defer cancel()
	}
	if err := run(ctx, *url); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, url string) error {
	began := time.Now()
	m := &motors{}
	svc, err := service.Start(ctx, service.Options{
		ID: "hardware_interface", Type: "hardware", Version: "1.0.0",
		Client:    client.Options{URL: url},
		Safety:    true, // so that a dead link is noticed in half a second: whatever has motors wants this
		Endpoints: map[string]string{"gps": "sensors/gps/data", "tilt": "sensors/tilt/data"},
		// Asked before each heartbeat. While it hangs no heartbeat is sent, and the others see this service offline.
		Health: func(context.Context) (service.State, string) { return service.Healthy, "" },
		// What others may call is registered before anyone can see this service healthy.
		Setup: func(ctx context.Context, s *service.Service) error {
			service.Handle(s, "read_sensor", func(_ context.Context, p readSensor) (map[string]float64, error) {
				sensor, ok := sensors[p.SensorID]
				if !ok {
					return nil, fmt.Errorf("no sensor %q, there are gps and tilt", p.SensorID)
				}
				return sensor.read(time.Since(began).Seconds()), nil
			}, service.Description("Reads one sensor now.")) // for: lawnberry call hardware_interface --help
			return m.setup(ctx, s)
		},
	})
	if err != nil {
		return err
	}
	fmt.Println("hardware_interface is", svc.State())

	go publish(ctx, svc, began)
	go m.run()
	return svc.Run(ctx) // until a signal, or the command shutdown
}

// publish publishes the readings of all sensors every second until the service stops.
func publish(ctx context.Context, svc *service.Service, began time.Time) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		for id, sensor := range sensors {
			// Without a connection the newest readings wait for it: nothing to do here.
			err := svc.PublishSensor(ctx, message.SensorData{
				SensorType: id, Data: sensor.read(time.Since(began).Seconds()), Units: sensor.units,
			})
			if err != nil && ctx.Err() == nil {
				log.Print(err)
			}
		}
		select {
		case <-tick.C:
		case <-svc.Done():
			return
		}
	}
}

// Motors turn while a driver, who has the lease, wants it, and nothing stands against it. These only pretend.
type motors struct {
	guard *safety.Guard
	seat  *safety.Seat
	speed atomic.Int64 // percent
	stand chan struct{}
}

type drive struct {
	Speed int64  `json:"speed" doc:"percent"`
	Token string `json:"token" doc:"of the driver's lease"`
}

func (m *motors) setup(ctx context.Context, s *service.Service) error {
	latch, err := safety.OpenLatch(ctx, s.Client(), safety.LatchOptions{})
	if err != nil {
		return err
	}
	// Without the service safety, or without its readings of the slope, nothing turns.
	if m.guard, err = safety.NewGuard(ctx, s, latch, safety.GuardOptions{}); err != nil {
		return err
	}
	if err := m.guard.Require("sensors/tilt/data", 3*time.Second); err != nil {
		return err
	}
	m.seat = safety.NewSeat(m.guard, safety.SeatOptions{}) // take_control, keep_control, leave_control, and stop for everybody
	m.stand = make(chan struct{})
	service.Handle(s, "drive", func(ctx context.Context, d drive) (any, error) {
		if err := m.seat.Admit(service.Caller(ctx), d.Token); err != nil {
			return nil, err
		}
		m.speed.Store(d.Speed)
		return nil, nil
	})
	s.OnShutdown(func(ctx context.Context) {
		m.guard.Close()
		select {
		case <-m.stand:
		case <-ctx.Done():
		}
		_ = latch.Close(ctx)
	})
	return nil
}

// run drives until the service stops. A real drive also feeds the dead-man timer of the motor controller, which stops what this program,
// when it is killed, cannot stop any more.
func (m *motors) run() {
	defer close(m.stand)
	drive := func(context.Context) error {
		if speed := m.speed.Swap(0); speed != 0 {
			fmt.Printf("motors turn at %d %%\n", speed)
		}
		return nil
	}
	stop := func(cause string) error {
		m.speed.Store(0)
		fmt.Println("motors stand:", cause)
		return nil
	}
	if err := m.guard.Run(context.Background(), 50*time.Millisecond, drive, stop); err != nil {
		log.Print(err)
	}
}
