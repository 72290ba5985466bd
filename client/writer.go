package client

// nowSize is how many bytes others than the writer write at most.
const nowSize = 16 << 10

// write is the writer goroutine of a link: it takes all that has been appended since its last write and writes it with
// one call, while others append to the second buffer. After a DISCONNECT it leaves the end to the broker [MQTT-3.14.4-1].
//
// Whoever has just appended something that is waited for writes in its place what the socket takes at once (writeNow). That
// saves a change of goroutines, and nobody ever waits for the socket but the writer.
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

// writeAll writes until nothing is left. While another writes it leaves that to it, and is woken for the rest.
func (c *Client) writeAll(l *link) progress {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !l.writing && c.beginWrite(l) {
		rest := l.cur[l.done:]
		c.mu.Unlock()
		n, err := l.conn.Write(rest)
		c.mu.Lock()
		c.endWrite(l, n)
		if err != nil {
			if l.err == nil {
				l.err = err
			}
			return failed
		}
	}
	if l.farewell && !l.writing {
		return parted
	}
	return drained
}

// writeNow writes what the socket takes at once, unless somebody writes already. What is left is the writer's. Client.mu is held, but not
// meanwhile.
func (c *Client) writeNow(l *link) {
	switch {
	case l.writing: // and looks for more when it is done
		return
	case l.attempt == nil || l.farewell || len(l.out) > nowSize || l.done < len(l.cur):
		l.wakeWriter()
		return
	case !c.beginWrite(l):
		return
	}
	rest := l.cur
	c.mu.Unlock()
	n, ok := l.attempt(rest)
	c.mu.Lock()
	c.endWrite(l, n)
	if !ok {
		l.attempt = nil // the writer finds out why
	}
	if len(l.out) > 0 || l.done < len(l.cur) || l.farewell {
		l.wakeWriter()
	}
}

// beginWrite sets l.cur to what is to be written, if there is something. Who calls it writes then, and calls endWrite.
func (c *Client) beginWrite(l *link) bool {
	if l.done == len(l.cur) {
		if len(l.out) == 0 {
			return false
		}
		l.cur, l.out, l.spare = l.out, l.spare[:0], nil
		l.done, l.urgent = 0, false
		l.writes++
		l.inWrite, l.unwritten = l.unwritten, l.inWrite[:0]
		l.unheard.Add(int64(len(l.cur)))
		c.pump(l)
	}
	l.writing = true
	return true
}

// endWrite notes that n more bytes of l.cur are written.
func (c *Client) endWrite(l *link, n int) {
	l.spoke.Store(true)
	l.writing = false
	l.rests.Broadcast()
	l.done += n
	l.sent.Add(int64(n))
	l.countWritten(l.done)
	if l.done == len(l.cur) {
		if cap(l.cur) <= maxSpare {
			l.spare = l.cur[:0]
		}
		l.cur, l.done = nil, 0
		c.settled()
	}
}

// countWritten settles what is in the first n bytes of the buffer that is written. The rest stays in inWrite: the
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
