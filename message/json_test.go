package message

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"
)

type (
	named   float64
	ptrText struct{ V float64 }
	valJSON struct{ v float64 }
	inner   struct {
		A float64 `json:"a"`
		B float64
	}
	embedded struct {
		E      float64
		Shadow float64
	}
	Exported struct {
		X      float32
		Shadow float64
	}
	everything struct {
		embedded
		Exported
		*inner2
		Plain     float64
		Named     named
		Renamed   float64   `json:"re-named"`
		Quoted    float64   `json:",string"`
		Quoted32  float32   `json:"q32,string"`
		Skipped   float64   `json:"-"`
		Dash      float64   `json:"-,"`
		Empty     float64   `json:",omitempty"`
		Zero      float64   `json:",omitzero"`
		PtrEmpty  *float64  `json:",omitempty"`
		ZeroTime  time.Time `json:",omitzero"`
		hidden    float64
		Ptr       *float64
		PtrPtr    **float64
		Any       any
		AnyPtr    any
		AnyNil    any
		Map       map[string]float64
		MapAny    map[string]any
		MapInt    map[int]inner
		MapText   map[netAddr]float64
		MapNil    map[string]float64
		Slice     []float64
		SliceAny  []any
		SliceNil  []float64
		SliceNone []float64
		Bytes     []byte
		Array     [2]float64
		Structs   []inner
		PtrStruct *inner
		Time      time.Time
		Big       *big.Float
		Number    json.Number
		Raw       json.RawMessage
		HTML      string
		PtrText   ptrText
		PtrTexts  []ptrText
		ValJSON   valJSON
		Func      func() `json:"-"`
		Stringer  fmt.Stringer
	}
	inner2  struct{ Promoted string }
	netAddr struct{ host string }
	liter   float64
)

func (p *ptrText) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "text %g", p.V), nil }
func (v valJSON) MarshalJSON() ([]byte, error)  { return fmt.Appendf(nil, `{"v":%g}`, v.v), nil }
func (a netAddr) MarshalText() ([]byte, error)  { return []byte("host " + a.host), nil }
func (l liter) String() string                  { return fmt.Sprint(float64(l), " l") }

// values returns one of every kind of value, with f wherever there is a float.
func values(f float64) map[string]any {
	f32 := float32(f)
	pf := &f
	all := everything{
		embedded: embedded{E: f, Shadow: f}, Exported: Exported{X: f32, Shadow: f}, inner2: &inner2{"p"},
		Plain: f, Named: named(f), Renamed: f, Quoted: f, Quoted32: f32, Skipped: f, Dash: f, Empty: f, Zero: f, PtrEmpty: pf, hidden: f,
		Ptr: pf, PtrPtr: &pf, Any: f, AnyPtr: pf,
		Map: map[string]float64{"k": f, "l": 1}, MapAny: map[string]any{"k": f32, "m": map[string]any{"n": []any{f}}},
		MapInt: map[int]inner{3: {A: f}}, MapText: map[netAddr]float64{{"a"}: f},
		Slice: []float64{0, f}, SliceAny: []any{"s", f, nil, true}, SliceNone: []float64{}, Bytes: []byte("bytes"),
		Array: [2]float64{f, 2}, Structs: []inner{{A: f, B: 1}}, PtrStruct: &inner{A: 1, B: f},
		Time: time.Unix(1763884800, 0).UTC(), Big: big.NewFloat(1.5), Number: "12.50", Raw: json.RawMessage(`{"r": [1]}`), HTML: "<a&b>\u2028",
		ValJSON: valJSON{2}, Stringer: liter(f),
	}
	return map[string]any{
		"float":         f,
		"float32":       f32,
		"pointer":       pf,
		"named":         named(f),
		"map":           map[string]float64{"a": f},
		"slice":         []float64{f, 1, f},
		"struct":        all,
		"pointer to it": &all,
		"in an any":     []any{all, &all, map[string]any{"all": all}},
	}
}

// TestEncodeJSON compares with json.Marshal: for finite numbers to the byte, through both ways, and with NaN and
// infinities null stands where the number stood.
func TestEncodeJSON(t *testing.T) {
	const finite = 1234.5 // also as float32
	want := map[string]string{}
	for name, v := range values(finite) {
		raw, err := marshal(nil, v)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want[name] = string(raw)
		got, err := EncodeJSON(v)
		if err != nil || string(got) != want[name] {
			t.Errorf("%s: %v\ngot  %s\nwant %s", name, err, got, raw)
		}
		got, err = marshalFinite(v)
		if err != nil || string(got) != want[name] {
			t.Errorf("%s by the slow way: %v\ngot  %s\nwant %s", name, err, got, raw)
		}
	}
	for _, f := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		for name, v := range values(f) {
			got, err := EncodeJSON(v)
			wantNull := strings.NewReplacer(`"1234.5"`, "null", "1234.5", "null").Replace(want[name])
			if err != nil || string(got) != wantNull {
				t.Errorf("%s with %g: %v\ngot  %s\nwant %s", name, f, err, got, wantNull)
			}
		}
	}
	if !strings.Contains(want["struct"], `"<a&b>\u2028"`) {
		t.Errorf("HTML is escaped: %s", want["struct"])
	}
}

