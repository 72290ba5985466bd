package service

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

const (
	alertsTopic = "safety/alerts/"
	// recordKey is the key in the context of an alert under which its record stands. An alert that was raised once by its sender and
	// that nobody has acknowledged has none.
	recordKey = "alert_record"
	// maxHistory is how many entries an AlertBook keeps.
	maxHistory = 100
	// maxAlerts is how many types of alerts an AlertBook keeps.
	maxAlerts = 1000
	// User properties of an empty message that clears an alert.
	clearedBy   = "cleared_by"
	clearedWhy  = "cleared_why"
	whyResolved = "resolved"
)

// ErrNoAlert is returned when no alert of a type stands.
var ErrNoAlert = errors.New("no such alert")

// Alert is a received alert.
type Alert struct {
	message.Alert
	Sender      string    // who raised it
	Time        time.Time // when it was last raised, by the sender's clock
	Retained    bool      // it was raised before this subscription
	Count       int       // how often it was raised since it stands, 1 or more
	FirstRaised time.Time // by the clock of the first sender

	AcknowledgedBy string    // "" if not acknowledged, or not said
	AcknowledgedAt time.Time // by the clock of who did

	id string // of the message
}

// MarshalJSON returns the alert as programs outside see it, those of the command line and of the HTTP API.
func (a Alert) MarshalJSON() ([]byte, error) {
	if len(a.Context) == 0 {
		a.Context = json.RawMessage("{}")
	}
	return json.Marshal(struct {
		message.Alert
		Sender         string    `json:"sender"`
		Count          int       `json:"count"`
		FirstRaised    time.Time `json:"first_raised"`
		LastRaised     time.Time `json:"last_raised"`
		AcknowledgedBy string    `json:"acknowledged_by,omitempty"`
		AcknowledgedAt time.Time `json:"acknowledged_at,omitzero"`
	}{a.Alert, a.Sender, a.Count, a.FirstRaised, a.Time, a.AcknowledgedBy, a.AcknowledgedAt})
}

// alertRecord is what the context of an alert holds under recordKey. Times are Unix seconds.
type alertRecord struct {
	RaisedBy       string  `json:"raised_by"`
	Count          int     `json:"count"`
	FirstRaised    float64 `json:"first_raised"`
	LastRaised     float64 `json:"last_raised"`
	AcknowledgedBy string  `json:"acknowledged_by,omitempty"`
	AcknowledgedAt float64 `json:"acknowledged_at,omitempty"`
}

// AlertAction is what happened to an alert.
type AlertAction string

const (
	AlertRaised       AlertAction = "raised"
	AlertChanged      AlertAction = "changed" // another severity, text or raiser
	AlertAcknowledged AlertAction = "acknowledged"
	AlertResolved     AlertAction = "resolved" // cleared by the service that raised it, since the reason is gone
	AlertCleared      AlertAction = "cleared"
)

// AlertEntry is something that happened to an alert. Repetitions are none.
type AlertEntry struct {
	Time   time.Time // when it was heard; for an alert raised before, when that was, by its sender's clock
	Action AlertAction
	Alert  Alert  // after it, or as it was when it ended
	By     string // whose doing it is; "" if not known (MQTT 3.1.1 does not say who cleared)
}

// An AlertBook keeps which alerts stand, up to 1,000, and the last 100 things that happened to alerts. Its zero value is empty and
// ready; its methods may be called concurrently.
type AlertBook struct {
	mu      sync.Mutex // guards the fields below
	current map[string]Alert
	history []AlertEntry // the oldest first
}

// Take takes in a message of safety/alerts/+, and returns what happened to the alert by it; ok is false for a repetition and for
// what is no alert.
func (b *AlertBook) Take(d *client.Delivery) (e AlertEntry, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	kind := lastLevel(d.Topic)
	if len(d.Message.Payload) == 0 {
		return b.endLocked(kind, endOf(d))
	}
	a, err := readAlert(d)
	if err != nil {
		return e, false
	}
	if old, stands := b.current[kind]; stands && a.Count == 0 { // of a sender that does not count
		if a.id == old.id {
			return e, false
		}
		a.Count, a.FirstRaised = old.Count, old.FirstRaised
		if !d.Retained {
			a.Count++
		}
	}
	return b.putLocked(kind, a, d.Received)
}

