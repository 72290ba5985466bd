package message

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"
)

// Append appends the encoded message to dst (a raw message's body as it is). It does not compress, and checks no
// more than it must to write JSON: Validate checks the rest. The error, for a number that is not finite or a string
// that is not UTF-8 in the metadata, is an *[Error]; dst is returned as it was then.
func (m *Message) Append(dst []byte) ([]byte, error) {
	if m.Raw {
		return append(dst, m.Payload...), nil
	}
	md := &m.Metadata
	if err := md.checkEncodable(); err != nil {
		return dst, err
	}
	dst = append(dst, `{"metadata":{"timestamp":`...)
	dst = appendSeconds(dst, md.Timestamp)
	dst = append(dst, `,"message_id":`...)
	dst = appendString(dst, md.ID)
	dst = append(dst, `,"sender":`...)
	dst = appendString(dst, md.Sender)
	dst = append(dst, `,"message_type":`...)
	dst = appendString(dst, string(md.Type))
	dst = append(dst, `,"priority":`...)
	dst = strconv.AppendInt(dst, int64(md.Priority), 10)
	dst = append(dst, `,"correlation_id":`...)
	if md.CorrelationID == "" {
		dst = append(dst, "null"...)
	} else {
		dst = appendString(dst, md.CorrelationID)
	}
	dst = append(dst, `,"expires_at":`...)
	if md.ExpiresAt == 0 {
		dst = append(dst, "null"...)
	} else {
		dst = appendSeconds(dst, md.ExpiresAt)
	}
	dst = append(dst, `,"retry_count":`...)
	dst = strconv.AppendInt(dst, int64(md.RetryCount), 10)
	dst = append(dst, `},"payload":`...)
	if len(m.Payload) == 0 {
		dst = append(dst, "{}"...)
	} else {
		dst = append(dst, m.Payload...)
	}
	return append(dst, '}'), nil
}

// Encode validates m and returns what goes over MQTT, gzip-compressed above lim.CompressAbove if that makes it
// smaller; compressed tells which. A raw message is never compressed. Errors are an *[Error]: too_large when the
// message has more than lim.MaxPayload bytes before compression, else as of Validate. The caller owns body, and behind it
// there is often room for what goes with it.
func Encode(m *Message, lim Limits) (body []byte, compressed bool, err error) {
	if err := m.Validate(lim); err != nil {
		return nil, false, err
	}
	const rest = 384 // bytes of an envelope without its strings and payload, and some
	md := &m.Metadata
	body = make([]byte, 0, rest+len(md.ID)+len(md.Sender)+len(md.CorrelationID)+len(m.Payload))
	if body, err = m.Append(body); err != nil {
		return nil, false, err
	}
	if err := lim.checkSize(len(body)); err != nil {
		return nil, false, err
	}
	if !m.Raw && lim.compresses(len(body)) {
		if small := deflate(body); small != nil {
			return small, true, nil
		}
	}
	return body, false, nil
}

// Validate checks an envelope's metadata, the syntax and depth of its payload, and the required fields of its type;
// of a raw message only the size. The error is an *[Error].
func (m *Message) Validate(lim Limits) error {
	if err := lim.checkSize(len(m.Payload)); err != nil || m.Raw {
		return err
	}
	if err := m.Metadata.validate(); err != nil {
		return err
	}
	p := m.Payload
	if len(p) == 0 {
		p = json.RawMessage("{}") // as Append writes it
	}
	s := newScanner(p, lim.maxDepth())
	k, ok := s.document(payload, 1)
	if !ok {
		return &Error{Reason: s.reason, Field: inPayload(fieldPath(s.path)), Rule: s.rule}
	}
	if err := s.checkText(); err != nil {
		e := err.(*Error)
		e.Field = inPayload(e.Field)
		return e
	}
	if err := s.checkPayload(m.Metadata.Type, k); err != nil {
		return err
	}
	return nil
}

func inPayload(path string) string {
	switch {
	case path == "":
		return "payload"
	case path[0] == '[':
		return "payload" + path
	}
	return "payload." + path
}

