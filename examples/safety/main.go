// Safety is a service that watches others: while the mower stands too steep it engages the emergency stop, and has it not released.
//
//	go run ./cmd/lawnberry serve      # in a terminal of its own
//	go run ./examples/hardware        # in another; its slope is steep for some seconds of every 20
//	go run ./examples/safety
//	go run ./cmd/lawnberry estop status
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

// Two limits, so that the alert does not flutter.
const (
	tooSteep = 30.0 // degrees
	levelled = 25.0
)

type tilt struct {
	Angle float64 `json:"angle"` // degrees
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
	svc, err := service.Start(ctx, service.Options{ID: "safety", Version: "1.0.0", Client: client.Options{URL: url}})
	if err != nil {
		return err
	}
	defer svc.Stop(ctx) // for the errors below
	fmt.Println("safety is", svc.State())
	latch, err := safety.OpenLatch(ctx, svc.Client(), safety.LatchOptions{})
	if err != nil {
		return err
	}
	svc.OnShutdown(func(ctx context.Context) { _ = latch.Close(ctx) })

	// Alerts of everyone, also those that were raised before we came: an alert stays until it is cleared.
	if _, err := svc.OnAlert(ctx, func(_ context.Context, a service.Alert) {
		fmt.Printf("alert %s (%s) from %s: %s\n", a.AlertType, a.Severity, a.Sender, a.Message)
	}); err != nil {
		return err
	}
	// A service that crashes is seen at once, one that hangs when its heartbeats stop.
	defer svc.OnService(func(i service.Info, _ service.State) {
		if i.State == service.Offline {
			fmt.Printf("service %s is offline: %s\n", i.ID, i.Reason)
		}
	})()

	// While no readings come this service is degraded, and says why: who does not know the slope cannot vouch for it.
	steep := false // of the handler alone: readings come one after the other
	if _, err := svc.Expect(ctx, "sensors/tilt/data", 3*time.Second, func(ctx context.Context, d *client.Delivery) {
		t, err := message.SensorOf[tilt](d.Message)
		switch {
		case err != nil:
			log.Printf("reading on %s ignored: %v", d.Topic, err)
		case !steep && t.Angle > tooSteep:
			steep = true
			err = raise(ctx, svc, latch, t)
		case steep && t.Angle < levelled:
			steep = false
			fmt.Println("level again")
			latch.ClearHazard("tilt") // now it may be released: by a person, never by itself
			err = svc.ClearAlert(ctx, "tilt")
		}
		if err != nil && ctx.Err() == nil {
			log.Print(err)
		}
	}); err != nil {
		return err
	}
	return svc.Run(ctx) // until a signal, or the command shutdown
}

// raise stops the mower, and tells everybody.
func raise(ctx context.Context, svc *service.Service, latch *safety.Latch, t tilt) error {
	text := fmt.Sprintf("the mower stands at %.0f degrees", t.Angle)
	stopped := latch.SetHazard(ctx, "tilt", text) // said again until it has got there
	about, err := json.Marshal(t)
	if err != nil {
		return err
	}
	return errors.Join(stopped, svc.EmitAlert(ctx, message.Alert{AlertType: "tilt", Severity: "critical", Message: text, Context: about}))
}