// endOf reads who cleared an alert, and why.
func endOf(d *client.Delivery) AlertEntry {
	e := AlertEntry{Time: d.Received, Action: AlertCleared}
	for _, kv := range d.User {
		switch {
		case kv[0] == clearedBy:
			e.By = kv[1]
		case kv[0] == clearedWhy && kv[1] == whyResolved:
			e.Action = AlertResolved
		}
	}
	return e
}

func (b *AlertBook) endLocked(kind string, e AlertEntry) (AlertEntry, bool) {
	a, stands := b.current[kind]
	if !stands {
		return e, false
	}
	delete(b.current, kind)
	e.Alert = a
	b.noteLocked(e)
	return e, true
}

// putLocked makes a the alert of its type.
func (b *AlertBook) putLocked(kind string, a Alert, at time.Time) (e AlertEntry, ok bool) {
	if a.Count == 0 {
		a.Count, a.FirstRaised = 1, a.Time
	}
	old, stands := b.current[kind]
	e = AlertEntry{Time: at, Alert: a, By: a.Sender}
	switch {
	case !stands:
		e.Action = AlertRaised
		if a.Retained {
			e.Time = a.Time
		}
	case old.Severity != a.Severity || old.Message != a.Message || old.Sender != a.Sender:
		e.Action = AlertChanged
	case !old.Acknowledged && a.Acknowledged:
		e.Action, e.By = AlertAcknowledged, a.AcknowledgedBy
	}
	if stands || len(b.current) < maxAlerts {
		if b.current == nil {
			b.current = make(map[string]Alert)
		}
		b.current[kind] = a
	}
	if e.Action == "" {
		return e, false
	}
	b.noteLocked(e)
	return e, true
}

func (b *AlertBook) noteLocked(e AlertEntry) {
	if len(b.history) >= maxHistory {
		b.history = slices.Delete(b.history, 0, 1)
	}
	b.history = append(b.history, e)
}

// Alerts returns the alerts that stand, the worst first, then the one raised last.
func (b *AlertBook) Alerts() []Alert {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.SortedFunc(maps.Values(b.current), func(x, y Alert) int {
		return cmp.Or(badness(y.Severity)-badness(x.Severity), y.Time.Compare(x.Time), cmp.Compare(x.AlertType, y.AlertType))
	})
}

// History returns the last 100 things that happened, the oldest first.
func (b *AlertBook) History() []AlertEntry {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.history)
}

// Acknowledgement returns the message that acknowledges the alert of a type in the name of by, for its retained topic. Its error is
// ErrNoAlert if none stands.
func (b *AlertBook) Acknowledgement(alertType, by string) (message.Message, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, m, err := b.acknowledgeLocked(alertType, by)
	return m, err
}

// Raise returns the message that raises a in the name of by, for its retained topic. As with [Service.EmitAlert] one that stands is
// counted on, and keeps an acknowledgement unless the severity rises. The book takes it in when it comes back, by Take. The error is a
// *message.Error that names the field which breaks a rule, or a *topic.Error of the alert's type.
func (b *AlertBook) Raise(a message.Alert, by string) (message.Message, error) {
	if err := topic.CheckLevel("alert type", a.AlertType); err != nil {
		return message.Message{}, err
	}
	if _, err := message.NewAlert(by, a); err != nil {
		return message.Message{}, fmt.Errorf("alert %s: %w", a.AlertType, err)
	}
	now := time.Now()
	next := Alert{Alert: a, Sender: by, Time: now, Count: 1, FirstRaised: now}
	b.mu.Lock()
	defer b.mu.Unlock()
	if old, stands := b.current[a.AlertType]; stands {
		next = again(next, old)
	}
	return next.message(by)
}

