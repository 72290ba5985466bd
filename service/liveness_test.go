package service_test

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
)

func TestHeartbeats(t *testing.T) {
	b := newBroker(t)
	p := newPeer(t, b, "watcher", "system/services/+/status")
	start(t, b, service.Options{ID: "a", Heartbeat: 10 * time.Millisecond})
	eventually(t, "ten heartbeats", func() bool { return len(p.on("system/services/a/status")) >= 12 })
	var beat, uptime float64
	for _, d := range p.on("system/services/a/status")[1:] {
		details := object(t, d.Message.Payload)["details"].(map[string]any)
		if at := details["last_heartbeat"].(float64); at < beat {
			t.Errorf("heartbeat at %v after %v", at, beat)
		} else {
			beat = at
		}
		if up := details["uptime"].(float64); up < uptime {
			t.Errorf("uptime %v after %v", up, uptime)
		} else {
			uptime = up
		}
	}
	if uptime <= 0 {
		t.Error("uptime does not grow")
	}
}

// A killed process is seen within a second: the broker publishes its Will.
func TestKill(t *testing.T) {
	b := newBroker(t)
	p := newPeer(t, b, "watcher", "system/services/+/status", "system/events/+")
	svc := start(t, b, service.Options{ID: "survivor"})
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), victimURL+"="+b.URL())
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	if err := svc.WaitFor(testContext(t), "victim"); err != nil {
		t.Fatal(err)
	}
	offline := make(chan time.Time, 1)
	defer svc.OnService(func(i service.Info, old service.State) {
		if i.ID == "victim" && i.State == service.Offline {
			if old != service.Healthy || i.Reason != "connection lost" {
				t.Errorf("from %s: %+v", old, i)
			}
			offline <- time.Now()
		}
	})()
	killed := time.Now()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	select {
	case at := <-offline:
		t.Logf("seen %v after SIGKILL", at.Sub(killed))
	case <-time.After(time.Second):
		t.Error("not seen offline within a second")
	}
	p.awaitStates("victim", "starting", "healthy", "offline")
	eventually(t, "its death is reported", func() bool { return len(p.events("service_offline")) == 1 })
	e := object(t, []byte(p.events("service_offline")[0]))
	if seen := e["last_seen"].(float64); e["service_id"] != "victim" || seen > message.Seconds(killed) || seen < message.Seconds(killed)-10 {
		t.Errorf("service_offline: %v", e)
	}
	err = svc.Call(testContext(t), "victim", "ping", nil, nil)
	if failed := asCommandError(err); failed == nil || failed.Code != "offline" || !strings.Contains(err.Error(), "victim is offline, last seen") {
		t.Errorf("calling the dead: %v", err)
	}
	will := p.on("system/services/victim/status")
	last := will[len(will)-1]
	details := object(t, last.Message.Payload)["details"].(map[string]any)
	if last.Message.Metadata.Sender != "victim" || details["state"] != "offline" || details["service_id"] != "victim" || last.QoS != 1 {
		t.Errorf("the Will: %+v, %v", last, details)
	}

	again := start(t, b, service.Options{ID: "victim"}) // takes its old place
	awaitState(t, svc, "victim", service.Healthy)
	if i, _ := svc.Service("victim"); i.Reason != "" || again.State() != service.Healthy {
		t.Errorf("restarted: %+v", i)
	}
	if err := svc.Call(testContext(t), "victim", "ping", nil, nil); err != nil {
		t.Error(err)
	}
}

