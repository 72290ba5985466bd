package fleet

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// A Where selects mowers: comparisons such as battery<20, joined by and, or, not and parentheses. The zero value and one of an empty text select
// all. It may be used concurrently.
//
//	battery<20 and state=mowing
//	not online or alerts>0 and worst>=error
//	power/battery:voltage<24 and id~"berlin-*"
//
// A field is one of [WhereFields], or topic:path for a value in the latest message of a topic, see [Message.At]. Operators are = != < <= > >=
// and ~, which looks for a text in another regardless of case, or, when it has a * or ?, compares the whole with the pattern. A field
// alone is true when its value is there and is not false, 0 or empty. Texts compare regardless of case, but for id.
//
// What is not known matches no comparison but !=, so battery<20 and battery>=20 both leave out a mower that has said nothing of its battery, and
// battery!=20 and not battery<20 select it. The same goes for a value of another kind than it is compared with, such as a text that is no number.
type Where struct {
	text string
	root node
}

// Bounds of a selector.
const (
	maxWhere      = 4096 // bytes
	maxWhereDepth = 50
	maxWhereTerms = 100
)

// A WhereError says what is wrong with a selector, and where.
type WhereError struct {
	Text    string
	At      int // the byte of Text that it is about; its length at the end
	Problem string
}

func (e *WhereError) Error() string {
	column := utf8.RuneCountInString(e.Text[:e.At]) + 1
	if e.At >= len(e.Text) {
		return fmt.Sprintf("selector %q: at its end: %s", e.Text, e.Problem)
	}
	return fmt.Sprintf("selector %q: at character %d: %s", e.Text, column, e.Problem)
}

// A FieldKind says what values a field has.
type FieldKind string

const (
	KindText     FieldKind = "text"
	KindNumber   FieldKind = "number"
	KindBool     FieldKind = "bool"     // true or false
	KindSeverity FieldKind = "severity" // info < warning < error < critical
	KindVersion  FieldKind = "version"  // 1.9.2 < 1.10
	KindDuration FieldKind = "duration" // seconds, or with a unit: 90s, 5m, 2h, 1d
)

// A WhereField is a field of a mower that selectors know.
type WhereField struct {
	Name string
	Kind FieldKind
	Unit string // that may stand after a number
	Doc  string
}

var whereFields = []WhereField{
	{"id", KindText, "", "of the mower; case matters"},
	{"online", KindBool, "", "whether its uplink is there"},
	{"battery", KindNumber, "%", "charge, of power/battery"},
	{"state", KindText, "", "what it does, of navigation/status"},
	{"stop", KindText, "", "its emergency stop: engaged or released"},
	{"alerts", KindNumber, "", "how many stand"},
	{"worst", KindSeverity, "", "of the alerts that stand: info, warning, error or critical"},
	{"version", KindVersion, "", "of lawnberry"},
	{"backlog", KindNumber, "", "messages that wait in its outbox"},
	{"lost", KindNumber, "", "messages that its outbox had to drop"},
	{"age", KindDuration, "", "how long ago it was heard"},
	{"x", KindNumber, "m", "in its own frame"},
	{"y", KindNumber, "m", "in its own frame"},
	{"latitude", KindNumber, "°", "degrees"},
	{"longitude", KindNumber, "°", "degrees"},
	{"enrolled", KindBool, "", "whether it is enrolled and not revoked; unknown where enrolment is the engine's own"},
}

// WhereFields returns the fields that selectors know.
func WhereFields() []WhereField { return slices.Clone(whereFields) }

// A Value is one of a mower: a number, a text, true or false, or nothing.
type Value struct {
	kind valueKind
	num  float64
	text string
	unit string // that the message names, "" if none
}

type valueKind uint8

const (
	valueMissing valueKind = iota
	valueNumber
	valueText
	valueBool
)

func numberValue(f float64) Value { return Value{kind: valueNumber, num: f} }
func textValue(s string) Value    { return Value{kind: valueText, text: s} }
func boolValue(b bool) Value {
	if b {
		return Value{kind: valueBool, num: 1}
	}
	return Value{kind: valueBool}
}

