package client

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/internal/store"
)

// A spool is the outbox on disk, in Options.Dir. What Publish has accepted is there, and what is needed to go on after this
// process was killed as if it had not been:
//
//   - a record per publication, committed before Publish returns. While there is a connection nothing is written: the broker's
//     acknowledgement makes a message safe. When the connection is lost, what it leaves unacknowledged is written.
//   - at QoS 2 the packet identifier, before the first PUBLISH with it, and that PUBREC was received, before PUBREL: a
//     message that comes to the broker under another identifier, or after PUBREL once more, is another message to it [MQTT-4.3.3-10].
//
// Removals are late, by spoolLaziness at most: what is sent again after PUBCOMP is a PUBREL, which does no harm.
//
// One goroutine commits; many changes share one sync. When the disk fails, what would have been accepted is refused, but for
// safety topics, which stay in memory and go out; the rest is tried again.
type spool struct {
	disk *store.Store
	kick chan struct{}
	quit chan struct{}
	done chan struct{}

	// Guarded by Client.mu.
	changes []spooled
	seq     uint64 // of the last publication
	lazy    bool   // changes are there that nobody waits for, and a timer runs for them
	failing bool
	closed  bool
}

const (
	spoolLaziness = 20 * time.Millisecond
	spoolRetry    = 250 * time.Millisecond
	// spoolPatience is how long what concerns safety waits for the disk before it is sent.
	spoolPatience = 100 * time.Millisecond
	// spoolNumbers is how many stored publications have an identifier ahead of their turn. The others are for what is not
	// stored, and for safety.
	spoolNumbers = sendMaximum / 2
)

// A spooled change is one of: the record of a publication, its state, or its removal.
type spooled struct {
	what     spoolOp
	p        *publication
	seq      uint64
	record   []byte // of spoolKeep
	id       uint16 // of spoolState
	released bool   // of spoolState
}

type spoolOp uint8

const (
	spoolKeep spoolOp = iota
	spoolState
	spoolForget
)

// spoolStep is how far a publication is with the spool.
type spoolStep uint8

const (
	unspooled spoolStep = iota
	numbering           // its identifier is being stored
	numbered            // it is stored
	releasing           // that PUBREC was received is being stored
)

func newSpool(disk *store.Store) *spool {
	return &spool{disk: disk, kick: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{})}
}

// spools reports whether p belongs on the disk: what dies with this process, as a call's request does, has no place there.
func (c *Client) spools(p *publication) bool {
	return c.spool != nil && !c.spool.closed && p.call == nil && !p.birth && !p.volatile
}

// store writes p to the disk, and accepts it when that is done. Client.mu is held, as in all that follows.
func (c *Client) store(p *publication) {
	if p.safe || p.seq != 0 {
		return
	}
	s := c.spool
	s.seq++
	p.seq = s.seq
	s.add(spooled{what: spoolKeep, p: p, seq: p.seq, record: p.appendRecord(nil)})
	if p.qos == 2 && p.id != 0 {
		p.step = numbered
		s.add(spooled{what: spoolState, p: p, seq: p.seq, id: p.id, released: p.released})
	}
}

// number gives p and those behind it in its lane identifiers, which are stored together.
func (c *Client) number(p *publication) {
	urgent := p.lane() == safetyLane
	for n := 0; n < spoolNumbers && p != nil && (urgent || c.ahead < spoolNumbers) && c.used < sendMaximum; n, p = n+1, p.next {
		if !p.numbers() || p.step != unspooled {
			continue
		}
		c.reserve(p)
		p.step = numbering
		c.spool.add(spooled{what: spoolState, p: p, seq: p.seq, id: p.id})
		switch {
		case c.spool.failing:
			p.step = numbered
		case urgent:
			soon := p
			time.AfterFunc(spoolPatience, func() { c.hasten(soon) })
		}
	}
}

// numbers reports whether p needs an identifier that is stored.
func (p *publication) numbers() bool { return p.seq != 0 && p.qos == 2 }