// A death has many observers and one reporter, the smallest id of those who run.
func TestDeathIsReportedOnce(t *testing.T) {
	b := newBroker(t)
	p := newPeer(t, b, "watcher", "system/events/+")
	var observers []*service.Service
	for _, id := range []string{"c", "a", "b"} {
		observers = append(observers, start(t, b, service.Options{ID: id}))
	}
	line := &cord{b: b}
	start(t, b, service.Options{ID: "victim", Client: client.Options{Dial: line.dial}})
	for _, o := range observers {
		awaitState(t, o, "victim", service.Healthy)
	}
	line.pull()
	for _, o := range observers {
		awaitState(t, o, "victim", service.Offline)
	}
	eventually(t, "its death is reported", func() bool { return len(p.events("service_offline")) > 0 })
	deaths := func() (who []string) {
		for _, d := range p.on("system/events/service_offline") {
			who = append(who, d.Message.Metadata.Sender)
		}
		return who
	}
	// The others would have reported it one and two seconds later.
	again := time.After(2500 * time.Millisecond)
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for waiting := true; waiting; {
		select {
		case <-again:
			waiting = false
		case <-look.C:
			if n := len(deaths()); n != 1 {
				t.Fatalf("reported by %v", deaths())
			}
		}
	}
	if who := deaths(); !slices.Equal(who, []string{"a"}) {
		t.Errorf("reported by %v, want a", who)
	}
	changes := p.events("service_state_change")
	if n := len(slices.DeleteFunc(changes, func(e string) bool {
		return e != `{"service_id":"victim","old_state":"healthy","new_state":"offline"}`
	})); n != 1 {
		t.Errorf("the change is reported %d times", n)
	}

	// It was cut off, not dead: back on the line it says so itself.
	line.plug()
	for _, o := range observers {
		awaitState(t, o, "victim", service.Healthy)
	}
	const back = `{"service_id":"victim","old_state":"offline","new_state":"healthy"}`
	eventually(t, "its return is reported", func() bool { return slices.Contains(p.events("service_state_change"), back) })
	eventually(t, "everyone has a line again", func() bool { return observers[0].Client().Connected() })
	if i, _ := observers[1].Service("victim"); i.Reason != "" {
		t.Errorf("back with the reason %q", i.Reason)
	}
}

// When the smallest id is not one of ours, it reports nothing; the next one does, in its turn.
func TestDeathIsReportedForOthers(t *testing.T) {
	b := newBroker(t)
	p := newPeer(t, b, "a_python", "system/events/+")
	svc := start(t, b, service.Options{ID: "b"})
	for _, id := range []string{"a_python", "z_python"} {
		p.say("system/services/"+id+"/status", envelope(id, "status", map[string]any{"status": "healthy"}), client.WithRetain(true))
		awaitState(t, svc, id, service.Healthy)
	}
	p.say("system/services/z_python/status", envelope("z_python", "status", map[string]any{"status": "offline"}), client.WithRetain(true))
	eventually(t, "its death is reported", func() bool { return len(p.events("service_offline")) == 1 })
	if d := p.on("system/events/service_offline")[0]; d.Message.Metadata.Sender != "b" {
		t.Errorf("reported by %s", d.Message.Metadata.Sender)
	}
}

// A service whose health function hangs sends no heartbeat, and nothing else makes it look alive.
func TestHungServiceGoesSilent(t *testing.T) {
	b := newBroker(t)
	p := newPeer(t, b, "watcher", "system/services/+/status", "system/events/+")
	var hang atomic.Bool
	hung, release := make(chan struct{}), make(chan struct{})
	line := &cord{b: b}
	svc := start(t, b, service.Options{
		ID: "a", Heartbeat: 20 * time.Millisecond, HeartbeatTimeout: 300 * time.Millisecond, Client: client.Options{Dial: line.dial, ReconnectDelay: time.Millisecond},
		Health: func(ctx context.Context) (service.State, string) {
			if hang.CompareAndSwap(true, false) {
				close(hung)
				<-release
			}
			return service.Healthy, ""
		},
	})
	other := start(t, b, service.Options{ID: "other", Heartbeat: 50 * time.Millisecond})
	awaitState(t, other, "a", service.Healthy)
	hang.Store(true)
	<-hung
	awaitState(t, other, "a", service.Offline)
	if i, _ := other.Service("a"); i.Reason != "silent for 300ms" {
		t.Errorf("%+v", i)
	}
	eventually(t, "its silence is reported", func() bool { return len(p.events("service_offline")) == 1 })
	n := len(p.on("system/services/a/status"))
	p.say("system/health_check", "now") // no answer from a
	line.pull()
	line.plug()
	eventually(t, "the line is back", func() bool { return svc.Client().Stats().Reconnects == 1 })
	alive := len(p.on("system/services/other/status"))
	eventually(t, "the others are alive", func() bool { return len(p.on("system/services/other/status")) > alive+2 })
	for _, d := range p.on("system/services/a/status")[n:] {
		if s, _ := message.Payload[message.Status](d.Message); s.Status != "offline" { // the Will of the line that we pulled
			t.Errorf("the hung service announced %s", s.Status)
		}
	}
	close(release)
	awaitState(t, other, "a", service.Healthy)
	const back = `{"service_id":"a","old_state":"offline","new_state":"healthy"}`
	eventually(t, "its return is reported", func() bool { return slices.Contains(p.events("service_state_change"), back) })
}

