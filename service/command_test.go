package service

import (
	"errors"
	"strings"
	"testing"
	"time"
)

type moveTo struct {
	X      float64   `json:"x"`
	Stripe int       `json:"stripe"`
	Name   string    `json:"name"`
	Gentle bool      `json:"gentle"`
	At     time.Time `json:"at"`
	Tags   []string  `json:"tags"`
	Lane   uint8     `json:"lane"`
	Goal   struct {
		Y float64 `json:"y"`
	} `json:"goal"`
	Max *int `json:"max"`
}

func (m moveTo) Validate() error {
	if m.X > 20 {
		return errors.New("x must be on the lawn, 0 to 20")
	}
	return nil
}

func TestDecodeParameters(t *testing.T) {
	tests := []struct{ raw, err string }{
		{`{"x": 1.5, "stripe": 3, "goal": {"y": 2}}`, ""},
		{``, ""},
		{`null`, ""},
		{`{"colour": "unknown fields are ignored"}`, ""},
		{`{"x": "far"}`, "parameters.x must be a number, not string"},
		{`{"stripe": 1.5}`, "parameters.stripe must be a whole number, not number 1.5"},
		{`{"lane": -1}`, "parameters.lane must be a whole number, 0 or more, not number -1"},
		{`{"lane": 256}`, "parameters.lane must be a whole number, 0 or more, not number 256"},
		{`{"name": 7}`, "parameters.name must be a string, not number"},
		{`{"gentle": "yes"}`, "parameters.gentle must be true or false, not string"},
		{`{"tags": {}}`, "parameters.tags must be an array, not object"},
		{`{"goal": {"y": []}}`, "parameters.goal.y must be a number, not array"},
		{`{"goal": 1}`, "parameters.goal must be an object, not number"},
		{`{"max": "x"}`, "parameters.max must be a whole number, not string"},
		{`{"name": "a", "at": "noon"}`, `parameters.at: parsing time`},
		{`[1]`, "parameters must be an object, not array"},
		{`"x"`, "parameters must be an object, not string"},
		{`{"x": 21}`, "x must be on the lawn, 0 to 20"},
	}
	for _, test := range tests {
		_, err := decodeParameters[moveTo]([]byte(test.raw))
		if (err == nil) != (test.err == "") || err != nil && !strings.HasPrefix(err.Error(), test.err) {
			t.Errorf("%s: %v, want %s", test.raw, err, test.err)
		}
	}
	if p, err := decodeParameters[moveTo]([]byte(`{"x": 1.5, "goal": {"y": 2}}`)); err != nil || p.X != 1.5 || p.Goal.Y != 2 {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err := decodeParameters[any]([]byte(`{"x": 1.5}`)); err != nil || p.(map[string]any)["x"] != 1.5 {
		t.Errorf("any: %v, %v", p, err)
	}
	if p, err := decodeParameters[map[string]int]([]byte(`{"x": 1}`)); err != nil || p["x"] != 1 {
		t.Errorf("map: %v, %v", p, err)
	}
	if _, err := decodeParameters[map[string]int]([]byte(`{"x": "1"}`)); err == nil || err.Error() != "parameters.x must be a whole number, not string" {
		t.Errorf("map: %v", err)
	}
	if _, err := decodeParameters[struct{}]([]byte(`{"x": 1}`)); err != nil {
		t.Errorf("struct{}: %v", err)
	}
	if p, err := decodeParameters[*moveTo]([]byte(`{"x": 2}`)); err != nil || p.X != 2 {
		t.Errorf("pointer: %v, %v", p, err)
	}
}
