package service_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
)

func raise(t *testing.T, svc *service.Service, kind, severity, text string, opts ...service.AlertOption) {
	t.Helper()
	if err := svc.EmitAlert(testContext(t), message.Alert{AlertType: kind, Severity: severity, Message: text, Context: json.RawMessage(`{"deg":30}`)}, opts...); err != nil {
		t.Fatal(err)
	}
}

// standing waits for an alert that fits.
func standing(t *testing.T, svc *service.Service, kind string, fits func(a service.Alert) bool) (found service.Alert) {
	t.Helper()
	eventually(t, svc.ID()+" knows the alert "+kind, func() bool {
		for _, a := range svc.Alerts() {
			if found = a; a.AlertType == kind {
				return fits(a)
			}
		}
		return false
	})
	return found
}

func gone(t *testing.T, svc *service.Service, kind string) {
	t.Helper()
	eventually(t, svc.ID()+" sees the end of the alert "+kind, func() bool {
		return !slices.ContainsFunc(svc.Alerts(), func(a service.Alert) bool { return a.AlertType == kind })
	})
}

func isCount(n int) func(service.Alert) bool {
	return func(a service.Alert) bool { return a.Count == n }
}

// story is what happened, as "action severity text by".
func story(entries []service.AlertEntry, kind string) (s []string) {
	for _, e := range entries {
		if e.Alert.AlertType == kind {
			s = append(s, fmt.Sprintf("%s %s %s by %s", e.Action, e.Alert.Severity, e.Alert.Message, e.By))
		}
	}
	return s
}

// Repetitions are counted and told to nobody, what changes is told once, in order, and to all the same. (With repetitions that are
// entered into the history, or an acknowledgement lost by the next one, it fails.)
func TestAlertLife(t *testing.T) {
	t.Parallel()
	for _, version := range []int{4, 5} {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			t.Parallel()
			b, ctx := newBroker(t), testContext(t)
			o := client.Options{}
			if version == 4 {
				o.Dial = old(strings.TrimPrefix(b.URL(), "tcp://"))
			}
			svc := start(t, b, service.Options{ID: "a", Client: o})
			other := start(t, b, service.Options{ID: "b", Client: o})
			var mu sync.Mutex
			var heard []service.AlertEntry
			alerts := 0
			if _, err := other.OnAlertChange(ctx, func(_ context.Context, e service.AlertEntry) {
				mu.Lock()
				defer mu.Unlock()
				heard = append(heard, e)
			}); err != nil {
				t.Fatal(err)
			}
			if _, err := other.OnAlert(ctx, func(context.Context, service.Alert) { mu.Lock(); defer mu.Unlock(); alerts++ }); err != nil {
				t.Fatal(err)
			}
			if err := other.AckAlert(ctx, "tilt"); !errors.Is(err, service.ErrNoAlert) {
				t.Errorf("acknowledging nothing: %v", err)
			}
			for range 3 {
				raise(t, svc, "tilt", "warning", "steep")
			}
			a := standing(t, other, "tilt", isCount(3))
			if a.Sender != "a" || string(a.Context) != `{"deg":30}` || a.Acknowledged || a.FirstRaised.After(a.Time) {
				t.Errorf("%+v", a)
			}
			if err := other.AckAlert(ctx, "tilt"); err != nil {
				t.Fatal(err)
			}
			a = standing(t, svc, "tilt", func(a service.Alert) bool { return a.Acknowledged })
			if a.AcknowledgedBy != "b" || time.Since(a.AcknowledgedAt) > time.Minute || a.Count != 3 || a.Sender != "a" {
				t.Errorf("acknowledged: %+v", a)
			}
			raise(t, svc, "tilt", "warning", "steep")
			if a = standing(t, other, "tilt", isCount(4)); !a.Acknowledged || a.AcknowledgedBy != "b" {
				t.Errorf("a repetition forgot who acknowledged: %+v", a)
			}
			raise(t, svc, "tilt", "critical", "very steep")
			if a = standing(t, other, "tilt", isCount(5)); a.Acknowledged || a.AcknowledgedBy != "" {
				t.Errorf("the acknowledgement outlived a worse severity: %+v", a)
			}
			p := newPeer(t, b, "late", "safety/alerts/+")
			var wire struct {
				Context struct {
					Deg    float64
					Record struct {
						RaisedBy string  `json:"raised_by"`
						Count    int     `json:"count"`
						First    float64 `json:"first_raised"`
						Last     float64 `json:"last_raised"`
					} `json:"alert_record"`
				}
			}
			d := p.next("safety/alerts/tilt")
			if err := json.Unmarshal(d.Message.Payload, &wire); err != nil {
				t.Fatal(err)
			}
			if r := wire.Context.Record; r.Count != 5 || r.RaisedBy != "a" || r.First > r.Last || r.First == 0 || wire.Context.Deg != 30 || d.Message.Metadata.Priority != message.Critical || d.QoS != 2 {
				t.Errorf("on the wire: %s, %+v", d.Message.Payload, d.Message.Metadata)
			}
			if err := other.ClearAlert(ctx, "tilt"); err != nil {
				t.Fatal(err)
			}
			gone(t, svc, "tilt")
			clearedBy := ""
			if version == 5 {
				clearedBy = "b"
			}
			want := []string{"raised warning steep by a", "acknowledged warning steep by b", "changed critical very steep by a", "cleared critical very steep by " + clearedBy}
			eventually(t, "all is told", func() bool { mu.Lock(); defer mu.Unlock(); return len(heard) >= 4 && alerts >= 2 })
			mu.Lock()
			defer mu.Unlock()
			for who, got := range map[string][]string{"OnAlertChange": story(heard, "tilt"), "raiser": story(svc.AlertHistory(), "tilt")} {
				if !slices.Equal(got, want) {
					t.Errorf("%s: %q, want %q", who, got, want)
				}
			}
			if alerts != 2 {
				t.Errorf("OnAlert was called %d times, want 2", alerts)
			}
		})
	}
}

