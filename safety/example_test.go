package safety_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

// mower starts a broker with a hub, as "lawnberry serve" has them, whose emergency stop is released, for the examples.
func mower(ctx context.Context) (b *broker.Broker, stop func()) {
	b, err := broker.Start(ctx, broker.Options{})
	if err != nil {
		log.Fatal(err)
	}
	hub, err := safety.StartHub(ctx, safety.HubOptions{Client: client.Options{Dial: b.Dial}})
	if err != nil {
		log.Fatal(err)
	}
	c, err := client.Connect(ctx, client.Options{Dial: b.Dial})
	if err != nil {
		log.Fatal(err)
	}
	if err := safety.Release(ctx, c, "example", hub.Status().Sequence); err != nil {
		log.Fatal(err)
	}
	_ = c.Close(ctx)
	return b, func() { _ = errors.Join(hub.Stop(ctx), b.Stop(ctx)) }
}

// awaitNothing waits until nothing stands against a permit, as it does for a moment after the start of a service.
func awaitNothing(ctx context.Context, guard *safety.Guard) {
	for len(guard.Causes()) > 0 && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
}

// A latch is what a program knows of the emergency stop. It engages it here at once, and for everybody.
func ExampleOpenLatch() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	b, stop := mower(ctx)
	defer stop()
	c, err := client.Connect(ctx, client.Options{Dial: b.Dial, ID: "camera", Safety: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close(ctx)

	latch, err := safety.OpenLatch(ctx, c, safety.LatchOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer latch.Close(ctx)
	if err := latch.Settle(ctx); err != nil { // until then it is not known, which is engaged
		fmt.Println(err)
		return
	}
	fmt.Println("released:", latch.Released())
	if err := latch.Engage(ctx, "a person on the lawn"); err != nil {
		log.Print(err) // it is engaged here all the same, and said again until the hub has confirmed it
	}
	s := latch.State()
	fmt.Printf("engaged: %v, %s (%s)\n", s.Engaged, s.Reason, s.By)
	// Output:
	// released: true
	// engaged: true, a person on the lawn (camera)
}

// A guard calls drive only with a permit, and stop when it is lost. The permit comes with Arm: with a command that sets the machine going.
func ExampleGuard() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	b, stopBus := mower(ctx)
	defer stopBus()

	var latch *safety.Latch
	var guard *safety.Guard
	svc, err := service.Start(ctx, service.Options{
		ID: "blade", Type: "hardware", Safety: true, Client: client.Options{Dial: b.Dial},
		Setup: func(ctx context.Context, svc *service.Service) (err error) {
			if latch, err = safety.OpenLatch(ctx, svc.Client(), safety.LatchOptions{}); err != nil {
				return err
			}
			// Safety is empty here, as there is no safety service in this example: on a mower leave it out.
			guard, err = safety.NewGuard(ctx, svc, latch, safety.GuardOptions{Safety: []string{}})
			// And what it must not move without: guard.Require("sensors/tilt/data", 300*time.Millisecond)
			return err
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer svc.Stop(ctx)
	defer latch.Close(ctx)

	driven, stopped := make(chan struct{}, 1), make(chan string, 10)
	drive := func(context.Context) error { // feeds the motor controller's dead-man timer
		select {
		case driven <- struct{}{}:
		default:
		}
		return nil
	}
	stop := func(cause string) error { stopped <- cause; return nil } // cuts the motor's current
	running, end := context.WithCancel(ctx)
	defer end()
	ended := make(chan error, 1)
	go func() { ended <- guard.Run(running, 20*time.Millisecond, drive, stop) }()

	fmt.Println("at the start:", <-stopped)
	awaitNothing(ctx, guard)
	if err := guard.Arm(ctx); err != nil { // where somebody has commanded that it moves
		fmt.Println(err)
		return
	}
	<-driven
	fmt.Println("permit:", guard.Permit())
	if err := latch.Engage(ctx, "a dog"); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("stopped:", <-stopped)
	fmt.Println("permit:", guard.Permit())
	end()
	if err := <-ended; err != nil {
		fmt.Println(err)
		return
	}
	// Output:
	// at the start: not armed yet
	// permit: true
	// stopped: emergency stop: a dog (blade)
	// permit: false
}

// A seat has one driver at a time, whose lease is kept while it lives.
func ExampleTakeLease() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	b, stop := mower(ctx)
	defer stop()
	var latch *safety.Latch
	var guard *safety.Guard
	var seat *safety.Seat
	svc, err := service.Start(ctx, service.Options{
		ID: "navigation", Type: "navigation", Safety: true, Client: client.Options{Dial: b.Dial},
		Setup: func(ctx context.Context, svc *service.Service) (err error) {
			if latch, err = safety.OpenLatch(ctx, svc.Client(), safety.LatchOptions{}); err != nil {
				return err
			}
			if guard, err = safety.NewGuard(ctx, svc, latch, safety.GuardOptions{Safety: []string{}}); err != nil {
				return err
			}
			seat = safety.NewSeat(guard, safety.SeatOptions{})
			return nil // guard.Run as in the example of Guard
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer svc.Stop(ctx)
	defer latch.Close(ctx)

	c, err := client.Connect(ctx, client.Options{Dial: b.Dial, ID: "gamepad"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close(ctx)
	for len(guard.Causes()) > 1 { // just started; what remains is that nobody drives
		time.Sleep(time.Millisecond)
	}
	lease, err := safety.TakeLease(ctx, c, "navigation")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("driver:", seat.Driver())
	fmt.Println("with the token:", seat.Admit("gamepad", lease.Token()))
	fmt.Println("another:", seat.Admit("phone", lease.Token()))
	if err := lease.Leave(ctx); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("afterwards:", seat.Admit("gamepad", lease.Token()))
	// Output:
	// driver: gamepad
	// with the token: <nil>
	// another: phone does not drive: gamepad does
	// afterwards: gamepad does not drive: gamepad has left control
}
