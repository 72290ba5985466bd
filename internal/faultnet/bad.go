package faultnet

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// A Bad network delays and cuts what goes over it, for trying how programs get along.
type Bad struct {
	Delay time.Duration // what is written comes so much later
	Cut   time.Duration // a connection lasts that long on average, with an exponential distribution; 0 is for ever
}

const (
	badQueue  = 4096             // writes on their way
	lastWrite = 10 * time.Second // for what was on its way when its connection was closed
)

// Listener returns l with the connections that it accepts over the bad network. Closing it does not end them.
func (b Bad) Listener(l net.Listener) net.Listener { return &badListener{l, b} }

type badListener struct {
	net.Listener
	bad Bad
}

// Accept implements net.Listener.
func (l *badListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.bad.over(nc), nil
}

// A badConn is the near end of a pipe, whose far end goes over to the real connection.
type badConn struct {
	net.Conn
	raw net.Conn
}

// LocalAddr implements net.Conn.
func (c *badConn) LocalAddr() net.Addr { return c.raw.LocalAddr() }

// RemoteAddr implements net.Conn.
func (c *badConn) RemoteAddr() net.Addr { return c.raw.RemoteAddr() }

func (b Bad) over(raw net.Conn) net.Conn {
	near, far := net.Pipe()
	ctx, end := context.WithCancel(context.Background())
	if b.Cut > 0 {
		end()
		ctx, end = context.WithTimeout(context.Background(), time.Duration(rand.ExpFloat64()*float64(b.Cut)))
	}
	stop := context.AfterFunc(ctx, func() {
		_ = raw.Close()
		_ = far.Close()
	})
	queue := make(chan packet, badQueue)
	var pumps sync.WaitGroup
	pumps.Go(func() { // in
		buf := make([]byte, 32<<10)
		for {
			n, err := raw.Read(buf)
			if n > 0 {
				if _, err := far.Write(buf[:n]); err != nil {
					return // closed by us: what is on its way out still goes
				}
			}
			if err != nil {
				end()
				return
			}
		}
	})
	pumps.Go(func() { // out, from the pipe
		defer close(queue)
		buf := make([]byte, 32<<10)
		for {
			n, err := far.Read(buf)
			if n > 0 {
				select {
				case queue <- packet{append([]byte(nil), buf[:n]...), time.Now().Add(b.Delay)}:
				case <-ctx.Done():
					return
				}
			}
			if err != nil {
				return
			}
		}
	})
	pumps.Go(func() { // out, to the connection
		defer end()
		for p := range queue {
			if wait := time.Until(p.due); wait > 0 {
				t := time.NewTimer(wait)
				select {
				case <-t.C:
				case <-ctx.Done():
					t.Stop()
					return
				}
			}
			_ = raw.SetWriteDeadline(time.Now().Add(lastWrite))
			if _, err := raw.Write(p.data); err != nil {
				return
			}
		}
	})
	go func() {
		pumps.Wait()
		stop()
		end()
		_ = raw.Close()
		_ = far.Close()
	}()
	return &badConn{near, raw}
}
