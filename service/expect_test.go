package service_test

import (
	"context"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/service"
)

// TestExpect: a service whose data does not come is degraded and says what is missing, each topic for itself, and is healthy again
// by itself. It was seen to fail with cancel not taking back what it had said.
func TestExpect(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	p := newPeer(t, b, "source")
	a := start(t, b, service.Options{ID: "a"})
	other := start(t, b, service.Options{ID: "other"})
	heard := make(chan string, 1000)
	h := func(_ context.Context, d *client.Delivery) { heard <- d.Topic }
	const every = 500 * time.Millisecond
	expect := func(filter string) func(context.Context) error {
		t.Helper()
		cancel, err := a.Expect(testContext(t), filter, every, h)
		if err != nil {
			t.Fatal(err)
		}
		return cancel
	}
	reason := func(want string) {
		t.Helper()
		eventually(t, "reason: "+want, func() bool {
			i, _ := other.Service("a")
			return i.Reason == want && i.State == map[bool]service.State{true: service.Healthy, false: service.Degraded}[want == ""]
		})
	}
	cancel := expect("sensors/tilt/data")
	reason("nothing on sensors/tilt/data for 500ms")
	also := expect("sensors/gps/data")
	reason("nothing on sensors/tilt/data for 500ms, nothing on sensors/gps/data for 500ms")

	fresh, silence := context.WithCancel(context.Background())
	silent := make(chan struct{})
	go func() {
		defer close(silent)
		for fresh.Err() == nil {
			p.say("sensors/tilt/data", "{}")
			time.Sleep(every / 10)
		}
	}()
	reason("nothing on sensors/gps/data for 500ms")
	if topic := <-heard; topic != "sensors/tilt/data" {
		t.Errorf("the handler heard %s", topic)
	}
	if err := also(testContext(t)); err != nil {
		t.Error(err)
	}
	reason("")
	silence()
	<-silent
	reason("nothing on sensors/tilt/data for 500ms")
	for range 2 {
		if err := cancel(testContext(t)); err != nil {
			t.Error(err)
		}
	}
	reason("")

	if _, err := a.Expect(testContext(t), "a/#/b", every, h); err == nil {
		t.Error("a bad filter is taken")
	}
	many := expect("sensors/+/many")
	for _, s := range []string{"1", "2", "3", "4", "5"} {
		p.say("sensors/"+s+"/many", "{}")
		time.Sleep(20 * time.Millisecond)
	}
	reason("nothing on sensors/1/many for 500ms, nothing on sensors/2/many for 500ms, nothing on sensors/3/many for 500ms, and 2 more")
	if err := many(testContext(t)); err != nil {
		t.Error(err)
	}
	reason("")
}
