package topic

import (
	"errors"
	"regexp"
	"strings"
	"testing"
)

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		filter, name string
		want         bool
	}{
		// The examples of [MQTT-4.7].
		{"sport/tennis/player1/#", "sport/tennis/player1", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/ranking", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true},
		{"sport/#", "sport", true},
		{"#", "sport/tennis", true},
		{"sport/tennis/+", "sport/tennis/player1", true},
		{"sport/tennis/+", "sport/tennis/player1/ranking", false},
		{"sport/+", "sport", false},
		{"sport/+", "sport/", true},
		{"+/+", "/finance", true},
		{"/+", "/finance", true},
		{"+", "/finance", false},
		{"#", "$SYS/broker", false},
		{"+/monitor/Clients", "$SYS/monitor/Clients", false},
		{"$SYS/#", "$SYS/monitor/Clients", true},
		{"$SYS/monitor/+", "$SYS/monitor/Clients", true},
		{"ACCOUNTS", "Accounts", false},
		{"/finance", "finance", false},

		{"#", "/", true},
		{"+", "", false},
		{"#", "", false},
		{"", "a", false},
		{"+/+", "/", true},
		{"+/#", "a", true},
		{"+/#", "$a", false},
		{"$SYS/#", "$SYS", true},
		{"a/+/c", "a//c", true},
		{"a/+/c", "a/b/b/c", false},
		{"a/+/#", "a", false},
		{"a/+/#", "a/b", true},
		{"a/b", "a/b/", false},
		{"a/b/", "a/b", false},
		{"a//#", "a/", true},
		{"a//#", "a", false},
		{"a/$x", "a/$x", true},
		{"a/+", "a/$x", true},
		{"a/#", "ab", false},
		{"a", "ab", false},
		{"ab", "a", false},

		{"$share/g/a/#", "a", true},
		{"$share/g/#", "$SYS/x", false},
		{"$share/g/$SYS/#", "$SYS/x", true},
		{"$share/g//a", "/a", true},
		{"$share/g", "a", false},
		{"$share/g/", "a", false},
		{"$share", "$share", true},
	} {
		if got := Match(tt.filter, tt.name); got != tt.want {
			t.Errorf("Match(%q, %q) = %v, want %v", tt.filter, tt.name, got, tt.want)
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, name := range []string{"a", "/", "a//b", "a b", "a/b/", "$SYS/x", "ü/日本", "\ufeff", strings.Repeat("x", 65535)} {
		if err := CheckName(name); err != nil {
			t.Errorf("%.20q: %v", name, err)
		}
	}
	for name, want := range map[string]string{
		"":                         "[MQTT-4.7.3-1]",
		"a\x00":                    "[MQTT-4.7.3-2]",
		strings.Repeat("x", 65536): "[MQTT-4.7.3-3]",
		"a\xff":                    "[MQTT-1.5.4-1]",
		"\xed\xa0\x80":             "[MQTT-1.5.4-1]", // a surrogate
		"a/+":                      "[MQTT-4.7.0-1]",
		"a#":                       "[MQTT-4.7.0-1]",
	} {
		err := CheckName(name)
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), want) || e.What != "topic name" || e.Topic != name {
			t.Errorf("%.20q: %v, want an *Error with %s", name, err, want)
		}
	}
}

func TestCheckFilter(t *testing.T) {
	for _, f := range []string{
		"a", "#", "+", "/", "//", "+/+", "/+", "+/", "a/#", "a/+/#", "+/#", "$SYS/#", "$share/g/a", "$share/g/#", "$share/g//",
		"$share/g/+/a", "$share", "$shared/x", "a/$share/b",
	} {
		if err := CheckFilter(f); err != nil {
			t.Errorf("%q: %v", f, err)
		}
	}
	for f, want := range map[string]string{
		"":                         "[MQTT-4.7.3-1]",
		"a\x00":                    "[MQTT-4.7.3-2]",
		strings.Repeat("x", 65536): "[MQTT-4.7.3-3]",
		"a\xff":                    "[MQTT-1.5.4-1]",
		"a/#/b":                    "[MQTT-4.7.1-1]",
		"#/":                       "[MQTT-4.7.1-1]",
		"##":                       "[MQTT-4.7.1-1]",
		"a#":                       "[MQTT-4.7.1-1]",
		"#a":                       "[MQTT-4.7.1-1]",
		"a/+b":                     "[MQTT-4.7.1-2]",
		"a+/b":                     "[MQTT-4.7.1-2]",
		"++":                       "[MQTT-4.7.1-2]",
		"+#":                       "[MQTT-4.7.1-1]",
		"$share/":                  "[MQTT-4.8.2-1]",
		"$share//a":                "[MQTT-4.8.2-1]",
		"$share/g":                 "[MQTT-4.8.2-2]",
		"$share/g/":                "[MQTT-4.8.2-2]",
		"$share/+/a":               "[MQTT-4.8.2-2]",
		"$share/g#/a":              "[MQTT-4.8.2-2]",
		"$share/g/a/#/b":           "[MQTT-4.7.1-1]",
	} {
		err := CheckFilter(f)
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), want) || e.What != "topic filter" || e.Topic != f {
			t.Errorf("%.20q: %v, want an *Error with %s", f, err, want)
		}
	}
}

