package broker

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// A conn is one network connection. Its reader goroutine decodes and routes; its writer goroutine sends what the
// session has queued. The reader also opens and tears down.
type conn struct {
	broker *Broker
	nc     net.Conn
	remote string
	from   origin
	reader *packet.Reader

	who         Client // guarded by broker.mu
	established bool   // guarded by broker.mu; session is set, and stays
	unwanted    string // guarded by broker.mu; why it is to end as soon as it is established

	// Set by the handshake, constant afterwards.
	version     packet.Version
	session     *session
	identity    Identity
	keepAlive   time.Duration // 0 is none
	maxPacket   int           // what the client takes, bytes
	sendMax     int           // the client's receive maximum
	problemInfo bool
	neverExpire bool // CONNECT asked for session expiry 0
	late        bool // the client has asked whether it may acknowledge late, and so takes late answers
	durable     bool // the session is kept in the store
	grant       *grant
	changes     uint64 // of the rights, when grant was asked for

	waiting   atomic.Int64 // broker.now since when the reader waits for a packet; 0 while it handles one
	stopped   atomic.Bool  // stopping, for the reader
	keepTimer *time.Timer
	done      chan struct{} // closed when the connection holds its session no more

	// Owned by the reader.
	publish packet.Publish
	ack     packet.Ack
	out     []byte // answers not handed to the writer yet
	prompt  bool   // somebody waits for one of them
	routes  routeCache
	bundle  bundle
	count   uncounted
	aliases []string        // inbound topic aliases; index is alias-1
	pending int             // QoS 2 messages of this connection received and not released
	txn     txn             // for use again
	gated   []answer        // answers that wait for the store, not handed over yet
	after   *group          // the last group that an answer waits for
	idle    bool            // nothing more has been read than what is being handled
	next    *conn           // to be written to when that is done
	denials map[string]bool // what the log has of that

	// Guarded by session.mu.
	wake           sync.Cond   // work for the writer
	room           sync.Cond   // room for the reader: in control, or in the queue
	control        []byte      // encoded packets that go before the session's messages
	delay          *time.Timer // after which control is written at the latest, when that is due
	due            bool
	writes         uint64   // how often something was written
	seen           uint64   // what writes was when delay began
	held           []answer // answers that wait for the store
	awaited        *group   // the last group that lets the connection know
	pongs          int      // PINGREQs to answer, behind the messages that were queued before them
	deferred       int      // writes for which pongs has waited
	writing        bool     // the writer is at work, or a reader in its place
	left           []byte   // what a reader in the writer's place could not write
	published      uint64   // PUBLISH packets encoded and not yet counted
	publishedBytes uint64   // their payloads
	unacked        int      // QoS 1 and 2 messages sent on this connection and not settled
	outAliases     map[string]uint16
	aliasMax       int
	stopping       bool
	stopSilent     bool      // nothing is sent any more
	ends           time.Time // when the farewell is over, once stopping

	writerDone chan struct{}

	// Owned by who has set writing.
	attempt  func(b []byte) (n int, ok bool) // writes what can be written at once; nil when the connection has no such thing
	partial  bool                            // a write that has timed out may be gone on with
	scatters bool                            // one system call may write what lies in many places
	parts    [][]byte                        // what is to be written, but for the end of the buffer
	parted   int                             // where in the buffer that end begins
	apart    int                             // bytes of parts that are not in the buffer
}

// An uncounted is what a reader has counted and not yet added to the broker's counters, which all readers share.
type uncounted struct {
	received, sent, publishes, publishBytes uint64
}

// report adds it to the broker's counters.
func (t *uncounted) report(to *counters) {
	if t.received == 0 {
		return
	}
	to.received.Add(t.received)
	to.sent.Add(t.sent)
	to.publishes.Add(t.publishes)
	to.publishBytes.Add(t.publishBytes)
	*t = uncounted{}
}

// Read implements io.Reader for packet.Reader: the connection's bytes, counted.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.nc.Read(p)
	if n > 0 {
		c.broker.stats.bytesReceived.Add(uint64(n))
	}
	return n, err
}

