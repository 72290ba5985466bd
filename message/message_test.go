package message

import (
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
)

// fixed replaces what differs from run to run.
func fixed(m Message) Message {
	m.Metadata.Timestamp = 1763884800.125
	m.Metadata.ID = "0b1f6ad0-54a3-4ad7-a1f2-3f4a1f0b9a11"
	return m
}

const fixedStart = `{"metadata":{"timestamp":1763884800.125,"message_id":"0b1f6ad0-54a3-4ad7-a1f2-3f4a1f0b9a11","sender":"nav",`

// TestGolden holds the bytes of each type, with the defaults of the wire format and with everything set.
func TestGolden(t *testing.T) {
	const rest = `"correlation_id":null,"expires_at":null,"retry_count":0},"payload":`
	make := func(m Message, err error) Message {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return fixed(m)
	}
	full := make(NewCommand("nav", Command{Target: "gps", Command: "read", Parameters: []byte(`{"a":1}`), Timeout: 2.5, RequireAck: new(false)}))
	full.Metadata.CorrelationID = "c\"1"
	full.Metadata.ExpiresAt = 1763884802.6250002
	full.Metadata.RetryCount = 2
	full.Metadata.Priority = Critical

	for _, tt := range []struct {
		name string
		m    Message
		want string
	}{
		{"sensor_data", make(NewSensorData("nav", SensorData{SensorType: "gps"})),
			`"message_type":"sensor_data","priority":1,` + rest +
				`{"sensor_type":"gps","device_id":null,"data":{},"units":{},"quality":1,"status":"healthy"}}`},
		{"sensor_data full", make(NewSensorData("nav", SensorData{SensorType: "gps", DeviceID: new("d1"),
			Data: struct {
				T float64 `json:"t"`
				S string  `json:"s"`
			}{math.NaN(), "<&>"},
			Units: map[string]string{"t": "°C"}, Quality: 0.25, Status: "degraded"})),
			`"message_type":"sensor_data","priority":1,` + rest +
				`{"sensor_type":"gps","device_id":"d1","data":{"t":null,"s":"<&>"},"units":{"t":"°C"},"quality":0.25,"status":"degraded"}}`},
		{"command", make(NewCommand("nav", Command{Target: "gps", Command: "read"})),
			`"message_type":"command","priority":1,` + rest +
				`{"target":"gps","command":"read","parameters":{},"timeout":30,"require_ack":true}}`},
		{"command full", full,
			`"message_type":"command","priority":3,"correlation_id":"c\"1","expires_at":1763884802.6250002,"retry_count":2},` +
				`"payload":{"target":"gps","command":"read","parameters":{"a":1},"timeout":2.5,"require_ack":false}}`},
		{"response", make(NewResponse("nav", Response{Success: true})),
			`"message_type":"response","priority":1,` + rest + `{"success":true,"result":null,"error":null,"execution_time":null}}`},
		{"response full", make(NewResponse("nav", Response{Result: []byte("[1]"), Error: new("no fix"), ExecutionTime: new(0.5)})),
			`"message_type":"response","priority":1,` + rest + `{"success":false,"result":[1],"error":"no fix","execution_time":0.5}}`},
		{"status", make(NewStatus("nav", Status{Status: "healthy", Uptime: 12.5, Version: "1.0", Resources: Resources{1, 2.5, 3}})),
			`"message_type":"status","priority":0,` + rest +
				`{"status":"healthy","uptime":12.5,"version":"1.0","details":{},"resources":{"cpu_usage":1,"memory_usage":2.5,"disk_usage":3}}}`},
		{"event", make(NewEvent("nav", Event{EventType: "docked"})),
			`"message_type":"event","priority":1,` + rest + `{"event_type":"docked","event_data":{},"source":"nav","category":"system"}}`},
		{"alert", make(NewAlert("nav", Alert{AlertType: "tilt", Severity: "warning", Message: "38°"})),
			`"message_type":"alert","priority":2,` + rest +
				`{"alert_type":"tilt","severity":"warning","message":"38°","acknowledged":false,"auto_resolve":false,"context":{}}}`},
		{"alert critical", make(NewAlert("nav", Alert{AlertType: "tilt", Severity: "critical", Context: []byte(`{"deg":38}`)})),
			`"message_type":"alert","priority":3,` + rest +
				`{"alert_type":"tilt","severity":"critical","message":"","acknowledged":false,"auto_resolve":false,"context":{"deg":38}}}`},
		{"heartbeat", make(NewHeartbeat("nav", nil)), `"message_type":"heartbeat","priority":1,` + rest + `{}}`},
		{"heartbeat free", make(NewHeartbeat("nav", []int{1, 2})), `"message_type":"heartbeat","priority":1,` + rest + `[1,2]}`},
		{"no payload", Message{Metadata: make(NewHeartbeat("nav", nil)).Metadata}, `"message_type":"heartbeat","priority":1,` + rest + `{}}`},
		{"raw", NewRaw([]byte("hello \xff")), "hello \xff"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := tt.want
			if !tt.m.Raw {
				want = fixedStart + want
			}
			got, err := tt.m.Append([]byte("before"))
			if err != nil || string(got) != "before"+want {
				t.Errorf("Append: %v\ngot  %s\nwant %s", err, got, want)
			}
			body, compressed, err := Encode(&tt.m, Limits{})
			if err != nil || compressed || string(body) != want {
				t.Errorf("Encode: %v, compressed %v\ngot  %s\nwant %s", err, compressed, body, want)
			}
			back, err := Decode(body, Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if len(tt.m.Payload) == 0 {
				tt.m.Payload = emptyObject
			}
			if !reflect.DeepEqual(back, tt.m) {
				t.Errorf("decoded\n%+v, want\n%+v", back, tt.m)
			}
		})
	}
}

