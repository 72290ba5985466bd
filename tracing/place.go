package tracing

import (
	"context"
	"encoding/hex"
	"log/slog"
	"strings"
)

// sampled is the flag of a traceparent that says that the trace is recorded.
const sampled = 1

// maxState bounds a tracestate that is passed on. Longer ones are left out, which the specification allows above 512 characters.
const maxState = 512

// A place is a span as others know it: where it is in which trace.
type place struct {
	trace  [16]byte
	span   [8]byte
	flags  byte
	state  string
	remote bool // it came from elsewhere
}

// placeKey is what a context has its place under.
type placeKey struct{}

// parse reads traceparent and tracestate. It reports false when traceparent breaks a rule of W3C Trace Context; a tracestate that does is left out.
func parse(parent, state string) (p place, ok bool) {
	const length = 55 // of version 00: 2-32-16-2
	if len(parent) < length || parent[2] != '-' || parent[35] != '-' || parent[52] != '-' {
		return place{}, false
	}
	var version, flags [1]byte
	if !unhex(version[:], parent[:2]) || version[0] == 0xff || !unhex(p.trace[:], parent[3:35]) || !unhex(p.span[:], parent[36:52]) ||
		!unhex(flags[:], parent[53:55]) || p.trace == [16]byte{} || p.span == [8]byte{} {
		return place{}, false
	}
	if len(parent) > length && (version[0] == 0 || parent[length] != '-') {
		return place{}, false
	}
	p.flags = flags[0] & sampled
	if validState(state) {
		p.state = state
	}
	return p, true
}

// unhex decodes lower-case digits.
func unhex(dst []byte, text string) bool {
	if strings.ToLower(text) != text {
		return false
	}
	_, err := hex.Decode(dst, []byte(text))
	return err == nil
}

// validState reports whether a tracestate can be passed on: it is short, and a list of key=value in printable ASCII.
func validState(state string) bool {
	if state == "" || len(state) > maxState {
		return false
	}
	for i := range len(state) {
		if c := state[i]; (c < ' ' || c > '~') && c != '\t' {
			return false
		}
	}
	for member := range strings.SplitSeq(state, ",") {
		key, _, found := strings.Cut(strings.TrimSpace(member), "=")
		if strings.TrimSpace(member) != "" && (!found || key == "") {
			return false
		}
	}
	return true
}

// String returns the traceparent.
func (p place) String() string {
	b := make([]byte, 0, 55)
	b = append(b, "00-"...)
	b = hex.AppendEncode(b, p.trace[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, p.span[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, []byte{p.flags})
	return string(b)
}

// Remote returns ctx as part of the trace that a traceparent and a tracestate name, as an HTTP request brings them. With a traceparent that
// breaks the rules, or none, it is ctx.
func Remote(ctx context.Context, parent, state string) context.Context {
	p, ok := parse(parent, state)
	if !ok {
		return ctx
	}
	p.remote = true
	return context.WithValue(ctx, placeKey{}, p)
}

// NewTrace returns ctx as part of a new trace that is recorded by everybody in it, whatever the sample ratios are. The next span is its first.
func NewTrace(ctx context.Context) context.Context {
	p := place{flags: sampled}
	for p.trace == [16]byte{} {
		fill(p.trace[:])
	}
	return context.WithValue(ctx, placeKey{}, p)
}

// TraceID returns the id of the trace that ctx is part of, 32 hexadecimal digits; "" of none.
func TraceID(ctx context.Context) string {
	p, ok := ctx.Value(placeKey{}).(place)
	if !ok {
		return ""
	}
	return hex.EncodeToString(p.trace[:])
}

// LogHandler adds trace_id and span_id to what is logged to h with a context that is part of a trace (slog.InfoContext and the like).
func LogHandler(h slog.Handler) slog.Handler { return logHandler{h} }

type logHandler struct{ slog.Handler }

func (h logHandler) Handle(ctx context.Context, r slog.Record) error {
	if p, ok := ctx.Value(placeKey{}).(place); ok {
		r = r.Clone()
		r.AddAttrs(slog.String("trace_id", hex.EncodeToString(p.trace[:])))
		if p.span != [8]byte{} {
			r.AddAttrs(slog.String("span_id", hex.EncodeToString(p.span[:])))
		}
	}
	return h.Handler.Handle(ctx, r)
}

func (h logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return logHandler{h.Handler.WithAttrs(attrs)}
}
func (h logHandler) WithGroup(name string) slog.Handler { return logHandler{h.Handler.WithGroup(name)} }