// stop ends the connection: the client is told code and reason (MQTT 5), then the connection closes. The first call counts.
func (c *conn) stop(code packet.Code, reason string) {
	c.session.mu.Lock()
	c.stopLocked(code, reason)
	c.session.mu.Unlock()
}

// stopLocked is stop for a caller that holds session.mu.
func (c *conn) stopLocked(code packet.Code, reason string) {
	if c.stopping {
		return
	}
	c.stopping, c.ends = true, time.Now().Add(c.broker.limits.farewell)
	c.control = c.lastPongs(c.control)
	if c.version == packet.V5 {
		d := packet.Disconnect{Code: code}
		if c.problemInfo {
			d.Properties.ReasonString = []byte(reason)
		}
		c.control = c.appendBounded(c.control, &d, &d.Properties)
	}
	c.stopped.Store(true)
	c.wake.Signal()
	c.room.Signal()
	// What is being written has a moment to get through; the writer may sit in a stalled write.
	_ = c.nc.SetWriteDeadline(c.ends)
	c.broker.log.Info("closing connection", "client", c.session.id, "remote", c.remote, "code", code.String(), "reason", reason)
}

// hangUp ends the connection without a word. It is silent when the connection is gone; otherwise the client said goodbye
// or sends no more, and what it sent is still answered.
func (c *conn) hangUp(silent bool) {
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	if !c.stopping {
		c.stopping, c.stopSilent, c.ends = true, silent, time.Now().Add(c.broker.limits.farewell)
		c.stopped.Store(true)
		c.wake.Signal()
		c.room.Signal()
	}
}

// appendBounded appends p, leaving out its reason string and user properties when it would be too large for the client
// [MQTT-3.2.2-19 and the like], and leaving it out altogether when it still is.
func (c *conn) appendBounded(dst []byte, p packet.Packet, props *packet.Properties) []byte {
	start := len(dst)
	for range 2 {
		b, err := p.Append(dst, c.version)
		if err == nil && len(b)-start <= c.maxPacket {
			return b
		}
		props.ReasonString, props.User = nil, nil
	}
	return dst
}

// appendPublish appends it for this connection; sent is false when the packet is too large for the client.
// Caller holds session.mu.
func (c *conn) appendPublish(buf []byte, it *item, id uint16, dup bool, now int64) (out []byte, sent bool) {
	m := it.message
	o := packet.Outgoing{
		Topic: m.topic, Payload: m.payload,
		Dup: dup, Retain: it.retain, QoS: it.qos, ID: id,
	}
	fresh := false
	if c.version == packet.V5 {
		o.Forwarded = m.props
		o.MessageExpiry = m.remaining(now)
		o.SubscriptionIDs = it.delivery.ids
		if c.aliasMax > 0 {
			o.Alias, fresh = c.alias(m.topic)
			o.OmitTopic = o.Alias != 0 && !fresh
		}
	}
	if c.maxPacket < maxPacketSize && o.Size(c.version) > c.maxPacket {
		if fresh {
			delete(c.outAliases, m.topic)
		}
		return buf, false
	}
	c.published++
	c.publishedBytes += uint64(len(m.payload))
	if !c.scatters || len(m.payload) < scattered {
		return o.Append(buf, c.version), true
	}
	buf = o.AppendHead(buf, c.version, 0)
	c.parts = append(c.parts, buf[c.parted:], m.payload)
	c.parted = len(buf)
	c.apart += len(m.payload)
	return buf, true
}

// alias returns the topic's outbound alias on this connection, fresh when the client does not know it yet; 0 is none.
// Caller holds session.mu.
func (c *conn) alias(topic string) (alias uint16, fresh bool) {
	if a, ok := c.outAliases[topic]; ok {
		return a, false
	}
	if len(c.outAliases) >= c.aliasMax {
		return 0, false
	}
	if c.outAliases == nil {
		c.outAliases = make(map[string]uint16)
	}
	a := uint16(len(c.outAliases) + 1)
	c.outAliases[topic] = a
	return a, true
}

