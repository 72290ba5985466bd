package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/store"
)

// An outbox keeps the history until the engine has it. Records of durable classes (events and alerts) are on the disk when add has returned nil;
// others are in memory until spill. What is done with is deleted a little later: so the engine is asked about the first records of each
// topic after a restart. Its methods may be called concurrently.
type outbox struct {
	dir    string
	fs     vfs.FS // for tests; nil is the system's
	log    *slog.Logger
	bounds Bounds
	clock  *clock
	wake   chan struct{} // holds a token when there may be something to send

	state atomic.Pointer[outboxState] // as it was after the last change

	mu         sync.Mutex // guards the fields below
	store      *store.Store
	failed     error // why nothing can be written now; nil when it can
	tried      time.Time
	closed     bool
	queues     map[uint32]*queue
	list       []*queue // alerts, then events, then telemetry
	byTopic    map[string][]*queue
	number     uint32 // of the last queue
	order      uint64 // of the last record
	turn       int
	flights    map[uint64]*queue // by the order of the record that is being sent
	losses     fleet.Losses
	unreported fleet.Losses
	lossDirty  bool
	seen       *recently // durable records
	memory     int64     // bytes that are in memory only
	duplicates uint64
}

// An outboxState is what waits, and what was lost.
type outboxState struct {
	backlog    fleet.Backlog
	losses     fleet.Losses
	inMemory   int64 // bytes
	duplicates uint64
	failed     error
}

var (
	errNoStore = errors.New("the outbox has no disk")
	errClosed  = errors.New("the outbox is closed")
)

const (
	maxTopics    = 1000             // of a class that have something in the outbox at once
	memoryBound  = 4 << 20          // bytes that are held without a disk
	spillAt      = 256 << 10        // bytes that are held while there is one
	spillAge     = 10 * time.Second // how long they are
	reopenPause  = 10 * time.Second
	seenIDs      = 4096
	deletionsLag = time.Second
)

// openOutbox opens the outbox in a directory. A directory that cannot be used is no error: the outbox works in memory until it can.
func openOutbox(dir string, bounds Bounds, c *clock, fs vfs.FS, log *slog.Logger) (*outbox, error) {
	b := &outbox{
		dir: dir, fs: fs, log: log, bounds: bounds.withDefaults(), clock: c, wake: make(chan struct{}, 1),
		queues: map[uint32]*queue{}, flights: map[uint64]*queue{}, byTopic: map[string][]*queue{}, losses: fleet.Losses{}, unreported: fleet.Losses{}, seen: newRecently(seenIDs),
	}
	b.order = uint64(max(0, c.wall().UnixMicro())) // no two runs give the same, also without the disk
	b.mu.Lock()
	defer b.unlock()
	if err := b.openStore(); err != nil {
		var locked *store.LockedError
		if errors.As(err, &locked) {
			return nil, err
		}
		_ = b.fail(err)
	}
	b.enforce()
	return b, nil
}

func durable(c fleet.Class) bool { return c == fleet.Event || c == fleet.Alert }

// insert and remove keep the three collections of queues. Caller holds mu.
func (b *outbox) insert(q *queue) {
	b.queues[q.number] = q
	b.byTopic[q.topic] = append(b.byTopic[q.topic], q)
	slices.SortFunc(b.byTopic[q.topic], func(a, c *queue) int { return int(int64(a.number) - int64(c.number)) })
	b.list = append(b.list, q)
	classes := fleet.Classes()
	slices.SortStableFunc(b.list, func(a, c *queue) int { return slices.Index(classes, c.class) - slices.Index(classes, a.class) })
}

func (b *outbox) remove(q *queue) {
	delete(b.queues, q.number)
	b.list = slices.DeleteFunc(b.list, func(x *queue) bool { return x == q })
	if b.byTopic[q.topic] = slices.DeleteFunc(b.byTopic[q.topic], func(x *queue) bool { return x == q }); len(b.byTopic[q.topic]) == 0 {
		delete(b.byTopic, q.topic)
	}
}

