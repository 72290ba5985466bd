package message

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"time"

	"github.com/google/uuid"
)

// SensorData is the payload of a sensor_data message.
type SensorData struct {
	SensorType string            `json:"sensor_type"` // required
	DeviceID   *string           `json:"device_id"`
	Data       any               `json:"data"` // anything that encodes as a JSON object; nil is sent as {}
	Units      map[string]string `json:"units"`
	// Quality is 0 to 1. Zero together with a healthy Status contradicts itself, is taken as not set, and sent as 1;
	// with any other Status it is sent as it is.
	Quality float64 `json:"quality"`
	Status  string  `json:"status"` // "healthy" by default
}

// Command is the payload of a command message.
type Command struct {
	Target     string          `json:"target"`      // required; a service id or type
	Command    string          `json:"command"`     // required
	Parameters json.RawMessage `json:"parameters"`  // an object; {} by default
	Timeout    float64         `json:"timeout"`     // seconds; 30 by default
	RequireAck *bool           `json:"require_ack"` // nil is true
}

// WantsAck reports whether the sender of the command waits for a response: it does unless it says otherwise.
func (c Command) WantsAck() bool { return c.RequireAck == nil || *c.RequireAck }

// Response is the payload of a response message.
type Response struct {
	Success       bool            `json:"success"`
	Result        json.RawMessage `json:"result"`         // any JSON; null when absent
	Error         *string         `json:"error"`          // null when absent
	ExecutionTime *float64        `json:"execution_time"` // seconds; null when absent
}

// Resources is what a service uses of its machine.
type Resources struct {
	CPU    float64 `json:"cpu_usage"`    // percent
	Memory float64 `json:"memory_usage"` // percent
	Disk   float64 `json:"disk_usage"`   // percent
}

// Status is the payload of a status message.
type Status struct {
	Status    string          `json:"status"`
	Uptime    float64         `json:"uptime"` // seconds
	Version   string          `json:"version"`
	Details   json.RawMessage `json:"details"` // an object; {} by default
	Resources Resources       `json:"resources"`
}

// Event is the payload of an event message.
type Event struct {
	EventType string          `json:"event_type"`
	EventData json.RawMessage `json:"event_data"` // an object; {} by default
	Source    string          `json:"source"`
	Category  string          `json:"category"` // "system" by default
}

// Alert is the payload of an alert message.
type Alert struct {
	AlertType    string          `json:"alert_type"`
	Severity     string          `json:"severity"` // info, warning, error or critical
	Message      string          `json:"message"`
	Acknowledged bool            `json:"acknowledged"`
	AutoResolve  bool            `json:"auto_resolve"`
	Context      json.RawMessage `json:"context"` // an object; {} by default
}

const (
	defaultStatus   = "healthy"
	defaultQuality  = 1
	defaultTimeout  = 30 // seconds
	defaultCategory = "system"
)

// NewSensorData returns a sensor_data message of now from sender. It fills in the defaults that the fields of p
// document. Its error, like that of all constructors, is an *[Error] that names a field which breaks a rule, or
// says why p cannot be encoded. NaN and infinities become null.
func NewSensorData(sender string, p SensorData) (Message, error) {
	if p.SensorType == "" {
		return Message{}, missing("sensor_type")
	}
	if isNil(p.Data) {
		p.Data = emptyObject
	}
	if p.Units == nil {
		p.Units = map[string]string{}
	}
	if p.Status == "" {
		p.Status = defaultStatus
	}
	if p.Quality == 0 && p.Status == defaultStatus {
		p.Quality = defaultQuality
	}
	return build(sender, TypeSensorData, Normal, p)
}

// NewCommand returns a command message of now from sender. See NewSensorData. The caller adds correlation id and
// deadline to its metadata.
func NewCommand(sender string, p Command) (Message, error) {
	switch {
	case p.Target == "":
		return Message{}, missing("target")
	case p.Command == "":
		return Message{}, missing("command")
	case p.Timeout < 0:
		return Message{}, &Error{Reason: ReasonOutOfRange, Field: "payload.timeout",
			Rule: fmt.Sprintf("must be over 0 seconds, not %g", p.Timeout)}
	}
	if len(p.Parameters) == 0 {
		p.Parameters = emptyObject
	}
	if p.Timeout == 0 {
		p.Timeout = defaultTimeout
	}
	if raw, ok := p.appendTo(make([]byte, 0, p.size())); ok {
		return buildOf(sender, TypeCommand, Normal, raw)
	}
	ack := p.WantsAck()
	p.RequireAck = &ack
	return build(sender, TypeCommand, Normal, p)
}

