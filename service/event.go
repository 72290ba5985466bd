package service

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

// Types of the events that follow from the states of services.
const (
	eventOffline = "service_offline"
	eventChange  = "service_state_change"
)

// reportLife is how long the report of a death is worth delivering.
const reportLife = 30 * time.Second

// Event is a received event.
type Event struct {
	message.Event
	Sender   string
	Time     time.Time // by the sender's clock
	Priority message.Priority
}

// EmitOption changes one event: WithCategory, WithPriority.
type EmitOption func(*emitting)

type emitting struct {
	category string
	priority message.Priority
}

// WithCategory sets the event's category; it is "system" without.
func WithCategory(c string) EmitOption { return func(e *emitting) { e.category = c } }

// WithPriority sets the priority; it is normal without. Critical events go out at QoS 2.
func WithPriority(p message.Priority) EmitOption { return func(e *emitting) { e.priority = p } }

// EmitEvent publishes an event on system/events/{eventType}. data is anything that encodes as JSON; nil is {}.
func (s *Service) EmitEvent(ctx context.Context, eventType string, data any, opts ...EmitOption) error {
	m, err := s.event(eventType, data, opts...)
	if err != nil {
		return err
	}
	return s.client.Publish(ctx, "system/events/"+eventType, m)
}

func (s *Service) event(eventType string, data any, opts ...EmitOption) (message.Message, error) {
	return newEvent(s.o.ID, eventType, data, opts...)
}

func newEvent(sender, eventType string, data any, opts ...EmitOption) (message.Message, error) {
	e := emitting{category: "system", priority: message.Normal}
	for _, o := range opts {
		o(&e)
	}
	if err := topic.CheckLevel("event type", eventType); err != nil {
		return message.Message{}, err
	}
	if data == nil {
		data = struct{}{}
	}
	raw, err := message.EncodeJSON(data)
	if err != nil {
		return message.Message{}, fmt.Errorf("event %s: %w", eventType, err)
	}
	m, err := message.NewEvent(sender, message.Event{EventType: eventType, EventData: raw, Source: sender, Category: e.category})
	if err != nil {
		return m, fmt.Errorf("event %s: %w", eventType, err)
	}
	m.Metadata.Priority = e.priority
	return m, nil
}

// OnEvent calls h for events of a type ("+" or "" for all), those of this service included. It returns when the broker
// confirmed. The events of one registration come one after the other, in order; what is no event is skipped.
func (s *Service) OnEvent(ctx context.Context, eventType string, h func(ctx context.Context, e Event)) (*client.Subscription, error) {
	if eventType == "" {
		eventType = "+"
	}
	if eventType != "+" {
		if err := topic.CheckLevel("event type", eventType); err != nil {
			return nil, err
		}
	}
	return s.client.Subscribe(ctx, "system/events/"+eventType, func(ctx context.Context, d *client.Delivery) {
		e, err := readEvent(d)
		if err != nil {
			s.log.Debug("event ignored", "topic", d.Topic, "error", err)
			return
		}
		h(ctx, e)
	})
}

func readEvent(d *client.Delivery) (Event, error) {
	if d.Message.Raw || d.Message.Metadata.Type != message.TypeEvent {
		return Event{}, fmt.Errorf("the message is no event")
	}
	p, err := message.Payload[message.Event](d.Message)
	if err != nil {
		return Event{}, err
	}
	if p.EventType == "" {
		p.EventType = lastLevel(d.Topic)
	}
	meta := d.Message.Metadata
	return Event{Event: p, Sender: meta.Sender, Time: meta.Time(), Priority: meta.Priority}, nil
}

func lastLevel(topic string) string { return topic[strings.LastIndexByte(topic, '/')+1:] }

// stateChange and serviceOffline are the data of the events of those names.
type (
	stateChange struct {
		ServiceID string `json:"service_id"`
		OldState  State  `json:"old_state"`
		NewState  State  `json:"new_state"`
	}
	serviceOffline struct {
		ServiceID string   `json:"service_id"`
		LastSeen  *float64 `json:"last_seen"` // Unix seconds; null when it was never seen alive
		// LastStatus is the message id of the last status before the death, beside the base format: by it those who see the same
		// death know that it has been reported.
		LastStatus string `json:"last_status,omitempty"`
	}
)

// emitChangeLocked emits a service_state_change, without waiting. s.mu is held.
func (s *Service) emitChangeLocked(id string, old, now State, opts ...client.PublishOption) {
	s.emitLocked(eventChange, stateChange{id, old, now}, opts...)
}

// emitOfflineLocked emits a service_offline, without waiting. s.mu is held.
func (s *Service) emitOfflineLocked(id string, lastSeen time.Time, lastStatus string, opts ...client.PublishOption) {
	s.emitLocked(eventOffline, offlineData(id, lastSeen, lastStatus), opts...)
}

func offlineData(id string, lastSeen time.Time, lastStatus string) serviceOffline {
	data := serviceOffline{ServiceID: id, LastStatus: lastStatus}
	if !lastSeen.IsZero() {
		at := message.Seconds(lastSeen)
		data.LastSeen = &at
	}
	return data
}

func (s *Service) emitLocked(eventType string, data any, opts ...client.PublishOption) {
	m, err := s.event(eventType, data)
	if err != nil {
		s.log.Error("event cannot be encoded", "type", eventType, "error", err)
		return
	}
	s.mail.put(letter{"system/events/" + eventType, m, opts})
}

// reportLoss reports the death of another service. The registry calls it when that falls to this one.
func (s *Service) reportLoss(d death) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase == stopped || !s.client.Connected() { // what a client cut off believes is of no use later
		return
	}
	i := d.info
	s.log.Warn("service went offline", "id", i.ID, "was", string(d.old), "reason", i.Reason)
	s.emitOfflineLocked(i.ID, i.LastSeen, d.lastStatus, client.WithExpiry(reportLife))
	s.emitChangeLocked(i.ID, d.old, Offline, client.WithExpiry(reportLife))
}

// onOfflineEvent hears that a death was reported, so that it is not reported twice. If it is this service's own, the
// report of its death is an exaggeration that an announcement puts right.
func (s *Service) onOfflineEvent(_ context.Context, d *client.Delivery) {
	e, err := readEvent(d)
	if err != nil || d.Retained {
		return
	}
	var data serviceOffline
	if json.Unmarshal(e.EventData, &data) != nil || data.ServiceID == "" {
		return
	}
	if data.ServiceID != s.o.ID {
		s.registry.wasReported(data.ServiceID, data.LastStatus)
		return
	}
	if e.Sender == s.o.ID {
		return
	}
	s.mu.Lock()
	s.missed = s.phase < stopped
	s.mu.Unlock()
	s.announceSoon()
}
