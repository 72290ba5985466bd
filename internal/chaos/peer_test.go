package chaos

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// A peer is one MQTT session as a client keeps it: bare, counting, and independent of the client package, so that a
// mistake of broker and client together still shows. Its state (what it sent and is not acknowledged, which QoS 2 messages
// it received and are not released, what came how often) survives its connections, and brokers too.
//
// It delivers a QoS 2 message with its first PUBLISH and forgets the identifier with its PUBREL. It resends what is
// unacknowledged, in order, when it resumes. Methods may be called concurrently, connect and keep excepted.
type peer struct {
	o      peerOptions
	number uint32 // in the payloads of what it publishes

	mu     sync.Mutex // guards everything below
	wake   sync.Cond  // work for the writer
	change sync.Cond  // for everybody else
	link   *link      // nil while there is no connection
	last   *link

	known    bool // the broker has had the session
	nextID   uint16
	sendings uint64
	limit    int // unacknowledged messages at once
	flights  map[uint16]*flight
	outgoing map[string]*outgoing // by topic
	inbound  map[uint16]struct{}  // QoS 2 identifiers received and not released
	waits    map[uint16]chan packet.Packet
	pings    []chan struct{}
	incoming map[streamID]*incoming
	counts   counts
	codes    map[packet.Code]int // what messages were refused with
	faults   []string            // what the broker did and may not do
	lost     bool                // the broker forgot the session
}

type peerOptions struct {
	ID         string
	Version    packet.Version // 0 is 5.0
	Expiry     uint32         // seconds that the session outlives its connection; with 3.1.1 anything but 0 is for ever
	Clean      bool           // the first connection is a clean start, the others resume; without Expiry all are clean
	KeepAlive  uint16         // seconds; the peer does not ping by itself
	ReceiveMax uint16         // of the peer (5.0); 0 is the protocol's
	Window     int            // unacknowledged messages at once, within what the broker allows; 0 is 512
	Size       int            // bytes of a payload; 0 is 200
	Will       *packet.Will
	Username   string
	Password   string
	ReadBuffer int // SO_RCVBUF; 0 is the system's

	// Through, when not nil, returns what the peer reads instead of a connection, which is how one is made slow.
	Through func(io.Reader) io.Reader

	// OnMessage, when not nil, is called with every message that is not a repeated QoS 2 PUBLISH, before it is counted and
	// acknowledged; false withholds the acknowledgement. What it blocks is the peer's reader.
	OnMessage func(*arrival) bool
}

// An arrival is one message received. What it refers to is valid during the call.
type arrival struct {
	*packet.Publish
	Seq       uint64
	Publisher uint32
	Delay     time.Duration // since it was first sent, or was due if that was earlier
	Stamped   bool          // it comes from a peer: Seq, Publisher and Delay mean something
}

// counts is what a peer has seen over all its connections.
type counts struct {
	Connects, Resumed                   int
	Sent, Resent, Acknowledged, Refused int // QoS 1 and 2; acknowledged at QoS 2 is PUBREC
	Received, Repeats                   int // messages; QoS 2 PUBLISHes that the identifier showed to be repeated
	Foreign                             int // without a peer's stamp
}

// A link is one connection of a peer.
type link struct {
	nc      net.Conn
	connack packet.Connack
	out     []byte // guarded by peer.mu
	dead    bool   // guarded by peer.mu
	ended   chan struct{}
	code    packet.Code // of the broker's DISCONNECT; valid once ended is closed
	told    bool        // there was one
	err     error       // why it ended; valid once ended is closed
}

// A flight is a message sent and not yet acknowledged to the end.
type flight struct {
	order    uint64
	topic    *outgoing
	seq      uint64
	at       int64
	size     int
	qos      byte
	retain   bool
	released bool // PUBREC has come
}

// outgoing is what was published on a topic. Its messages are numbered from 0.
type outgoing struct {
	name  string
	state []fate // by number
	again []int  // the numbers that were sent again on a new connection
}

type fate uint8

const (
	sent fate = iota
	acknowledged
	refused
)

type streamID struct {
	topic     string
	publisher uint32
}

