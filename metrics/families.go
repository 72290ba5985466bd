package metrics

import (
	"cmp"
	"iter"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/broker/mosquitto"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
	"github.com/lawnberry/lawnberry/topic"
)

// The types of families.
const (
	counter = "counter"
	gauge   = "gauge"
	summary = "summary"
)

// A Family is what there can be: a name with its labels.
type Family struct {
	Name, Help string
	Type       string   // counter, gauge or summary
	Labels     []string // names
	MaxSeries  int      // at once
}

// A figure is a family with the value of each T.
type figure[T any] struct {
	name, help string
	kind       string
	value      func(*T) float64 // NaN is that there is none
}

// Families yields all families, sorted by name. Those of the process and of the Go runtime, go_ and process_, are not among them.
func Families() iter.Seq[Family] {
	all := []Family{
		{
			"lawnberry_build_info", "Always 1; the labels say which version of the program and which kind of broker run.", gauge,
			[]string{"version", "engine"}, 1,
		},
		{"lawnberry_services", "Services by state, all that are known.", gauge, []string{"state"}, len(states())},
		{"lawnberry_services_omitted", "Services that have no series of their own, because there are too many or their ids too long.", gauge, nil, 1},
		{
			"lawnberry_broker_session_messages_dropped_total", "Messages that the session of a service lost at a bound.", counter,
			[]string{"service"}, MaxServices,
		},
		{
			"lawnberry_client_outbox_messages", "Messages that wait to be sent, by the class of their topic.", gauge,
			[]string{"client", "class"}, MaxClients * len(classes()),
		},
		{
			"lawnberry_client_messages_rejected_total", "Messages, received or to be sent, that went no further, by reason.", counter,
			[]string{"client", "reason"}, MaxClients * maxReasons,
		},
		{
			"lawnberry_client_round_trip_seconds", "Time to the acknowledgement of messages of QoS 1 and 2; quantiles since the start, 1 is the longest.", summary,
			[]string{"client"}, MaxClients,
		},
		{
			"lawnberry_client_one_way_seconds", "Age of messages when they are received, by the clock of their senders; quantiles since the start.", summary,
			[]string{"client"}, MaxClients,
		},
	}
	all = append(all, Family{
		"lawnberry_fleet_messages_dropped_total", "Messages of the history that the fleet will never get, by class, of this outbox ever.", counter,
		[]string{"class"}, maxFleetClasses,
	})
	all = append(all, families(brokerFigures(), 1)...)
	all = append(all, families(sessionFigures(), MaxServices+1, "service")...)
	all = append(all, families(mosquittoFigures(), 1)...)
	all = append(all, families(clientFigures(), MaxClients, "client")...)
	all = append(all, families(serviceFigures(), MaxServices, "service")...)
	all = append(all, families(stopFigures(), 1)...)
	all = append(all, families(hubFigures(), 1)...)
	all = append(all, families(healthFigures(), 1)...)
	all = append(all, families(browserFigures(), 1)...)
	all = append(all, families(uplinkFigures(), 1)...)
	slices.SortFunc(all, func(a, b Family) int { return cmp.Compare(a.Name, b.Name) })
	return slices.Values(all)
}

func families[T any](figures []figure[T], series int, labels ...string) (all []Family) {
	for _, f := range figures {
		all = append(all, Family{f.name, f.help, f.kind, labels, series})
	}
	return all
}

