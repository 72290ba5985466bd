package service_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
	"github.com/lawnberry/lawnberry/topic"
)

// object decodes a JSON object.
func object(t *testing.T, raw []byte) map[string]any {
	t.Helper()
	var o map[string]any
	if err := json.Unmarshal(raw, &o); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return o
}

// What a service announces is the wire format's, key by key.
func TestAnnouncement(t *testing.T) {
	b := newBroker(t)
	p := newPeer(t, b, "watcher", "system/services/+/status", "system/events/+")
	before := message.Seconds(time.Now())
	svc := start(t, b, service.Options{
		ID: "gps_1", Type: "sensors", Version: "1.2.3",
		Endpoints: map[string]string{"data": "sensors/gps/data"}, Metadata: map[string]any{"baud": 9600},
	})
	if svc.ID() != "gps_1" || svc.State() != service.Healthy {
		t.Errorf("%s is %s", svc.ID(), svc.State())
	}
	const topic = "system/services/gps_1/status"
	for _, want := range []string{"starting", "healthy"} {
		d := p.next(topic)
		if m := d.Message.Metadata; m.Type != message.TypeStatus || m.Sender != "gps_1" || m.Priority != message.Low || d.QoS != 1 {
			t.Errorf("QoS %d, %+v", d.QoS, m)
		}
		payload := object(t, d.Message.Payload)
		if keys := slices.Sorted(maps.Keys(payload)); !slices.Equal(keys, []string{"details", "resources", "status", "uptime", "version"}) {
			t.Errorf("keys of the payload: %v", keys)
		}
		if payload["status"] != want || payload["version"] != "1.2.3" {
			t.Errorf("payload %v, want status %s", payload, want)
		}
		resources := payload["resources"].(map[string]any)
		for _, key := range []string{"cpu_usage", "memory_usage", "disk_usage"} {
			if v, ok := resources[key].(float64); !ok || v <= 0 || v > 100 {
				t.Errorf("%s is %v", key, resources[key])
			}
		}
		details := payload["details"].(map[string]any)
		if keys := slices.Sorted(maps.Keys(details)); !slices.Equal(keys, []string{"dependencies", "endpoints", "heartbeat_interval", "heartbeat_timeout", "host", "last_heartbeat",
			"metadata", "pid", "service_id", "service_type", "shares_commands", "start_time", "state", "uptime", "version"}) {
			t.Errorf("keys of the details: %v", keys)
		}
		for key, value := range map[string]any{"service_id": "gps_1", "service_type": "sensors", "version": "1.2.3", "state": want} {
			if details[key] != value {
				t.Errorf("%s is %v, want %v", key, details[key], value)
			}
		}
		started, beat := details["start_time"].(float64), details["last_heartbeat"].(float64)
		if started < before || beat < started || beat > message.Seconds(time.Now()) || details["uptime"].(float64) < 0 {
			t.Errorf("times: %v", details)
		}
		if deps, ok := details["dependencies"].([]any); !ok || len(deps) != 0 {
			t.Errorf("dependencies are %v, want an empty array", details["dependencies"])
		}
		if details["endpoints"].(map[string]any)["data"] != "sensors/gps/data" || details["metadata"].(map[string]any)["baud"] != 9600.0 {
			t.Errorf("details: %v", details)
		}
	}
	p.awaitChanges("gps_1", "starting>healthy")
	if e := object(t, []byte(p.events("service_state_change")[0])); len(e) != 3 {
		t.Errorf("service_state_change: %v", e)
	}
	if late := newPeer(t, b, "late", topic).next(topic); !late.Retained {
		t.Error("the status is not retained")
	}
}

// One without anything in its options has no null where the wire format has an object or an array.
func TestAnnouncementOfABareService(t *testing.T) {
	b := newBroker(t)
	start(t, b, service.Options{ID: "bare"})
	d := newPeer(t, b, "watcher", "system/services/+/status").next("system/services/bare/status")
	details := object(t, d.Message.Payload)["details"].(map[string]any)
	if details["service_type"] != "bare" || details["version"] != "0.0.0" {
		t.Errorf("defaults: %v", details)
	}
	for _, key := range []string{"dependencies", "endpoints", "metadata"} {
		if details[key] == nil {
			t.Errorf("%s is null", key)
		}
	}
}

