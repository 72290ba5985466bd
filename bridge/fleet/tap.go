package fleet

import (
	"context"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/topic"
)

// tapID is the client that hears what goes up. Its session outlives the uplink, so that what came meanwhile is not lost.
const tapID = "fleet-up"

// sessionExpiry is how long the broker keeps what comes while no uplink is there.
const sessionExpiry = 7 * day

// A tap hears the bus.
type tap struct {
	u         *Uplink
	c         *client.Client
	selection selection

	taken, looped, thinned, repeated atomic.Uint64

	mu    sync.Mutex // guards the fields below
	rates map[string]*allowance
	swept time.Time // of those that are full, which are as if they were not there
	heard map[string]*lastIDs
	seed  maphash.Seed // of the ids in heard
}

// lastIDs are the last few ids of a topic, hashed.
type lastIDs struct {
	ids []uint64
	at  int // the oldest, when there are mostIDs
}

// mostIDs is more than a client has unacknowledged of one topic when it loses its connection, and says again afterwards.
const mostIDs = 256

// openTap connects to the bus and subscribes.
func openTap(ctx context.Context, u *Uplink) (*tap, error) {
	t := &tap{u: u, selection: selection{u.o.Up}, rates: map[string]*allowance{}, heard: map[string]*lastIDs{}, seed: maphash.MakeSeed()}
	far := u.o.Client
	far.ID, far.Dir, far.Will = tapID, "", nil
	far.CleanStart, far.SessionExpiry, far.DurableSession = false, sessionExpiry, true
	far.Limits.MaxAge = -1 // what waited in the session goes up, however old it is
	far.Rates, far.Logger = client.Rates{}, u.log
	var err error
	if t.c, err = client.Connect(ctx, far); err != nil {
		return nil, err
	}
	for _, i := range t.selection.bySpecificity() {
		f := u.o.Up[i]
		queue := client.Queue{Max: 1000} // beyond it the broker keeps what comes
		if f.Class == fleet.State {
			queue.Full = client.Latest
		}
		options := []client.SubscribeOption{client.WithNoLocal(), client.WithQueue(queue)}
		if durable(f.Class) {
			options = append(options, client.WithLateAck())
		}
		if _, err := t.c.Subscribe(ctx, f.Filter, func(_ context.Context, d *client.Delivery) { t.hear(i, d) }, options...); err != nil {
			return t, fmt.Errorf("filter %s: %w", f.Filter, err)
		}
	}
	return t, nil
}

func (t *tap) close(ctx context.Context) error {
	if t.c == nil {
		return nil
	}
	return t.c.Close(ctx)
}

// hear takes in a message. For an event or alert it returns when that is on the disk, and so does the acknowledgement.
func (t *tap) hear(i int, d *client.Delivery) {
	if best, ok := t.selection.of(d.Topic); !ok || best != i || never(d.Topic) {
		return // another filter knows more about the topic
	}
	if fromBridge(d) {
		t.looped.Add(1)
		return
	}
	f := t.u.o.Up[i]
	body, err := d.Message.Append(nil)
	if err != nil {
		t.u.log.Warn("a message does not go to the fleet, it cannot be encoded", "topic", d.Topic, "error", err)
		return
	}
	if !durable(f.Class) && t.again(d) { // events and alerts are recognised by the outbox, also after a restart
		t.repeated.Add(1)
		return
	}
	t.taken.Add(1)
	arrival := time.Now()
	if f.Class.Latest() {
		value := body
		if len(body) == 0 {
			value = nil
		}
		t.u.latest.set(d.Topic, value, gap(f.Rate))
	}
	if !f.Class.History() || d.Retained { // a retained message is in the history already, or was before there was one
		return
	}
	if f.Class == fleet.Telemetry {
		if f.Rate > 0 && !t.allowed(d.Topic, f.Rate) {
			t.thinned.Add(1)
			return
		}
		if full := t.u.batches.add(d.Topic, body, arrival); full != nil {
			t.put(full)
		}
		return
	}
	r := &record{topic: d.Topic, class: f.Class, id: recordID(t.u.o.Mower+"/"+d.Topic, &d.Message, body), body: body, count: 1, arrival: arrival}
	r.compress()
	t.put(r)
}

// again reports whether a message has come before: whoever has said it, or the bus, says it again when a connection was lost before its
// acknowledgement came. What has no id is never the same, and of more than maxSlots topics nothing is remembered.
func (t *tap) again(d *client.Delivery) bool {
	if d.Message.Raw || d.Message.Metadata.ID == "" || d.Retained {
		return false
	}
	id := maphash.String(t.seed, d.Message.Metadata.ID)
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.heard[d.Topic]
	switch {
	case h == nil && len(t.heard) >= maxSlots:
		return false
	case h == nil:
		h = &lastIDs{}
		t.heard[d.Topic] = h
	case slices.Contains(h.ids, id):
		return true
	}
	if len(h.ids) < mostIDs {
		h.ids = append(h.ids, id)
		return false
	}
	h.ids[h.at] = id
	h.at = (h.at + 1) % mostIDs
	return false
}

func (t *tap) put(r *record) {
	_ = t.u.box.add(r) // what cannot be written is in memory, and logged
}

// allowed reports whether a topic's history may have one more message by its rate. Ten seconds' worth may come at once.
func (t *tap) allowed(name string, rate int) bool {
	t.mu.Lock()
	a := t.rates[name]
	if now := time.Now(); a == nil && len(t.rates) >= maxSlots && now.Sub(t.swept) > time.Second {
		t.swept = now
		maps.DeleteFunc(t.rates, func(_ string, old *allowance) bool { return old.isFull(now) })
	}
	if a == nil && len(t.rates) < maxSlots {
		each := float64(rate) / 60
		a = &allowance{most: max(2, 10*each), each: each}
		a.left = a.most
		t.rates[name] = a
	}
	t.mu.Unlock()
	return a != nil && a.take(time.Now())
}

// gap is the least time between two latest values.
func gap(rate int) time.Duration {
	if rate <= 0 {
		return 0
	}
	return time.Minute / time.Duration(rate)
}

// never reports whether a topic does not go up whatever the filters say.
func never(name string) bool {
	for _, f := range fleet.NeverUp() {
		if topic.Match(f, name) {
			return true
		}
	}
	return false
}

// fromBridge reports whether a message came over a bridge already: what goes up has passed one then, and that is all there may be.
func fromBridge(d *client.Delivery) bool {
	for _, p := range d.User {
		switch p[0] {
		case fleet.HeaderOrigin:
			return true
		case fleet.HeaderHops:
			if n, err := strconv.Atoi(p[1]); err != nil || n > 0 {
				return true
			}
		}
	}
	return false
}

// An allowance is what may happen at once, and each second.
type allowance struct {
	most, each float64

	mu   sync.Mutex // guards the fields below
	left float64
	at   time.Time
}

// take reports whether one more may happen.
func (a *allowance) take(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.at.IsZero() {
		a.left = min(a.most, a.left+a.each*now.Sub(a.at).Seconds())
	}
	a.at = now
	if a.left < 1 {
		return false
	}
	a.left--
	return true
}

// isFull reports whether as much may happen as when nothing ever has.
func (a *allowance) isFull(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.left+a.each*now.Sub(a.at).Seconds() >= a.most
}
