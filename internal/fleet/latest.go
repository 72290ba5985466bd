package fleet

import (
	"cmp"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/lawnberry/lawnberry/message"
)

// A Message is the latest of a topic. Its body is what the mower sent, any bytes. It does not change.
type Message struct {
	Topic string
	Time  time.Time // when the engine had it
	Body  []byte    // inflated; nil when it is too large to be kept, or cannot be inflated
	Size  int       // bytes as it came

	generation uint64 // of the copy of the bucket in which it was seen
	values     atomic.Pointer[[]pathValue]
}

// A pathValue is a value that somebody has asked for.
type pathValue struct {
	path  string
	value Value
}

// maxPaths bounds the values of a message that are remembered.
const maxPaths = 8

// newMessage keeps a body as it came from the engine, which may use it again.
func newMessage(topic string, at time.Time, body []byte) *Message {
	m := &Message{Topic: topic, Time: at, Size: len(body)}
	switch {
	case message.IsCompressed(body):
		if plain, err := message.Inflate(body, message.Limits{MaxPayload: maxMessage}); err == nil {
			m.Body = plain
		}
	case len(body) <= maxMessage:
		m.Body = append(make([]byte, 0, len(body)), body...)
	}
	return m
}

// At returns the value at a path of keys and indexes with dots between them, such as voltage or points.0.x. A path begins in data of the payload,
// else in its details, else in the payload, else in the whole message, whichever has it. What is there and is an object or a list is no value.
func (m *Message) At(path string) Value {
	known := m.values.Load()
	if known != nil {
		for _, p := range *known {
			if p.path == path {
				return p.value
			}
		}
	}
	v := m.read().at(path)
	var next []pathValue
	if known != nil && len(*known) < maxPaths {
		next = append(next, *known...)
	}
	next = append(next, pathValue{path, v})
	m.values.Store(&next) // of two that do this at once one is forgotten
	return v
}

// A document is a message that was decoded; nil when it is no JSON.
type document struct{ root any }

func (m *Message) read() document {
	var d document
	if json.Unmarshal(m.Body, &d.root) != nil {
		d.root = nil
	}
	return d
}

// starts are where a path may begin.
var starts = [][]string{{"payload", "data"}, {"payload", "details"}, {"payload"}, nil}

func (d document) at(path string) Value {
	keys := strings.Split(path, ".")
	for _, start := range starts {
		v, ok := walk(d.root, start)
		if !ok {
			continue
		}
		if v, ok = walk(v, keys); !ok {
			continue
		}
		value := valueOf(v)
		if len(keys) == 1 && len(start) == 2 && start[1] == "data" && value.kind == valueNumber {
			if u, ok := walk(d.root, []string{"payload", "units", keys[0]}); ok {
				value.unit, _ = u.(string)
				value.unit = cut(value.unit, 16)
			}
		}
		return value
	}
	return Value{}
}

func walk(v any, keys []string) (any, bool) {
	for _, k := range keys {
		switch in := v.(type) {
		case map[string]any:
			next, ok := in[k]
			if !ok {
				return nil, false
			}
			v = next
		case []any:
			i, err := strconv.Atoi(k)
			if err != nil || i < 0 || i >= len(in) {
				return nil, false
			}
			v = in[i]
		default:
			return nil, false
		}
	}
	return v, true
}

func valueOf(v any) Value {
	switch v := v.(type) {
	case float64:
		return numberValue(v)
	case string:
		return textValue(cut(v, maxAlertText))
	case bool:
		return boolValue(v)
	}
	return Value{}
}

func (d document) number(path string) (float64, bool) {
	f, ok := d.at(path).Number()
	return f, ok && !math.IsInf(f, 0) && !math.IsNaN(f)
}

// pointer returns a number that is none too large to be drawn or compared, nil if there is none.
func (d document) pointer(path string) *float64 {
	if f, ok := d.number(path); ok && math.Abs(f) < 1e12 {
		return &f
	}
	return nil
}

// alert reads a message on a topic of alerts. One that cannot be read is one all the same: somebody has to look.
func (m *Message) alert() RaisedAlert {
	kind := m.Topic[strings.LastIndexByte(m.Topic, '/')+1:]
	a := RaisedAlert{Topic: m.Topic, Type: kind, Severity: "error", Message: "it cannot be read", Time: m.Time}
	d := m.read()
	if m.Topic == topicStop {
		a.Severity, a.Message = "critical", "the emergency stop is engaged"
	}
	payload, _ := walk(d.root, []string{"payload"})
	in, ok := payload.(map[string]any)
	if !ok {
		return a
	}
	str := func(key string) string { s, _ := in[key].(string); return cut(s, maxAlertText) }
	if s := str("severity"); SeverityRank(s) > 0 && m.Topic != topicStop {
		a.Severity = s
	}
	a.Type = cmp.Or(cut(str("alert_type"), maxStateText), kind)
	a.Message = cmp.Or(str("message"), a.Message)
	a.Acknowledged, _ = in["acknowledged"].(bool)
	if at, ok := d.number("metadata.timestamp"); ok && at > 0 && at < 1e11 {
		a.Time = time.UnixMicro(int64(at * 1e6))
	}
	return a
}
