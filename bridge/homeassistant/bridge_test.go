package homeassistant_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/bridge/homeassistant"
	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/brokertest"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
	"github.com/lawnberry/lawnberry/topic"
)

const base = "homeassistant/lawnberry/lawnberry/"

// A world is a broker with a hub, a mower's service, a bridge and a home.
type world struct {
	t      testing.TB
	broker brokertest.Broker
	hub    *safety.Hub
	nav    *service.Service
	bridge *homeassistant.Bridge
	home   *home
	cable  cable

	mu    sync.Mutex // guards calls
	calls []string
	hang  atomic.Bool
}

// A cable is what connections of the bridge go through.
type cable struct {
	url string

	mu    sync.Mutex // guards the fields below
	conns []net.Conn
	dead  bool
}

func (c *cable) dial(ctx context.Context) (net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return nil, errors.New("the cable is cut")
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", strings.TrimPrefix(c.url, "tcp://"))
	if err == nil {
		c.conns = append(c.conns, conn)
	}
	return conn, err
}

// cut cuts all connections, for good if dead.
func (c *cable) cut(dead bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = dead
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	c.conns = nil
}

// stopped stops something at the end of the test.
func stopped(t testing.TB, stop func(context.Context) error) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := stop(ctx); err != nil {
			t.Error(err)
		}
	})
}

func logger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

func startBroker(t testing.TB, o broker.Options) brokertest.Broker {
	t.Helper()
	o.Listeners = []broker.Listener{{Network: "tcp", Address: "127.0.0.1:0"}}
	return brokertest.StartWith(t, o)
}

func (w *world) did(name string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, c := range w.calls {
		if c == name {
			n++
		}
	}
	return n
}

// mower starts the mower's service.
func (w *world) mower() *service.Service {
	w.t.Helper()
	s, err := service.Start(testContext(w.t), service.Options{
		ID: "navigation", Version: "3.2.1", Client: client.Options{URL: w.broker.URL()}, Heartbeat: time.Second,
		Setup: func(_ context.Context, s *service.Service) error {
			for _, command := range []string{"start_mowing", "pause", "dock"} {
				service.Handle(s, command, func(ctx context.Context, _ struct{}) (string, error) {
					w.mu.Lock()
					w.calls = append(w.calls, command)
					w.mu.Unlock()
					if command == "dock" {
						return "", errors.New("the way is blocked")
					}
					if command == "start_mowing" && w.hang.Load() {
						<-ctx.Done()
						return "", ctx.Err()
					}
					return "ok", nil
				})
			}
			return nil
		},
	})
	check(w.t, err)
	return s
}

func newWorld(t testing.TB, o homeassistant.Options) *world {
	t.Helper()
	w := &world{t: t}
	w.broker = startBroker(t, broker.Options{SysInterval: 50 * time.Millisecond})
	w.cable.url = w.broker.URL()
	ctx := testContext(t)
	var err error
	w.hub, err = safety.StartHub(ctx, safety.HubOptions{Client: client.Options{URL: w.broker.URL()}, File: filepath.Join(t.TempDir(), "stop.json")})
	check(t, err)
	stopped(t, w.hub.Stop)
	w.nav = w.mower()
	stopped(t, func(ctx context.Context) error { return w.nav.Stop(ctx) })
	w.home = newHome(t, w.broker.URL(), "homeassistant")
	w.start(o)
	t.Cleanup(w.home.fine)
	return w
}

func (w *world) start(o homeassistant.Options) {
	w.t.Helper()
	o.Client.Dial, o.Client.ReconnectDelay, o.Client.MaxReconnect = w.cable.dial, 10*time.Millisecond, 50*time.Millisecond
	o.Version = "1.2.3"
	if o.Jitter == 0 {
		o.Jitter = -1
	}
	if o.PingEvery == 0 {
		o.PingEvery = 100 * time.Millisecond
	}
	if o.Logger == nil {
		o.Logger = logger(w.t)
	}
	var err error
	w.bridge, err = homeassistant.Start(testContext(w.t), o)
	check(w.t, err)
	b := w.bridge
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = b.Stop(ctx) // its connection may be cut
	})
}

// reads publishes a reading of the mower's.
func (w *world) reads(name string, data map[string]any) {
	w.t.Helper()
	m, err := message.NewSensorData("navigation", message.SensorData{SensorType: "x", Data: data, Quality: 1})
	check(w.t, err)
	check(w.t, w.nav.Publish(testContext(w.t), name, m, client.Unlimited()))
}

