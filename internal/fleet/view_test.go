package fleet_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/fleettest"
	"github.com/lawnberry/lawnberry/internal/natstest"
)

const patience = 2 * time.Minute

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !f(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func connect(t testing.TB, urls string) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(urls, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.RetryOnFailedConnect(true))
	check(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(30*time.Second))
	check(t, err)
	return js
}

// setup makes an engine ready for a fleet.
func setup(t testing.TB, js jetstream.JetStream, replicas int, ttl time.Duration) {
	t.Helper()
	var err error
	eventually(t, "the engine is set up", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		err = fleettest.Setup(ctx, js, replicas, ttl)
		return err == nil
	})
}

func open(t testing.TB, js jetstream.JetStream, o fleet.ViewOptions) *fleet.View {
	t.Helper()
	v := fleet.OpenView(js, o)
	t.Cleanup(v.Close)
	check(t, v.Wait(testContext(t)))
	return v
}

func parse(t testing.TB, text string) *fleet.Where {
	t.Helper()
	w, err := fleet.ParseWhere(text)
	check(t, err)
	return w
}

func withID(id string) jetstream.PublishOpt { return jetstream.WithMsgID(id) }

func ids(all []*fleet.Mower) string {
	var s []string
	for _, m := range all {
		s = append(s, m.ID)
	}
	return strings.Join(s, " ")
}

// A view has what was there before it, follows what changes, and sees a presence expire.
func TestView(t *testing.T) {
	s := natstest.Start(t)
	js := connect(t, s.URL())
	setup(t, js, 1, 2*time.Second)
	check(t, js.DeleteKeyValue(testContext(t), fleet.BucketMowers)) // an engine with another way to enrol
	p := fleettest.New(js)
	p.State("m1", "power/battery", fleettest.Sensor(map[string]any{"level": 15.5, "charging": true}, map[string]string{"level": "%"}))
	p.State("m1", "navigation/status", fleettest.Status("mowing"))
	p.State("m2", "safety/emergency_stop", fleettest.Stop(true, "lifted"))
	p.State("m2", "safety/alerts/tilt", fleettest.Alert("tilt", "warning", "it leans"))
	p.Presence(fleet.Presence{Mower: "m1", Version: "1.2.3", Backlog: fleet.Backlog{Records: 7}, Lost: fleet.Losses{fleet.Telemetry: {Count: 3}, fleet.Event: {Count: 2}}, Interval: 5})
	check(t, p.Flush(testContext(t)))

	v := open(t, js, fleet.ViewOptions{})
	feed, first := v.Follow()
	defer feed.Close()
	if len(first) != 2 || !v.Link().Current || v.Link().Problem != "" {
		t.Errorf("%d mowers, %+v", len(first), v.Link())
	}
	m, _ := v.Mower("m1")
	if m.Battery == nil || *m.Battery != 15.5 || !m.Charging || m.State != "mowing" || m.Version != "1.2.3" || m.Backlog != 7 || m.Lost != 5 || !m.Online {
		t.Errorf("%+v", m)
	}
	if got := ids(v.Select(parse(t, "stop=engaged and worst=critical and alerts=2"))); got != "m2" {
		t.Errorf("%q is stopped", got)
	}
	if m, _ := v.Mower("m2"); m.Online || m.Enrolled != nil {
		t.Error("it has never been there")
	}

	// It expires without a word of the server's, which would need roll-ups (see Streams): the view notices by its own clock.
	eventually(t, "m1 offline", func() bool { m, _ := v.Mower("m1"); return !m.Online })
	if m, _ := v.Mower("m1"); m.Version != "1.2.3" || m.Since.IsZero() {
		t.Errorf("%+v", m)
	}
	var seen []string
	eventually(t, "the feed says so", func() bool {
		for _, c := range feed.Take() {
			seen = append(seen, fmt.Sprintf("%s %v %v", c.ID, c.Before.Online, c.After.Online))
		}
		return strings.Join(seen, ", ") == "m1 true false"
	})

	// It comes back, says something else, and what was wrong with the other ends.
	p.Presence(fleet.Presence{Mower: "m1", Version: "1.2.4"})
	p.State("m2", "safety/alerts/tilt", nil)
	p.State("m2", "safety/emergency_stop", fleettest.Stop(false, ""))
	p.State("m3", "odd/topic", []byte("\xff\x00"))
	p.Raw("$KV."+fleet.BucketState+".-bad.x", []byte("x"), nil)
	p.Raw("$KV."+fleet.BucketPresence+".m4", []byte("no presence at all"), nil)
	eventually(t, "all that", func() bool {
		m1, _ := v.Mower("m1")
		m2, _ := v.Mower("m2")
		m3, known3 := v.Mower("m3")
		m4, known4 := v.Mower("m4")
		return m1.Online && m1.Version == "1.2.4" && m2.Stop == fleet.StopReleased && m2.Alerts == nil && m2.Worst == "" && known3 && m3.Topic("odd/topic") != nil &&
			known4 && m4.Online && v.Link().Odd == 2
	})
	p.Leave("m4")
	eventually(t, "m4 gone", func() bool { m, _ := v.Mower("m4"); return !m.Online })

	// Who is enrolled is known where the engine has a list of it.
	kv, err := js.CreateKeyValue(testContext(t), jetstream.KeyValueConfig{Bucket: fleet.BucketMowers})
	check(t, err)
	for id, doc := range map[string]string{"m1": `{"name": "one"}`, "m2": `{"revoked": "2026-05-01T00:00:00Z"}`, "m9": `garbage`} {
		_, err := kv.Put(testContext(t), id, []byte(doc))
		check(t, err)
	}
	eventually(t, "enrolled", func() bool {
		return ids(v.Select(parse(t, "enrolled"))) == "m1 m9" && strings.HasPrefix(ids(v.Select(parse(t, "enrolled=false"))), "m2 m3")
	})
	check(t, kv.Delete(testContext(t), "m9"))
	eventually(t, "m9 not enrolled", func() bool { _, known := v.Mower("m9"); return !known })
}