// NewResponse returns a response message of now from sender. See NewSensorData.
func NewResponse(sender string, p Response) (Message, error) {
	if raw, ok := p.appendTo(make([]byte, 0, p.size())); ok {
		return buildOf(sender, TypeResponse, Normal, raw)
	}
	return build(sender, TypeResponse, Normal, p)
}

// NewStatus returns a status message of now from sender, with low priority. See NewSensorData.
func NewStatus(sender string, p Status) (Message, error) {
	if len(p.Details) == 0 {
		p.Details = emptyObject
	}
	return build(sender, TypeStatus, Low, p)
}

// NewEvent returns an event message of now from sender. An empty Source is sender. See NewSensorData.
func NewEvent(sender string, p Event) (Message, error) {
	if p.EventType == "" {
		return Message{}, missing("event_type")
	}
	if len(p.EventData) == 0 {
		p.EventData = emptyObject
	}
	if p.Source == "" {
		p.Source = sender
	}
	if p.Category == "" {
		p.Category = defaultCategory
	}
	return build(sender, TypeEvent, Normal, p)
}

// NewHeartbeat returns a heartbeat message of now from sender, whose payload is free; nil is {}. See NewSensorData.
func NewHeartbeat(sender string, payload any) (Message, error) {
	if isNil(payload) {
		payload = emptyObject
	}
	return build(sender, TypeHeartbeat, Normal, payload)
}

// NewAlert returns an alert message of now from sender: of critical priority if its severity is critical, else of
// high. See NewSensorData.
func NewAlert(sender string, p Alert) (Message, error) {
	switch {
	case p.AlertType == "":
		return Message{}, missing("alert_type")
	case p.Severity == "":
		return Message{}, missing("severity")
	}
	if len(p.Context) == 0 {
		p.Context = emptyObject
	}
	priority := High
	if p.Severity == "critical" {
		priority = Critical
	}
	return build(sender, TypeAlert, priority, p)
}

var emptyObject = json.RawMessage("{}")

func missing(field string) error {
	return &Error{Reason: ReasonMissingField, Field: "payload." + field, Rule: "is empty"}
}

// isNil reports whether v encodes as null because it is nil.
func isNil(v any) bool {
	if v == nil {
		return true
	}
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Map, reflect.Pointer, reflect.Slice, reflect.Interface:
		return r.IsNil()
	}
	return false
}

// build makes a message of now, and checks what it made without a limit to its size or depth, which are the encoder's.
func build(sender string, t Type, p Priority, payload any) (Message, error) {
	raw, err := EncodeJSON(payload)
	if err != nil {
		return Message{}, fmt.Errorf("%s payload: %w", t, err)
	}
	m, err := buildOf(sender, t, p, raw)
	if err != nil {
		return m, err
	}
	if err := m.Validate(Limits{MaxPayload: math.MaxInt, MaxDepth: math.MaxInt}); err != nil {
		return Message{}, err
	}
	return m, nil
}

// buildOf is build for a payload that is encoded and valid.
func buildOf(sender string, t Type, p Priority, raw json.RawMessage) (Message, error) {
	m := Message{
		Metadata: Metadata{
			Timestamp: Seconds(time.Now()),
			ID:        NewID(),
			Sender:    sender,
			Type:      t,
			Priority:  p,
		},
		Payload: raw,
	}
	if err := m.Metadata.validate(); err != nil {
		return Message{}, err
	}
	return m, nil
}

// NewID returns a fresh id for a message: a random UUID.
func NewID() string {
	var id uuid.UUID
	_, _ = rand.Read(id[:]) // never fails, says its documentation; and id stays on the stack, unlike in uuid.New
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id.String()
}
