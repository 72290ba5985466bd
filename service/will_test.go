package service_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
)

// TestWillIsRetained cuts a service off for good: who comes later must not take it for healthy.
func TestWillIsRetained(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	b := newBroker(t)
	var mu sync.Mutex
	var link net.Conn
	cut := false
	dial := func(ctx context.Context) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		if cut {
			return nil, errors.New("cut off for good")
		}
		var err error
		link, err = b.Dial(ctx)
		return link, err
	}
	svc, err := service.Start(ctx, service.Options{ID: "blade", Client: client.Options{Dial: dial}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		_ = svc.Stop(ended)
	}()
	observer, err := client.Connect(ctx, client.Options{Dial: b.Dial})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = observer.Close(context.Background()) }()
	heard := make(chan *client.Delivery, 100)
	hear := func(_ context.Context, d *client.Delivery) { heard <- d }
	if _, err := observer.Subscribe(ctx, "system/services/blade/status", hear); err != nil {
		t.Fatal(err)
	}
	state := func(d *client.Delivery) string {
		p, err := message.Payload[message.Status](d.Message)
		if err != nil {
			t.Error(err)
		}
		return p.Status
	}
	await := func(retained bool, want string) {
		t.Helper()
		for {
			select {
			case d := <-heard:
				if got := state(d); got == want && d.Retained == retained {
					return
				} else if d.Retained {
					t.Fatalf("retained is %q, want %q", got, want)
				}
			case <-ctx.Done():
				t.Fatalf("never heard of %q", want)
			}
		}
	}
	for healthy := false; !healthy; { // it may have been starting still
		select {
		case d := <-heard:
			healthy = state(d) == "healthy"
		case <-ctx.Done():
			t.Fatal("never heard of \"healthy\"")
		}
	}
	mu.Lock()
	_ = link.Close()
	cut = true
	mu.Unlock()
	await(false, "offline")
	if _, err := observer.Subscribe(ctx, "system/services/+/status", hear); err != nil {
		t.Fatal(err)
	}
	await(true, "offline")
}
