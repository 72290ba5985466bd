package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/topic"
)

const (
	maxTopics = 10_000 // that are remembered
	maxEvents = 200    // that are remembered, the last ones
	maxAlerts = 200
)

// Bus is what was heard on the bus, for who wants to see more than what is wrong.
type Bus struct {
	Server   client.Server
	Sys      map[string]string // what the broker says of itself, by topic below $SYS/broker/
	Services []Service         // by id
	Topics   []Traffic         // by name
	Alerts   []Alert           // that stand, by type
	Events   []Event           // that came, the last ones
	Stop     *safety.Status    // nil when it is not known
}

// A Service is what is known of one.
type Service struct {
	ID       string          `json:"id"`
	Live     bool            `json:"live"` // it has spoken
	State    string          `json:"state"`
	Status   json.RawMessage `json:"status"`            // the last one, as it was said
	Answer   json.RawMessage `json:"answer,omitempty"`  // to the command status
	Silence  string          `json:"silence,omitempty"` // why there is no answer
	OffsetMS float64         `json:"clock_difference_ms"`
}

// A Traffic is what came on one topic.
type Traffic struct {
	Topic    string `json:"topic"`
	Messages int    `json:"messages"`
	Bytes    int    `json:"bytes"` // of payloads, as they came
	Retained bool   `json:"retained"`
	Sender   string `json:"sender,omitempty"` // of the last one
	Type     string `json:"type,omitempty"`   // of the last one; "" when it has no envelope
	Invalid  int    `json:"invalid,omitempty"`

	full string
}

// An Alert is one that stands.
type Alert struct {
	Sender string    `json:"sender"`
	Time   time.Time `json:"time"`
	message.Alert
}

// An Event is one that came.
type Event struct {
	Sender string    `json:"sender"`
	Time   time.Time `json:"time"`
	message.Event
}

// A member is what is known of a service.
type member struct {
	state    string
	payload  json.RawMessage // of the last status
	retained time.Time       // of the retained status, by the clock of the service
	lease    time.Duration
	offset   time.Duration // its clock less ours, with the way of the message in it
	live     bool          // it has spoken since we listen
	needs    []string
	lives    map[string]bool // what told its processes apart
	answer   json.RawMessage // to the command status
	silence  error           // why there is none
	uplink   json.RawMessage // the answer to the command uplink, of the service fleet
}

// heard is what came while doctor listened.
type heard struct {
	mu       sync.Mutex // guards what follows
	services map[string]*member
	topics   map[string]*Traffic // by full topic
	sys      map[string]string   // below $SYS/broker/
	first    map[string]string   // of those, what was said first
	alerts   map[string]Alert
	events   []Event
}

// listen hears what is on the bus for a time, and has the services announce themselves.
func (x *examination) listen(ctx context.Context, c *client.Client) (*heard, error) {
	h := &heard{
		services: map[string]*member{}, topics: map[string]*Traffic{}, sys: map[string]string{}, first: map[string]string{}, alerts: map[string]Alert{},
	}
	queue := client.WithQueue(client.Queue{Max: 10_000, Full: client.DropOldest})
	// What the broker says of itself is nobody's right to have: without it there is less to say.
	_, _ = c.Subscribe(ctx, topic.Absolute("$SYS/broker/#"), func(_ context.Context, d *client.Delivery) { h.broker(d) }, queue, client.WithInvalid())
	if _, err := c.Subscribe(ctx, "system/services/+/status", func(_ context.Context, d *client.Delivery) { h.status(d) }, queue,
		client.WithInvalid()); err != nil {
		return nil, err
	}
	if all, err := c.Subscribe(ctx, "#", func(_ context.Context, d *client.Delivery) { h.traffic(d) }, queue, client.WithInvalid(),
		client.WithMaxQoS(0)); err == nil {
		// While somebody listens to all, no broker says of a command that nobody serves it, and services are to be asked soon.
		defer func() { _ = all.Unsubscribe(ctx) }()
	}
	m, err := message.NewStatus(c.ID(), message.Status{Status: "healthy"})
	if err != nil {
		return nil, err
	}
	// A broker that takes no messages, as its disk is full, or not from this user, still has something to say.
	var refused *client.RefusedError
	if err := c.Publish(ctx, "system/health_check", m); err != nil && !errors.As(err, &refused) {
		return nil, err
	}
	t := time.NewTimer(x.o.Listen)
	defer t.Stop()
	select {
	case <-t.C:
		return h, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// broker takes in what the broker says of itself.
func (h *heard) broker(d *client.Delivery) {
	name, ok := strings.CutPrefix(d.Topic, "$SYS/broker/")
	h.mu.Lock()
	defer h.mu.Unlock()
	if !ok || len(h.sys) >= maxTopics {
		return
	}
	said := string(d.Message.Payload)
	if _, known := h.first[name]; !known {
		h.first[name] = said
	}
	h.sys[name] = said
}

// status takes in the status of a service.
func (h *heard) status(d *client.Delivery) {
	levels := strings.Split(d.Topic, "/")
	id := levels[len(levels)-2]
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(d.Message.Payload) == 0 {
		delete(h.services, id)
		return
	}
	at, status, ok := readStatus(d)
	if !ok || h.services[id] == nil && len(h.services) >= maxTopics {
		return
	}
	s := h.services[id]
	if s == nil {
		s = &member{lives: map[string]bool{}}
		h.services[id] = s
	}
	about := readDetails(status.Details)
	s.state, s.lease, s.needs = status.Status, about.lease, about.dependencies
	s.payload, _ = json.Marshal(status) // it was JSON
	if d.Retained {
		s.retained = at
		return
	}
	if status.Status == "offline" { // a Will may be of long ago
		return
	}
	s.live, s.offset = true, at.Sub(d.Received)
	if len(s.lives) < 10 {
		s.lives[about.life] = true
	}
}

// traffic takes in any message.
func (h *heard) traffic(d *client.Delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	kind, alert := strings.CutPrefix(d.Topic, "safety/alerts/")
	if len(d.Message.Payload) == 0 {
		delete(h.alerts, kind)
		return
	}
	full := d.FullTopic()
	t := h.topics[full]
	if t == nil {
		if len(h.topics) >= maxTopics {
			return
		}
		t = &Traffic{Topic: d.Topic, full: full}
		h.topics[full] = t
	}
	t.Messages++
	t.Bytes += d.Size
	t.Retained = t.Retained || d.Retained
	t.Sender, t.Type = d.Message.Metadata.Sender, string(d.Message.Metadata.Type)
	if d.Invalid != nil {
		t.Invalid++
	}
	if d.Message.Raw {
		return
	}
	switch at := d.Message.Metadata.Time(); {
	case alert && d.Message.Metadata.Type == message.TypeAlert:
		if a, err := message.Payload[message.Alert](d.Message); err == nil && (len(h.alerts) < maxAlerts || h.alerts[kind].Sender != "") {
			h.alerts[kind] = Alert{t.Sender, at, a}
		}
	case d.Message.Metadata.Type == message.TypeEvent:
		if e, err := message.Payload[message.Event](d.Message); err == nil {
			if len(h.events) == maxEvents {
				h.events = slices.Delete(h.events, 0, 1)
			}
			h.events = append(h.events, Event{t.Sender, at, e})
		}
	}
}
