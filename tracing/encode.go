package tracing

import (
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/lawnberry/lawnberry/client"
)

// The numbers below are those of opentelemetry/proto: collector/trace/v1 (ExportTraceServiceRequest), trace/v1 and common/v1.

// maxText bounds a text in a span, bytes: what is in a message is anybody's.
const maxText = 512

// encode returns the ExportTraceServiceRequest of a batch.
func encode(o *Options, batch []*span) []byte {
	resource := text(nil, 1, "service.name", o.Service)
	if o.Version != "" {
		resource = text(resource, 1, "service.version", o.Version)
	}
	scope := str(nil, 1, "github.com/lawnberry/lawnberry/tracing")
	spans := message(nil, 1, scope)
	for _, s := range batch {
		spans = message(spans, 2, s.encode())
	}
	out := message(nil, 1, resource)
	return message(nil, 1, message(out, 2, spans))
}

func (s *span) encode() []byte {
	b := message(nil, 1, s.place.trace[:])
	b = message(b, 2, s.place.span[:])
	if s.place.state != "" {
		b = str(b, 3, s.place.state)
	}
	flags := uint32(s.place.flags)
	if s.parent != [8]byte{} {
		b = message(b, 4, s.parent[:])
		flags |= 1 << 8 // whether the parent is remote is known
		if s.remote {
			flags |= 1 << 9
		}
	}
	b = str(b, 5, s.name())
	b = protowire.AppendTag(b, 6, protowire.VarintType)
	b = protowire.AppendVarint(b, s.kindNumber())
	b = stamp(b, 7, s.began)
	b = stamp(b, 8, s.ended)
	b = s.attributes(b)
	if s.failureType != "" {
		status := str(nil, 2, s.failure)
		status = protowire.AppendTag(status, 3, protowire.VarintType)
		status = protowire.AppendVarint(status, 2) // STATUS_CODE_ERROR
		b = message(b, 15, status)
	}
	b = protowire.AppendTag(b, 16, protowire.Fixed32Type)
	return protowire.AppendFixed32(b, flags)
}

// kindNumber returns the SpanKind of opentelemetry.
func (s *span) kindNumber() uint64 {
	switch {
	case s.own != "":
		return 1 // internal
	case s.kind == client.SpanServe:
		return 2
	case s.kind == client.SpanCall:
		return 3
	case s.kind == client.SpanPublish:
		return 4
	}
	return 5 // consumer
}

func (s *span) attributes(b []byte) []byte {
	const field = 9
	if s.failureType != "" {
		b = text(b, field, "error.type", s.failureType)
	}
	if s.own != "" {
		return b
	}
	w := &s.what
	name, kind := s.operation()
	b = text(b, field, "messaging.system", "mqtt")
	b = text(b, field, "messaging.operation.name", name)
	b = text(b, field, "messaging.operation.type", kind)
	b = text(b, field, "messaging.destination.name", w.Topic)
	b = text(b, field, "messaging.client.id", w.ClientID)
	if w.MessageID != "" {
		b = text(b, field, "messaging.message.id", w.MessageID)
	}
	if w.Size > 0 {
		b = number(b, field, "messaging.message.body.size", w.Size)
	}
	b = number(b, field, "messaging.mqtt.qos", int(w.QoS))
	if w.Command != "" {
		b = text(b, field, "lawnberry.target", w.Target)
		b = text(b, field, "lawnberry.command", w.Command)
	}
	return b
}

// text appends a KeyValue with a string.
func text(b []byte, field protowire.Number, key, value string) []byte {
	kv := str(nil, 1, key)
	return message(b, field, message(kv, 2, str(nil, 1, value)))
}

// number appends a KeyValue with a whole number.
func number(b []byte, field protowire.Number, key string, value int) []byte {
	kv := str(nil, 1, key)
	v := protowire.AppendTag(nil, 3, protowire.VarintType)
	v = protowire.AppendVarint(v, uint64(value))
	return message(b, field, message(kv, 2, v))
}

// str appends a string as protobuf wants it: UTF-8. It is cut when it is too long.
func str(b []byte, field protowire.Number, s string) []byte {
	s = strings.ToValidUTF8(s[:min(len(s), maxText)], "")
	b = protowire.AppendTag(b, field, protowire.BytesType)
	return protowire.AppendString(b, s)
}

// message appends a message, or bytes.
func message(b []byte, field protowire.Number, body []byte) []byte {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	return protowire.AppendBytes(b, body)
}

// stamp appends a time, in nanoseconds since 1970.
func stamp(b []byte, field protowire.Number, t time.Time) []byte {
	b = protowire.AppendTag(b, field, protowire.Fixed64Type)
	return protowire.AppendFixed64(b, uint64(max(0, t.UnixNano())))
}
