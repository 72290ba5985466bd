package config

import (
	"log/slog"
	"maps"
	"strings"
	"testing"
)

func TestLogLevelsOfPackages(t *testing.T) {
	type levels = map[string]slog.Level
	for text, want := range map[string]levels{
		"": {"broker": slog.LevelInfo, "mosquitto": slog.LevelInfo},
		"broker: {log_level: error}\nmonitoring: {logging: {log_level: warn, levels: {client: debug, web: warn}}}": {
			"broker": slog.LevelError, "mosquitto": slog.LevelError, "client": slog.LevelDebug, "web": slog.LevelWarn},
		"broker: {log_level: error}\nmonitoring: {logging: {levels: {broker: debug}}}":    {"broker": slog.LevelDebug, "mosquitto": slog.LevelError},
		"monitoring: {logging: {enabled: false, levels: {broker: debug, client: debug}}}": {"broker": slog.LevelError, "mosquitto": slog.LevelError},
		"development: {debug: {enabled: true}}\nmonitoring: {logging: {levels: {web: error}}}": {
			"broker": slog.LevelDebug, "mosquitto": slog.LevelDebug},
	} {
		l, ps := loadText(text)
		if err := ps.Err(); err != nil {
			t.Fatal(err)
		}
		if got := l.Config.LogLevels(); !maps.Equal(got, want) {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
	for text, want := range map[string]string{
		"{wbe: debug}":            "wbe\" is unknown, want app, broker, client",
		"{web: loud}":             "loud\" is unknown, want debug, info, warn or error",
		"{web: [debug]}":          "want debug, info, warn or error",
		"[debug]":                 "want ",
		"{general: debug}":        "is unknown",
		"{web: debug, web: warn}": "web",
	} {
		_, ps := loadText("monitoring: {logging: {levels: " + text + "}}")
		if err := ps.Err(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
