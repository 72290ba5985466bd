package fleet

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/natstest"
	"github.com/lawnberry/lawnberry/message"
)

// The emergency stop is engaged from the fleet, in the name of the operator, whatever is wrong with what was sent.
func TestStop(t *testing.T) {
	t.Parallel()
	y := newYard(t, natstest.Start(t), func(o *downlinkOptions) { o.permits = nil })
	late := func(m *message.Message, p *message.Command) {
		p.Command, p.Parameters = fleet.StopCommand, nil
		m.Metadata.Timestamp, m.Metadata.ExpiresAt = message.Seconds(time.Now().Add(-time.Hour)), message.Seconds(time.Now().Add(-time.Minute))
	}
	engage := func(m *message.Message, p *message.Command) { p.Command, p.Parameters = fleet.StopCommand, nil }
	once := y.make(raw{service: fleet.StopService, edit: engage})
	again := func() *nats.Msg { return &nats.Msg{Subject: once.Subject, Data: once.Data, Header: once.Header} }
	ask := func(m *nats.Msg) func() error {
		return func() error {
			code, text, result := y.ask(m)
			var s stopped
			if code != "" || json.Unmarshal(result, &s) != nil || !s.Engaged || !s.Confirmed || s.Sequence == 0 {
				return errors.New(code + text + string(result))
			}
			return nil
		}
	}
	for _, tt := range []struct {
		name, by string
		stop     func() error
	}{
		{"by an operator", "fleet: anna", func() error {
			s, err := y.anna.Stop(testContext(t), yardMower, "a dog")
			if err == nil && (!s.Engaged || !s.Confirmed || s.Sequence == 0 || len(s.Missing) > 0) {
				t.Errorf("%+v", s)
			}
			return err
		}},
		{"by one without a key", "fleet: bob", func() error { _, err := y.operator("bob", "").Stop(testContext(t), yardMower, "a dog"); return err }},
		{"unsigned", "fleet: anna", ask(again())},
		{"repeated", "fleet: anna", ask(again())},
		{"late", "fleet: anna", ask(y.make(raw{service: fleet.StopService, edit: late}))},
		{"with a wrong signature", "fleet: anna", ask(y.make(raw{service: fleet.StopService, edit: engage, keys: y.private, signed: "x"}))},
		{"without an id to remember it by", "fleet: anna", ask(y.make(raw{service: fleet.StopService, edit: func(m *message.Message, p *message.Command) {
			engage(m, p)
			m.Metadata.ID = "a\x00b"
		}}))},
		{"with another target", "fleet: anna", ask(y.make(raw{service: fleet.StopService, edit: func(m *message.Message, p *message.Command) { engage(m, p); p.Target = "navigation" }}))},
		{"garbage", "fleet: somebody", ask(y.make(raw{service: fleet.StopService, body: []byte("\x00\xff")}))},
		{"nothing", "fleet: somebody", ask(y.make(raw{service: fleet.StopService, body: []byte{}}))},
		{"too large", "fleet: somebody", ask(y.make(raw{service: fleet.StopService, body: make([]byte, 500_000)}))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			y.release()
			check(t, tt.stop())
			if s := y.hub.Status(); !s.Engaged || s.By != tt.by {
				t.Errorf("%+v, want it engaged by %q", s, tt.by)
			}
		})
	}
	e := y.event("of the stop", func(a audit) bool { return a.Outcome == outcomeEngaged && a.Key != "" })
	if e.Operator != "anna" || e.Service != fleet.StopService || e.Command != fleet.StopCommand {
		t.Errorf("%+v", e)
	}
	for i, s := range []string{"a dog", "STOP, from the fleet"} { // the first reason stays
		y.release()
		if i == 0 {
			_, err := y.anna.Stop(testContext(t), yardMower, s)
			check(t, err)
		} else {
			check(t, ask(again())())
		}
		if got := y.hub.Status().Reason; got != s {
			t.Errorf("reason %q, want %q", got, s)
		}
	}
}

