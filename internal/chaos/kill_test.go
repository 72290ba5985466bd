package chaos

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// TestKill kills the broker at random moments, with SIGKILL, while four publishers send as fast as they can, and starts it
// again on the same directory. Nothing that was acknowledged may be missing in the end: messages for subscribers that are
// connected, offline or share a subscription, retained messages, subscriptions, Wills. QoS 2 comes exactly once, and what
// was published on a topic by one client comes in order.
//
// Seen failing with each of these changes to the broker alone: acknowledgements that do not wait for the commit; QoS 2
// messages that are sent before the commit; a start that forgets inbound QoS 2 identifiers, outbound ones that wait for
// PUBCOMP, subscriptions or Wills; retained messages, UNSUBSCRIBE or acknowledged messages that are not written.
func TestKill(t *testing.T) {
	kills := pick(5, 200)
	k := newKilling(t)
	k.begin()
	for round := range kills {
		k.round(round, round == kills-1)
	}
	k.end(kills)
}

// stored is the session expiry of those that outlive the broker, in seconds.
const stored = 3600

// willDelay is longer than a restart takes.
const willDelay = 2 * time.Second

type killing struct {
	t      *testing.T
	server *server
	random *rand.Rand
	ctx    context.Context

	publishers []*peer // 0 and 1 send with QoS 1, 2 and 3 with QoS 2
	online1    *peer   // subscribers, by the QoS they have subscribed with
	online2    *peer
	offline    *peer
	members    []*peer // of the shared subscription
	returns    int     // of the offline one
	states     []*peer // update a retained topic each
	stops      []func()
	stopFlood  context.CancelFunc
	flooding   sync.WaitGroup

	wills     *willWatch
	downs     []span // when the broker was away
	slowest   time.Duration
	probes    int // topics subscribed just before a kill
	unprobes  int // and those unsubscribed
	retained  int // values checked
	intervals []string
}

type span struct{ from, to time.Time }

func newKilling(t *testing.T) *killing {
	patience := 2*time.Minute + time.Duration(pick(0, 30))*time.Minute
	return &killing{t: t, server: newServer(t), random: seeded(t), ctx: within(t, patience)}
}

func (k *killing) begin() {
	t := k.t
	k.server.start()
	session := func(id string, v packet.Version) *peer {
		return newPeer(peerOptions{ID: id, Version: v, Expiry: stored, Clean: true})
	}
	connect := func(p *peer, qos byte, filters ...string) *peer {
		must(t, p.connect(k.ctx, k.server.Addr), p.subscribe(k.ctx, qos, filters...))
		return p
	}
	k.online1 = connect(session("online-qos1", packet.V311), 1, "load/#")
	k.online2 = connect(session("online-qos2", packet.V5), 2, "load/#")
	k.offline = connect(session("offline", packet.V5), 2, "load/+/+/0")
	k.offline.cut()
	for i := range 2 {
		k.members = append(k.members, connect(session(fmt.Sprint("member-", i), packet.V5), 2, "$share/crew/load/#"))
	}
	k.wills = newWillWatch()
	connect(k.wills.peer, 2, "will/#")

	for _, p := range []*peer{k.online1, k.online2, k.members[0], k.members[1], k.wills.peer} {
		k.stops = append(k.stops, p.keep(k.server.Addr))
	}
	ctx, cancel := context.WithCancel(k.ctx)
	k.stopFlood = cancel
	flood := func(p *peer, w load) {
		k.stops = append(k.stops, p.keep(k.server.Addr))
		k.flooding.Go(func() { p.flood(ctx, w) })
	}
	for i, v := range []packet.Version{packet.V311, packet.V5, packet.V311, packet.V5} {
		p := session(fmt.Sprint("publisher-", i), v)
		k.publishers = append(k.publishers, p)
		qos := byte(1 + i/2)
		flood(p, load{QoS: qos, Topics: []string{fmt.Sprintf("load/%d/%d/0", qos, i), fmt.Sprintf("load/%d/%d/1", qos, i), fmt.Sprintf("load/%d/%d/2", qos, i)}})
	}
	for qos := byte(1); qos <= 2; qos++ {
		p := newPeer(peerOptions{ID: fmt.Sprint("state-", qos), Expiry: stored, Clean: true, Window: 8})
		k.states = append(k.states, p)
		flood(p, load{QoS: qos, Retain: true, Topics: []string{fmt.Sprint("state/", qos)}})
	}
}

