package message

import (
	"bytes"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Decode parses (and inflates) body. A body without a recognisable envelope is a raw message, not an error. An
// envelope that breaks a rule, or a body beyond the limits, is an *[Error]. The result's Payload may alias body.
//
// What it returns is valid: Validate need not be called. It says nothing about age (see CheckAge). Together with an
// error it returns the metadata as far as it could be read, and nothing else, so that the sender can be answered.
func Decode(body []byte, lim Limits) (Message, error) {
	if err := lim.checkSize(len(body)); err != nil {
		return Message{}, err
	}
	if IsCompressed(body) {
		inflated, err := inflate(body, &lim)
		if err != nil {
			return Message{}, err
		}
		body = inflated
	}
	s := newScanner(body, lim.maxDepth())
	first := s.space(0)
	if first == len(body) || body[first] != '{' && body[first] != '[' {
		return NewRaw(body), nil
	}

	_, ok := s.document(envelope, 0)
	md, pl := s.top[topMetadata], s.top[topPayload]
	switch {
	case !ok && s.reason == ReasonMalformed && !s.seen:
		return NewRaw(body), nil
	case ok && (md.kind == absent || pl.kind == absent && s.meta[metaType].kind == absent):
		return NewRaw(body), nil
	}
	var m Message
	err := s.metadata(md, &m.Metadata)
	if !ok {
		return m, &Error{Reason: s.reason, Field: fieldPath(s.path), Rule: s.rule}
	}
	if err := s.checkText(); err != nil {
		return m, err
	}
	if err != nil {
		return m, err
	}
	if err := s.checkPayload(m.Metadata.Type, pl.kind); err != nil {
		return m, err
	}
	m.Payload = body[pl.start:pl.end:pl.end]
	return m, nil
}

// checkText returns an error for what the scan noted: wrong UTF-8, or a number that is not finite.
func (s *scanner) checkText() error {
	switch {
	case s.badUTF8 >= 0:
		return &Error{Reason: ReasonUTF8, Field: s.pathTo(s.badUTF8), Rule: "is not valid UTF-8"}
	case s.notFinite >= 0:
		at := s.notFinite
		return &Error{Reason: ReasonNotFinite, Field: s.pathTo(at),
			Rule: "must be a finite number, not " + s.excerpt(span{start: uint32(at), end: s.numberEnd(at)})}
	}
	return nil
}

// pathTo returns the path to the value or key that stands at i in a text that s has found to be well-formed.
func (s *scanner) pathTo(i int) string {
	again := newScanner(s.b, s.maxDepth)
	again.stopAt = i
	again.document(nested, 0)
	return fieldPath(again.path)
}

// numberEnd returns where the number or word at i ends.
func (s *scanner) numberEnd(i int) uint32 {
	for i < len(s.b) {
		switch c := s.b[i]; {
		case isDigit(c), 'a' <= c|0x20 && c|0x20 <= 'z', c == '+', c == '-', c == '.':
			i++
			continue
		}
		break
	}
	return uint32(i)
}

// metadata checks the metadata at md, which s has scanned, and decodes it. It leaves out what breaks a rule and returns
// the error for the first.
func (s *scanner) metadata(md span, m *Metadata) (first error) {
	if md.kind != object {
		return wrongType("metadata", object, md.kind)
	}
	var num [metaFields]float64
	for f := range s.meta {
		num[f] = s.float(s.meta[f])
		if err := s.checkMetadata(f, s.meta[f], num[f]); err != nil {
			s.meta[f], num[f] = span{}, 0
			if first == nil {
				first = err
			}
		}
	}

	// All strings share one copy of the metadata.
	src := string(s.b[md.start:md.end])
	m.ID = s.stringIn(src, md, s.meta[metaID])
	m.Sender = s.stringIn(src, md, s.meta[metaSender])
	m.CorrelationID = s.stringIn(src, md, s.meta[metaCorrelationID])
	m.Type, _ = s.typeAt(s.meta[metaType])
	m.Timestamp = num[metaTimestamp]
	m.ExpiresAt = num[metaExpiresAt]
	m.Priority = Priority(num[metaPriority])
	m.RetryCount = int(num[metaRetryCount])
	return first
}

// A metadataRule says what a value of the metadata must be. A value that is not required may also be null.
type metadataRule struct {
	name     string
	kind     kind
	required bool
}

var metadataRules = [metaFields]metadataRule{
	metaTimestamp:     {"metadata.timestamp", number, true},
	metaID:            {"metadata.message_id", text, true},
	metaSender:        {"metadata.sender", text, true},
	metaType:          {"metadata.message_type", text, true},
	metaPriority:      {"metadata.priority", number, true},
	metaCorrelationID: {"metadata.correlation_id", text, false},
	metaExpiresAt:     {"metadata.expires_at", number, false},
	metaRetryCount:    {"metadata.retry_count", number, false},
}

// checkMetadata checks the value at v of the field f; n is the value if that is a number.
func (s *scanner) checkMetadata(f int, v span, n float64) error {
	r := &metadataRules[f]
	bad := func(reason Reason, rule string) error { return &Error{Reason: reason, Field: r.name, Rule: rule} }
	switch {
	case v.kind == absent && r.required:
		return bad(ReasonMissingField, "is missing")
	case v.kind == absent, v.kind == null && !r.required:
		return nil
	case v.kind != r.kind:
		return wrongType(r.name, r.kind, v.kind)
	}
	switch f {
	case metaTimestamp, metaExpiresAt:
		switch {
		case !isFinite(n):
			return bad(ReasonNotFinite, "must be a finite number, not "+s.excerpt(v))
		case n <= 0:
			return bad(ReasonOutOfRange, "must be over 0, not "+s.excerpt(v))
		}
	case metaID, metaSender:
		if v.end-v.start == 2 {
			return bad(ReasonMissingField, "is empty")
		}
	case metaType:
		if _, known := s.typeAt(v); !known {
			return bad(ReasonUnknownType, mustBeType+s.excerpt(v))
		}
	case metaPriority, metaRetryCount:
		if n != math.Trunc(n) {
			return bad(ReasonWrongType, "must be an integer, not "+s.excerpt(v))
		}
		if f == metaPriority && (n < 0 || n > float64(Critical)) {
			return bad(ReasonOutOfRange, "must be 0 to 3, not "+s.excerpt(v))
		}
		if n < 0 || n > maxRetryCount {
			return bad(ReasonOutOfRange, "must be 0 to "+strconv.Itoa(maxRetryCount)+", not "+s.excerpt(v))
		}
	}
	return nil
}

const maxRetryCount = 1<<31 - 1

// typeAt returns the message_type at v, and whether it is one. It makes no copy.
func (s *scanner) typeAt(v span) (Type, bool) {
	if v.kind != text {
		return "", false
	}
	t := s.b[v.start+1 : v.end-1]
	if bytes.IndexByte(t, '\\') >= 0 {
		t = []byte(s.string(v))
	}
	for _, known := range types {
		if string(t) == string(known) {
			return known, true
		}
	}
	return "", false
}

// float returns the number at v, which may be infinite or NaN; 0 if there is none.
func (s *scanner) float(v span) float64 {
	if v.kind != number {
		return 0
	}
	b := s.b[v.start:v.end]
	if len(b) == 1 { // a priority, a retry count
		return float64(b[0] - '0')
	}
	f, _ := strconv.ParseFloat(string(b), 64) // reads NaN and Infinity too; beyond the range it is infinite
	return f
}

// string returns the string at v.
func (s *scanner) string(v span) string { return unquote(s.b[v.start:v.end]) }

// stringIn returns the string at v as a part of src, a copy of the text at outer; "" if there is none.
func (s *scanner) stringIn(src string, outer, v span) string {
	if v.kind != text {
		return ""
	}
	t := src[v.start+1-outer.start : v.end-1-outer.start]
	switch {
	case strings.IndexByte(t, '\\') >= 0:
		return s.string(v)
	case s.badUTF8 >= 0 && !utf8.ValidString(t):
		return ""
	}
	return t
}

// excerpt returns the text at v for an error, shortened.
func (s *scanner) excerpt(v span) string {
	const most = 40
	if v.end-v.start > most {
		return string(s.b[v.start:v.start+most]) + "..."
	}
	return string(s.b[v.start:v.end])
}
