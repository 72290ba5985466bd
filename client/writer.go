package client

// write is the writer goroutine of a link: it takes all that has been appended since its last write and writes it with
// one call, while others append to the second buffer. After a DISCONNECT it leaves the end to the broker [MQTT-3.14.4-1].
func (c *Client) write(l *link) {
	defer l.loops.Done()
	for {
		select {
		case <-l.wake:
		case <-l.down:
			return
		}
		switch c.writeAll(l) {
		case failed:
			l.close()
			return
		case parted:
			closeWrite(l.conn)
			return
		}
	}
}

type progress int

const (
	drained progress = iota // nothing is left for now
	parted                  // nothing ever will be: DISCONNECT is written
	failed
)

// writeAll writes until nothing is left.
func (c *Client) writeAll(l *link) progress {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(l.out) > 0 {
		buf := l.out
		l.out, l.spare = l.spare[:0], nil
		l.inWrite, l.unwritten = l.unwritten, l.inWrite[:0]
		c.pump(l)
		c.mu.Unlock()

		l.unheard.Add(int64(len(buf)))
		n, err := l.conn.Write(buf)
		l.spoke.Store(true)

		c.mu.Lock()
		if cap(buf) <= maxSpare {
			l.spare = buf[:0]
		}
		l.countWritten(n)
		if err != nil {
			if l.err == nil {
				l.err = err
			}
			return failed
		}
		c.settled()
	}
	if l.farewell {
		return parted
	}
	return drained
}

// countWritten settles what is in the first n bytes of the buffer that was written. The rest stays in inWrite: the
// other side cannot make anything of a packet that it has not got to its end.
func (l *link) countWritten(n int) {
	done := 0
	for done < len(l.inWrite) && l.inWrite[done].end <= n {
		l.inWrite[done].p.settle(nil)
		done++
	}
	rest := copy(l.inWrite, l.inWrite[done:])
	clear(l.inWrite[rest:])
	l.inWrite = l.inWrite[:rest]
}
