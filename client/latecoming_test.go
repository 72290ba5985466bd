package client

import (
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/faultnet"
)

// A network that held CONNECTs back delivers them all when it moves again, in any order. An attempt that the client had given up may put
// out the one that it has: that is no other client with its id, and it comes back at once.
//
// Seen failing when the client takes it for one: then it stays away for 7 s and more.
func TestAbandonedAttemptsArriveLate(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	p, url := startProxy(t, b)
	c := connect(t, Options{URL: url, ReconnectDelay: 50 * time.Millisecond, MaxReconnect: 200 * time.Millisecond})
	for range 4 {
		p.Set(faultnet.Up, faultnet.Faults{Stall: true})
		before := p.Accepted()
		p.Cut(true)
		eventually(t, "attempts", func() bool { return p.Accepted() >= before+3 })
		p.Set(faultnet.Up, faultnet.Faults{})
		healed := time.Now()
		for quiet := time.Now(); time.Since(quiet) < 300*time.Millisecond; {
			if !c.Connected() {
				quiet = time.Now()
			}
			if time.Since(healed) > 5*time.Second {
				t.Fatal("it stays away")
			}
			time.Sleep(time.Millisecond)
		}
	}
}
