package broker

import (
	"crypto/tls"
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
	reader *packet.Reader

	// Set by the handshake, constant afterwards.
	version     packet.Version
	session     *session
	keepAlive   time.Duration // 0 is none
	maxPacket   int           // what the client takes, bytes
	sendMax     int           // the client's receive maximum
	problemInfo bool
	neverExpire bool // CONNECT asked for session expiry 0
	durable     bool // the session is kept in the store

	waiting   atomic.Int64 // broker.now since when the reader waits for a packet; 0 while it handles one
	stopped   atomic.Bool  // stopping, for the reader
	keepTimer *time.Timer
	done      chan struct{} // closed when the connection holds its session no more

	// Owned by the reader.
	publish packet.Publish
	ack     packet.Ack
	out     []byte // answers not handed to the writer yet
	routes  routeCache
	aliases []string // inbound topic aliases; index is alias-1
	pending int      // QoS 2 messages of this connection received and not released
	txn     txn      // for use again
	gated   []answer // answers that wait for the store, not handed over yet
	after   *group   // the last group that an answer waits for

	// Guarded by session.mu.
	wake       sync.Cond // work for the writer
	room       sync.Cond // room for the reader: in control, or in the queue
	control    []byte    // encoded packets that go before the session's messages
	held       []answer  // answers that wait for the store
	awaited    *group    // the last group that lets the connection know
	pongs      int       // PINGREQs to answer, behind the messages that were queued before them
	deferred   int       // writes for which pongs has waited
	unacked    int       // QoS 1 and 2 messages sent on this connection and not settled
	outAliases map[string]uint16
	aliasMax   int
	stopping   bool
	stopSilent bool // nothing is sent any more

	writerDone chan struct{}
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
	c.stopping = true
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
	_ = c.nc.SetWriteDeadline(time.Now().Add(c.broker.limits.farewell))
	c.broker.log.Info("closing connection", "client", c.session.id, "remote", c.remote, "code", code.String(), "reason", reason)
}

