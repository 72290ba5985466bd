package service

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
)

// reasonLost is the reason in a Will. An offline status with another reason was announced by the service itself.
const reasonLost = "connection lost"

// details is payload.details of a status, as we send it. What follows Metadata is beside the base format, and only there when known.
type details struct {
	ServiceID     string            `json:"service_id"`
	ServiceType   string            `json:"service_type"`
	Version       string            `json:"version"`
	StartTime     float64           `json:"start_time"`     // Unix seconds
	LastHeartbeat float64           `json:"last_heartbeat"` // Unix seconds
	State         State             `json:"state"`
	Uptime        float64           `json:"uptime"` // seconds
	Dependencies  []string          `json:"dependencies"`
	Endpoints     map[string]string `json:"endpoints"`
	Metadata      json.RawMessage   `json:"metadata"`
	Reason        string            `json:"reason,omitempty"`
	Host          string            `json:"host,omitempty"`
	PID           int               `json:"pid,omitempty"`
	Heartbeat     float64           `json:"heartbeat_interval"` // seconds; beside the base format, as is the lease:
	Lease         float64           `json:"heartbeat_timeout"`  // seconds of silence after which the service counts as offline
	Optional      []string          `json:"optional_dependencies,omitempty"`
	Shares        bool              `json:"shares_commands,omitempty"` // those to its type, with the others of the type
}

// Bounds of a lease that a peer may announce.
const (
	shortestLease = 50 * time.Millisecond
	longestLease  = 24 * time.Hour
)

// identity tells two statuses of a service apart.
type identity struct {
	id        string
	timestamp float64
}

// report is what a received status says, as far as it says anything. The zero value of a field means: not said.
type report struct {
	identity
	again bool // the broker may be repeating a message that it has sent before

	state                State
	reason               string
	serviceType, version string
	started, heartbeat   time.Time
	uptime               time.Duration
	dependencies         []string
	optional             []string
	endpoints            map[string]string
	metadata             map[string]any
	resources            *message.Resources
	host                 string
	pid                  int
	lease                time.Duration
	shares               bool
}

// readStatus reads a status liberally: services that are not ours leave keys out, add others, and write times as numbers
// or as ISO 8601. ok is false for what tells nothing about a service, such as plain text that is not the name of a state.
func readStatus(d *client.Delivery) (rep report, ok bool) {
	m := &d.Message
	rep.again = d.Retained || d.Dup
	if m.Raw {
		word := State(strings.ToLower(strings.Trim(string(bytes.TrimSpace(m.Payload)), `"`)))
		if word.known() {
			rep.state = word
			return rep, true
		}
	} else {
		rep.identity = identity{m.Metadata.ID, m.Metadata.Timestamp}
	}
	var payload fields
	if json.Unmarshal(m.Payload, &payload) != nil || payload == nil {
		return rep, false
	}
	var det fields
	_ = json.Unmarshal(payload["details"], &det) // none, if it is no object
	rep.state = readState(payload.text("status"), det.text("state"), payload.text("state"))
	if m.Raw && rep.state == "" {
		return rep, false // some other object
	}
	rep.reason = det.text("reason")
	rep.serviceType = det.text("service_type")
	rep.version = first(det.text("version"), payload.text("version"))
	rep.started = det.time("start_time")
	rep.host = det.text("host")
	if lease, ok := det.number("heartbeat_timeout"); ok && lease > 0 {
		rep.lease = min(max(seconds(lease), shortestLease), longestLease)
	}
	if pid, ok := det.number("pid"); ok && pid > 0 && pid < 1<<31 {
		rep.pid = int(pid)
	}
	_ = json.Unmarshal(det["shares_commands"], &rep.shares)
	rep.heartbeat = det.time("last_heartbeat")
	if rep.heartbeat.IsZero() && !m.Raw {
		rep.heartbeat = m.Metadata.Time()
	}
	uptime, known := payload.number("uptime")
	if !known {
		uptime, _ = det.number("uptime")
	}
	rep.uptime = seconds(uptime)
	_ = json.Unmarshal(det["dependencies"], &rep.dependencies)
	_ = json.Unmarshal(det["optional_dependencies"], &rep.optional)
	_ = json.Unmarshal(det["endpoints"], &rep.endpoints)
	_ = json.Unmarshal(det["metadata"], &rep.metadata)
	var res fields
	if json.Unmarshal(payload["resources"], &res) == nil && res != nil {
		rep.resources = new(message.Resources)
		rep.resources.CPU, _ = res.number("cpu_usage")
		rep.resources.Memory, _ = res.number("memory_usage")
		rep.resources.Disk, _ = res.number("disk_usage")
	}
	return rep, true
}