func brokerFigures() []figure[broker.Stats] {
	type stats = broker.Stats
	return []figure[stats]{
		{"lawnberry_broker_start_time_seconds", "When the broker started, Unix time.", gauge, func(s *stats) float64 { return unix(s.Started) }},
		{"lawnberry_broker_connections", "Clients that are connected.", gauge, func(s *stats) float64 { return float64(s.Connections) }},
		{"lawnberry_broker_sessions", "Sessions, connected or kept.", gauge, func(s *stats) float64 { return float64(s.Sessions) }},
		{"lawnberry_broker_subscriptions", "Subscriptions.", gauge, func(s *stats) float64 { return float64(s.Subscriptions) }},
		{"lawnberry_broker_retained_messages", "Retained messages.", gauge, func(s *stats) float64 { return float64(s.Retained) }},
		{
			"lawnberry_broker_queued_messages", "Messages of QoS 1 and 2 that wait to be sent, of all sessions.", gauge,
			func(s *stats) float64 { return float64(s.Queued) },
		},
		{"lawnberry_broker_messages_received_total", "PUBLISH packets from clients.", counter, func(s *stats) float64 { return float64(s.Received) }},
		{"lawnberry_broker_messages_sent_total", "PUBLISH packets to clients.", counter, func(s *stats) float64 { return float64(s.Sent) }},
		{
			"lawnberry_broker_received_bytes_total", "Bytes from clients, on the wire.", counter,
			func(s *stats) float64 { return float64(s.BytesReceived) },
		},
		{"lawnberry_broker_sent_bytes_total", "Bytes to clients, on the wire.", counter, func(s *stats) float64 { return float64(s.BytesSent) }},
		{
			"lawnberry_broker_messages_dropped_total", "Messages lost at a bound or refused, each once per session.", counter,
			func(s *stats) float64 { return float64(s.Dropped) },
		},
		{
			"lawnberry_broker_messages_expired_total", "Messages whose expiry passed before they were sent.", counter,
			func(s *stats) float64 { return float64(s.Expired) },
		},
		{
			"lawnberry_broker_denied_total", "Publications, subscriptions, queued messages and Wills refused for want of a right.", counter,
			func(s *stats) float64 { return float64(s.Denied) },
		},
		{
			"lawnberry_broker_store_failures_total", "Attempts to make changes durable that failed.", counter,
			func(s *stats) float64 { return float64(s.StoreFailures) },
		},
		{
			"lawnberry_broker_store_failing", "1 while messages that need storing are refused, because the disk fails.", gauge,
			func(s *stats) float64 { return truth(s.StoreFailing) },
		},
		{
			"lawnberry_broker_tls_refused_total", "Handshakes of TLS that failed, and connections closed since their certificate was revoked.", counter,
			func(s *stats) float64 { return float64(s.TLSRefused) },
		},
		{
			"lawnberry_broker_certificate_expiry_timestamp_seconds", "When the broker's certificate expires, Unix time; none without TLS.", gauge,
			func(s *stats) float64 { return unix(s.CertificateExpires) },
		},
	}
}

func sessionFigures() []figure[broker.SessionStats] {
	type stats = broker.SessionStats
	return []figure[stats]{
		{
			"lawnberry_broker_session_queued_messages", "Messages of QoS 1 and 2 that wait for a service; an empty label is all that are no services.", gauge,
			func(s *stats) float64 { return float64(s.Queued) },
		},
		{
			"lawnberry_broker_session_queued_bytes", "The size of what waits for a service; an empty label is all that are no services.", gauge,
			func(s *stats) float64 { return float64(s.QueuedBytes) },
		},
		{
			"lawnberry_broker_session_inflight_messages", "Messages sent to a service and not acknowledged to the end; an empty label is all that are no services.",
			gauge, func(s *stats) float64 { return float64(s.InFlight) },
		},
	}
}

func mosquittoFigures() []figure[mosquitto.Stats] {
	type stats = mosquitto.Stats
	return []figure[stats]{
		{"lawnberry_mosquitto_running", "1 while Mosquitto runs and answers.", gauge, func(s *stats) float64 { return truth(s.Running) }},
		{
			"lawnberry_mosquitto_since_timestamp_seconds", "When it started, or ended when it does not run, Unix time.", gauge,
			func(s *stats) float64 { return unix(s.Since) },
		},
		{
			"lawnberry_mosquitto_restarts_total", "Starts of Mosquitto after it ended by itself or hung.", counter,
			func(s *stats) float64 { return float64(s.Restarts) },
		},
		{"lawnberry_mosquitto_hangs_total", "Times that Mosquitto gave no sign of life.", counter, func(s *stats) float64 { return float64(s.Hangs) }},
	}
}

func clientFigures() []figure[client.Stats] {
	type stats = client.Stats
	count := func(name, help string, value func(s *stats) uint64) figure[stats] {
		return figure[stats]{"lawnberry_client_" + name, help, counter, func(s *stats) float64 { return float64(value(s)) }}
	}
	return []figure[stats]{
		{
			"lawnberry_client_connected", "1 while a part of this process has its connection to the broker.", gauge,
			func(s *stats) float64 { return truth(s.Connected) },
		},
		{
			"lawnberry_client_held_messages", "Messages over their rate that wait for their turn.", gauge,
			func(s *stats) float64 { return float64(s.Held) },
		},
		{"lawnberry_client_inflight_messages", "Messages sent and not acknowledged.", gauge, func(s *stats) float64 { return float64(s.InFlight) }},
		{"lawnberry_client_pending_calls", "Commands that wait for their response.", gauge, func(s *stats) float64 { return float64(s.PendingCalls) }},
		{"lawnberry_client_handler_queued_messages", "Messages that wait for a handler.", gauge, queued},
		count("reconnects_total", "Connections after the first.", func(s *stats) uint64 { return s.Reconnects }),
		count("messages_sent_total", "PUBLISH packets sent, repetitions not counted.", func(s *stats) uint64 { return s.Sent }),
		count("messages_received_total", "PUBLISH packets received.", func(s *stats) uint64 { return s.Received }),
		count("messages_failed_total", "Publications that the broker refused, or that are impossible with it.", func(s *stats) uint64 { return s.Failed }),
		count("messages_expired_total", "Messages that expired in the outbox.", func(s *stats) uint64 { return s.Expired }),
		count("messages_dropped_total", "Messages lost at a bound of the client.", func(s *stats) uint64 { return s.Dropped }),
		count("messages_rate_limited_total", "Publications refused for their rate.", func(s *stats) uint64 { return s.RateLimited }),
		count("messages_superseded_total", "States over their rate that a newer value overtook.", func(s *stats) uint64 { return s.Superseded }),
		count("messages_delayed_total", "Commands and responses over their rate that waited for their turn.", func(s *stats) uint64 { return s.Delayed }),
		count("handler_panics_total", "Panics of handlers.", func(s *stats) uint64 { return s.Panics }),
		count("handler_overruns_total", "Calls of handlers that took longer than their timeout.", func(s *stats) uint64 { return s.Overruns }),
	}
}

