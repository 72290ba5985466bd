package client

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

const (
	// highWater is how many bytes may wait to be written before publications have to wait in the outbox, where safety
	// topics can overtake them. Acknowledgements are always appended.
	highWater = 64 << 10
	// maxSpare is the largest write buffer that is kept for reuse.
	maxSpare = 256 << 10
	// lateness is how long an acknowledgement waits for company, or twice that, and lateSize how many bytes of them do.
	lateness = time.Millisecond
	lateSize = 24
	// slowLink is the rate, in bytes a second, below which a link that is written to counts as dead.
	slowLink = 8 << 10
	// maxPatience bounds how much longer a link that is written to may be silent.
	maxPatience = 30 * time.Second
	// leastLenience is what is added when the time for an answer is doubled first, however short it was.
	leastLenience = 2 * time.Second
	// maxLenience is how often the time for an answer is doubled.
	maxLenience = 4
)

// A link is one connection to the broker, after its CONNACK.
type link struct {
	conn    net.Conn
	version packet.Version
	rd      *packet.Reader
	server  server
	resumed bool // the broker had the session
	began   time.Time
	number  uint64 // of the connections that were ready, 0 before; guarded by Client.mu

	// Guarded by Client.mu.
	out        []byte      // what is written next
	spare      []byte      // the other buffer, empty
	unwritten  []written   // QoS 0 in out
	cur        []byte      // what is being written
	done       int         // bytes of cur that are written
	inWrite    []written   // QoS 0 in cur
	writing    bool        // somebody is at it
	urgent     bool        // out holds what is to be written soon
	due        bool        // delay runs
	writes     uint64      // how often something was written
	seen       uint64      // what writes was when delay began
	rests      sync.Cond   // writing has ended
	delay      *time.Timer // of what is written late
	quota      int         // QoS 1 and 2 that may be sent before another is acknowledged [MQTT-4.9.0-2]
	reserve    int         // of it, what only safety topics may use
	setup      bool        // subscriptions are restored; birth messages may be sent
	ready      bool        // the outbox drains
	farewell   bool        // out ends with a DISCONNECT: nothing may follow [MQTT-3.14.4-2]
	err        error       // why it ended
	ackAhead   int         // unacknowledged messages at which slow handlers are not waited for
	ackBlocked int         // finished messages behind an unfinished one, at which neither
	open       int         // QoS 1 and 2 received and not acknowledged to the end

	late    bool                            // the broker does not mind late acknowledgements
	reading atomic.Bool                     // the reader has work, and will write what there is when it is done
	attempt func(b []byte) (n int, ok bool) // writes what can be written at once; nil if the link has no such thing; for who has set writing

	wake  chan struct{}  // the writer has something to do
	down  chan struct{}  // closed when the link has failed
	loops sync.WaitGroup // reader, writer, watch
	once  sync.Once

	keepAlive time.Duration
	roundTrip time.Duration // of CONNECT and CONNACK, then of what watch asks; of watch
	heard     atomic.Bool   // anything, since watch last looked
	answered  atomic.Bool   // by something that shows that the broker hears us, since watch last looked
	sent      atomic.Int64  // bytes
	spoke     atomic.Bool   // since watch last looked
	unheard   atomic.Int64  // bytes written since an answer
}

// written is a publication of QoS 0 in a write buffer, and the offset of its end.
type written struct {
	p   *publication
	end int
}

// server is what CONNACK says the broker can do.
type server struct {
	receiveMaximum int
	maxPacket      int // bytes
	maxQoS         byte
	retain         bool
	wildcard       bool
	identifiers    bool // subscription identifiers, which need MQTT 5
	shared         bool
	sessionExpiry  time.Duration // that the broker has granted instead; negative is none
}

// push sees to it that what was appended is written: by the reader, if it is at work and that is little, else by the writer.
// Client.mu is held.
func (l *link) push() {
	l.urgent = true
	if l.reading.Load() && len(l.out) < nowSize {
		return
	}
	l.wakeWriter()
}

// pushLate is push for an acknowledgement that nobody waits for. A few of those wait a moment for something to leave with: a command and
// its answer have eight, which cost more than they do when each goes alone. Client.mu is held.
func (c *Client) pushLate(l *link) {
	switch {
	case !l.late || len(l.out) > lateSize:
		l.push()
	case !l.reading.Load():
		c.writeSoon(l)
	}
}

