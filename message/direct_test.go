package message

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"
)

// Commands and responses that go past encoding/json are what it would have made of them.
func TestDirectDecode(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{}`,
		`{"target":"nav","command":"dock","parameters":{"a":[1,2,{}]},"timeout":12.5,"require_ack":false}`,
		` { "require_ack" : true , "command" : "a" , "x" : {"target":1} , "target" : "b" } `,
		`{"target":null,"command":"a","parameters":null,"timeout":null,"require_ack":null}`,
		`{"target":"a\"\\\u00e9\n","command":"\ud83d\ude00é"}`,
		`{"command":"` + strings.Repeat("c", 300) + `","target":"t"}`,
		`{"target":"a","target":"b","command":"x","command":"y","timeout":1e2}`,
		`{"success":true,"result":{"x":"y"},"error":null,"execution_time":0.25}`,
		`{"success":false,"result":null,"error":"it \"failed\""}`,
		`{"success":null,"result":[ 1 , 2 ]}`,
		// Beyond it:
		`{"target":1}`, `{"success":"yes"}`, `[]`, `null`, `{"target":"a`, `{"timeout":1e999}`, `{"error":[]}`, `x`,
		`{"target":"` + "\xff" + `"}`,
	} {
		m := Message{Payload: json.RawMessage(text)}
		var wantCommand Command
		setDefaults(&wantCommand)
		command, err := Payload[Command](m)
		wantErr := json.Unmarshal([]byte(text), &wantCommand)
		if (err == nil) != (wantErr == nil) || !reflect.DeepEqual(command, wantCommand) {
			t.Errorf("%.80s: %+v %v, want %+v %v", text, command, err, wantCommand, wantErr)
		}
		var wantResponse Response
		response, err := Payload[Response](m)
		wantErr = json.Unmarshal([]byte(text), &wantResponse)
		if (err == nil) != (wantErr == nil) || !reflect.DeepEqual(response, wantResponse) {
			t.Errorf("%.80s: %+v %v, want %+v %v", text, response, err, wantResponse, wantErr)
		}
	}
}

func TestDirectEncode(t *testing.T) {
	t.Parallel()
	commands := []Command{
		{Target: "nav", Command: "dock", Parameters: json.RawMessage(`{"speed":0.3}`), Timeout: 30, RequireAck: new(true)},
		{Target: "ä\"\\\n\x01\u2028", Command: "\U0001f600<&>", Parameters: json.RawMessage("{}"), Timeout: 0.1234567, RequireAck: new(false)},
		{Target: "\xff", Command: "x", Parameters: json.RawMessage("{}"), Timeout: 1e-9, RequireAck: new(true)},
	}
	for _, p := range commands {
		m, err := NewCommand("me", p)
		if err != nil {
			t.Errorf("%+v: %v", p, err)
			continue
		}
		p.Target = strings.ToValidUTF8(p.Target, "\ufffd")
		var got Command
		if err := json.Unmarshal(m.Payload, &got); err != nil || !reflect.DeepEqual(got, p) {
			t.Errorf("%s: %+v %v, want %+v", m.Payload, got, err, p)
		}
	}
	responses := []Response{
		{},
		{Success: true, Result: json.RawMessage(`"\u00e9"`), ExecutionTime: new(1e-7)},
		{Error: new("no \x00\u2029 \xff"), ExecutionTime: new(-12.5)},
	}
	for _, p := range responses {
		m, err := NewResponse("me", p)
		if err != nil {
			t.Errorf("%+v: %v", p, err)
			continue
		}
		if p.Error != nil {
			p.Error = new(strings.ToValidUTF8(*p.Error, "\ufffd"))
		}
		if p.Result == nil {
			p.Result = json.RawMessage("null")
		}
		var got Response
		if err := json.Unmarshal(m.Payload, &got); err != nil || !reflect.DeepEqual(got, p) {
			t.Errorf("%s: %+v %v, want %+v", m.Payload, got, err, p)
		}
	}
	for _, bad := range []json.RawMessage{json.RawMessage(`{},"x":{}`), json.RawMessage(`{`), json.RawMessage("")} {
		if m, err := NewResponse("me", Response{Success: true, Result: bad}); err == nil && len(bad) > 0 {
			t.Errorf("result %q makes %s", bad, m.Payload)
		}
		if m, err := NewCommand("me", Command{Target: "a", Command: "b", Parameters: bad}); err == nil && len(bad) > 0 {
			t.Errorf("parameters %q make %s", bad, m.Payload)
		}
	}
	if m, err := NewResponse("me", Response{ExecutionTime: new(math.NaN())}); err != nil || !strings.Contains(string(m.Payload), `"execution_time":null`) {
		t.Errorf("%s %v", m.Payload, err)
	}
}

// What is decoded says the same when it is encoded again.
func FuzzDirect(f *testing.F) {
	f.Add([]byte(`{"target":"nav","command":"dock","parameters":{"a":[1]},"timeout":12.5,"require_ack":false}`))
	f.Add([]byte(`{"success":true,"result":{"x":"\u00e9"},"error":"\n","execution_time":1e-7}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var c, c2 Command
		if c.decode(raw) {
			again, ok := c.appendTo(nil)
			if !ok && c.Parameters != nil {
				t.Fatalf("%+v cannot be encoded", c)
			}
			if ok && (!c2.decode(again) || c2.Target != c.Target || c2.Command != c.Command || c2.Timeout != c.Timeout ||
				c2.WantsAck() != c.WantsAck() || string(c2.Parameters) != string(c.Parameters)) {
				t.Fatalf("%+v comes back as %+v from %s", c, c2, again)
			}
		}
		var r, r2 Response
		if r.decode(raw) {
			again, ok := r.appendTo(nil)
			if !ok || !r2.decode(again) || r2.Success != r.Success || !reflect.DeepEqual(r2.Error, r.Error) ||
				!reflect.DeepEqual(r2.ExecutionTime, r.ExecutionTime) {
				t.Fatalf("%+v comes back as %+v from %s", r, r2, again)
			}
		}
	})
}

// A decoder that is used again has nothing of what it decoded before.
func TestDecodeJSONAgain(t *testing.T) {
	t.Parallel()
	for _, text := range []string{`{"a":1,"b":[1,2]}`, ` 12 `, `"x"`, `{"a":"no"}`, `{"a`, `{"b":[3]} `, `null`, `1 2`, ``, `{"a":2}`} {
		var got, want struct {
			A int
			B []int
			C json.RawMessage
		}
		err, wantErr := DecodeJSON([]byte(text), &got), json.Unmarshal([]byte(text), &want)
		if (err == nil) != (wantErr == nil) || err != nil && err.Error() != wantErr.Error() || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v %v, want %+v %v", text, got, err, want, wantErr)
		}
	}
}
