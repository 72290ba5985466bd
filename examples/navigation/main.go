// Navigation is a service that depends on another: it follows the readings of the hardware service, publishes the position, takes
// commands, and drives while it has the lease of the motors.
//
//	go run ./cmd/lawnberry serve      # in a terminal of its own
//	go run ./examples/hardware        # in others
//	go run ./examples/safety
//	go run ./examples/navigation
//	go run ./cmd/lawnberry estop release --sequence 1   # or what estop status shows
//	go run ./cmd/lawnberry call navigation start_mowing '{"stripes": 12}'
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

type position struct {
	X float64 `json:"x"` // m
	Y float64 `json:"y"` // m
}

type startMowing struct {
	Stripes int `json:"stripes"`
}

// Validate makes the bus refuse what cannot be mown, before our handler sees it.
func (p startMowing) Validate() error {
	if p.Stripes < 1 || p.Stripes > 100 {
		return errors.New("parameters.stripes must be 1 to 100")
	}
	return nil
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
	svc, err := service.Start(ctx, service.Options{
		ID: "navigation", Version: "1.0.0",
		Client: client.Options{URL: url},
		// Start returns when the hardware is healthy. Should it go away later, this service is degraded until it is back.
		Dependencies: []string{"hardware_interface"},
		Setup:        setup,
	})
	if err != nil {
		return err // names what is missing: navigation: dependency not ready after 60s: hardware_interface (never seen)
	}
	fmt.Println("navigation is", svc.State())
	defer svc.OnService(func(i service.Info, old service.State) {
		fmt.Printf("service %s: %s -> %s\n", i.ID, cmp.Or(old, "new"), i.State)
	})()
	return svc.Run(ctx) // until a signal, or the command shutdown
}

// setup registers what this service does. It runs before anyone can see the service healthy.
func setup(ctx context.Context, s *service.Service) error {
	m := &mower{svc: s}
	s.OnShutdown(func(ctx context.Context) { _ = m.leave(ctx) })
	service.Handle(s, "start_mowing", m.start)
	service.Handle(s, "pause", func(ctx context.Context, _ struct{}) (any, error) {
		return nil, m.leave(ctx)
	})
	var published time.Time // of the handler alone: readings come one after the other, in order
	_, err := s.Subscribe(ctx, "sensors/gps/data", func(ctx context.Context, d *client.Delivery) {
		at, err := message.SensorOf[position](d.Message)
		if err == nil && time.Since(published) > 4*time.Second { // the topic takes 20 messages a minute
			published = time.Now()
			fmt.Printf("position %.1f, %.1f m\n", at.X, at.Y)
			err = publish(ctx, s, at)
		}
		if err != nil && ctx.Err() == nil {
			log.Printf("reading on %s: %v", d.Topic, err)
		}
	})
	return err
}

// A mower mows while it has the lease.
type mower struct {
	svc *service.Service

	mu    sync.Mutex // guards what follows
	lease *safety.Lease
}

// start takes the lease, which is refused while anything stands against moving, and drives.
func (m *mower) start(ctx context.Context, p startMowing) (any, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	// The lease is kept until it is left, or lost: by the emergency stop, say. It does not come back by itself.
	lease, err := safety.TakeLease(context.Background(), m.svc, "hardware_interface")
	if err != nil {
		return nil, err
	}
	m.lease = lease
	fmt.Printf("mowing %d stripes\n", p.Stripes)
	go func() {
		<-lease.Done()
		fmt.Println("the lease is over:", lease.Err())
	}()
	drive := map[string]any{"speed": 60, "token": lease.Token()}
	if err := m.svc.Call(ctx, "hardware_interface", "drive", drive, nil); err != nil {
		return nil, err
	}
	return nil, m.svc.EmitEvent(ctx, "mowing_started", p, service.WithCategory("navigation"))
}

// leave gives the motors back, and they stop.
func (m *mower) leave(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lease == nil {
		return nil
	}
	fmt.Println("paused")
	err := m.lease.Leave(ctx)
	return errors.Join(err, m.svc.EmitEvent(ctx, "mowing_paused", nil, service.WithCategory("navigation")))
}

// publish publishes the position. It stays (retained) for those who come later, as the definition of its topic says.
func publish(ctx context.Context, s *service.Service, at position) error {
	m, err := message.NewSensorData(s.ID(), message.SensorData{SensorType: "position", Data: at})
	if err != nil {
		return err
	}
	return s.Publish(ctx, "navigation/position", m)
}
