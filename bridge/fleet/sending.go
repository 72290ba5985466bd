package fleet

import "github.com/lawnberry/lawnberry/internal/fleet"

// A sending is a record that is to be sent, and named by its order from then on.
type sending struct {
	record

	order  uint64
	stream string // that the topic is in, as far as it is known
	doubt  bool   // the engine may have it
}

// next returns a record to send, of the topics that may have one: the first record of its topic, alerts before events before telemetry, the
// topics of a class in turn. ok is false when there is none.
func (b *outbox) next(may func(topic string, class fleet.Class) bool) (s sending, ok bool) {
	b.mu.Lock()
	defer b.unlock()
	if b.closed {
		return s, false
	}
	for class := len(fleet.Classes()) - 1; class >= 0; class-- {
		var list []*queue
		for _, q := range b.list {
			if q.class == fleet.Classes()[class] {
				list = append(list, q)
			}
		}
		b.turn++
		for i := range list {
			q := list[(i+b.turn)%len(list)]
			if q.records == 0 || q.flight != 0 || !b.isFirst(q) || !may(q.topic, q.class) {
				continue
			}
			if s, ok := b.begin(q); ok {
				return s, true
			}
		}
	}
	return s, false
}

// isFirst reports whether no other queue of the topic, one of another class from before, is to be emptied first. Caller holds mu.
func (b *outbox) isFirst(q *queue) bool {
	for _, other := range b.byTopic[q.topic] {
		if other != q && (other.flight != 0 || other.number < q.number && other.records > 0) {
			return false
		}
	}
	return true
}

// begin returns the head of a queue. Caller holds mu.
func (b *outbox) begin(q *queue) (s sending, ok bool) {
	// What is deleted a little later is recognised after a crash as long as it is near the head, and what follows it is on the disk too.
	switch {
	case q.kept < q.first && !q.onDisk():
		q.spare = q.first
		_ = b.commit(durable) // without a disk it has to go on; that is logged
	case q.first-q.kept >= maxKept:
		for _, q := range b.list { // one commit for all
			if q.first > leastKept {
				q.spare = max(q.spare, q.first-leastKept)
			}
		}
		_ = b.commit(durable)
	}
	e, err := q.head(b.store)
	if err != nil || e == nil {
		return s, false
	}
	r, err := q.body(b.store, e)
	if err != nil {
		_ = b.fail(err)
		return s, false
	}
	q.flight = e.order
	b.flights[e.order] = q
	return sending{record: r, order: e.order, stream: q.stream, doubt: q.doubt}, true
}

// firstIDs returns the ids of what a crash may have left of the topic of a sending: if the engine has one of them, it has those before it.
func (b *outbox) firstIDs(order uint64) (ids []string) {
	b.mu.Lock()
	defer b.unlock()
	q := b.flights[order]
	if q == nil {
		return nil
	}
	if err := q.look(b.store, maxKept+1); err != nil {
		return nil
	}
	for _, list := range [][]entry{q.ahead, q.recent} {
		for i := range list {
			if len(ids) > maxKept {
				return ids
			}
			ids = append(ids, list[i].id)
		}
	}
	return ids
}

// stored says that the engine has n records of the topic of a sending, that one first, which is 1 but after a crash.
func (b *outbox) stored(order uint64, stream string, n int) {
	b.mu.Lock()
	defer b.unlock()
	q := b.land(order)
	if q == nil {
		return
	}
	q.stream = stream
	q.doubt = false
	if q.fate != nil { // dropped, and it arrived all the same
		q.fate = nil
		n--
	}
	if e, err := q.head(b.store); n > 0 && err == nil && e != nil && e.order != order { // the disk came back meanwhile, with older ones
		if e, found := q.skip(order); found && e.value != nil {
			b.memory -= e.size
		}
		n, q.doubt = 0, true
	}
	for ; n > 0; n-- {
		if e, err := q.head(b.store); err != nil || e == nil {
			return
		}
		b.pop(q)
	}
	b.nudge()
}

// unsent says that a sending did not go out, or with doubt that this is not known.
func (b *outbox) unsent(order uint64, doubt bool) {
	b.mu.Lock()
	defer b.unlock()
	q := b.land(order)
	if q == nil {
		return
	}
	q.doubt = q.doubt || doubt
	b.landed(q)
}

// hopeless says that the engine will never take a sending, and why: it is lost.
func (b *outbox) hopeless(order uint64, why string) {
	b.mu.Lock()
	defer b.unlock()
	q := b.land(order)
	if q == nil {
		return
	}
	q.doubt = false
	if q.fate != nil {
		b.landed(q)
		return
	}
	if e, err := q.head(b.store); err == nil && e != nil && e.order == order {
		b.drop(q, why)
	}
	b.nudge()
}

// land ends a flight. Caller holds mu.
func (b *outbox) land(order uint64) *queue {
	q := b.flights[order]
	if q == nil {
		return nil
	}
	delete(b.flights, order)
	q.flight = 0
	return q
}

// landed counts as lost what was dropped while it was sent, and did not arrive. Caller holds mu.
func (b *outbox) landed(q *queue) {
	if e := q.fate; e != nil {
		q.fate = nil
		b.lose(q.class, uint64(e.count), e.arrival, q.why)
	}
}