func (w *world) doing(activity string, details string) {
	w.t.Helper()
	m, err := message.NewStatus("navigation", message.Status{Status: activity, Details: []byte(details)})
	check(w.t, err)
	check(w.t, w.nav.Publish(testContext(w.t), "navigation/status", m, client.Unlimited()))
}

// Every kind of value gets to its entity, and what is not known is unknown.
func TestStates(t *testing.T) {
	t.Parallel()
	w := newWorld(t, homeassistant.Options{Settings: homeassistant.Settings{Origin: &homeassistant.Origin{Latitude: 47, Longitude: 8}}})
	h := w.home
	h.settled("service_navigation")
	for _, key := range []string{"mower", "battery", "solar", "temperature", "rain"} {
		h.shows(key, "unknown")
	}
	h.shows("emergency_stop", "ON") // a fresh hub
	h.shows("problem", "OFF")
	eventually(t, "attributes of the emergency stop", func() bool { return h.attributes("emergency_stop")["known"] == true })
	w.doing("mowing", `{"activity": "mowing", "area_done": 0.5}`)
	h.shows("mower", "mowing")
	h.shows("activity", "mowing")
	h.shows("progress", "50")
	w.doing("docking", `{"activity": "docking", "progress": 51.26}`)
	h.shows("mower", "returning")
	h.shows("progress", "51.3")
	w.doing("dancing", `{}`)
	h.shows("mower", "unknown")
	h.shows("activity", "unknown")
	eventually(t, "its attributes", func() bool { return h.attributes("mower")["mower_activity"] == "dancing" })
	w.doing("paused", `{}`)
	h.shows("mower", "paused")

	w.reads("power/battery", map[string]any{"level": 81.26, "voltage": 27.123, "temperature": 21.04})
	h.shows("battery", "81.3")
	h.shows("battery_voltage", "27.12")
	h.shows("battery_temperature", "21")
	w.reads("power/battery", map[string]any{"level": 300, "voltage": "much"})
	h.shows("battery", "unknown")
	h.shows("battery_voltage", "unknown")
	w.reads("power/solar", map[string]any{"power": 12.0})
	h.shows("solar", "12")
	w.reads("power/consumption", map[string]any{"total": 30.26})
	h.shows("consumption", "30.3")
	w.reads("weather/current", map[string]any{"temperature": -3.5, "precipitation": 0.0})
	h.shows("temperature", "-3.5")
	h.shows("rain", "OFF")
	w.reads("weather/current", map[string]any{"rain": true})
	h.shows("rain", "ON")
	h.shows("temperature", "unknown")

	w.reads("navigation/position", map[string]any{"x": 111.32, "y": 111.32, "accuracy": 0.02})
	eventually(t, "a position of the lawn", func() bool {
		a := h.attributes("location")
		return a["latitude"] == 47.001 && fmt.Sprint(a["gps_accuracy"]) == "0.02" && fmt.Sprint(a["longitude"]) == "8.0014663"
	})
	w.reads("navigation/position", map[string]any{"x": 1.0, "y": 2.0, "latitude": 46.5, "longitude": 7.25})
	eventually(t, "a position of the globe", func() bool { a := h.attributes("location"); return a["latitude"] == 46.5 && a["longitude"] == 7.25 })

	h.shows("link_quality", "100")
	eventually(t, "a latency", func() bool { s := h.state("latency"); return s != "unknown" && s != "unavailable" })
	eventually(t, "a rate of messages", func() bool { s := h.state("message_rate"); return s != "unknown" && s != "0" })
	h.mu.Lock()
	version := h.last(base + "version/state")
	h.mu.Unlock()
	if version != `{"installed_version":"1.2.3"}` {
		t.Errorf("version %s", version)
	}

	w.nav.SetState(service.Failing, "the map is lost")
	h.shows("service_navigation", "ON")
	h.shows("problem", "ON")
	eventually(t, "the reason of a problem", func() bool {
		return strings.Contains(fmt.Sprint(h.attributes("problem")["reasons"]), "the map is lost") &&
			h.attributes("service_navigation")["reason"] == "the map is lost"
	})
	w.nav.SetState(service.Healthy, "")
	h.shows("problem", "OFF")
	check(t, w.nav.EmitAlert(testContext(t), message.Alert{AlertType: "tilt", Severity: "error", Message: strings.Repeat("it leans ", 100)}))
	e := h.event("alert", 0, map[string]any{"event_type": "raised", "alert_type": "tilt", "raised_by": "navigation"})
	if text, _ := e["message"].(string); len(text) > 500 || !strings.HasSuffix(text, "(cut)") {
		t.Errorf("the text is %q", text)
	}
	h.shows("problem", "ON")
	check(t, w.nav.ClearAlert(testContext(t), "tilt"))
	h.event("alert", 0, map[string]any{"event_type": "cleared", "alert_type": "tilt"})
	h.shows("problem", "OFF")
	check(t, w.nav.Stop(testContext(t)))
	h.shows("mower", "unavailable")
	h.shows("activity", "unavailable")
	h.shows("battery", "unavailable") // the service has published it
	h.shows("emergency_stop", "ON")
	h.shows("service_navigation", "ON")
	w.nav = w.mower()
	h.shows("mower", "paused")
}

