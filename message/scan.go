package message

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"unicode"
	"unicode/utf8"
)

// A kind is the type of a JSON value.
type kind uint8

const (
	absent kind = iota
	null
	boolean
	number
	text
	array
	object
)

func (k kind) String() string {
	return [...]string{"absent", "null", "a boolean", "a number", "a string", "an array", "an object"}[k]
}

// A span is where a value stands in the scanned text.
type span struct {
	start, end uint32
	kind       kind
}

// A scope says whose members an object's keys are.
type scope uint8

const (
	nested scope = iota // nobody asks for them
	envelope
	metadata
	payload
)

// A scanner checks the syntax of JSON text [RFC 8259] in one pass, and notes on the way where the values stand that the
// wire format has rules for. Of a repeated key the last one counts.
//
// Wrong UTF-8 and numbers that are not finite (NaN and Infinity as Python writes them, 1e999) are noted, and the scan
// goes on, because whether they are errors depends on what else the text holds.
type scanner struct {
	b        []byte
	maxDepth int

	top  [topFields]span
	meta [metaFields]span
	pay  [payFields]span

	reason Reason // why the scan failed: malformed or too_deep
	rule   string
	path   []string // to where it failed, innermost first

	badUTF8   int  // where the first string stands that is not UTF-8; -1 is nowhere
	notFinite int  // where the first number stands that is not finite; -1 is nowhere
	stopAt    int  // fail at the value or key that stands here, to learn its path; -1 is nowhere
	seen      bool // an envelope's key stood at the top level
}

func newScanner(b []byte, maxDepth int) scanner {
	return scanner{b: b, maxDepth: maxDepth, badUTF8: -1, notFinite: -1, stopAt: -1}
}

// document scans the whole text as one value.
func (s *scanner) document(sc scope, depth int) (kind, bool) {
	i := s.space(0)
	i, k := s.value(i, depth, sc)
	if i < 0 {
		return k, false
	}
	if i = s.space(i); i < len(s.b) {
		s.fail(i, "has something after its end")
		return k, false
	}
	return k, true
}

// fail notes why the scan failed and returns -1, which every caller hands on.
func (s *scanner) fail(i int, rule string) int {
	if s.reason == "" {
		s.reason = ReasonMalformed
		s.rule = fmt.Sprintf("is malformed JSON: %s (byte %d)", rule, i)
	}
	return -1
}

func (s *scanner) failEnd() int { return s.fail(len(s.b), "it breaks off") }

