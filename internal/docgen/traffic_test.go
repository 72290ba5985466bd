package main

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

// spoken are the topics that are heard in any minute of the demo, of the registry.
var spoken = []string{
	"sensors/+/data", "sensors/+/status", "commands/+", "responses/+", "navigation/position", "navigation/path", "navigation/status",
	"safety/emergency_stop", "safety/reports/+", "power/battery", "power/solar", "power/consumption", "vision/detections",
	"vision/frame_analysis", "weather/current", "weather/forecast", "system/health", "system/services/+/status",
	"system/services/+/commands", "system/events/+",
}

// A traffic is what a mower says, by the pattern of the registry that is for it.
type traffic struct {
	mu      sync.Mutex // guards what follows
	heard   map[string][]*client.Delivery
	strange int // messages on topics that the registry does not have, and raw ones
	more    chan struct{}
}

func (tr *traffic) take(r *topic.Registry, d *client.Delivery) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	def, ok := r.Lookup(d.Topic)
	if !ok || d.Message.Raw {
		tr.strange++
		return
	}
	tr.heard[def.Pattern] = append(tr.heard[def.Pattern], d)
	select {
	case tr.more <- struct{}{}:
	default:
	}
}

// missing returns the spoken topics of which too little was heard.
func (tr *traffic) missing() (patterns []string) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, p := range spoken {
		if len(tr.heard[p]) == 0 {
			patterns = append(patterns, p)
		}
	}
	return patterns
}

// listen hears a mower out.
func listen(t *testing.T, r *topic.Registry) *traffic {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), generateTime)
	defer cancel()
	a, err := startMower(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := a.Stop(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	}()
	c, err := client.Connect(ctx, client.Options{URL: a.URL(), Topics: r})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	tr := &traffic{heard: map[string][]*client.Delivery{}, more: make(chan struct{}, 1)}
	_, err = c.Subscribe(ctx, "#", func(_ context.Context, d *client.Delivery) { tr.take(r, d) }, client.WithQueue(client.Queue{Max: 100_000}))
	if err != nil {
		t.Fatal(err)
	}
	// Commands beside those that the demo sends by itself: good ones, and one that is refused.
	for _, call := range []struct {
		service, command string
		parameters       any
		refused          bool
	}{
		{"hardware_interface", "read_sensor", map[string]any{"sensor_id": "gps"}, false},
		{"hardware_interface", "read_sensor", map[string]any{"sensor_id": "nose"}, true},
		{"hardware_interface", "simulate", map[string]any{"lifted": true}, false},
		{"hardware_interface", "simulate", map[string]any{"lifted": false}, false},
		{"emergency_stop", "get_status", nil, false}, {"emergency_stop", "engage", map[string]any{"reason": "to see it"}, false},
		{"navigation", "get_position", nil, false}, {"weather", "get_weather", nil, false}, {"weather", "get_forecast", nil, false},
		{"sensor_fusion", "get_pose", nil, false}, {"safety", "get_status", nil, false}, {"power", "get_battery", nil, false},
		{"vision", "ping", nil, false}, {"vision", "status", nil, false},
	} {
		var refused *client.CommandError
		err := c.Call(ctx, call.service, call.command, call.parameters, nil)
		if err != nil != call.refused || err != nil && !errors.As(err, &refused) {
			t.Errorf("%s %s: %v", call.service, call.command, err)
		}
	}
	for len(tr.missing()) > 0 {
		select {
		case <-tr.more:
		case <-ctx.Done():
			t.Fatalf("nothing was heard on %v", tr.missing())
		}
	}
	return tr
}

// TestTraffic validates what a mower says with the schemas of the document: each message with that of its topic, each command and each response
// with that of the command. The registry must name the type of message that is there, and the units that are in it.
func TestTraffic(t *testing.T) {
	registry, err := topic.New("")
	if err != nil {
		t.Fatal(err)
	}
	doc := readAPI(t, asyncAPIFile)
	v := newValidator(t, doc)
	tr := listen(t, registry)
	tr.mu.Lock()
	defer tr.mu.Unlock()
	called := map[string]string{} // by correlation id: the name of the message
	for _, d := range tr.heard["commands/+"] {
		p, err := message.Payload[message.Command](d.Message)
		if err != nil {
			t.Fatal(err)
		}
		if p.Command == "$cancel" { // of a caller that has waited long enough: the client's own, with the id of the call; as a command it is validated below
			continue
		}
		name := identifier(p.Target) + "_" + identifier(p.Command)
		if _, known := at(doc, "#/components/messages/"+name); !known {
			name = "service_" + identifier(p.Command)
		}
		called[d.Message.Metadata.CorrelationID] = name
		v.check(name, d)
	}
	for _, pattern := range slices.Sorted(maps.Keys(tr.heard)) {
		def, _ := registry.Lookup(pattern)
		for _, d := range tr.heard[pattern] {
			kind := string(d.Message.Metadata.Type)
			if progress := pattern == "responses/+" && kind == "event"; kind != def.Message && !progress {
				t.Errorf("%s carries a message of the type %s, the registry says %s", d.Topic, kind, def.Message)
			}
			v.check(kind, d)
			if name := called[d.Message.Metadata.CorrelationID]; pattern == "responses/+" && name != "" && kind == "response" {
				v.check(name+"_response", d)
			}
			checkUnits(t, def, d)
		}
	}
	v.report(tr.strange)
}

