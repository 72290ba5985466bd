// Package message is the wire format of the bus: the envelope, the seven message types, their validation,
// and their encoding with compression.
//
// Constructors such as [NewSensorData] make messages, [Encode] turns them into what goes over MQTT and [Decode] back.
// Payloads stay raw JSON until [Payload] or [SensorOf] decodes them into a type of the caller's.
//
// What is an envelope: a JSON object that has both keys "metadata" and "payload", or a "metadata" object with a
// "message_type". Whatever else arrives is a raw message, which is no error: plain text, numbers, arrays, other
// objects, bytes. An envelope that breaks a rule of the wire format is an [*Error], never a raw message; so is text
// that breaks off or is no JSON after a top-level key "metadata" or "payload", and JSON nested too deeply.
package message

import (
	"encoding/json"
	"math"
	"time"
)

// Type is the envelope's message_type.
type Type string

const (
	TypeSensorData Type = "sensor_data"
	TypeCommand    Type = "command"
	TypeResponse   Type = "response"
	TypeStatus     Type = "status"
	TypeEvent      Type = "event"
	TypeHeartbeat  Type = "heartbeat"
	TypeAlert      Type = "alert"
)

// types are all of them, the most frequent first.
var types = [...]Type{TypeSensorData, TypeStatus, TypeCommand, TypeResponse, TypeEvent, TypeHeartbeat, TypeAlert}

const mustBeType = "must be sensor_data, command, response, status, event, heartbeat or alert, not "

// Priority is the envelope's priority.
type Priority int

const (
	Low Priority = iota
	Normal
	High
	Critical
)

// String returns "low", "normal", "high" or "critical".
func (p Priority) String() string {
	switch p {
	case Low:
		return "low"
	case Normal:
		return "normal"
	case High:
		return "high"
	case Critical:
		return "critical"
	}
	return "unknown"
}

// Metadata is the envelope's metadata.
type Metadata struct {
	Timestamp     float64 // Unix seconds, over 0
	ID            string  // UUID on what we send
	Sender        string
	Type          Type
	Priority      Priority
	CorrelationID string  // "" is null
	ExpiresAt     float64 // Unix seconds; 0 is null
	RetryCount    int
}

// Time returns Timestamp as a time, to the microsecond. One before the year 1 or after the year 9999 is the first or the last of those, as
// in every zone JSON can say: a sender that counts milliseconds names the year 50,000 and more. NaN is the zero time.
func (m Metadata) Time() time.Time {
	const first, last = -62_135_596_800, 253_402_214_400 // 0001-01-01 and 9999-12-31
	if math.IsNaN(m.Timestamp) {
		return time.Time{}
	}
	return time.UnixMicro(int64(math.Round(min(max(m.Timestamp, first), last) * 1e6)))
}

// Seconds returns t as a Timestamp or ExpiresAt has it: Unix seconds, to the microsecond.
func Seconds(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }

// A Message is an envelope, or a raw message when it has none. Payload stays raw until asked for.
type Message struct {
	Metadata Metadata
	Payload  json.RawMessage // the envelope's payload object; the whole body of a raw message (may not be JSON then)
	Raw      bool            // no recognisable envelope
}

// NewRaw returns a message without an envelope. It keeps body, which must not change afterwards.
func NewRaw(body []byte) Message { return Message{Payload: body, Raw: true} }

// QoS returns the quality of service for a message: recommended, raised to 2 when critical; without a definition
// (defined false) by priority: low 0, normal and high 1, critical 2.
func QoS(p Priority, recommended byte, defined bool) byte {
	switch {
	case p >= Critical:
		return 2
	case defined:
		return recommended
	case p <= Low:
		return 0
	}
	return 1
}
