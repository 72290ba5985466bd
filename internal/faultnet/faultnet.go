// Package faultnet is a TCP proxy that cuts, stalls, slows, delays and half-opens the connections through it, for tests
// and chaos runs.
package faultnet

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Direction is from where to where bytes go.
type Direction int

const (
	Up   Direction = iota // from who connects to the target
	Down                  // from the target back
)

// Faults are what happens to bytes in one direction. The zero value passes them on.
type Faults struct {
	// Lose makes bytes vanish: both ends of the connection believe in it. A connection that has lost some loses all that follow in that
	// direction, also when the fault is over, as TCP never passes a stream on with a hole in it.
	Lose  bool
	Stall bool          // bytes are not read any more: the sender's buffers fill
	Delay time.Duration // each byte arrives so much later
	Rate  int           // bytes per second at most; 0 is unlimited
	Chunk int           // bytes at a time at most; 0 is as they come
}

// A Proxy passes connections on to its target. Its methods may be called concurrently.
type Proxy struct {
	target   string
	listener net.Listener
	stop     context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup
	accepted atomic.Int64
	passed   [2]atomic.Int64

	mu      sync.Mutex // guards what follows
	faults  [2]Faults
	changed chan struct{} // closed when faults have changed
	pairs   map[*pair]struct{}
	down    bool
	budget  int64 // bytes until the next cut; 0 is never
}

// Start listens on a port of its own on the loopback interface and passes on to target, host:port.
func Start(target string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{target: target, listener: l, changed: make(chan struct{}), pairs: make(map[*pair]struct{})}
	p.stop, p.cancel = context.WithCancel(context.Background())
	p.running.Add(1)
	go p.accept()
	return p, nil
}

// Addr returns host:port to connect to.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Accepted returns the number of connections that were made so far, those refused by Refuse not counted.
func (p *Proxy) Accepted() int { return int(p.accepted.Load()) }

// Passed returns the number of bytes that were passed on in that direction.
func (p *Proxy) Passed(d Direction) int64 { return p.passed[d].Load() }

// Close cuts everything and waits until all has ended.
func (p *Proxy) Close() {
	p.cancel()
	_ = p.listener.Close()
	p.Cut(false)
	p.running.Wait()
}

// Set replaces the faults of a direction, for connections that are there and those to come.
func (p *Proxy) Set(d Direction, f Faults) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults[d] = f
	close(p.changed)
	p.changed = make(chan struct{})
}

// Cut ends all connections, with reset by RST instead of FIN.
func (p *Proxy) Cut(reset bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.pairs {
		c.cut(reset)
	}
}

// CutAfter cuts a connection as soon as n more bytes have passed, both directions and all connections counted. It
// happens once; 0 calls it off.
func (p *Proxy) CutAfter(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.budget = n
}

// Refuse closes new connections at once, or stops doing so.
func (p *Proxy) Refuse(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = on
}

func (p *Proxy) get(d Direction) (Faults, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.faults[d], p.changed
}

// spend takes n from the budget until the next cut. It returns how many bytes may pass over c before it, and whether it
// comes then.
func (p *Proxy) spend(c *pair, n int) (pass int, cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.spent {
		return 0, true
	}
	if p.budget == 0 {
		return n, false
	}
	if int64(n) < p.budget {
		p.budget -= int64(n)
		return n, false
	}
	n = int(p.budget)
	p.budget = 0
	c.spent = true
	return n, true
}

func (p *Proxy) accept() {
	defer p.running.Done()
	for {
		in, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		refuse := p.down || p.stop.Err() != nil
		p.mu.Unlock()
		if refuse {
			_ = in.Close()
			continue
		}
		out, err := new(net.Dialer).DialContext(p.stop, "tcp", p.target)
		if err != nil {
			_ = in.Close()
			continue
		}
		p.accepted.Add(1)
		c := &pair{p: p, ends: [2]net.Conn{in, out}, done: make(chan struct{})}
		p.mu.Lock()
		p.pairs[c] = struct{}{}
		if p.stop.Err() != nil {
			c.cut(false)
		}
		p.mu.Unlock()
		p.running.Add(4)
		for d := Up; d <= Down; d++ {
			queue := make(chan packet, 64)
			go c.read(d, queue)
			go c.write(d, queue)
		}
	}
}

// A pair is a connection through the proxy: who connected, and the target.
type pair struct {
	p     *Proxy
	ends  [2]net.Conn
	once  sync.Once
	done  chan struct{} // closed when it is cut
	spent bool          // about to be cut by CutAfter; guarded by p.mu
}

// packet is what one read brought, and when it is due at the other end.
type packet struct {
	data []byte
	due  time.Time
}

func (c *pair) cut(reset bool) {
	c.once.Do(func() {
		close(c.done)
		for _, end := range c.ends {
			if t, ok := end.(*net.TCPConn); ok && reset {
				_ = t.SetLinger(0)
			}
			_ = end.Close()
		}
	})
}

// over ends c for good.
func (c *pair) over() {
	c.cut(false)
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	delete(c.p.pairs, c)
}

func (c *pair) read(d Direction, queue chan<- packet) {
	defer c.p.running.Done()
	defer close(queue)
	buf := make([]byte, 32<<10)
	lost := false
	for {
		n, err := c.ends[d].Read(buf)
		f, changed := c.p.get(d)
		for f.Stall {
			select {
			case <-changed:
				f, changed = c.p.get(d)
			case <-c.done:
				return
			}
		}
		lost = lost || n > 0 && f.Lose
		if n > 0 && !lost {
			select {
			case queue <- packet{append([]byte(nil), buf[:n]...), time.Now().Add(f.Delay)}:
			case <-c.done:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (c *pair) write(d Direction, queue <-chan packet) {
	defer c.p.running.Done()
	defer c.over()
	to := c.ends[1-d]
	for k := range queue {
		if !c.pause(time.Until(k.due)) {
			return
		}
		for len(k.data) > 0 {
			f, _ := c.p.get(d)
			n := len(k.data)
			if f.Rate > 0 {
				n = min(n, max(f.Rate/50, 1))
			}
			if f.Chunk > 0 {
				n = min(n, f.Chunk)
			}
			pass, cut := c.p.spend(c, n)
			wrote, err := to.Write(k.data[:pass])
			c.p.passed[d].Add(int64(wrote))
			if cut || err != nil {
				return
			}
			k.data = k.data[n:]
			if f.Rate > 0 && !c.pause(time.Duration(n)*time.Second/time.Duration(f.Rate)) {
				return
			}
		}
	}
	if half, ok := to.(*net.TCPConn); ok {
		_ = half.CloseWrite()
		select { // the other direction may have more to say
		case <-c.done:
		case <-time.After(time.Second):
		}
	}
}

// pause waits, unless c ends before.
func (c *pair) pause(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.done:
		return false
	}
}