// checkUnits compares the units in a reading with those of the registry.
func checkUnits(t *testing.T, def topic.Definition, d *client.Delivery) {
	t.Helper()
	if strings.Contains(def.Pattern, "+") || d.Message.Metadata.Type != message.TypeSensorData {
		return
	}
	want := map[string]string{}
	for pair := range strings.SplitSeq(def.Units, ", ") {
		name, unit, _ := strings.Cut(pair, " ")
		want[name] = unit
	}
	p, err := message.Payload[message.SensorData](d.Message)
	if err != nil || !maps.Equal(p.Units, want) {
		t.Errorf("%s has the units %v, the registry says %q (%v)", d.Topic, p.Units, def.Units, err)
	}
}

// A validator validates messages with the document's schemas.
type validator struct {
	t        *testing.T
	compiler *jsonschema.Compiler
	schemas  map[string]*jsonschema.Schema
	checked  map[string]int
	failed   map[string]bool
}

func newValidator(t *testing.T, doc map[string]any) *validator {
	t.Helper()
	v := &validator{t: t, compiler: jsonschema.NewCompiler()}
	v.schemas, v.checked, v.failed = map[string]*jsonschema.Schema{}, map[string]int{}, map[string]bool{}
	v.compiler.DefaultDraft(jsonschema.Draft7)
	if err := v.compiler.AddResource("mem:///asyncapi.json", doc); err != nil {
		t.Fatal(err)
	}
	return v
}

// schema returns the schema of a message's payload, by its name in the document.
func (v *validator) schema(name string) *jsonschema.Schema {
	v.t.Helper()
	if v.schemas[name] == nil {
		s, err := v.compiler.Compile("mem:///asyncapi.json#/components/messages/" + name + "/payload")
		if err != nil {
			v.t.Fatal(err)
		}
		v.schemas[name] = s
	}
	return v.schemas[name]
}

// check validates a delivery with the message of that name. One failure of each is told.
func (v *validator) check(name string, d *client.Delivery) {
	v.t.Helper()
	body, _, err := message.Encode(&d.Message, message.Limits{CompressAbove: -1})
	if err != nil {
		v.t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		v.t.Fatal(err)
	}
	v.checked[name]++
	if err := v.schema(name).Validate(doc); err != nil && !v.failed[name] {
		v.failed[name] = true
		v.t.Errorf("%s is no %s: %v\n%s", d.Topic, name, err, body)
	}
}

func (v *validator) report(strange int) {
	v.t.Helper()
	total := 0
	for _, n := range v.checked {
		total += n
	}
	v.t.Logf("%d messages validated with %d schemas, %d others", total, len(v.schemas), strange)
	if len(v.schemas) < 25 || total < 100 {
		v.t.Errorf("too little was validated: %v", v.checked)
	}
}

// The schemas refuse what is wrong: a validator that takes anything is none.
func TestSchemasRefuse(t *testing.T) {
	v := newValidator(t, readAPI(t, asyncAPIFile))
	command := func(name, parameters string) client.Delivery {
		m, err := message.NewCommand("docgen", message.Command{Target: "hardware_interface", Command: name, Parameters: []byte(parameters)})
		if err != nil {
			t.Fatal(err)
		}
		return client.Delivery{Message: m}
	}
	for _, tt := range []struct {
		name, as, command, parameters string
		fits                          bool
	}{
		{"a command", "hardware_interface_read_sensor", "read_sensor", `{"sensor_id":"gps"}`, true},
		{"a parameter of another type", "hardware_interface_read_sensor", "read_sensor", `{"sensor_id":7}`, false},
		{"another command", "hardware_interface_read_sensor", "simulate", `{}`, false},
		{"another type", "status", "ping", `{}`, false},
	} {
		d := command(tt.command, tt.parameters)
		body, _, err := message.Encode(&d.Message, message.Limits{CompressAbove: -1})
		if err != nil {
			t.Fatal(err)
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if err := v.schema(tt.as).Validate(doc); (err == nil) != tt.fits {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}
