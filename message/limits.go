package message

import (
	"fmt"
	"time"
)

// Limits bound what Decode and Encode accept. The zero value means the defaults of the wire format.
type Limits struct {
	MaxPayload    int           // bytes of a whole message, after inflation; 0 is 10,000; at most what an MQTT packet holds
	MaxAge        time.Duration // 0 is 300 s, negative is off; judged by CheckAge, not by Decode
	MaxDepth      int           // nesting, the envelope included; 0 is 32
	CompressAbove int           // bytes; 0 is 1,000, negative is never
}

const (
	mostMaxPayload       = 268_435_455 // bytes, of the longest packet [MQTT-2.1.4]
	defaultMaxPayload    = 10_000
	defaultMaxAge        = 300 * time.Second
	defaultMaxDepth      = 32
	defaultCompressAbove = 1000
)

// PayloadLimit returns MaxPayload, or the default for 0.
func (l Limits) PayloadLimit() int { return l.maxPayload() }

func (l *Limits) maxPayload() int {
	if l.MaxPayload <= 0 {
		return defaultMaxPayload
	}
	return min(l.MaxPayload, mostMaxPayload)
}

func (l *Limits) maxDepth() int {
	if l.MaxDepth <= 0 {
		return defaultMaxDepth
	}
	return l.MaxDepth
}

func (l *Limits) compresses(size int) bool {
	switch {
	case l.CompressAbove < 0:
		return false
	case l.CompressAbove == 0:
		return size > defaultCompressAbove
	}
	return size > l.CompressAbove
}

// checkSize checks the length of a whole message.
func (l *Limits) checkSize(n int) error {
	if n > l.maxPayload() {
		return &Error{Reason: ReasonTooLarge, Rule: fmt.Sprintf("is %d bytes long: the limit is %d", n, l.maxPayload())}
	}
	return nil
}

// Error names what is wrong with a message.
type Error struct {
	Reason Reason // for counters
	Field  string // "metadata.priority"; "" when the whole message is meant
	Rule   string // "must be 0 to 3"
}

// Error returns field and rule as a sentence: "metadata.priority must be 0 to 3, not 7".
func (e *Error) Error() string {
	if e.Field == "" {
		return "message " + e.Rule
	}
	return e.Field + " " + e.Rule
}

// Reason is a short, bounded label for what is wrong with a message.
type Reason string

const (
	ReasonTooLarge     Reason = "too_large"     // over Limits.MaxPayload
	ReasonMalformed    Reason = "malformed"     // not JSON
	ReasonMissingField Reason = "missing_field" // required and absent, null or empty
	ReasonWrongType    Reason = "wrong_type"    // a string where a number must be, ...
	ReasonUnknownType  Reason = "unknown_type"  // message_type is none of the seven
	ReasonOutOfRange   Reason = "out_of_range"  // the right type, a forbidden value
	ReasonNotFinite    Reason = "not_finite"    // NaN, an infinity, or a number beyond 64-bit floats
	ReasonTooDeep      Reason = "too_deep"      // nested over Limits.MaxDepth
	ReasonInflate      Reason = "inflate"       // begins as gzip but does not inflate
	ReasonUTF8         Reason = "utf8"          // an envelope that is not UTF-8
	ReasonExpired      Reason = "expired"       // past expires_at
	ReasonTooOld       Reason = "too_old"       // older than Limits.MaxAge
)

// CheckAge returns an *[Error] (expired, too_old) when m is past expires_at or older than lim.MaxAge at now. A raw
// message has no age. That retained state is exempt from MaxAge is the caller's to know.
func (m *Message) CheckAge(now time.Time, lim Limits) error {
	if m.Raw {
		return nil
	}
	t := Seconds(now)
	if e := m.Metadata.ExpiresAt; e != 0 && t > e {
		return &Error{Reason: ReasonExpired, Field: "metadata.expires_at", Rule: fmt.Sprintf("was %.3f s ago", t-e)}
	}
	limit := lim.MaxAge
	if limit == 0 {
		limit = defaultMaxAge
	}
	if age := t - m.Metadata.Timestamp; limit > 0 && age > limit.Seconds() {
		return &Error{Reason: ReasonTooOld, Field: "metadata.timestamp",
			Rule: fmt.Sprintf("was %.3f s ago: the limit is %g s", age, limit.Seconds())}
	}
	return nil
}
