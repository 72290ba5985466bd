package service

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"testing"
	"time"
)

type tree struct {
	Name     string  `json:"name"`
	Children []*tree `json:"children,omitempty"`
}

type base struct {
	ID   int `json:"id"`
	Same string
}

type hidden struct {
	Seen bool
	ID   string `json:"id"` // deeper than nothing, hides base's only where it is less deep
}

type everything struct {
	base
	*hidden  `json:"-"`
	Number   float32                `json:"number"`
	Count    uint8                  `json:"count"`
	Text     *string                `json:"text"`
	When     time.Time              `json:"when"`
	For      time.Duration          `json:"for"`
	Raw      json.RawMessage        `json:"raw"`
	Any      any                    `json:"any"`
	Bytes    []byte                 `json:"bytes"`
	Map      map[string]int         `json:"map"`
	Pair     [2]bool                `json:"pair"`
	Address  netip.Addr             `json:"address"`
	Quoted   int                    `json:"quoted,string"`
	Tree     tree                   `json:"tree"`
	Nested   struct{ A, B float64 } `json:"nested" doc:"two numbers"`
	Skipped  string                 `json:"-"`
	Function func()                 `json:"function"`
}

func TestSchema(t *testing.T) {
	t.Parallel()
	const treeDef = `"$defs":{"tree":{"type":"object","properties":{"name":{"type":"string"},"children":{"type":"array","items":{"$ref":"#/$defs/tree"}}}}}`
	tests := []struct {
		t       reflect.Type
		written bool
		want    string
	}{
		{reflect.TypeFor[struct{}](), false, `{"type":"object"}`},
		{reflect.TypeFor[any](), false, `{}`},
		{reflect.TypeFor[map[string]any](), false, `{"type":"object","additionalProperties":{}}`},
		{reflect.TypeFor[map[string]any](), true, `{"type":["object","null"],"additionalProperties":{}}`},
		{reflect.TypeFor[[]float64](), true, `{"type":["array","null"],"items":{"type":"number"}}`},
		{reflect.TypeFor[*int](), true, `{"type":["integer","null"]}`},
		{reflect.TypeFor[*int](), false, `{"type":"integer"}`},
		{reflect.TypeFor[tree](), false, `{"$ref":"#/$defs/tree",` + treeDef + `}`},
		{reflect.TypeFor[struct{ T *tree }](), true, `{"type":"object","properties":{"T":{"anyOf":[{"$ref":"#/$defs/tree"},{"type":"null"}]}},"required":["T"],` +
			`"$defs":{"tree":{"type":"object","properties":{"name":{"type":"string"},"children":{"type":["array","null"],"items":{"anyOf":[{"$ref":"#/$defs/tree"},{"type":"null"}]}}},"required":["name"]}}}`},
		{reflect.TypeFor[everything](), false, `{"type":"object","properties":{"id":{"type":"integer"},"Same":{"type":"string"},` +
			`"number":{"type":"number"},"count":{"type":"integer","minimum":0},"text":{"type":"string"},"when":{"type":"string","format":"date-time"},` +
			`"for":{"type":"integer","description":"nanoseconds"},"raw":{},"any":{},"bytes":{"type":"string","contentEncoding":"base64"},` +
			`"map":{"type":"object","additionalProperties":{"type":"integer"}},"pair":{"type":"array","items":{"type":"boolean"},"minItems":2,"maxItems":2},` +
			`"address":{"type":"string"},"quoted":{"type":"string"},"tree":{"$ref":"#/$defs/tree"},` +
			`"nested":{"type":"object","description":"two numbers","properties":{"A":{"type":"number"},"B":{"type":"number"}}},"function":{}},` + treeDef + `}`},
	}
	for _, tt := range tests {
		got := schemaOf(tt.t, tt.written, reflect.Value{})
		if string(got) != tt.want {
			t.Errorf("%v, written %v:\n got %s\nwant %s", tt.t, tt.written, got, tt.want)
		}
	}
}

// The fields are those that encoding/json itself writes, also where embedded structs hide each other.
func TestFieldsAreThoseOfJSON(t *testing.T) {
	t.Parallel()
	type left struct {
		A, Both int
		Tagged  int `json:"tagged"`
		Deep    struct{ X int }
	}
	type right struct {
		B, Both int
		Tagged  int
		Named   int `json:"Tagged"`
	}
	type inner struct{ A, C int }
	type middle struct {
		inner
		D int
	}
	type all struct {
		left
		*right
		middle
		E int `json:",omitempty"`
		F int `json:"f,omitzero"`
		base
	}
	v := all{right: new(right), E: 1, F: 1}
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]any
	if err := json.Unmarshal(raw, &want); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]bool)
	for _, f := range fieldsOf(reflect.TypeFor[all]()) {
		got[f.name] = true
		if _, ok := want[f.name]; !ok {
			t.Errorf("%s is none of %s", f.name, raw)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%v, want %s", got, raw)
	}
}
