package message

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"reflect"
	"sync"
)

// EncodeJSON is json.Marshal with NaN and infinities as null, and with <, > and & as they are. A value that only
// a MarshalJSON method sees cannot be replaced: its error is returned. A json.RawMessage that is valid is returned as it is.
func EncodeJSON(v any) (json.RawMessage, error) {
	if raw, ok := v.(json.RawMessage); ok && wellFormed(raw) {
		return raw, nil
	}
	return AppendJSON(nil, v)
}

// AppendJSON appends what EncodeJSON returns.
func AppendJSON(dst []byte, v any) ([]byte, error) {
	if raw, ok := v.(json.RawMessage); ok && wellFormed(raw) {
		return append(dst, raw...), nil
	}
	raw, err := marshal(dst, v)
	if err == nil || !isNotFinite(err) {
		return raw, err
	}
	finite, err := marshalFinite(v)
	return append(dst, finite...), err
}

// An encoder is a json.Encoder with its buffer, for use again.
type encoder struct {
	buf bytes.Buffer
	*json.Encoder
}

var encoders = sync.Pool{New: func() any {
	e := new(encoder)
	e.Encoder = json.NewEncoder(&e.buf)
	e.SetEscapeHTML(false)
	return e
}}

// marshal appends v.
func marshal(dst []byte, v any) ([]byte, error) {
	e := encoders.Get().(*encoder)
	e.buf.Reset()
	err := e.Encode(v)
	if err != nil {
		return dst, err // and e may have half a value in it
	}
	dst = append(dst, bytes.TrimSuffix(e.buf.Bytes(), []byte("\n"))...)
	if e.buf.Cap() <= 64<<10 {
		encoders.Put(e)
	}
	return dst, nil
}

// A decoder is a json.Decoder with its reader, for use again.
type decoder struct {
	from bytes.Reader
	fed  int64 // bytes that it was given
	*json.Decoder
}

var decoders = sync.Pool{New: func() any {
	d := new(decoder)
	d.Decoder = json.NewDecoder(&d.from)
	return d
}}

// DecodeJSON is json.Unmarshal, at a lower price for text that is not large.
func DecodeJSON(raw []byte, v any) error {
	const large = 64 << 10 // which a decoder should not keep
	if len(raw) > large {
		return json.Unmarshal(raw, v)
	}
	d := decoders.Get().(*decoder)
	d.from.Reset(raw)
	d.fed += int64(len(raw))
	err := d.Decode(v)
	if rest := int(d.fed - d.InputOffset()); err != nil || rest < 0 || len(bytes.TrimSpace(raw[len(raw)-rest:])) > 0 {
		return json.Unmarshal(raw, v) // says what is wrong
	}
	d.from.Reset(nil)
	decoders.Put(d)
	return nil
}

// isNotFinite reports whether a float that JSON does not know is why v was not encoded.
func isNotFinite(err error) bool {
	var unsupported *json.UnsupportedValueError
	if !errors.As(err, &unsupported) {
		return false
	}
	switch unsupported.Value.Kind() {
	case reflect.Float32, reflect.Float64:
		return true
	}
	return false
}

// marshalFinite encodes a copy of v in which marks, numbers that occur nowhere else, stand for those that are not
// finite, and then writes null for the marks. So encoding/json alone decides what all the tags and methods mean.
func marshalFinite(v any) (json.RawMessage, error) {
	c := copier{
		within: map[visit]bool{},
		mark64: (1 + rand.Float64()) * 0x1p-1000,
		mark32: (1 + rand.Float32()) * 0x1p-120,
	}
	raw, err := marshal(nil, c.copy(reflect.ValueOf(v), false).Interface())
	if err != nil {
		return nil, err
	}
	return c.unmark(raw), nil
}

// A copier copies values and puts marks where numbers are not finite.
type copier struct {
	mark64 float64
	mark32 float32
	within map[visit]bool // what the walk is inside of, to notice a value that contains itself
}

