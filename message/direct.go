package message

import (
	"encoding/json"
	"unicode/utf8"
)

// Somebody waits for a command and its response, so they do not take the way through encoding/json. What is unusual in them, or wrong,
// does, and gets its errors there.

// appendTo appends c as JSON; ok is false if that needs encoding/json.
func (c *Command) appendTo(dst []byte) (_ []byte, ok bool) {
	if !utf8.ValidString(c.Target) || !utf8.ValidString(c.Command) || !isFinite(c.Timeout) || c.Timeout < 0 || !wellFormedObject(c.Parameters) {
		return dst, false
	}
	dst = append(dst, `{"target":`...)
	dst = appendString(dst, c.Target)
	dst = append(dst, `,"command":`...)
	dst = appendString(dst, c.Command)
	dst = append(dst, `,"parameters":`...)
	dst = append(dst, c.Parameters...)
	dst = append(dst, `,"timeout":`...)
	dst = appendSeconds(dst, c.Timeout)
	dst = append(dst, `,"require_ack":`...)
	return append(appendBool(dst, c.WantsAck()), '}'), true
}

// size is about how long c is as JSON.
func (c *Command) size() int { return 128 + len(c.Target) + len(c.Command) + len(c.Parameters) }

// appendTo appends p as JSON; ok is false if that needs encoding/json.
func (p *Response) appendTo(dst []byte) (_ []byte, ok bool) {
	switch {
	case p.Result != nil && !wellFormed(p.Result),
		p.Error != nil && !utf8.ValidString(*p.Error),
		p.ExecutionTime != nil && !isFinite(*p.ExecutionTime):
		return dst, false
	}
	dst = append(dst, `{"success":`...)
	dst = appendBool(dst, p.Success)
	dst = append(dst, `,"result":`...)
	if p.Result == nil {
		dst = append(dst, "null"...)
	} else {
		dst = append(dst, p.Result...)
	}
	dst = append(dst, `,"error":`...)
	if p.Error == nil {
		dst = append(dst, "null"...)
	} else {
		dst = appendString(dst, *p.Error)
	}
	dst = append(dst, `,"execution_time":`...)
	if p.ExecutionTime == nil {
		dst = append(dst, "null"...)
	} else {
		dst = appendSeconds(dst, *p.ExecutionTime)
	}
	return append(dst, '}'), true
}

// size is about how long p is as JSON.
func (p *Response) size() int {
	n := 96 + len(p.Result)
	if p.Error != nil {
		n += len(*p.Error)
	}
	return n
}

// decodeDirect decodes raw into v, with its defaults, if it is one of these.
func decodeDirect(raw []byte, v any) (ok bool) {
	switch p := v.(type) {
	case *Command:
		p.Timeout = defaultTimeout
		return p.decode(raw)
	case *Response:
		return p.decode(raw)
	}
	return false
}

func appendBool(dst []byte, b bool) []byte {
	if b {
		return append(dst, "true"...)
	}
	return append(dst, "false"...)
}

// deepest is how deep a payload may be nested that goes this way.
const deepest = 1000

// wellFormed reports whether raw is one JSON value, in UTF-8 and with finite numbers.
func wellFormed(raw []byte) bool {
	s := newScanner(raw, deepest)
	_, ok := s.document(nested, 0)
	return ok && s.badUTF8 < 0 && s.notFinite < 0
}

func wellFormedObject(raw []byte) bool { return len(raw) > 0 && raw[0] == '{' && wellFormed(raw) }

// scanPayload scans raw as a payload.
func scanPayload(raw []byte) (s scanner, ok bool) {
	s = newScanner(raw, deepest)
	k, ok := s.document(payload, 0)
	return s, ok && k == object && s.badUTF8 < 0 && s.notFinite < 0
}

// decode sets c to what raw says; ok is false if that needs encoding/json. c then is as it was.
func (c *Command) decode(raw []byte) (ok bool) {
	s, ok := scanPayload(raw)
	target, command, timeout, ack := s.pay[payTarget], s.pay[payCommand], s.pay[payTimeout], s.pay[payRequireAck]
	if !ok || !target.is(text) || !command.is(text) || !timeout.is(number) || !ack.is(boolean) {
		return false
	}
	// Both strings share one copy, as they are next to each other in what we send.
	from, to := min(target.start, command.start), max(target.end, command.end)
	if target.kind == text && command.kind == text && to-from < 256 {
		src, near := string(raw[from:to]), span{start: from, end: to}
		c.Target, c.Command = s.stringIn(src, near, target), s.stringIn(src, near, command)
	} else {
		s.setString(&c.Target, target)
		s.setString(&c.Command, command)
	}
	c.Parameters = s.raw(s.pay[payParameters])
	if timeout.kind == number {
		c.Timeout = s.float(timeout)
	}
	if ack.kind == boolean {
		c.RequireAck = new(s.b[ack.start] == 't')
	}
	return true
}

// decode sets p to what raw says; ok is false if that needs encoding/json. p then is as it was.
func (p *Response) decode(raw []byte) (ok bool) {
	s, ok := scanPayload(raw)
	success, failure, took := s.pay[paySuccess], s.pay[payError], s.pay[payExecutionTime]
	if !ok || !success.is(boolean) || !failure.is(text) || !took.is(number) {
		return false
	}
	p.Success = success.kind == boolean && raw[success.start] == 't'
	p.Result = s.raw(s.pay[payResult])
	if failure.kind == text {
		p.Error = new(s.string(failure))
	}
	if took.kind == number {
		p.ExecutionTime = new(s.float(took))
	}
	return true
}

// is reports whether there is a value of kind k, or none.
func (v span) is(k kind) bool { return v.kind == k || v.kind == absent || v.kind == null }

func (s *scanner) setString(t *string, v span) {
	if v.kind == text {
		*t = s.string(v)
	}
}

// raw returns the text at v, which aliases s.b; nil if there is none.
func (s *scanner) raw(v span) json.RawMessage {
	if v.kind == absent {
		return nil
	}
	return s.b[v.start:v.end:v.end]
}
