package identity

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

// Bounds of the logins that wait.
const (
	maxWaiting = 64              // for a hash
	patience   = 3 * time.Second // for a hash, or until a refusal is given
	inAll      = 4 * time.Second // for both; a broker gives a login five
	batch      = 75              // refusals that are given at once: one awakening for many
	interval   = time.Second     // from one batch to the next
)

// A gate lets one hash be computed at a time.
type gate struct {
	slot chan struct{} // of size 1: who has put something in may hash

	mu      sync.Mutex // guards everything below
	waiting int
	from    map[netip.Prefix]int
}

func newGate() *gate {
	return &gate{slot: make(chan struct{}, 1), from: make(map[netip.Prefix]int)}
}

// enter waits for the turn. It fails with ErrBusy when too many wait, half of those that may when they are of one address, and when
// it takes too long. Who has entered has to leave.
func (g *gate) enter(ctx context.Context, at netip.Prefix) error {
	g.mu.Lock()
	if g.waiting >= maxWaiting || g.from[at] >= maxWaiting/2 {
		g.mu.Unlock()
		return ErrBusy
	}
	g.waiting++
	g.from[at]++
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.waiting--
		if g.from[at]--; g.from[at] == 0 {
			delete(g.from, at)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case g.slot <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ErrBusy
	}
}

// leave lets the next one in, after a rest.
func (g *gate) leave(rest time.Duration) {
	if rest > 0 {
		time.AfterFunc(rest, func() { <-g.slot })
		return
	}
	<-g.slot
}

// A pacer spreads refusals over time, so that guessing in vain costs little, however many connections do it. Each waits for its batch,
// but not longer than patience: then a broker's bound of connections is what limits them.
type pacer struct {
	mu   sync.Mutex // guards everything below
	next time.Time  // the time of the batch that is being filled
	in   int        // how many are in it
}

// wait returns when it is the caller's turn, or ctx is done.
func (p *pacer) wait(ctx context.Context) {
	p.mu.Lock()
	now := time.Now()
	if !p.next.After(now) {
		p.next, p.in = now.Add(interval), 0
	}
	if p.in == batch && p.next.Add(interval).Sub(now) <= patience {
		p.next, p.in = p.next.Add(interval), 0
	}
	p.in = min(p.in+1, batch)
	turn := p.next
	p.mu.Unlock()
	t := time.NewTimer(turn.Sub(now))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