func serviceFigures() []figure[service.Info] {
	type info = service.Info
	return []figure[info]{
		{
			"lawnberry_service_state", "State of a service: 0 healthy, 1 starting, 2 degraded, 3 error, 4 offline, 5 shutting down, 6 unknown.", gauge,
			func(i *info) float64 { return float64(slices.Index(states(), knownState(i.State))) },
		},
		{
			"lawnberry_service_last_seen_timestamp_seconds", "When the last sign of life of a service was received, Unix time.", gauge,
			func(i *info) float64 { return unix(i.LastSeen) },
		},
		{
			"lawnberry_service_cpu_usage_ratio", "Use of the processor that a service reports, 1 is all of it.", gauge,
			func(i *info) float64 { return i.Resources.CPU / 100 },
		},
		{
			"lawnberry_service_memory_usage_ratio", "Use of memory that a service reports, 1 is all of it.", gauge,
			func(i *info) float64 { return i.Resources.Memory / 100 },
		},
	}
}

func stopFigures() []figure[safety.State] {
	type state = safety.State
	return []figure[state]{
		{"lawnberry_emergency_stop_state", "The emergency stop: 0 released, 1 engaged, 2 not known, which counts as engaged.", gauge, func(s *state) float64 {
			switch {
			case !s.Known:
				return 2
			case s.Engaged:
				return 1
			}
			return 0
		}},
		{
			"lawnberry_emergency_stop_sequence", "Number of the present state of the emergency stop; more is a later state.", gauge,
			func(s *state) float64 { return float64(s.Sequence) },
		},
	}
}

func hubFigures() []figure[safety.Status] {
	type status = safety.Status
	guards := func(s *status, f func(safety.Participant) bool) (n float64) {
		for _, p := range s.Participants {
			if p.Actuator && f(p) {
				n++
			}
		}
		return n
	}
	return []figure[status]{
		{
			"lawnberry_emergency_stop_guards", "Services that move something and report to the emergency stop.", gauge,
			func(s *status) float64 { return guards(s, func(safety.Participant) bool { return true }) },
		},
		{"lawnberry_emergency_stop_unconfirmed_guards", "Services that move something and have not confirmed that they stand, while it is engaged.", gauge, func(s *status) float64 {
			return guards(s, func(p safety.Participant) bool { return s.Engaged && !p.Confirmed })
		}},
		{
			"lawnberry_emergency_stop_obstacles", "Reasons against releasing the emergency stop, while it is engaged.", gauge,
			func(s *status) float64 { return float64(len(s.Against)) },
		},
	}
}

func healthFigures() []figure[service.Health] {
	type health = service.Health
	return []figure[health]{
		{
			"lawnberry_health_state", "How all services are together: 0 healthy, 1 starting, 2 degraded, 3 error, 6 unknown.", gauge,
			func(h *health) float64 { return float64(slices.Index(states(), knownState(h.State))) },
		},
		{"lawnberry_health_reasons", "Reasons why the whole is not healthy.", gauge, func(h *health) float64 { return float64(len(h.Reasons)) }},
	}
}