// incoming is what came of one publisher on one topic.
type incoming struct {
	times      []uint8 // by number: how often it came, up to 255
	highest    int     // the highest number that came
	distinct   int
	duplicates int   // further copies
	misordered []int // the numbers whose first copy came after a higher number
}

var (
	epoch       = time.Now()
	peerNumbers atomic.Uint32
	castagnoli  = crc32.MakeTable(crc32.Castagnoli)
)

const stampSize = 24

// appendPayload appends size bytes: number, publisher, time, checksum and filling.
func appendPayload(dst []byte, seq uint64, publisher uint32, at int64, size int) []byte {
	start := len(dst)
	dst = slices.Grow(dst, max(size, stampSize))
	dst = binary.BigEndian.AppendUint32(dst, 0)
	dst = binary.BigEndian.AppendUint64(dst, seq)
	dst = binary.BigEndian.AppendUint32(dst, publisher)
	dst = binary.BigEndian.AppendUint64(dst, uint64(at))
	if n := size - stampSize; n > 0 {
		at := len(dst)
		dst = dst[:at+n]
		clear(dst[at:])
		dst[at] = byte(seq)
	}
	binary.BigEndian.PutUint32(dst[start:], crc32.Checksum(dst[start+4:], castagnoli))
	return dst
}

func parsePayload(p []byte) (seq uint64, publisher uint32, at int64, ok bool) {
	if len(p) < stampSize || binary.BigEndian.Uint32(p) != crc32.Checksum(p[4:], castagnoli) {
		return 0, 0, 0, false
	}
	return binary.BigEndian.Uint64(p[4:]), binary.BigEndian.Uint32(p[12:]), int64(binary.BigEndian.Uint64(p[16:])), true
}

func newPeer(o peerOptions) *peer {
	if o.Version == 0 {
		o.Version = packet.V5
	}
	if o.Window == 0 {
		o.Window = 512
	}
	o.Size = max(o.Size, stampSize)
	if o.Size == stampSize {
		o.Size = 200
	}
	p := &peer{
		o: o, number: peerNumbers.Add(1),
		flights: make(map[uint16]*flight), outgoing: make(map[string]*outgoing), inbound: make(map[uint16]struct{}),
		waits: make(map[uint16]chan packet.Packet), incoming: make(map[streamID]*incoming), codes: make(map[packet.Code]int),
	}
	p.wake.L, p.change.L = &p.mu, &p.mu
	return p
}

// A refusal is a CONNACK that says no.
type refusal struct{ code packet.Code }

func (r *refusal) Error() string { return "refused: " + r.code.String() }

// connect opens a connection to addr, host:port or the path of a Unix socket, and resumes on it.
func (p *peer) connect(ctx context.Context, addr string) error {
	if p.last != nil {
		p.last.nc.Close()
		<-p.last.ended
	}
	network := "tcp"
	if strings.HasPrefix(addr, "/") {
		network = "unix"
	}
	nc, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	if tc, ok := nc.(*net.TCPConn); ok && p.o.ReadBuffer > 0 {
		_ = tc.SetReadBuffer(p.o.ReadBuffer)
	}
	c := packet.Connect{ClientID: []byte(p.o.ID), KeepAlive: p.o.KeepAlive, Will: p.o.Will}
	c.CleanStart = p.o.Expiry == 0 || p.o.Clean && !p.known && p.o.Version == packet.V5
	if p.o.Expiry > 0 {
		c.Properties.SessionExpiry = packet.Some(p.o.Expiry)
	}
	if p.o.ReceiveMax > 0 {
		c.Properties.ReceiveMaximum = packet.Some(p.o.ReceiveMax)
	}
	if p.o.Username != "" {
		c.HasUser, c.Username, c.HasPass, c.Password = true, []byte(p.o.Username), true, []byte(p.o.Password)
	}
	b, err := c.Append(nil, p.o.Version)
	if err == nil {
		_, err = nc.Write(b)
	}
	l := &link{nc: nc, ended: make(chan struct{})}
	var from io.Reader = nc
	if p.o.Through != nil {
		from = p.o.Through(nc)
	}
	r := packet.NewReader(from, 0)
	if err == nil {
		err = l.welcome(r, p.o.Version)
	}
	if err != nil {
		nc.Close()
		return err
	}
	p.mu.Lock()
	p.resume(l)
	p.mu.Unlock()
	go p.serve(l, r)
	return nil
}