// hasten sends p, which concerns safety, though the disk is slow. At worst this process is killed too, and p comes twice.
func (c *Client) hasten(p *publication) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.seq == 0 || p.step != numbering {
		return
	}
	p.step = numbered
	if c.link != nil {
		c.pump(c.link)
	}
}

// unnumber takes p's former identifier off the disk, since the broker knows nothing of it.
func (c *Client) unnumber(p *publication) {
	if p.step != unspooled {
		p.step = unspooled
		c.spool.add(spooled{what: spoolState, p: p, seq: p.seq})
	}
}

// noteRelease stores that the broker has p, after which PUBREL is sent.
func (c *Client) noteRelease(p *publication) {
	if p.step == releasing {
		return
	}
	p.step = releasing
	c.spool.add(spooled{what: spoolState, p: p, seq: p.seq, id: p.id, released: true})
	if c.spool.failing {
		c.spoolStepDone(p, true)
	}
}

// forget removes p.
func (s *spool) forget(p *publication) {
	seq := p.seq
	p.seq = 0
	if s.closed {
		return
	}
	s.changes = append(s.changes, spooled{what: spoolForget, seq: seq})
	if !s.lazy && !s.failing {
		s.lazy = true
		time.AfterFunc(spoolLaziness, s.wake)
	}
}

func (s *spool) add(change spooled) {
	if s.closed {
		return
	}
	s.changes = append(s.changes, change)
	s.wake()
}

func (s *spool) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// commitSpool is the spool's goroutine.
func (c *Client) commitSpool() {
	s := c.spool
	defer close(s.done)
	var b store.Batch
	for last := false; !last; {
		select {
		case <-s.kick:
		case <-s.quit:
			last = true
		}
		c.mu.Lock()
		changes := s.changes
		s.changes, s.lazy = nil, false
		if last {
			s.closed = true
		}
		c.mu.Unlock()
		if len(changes) == 0 {
			continue
		}
		b.Reset()
		for i := range changes {
			changes[i].put(&b)
		}
		err := s.disk.Commit(&b)
		c.mu.Lock()
		c.spoolDone(changes, err)
		c.mu.Unlock()
		if err != nil && !last {
			select {
			case <-time.After(spoolRetry):
				s.wake()
			case <-s.quit:
				last = true
			}
		}
	}
}

// put adds the change to a batch.
func (x *spooled) put(b *store.Batch) {
	switch x.what {
	case spoolKeep:
		b.Set(recordKey(x.seq), x.record)
	case spoolState:
		state := binary.BigEndian.AppendUint16(nil, x.id)
		if x.released {
			state = append(state, 1)
		}
		b.Set(stateKey(x.seq), state)
	case spoolForget:
		b.Delete(recordKey(x.seq))
		b.Delete(stateKey(x.seq))
	}
}

// spoolDone takes in that changes are on the disk, or why not.
func (c *Client) spoolDone(changes []spooled, err error) {
	s := c.spool
	if failing := err != nil; failing != s.failing {
		s.failing = failing
		if failing {
			c.opts.Logger.Error("the outbox cannot be stored", "dir", c.opts.Dir, "error", err)
		} else {
			c.opts.Logger.Info("the outbox is stored again", "dir", c.opts.Dir)
		}
	}
	var again []spooled
	for i := range changes {
		x := &changes[i]
		p := x.p
		switch {
		case x.what == spoolForget:
			if err != nil {
				again = append(again, *x)
			}
		case p.seq != x.seq: // it has ended meanwhile
		case x.what == spoolKeep && err == nil:
			p.accept(nil)
		case x.what == spoolKeep:
			if c.unspooled(p, err) {
				again = append(again, *x)
			}
		default:
			// A failing disk holds nothing back: at worst this process is killed too, and a message comes twice.
			if err != nil {
				c.stats.unstored.Add(1)
				again = append(again, *x)
			}
			if x.id == p.id {
				c.spoolStepDone(p, x.released)
			}
		}
	}
	s.changes = append(again, s.changes...)
	if c.link != nil {
		c.pump(c.link)
	}
	c.settled()
}

