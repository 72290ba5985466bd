package service_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
)

// Example starts two services, of which one needs the other, on a broker of its own.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	b, err := broker.Start(ctx, broker.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer b.Stop(ctx)

	hardware, err := service.Start(ctx, service.Options{ID: "hardware", Client: client.Options{Dial: b.Dial}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer hardware.Stop(ctx)
	navigation, err := service.Start(ctx, service.Options{
		ID: "navigation", Dependencies: []string{"hardware"}, Client: client.Options{Dial: b.Dial},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer navigation.Stop(ctx)
	for s := range navigation.Services("") {
		fmt.Println(s.ID, s.State)
	}
	// Output:
	// hardware healthy
	// navigation healthy
}

// pair starts two services for the examples below.
func pair(ctx context.Context) (hardware, navigation *service.Service, stop func()) {
	b, err := broker.Start(ctx, broker.Options{})
	if err != nil {
		log.Fatal(err)
	}
	hardware, err = service.Start(ctx, service.Options{ID: "hardware", Client: client.Options{Dial: b.Dial}})
	if err != nil {
		log.Fatal(err)
	}
	navigation, err = service.Start(ctx, service.Options{ID: "navigation", Client: client.Options{Dial: b.Dial}})
	if err != nil {
		log.Fatal(err)
	}
	return hardware, navigation, func() {
		_ = navigation.Stop(ctx)
		_ = hardware.Stop(ctx)
		_ = b.Stop(ctx)
	}
}

func ExampleHandle() {
	ctx := context.Background()
	hardware, navigation, stop := pair(ctx)
	defer stop()

	type readSensor struct {
		ID string `json:"sensor_id"`
	}
	service.Handle(hardware, "read_sensor", func(_ context.Context, p readSensor) (float64, error) {
		if p.ID != "tilt" {
			return 0, fmt.Errorf("no sensor %q", p.ID)
		}
		return 12.5, nil
	})

	var angle float64
	err := navigation.Call(ctx, "hardware", "read_sensor", readSensor{"tilt"}, &angle)
	fmt.Println(angle, err)
	fmt.Println(navigation.Call(ctx, "hardware", "read_sensor", readSensor{"nose"}, nil))
	fmt.Println(navigation.Call(ctx, "hardware", "read_sensor", map[string]int{"sensor_id": 7}, nil))
	fmt.Println(navigation.Call(ctx, "hardware", "fly", nil, nil))
	// Output:
	// 12.5 <nil>
	// hardware read_sensor: no sensor "nose"
	// hardware read_sensor: parameters.sensor_id must be a string, not number
	// hardware fly: unknown command "fly", known are: ping, read_sensor, shutdown, status
}

func ExampleService_OnEvent() {
	ctx := context.Background()
	hardware, navigation, stop := pair(ctx)
	defer stop()

	heard := make(chan service.Event)
	if _, err := navigation.OnEvent(ctx, "blade_stopped", func(_ context.Context, e service.Event) { heard <- e }); err != nil {
		fmt.Println(err)
		return
	}
	if err := hardware.EmitEvent(ctx, "blade_stopped", map[string]int{"rpm": 0}); err != nil {
		fmt.Println(err)
		return
	}
	e := <-heard
	fmt.Println(e.EventType, string(e.EventData), "from", e.Sender)
	// Output: blade_stopped {"rpm":0} from hardware
}

func ExampleService_EmitAlert() {
	ctx := context.Background()
	hardware, navigation, stop := pair(ctx)
	defer stop()

	if err := hardware.EmitAlert(ctx, message.Alert{AlertType: "tilt", Severity: "critical", Message: "35 degrees"}); err != nil {
		fmt.Println(err)
		return
	}
	heard := make(chan service.Alert)
	if _, err := navigation.OnAlert(ctx, func(_ context.Context, a service.Alert) { heard <- a }); err != nil {
		fmt.Println(err)
		return
	}
	a := <-heard // it was raised before, and stands until it is cleared
	fmt.Println(a.AlertType, a.Severity, a.Message)
	_ = hardware.ClearAlert(ctx, "tilt")
	// Output: tilt critical 35 degrees
}

func ExampleService_OnService() {
	ctx := context.Background()
	hardware, navigation, stop := pair(ctx)
	defer stop()

	done := make(chan struct{})
	defer navigation.OnService(func(i service.Info, old service.State) {
		fmt.Println(i.ID, "was", old, "and is", i.State)
		if i.State == service.Offline {
			close(done)
		}
	})()
	if err := hardware.Stop(ctx); err != nil {
		fmt.Println(err)
		return
	}
	<-done
	// Output:
	// hardware was healthy and is shutting_down
	// hardware was shutting_down and is offline
}