// Only what is asked for is copied.
func TestViewFilters(t *testing.T) {
	s := natstest.Start(t)
	js := connect(t, s.URL())
	setup(t, js, 1, time.Minute)
	p := fleettest.New(js)
	for _, m := range []string{"a", "b"} {
		p.State(m, "power/battery", fleettest.Sensor(map[string]any{"level": 50}, nil))
		p.State(m, "power/solar", fleettest.Sensor(map[string]any{"power": 12}, nil))
		p.State(m, "system/health", fleettest.Sensor(map[string]any{"x": 1}, nil))
		p.Presence(fleet.Presence{Mower: m})
	}
	check(t, p.Flush(testContext(t)))
	v := open(t, js, fleet.ViewOptions{Mower: "b", Filters: []string{"power/+"}})
	if got := ids(v.Mowers()); got != "b" {
		t.Errorf("%q", got)
	}
	m, _ := v.Mower("b")
	if len(m.Topics()) != 2 || m.Topic("power/solar") == nil || m.Topic("system/health") != nil {
		t.Errorf("%d topics", len(m.Topics()))
	}
	few := open(t, js, fleet.ViewOptions{MaxMowers: 1})
	if len(few.Mowers()) != 1 || few.Link().LeftOut != 1 {
		t.Errorf("%d mowers, %+v", len(few.Mowers()), few.Link())
	}
}

// An engine that is not ready is waited for, and what is in the way is said.
func TestViewNotReady(t *testing.T) {
	s := natstest.Start(t)
	js := connect(t, s.URL())
	v := fleet.OpenView(js, fleet.ViewOptions{})
	defer v.Close()
	eventually(t, "the problem", func() bool { return strings.Contains(v.Link().Problem, "was not set up for a fleet") })
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if err := v.Wait(ctx); err == nil || !strings.Contains(err.Error(), "LAWNBERRY_") {
		t.Error(err)
	}
	setup(t, js, 1, time.Minute)
	check(t, v.Wait(testContext(t)))
}

// What happened while the engine was away is known when it is back, also what is gone, and nobody takes what is old for what is.
func TestViewOutage(t *testing.T) {
	s := natstest.Start(t)
	js, other := connect(t, s.URL()), connect(t, s.URL())
	setup(t, js, 1, time.Hour)
	p := fleettest.New(other)
	p.Presence(fleet.Presence{Mower: "a", Interval: 3600})
	p.State("a", "safety/alerts/x", fleettest.Alert("x", "error", "m"))
	p.State("b", "navigation/status", fleettest.Status("mowing"))
	check(t, p.Flush(testContext(t)))
	v := open(t, js, fleet.ViewOptions{})
	copies := v.Link().Copies

	s.Stop(0) // it hangs: nothing is heard, and the connection seems to be there
	eventually(t, "the silence is noticed", func() bool { l := v.Link(); return !l.Current && l.Problem != "" })
	if m, _ := v.Mower("a"); !m.Online || len(m.Alerts) != 1 {
		t.Error("what was known is forgotten")
	}
	s.Cont(0)
	eventually(t, "current again", func() bool { return v.Link().Current })

	s.Kill(0)
	eventually(t, "the end is noticed", func() bool { l := v.Link(); return !l.Connected && !l.Current })
	s.Restart(0)
	p = fleettest.New(other)
	eventually(t, "connected again", func() bool { return other.Conn().IsConnected() })
	p.Leave("a")
	p.State("a", "safety/alerts/x", nil)
	p.State("b", "navigation/status", fleettest.Status("docked"))
	check(t, p.Flush(testContext(t)))
	eventually(t, "what has changed", func() bool {
		a, _ := v.Mower("a")
		b, _ := v.Mower("b")
		return v.Link().Current && !a.Online && a.Alerts == nil && b.State == "docked"
	})
	if v.Link().Copies <= copies {
		t.Errorf("%d copies", v.Link().Copies)
	}
}

// In a cluster each node is killed in turn, while mowers go on: the view is always current again, and right.
func TestViewCluster(t *testing.T) {
	s := natstest.Cluster(t, 3)
	js, other := connect(t, s.URLs()), connect(t, s.URLs())
	setup(t, js, 3, time.Hour)
	v := open(t, js, fleet.ViewOptions{})
	const mowers = 20
	for round := range s.Len() {
		s.Kill(round)
		for i := range mowers {
			id := fmt.Sprintf("m%02d", i)
			text := fmt.Sprintf("round-%d", round)
			eventually(t, "stored", func() bool {
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				defer cancel()
				_, err := other.Publish(ctx, "$KV."+fleet.BucketState+"."+fleet.StateKey(id, "navigation/status"), fleettest.Status(text))
				return err == nil
			})
		}
		want := parse(t, fmt.Sprintf("state=round-%d", round))
		eventually(t, "all of the round", func() bool { return len(v.Select(want)) == mowers && v.Link().Current })
		s.Restart(round)
		s.WaitReady()
	}
	t.Logf("%+v", v.Link())
}
