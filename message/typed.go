package message

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// Payload decodes m's payload into T, a type of the caller's or one of this package's ([SensorData], [Command],
// [Response], [Status], [Event], [Alert]), whose defaults then stand for absent fields. Unknown keys are ignored. The
// body of a raw message is decoded as JSON too. The json.RawMessage of a Command or a Response is a part of m's payload.
//
// The error is an *[Error] that names the field: "payload.data.temperature must be a number, not a string".
func Payload[T any](m Message) (T, error) {
	var v T // not what payloadOf has, which escapes to the heap
	if decodeDirect(m.Payload, &v) {
		return v, nil
	}
	return payloadOf[T](m)
}

func payloadOf[T any](m Message) (T, error) {
	var v T
	setDefaults(&v)
	err := decodePayload(m, &v)
	return v, err
}

// SensorOf decodes a sensor_data payload whose data is a T. See Payload. The error for another message is an *[Error] of
// the reason wrong_type.
func SensorOf[T any](m Message) (T, error) {
	var v struct {
		Data T `json:"data"`
	}
	switch {
	case m.Raw:
		return v.Data, &Error{Reason: ReasonWrongType, Rule: "must be sensor_data, but is a raw message"}
	case m.Metadata.Type != TypeSensorData:
		return v.Data, &Error{Reason: ReasonWrongType, Field: "metadata.message_type",
			Rule: fmt.Sprintf("must be sensor_data, not %s", m.Metadata.Type)}
	}
	err := decodePayload(m, &v)
	return v.Data, err
}

// setDefaults sets what an absent field of a payload of ours means.
func setDefaults(v any) {
	switch p := v.(type) {
	case *SensorData:
		p.Quality, p.Status = defaultQuality, defaultStatus
	case *Command:
		p.Timeout = defaultTimeout
	case *Event:
		p.Category = defaultCategory
	}
}

func decodePayload(m Message, v any) error {
	raw := m.Payload
	if len(raw) == 0 && !m.Raw {
		raw = emptyObject // as it goes over MQTT
	}
	err := DecodeJSON(raw, v)
	if err == nil {
		return nil
	}
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return &Error{Reason: ReasonWrongType, Field: inPayload(wrong.Field), Rule: typeRule(wrong)}
	}
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return &Error{Reason: ReasonMalformed, Field: "payload", Rule: "is malformed JSON: " + err.Error()}
	}
	return fmt.Errorf("payload: %w", err) // of an UnmarshalJSON of the caller's
}

// typeRule says in the words of JSON what was expected and what was found.
func typeRule(e *json.UnmarshalTypeError) string {
	if n, ok := strings.CutPrefix(e.Value, "number "); ok { // a number that does not fit
		return fmt.Sprintf("must fit %s, not %s", e.Type, n)
	}
	return fmt.Sprintf("must be %s, not %s", jsonType(e.Type), article(e.Value))
}

func jsonType(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return boolean.String()
	case reflect.String:
		return text.String()
	case reflect.Slice, reflect.Array:
		return array.String()
	case reflect.Map, reflect.Struct:
		return object.String()
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr,
		reflect.Float32, reflect.Float64:
		return number.String()
	}
	return t.String()
}

// article turns encoding/json's name of a JSON type into a person's.
func article(value string) string {
	switch value {
	case "bool":
		return boolean.String()
	case "array", "object":
		return "an " + value
	}
	return "a " + value
}
