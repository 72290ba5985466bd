package demo

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	estop "github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
	"github.com/lawnberry/lawnberry/topic"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a condition is waited for. It is long, because it ends a test that has failed already.
const patience = 30 * time.Second

func startBroker(t *testing.T) *broker.Broker {
	t.Helper()
	b, err := broker.Start(t.Context(), broker.Options{Listeners: []broker.Listener{{Network: "tcp", Address: "127.0.0.1:0"}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := b.Stop(ctx); err != nil {
			t.Errorf("stop the broker: %v", err)
		}
	})
	return b
}

// startHub starts the hub of the emergency stop beside a broker.
func startHub(t *testing.T, b *broker.Broker) *estop.Hub {
	t.Helper()
	h, err := estop.StartHub(t.Context(), estop.HubOptions{
		Client: client.Options{URL: b.URL()}, File: filepath.Join(t.TempDir(), "emergency_stop.json"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = h.Stop(ctx) // the broker may be gone
	})
	return h
}

// startDemo starts a demo on a broker of its own and a client beside it, as somebody at a terminal would.
func startDemo(t *testing.T, o Options) (*Demo, *client.Client) {
	t.Helper()
	b := startBroker(t)
	startHub(t, b)
	return startDemoOn(t, b, o)
}

func startDemoOn(t *testing.T, b *broker.Broker, o Options) (*Demo, *client.Client) {
	t.Helper()
	o.Client.URL, o.Operator = b.URL(), true
	o.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	o.Client.Logger = o.Logger
	d, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopDemo(t, d) })
	c, err := client.Connect(t.Context(), client.Options{URL: b.URL(), ID: "terminal"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return d, c
}

func stopDemo(t *testing.T, d *Demo) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := d.Stop(ctx); err != nil {
		t.Errorf("stop: %v", err)
	}
}

func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !condition(); {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		tick := time.NewTimer(5 * time.Millisecond)
		<-tick.C
	}
}

// visitNow lets a person come at once, and nobody after that.
func (w *world) visitNow() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.visits.here, w.visits.next = false, w.real
}

func (w *world) visitNever() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.visits.here, w.visits.next = false, 1e9
}

func (w *world) stands() bool {
	_, v, turn := w.truth()
	return v == 0 && turn == 0
}

func TestDemoMowsAndStopsForAPerson(t *testing.T) {
	t.Parallel()
	d, _ := startDemo(t, Options{Seed: 1})
	await(t, "the mower moves", func() bool { return !d.world.stands() })
	d.world.visitNow()
	await(t, "an alert", func() bool { return strings.HasPrefix(d.Snapshot().LastAlert, "A person is ") })
	await(t, "navigation is stopped", func() bool { return d.Snapshot().Activity == stopped })
	await(t, "the mower stands", d.world.stands)
	await(t, "it is released when the person has gone", func() bool { return !d.Snapshot().Stop.Engaged })
	await(t, "it goes on", func() bool { return !d.world.stands() && d.Snapshot().Activity == mowing })
	await(t, "some commands have run", func() bool { return d.Snapshot().CommandsOK > 5 })
	if v := d.Snapshot(); v.Battery < 50 || v.Position == (Position{}) || v.RatePerSecond <= 0 || v.Published < v.Delivered || v.P50 <= 0 || v.RoundTrip.P50 <= 0 || len(v.Services) != 7 || v.LastAlertAt.IsZero() {
		t.Errorf("view %+v", v)
	}
	stopDemo(t, d)
	s := d.Summary()
	t.Logf("%+v", s)
	if !s.OK() || s.Lost != 0 || s.Published != s.Delivered || s.Published < 100 || s.Refused != 0 || s.Commands.OK < 8 {
		t.Errorf("summary %+v", s)
	}
	if again := d.Summary(); again.Published != s.Published || again.RatePerSecond != s.RatePerSecond {
		t.Errorf("after Stop the summary changes: %+v", again)
	}
	if !d.world.stands() {
		t.Error("it still moves after Stop")
	}
	stopDemo(t, d) // a second time
}

func TestFirstPersonInADemo(t *testing.T) {
	t.Parallel()
	d, _ := startDemo(t, Options{Seed: 2, Speed: 4})
	await(t, "the person who always comes", func() bool { return d.Snapshot().LastAlert != "" })
	if at := d.world.realSince(); at > 15*time.Second {
		t.Errorf("it came %v after the start", at)
	}
}