// Whoever raises at once, each time counts. (With a message that is made outside the lock the last one on the wire has a lower count.)
func TestAlertsRaisedAtOnce(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	svc := start(t, b, service.Options{ID: "a"})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 25 {
				if err := svc.EmitAlert(testContext(t), message.Alert{AlertType: "x", Severity: "error"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	late := start(t, b, service.Options{ID: "late"})
	standing(t, late, "x", isCount(200))
	standing(t, svc, "x", isCount(200))
	if h := story(svc.AlertHistory(), "x"); len(h) != 1 {
		t.Errorf("history: %q", h)
	}
}

func TestAlertsResolve(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	svc := start(t, b, service.Options{ID: "a"})
	other := start(t, b, service.Options{ID: "b"})
	var over atomic.Bool
	raise(t, svc, "cond", "error", "while it is so", service.WithResolveWhen(over.Load))
	raise(t, svc, "odd", "error", "for ever", service.WithResolveWhen(func() bool { panic("do not know") }))
	raise(t, svc, "time", "warning", "for a moment", service.WithResolveAfter(50*time.Millisecond))
	told := func(who *service.Service, kind string, want ...string) {
		t.Helper()
		eventually(t, kind+" is raised and resolved", func() bool { return slices.Equal(story(who.AlertHistory(), kind), want) })
		gone(t, who, kind)
	}
	told(other, "time", "raised warning for a moment by a", "resolved warning for a moment by a")
	if a := standing(t, other, "cond", isCount(1)); !a.AutoResolve {
		t.Errorf("%+v", a)
	}
	over.Store(true)
	told(other, "cond", "raised error while it is so by a", "resolved error while it is so by a")
	standing(t, other, "odd", isCount(1))
	// A worse one of another does not end with ours.
	raise(t, svc, "both", "critical", "of a")
	standing(t, other, "both", isCount(1))
	raise(t, other, "both", "info", "of b", service.WithResolveAfter(time.Millisecond))
	if a := standing(t, svc, "both", isCount(2)); a.Severity != "critical" || a.Sender != "a" || a.Message != "of a" {
		t.Errorf("hidden by a lesser one: %+v", a)
	}
	raise(t, other, "after", "info", "", service.WithResolveAfter(time.Millisecond))
	told(svc, "after", "raised info  by b", "resolved info  by b") // by then the other's time is up as well
	standing(t, svc, "both", isCount(2))
}

// An alert outlives the service that raised it, which goes on counting when it is back.
func TestAlertOutlivesItsService(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	svc := start(t, b, service.Options{ID: "a"})
	other := start(t, b, service.Options{ID: "b"})
	raise(t, svc, "x", "error", "e", service.WithResolveAfter(time.Hour))
	stop(t, svc)
	awaitState(t, other, "a", service.Offline)
	standing(t, other, "x", isCount(1))
	svc = start(t, b, service.Options{ID: "a"})
	if a := standing(t, svc, "x", isCount(1)); !a.Retained {
		t.Errorf("%+v", a)
	}
	raise(t, svc, "x", "error", "e")
	standing(t, other, "x", isCount(2))
}

// Programs that have nothing but the base format: their repetitions are counted by those who hear them, and they cannot make an
// alert look harmless. (Without putRight the alert stays a warning.)
func TestAlertsOfPlainPeers(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	svc := start(t, b, service.Options{ID: "a"})
	p := newPeer(t, b, "python")
	say := func(kind, severity string) {
		p.say("safety/alerts/"+kind, envelope("python", "alert", map[string]any{"alert_type": kind, "severity": severity, "message": "m"}), client.WithRetain(true))
	}
	for range 3 {
		say("rain", "warning")
	}
	standing(t, svc, "rain", isCount(3))
	p.say("safety/alerts/rain", "", client.WithRetain(true))
	gone(t, svc, "rain")
	say("rain", "warning")
	standing(t, svc, "rain", isCount(1))

	raise(t, svc, "tilt", "critical", "steep")
	say("tilt", "warning")
	late := start(t, b, service.Options{ID: "late"})
	if a := standing(t, late, "tilt", func(a service.Alert) bool { return a.Severity == "critical" }); a.Sender != "a" {
		t.Errorf("%+v", a)
	}
	p.say("safety/alerts/tilt", "", client.WithRetain(true)) // an operator may
	gone(t, svc, "tilt")
	say("tilt", "warning")
	standing(t, svc, "tilt", func(a service.Alert) bool { return a.Severity == "warning" })
}

func TestAlertHistoryIsBounded(t *testing.T) {
	t.Parallel()
	var book service.AlertBook
	for i := range 1200 {
		m, err := message.NewAlert("x", message.Alert{AlertType: "y", Severity: "info", Message: fmt.Sprint(i)})
		if err != nil {
			t.Fatal(err)
		}
		book.Take(&client.Delivery{Topic: fmt.Sprintf("safety/alerts/%d", i), Message: m})
	}
	h := book.History()
	if len(h) != 100 || h[99].Alert.Message != "1199" || h[0].Alert.Message != "1100" || len(book.Alerts()) != 1000 {
		t.Errorf("%d entries, %d alerts", len(h), len(book.Alerts()))
	}
	if _, err := book.Acknowledgement("nothing", "x"); err == nil || !strings.Contains(err.Error(), "nothing") {
		t.Errorf("%v", err)
	}
}