// welcome reads CONNACK.
func (l *link) welcome(r *packet.Reader, v packet.Version) error {
	first, body, err := r.Next()
	if err != nil {
		return fmt.Errorf("no CONNACK: %w", err)
	}
	if packet.Type(first>>4) != packet.CONNACK {
		return fmt.Errorf("%v instead of CONNACK", packet.Type(first>>4))
	}
	if err := l.connack.Decode(first, slices.Clone(body), v); err != nil {
		return err
	}
	if l.connack.Code != packet.Success {
		return &refusal{l.connack.Code}
	}
	return nil
}

// resume makes l the connection and puts what is unacknowledged on it. Caller holds mu.
func (p *peer) resume(l *link) {
	p.link, p.last = l, l
	p.limit = p.o.Window
	if p.o.Version == packet.V5 {
		if m := l.connack.Properties.ReceiveMaximum; m.OK {
			p.limit = min(p.limit, int(m.V))
		}
	}
	p.counts.Connects++
	dup := l.connack.SessionPresent
	switch {
	case dup:
		p.counts.Resumed++
		if c := p.o; !p.known && c.Clean && c.Version == packet.V5 {
			p.fault("session present after a clean start")
		}
	case p.known:
		p.lost = p.o.Expiry > 0
		clear(p.inbound)
	}
	p.known = true
	flights := slices.SortedFunc(maps.Keys(p.flights), func(a, b uint16) int {
		return cmp.Compare(p.flights[a].order, p.flights[b].order)
	})
	for _, id := range flights {
		f := p.flights[id]
		switch {
		case !f.released:
			l.out = p.appendPublish(l.out, f, id, dup)
			p.counts.Resent++
			f.topic.again = append(f.topic.again, int(f.seq))
		case dup:
			l.out = packet.AppendAck(l.out, packet.PUBREL, p.o.Version, id, packet.Success)
		default:
			delete(p.flights, id) // a new session knows nothing of it
		}
	}
	p.change.Broadcast()
}

func (p *peer) appendPublish(dst []byte, f *flight, id uint16, dup bool) []byte {
	o := packet.Outgoing{Topic: f.topic.name, Payload: make([]byte, max(f.size, stampSize)), QoS: f.qos, Retain: f.retain, Dup: dup, ID: id}
	start := len(dst) + o.Size(p.o.Version) - len(o.Payload)
	dst = o.Append(dst, p.o.Version)
	appendPayload(dst[:start], f.seq, p.number, f.at, f.size)
	return dst
}

// serve reads l until it ends.
func (p *peer) serve(l *link, r *packet.Reader) {
	written := make(chan struct{})
	go func() {
		defer close(written)
		p.write(l)
	}()
	l.err = p.read(l, r)
	l.nc.Close()
	p.mu.Lock()
	l.dead = true
	if p.link == l {
		p.link = nil
	}
	for _, w := range p.waits {
		close(w)
	}
	clear(p.waits)
	for _, w := range p.pings {
		close(w)
	}
	p.pings = nil
	p.wake.Broadcast()
	p.change.Broadcast()
	p.mu.Unlock()
	<-written
	close(l.ended)
}

func (p *peer) write(l *link) {
	var buf []byte
	for {
		p.mu.Lock()
		for len(l.out) == 0 && !l.dead {
			p.wake.Wait()
		}
		dead := l.dead
		buf, l.out = l.out, buf[:0]
		p.change.Broadcast()
		p.mu.Unlock()
		if dead {
			return
		}
		if _, err := l.nc.Write(buf); err != nil {
			l.nc.Close()
			return
		}
	}
}