// pop removes the head of a queue, which was looked at. Caller holds mu.
func (b *outbox) pop(q *queue) entry {
	e := q.pop()
	if e.value != nil {
		b.memory -= e.size
	}
	return e
}

// queueOf returns the queue of a topic and class, nil when there are too many. Caller holds mu.
func (b *outbox) queueOf(topic string, class fleet.Class) *queue {
	all := b.byTopic[topic]
	if n := len(all); n > 0 && all[n-1].class == class {
		return all[n-1]
	}
	if own := topic == fleet.OwnLosses || topic == fleet.OwnJobs; !own && !b.hasRoom(class) {
		return nil
	}
	b.number++
	q := &queue{number: b.number, topic: topic, class: class, kept: 1, first: 1, next: 1}
	b.insert(q)
	return q
}

// hasRoom makes room for one more queue of a class, if there is none. Each class has its own, so that readings do not keep alerts out. Caller holds mu.
func (b *outbox) hasRoom(class fleet.Class) bool {
	n := 0
	var finished []*queue
	for _, q := range b.list {
		if q.class != class {
			continue
		}
		if n++; q.records == 0 && q.flight == 0 {
			finished = append(finished, q)
		}
	}
	if n < maxTopics {
		return true
	}
	if len(finished) == 0 {
		return false
	}
	onDisk := false
	for _, q := range finished {
		q.spare = q.first
		if onDisk = onDisk || q.saved; !q.saved {
			b.remove(q)
			return true
		}
	}
	return onDisk && b.commit(durable) == nil
}

// add adds records, in their order. If one of them is of a durable class, they are on the disk when it returns nil; when it returns an error
// they are in memory, and written as soon as that is possible.
func (b *outbox) add(records ...*record) error {
	b.mu.Lock()
	defer b.unlock()
	if b.closed {
		return errClosed
	}
	return b.addLocked(records...)
}

// addLocked is add. Caller holds mu.
func (b *outbox) addLocked(records ...*record) error {
	write := false
	now := b.clock.now()
	for _, r := range records {
		if durable(r.class) {
			before, known := b.seen.topic(r.id)
			other := otherID(r.topic, r.id)
			if _, twice := b.seen.topic(other); twice || known && before == r.topic {
				b.duplicates++
				continue
			}
			if known { // somebody has said the same message on two topics, and the engine would take the second for a repetition
				renamed := *r
				renamed.id, r = other, &renamed
			}
			b.seen.add(r.id, r.topic)
			write = true
		}
		q := b.queueOf(r.topic, r.class)
		if q == nil {
			b.lose(r.class, uint64(r.count), r.arrival, "topics")
			continue
		}
		b.order++
		value := encodeRecord(r, b.order, now)
		e := entry{order: b.order, id: r.id, size: sizeOf(value), count: r.count, arrival: r.arrival, at: now, value: value}
		q.recent = append(q.recent, e)
		q.count(&e, 1)
		b.memory += e.size
	}
	b.enforce()
	var err error
	if write {
		err = b.commit(durable)
	}
	b.nudge()
	return err
}

func all(fleet.Class) bool { return true }

func writeLosses(batch *store.Batch, prefix byte, losses fleet.Losses) {
	for _, class := range fleet.Classes() {
		key := append([]byte{prefix}, class...)
		l, there := losses[class]
		text, err := json.Marshal(l)
		if !there || err != nil { // no time that a Loss has cannot be encoded
			batch.Delete(key)
			continue
		}
		batch.Set(key, text)
	}
}