func TestConstructorsFillMetadata(t *testing.T) {
	before := Seconds(time.Now())
	a, err := NewEvent("nav", Event{EventType: "x"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewEvent("nav", Event{EventType: "x"})
	if err != nil {
		t.Fatal(err)
	}
	after := Seconds(time.Now())
	if a.Metadata.Timestamp < before || a.Metadata.Timestamp > after {
		t.Errorf("timestamp %f is not from %f to %f", a.Metadata.Timestamp, before, after)
	}
	if len(a.Metadata.ID) != 36 || a.Metadata.ID[14] != '4' || a.Metadata.ID == b.Metadata.ID {
		t.Errorf("ids %q and %q, want two version 4 UUIDs", a.Metadata.ID, b.Metadata.ID)
	}
}

func TestConstructorsRefuse(t *testing.T) {
	discard := func(_ Message, err error) error { return err }
	for name, tt := range map[string]struct {
		err    error
		reason Reason
		field  string
	}{
		"no sender":         {discard(NewHeartbeat("", nil)), ReasonMissingField, "metadata.sender"},
		"sender not UTF-8":  {discard(NewHeartbeat("\xff", nil)), ReasonUTF8, "metadata.sender"},
		"no sensor type":    {discard(NewSensorData("a", SensorData{})), ReasonMissingField, "payload.sensor_type"},
		"quality over 1":    {discard(NewSensorData("a", SensorData{SensorType: "x", Quality: 1.5})), ReasonOutOfRange, "payload.quality"},
		"quality under 0":   {discard(NewSensorData("a", SensorData{SensorType: "x", Quality: -0.5})), ReasonOutOfRange, "payload.quality"},
		"no target":         {discard(NewCommand("a", Command{Command: "x"})), ReasonMissingField, "payload.target"},
		"no command":        {discard(NewCommand("a", Command{Target: "x"})), ReasonMissingField, "payload.command"},
		"negative timeout":  {discard(NewCommand("a", Command{Target: "x", Command: "y", Timeout: -1})), ReasonOutOfRange, "payload.timeout"},
		"parameters a list": {discard(NewCommand("a", Command{Target: "x", Command: "y", Parameters: []byte("[]")})), ReasonWrongType, "payload.parameters"},
		"no event type":     {discard(NewEvent("a", Event{})), ReasonMissingField, "payload.event_type"},
		"no alert type":     {discard(NewAlert("a", Alert{Severity: "info"})), ReasonMissingField, "payload.alert_type"},
		"no severity":       {discard(NewAlert("a", Alert{AlertType: "x"})), ReasonMissingField, "payload.severity"},
		"unknown severity":  {discard(NewAlert("a", Alert{AlertType: "x", Severity: "fatal"})), ReasonOutOfRange, "payload.severity"},
	} {
		wantError(t, name, tt.err, tt.reason, tt.field)
	}
	if _, err := NewSensorData("a", SensorData{SensorType: "x", Data: make(chan int)}); err == nil || !strings.Contains(err.Error(), "sensor_data payload") {
		t.Errorf("a channel as data: %v", err)
	}
	if _, err := NewEvent("a", Event{EventType: "x", EventData: []byte("{")}); err == nil {
		t.Error("malformed event data is accepted")
	}
}

func wantError(t *testing.T, name string, err error, reason Reason, field string) {
	t.Helper()
	var e *Error
	switch {
	case !errors.As(err, &e):
		t.Errorf("%s: %v, want an *Error %s %s", name, err, reason, field)
	case e.Reason != reason || e.Field != field:
		t.Errorf("%s: %s %q (%v), want %s %q", name, e.Reason, e.Field, e, reason, field)
	case e.Rule == "" || len(e.Error()) > 500:
		t.Errorf("%s: the error reads %q", name, e)
	}
}

// TestQuality holds the rule for a quality of zero.
func TestQuality(t *testing.T) {
	for _, tt := range []struct {
		quality float64
		status  string
		want    float64
	}{
		{0, "", 1}, {0, "healthy", 1}, {0, "error", 0}, {0.5, "", 0.5}, {1, "error", 1},
	} {
		m, err := NewSensorData("a", SensorData{SensorType: "x", Quality: tt.quality, Status: tt.status})
		if err != nil {
			t.Fatal(err)
		}
		if p, err := Payload[SensorData](m); err != nil || p.Quality != tt.want {
			t.Errorf("quality %v with status %q is sent as %v (%v), want %v", tt.quality, tt.status, p.Quality, err, tt.want)
		}
	}
	m, err := NewSensorData("a", SensorData{SensorType: "x", Quality: math.NaN()})
	if err != nil || !strings.Contains(string(m.Payload), `"quality":null`) {
		t.Errorf("NaN: %s, %v", m.Payload, err)
	}
}

func TestNilData(t *testing.T) {
	for name, data := range map[string]any{"nil": nil, "nil map": map[string]int(nil), "nil pointer": (*int)(nil)} {
		m, err := NewSensorData("a", SensorData{SensorType: "x", Data: data})
		if err != nil || !strings.Contains(string(m.Payload), `"data":{}`) {
			t.Errorf("%s: %s, %v", name, m.Payload, err)
		}
	}
}

func TestQoS(t *testing.T) {
	for _, tt := range []struct {
		p           Priority
		recommended byte
		defined     bool
		want        byte
	}{
		{Low, 0, false, 0}, {Normal, 0, false, 1}, {High, 0, false, 1}, {Critical, 0, false, 2},
		{Low, 2, true, 2}, {Low, 1, true, 1}, {Low, 0, true, 0}, {High, 0, true, 0}, {Normal, 1, true, 1},
		{Critical, 0, true, 2}, {Critical, 1, true, 2}, {Critical, 2, true, 2},
	} {
		if got := QoS(tt.p, tt.recommended, tt.defined); got != tt.want {
			t.Errorf("QoS(%v, %d, %v) = %d, want %d", tt.p, tt.recommended, tt.defined, got, tt.want)
		}
	}
}

func TestTime(t *testing.T) {
	now := time.Now().Truncate(time.Microsecond)
	if got := (Metadata{Timestamp: Seconds(now)}).Time(); !got.Equal(now) {
		t.Errorf("%v became %v", now, got)
	}
	if got := (Metadata{Timestamp: 1763884800.125}).Time().UTC(); got != time.Date(2025, 11, 23, 8, 0, 0, 125_000_000, time.UTC) {
		t.Errorf("got %v", got)
	}
	// No timestamp makes it panic or wrap around.
	if got := (Metadata{Timestamp: 1e300}).Time(); got.Before(now) {
		t.Errorf("1e300 is %v", got)
	}
	if got := (Metadata{Timestamp: -1e300}).Time(); got.After(now) {
		t.Errorf("-1e300 is %v", got)
	}
	for _, at := range []float64{1.7e12, 1e15, 1e300, -1e300} { // the first is of a clock in milliseconds
		for _, hours := range []int{-14, 0, 14} {
			if _, err := json.Marshal((Metadata{Timestamp: at}).Time().In(time.FixedZone("", hours*3600))); err != nil {
				t.Errorf("%g, %d hours from Greenwich: %v", at, hours, err)
			}
		}
	}
	if got := (Metadata{Timestamp: math.NaN()}).Time(); !got.IsZero() {
		t.Errorf("NaN is %v", got)
	}
}

func TestCheckAge(t *testing.T) {
	now := time.UnixMicro(1_000_000_000_000)
	at := func(age, expires time.Duration) *Message {
		m := &Message{Metadata: Metadata{Timestamp: Seconds(now.Add(-age))}}
		if expires != 0 {
			m.Metadata.ExpiresAt = Seconds(now.Add(expires))
		}
		return m
	}
	for name, tt := range map[string]struct {
		m    *Message
		lim  Limits
		want Reason
	}{
		"new":                {at(0, 0), Limits{}, ""},
		"at the limit":       {at(300*time.Second, 0), Limits{}, ""},
		"past the limit":     {at(300*time.Second+time.Millisecond, 0), Limits{}, ReasonTooOld},
		"own limit":          {at(2*time.Second, 0), Limits{MaxAge: time.Second}, ReasonTooOld},
		"no limit":           {at(100*time.Hour, 0), Limits{MaxAge: -1}, ""},
		"from the future":    {at(-time.Hour, 0), Limits{}, ""},
		"not expired":        {at(0, time.Second), Limits{}, ""},
		"expired":            {at(0, -time.Second), Limits{}, ReasonExpired},
		"expired, no limit":  {at(0, -time.Second), Limits{MaxAge: -1}, ReasonExpired},
		"expired before old": {at(time.Hour, -time.Second), Limits{}, ReasonExpired},
		"raw":                {new(NewRaw(nil)), Limits{}, ""},
	} {
		err := tt.m.CheckAge(now, tt.lim)
		if tt.want == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		field := map[Reason]string{ReasonTooOld: "metadata.timestamp", ReasonExpired: "metadata.expires_at"}[tt.want]
		wantError(t, name, err, tt.want, field)
	}
}

func TestPriorityString(t *testing.T) {
	for p, want := range map[Priority]string{Low: "low", Normal: "normal", High: "high", Critical: "critical", 7: "unknown", -1: "unknown"} {
		if p.String() != want {
			t.Errorf("%d is %q, want %q", int(p), p, want)
		}
	}
}
