package fleet

import (
	"cmp"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"unicode"
)

// A literal is what a field is compared with.
type literal struct {
	text     string
	quoted   bool
	isNumber bool
	num      float64
	unit     string
	bool     bool
	glob     bool
}

// number reads a number, and the unit after it if there is one. What is in quotes is a number too, so that a shell's quoting does not matter.
func (l *literal) number() bool {
	end := numberEnd(l.text)
	if end == 0 {
		return false
	}
	f, err := strconv.ParseFloat(l.text[:end], 64)
	unit := strings.TrimSpace(l.text[end:])
	if err != nil || math.IsInf(f, 0) || len(unit) > 16 || unit != "" && !unicode.IsLetter(firstRune(unit)) && !strings.ContainsRune("%°", firstRune(unit)) {
		return false
	}
	l.isNumber, l.num, l.unit = true, f, unit
	return true
}

// duration reads seconds, or a time with a unit.
func (l *literal) duration() bool {
	seconds := map[string]float64{"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "ms": 0.001, "min": 60}
	if !l.number() || seconds[l.unit] == 0 {
		return false
	}
	l.num *= seconds[l.unit]
	return true
}

// pattern prepares the text for ~.
func (l *literal) pattern() {
	l.text = strings.ToLower(l.text)
	l.glob = strings.ContainsAny(l.text, "*?")
}

// like is ~.
func (l *literal) like(v Value) bool {
	text := strings.ToLower(v.Text())
	if l.glob {
		return globMatch([]rune(l.text), []rune(text))
	}
	return strings.Contains(text, l.text)
}

// globMatch compares the whole of a text with a pattern, in which * is any text and ? any character, in time len(pattern)*len(text) at most.
func globMatch(pattern, text []rune) bool {
	p, t, star, mark := 0, 0, -1, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, t
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == text[t]):
			p++
			t++
		case star >= 0:
			mark++
			p, t = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// Text returns the value as people read it, "" without one.
func (v Value) Text() string {
	switch v.kind {
	case valueNumber:
		return strconv.FormatFloat(v.num, 'g', -1, 64)
	case valueText:
		return v.text
	case valueBool:
		return strconv.FormatBool(v.num != 0)
	}
	return ""
}

// compare compares a value with what it is to be compared with. comparable is false where they are of different kinds.
func (t *term) compare(v Value) (order int, comparable bool) {
	l := &t.literal
	switch {
	case t.kind == KindSeverity:
		return cmp.Compare(float64(SeverityRank(v.text)), l.num), v.kind == valueText
	case t.kind == KindVersion:
		if a, b := versionParts(v.text), versionParts(l.text); a != nil && b != nil {
			return compareVersions(a, b), true
		}
		return compareText(v.text, l.text, false), t.op == "=" || t.op == "!="
	case v.kind == valueBool:
		if t.name == "" {
			l = &literal{text: l.text, bool: strings.EqualFold(l.text, "true")}
			if !l.bool && !strings.EqualFold(l.text, "false") {
				return 0, false
			}
		}
		return cmp.Compare(v.num, boolValue(l.bool).num), true
	case v.kind == valueNumber:
		return cmp.Compare(v.num, l.num), l.isNumber && (t.kind != "" || l.unit == "" || v.unit == "" || sameUnit(l.unit, v.unit))
	}
	if t.kind == "" && l.isNumber && !l.quoted { // a text that is a number
		if f, err := strconv.ParseFloat(strings.TrimSpace(v.text), 64); err == nil && !math.IsNaN(f) {
			return cmp.Compare(f, l.num), true
		}
	}
	return compareText(v.text, l.text, t.name == "id"), t.op == "=" || t.op == "!="
}

func compareText(a, b string, exact bool) int {
	if a == b || !exact && strings.EqualFold(a, b) {
		return 0
	}
	return cmp.Compare(a, b)
}

// versionParts returns the numbers of a version such as v1.4.2-rc1 (1, 4, 2), nil if it is none.
func versionParts(s string) []uint64 {
	s = strings.TrimPrefix(s, "v")
	if end := strings.IndexAny(s, "-+ "); end >= 0 {
		s = s[:end]
	}
	if len(s) > 64 {
		return nil
	}
	var parts []uint64
	for p := range strings.SplitSeq(s, ".") {
		n, err := strconv.ParseUint(p, 10, 64)
		if err != nil {
			return nil
		}
		parts = append(parts, n)
	}
	return parts
}

// compareVersions compares number by number; one that is missing is 0.
func compareVersions(a, b []uint64) int {
	at := func(l []uint64, i int) uint64 {
		if i < len(l) {
			return l[i]
		}
		return 0
	}
	for i := range max(len(a), len(b)) {
		if order := cmp.Compare(at(a, i), at(b, i)); order != 0 {
			return order
		}
	}
	return 0
}

// SeverityRank is how bad an alert is: 1 for info to 4 for critical, 0 for what is no severity.
func SeverityRank(severity string) int {
	switch severity {
	case "info":
		return 1
	case "warning":
		return 2
	case "error":
		return 3
	case "critical":
		return 4
	}
	return 0
}

// Compare orders values: nothing, false and true, numbers, texts.
func (v Value) Compare(o Value) int {
	rank := func(k valueKind) int { return [...]int{valueMissing: 0, valueBool: 1, valueNumber: 2, valueText: 3}[k] }
	return cmp.Or(cmp.Compare(rank(v.kind), rank(o.kind)), cmp.Compare(v.num, o.num), cmp.Compare(v.text, o.text))
}

// MarshalJSON encodes the value as it was sent, nothing as null.
func (v Value) MarshalJSON() ([]byte, error) {
	switch v.kind {
	case valueNumber:
		return json.Marshal(v.num)
	case valueText:
		return json.Marshal(v.text)
	case valueBool:
		return json.Marshal(v.num != 0)
	}
	return []byte("null"), nil
}