func (p *peer) read(l *link, r *packet.Reader) error {
	var (
		pub packet.Publish
		ack packet.Ack
	)
	for {
		first, body, err := r.Next()
		if err != nil {
			return err
		}
		switch kind := packet.Type(first >> 4); kind {
		case packet.PUBLISH:
			if err := pub.Decode(first, body, p.o.Version); err != nil {
				return err
			}
			p.onPublish(l, &pub)
		case packet.PUBACK, packet.PUBREC, packet.PUBREL, packet.PUBCOMP:
			if err := ack.Decode(first, body, p.o.Version); err != nil {
				return err
			}
			p.onAck(l, &ack)
		default:
			x, err := packet.Decode(first, slices.Clone(body), p.o.Version)
			if err != nil {
				return err
			}
			if err := p.onOther(l, x); err != nil {
				return err
			}
		}
		if !r.Buffered() {
			p.mu.Lock()
			p.wake.Signal()
			p.change.Broadcast()
			p.mu.Unlock()
		}
	}
}

func (p *peer) onPublish(l *link, m *packet.Publish) {
	p.mu.Lock()
	if m.QoS == 2 {
		if _, again := p.inbound[m.ID]; again {
			p.counts.Repeats++
			l.out = packet.AppendAck(l.out, packet.PUBREC, p.o.Version, m.ID, packet.Success)
			p.mu.Unlock()
			return
		}
	}
	p.mu.Unlock()
	a := arrival{Publish: m}
	var at int64
	a.Seq, a.Publisher, at, a.Stamped = parsePayload(m.Payload)
	a.Delay = time.Since(epoch) - time.Duration(at)
	answer := p.o.OnMessage == nil || p.o.OnMessage(&a)

	p.mu.Lock()
	defer p.mu.Unlock()
	p.count(&a)
	switch {
	case m.QoS == 2:
		p.inbound[m.ID] = struct{}{}
		if answer {
			l.out = packet.AppendAck(l.out, packet.PUBREC, p.o.Version, m.ID, packet.Success)
		}
	case m.QoS == 1 && answer:
		l.out = packet.AppendAck(l.out, packet.PUBACK, p.o.Version, m.ID, packet.Success)
	}
}

// count notes a message. Caller holds mu.
func (p *peer) count(a *arrival) {
	p.counts.Received++
	if !a.Stamped {
		p.counts.Foreign++
		return
	}
	s := p.incoming[streamID{string(a.Topic), a.Publisher}]
	if s == nil {
		s = &incoming{highest: -1}
		p.incoming[streamID{string(a.Topic), a.Publisher}] = s
	}
	n := int(a.Seq)
	if grow := n + 1 - len(s.times); grow > 0 {
		s.times = append(s.times, make([]uint8, grow)...)
	}
	switch {
	case s.times[n] > 0:
		s.duplicates++
	default:
		s.distinct++
		if n < s.highest {
			s.misordered = append(s.misordered, n)
		}
	}
	if s.times[n] < 255 {
		s.times[n]++
	}
	s.highest = max(s.highest, n)
}

// fault notes what the broker may not do. Caller holds mu.
func (p *peer) fault(format string, args ...any) {
	if len(p.faults) < 100 {
		p.faults = append(p.faults, fmt.Sprintf(format, args...))
	}
}

func (p *peer) onAck(l *link, a *packet.Ack) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.o.Version
	if a.Kind == packet.PUBREL {
		code := packet.Success
		if _, ok := p.inbound[a.ID]; !ok && v == packet.V5 {
			code = packet.PacketIDNotFound
		}
		delete(p.inbound, a.ID)
		l.out = packet.AppendAck(l.out, packet.PUBCOMP, v, a.ID, code)
		return
	}
	f := p.flights[a.ID]
	switch {
	case f == nil && a.Kind == packet.PUBREC: // it finds its end only with PUBREL
		l.out = packet.AppendAck(l.out, packet.PUBREL, v, a.ID, packet.PacketIDNotFound)
	case f == nil:
		p.fault("%v for identifier %d, which is not in use", a.Kind, a.ID)
	case (a.Kind == packet.PUBACK) != (f.qos == 1):
		p.fault("%v for identifier %d, sent with QoS %d", a.Kind, a.ID, f.qos)
	case a.Kind == packet.PUBREC && a.Code < 0x80:
		if !f.released {
			f.released = true
			p.settle(f, acknowledged)
		}
		l.out = packet.AppendAck(l.out, packet.PUBREL, v, a.ID, packet.Success)
	case a.Kind == packet.PUBCOMP:
		if !f.released {
			p.fault("PUBCOMP for identifier %d before its PUBREC", a.ID)
		} else if a.Code >= 0x80 && a.Code != packet.PacketIDNotFound {
			p.fault("PUBCOMP with %v", a.Code)
		}
		delete(p.flights, a.ID)
	default: // PUBACK, or a PUBREC that refuses
		if a.Code >= 0x80 {
			if f.released {
				p.fault("PUBREC with %v for a message acknowledged before", a.Code)
			} else {
				p.settle(f, refused)
				p.codes[a.Code]++
			}
		} else {
			p.settle(f, acknowledged)
		}
		delete(p.flights, a.ID)
	}
}

