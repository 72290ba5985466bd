package mosquitto

import (
	"context"
	"log/slog"
	"strings"
	"sync"
)

type logger interface {
	Log(ctx context.Context, level slog.Level, msg string, args ...any)
}

// logTypes are what Mosquitto is to log for our log's level.
func (b *Broker) logTypes() []string {
	types := []string{"error", "warning", "notice"} // among notices is what it loses
	if b.log.Enabled(b.ctx, slog.LevelInfo) {
		types = append(types, "information")
	}
	if b.log.Enabled(b.ctx, slog.LevelDebug) {
		types = append(types, "debug", "subscribe", "unsubscribe")
	}
	return types
}

// levels tell the level of a line by its beginning or, with a star, by a part. The first that fits counts. Mosquitto itself does not write the level.
var levels = []struct {
	text  string
	level slog.Level
}{
	{"Warning: Unable to set TCP_NODELAY", slog.LevelDebug}, // on the Unix socket, which has none
	{"Warning: ACL pattern ", slog.LevelDebug},              // without %c and %u, on purpose
	{"Warning: The 'per_listener_settings'", slog.LevelDebug},
	{"Error", slog.LevelError},
	{"Warning", slog.LevelWarn},
	{"*are being dropped", slog.LevelWarn},
	{"*not authorised", slog.LevelWarn},
	{"*protocol error", slog.LevelWarn},
	{"*exceeded timeout", slog.LevelWarn},
	{"*already connected, closing old connection", slog.LevelWarn},
	{"OpenSSL Error", slog.LevelWarn},
	{"New connection from ", slog.LevelDebug},
	{"Received ", slog.LevelDebug},
	{"Sending ", slog.LevelDebug},
	{"Denied PUBLISH", slog.LevelWarn},
	{"Will message specified", slog.LevelDebug},
	{"No will message", slog.LevelDebug},
	{"\t", slog.LevelDebug}, // a subscription
}

func levelOf(line string) slog.Level {
	for _, l := range levels {
		if part, ok := strings.CutPrefix(l.text, "*"); ok && strings.Contains(line, part) || strings.HasPrefix(line, l.text) {
			return l.level
		}
	}
	return slog.LevelInfo
}

func (m *mapper) take(line string) {
	if strings.TrimSpace(line) == "" {
		return
	}
	m.last.add(line)
	level := levelOf(line)
	if m.own != "" && strings.Contains(line, m.own) {
		level = slog.LevelDebug
	}
	m.log.Log(context.Background(), level, "mosquitto", "says", line)
}

// tail returns the last errors, or else the last lines.
func (m *mapper) tail() []string { return m.last.tail() }

// A ring keeps a few lines.
type ring struct {
	mu    sync.Mutex // guards lines
	lines []string
}

func (r *ring) add(line string) {
	const most = 20
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.lines) == most {
		r.lines = append(r.lines[:0], r.lines[1:]...)
	}
	r.lines = append(r.lines, line)
}

func (r *ring) tail() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var bad []string
	for _, l := range r.lines {
		if levelOf(l) >= slog.LevelError {
			bad = append(bad, l)
		}
	}
	if len(bad) == 0 {
		return append(bad, r.lines[max(len(r.lines)-3, 0):]...)
	}
	return bad
}
