package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// goodbyeTimeout bounds the wait for the broker to close the connection after our DISCONNECT.
const goodbyeTimeout = time.Second

// Close stops everything: the contexts of handlers end and those that run are waited for, what waits in the outbox or
// for an acknowledgement is sent, also after a reconnect, and a DISCONNECT tells the broker that all is well, so that no
// Will is published. All of this takes until ctx ends at most, or 5 s when ctx has no deadline; then the connection is
// cut. What could not be sent and is in Options.Dir stays there for the next process; the error says how many messages are
// lost. With the default SessionExpiry the session ends.
//
// Close is idempotent and may be called concurrently. A handler or Birth that calls it passes on its ctx and is not
// waited for.
func (c *Client) Close(ctx context.Context) error {
	mine := c.startClosing()
	if ctx.Value(birthKey{}) == c {
		if mine {
			go func() { _ = c.shutDown(context.Background(), nil) }()
		}
		return nil
	}
	self := 0
	if ctx.Value(handlerKey{}) == c {
		if !mine {
			return nil // who closes waits for this handler
		}
		self = 1
		deadline, ok := ctx.Deadline()
		ctx = context.WithoutCancel(ctx) // it ends when Close begins
		if ok {
			var cancel context.CancelFunc
			ctx, cancel = context.WithDeadline(ctx, deadline)
			defer cancel()
		}
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, closeTimeout)
		defer cancel()
	}
	if !mine {
		select {
		case <-c.dead:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("close: %w", ctx.Err())
		}
	}
	return c.shutDown(ctx, func() bool { return c.handlers <= self })
}

// startClosing reports whether the caller is the one that closes c.
func (c *Client) startClosing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	mine := !c.closing
	c.closing = true
	return mine
}

// shutDown does what Close says, once. quiet reports under mu whether all handlers that are to be waited for have ended.
func (c *Client) shutDown(ctx context.Context, quiet func() bool) error {
	defer close(c.dead)
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, closeTimeout)
		defer cancel()
	}
	c.kill()
	c.mu.Lock()
	handlers := c.table.handlers
	c.mu.Unlock()
	for _, s := range handlers {
		if s.sink == nil {
			s.stop()
		}
	}
	if quiet != nil {
		c.await(ctx, &c.ended, quiet)
	}

	c.mu.Lock()
	c.refusing = true
	c.releaseHeld()
	c.roomMade()
	c.mu.Unlock()
	c.await(ctx, &c.flushed, c.empty)

	c.goodbye(ctx)
	c.halt()
	<-c.halted
	c.mu.Lock()
	unfinished := c.unfinished()
	c.mu.Unlock()
	if c.spoken == packet.V311 && c.opts.SessionExpiry == 0 && !unfinished {
		_ = c.wipe(ctx) // MQTT 3.1.1 cannot say in DISCONNECT that the session ends
	}
	c.spool.stop()
	err := c.giveUp()
	if err == nil {
		c.recordLeave()
	}
	if c.disk != nil {
		err = errors.Join(err, c.disk.Close())
	}
	return err
}

// Flush waits until nothing waits to be sent or acknowledged: all that was published before has arrived at the broker, or was
// dropped, as its receipt says. Its error is that of ctx, and says how many messages wait; or ErrClosed.
func (c *Client) Flush(ctx context.Context) error {
	c.await(ctx, &c.flushed, c.empty)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch n := c.box.len() + c.flight.n + c.limiter.n; {
	case c.unsent:
	case c.empty():
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("flush: %d messages wait for the broker %s: %w", n, c.endpoint.Load().name, ctx.Err())
	}
	return fmt.Errorf("flush: %w", ErrClosed)
}

// await waits until reached, called under mu, or ctx ends. Whoever changes what reached looks at closes *ch.
func (c *Client) await(ctx context.Context, ch *chan struct{}, reached func() bool) {
	for {
		c.mu.Lock()
		if reached() {
			c.mu.Unlock()
			return
		}
		if *ch == nil {
			*ch = make(chan struct{})
		}
		changed := *ch
		c.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return
		case <-c.halted:
			return
		}
	}
}

func wake(ch *chan struct{}) {
	if *ch != nil {
		close(*ch)
		*ch = nil
	}
}

// empty reports whether nothing waits to be sent or acknowledged.
func (c *Client) empty() bool {
	if c.box.len() > 0 || c.flight.n > 0 || c.limiter.n > 0 {
		return false
	}
	return c.link == nil || len(c.link.unwritten) == 0 && len(c.link.inWrite) == 0
}

// settled tells Close that something was sent or acknowledged. mu is held.
func (c *Client) settled() {
	if c.flushed != nil && c.empty() {
		wake(&c.flushed)
	}
}

// handlerEnded is called when a goroutine of a handler or a request ends.
func (c *Client) handlerEnded() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handlers--
	wake(&c.ended)
}

// goodbye sends DISCONNECT and waits until the broker has closed the connection.
func (c *Client) goodbye(ctx context.Context) {
	c.mu.Lock()
	l := c.link
	if l != nil {
		expiry := packet.Opt[uint32]{}
		if c.opts.SessionExpiry == 0 && !c.unfinished() {
			expiry = packet.Some[uint32](0)
		}
		c.disconnect(l, packet.Success, expiry)
	}
	c.mu.Unlock()
	if l == nil {
		return
	}
	t := time.NewTimer(goodbyeTimeout)
	defer t.Stop()
	select {
	case <-l.down:
	case <-t.C:
	case <-ctx.Done():
	}
}

// disconnect appends DISCONNECT, after which nothing is sent [MQTT-3.14.4-1].
func (c *Client) disconnect(l *link, code packet.Code, sessionExpiry packet.Opt[uint32]) {
	if l.farewell {
		return
	}
	p := packet.Disconnect{Code: code}
	p.Properties.SessionExpiry = sessionExpiry
	c.sendControl(l, &p)
	l.farewell = true
}

// giveUp settles what will never be sent.
func (c *Client) giveUp() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	lost, kept := 0, 0
	c.spool.disown()
	settle := func(p *publication) {
		switch {
		case p.seq != 0:
			kept++
			p.seq = 0 // it stays there
			p.settle(ErrClosed)
			return
		case !p.birth:
			lost++
		}
		p.lose(ErrClosed)
	}
	for p := c.flight.head; p != nil; p = c.flight.head {
		c.session.end(p)
		settle(p)
	}
	for i := range c.box.lanes {
		for p := c.box.lanes[i].head; p != nil; p = c.box.lanes[i].head {
			c.box.remove(p)
			settle(p)
		}
	}
	if c.parkedAt != nil {
		c.parkedAt.Stop()
	}
	c.unsent = lost+kept > 0
	if kept > 0 {
		c.opts.Logger.Info("messages wait for the next process", "messages", kept, "dir", c.opts.Dir)
	}
	if lost > 0 {
		return fmt.Errorf("close: %d messages were not delivered to the broker %s", lost, c.endpoint.Load().name)
	}
	return nil
}