// settle notes what became of f. Caller holds mu.
func (p *peer) settle(f *flight, as fate) {
	f.topic.state[f.seq] = as
	if as == refused {
		p.counts.Refused++
	} else {
		p.counts.Acknowledged++
	}
}

func (p *peer) onOther(l *link, x packet.Packet) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var id uint16
	switch x := x.(type) {
	case *packet.Pingresp:
		if len(p.pings) > 0 {
			p.pings[0] <- struct{}{}
			p.pings = p.pings[1:]
		}
		return nil
	case *packet.Disconnect:
		l.told, l.code = true, x.Code
		return fmt.Errorf("disconnected: %v %s", x.Code, x.Properties.ReasonString)
	case *packet.Suback:
		id = x.ID
	case *packet.Unsuback:
		id = x.ID
	default:
		p.fault("a %v from a broker", x.Type())
		return nil
	}
	if w := p.waits[id]; w != nil {
		w <- x
		delete(p.waits, id)
	} else {
		p.fault("%v for identifier %d, which waits for none", x.Type(), id)
	}
	return nil
}

var errNoLink = errors.New("not connected")

// freeID returns an unused packet identifier. Caller holds mu.
func (p *peer) freeID() uint16 {
	for {
		p.nextID++
		if p.nextID != 0 && p.flights[p.nextID] == nil && p.waits[p.nextID] == nil {
			return p.nextID
		}
	}
}

