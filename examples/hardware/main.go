// Hardware is a service that owns sensors: it publishes their readings and lets others read one on demand.
//
//	go run ./cmd/lawnberry serve      # in a terminal of its own
//	go run ./examples/hardware
//	go run ./cmd/lawnberry call hardware_interface read_sensor '{"sensor_id": "tilt"}'
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"log"
	"math"
	"os"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
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
	svc, err := service.Start(ctx, service.Options{
		ID: "hardware_interface", Type: "hardware", Version: "1.0.0",
		Client:    client.Options{URL: url},
		Endpoints: map[string]string{"gps": "sensors/gps/data", "tilt": "sensors/tilt/data"},
		// Asked before each heartbeat. While it hangs no heartbeat is sent, and the others see this service offline.
		Health: func(context.Context) (service.State, string) { return service.Healthy, "" },
		// What others may call is registered before anyone can see this service healthy.
		Setup: func(_ context.Context, s *service.Service) error {
			service.Handle(s, "read_sensor", func(_ context.Context, p readSensor) (map[string]float64, error) {
				sensor, ok := sensors[p.SensorID]
				if !ok {
					return nil, fmt.Errorf("no sensor %q, there are gps and tilt", p.SensorID)
				}
				return sensor.read(time.Since(began).Seconds()), nil
			}, service.Description("Reads one sensor now.")) // for: lawnberry call hardware_interface --help
			return nil
		},
	})
	if err != nil {
		return err
	}
	fmt.Println("hardware_interface is", svc.State())

	go publish(ctx, svc, began)
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
