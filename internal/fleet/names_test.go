package fleet

import (
	"strings"
	"testing"

	"github.com/lawnberry/lawnberry/topic"
)

func TestCheckMower(t *testing.T) {
	for _, id := range []string{"m", "mower-0042", "A_b", "7", strings.Repeat("x", 63)} {
		if err := CheckMower(id); err != nil {
			t.Error(err)
		}
	}
	for _, id := range []string{"", "-m", "_m", "a.b", "a b", "a*", ">", "ä", "a/b", "a=20", strings.Repeat("x", 64), "a\n"} {
		if err := CheckMower(id); err == nil {
			t.Errorf("%q is taken", id)
		}
	}
}

func TestTokens(t *testing.T) {
	for _, tt := range []struct{ topic, tokens string }{
		{"power/battery", "power.battery"},
		{"system/services/web_bridge/status", "system.services.web_bridge.status"},
		{"a.b/c d", "a=2Eb.c=20d"},
		{"a//b", "a.=.b"},
		{"", "="},
		{"*/>/=", "=2A.=3E.=3D"},
		{"größe", "gr=C3=B6=C3=9Fe"},
	} {
		if got := Tokens(tt.topic); got != tt.tokens {
			t.Errorf("Tokens(%q) = %q, want %q", tt.topic, got, tt.tokens)
		}
		if got, err := Topic(tt.tokens); err != nil || got != tt.topic {
			t.Errorf("Topic(%q) = %q, %v, want %q", tt.tokens, got, err, tt.topic)
		}
	}
	for _, tokens := range []string{"", ".", "a..b", "a.", "*", "a.>", "=2", "=2e", "=41", "=2F", "a=", "a b"} {
		if got, err := Topic(tokens); err == nil {
			t.Errorf("Topic(%q) = %q, want an error", tokens, got)
		}
	}
	for filter, want := range map[string]string{"system/events/+": "system.events.*", "safety/#": "safety.>", "a/#/b": "a.=23.b", "x+/y": "x=2B.y"} {
		if got := FilterTokens(filter); got != want {
			t.Errorf("FilterTokens(%q) = %q, want %q", filter, got, want)
		}
	}
}

// FuzzTokens: every topic comes back from its tokens, and what comes from tokens gives these again.
func FuzzTokens(f *testing.F) {
	r, err := topic.New("")
	if err != nil {
		f.Fatal(err)
	}
	for d := range r.All() {
		f.Add(d.Pattern)
	}
	f.Add("a.b//=*>\x00ä")
	f.Fuzz(func(t *testing.T, text string) {
		tokens := Tokens(text)
		if strings.ContainsAny(tokens, " \t*>/\x00") || strings.Contains(tokens, "..") {
			t.Errorf("%q is %q", text, tokens)
		}
		if got, err := Topic(tokens); err != nil || got != text {
			t.Errorf("%q is %q, and that %q, %v", text, tokens, got, err)
		}
		if got, err := Topic(text); err == nil && Tokens(got) != text {
			t.Errorf("%q is the topic %q, whose tokens are %q", text, got, Tokens(got))
		}
		mower, of, err := ParseHistorySubject(HistorySubject("m-1", text))
		if mower != "m-1" || of != text || err != nil {
			t.Errorf("%q is of the mower %q with the topic %q, %v", text, mower, of, err)
		}
	})
}
