package broker

import (
	"log/slog"
	"math/rand/v2"
	"testing"
)

func TestRingKeepsOrder(t *testing.T) {
	var r ring
	var in, out uint64
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 100_000 {
		if rnd.IntN(5) < 3 && r.count < 5000 || r.count == 0 {
			r.push(item{order: in})
			in++
		} else {
			if f := r.front().order; f != out {
				t.Fatalf("front %d, want %d", f, out)
			}
			if it := r.pop(); it.order != out {
				t.Fatalf("got %d, want %d", it.order, out)
			}
			out++
		}
		if r.count != int(in-out) {
			t.Fatalf("count %d, want %d", r.count, in-out)
		}
	}
}

func TestLaneReadsInOrderOfArrival(t *testing.T) {
	var l lane
	l.qos0.push(item{order: 1})
	l.reliable.push(item{order: 2, qos: 1})
	l.qos0.push(item{order: 3})
	for _, want := range []uint64{1, 2, 3} {
		if got := l.next(true).pop().order; got != want {
			t.Fatalf("got %d, want %d", got, want)
		}
	}
	l.reliable.push(item{order: 4, qos: 1})
	l.qos0.push(item{order: 5})
	if got := l.next(false).pop().order; got != 5 {
		t.Fatalf("with a closed window got %d, want the QoS 0 message", got)
	}
	if l.next(false) != nil {
		t.Fatal("a QoS 1 message was offered with a closed window")
	}
}

func TestWindowNeverGivesAnIdentifierInUse(t *testing.T) {
	var w window
	rnd := rand.New(rand.NewPCG(2, 2))
	used := map[uint16]bool{}
	var ids []uint16
	for range 300_000 {
		if len(ids) < maxInflight && (len(ids) == 0 || rnd.IntN(2) == 0) {
			f := w.add(item{})
			if f.id == 0 || used[f.id] {
				t.Fatalf("identifier %d given while in use", f.id)
			}
			used[f.id] = true
			ids = append(ids, f.id)
			continue
		}
		i := rnd.IntN(len(ids))
		id := ids[i]
		ids[i] = ids[len(ids)-1]
		ids = ids[:len(ids)-1]
		delete(used, id)
		f := w.get(id)
		if f == nil {
			t.Fatalf("identifier %d lost", id)
		}
		w.remove(f)
		if w.get(id) != nil || w.count != len(ids) {
			t.Fatalf("identifier %d still there, or count %d instead of %d", id, w.count, len(ids))
		}
	}
	if len(w.slots) > 4*maxInflight {
		t.Fatalf("table grew to %d slots for %d messages", len(w.slots), maxInflight)
	}
}

func TestUrgentMessagesFindRoomInAFullQueue(t *testing.T) {
	s := newTestSession("s")
	s.broker = &Broker{log: slog.New(slog.DiscardHandler)}
	s.broker.SetLimits(0, 10, 1<<20)
	d := &delivery{session: s, qos: 2}
	ordinary, urgent := &message{topic: "a", qos: 1, expires: never}, &message{topic: "safety/x", qos: 2, urgent: true, expires: never}
	for range 10 {
		if v := s.enqueue(ordinary, d, &txn{}, false, false); v != accepted {
			t.Fatalf("below the bound: %v", v)
		}
	}
	if v := s.enqueue(ordinary, d, &txn{}, false, false); v != refused {
		t.Fatalf("beyond the bound: %v", v)
	}
	for i := range urgentRoom {
		if v := s.enqueue(urgent, d, &txn{}, false, false); v != accepted {
			t.Fatalf("urgent message %d in a full queue: %v", i, v)
		}
	}
	if v := s.enqueue(urgent, d, &txn{}, false, false); v != refused {
		t.Fatalf("an endless stream of urgent messages is bounded too: %v", v)
	}
	if s.dropped != 2 || s.queued != 10+urgentRoom {
		t.Fatalf("dropped %d, queued %d", s.dropped, s.queued)
	}
}
