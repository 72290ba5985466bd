package metrics_test

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.uber.org/goleak"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/broker/mosquitto"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/metrics"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// running returns where figures come from: a broker with a service, and what cannot run beside it as values.
func running(t *testing.T) metrics.Options {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	stopped := func(stop func(context.Context) error) {
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			_ = stop(ctx)
		})
	}
	b, err := broker.Start(ctx, broker.Options{Listeners: []broker.Listener{{Network: "tcp", Address: "127.0.0.1:0"}}})
	if err != nil {
		t.Fatal(err)
	}
	stopped(b.Stop)
	hub, err := safety.StartHub(ctx, safety.HubOptions{Client: client.Options{URL: b.URL()}})
	if err != nil {
		t.Fatal(err)
	}
	stopped(hub.Stop)
	var latch *safety.Latch
	s, err := service.Start(ctx, service.Options{ID: "gps", Type: "sensors", Client: client.Options{URL: b.URL()}, Setup: func(ctx context.Context, s *service.Service) (err error) {
		latch, err = safety.OpenLatch(ctx, s.Client(), safety.LatchOptions{})
		return err
	}})
	if err != nil {
		t.Fatal(err)
	}
	stopped(s.Stop)
	stopped(latch.Close)
	if err := s.Client().Publish(ctx, "sensors/gps/data", message.NewRaw([]byte("1"))); err != nil {
		t.Fatal(err)
	}
	if err := latch.Settle(ctx); err != nil {
		t.Fatal(err)
	}
	return metrics.Options{
		Version: "1.2.3", Engine: "embedded", Broker: b,
		Mosquitto: func() mosquitto.Stats { return mosquitto.Stats{Running: true, Since: time.Now(), Restarts: 3} },
		Clients: func() map[string]client.Stats {
			x := s.Client().Stats()
			x.Rejected[message.ReasonMalformed] = 2
			return map[string]client.Stats{"web_bridge": x}
		},
		Services: func() iter.Seq[service.Info] { return s.Services("") },
		Stop:     latch.State, Hub: hub.Status,
		Health: func() (service.Health, bool) {
			return service.Health{State: service.Degraded, Reasons: []string{"a", "b"}}, true
		},
		Browsers: func() metrics.Browsers { return metrics.Browsers{Connections: 2} },
		Uplink: func() (metrics.Uplink, bool) {
			return metrics.Uplink{Connected: true, Backlog: 7, Oldest: time.Minute, Dropped: map[string]uint64{"telemetry": 3}}, true
		},
	}
}

// scrape returns what Prometheus would read.
func scrape(t *testing.T, o metrics.Options) (families map[string]map[string]float64, text string) {
	t.Helper()
	w := httptest.NewRecorder()
	metrics.Handler(o).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain; version=0.0.4") {
		t.Fatalf("%d %v\n%s", w.Code, w.Header(), w.Body)
	}
	text = w.Body.String()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	parsed, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	families = map[string]map[string]float64{}
	for name, f := range parsed {
		if f.GetHelp() == "" || !strings.Contains(text, "# TYPE "+name+" "+strings.ToLower(f.GetType().String())+"\n") {
			t.Errorf("%s has no HELP or no TYPE", name)
		}
		if isCounter := f.GetType().String() == "COUNTER"; isCounter != strings.HasSuffix(name, "_total") {
			t.Errorf("%s is a %s", name, f.GetType())
		}
		families[name] = map[string]float64{}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			key := strings.Join(labels, ",")
			if _, twice := families[name][key]; twice {
				t.Errorf("%s{%s} comes twice", name, key)
			}
			families[name][key] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetSummary().GetSampleCount())
		}
	}
	return families, text
}

