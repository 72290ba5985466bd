package chaos

import (
	"sync"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// TestPeer shows that the peer counts right while nothing goes wrong but connections, and prints how fast it is.
func TestPeer(t *testing.T) {
	s := newServer(t)
	s.start()
	ctx := within(t, time.Minute)
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		for qos := byte(0); qos <= 2; qos++ {
			n := 50_000
			if raced() {
				n = 5_000
			}
			topics := []string{"a/1", "a/2", "a/3"}
			sub := newPeer(peerOptions{ID: "sub", Version: v, Expiry: 60, Clean: true})
			pub := newPeer(peerOptions{ID: "pub", Version: v, Expiry: 60, Clean: true})
			must(t, sub.connect(ctx, s.Addr), sub.subscribe(ctx, qos, "a/#"))
			stop := pub.keep(s.Addr)
			began := time.Now()
			var cutting sync.WaitGroup
			if qos > 0 {
				cutting.Go(func() {
					for i := range 5 {
						_ = pub.until(ctx, func() bool { return pub.sendings >= uint64(n*(i+1)/6) })
						pub.cut()
					}
				})
			}
			pub.flood(ctx, load{Topics: topics, QoS: qos, Count: n})
			cutting.Wait()
			must(t, pub.drain(ctx))
			must(t, sub.until(ctx, func() bool { return sub.counts.Received >= n }))
			took := time.Since(began)
			must(t, sub.ping(ctx))
			stop()
			b := compare([]*peer{pub}, []*peer{sub}, nil)
			t.Logf("%v, QoS %d: %v; %d connections, %d sent again; %.0f messages/s", v, qos, b, pub.numbers().Connects, pub.numbers().Resent, float64(n)/took.Seconds())
			if b.Lost > 0 || b.Delivered != n || b.Misordered > 0 || b.Invented > 0 || qos != 1 && b.Duplicates > 0 {
				t.Errorf("%v, QoS %d: wrong", v, qos)
			}
			if c := pub.numbers(); qos > 0 && (c.Connects != 6 || c.Acknowledged != n) {
				t.Errorf("%v, QoS %d: %+v", v, qos, c)
			}
			pub.check(t)
			sub.check(t)
			pub.disconnect(0)
			sub.disconnect(0)
		}
	}
	if code, took := s.stop(); code != 0 || took > 5*time.Second {
		t.Errorf("exit code %d after %v", code, took)
	}
}
