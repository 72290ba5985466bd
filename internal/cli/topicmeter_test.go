package cli

import (
	"bytes"
	"context"
	"errors"
	"math"
	"strings"
	"testing"
)

func TestSpread(t *testing.T) {
	var s spread
	if s.deviation() != 0 {
		t.Errorf("of nothing: %v", s.deviation())
	}
	for _, v := range []float64{2, 4, 4, 4, 5, 5, 7, 9} {
		s.add(v)
	}
	if s.n != 8 || s.lowest != 2 || s.utmost != 9 || math.Abs(s.mean-5) > 1e-9 || math.Abs(s.deviation()-2) > 1e-9 || math.Abs(s.sum()-40) > 1e-9 {
		t.Errorf("%+v, deviation %v", s, s.deviation())
	}
}

func TestConfirm(t *testing.T) {
	for answer, want := range map[string]bool{"y\n": true, "YES\n": true, "n\n": false, "\n": false, "": false, "yesterday\n": false} {
		var asked bytes.Buffer
		got, err := (&tool{stdin: strings.NewReader(answer), stderr: &asked}).confirm(t.Context(), "Remove it?")
		if got != want || err != nil || asked.String() != "Remove it? [y/N] " {
			t.Errorf("%q: %v %v, asked %q", answer, got, err, asked.String())
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errInterrupted)
	release := make(chan struct{})
	defer close(release)
	waiting := readerFunc(func([]byte) (int, error) { <-release; return 0, errors.New("over") })
	if got, err := (&tool{stdin: waiting, stderr: &bytes.Buffer{}}).confirm(ctx, "?"); got || !errors.Is(err, errInterrupted) {
		t.Errorf("interrupted: %v %v", got, err)
	}
}
