package homeassistant

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

const maxAlerts = 1000 // that are kept, as a service keeps them

// rateTopic is the broker's figure of the messages that it was sent, per minute.
const rateTopic = "$SYS/broker/load/publish/received/1min"

// A gauge is readings of the bus that an entity shows.
type gauge struct {
	topic, entity string
	patience      time.Duration
	state         func(fields) object
}

func gauges() []gauge {
	return []gauge{
		{batteryTopic, entityBattery, powerPatience, batteryState},
		{solarTopic, entitySolar, powerPatience, powerState},
		{consumptionTopic, entityConsumption, powerPatience, powerState},
		{weatherTopic, entityWeather, weatherPatience, weatherState},
	}
}

// listen hears what entities show.
func (b *Bridge) listen(ctx context.Context) error {
	c := b.svc.Client()
	latest := client.WithQueue(client.Queue{Max: 20, Full: client.DropOldest})
	for _, g := range gauges() {
		g.patience = cmp.Or(b.o.patience, g.patience)
		unknown := g.state(nil)
		b.show(g.entity, unknown, 0)
		_, err := c.Subscribe(ctx, g.topic, func(_ context.Context, d *client.Delivery) {
			f, sender := read(d)
			b.source(g.topic, sender)
			if f != nil && young(d, g.patience) {
				b.show(g.entity, g.state(f), g.patience/3)
			}
		}, latest, client.WithDeadline(g.patience, func(_ string, stale bool, _ time.Duration) {
			if stale {
				b.show(g.entity, unknown, 0)
			}
		}))
		if err != nil {
			return err
		}
	}
	if _, err := c.Subscribe(ctx, positionTopic, func(_ context.Context, d *client.Delivery) {
		f, sender := read(d)
		b.source(positionTopic, sender)
		attributes, geographic := b.o.location(f)
		if geographic {
			b.hasPosition()
		}
		if attributes != nil {
			b.showAttributes(entityLocation, attributes)
		}
	}, latest); err != nil {
		return err
	}
	if _, err := c.Subscribe(ctx, mowerTopic, func(_ context.Context, d *client.Delivery) {
		f, _ := read(d)
		if f == nil {
			return
		}
		state, attributes := b.o.mowerState(f)
		b.show(entityMower, state, 0)
		b.showAttributes(entityMower, attributes)
	}, latest); err != nil {
		return err
	}
	if _, err := c.Subscribe(ctx, rateTopic, func(_ context.Context, d *client.Delivery) {
		if v, err := strconv.ParseFloat(string(bytes.TrimSpace(d.Message.Payload)), 64); err == nil && v >= 0 && v < 1e9 {
			b.link.setRate(v)
			b.showLink()
		}
	}, latest); err != nil {
		return err
	}
	_, err := b.svc.OnAlertChange(ctx, b.alert)
	return err
}

// source notes which service publishes a topic: what that shows depends on it.
func (b *Bridge) source(name, sender string) {
	if sender == "" || !slices.Contains(sourceTopics(), name) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.seen.Sources[name] != sender {
		b.seen.Sources[name] = sender
		b.changed()
	}
}

func (b *Bridge) hasPosition() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.seen.Position {
		b.seen.Position = true
		b.changed()
	}
}

// changed has the document looked at again.
func (b *Bridge) changed() {
	select {
	case b.rebuild <- struct{}{}:
	default:
	}
}

// heard is told of a service: of a change, or how it was when nothing else is known.
func (b *Bridge) heard(i service.Info, change bool) {
	b.mu.Lock()
	before, known := b.known[i.ID]
	gone := i.State == ""
	switch {
	case known && !change:
		b.mu.Unlock()
		return
	case gone:
		delete(b.known, i.ID)
	case known || len(b.known) < maxServices:
		b.known[i.ID] = i
	default: // one too many
		b.mu.Unlock()
		return
	}
	if gone || !known {
		b.seen.Services = b.seen.Services[:0:0]
		for id := range b.known {
			b.seen.Services = append(b.seen.Services, id)
		}
		b.changed()
	}
	b.mu.Unlock()
	if i.ID == b.o.MowerService && available(i.State) && !available(before.State) {
		select {
		case b.arrived <- struct{}{}:
		default:
		}
	}
	b.showService(i.ID)
	b.showProblem()
}

