// Quickstart shows the whole bus in one program: a broker, two services that find each other, an event and a command.
//
//	go run ./examples/quickstart
package main

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/service"
)

// The parameters and the result of our command are ordinary Go types.
type (
	spin     struct{ RPM int }
	spinning struct {
		Blade string `json:"blade"`
		RPM   int    `json:"rpm"`
	}
)

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	// A broker inside this program. On a mower it runs by itself ("lawnberry serve") and services connect by its URL.
	b, err := broker.Start(ctx, broker.Options{})
	if err != nil {
		return err
	}
	defer b.Stop(ctx)

	// The first service offers a command. Whoever sends parameters that do not fit gets an error that names the field.
	blade, err := service.Start(ctx, service.Options{ID: "blade", Client: client.Options{Dial: b.Dial}})
	if err != nil {
		return err
	}
	defer blade.Stop(ctx)
	service.Handle(blade, "spin", func(ctx context.Context, p spin) (spinning, error) {
		if p.RPM > 3000 {
			return spinning{}, fmt.Errorf("%d rpm is too fast, at most 3000", p.RPM)
		}
		// Everyone who listens hears of it.
		return spinning{"front", p.RPM}, blade.EmitEvent(ctx, "blade_spinning", p)
	})

	// The second one needs the first: Start returns when the blade is healthy.
	mower, err := service.Start(ctx, service.Options{
		ID: "mower", Client: client.Options{Dial: b.Dial}, Dependencies: []string{"blade"},
	})
	if err != nil {
		return err
	}
	defer mower.Stop(ctx)
	for s := range mower.Services("") {
		fmt.Printf("service %s is %s\n", s.ID, s.State)
	}

	heard := make(chan service.Event, 1)
	if _, err := mower.OnEvent(ctx, "blade_spinning", func(_ context.Context, e service.Event) { heard <- e }); err != nil {
		return err
	}

	var result spinning
	if err := mower.Call(ctx, "blade", "spin", spin{RPM: 2800}, &result); err != nil {
		return err
	}
	fmt.Printf("the %s blade spins at %d rpm\n", result.Blade, result.RPM)
	e := <-heard
	fmt.Printf("event %s from %s: %s\n", e.EventType, e.Sender, e.EventData)

	// The error of a handler is the error of the caller.
	err = mower.Call(ctx, "blade", "spin", spin{RPM: 9000}, nil)
	fmt.Println("refused:", err)
	return nil
}
