package topic

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxBytes is the length of the longest topic name or filter [MQTT-4.7.3-3].
const maxBytes = 65535

const sharePrefix = "$share/"

// An Error says which rule a topic name, filter, namespace or definition breaks.
type Error struct {
	What  string // "topic name", "topic filter", "namespace", "definition of", "service id"
	Topic string
	Rule  string // what is wrong, with the rule of the specification where there is one
}

func (e *Error) Error() string {
	t := e.Topic
	if len(t) > 120 { // a person reads this; an attacker may have chosen the topic
		t = t[:120] + "..."
	}
	return fmt.Sprintf("%s %q: %s", e.What, t, e.Rule)
}

// Match reports whether an MQTT topic filter matches a topic name [MQTT-4.7]: "a/#" matches "a", "+" matches an
// empty level, a leading wildcard does not match a topic that begins with $. A $share filter matches by its inner
// filter. Match does not allocate; of a filter or name that breaks the rules it says nothing useful but does not panic.
func Match(filter, name string) bool {
	if len(filter) > 0 && filter[0] == '$' {
		_, filter, _ = SplitShared(filter)
	}
	if filter == "" || name == "" {
		return false
	}
	if name[0] == '$' && (filter[0] == '+' || filter[0] == '#') { // [MQTT-4.7.2-1]
		return false
	}
	for {
		f, frest, fmore := cutLevel(filter)
		if f == "#" {
			return !fmore
		}
		n, nrest, nmore := cutLevel(name)
		if f != "+" && f != n {
			return false
		}
		switch {
		case !fmore:
			return !nmore
		case !nmore:
			return frest == "#" // the parent level
		}
		filter, name = frest, nrest
	}
}

// cutLevel is strings.Cut(t, "/") for short levels, where a loop is faster than a call.
func cutLevel(t string) (level, rest string, more bool) {
	for i := 0; i < len(t); i++ {
		if t[i] == '/' {
			return t[:i], t[i+1:], true
		}
	}
	return t, "", false
}

// CheckName reports why t is no valid topic name: empty, NUL, wildcard, invalid UTF-8, over 65,535 bytes.
// The error is an *[Error].
func CheckName(t string) error {
	rule := checkString(t)
	if rule == "" && strings.ContainsAny(t, "+#") {
		rule = "contains a wildcard (+ or #), which only a filter may [MQTT-4.7.0-1]"
	}
	if rule != "" {
		return &Error{What: "topic name", Topic: t, Rule: rule}
	}
	return nil
}

// CheckFilter reports why f is no valid topic filter, shared filters ($share/group/filter) included.
// The error is an *[Error].
func CheckFilter(f string) error {
	if rule := checkFilter(f); rule != "" {
		return &Error{What: "topic filter", Topic: f, Rule: rule}
	}
	return nil
}

func checkFilter(f string) string {
	if rule := checkString(f); rule != "" {
		return rule
	}
	if group, inner, shared := SplitShared(f); shared {
		switch {
		case group == "":
			return "has no share name: write $share/NAME/FILTER [MQTT-4.8.2-1]"
		case strings.ContainsAny(group, "+#"):
			return "has a wildcard in its share name [MQTT-4.8.2-2]"
		case inner == "":
			return "has no filter after its share name: write $share/NAME/FILTER [MQTT-4.8.2-2]"
		}
		f = inner
	}
	for {
		level, rest, more := cutLevel(f)
		switch {
		case len(level) > 1 && strings.Contains(level, "#"):
			return "has a # that is not a level of its own [MQTT-4.7.1-1]"
		case len(level) > 1 && strings.Contains(level, "+"):
			return "has a + that is not a level of its own [MQTT-4.7.1-2]"
		case level == "#" && more:
			return "has a # that is not its last level [MQTT-4.7.1-1]"
		}
		if !more {
			return ""
		}
		f = rest
	}
}

// checkString checks what names and filters have in common, and returns the broken rule.
func checkString(t string) string {
	switch {
	case t == "":
		return "is empty [MQTT-4.7.3-1]"
	case len(t) > maxBytes:
		return fmt.Sprintf("is %d bytes long: the limit is %d [MQTT-4.7.3-3]", len(t), maxBytes)
	case strings.IndexByte(t, 0) >= 0:
		return "contains a NUL character [MQTT-4.7.3-2]"
	case !utf8.ValidString(t):
		return "is not valid UTF-8 [MQTT-1.5.4-1]"
	}
	return ""
}

// CheckLevel reports why s cannot stand as one level of a topic, as a service id does in commands/{id}:
// what CheckName refuses, and a slash. what names s in the error, an *[Error]: "service id".
func CheckLevel(what, s string) error {
	if err := CheckName(s); err != nil {
		return &Error{What: what, Topic: s, Rule: err.(*Error).Rule}
	}
	if strings.Contains(s, "/") {
		return &Error{What: what, Topic: s, Rule: "contains a slash, but must be one level of a topic"}
	}
	return nil
}

// SplitShared splits $share/group/filter; shared is false and filter is f for an ordinary filter. What begins with
// $share/ is shared even if its group or filter is missing, which CheckFilter refuses.
func SplitShared(f string) (group, filter string, shared bool) {
	rest, ok := strings.CutPrefix(f, sharePrefix)
	if !ok {
		return "", f, false
	}
	group, filter, _ = strings.Cut(rest, "/")
	return group, filter, true
}
