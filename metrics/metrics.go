// Package metrics shows the figures of a running system to Prometheus. They are pulled when somebody asks, from who has them: nothing is counted
// here, and without a scrape it costs nothing.
//
// Every family has a bound on its series, whatever comes from the network. Client ids and topics are no labels, but for the ids of services
// that are known; of topics there is the class.
package metrics

import (
	"iter"
	"maps"
	"math"
	"net/http"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/broker/mosquitto"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

// Bounds on series.
const (
	MaxServices = 200 // that have series of their own; those after it by id are counted only
	MaxClients  = 16
	maxID       = 128 // bytes of the id of a service that has series of its own
	maxReasons  = 32
)

// A Broker has the figures of the embedded broker.
type Broker interface {
	Stats() broker.Stats
	Sessions() iter.Seq[broker.SessionStats]
}

// Options say where the figures come from. What is nil is left out. The functions are called at each scrape, also concurrently, and must not
// wait for the network.
type Options struct {
	Version string // of the program
	Engine  string // of the broker: embedded, mosquitto or external

	Broker    Broker
	Mosquitto func() mosquitto.Stats
	Clients   func() map[string]client.Stats // of this process, by a name for each
	Services  func() iter.Seq[service.Info]  // sorted by id
	Stop      func() safety.State            // the emergency stop as it is seen here
	Hub       func() safety.Status           // what its hub knows, if it is in this process
	Health    func() (h service.Health, known bool)
	Browsers  func() Browsers
	Uplink    func() (u Uplink, there bool) // to a fleet
}

// Browsers are the figures of the bridge to browsers.
type Browsers struct {
	Connections, Queued, Topics                 int
	Opened, Refused, Stalled, Dropped, Messages uint64
}

// An Uplink is the figures of the uplink to a fleet.
type Uplink struct {
	Connected  bool
	DiskFailed bool

	Taken, Thinned, Sent, Latest, Conflated, Resolved, Repeated uint64 // messages and records

	Refused      int // topics
	Backlog      int64
	BacklogBytes int64
	Oldest       time.Duration     // age of what waits longest
	Dropped      map[string]uint64 // messages, by class
}

// Handler serves the figures of o, of the process and of the Go runtime, in the formats of Prometheus. It answers four scrapes at once, and
// refuses more (503).
func Handler(o Options) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(Collector(o), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second, ErrorHandling: promhttp.ContinueOnError})
}

// Collector returns the figures of o, to be registered in a registry of the caller's own.
func Collector(o Options) prometheus.Collector {
	c := &collector{o: o, descs: map[string]*prometheus.Desc{}, families: map[string]Family{}}
	for f := range Families() {
		c.families[f.Name] = f
		c.descs[f.Name] = prometheus.NewDesc(f.Name, f.Help, f.Labels, nil)
	}
	return c
}

type collector struct {
	o        Options
	descs    map[string]*prometheus.Desc
	families map[string]Family
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	s := &scrape{collector: c, out: out, series: map[string]int{}}
	s.put("lawnberry_build_info", 1, c.o.Version, c.o.Engine)
	known := s.services()
	if c.o.Broker != nil {
		stats := c.o.Broker.Stats()
		each(s, brokerFigures(), &stats)
		s.sessions(known)
	}
	if c.o.Mosquitto != nil {
		stats := c.o.Mosquitto()
		each(s, mosquittoFigures(), &stats)
	}
	s.clients()
	if c.o.Stop != nil {
		state := c.o.Stop()
		each(s, stopFigures(), &state)
	}
	if c.o.Hub != nil {
		status := c.o.Hub()
		each(s, hubFigures(), &status)
	}
	if c.o.Health != nil {
		if h, ok := c.o.Health(); ok {
			each(s, healthFigures(), &h)
		}
	}
	if c.o.Browsers != nil {
		stats := c.o.Browsers()
		each(s, browserFigures(), &stats)
	}
	if c.o.Uplink != nil {
		if u, there := c.o.Uplink(); there {
			each(s, uplinkFigures(), &u)
			for class, n := range u.Dropped {
				s.put("lawnberry_fleet_messages_dropped_total", float64(n), class)
			}
		}
	}
}

// A scrape collects once. It is of one goroutine.
type scrape struct {
	*collector
	out    chan<- prometheus.Metric
	series map[string]int // by family
}

// room reports whether a family may have one more series.
func (s *scrape) room(f Family) bool {
	s.series[f.Name]++
	return s.series[f.Name] <= f.MaxSeries
}

// put adds a series, unless the value is NaN: there is none then.
func (s *scrape) put(name string, value float64, labels ...string) {
	f := s.families[name]
	if math.IsNaN(value) || !s.room(f) {
		return
	}
	kind := prometheus.GaugeValue
	if f.Type == counter {
		kind = prometheus.CounterValue
	}
	s.out <- prometheus.MustNewConstMetric(s.descs[name], kind, value, labels...)
}

func (s *scrape) summary(name string, q client.Quantiles, labels ...string) {
	if !s.room(s.families[name]) {
		return
	}
	s.out <- prometheus.MustNewConstSummary(s.descs[name], q.Count, q.Sum.Seconds(),
		map[float64]float64{0.5: q.P50.Seconds(), 0.99: q.P99.Seconds(), 1: q.Max.Seconds()}, labels...)
}

// each adds the series of figures of one thing.
func each[T any](s *scrape, figures []figure[T], of *T, labels ...string) {
	for _, f := range figures {
		s.put(f.name, f.value(of), labels...)
	}
}

// services adds the series of the services and returns the ids that have some.
func (s *scrape) services() (known map[string]bool) {
	if s.o.Services == nil {
		return nil
	}
	known = map[string]bool{}
	counts := map[service.State]int{}
	omitted := 0
	for i := range s.o.Services() {
		counts[knownState(i.State)]++
		if len(known) >= MaxServices || len(i.ID) > maxID || !utf8.ValidString(i.ID) || known[i.ID] {
			omitted++
			continue
		}
		known[i.ID] = true
		each(s, serviceFigures(), &i, i.ID)
	}
	for _, st := range states() {
		s.put("lawnberry_services", float64(counts[st]), string(st))
	}
	s.put("lawnberry_services_omitted", float64(omitted))
	return known
}

// sessions adds the sessions of services that are known, and the sums of all others.
func (s *scrape) sessions(known map[string]bool) {
	var others broker.SessionStats
	for x := range s.o.Broker.Sessions() {
		if known[x.ClientID] {
			each(s, sessionFigures(), &x, x.ClientID)
			s.put("lawnberry_broker_session_messages_dropped_total", float64(x.Dropped), x.ClientID)
			continue
		}
		others.Queued += x.Queued
		others.QueuedBytes += x.QueuedBytes
		others.InFlight += x.InFlight
	}
	each(s, sessionFigures(), &others, "")
}

func (s *scrape) clients() {
	if s.o.Clients == nil {
		return
	}
	all := s.o.Clients()
	names := slices.Sorted(maps.Keys(all))
	for _, name := range names[:min(len(names), MaxClients)] {
		c := all[name]
		each(s, clientFigures(), &c, name)
		for class, n := range outbox(&c) {
			s.put("lawnberry_client_outbox_messages", float64(n), name, class)
		}
		for _, reason := range slices.Sorted(maps.Keys(c.Rejected)) {
			s.put("lawnberry_client_messages_rejected_total", float64(c.Rejected[reason]), name, string(reason))
		}
		s.summary("lawnberry_client_round_trip_seconds", c.RoundTrip, name)
		s.summary("lawnberry_client_one_way_seconds", c.OneWay, name)
	}
}
