package service

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// watched is a registry at work, with everything that it says written down.
type watched struct {
	*registry
	t *testing.T
	n int

	mu      sync.Mutex // guards the fields below
	changes []string
	deaths  []string
}

// watch runs a registry of the service m, which is running, in a synctest bubble.
func watch(t *testing.T, timeout time.Duration) *watched {
	w := &watched{registry: newRegistry("m", timeout, slog.New(slog.DiscardHandler)), t: t}
	w.linked = func() bool { return true }
	w.lost = func(d death) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.deaths = append(w.deaths, fmt.Sprintf("%s %s", d.info.ID, d.old))
	}
	w.setSelf(Info{ID: "m", Type: "m", State: Healthy})
	w.setSeen(Healthy)
	o, cancel := w.observe(func(i Info, old State) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.changes = append(w.changes, fmt.Sprintf("%s %s>%s", i.ID, old, i.State))
	})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{}, 2)
	go func() { w.run(ctx); ended <- struct{}{} }()
	go func() { o.run(ctx); ended <- struct{}{} }()
	t.Cleanup(func() {
		cancel()
		stop()
		<-ended
		<-ended
	})
	return w
}

// hear lets the registry hear a new status.
func (w *watched) hear(id string, st State, reason string) identity {
	w.n++
	rep := report{identity: identity{fmt.Sprint(w.n), float64(w.n)}, state: st, reason: reason}
	w.apply(id, rep, time.Now())
	return rep.identity
}

func (w *watched) state(id string) State {
	i, _ := w.get(id)
	return i.State
}

func (w *watched) expect(what string, seen *[]string, want ...string) {
	w.t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	got := *seen
	if !slices.Equal(got, want) {
		w.t.Errorf("%s:\n got %s\nwant %s", what, strings.Join(got, ", "), strings.Join(want, ", "))
	}
}

func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, 90*time.Second)
		w.hear("a", Healthy, "")
		begin := time.Now()
		for range 5 {
			time.Sleep(80 * time.Second)
			w.hear("a", Healthy, "")
		}
		last := time.Now()
		time.Sleep(90*time.Second - time.Nanosecond)
		synctest.Wait()
		if w.state("a") != Healthy {
			t.Errorf("offline %v after the last heartbeat", time.Since(last))
		}
		time.Sleep(2 * time.Nanosecond)
		synctest.Wait()
		i, _ := w.get("a")
		if i.State != Offline || i.Reason != "silent for 90s" || !i.LastSeen.Equal(last) || begin.Equal(last) {
			t.Errorf("after 90 s of silence: %+v", i)
		}
		w.hear("a", Degraded, "slow")
		time.Sleep(time.Hour)
		synctest.Wait()
		w.expect("changes", &w.changes, "a >healthy", "a healthy>offline", "a offline>degraded", "a degraded>offline")
		w.expect("deaths", &w.deaths, "a healthy", "a degraded")
	})
}

func TestWillIsSeenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, 90*time.Second)
		w.hear("a", Healthy, "")
		seen := time.Now()
		time.Sleep(10 * time.Second)
		w.hear("a", Offline, reasonLost)
		i, _ := w.get("a")
		if i.State != Offline || !i.LastSeen.Equal(seen) {
			t.Errorf("after the Will: %+v; a Will is no sign of life", i)
		}
		w.hear("a", Offline, reasonLost)
		time.Sleep(time.Hour)
		w.expect("changes", &w.changes, "a >healthy", "a healthy>offline")
		w.expect("deaths", &w.deaths, "a healthy")
	})
}

// Reports and statuses come in any order: a report belongs to the death that it names, and to no other.
func TestReportsOvertakeStatuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, time.Hour)
		w.hear("a", Healthy, "") // has the first turn
		w.hear("z", Healthy, "")
		early := report{identity: identity{"the last", 1}, state: Healthy}
		w.wasReported("z", "the last") // before the status that it names
		w.apply("z", early, time.Now())
		w.hear("z", Offline, reasonLost)
		time.Sleep(2 * time.Second)
		w.expect("a death that was reported already", &w.deaths)

		first := w.hear("z", Healthy, "")
		w.hear("z", Offline, reasonLost)
		time.Sleep(turn / 2)
		second := w.hear("z", Healthy, "")
		w.wasReported("z", first.id) // late: the service is back
		w.hear("z", Offline, reasonLost)
		time.Sleep(turn / 2)
		w.wasReported("z", first.id)
		time.Sleep(turn)
		w.expect("a death after one that was reported", &w.deaths, "z healthy")
		w.wasReported("z", second.id)

		w.hear("z", Healthy, "")
		w.wasReported("z", "") // by one of another make, before its status
		w.hear("z", Offline, reasonLost)
		time.Sleep(2 * turn)
		w.expect("a death that somebody reported before we saw it", &w.deaths, "z healthy")
	})
}

