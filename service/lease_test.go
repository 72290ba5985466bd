package service_test

import (
	"context"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/brokertest"
	"github.com/lawnberry/lawnberry/internal/proctest"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
)

// A service of the safety class is heard every 200 ms, and its peers judge it by the lease that it announces, whatever their
// own is. Its heartbeats but for one in 30 s are not retained, so that they cost the broker's disk nothing.
func TestSafetyClass(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	watcher := newPeer(t, b, "watcher", "system/services/+/status", "system/events/+")
	observer := start(t, b, service.Options{ID: "observer"})
	var mu sync.Mutex
	hang := false
	release := make(chan struct{})
	svc := start(t, b, service.Options{ID: "guard", Type: "safety", Health: func(context.Context) (service.State, string) {
		mu.Lock()
		wait := hang
		mu.Unlock()
		if wait {
			<-release
		}
		return service.Healthy, ""
	}})
	awaitState(t, observer, "guard", service.Healthy)
	eventually(t, "ten heartbeats", func() bool { return len(watcher.on("system/services/guard/status")) >= 12 })
	if i, _ := observer.Service("guard"); i.State != service.Healthy {
		t.Errorf("%+v", i)
	}
	beats := watcher.on("system/services/guard/status")
	for _, d := range beats[2:] {
		details := object(t, d.Message.Payload)["details"].(map[string]any)
		if d.QoS != 0 || details["heartbeat_interval"] != 0.2 || details["heartbeat_timeout"] != 0.5 {
			t.Errorf("QoS %d, %v", d.QoS, details)
		}
	}
	if !brokertest.Holds(b, func(s broker.Stats) bool { return s.Retained <= 4 }) { // status and commands of two services
		t.Error("more than 4 retained messages")
	}
	first := newPeer(t, b, "late", "system/services/guard/status").next("system/services/guard/status")
	if s, _ := message.Payload[message.Status](first.Message); !first.Retained || s.Status != "healthy" {
		t.Errorf("the retained status is %+v", first)
	}

	mu.Lock()
	hang = true
	mu.Unlock()
	awaitState(t, observer, "guard", service.Offline)
	if i, _ := observer.Service("guard"); i.Reason != "silent for 500ms" {
		t.Errorf("%+v", i)
	}
	close(release)
	awaitState(t, observer, "guard", service.Healthy)
	if n := svc.Client().Stats().Reconnects; n != 0 {
		t.Errorf("%d reconnects", n)
	}
}

// A process that stops and goes on again, such as one that is swapped out, does not take everyone for dead, however short their
// leases are: it looks at what has arrived meanwhile. The others see it gone, and come back.
func TestStoppedProcess(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	// Shorter than the stop, and long enough that no starved machine makes it silent.
	start(t, b, service.Options{ID: "guard", Heartbeat: 250 * time.Millisecond, HeartbeatTimeout: 2 * time.Second})
	watcher := newPeer(t, b, "watcher", "system/events/+", "system/services/victim/status")
	observer := start(t, b, service.Options{ID: "zz"}) // after "victim" in the order of who reports
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victimURL+"="+b.URL(), victimLease+"=4s")
	cmd.Stderr = os.Stderr
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	awaitState(t, observer, "victim", service.Healthy)
	for range 3 {
		proctest.Stop(t, cmd.Process.Pid)
		awaitState(t, observer, "victim", service.Offline)
		must(t, cmd.Process.Signal(syscall.SIGCONT))
		awaitState(t, observer, "victim", service.Healthy)
	}
	for _, d := range watcher.on("system/events/service_offline") { // on a starved machine others may find each other silent
		if e := string(d.Message.Payload); d.Message.Metadata.Sender == "victim" {
			t.Errorf("the victim reported a death: %s", e)
		}
	}
}

// A peer whose clock is wrong by a year, either way, is alive as long as it is heard.
func TestLeaseAndClocks(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	observer := start(t, b, service.Options{ID: "observer"})
	p := newPeer(t, b, "peer")
	for _, wrong := range []time.Duration{-365 * 24 * time.Hour, 365 * 24 * time.Hour} {
		say := func() {
			at := float64(time.Now().Add(wrong).UnixNano()) / 1e9
			p.say("system/services/peer/status", envelope("peer", "status", map[string]any{"status": "healthy", "uptime": 1, "version": "1",
				"details": map[string]any{"heartbeat_timeout": 1, "last_heartbeat": at}}, map[string]any{"timestamp": at}), client.WithRetain(true))
		}
		for range 8 {
			say()
			awaitState(t, observer, "peer", service.Healthy)
			time.Sleep(250 * time.Millisecond) // two leases in all, of heartbeats
		}
		awaitState(t, observer, "peer", service.Offline)
	}
}
