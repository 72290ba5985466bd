package fleet_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/fleettest"
	"github.com/lawnberry/lawnberry/internal/natstest"
)

func read(t *testing.T, q fleet.HistoryQuery, s *natstest.Servers) (all []fleet.Record) {
	t.Helper()
	for r, err := range fleet.History(testContext(t), connect(t, s.URLs()), q) {
		check(t, err)
		all = append(all, r)
	}
	return all
}

func texts(all []fleet.Record) string {
	var s []string
	for _, r := range all {
		if r.Problem != "" {
			s = append(s, r.Mower+" "+r.Problem)
			continue
		}
		var m struct {
			Payload struct {
				Data struct{ N int }
				Type string `json:"event_type"`
			}
		}
		_ = json.Unmarshal(r.Message, &m)
		if m.Payload.Type != "" {
			s = append(s, r.Mower+" "+m.Payload.Type)
		} else {
			s = append(s, fmt.Sprint(r.Mower, " ", m.Payload.Data.N))
		}
	}
	return strings.Join(s, ", ")
}

// Batches and single messages of several streams come by their time, those asked for alone, and what cannot be read is said to be there.
func TestHistory(t *testing.T) {
	s := natstest.Start(t)
	js := connect(t, s.URL())
	setup(t, js, 1, time.Minute)
	p := fleettest.New(js)
	now := time.Now()
	line := func(n int, ago time.Duration) fleettest.Line {
		return fleettest.Line{Time: now.Add(-ago), Body: fleettest.Sensor(map[string]any{"n": n, "pad": strings.Repeat("x", 100)}, nil)}
	}
	p.Record("a", "system/events/go", "1", fleettest.Event("go", nil)) // happens now
	p.Batch("a", "power/battery", "2", line(1, 3*time.Hour), line(2, 50*time.Minute), line(3, 40*time.Minute), line(4, 30*time.Minute))
	p.Batch("a", "power/solar", "3", line(20, 45*time.Minute))
	p.Batch("b", "power/battery", "4", line(7, time.Minute))
	p.Raw("lawnberry.c.power.battery", []byte("\x1f\x8bnonsense"), nil)
	p.Raw("lawnberry.c.power.x", []byte("no line\n"), map[string][]string{fleet.HeaderBatch: {"many"}})
	p.Raw(fleet.JobListSubject("c"), []byte("{}"), nil) // is nobody's history
	check(t, p.Flush(testContext(t)))

	if got := texts(read(t, fleet.HistoryQuery{Mowers: []string{"a"}, Since: now.Add(-time.Hour), Limit: 100}, s)); got != "a 2, a 20, a 3, a 4, a go" {
		t.Error(got)
	}
	if got := texts(read(t, fleet.HistoryQuery{Mowers: []string{"a"}, Filters: []string{"power/battery"}}, s)); got != "a 1, a 2, a 3, a 4" {
		t.Error(got)
	}
	if got := texts(read(t, fleet.HistoryQuery{Mowers: []string{"a", "b"}, Filters: []string{"power/#"}, Until: now.Add(-10 * time.Second), Limit: 2}, s)); got != "a 4, b 7" {
		t.Error(got)
	}
	got := texts(read(t, fleet.HistoryQuery{Mowers: []string{"c"}}, s))
	for _, want := range []string{"cannot be inflated", "a line of a batch cannot be read", `says that it has "many" messages, and has 1`} {
		if !strings.Contains(got, want) {
			t.Errorf("%q does not say %q", got, want)
		}
	}
	if got := read(t, fleet.HistoryQuery{}, s); len(got) != 10 {
		t.Errorf("%d records: %s", len(got), texts(got))
	}
	for _, q := range []fleet.HistoryQuery{{Mowers: []string{"*"}, Filters: []string{""}}, {Mowers: []string{"a.>"}}, {Limit: -1}, {Filters: []string{"nobody/has"}}} {
		failed := false
		for _, err := range fleet.History(testContext(t), js, q) {
			failed = err != nil
		}
		if !failed {
			t.Errorf("%+v is taken", q)
		}
	}
	for range fleet.History(testContext(t), js, fleet.HistoryQuery{}) { // whoever has enough ends it
		break
	}
}

// While a history is followed, each node of the cluster is killed in turn: every record comes once, and in order.
func TestHistoryFollow(t *testing.T) {
	s := natstest.Cluster(t, 3)
	js := connect(t, s.URLs())
	setup(t, js, 3, time.Hour)
	ctx, end := context.WithCancel(testContext(t))
	defer end()
	const mowers, rounds, each = 3, 3, 20
	seen := map[string]int{}
	arrived := make(chan error, 1)
	go func() {
		total := 0
		for r, err := range fleet.History(ctx, connect(t, s.URLs()), fleet.HistoryQuery{Follow: true}) {
			if err != nil {
				arrived <- err
				return
			}
			var m struct {
				Payload struct{ Data struct{ N int } }
			}
			if err := json.Unmarshal(r.Message, &m); err != nil || m.Payload.Data.N != seen[r.Mower]+1 {
				arrived <- fmt.Errorf("%s: %d after %d, %w", r.Mower, m.Payload.Data.N, seen[r.Mower], err)
				return
			}
			seen[r.Mower]++
			if total++; total == mowers*rounds*each {
				arrived <- nil
				return
			}
		}
	}()
	for round := range rounds {
		s.Kill(round)
		for i := range each {
			for m := range mowers {
				n := round*each + i + 1
				eventually(t, "stored", func() bool {
					ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
					defer cancel()
					_, err := js.Publish(ctx, fleet.HistorySubject(fmt.Sprint("m", m), "power/battery"), fleettest.Sensor(map[string]any{"n": n}, nil), withID(fmt.Sprint(m, " ", n)))
					return err == nil
				})
			}
		}
		s.Restart(round)
		s.WaitReady()
	}
	if err := <-arrived; err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for m, n := range seen {
		if n != rounds*each {
			t.Errorf("%s: %d records", m, n)
		}
	}
}