func (s *scanner) space(i int) int {
	b := s.b
	for i < len(b) && b[i] <= ' ' && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

// value scans the value that begins at i and returns where it ends, or -1.
func (s *scanner) value(i, depth int, sc scope) (int, kind) {
	if i >= len(s.b) {
		return s.failEnd(), absent
	}
	if i == s.stopAt {
		return s.fail(i, "stop"), absent
	}
	switch c := s.b[i]; {
	case c == '"':
		return s.text(i), text
	case c == '-' || '0' <= c && c <= '9':
		return s.number(i), number
	case c == '{':
		return s.object(i, depth, sc), object
	case c == '[':
		return s.array(i, depth), array
	case c == 't':
		return s.literal(i, "true"), boolean
	case c == 'f':
		return s.literal(i, "false"), boolean
	case c == 'n':
		return s.literal(i, "null"), null
	case c == 'N':
		return s.infinite(i, "NaN"), number
	case c == 'I':
		return s.infinite(i, "Infinity"), number
	default:
		return s.fail(i, fmt.Sprintf("unexpected %q", c)), absent
	}
}

func (s *scanner) object(i, depth int, sc scope) int {
	if depth >= s.maxDepth {
		return s.tooDeep()
	}
	i = s.space(i + 1)
	if i < len(s.b) && s.b[i] == '}' {
		return i + 1
	}
	for {
		if i >= len(s.b) {
			return s.failEnd()
		}
		if s.b[i] != '"' {
			return s.fail(i, fmt.Sprintf("expected a key in quotes, found %q", s.b[i]))
		}
		key := i
		if i == s.stopAt {
			return s.fail(i, "stop")
		}
		if i = s.text(i); i < 0 {
			return -1
		}
		keyEnd := i
		if i = s.space(i); i >= len(s.b) {
			return s.failEnd()
		}
		if s.b[i] != ':' {
			return s.fail(i, fmt.Sprintf("expected a colon, found %q", s.b[i]))
		}
		i = s.space(i + 1)

		// The part of the text that has no rules takes the short way.
		var end int
		if sc == nested {
			end, _ = s.value(i, depth+1, nested)
		} else {
			end = s.member(key, keyEnd, i, depth, sc)
		}
		if end < 0 {
			s.path = append(s.path, s.pathKey(key, keyEnd))
			return -1
		}
		if i = s.space(end); i >= len(s.b) {
			return s.failEnd()
		}
		switch s.b[i] {
		case ',':
			i = s.space(i + 1)
		case '}':
			return i + 1
		default:
			return s.fail(i, fmt.Sprintf("expected a comma or }, found %q", s.b[i]))
		}
	}
}

// member scans the value at i of a member whose key may have rules, and notes where it stands.
func (s *scanner) member(key, keyEnd, i, depth int, sc scope) int {
	name := s.b[key+1 : keyEnd-1]
	for _, c := range name {
		if c == '\\' {
			name = []byte(unquote(s.b[key:keyEnd]))
			break
		}
	}
	var at *span
	inner := nested
	switch sc {
	case envelope:
		f := topField(string(name))
		switch f {
		case topMetadata:
			inner, s.meta, s.seen = metadata, [metaFields]span{}, true
			s.top[f] = span{}
		case topPayload:
			inner, s.pay, s.seen = payload, [payFields]span{}, true
		default:
			inner = nested
		}
		if f >= 0 {
			at = &s.top[f]
		}
	case metadata:
		if f := metaField(string(name)); f >= 0 {
			at = &s.meta[f]
		}
	case payload:
		if f := payField(string(name)); f >= 0 {
			at = &s.pay[f]
		}
	}
	end, k := s.value(i, depth+1, inner)
	if at != nil && end >= 0 {
		*at = span{start: uint32(i), end: uint32(end), kind: k}
	}
	return end
}

func (s *scanner) array(i, depth int) int {
	if depth >= s.maxDepth {
		return s.tooDeep()
	}
	i = s.space(i + 1)
	if i < len(s.b) && s.b[i] == ']' {
		return i + 1
	}
	for n := 0; ; n++ {
		end, _ := s.value(i, depth+1, nested)
		if end < 0 {
			s.path = append(s.path, "["+strconv.Itoa(n)+"]")
			return -1
		}
		if i = s.space(end); i >= len(s.b) {
			return s.failEnd()
		}
		switch s.b[i] {
		case ',':
			i = s.space(i + 1)
		case ']':
			return i + 1
		default:
			return s.fail(i, fmt.Sprintf("expected a comma or ], found %q", s.b[i]))
		}
	}
}

func (s *scanner) tooDeep() int {
	s.reason = ReasonTooDeep
	s.rule = fmt.Sprintf("is nested more than %d levels deep", s.maxDepth)
	return -1
}

// text scans the string whose opening quote is at i.
func (s *scanner) text(i int) int {
	b, start, ascii := s.b, i, true
	for i++; i < len(b); i++ {
		if i+8 <= len(b) {
			n := plainBytes(binary.LittleEndian.Uint64(b[i:]))
			if n == 8 {
				i += 7
				continue
			}
			i += n
		}
		c := b[i]
		if plain[c] {
			continue
		}
		switch {
		case c == '"':
			if !ascii && s.badUTF8 < 0 && !utf8.Valid(b[start:i]) {
				s.badUTF8 = start
			}
			return i + 1
		case c >= utf8.RuneSelf:
			ascii = false
		case c == '\\':
			if i++; i >= len(b) {
				return s.failEnd()
			}
			switch b[i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				for range 4 {
					if i++; i >= len(b) {
						return s.failEnd()
					}
					if !isHex(b[i]) {
						return s.fail(i, fmt.Sprintf("%q in a \\u escape", b[i]))
					}
				}
			default:
				return s.fail(i, fmt.Sprintf("unknown escape \\%c", b[i]))
			}
		default:
			return s.fail(i, fmt.Sprintf("control character %#02x in a string", c))
		}
	}
	return s.failEnd()
}

// plain holds the characters that need no look inside a string.
var plain = func() (t [256]bool) {
	for c := ' '; c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// plainBytes returns how many of the 8 bytes in w, the lowest first, are plain before one that is not.
func plainBytes(w uint64) int {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	quote, backslash := w^ones*'"', w^ones*'\\'
	// In each term the lowest top bit that is set belongs to a byte under ' ', to a zero, to a zero, to one beyond ASCII.
	return bits.TrailingZeros64(((w-ones*' ')&^w|(quote-ones)&^quote|(backslash-ones)&^backslash|w)&tops) / 8
}

func isHex(c byte) bool { return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'f' }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// number scans the number that begins at i.
func (s *scanner) number(i int) int {
	b, start := s.b, i
	if b[i] == '-' {
		if i++; i >= len(b) {
			return s.failEnd()
		}
		if b[i] == 'I' {
			return s.infinite(start, "-Infinity")
		}
	}
	switch {
	case b[i] == '0':
		i++
	case isDigit(b[i]):
		for i < len(b) && isDigit(b[i]) {
			i++
		}
	default:
		return s.fail(i, fmt.Sprintf("expected a digit, found %q", b[i]))
	}
	if i < len(b) && b[i] == '.' {
		if i = s.digits(i + 1); i < 0 {
			return -1
		}
	}
	exponent := false
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		exponent = true
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if i = s.digits(i); i < 0 {
			return -1
		}
	}
	if exponent || i-start > 300 {
		if _, err := strconv.ParseFloat(string(b[start:i]), 64); errors.Is(err, strconv.ErrRange) && s.notFinite < 0 {
			s.notFinite = start
		}
	}
	return i
}

// digits scans one or more digits.
func (s *scanner) digits(i int) int {
	b := s.b
	if i >= len(b) {
		return s.failEnd()
	}
	if !isDigit(b[i]) {
		return s.fail(i, fmt.Sprintf("expected a digit, found %q", b[i]))
	}
	for i < len(b) && isDigit(b[i]) {
		i++
	}
	return i
}

func (s *scanner) literal(i int, want string) int {
	end := i + len(want)
	if end <= len(s.b) && string(s.b[i:end]) == want {
		return end
	}
	return s.fail(i, "expected "+want)
}

// infinite scans a token that is no JSON, but which Python writes for a number that is not finite.
func (s *scanner) infinite(i int, want string) int {
	end := s.literal(i, want)
	if end >= 0 && s.notFinite < 0 {
		s.notFinite = i
	}
	return end
}

// pathKey returns the key in quotes at b[start:end] as a path shows it.
func (s *scanner) pathKey(start, end int) string {
	key := unquote(s.b[start:end])
	const most = 64
	if len(key) > most {
		key = key[:most] + "..."
	}
	for _, c := range key {
		if c == utf8.RuneError || c == '.' || c == '[' || !unicode.IsGraphic(c) {
			return strconv.Quote(key)
		}
	}
	if key == "" {
		return `""`
	}
	return key
}

// unquote decodes a string with its quotes, whose syntax has been checked.
func unquote(b []byte) string {
	if t := b[1 : len(b)-1]; bytes.IndexByte(t, '\\') < 0 && utf8.Valid(t) {
		return string(t)
	}
	var t string
	if json.Unmarshal(b, &t) != nil {
		return string(b)
	}
	return t
}