// round kills the broker once and starts it again.
func (k *killing) round(n int, last bool) {
	t, ctx := k.t, k.ctx
	for _, p := range k.publishers { // it is under load
		before := p.numbers().Acknowledged
		must(t, p.until(ctx, func() bool { return p.counts.Acknowledged > before }))
	}
	w := k.wills.round(ctx, t, k.server.Addr, n)
	// A subscriber that goes on subscribing until the kill.
	late := newPeer(peerOptions{ID: fmt.Sprint("late-", n), Expiry: stored, Clean: true})
	must(t, late.connect(ctx, k.server.Addr))
	var granted, ended []string
	subscribing := make(chan struct{})
	go func() {
		defer close(subscribing)
		for i := range 10_000 {
			filter := fmt.Sprintf("probe/%d/%d", n, i)
			if late.subscribe(ctx, 2, filter) != nil {
				return
			}
			granted = append(granted, filter)
			if i%4 == 3 {
				gone := granted[len(granted)-2]
				err := late.unsubscribe(ctx, gone)
				granted = slices.Delete(granted, len(granted)-2, len(granted)-1)
				if err != nil { // unknown what became of it
					return
				}
				ended = append(ended, gone)
			}
		}
	}()
	moment := time.Duration(20+k.random.IntN(230)) * time.Millisecond
	select {
	case <-time.After(moment):
	case <-ctx.Done():
	}
	k.intervals = append(k.intervals, moment.String())

	var floor []int // the newest acknowledged value of each retained topic
	for i, p := range k.states {
		p.mu.Lock()
		newest := -1
		if o := p.outgoing[fmt.Sprint("state/", i+1)]; o != nil {
			for at, f := range slices.Backward(o.state) {
				if f == acknowledged {
					newest = at
					break
				}
			}
		}
		p.mu.Unlock()
		floor = append(floor, newest)
	}
	w.killedAt = time.Now()
	k.server.kill()
	<-subscribing
	if n%4 == 3 { // once more before it is up
		k.server.spawn()
		select {
		case <-time.After(time.Duration(k.random.IntN(100)) * time.Millisecond):
		case <-ctx.Done():
		}
		k.server.kill()
	}
	took := k.server.start()
	k.slowest = max(k.slowest, took)
	k.downs = append(k.downs, span{w.killedAt, time.Now()})
	w.returned(ctx, t, k.server.Addr)

	k.checkStates(floor)
	k.checkProbes(late, granted, ended)
	if n%3 == 2 || last {
		k.recall(last)
	}
}

// checkStates subscribes to the retained topics, whose values may not be older than floor says.
func (k *killing) checkStates(floor []int) {
	k.t.Helper()
	var mu sync.Mutex
	first := map[string]int{}
	p := newPeer(peerOptions{ID: "reader", OnMessage: func(a *arrival) bool {
		mu.Lock()
		defer mu.Unlock()
		if _, ok := first[string(a.Topic)]; !ok && a.Stamped {
			first[string(a.Topic)] = int(a.Seq)
		}
		return true
	}})
	must(k.t, p.connect(k.ctx, k.server.Addr), p.subscribe(k.ctx, 1, "state/#"))
	must(k.t, p.until(k.ctx, func() bool { return p.counts.Received > 1 }))
	must(k.t, p.ping(k.ctx))
	p.disconnect(0)
	mu.Lock()
	defer mu.Unlock()
	for i, want := range floor {
		topic := fmt.Sprint("state/", i+1)
		got, ok := first[topic]
		if want >= 0 && (!ok || got < want) {
			k.t.Errorf("%s: value %d after the restart, %d was acknowledged before", topic, got, want)
		}
		k.retained++
	}
}