type visit struct {
	pointer uintptr
	len     int
	t       reflect.Type
}

var (
	jsonMarshaler = reflect.TypeFor[json.Marshaler]()
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
)

func encodesItself(t reflect.Type) bool {
	return t.Implements(jsonMarshaler) || t.Implements(textMarshaler)
}

// copy returns a copy of v with marks. addressable tells whether encoding/json finds v addressable, and so calls the
// methods of its pointer.
func (c *copier) copy(v reflect.Value, addressable bool) reflect.Value {
	dst := reflect.New(v.Type()).Elem()
	dst.Set(v)
	c.clean(dst, addressable)
	return dst
}

// clean puts marks into v, which can be set, and replaces what v refers to by copies with marks.
func (c *copier) clean(v reflect.Value, addressable bool) {
	t := v.Type()
	if encodesItself(t) || addressable && encodesItself(reflect.PointerTo(t)) {
		return
	}
	switch v.Kind() {
	case reflect.Map, reflect.Pointer, reflect.Slice:
		if v.IsNil() {
			return
		}
		at := visit{pointer: v.Pointer(), t: t}
		if v.Kind() == reflect.Slice {
			at.len = v.Len()
		}
		if c.within[at] {
			return // encoding/json will refuse it
		}
		c.within[at] = true
		defer delete(c.within, at)
	}

	switch v.Kind() {
	case reflect.Float64:
		if !isFinite(v.Float()) {
			v.SetFloat(c.mark64)
		}
	case reflect.Float32:
		if !isFinite(v.Float()) {
			v.SetFloat(float64(c.mark32))
		}
	case reflect.Interface:
		if !v.IsNil() {
			v.Set(c.copy(v.Elem(), false))
		}
	case reflect.Pointer:
		p := reflect.New(t.Elem())
		p.Elem().Set(v.Elem())
		c.clean(p.Elem(), true)
		v.Set(p.Convert(t))
	case reflect.Struct:
		c.cleanFields(v, addressable)
	case reflect.Array:
		for i := range v.Len() {
			c.clean(v.Index(i), addressable)
		}
	case reflect.Slice:
		s := reflect.MakeSlice(t, v.Len(), v.Len())
		reflect.Copy(s, v)
		for i := range s.Len() {
			c.clean(s.Index(i), true)
		}
		v.Set(s)
	case reflect.Map:
		m := reflect.MakeMapWithSize(t, v.Len())
		for it := v.MapRange(); it.Next(); {
			m.SetMapIndex(it.Key(), c.copy(it.Value(), false))
		}
		v.Set(m)
	}
}

func (c *copier) cleanFields(v reflect.Value, addressable bool) {
	for i := range v.NumField() {
		f := v.Field(i)
		switch {
		case f.CanSet():
			c.clean(f, addressable)
		case v.Type().Field(i).Anonymous && f.Kind() == reflect.Struct:
			c.cleanFields(f, addressable) // of an embedded unexported type, whose exported fields are encoded
		}
	}
}

// unmark writes null for the marks in raw, also where the option "string" has put them in quotes.
func (c *copier) unmark(raw []byte) []byte {
	mark64, _ := json.Marshal(c.mark64)
	mark32, _ := json.Marshal(c.mark32)
	isMark := func(token []byte) bool { return bytes.Equal(token, mark64) || bytes.Equal(token, mark32) }
	s := newScanner(raw, 0)
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); {
		end, token := i+1, raw[i:i+1]
		switch ch := raw[i]; {
		case ch == '"':
			end = s.text(i)
			token = raw[i+1 : end-1]
		case ch == '-' || isDigit(ch):
			end = s.number(i)
			token = raw[i:end]
		}
		if isMark(token) {
			out = append(out, "null"...)
		} else {
			out = append(out, raw[i:end]...)
		}
		i = end
	}
	return out
}