// TestEncodeJSONKeepsValue: the caller's value is not changed.
func TestEncodeJSONKeepsValue(t *testing.T) {
	v := map[string]any{"p": new(math.NaN()), "s": []float64{math.NaN()}, "m": map[string]float64{"a": math.Inf(1)}}
	before := fmt.Sprint(*v["p"].(*float64), v["s"], v["m"])
	if _, err := EncodeJSON(v); err != nil {
		t.Fatal(err)
	}
	if after := fmt.Sprint(*v["p"].(*float64), v["s"], v["m"]); after != before {
		t.Errorf("%s became %s", before, after)
	}
}

func TestEncodeJSONMarshalers(t *testing.T) {
	// Methods of a pointer are called where encoding/json calls them, and nowhere else.
	nan := ptrText{math.NaN()}
	for name, tt := range map[string]struct {
		v    any
		want string
	}{
		"in a slice":  {[]any{math.NaN(), []ptrText{nan}}, `[null,["text NaN"]]`},
		"by pointer":  {[]any{math.NaN(), &nan}, `[null,"text NaN"]`},
		"by value":    {[]any{nan}, `[{"V":null}]`},
		"in a map":    {map[string]ptrText{"a": nan}, `{"a":{"V":null}}`},
		"mark's text": {[]any{math.NaN(), "1.5e-300", "null", 1.5e-300}, `[null,"1.5e-300","null",1.5e-300]`},
	} {
		got, err := EncodeJSON(tt.v)
		if err != nil || string(got) != tt.want {
			t.Errorf("%s: %s, %v; want %s", name, got, err, tt.want)
		}
	}
	_, err := EncodeJSON([]any{math.NaN(), valJSON{math.NaN()}})
	var me *json.MarshalerError
	if !errors.As(err, &me) {
		t.Errorf("a method that writes NaN: %v", err)
	}
}

func TestEncodeJSONRefuses(t *testing.T) {
	cycle := map[string]any{"A": math.NaN()}
	cycle["b"], cycle["c"] = cycle, []any{cycle, cycle}
	type list struct {
		V    float64
		Next *list
	}
	ring := &list{V: math.NaN()}
	ring.Next = ring
	for name, v := range map[string]any{
		"a channel": map[string]any{"a": math.NaN(), "c": make(chan int)}, "a function": func() {}, "a map by floats": map[float64]int{},
		"a map that contains itself": cycle, "a ring": ring,
	} {
		if got, err := EncodeJSON(v); err == nil {
			t.Errorf("%s became %.80s", name, got)
		}
	}
}