// A source that is silent for too long makes its values unknown, and so does one whose last reading is old; one that says the same keeps them.
func TestSilence(t *testing.T) {
	t.Parallel()
	w := newWorld(t, homeassistant.Options{})
	h := w.home
	h.settled("battery")
	check(t, w.bridge.Stop(testContext(t)))
	old, err := message.NewSensorData("navigation", message.SensorData{SensorType: "battery", Data: map[string]any{"level": 11}, Quality: 1})
	check(t, err)
	old.Metadata.Timestamp -= 3600
	check(t, w.nav.Publish(testContext(t), "power/battery", old, client.Unlimited()))
	w.start(homeassistant.Options{}.WithPatience(3 * time.Second))
	h.shows("solar", "unknown")
	w.reads("power/solar", map[string]any{"power": 12.0})
	h.shows("solar", "12")
	h.mu.Lock()
	n := len(h.heard[base+"solar/state"])
	h.mu.Unlock()
	eventually(t, "the same value comes again while its source says so", func() bool {
		w.reads("power/solar", map[string]any{"power": 12.0})
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.heard[base+"solar/state"]) > n+1
	})
	h.shows("battery", "unknown")
	w.reads("power/battery", map[string]any{"level": 22.0})
	h.shows("battery", "22")
	h.shows("solar", "unknown")
	h.shows("battery", "unknown")
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, payload := range h.heard[base+"battery/state"] {
		if strings.Contains(payload, "11") {
			t.Error("an old reading was shown")
		}
	}
}

// A value is published when it has changed, once a second at most, and the latest counts.
func TestConflation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, homeassistant.Options{})
	h := w.home
	h.shows("battery", "unknown")
	began := time.Now()
	for i := range 200 {
		w.reads("power/battery", map[string]any{"level": float64(i % 101)})
	}
	w.reads("power/battery", map[string]any{"level": 55.0})
	h.shows("battery", "55")
	took := time.Since(began)
	h.mu.Lock()
	n := len(h.heard[base+"battery/state"])
	h.mu.Unlock()
	if most := int(took/time.Second) + 3; n > most { // the first, the retained one, and the last
		t.Errorf("%d values of 200 were published within %v, want at most %d", n, took, most)
	}
	for range 20 {
		w.reads("power/battery", map[string]any{"level": 55.0})
	}
	w.reads("power/solar", map[string]any{"power": 1.0})
	h.shows("solar", "1")
	h.mu.Lock()
	defer h.mu.Unlock()
	if got := len(h.heard[base+"battery/state"]); got != n {
		t.Errorf("a value that has not changed was published %d times", got-n)
	}
}

// Services that come and go have entities that come and go.
func TestServices(t *testing.T) {
	t.Parallel()
	w := newWorld(t, homeassistant.Options{})
	h := w.home
	h.shows("service_navigation", "OFF")
	s, err := service.Start(testContext(t), service.Options{ID: "odd id (1)", Client: client.Options{URL: w.broker.URL()}})
	check(t, err)
	const key = "service_odd_id__1__cb6db1f1"
	h.shows(key, "OFF")
	eventually(t, "its attributes", func() bool {
		a := h.attributes(key)
		return a["service_id"] == "odd id (1)" && a["service_state"] == "healthy"
	})
	check(t, s.Stop(testContext(t)))
	h.shows(key, "ON")
	check(t, w.nav.Publish(testContext(t), "system/services/odd id (1)/status", message.NewRaw(nil), client.WithRetain(true)))
	h.shows(key, "")
	eventually(t, "its values are gone", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.gone[key] > 0 && h.last(base+key+"/state") == "" && h.last(base+key+"/attributes") == ""
	})
}