func TestHealth(t *testing.T) {
	b := newBroker(t)
	p := newPeer(t, b, "watcher", "system/services/+/status")
	var mu sync.Mutex
	health := func() (service.State, string) { return service.Degraded, "cold" }
	set := func(f func() (service.State, string)) {
		mu.Lock()
		defer mu.Unlock()
		health = f
	}
	svc := start(t, b, service.Options{ID: "a", Heartbeat: 100 * time.Millisecond, Health: func(ctx context.Context) (service.State, string) {
		if _, bounded := ctx.Deadline(); !bounded {
			t.Error("the context of the health function has no deadline")
		}
		mu.Lock()
		f := health
		mu.Unlock()
		return f()
	}})
	if svc.State() != service.Degraded {
		t.Errorf("the health function was not asked before the first state: %s", svc.State())
	}
	expect := func(st service.State, reason string) {
		t.Helper()
		eventually(t, string(st)+" because "+reason, func() bool {
			i, _ := svc.Service("a")
			return i.State == st && strings.HasPrefix(i.Reason, reason)
		})
	}
	set(func() (service.State, string) { panic("broken sensor") })
	expect(service.Failing, "the health function panicked: broken sensor")
	set(func() (service.State, string) { return "fine", "" })
	expect(service.Failing, `the health function returned "fine"`)
	set(func() (service.State, string) { return "", "" })
	expect(service.Healthy, "")
	set(func() (service.State, string) { return service.Failing, "hot" })
	expect(service.Failing, "hot")
	p.awaitStates("a", "starting", "degraded", "error", "healthy", "error")
}

// A health function that hangs from the beginning fails the start, and says so.
func TestHealthHangsAtStart(t *testing.T) {
	b := newBroker(t)
	_, err := tryStart(t, b, service.Options{ID: "a", Heartbeat: 50 * time.Millisecond, Health: func(ctx context.Context) (service.State, string) {
		<-ctx.Done()
		<-time.After(1500 * time.Millisecond) // it is late even then
		return service.Healthy, ""
	}})
	if err == nil || !strings.Contains(err.Error(), "health function did not return within 1s") {
		t.Errorf("%v", err)
	}
}

func TestHealthCheck(t *testing.T) {
	b := newBroker(t)
	p := newPeer(t, b, "watcher", "system/services/+/status")
	start(t, b, service.Options{ID: "a"}) // next heartbeat in 30 s
	p.awaitStates("a", "starting", "healthy")
	n := len(p.on("system/services/a/status"))
	p.say("system/health_check", envelope("watcher", "status", map[string]any{}))
	eventually(t, "an answer", func() bool { return len(p.on("system/services/a/status")) == n+1 })
	for range 50 { // a flood is answered, but not with a flood
		p.say("system/health_check", "{}")
	}
	eventually(t, "an answer to the flood", func() bool { return len(p.on("system/services/a/status")) > n+1 })
	if got := len(p.on("system/services/a/status")) - n; got > 40 {
		t.Errorf("%d answers", got)
	}
}