func TestPayload(t *testing.T) {
	m, err := NewSensorData("hw", SensorData{SensorType: "climate", Data: map[string]any{
		"temperature": 21.5, "name": "shed", "count": 3, "list": []int{1, 2}, "nested": map[string]any{"deep": []any{map[string]any{"x": "text"}}}}})
	if err != nil {
		t.Fatal(err)
	}
	type climate struct {
		Temperature float64 `json:"temperature"`
		Name        string  `json:"name"`
	}
	if got, err := SensorOf[climate](m); err != nil || got != (climate{21.5, "shed"}) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := SensorOf[map[string]any](m); err != nil || got["count"] != 3.0 {
		t.Errorf("%+v, %v", got, err)
	}

	for _, tt := range []struct {
		name        string
		f           func() error
		field, rule string
	}{
		{"number for text", func() error {
			_, err := SensorOf[struct {
				Temperature string `json:"temperature"`
			}](m)
			return err
		},
			"payload.data.temperature", "must be a string, not a number"},
		{"text for number", func() error {
			_, err := SensorOf[struct {
				Name float64 `json:"name"`
			}](m)
			return err
		},
			"payload.data.name", "must be a number, not a string"},
		{"text for boolean", func() error {
			_, err := SensorOf[struct {
				Name bool `json:"name"`
			}](m)
			return err
		},
			"payload.data.name", "must be a boolean, not a string"},
		{"array for object", func() error {
			_, err := SensorOf[struct {
				List map[string]int `json:"list"`
			}](m)
			return err
		},
			"payload.data.list", "must be an object, not an array"},
		{"fraction for int", func() error {
			_, err := SensorOf[struct {
				Temperature int `json:"temperature"`
			}](m)
			return err
		},
			"payload.data.temperature", "must fit int, not 21.5"},
		{"object for array", func() error { _, err := SensorOf[[]int](m); return err },
			"payload.data", "must be an array, not an object"},
		{"deep", func() error {
			type leaf struct {
				X float64 `json:"x"`
			}
			type branch struct {
				Deep []leaf `json:"deep"`
			}
			_, err := SensorOf[struct {
				Nested branch `json:"nested"`
			}](m)
			return err
		}, "payload.data.nested.deep.x", "must be a number, not a string"},
		{"whole payload", func() error { _, err := Payload[[]int](m); return err }, "payload", "must be an array, not an object"},
		{"payload's field", func() error {
			_, err := Payload[struct {
				Type int `json:"sensor_type"`
			}](m)
			return err
		},
			"payload.sensor_type", "must be a number, not a string"},
	} {
		err := tt.f()
		wantError(t, tt.name, err, ReasonWrongType, tt.field)
		if e := new(Error); errors.As(err, &e) && e.Rule != tt.rule {
			t.Errorf("%s: %q, want %q", tt.name, e.Rule, tt.rule)
		}
	}

	event, err := NewEvent("hw", Event{EventType: "x"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = SensorOf[climate](event)
	wantError(t, "an event", err, ReasonWrongType, "metadata.message_type")
	_, err = SensorOf[climate](NewRaw([]byte(`{"data":{}}`)))
	wantError(t, "raw", err, ReasonWrongType, "")

	if got, err := Payload[float64](NewRaw([]byte("21.5"))); err != nil || got != 21.5 {
		t.Errorf("a raw number: %v, %v", got, err)
	}
	_, err = Payload[float64](NewRaw([]byte("hello")))
	wantError(t, "raw text", err, ReasonMalformed, "payload")
	_, err = Payload[any](NewRaw(nil))
	wantError(t, "an empty body", err, ReasonMalformed, "payload")
	if got, err := Payload[map[string]any](Message{Metadata: event.Metadata}); err != nil || len(got) != 0 {
		t.Errorf("no payload: %v, %v", got, err)
	}
	if _, err := Payload[time.Time](NewRaw([]byte(`"no time"`))); err == nil || !strings.HasPrefix(err.Error(), "payload: ") {
		t.Errorf("a type that decodes itself: %v", err)
	}
}

// TestPayloadDefaults: what a peer leaves out means what the wire format says.
func TestPayloadDefaults(t *testing.T) {
	m := Message{Payload: []byte(`{}`)}
	if p, err := Payload[SensorData](m); err != nil || p.Quality != 1 || p.Status != "healthy" {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err := Payload[Command](m); err != nil || p.Timeout != 30 || !p.WantsAck() {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err := Payload[Event](m); err != nil || p.Category != "system" {
		t.Errorf("%+v, %v", p, err)
	}
	m.Payload = []byte(`{"quality":0.5,"status":"degraded","timeout":1,"require_ack":false,"category":"own"}`)
	s, err1 := Payload[SensorData](m)
	c, err2 := Payload[Command](m)
	e, err3 := Payload[Event](m)
	if err := errors.Join(err1, err2, err3); err != nil || s.Quality != 0.5 || s.Status != "degraded" || c.Timeout != 1 || c.WantsAck() || e.Category != "own" {
		t.Errorf("%+v %+v %+v %v", s, c, e, err)
	}
}

// TestPayloadRoundTrip: each payload struct comes back as it was sent.
func TestPayloadRoundTrip(t *testing.T) {
	roundTrip(t, NewCommand, Command{Target: "a", Command: "b", Parameters: []byte(`{"c":1}`), Timeout: 2, RequireAck: new(false)})
	roundTrip(t, NewResponse, Response{Success: true, Result: []byte(`[1]`), Error: new("e"), ExecutionTime: new(0.5)})
	roundTrip(t, NewStatus, Status{Status: "healthy", Uptime: 1, Version: "v", Details: []byte(`{"d":1}`), Resources: Resources{1, 2, 3}})
	roundTrip(t, NewEvent, Event{EventType: "a", EventData: []byte(`{"b":1}`), Source: "c", Category: "d"})
	roundTrip(t, NewAlert, Alert{AlertType: "a", Severity: "info", Message: "b", Acknowledged: true, AutoResolve: true, Context: []byte(`{"c":1}`)})
	roundTrip(t, NewSensorData, SensorData{SensorType: "a", DeviceID: new("b"), Data: map[string]any{"c": 1.0}, Units: map[string]string{"c": "d"}, Quality: 0.5, Status: "e"})
}

func roundTrip[T any](t *testing.T, construct func(string, T) (Message, error), p T) {
	t.Helper()
	m, err := construct("sender", p)
	if err != nil {
		t.Fatal(err)
	}
	body, _, err := Encode(&m, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	back, err := Decode(body, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Payload[T](back); err != nil || !reflect.DeepEqual(got, p) {
		t.Errorf("%+v became %+v, %v", p, got, err)
	}
}
