package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/topic"
)

// forgetHighest has the process's highest memory begin anew, at its present one.
func (s *server) forgetHighest() {
	s.t.Helper()
	must(s.t, os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", s.pid()), []byte("5"), 0))
}

func inMB(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/(1<<20)) }

// TestHalfOpen has a thousand clients connect, send five bytes of a CONNECT and stop; one goes on, too slowly. While they wait, others are served. They
// cost less than 20 MB together, and are closed after 5 s. Before that it takes the memory of the idle broker: below 30 MB.
//
// Seen failing with a broker that fills 32 KiB for each connection from the beginning, and with one whose clients have time as long
// as they send something.
func TestHalfOpen(t *testing.T) {
	t.Parallel()
	const clients = 1000
	ctx := within(t, 2*time.Minute)
	s := newServer(t)
	s.Plain = true // it is about memory
	s.start()
	idle, highest := s.rss()
	for began := time.Now(); idle > 30<<20 && time.Since(began) < 30*time.Second; idle, highest = s.rss() { // what the start took is given back
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("idle: %s resident, at most %s", inMB(idle), inMB(highest))
	if idle > 30<<20 {
		t.Errorf("idle: %s resident", inMB(idle))
	}

	whole, err := (&packet.Connect{ClientID: []byte("half-open"), CleanStart: true}).Append(nil, packet.V5)
	must(t, err)
	large, err := (&packet.Connect{ClientID: bytes.Repeat([]byte("x"), 4000), CleanStart: true}).Append(nil, packet.V5)
	must(t, err)
	p := newPeer(peerOptions{ID: "other"})
	// What of the program was let go of after the start comes back with the first that use it, whom it is not the cost of.
	must(t, p.connect(ctx, s.Addr), p.subscribe(ctx, 1, "a"))
	p.flood(ctx, load{QoS: 1, Count: 100, Topics: []string{"a"}})
	must(t, p.drain(ctx), p.until(ctx, func() bool { return p.counts.Received == 100 }))
	s.forgetHighest()
	before, _ := s.rss()
	began := time.Now()
	var waiting sync.WaitGroup
	var mu sync.Mutex // guards the figures
	var quickest, slowest time.Duration
	var odd []error
	for i := range clients {
		start := time.Now() // the broker counts from the moment that it has the connection, which may be before we know of it
		nc, err := net.Dial("tcp", s.Addr)
		must(t, err)
		_, err = nc.Write([][]byte{whole, large}[i%2][:5])
		must(t, err)
		waiting.Go(func() {
			defer nc.Close()
			_ = nc.SetReadDeadline(start.Add(time.Minute))
			if i == 1 { // one goes on sending, a byte at a time
				waiting.Go(func() {
					tick := time.NewTicker(300 * time.Millisecond)
					defer tick.Stop()
					for _, b := range large[5:] {
						<-tick.C
						if _, err := nc.Write([]byte{b}); err != nil {
							return
						}
					}
				})
			}
			n, err := nc.Read(make([]byte, 1))
			mu.Lock()
			defer mu.Unlock()
			after := time.Since(start)
			if quickest == 0 || after < quickest {
				quickest = after
			}
			slowest = max(slowest, after)
			if n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
				odd = append(odd, fmt.Errorf("%d bytes, %w", n, err))
			}
		})
	}
	opened := time.Since(began)
	p.flood(ctx, load{QoS: 1, Count: 100, Topics: []string{"a"}})
	must(t, p.drain(ctx), p.until(ctx, func() bool { return p.counts.Received == 200 }))
	during, _ := s.rss()
	waiting.Wait()
	after, highest := s.rss()
	t.Logf("%d connections of 5 bytes, opened within %v: %s before, %s during, at most %s, %s after; closed after %v to %v",
		clients, opened.Round(time.Millisecond), inMB(before), inMB(during), inMB(highest), inMB(after), quickest.Round(10*time.Millisecond), slowest.Round(10*time.Millisecond))
	if cost := highest - before; cost > 20<<20 {
		t.Errorf("they cost %s", inMB(cost))
	}
	if len(odd) > 0 || quickest < 4900*time.Millisecond || slowest > pick(15*time.Second, 6*time.Second) {
		t.Errorf("closed after %v to %v, want 5 s; %v", quickest, slowest, odd)
	}
	eventually(t, 5*time.Second, fmt.Sprintf("%d connections refused in the log", clients), func() bool { return len(s.said("connection refused", "")) == clients })
	p.check(t)
	p.cut()
}