// writeSoon has what is there written within twice lateness. Client.mu is held.
func (c *Client) writeSoon(l *link) {
	if l.due {
		return
	}
	l.due, l.seen = true, l.writes
	if l.delay == nil {
		l.delay = time.AfterFunc(lateness, func() { c.writeLate(l) })
	} else {
		l.delay.Reset(lateness)
	}
}

// writeLate writes what is there, unless that is newer than the last write and so may wait a little more.
func (c *Client) writeLate(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l.due = false
	switch {
	case l.writes == l.seen:
		c.writeNow(l)
	case len(l.out) > 0:
		c.writeSoon(l)
	}
}

func (l *link) wakeWriter() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// close ends the connection at once, whatever its goroutines are doing.
func (l *link) close() {
	l.once.Do(func() {
		close(l.down)
		_ = l.conn.Close()
	})
}

// fail ends l and notes why; the first reason stays.
func (c *Client) fail(l *link, err error) {
	c.mu.Lock()
	if l.err == nil && !l.farewell { // the end after a DISCONNECT of ours is no failure
		l.err = err
	}
	if l.number != 0 {
		c.connection.CompareAndSwap(l.number, 0)
	}
	c.mu.Unlock()
	l.close()
}

// watch keeps the connection alive and notices when it is dead [MQTT-3.1.2-20]. It looks every quarter of Probe: a PINGREQ after
// four quarters without an answer, the end after ten. Only what shows that the broker hears us counts as an answer, so
// that a link which is dead in that direction alone is noticed too.
//
// An answer may be late because of what is on its way before it:
//   - what we have sent before the PINGREQ: while the other side's kernel still takes it in, or for a second per 8 KiB where that cannot be told;
//   - a long way: it has twice the time that the latest answers took;
//   - what we are sent. That cannot be told from a link that is dead one way, so such a link is given up, and the next one has
//     twice as long, and 2 s more at least, until there is an answer in time.
func (c *Client) watch(l *link) {
	defer l.loops.Done()
	const probeAt, deadAt = 4, 10
	const busyStill = 2 // one that has been still for longer is not busy: what came before was on its way already
	tick := c.opts.Probe / 4
	if l.keepAlive > 0 {
		tick = min(tick, l.keepAlive/4)
	}
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	silent, quiet := 0, 0     // ticks without an answer, without anything sent
	still := 0                // ticks without anything received
	var asked time.Time       // when the latest PINGREQ was, while it is not answered
	var flowing, progress int // ticks of silent in which something was received, in which bytes before the PINGREQ were taken in
	taken := int64(-1)        // bytes of ours that the other side's kernel has taken in
	question := int64(0)      // where the latest PINGREQ ends among them
	for {
		select {
		case <-l.down:
			return
		case <-ticker.C:
		}
		silent, quiet, still = silent+1, quiet+1, still+1
		if l.heard.Swap(false) {
			flowing++
			still = 0
		}
		if l.answered.Swap(false) {
			if silent <= deadAt {
				c.lenience.Store(0)
			}
			silent, flowing, progress = 0, 0, 0
			l.unheard.Store(0)
			if !asked.IsZero() { // at the latest
				l.roundTrip = max(time.Since(asked), l.roundTrip*3/4)
				asked = time.Time{}
			}
		}
		if l.spoke.Swap(false) {
			quiet = 0
		}
		patience := min(time.Duration(l.unheard.Load())*time.Second/slowLink, maxPatience)
		if queued, ok := unsent(l.conn); ok {
			if now := l.sent.Load() - int64(queued); now != taken {
				if now < question {
					progress++
				}
				taken = now
			}
			patience = min(time.Duration(progress)*tick, maxPatience)
		}
		if far := 2*l.roundTrip - (deadAt-probeAt)*tick; far > 0 {
			patience += far
		}
		patience += max((deadAt-probeAt)*tick, leastLenience) * time.Duration(1<<c.lenience.Load()-1)
		if silent >= deadAt+int(patience/tick) {
			if flowing > (silent-probeAt)/2 && still <= busyStill {
				c.lenience.Store(min(c.lenience.Load()+1, maxLenience))
			}
			c.fail(l, errSilent)
			return
		}
		idle := l.keepAlive > 0 && time.Duration(quiet+2)*tick >= l.keepAlive
		if silent == probeAt || idle {
			asked = time.Now()
			c.mu.Lock()
			if !l.farewell {
				l.out = append(l.out, pingreq...)
				question = l.sent.Load() + int64(len(l.cur)-l.done+len(l.out))
				l.push()
			}
			c.mu.Unlock()
		}
	}
}

const pingreq = "\xc0\x00"
