package identity

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var (
	home   = netip.MustParseAddr("192.0.2.1")
	office = netip.MustParseAddr("192.0.2.2")
)

// guess fails n times, each as soon as it may.
func guess(t *Throttle, n int, user string, from netip.Addr) {
	for range n {
		time.Sleep(t.Locked(user, from))
		t.Failed(user, from)
	}
}

// Five failures are free, then the delay doubles up to five minutes; half an hour forgives.
func TestThrottleDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var th Throttle
		for i := range 4 {
			if d := th.Failed("admin", home); d != 0 {
				t.Fatalf("failure %d locks for %v", i+1, d)
			}
		}
		for _, seconds := range []int{1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300} {
			want := time.Duration(seconds) * time.Second
			if d := th.Failed("admin", home); d != want {
				t.Fatalf("locked for %v, want %v", d, want)
			}
			time.Sleep(want - time.Millisecond)
			if th.Locked("admin", home) != time.Millisecond {
				t.Fatal("it is not locked to the end")
			}
			time.Sleep(time.Millisecond)
			if d := th.Locked("admin", home); d != 0 {
				t.Fatalf("locked for %v more", d)
			}
		}
		time.Sleep(memory + time.Second)
		if d := th.Failed("admin", home); d != 0 {
			t.Errorf("after half an hour a failure locks for %v", d)
		}
	})
}

// Who guesses at many names is locked by address, who guesses from many addresses by name.
func TestThrottleScopes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var th Throttle
		for i := range 5 {
			th.Failed(fmt.Sprint("name", i), home)
		}
		if th.Locked("another", home) == 0 || th.Locked("another", office) != 0 {
			t.Error("an address that fails at many names is not locked, or another one is")
		}
		for i := range 5 {
			th.Failed("admin", netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}))
		}
		if th.Locked("admin", office) == 0 || th.Locked("mower", office) != 0 {
			t.Error("a name that is guessed at from many addresses is not locked, or another one is")
		}
		for i := range 5 {
			th.Failed(fmt.Sprint("six", i), netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", i+1)))
		}
		if th.Locked("y", netip.MustParseAddr("2001:db8::ffff")) == 0 || th.Locked("y", netip.MustParseAddr("2001:db8:0:1::1")) != 0 {
			t.Error("the addresses of a /64 are not counted as one, or others are")
		}
		if th.Locked("y", netip.MustParseAddr("::ffff:192.0.2.1")) == 0 {
			t.Error("an address is another one when it is mapped to IPv6")
		}
	})
}

// Where a user has logged in before, what others do does not matter; guesses at that very pair are bounded all the same. Seen
// failing with a lock of the name that holds everywhere.
func TestThrottleLetsKnownOnesIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var th Throttle
		th.Succeeded("mower", home)
		guess(&th, 20, "mower", office)
		if th.Locked("mower", home) != 0 || th.Locked("mower", office) == 0 {
			t.Error("a user is locked out of where it has logged in before by guesses from elsewhere, or they are not locked")
		}
		guess(&th, 20, "another", home)
		if th.Locked("mower", home) != 0 || th.Locked("third", home) == 0 {
			t.Error("a user is locked out of where it has logged in before by guesses at others, or they are not locked")
		}
		guess(&th, 5, "mower", home)
		th.Succeeded("mower", home)
		if th.Locked("mower", home) == 0 {
			t.Error("guesses at a known pair are not bounded")
		}
		th.Unlock("mower", false)
		if th.Locked("mower", home) != 0 {
			t.Error("a new password does not unlock")
		}
		guess(&th, 20, "mower", office)
		if th.Locked("mower", home) != 0 {
			t.Error("a new password has made the user forget its address")
		}
		th.Unlock("mower", true)
		guess(&th, 6, "mower", office)
		if th.Locked("mower", home) == 0 {
			t.Error("a removed user is still let in")
		}
	})
}

func TestThrottleIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var th Throttle
		guess(&th, 12, "admin", home)
		for i := range maxRecords + 300 {
			time.Sleep(time.Millisecond)
			user, from := fmt.Sprint("user", i), netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
			th.Failed(user, from)
			th.Succeeded(user, from)
		}
		if len(th.addresses) != maxRecords || len(th.users) != maxRecords || len(th.pairs) != maxRecords {
			t.Errorf("%d addresses, %d users, %d pairs", len(th.addresses), len(th.users), len(th.pairs))
		}
		if th.Locked("admin", office) == 0 {
			t.Error("many have made it forget who has failed most")
		}
	})
}

// Refusals are given at a bounded rate, and each within patience.
func TestPacer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pacer
		var all sync.WaitGroup
		began := time.Now()
		for range 200 {
			all.Go(func() { p.wait(context.Background()) })
		}
		all.Wait()
		if took := time.Since(began); took != 3*interval {
			t.Errorf("200 took %v", took)
		}
		began = time.Now()
		for range 1000 {
			all.Go(func() { p.wait(context.Background()) })
		}
		all.Wait()
		if took := time.Since(began); took != patience {
			t.Errorf("1000 took %v", took)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		began = time.Now()
		p.wait(ctx)
		if took := time.Since(began); took > 0 {
			t.Errorf("cancelled, it took %v", took)
		}
	})
}

// Of all that wait for a hash half may be of one address.
func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		if err := g.enter(context.Background(), network(home)); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		late := make(chan error, maxWaiting)
		wait := func(from netip.Addr) {
			all.Go(func() { late <- g.enter(context.Background(), network(from)) })
			synctest.Wait()
		}
		for range maxWaiting / 2 {
			wait(home)
		}
		began := time.Now()
		if err := g.enter(context.Background(), network(home)); err != ErrBusy {
			t.Errorf("one more of an address: %v", err)
		}
		for range maxWaiting / 2 {
			wait(office)
		}
		if err := g.enter(context.Background(), network(netip.Addr{})); err != ErrBusy || time.Since(began) > 0 {
			t.Errorf("one more: %v", err)
		}
		g.leave(time.Second) // one gets in after the rest, and stays
		all.Wait()
		if took := time.Since(began); took != patience {
			t.Errorf("they waited %v", took)
		}
		in := 0
		for range maxWaiting {
			if <-late == nil {
				in++
			}
		}
		if in != 1 || g.waiting != 0 || len(g.from) != 0 {
			t.Errorf("%d in, %d and %v wait", in, g.waiting, g.from)
		}
	})
}