func (m *Metadata) validate() error {
	bad := func(reason Reason, field, rule string) error {
		return &Error{Reason: reason, Field: "metadata." + field, Rule: rule}
	}
	if err := m.checkEncodable(); err != nil {
		return err
	}
	switch {
	case m.Timestamp <= 0:
		return bad(ReasonOutOfRange, "timestamp", fmt.Sprintf("must be over 0, not %g", m.Timestamp))
	case m.ID == "":
		return bad(ReasonMissingField, "message_id", "is empty")
	case m.Sender == "":
		return bad(ReasonMissingField, "sender", "is empty")
	case m.Priority < Low || m.Priority > Critical:
		return bad(ReasonOutOfRange, "priority", fmt.Sprintf("must be 0 to 3, not %d", m.Priority))
	case m.ExpiresAt < 0:
		return bad(ReasonOutOfRange, "expires_at", fmt.Sprintf("must be over 0, not %g", m.ExpiresAt))
	case m.RetryCount < 0 || m.RetryCount > maxRetryCount:
		return bad(ReasonOutOfRange, "retry_count", fmt.Sprintf("must be 0 to %d, not %d", maxRetryCount, m.RetryCount))
	}
	if m.Type == "" {
		return bad(ReasonMissingField, "message_type", "is empty")
	}
	if !slices.Contains(types[:], m.Type) {
		return bad(ReasonUnknownType, "message_type", fmt.Sprintf(mustBeType+"%.40q", m.Type))
	}
	return nil
}

// checkEncodable checks that the metadata can be written as JSON.
func (m *Metadata) checkEncodable() error {
	switch {
	case !isFinite(m.Timestamp):
		return notFinite("metadata.timestamp", m.Timestamp)
	case !isFinite(m.ExpiresAt):
		return notFinite("metadata.expires_at", m.ExpiresAt)
	case !utf8.ValidString(m.ID):
		return notUTF8("metadata.message_id")
	case !utf8.ValidString(m.Sender):
		return notUTF8("metadata.sender")
	case !utf8.ValidString(string(m.Type)):
		return notUTF8("metadata.message_type")
	case !utf8.ValidString(m.CorrelationID):
		return notUTF8("metadata.correlation_id")
	}
	return nil
}

func isFinite(f float64) bool { return f-f == 0 }

func notFinite(field string, f float64) error {
	return &Error{Reason: ReasonNotFinite, Field: field, Rule: fmt.Sprintf("must be a finite number, not %g", f)}
}

func notUTF8(field string) error {
	return &Error{Reason: ReasonUTF8, Field: field, Rule: "is not valid UTF-8"}
}

// appendSeconds appends a finite number: the shortest decimal that reads back as f.
func appendSeconds(dst []byte, f float64) []byte {
	// Most have whole microseconds, which integers write faster. Below 2^33 microseconds are further apart than floats,
	// so that no shorter decimal reads back as f; and both operands are exact, so that this one does.
	if us := math.Round(f * 1e6); us > 0 && f < 1<<33 && us/1e6 == f {
		n := uint64(us)
		dst = strconv.AppendUint(dst, n/1e6, 10)
		frac := n % 1e6
		if frac == 0 {
			return dst
		}
		digits := [7]byte{0: '.'}
		last := 0
		for i := 6; i > 0; i-- {
			digits[i] = byte('0' + frac%10)
			if last == 0 && digits[i] != '0' {
				last = i
			}
			frac /= 10
		}
		return append(dst, digits[:last+1]...)
	}
	if a := math.Abs(f); a != 0 && (a < 1e-6 || a >= 1e21) {
		return strconv.AppendFloat(dst, f, 'e', -1, 64)
	}
	return strconv.AppendFloat(dst, f, 'f', -1, 64)
}

// appendString appends t, which is UTF-8, as a JSON string.
func appendString(dst []byte, t string) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(t); i++ {
		c := t[i]
		if plain[c] || c >= utf8.RuneSelf {
			continue
		}
		dst = append(dst, t[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, `\n`...)
		case '\r':
			dst = append(dst, `\r`...)
		case '\t':
			dst = append(dst, `\t`...)
		default:
			const hex = "0123456789abcdef"
			dst = append(dst, `\u00`...)
			dst = append(dst, hex[c>>4], hex[c&15])
		}
	}
	dst = append(dst, t[start:]...)
	return append(dst, '"')
}