// hangUp ends the connection without a word. It is silent when the connection is gone; otherwise the client said goodbye
// or sends no more, and what it sent is still answered.
func (c *conn) hangUp(silent bool) {
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	if !c.stopping {
		c.stopping, c.stopSilent = true, silent
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

// writeLoop sends what is queued until the connection stops, many packets in one system call.
func (c *conn) writeLoop() {
	defer close(c.writerDone)
	s := c.session
	var buf []byte
	for {
		s.mu.Lock()
		for !c.stopping && len(c.control) == 0 && c.pongs == 0 && !s.ready(c) {
			if cap(buf) > 0 {
				c.broker.putBuffer(buf)
				buf = nil
			}
			c.wake.Wait()
		}
		stopping, silent := c.stopping, c.stopSilent
		if buf == nil {
			buf = c.broker.getBuffer()
		}
		buf = append(buf[:0], c.control...)
		c.control = c.control[:0]
		if cap(c.control) > 4096 {
			c.control = nil
		}
		if stopping {
			buf = c.lastPongs(buf)
		} else {
			buf = s.fill(buf, c, writeSize)
			buf = c.appendPongs(buf)
		}
		changed := s.unsaid || len(s.refuse) > 0
		c.room.Signal()
		s.mu.Unlock()
		if changed {
			s.record()
		}
		if !silent && len(buf) > 0 {
			if err := c.write(buf); err != nil {
				if !stopping {
					c.broker.log.Info("write failed", "client", s.id, "remote", c.remote, "error", err)
					c.hangUp(true)
				}
				stopping, silent = true, true
			}
		}
		if stopping {
			c.broker.putBuffer(buf)
			if silent {
				c.broker.hangUpOn(c.nc)
			} else {
				_ = c.nc.SetReadDeadline(time.Now()) // the reader wakes and closes
			}
			return
		}
	}
}

// appendPongs appends the answers to PINGREQ once nothing is left to send before them, so that a client that has its
// answer has everything that came before; but it does not let an endless stream delay them for long.
// Caller holds session.mu.
func (c *conn) appendPongs(buf []byte) []byte {
	if c.pongs == 0 {
		return buf
	}
	if c.deferred++; len(buf) >= writeSize && c.deferred < 16 {
		return buf
	}
	return c.lastPongs(buf)
}

// lastPongs appends all of them. Caller holds session.mu.
func (c *conn) lastPongs(buf []byte) []byte {
	for ; c.pongs > 0; c.pongs-- {
		buf = append(buf, byte(packet.PINGRESP)<<4, 0)
	}
	c.deferred = 0
	return buf
}

// write writes all of buf, as long as the peer keeps taking some.
func (c *conn) write(buf []byte) error {
	chunk := len(buf)
	_, partial := c.nc.(interface{ SetNoDelay(bool) error })
	if _, ok := c.nc.(*net.UnixConn); ok {
		partial = true
	}
	if !partial { // a timed-out write leaves such a connection unusable, so each write is small enough to count as progress
		chunk = 16 << 10
	}
	var end time.Time // of the farewell
	for len(buf) > 0 {
		deadline := time.Now().Add(c.broker.limits.stall)
		if c.stopped.Load() {
			if end.IsZero() {
				end = time.Now().Add(c.broker.limits.farewell)
			}
			deadline = end
		}
		_ = c.nc.SetWriteDeadline(deadline)
		n, err := c.nc.Write(buf[:min(chunk, len(buf))])
		c.broker.stats.bytesSent.Add(uint64(n))
		buf = buf[n:]
		if err != nil && (n == 0 || !partial || !isTimeout(err) || c.stopped.Load()) {
			return err
		}
	}
	return nil
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
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
	c.broker.stats.sent.Add(1)
	c.broker.stats.published.Add(1)
	c.broker.stats.publishedBytes.Add(uint64(len(m.payload)))
	return o.Append(buf, c.version), true
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
	for {
		waits := !c.reader.Buffered()
		if waits || len(c.out) > 4096 || len(c.gated) > 256 {
			c.flush()
		}
		if waits {
			c.waiting.Store(c.broker.now())
		}
		first, body, err := c.reader.Next()
		if waits {
			c.waiting.Store(0)
		}
		if err != nil || c.stopped.Load() {
			return err
		}
		c.broker.stats.received.Add(1)
		goOn, err := c.handle(first, body)
		if err != nil || !goOn {
			c.flush()
			return err
		}
	}
}

// handle handles one packet; it returns false after a DISCONNECT.
func (c *conn) handle(first byte, body []byte) (bool, error) {
	switch kind := packet.Type(first >> 4); kind {
	case packet.PUBLISH:
		return true, c.onPublish(first, body)
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
			c.answerAfter(t.durable(), packet.PUBREL, c.ack.ID, code)
		}
		return true, err
	case packet.PUBREL:
		if err := c.ack.Decode(first, body, c.version); err != nil {
			return true, err
		}
		c.onRelease(c.ack.ID)
		return true, nil
	}
	if packet.Type(first>>4) == packet.CONNECT {
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
	if c.said() {
		c.linger()
	}
	c.broker.hangUpOn(c.nc)
}

// linger gives the peer a moment to read what was written last: closing with unread input makes the kernel reset the
// connection, which would throw it away. It reads and discards until the peer closes or too much has come.
func (c *conn) linger() {
	h, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || h.CloseWrite() != nil {
		return
	}
	_ = c.nc.SetReadDeadline(time.Now().Add(c.broker.limits.farewell))
	b := c.broker.getBuffer()
	defer func() { c.broker.putBuffer(b) }()
	b = b[:cap(b)]
	for total := 0; total < 1<<20; {
		n, err := c.nc.Read(b)
		total += n
		if err != nil {
			return
		}
	}
}

// hangUpOn closes nc, with the goodbye that TLS and WebSocket have if the peer takes it soon.
func (b *Broker) hangUpOn(nc net.Conn) {
	t := time.AfterFunc(2*b.limits.farewell, func() { cut(nc) })
	defer t.Stop()
	_ = nc.Close()
}

// cut closes nc at once, without a goodbye.
func cut(nc net.Conn) {
	if c, ok := nc.(*wsConn); ok {
		nc = c.Conn
	}
	if c, ok := nc.(*tls.Conn); ok {
		nc = c.NetConn()
	}
	_ = nc.Close()
}

// said reports whether the client could be answered to the end.
func (c *conn) said() bool {
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	return !c.stopSilent
}

func protocolError(text string) error {
	return &packet.Error{Code: packet.ProtocolError, Text: text}
}
