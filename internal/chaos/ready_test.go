package chaos

import (
	"fmt"
	"testing"
	"time"
)

// TestReady kills a broker that holds 10,000 retained messages and 100,000 queued ones for a session, which is the bound of
// one, and takes the time from its next start to the answer to a CONNECT: below 2 s. Then it looks whether all are there.
//
// Seen failing with a start that leaves out one of a thousand records.
func TestReady(t *testing.T) {
	const retained, queued = 10_000, 100_000
	s := newServer(t)
	s.Plain = true // it is about a time
	s.start()
	ctx := within(t, 2*time.Minute)
	sub := newPeer(peerOptions{ID: "away", Expiry: stored, Clean: true})
	must(t, sub.connect(ctx, s.Addr), sub.subscribe(ctx, 1, "queued/#"))
	sub.disconnect(0)
	var topics []string
	for i := range retained {
		topics = append(topics, fmt.Sprint("retained/", i))
	}
	pub := newPeer(peerOptions{ID: "pub", Expiry: stored, Clean: true})
	must(t, pub.connect(ctx, s.Addr))
	began := time.Now()
	pub.flood(ctx, load{QoS: 1, Retain: true, Topics: topics, Count: retained})
	pub.flood(ctx, load{QoS: 1, Topics: []string{"queued/a", "queued/b", "queued/c"}, Count: queued})
	must(t, pub.drain(ctx))
	filled := time.Since(began)

	var slowest time.Duration
	restarts := pick(1, 10)
	for range restarts {
		s.kill()
		slowest = max(slowest, s.start())
	}
	now, highest := s.rss()
	t.Logf("filled in %v (%.0f messages/s); %d restarts with %d retained and %d queued messages: slowest ready after %v; then %d MB resident, at most %d MB",
		filled.Round(time.Millisecond), (retained+queued)/filled.Seconds(), restarts, retained, queued, slowest.Round(time.Millisecond), now>>20, highest>>20)
	// Other tests run beside this one, which is why it is not held to 2 s when it does not run alone.
	if limit := time.Duration(pick(8, 2)) * time.Second; slowest > limit {
		t.Errorf("ready after %v, the limit is %v", slowest, limit)
	}
	reader := newPeer(peerOptions{ID: "reader"})
	must(t, reader.connect(ctx, s.Addr), reader.subscribe(ctx, 1, "retained/#"), sub.connect(ctx, s.Addr))
	settled(t, []*peer{pub}, []*peer{reader, sub}, nil)
	b := compare([]*peer{pub}, []*peer{reader, sub}, nil)
	t.Logf("%v", b)
	if b.Acknowledged != retained+queued || b.Delivered != b.Acknowledged || b.Lost+b.Duplicates+b.Misordered+b.Invented > 0 {
		t.Error("not everything is there, once, in order")
	}
	for _, p := range []*peer{pub, sub, reader} {
		p.check(t)
		p.cut()
	}
}
