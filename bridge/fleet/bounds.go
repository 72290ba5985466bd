package fleet

import (
	"time"

	"github.com/lawnberry/lawnberry/internal/fleet"
)

// Bounds are what the outbox holds. Zero is the default.
type Bounds struct {
	Bytes int64                         // in all; 0 is 64 MiB
	Class map[fleet.Class]int64         // bytes of a class; none is as many as Bytes
	Age   map[fleet.Class]time.Duration // none is 7 days for telemetry, 30 for events, 365 for alerts
}

const day = 24 * time.Hour

func (b Bounds) withDefaults() Bounds {
	d := Bounds{Bytes: b.Bytes, Class: map[fleet.Class]int64{}, Age: map[fleet.Class]time.Duration{
		fleet.Telemetry: 7 * day, fleet.State: 7 * day, fleet.Event: 30 * day, fleet.Alert: 365 * day,
	}}
	if d.Bytes <= 0 {
		d.Bytes = 64 << 20
	}
	for c, n := range b.Class {
		if n > 0 {
			d.Class[c] = n
		}
	}
	for c, age := range b.Age {
		if age > 0 {
			d.Age[c] = age
		}
	}
	return d
}

// enforce drops what is over the bounds. Caller holds mu.
func (b *outbox) enforce() {
	now := b.clock.now()
	sizes := map[fleet.Class]int64{}
	total := int64(0)
	for _, q := range b.list {
		for {
			e, err := q.head(b.store)
			if err != nil || e == nil || now-e.at <= b.bounds.Age[q.class] {
				break
			}
			b.drop(q, "age")
		}
		sizes[q.class] += q.bytes
		total += q.bytes
	}
	shrink := func(class fleet.Class, over func() bool) {
		for sizes[class] > 0 && over() {
			n := b.dropOldest(class)
			if n == 0 {
				break
			}
			sizes[class] -= n
			total -= n
		}
	}
	for class, bound := range b.bounds.Class {
		shrink(class, func() bool { return sizes[class] > bound })
	}
	for _, class := range fleet.Classes() {
		shrink(class, func() bool { return total > b.bounds.Bytes })
	}
	for _, class := range fleet.Classes() { // without a disk what it holds stays there, and memory is small
		for b.failed != nil && b.memory > memoryBound && b.dropRecent(class) {
		}
	}
}

// dropOldest drops the oldest record of a class and returns its size, 0 when none can be dropped. Caller holds mu.
func (b *outbox) dropOldest(class fleet.Class) int64 {
	var oldest *queue
	var first uint64
	for _, q := range b.list {
		if q.class != class || q.records == 0 {
			continue
		}
		if e, err := q.head(b.store); err == nil && e != nil && (oldest == nil || e.order < first) {
			oldest, first = q, e.order
		}
	}
	if oldest == nil {
		return 0
	}
	return b.drop(oldest, "bytes")
}

// drop drops the head of a queue, which was looked at, and returns its size. Caller holds mu.
func (b *outbox) drop(q *queue, why string) int64 {
	e := b.pop(q)
	q.spare = q.first // it is counted and deleted at once, or neither
	b.dropped(q, e, why)
	return e.size
}

// dropRecent drops the oldest record of a class that is in memory only. Caller holds mu.
func (b *outbox) dropRecent(class fleet.Class) bool {
	var oldest *queue
	for _, q := range b.list {
		if q.class == class && len(q.recent) > 0 && (oldest == nil || q.recent[0].order < oldest.recent[0].order) {
			oldest = q
		}
	}
	if oldest == nil {
		return false
	}
	e := oldest.recent[0]
	oldest.popRecent()
	oldest.count(&e, -1)
	b.memory -= e.size
	b.dropped(oldest, e, "disk")
	return true
}

// dropped counts a record as lost. One that is being sent may arrive yet. Caller holds mu.
func (b *outbox) dropped(q *queue, e entry, why string) {
	if q.flight == e.order {
		q.fate, q.why = &e, why
		return
	}
	b.lose(q.class, uint64(e.count), e.arrival, why)
}

// lose counts messages that the fleet will never get. Caller holds mu.
func (b *outbox) lose(class fleet.Class, n uint64, arrival time.Time, why string) {
	one := fleet.Loss{Count: n, First: arrival, Last: arrival, Why: why}
	if b.unreported[class].Count == 0 {
		b.log.Warn("history for the fleet is dropped", "class", class, "why", why)
	}
	b.losses[class] = join(b.losses[class], one)
	b.unreported[class] = join(b.unreported[class], one)
	b.lossDirty = true
}

// join adds a loss to one.
func join(a, b fleet.Loss) fleet.Loss {
	switch {
	case a.Count == 0:
		return b
	case b.Count == 0:
		return a
	}
	a.Count += b.Count
	if b.First.Before(a.First) {
		a.First = b.First
	}
	if b.Last.After(a.Last) {
		a.Last = b.Last
	}
	a.Why = b.Why
	return a
}

// report adds a record of what was lost and not reported, as text makes it of that. It returns what that was.
func (b *outbox) report(text func(fleet.Losses) *record) (fleet.Losses, error) {
	b.mu.Lock()
	defer b.unlock()
	if b.closed || len(b.unreported) == 0 {
		return nil, nil
	}
	told := b.unreported
	b.unreported, b.lossDirty = fleet.Losses{}, true
	return told, b.addLocked(text(told))
}

// recently has the topics of the last few ids.
type recently struct {
	ring []string
	at   int
	set  map[string]string
}

func newRecently(n int) *recently {
	return &recently{ring: make([]string, n), set: map[string]string{}}
}

func (r *recently) topic(id string) (topic string, ok bool) { topic, ok = r.set[id]; return topic, ok }

func (r *recently) add(id, topic string) {
	if _, there := r.set[id]; there {
		return
	}
	delete(r.set, r.ring[r.at])
	r.ring[r.at] = id
	r.set[id] = topic
	r.at = (r.at + 1) % len(r.ring)
}