// Everything that can be shown is shown, by the rules of Prometheus, with the values of who has them.
func TestFigures(t *testing.T) {
	o := running(t)
	got, text := scrape(t, o)
	for f := range metrics.Families() {
		if f.Name == "lawnberry_broker_certificate_expiry_timestamp_seconds" {
			if len(got[f.Name]) != 0 {
				t.Errorf("%s without TLS", f.Name)
			}
			continue
		}
		if n := len(got[f.Name]); n == 0 || n > f.MaxSeries {
			t.Errorf("%s has %d series, want 1 to %d", f.Name, n, f.MaxSeries)
		}
	}
	for name := range got {
		if strings.HasPrefix(name, "lawnberry_") && !slices.ContainsFunc(slices.Collect(metrics.Families()), func(f metrics.Family) bool { return f.Name == name }) {
			t.Errorf("%s is shown and in no list", name)
		}
	}
	for _, of := range []string{"go_goroutines", "process_open_fds", "process_start_time_seconds"} {
		if len(got[of]) != 1 {
			t.Errorf("there is no %s", of)
		}
	}
	for series, want := range map[string]float64{
		"lawnberry_build_info embedded,1.2.3":                           1,
		"lawnberry_broker_connections ":                                 float64(o.Broker.Stats().Connections),
		"lawnberry_service_state gps":                                   0,
		"lawnberry_service_state emergency_stop":                        0,
		"lawnberry_services healthy":                                    2,
		"lawnberry_services offline":                                    0,
		"lawnberry_services_omitted ":                                   0,
		"lawnberry_emergency_stop_state ":                               1, // a hub without a file begins engaged
		"lawnberry_emergency_stop_guards ":                              0,
		"lawnberry_health_state ":                                       2,
		"lawnberry_health_reasons ":                                     2,
		"lawnberry_mosquitto_restarts_total ":                           3,
		"lawnberry_client_messages_rejected_total web_bridge,malformed": 2,
		"lawnberry_client_connected web_bridge":                         1,
		"lawnberry_bridge_connections ":                                 2,
	} {
		name, labels, _ := strings.Cut(series, " ")
		if have, ok := got[name][labels]; !ok || have != want {
			t.Errorf("%s{%s} is %v (%v), want %v", name, labels, have, ok, want)
		}
	}
	if got["lawnberry_broker_messages_received_total"][""] < 1 || got["lawnberry_client_round_trip_seconds"]["web_bridge"] < 1 {
		t.Errorf("nothing was counted:\n%s", text)
	}
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(metrics.Collector(o))
	problems, err := testutil.GatherAndLint(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// many is a broker with more sessions than it may have.
type many struct{ metrics.Broker }

func (m many) Sessions() iter.Seq[broker.SessionStats] {
	return func(yield func(broker.SessionStats) bool) {
		for i := range 5000 {
			if !yield(broker.SessionStats{ClientID: fmt.Sprintf("s%04d", i), Queued: 1, Dropped: 1}) {
				return
			}
		}
	}
}

// What comes from the network does not make series without end, nor does it break the scrape.
func TestBounds(t *testing.T) {
	o := running(t)
	o.Broker = many{o.Broker}
	o.Services = func() iter.Seq[service.Info] {
		return func(yield func(service.Info) bool) {
			for i := range 1000 {
				id := fmt.Sprintf("s%04d", i)
				switch i {
				case 0:
					id = strings.Repeat("x", 1000)
				case 1:
					id = "bad \xff"
				case 3:
					id = "s0002" // twice
				case 4:
					id = "quote\" and\nline"
				}
				if !yield(service.Info{ID: id, State: service.State(fmt.Sprint("made up ", i))}) {
					return
				}
			}
		}
	}
	o.Clients = func() map[string]client.Stats {
		all := map[string]client.Stats{}
		for i := range 100 {
			s := client.Stats{Rejected: map[message.Reason]uint64{}}
			for j := range 100 {
				s.Rejected[message.Reason(fmt.Sprint("reason ", j))] = 1
			}
			all[fmt.Sprint("client ", i)] = s
		}
		return all
	}
	got, _ := scrape(t, o)
	total := 0
	for f := range metrics.Families() {
		total += len(got[f.Name])
		if n := len(got[f.Name]); n > f.MaxSeries {
			t.Errorf("%s has %d series, more than %d", f.Name, n, f.MaxSeries)
		}
	}
	t.Logf("%d series", total)
	if n := len(got["lawnberry_service_state"]); n != metrics.MaxServices {
		t.Errorf("%d services have a state, want %d", n, metrics.MaxServices)
	}
	if n := got["lawnberry_services_omitted"][""]; n != 800 {
		t.Errorf("%v services are omitted, want 800", n)
	}
	if n := got["lawnberry_services"]["unknown"]; n != 1000 {
		t.Errorf("%v services have no state that there is, want 1000", n)
	}
	sum := 0.0
	for _, n := range got["lawnberry_broker_session_queued_messages"] {
		sum += n
	}
	if sum != 5000 || len(got["lawnberry_broker_session_queued_messages"]) > metrics.MaxServices+1 {
		t.Errorf("%v messages wait in %d series, want 5000", sum, len(got["lawnberry_broker_session_queued_messages"]))
	}
}

// Without anything to look at there is something to read all the same, and no figure that nobody has.
func TestNothing(t *testing.T) {
	got, _ := scrape(t, metrics.Options{Engine: "external"})
	for f := range metrics.Families() {
		if n := len(got[f.Name]); n != 0 && f.Name != "lawnberry_build_info" {
			t.Errorf("%s has %d series", f.Name, n)
		}
	}
}
