package message

import "strconv"

// Decode parses (and inflates) body. A body without a recognisable envelope is a raw message, not an error. An
// envelope that breaks a rule, or a body beyond the limits, is an *[Error]. The result's Payload may alias body.
//
// What it returns is valid: Validate need not be called. It says nothing about age (see CheckAge).
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
	if !ok {
		if s.reason == ReasonMalformed && !s.seen {
			return NewRaw(body), nil
		}
		return Message{}, &Error{Reason: s.reason, Field: fieldPath(s.path), Rule: s.rule}
	}
	md, pl := s.top[topMetadata], s.top[topPayload]
	if md.kind == absent || pl.kind == absent && s.meta[metaType].kind == absent {
		return NewRaw(body), nil
	}
	if err := s.checkText(); err != nil {
		return Message{}, err
	}

	var m Message
	if err := s.metadata(md, &m.Metadata); err != nil {
		return Message{}, err
	}
	if pl.kind == absent {
		return Message{}, &Error{Reason: ReasonMissingField, Field: "payload", Rule: "is missing"}
	}
	if err := s.checkPayload(m.Metadata.Type, pl.kind); err != nil {
		return Message{}, err
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

// metadata checks the metadata at md, which s has scanned, and decodes it.
func (s *scanner) metadata(md span, m *Metadata) error {
	if md.kind != object {
		return wrongType("metadata", object, md.kind)
	}
	for f := range s.meta {
		if err := s.checkMetadata(f, s.meta[f]); err != nil {
			return err
		}
	}

	// All strings share one copy of the metadata.
	src := string(s.b[md.start:md.end])
	m.ID = s.stringIn(src, md, s.meta[metaID])
	m.Sender = s.stringIn(src, md, s.meta[metaSender])
	m.CorrelationID = s.stringIn(src, md, s.meta[metaCorrelationID])
	m.Type, _ = knownType(s.b[s.meta[metaType].start:s.meta[metaType].end])
	m.Timestamp = s.float(s.meta[metaTimestamp])
	m.ExpiresAt = s.float(s.meta[metaExpiresAt])
	m.Priority = Priority(s.float(s.meta[metaPriority]))
	m.RetryCount = int(s.float(s.meta[metaRetryCount]))
	return nil
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

func (s *scanner) checkMetadata(f int, v span) error {
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
		if s.float(v) <= 0 {
			return bad(ReasonOutOfRange, "must be over 0, not "+s.excerpt(v))
		}
	case metaID, metaSender:
		if v.end-v.start == 2 {
			return bad(ReasonMissingField, "is empty")
		}
	case metaType:
		if _, known := knownType(s.b[v.start:v.end]); !known {
			return bad(ReasonUnknownType, "must be one of sensor_data, command, response, status, event, heartbeat, alert, not "+s.excerpt(v))
		}
	case metaPriority, metaRetryCount:
		n := s.float(v)
		if n != float64(int64(n)) {
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

// knownType returns the constant for a message_type in quotes, so that it costs no copy.
func knownType(quoted []byte) (Type, bool) {
	switch string(quoted) {
	case `"sensor_data"`:
		return TypeSensorData, true
	case `"command"`:
		return TypeCommand, true
	case `"response"`:
		return TypeResponse, true
	case `"status"`:
		return TypeStatus, true
	case `"event"`:
		return TypeEvent, true
	case `"heartbeat"`:
		return TypeHeartbeat, true
	case `"alert"`:
		return TypeAlert, true
	}
	for _, c := range quoted {
		if c == '\\' {
			t := Type(unquote(quoted))
			_, known := payloadRules(t)
			return t, known
		}
	}
	return "", false
}

// float returns the number at v, 0 if there is none.
func (s *scanner) float(v span) float64 {
	if v.kind != number {
		return 0
	}
	b := s.b[v.start:v.end]
	if len(b) == 1 { // a priority, a retry count
		return float64(b[0] - '0')
	}
	f, _ := strconv.ParseFloat(string(b), 64) // cannot fail: the syntax and the range are checked
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
	for i := 0; i < len(t); i++ {
		if t[i] == '\\' {
			return s.string(v)
		}
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