func TestCommands(t *testing.T) {
	t.Parallel()
	d, c := startDemo(t, Options{Seed: 3})
	d.world.visitNever()
	call := func(target, command string, parameters any) (result struct {
		Activity string
		X        *float64
		Accuracy float64
		SensorID string `json:"sensor_id"`
		Data     map[string]any
	}, err error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		err = c.Call(ctx, target, command, parameters, &result)
		return result, err
	}
	activity := func(command, want string) {
		t.Helper()
		if r, err := call("navigation", command, nil); err != nil || r.Activity != want {
			t.Errorf("%s: %v, activity %q, want %q", command, err, r.Activity, want)
		}
	}
	await(t, "the mower moves", func() bool { return !d.world.stands() })
	activity("start_mowing", mowing)
	activity("pause", paused)
	await(t, "it stands", d.world.stands)
	activity("resume", mowing)
	await(t, "it moves again", func() bool { return !d.world.stands() })
	activity("dock", docking)
	await(t, "the view says so", func() bool { return d.Snapshot().Activity == docking })
	activity("start_mowing", mowing)
	if r, err := call("navigation", "get_position", nil); err != nil || r.X == nil || r.Accuracy <= 0 || r.Activity != mowing {
		t.Errorf("get_position: %v, %+v", err, r)
	}
	for _, s := range sensors() {
		if r, err := call("hardware_interface", "read_sensor", map[string]string{"sensor_id": s.id}); err != nil || r.SensorID != s.id || len(r.Data) == 0 {
			t.Errorf("read_sensor %s: %v, %+v", s.id, err, r)
		}
	}
	for _, test := range []struct {
		target, command string
		parameters      any
		code, says      string
	}{
		{"hardware_interface", "read_sensor", map[string]any{"sensor_id": "lidar"}, "failed", `"lidar"`},
		{"hardware_interface", "read_sensor", map[string]any{"sensor_id": "lidar"}, "failed", "imu, odometry, gps, ultrasonic, tilt, lift, motors, power, environment"},
		{"hardware_interface", "read_sensor", nil, "bad_parameters", "sensor_id"},
		{"hardware_interface", "read_sensor", map[string]any{"sensor_id": 7}, "bad_parameters", "sensor_id"},
		{"hardware_interface", "simulate", nil, "bad_parameters", "tilt"},
		{"hardware_interface", "keep_control", nil, "bad_parameters", "token"},
		{"navigation", "fly", nil, "unknown_command", "start_mowing"},
		{"toaster", "ping", nil, "no_such_service", "toaster"},
	} {
		_, err := call(test.target, test.command, test.parameters)
		var failed *client.CommandError
		if !errors.As(err, &failed) || failed.Code != test.code || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s %s %v: %v", test.target, test.command, test.parameters, err)
		}
	}
	for _, id := range serviceIDs {
		if _, err := call(id, "ping", nil); err != nil {
			t.Errorf("ping %s: %v", id, err)
		}
	}
	for target, command := range map[string]string{
		"power": "get_battery", "weather": "get_weather", "safety": "get_status", "sensor_fusion": "get_pose",
	} {
		if _, err := call(target, command, nil); err != nil {
			t.Errorf("%s %s: %v", target, command, err)
		}
	}
	stopDemo(t, d)
	if s := d.Summary(); !s.OK() { // the commands of others are none of the demo's
		t.Errorf("summary %+v", s)
	}
}