// checkProbes publishes on every topic that late has got a SUBACK for, and on those that it has got an UNSUBACK for.
func (k *killing) checkProbes(late *peer, granted, ended []string) {
	k.t.Helper()
	must(k.t, late.connect(k.ctx, k.server.Addr))
	if !late.present().connack.SessionPresent {
		k.t.Errorf("%s: no session after the restart", late.o.ID)
	}
	prober := newPeer(peerOptions{ID: "prober"})
	must(k.t, prober.connect(k.ctx, k.server.Addr))
	if topics := slices.Concat(ended, granted); len(topics) > 0 {
		prober.flood(k.ctx, load{QoS: 2, Topics: topics, Count: len(topics)})
	}
	must(k.t, prober.drain(k.ctx), late.ping(k.ctx))
	late.mu.Lock()
	for _, topic := range granted {
		if in := late.incoming[streamID{topic, prober.number}]; in == nil || in.times[0] != 1 {
			k.t.Errorf("%s: subscribed to %s before the kill, and deaf to it after", late.o.ID, topic)
		} else {
			k.probes++
		}
	}
	for _, topic := range ended {
		if late.incoming[streamID{topic, prober.number}] != nil {
			k.t.Errorf("%s: unsubscribed from %s before the kill, and gets it after", late.o.ID, topic)
		} else {
			k.unprobes++
		}
	}
	late.mu.Unlock()
	for _, p := range []*peer{prober, late} {
		p.check(k.t)
		p.disconnect(0)
	}
}

// recall brings the offline session back until it has got all, and sends it away again unless that was the last time.
func (k *killing) recall(last bool) {
	k.t.Helper()
	p := k.offline
	must(k.t, p.connect(k.ctx, k.server.Addr))
	k.returns++
	if last {
		k.stops = append(k.stops, p.keep(k.server.Addr))
		return
	}
	deadline := time.Now().Add(20 * time.Second)
	want := k.acknowledgedFor(isOfflines)
	must(k.t, p.until(k.ctx, func() bool {
		n := 0
		for _, in := range p.incoming {
			n += in.distinct
		}
		return n >= want || time.Now().After(deadline)
	}))
	p.cut()
}

func isOfflines(topic string) bool { return strings.HasSuffix(topic, "/0") }

// acknowledgedFor counts what is acknowledged on some topics.
func (k *killing) acknowledgedFor(topic func(string) bool) int {
	n := 0
	for _, p := range k.publishers {
		p.mu.Lock()
		for name, o := range p.outgoing {
			if topic(name) {
				for _, f := range o.state {
					if f == acknowledged {
						n++
					}
				}
			}
		}
		p.mu.Unlock()
	}
	return n
}