// What stands retained about a running service is the truth, whoever says otherwise.
func TestStatusIsPutRight(t *testing.T) {
	b := newBroker(t)
	p := newPeer(t, b, "watcher", "system/services/+/status")
	other := start(t, b, service.Options{ID: "other"})
	start(t, b, service.Options{ID: "a"})
	awaitState(t, other, "a", service.Healthy)
	changes := make(chan string, 10)
	defer other.OnService(func(i service.Info, old service.State) { changes <- string(old) + ">" + string(i.State) })()
	expect := func(want string) {
		t.Helper()
		select {
		case got := <-changes:
			if got != want {
				t.Fatalf("%s, want %s", got, want)
			}
		case <-time.After(patience):
			t.Fatalf("waited in vain for %s", want)
		}
	}
	p.say("system/services/a/status", "", client.WithRetain(true))
	expect("healthy>")
	expect(">healthy")
	p.say("system/services/a/status", envelope("a", "status", map[string]any{"status": "offline"}), client.WithRetain(true))
	expect("healthy>offline")
	expect("offline>healthy")
}

// A clock that is a year wrong changes nothing.
func TestClocksDoNotMatter(t *testing.T) {
	b := newBroker(t)
	p := newPeer(t, b, "python")
	svc := start(t, b, service.Options{ID: "a", HeartbeatTimeout: 400 * time.Millisecond})
	for id, off := range map[string]time.Duration{"past": -365 * 24 * time.Hour, "future": 365 * 24 * time.Hour} {
		at := message.Seconds(time.Now().Add(off))
		p.say("system/services/"+id+"/status", envelope(id, "status",
			map[string]any{"status": "healthy", "details": map[string]any{"last_heartbeat": at, "start_time": at}},
			map[string]any{"timestamp": at}), client.WithRetain(true))
	}
	awaitState(t, svc, "past", service.Healthy)
	awaitState(t, svc, "future", service.Healthy)
	awaitState(t, svc, "past", service.Offline)
	awaitState(t, svc, "future", service.Offline)
	late := start(t, b, service.Options{ID: "late"})
	if st := stateOf(late, "past"); st != service.Healthy { // gets the whole timeout from receipt
		t.Errorf("retained status of the past: %s", st)
	}
}

// When Start returns, everyone whose status is retained is known.
func TestRegistryIsCompleteAfterStart(t *testing.T) {
	b := newBroker(t)
	p := newPeer(t, b, "python")
	const n = 100
	for i := range n {
		id := "s" + strings.Repeat("x", i)
		p.say("system/services/"+id+"/status", envelope(id, "status", map[string]any{"status": "healthy", "details": map[string]any{"service_type": "dummy"}}), client.WithRetain(true))
	}
	svc := start(t, b, service.Options{ID: "a"})
	if known := len(slices.Collect(svc.Services("dummy"))); known != n {
		t.Errorf("%d of %d services known", known, n)
	}
	if all := slices.Collect(svc.Services("")); len(all) != n+1 || all[0].ID != "a" || all[0].State != service.Healthy || all[0].Resources.Memory <= 0 {
		t.Errorf("%d services, first %+v", len(all), all[0])
	}
	for i := range svc.Services("") {
		if i.ID != "a" {
			t.Errorf("iteration begins with %s", i.ID)
		}
		break
	}
}

// OnService sees each change once and in order.
func TestOnService(t *testing.T) {
	b := newBroker(t)
	svc := start(t, b, service.Options{ID: "watcher"})
	var mu sync.Mutex
	var changes []string
	cancel := svc.OnService(func(i service.Info, old service.State) {
		mu.Lock()
		defer mu.Unlock()
		changes = append(changes, i.ID+" "+string(old)+">"+string(i.State))
		if i.State == service.Degraded {
			panic("a handler's own affair")
		}
	})
	other := start(t, b, service.Options{ID: "a"})
	other.SetState(service.Degraded, "x")
	other.SetState(service.Healthy, "")
	stop(t, other)
	want := []string{"a >starting", "a starting>healthy", "a healthy>degraded", "a degraded>healthy", "a healthy>shutting_down", "a shutting_down>offline"}
	eventually(t, strings.Join(want, ", "), func() bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.Equal(changes, want)
	})
	cancel()
	cancel()
	start(t, b, service.Options{ID: "b"})
	awaitState(t, svc, "b", service.Healthy)
	mu.Lock()
	defer mu.Unlock()
	if len(changes) != len(want) {
		t.Errorf("after cancel: %v", changes[len(want):])
	}
}