// send hands p to the writer, ahead of queued messages. Reader only.
func (c *conn) send(p packet.Packet, props *packet.Properties) {
	c.out = c.appendBounded(c.out, p, props)
	c.prompt = true
	c.broker.stats.sent.Add(1)
}

// pong answers a PINGREQ. Reader only.
func (c *conn) pong() {
	c.flush()
	c.broker.stats.sent.Add(1)
	s := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	for c.pongs > maxControl && !c.stopping {
		c.room.Wait()
	}
	if !c.stopping {
		c.pongs++
		c.wake.Signal()
	}
}

// readLoop handles packets until the connection ends, and returns why: nil after a DISCONNECT from the client.
func (c *conn) readLoop() error {
	defer func() {
		c.deliver()
		c.writeLate()
		c.count.report(&c.broker.stats)
	}()
	for {
		waits := !c.reader.Buffered()
		c.idle = waits
		if waits {
			c.deliver()
			if c.next != c { // what is for this connection leaves with the answers
				c.writeLate()
			}
		}
		if waits || c.count.received >= 256 {
			c.count.report(&c.broker.stats)
		}
		if waits || len(c.out) > 4096 || len(c.gated) > 256 {
			c.flush()
		}
		if waits {
			c.writeLate()
			c.waiting.Store(c.broker.now())
		}
		first, body, err := c.reader.Next()
		if waits {
			c.waiting.Store(0)
		}
		if err != nil || c.stopped.Load() {
			return err
		}
		c.count.received++
		c.idle = !c.reader.Buffered()
		goOn, err := c.handle(first, body)
		if err != nil || !goOn {
			c.flush()
			return err
		}
	}
}

// handle handles one packet; it returns false after a DISCONNECT.
func (c *conn) handle(first byte, body []byte) (bool, error) {
	kind := packet.Type(first >> 4)
	if kind == packet.PUBLISH {
		return true, c.onPublish(first, body)
	}
	c.deliver()
	c.writeLate() // what follows may wait for the disk
	switch kind {
	case packet.PUBACK, packet.PUBREC, packet.PUBCOMP:
		if err := c.ack.Decode(first, body, c.version); err != nil {
			return true, err
		}
		t := &c.txn
		*t = txn{}
		if c.durable {
			c.broker.begin(t)
		}
		code, answer, err := c.session.acknowledge(c, &c.ack, t)
		c.broker.finish(t)
		if answer {
			c.prompt = c.prompt || !c.late // which has handled the message, and waits for nothing
			c.answerAfter(t.durable(), packet.PUBREL, c.ack.ID, code)
		}
		return true, err
	case packet.PUBREL:
		if err := c.ack.Decode(first, body, c.version); err != nil {
			return true, err
		}
		c.onRelease(c.ack.ID)
		return true, nil
	case packet.CONNECT:
		return true, protocolError("a second CONNECT [MQTT-3.1.0-2]")
	}
	p, err := packet.Decode(first, body, c.version)
	if err != nil {
		return true, err
	}
	switch p := p.(type) {
	case *packet.Subscribe:
		c.onSubscribe(p)
	case *packet.Unsubscribe:
		c.onUnsubscribe(p)
	case *packet.Pingreq:
		c.pong()
	case *packet.Disconnect:
		return false, c.onDisconnect(p)
	case *packet.Auth:
		return true, protocolError("AUTH without an authentication method [MQTT-4.12.0-7]")
	default:
		return true, protocolError("a packet that only a server sends")
	}
	return true, nil
}

// onDisconnect handles the client's DISCONNECT: the Will is discarded unless asked for [MQTT-3.14.4-3].
func (c *conn) onDisconnect(d *packet.Disconnect) error {
	if e := d.Properties.SessionExpiry; e.OK {
		if c.neverExpire && e.V != 0 {
			return protocolError("DISCONNECT: session expiry after a CONNECT without one (section 3.14.2.2.2)")
		}
		c.session.mu.Lock()
		c.session.expiry = expiryOf(e.V)
		c.session.mu.Unlock()
	}
	if d.Code == packet.Success {
		var t txn
		c.broker.begin(&t)
		c.session.takeWill(nil, &t)
		c.broker.finish(&t)
	}
	return nil
}

