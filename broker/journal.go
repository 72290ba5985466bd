package broker

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lawnberry/lawnberry/internal/store"
)

// A journal keeps what must outlive the broker: sessions with an expiry, their subscriptions, the QoS 1 and 2 messages
// that they have not got yet, packet identifiers in use, retained messages and Wills. Memory is what the broker works with;
// the journal is written, and read only at the start.
//
// Changes are collected in a group while the one before is being committed. A transaction adds its changes to one group, so
// that they become durable together or not at all. Whoever has to wait for that waits for the group: answers to
// publishers are held back by their connection, QoS 2 messages by their session's queue. QoS 1 messages are sent before
// they are durable: at worst their publisher sends them again. QoS 2 messages are not, since after a crash a message that
// its publisher sends again could not be recognised as the one that a subscriber has got already.
//
// When a group cannot be stored, its messages are refused and what else was in it is kept to be stored with the
// next one, and so are messages that nobody could be told of, such as Wills. Until that succeeds no message is taken that
// would need storing.
type journal struct {
	broker  *Broker
	store   *store.Store
	failing atomic.Bool // the last group could not be stored

	gate    sync.RWMutex          // a transaction holds it for reading, who cuts a group off for writing
	open    *group                // the group that takes changes, nil when the journal is closed; guarded by gate
	current atomic.Pointer[group] // the same, for those who do not add to it
	nextID  atomic.Uint64         // the number of the next session

	kick chan struct{} // somebody waits for the open group
	lazy atomic.Bool   // the open group has changes that nobody waits for, and a timer runs for them
	quit chan struct{}
	done chan struct{}

	// Owned by run.
	batch  store.Batch
	clock  anchor
	carry  map[string][]byte // what is yet to be stored after a failure; nil is a deletion
	gone   []uint64          // sessions whose records are yet to be removed after a failure
	past   *group            // the group of everything that was read at the start
	failed time.Time         // of the first failure in a row
}

const (
	laziness   = 20 * time.Millisecond  // how long changes wait that nobody waits for
	retryStore = 250 * time.Millisecond // between attempts while the store fails
)

// The states of a group.
const (
	pending int32 = iota
	committed
	failed
)

// A group is changes that are committed together.
type group struct {
	state atomic.Int32
	done  chan struct{} // closed when the state is no longer pending

	mu       sync.Mutex // guards everything below, until the group is cut off
	ops      []op
	retained map[string]*message // by topic; nil removes
	conns    []*conn             // that hold answers until the group is done
	sessions []*session          // that hold messages until the group is done
}

func newGroup() *group { return &group{done: make(chan struct{})} }

// await has c released when the group is done; false is that it is done already.
func (g *group) await(c *conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state.Load() != pending {
		return false
	}
	g.conns = append(g.conns, c)
	return true
}

// finish sets the state and lets go those who wait for it.
func (g *group) finish(state int32) {
	g.mu.Lock()
	g.state.Store(state)
	conns, sessions := g.conns, g.sessions
	g.ops, g.retained, g.conns, g.sessions = nil, nil, nil, nil
	g.mu.Unlock()
	close(g.done)
	for _, c := range conns {
		c.release()
	}
	for _, s := range sessions {
		s.mu.Lock()
		if s.conn != nil {
			s.conn.wake.Signal()
		}
		s.mu.Unlock()
	}
}

// A txn is changes that become durable together. Its zero value, not begun, takes none.
//
// It is begun before any other lock is taken, and ends without waiting for anybody.
type txn struct {
	group    *group // nil when nothing is to be stored
	failing  bool   // messages that need storing cannot be taken now
	added    bool   // something was added
	wanted   bool   // somebody waits for it
	unstored bool   // a message was not taken because the store fails
	by       *conn  // the publisher's connection, or nil
	owed     bool   // its messages were accepted before, or have no publisher who could be told that the store fails
}

// begin begins a transaction.
func (b *Broker) begin(t *txn) {
	*t = txn{}
	j := b.journal
	if j == nil {
		return
	}
	j.gate.RLock()
	if j.open == nil {
		j.gate.RUnlock()
		return
	}
	t.group = j.open
	t.failing = j.failing.Load()
}

// finish ends a transaction. The group is committed soon, and at once when the transaction is wanted.
func (b *Broker) finish(t *txn) {
	if t.group == nil {
		return
	}
	j := b.journal
	j.gate.RUnlock()
	switch {
	case !t.added:
	case t.wanted:
		j.hurry()
	case j.lazy.CompareAndSwap(false, true):
		time.AfterFunc(laziness, j.hurry)
	}
}

// durable returns the group that what t added becomes durable with, nil when t added nothing.
func (t *txn) durable() *group {
	if !t.added {
		return nil
	}
	return t.group
}

// add adds o and returns its index in the group.
func (t *txn) add(o op) uint32 {
	if t.group == nil {
		return 0
	}
	t.added = true
	g := t.group
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ops = append(g.ops, o)
	return uint32(len(g.ops) - 1)
}