// unspooled notes that p could not be stored. It reports whether that is to be tried again: what concerns safety goes out of the
// memory, all else is refused unless it is on its way already.
func (c *Client) unspooled(p *publication, err error) bool {
	c.stats.unstored.Add(1)
	if c.link != nil && c.link.ready {
		return true // the broker makes it safe
	}
	err = fmt.Errorf("%w: %w", ErrNotStored, err)
	if p.lane() == safetyLane || !p.queued {
		p.accept(err)
		return true
	}
	c.box.remove(p)
	p.lose(err)
	c.roomMade()
	return false
}

// spoolStepDone takes p a step further.
func (c *Client) spoolStepDone(p *publication, released bool) {
	switch {
	case p.step == numbering:
		p.step = numbered
	case p.step == releasing && released:
		p.step = numbered
		p.released = true
		if l := c.link; l != nil && !l.farewell && (c.resend == nil || p.link == l) {
			l.out = packet.AppendAck(l.out, packet.PUBREL, l.version, p.id, packet.Success)
			l.push()
		}
	}
}

// stop commits what is left.
func (s *spool) stop() {
	if s == nil {
		return
	}
	close(s.quit)
	<-s.done
}

// disown notes that what could not be committed is not on the disk.
func (s *spool) disown() {
	if s == nil {
		return
	}
	for i := range s.changes {
		if x := &s.changes[i]; x.what == spoolKeep && x.p.seq == x.seq {
			x.p.seq = 0
		}
	}
}

// unfinished reports whether the broker may have, in its session, a message of QoS 2 that the next process will send: if that
// session ended, it would be another message to the broker.
func (c *Client) unfinished() bool {
	for p := c.flight.head; p != nil; p = p.next {
		if p.qos == 2 && !p.released && c.spools(p) {
			return true
		}
	}
	for i := range c.box.lanes {
		for p := c.box.lanes[i].head; p != nil; p = p.next {
			if p.again {
				return true
			}
		}
	}
	return false
}

func recordKey(seq uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{outboxKey, 'b'}, seq)
}

func stateKey(seq uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{outboxKey, 's'}, seq)
}

// loadSpool reads the disk: what a process before this one has accepted waits to be sent, in its order.
func (c *Client) loadSpool() error {
	s := c.spool
	all := make(map[uint64]*publication)
	err := s.disk.Scan([]byte{outboxKey}, func(key, value []byte) error {
		if len(key) != 10 {
			return nil
		}
		seq := binary.BigEndian.Uint64(key[2:])
		s.seq = max(s.seq, seq)
		switch key[1] {
		case 'b':
			p, err := c.readRecord(value)
			if err != nil {
				_ = c.reject(sending, "", "", err)
				c.opts.Logger.Error("a stored message cannot be read and is left out", "dir", c.opts.Dir, "error", err)
				s.changes = append(s.changes, spooled{what: spoolForget, seq: seq})
				return nil
			}
			p.seq, p.safe = seq, true
			all[seq] = p
		case 's':
			if p := all[seq]; p != nil && len(value) >= 2 && p.qos == 2 { // 'b' sorts before 's'
				p.id = binary.BigEndian.Uint16(value)
				p.released = len(value) > 2
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("outbox in %s: %w", c.opts.Dir, err)
	}
	for _, seq := range slices.Sorted(maps.Keys(all)) {
		p := all[seq]
		switch {
		case p.id == 0 || !c.take(p):
			p.id, p.released = 0, false
			c.box.add(p)
		case p.released:
			p.step = numbered
			c.begin(p)
		default: // in its turn, as what was before it on its topic may have to be sent again too
			p.step, p.again = numbered, true
			c.box.add(p)
		}
	}
	if n := len(all); n > 0 {
		c.opts.Logger.Info("messages of a former process wait to be sent", "messages", n, "dir", c.opts.Dir)
	}
	return nil
}