// merge brings i up to date. What the report does not say stays as it was, but for the reason, which belongs to the state.
func (rep *report) merge(i *Info) {
	switch {
	case rep.state != "":
		i.State, i.Reason = rep.state, rep.reason
	case i.State == "" || i.State == Offline:
		i.State, i.Reason = "unknown", "" // alive, but says no more
	}
	i.Type = first(rep.serviceType, i.Type)
	i.Version = first(rep.version, i.Version)
	i.Host = first(rep.host, i.Host)
	if rep.pid != 0 {
		i.PID = rep.pid
	}
	if !rep.started.IsZero() {
		i.Started = rep.started
	}
	if rep.uptime > 0 {
		i.Uptime = rep.uptime
	}
	if rep.dependencies != nil {
		i.Dependencies, i.Optional = rep.dependencies, rep.optional // who names no optional ones has none
	}
	if rep.endpoints != nil {
		i.Endpoints = rep.endpoints
	}
	if rep.metadata != nil {
		i.Metadata = rep.metadata
	}
	if rep.resources != nil && rep.state != Offline {
		i.Resources = *rep.resources
	}
}

// byItself reports whether a service that goes offline with this status said so itself.
func (rep *report) byItself() bool { return rep.reason != "" && rep.reason != reasonLost }

// known reports whether s is one of the states of the wire format.
func (s State) known() bool {
	switch s {
	case Starting, Healthy, Degraded, Failing, Offline, ShuttingDown:
		return true
	}
	return false
}

// decodeFields reports whether raw is an object, and decodes it.
func decodeFields(raw []byte, into *fields) bool {
	return json.Unmarshal(raw, into) == nil && *into != nil
}

// readState returns the first state given, in our spelling if it is one of ours.
func readState(given ...string) State {
	s := strings.TrimSpace(first(given...))
	if known := State(strings.ToLower(s)); known.known() {
		return known
	}
	return State(s)
}

// first returns the first of ss that is not empty.
func first(ss ...string) string {
	for _, s := range ss {
		if s != "" {
			return s
		}
	}
	return ""
}

// fields is a JSON object whose values may be anything.
type fields map[string]json.RawMessage

// text returns a string, or "".
func (f fields) text(key string) string {
	var s string
	if json.Unmarshal(f[key], &s) != nil || !utf8.ValidString(s) {
		return ""
	}
	return s
}

// number returns a finite number, also one written as a string.
func (f fields) number(key string) (v float64, ok bool) {
	if json.Unmarshal(f[key], &v) == nil && len(f[key]) > 0 && string(f[key]) != "null" {
		return v, true
	}
	v, err := strconv.ParseFloat(strings.TrimSpace(f.text(key)), 64)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
		return 0, false
	}
	return v, true
}

// time returns a time given as Unix seconds or as ISO 8601 (local time when it names no zone, as Python writes it), or zero.
func (f fields) time(key string) time.Time {
	const end = 253402300800 // the year 10000
	if v, ok := f.number(key); ok {
		if v <= 0 || v >= end {
			return time.Time{}
		}
		return time.UnixMicro(int64(v * 1e6))
	}
	s := f.text(key)
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t
		}
	}
	return time.Time{}
}

// seconds converts, within the bounds of a Duration; what is negative counts as zero.
func seconds(v float64) time.Duration {
	const most = float64(math.MaxInt64 / int64(time.Second))
	if !(v > 0) {
		return 0
	}
	return time.Duration(min(v, most-1) * float64(time.Second))
}