func TestStartRefusesBadOptions(t *testing.T) {
	b := newBroker(t)
	tests := []struct {
		o    service.Options
		want string
	}{
		{service.Options{}, "service id"},
		{service.Options{ID: "a/b"}, "a/b"},
		{service.Options{ID: "a+"}, "a+"},
		{service.Options{ID: "#"}, "#"},
		{service.Options{ID: "a\x00"}, "NUL"},
		{service.Options{ID: "a\xff"}, "UTF-8"},
		{service.Options{ID: "a", Type: "t/u"}, "service type"},
		{service.Options{ID: "a", Dependencies: []string{"b", ""}}, "dependency"},
		{service.Options{ID: "a", Dependencies: []string{"a"}}, "depends on itself"},
		{service.Options{ID: "a", Metadata: map[string]any{"f": func() {}}}, "metadata"},
		{service.Options{ID: "a", Metadata: map[string]any{"big": strings.Repeat("x", 20_000)}}, "10000"},
	}
	for _, test := range tests {
		test.o.Client.URL = b.URL()
		svc, err := service.Start(testContext(t), test.o)
		if err == nil {
			stop(t, svc)
			t.Errorf("%+v: accepted", test.o.ID)
		} else if !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v, which does not mention %q", test.o.ID, err, test.want)
		}
	}
}

func TestStartWithoutABroker(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	_, err := service.Start(ctx, service.Options{ID: "a", Client: client.Options{URL: "tcp://127.0.0.1:1"}})
	if failed := (*client.ConnectError)(nil); !errors.As(err, &failed) || !strings.Contains(err.Error(), "start service a") {
		t.Errorf("%v", err)
	}
}

// Handlers that Setup registers are there before anyone sees the service healthy.
func TestSetup(t *testing.T) {
	b := newBroker(t)
	caller := start(t, b, service.Options{ID: "caller"})
	answers := make(chan error, 1)
	cancel := caller.OnService(func(i service.Info, _ service.State) {
		if i.ID == "late" && i.State == service.Healthy {
			answers <- caller.Call(context.Background(), "late", "hello", nil, nil)
		}
	})
	defer cancel()
	start(t, b, service.Options{ID: "late", Setup: func(_ context.Context, s *service.Service) error {
		if s.State() != service.Starting {
			t.Errorf("set up in the state %s", s.State())
		}
		service.Handle(s, "hello", func(context.Context, struct{}) (any, error) { return nil, nil })
		return nil
	}})
	if err := <-answers; err != nil {
		t.Error(err)
	}

	// A command that comes too early waits, a ping does not.
	setUp := make(chan struct{})
	go func() {
		awaitState(t, caller, "slow", service.Starting)
		go func() { answers <- caller.Call(context.Background(), "slow", "hello", nil, nil) }()
		eventually(t, "the early command is sent", func() bool { return caller.Client().Stats().PendingCalls == 1 })
		if err := caller.Call(context.Background(), "slow", "ping", nil, nil); err != nil {
			t.Error(err)
		}
		close(setUp)
	}()
	start(t, b, service.Options{ID: "slow", Setup: func(_ context.Context, s *service.Service) error {
		<-setUp
		service.Handle(s, "hello", func(context.Context, struct{}) (any, error) { return nil, nil })
		return nil
	}})
	if err := <-answers; err != nil {
		t.Error(err)
	}

	broken := errors.New("no camera")
	_, err := tryStart(t, b, service.Options{ID: "vision", Setup: func(context.Context, *service.Service) error { return broken }})
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "start service vision: setup: no camera") {
		t.Errorf("%v", err)
	}
	awaitState(t, caller, "vision", service.Offline)
}

func TestSetState(t *testing.T) {
	b := newBroker(t)
	p := newPeer(t, b, "watcher", "system/services/+/status", "system/events/+")
	svc := start(t, b, service.Options{ID: "a"})
	svc.SetState(service.Degraded, "blade worn")
	if svc.State() != service.Degraded {
		t.Errorf("state is %s", svc.State())
	}
	svc.SetState(service.Offline, "not for the service to say")
	svc.SetState("odd", "")
	svc.SetState(service.Failing, "blade lost")
	svc.SetState(service.Failing, "blade lost") // nothing new
	svc.SetState(service.Healthy, "")
	p.awaitStates("a", "starting", "healthy", "degraded", "error", "healthy")
	p.awaitChanges("a", "starting>healthy", "healthy>degraded", "degraded>error", "error>healthy")
	var reasons []any
	for _, d := range p.on("system/services/a/status") {
		reasons = append(reasons, object(t, d.Message.Payload)["details"].(map[string]any)["reason"])
	}
	if !slices.Equal(reasons, []any{nil, nil, "blade worn", "blade lost", nil}) {
		t.Errorf("reasons: %v", reasons)
	}
}