// What was retained by an earlier run with other services is removed.
func TestServicesOfBefore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, homeassistant.Options{})
	h := w.home
	s, err := service.Start(testContext(t), service.Options{ID: "old", Client: client.Options{URL: w.broker.URL()}})
	check(t, err)
	h.shows("service_old", "OFF")
	check(t, w.bridge.Stop(testContext(t)))
	h.shows("service_old", "unavailable")
	check(t, s.Stop(testContext(t)))
	check(t, w.nav.Publish(testContext(t), "system/services/old/status", message.NewRaw(nil), client.WithRetain(true)))
	w.start(homeassistant.Options{})
	h.shows("service_old", "")
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gone["service_old"] == 0 {
		t.Error("it was not named as removed")
	}
}

// When the bridge is gone without a word, its Will says so; when it is back, everything is there again.
// With another text in the Will this fails.
func TestWill(t *testing.T) {
	t.Parallel()
	w := newWorld(t, homeassistant.Options{})
	h := w.home
	h.settled("service_navigation")
	w.doing("mowing", `{}`)
	h.shows("mower", "mowing")
	w.cable.cut(true)
	for _, key := range []string{"mower", "battery", "emergency_stop", "engage"} {
		h.shows(key, "unavailable")
	}
	w.cable.cut(false)
	h.shows("mower", "mowing")
	w.doing("paused", `{}`)
	h.shows("mower", "paused")
	h.press("mower", "pause")
	h.event("command", 0, map[string]any{"event_type": "succeeded", "command": "pause"})
	check(t, w.bridge.Stop(testContext(t)))
	h.shows("mower", "unavailable")
}

// A broker that has lost everything, or is another one, gets everything.
func TestNewBroker(t *testing.T) {
	t.Parallel()
	w := newWorld(t, homeassistant.Options{})
	w.home.settled("battery")
	w.reads("power/battery", map[string]any{"level": 55.0})
	w.home.shows("battery", "55")
	other := startBroker(t, broker.Options{})
	w.cable.mu.Lock()
	w.cable.url = other.URL()
	w.cable.mu.Unlock()
	w.cable.cut(false)
	w.home.shows("battery", "unavailable")
	h := newHome(t, other.URL(), "homeassistant")
	h.settled("battery")
	h.mu.Lock()
	name := h.configs["lawnberry_battery"]["state_topic"]
	h.mu.Unlock()
	eventually(t, "the value", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return strings.Contains(h.last(name), `"level":55`) && h.last(base+"availability") == "online"
	})
	check(t, w.bridge.Stop(testContext(t)))
}

// A second bridge is refused, and the first goes on.
func TestSecondBridge(t *testing.T) {
	t.Parallel()
	w := newWorld(t, homeassistant.Options{})
	h := w.home
	h.settled("service_home_assistant")
	h.shows("service_home_assistant", "OFF")
	b, err := homeassistant.Start(testContext(t), homeassistant.Options{Client: client.Options{URL: w.broker.URL()}, Logger: logger(t)})
	if err == nil {
		_ = b.Stop(testContext(t))
	}
	if used := (*service.InUseError)(nil); !errors.As(err, &used) {
		t.Errorf("got %v", err)
	}
	n := h.countEvents("command")
	h.press("mower", "pause")
	h.event("command", n, map[string]any{"event_type": "succeeded"})
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, payload := range h.heard[base+"availability"] {
		if payload != "online" {
			t.Errorf("it was %s", payload)
		}
	}
}

// When Home Assistant starts, everything is sent again; whatever else comes on its topic does nothing.
func TestBirth(t *testing.T) {
	t.Parallel()
	w := newWorld(t, homeassistant.Options{})
	h := w.home
	w.reads("power/battery", map[string]any{"level": 55.0})
	h.shows("battery", "55")
	h.shows("service_navigation", "OFF")
	count := func(name string) int {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.heard[name])
	}
	_, err := h.c.Subscribe(testContext(t), topic.Absolute("homeassistant/device/lawnberry/config"), h.hear)
	check(t, err)
	eventually(t, "the document", func() bool { return count("homeassistant/device/lawnberry/config") > 0 })
	names := []string{"homeassistant/device/lawnberry/config", base + "availability", base + "battery/state", base + "service_navigation/state", base + "mower/state"}
	before := map[string]int{}
	for _, name := range names {
		before[name] = count(name)
	}
	h.publish("homeassistant/status", "offline", false)
	h.publish("homeassistant/status", strings.Repeat("online", 1000), false)
	h.publish("homeassistant/status", "online", false)
	for _, name := range names {
		eventually(t, name+" comes again", func() bool { return count(name) > before[name] })
	}
}
