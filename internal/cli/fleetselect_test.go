package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/fleettest"
	"github.com/lawnberry/lawnberry/internal/natstest"
)

// A stopper is an operator who notes which mowers are stopped.
type stopper struct {
	fleet.Operator

	stopped []string                                               // in their order, as one is asked at a time
	then    func(ctx context.Context, v *fleet.View, mower string) // is called while a mower is asked, with the view that mowers are selected from
	view    *fleet.View

	patience time.Duration // until it is known which mowers there are; 0 is the usual one
}

func (s *stopper) Stop(ctx context.Context, mower, _ string) (fleet.Stopped, error) {
	s.stopped = append(s.stopped, mower)
	if s.then != nil {
		s.then(ctx, s.view, mower)
	}
	if ctx.Err() != nil {
		return fleet.Stopped{}, ctx.Err()
	}
	return fleet.Stopped{Engaged: true, Confirmed: true, Sequence: 1}, nil
}

// A selecting is an engine of whose mowers some are selected.
type selecting struct {
	servers *natstest.Servers
	js      jetstream.JetStream
	*fleettest.Publisher
}

func newSelecting(t *testing.T, setup bool) *selecting {
	t.Helper()
	s := &selecting{servers: natstest.Start(t)}
	nc, err := nats.Connect(s.servers.URL(), nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if s.js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	if setup {
		if err := fleettest.Setup(t.Context(), s.js, 1, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	s.Publisher = fleettest.New(s.js)
	return s
}

// put has mowers be there, or be known and away, and do something.
func (s *selecting) put(t *testing.T, state string, online bool, mowers ...string) {
	t.Helper()
	for _, m := range mowers {
		if online {
			s.Presence(fleet.Presence{Mower: m, Interval: 600})
		}
		s.State(m, "navigation/status", fleettest.Status(state))
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Error(err)
	}
}

// stop does what estop --where does, with so many mowers at most that a view has room for, 0 for the usual.
func (s *selecting) stop(ctx context.Context, t *testing.T, op *stopper, where string, room int) (stdout string, err error) {
	t.Helper()
	var out, said bytes.Buffer
	tool := &tool{stdout: &out, stderr: &said, json: true}
	w, err := fleet.ParseWhere(where)
	if err != nil {
		t.Fatal(err)
	}
	selection := &mowerSelection{where: where, yes: true, most: 1, stops: true, patience: op.patience}
	views := func(o fleet.ViewOptions) *fleet.View {
		o.MaxMowers = room
		op.view = fleet.OpenView(s.js, o)
		return op.view
	}
	err = tool.withSelected(ctx, views, op, selection, w, "", func(ctx context.Context, o fleet.Operator, mowers []string) error {
		return tool.stopMowers(ctx, o, mowers, selection, "a dog", time.Minute)
	})
	return out.String(), err
}

// eventuallyTrue waits for a condition.
func eventuallyTrue(t *testing.T, what string, is func() bool) {
	t.Helper()
	for began := time.Now(); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Errorf("not within a minute: %s", what)
			return
		}
	}
}

// A mower that begins to mow while others are being stopped is stopped too, and those that are there are stopped before those that are away.
func TestStopWhoIsSelectedLater(t *testing.T) {
	t.Parallel()
	s := newSelecting(t, true)
	s.put(t, "mowing", false, "a")
	s.put(t, "mowing", true, "c", "b")
	s.put(t, "docked", true, "d")
	op := &stopper{then: func(_ context.Context, v *fleet.View, mower string) {
		if mower == "c" {
			s.put(t, "mowing", true, "d", "e")
			eventuallyTrue(t, "the view has them", func() bool {
				d, _ := v.Mower("d")
				e, known := v.Mower("e")
				return known && e.State == "mowing" && d.State == "mowing"
			})
		}
	}}
	out, err := s.stop(t.Context(), t, op, "state=mowing", 0)
	if want := []string{"b", "c", "a", "d", "e"}; err != nil || !slices.Equal(op.stopped, want) {
		t.Errorf("stopped %v, %v, want %v", op.stopped, err, want)
	}
	if strings.Count(out, `"ok":true`) != 5 {
		t.Error(out)
	}
}

// When the engine cannot say any more who is selected, that is no success.
func TestStopLosesEngine(t *testing.T) {
	t.Parallel()
	s := newSelecting(t, true)
	s.put(t, "mowing", true, "a")
	op := &stopper{then: func(_ context.Context, v *fleet.View, _ string) {
		s.servers.Kill(0)
		eventuallyTrue(t, "the view knows", func() bool { return !v.Link().Current })
	}}
	out, err := s.stop(t.Context(), t, op, "state=mowing", 0)
	if exitCode(err) != exitTimeout || !strings.Contains(fmt.Sprint(err), "there may be more") {
		t.Errorf("%v, code %d", err, exitCode(err))
	}
	if !strings.Contains(out, `{"mower":"a","ok":true`) {
		t.Error(out)
	}
}

// Mowers that the view has no room for are told of.
func TestStopBeyondBound(t *testing.T) {
	t.Parallel()
	s := newSelecting(t, true)
	s.put(t, "mowing", true, "a", "b", "c")
	mowers, err := s.js.KeyValue(t.Context(), fleet.BucketMowers)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := mowers.PutString(t.Context(), "d", `{}`); err != nil { // enrolled, and never heard
		t.Fatal(err)
	}
	op := &stopper{}
	_, err = s.stop(t.Context(), t, op, "", 2)
	if len(op.stopped) != 2 || exitCode(err) != exitTimeout || !strings.Contains(fmt.Sprint(err), "2 mowers more") {
		t.Errorf("stopped %v: %v, code %d", op.stopped, err, exitCode(err))
	}
}

// An engine whose state cannot be read does not say that there is no such mower.
func TestStopUnknown(t *testing.T) {
	t.Parallel()
	s := newSelecting(t, false)
	_, err := s.stop(t.Context(), t, &stopper{patience: 300 * time.Millisecond}, "state=mowing", 0)
	if exitCode(err) != exitTimeout || !strings.Contains(fmt.Sprint(err), "there may be more") {
		t.Errorf("%v, code %d", err, exitCode(err))
	}
}

// Whoever interrupts it is told of each mower that was not asked.
func TestStopInterrupted(t *testing.T) {
	t.Parallel()
	s := newSelecting(t, true)
	s.put(t, "mowing", true, "a", "b", "c")
	for _, answered := range []bool{false, true} {
		ctx, cancel := context.WithCancelCause(t.Context())
		op := &stopper{then: func(context.Context, *fleet.View, string) { cancel(errInterrupted) }}
		var o fleet.Operator = op
		if answered {
			o = answering{op}
		}
		var out bytes.Buffer
		tool := &tool{stdout: &out, stderr: &bytes.Buffer{}, json: true}
		selection := &mowerSelection{most: 1, stops: true}
		err := tool.stopMowers(ctx, o, []string{"a", "b", "c"}, selection, "", time.Minute)
		var list *detailed
		if exitCode(err) != exitTimeout || !errors.As(err, &list) || !slices.Contains(list.details, "b: NOT STOPPED, it may still move: not asked") ||
			!slices.Contains(list.details, "c: NOT STOPPED, it may still move: not asked") {
			t.Errorf("answered %t: %v, code %d, %+v", answered, err, exitCode(err), list)
		}
		lines := map[string]bool{}
		for line := range strings.Lines(out.String()) {
			var r mowerResult
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Error(err)
			}
			lines[r.Mower] = r.OK
		}
		if len(lines) != 3 || lines["a"] != answered || lines["b"] || lines["c"] {
			t.Errorf("answered %t: %v", answered, lines)
		}
	}
}