// Setters are never held up by the network, and what they set arrives in order.
func TestConcurrentUse(t *testing.T) {
	b := newBroker(t)
	other := start(t, b, service.Options{ID: "other"})
	svc := start(t, b, service.Options{ID: "a", Heartbeat: time.Millisecond})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 25 {
				svc.SetState(service.Degraded, "x")
				svc.SetState(service.Healthy, "")
				for i := range svc.Services("") {
					_ = i.State
				}
				cancel := svc.OnService(func(service.Info, service.State) {})
				service.Handle(svc, "noop", func(context.Context, any) (any, error) { return nil, nil })
				svc.State()
				cancel()
			}
		})
	}
	wg.Wait()
	svc.SetState(service.Failing, "the end")
	awaitState(t, other, "a", service.Failing)
}

func TestStop(t *testing.T) {
	b := newBroker(t)
	p := newPeer(t, b, "watcher", "system/services/+/status", "system/events/+")
	other := start(t, b, service.Options{ID: "other"})
	svc := start(t, b, service.Options{ID: "a"})
	var order []string
	svc.OnShutdown(func(context.Context) { order = append(order, "first") })
	svc.OnShutdown(func(context.Context) { panic("broken") })
	svc.OnShutdown(func(ctx context.Context) {
		if svc.State() != service.ShuttingDown {
			t.Errorf("shutdown functions run in the state %s", svc.State())
		}
		select {
		case <-svc.Done():
		default:
			t.Error("Done is open while the service stops")
		}
		if err := svc.EmitEvent(ctx, "last_words", nil); err != nil {
			t.Errorf("cannot publish from a shutdown function: %v", err)
		}
		order = append(order, "last")
	})
	select {
	case <-svc.Done():
		t.Error("Done is closed while the service runs")
	default:
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { stop(t, svc) })
	}
	wg.Wait()
	stop(t, svc)
	if !slices.Equal(order, []string{"last", "first"}) {
		t.Errorf("shutdown functions ran as %v", order)
	}
	if svc.State() != service.Offline {
		t.Errorf("state is %s", svc.State())
	}
	if err := svc.EmitEvent(context.Background(), "x", nil); !errors.Is(err, client.ErrClosed) {
		t.Errorf("EmitEvent after Stop: %v", err)
	}
	if err := svc.WaitFor(context.Background(), "nobody"); !errors.Is(err, client.ErrClosed) {
		t.Errorf("WaitFor after Stop: %v", err)
	}
	svc.OnService(func(service.Info, service.State) {})()
	svc.SetState(service.Healthy, "too late")

	p.awaitStates("a", "starting", "healthy", "shutting_down", "offline")
	awaitState(t, other, "a", service.Offline)
	stop(t, other) // so that nothing more can come
	p.awaitStates("other", "starting", "healthy", "shutting_down", "offline")
	p.awaitChanges("a", "starting>healthy", "healthy>shutting_down", "shutting_down>offline")
	p.awaitChanges("other", "starting>healthy", "healthy>shutting_down", "shutting_down>offline")
	eventually(t, "two services report that they went offline", func() bool { return len(p.events("service_offline")) == 2 })
	var gone []string
	for _, raw := range p.events("service_offline") {
		e := object(t, []byte(raw))
		gone = append(gone, e["service_id"].(string))
		if e["last_seen"].(float64) <= 0 || len(e) != 2 {
			t.Errorf("service_offline: %v", e)
		}
	}
	if !slices.Equal(gone, []string{"a", "other"}) { // one stopped after the other was seen offline
		t.Errorf("offline: %v", gone)
	}
	last := p.on("system/services/a/status")
	if reason := object(t, last[len(last)-1].Message.Payload)["details"].(map[string]any)["reason"]; reason != "stopped" {
		t.Errorf("the last status gives the reason %v: a Will was published", reason)
	}
}