func browserFigures() []figure[Browsers] {
	return []figure[Browsers]{
		{"lawnberry_bridge_connections", "WebSockets of browsers.", gauge, func(b *Browsers) float64 { return float64(b.Connections) }},
		{"lawnberry_bridge_connections_opened_total", "WebSockets that were opened.", counter, func(b *Browsers) float64 { return float64(b.Opened) }},
		{
			"lawnberry_bridge_connections_refused_total", "WebSockets refused, because there were too many.", counter,
			func(b *Browsers) float64 { return float64(b.Refused) },
		},
		{
			"lawnberry_bridge_connections_stalled_total", "WebSockets ended, because they did not read.", counter,
			func(b *Browsers) float64 { return float64(b.Stalled) },
		},
		{"lawnberry_bridge_messages_total", "Messages that the bridge has heard.", counter, func(b *Browsers) float64 { return float64(b.Messages) }},
		{
			"lawnberry_bridge_messages_dropped_total", "Messages left out, because a browser was too slow.", counter,
			func(b *Browsers) float64 { return float64(b.Dropped) },
		},
		{"lawnberry_bridge_queued_messages", "Messages that wait for browsers.", gauge, func(b *Browsers) float64 { return float64(b.Queued) }},
		{"lawnberry_bridge_topics", "Topics whose last values the bridge has.", gauge, func(b *Browsers) float64 { return float64(b.Topics) }},
	}
}

// maxFleetClasses is how many classes of topics there are for a fleet.
const maxFleetClasses = 4

func uplinkFigures() []figure[Uplink] {
	truth := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	return []figure[Uplink]{
		{"lawnberry_fleet_connected", "1 while the engine of the fleet is reached.", gauge, func(u *Uplink) float64 { return truth(u.Connected) }},
		{"lawnberry_fleet_disk_failed", "1 while the outbox cannot be written.", gauge, func(u *Uplink) float64 { return truth(u.DiskFailed) }},
		{"lawnberry_fleet_messages_taken_total", "Messages of the bus that go up.", counter, func(u *Uplink) float64 { return float64(u.Taken) }},
		{
			"lawnberry_fleet_messages_thinned_total", "Readings that are not in the history, as they came faster than their rate.", counter,
			func(u *Uplink) float64 { return float64(u.Thinned) },
		},
		{"lawnberry_fleet_messages_sent_total", "Messages of the history that the engine has stored.", counter, func(u *Uplink) float64 { return float64(u.Sent) }},
		{"lawnberry_fleet_latest_sent_total", "Latest values that the engine has stored.", counter, func(u *Uplink) float64 { return float64(u.Latest) }},
		{
			"lawnberry_fleet_latest_conflated_total", "Latest values that a newer one overtook.", counter,
			func(u *Uplink) float64 { return float64(u.Conflated) },
		},
		{
			"lawnberry_fleet_records_resolved_total", "Records of which the engine was asked whether it has them, after a lost acknowledgement or a restart.", counter,
			func(u *Uplink) float64 { return float64(u.Resolved) },
		},
		{
			"lawnberry_fleet_records_repeated_total", "Records that the engine had already, or that the bus sent again.", counter,
			func(u *Uplink) float64 { return float64(u.Repeated) },
		},
		{"lawnberry_fleet_topics_refused", "Topics that the engine does not take.", gauge, func(u *Uplink) float64 { return float64(u.Refused) }},
		{"lawnberry_fleet_backlog_messages", "Messages of the history that wait.", gauge, func(u *Uplink) float64 { return float64(u.Backlog) }},
		{"lawnberry_fleet_backlog_bytes", "Bytes of the history that waits.", gauge, func(u *Uplink) float64 { return float64(u.BacklogBytes) }},
		{"lawnberry_fleet_backlog_age_seconds", "Age of what waits longest.", gauge, func(u *Uplink) float64 { return u.Oldest.Seconds() }},
	}
}

// unknown is the state of what says none, or one that is none.
const unknown = service.State("unknown")

// states are the states of services, at the places that are their numbers; the last is unknown.
func states() []service.State {
	return []service.State{service.Healthy, service.Starting, service.Degraded, service.Failing, service.Offline, service.ShuttingDown, unknown}
}

func knownState(s service.State) service.State {
	if slices.Contains(states(), s) {
		return s
	}
	return unknown
}

// classes are those of topics; the last is of topics that nobody defined.
func classes() []string {
	var all []string
	for c := topic.Sensor; c <= topic.Safety; c++ {
		all = append(all, c.String())
	}
	return append(all, "other")
}

// outbox returns the messages of each class.
func outbox(s *client.Stats) map[string]int {
	n := map[string]int{}
	for _, c := range classes() {
		n[c] = 0
	}
	for c, k := range maps.All(s.OutboxByClass) {
		n[c.String()] = k
	}
	n["other"] = s.OutboxOther
	return n
}

func queued(s *client.Stats) (n float64) {
	for _, h := range s.Handlers {
		n += float64(h.Queued)
	}
	return n
}

func unix(t time.Time) float64 {
	if t.IsZero() {
		return math.NaN()
	}
	return float64(t.UnixMilli()) / 1000
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
