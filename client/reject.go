package client

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync/atomic"

	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

// Reasons for which messages are rejected, beside those of package message. [Stats].Rejected counts them, but for the last four,
// which have counters of their own.
const (
	ReasonTopic        message.Reason = "topic"         // a topic that breaks a rule
	ReasonOption       message.Reason = "option"        // a QoS, property or correlation that MQTT cannot carry
	ReasonTarget       message.Reason = "target"        // a command whose target is not here, or is no topic level
	ReasonRetained     message.Reason = "retained"      // a command or response that is retained, which none may be
	ReasonUnexpected   message.Reason = "unexpected"    // a response or progress that no call waits for (any more)
	ReasonFull         message.Reason = "full"          // no room in the outbox
	ReasonNotStored    message.Reason = "not_stored"    // the disk did not take it
	ReasonNotConnected message.Reason = "not_connected" // what belongs to one connection, which is lost
	ReasonClosed       message.Reason = "closed"        // the client closes, or is closed
	ReasonCancelled    message.Reason = "cancelled"     // its caller gave up before it was sent
	ReasonNotSigned    message.Reason = "not_signed"    // its policy requires a signature, and none can be made
	ReasonNotEncrypted message.Reason = "not_encrypted" // its topic is an encrypted one, and there is no key to do it with
	ReasonUnsigned     message.Reason = "unsigned"      // its policy requires a signature, and there is none
	ReasonUnknownKey   message.Reason = "unknown_key"   // signed or encrypted with a key that is not in the key file
	ReasonAlgorithm    message.Reason = "algorithm"     // signed or encrypted by an algorithm that its key is not for
	ReasonSignature    message.Reason = "signature"     // not what was signed, or not by its sender
	ReasonStale        message.Reason = "stale"         // signed outside the window of time
	ReasonReplayed     message.Reason = "replayed"      // signed, and received before
	ReasonDecrypt      message.Reason = "decrypt"       // not what was encrypted
	ReasonOther        message.Reason = "other"         // such as parameters whose MarshalJSON fails

	ReasonDropped     message.Reason = "dropped"      // at a bound of ours: Stats.Dropped
	ReasonRateLimited message.Reason = "rate_limited" // Stats.RateLimited
	ReasonSuperseded  message.Reason = "superseded"   // Stats.Superseded
	ReasonRefused     message.Reason = "refused"      // by the broker: Stats.Failed
)

// A ruleError is a rejection that no other type of error is the reason of.
type ruleError struct {
	reason message.Reason
	text   string
	cause  error // may be nil
}

func (e *ruleError) Error() string { return e.text }
func (e *ruleError) Unwrap() error { return e.cause }

var (
	errQueueFull    = &ruleError{reason: ReasonDropped, text: "dropped from the full queue of its handler"}
	errUnwanted     = &ruleError{reason: ReasonDropped, text: "kept by the broker for a handler that did not come"}
	errRetained     = &ruleError{reason: ReasonRetained, text: "is retained, which no command or response may be"}
	errNotOurs      = &ruleError{reason: ReasonTarget, text: "the target of the command is not here"}
	errUnexpected   = &ruleError{reason: ReasonUnexpected, text: "no call waits for it"}
	errNoAnswerType = &message.Error{Reason: message.ReasonWrongType, Field: "metadata.message_type", Rule: "must be response or event"}
	errPastDeadline = &message.Error{Reason: message.ReasonExpired, Rule: "is past its deadline"}
)

// A way is where a message was going when it was rejected.
type way string

const (
	sending   way = "send"
	receiving way = "receive"
)

// reject is where every rejection goes: it counts err by its reason, says so at level debug, and returns err. Nothing of the payload is
// logged, therefore not err itself: it may quote what it is about. id is the message's own, "" if it is not known.
func (c *Client) reject(on way, topic, id string, err error) error {
	reason := c.stats.reject(err)
	if !c.debugs() {
		return err
	}
	attrs := make([]slog.Attr, 0, 5)
	attrs = append(attrs, slog.String("on", string(on)), slog.String("topic", printable(topic)), slog.String("reason", string(reason)))
	if field := namedField(err); field != "" {
		attrs = append(attrs, slog.String("field", field))
	}
	if id != "" {
		attrs = append(attrs, slog.String("message_id", printable(id)))
	}
	c.opts.Logger.LogAttrs(context.Background(), slog.LevelDebug, "message rejected", attrs...)
	return err
}

func (c *Client) debugs() bool { return c.opts.Logger.Enabled(context.Background(), slog.LevelDebug) }

// reject is Client.reject for what was on its way out. Its id is in its body, where it is looked for only if somebody reads it.
func (p *publication) reject(err error) error {
	id := ""
	if p.c.debugs() {
		m, _ := message.Decode(p.body, p.c.opts.Limits)
		id = m.Metadata.ID
	}
	return p.c.reject(sending, p.topic, id, err)
}

// lose rejects and settles p, of which err is the end. Client.mu is held.
func (p *publication) lose(err error) {
	if !p.final {
		_ = p.reject(err)
	}
	p.settle(err)
}

// namedField returns the field that err is about where the wire format names it. Other paths consist of keys that a sender has made up.
func namedField(err error) string {
	bad, ok := errors.AsType[*message.Error](err)
	if !ok {
		return ""
	}
	switch bad.Reason {
	case message.ReasonMissingField, message.ReasonWrongType, message.ReasonUnknownType, message.ReasonOutOfRange, message.ReasonExpired, message.ReasonTooOld:
		return bad.Field
	}
	return ""
}

// reject counts err and returns its reason.
func (s *counters) reject(err error) message.Reason {
	reason, own := s.reasonOf(err)
	if own != nil {
		own.Add(1)
		return reason
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rejected == nil {
		s.rejected = make(map[message.Reason]uint64)
	}
	s.rejected[reason]++
	return reason
}

// reasonOf returns what err is counted as, and the counter if that is one of its own.
func (s *counters) reasonOf(err error) (reason message.Reason, own *atomic.Uint64) {
	switch {
	case errors.Is(err, ErrSuperseded):
		return ReasonSuperseded, &s.superseded
	case errors.Is(err, ErrDropped):
		return ReasonDropped, &s.dropped
	case errors.Is(err, ErrRateLimited):
		return ReasonRateLimited, &s.limited
	case errors.Is(err, ErrExpired):
		return message.ReasonExpired, &s.expired
	case errors.Is(err, ErrFull):
		return ReasonFull, nil
	case errors.Is(err, ErrNotStored):
		return ReasonNotStored, nil
	case errors.Is(err, ErrNotConnected):
		return ReasonNotConnected, nil
	case errors.Is(err, ErrClosed):
		return ReasonClosed, nil
	}
	if rule, ok := errors.AsType[*ruleError](err); ok {
		if rule.reason == ReasonDropped {
			own = &s.dropped
		}
		return rule.reason, own
	}
	if bad, ok := errors.AsType[*message.Error](err); ok {
		return bad.Reason, nil
	}
	if _, ok := errors.AsType[*topic.Error](err); ok {
		return ReasonTopic, nil
	}
	if _, ok := errors.AsType[*RefusedError](err); ok {
		return ReasonRefused, &s.failed
	}
	if _, ok := errors.AsType[*CommandError](err); ok { // why a call ended while its request waited
		return ReasonCancelled, nil
	}
	if _, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return message.ReasonWrongType, nil
	}
	switch {
	case errors.Is(err, ErrTooLarge): // for the broker
		return message.ReasonTooLarge, &s.failed
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return ReasonCancelled, nil
	}
	return ReasonOther, nil
}
