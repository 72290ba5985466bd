// Package fleettest publishes what the uplinks of mowers would, for tests of those who look after a fleet: documents and subjects are those of
// package fleet.
package fleettest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/message"
)

// A Publisher publishes for any mower, over one connection. Its methods may be called concurrently.
type Publisher struct {
	js jetstream.JetStream

	mu   sync.Mutex // guards the fields below
	last jetstream.PubAckFuture
	errs []error
}

// New returns a publisher.
func New(js jetstream.JetStream) *Publisher { return &Publisher{js: js} }

// State publishes the latest message of a topic; an empty one says that there is none any more.
func (p *Publisher) State(mower, topic string, body []byte) {
	p.Raw("$KV."+fleet.BucketState+"."+fleet.StateKey(mower, topic), body, nil)
}

// Presence says that a mower is there.
func (p *Publisher) Presence(d fleet.Presence) {
	if d.Time.IsZero() {
		d.Time = time.Now()
	}
	body, err := json.Marshal(d)
	if err != nil {
		panic(err) // it has nothing that does not encode
	}
	p.Raw("$KV."+fleet.BucketPresence+"."+d.Mower, body, nil)
}

// Leave says that a mower is gone, as a clean stop does.
func (p *Publisher) Leave(mower string) {
	p.Raw("$KV."+fleet.BucketPresence+"."+mower, nil, nats.Header{"KV-Operation": {"DEL"}})
}

// Record publishes a message of the history.
func (p *Publisher) Record(mower, topic, id string, body []byte) {
	p.Raw(fleet.HistorySubject(mower, topic), body, nats.Header{jetstream.MsgIDHeader: {id}})
}

// A Line is a message of a batch.
type Line struct {
	Time time.Time
	Body []byte // JSON
}

// Batch publishes messages of the history as one record.
func (p *Publisher) Batch(mower, topic, id string, lines ...Line) {
	var b bytes.Buffer
	for _, l := range lines {
		fmt.Fprintf(&b, "{\"t\": %.6f, \"m\": %s}\n", message.Seconds(l.Time), l.Body)
	}
	h := nats.Header{jetstream.MsgIDHeader: {id}, fleet.HeaderBatch: {strconv.Itoa(len(lines))}}
	body := b.Bytes()
	if small, ok := message.Compress(body, message.Limits{}); ok {
		body = small
		h.Set(fleet.HeaderEncoding, "gzip")
	}
	p.Raw(fleet.HistorySubject(mower, topic), body, h)
}

// stalled is how long an engine may be behind.
const stalled = time.Minute

// Raw publishes any bytes anywhere, and waits for an engine that is behind.
func (p *Publisher) Raw(subject string, body []byte, h nats.Header) {
	var f jetstream.PubAckFuture
	var err error
	for began := time.Now(); time.Since(began) < stalled; {
		// It waits a moment by itself, while too many are on their way.
		if f, err = p.js.PublishMsgAsync(&nats.Msg{Subject: subject, Data: body, Header: h}); !errors.Is(err, jetstream.ErrTooManyStalledMsgs) {
			break
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.errs = append(p.errs, fmt.Errorf("publish %s: %w", subject, err))
		return
	}
	p.last = f
}

// Flush waits until everything has been stored.
func (p *Publisher) Flush(ctx context.Context) error {
	select {
	case <-p.js.PublishAsyncComplete():
	case <-ctx.Done():
		return ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last != nil {
		select {
		case err := <-p.last.Err():
			p.errs = append(p.errs, err)
		default:
		}
	}
	return errors.Join(p.errs...)
}

// Sensor is a message with readings.
func Sensor(data map[string]any, units map[string]string) []byte {
	return encode(message.NewSensorData("test", message.SensorData{SensorType: "test", Data: data, Units: units, Quality: 1, Status: "healthy"}))
}

// Status is what navigation/status says of a mower that does something.
func Status(activity string) []byte {
	details, err := json.Marshal(map[string]any{"activity": activity, "progress": 12.5})
	if err != nil {
		panic(err)
	}
	return encode(message.NewStatus("navigation", message.Status{Status: activity, Details: details}))
}

// Alert is an alert.
func Alert(kind, severity, text string) []byte {
	return encode(message.NewAlert("safety", message.Alert{AlertType: kind, Severity: severity, Message: text}))
}

// Stop is what the hub of a mower says of its emergency stop.
func Stop(engaged bool, reason string) []byte {
	context, err := json.Marshal(map[string]any{"engaged": engaged, "reason": reason, "by": "test", "since": message.Seconds(time.Now()), "sequence": 3, "epoch": "e"})
	if err != nil {
		panic(err)
	}
	return encode(message.NewAlert(fleet.StopService, message.Alert{AlertType: "emergency_stop", Severity: "critical", Message: "Emergency stop: " + reason, Context: context}))
}

// Event is an event.
func Event(kind string, data map[string]any) []byte {
	raw, err := json.Marshal(data)
	if err != nil {
		panic(err)
	}
	return encode(message.NewEvent("test", message.Event{EventType: kind, EventData: raw, Source: "test"}))
}

func encode(m message.Message, err error) []byte {
	if err != nil {
		panic(err)
	}
	body, err := m.Append(nil)
	if err != nil {
		panic(err)
	}
	return body
}
