package chaos

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// TestStop stops the broker with SIGTERM under load, with clients that work, that are idle, that do not read and that have
// not said CONNECT yet: every MQTT 5 client that reads is told 0x8B, the process ends with 0 in less than 5 s, and on the same
// directory everything goes on where it was, as if nothing had happened. Every third time a second SIGTERM follows at
// once, which ends the process without a goodbye; that loses nothing either.
//
// Seen failing with a broker that closes connections without DISCONNECT, and with one that does not write its last group of changes
// but acknowledges it.
func TestStop(t *testing.T) {
	stops := pick(4, 60)
	random := seeded(t)
	ctx := within(t, 10*time.Minute)
	s := newServer(t)
	s.start()
	session := func(id string, v packet.Version) *peer {
		return newPeer(peerOptions{ID: id, Version: v, Expiry: stored, Clean: true})
	}
	online1, online2, offline := session("online-qos1", packet.V311), session("online-qos2", packet.V5), session("offline", packet.V5)
	must(t, online1.connect(ctx, s.Addr), online1.subscribe(ctx, 1, "load/#"))
	must(t, online2.connect(ctx, s.Addr), online2.subscribe(ctx, 2, "load/#"))
	must(t, offline.connect(ctx, s.Addr), offline.subscribe(ctx, 2, "load/#"))
	offline.disconnect(0)
	online1.cut()
	online2.cut()
	wills := session("wills", packet.V5)
	must(t, wills.connect(ctx, s.Addr), wills.subscribe(ctx, 2, "will/#"))
	wills.cut()
	var publishers []*peer
	for i, v := range []packet.Version{packet.V311, packet.V5, packet.V5, packet.V5} {
		publishers = append(publishers, session(fmt.Sprint("publisher-", i), v))
	}
	var idle []*peer
	for i := range 20 {
		idle = append(idle, newPeer(peerOptions{ID: fmt.Sprint("idle-", i), Version: []packet.Version{packet.V5, packet.V311}[i%2]}))
	}
	working := slices.Concat(publishers, idle, []*peer{online1, online2, wills})

	var slowest, restart time.Duration
	told, twice := 0, 0
	for round := range stops {
		for _, p := range working {
			must(t, p.connect(ctx, s.Addr))
		}
		if round%4 == 3 { // before its queue is full
			must(t, offline.connect(ctx, s.Addr))
			settled(t, publishers, []*peer{offline}, nil)
			offline.disconnect(0)
		}
		// Its Will is due while the broker is away, or after it is back.
		will := &packet.Will{Topic: []byte(fmt.Sprint("will/", round)), Payload: []byte("gone"), QoS: 2}
		will.Properties.WillDelay = packet.Some(uint32(1))
		dying := newPeer(peerOptions{ID: fmt.Sprint("dying-", round), Expiry: stored, Will: will})
		must(t, dying.connect(ctx, s.Addr))
		dying.cut()
		deaf := newDeaf(t, s.Addr, "load/#")
		silent, err := net.Dial("tcp", s.Addr) // never sends CONNECT
		must(t, err)

		flood, cancel := context.WithCancel(ctx)
		var flooding sync.WaitGroup
		for i, p := range publishers {
			before := p.numbers().Acknowledged
			flooding.Go(func() {
				p.flood(flood, load{QoS: byte(1 + i/2), Topics: []string{fmt.Sprintf("load/%d/%d/0", 1+i/2, i), fmt.Sprintf("load/%d/%d/1", 1+i/2, i)}})
			})
			must(t, p.until(ctx, func() bool { return p.counts.Acknowledged > before+20 }))
		}
		select {
		case <-time.After(time.Duration(random.IntN(100)) * time.Millisecond):
		case <-ctx.Done():
		}
		abrupt := round%3 == 2
		if abrupt {
			twice++
			_ = s.cmd.Process.Signal(syscall.SIGTERM)
			select {
			case <-time.After(time.Duration(random.IntN(20)) * time.Millisecond):
			case <-ctx.Done():
			}
		}
		code, took := s.stop()
		cancel()
		flooding.Wait()
		if code != 0 && !(abrupt && code == 130) || took > 5*time.Second {
			t.Errorf("SIGTERM: exit code %d after %v\n%s", code, took, s.log)
		}
		if !abrupt {
			slowest = max(slowest, took)
		}
		for _, p := range working {
			<-p.last.ended
			switch {
			case p.o.Version != packet.V5 || abrupt:
			case !p.last.told || p.last.code != packet.ServerShuttingDown:
				t.Errorf("%s: the connection ended with %v, not with DISCONNECT 0x8B", p.o.ID, p.last.err)
			default:
				told++
			}
		}
		deaf.Close()
		silent.Close()
		restart = max(restart, s.start())
	}
	for _, p := range slices.Concat(publishers, []*peer{online1, online2, offline, wills}) {
		must(t, p.connect(ctx, s.Addr))
		if !p.present().connack.SessionPresent {
			t.Errorf("%s: no session after the restart", p.o.ID)
		}
	}
	for _, p := range publishers {
		must(t, p.drain(ctx))
	}
	must(t, wills.until(ctx, func() bool { return wills.counts.Received >= stops }))
	if n := wills.numbers().Received; n != stops {
		t.Errorf("%d delayed Wills came, of %d", n, stops)
	}
	t.Logf("%d stops, %d of them with a second SIGTERM: 0x8B to %d connections, slowest stop %v, slowest restart %v; %d delayed Wills",
		stops, twice, told, slowest.Round(time.Millisecond), restart.Round(time.Millisecond), stops)
	for _, sub := range []*peer{online1, online2, offline} {
		settled(t, publishers, []*peer{sub}, nil)
		b := compare(publishers, []*peer{sub}, nil)
		twos := compare(publishers, []*peer{sub}, func(topic string) bool { return strings.HasPrefix(topic, "load/2/") })
		t.Logf("%-12s %v; of these at QoS 2: %d duplicates", sub.o.ID, b, twos.Duplicates)
		tally(t, "SIGTERM,_to_"+sub.o.ID, stops, b)
		if b.Lost+b.Misordered+b.Invented+b.Refused > 0 || sub != online1 && twos.Duplicates > 0 {
			t.Errorf("%s: wrong", sub.o.ID)
		}
	}
	for _, p := range slices.Concat(publishers, []*peer{online1, online2, offline, wills}) {
		p.check(t)
		p.cut()
	}
	if code, took := s.stop(); code != 0 || took > 5*time.Second {
		t.Errorf("exit code %d after %v", code, took)
	}
}