// answering is an operator whose mowers answer also when nobody waits.
type answering struct{ *stopper }

func (a answering) Stop(ctx context.Context, mower, reason string) (fleet.Stopped, error) {
	return a.stopper.Stop(context.WithoutCancel(ctx), mower, reason)
}

// Silence is not taken for calm from the first line on.
func TestWatchIsBlindFromTheBeginning(t *testing.T) {
	t.Parallel()
	s := newSelecting(t, true)
	s.put(t, "mowing", true, "a")
	v := fleet.OpenView(s.js, fleet.ViewOptions{})
	defer v.Close()
	if err := v.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.servers.Kill(0)
	eventuallyTrue(t, "the view knows", func() bool { return !v.Link().Current })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	said := &cancelling{text: "the engine is not heard", cancel: cancel}
	_ = (&tool{stdout: said}).watchFleet(ctx, v, nil, 0)
	if !strings.Contains(said.all.String(), said.text) {
		t.Error(said.all.String())
	}
}

// A cancelling ends what writes to it when it has written a text.
type cancelling struct {
	all    bytes.Buffer
	text   string
	cancel func()
}

func (c *cancelling) Write(p []byte) (int, error) {
	c.all.Write(p)
	if strings.Contains(c.all.String(), c.text) {
		c.cancel()
	}
	return len(p), nil
}

// What a mower says cannot reach a terminal as it is, nor be no JSON, and stays the same to whoever decodes it.
func TestHarmless(t *testing.T) {
	t.Parallel()
	raw := []byte("\"a\u009b31m\u007f\u202e\U000e0001 \u00e4\u65e5\U0001f600\xff\\\"\"")
	out := harmless(raw)
	if want := `"a\u009b31m\u007f\u202e\udb40\udc01 ` + "\u00e4\u65e5\U0001f600" + `\ufffd\""`; string(out) != want {
		t.Errorf("%s, want %s", out, want)
	}
	var before, after string
	if json.Unmarshal(raw, &before) != nil || json.Unmarshal(out, &after) != nil || before != after {
		t.Errorf("%q, %q", before, after)
	}
	body, err := encodeJSON(map[string]json.RawMessage{"result": raw}, "  ")
	if err != nil || printable(strings.TrimSpace(strings.ReplaceAll(string(body), "\n", " "))) != strings.TrimSpace(strings.ReplaceAll(string(body), "\n", " ")) {
		t.Errorf("%q, %v", body, err)
	}
}