// available reports whether a service in that state can be asked for something.
func available(s service.State) bool {
	switch s {
	case "", service.Offline, service.Starting, service.ShuttingDown:
		return false
	}
	return true
}

// showService shows how a service is. The mower's own is shown as away also if nobody knows it.
func (b *Bridge) showService(id string) {
	b.mu.Lock()
	i, known := b.known[id]
	b.mu.Unlock()
	key := serviceEntity(id)
	if !known {
		i = service.Info{ID: id, State: service.Offline, Reason: "never seen"}
		if id != b.o.MowerService { // its topics go with its entity
			return
		}
	}
	there := "offline"
	if available(i.State) {
		there = "online"
	}
	b.show(key, object{"problem": onOff(i.State != service.Healthy), "available": there}, 0)
	b.showAttributes(key, object{
		"service_id": speakable(id), "service_type": speakable(i.Type), "service_state": speakable(string(i.State)), "reason": speakable(i.Reason),
		"version": speakable(i.Version), "host": speakable(i.Host),
	})
}

// showProblem shows what is wrong with the mower: alerts that stand, and services that have failed.
func (b *Bridge) showProblem() {
	reasons := []string{}
	b.mu.Lock()
	for _, a := range b.alerts {
		if a.Severity == "error" || a.Severity == "critical" {
			reasons = append(reasons, speakable(fmt.Sprintf("%s: %s", a.AlertType, a.Message)))
		}
	}
	var failed []string
	for id, i := range b.known {
		lost := i.Reason == "connection lost" || strings.HasPrefix(i.Reason, "silent for ") // others have said goodbye
		if i.State == service.Failing || i.State == service.Offline && lost {
			failed = append(failed, speakable(fmt.Sprintf("service %s is %s: %s", id, i.State, i.Reason)))
		}
	}
	b.mu.Unlock()
	slices.Sort(reasons)
	slices.Sort(failed)
	reasons = append(reasons, failed...)
	b.show(entityProblem, object{"problem": onOff(len(reasons) > 0)}, 0)
	b.showAttributes(entityProblem, object{"reasons": reasons[:min(len(reasons), 20)], "count": len(reasons)})
}

// showStop is told the state of the emergency stop. What is not known is engaged.
func (b *Bridge) showStop(s safety.State) {
	b.show(entityStop, object{"engaged": onOff(s.Engaged)}, 0)
	attributes := object{"known": s.Known, "reason": speakable(s.Reason), "by": speakable(s.By), "sequence": s.Sequence, "since": nil}
	if !s.Since.IsZero() {
		attributes["since"] = s.Since.UTC().Format(time.RFC3339)
	}
	b.showAttributes(entityStop, attributes)
}

// alert is told of what happens to alerts.
func (b *Bridge) alert(_ context.Context, e service.AlertEntry) {
	b.mu.Lock()
	switch _, stands := b.alerts[e.Alert.AlertType]; {
	case e.Action == service.AlertResolved || e.Action == service.AlertCleared:
		delete(b.alerts, e.Alert.AlertType)
	case stands || len(b.alerts) < maxAlerts:
		b.alerts[e.Alert.AlertType] = e.Alert
	}
	b.mu.Unlock()
	b.showProblem()
	if e.Action == service.AlertRaised && e.Alert.Retained { // it was there before us
		return
	}
	b.tell(entityAlert, object{
		"event_type": string(e.Action), "alert_type": speakable(e.Alert.AlertType), "severity": speakable(e.Alert.Severity),
		"message": speakable(e.Alert.Message), "raised_by": speakable(e.Alert.Sender), "by": speakable(e.By), "acknowledged": e.Alert.Acknowledged,
	})
}