// Stop ends with its ctx, whatever hangs, and the service is gone from the bus.
func TestStopIsBounded(t *testing.T) {
	b := newBroker(t)
	other := start(t, b, service.Options{ID: "other"})
	release := make(chan struct{})
	hanging := make(chan struct{})
	var asked bool
	svc := start(t, b, service.Options{ID: "a", Heartbeat: 10 * time.Millisecond, Health: func(context.Context) (service.State, string) {
		if asked {
			close(hanging)
			<-release
		}
		asked = true
		return service.Healthy, ""
	}})
	ended := make(chan struct{})
	svc.OnShutdown(func(ctx context.Context) {
		<-ctx.Done()
		<-release
		close(ended)
	})
	<-hanging
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	err := svc.Stop(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "a shutdown function has not returned") || !strings.Contains(err.Error(), "health function") {
		t.Errorf("%v", err)
	}
	awaitState(t, other, "a", service.Offline)
	if i, _ := other.Service("a"); i.Reason != "stopped" {
		t.Errorf("no goodbye was heard: %+v", i)
	}
	close(release)
	<-ended
}

// A ctx that has ended is no reason to vanish without a word.
func TestStopWithAnEndedContext(t *testing.T) {
	b := newBroker(t)
	other := start(t, b, service.Options{ID: "other"})
	svc := start(t, b, service.Options{ID: "a"})
	var told bool
	svc.OnShutdown(func(ctx context.Context) { told = ctx.Err() == nil })
	awaitState(t, other, "a", service.Healthy)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := svc.Stop(ctx); err != nil || !told {
		t.Errorf("%v, shutdown functions ran: %v", err, told)
	}
	awaitState(t, other, "a", service.Offline)
	if i, _ := other.Service("a"); i.Reason != "stopped" {
		t.Errorf("no goodbye was heard: %+v", i)
	}
}

// Stop in a handler's goroutine ends what can be ended, without waiting for itself for ever.
func TestStopFromAHandler(t *testing.T) {
	b := newBroker(t)
	other := start(t, b, service.Options{ID: "other"})
	svc := start(t, b, service.Options{ID: "a"})
	ended := make(chan struct{})
	if _, err := svc.OnEvent(testContext(t), "go_home", func(ctx context.Context, _ service.Event) {
		go func() {
			defer close(ended)
			if err := svc.Stop(ctx); err != nil {
				t.Error(err)
			}
		}()
	}); err != nil {
		t.Fatal(err)
	}
	if err := other.EmitEvent(testContext(t), "go_home", nil); err != nil {
		t.Fatal(err)
	}
	<-ended
	awaitState(t, other, "a", service.Offline)
}

// Everything works in another namespace, beside the first.
func TestNamespace(t *testing.T) {
	b := newBroker(t)
	options := func(id, namespace string) service.Options {
		topics, err := topic.New(namespace)
		if err != nil {
			t.Fatal(err)
		}
		return service.Options{ID: id, Client: client.Options{Topics: topics}}
	}
	a := start(t, b, options("a", "mower2"))
	other := start(t, b, options("b", "mower2"))
	stranger := start(t, b, options("c", ""))
	if err := a.WaitFor(testContext(t), "b"); err != nil {
		t.Error(err)
	}
	if err := a.Call(testContext(t), "b", "ping", nil, nil); err != nil {
		t.Error(err)
	}
	stop(t, other)
	awaitState(t, a, "b", service.Offline)
	if known := slices.Collect(stranger.Services("")); len(known) != 1 {
		t.Errorf("known in the other namespace: %+v", known)
	}
}

func TestShutdownCommand(t *testing.T) {
	b := newBroker(t)
	other := start(t, b, service.Options{ID: "other"})
	svc := start(t, b, service.Options{ID: "a"})
	ran := make(chan struct{})
	svc.OnShutdown(func(context.Context) { close(ran) })
	var answer map[string]any
	if err := other.Call(testContext(t), "a", "shutdown", nil, &answer); err != nil || len(answer) != 1 || answer["shutting_down"] != true {
		t.Errorf("%v, %v", answer, err)
	}
	<-svc.Done()
	<-ran
	awaitState(t, other, "a", service.Offline) // nobody called Stop
	stop(t, svc)
}

// shutdown ends a Start that waits, too.
func TestShutdownCommandWhileStarting(t *testing.T) {
	b := newBroker(t)
	other := start(t, b, service.Options{ID: "other"})
	failed := make(chan error, 1)
	go func() {
		_, err := service.Start(testContext(t), service.Options{ID: "a", Client: client.Options{URL: b.URL()}, Dependencies: []string{"never"}})
		failed <- err
	}()
	awaitState(t, other, "a", service.Starting)
	if err := other.Call(testContext(t), "a", "shutdown", nil, nil); err != nil {
		t.Error(err)
	}
	if err := <-failed; err == nil || !strings.Contains(err.Error(), "asked to shut down while starting") {
		t.Errorf("%v", err)
	}
	awaitState(t, other, "a", service.Offline)
}