// TestEverythingOnTheBus listens as an outsider does, who knows only the wire format and the registry.
func TestEverythingOnTheBus(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	c, err := client.Connect(t.Context(), client.Options{URL: b.URL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	var mu sync.Mutex
	seen := map[string]message.Message{}
	if _, err := c.Subscribe(t.Context(), "#", func(_ context.Context, d *client.Delivery) {
		mu.Lock()
		defer mu.Unlock()
		if len(d.Message.Payload) > 0 {
			seen[d.Topic] = d.Message
		}
	}, client.WithQueue(client.Queue{Max: 10_000, Full: client.DropOldest})); err != nil {
		t.Fatal(err)
	}
	topics, err := topic.New("")
	if err != nil {
		t.Fatal(err)
	}
	startHub(t, b)
	d, err := Start(t.Context(), Options{Client: client.Options{URL: b.URL()}, Seed: 4, Operator: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopDemo(t, d) })
	await(t, "the mower moves", func() bool { return !d.world.stands() })
	d.world.visitNow()

	sensor := map[string][]string{ // topic: keys of its data
		"sensors/gps/data":         {"latitude", "longitude", "speed", "accuracy"},
		"sensors/imu/data":         {"orientation", "angular_velocity", "acceleration"},
		"sensors/odometry/data":    {"left", "right"},
		"sensors/ultrasonic/data":  {"front_left", "front_center", "front_right"},
		"sensors/tilt/data":        {"roll", "pitch", "tilt"},
		"sensors/lift/data":        {"lifted"},
		"sensors/motors/data":      {"linear", "angular", "blade", "driver", "permit"},
		"sensors/power/data":       {"voltage", "current"},
		"sensors/environment/data": {"temperature", "humidity", "pressure"},
		"sensors/fusion/data":      {"x", "y", "heading", "speed", "accuracy"},
		"navigation/velocity":      {"linear", "angular", "blade", "token"},
		"navigation/position":      {"x", "y", "latitude", "longitude", "heading", "speed", "accuracy"},
		"navigation/path":          {"points"},
		"power/battery":            {"voltage", "current", "level"},
		"power/solar":              {"voltage", "current", "power"},
		"power/consumption":        {"total"},
		"vision/detections":        {"objects"},
		"vision/frame_analysis":    {"frame"},
		"weather/current":          {"temperature", "humidity", "wind_speed"},
		"weather/forecast":         {"hours"},
	}
	types := map[string]message.Type{
		"sensors/gps/status": message.TypeStatus, "navigation/status": message.TypeStatus,
		"safety/hazards": message.TypeAlert, "safety/alerts/person_detected": message.TypeAlert,
		"system/events/activity_changed": message.TypeEvent,
	}
	for id := range sensor {
		types[id] = message.TypeSensorData
	}
	for _, id := range serviceIDs {
		types["system/services/"+id+"/status"] = message.TypeStatus
		types["commands/"+id] = message.TypeCommand
	}
	delete(types, "commands/weather") // nobody asks it, but for a ping now and then
	delete(types, "commands/vision")
	delete(types, "commands/sensor_fusion")
	await(t, "all kinds of messages", func() bool {
		mu.Lock()
		defer mu.Unlock()
		for name := range types {
			if _, ok := seen[name]; !ok {
				return false
			}
		}
		return true
	})
	await(t, "it is released", func() bool { return !d.Snapshot().Stop.Engaged })
	stopDemo(t, d)

	mu.Lock()
	defer mu.Unlock()
	for name, m := range seen {
		if _, ok := topics.Lookup(name); !ok && name != velocityTopic {
			t.Errorf("%s is no topic of the bus", name)
		}
		if err := m.Validate(message.Limits{}); err != nil || m.Raw {
			t.Errorf("%s: %v: %s", name, err, m.Payload)
		}
		if want, ok := types[name]; ok && m.Metadata.Type != want {
			t.Errorf("%s carries a %s, want a %s", name, m.Metadata.Type, want)
		}
	}
	for name, keys := range sensor {
		p, err := message.Payload[message.SensorData](seen[name])
		data, ok := p.Data.(map[string]any)
		if err != nil || !ok {
			t.Errorf("%s: %v: %s", name, err, seen[name].Payload)
			continue
		}
		for _, k := range keys {
			if _, ok := data[k]; !ok {
				t.Errorf("%s lacks %s: %s", name, k, seen[name].Payload)
			}
		}
	}
}

func TestLostServiceStopsTheMower(t *testing.T) {
	t.Parallel()
	d, c := startDemo(t, Options{Seed: 5})
	d.world.visitNever()
	await(t, "the mower moves", func() bool { return !d.world.stands() })
	if err := c.Call(t.Context(), "vision", "shutdown", nil, nil); err != nil {
		t.Fatal(err)
	}
	await(t, "the mower stands", func() bool { return d.Snapshot().Stop.Engaged && d.world.stands() })
	await(t, "the view says why", func() bool {
		v := d.Snapshot()
		return v.Activity == stopped && strings.HasPrefix(v.LastAlert, "The service vision is ")
	})
	var command *client.CommandError
	if err := c.Call(t.Context(), "navigation", "start_mowing", nil, nil); !errors.As(err, &command) || command.Code != client.CodeRefused || !strings.Contains(err.Error(), "vision") {
		t.Errorf("start_mowing: %v", err)
	}
	stopDemo(t, d)
	s := d.Summary()
	if s.OK() || s.Lost != 0 {
		t.Errorf("summary %+v", s)
	}
	for _, v := range s.Services {
		if healthy := v.ID != "vision" && v.ID != "safety"; healthy != (v.State == "healthy") { // safety needs vision
			t.Errorf("%s was %s", v.ID, v.State)
		}
	}
}

func TestNoSafetyNoMowing(t *testing.T) {
	t.Parallel()
	d, c := startDemo(t, Options{Seed: 9})
	d.world.visitNever()
	await(t, "the mower moves", func() bool { return !d.world.stands() })
	if err := c.Call(t.Context(), "safety", "shutdown", nil, nil); err != nil {
		t.Fatal(err)
	}
	await(t, "the mower stands", func() bool { return d.Snapshot().Activity == paused && d.world.stands() })
	if err := c.Call(t.Context(), "navigation", "start_mowing", nil, nil); err == nil || !strings.Contains(err.Error(), "safety is ") {
		t.Errorf("start_mowing: %v", err)
	}
}

func TestStandsWhenNavigationLeaves(t *testing.T) {
	t.Parallel()
	d, c := startDemo(t, Options{Seed: 6})
	d.world.visitNever()
	await(t, "the mower moves", func() bool { return !d.world.stands() })
	for _, n := range d.nodes { // without anybody to stop the motors
		if n.id == "safety" {
			n.quiet(t.Context())
		}
	}
	if err := c.Call(t.Context(), "navigation", "shutdown", nil, nil); err != nil {
		t.Fatal(err)
	}
	await(t, "the mower stands", func() bool { return d.world.stands() && d.Snapshot().Stop.Driver == "" })
	if v := d.Snapshot(); v.Stop.Engaged {
		t.Errorf("it was stopped otherwise: %+v", v.Stop)
	}
}

// TestLossIsSeen takes the observer away for good: from then on everything is lost, and the demo must say so.
func TestLossIsSeen(t *testing.T) {
	t.Parallel()
	d, _ := startDemo(t, Options{Seed: 7})
	await(t, "messages", func() bool { return d.Snapshot().Delivered > 20 })
	if err := d.observer.client.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, "the loss is seen", func() bool { return d.Snapshot().Lost > 5 })
	stopDemo(t, d)
	if s := d.Summary(); s.OK() || s.Lost == 0 || s.Published != s.Delivered+s.Lost {
		t.Errorf("summary %+v", s)
	}
}

func TestStopWithoutABroker(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	startHub(t, b)
	d, err := Start(t.Context(), Options{Client: client.Options{URL: b.URL()}, Seed: 8, Operator: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, "the observer notices", func() bool { return !d.observer.client.Connected() })
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	began := time.Now()
	err = d.Stop(ctx)
	if took := time.Since(began); took > patience/2 {
		t.Errorf("Stop took %v, ctx allowed half a second", took)
	}
	if err == nil || !strings.Contains(err.Error(), "the broker is gone") {
		t.Errorf("Stop: %v", err)
	}
	if again := d.Stop(ctx); again != err { // although ctx is over
		t.Errorf("a second Stop returned %v", again)
	}
	if !d.world.stands() {
		t.Error("it still moves after Stop")
	}
}

func TestStartSaysWhatFailed(t *testing.T) {
	t.Parallel()
	t.Run("no broker", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		refuse := func(context.Context) (net.Conn, error) { return nil, errors.New("nobody there") }
		if _, err := Start(ctx, Options{Client: client.Options{Dial: refuse}}); err == nil || !strings.Contains(err.Error(), "nobody there") {
			t.Errorf("%v", err)
		}
	})
	t.Run("one service", func(t *testing.T) {
		b := startBroker(t)
		startHub(t, b)
		// It cannot reach the broker, whichever comes last.
		var mu sync.Mutex
		connections := 0
		dial := func(ctx context.Context) (net.Conn, error) {
			mu.Lock()
			connections++
			last := connections > len(serviceIDs) // the observer and all services but one
			mu.Unlock()
			if last {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return b.Dial(ctx)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := Start(ctx, Options{Client: client.Options{Dial: dial}, Operator: true})
		if err == nil || !slices.ContainsFunc(serviceIDs[:], func(id string) bool { return strings.Contains(err.Error(), "service "+id) }) {
			t.Errorf("the error does not name the service: %v", err)
		}
		t.Log(err)
	})
	for _, speed := range []float64{-1, 11} {
		if _, err := Start(t.Context(), Options{Speed: speed}); err == nil || !strings.Contains(err.Error(), "speed up to 10") {
			t.Errorf("speed %v: %v", speed, err)
		}
	}
}

func TestSummaryJSON(t *testing.T) {
	all := make([]ServiceView, 0, len(serviceIDs))
	for _, id := range serviceIDs {
		all = append(all, ServiceView{id, typeOf(id), "healthy"})
	}
	s := Summary{Services: all[:1], Published: 3, Delivered: 2, Lost: 1, RatePerSecond: 1.5, Latency: LatencyMS{0.1, 0.2, 0.3}, Commands: CommandsRun{4, 5}, EmergencyStops: EmergencyStops{2, 1, 210.5}}
	got, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"services":[{"id":"hardware_interface","type":"hardware","state":"healthy"}],"published":3,"delivered":2,"lost":1,"rate_per_s":1.5,` +
		`"latency_ms":{"p50":0.1,"p99":0.2,"max":0.3},"round_trip_ms":{"p50":0,"p99":0,"max":0},"commands":{"ok":4,"failed":5},"emergency_stops":{"engaged":2,"stopped":1,"slowest_ms":210.5}}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for name, test := range map[string]struct {
		change func(s *Summary)
		ok     bool
	}{
		"fine":             {func(*Summary) {}, true},
		"lost":             {func(s *Summary) { s.Lost = 1 }, false},
		"failed":           {func(s *Summary) { s.Commands.Failed = 1 }, false},
		"one missing":      {func(s *Summary) { s.Services = s.Services[1:] }, false},
		"one degraded":     {func(s *Summary) { s.Services[3].State = string(service.Degraded) }, false},
		"duplicates occur": {func(s *Summary) { s.Duplicates = 2 }, true},
	} {
		s := Summary{Services: slices.Clone(all), Published: 2, Delivered: 2}
		test.change(&s)
		if s.OK() != test.ok {
			t.Errorf("%s: OK is %v", name, s.OK())
		}
	}
}

func TestRatesCoverWhatIsSent(t *testing.T) {
	r, err := topics(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, hz := range map[string]float64{
		"sensors/gps/data": 5, "sensors/imu/data": 10, "sensors/odometry/data": 10, "sensors/ultrasonic/data": 10, "sensors/tilt/data": 5,
		"sensors/power/data": 2, "sensors/environment/data": 0.2, "sensors/fusion/data": 10, "navigation/velocity": 10, "navigation/position": 2,
		"vision/detections": 5, "sensors/lift/data": 10, "sensors/motors/data": 2, "system/services/power/status": 0.2, "navigation/status": 0.5, "power/battery": 0.25, "weather/current": 0.1,
	} {
		def, ok := r.Lookup(name)
		if !ok || def.Rate != 0 && float64(def.Rate) < 60*hz {
			t.Errorf("%s: %v, the limit is %d a minute and %v are sent", name, ok, def.Rate, 60*hz)
		}
	}
	if def, _ := r.Lookup("navigation/position"); !def.Retain || def.QoS != 1 {
		t.Errorf("raising a limit changed more: %+v", def)
	}

	// In a registry that is given, limits are the caller's.
	own, err := topic.New("elsewhere")
	if err != nil {
		t.Fatal(err)
	}
	if same, err := topics(own); err != nil || same != own {
		t.Fatal(same, err)
	}
	if def, _ := own.Lookup("sensors/gps/data"); def.Rate != 100 {
		t.Errorf("the limit of gps became %d", def.Rate)
	}
	if def, ok := own.Lookup(velocityTopic); !ok || def.Retain {
		t.Errorf("the set points are unknown or retained: %v %+v", ok, def)
	}
}

// What the demo publishes again and again comes at least twice in the time after which the registry has it stale.
func TestPeriodsAreFresh(t *testing.T) {
	t.Parallel()
	r, err := topics(nil)
	if err != nil {
		t.Fatal(err)
	}
	periods := map[string]time.Duration{
		"navigation/position": positionEvery * sensorPeriod, "vision/detections": emptyEvery * framePeriod, "vision/frame_analysis": analysisEvery * framePeriod,
		"system/services/power/status": heartbeat,
	}
	for _, s := range sensors() {
		periods["sensors/"+s.id+"/data"] = sensorPeriod * time.Duration(s.every)
	}
	for name, period := range periods {
		if d, ok := r.Lookup(name); !ok || d.StaleAfter < 2*period {
			t.Errorf("%s is stale after %v, and comes every %v", name, d.StaleAfter, period)
		}
	}
}
