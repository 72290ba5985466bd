package tracing

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
)

const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		name, parent, state string
		ok                  bool
		want                string // of the state
	}{
		{"good", good, "a=b, c@d=e", true, "a=b, c@d=e"},
		{"not sampled, other flags", good[:53] + "fe", "", true, ""},
		{"a later version, longer", "01" + good[2:] + "-more", "", true, ""},
		{"a later version, not longer", "cc" + good[2:], "", true, ""},
		{"a later version, no dash", "01" + good[2:] + "x", "", false, ""},
		{"version 00, longer", good + "-more", "", false, ""},
		{"version ff", "ff" + good[2:], "", false, ""},
		{"empty", "", "a=b", false, ""},
		{"short", good[:54], "", false, ""},
		{"upper case", strings.ToUpper(good), "", false, ""},
		{"no hexadecimal", strings.Replace(good, "0af7", "0ag7", 1), "", false, ""},
		{"no trace", "00-" + strings.Repeat("0", 32) + "-b7ad6b7169203331-01", "", false, ""},
		{"no span", "00-0af7651916cd43dd8448eb211c80319c-" + strings.Repeat("0", 16) + "-01", "", false, ""},
		{"dashes elsewhere", strings.ReplaceAll(good, "-", "_"), "", false, ""},
		{"long", strings.Repeat("0", 65535), "", false, ""},
		{"state too long", good, "a=" + strings.Repeat("b", maxState), true, ""},
		{"state with NUL", good, "a=\x00", true, ""},
		{"state that is not UTF-8", good, "a=\xff", true, ""},
		{"state without a value", good, "a", true, ""},
		{"state without a key", good, "=a", true, ""},
	} {
		p, ok := parse(tt.parent, tt.state)
		if ok != tt.ok || p.state != tt.want {
			t.Errorf("%s: %v, state %q; want %v, %q", tt.name, ok, p.state, tt.ok, tt.want)
		}
	}
	if p, _ := parse(good, ""); p.String() != good {
		t.Errorf("%s, want %s", p, good)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(good, "a=b")
	f.Add("01"+good[2:]+"-x", "a")
	f.Fuzz(func(t *testing.T, parent, state string) {
		p, ok := parse(parent, state)
		if !ok {
			return
		}
		again, ok := parse(p.String(), p.state)
		if !ok || again != p {
			t.Errorf("%q, %q: %+v comes back as %+v, %v", parent, state, p, again, ok)
		}
	})
}

func TestLogHandler(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(LogHandler(slog.NewJSONHandler(&out, nil))).With("a", 1)
	log.InfoContext(Remote(context.Background(), good, ""), "x")
	if want := `"a":1,"trace_id":"0af7651916cd43dd8448eb211c80319c","span_id":"b7ad6b7169203331"}`; !strings.Contains(out.String(), want) {
		t.Errorf("%s, want %s", out.String(), want)
	}
	out.Reset()
	log.InfoContext(Remote(context.Background(), "nonsense", ""), "x")
	if strings.Contains(out.String(), "trace_id") {
		t.Error(out.String())
	}
}