// TestPacketSize sends packets of just the size that is allowed, and of one byte more: 4 KiB until the client is let in, then
// 256 KiB or what the configuration file says. Too large a packet is refused as soon as its length is there, with 0x95 for MQTT 5.
//
// Seen failing with 8 KiB for CONNECT, and with one byte more than told for what follows.
func TestPacketSize(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		config string
		most   int
	}{{"max_packet_size: 400000", 400_000}, {"", 256 << 10}} {
		s := newServer(t)
		file := filepath.Join(t.TempDir(), "mower.yaml")
		must(t, os.WriteFile(file, []byte("broker:\n  "+c.config+"\n"), 0o600))
		s.Env = []string{"LAWNBERRY_CONFIG=" + file}
		s.start()
		for _, v := range []packet.Version{packet.V311, packet.V5} {
			for _, over := range []int{0, 1} {
				testPacketSize(t, s, v, c.most, over)
			}
		}
		if code, _ := s.stop(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
}

func testPacketSize(t *testing.T, s *server, v packet.Version, most, over int) {
	t.Helper()
	dial := func() (net.Conn, *packet.Reader) {
		nc, err := net.Dial("tcp", s.Addr)
		must(t, err)
		t.Cleanup(func() { nc.Close() })
		_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
		return nc, packet.NewReader(nc, 0)
	}
	// exactly returns a packet of that size, made by build from the number of bytes that it leaves free.
	exactly := func(size int, build func(n int) packet.Packet) []byte {
		n := size - 40
		for {
			b, err := build(n).Append(nil, v)
			must(t, err)
			if len(b) == size {
				return b
			}
			n += size - len(b)
		}
	}
	connect := func(n int) packet.Packet {
		id := fmt.Sprint("size-", v, over)
		return &packet.Connect{ClientID: []byte(id + strings.Repeat("x", n-len(id))), CleanStart: true}
	}
	nc, r := dial()
	_, err := nc.Write(exactly(4096+over, connect))
	must(t, err)
	first, body, err := r.Next()
	switch kind := packet.Type(first >> 4); {
	case over == 0 && (err != nil || kind != packet.CONNACK || body[1] != 0):
		t.Errorf("%v: a CONNECT of 4096 bytes: first byte %x, %v, %v", v, first, body, err)
	case over > 0 && v == packet.V311 && err == nil:
		t.Errorf("%v: a CONNECT of 4097 bytes is answered with %x", v, first)
	case over > 0 && v == packet.V5 && (err != nil || kind != packet.CONNACK || packet.Code(body[1]) != packet.PacketTooLarge):
		t.Errorf("%v: a CONNECT of 4097 bytes: first byte %x, %v, %v", v, first, body, err)
	}
	if over > 0 {
		nc, r = dial()
		b, err := connect(100).(*packet.Connect).Append(nil, v)
		must(t, err)
		_, err = nc.Write(b)
		must(t, err)
		_, _, err = r.Next()
		must(t, err)
	}
	publish := exactly(most+over, func(n int) packet.Packet {
		return &packet.Publish{Topic: []byte("a"), QoS: 1, ID: 1, Payload: make([]byte, n)}
	})
	if over > 0 {
		publish = publish[:5] // its length is enough
	}
	_, err = nc.Write(publish)
	must(t, err)
	first, body, err = r.Next()
	switch kind := packet.Type(first >> 4); {
	case over == 0 && (err != nil || kind != packet.PUBACK):
		t.Errorf("%v: a packet of %d bytes: first byte %x, %v", v, len(publish), first, err)
	case over > 0 && v == packet.V311 && err == nil:
		t.Errorf("%v: a packet of %d bytes is answered with %x", v, most+over, first)
	case over > 0 && v == packet.V5 && (err != nil || kind != packet.DISCONNECT || packet.Code(body[0]) != packet.PacketTooLarge):
		t.Errorf("%v: a packet of %d bytes: first byte %x, %v, %v", v, most+over, first, body, err)
	}
	if over > 0 && v == packet.V5 {
		if _, err := io.Copy(io.Discard, nc); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v: the connection stays after a packet of %d bytes", v, most+over)
		}
	}
	outcome := []string{"taken", "refused"}[over]
	if !t.Failed() {
		t.Logf("%v: CONNECT of %d bytes %s, then PUBLISH of %d bytes %s", v, 4096+over, outcome, most+over, outcome)
	}
}