// ask sends what build appends and waits for the answer.
func (p *peer) ask(ctx context.Context, build func(id uint16) packet.Packet) (packet.Packet, error) {
	p.mu.Lock()
	l := p.link
	if l == nil {
		p.mu.Unlock()
		return nil, errNoLink
	}
	id := p.freeID()
	out, err := build(id).Append(l.out, p.o.Version)
	if err != nil {
		p.mu.Unlock()
		return nil, err
	}
	l.out = out
	w := make(chan packet.Packet, 1)
	p.waits[id] = w
	p.wake.Signal()
	p.mu.Unlock()
	select {
	case x, ok := <-w:
		if !ok {
			return nil, errNoLink
		}
		return x, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// subscribe subscribes to filters, and returns when SUBACK has granted them.
func (p *peer) subscribe(ctx context.Context, qos byte, filters ...string) error {
	x, err := p.ask(ctx, func(id uint16) packet.Packet {
		s := &packet.Subscribe{ID: id}
		for _, f := range filters {
			s.Subscriptions = append(s.Subscriptions, packet.Subscription{Filter: []byte(f), QoS: qos})
		}
		return s
	})
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	s, ok := x.(*packet.Suback)
	if !ok || len(s.Codes) != len(filters) {
		return fmt.Errorf("subscribe: answered by %v", x)
	}
	for i, c := range s.Codes {
		if c != packet.Code(qos) {
			return fmt.Errorf("subscribe: %s: %v", filters[i], c)
		}
	}
	return nil
}

// unsubscribe ends the subscriptions to filters.
func (p *peer) unsubscribe(ctx context.Context, filters ...string) error {
	_, err := p.ask(ctx, func(id uint16) packet.Packet {
		u := &packet.Unsubscribe{ID: id}
		for _, f := range filters {
			u.Filters = append(u.Filters, []byte(f))
		}
		return u
	})
	return err
}

// ping returns when the broker has answered PINGREQ, which it does after all that it had to send before.
func (p *peer) ping(ctx context.Context) error {
	w := make(chan struct{}, 1)
	p.mu.Lock()
	l := p.link
	if l == nil {
		p.mu.Unlock()
		return errNoLink
	}
	l.out = append(l.out, byte(packet.PINGREQ)<<4, 0)
	p.pings = append(p.pings, w)
	p.wake.Signal()
	p.mu.Unlock()
	select {
	case _, ok := <-w:
		if !ok {
			return errNoLink
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A load is what flood publishes.
type load struct {
	Topics []string // in turn
	QoS    byte
	Retain bool
	Count  int     // messages; 0 is until the context ends
	Rate   float64 // per second; 0 is as fast as it goes
	Size   int     // bytes of a payload; 0 is the peer's

	due time.Duration // since epoch; 0 is when it is sent
}

// flood publishes until its count is sent or ctx ends, also over reconnections, and returns how many it sent.
func (p *peer) flood(ctx context.Context, w load) int {
	stop := context.AfterFunc(ctx, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.change.Broadcast()
	})
	defer stop()
	start := time.Now()
	n := 0
	for ; w.Count == 0 || n < w.Count; n++ {
		if w.Rate > 0 {
			due := start.Add(time.Duration(float64(n) / w.Rate * float64(time.Second)))
			w.due = due.Sub(epoch) // so that a publisher who is held up does not hide it
			if ahead := time.Until(due); ahead > time.Millisecond {
				select {
				case <-time.After(ahead):
				case <-ctx.Done():
				}
			}
		}
		if _, err := p.publish(ctx, w.Topics[n%len(w.Topics)], w); err != nil {
			break
		}
	}
	return n
}

// publish sends one message on topic as w says, once there is a connection and the window has room, and returns its
// number. It does not wait for the acknowledgement. To end it early, ctx has to be flood's, or a broadcast has to follow.
func (p *peer) publish(ctx context.Context, topic string, w load) (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.link == nil || len(p.link.out) > 64<<10 || w.QoS > 0 && len(p.flights) >= p.limit {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		p.wake.Signal()
		p.change.Wait()
	}
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	t := p.outgoing[topic]
	if t == nil {
		t = &outgoing{name: topic}
		p.outgoing[topic] = t
	}
	at := time.Since(epoch)
	if w.due > 0 {
		at = min(at, w.due)
	}
	f := &flight{order: p.sendings, topic: t, seq: uint64(len(t.state)), at: int64(at), size: cmp.Or(w.Size, p.o.Size), qos: w.QoS, retain: w.Retain}
	t.state = append(t.state, sent)
	p.sendings++
	var id uint16
	if w.QoS > 0 {
		id = p.freeID()
		p.flights[id] = f
		p.counts.Sent++
	}
	p.link.out = p.appendPublish(p.link.out, f, id, false)
	p.wake.Signal()
	return f.seq, nil
}

// drain waits until everything published is acknowledged to the end.
func (p *peer) drain(ctx context.Context) error {
	return p.until(ctx, func() bool { return len(p.flights) == 0 })
}

// until waits for a condition, which is looked at with mu held whenever something has changed.
func (p *peer) until(ctx context.Context, condition func() bool) error {
	stop := context.AfterFunc(ctx, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.change.Broadcast()
	})
	defer stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for !condition() {
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w with %d unacknowledged, %d received", p.o.ID, ctx.Err(), len(p.flights), p.counts.Received)
		}
		p.change.Wait()
	}
	return nil
}

// connected waits for a connection.
func (p *peer) connected(ctx context.Context) error {
	return p.until(ctx, func() bool { return p.link != nil })
}

// keep connects, and connects again whenever the connection is lost, until the function that it returns is called. That
// leaves the last connection as it is.
func (p *peer) keep(addr string) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(3 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			once, end := context.WithTimeout(ctx, 10*time.Second)
			err := p.connect(once, addr)
			end()
			if err == nil {
				select {
				case <-p.last.ended:
				case <-ctx.Done():
					return
				}
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// cut closes the connection without a word, and returns when it has ended.
func (p *peer) cut() {
	p.mu.Lock()
	l := p.last
	p.mu.Unlock()
	if l != nil {
		l.nc.Close()
		<-l.ended
	}
}

// disconnect says goodbye with a code, and returns when the broker has closed the connection.
func (p *peer) disconnect(code packet.Code) {
	p.mu.Lock()
	l := p.link
	if l != nil {
		l.out, _ = (&packet.Disconnect{Code: code}).Append(l.out, p.o.Version)
		p.wake.Signal()
	}
	p.mu.Unlock()
	if l != nil {
		_ = l.nc.SetReadDeadline(time.Now().Add(10 * time.Second))
		<-l.ended
	}
}

// present returns the connection, nil without one.
func (p *peer) present() *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.link
}

func (p *peer) numbers() counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts
}

// check reports what the broker did wrong in the protocol.
func (p *peer) check(t testing.TB) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.faults {
		t.Errorf("%s: %s", p.o.ID, f)
	}
	if p.lost {
		t.Errorf("%s: the broker forgot its session", p.o.ID)
	}
}

// A balance compares what publishers published with what a subscriber received.
type balance struct {
	Published, Acknowledged, Refused, Delivered int
	Lost                                        int // acknowledged, and not delivered
	Duplicates, Misordered                      int
	OnceDuplicates, OnceMisordered              int // of these, messages that were acknowledged without being sent again
	Invented                                    int // delivered, and never published
	FirstLost                                   string
}

func (b balance) String() string {
	s := fmt.Sprintf("published %d, acknowledged %d, refused %d, delivered %d, lost %d, duplicates %d, out of order %d",
		b.Published, b.Acknowledged, b.Refused, b.Delivered, b.Lost, b.Duplicates, b.Misordered)
	if b.Invented > 0 {
		s += fmt.Sprintf(", never published %d", b.Invented)
	}
	if b.FirstLost != "" {
		s += ", first lost " + b.FirstLost
	}
	return s
}

// compare returns the balance of publishers with what came to subscribers together, over the topics that topic accepts
// (nil accepts all). With several subscribers, the members of a shared subscription, the order is that of each, without the
// messages that were sent again: what one member has got may go to another then.
func compare(publishers []*peer, subscribers []*peer, topic func(string) bool) balance {
	var b balance
	for _, p := range publishers {
		p.mu.Lock()
		names := slices.Sorted(maps.Keys(p.outgoing))
		p.mu.Unlock()
		for _, name := range names {
			if topic != nil && !topic(name) {
				continue
			}
			p.mu.Lock()
			state := slices.Clone(p.outgoing[name].state)
			again := make(map[int]bool)
			for _, n := range p.outgoing[name].again {
				again[n] = true
			}
			p.mu.Unlock()
			times := make([]int, len(state))
			for _, s := range subscribers {
				s.mu.Lock()
				if in := s.incoming[streamID{name, p.number}]; in != nil {
					for n, k := range in.times {
						if n < len(times) {
							times[n] += int(k)
						} else if k > 0 {
							b.Invented++
						}
					}
					for _, n := range in.misordered {
						if !again[n] && state[n] == acknowledged {
							b.OnceMisordered++
						}
						if len(subscribers) == 1 || !again[n] {
							b.Misordered++
						}
					}
				}
				s.mu.Unlock()
			}
			b.Published += len(state)
			for n, f := range state {
				if f == refused {
					b.Refused++
				}
				if f == acknowledged {
					b.Acknowledged++
				}
				if times[n] > 0 {
					b.Delivered++
					b.Duplicates += times[n] - 1
					if !again[n] && f == acknowledged {
						b.OnceDuplicates += times[n] - 1
					}
				} else if f == acknowledged {
					b.Lost++
					if b.FirstLost == "" {
						b.FirstLost = fmt.Sprintf("%s number %d of %d", name, n, len(state))
					}
				}
			}
		}
	}
	return b
}
