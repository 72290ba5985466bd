package client

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// An item is a message in a handler's queue.
type item struct {
	in *inbound
	d  *Delivery
}

// A backlog is the bounded queue of one handler, drained by a goroutine of its own.
type backlog struct {
	mu      sync.Mutex
	more    sync.Cond
	items   []item // from head
	head    int
	stopped bool

	added, removed uint64        // items so far
	drained        chan struct{} // closed when an item is done with; nil if nobody waits

	// What a handler has begun with proceed goes on beside what comes next, in as many goroutines as it takes.
	idle   int    // goroutines that wait for an item
	taking bool   // the goroutine with the latest item has not proceeded
	round  uint64 // counts those that have
}

func (b *backlog) len() int { return len(b.items) - b.head }

func (b *backlog) add(it item) {
	if b.head > 32 && b.head > len(b.items)/2 {
		n := copy(b.items, b.items[b.head:])
		clear(b.items[n:])
		b.items, b.head = b.items[:n], 0
	}
	b.items = append(b.items, it)
	b.added++
}

func (b *backlog) take() item {
	it := b.items[b.head]
	b.items[b.head] = item{}
	b.head++
	b.removed++
	return it
}

// takeOut removes the i-th from the front.
func (b *backlog) takeOut(i int) item {
	i += b.head
	it := b.items[i]
	b.items = slices.Delete(b.items, i, i+1)
	b.removed++
	return it
}

// done lets those look who wait for the handler.
func (b *backlog) done() {
	if b.drained != nil {
		close(b.drained)
		b.drained = nil
	}
}

// Drain waits until the handler has returned for every message that was received before Drain was called, or ctx ends, or the subscription
// does. So what an answer to a call says can be put after all that came before it. In a queue that drops messages those that are dropped
// meanwhile count as if they had been handled. The handler itself must not call it.
func (s *Subscription) Drain(ctx context.Context) error {
	b := &s.waiting
	b.mu.Lock()
	target := b.added
	for !b.stopped && (b.removed < target || b.taking) {
		if b.drained == nil {
			b.drained = make(chan struct{})
		}
		next := b.drained
		b.mu.Unlock()
		select {
		case <-next:
		case <-ctx.Done():
			return fmt.Errorf("drain %s: %w", s.filter, context.Cause(ctx))
		}
		b.mu.Lock()
		if b.removed > target { // the one that is running came later
			break
		}
	}
	b.mu.Unlock()
	return nil
}

// push queues it for the handler, unless the bound says otherwise. It does not wait. What is lost, which may be it, is
// for the caller to let go; the zero item means nothing.
func (s *Subscription) push(it item) (lost item) {
	lost, dropped := s.enqueue(it)
	if dropped {
		s.dropped.Add(1)
		_ = s.c.reject(receiving, lost.in.full, lost.d.Message.Metadata.ID, errQueueFull)
	}
	return lost
}

// enqueue is push, and reports whether what is lost was dropped for lack of room.
func (s *Subscription) enqueue(it item) (lost item, dropped bool) {
	b := &s.waiting
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped {
		return it, false
	}
	if b.len() >= s.queue.Max {
		lost = s.overflow(it)
		dropped = lost.in != nil
	}
	if lost != it {
		b.add(it)
		b.more.Signal()
	}
	s.backlog.Store(int32(b.len()))
	return lost, dropped
}

// overflow takes out of the full queue what has to go for it. That may be it, or nothing: the zero item.
func (s *Subscription) overflow(it item) item {
	b := &s.waiting
	queued := b.items[b.head:]
	switch s.queue.Full {
	case DropOldest:
		return b.take()
	case Latest:
		i := slices.IndexFunc(queued, func(q item) bool { return q.in.full == it.in.full })
		return b.takeOut(max(i, 0))
	case ByClass:
		if it.in.qos > 0 {
			return item{}
		}
		if i := slices.IndexFunc(queued, func(q item) bool { return q.in.qos == 0 }); i >= 0 {
			return b.takeOut(i)
		}
		return it
	}
	if it.in.qos > 0 {
		return item{}
	}
	return it
}

