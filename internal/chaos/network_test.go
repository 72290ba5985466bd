package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/faultnet"
	"github.com/lawnberry/lawnberry/message"
)

// A networkFault is something that a network does to one client. It lasts until heal, or ends by itself.
type networkFault struct {
	name   string
	inject func(p *faultnet.Proxy, r *rand.Rand)
	silent bool          // the client has to notice by itself that the connection is dead
	lasts  time.Duration // how long, at most, unless the client notices first
	slow   bool          // less is sent, so that it has a chance to arrive
}

func both(f faultnet.Faults) func(*faultnet.Proxy, *rand.Rand) {
	return func(p *faultnet.Proxy, _ *rand.Rand) {
		p.Set(faultnet.Up, f)
		p.Set(faultnet.Down, f)
	}
}

func networkFaults() []networkFault {
	lose := faultnet.Faults{Lose: true}
	return []networkFault{
		{name: "cut", inject: func(p *faultnet.Proxy, _ *rand.Rand) { p.Cut(false) }},
		{name: "reset", inject: func(p *faultnet.Proxy, _ *rand.Rand) { p.Cut(true) }},
		{name: "cut within a packet", inject: func(p *faultnet.Proxy, r *rand.Rand) { p.CutAfter(1 + r.Int64N(5000)) }, lasts: 200 * time.Millisecond},
		{name: "cut while the session is restored", inject: cutRestoring},
		{name: "refused for a while", lasts: 300 * time.Millisecond, inject: func(p *faultnet.Proxy, _ *rand.Rand) {
			p.Refuse(true)
			p.Cut(true)
		}},
		{name: "half-open upwards", silent: true, inject: func(p *faultnet.Proxy, _ *rand.Rand) { p.Set(faultnet.Up, lose) }},
		{name: "half-open downwards", silent: true, inject: func(p *faultnet.Proxy, _ *rand.Rand) { p.Set(faultnet.Down, lose) }},
		{name: "silent both ways", silent: true, inject: both(lose)},
		{name: "stalled both ways", silent: true, inject: both(faultnet.Faults{Stall: true})},
		{name: "500 ms delay", lasts: 3 * time.Second, slow: true, inject: both(faultnet.Faults{Delay: 500 * time.Millisecond})},
		{name: "10 KB per second", lasts: 3 * time.Second, slow: true, inject: both(faultnet.Faults{Rate: 10_000})},
		{name: "bytes one by one", lasts: time.Second, inject: both(faultnet.Faults{Chunk: 1})},
	}
}

// cutRestoring cuts, and cuts what comes back after an arbitrary number of bytes, a few times: within CONNECT or CONNACK, or in the middle of
// what is sent again.
func cutRestoring(p *faultnet.Proxy, r *rand.Rand) {
	p.Cut(true)
	for range 1 + r.IntN(3) {
		before := p.Accepted()
		p.CutAfter(1 + r.Int64N(1+r.Int64N(5000)))
		for deadline := time.Now().Add(10 * time.Second); p.Accepted() == before && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
	}
}

// heal makes the network whole.
func heal(p *faultnet.Proxy) {
	p.CutAfter(0)
	both(faultnet.Faults{})(p, nil)
	p.Refuse(false)
}

// TestNetwork does to a client what networks do, while it publishes, waiting or not, and subscribes, at QoS 1 and 2 and below safety/. Whatever was acknowledged arrives,
// in the order of its topic, as it was sent; at QoS 2 nothing arrives twice. A link that is dead without a word is noticed within
// 3 s, and by a client marked for safety within 500 ms; within 2 s of the network's return everything is as before. The times
// are judged in the long form.
//
// Seen failing when messages in flight are not sent again, when they are sent as new ones, and when the client waits for CONNACK
// from a network that has lost its CONNECT.
func TestNetwork(t *testing.T) {
	s := newServer(t)
	s.start()
	for _, safety := range []bool{false, true} {
		for _, f := range networkFaults() {
			if safety && !f.silent {
				continue
			}
			t.Run(fmt.Sprintf("%s/safety=%v", f.name, safety), func(t *testing.T) {
				t.Parallel()
				testNetwork(t, s, f, safety)
			})
		}
	}
}

// A stream is one topic: what was acknowledged, and what has arrived.
type stream struct {
	topic    string
	qos      byte
	async    bool // by PublishAsync, many at a time
	mu       sync.Mutex
	accepted map[int]bool
	arrived  []int
	corrupt  int
}

// A packetOfData is what is published. Longer ones are compressed.
type packetOfData struct {
	N    int    `json:"n"`
	Data string `json:"data"`
	Sum  uint32 `json:"sum"`
}