// newDeaf returns a connection that subscribes to filter and then does not read.
func newDeaf(t testing.TB, addr, filter string) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	must(t, err)
	_ = nc.(*net.TCPConn).SetReadBuffer(4096)
	b, err := (&packet.Connect{ClientID: []byte("deaf"), CleanStart: true}).Append(nil, packet.V5)
	must(t, err)
	b, err = (&packet.Subscribe{ID: 1, Subscriptions: []packet.Subscription{{Filter: []byte(filter), QoS: 1}}}).Append(b, packet.V5)
	must(t, err)
	_, err = nc.Write(b)
	must(t, err)
	return nc
}

// TestSecondBroker starts a second broker on a directory in use: it is refused with the process id of the first, which goes on.
func TestSecondBroker(t *testing.T) {
	first := newServer(t)
	store := "LAWNBERRY_BROKER_PERSISTENCE_LOCATION=" + filepath.Join(t.TempDir(), "elsewhere")
	for _, c := range []struct {
		name   string
		env    []string
		second *server
	}{
		{"data directory", nil, &server{t: t, Dir: first.Dir, Addr: freeAddress(t)}},
		{"store", []string{store}, newServer(t)}, // of its own data directory, but with the same store
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := within(t, time.Minute)
			first.t, c.second.t = t, t
			first.Env, c.second.Env = c.env, c.env
			first.start()
			p := newPeer(peerOptions{ID: "client", Expiry: stored, Clean: true})
			must(t, p.connect(ctx, first.Addr), p.subscribe(ctx, 1, "a"))
			c.second.spawn()
			<-c.second.ended
			log := c.second.log.String()
			if code := c.second.cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(log, " in use by process "+strconv.Itoa(first.pid())+" (") {
				t.Errorf("the second broker ended with %d, and said:\n%s", code, log)
			}
			t.Logf("%s", strings.TrimSpace(log))
			c.second.ended = nil
			p.flood(ctx, load{QoS: 1, Topics: []string{"a"}, Count: 100})
			must(t, p.drain(ctx), p.until(ctx, func() bool { return p.counts.Received == 100 }))
			p.cut()
			first.kill() // a killed broker keeps nobody out
			c.second.start()
			if c.name == "store" {
				must(t, p.connect(ctx, c.second.Addr))
				if !p.present().connack.SessionPresent {
					t.Error("no session with the next broker on the same store")
				}
				p.cut()
			}
			if code, _ := c.second.stop(); code != 0 {
				t.Errorf("exit code %d", code)
			}
		})
	}
}