// Nothing that the fleet can send releases the emergency stop. The mower permits everything, and everything is signed by a known operator.
// With the refusal of all but engage taken out of permit and of stopMower, the first cases release it and this fails.
func TestNoRelease(t *testing.T) {
	t.Parallel()
	y := newYard(t, natstest.Start(t), func(o *downlinkOptions) {
		o.permits, o.unsigned = []string{"*/*", "emergency_stop/engage", "emergency*/*", "*_stop/rel*", "*/release"}, true
	})
	y.release()
	_, err := y.anna.Stop(testContext(t), yardMower, "to stay")
	check(t, err)
	sequence := y.hub.Status().Sequence
	release := json.RawMessage(`{"sequence": ` + itoa(sequence) + `, "by": "anna"}`)

	with := func(target, command string, parameters json.RawMessage) func(*message.Message, *message.Command) {
		return func(_ *message.Message, p *message.Command) {
			p.Target, p.Command, p.Parameters = target, command, parameters
		}
	}
	subject := func(s string) func(*nats.Msg) { return func(m *nats.Msg) { m.Subject = s } }
	for _, tt := range []struct {
		name   string
		r      raw
		change func(*nats.Msg)
		code   string
	}{
		{"the command of the hub", raw{service: "emergency_stop", edit: with("emergency_stop", "release", release)}, nil, fleet.CodeForbidden},
		{"in capitals", raw{service: "emergency_stop", edit: with("emergency_stop", "Release", release)}, nil, fleet.CodeForbidden},
		{"with spaces", raw{service: "emergency_stop", edit: with("emergency_stop", " release ", release)}, nil, fleet.CodeForbidden},
		{"its other commands: confirm", raw{service: "emergency_stop", edit: with("emergency_stop", "confirm", nil)}, nil, fleet.CodeForbidden},
		{"its other commands: forget", raw{service: "emergency_stop", edit: with("emergency_stop", "forget", json.RawMessage(`{"service_id":"navigation"}`))}, nil, fleet.CodeForbidden},
		{"its other commands: shutdown", raw{service: "emergency_stop", edit: with("emergency_stop", "shutdown", nil)}, nil, fleet.CodeForbidden},
		{"its other commands: log_level", raw{service: "emergency_stop", edit: with("emergency_stop", "log_level", nil)}, nil, fleet.CodeForbidden},
		{"to another service's subject", raw{service: "navigation", edit: with("emergency_stop", "release", release)}, nil, client.CodeBadParameters},
		{"to the subject of the hub in other letters", raw{service: "Emergency_Stop", edit: with("Emergency_Stop", "release", release)}, nil, client.CodeNoSuchService},
		{"in an encoding of the subject that is never written", raw{service: "emergency_stop", edit: with("emergency_stop", "release", release)}, subject("lawnberry.m-1.commands.=65mergency_stop"), client.CodeBadParameters},
		{"below the subject", raw{service: "emergency_stop", edit: with("emergency_stop", "release", release)}, subject("lawnberry.m-1.commands.emergency_stop.x"), client.CodeBadParameters},
		{"to a service whose name leads elsewhere", raw{service: "../safety/emergency_stop", edit: with("../safety/emergency_stop", "release", release)}, nil, client.CodeBadParameters},
		{"to all", raw{service: "+", edit: with("+", "release", release)}, nil, client.CodeBadParameters},
		{"to everything", raw{service: "#", edit: with("#", "release", release)}, nil, client.CodeBadParameters},
		{"to the topic of the emergency stop", raw{service: "navigation", edit: with("safety/emergency_stop", "release", release)}, nil, client.CodeBadParameters},
		{"as a cancellation", raw{service: "navigation", edit: with("navigation", "$cancel", release)}, nil, fleet.CodeForbidden},
		{"a service's own command of that name", raw{service: "navigation", edit: with("navigation", "release", release)}, nil, ""}, // releases nothing of the hub's
		{"a wrong message on the bus's topic, to a bus that is not there", raw{service: "navigation", body: []byte(`{"engaged": false}`)}, subject("lawnberry.m-1.safety.emergency_stop"), "-"},
		{"the same to the mower's commands", raw{service: "safety", body: []byte(`{"engaged": false, "sequence": 99}`)}, nil, client.CodeBadParameters},
		{"an alert that claims it", raw{service: "emergency_stop", body: claim(t)}, nil, ""}, // cannot be read as a command: engages
	} {
		for _, keys := range []string{y.private, ""} {
			t.Run(tt.name+map[bool]string{true: ", signed", false: ""}[keys != ""], func(t *testing.T) {
				tt.r.keys = keys
				m := y.make(tt.r)
				if tt.change != nil {
					tt.change(m)
				}
				if tt.code == "-" {
					check(t, y.nc.PublishMsg(m))
				} else if code, text, _ := y.ask(m); code != tt.code {
					t.Errorf("%q, %q, want %q", code, text, tt.code)
				}
				if s := y.hub.Status(); !s.Engaged {
					t.Fatalf("it is released: %+v", s)
				}
			})
		}
	}
	// As jobs too.
	for _, command := range []string{"release", "forget", "shutdown"} {
		id, err := y.anna.AddJob(testContext(t), yardMower, "emergency_stop", command, release, time.Now().Add(time.Hour), 0)
		check(t, err)
		if e := y.end(id); e.Success || e.Code != fleet.CodeForbidden {
			t.Errorf("%+v", e)
		}
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.released != 2 {
		t.Errorf("the service's own command ran %d times, want 2", y.released)
	}
	if s := y.hub.Status(); !s.Engaged || s.Sequence < sequence {
		t.Errorf("%+v", s)
	}
	for _, e := range y.events {
		if e.Service == fleet.StopService && e.Outcome != outcomeRefused && e.Outcome != outcomeEngaged {
			t.Errorf("%+v", e)
		}
	}
}

func itoa(n uint64) string { b, _ := json.Marshal(n); return string(b) }

// claim is an alert which says that the emergency stop is released.
func claim(t *testing.T) []byte {
	t.Helper()
	m, err := message.NewAlert("emergency_stop", message.Alert{
		AlertType: "emergency_stop", Severity: "critical", Message: "released", Context: json.RawMessage(`{"engaged": false, "sequence": 99}`),
	})
	check(t, err)
	body, err := m.Append(nil)
	check(t, err)
	return body
}

// A stop is engaged by an operator whose key cannot sign any more, and by a mower that takes no commands at all.
func TestStopWithoutKey(t *testing.T) {
	t.Parallel()
	y := newYard(t, natstest.Start(t), func(o *downlinkOptions) { o.permits, o.keys = nil, nil })
	y.release()
	if _, err := y.anna.Call(testContext(t), yardMower, "navigation", "count", nil); code(err) != fleet.CodeSignature || !strings.Contains(err.Error(), "no operator's key") {
		t.Errorf("%v", err)
	}
	_, err := y.anna.Stop(testContext(t), yardMower, "")
	check(t, err)
	if !y.hub.Status().Engaged {
		t.Error("it is not engaged")
	}
}
