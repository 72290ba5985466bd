package client

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/faultnet"
)

// A client marked for safety stays on a link that is slow, though it expects a sign of life within 500 ms: what it publishes below safety/ arrives,
// in order and once, and so does what it subscribes. It may be put out once or twice, until it knows its link.
//
// Seen failing when the time for an answer did not grow with the round trip, and when a link that was given up while we were sent much had only
// twice the time afterwards.
func TestSafetyOnSlowLink(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]faultnet.Faults{
		"500 ms": {Delay: 500 * time.Millisecond},
		"10 KB":  {Rate: 10_000},
	} {
		for _, when := range []string{"before", "meanwhile"} { // when the link becomes slow
			t.Run(name+"/"+when, func(t *testing.T) {
				t.Parallel()
				b := startBroker(t)
				p, url := startProxy(t, b)
				slow := func() {
					p.Set(faultnet.Up, f)
					p.Set(faultnet.Down, f)
				}
				if when == "before" {
					slow()
				}
				c := connect(t, Options{URL: url, ID: "guard", Safety: true})
				peer := connect(t, Options{URL: b.URL(), ID: "peer"})
				hazards, orders := newCollector(), newCollector()
				subscribe(t, peer, "safety/#", hazards.handle)
				subscribe(t, c, "x", orders.handle)
				slow()
				var want []string
				const n = 30
				for i := range n { // 4 KB/s in each direction at most
					text := fmt.Sprintf("%d %s", i, strings.Repeat("x", 300))
					want = append(want, text)
					c.PublishAsync("safety/hazards", raw(text), WithQoS(2))
					peer.PublishAsync("x", raw(text), WithQoS(2))
					time.Sleep(100 * time.Millisecond) // the pace of the load
					if i == n/2 {                      // a burst, and then nothing, for the probes to be alone with it
						for j := range 30 {
							text := fmt.Sprintf("burst %d %s", j, strings.Repeat("x", 500))
							want = append(want, text)
							c.PublishAsync("safety/hazards", raw(text), WithQoS(2))
							peer.PublishAsync("x", raw(text), WithQoS(2))
						}
						time.Sleep(3 * time.Second)
					}
				}
				for who, k := range map[string]*collector{"the peer": hazards, "the client": orders} {
					if got := k.wait(t, len(want)); !slices.Equal(got, want) {
						t.Errorf("%s got %d messages, want %d, or in another order", who, len(got), len(want))
					}
				}
				s := c.Stats()
				t.Logf("%d reconnects", s.Reconnects)
				if s.Reconnects > 2 || s.Dropped > 0 {
					t.Errorf("put out %d times, %d messages dropped", s.Reconnects, s.Dropped)
				}
			})
		}
	}
}