// commit writes what has changed, and with it the records of some classes that are in memory only. Caller holds mu.
func (b *outbox) commit(spill func(fleet.Class) bool) error {
	if b.store == nil {
		if b.failed != nil && time.Since(b.tried) < reopenPause {
			return b.failed
		}
		if err := b.openStore(); err != nil {
			return b.fail(err)
		}
	}
	var batch store.Batch
	var dones []func()
	var gone []*queue
	for _, q := range b.list {
		if q.records == 0 && q.flight == 0 { // there may be holes
			q.first = q.next
		}
		with := spill(q.class) && len(q.recent) > 0
		if q.saved && !with && q.finished() {
			batch.Delete(queueKey(q.number))
			gone = append(gone, q)
		}
		if !with && q.unchanged() {
			continue
		}
		if with && !q.saved {
			name, err := json.Marshal(queueName{q.topic, q.class, q.stream})
			if err != nil {
				return err
			}
			batch.Set(queueKey(q.number), name)
		}
		done := q.write(&batch, with)
		dones = append(dones, func() { done(); q.saved = q.saved || with })
	}
	if b.lossDirty {
		writeLosses(&batch, keyLoss, b.losses)
		writeLosses(&batch, keyUnreported, b.unreported)
	}
	if batch.Len() == 0 && !b.clock.wasSet() {
		return nil
	}
	batch.Set([]byte{keyClock}, b.clock.save())
	if err := b.store.Commit(&batch); err != nil {
		return b.fail(err)
	}
	for _, done := range dones {
		done()
	}
	for _, q := range gone {
		q.saved = false
		b.remove(q)
	}
	b.lossDirty = false
	b.memory = 0
	for _, q := range b.list {
		for i := range q.recent {
			b.memory += q.recent[i].size
		}
	}
	if b.failed != nil {
		b.failed = nil
		b.log.Info("the outbox of the fleet is written again")
	}
	return nil
}

// fail notes that nothing can be written. Caller holds mu.
func (b *outbox) fail(err error) error {
	if b.failed == nil {
		b.log.Error("the outbox of the fleet cannot be written: what waits is in memory only, and little fits there; make room or repair the disk",
			"dir", b.dir, "error", err)
	}
	b.failed = err
	return err
}

// tick is called now and then: it writes what waits to be written, and drops what is too old. connected says whether the engine is there.
func (b *outbox) tick(connected bool) error {
	b.mu.Lock()
	defer b.unlock()
	if b.closed {
		return nil
	}
	b.enforce()
	for _, q := range b.list {
		q.letGo()
	}
	spill := durable
	now := b.clock.now()
	if !connected || b.memory > spillAt || b.failed != nil || slices.ContainsFunc(b.list, func(q *queue) bool {
		return len(q.recent) > 0 && now-q.recent[0].at > spillAge
	}) {
		spill = all
	}
	return b.commit(spill)
}

// close writes everything, and closes the disk. What could not be written is the error.
func (b *outbox) close() error {
	b.mu.Lock()
	defer b.unlock()
	if b.closed {
		return nil
	}
	b.tried = time.Time{}
	for _, q := range b.list {
		q.spare = q.first
	}
	err := b.commit(all)
	b.closed = true
	if b.memory > 0 {
		err = fmt.Errorf("%d bytes of history for the fleet are lost: %w", b.memory, err)
	}
	if b.store != nil {
		err = errors.Join(err, b.store.Close())
	}
	return err
}

// disk returns the disk, nil without one. Others may keep something on it too, under keys that begin with a letter of their own.
func (b *outbox) disk() *store.Store {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.store
}

func (b *outbox) nudge() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// unlock publishes the state of now, and unlocks.
func (b *outbox) unlock() {
	s := &outboxState{losses: fleet.Losses{}, inMemory: b.memory, failed: b.failed, duplicates: b.duplicates}
	s.backlog.ByClass = map[fleet.Class]int64{}
	now := b.clock.now()
	var oldest time.Duration
	for _, q := range b.list {
		s.backlog.Records += q.messages
		s.backlog.Bytes += q.bytes
		if q.messages > 0 {
			s.backlog.ByClass[q.class] += q.messages
			oldest = max(oldest, q.age(now))
		}
	}
	if s.backlog.Records > 0 {
		t := b.clock.wall().Add(-oldest)
		s.backlog.Oldest = &t
	}
	for c, l := range b.losses {
		s.losses[c] = l
	}
	b.state.Store(s)
	b.mu.Unlock()
}