func (x *stream) take(_ context.Context, d *client.Delivery) {
	x.mu.Lock()
	defer x.mu.Unlock()
	var p packetOfData
	if err := json.Unmarshal(d.Message.Payload, &p); err != nil || p.Sum != crc32.ChecksumIEEE([]byte(p.Data)) {
		x.corrupt++
		return
	}
	x.arrived = append(x.arrived, p.N)
}

// accept notes that n is safe, if it is.
func (x *stream) accept(n int, err error) {
	if err != nil {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.accepted[n] = true
}

// publish publishes the numbers from 0 on until ctx ends, each when the one before is safe, or without waiting for it.
func (x *stream) publish(ctx context.Context, c *client.Client, r *rand.Rand, pause time.Duration, longest int) {
	lasting := context.WithoutCancel(ctx)
	type sent struct {
		n       int
		receipt *client.Receipt
	}
	receipts := make(chan sent, 100)
	var waiting sync.WaitGroup
	waiting.Go(func() {
		for s := range receipts {
			x.accept(s.n, s.receipt.Wait(lasting))
		}
	})
	defer waiting.Wait()
	defer close(receipts)
	for n := 0; ctx.Err() == nil; n++ {
		p := packetOfData{N: n, Data: strings.Repeat(string(rune('a'+n%26)), r.IntN(longest))}
		p.Sum = crc32.ChecksumIEEE([]byte(p.Data))
		m, err := message.NewHeartbeat(c.ID(), p)
		if err != nil {
			panic(err)
		}
		if x.async {
			receipts <- sent{n, c.PublishAsync(x.topic, m, client.WithQoS(x.qos), client.WithRetain(false))}
		} else {
			x.accept(n, c.Publish(lasting, x.topic, m, client.WithQoS(x.qos), client.WithRetain(false)))
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// lost returns how many of those that were accepted have not arrived.
func (x *stream) lost() (n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	seen := map[int]bool{}
	for _, k := range x.arrived {
		seen[k] = true
	}
	for k := range x.accepted {
		if !seen[k] {
			n++
		}
	}
	return n
}

func (x *stream) balance() balance {
	b := balance{Lost: x.lost()}
	x.mu.Lock()
	defer x.mu.Unlock()
	b.Published = len(x.accepted)
	seen := map[int]bool{}
	highest := -1
	for _, k := range x.arrived {
		switch {
		case seen[k]:
			b.Duplicates++
		case k < highest:
			b.Misordered++
		}
		seen[k] = true
		highest = max(highest, k)
	}
	return b
}

func testNetwork(t *testing.T, s *server, f networkFault, safety bool) {
	times := pick(2, 100)
	if f.slow {
		times = pick(1, 100)
	}
	ctx := within(t, 2*time.Minute+time.Duration(times)*20*time.Second)
	r := seeded(t)
	proxy, err := faultnet.Start(s.Addr)
	must(t, err)
	t.Cleanup(proxy.Close)
	id := strings.ReplaceAll(t.Name(), "/", "-")
	var mu sync.Mutex
	changed := make(chan struct{}) // closed when the connection is made or lost
	connect := func(o client.Options) *client.Client {
		c, err := client.Connect(ctx, o)
		must(t, err)
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			_ = c.Close(ctx)
		})
		return c
	}
	c := connect(client.Options{URL: "tcp://" + proxy.Addr(), ID: id, Safety: safety, OnState: func(bool, error) {
		mu.Lock()
		defer mu.Unlock()
		close(changed)
		changed = make(chan struct{})
	}})
	peer := connect(client.Options{URL: "tcp://" + s.Addr, ID: id + "-peer"})

	prefix := "network/" + strings.ReplaceAll(id, " ", "_") + "/"
	var streams []*stream
	pause, longest := time.Millisecond, 3000
	if f.slow {
		pause, longest = 200*time.Millisecond, 200
	}
	publishing, stop := context.WithCancel(ctx)
	defer stop()
	var publishers sync.WaitGroup
	for _, from := range []*client.Client{c, peer} {
		direction := map[bool]string{true: "up", false: "down"}[from == c]
		for _, x := range []*stream{
			{topic: prefix + direction + "/1", qos: 1},
			{topic: prefix + direction + "/2", qos: 2},
			{topic: prefix + direction + "/async/1", qos: 1, async: true},
			{topic: prefix + direction + "/async/2", qos: 2, async: true},
			{topic: "safety/" + prefix + direction, qos: 2, async: true},
		} {
			x.accepted = map[int]bool{}
			streams = append(streams, x)
			to := map[bool]*client.Client{true: peer, false: c}[from == c]
			_, err := to.Subscribe(ctx, x.topic, x.take)
			must(t, err)
			source := rand.New(rand.NewPCG(r.Uint64(), 0))
			every := pause
			if x.async {
				every *= 5 // nothing else slows it down
			}
			publishers.Go(func() { x.publish(publishing, from, source, every, longest) })
		}
	}
	t.Cleanup(publishers.Wait)
	t.Cleanup(stop)

	// probe returns how long it takes until something that the peer publishes now arrives.
	echoes := make(chan int, 1000)
	_, err = c.Subscribe(ctx, prefix+"echo", func(_ context.Context, d *client.Delivery) {
		var n int
		if json.Unmarshal(d.Message.Payload, &n) == nil {
			select {
			case echoes <- n:
			default:
			}
		}
	})
	must(t, err)
	probe := func(n int) time.Duration {
		began := time.Now()
		must(t, peer.Publish(ctx, prefix+"echo", message.NewRaw(fmt.Append(nil, n)), client.WithQoS(1)))
		for {
			select {
			case got := <-echoes:
				if got == n {
					return time.Since(began)
				}
			case <-ctx.Done():
				t.Fatal("what the peer publishes does not arrive")
			}
		}
	}
	var notices, returns []time.Duration
	probe(-1)
	for i := range times {
		mu.Lock()
		was := changed
		mu.Unlock()
		began := time.Now()
		f.inject(proxy, r)
		switch {
		case f.silent:
			for look := time.NewTicker(10 * time.Millisecond); ; { // its last notice may have come just before was was taken
				select {
				case <-was:
				case <-look.C:
					if c.Connected() {
						continue
					}
				case <-ctx.Done():
					t.Fatal("the client does not notice")
				}
				look.Stop()
				break
			}
			notices = append(notices, time.Since(began))
			if r.IntN(2) == 0 { // it tries in vain for a while
				time.Sleep(time.Duration(r.Int64N(int64(2 * time.Second))))
			}
		case f.lasts > 0:
			time.Sleep(f.lasts)
		}
		heal(proxy)
		returns = append(returns, probe(i))
	}
	stop()
	publishers.Wait()
	for _, x := range streams {
		eventually(t, time.Minute, x.topic, func() bool { return x.lost() == 0 })
	}
	// What may still come twice comes before this.
	probe(times)
	must(t, peer.Publish(ctx, prefix+"end", message.NewRaw(nil), client.WithQoS(2)))

	slowest := slices.Max(returns)
	name := "network:_" + strings.ReplaceAll(f.name, " ", "_")
	if safety {
		name += "_(safety)"
	}
	for qos := byte(1); qos <= 2; qos++ {
		var all balance
		for _, x := range streams {
			if x.qos != qos {
				continue
			}
			b := x.balance()
			all.Published += b.Published
			all.Lost += b.Lost
			all.Duplicates += b.Duplicates
			all.Misordered += b.Misordered
			if x.corrupt > 0 || b.Lost+b.Misordered > 0 || qos == 2 && b.Duplicates > 0 {
				t.Errorf("%s: %d corrupt, %d lost, %d twice, %d out of order", x.topic, x.corrupt, b.Lost, b.Duplicates, b.Misordered)
			}
			if b.Published == 0 {
				t.Errorf("%s: nothing was published", x.topic)
			}
		}
		tally(t, fmt.Sprintf("%s,_QoS_%d", name, qos), times, all)
	}
	slices.Sort(notices)
	slices.Sort(returns)
	t.Logf("back after %v (half), %v (slowest); %d reconnects", returns[len(returns)/2].Round(time.Millisecond), slowest.Round(time.Millisecond), c.Stats().Reconnects)
	late := time.Duration(0)
	if len(notices) > 0 {
		late = slices.Max(notices)
		t.Logf("noticed after %v (half), %v (slowest)", notices[len(notices)/2].Round(time.Millisecond), late.Round(time.Millisecond))
	}
	if !long() {
		return
	}
	bound := 3 * time.Second
	if safety {
		bound = 500 * time.Millisecond
	}
	if slowest > 2*time.Second {
		t.Errorf("back after %v at the latest, want 2s", slowest)
	}
	if late > bound {
		t.Errorf("noticed after %v at the latest, want %v", late, bound)
	}
	if f.slow && c.Stats().Reconnects > 1 {
		t.Errorf("the slow link was given up %d times", c.Stats().Reconnects)
	}
}
