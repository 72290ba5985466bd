package fleet

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/store"
	"github.com/lawnberry/lawnberry/message"
)

func newLedger(t *testing.T, dir string) (l *ledger, interrupted []*execution, closeIt func()) {
	t.Helper()
	s, err := store.Open(dir, store.Options{})
	check(t, err)
	l, interrupted, err = openLedger(s)
	check(t, err)
	return l, interrupted, func() { check(t, s.Close()) }
}

func newExecution(id string, lane lane, expires time.Time) *execution {
	return &execution{
		key: commandKey{"anna", id}, lane: lane, service: "navigation", command: "dock", digest: []byte(id), begun: message.Seconds(time.Now()),
		expires: message.Seconds(expires),
	}
}

// What was begun is known after a restart, with its answer, or as interrupted.
func TestLedger(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l, _, closeIt := newLedger(t, dir)
	now := time.Now()
	a, b, c := newExecution("a", laneCommand, now.Add(time.Minute)), newExecution("b", laneJob, now.Add(time.Minute)), newExecution("c", laneCommand, now.Add(time.Minute))
	for _, e := range []*execution{a, b, c} {
		of, first, err := l.claim(e, now)
		if of != e || !first || err != nil {
			t.Fatal(of, first, err)
		}
		check(t, l.begin(e))
	}
	var heard []string
	hear := func(a answer) { heard = append(heard, string(a.Body)) }
	check(t, l.await(a, hear))
	waiting, err := l.end(a, &answer{Body: []byte("the answer"), Success: true})
	check(t, err)
	for _, f := range waiting {
		f(answer{Body: []byte("the answer")})
	}
	check(t, l.await(a, hear))
	if strings.Join(heard, ",") != "the answer,the answer" {
		t.Errorf("%q", heard)
	}
	_, err = l.end(b, &answer{Code: client.CodeFailed})
	check(t, err)
	closeIt()

	l, interrupted, closeIt := newLedger(t, dir)
	if len(interrupted) != 1 || interrupted[0].key.id != "c" || interrupted[0].service != "navigation" || interrupted[0].command != "dock" {
		t.Errorf("interrupted: %+v", interrupted)
	}
	of, first, err := l.claim(newExecution("a", laneCommand, now.Add(time.Minute)), now)
	if first || err != nil || !l.isDone(of) {
		t.Fatal(of, first, err)
	}
	if a, err := l.answerOf(of); err != nil || string(a.Body) != "the answer" {
		t.Errorf("%+v, %v", a, err)
	}
	other := newExecution("a", laneCommand, now.Add(time.Minute))
	other.digest = []byte("other")
	if _, _, err := l.claim(other, now); !errors.Is(err, errOtherContent) {
		t.Errorf("%v", err)
	}
	if list := l.untold(); len(list) != 1 || list[0].key.id != "b" {
		t.Errorf("untold: %+v", list)
	} else {
		check(t, l.tell(list[0]))
	}
	closeIt()
	l, _, closeIt = newLedger(t, dir)
	if len(l.untold()) != 0 {
		t.Error("that a job was told of is forgotten")
	}
	closeIt()
}

// What is forgotten, to make room, is never taken again, whatever the clock says; and what may come again is not forgotten.
func TestLedgerForgets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l, _, closeIt := newLedger(t, dir)
	l.keep, l.most = 5, 20
	now := time.Now()
	run := func(id string, lane lane, expires time.Time) {
		t.Helper()
		e := newExecution(id, lane, expires)
		_, first, err := l.claim(e, now)
		if !first || err != nil {
			t.Fatal(id, first, err)
		}
		check(t, l.begin(e))
		_, err = l.end(e, &answer{})
		check(t, err)
	}
	for i := range 10 {
		run("old"+itoa(uint64(i)), laneCommand, now.Add(-time.Hour+time.Duration(i)*time.Minute))
	}
	for i := range 10 {
		run("live"+itoa(uint64(i)), laneCommand, now.Add(time.Hour+time.Duration(i)*time.Minute))
	}
	run("one more", laneCommand, now.Add(2*time.Hour)) // makes room
	if n := len(l.entries); n != 11 {
		t.Errorf("%d entries, want 11", n)
	}
	for _, id := range []string{"old0", "old9", "never seen"} {
		if _, _, err := l.claim(newExecution(id, laneCommand, now.Add(-time.Hour+9*time.Minute)), now); !errors.Is(err, errForgotten) {
			t.Errorf("%s: %v", id, err)
		}
	}
	run("job", laneJob, now.Add(-time.Hour)) // of its own lane nothing was forgotten
	for i := range 8 {
		run("more"+itoa(uint64(i)), laneCommand, now.Add(time.Hour))
	}
	if _, _, err := l.claim(newExecution("too many", laneCommand, now.Add(time.Hour)), now); !errors.Is(err, errLedgerFull) {
		t.Errorf("%v", err)
	}
	// A clock that is a year ahead forgets what it may, and goes back: nothing of it is taken again.
	l.tidy(now.Add(365 * 24 * time.Hour))
	if len(l.entries) > 6 { // the job whose end was not told stays
		t.Errorf("%d entries", len(l.entries))
	}
	closeIt()
	l, _, closeIt = newLedger(t, dir)
	for i := range 10 {
		e := newExecution("live"+itoa(uint64(i)), laneCommand, now.Add(time.Hour+time.Duration(i)*time.Minute))
		if _, first, err := l.claim(e, now); first {
			t.Errorf("live%d is taken again: %v", i, err)
		}
	}
	run("new", laneCommand, now.Add(3*time.Hour))
	closeIt()
}

// While the disk takes no record nothing runs, and who waits is told.
func TestLedgerWithoutDisk(t *testing.T) {
	t.Parallel()
	l, _, closeIt := newLedger(t, t.TempDir())
	e := newExecution("a", laneCommand, time.Now().Add(time.Minute))
	_, _, err := l.claim(e, time.Now())
	check(t, err)
	told := false
	check(t, l.await(e, func(answer) { told = true }))
	closeIt()
	if l.begin(e) == nil {
		t.Fatal("it is begun without a disk")
	}
	for _, f := range l.release(e) {
		f(answer{})
	}
	if found, err := l.find(e); !told || found != nil || err != nil {
		t.Errorf("told %v, found %v, %v", told, found, err)
	}
}
