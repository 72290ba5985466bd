package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
)

// A logBook keeps log lines.
type logBook struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBook) logger() *slog.Logger { return slog.New(slog.NewJSONHandler(b, nil)) }

// lines returns the lines with a message.
func (b *logBook) lines(msg string) (lines []map[string]any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for text := range strings.Lines(b.buf.String()) {
		var l map[string]any
		if json.Unmarshal([]byte(text), &l) == nil && l["msg"] == msg {
			lines = append(lines, l)
		}
	}
	return lines
}

// connected returns a client of an App.
func connected(t *testing.T, a *App, id string) *client.Client {
	t.Helper()
	c, err := client.Connect(t.Context(), client.Options{URL: urls(a)["tcp"], ID: id})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

// Messages are logged, what is in them only on demand; so are the broker's figures.
func TestLogMessages(t *testing.T) {
	t.Parallel()
	for name, payloads := range map[string]bool{"without payloads": false, "with": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := settings()
			c.Monitoring.Logging.LogMessages, c.Development.Debug.LogAllMessages = !payloads, payloads
			c.Monitoring.Logging.LogPerformance, c.Monitoring.Metrics.CollectionInterval = true, 20*time.Millisecond
			var book logBook
			a := start(t, Options{Config: c, DataDir: t.TempDir(), Logger: book.logger()})
			p := connected(t, a, "gps")
			m, err := message.NewSensorData("gps", message.SensorData{SensorType: "gps", Data: map[string]any{"secret": "hunter2"}})
			if err != nil {
				t.Fatal(err)
			}
			var found map[string]any
			eventually(t, "the message in the log", func() bool { // the log begins to listen in its own time
				if err := p.Publish(t.Context(), "sensors/gps/data", m, client.WithQoS(1)); err != nil && !errors.Is(err, client.ErrRateLimited) {
					t.Fatal(err)
				}
				for _, l := range book.lines("message") {
					if l["topic"] == "sensors/gps/data" {
						found = l
					}
				}
				return found != nil
			})
			payload, _ := found["payload"].(string)
			if found["sender"] != "gps" || found["type"] != "sensor_data" || strings.Contains(payload, "hunter2") != payloads {
				t.Errorf("%v", found)
			}
			eventually(t, "figures in the log", func() bool {
				return slices.ContainsFunc(book.lines("performance"), func(l map[string]any) bool {
					return l["received_per_s"].(float64) > 0 && l["connections"].(float64) > 1
				})
			})
		})
	}
}

// The log goes to a server, with what services log.
func TestCloudLogging(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	got := map[string]string{}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var lines []map[string]any
		if err := json.NewDecoder(r.Body).Decode(&lines); err != nil || r.Header.Get("Authorization") != "Bearer token" {
			t.Errorf("%v, %v", err, r.Header)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, l := range lines {
			payload, _ := l["payload"].(string)
			got[l["msg"].(string)] = l["level"].(string) + payload
		}
	}))
	defer server.Close()
	c := settings()
	c.Integration.CloudLogging = config.CloudLogging{Enabled: true, Endpoint: server.URL, Token: "token", BatchSize: 5, FlushInterval: 20 * time.Millisecond}
	dir := t.TempDir()
	var book logBook
	a := start(t, Options{Config: c, DataDir: dir, Logger: book.logger()})
	p := connected(t, a, "gps")
	eventually(t, "the lines at the server", func() bool {
		if err := p.Publish(t.Context(), "system/logs/error", message.NewRaw([]byte("no satellites")), client.WithQoS(1)); err != nil && !errors.Is(err, client.ErrRateLimited) {
			t.Fatal(err)
		}
		mu.Lock()
		defer mu.Unlock()
		return got["listening"] == "INFO" && got["service log"] == "ERRORno satellites"
	})
	if len(book.lines("listening")) == 0 {
		t.Error("nothing is logged here any more")
	}
	c.Integration.CloudLogging.Endpoint = "none"
	if _, err := Start(t.Context(), Options{Config: c, DataDir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "integration.cloud_logging") {
		t.Errorf("a wrong endpoint: %v", err)
	}
}