// A service that announces its end itself has reported it itself; one of another make, which gives no reason, has not.
func TestGoodbye(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, time.Minute)
		w.hear("a", Healthy, "")
		w.hear("a", ShuttingDown, "stopped")
		w.hear("a", Offline, "stopped")
		w.hear("b", Healthy, "")
		w.hear("b", Offline, "")
		w.hear("c", Offline, "") // was so before
		time.Sleep(time.Hour)
		w.expect("deaths", &w.deaths, "b healthy")
	})
}

// What the broker had retained is no news when it sends it again.
func TestRepetitionIsNoSignOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, time.Minute)
		again := report{identity: w.hear("a", Healthy, ""), again: true, state: Healthy}
		time.Sleep(50 * time.Second)
		w.apply("a", again, time.Now())
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if w.state("a") != Offline {
			t.Error("a repeated status counted as a heartbeat")
		}
		w.apply("a", again, time.Now())
		if w.state("a") != Offline {
			t.Error("a repeated status revived the service")
		}
		w.apply("a", report{identity: identity{"other", 1}, again: true, state: Healthy}, time.Now())
		if w.state("a") != Healthy {
			t.Error("a new retained status did not count")
		}
	})
}

// A process that did not run cannot tell who was silent.
func TestDeafProcess(t *testing.T) {
	r := newRegistry("m", time.Minute, slog.New(slog.DiscardHandler))
	now := time.Now()
	r.apply("a", report{state: Healthy}, now)
	r.due(now)
	later := now.Add(10 * time.Minute) // stopped for so long
	if _, next := r.due(later); !next.Equal(later.Add(time.Minute)) {
		t.Errorf("looks again after %v, want a minute", next.Sub(later))
	}
	if i, _ := r.get("a"); i.State != Healthy {
		t.Error("silence counted while this process did not run")
	}
	r.due(later.Add(time.Minute))
	if i, _ := r.get("a"); i.State != Offline {
		t.Error("silence did not count while it ran")
	}
}

// A process that is stopped before it has planned anything takes nobody for dead either.
func TestDeafAtFirst(t *testing.T) {
	r := newRegistry("m", time.Minute, slog.New(slog.DiscardHandler))
	r.linked = func() bool { return true }
	now := time.Now()
	r.apply("a", report{identity: identity{"1", 1}, state: Healthy}, now)
	later := now.Add(5 * time.Minute)
	deaths, next := r.due(later)
	if i, _ := r.get("a"); i.State != Healthy || len(deaths) > 0 || !next.Equal(later.Add(time.Minute)) {
		t.Errorf("%s, %d deaths, looks again in %v", i.State, len(deaths), next.Sub(later))
	}
	r.setSeen(Healthy)
	later = next
	r.due(later)
	if i, _ := r.get("a"); i.State != Offline {
		t.Error("it is never taken for dead")
	}
	// Nor does it report a death that it had to wait with, each time that it was stopped meanwhile.
	for range 3 {
		later = later.Add(time.Minute)
		if deaths, _ := r.due(later); len(deaths) > 0 {
			t.Error("a death is reported by who was stopped")
		}
	}
	if deaths, _ := r.due(later.Add(catchUp)); len(deaths) != 1 {
		t.Error("it is never reported")
	}
}

func TestReporterIsTheSmallestRunning(t *testing.T) {
	dead := func(w *watched) {
		w.hear("z", Healthy, "")
		w.hear("z", Offline, reasonLost)
		synctest.Wait()
	}
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, time.Hour)
		w.hear("n", Healthy, "")   // larger
		w.hear("a", Offline, "")   // not running
		w.hear("b", Starting, "")  // nor
		w.hear("c", "", "")        // says it is alive: counts
		w.hear("d", "cutting", "") // a state we do not know: counts
		dead(w)
		time.Sleep(1900 * time.Millisecond)
		w.expect("before its turn", &w.deaths)
		time.Sleep(200 * time.Millisecond)
		w.expect("in its turn", &w.deaths, "z healthy")
	})
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, time.Hour)
		w.hear("a", Healthy, "")
		dead(w)
		w.wasReported("z", "")
		time.Sleep(time.Hour / 2)
		w.expect("after another reported it", &w.deaths)
		w.hear("z", Healthy, "")
		w.hear("z", Offline, reasonLost)
		time.Sleep(2 * time.Second)
		w.expect("the next death, unreported", &w.deaths, "z healthy")
	})
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, time.Hour)
		w.hear("a", Healthy, "")
		dead(w)
		w.hear("z", Starting, "") // restarted before our turn
		time.Sleep(10 * time.Second)
		w.expect("after it came back", &w.deaths)
	})
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, time.Hour)
		w.linked = func() bool { return false }
		dead(w)
		time.Sleep(10 * time.Second)
		w.expect("without a link", &w.deaths)
	})
}