// end lets everything come to rest and adds it up.
func (k *killing) end(kills int) {
	t := k.t
	k.stopFlood()
	k.flooding.Wait()
	for _, p := range slices.Concat(k.publishers, k.states) {
		must(t, p.drain(k.ctx))
	}
	rows := []struct {
		name        string
		subscribers []*peer
		topic       func(string) bool
	}{
		{"connected, QoS 1", []*peer{k.online1}, nil},
		{"connected, QoS 2", []*peer{k.online2}, nil},
		{"offline, QoS 2", []*peer{k.offline}, isOfflines},
		{"shared by two, QoS 2", k.members, nil},
	}
	for _, r := range rows {
		settled(t, k.publishers, r.subscribers, r.topic)
	}
	k.wills.check(t, k.downs)
	for _, stop := range k.stops {
		stop()
	}

	t.Logf("%d kills, after %s", kills, strings.Join(k.intervals, ", "))
	t.Logf("slowest restart %v", k.slowest.Round(time.Millisecond))
	t.Logf("%-22s %-4s %10s %10s %8s %10s %6s %11s %12s", "subscriber", "sent", "published", "acknowl.", "refused", "delivered", "lost", "duplicates", "out of order")
	for _, r := range rows {
		for qos := 1; qos <= 2; qos++ {
			b := compare(k.publishers, r.subscribers, func(name string) bool {
				return strings.HasPrefix(name, fmt.Sprintf("load/%d/", qos)) && (r.topic == nil || r.topic(name))
			})
			t.Logf("%-22s QoS%d %10d %10d %8d %10d %6d %11d %12d", r.name, qos, b.Published, b.Acknowledged, b.Refused, b.Delivered, b.Lost, b.Duplicates, b.Misordered)
			tally(t, fmt.Sprintf("kill_-9_of_the_broker,_QoS_%d_to_%s", qos, strings.ReplaceAll(r.name, " ", "_")), kills, b)
			if b.Lost > 0 || b.Invented > 0 {
				t.Errorf("%s: %v", r.name, b)
			}
			if b.Misordered > 0 {
				t.Errorf("%s: %d out of order", r.name, b.Misordered)
			}
			if b.Refused > 0 {
				t.Errorf("%s: %d refused: the offline session's queue was full, or the store failed", r.name, b.Refused)
			}
			// QoS 2 messages reach who has subscribed with QoS 1 at least once.
			if exactly := qos == 2 && r.subscribers[0] != k.online1; exactly && b.Duplicates > 0 {
				t.Errorf("%s: %d QoS 2 messages came twice", r.name, b.Duplicates)
			}
		}
	}
	t.Logf("retained values right after a restart: %d; subscriptions made just before a kill: %d kept, %d ended ones stayed so", k.retained, k.probes, k.unprobes)
	t.Logf("offline session back %d times; %v", k.returns, k.wills)
	resent, repeats := 0, 0
	for _, p := range k.publishers {
		resent += p.numbers().Resent
	}
	for _, p := range slices.Concat([]*peer{k.online1, k.online2, k.offline, k.wills.peer}, k.members) {
		repeats += p.numbers().Repeats
	}
	t.Logf("sent again by publishers after a restart: %d; QoS 2 packets sent again to subscribers: %d", resent, repeats)
	for _, p := range slices.Concat(k.publishers, k.states, k.members, []*peer{k.online1, k.online2, k.offline, k.wills.peer}) {
		p.check(t)
		p.disconnect(0)
	}
}

// settled waits until subscribers have what is acknowledged, or nothing more comes.
func settled(t testing.TB, publishers, subscribers []*peer, topic func(string) bool) {
	t.Helper()
	received := func() int {
		n := 0
		for _, s := range subscribers {
			n += s.numbers().Received
		}
		return n
	}
	before, since := -1, time.Now()
	eventually(t, 2*time.Minute, "everything delivered, or nothing more coming", func() bool {
		if n := received(); n != before {
			before, since = n, time.Now()
		}
		if time.Since(since) > 5*time.Second {
			return true
		}
		return compare(publishers, subscribers, topic).Lost == 0
	})
}

// A willWatch sees the Wills of clients whose connections end around a kill. Of each round there are four:
//
//	early  cut before the kill, with a delay that ends after it
//	back   the same, but its client is back in time: it never comes
//	now    cut by the kill, without a delay
//	later  cut by the kill, with a delay
type willWatch struct {
	peer   *peer
	mu     sync.Mutex // guards came
	came   map[string][]time.Time
	rounds []*willRound
	text   string // the outcome
}

type willRound struct {
	n                             int
	early, back, now, later       *peer
	cutAt, killedAt, upAt, backAt time.Time
}

func newWillWatch() *willWatch {
	w := &willWatch{came: make(map[string][]time.Time)}
	w.peer = newPeer(peerOptions{ID: "wills", Expiry: stored, Clean: true, OnMessage: func(a *arrival) bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		name := string(a.Topic)
		w.came[name] = append(w.came[name], time.Now())
		return true
	}})
	return w
}

func willTopic(kind string, n int) string { return fmt.Sprintf("will/%s/%d", kind, n) }

