package loglevel

import (
	"context"
	"log/slog"
)

// Handler returns a handler that gives next what the level of its package lets through, whatever the level of next is. The package is that of the latest
// attribute Key outside of any group, and stands behind a record's own attributes.
func (l *Levels) Handler(next slog.Handler) slog.Handler { return &handler{levels: l, next: next} }

type handler struct {
	levels *Levels
	next   slog.Handler
	name   string // of the package, "" without
	inside bool   // of a group: next has been told the name
}

// Enabled implements slog.Handler.
func (h *handler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.levels.of(h.name)
}

// Handle implements slog.Handler.
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	if h.name != "" && !h.inside {
		r = r.Clone()
		r.AddAttrs(slog.String(Key, h.name))
	}
	return h.next.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	n := *h
	if h.inside {
		n.next = h.next.WithAttrs(attrs)
		return &n
	}
	rest := make([]slog.Attr, 0, len(attrs))
	for _, a := range attrs {
		if a.Key == Key && a.Value.Kind() == slog.KindString {
			n.name = a.Value.String()
			continue
		}
		rest = append(rest, a)
	}
	if len(rest) > 0 {
		n.next = h.next.WithAttrs(rest)
	}
	return &n
}

// WithGroup implements slog.Handler.
func (h *handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	n := *h
	if h.name != "" && !h.inside {
		n.next = h.next.WithAttrs([]slog.Attr{slog.String(Key, h.name)})
	}
	n.inside = true
	n.next = n.next.WithGroup(name)
	return &n
}
