package broker

import (
	"errors"
	"net"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/internal/socket"
)

// prepareWriting has nobody write before the writer has begun: CONNACK is the first that the client gets [MQTT-3.2.0-1].
func (c *conn) prepareWriting() {
	c.writing = true
	switch c.nc.(type) {
	case *net.TCPConn, *net.UnixConn:
		c.partial, c.scatters = true, true
		c.attempt = socket.Attempter(c.nc)
	}
}

// writeLoop sends what is queued until the connection stops, many packets in one system call.
func (c *conn) writeLoop() {
	defer close(c.writerDone)
	s := c.session
	var buf []byte
	s.mu.Lock()
	c.writing = false
	for {
		for c.writing || !c.stopping && len(c.left) == 0 && !c.busy() {
			if cap(buf) > 0 {
				c.broker.putBuffer(buf)
				buf = nil
			}
			c.wake.Wait()
		}
		c.writing = true
		stopping, silent := c.stopping, c.stopSilent
		if buf == nil {
			buf = c.broker.getBuffer()
		}
		buf = append(buf[:0], c.left...)
		c.left = nil
		buf = c.gather(buf, writeSize)
		if !silent && len(buf) > 0 {
			if err := c.write(buf); err != nil {
				if !stopping {
					c.broker.log.Info("write failed", "client", s.id, "remote", c.remote, "error", err)
					c.hangUp(true)
				}
				cut(c.nc) // it would not take a goodbye either
				s.mu.Lock()
				c.stopSilent = true
				s.mu.Unlock()
				stopping, silent = true, true
			}
		}
		if stopping {
			c.broker.putBuffer(buf)
			if silent {
				end, _ := c.said()
				c.broker.leave(c.nc, false, end)
			} else {
				_ = c.nc.SetReadDeadline(time.Now()) // the reader wakes and closes
			}
			return
		}
		s.mu.Lock()
		c.writing = false
	}
}

// busy reports whether there is something to write. Caller holds session.mu.
func (c *conn) busy() bool { return len(c.control) > 0 || c.pongs > 0 || c.session.ready(c) }

// gather appends what is to be written now, up to about limit bytes. The caller has set writing, and holds session.mu, which
// is not held any more when gather returns.
func (c *conn) gather(buf []byte, limit int) []byte {
	s := c.session
	c.writes++
	buf = append(buf, c.control...)
	c.control = c.control[:0]
	if cap(c.control) > 4096 {
		c.control = nil
	}
	if c.stopping {
		buf = c.lastPongs(buf)
	} else {
		buf = s.fill(buf, c, limit)
		buf = c.appendPongs(buf, limit)
	}
	changed := s.unsaid || len(s.refuse) > 0
	c.room.Signal()
	s.mu.Unlock()
	if changed {
		s.record()
	}
	return buf
}

// wakeBy has c's writer look for work. When that is little, and the last that the reader of by has at present, the reader does it in the
// writer's place as soon as it is free to, which saves a change of goroutines. Caller holds session.mu.
func (c *conn) wakeBy(by *conn) {
	s := c.session
	little := s.urgent.count()+s.ordinary.count() <= 4 && len(c.control) <= 64
	if by == nil || !by.idle || !little || by.next != nil && by.next != c || c.attempt == nil {
		c.wake.Signal()
		return
	}
	by.next = c
}

// writeLate does what wakeBy has put off. Reader only.
func (c *conn) writeLate() {
	if next := c.next; next != nil {
		c.next = nil
		next.writeNow()
	}
}

// nowSize is how many bytes a reader writes in the writer's place at most.
const nowSize = 16 << 10

// writeNow writes in the writer's place what can be written without waiting, unless the writer is at work. What is left is the
// writer's. The caller, who may be the reader of any connection, holds no locks.
func (c *conn) writeNow() {
	s := c.session
	s.mu.Lock()
	if c.attempt == nil || c.writing || c.stopping || len(c.left) > 0 {
		c.wake.Signal()
		s.mu.Unlock()
		return
	}
	if !c.busy() {
		s.mu.Unlock()
		return
	}
	c.writing = true
	c.scatters = false
	buf := c.gather(c.broker.getBuffer(), nowSize)
	c.scatters = true
	n := 0
	if len(buf) > 0 {
		n, _ = c.attempt(buf)
		c.broker.stats.bytesSent.Add(uint64(n))
	}
	s.mu.Lock()
	c.left = append(c.left, buf[n:]...)
	c.writing = false
	if c.stopping || len(c.left) > 0 || c.busy() {
		c.wake.Signal()
	}
	s.mu.Unlock()
	c.broker.putBuffer(buf)
}

// unpart forgets the payloads apart from the buffer. The caller has set writing.
func (c *conn) unpart() {
	clear(c.parts)
	c.parts, c.parted, c.apart = c.parts[:0], 0, 0
}

// appendPongs appends the answers to PINGREQ once nothing is left to send before them, which limit bytes of buf may mean, so that a
// client that has its answer has everything that came before; but it does not let an endless stream delay them for long.
// Caller holds session.mu.
func (c *conn) appendPongs(buf []byte, limit int) []byte {
	if c.pongs == 0 {
		return buf
	}
	if c.deferred++; len(buf)+c.apart >= limit && c.deferred < 16 {
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

// write writes all of buf and of the payloads apart from it, as long as the peer keeps taking some.
func (c *conn) write(buf []byte) error {
	var end time.Time // of the farewell
	if c.stopped.Load() {
		end, _ = c.said()
		_ = c.nc.SetWriteDeadline(time.Time{}) // what can be written at once is, however late it is
	}
	if c.attempt != nil && len(c.parts) == 0 {
		n, _ := c.attempt(buf)
		c.broker.stats.bytesSent.Add(uint64(n))
		if buf = buf[n:]; len(buf) == 0 {
			return nil
		}
	}
	defer c.unpart()
	defer c.nc.SetWriteDeadline(time.Time{}) //nolint:errcheck // the next write finds out
	c.parts = append(c.parts, buf[c.parted:])
	rest := net.Buffers(c.parts)
	for len(rest) > 0 {
		_ = c.nc.SetWriteDeadline(time.Now().Add(c.broker.limits.stall))
		if c.stopped.Load() { // looked at last: who stops the connection sets the deadline after that
			if end.IsZero() {
				end, _ = c.said()
			}
			_ = c.nc.SetWriteDeadline(end)
		}
		n, err := c.writeSome(&rest)
		c.broker.stats.bytesSent.Add(uint64(n))
		if err != nil && (n == 0 || !c.partial || !isTimeout(err) || c.stopped.Load()) {
			return err
		}
	}
	return nil
}

// writeSome writes some of b and removes it from there.
func (c *conn) writeSome(b *net.Buffers) (int64, error) {
	if len(*b) > 1 {
		return b.WriteTo(c.nc)
	}
	buf := (*b)[0]
	if !c.partial { // a timed-out write leaves such a connection unusable, so each write is small enough to count as progress
		buf = buf[:min(len(buf), 16<<10)]
	}
	n, err := c.nc.Write(buf)
	if (*b)[0] = (*b)[0][n:]; len((*b)[0]) == 0 {
		*b = (*b)[:0]
	}
	return int64(n), err
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}