// idleLimit is how long the client may be silent.
func (c *conn) idleLimit() time.Duration { return c.keepAlive + c.keepAlive/2 }

// watch closes the connection when no packet came for one and a half times the keep alive [MQTT-3.1.2-22]. It is the
// function of keepTimer.
func (c *conn) watch() {
	limit := c.idleLimit()
	var idle time.Duration
	if since := c.waiting.Load(); since > 0 {
		idle = time.Duration(c.broker.now() - since)
	}
	if idle >= limit {
		c.stop(packet.KeepAliveTimeout, "no packet for one and a half times the keep alive")
		return
	}
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	if !c.stopping {
		c.keepTimer.Reset(limit - idle)
	}
}

// run serves the connection after its handshake.
func (c *conn) run() {
	c.writerDone = make(chan struct{})
	go c.writeLoop()
	if c.broker.ctx.Err() != nil { // Stop did not see this connection hold its session
		c.stop(packet.ServerShuttingDown, "the broker is shutting down")
	}
	if reason := c.broker.establish(c); reason != "" {
		c.stop(packet.AdministrativeAction, reason)
	}
	if c.keepAlive > 0 {
		c.session.mu.Lock()
		c.keepTimer = time.AfterFunc(c.idleLimit(), c.watch)
		c.session.mu.Unlock()
	}
	err := c.readLoop()
	var violation *packet.Error
	switch {
	case errors.As(err, &violation):
		c.stop(violation.Code, violation.Text)
	case err == nil || errors.Is(err, io.EOF):
		c.hangUp(false)
	default:
		c.broker.log.Debug("connection lost", "client", c.session.id, "remote", c.remote, "error", err)
		c.hangUp(true)
	}
	<-c.writerDone
	if c.keepTimer != nil {
		c.keepTimer.Stop()
	}
	c.session.detach(c)
	c.broker.releasePlace()
	close(c.done)
	c.session.forget(c)
	end, said := c.said()
	if violation == nil { // who means well has more time
		end = end.Add(c.broker.limits.farewell)
	}
	c.broker.leave(c.nc, said, end)
}

// leave closes nc, soon after end at the latest. When everything was said, the peer has until then to read it; and it may take the
// goodbye that TLS and WebSocket have.
func (b *Broker) leave(nc net.Conn, said bool, end time.Time) {
	t := time.AfterFunc(time.Until(end)+b.limits.farewell/8, func() { cut(nc) })
	defer t.Stop()
	if said {
		b.linger(nc, end)
	}
	_ = nc.Close()
}

// linger gives the peer a moment to read what was written last: closing with unread input makes the kernel reset the
// connection, which would throw it away. It reads and discards until the peer closes, too much has come, or end.
func (b *Broker) linger(nc net.Conn, end time.Time) {
	h, ok := nc.(interface{ CloseWrite() error })
	if !ok || h.CloseWrite() != nil {
		return
	}
	_ = nc.SetReadDeadline(end)
	buf := b.getBuffer()
	defer func() { b.putBuffer(buf) }()
	buf = buf[:cap(buf)]
	for total := 0; total < 1<<20; {
		n, err := nc.Read(buf)
		total += n
		if err != nil {
			return
		}
	}
}

// cut closes nc at once, without a goodbye.
func cut(nc net.Conn) {
	if c, ok := nc.(*wsConn); ok {
		nc = c.Conn
	}
	if c, ok := nc.(*secured); ok {
		nc = c.NetConn()
	}
	_ = nc.Close()
}

// said reports whether the client could be answered to the end, and when its farewell is over: a moment from now at least, because on a busy
// machine nothing may have been written by then.
func (c *conn) said() (end time.Time, said bool) {
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	end = c.ends
	if least := time.Now().Add(c.broker.limits.farewell / 8); end.Before(least) {
		end = least
	}
	return end, !c.stopSilent
}

func protocolError(text string) error {
	return &packet.Error{Code: packet.ProtocolError, Text: text}
}
