package demo

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lawnberry/lawnberry/client"
)

func TestLedger(t *testing.T) {
	arrive := func(l *ledger, sender, topic, id string) { l.Arrived(sender, topic, id, time.Now()) }
	send := func(l *ledger, topic string, ids ...string) {
		for _, id := range ids {
			l.Sending(topic, id)
		}
	}
	for _, test := range []struct {
		name                             string
		do                               func(l *ledger)
		published, delivered, lost       uint64
		twice, refused, commands, failed uint64
	}{
		{name: "nothing", do: func(*ledger) {}},
		{name: "all arrive", published: 2, delivered: 2, do: func(l *ledger) {
			send(l, "a", "1", "2")
			arrive(l, "s", "a", "2")
			arrive(l, "s", "a", "1")
		}},
		{name: "one is lost", published: 3, delivered: 2, lost: 1, do: func(l *ledger) {
			send(l, "a", "1", "2", "3")
			arrive(l, "s", "a", "1")
			arrive(l, "s", "a", "3")
		}},
		{name: "a duplicate does not hide a loss", published: 2, delivered: 1, lost: 1, twice: 1, do: func(l *ledger) {
			send(l, "a", "1", "2")
			arrive(l, "s", "a", "1")
			arrive(l, "s", "a", "1")
		}},
		{name: "at another topic", published: 1, lost: 1, do: func(l *ledger) {
			send(l, "a", "1")
			arrive(l, "s", "b", "1")
		}},
		{name: "of somebody else", do: func(l *ledger) { arrive(l, "stranger", "a", "1") }},
		{name: "refused", published: 1, lost: 1, refused: 1, do: func(l *ledger) {
			send(l, "a", "1")
			l.Refused()
		}},
		{name: "counted", published: 3, delivered: 2, lost: 1, twice: 1, do: func(l *ledger) {
			for range 3 {
				l.Counting("s", "system/events/x")
			}
			arrive(l, "s", "system/events/x", "1")
			arrive(l, "s", "system/events/x", "2")
			arrive(l, "s", "system/events/x", "2")
			arrive(l, "other", "system/events/x", "3")
			arrive(l, "s", "system/events/y", "4")
		}},
		{name: "more than counted", published: 1, delivered: 1, do: func(l *ledger) {
			l.Counting("s", "e")
			arrive(l, "s", "e", "1")
			arrive(l, "s", "e", "2")
		}},
		{name: "command", published: 2, delivered: 2, commands: 1, do: func(l *ledger) {
			done := l.Calling("demo", "navigation")
			arrive(l, "navigation", "responses/demo", "1") // may overtake
			done(nil)
		}},
		{name: "command with an error for an answer", published: 2, delivered: 2, failed: 1, do: func(l *ledger) {
			done := l.Calling("demo", "navigation")
			done(fmt.Errorf("call: %w", &client.CommandError{Code: "failed"}))
			arrive(l, "navigation", "responses/demo", "1")
		}},
		{name: "command whose response the observer missed", published: 2, delivered: 1, lost: 1, commands: 1, do: func(l *ledger) {
			l.Calling("demo", "navigation")(nil)
		}},
		{name: "command without an answer", published: 1, lost: 1, failed: 1, do: func(l *ledger) {
			l.Calling("demo", "navigation")(errors.New("no answer"))
		}},
		{name: "command that never returned", published: 1, lost: 1, do: func(l *ledger) { l.Calling("demo", "navigation") }},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := newLedger()
			test.do(l)
			during := l.Account()
			if during.lost != 0 && during.failed == 0 || during.published != during.delivered+during.lost+during.onTheWay {
				t.Errorf("%s: while things are in flight: %+v", test.name, during)
			}
			l.Close()
			a := l.Account()
			if a.published != test.published || a.delivered != test.delivered || a.lost != test.lost || a.twice != test.twice ||
				a.refused != test.refused || a.ok != test.commands || a.failed != test.failed || a.onTheWay != 0 {
				t.Errorf("%s: %+v", test.name, a)
			}
		})
	}
}

func TestLedgerWaitsASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		l.Sending("a", "1")
		l.Counting("s", "b")
		time.Sleep(onTheWay)
		if a := l.Account(); a.lost != 0 || a.onTheWay != 2 {
			t.Errorf("within a second: %+v", a)
		}
		time.Sleep(time.Millisecond)
		if a := l.Account(); a.lost != 2 || a.onTheWay != 0 {
			t.Errorf("after a second: %+v", a)
		}
		l.Arrived("s", "a", "1", time.Now())
		if a := l.Account(); a.lost != 1 || a.delivered != 1 || a.latency.Max != onTheWay+time.Millisecond {
			t.Errorf("one arrived late: %+v", a)
		}
	})
}

func TestLedgerIsBounded(t *testing.T) {
	l := newLedger()
	for i := range maxPending + 10 {
		l.Sending("a", fmt.Sprint(i))
	}
	if len(l.pending) != maxPending {
		t.Errorf("%d messages are waited for", len(l.pending))
	}
	l.Close()
	if a := l.Account(); a.published != maxPending+10 || a.lost != maxPending+10 {
		t.Errorf("%+v", a)
	}
	for i := range 3 * recentIDs {
		l.Arrived("s", "a", fmt.Sprint(i), time.Now())
	}
	if n := len(l.recent[0]) + len(l.recent[1]); n > 2*recentIDs {
		t.Errorf("%d ids are remembered", n)
	}
}

func TestRate(t *testing.T) {
	var r rate
	now := time.Now()
	if got := r.perSecond(now); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
	for range 500 { // ten seconds at 50 a second
		now = now.Add(20 * time.Millisecond)
		r.add(now)
	}
	if got := r.perSecond(now); got < 47 || got > 52 {
		t.Errorf("50 a second are counted as %v", got)
	}
	if got := r.perSecond(now.Add(time.Second)); got < 23 || got > 27 {
		t.Errorf("after a second of silence: %v", got)
	}
	if got := r.perSecond(now.Add(time.Hour)); got != 0 {
		t.Errorf("after an hour of silence: %v", got)
	}
	if got := r.perSecond(now); got != 0 {
		t.Errorf("a time that comes late: %v", got)
	}
}