func TestRemoval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, time.Minute)
		w.hear("a", Healthy, "")
		w.remove("a")
		w.remove("nobody")
		if _, ok := w.get("a"); ok {
			t.Error("still known")
		}
		time.Sleep(time.Hour)
		w.hear("a", Healthy, "")
		w.expect("changes", &w.changes, "a >healthy", "a healthy>", "a >healthy")
		w.expect("deaths", &w.deaths)
	})
}

func TestSlowObserverDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, time.Hour)
		hold := make(chan struct{})
		var slow []State
		o, cancel := w.observe(func(i Info, _ State) {
			<-hold
			slow = append(slow, i.State)
			if len(slow) == 1 {
				panic("a broken handler")
			}
		})
		ended := make(chan struct{})
		go func() { o.run(t.Context()); close(ended) }()
		states := []State{Healthy, Degraded}
		for i := range maxBehind + 10 {
			w.hear("a", states[i%2], "")
			synctest.Wait() // the quick observer has it
		}
		if len(w.changes) != maxBehind+10 {
			t.Errorf("the quick observer saw %d changes", len(w.changes))
		}
		close(hold)
		synctest.Wait()
		if len(slow) != maxBehind+1 { // one was in its hands when the queue overflowed
			t.Errorf("the slow observer saw %d changes, want the last %d and the one it was at", len(slow), maxBehind)
		}
		cancel()
		w.hear("a", Failing, "")
		<-ended
		if slices.Contains(slow, Failing) {
			t.Error("called after cancel")
		}
	})
}

func TestRegistryIsBounded(t *testing.T) {
	r := newRegistry("m", time.Minute, slog.New(slog.DiscardHandler))
	for i := range maxServices + 100 {
		r.apply(fmt.Sprint(i), report{state: Healthy}, time.Now())
	}
	if n := len(r.all("")); n != maxServices {
		t.Errorf("%d services, the bound is %d", n, maxServices)
	}
	r.remove("0")
	r.apply("late", report{state: Healthy}, time.Now())
	if _, ok := r.get("late"); !ok {
		t.Error("no room after a removal")
	}
}

func TestSnapshotsAreCopies(t *testing.T) {
	r := newRegistry("m", time.Minute, slog.New(slog.DiscardHandler))
	r.apply("b", report{state: Healthy, serviceType: "x", endpoints: map[string]string{"k": "v"}, dependencies: []string{"d"}}, time.Now())
	r.apply("a", report{state: Healthy, serviceType: "y"}, time.Now())
	i, _ := r.get("b")
	i.Endpoints["k"] = "changed"
	i.Dependencies[0] = "changed"
	if i, _ := r.get("b"); i.Endpoints["k"] != "v" || i.Dependencies[0] != "d" {
		t.Errorf("a caller changed the registry: %+v", i)
	}
	all := r.all("")
	if len(all) != 2 || all[0].ID != "a" || all[1].ID != "b" {
		t.Errorf("not sorted: %+v", all)
	}
	if x := r.all("x"); len(x) != 1 || x[0].ID != "b" {
		t.Errorf("of type x: %+v", x)
	}
}

func TestOffline(t *testing.T) {
	r := newRegistry("m", time.Minute, slog.New(slog.DiscardHandler))
	seen := time.Now()
	r.apply("a", report{state: Healthy}, seen)
	r.apply("x", report{state: Healthy}, seen)
	expect := func(target string, want bool) {
		t.Helper()
		if at, offline := r.offline(target); offline != want || offline && !at.Equal(seen) {
			t.Errorf("%s offline: %v, last seen %v", target, offline, at)
		}
	}
	expect("a", false)
	expect("nobody", false)
	r.apply("a", report{state: Offline}, seen.Add(time.Second))
	expect("a", true)
	r.apply("x", report{state: Healthy, serviceType: "a"}, seen)
	expect("a", false) // x may be meant
	r.apply("x", report{state: Offline}, seen)
	expect("a", true)
}

func TestCycle(t *testing.T) {
	r := newRegistry("m", time.Minute, slog.New(slog.DiscardHandler))
	add := func(id string, st State, deps ...string) {
		r.apply(id, report{state: st, dependencies: deps}, time.Now())
	}
	add("a", Starting, "b", "x")
	add("b", Degraded, "c")
	add("x", Starting, "a") // a cycle without m
	add("healthy", Healthy, "m")
	add("gone", Offline, "m")
	if c := r.cycle("m", []string{"unknown", "healthy", "gone", "a"}); c != nil {
		t.Errorf("found %v, want none", c)
	}
	add("c", Starting, "m")
	if c := r.cycle("m", []string{"a"}); !slices.Equal(c, []string{"m", "a", "b", "c", "m"}) {
		t.Errorf("found %v", c)
	}
}