// Known reports whether there is a value.
func (v Value) Known() bool { return v.kind != valueMissing }

// Number returns the value if it is a number.
func (v Value) Number() (f float64, ok bool) { return v.num, v.kind == valueNumber }

// truth is what a field that stands alone says.
func (v Value) truth() bool {
	return v.num != 0 || v.kind == valueText && v.text != "" && v.text != "false"
}

// A subject has the values that a selector asks for.
type subject interface {
	field(name string) Value
	at(topic, path string) Value
}

// Match reports whether a mower is selected. now is for its age.
func (w *Where) Match(m *Mower, now time.Time) bool { return w.match(mowerAt{m, now}) }

func (w *Where) match(s subject) bool { return w == nil || w.root == nil || w.root.match(s) }

// String returns the text that it was made of.
func (w *Where) String() string { return w.text }

// Topics returns the topics whose messages are asked for by name; never nil.
func (w *Where) Topics() []string {
	topics := []string{}
	if w != nil && w.root != nil {
		w.root.topics(&topics)
	}
	slices.Sort(topics)
	return slices.Compact(topics)
}

// All reports whether it selects every mower.
func (w *Where) All() bool { return w == nil || w.root == nil }

type node interface {
	match(s subject) bool
	topics(into *[]string)
}

type (
	allOf  []node
	anyOf  []node
	noneOf struct{ node }
)

func (l allOf) match(s subject) bool {
	return !slices.ContainsFunc(l, func(n node) bool { return !n.match(s) })
}
func (l anyOf) match(s subject) bool {
	return slices.ContainsFunc(l, func(n node) bool { return n.match(s) })
}
func (n noneOf) match(s subject) bool { return !n.node.match(s) }

func (l allOf) topics(into *[]string) {
	for _, n := range l {
		n.topics(into)
	}
}
func (l anyOf) topics(into *[]string) { allOf(l).topics(into) }

// A term is one comparison, or a field that stands alone.
type term struct {
	name        string // of a field; "" is a topic's value
	kind        FieldKind
	topic, path string
	op          string // "" for a field alone
	literal     literal
}

func (t *term) topics(into *[]string) {
	if t.name == "" {
		*into = append(*into, t.topic)
	}
}

func (t *term) match(s subject) bool {
	var v Value
	if t.name != "" {
		v = s.field(t.name)
	} else {
		v = s.at(t.topic, t.path)
	}
	switch {
	case t.op == "":
		return v.truth()
	case !v.Known():
		return t.op == "!="
	case t.op == "~":
		return t.literal.like(v)
	}
	order, comparable := t.compare(v)
	if !comparable {
		return t.op == "!="
	}
	switch t.op {
	case "=":
		return order == 0
	case "!=":
		return order != 0
	case "<":
		return order < 0
	case "<=":
		return order <= 0
	case ">":
		return order > 0
	default:
		return order >= 0
	}
}

// ParseWhere makes a selector of a text. Its error is a *WhereError.
func ParseWhere(text string) (*Where, error) {
	p := &whereParser{text: text}
	if len(text) > maxWhere {
		return nil, p.fail(maxWhere, "it is too long: at most %d bytes", maxWhere)
	}
	if !utf8.ValidString(text) {
		at := strings.IndexFunc(text, func(r rune) bool { return r == utf8.RuneError })
		return nil, p.fail(max(at, 0), "it is no UTF-8")
	}
	if err := p.next(); err != nil {
		return nil, err
	}
	if p.tok.kind == tokenEnd {
		return &Where{text: text}, nil
	}
	root, err := p.any(0)
	if err != nil {
		return nil, err
	}
	if p.tok.kind != tokenEnd {
		if p.tok.kind == tokenClose {
			return nil, p.fail(p.tok.at, "this parenthesis was never opened")
		}
		return nil, p.fail(p.tok.at, "want and, or, or the end, not %s", p.tok)
	}
	return &Where{text: text, root: root}, nil
}