// TestFlood has 20 services that publish on every topic that is defined, at ten times its rate, while they hear what services
// hear and somebody hears everything: the broker stays below 100 MB. Then they publish as fast as they can, and then also for a
// session that is away, which is told and not asserted: what its queue may hold is for the configuration to say.
//
// Seen failing with a broker that keeps 32 KiB for each message.
func TestFlood(t *testing.T) {
	t.Parallel()
	const clients, times, size = 20, 10, 400
	const unlimited = 60 // a minute, for topics without a rate
	lasts := pick(1500*time.Millisecond, 30*time.Second)
	ctx := within(t, 4*time.Minute)
	s := newServer(t)
	s.Plain = true // it is about memory
	s.start()
	registry, err := topic.New("")
	must(t, err)

	all := newPeer(peerOptions{ID: "all"})
	must(t, all.connect(ctx, s.Addr), all.subscribe(ctx, 1, "lawnberry/#"))
	types := []string{"sensors", "navigation", "safety", "power", "vision", "weather", "system"}
	var services []*peer
	for i := range clients {
		services = append(services, newPeer(peerOptions{ID: fmt.Sprint("service-", i), Size: size}))
	}
	connect := func() {
		for i, p := range services {
			if p.present() == nil {
				must(t, p.connect(ctx, s.Addr))
				for _, f := range registry.ForService(p.o.ID, types[i%len(types)]) {
					must(t, p.subscribe(ctx, 1, "lawnberry/"+f))
				}
			}
		}
	}
	// during runs load, and reports what it published and cost.
	during := func(what string, load func(ctx context.Context, p *peer)) (highest int64) {
		connect()
		s.forgetHighest()
		before, _ := s.rss()
		sent := func() (n, refused int) {
			for _, p := range services {
				b := compare([]*peer{p}, nil, nil)
				n, refused = n+b.Published, refused+b.Refused
			}
			return n, refused
		}
		n0, refused0 := sent()
		received := all.numbers().Received
		began := time.Now()
		running, stop := context.WithTimeout(ctx, lasts)
		defer stop()
		var publishing sync.WaitGroup
		for _, p := range services {
			publishing.Go(func() { load(running, p) })
		}
		publishing.Wait()
		took := time.Since(began)
		closed := 0 // those that did not take what they heard fast enough
		for _, p := range services {
			must(t, p.until(ctx, func() bool { return p.link == nil || len(p.flights) == 0 }))
			if p.present() == nil {
				closed++
			}
		}
		now, highest := s.rss()
		n, refused := sent()
		t.Logf("%s: %d messages in %v (%.0f per second), %d refused, %d to one that hears all, %d clients closed; %s before, %s after, at most %s",
			what, n-n0, took.Round(time.Millisecond), float64(n-n0)/took.Seconds(), refused-refused0, all.numbers().Received-received, closed, inMB(before), inMB(now), inMB(highest))
		return highest
	}
	concrete := func(p *peer, d topic.Definition) string {
		return "lawnberry/" + strings.ReplaceAll(d.Pattern, "+", p.o.ID)
	}
	highest := during("ten times the rates", func(ctx context.Context, p *peer) {
		var topics sync.WaitGroup
		for d := range registry.All() {
			rate := d.Rate
			if rate == 0 {
				rate = unlimited
			}
			topics.Go(func() {
				p.flood(ctx, load{QoS: d.QoS, Retain: d.Retain, Rate: float64(times*rate) / 60, Topics: []string{concrete(p, d)}})
			})
		}
		topics.Wait()
	})
	if highest > 100<<20 {
		t.Errorf("%s under ten times the rates", inMB(highest))
	}
	full := func(ctx context.Context, p *peer) {
		for ctx.Err() == nil {
			for d := range registry.All() {
				p.flood(ctx, load{QoS: d.QoS, Retain: d.Retain, Count: 10, Topics: []string{concrete(p, d)}})
			}
		}
	}
	during("as fast as they can", full)
	away := newPeer(peerOptions{ID: "away", Expiry: stored, Clean: true})
	must(t, away.connect(ctx, s.Addr), away.subscribe(ctx, 1, "lawnberry/#"))
	away.disconnect(0)
	during("as fast as they can, with a session that is away", full)
	for _, p := range append(services, all) {
		p.check(t)
		p.cut()
	}
	away.cut()
}