func (b *AlertBook) acknowledgeLocked(alertType, by string) (a Alert, m message.Message, err error) {
	a, stands := b.current[alertType]
	if !stands {
		return a, m, fmt.Errorf("alert %s: %w", alertType, ErrNoAlert)
	}
	a.Acknowledged, a.AcknowledgedBy, a.AcknowledgedAt = true, by, time.Now()
	m, err = a.message(by)
	a.id = m.Metadata.ID
	return a, m, err
}

// ClearOptions are the options with which an empty message ends an alert in the name of by. They add who did it, over MQTT 5.
func ClearOptions(by string) []client.PublishOption {
	return []client.PublishOption{client.WithRetain(true), client.WithUser(clearedBy, by)}
}

// badness orders severities.
func badness(severity string) int {
	return slices.Index([]string{"info", "warning", "error", "critical"}, severity)
}

// message makes the message of an alert, sent by sender.
func (a Alert) message(sender string) (message.Message, error) {
	p := a.Alert
	if a.Count > 1 || a.AcknowledgedBy != "" || a.Sender != sender {
		about := fields{}
		if len(p.Context) > 0 {
			if err := json.Unmarshal(p.Context, &about); err != nil {
				return message.Message{}, fmt.Errorf("alert %s: its context is no JSON object: %w", p.AlertType, err)
			}
		}
		if about == nil {
			about = fields{}
		}
		r := alertRecord{
			RaisedBy: a.Sender, Count: a.Count, FirstRaised: message.Seconds(a.FirstRaised), LastRaised: message.Seconds(a.Time),
			AcknowledgedBy: a.AcknowledgedBy,
		}
		if a.AcknowledgedBy != "" {
			r.AcknowledgedAt = message.Seconds(a.AcknowledgedAt)
		}
		raw, err := message.EncodeJSON(r)
		if err != nil {
			return message.Message{}, fmt.Errorf("alert %s: %w", p.AlertType, err)
		}
		about[recordKey] = raw
		if p.Context, err = message.EncodeJSON(about); err != nil {
			return message.Message{}, fmt.Errorf("alert %s: %w", p.AlertType, err)
		}
	}
	m, err := message.NewAlert(sender, p)
	if err != nil {
		return m, fmt.Errorf("alert %s: %w", p.AlertType, err)
	}
	return m, nil
}

// readAlert reads an alert. Its Count is 0 if the message does not say.
func readAlert(d *client.Delivery) (Alert, error) {
	if d.Message.Raw || d.Message.Metadata.Type != message.TypeAlert {
		return Alert{}, fmt.Errorf("the message is no alert")
	}
	p, err := message.Payload[message.Alert](d.Message)
	if err != nil {
		return Alert{}, err
	}
	p.AlertType = lastLevel(d.Topic) // the topic is what it stands under
	meta := d.Message.Metadata
	a := Alert{Alert: p, Sender: meta.Sender, Time: meta.Time(), Retained: d.Retained, id: meta.ID}
	var about fields
	if !decodeFields(p.Context, &about) || about[recordKey] == nil {
		return a, nil
	}
	r := readRecord(about[recordKey])
	if r.Count < 1 {
		return a, nil // somebody's own
	}
	delete(about, recordKey)
	if a.Context, err = message.EncodeJSON(about); err != nil {
		return a, err
	}
	at := func(seconds float64) time.Time { return message.Metadata{Timestamp: seconds}.Time() }
	a.Count, a.FirstRaised, a.Time = r.Count, at(r.FirstRaised), at(r.LastRaised)
	a.Sender = cmp.Or(r.RaisedBy, a.Sender)
	if a.Acknowledged && r.AcknowledgedBy != "" {
		a.AcknowledgedBy, a.AcknowledgedAt = r.AcknowledgedBy, at(r.AcknowledgedAt)
	}
	return a, nil
}

// readRecord returns the record in raw, or an empty one.
func readRecord(raw json.RawMessage) alertRecord {
	var r alertRecord
	if json.Unmarshal(raw, &r) != nil {
		return alertRecord{}
	}
	return r
}