// letGo notes that a handler will not see it. When the client closes such messages are left to a later session.
func (c *Client) letGo(it item) {
	if it.in == nil || it.in.qos == 0 || it.in.pending.Add(-1) > 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing {
		c.finished(it.in)
	}
}

// maxIdle is how many goroutines of one handler are kept for what may come.
const maxIdle = 4

// handle is the goroutine of one handler. Of a handler that proceeds there may be several, of which one takes the next item.
func (s *Subscription) handle() {
	defer s.c.handlerEnded()
	b := &s.waiting
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.idle < maxIdle {
		b.idle++
		for (b.len() == 0 || b.taking) && !b.stopped {
			b.more.Wait()
		}
		b.idle--
		if b.stopped {
			return
		}
		it := b.take()
		s.backlog.Store(int32(b.len()))
		b.taking = true
		round := b.round
		b.mu.Unlock()
		s.run(it)
		b.mu.Lock()
		if b.round == round {
			b.taking = false
		}
		b.done()
	}
}

// proceed is called by a handler that has done what has to be done in order: another goroutine takes the next item.
func (s *Subscription) proceed() {
	b := &s.waiting
	b.mu.Lock()
	b.taking = false
	b.round++
	alone := b.idle == 0 && !b.stopped
	if b.len() > 0 {
		b.more.Signal()
	}
	b.mu.Unlock()
	if alone {
		s.c.mu.Lock()
		s.c.handlers++
		s.c.mu.Unlock()
		go s.handle()
	}
}

// run calls the handler. A panic is the handler's own affair, not the connection's.
func (s *Subscription) run(it item) {
	began := time.Now()
	defer func() {
		if v := recover(); v != nil {
			s.c.stats.panics.Add(1)
			s.panics.Add(1)
			s.c.opts.Logger.Error("handler panicked", "filter", s.filter, "topic", it.d.Topic, "panic", v, "stack", string(debug.Stack()))
		}
		took := int64(time.Since(began))
		s.handled.Add(1)
		s.busy.Add(took)
		s.longest.Store(max(s.longest.Load(), took)) // of this goroutine alone
		if !it.d.begun {
			s.c.handled(it.in)
		}
	}()
	it.d.in = it.in
	if s.serve != nil {
		s.serve(s, it.d)
	} else {
		s.callHandler(it.d)
	}
}

// callHandler calls the handler within its time, and says so if it takes longer.
func (s *Subscription) callHandler(d *Delivery) {
	if s.timeout <= 0 {
		s.invoke(s.ctx, d)
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.timeout)
	defer cancel()
	topic := d.Topic
	late := time.AfterFunc(s.timeout, func() {
		s.overruns.Add(1)
		s.c.stats.overruns.Add(1)
		s.c.opts.Logger.Warn("handler takes too long", "filter", s.filter, "topic", topic, "timeout", s.timeout)
	})
	defer late.Stop()
	s.invoke(ctx, d)
}

func (s *Subscription) invoke(ctx context.Context, d *Delivery) {
	if s.c.opts.Tracer != nil {
		s.tracedHandler(ctx, d)
		return
	}
	s.h(ctx, d)
}

// stop ends the handler's goroutine as soon as the handler returns. What is still queued is returned.
func (s *Subscription) stop() []item {
	s.cancel()
	if s.freshness != nil {
		s.freshness.stop()
	}
	b := &s.waiting
	b.mu.Lock()
	defer b.mu.Unlock()
	left := slices.Clone(b.items[b.head:])
	b.items, b.head, b.stopped = nil, 0, true
	s.backlog.Store(0)
	b.more.Broadcast()
	b.done()
	return left
}

// handlerKey marks the context of handlers, Client.life, with the Client that they belong to.
type handlerKey struct{}

// birthKey marks the context of Birth.
type birthKey struct{}