// keep stores it in the queue of s, whose mu the caller holds.
func (t *txn) keep(s *session, it *item) {
	it.group, it.owed = t.group, t.owed
	it.op = t.add(op{kind: putItem, session: s.number, item: *it, owed: t.owed})
	t.wanted = true
	if it.qos == 2 && s.awaited != t.group {
		s.awaited = t.group
		t.group.mu.Lock()
		t.group.sessions = append(t.group.sessions, s)
		t.group.mu.Unlock()
	}
}

// discard removes it from the stored queue of s, whose mu the caller holds.
func (t *txn) discard(s *session, it *item) {
	switch {
	case it.group == nil || t.group == nil:
	case it.group == t.group: // not written yet, and so it never will be
		t.group.mu.Lock()
		t.group.ops[it.op] = op{}
		t.group.mu.Unlock()
	default:
		t.add(op{kind: deleteItem, session: s.number, order: it.order})
	}
}

// retain stores m as the retained message of topic, or removes it when m is nil. The caller holds the topic's stripe.
func (t *txn) retain(topic string, m *message) {
	if t.group == nil || reserved(topic) {
		return
	}
	t.added = true
	g := t.group
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.retained == nil {
		g.retained = make(map[string]*message)
	}
	g.retained[topic] = m
}

// hurry has the open group committed as soon as the one before is.
func (j *journal) hurry() {
	select {
	case j.kick <- struct{}{}:
	default:
	}
}

// run commits group after group until the journal is closed.
func (j *journal) run() {
	defer close(j.done)
	clock := time.NewTicker(time.Second) // notices that the wall clock was set
	defer clock.Stop()
	for {
		select {
		case <-j.kick:
		case <-clock.C:
		case <-j.quit:
			j.commit(j.cut(nil), true)
			return
		}
		j.commit(j.cut(newGroup()), false)
		if j.failing.Load() {
			select {
			case <-time.After(retryStore):
				j.hurry()
			case <-j.quit:
			}
		}
	}
}

// cut opens next and returns the group that was open, to which nobody adds any more.
func (j *journal) cut(next *group) *group {
	j.gate.Lock()
	defer j.gate.Unlock()
	g := j.open
	j.open = next
	if next != nil {
		j.current.Store(next)
	}
	j.lazy.Store(false)
	return g
}

// commit makes g durable, and what is left from before. last is that nothing follows.
func (j *journal) commit(g *group, last bool) {
	defer j.batch.Reset()
	for _, n := range j.gone {
		from, to := sessionRange(n)
		j.batch.DeleteRange(from, to)
	}
	for key, value := range j.carry {
		if value == nil {
			j.batch.Delete([]byte(key))
		} else {
			j.batch.Set([]byte(key), value)
		}
	}
	w := recordWriter{batch: &j.batch}
	for i := range g.ops {
		g.ops[i].write(&w)
	}
	for topic, m := range g.retained {
		w.retained(topic, m)
	}
	clock, due := j.clock.read(j.broker, last || j.batch.Len() > 0)
	if due || j.failing.Load() { // there is always something to find out with whether the store works again
		j.batch.Set(clockKey, clock.append(nil))
		due = true
	}
	if j.batch.Len() == 0 {
		g.finish(committed)
		return
	}
	if err := j.store.Commit(&j.batch); err != nil {
		j.fail(g, err)
		return
	}
	if due {
		j.clock = clock
	}
	clear(j.carry)
	j.gone = nil
	if j.failing.Swap(false) {
		j.broker.log.Warn("the store takes messages again", "after", time.Since(j.failed).String())
	}
	g.finish(committed)
}

// fail keeps what of g is state rather than a message for the next attempt, and the messages that are owed. Whether g is in
// the store is not known, so the others are removed.
func (j *journal) fail(g *group, err error) {
	if !j.failing.Swap(true) {
		j.failed = time.Now()
		j.broker.log.Error("the store fails: QoS 1 and 2 messages that need storing are refused until it works again", "error", err)
	}
	j.broker.stats.storeFailures.Add(1)
	if j.carry == nil {
		j.carry = make(map[string][]byte)
	}
	w := recordWriter{carry: j.carry}
	for i := range g.ops {
		switch o := &g.ops[i]; {
		case o.owed:
		case o.kind == putItem:
			o.kind, o.order = deleteItem, o.item.order
		case o.kind == putInbound:
			o.kind = deleteInbound
		case o.kind == deleteSession:
			j.gone = append(j.gone, o.session)
		}
		g.ops[i].write(&w)
	}
	for topic, m := range g.retained {
		w.retained(topic, m)
	}
	g.finish(failed)
}

// close commits what is left and closes the store.
func (j *journal) close() error {
	close(j.quit)
	<-j.done
	var lost error
	if j.failing.Load() {
		lost = fmt.Errorf("broker: %d changes could not be stored", len(j.carry))
	}
	if err := j.store.Close(); err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	return lost
}