func TestCheckLevel(t *testing.T) {
	if err := CheckLevel("service id", "hardware_interface"); err != nil {
		t.Error(err)
	}
	for _, s := range []string{"", "a/b", "+", "#", "a\x00", "\xff"} {
		err := CheckLevel("service id", s)
		if err == nil || !strings.HasPrefix(err.Error(), "service id ") {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestErrorIsShort(t *testing.T) {
	if n := len(CheckName(strings.Repeat("\x00", 60000)).Error()); n > 1000 {
		t.Errorf("an error of %d bytes", n)
	}
}

func TestSplitShared(t *testing.T) {
	for _, tt := range []struct {
		in, group, filter string
		shared            bool
	}{
		{"$share/g/a/b", "g", "a/b", true},
		{"$share/g//", "g", "/", true},
		{"$share/g/", "g", "", true},
		{"$share/g", "g", "", true},
		{"$share/", "", "", true},
		{"$share//a", "", "a", true},
		{"$share", "", "$share", false},
		{"$SYS/a", "", "$SYS/a", false},
		{"a/$share/b", "", "a/$share/b", false},
		{"", "", "", false},
	} {
		group, filter, shared := SplitShared(tt.in)
		if group != tt.group || filter != tt.filter || shared != tt.shared {
			t.Errorf("SplitShared(%q) = %q, %q, %v", tt.in, group, filter, shared)
		}
	}
}

// oracle matches by a regular expression made of the filter, level by level as the specification words it.
func oracle(filter, name string) bool {
	if CheckFilter(filter) != nil || CheckName(name) != nil {
		return false
	}
	if strings.HasPrefix(filter, "$share/") {
		filter = strings.SplitN(filter, "/", 3)[2]
	}
	if name[0] == '$' && strings.ContainsAny(filter[:1], "+#") {
		return false
	}
	if filter == "#" {
		return true
	}
	body, all := strings.CutSuffix(filter, "/#")
	levels := strings.Split(body, "/")
	for i, l := range levels {
		if levels[i] = regexp.QuoteMeta(l); l == "+" {
			levels[i] = "[^/]*"
		}
	}
	expr := strings.Join(levels, "/")
	if all {
		expr += "(/.*)?"
	}
	return regexp.MustCompile(`(?s)\A` + expr + `\z`).MatchString(name)
}

func FuzzMatch(f *testing.F) {
	for _, s := range [][2]string{
		{"a/#", "a"}, {"+", ""}, {"#", "$SYS"}, {"a/+/c", "a//c"}, {"$share/g/a/#", "a/b"}, {"+/+", "/"}, {"a//#", "a/"},
		{"/#", "/"}, {"a.b/+", "axb/c"}, {"$share/g/#", "$x"}, {"a/\n/#", "a/\n/b\n"},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, filter, name string) {
		got := Match(filter, name)
		if CheckFilter(filter) != nil || CheckName(name) != nil {
			return // it must not panic, and says nothing
		}
		if want := oracle(filter, name); got != want {
			t.Errorf("Match(%q, %q) = %v, want %v", filter, name, got, want)
		}
		if !Match(name, name) && !strings.HasPrefix(name, sharePrefix) {
			t.Errorf("%q does not match itself", name)
		}
	})
}

// TestMatchOracle compares Match with the oracle for all short filters and names.
func TestMatchOracle(t *testing.T) {
	n := 0
	forAll("ab$/", 4, func(name string) {
		forAll("a$/+#", 4, func(filter string) {
			if CheckFilter(filter) != nil {
				return
			}
			n++
			if got, want := Match(filter, name), oracle(filter, name); got != want {
				t.Errorf("Match(%q, %q) = %v, want %v", filter, name, got, want)
			}
		})
	})
	if n < 10_000 {
		t.Errorf("compared only %d", n)
	}
}

// forAll calls f with every string of 1 to n characters of the alphabet.
func forAll(alphabet string, n int, f func(string)) {
	var rec func(prefix string)
	rec = func(prefix string) {
		for _, c := range alphabet {
			s := prefix + string(c)
			f(s)
			if len(s) < n {
				rec(s)
			}
		}
	}
	rec("")
}