// Simulated services are there, say that they are made up, publish what they are defined to, but nothing that concerns safety; and end when told to.
func TestMocks(t *testing.T) {
	t.Parallel()
	c := settings()
	c.Development.MockServices = config.MockServices{Enabled: true, Services: []string{"gps", "weather"}}
	c.ServiceDefinitions = map[string]config.ServiceDefinition{"weather": {
		ServiceType: "weather", Dependencies: []string{"gps"},
		Topics: config.ServiceTopics{Publish: []string{"weather/current", "sensors/+/status", "safety/emergency_stop", "system/#"}},
	}}
	a := start(t, Options{Config: c, DataDir: t.TempDir()})
	var mu sync.Mutex
	topics := map[string]string{}
	l := connected(t, a, "listener")
	for _, f := range []string{"sensors/#", "weather/#", "safety/#"} {
		if _, err := l.Subscribe(t.Context(), f, func(_ context.Context, d *client.Delivery) {
			mu.Lock()
			defer mu.Unlock()
			topics[d.Topic] = d.Message.Metadata.Sender
		}); err != nil {
			t.Fatal(err)
		}
	}
	me, err := service.Start(t.Context(), service.Options{ID: "me", Client: client.Options{URL: urls(a)["tcp"]}, Dependencies: []string{"weather"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = me.Stop(context.Background()) }()
	for s := range me.Services("") {
		if s.ID == "weather" && (s.Type != "weather" || s.Metadata["mock"] != true) {
			t.Errorf("%+v", s)
		}
	}
	eventually(t, "made up readings", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return topics["sensors/gps/data"] == "gps" && topics["weather/current"] == "weather" && topics["sensors/weather/status"] == "weather"
	})
	mu.Lock()
	if who := topics["safety/emergency_stop"]; who == "weather" {
		t.Error("a simulated service speaks of the emergency stop")
	}
	mu.Unlock()
	if err := me.Call(t.Context(), "gps", "shutdown", nil, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of gps", func() bool {
		for s := range me.Services("") {
			if s.ID == "gps" {
				return s.State == service.Offline
			}
		}
		return false
	})
}

// Clients on the network find it bad, as development.debug wants it; the socket in the data directory is as it was.
func TestSimulatedNetwork(t *testing.T) {
	t.Parallel()
	const delay = 150 * time.Millisecond
	c := settings()
	c.Development.Debug.LatencySimulation = delay
	var book logBook
	a := start(t, Options{Config: c, DataDir: t.TempDir(), Logger: book.logger()})
	took := func(url string) time.Duration {
		c, err := client.Connect(t.Context(), client.Options{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close(context.Background()) }()
		best := time.Hour
		for range 3 {
			began := time.Now()
			if err := c.Publish(t.Context(), "system/events/x", message.NewRaw([]byte("x")), client.WithQoS(1)); err != nil {
				t.Fatal(err)
			}
			best = min(best, time.Since(began))
		}
		return best
	}
	if d := took(urls(a)["tcp"]); d < delay {
		t.Errorf("on the network an acknowledgement takes %v, want %v at least", d, delay)
	}
	if d := took(urls(a)["unix"]); d >= delay {
		t.Errorf("on the socket an acknowledgement takes %v", d)
	}
	if len(book.lines("a bad network is simulated (development.debug): not for a mower that moves")) != 1 {
		t.Error("nothing is said")
	}
}

// New bounds of the broker hold at once.
func TestReload(t *testing.T) {
	t.Parallel()
	c := settings()
	a := start(t, Options{Config: c, DataDir: t.TempDir()})
	connected(t, a, "first")
	more := *c
	more.Broker.MaxConnections = a.broker.Stats().Connections
	if err := a.Reload(&more); err != nil {
		t.Fatal(err)
	}
	_, err := client.Connect(t.Context(), client.Options{URL: urls(a)["tcp"], ID: "second", FailFast: true})
	if !refused(err, 0x89) {
		t.Errorf("one more than there may be: %v", err)
	}
	if err := a.Reload(c); err != nil {
		t.Fatal(err)
	}
	connected(t, a, "second")
}