// round connects the four, and cuts the two that are cut before the kill.
func (w *willWatch) round(ctx context.Context, t testing.TB, addr string, n int) *willRound {
	t.Helper()
	make := func(kind string, delay time.Duration) *peer {
		x := &packet.Will{Topic: []byte(willTopic(kind, n)), Payload: []byte(kind), QoS: 2}
		x.Properties.WillDelay = packet.Some(uint32(delay / time.Second))
		p := newPeer(peerOptions{ID: fmt.Sprintf("%s-%d", kind, n), Expiry: stored, Clean: true, Will: x})
		must(t, p.connect(ctx, addr))
		return p
	}
	r := &willRound{n: n, early: make("early", willDelay), back: make("back", willDelay), now: make("now", 0), later: make("later", willDelay)}
	w.rounds = append(w.rounds, r)
	r.early.cut()
	r.back.cut()
	r.cutAt = time.Now()
	return r
}

// returned is called when the broker is up again: the client that is to be back in time comes back, and leaves in peace.
func (r *willRound) returned(ctx context.Context, t testing.TB, addr string) {
	t.Helper()
	r.upAt = time.Now()
	r.back.o.Will = nil
	must(t, r.back.connect(ctx, addr))
	r.backAt = time.Now()
	if !r.back.present().connack.SessionPresent {
		t.Errorf("%s: no session after the restart", r.back.o.ID)
	}
	r.back.disconnect(0)
}

// check waits for the Wills that have to come, and says which did not, or not in their time.
func (w *willWatch) check(t testing.TB, downs []span) {
	t.Helper()
	slack := 500 * time.Millisecond
	if raced() {
		slack = 3 * time.Second
	}
	latest := map[string]time.Duration{}
	number := map[string]int{}
	await := func(kind string, n int, from, to time.Time) {
		t.Helper()
		for _, d := range downs { // what falls due while the broker is away comes when it is back
			if to.After(d.from.Add(-20*time.Millisecond)) && to.Before(d.to) {
				to = d.to
			}
		}
		name := willTopic(kind, n)
		limit := time.Until(to.Add(slack + 5*time.Second))
		late := time.After(max(limit, 0))
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			w.mu.Lock()
			times := w.came[name]
			w.mu.Unlock()
			if len(times) > 0 {
				number[kind]++
				lateness := times[0].Sub(to)
				if l, ok := latest[kind]; !ok || lateness > l {
					latest[kind] = lateness
				}
				if len(times) > 1 {
					t.Errorf("%s came %d times", name, len(times))
				}
				if times[0].Before(from.Add(-50*time.Millisecond)) || lateness > slack {
					t.Errorf("%s came %v after its client was gone, expected between %v and %v", name, times[0].Sub(from).Round(time.Millisecond), 0, to.Sub(from))
				}
				return
			}
			select {
			case <-late:
				t.Errorf("%s has not come", name)
				return
			case <-tick.C:
			}
		}
	}
	cancelled := 0
	for _, r := range w.rounds {
		await("early", r.n, r.cutAt.Add(willDelay), r.cutAt.Add(willDelay))
		await("now", r.n, r.killedAt, r.upAt)
		await("later", r.n, r.killedAt.Add(willDelay), r.upAt.Add(willDelay))
		w.mu.Lock()
		times := w.came[willTopic("back", r.n)]
		w.mu.Unlock()
		switch inTime := r.backAt.Before(r.cutAt.Add(willDelay - 100*time.Millisecond)); {
		case inTime && len(times) > 0:
			t.Errorf("%s came, although its client was back %v after it had gone", willTopic("back", r.n), r.backAt.Sub(r.cutAt))
		case inTime:
			cancelled++
		}
	}
	var parts []string
	for _, kind := range slices.Sorted(maps.Keys(number)) {
		parts = append(parts, fmt.Sprintf("%s %d (latest by %v)", kind, number[kind], latest[kind].Round(time.Millisecond)))
	}
	w.text = fmt.Sprintf("Wills: %s; cancelled in time %d of %d", strings.Join(parts, ", "), cancelled, len(w.rounds))
	for _, r := range w.rounds {
		for _, p := range []*peer{r.early, r.back, r.now, r.later} {
			p.cut()
		}
	}
}

func (w *willWatch) String() string { return w.text }
