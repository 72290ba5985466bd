package cloudlog

import (
	"bytes"
	"context"
	"log/slog"
	"math"
)

// Handler returns a handler that writes to next and, what is of the level at least, to the sink; with a nil level what next takes.
func (s *Sink) Handler(next slog.Handler, level slog.Leveler) slog.Handler {
	follows := level == nil
	if follows {
		level = slog.Level(math.MinInt) // next decides
	}
	return &handler{next: next, lines: slog.NewJSONHandler(lineWriter{s}, &slog.HandlerOptions{Level: level}), follows: follows}
}

// A lineWriter gets a line with each call.
type lineWriter struct{ s *Sink }

func (w lineWriter) Write(line []byte) (int, error) {
	w.s.put(bytes.Clone(bytes.TrimSuffix(line, []byte{'\n'})))
	return len(line), nil
}

type handler struct {
	next, lines slog.Handler
	follows     bool // lines gets what next takes
}

// Enabled implements slog.Handler.
func (h *handler) Enabled(ctx context.Context, l slog.Level) bool {
	return h.next.Enabled(ctx, l) || !h.follows && h.lines.Enabled(ctx, l)
}

// Handle implements slog.Handler.
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	taken := h.next.Enabled(ctx, r.Level)
	if h.follows && taken || !h.follows && h.lines.Enabled(ctx, r.Level) {
		_ = h.lines.Handle(ctx, r.Clone()) // never fails
	}
	if taken {
		return h.next.Handle(ctx, r)
	}
	return nil
}

// WithAttrs implements slog.Handler.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{h.next.WithAttrs(attrs), h.lines.WithAttrs(attrs), h.follows}
}

// WithGroup implements slog.Handler.
func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{h.next.WithGroup(name), h.lines.WithGroup(name), h.follows}
}
