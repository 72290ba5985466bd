package message

import (
	"bytes"
	"encoding/json"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// What Python's json.dumps makes of one message: as it comes, and indented, in UTF-8, with the keys the other way round.
const (
	pythonMessage = `{"metadata": {"timestamp": 1763884800.1254783, "message_id": "0b1f6ad0-54a3-4ad7-a1f2-3f4a1f0b9a11", "sender": "ger\u00e4t-\ud83d\ude00", "message_type": "sensor_data", "priority": 1, "correlation_id": null, "expires_at": null, "retry_count": 0}, "payload": {"sensor_type": "gps", "device_id": null, "data": {"lat": 48.1, "note": "gr\u00fcn \"x\" \\ \n"}, "units": {"lat": "\u00b0"}, "quality": 1.0, "status": "healthy"}}`

	pythonIndented = `{
  "payload": {
    "sensor_type": "gps",
    "device_id": null,
    "data": {
      "lat": 48.1,
      "note": "grün \"x\" \\ \n"
    },
    "units": {
      "lat": "°"
    },
    "quality": 1.0,
    "status": "healthy"
  },
  "metadata": {
    "timestamp": 1763884800.1254783,
    "message_id": "0b1f6ad0-54a3-4ad7-a1f2-3f4a1f0b9a11",
    "sender": "gerät-😀",
    "message_type": "sensor_data",
    "priority": 1,
    "correlation_id": null,
    "expires_at": null,
    "retry_count": 0
  }
}`

	pythonNaN = `{"metadata": {"timestamp": 1763884800.1254783, "message_id": "0b1f6ad0-54a3-4ad7-a1f2-3f4a1f0b9a11", "sender": "ger\u00e4t-\ud83d\ude00", "message_type": "sensor_data", "priority": 1, "correlation_id": null, "expires_at": null, "retry_count": 0}, "payload": {"sensor_type": "gps", "device_id": null, "data": {"lat": 48.1, "x": [0, {"deep": -Infinity}]}, "units": {"lat": "\u00b0"}, "quality": 1.0, "status": "healthy"}}`
)

func TestDecodePython(t *testing.T) {
	for name, body := range map[string]string{"as it comes": pythonMessage, "indented": pythonIndented} {
		m, err := Decode([]byte(body), Limits{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want := Metadata{Timestamp: 1763884800.1254783, ID: "0b1f6ad0-54a3-4ad7-a1f2-3f4a1f0b9a11", Sender: "gerät-😀",
			Type: TypeSensorData, Priority: Normal}
		if m.Raw || m.Metadata != want {
			t.Errorf("%s: %+v, want %+v", name, m.Metadata, want)
		}
		p, err := Payload[SensorData](m)
		wantPayload := SensorData{SensorType: "gps", Data: map[string]any{"lat": 48.1, "note": "grün \"x\" \\ \n"},
			Units: map[string]string{"lat": "°"}, Quality: 1, Status: "healthy"}
		if err != nil || !reflect.DeepEqual(p, wantPayload) {
			t.Errorf("%s: %+v, %v; want %+v", name, p, err, wantPayload)
		}
	}
	m, err := Decode([]byte(pythonNaN), Limits{})
	wantError(t, "NaN", err, ReasonNotFinite, "payload.data.x[1].deep")
	if m.Metadata.Sender != "gerät-😀" || m.Payload != nil {
		t.Errorf("with the error comes %+v", m)
	}
}

// env returns an envelope with those metadata, of which "" stands for good ones, and payload.
func env(metadata, payload string) string {
	if metadata == "" {
		metadata = meta("status")
	}
	return `{"metadata":` + metadata + `,"payload":` + payload + `}`
}

func meta(typ string) string {
	return `{"timestamp":1.5,"message_id":"m","sender":"s","message_type":"` + typ + `","priority":1}`
}

// metaWith returns good metadata with another value for key; "" leaves it out.
func metaWith(key, value string) string {
	var b strings.Builder
	for _, kv := range [][2]string{{"timestamp", "1.5"}, {"message_id", `"m"`}, {"sender", `"s"`}, {"message_type", `"status"`},
		{"priority", "1"}, {"correlation_id", "null"}, {"expires_at", "null"}, {"retry_count", "0"}} {
		if kv[0] == key {
			kv[1] = value
		}
		if kv[1] != "" {
			b.WriteString(`,"` + kv[0] + `":` + kv[1])
		}
	}
	return "{" + b.String()[1:] + "}"
}

func TestDecodeGood(t *testing.T) {
	base := Metadata{Timestamp: 1.5, ID: "m", Sender: "s", Type: TypeStatus, Priority: Normal}
	with := func(f func(*Metadata)) Metadata { m := base; f(&m); return m }
	for name, tt := range map[string]struct {
		body string
		want Metadata
	}{
		"minimal":              {env("", "{}"), base},
		"white space":          {" \t\r\n" + strings.ReplaceAll(env("", "{}"), ":", " :\n") + "\n", base},
		"unknown keys":         {`{"a":[{}],"metadata":{"x":{"timestamp":"no"},"timestamp":1.5,"message_id":"m","sender":"s","message_type":"status","priority":1},"b":null,"payload":{}}`, base},
		"a repeated key":       {env(`{"priority":9,"timestamp":1.5,"message_id":"m","sender":"s","message_type":"status","priority":1}`, "{}"), base},
		"repeated metadata":    {`{"metadata":{"timestamp":"bad","sender":"old"},"metadata":` + meta("status") + `,"payload":{}}`, base},
		"repeated payload":     {`{"metadata":` + meta("status") + `,"payload":{"status":5},"payload":{}}`, base},
		"an escaped key":       {`{"m\u0065tadata":` + strings.Replace(meta("status"), "sender", `\u0073ender`, 1) + `,"p\u0061yload":{}}`, base},
		"an escaped type":      {env(metaWith("message_type", `"st\u0061tus"`), "{}"), base},
		"whole timestamp":      {env(metaWith("timestamp", "1"), "{}"), with(func(m *Metadata) { m.Timestamp = 1 })},
		"exponent":             {env(metaWith("timestamp", "1e9"), "{}"), with(func(m *Metadata) { m.Timestamp = 1e9 })},
		"tiny timestamp":       {env(metaWith("timestamp", "5e-324"), "{}"), with(func(m *Metadata) { m.Timestamp = 5e-324 })},
		"priority 3":           {env(metaWith("priority", "3"), "{}"), with(func(m *Metadata) { m.Priority = Critical })},
		"priority 2.0":         {env(metaWith("priority", "2.0"), "{}"), with(func(m *Metadata) { m.Priority = High })},
		"priority 20e-1":       {env(metaWith("priority", "20e-1"), "{}"), with(func(m *Metadata) { m.Priority = High })},
		"priority -0":          {env(metaWith("priority", "-0"), "{}"), with(func(m *Metadata) { m.Priority = Low })},
		"correlation id":       {env(metaWith("correlation_id", `"c"`), "{}"), with(func(m *Metadata) { m.CorrelationID = "c" })},
		"expiry":               {env(metaWith("expires_at", "2.25"), "{}"), with(func(m *Metadata) { m.ExpiresAt = 2.25 })},
		"retry count":          {env(metaWith("retry_count", "2147483647"), "{}"), with(func(m *Metadata) { m.RetryCount = math.MaxInt32 })},
		"retry count null":     {env(metaWith("retry_count", "null"), "{}"), base},
		"escapes":              {env(metaWith("sender", `"\"\\\/\b\f\n\r\t\u00e9\ud834\udd1e"`), "{}"), with(func(m *Metadata) { m.Sender = "\"\\/\b\f\n\r\té𝄞" })},
		"a lone surrogate":     {env(metaWith("sender", `"\ud800"`), "{}"), with(func(m *Metadata) { m.Sender = "\ufffd" })},
		"UTF-8":                {env(metaWith("sender", `"é𝄞"`), "{}"), with(func(m *Metadata) { m.Sender = "é𝄞" })},
		"free heartbeat":       {env(meta("heartbeat"), "[1]"), with(func(m *Metadata) { m.Type = TypeHeartbeat })},
		"null heartbeat":       {env(meta("heartbeat"), "null"), with(func(m *Metadata) { m.Type = TypeHeartbeat })},
		"sensor data":          {env(meta("sensor_data"), `{"sensor_type":"g","data":{},"quality":0,"units":null}`), with(func(m *Metadata) { m.Type = TypeSensorData })},
		"quality null":         {env(meta("sensor_data"), `{"sensor_type":"g","data":[1],"quality":null,"device_id":"d"}`), with(func(m *Metadata) { m.Type = TypeSensorData })},
		"command":              {env(meta("command"), `{"target":"t","command":"c"}`), with(func(m *Metadata) { m.Type = TypeCommand })},
		"response":             {env(meta("response"), `{"success":false,"result":[],"error":"e","execution_time":1}`), with(func(m *Metadata) { m.Type = TypeResponse })},
		"event":                {env(meta("event"), `{}`), with(func(m *Metadata) { m.Type = TypeEvent })},
		"alert":                {env(meta("alert"), `{}`), with(func(m *Metadata) { m.Type = TypeAlert })},
		"alert severity":       {env(meta("alert"), `{"severity":"criti\u0063al"}`), with(func(m *Metadata) { m.Type = TypeAlert })},
		"wrong keys elsewhere": {env("", `{"details":{"uptime":"x","status":1},"x":{"status":[]}}`), base},
		"depth 32":             {env("", nest(30)), base},
	} {
		m, err := Decode([]byte(tt.body), Limits{})
		if err != nil || m.Raw || m.Metadata != tt.want {
			t.Errorf("%s: %+v, %v; want %+v", name, m, err, tt.want)
			continue
		}
		if err := m.Validate(Limits{}); err != nil {
			t.Errorf("%s: Validate finds %v in what Decode accepts", name, err)
		}
	}
}

// nest returns an object in n levels of arrays.
func nest(n int) string {
	return `{"a":` + strings.Repeat("[", n) + strings.Repeat("]", n) + "}"
}

func TestDecodeBad(t *testing.T) {
	long := strings.Repeat("x", 10_000)
	for _, tt := range []struct {
		name, body string
		reason     Reason
		field      string
	}{
		{"too large", env("", `{"a":"`+long+`"}`), ReasonTooLarge, ""},
		{"too large raw", long + "x", ReasonTooLarge, ""},

		{"breaks off", `{"metadata":{"timestamp":1.5`, ReasonMalformed, "metadata"},
		{"breaks off in a key", `{"metadata":{"time`, ReasonMalformed, "metadata"},
		{"breaks off at the value", `{"metadata":`, ReasonMalformed, "metadata"},
		{"breaks off in the payload", strings.TrimSuffix(env("", `{"a":{"b":[1,2`), "}"), ReasonMalformed, "payload.a.b"},
		{"breaks off at the end", strings.TrimSuffix(env("", "{}"), "}"), ReasonMalformed, ""},
		{"payload first breaks off", `{"payload":{"a":`, ReasonMalformed, "payload.a"},
		{"something after", env("", "{}") + "x", ReasonMalformed, ""},
		{"two documents", env("", "{}") + env("", "{}"), ReasonMalformed, ""},
		{"a trailing comma", env("", `{"a":1,}`), ReasonMalformed, "payload"},
		{"single quotes", `{"metadata":{'a':1},"payload":{}}`, ReasonMalformed, "metadata"},
		{"a leading zero", env("", `{"a":01}`), ReasonMalformed, "payload"},
		{"a leading plus", env("", `{"a":+1}`), ReasonMalformed, "payload.a"},
		{"a bare point", env("", `{"a":1.}`), ReasonMalformed, "payload.a"},
		{"a control character", env("", "{\"a\":\"\x01\"}"), ReasonMalformed, "payload.a"},
		{"a bad escape", env("", `{"a":"\x41"}`), ReasonMalformed, "payload.a"},
		{"a bad unicode escape", env("", `{"a":"\u12g4"}`), ReasonMalformed, "payload.a"},
		{"Python's True", env("", `{"a":True}`), ReasonMalformed, "payload.a"},
		{"a NUL after", env("", "{}") + "\x00", ReasonMalformed, ""},
		{"an empty key", `{"metadata":{"":`, ReasonMalformed, `metadata.""`},
		{"an empty key in the payload", env("", `{"":{"":?}}`), ReasonMalformed, `payload."".""`},
		{"a key with a bracket", env("", `{"[0]":?}`), ReasonMalformed, `payload."[0]"`},
		{"a long key", env("", `{"`+long[:100]+`":?}`), ReasonMalformed, `payload."` + long[:64] + `..."`},
		{"a strange key", env("", `{"a.b":{"c d":?}}`), ReasonMalformed, `payload."a.b".c d`},

		{"depth 33", env("", nest(31)), ReasonTooDeep, "payload.a" + strings.Repeat("[0]", 30)},
		{"depth 33 in metadata", env(metaWith("x", "1")[:1]+`"x":`+strings.Repeat("[", 31)+strings.Repeat("]", 31)+","+meta("status")[1:], "{}"), ReasonTooDeep, "metadata.x" + strings.Repeat("[0]", 30)},
		{"depth in raw JSON", strings.Repeat("[", 4000), ReasonTooDeep, strings.Repeat("[0]", 32)},
		{"depth in other JSON", strings.Repeat(`{"a":`, 1900), ReasonTooDeep, strings.Repeat("a.", 31) + "a"},

		{"invalid UTF-8", env("", "{\"a\":[\"\xff\"]}"), ReasonUTF8, "payload.a[0]"},
		{"invalid UTF-8 sender", env(metaWith("sender", "\"a\xffb\""), "{}"), ReasonUTF8, "metadata.sender"},
		{"invalid UTF-8 key", env("", "{\"\xc0\xaf\":1}"), ReasonUTF8, "payload"},
		{"an encoded surrogate", env("", "{\"a\":\"\xed\xa0\x80\"}"), ReasonUTF8, "payload.a"},
		{"an overlong NUL", env("", "{\"a\":\"\xc0\x80\"}"), ReasonUTF8, "payload.a"},
		{"half a character", env("", "{\"a\":\"\xf0\x9d\x84\"}"), ReasonUTF8, "payload.a"},

		{"NaN", env("", `{"a":NaN}`), ReasonNotFinite, "payload.a"},
		{"Infinity", env("", `{"a":{"b":[1,Infinity]}}`), ReasonNotFinite, "payload.a.b[1]"},
		{"-Infinity", env("", `{"a":-Infinity}`), ReasonNotFinite, "payload.a"},
		{"1e999", env("", `{"a":1e999}`), ReasonNotFinite, "payload.a"},
		{"a number of 400 digits", env("", `{"a":`+strings.Repeat("9", 400)+`}`), ReasonNotFinite, "payload.a"},
		{"NaN timestamp", env(metaWith("timestamp", "NaN"), "{}"), ReasonNotFinite, "metadata.timestamp"},
		{"1e400 priority", env(metaWith("priority", "1e400"), "{}"), ReasonNotFinite, "metadata.priority"},
		{"NaN breaks off", env("", `{"a":Na}`), ReasonMalformed, "payload.a"},

		{"metadata a number", env("5", "{}"), ReasonWrongType, "metadata"},
		{"metadata null", env("null", "{}"), ReasonWrongType, "metadata"},
		{"metadata empty", env("{}", "{}"), ReasonMissingField, "metadata.timestamp"},
		{"no payload", `{"metadata":` + meta("status") + `}`, ReasonMissingField, "payload"},
		{"the last metadata counts", `{"metadata":` + meta("status") + `,"metadata":{"sender":"s"},"payload":{}}`, ReasonMissingField, "metadata.timestamp"},

		{"no timestamp", env(metaWith("timestamp", ""), "{}"), ReasonMissingField, "metadata.timestamp"},
		{"timestamp null", env(metaWith("timestamp", "null"), "{}"), ReasonWrongType, "metadata.timestamp"},
		{"timestamp text", env(metaWith("timestamp", `"1.5"`), "{}"), ReasonWrongType, "metadata.timestamp"},
		{"timestamp 0", env(metaWith("timestamp", "0"), "{}"), ReasonOutOfRange, "metadata.timestamp"},
		{"timestamp -0.0", env(metaWith("timestamp", "-0.0"), "{}"), ReasonOutOfRange, "metadata.timestamp"},
		{"timestamp negative", env(metaWith("timestamp", "-1e9"), "{}"), ReasonOutOfRange, "metadata.timestamp"},
		{"timestamp underflow", env(metaWith("timestamp", "1e-999"), "{}"), ReasonOutOfRange, "metadata.timestamp"},
		{"no message id", env(metaWith("message_id", ""), "{}"), ReasonMissingField, "metadata.message_id"},
		{"message id empty", env(metaWith("message_id", `""`), "{}"), ReasonMissingField, "metadata.message_id"},
		{"message id number", env(metaWith("message_id", "7"), "{}"), ReasonWrongType, "metadata.message_id"},
		{"no sender", env(metaWith("sender", ""), "{}"), ReasonMissingField, "metadata.sender"},
		{"sender empty", env(metaWith("sender", `""`), "{}"), ReasonMissingField, "metadata.sender"},
		{"sender array", env(metaWith("sender", `["s"]`), "{}"), ReasonWrongType, "metadata.sender"},
		{"no type", env(metaWith("message_type", ""), "{}"), ReasonMissingField, "metadata.message_type"},
		{"type unknown", env(meta("telemetry"), "{}"), ReasonUnknownType, "metadata.message_type"},
		{"type empty", env(meta(""), "{}"), ReasonUnknownType, "metadata.message_type"},
		{"type in capitals", env(meta("STATUS"), "{}"), ReasonUnknownType, "metadata.message_type"},
		{"type boolean", env(metaWith("message_type", "true"), "{}"), ReasonWrongType, "metadata.message_type"},
		{"type very long", env(meta(long[:5000]), "{}"), ReasonUnknownType, "metadata.message_type"},
		{"no priority", env(metaWith("priority", ""), "{}"), ReasonMissingField, "metadata.priority"},
		{"priority text", env(metaWith("priority", `"high"`), "{}"), ReasonWrongType, "metadata.priority"},
		{"priority 1.5", env(metaWith("priority", "1.5"), "{}"), ReasonWrongType, "metadata.priority"},
		{"priority 4", env(metaWith("priority", "4"), "{}"), ReasonOutOfRange, "metadata.priority"},
		{"priority -1", env(metaWith("priority", "-1"), "{}"), ReasonOutOfRange, "metadata.priority"},
		{"priority 1e300", env(metaWith("priority", "1e300"), "{}"), ReasonOutOfRange, "metadata.priority"},
		{"correlation id number", env(metaWith("correlation_id", "7"), "{}"), ReasonWrongType, "metadata.correlation_id"},
		{"expiry text", env(metaWith("expires_at", `"soon"`), "{}"), ReasonWrongType, "metadata.expires_at"},
		{"expiry 0", env(metaWith("expires_at", "0"), "{}"), ReasonOutOfRange, "metadata.expires_at"},
		{"retry count text", env(metaWith("retry_count", `"2"`), "{}"), ReasonWrongType, "metadata.retry_count"},
		{"retry count 0.5", env(metaWith("retry_count", "0.5"), "{}"), ReasonWrongType, "metadata.retry_count"},
		{"retry count -1", env(metaWith("retry_count", "-1"), "{}"), ReasonOutOfRange, "metadata.retry_count"},
		{"retry count large", env(metaWith("retry_count", "2147483648"), "{}"), ReasonOutOfRange, "metadata.retry_count"},

		{"payload array", env("", "[]"), ReasonWrongType, "payload"},
		{"payload null", env("", "null"), ReasonWrongType, "payload"},
		{"payload text", env("", `"x"`), ReasonWrongType, "payload"},
		{"sensor data: no type", env(meta("sensor_data"), `{"data":{}}`), ReasonMissingField, "payload.sensor_type"},
		{"sensor data: type null", env(meta("sensor_data"), `{"sensor_type":null,"data":{}}`), ReasonWrongType, "payload.sensor_type"},
		{"sensor data: no data", env(meta("sensor_data"), `{"sensor_type":"g"}`), ReasonMissingField, "payload.data"},
		{"sensor data: the last payload counts", `{"payload":{"sensor_type":"g","data":{}},"metadata":` + meta("sensor_data") + `,"payload":{"sensor_type":"g"}}`, ReasonMissingField, "payload.data"},
		{"sensor data: data deeper", env(meta("sensor_data"), `{"sensor_type":"g","x":{"data":{}}}`), ReasonMissingField, "payload.data"},
		{"sensor data: quality text", env(meta("sensor_data"), `{"sensor_type":"g","data":{},"quality":"good"}`), ReasonWrongType, "payload.quality"},
		{"sensor data: quality 1.01", env(meta("sensor_data"), `{"sensor_type":"g","data":{},"quality":1.01}`), ReasonOutOfRange, "payload.quality"},
		{"sensor data: quality -1", env(meta("sensor_data"), `{"sensor_type":"g","data":{},"quality":-1}`), ReasonOutOfRange, "payload.quality"},
		{"sensor data: units", env(meta("sensor_data"), `{"sensor_type":"g","data":{},"units":"m"}`), ReasonWrongType, "payload.units"},
		{"command: no target", env(meta("command"), `{"command":"c"}`), ReasonMissingField, "payload.target"},
		{"command: no command", env(meta("command"), `{"target":"t"}`), ReasonMissingField, "payload.command"},
		{"command: command object", env(meta("command"), `{"target":"t","command":{}}`), ReasonWrongType, "payload.command"},
		{"command: parameters", env(meta("command"), `{"target":"t","command":"c","parameters":[]}`), ReasonWrongType, "payload.parameters"},
		{"command: timeout", env(meta("command"), `{"target":"t","command":"c","timeout":"soon"}`), ReasonWrongType, "payload.timeout"},
		{"command: require_ack", env(meta("command"), `{"target":"t","command":"c","require_ack":1}`), ReasonWrongType, "payload.require_ack"},
		{"response: no success", env(meta("response"), `{}`), ReasonMissingField, "payload.success"},
		{"response: success 1", env(meta("response"), `{"success":1}`), ReasonWrongType, "payload.success"},
		{"response: success null", env(meta("response"), `{"success":null}`), ReasonWrongType, "payload.success"},
		{"response: error", env(meta("response"), `{"success":false,"error":{}}`), ReasonWrongType, "payload.error"},
		{"status: uptime", env("", `{"uptime":"1h"}`), ReasonWrongType, "payload.uptime"},
		{"event: type", env(meta("event"), `{"event_type":5}`), ReasonWrongType, "payload.event_type"},
		{"alert: severity", env(meta("alert"), `{"severity":"fatal"}`), ReasonOutOfRange, "payload.severity"},
		{"alert: acknowledged", env(meta("alert"), `{"acknowledged":"no"}`), ReasonWrongType, "payload.acknowledged"},
	} {
		m, err := Decode([]byte(tt.body), Limits{})
		wantError(t, tt.name, err, tt.reason, tt.field)
		if m.Payload != nil || m.Raw {
			t.Errorf("%s: a payload comes with the error", tt.name)
		}
	}
}

// TestDecodeBadKeepsMetadata: whoever sent a bad message can be answered.
func TestDecodeBadKeepsMetadata(t *testing.T) {
	good := `{"timestamp":1.5,"message_id":"m","sender":"s","message_type":"command","priority":1,"correlation_id":"c"}`
	want := Metadata{Timestamp: 1.5, ID: "m", Sender: "s", Type: TypeCommand, Priority: Normal, CorrelationID: "c"}
	for name, tt := range map[string]struct {
		body string
		want Metadata
	}{
		"payload":       {env(good, `{"target":"t"}`), want},
		"payload NaN":   {env(good, `{"target":"t","command":"c","parameters":{"a":NaN}}`), want},
		"payload UTF-8": {env(good, "{\"target\":\"\xff\"}"), want},
		"too deep":      {env(good, nest(40)), want},
		"malformed":     {env(good, `{"a"`), want},
		"priority":      {env(strings.Replace(good, `:1,`, `:7,`, 1), "{}"), Metadata{Timestamp: 1.5, ID: "m", Sender: "s", Type: TypeCommand, CorrelationID: "c"}},
		"timestamp":     {env(strings.Replace(good, "1.5", "NaN", 1), "{}"), Metadata{ID: "m", Sender: "s", Type: TypeCommand, Priority: Normal, CorrelationID: "c"}},
		"sender":        {env(strings.Replace(good, `"s"`, "\"\xff\"", 1), "{}"), Metadata{Timestamp: 1.5, ID: "m", Type: TypeCommand, Priority: Normal, CorrelationID: "c"}},
		"second metadata breaks off": {`{"metadata":` + good + `,"metadata":{"sender":"another sender with a longer name",`,
			Metadata{}},
	} {
		m, err := Decode([]byte(tt.body), Limits{})
		if err == nil || m.Metadata != tt.want {
			t.Errorf("%s: %+v, %v; want %+v", name, m.Metadata, err, tt.want)
		}
	}
}

func TestDecodeRaw(t *testing.T) {
	for _, body := range []string{
		"", " ", "hello", "5", "-1.5e3", "true", "null", "NaN", `"text"`, `"metadata"`, "[]", "[1,2", "[NaN]", "[[[[]]]]", "{}", "{", "{hello}",
		`{"temperature":21.5}`, `{"temperature":NaN}`, `{"temperature":`, `{"a":{"metadata":{},"payload":{}}}`,
		`{"metadata":5}`, `{"metadata":{"author":"x"}}`, `{"payload":{}}`, `{"Metadata":{},"Payload":{}}`,
		`["metadata","payload"]`, `[` + env("", "{}") + `]`, "{\"a\":\"\xff\"}", "\xff\xd8\xff\xe0", "\x1f", "\x00", "\xef\xbb\xbf{}",
		"on", "48.1,11.5",
	} {
		m, err := Decode([]byte(body), Limits{})
		if err != nil || !m.Raw || string(m.Payload) != body || m.Metadata != (Metadata{}) {
			t.Errorf("%q: %+v, %v", body, m, err)
		}
		if err := m.Validate(Limits{}); err != nil {
			t.Errorf("%q: Validate: %v", body, err)
		}
	}
}

func TestDecodeLimits(t *testing.T) {
	body := []byte(env("", nest(3)))
	if _, err := Decode(body, Limits{MaxPayload: len(body), MaxDepth: 5}); err != nil {
		t.Error(err)
	}
	_, err := Decode(body, Limits{MaxPayload: len(body) - 1})
	wantError(t, "size", err, ReasonTooLarge, "")
	_, err = Decode(body, Limits{MaxDepth: 4})
	wantError(t, "depth", err, ReasonTooDeep, "payload.a[0][0]")
}

// TestDecodeOwnsStrings: the metadata stays what it was when the caller reuses its buffer.
func TestDecodeOwnsStrings(t *testing.T) {
	body := []byte(env("", "{}"))
	m, err := Decode(body, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range body {
		body[i] = 'X'
	}
	if m.Metadata.Sender != "s" || m.Metadata.ID != "m" || m.Metadata.Type != TypeStatus {
		t.Errorf("the metadata became %+v", m.Metadata)
	}
}

// scans reports whether the scanner finds b to be JSON, and where a number stands that is not finite.
func scans(b []byte) (ok bool, notFinite int) {
	s := newScanner(b, math.MaxInt)
	_, ok = s.document(nested, 0)
	return ok && s.badUTF8 < 0, s.notFinite
}

// agree compares the scanner's verdict with encoding/json's, which knows no UTF-8, no limit to numbers, and no NaN.
func agree(t *testing.T, b []byte) {
	t.Helper()
	ok, at := scans(b)
	for ok && at >= 0 { // put a number that both know in its place
		s := scanner{b: b}
		end := int(s.numberEnd(at))
		if f, _ := strconv.ParseFloat(string(b[at:end]), 64); isFinite(f) {
			t.Errorf("%q: %s is finite", b, b[at:end])
		}
		b = slices.Concat(b[:at], []byte("0"), b[end:])
		ok, at = scans(b)
	}
	if valid := json.Valid(b) && utf8.Valid(b); ok != valid {
		t.Errorf("%q: the scanner says %v, encoding/json %v", b, ok, valid)
	}
}

func TestScannerAgreesWithJSON(t *testing.T) {
	seeds := []string{
		pythonMessage, pythonIndented, pythonNaN, env("", nest(5)),
		`{"a":[1,-2.5e+10,0,-0,1E5,0.1e-3,true,false,null,"","x\u00e9\ud800\n",{},[],[[]],{"b":{"c":"é𝄞"}}]}`,
		`[1e999,-1e400,1e-400,123456789012345678901234567890]`,
	}
	r := rand.New(rand.NewPCG(1, 2))
	const alphabet = "{}[]:,\"\\/bfnrtu019-+.eE \n\x00\x1f\x7f\x80\xc3\xa9\xffNaNInfinitytruefalsenull"
	for _, seed := range seeds {
		agree(t, []byte(seed))
		for range 8_000 {
			b := []byte(seed)
			for range 1 + r.IntN(3) {
				i := r.IntN(len(b))
				c := alphabet[r.IntN(len(alphabet))]
				switch r.IntN(4) {
				case 0:
					b[i] = c
				case 1:
					b = slices.Insert(b, i, c)
				case 2:
					b = b[:i+1]
				case 3:
					b = slices.Delete(b, i, min(i+1, len(b)-1)) // never the last
				}
			}
			agree(t, b)
		}
	}
	for n := 1; n <= 3; n++ { // every short text of the characters that mean something
		rec(nil, n, `{}[]:,"\u0-.e1tn é`, func(b []byte) { agree(t, b) })
	}
}

func rec(prefix []byte, n int, alphabet string, f func([]byte)) {
	if n == 0 {
		f(prefix)
		return
	}
	for i := range len(alphabet) {
		rec(append(bytes.Clone(prefix), alphabet[i]), n-1, alphabet, f)
	}
}

// decodeSlowly is what Decode must make of an envelope, by encoding/json.
func decodeSlowly(t *testing.T, body []byte) Message {
	t.Helper()
	var top, md map[string]json.RawMessage // unlike structs, maps compare keys exactly
	if err := json.Unmarshal(body, &top); err != nil {
		t.Fatalf("%q: %v", body, err)
	}
	if err := json.Unmarshal(top["metadata"], &md); err != nil {
		t.Fatalf("%q: %v", body, err)
	}
	get := func(key string, v any) {
		if raw, ok := md[key]; ok {
			if err := json.Unmarshal(raw, v); err != nil {
				t.Fatalf("%q: %s: %v", body, key, err)
			}
		}
	}
	var m Metadata
	var priority, retries float64
	get("timestamp", &m.Timestamp)
	get("message_id", &m.ID)
	get("sender", &m.Sender)
	get("message_type", &m.Type)
	get("priority", &priority)
	get("correlation_id", &m.CorrelationID)
	get("expires_at", &m.ExpiresAt)
	get("retry_count", &retries)
	m.Priority, m.RetryCount = Priority(priority), int(retries)
	return Message{Metadata: m, Payload: top["payload"]}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		pythonMessage, pythonIndented, pythonNaN, "hello", "5", `{"a":1}`, "[[[", env("", nest(31)), `{"metadata":{"sender":"`,
		env(metaWith("timestamp", "1e-7"), "{}"), env(metaWith("timestamp", "1e300"), "{}"), env(metaWith("timestamp", "0.000001"), "{}"),
		env(metaWith("expires_at", "9007199254.740993"), "{}"), env(metaWith("sender", `"\ud800\u0000\"<"`), "{}"),
		`{"metadata":` + meta("command") + `,"metadata":{"sender":"x`, env("", "{\"a\":\"\xff\"}"), "\x1f\x8b\x08",
		string(deflate([]byte(pythonMessage))),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		lim := Limits{MaxPayload: 1 << 16}
		m, err := Decode(body, lim)
		if IsCompressed(body) {
			return // what it must not do is panic; the rest is the same
		}
		agree(t, body)
		if len(body) > lim.MaxPayload {
			return
		}
		switch {
		case err != nil:
			if err.Error() == "" || m.Payload != nil {
				t.Errorf("%q: error %q with payload %q", body, err, m.Payload)
			}
			return
		case m.Raw:
			var top map[string]json.RawMessage
			if json.Unmarshal(body, &top) == nil && top["metadata"] != nil && top["payload"] != nil {
				t.Errorf("%q is an envelope", body)
			}
			if !bytes.Equal(m.Payload, body) {
				t.Errorf("%q became %q", body, m.Payload)
			}
			return
		}
		if want := decodeSlowly(t, body); !reflect.DeepEqual(m, want) {
			t.Errorf("%q:\ngot  %+v\nwant %+v", body, m, want)
		}
		if err := m.Validate(lim); err != nil {
			t.Errorf("%q: Validate: %v", body, err)
		}
		again, err := m.Append(nil)
		if err != nil {
			t.Fatalf("%q: Append: %v", body, err)
		}
		back, err := Decode(again, Limits{MaxPayload: math.MaxInt})
		if err != nil || !reflect.DeepEqual(back, m) {
			t.Errorf("%q became %q: %v\ngot  %+v\nwant %+v", body, again, err, back, m)
		}
	})
}

// TestPlainBytes compares with the table, byte by byte.
func TestPlainBytes(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for c := range 256 {
		for range 200 {
			var w uint64
			want := 8
			for i := range 8 {
				b := byte(r.IntN(256))
				if r.IntN(3) > 0 {
					b = 'a'
				}
				if r.IntN(8) == 0 {
					b = byte(c)
				}
				if !plain[b] && want == 8 {
					want = i
				}
				w |= uint64(b) << (8 * i)
			}
			if got := plainBytes(w); got != want {
				t.Fatalf("%016x: %d, want %d", w, got, want)
			}
		}
	}
}
