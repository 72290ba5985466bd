package service_test

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/loglevel"
	"github.com/lawnberry/lawnberry/service"
)

type levelAnswer struct {
	Levels []struct {
		Package, Level, Source string
		Until                  float64
	}
}

// The command log_level shows and sets the levels of a service's log, and tells what is wrong; a service without refuses.
func TestLogLevel(t *testing.T) {
	b := newBroker(t)
	ctx := testContext(t)
	general := new(slog.LevelVar)
	levels := loglevel.New(general, "camera")
	start(t, b, service.Options{ID: "seer", LogLevels: levels})
	start(t, b, service.Options{ID: "mute"})
	caller := start(t, b, service.Options{ID: "caller"})
	var a levelAnswer
	ask := func(parameters map[string]any) {
		t.Helper()
		a = levelAnswer{}
		if err := caller.Call(ctx, "seer", "log_level", parameters, &a); err != nil {
			t.Fatal(err)
		}
	}
	ask(nil)
	if len(a.Levels) != 2 || a.Levels[0].Package != "general" || a.Levels[0].Level != "info" || a.Levels[1].Package != "camera" || a.Levels[1].Source != "general" {
		t.Errorf("%+v", a)
	}
	ask(map[string]any{"level": "debug"})
	if general.Level() != slog.LevelDebug || a.Levels[0].Source != "set" || a.Levels[0].Until != 0 {
		t.Errorf("%+v, %v", a, general.Level())
	}
	ask(map[string]any{"package": "camera", "level": "warn", "for": 3600})
	if a.Levels[1].Level != "warn" || a.Levels[1].Until < 1e9 {
		t.Errorf("%+v", a)
	}
	ask(map[string]any{"reset": true})
	if general.Level() != slog.LevelInfo || a.Levels[1].Source != "general" {
		t.Errorf("%+v, %v", a, general.Level())
	}

	for _, test := range []struct {
		target     string
		parameters map[string]any
		code, text string
	}{
		{"seer", map[string]any{"level": "loud"}, client.CodeBadParameters, "want debug, info, warn or error"},
		{"seer", map[string]any{"package": "x", "level": "info"}, client.CodeBadParameters, "want general or one of camera"},
		{"seer", map[string]any{"package": "camera"}, client.CodeBadParameters, "wants a level"},
		{"seer", map[string]any{"level": "info", "for": -1}, client.CodeBadParameters, "seconds from"},
		{"seer", map[string]any{"level": "info", "for": 1e300}, client.CodeBadParameters, "seconds from"},
		{"seer", map[string]any{"for": 5}, client.CodeBadParameters, "wants a level"},
		{"seer", map[string]any{"level": "info", "reset": true}, client.CodeBadParameters, "neither level nor for"},
		{"seer", map[string]any{"level": 5}, client.CodeBadParameters, "parameters.level must be a string"},
		{"mute", nil, client.CodeRefused, "does not offer it"},
		{"mute", map[string]any{"level": "debug"}, client.CodeRefused, "does not offer it"},
	} {
		err := caller.Call(ctx, test.target, "log_level", test.parameters, nil)
		if failed := asCommandError(err); failed == nil || failed.Code != test.code || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s %v: %v, want code %s and %q", test.target, test.parameters, err, test.code, test.text)
		}
	}
	if general.Level() != slog.LevelInfo {
		t.Error("something refused has changed the level to", general.Level())
	}
	for target, offered := range map[string]bool{"seer": true, "mute": false} {
		err := caller.Call(ctx, target, "fly", nil, nil)
		if err == nil || strings.Contains(err.Error(), "log_level") != offered {
			t.Errorf("%s: %v, want log_level named: %v", target, err, offered)
		}
	}
}
