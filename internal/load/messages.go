package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
)

// connect opens a connection of its own. Losing it ends the run.
func (r *run) connect(ctx context.Context, name string) (*client.Client, error) {
	o := r.plan.Client
	o.ID += "-" + name
	o.Rates = client.Rates{} // they are for services
	o.Outbox = client.Queue{Max: roomFor(r.plan.Size, 1000)}
	o.Limits.MaxPayload = max(o.Limits.MaxPayload, 2*r.plan.Size+4096)
	if r.plan.Kind != Command {
		o.Signing, o.Encryption = nil, nil // of the bytes that are measured nothing is added or changed
	}
	o.OnState = func(connected bool, cause error) {
		if !connected && !r.ending.Load() {
			r.fail(&LostConnectionError{cause})
		}
	}
	// A link that is as full as it can be answers late, and is not lost.
	o.Probe = min(max(o.Probe, r.plan.Patience/2, time.Second), 5*time.Second)
	return connectWhenFree(ctx, o)
}

// serverBusy is the reason code of a broker that wants to be asked again: it checks a few passwords at once.
const serverBusy = 0x89

// connectWhenFree connects, again for a while when the broker is busy.
func connectWhenFree(ctx context.Context, o client.Options) (*client.Client, error) {
	over := time.Now().Add(connectPatience)
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		c, err := client.Connect(ctx, o)
		var refused *client.ConnectError
		if err == nil || !errors.As(err, &refused) || refused.Code != serverBusy || time.Now().After(over) {
			return c, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, err
		}
	}
}

// messages runs a plan of messages. asked ends when the caller has had enough, working also when the run cannot go on.
func (r *run) messages(asked, working context.Context) (*Result, error) {
	defer r.close()
	if err := r.open(working); err != nil {
		return nil, r.reason(asked, working, err)
	}
	if err := r.probe(working); err != nil {
		return nil, r.reason(asked, working, err)
	}
	r.meter.listen(working, r.plan.Client)
	stopProgress := r.watch(working, r.counts, r.stuck)
	defer stopProgress()
	if p := &r.plan; p.WarmUp > 0 {
		r.warmedUp.Store(int64(r.now()))
		r.everyone(working, warming, r.now(), p.WarmUp, 0)
	}
	begun := working.Err() == nil
	if begun {
		r.meter.begin()
		start := r.now()
		r.start.Store(int64(start))
		r.everyone(working, measuring, start, r.plan.Duration, r.plan.Count)
		r.settle(asked, working)
	}
	stopProgress()
	if err := r.broken(asked, working); err != nil {
		return nil, err
	}
	if !begun {
		return nil, context.Cause(asked)
	}
	result := r.messagesResult(asked.Err() != nil)
	if r.plan.Retain {
		result.Retained = r.clear()
	}
	return result, nil
}

// reason is why a run ended before it measured: what ended it, else err.
func (r *run) reason(asked, working context.Context, err error) error {
	if broken := r.broken(asked, working); broken != nil {
		return broken
	}
	if asked.Err() != nil {
		return context.Cause(asked)
	}
	return err
}

// broken returns what has ended the run, if that was not the caller.
func (r *run) broken(asked, working context.Context) error {
	if working.Err() == nil || asked.Err() != nil && errors.Is(context.Cause(working), context.Cause(asked)) {
		return nil
	}
	e := &BrokenError{Err: context.Cause(working)}
	if start := r.start.Load(); start > 0 {
		e.After = r.now() - time.Duration(start)
		e.Sent, e.Received = r.counts()
	}
	return e
}

// open connects everybody and subscribes.
func (r *run) open(ctx context.Context) error {
	p := &r.plan
	for i := range p.Subscribers {
		s := newSubscriber(r)
		c, err := r.connect(ctx, fmt.Sprintf("s%d", i))
		if err != nil {
			return err
		}
		s.c = c
		r.subscribers = append(r.subscribers, s)
		limited, cancel := context.WithTimeout(ctx, p.Patience)
		_, err = c.Subscribe(limited, p.Topic+"/+", s.take, client.WithMaxQoS(byte(p.QoS)), client.WithQueue(client.Queue{Max: roomFor(p.Size, 100_000)}))
		cancel()
		if err != nil {
			return err
		}
	}
	for i := range p.Publishers {
		pub := newPublisher(r, i)
		c, err := r.connect(ctx, fmt.Sprintf("p%d", i))
		if err != nil {
			return err
		}
		pub.c = c
		r.publishers = append(r.publishers, pub)
	}
	return nil
}

// probe sends one message from each publisher to all subscribers, so that what is refused, too large or not delivered is known before.
func (r *run) probe(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, r.plan.Patience)
	defer cancel()
	for _, p := range r.publishers {
		if err := p.probe(limited); err != nil {
			return err
		}
	}
	for _, s := range r.subscribers {
		select {
		case <-s.ready:
		case <-limited.Done():
			return ErrNothingArrives
		}
	}
	return nil
}

// everyone has all publishers send a phase, and waits until they have, or ctx has ended and so have they, or the connections have been cut.
func (r *run) everyone(ctx context.Context, f phase, start, span time.Duration, count int) {
	var senders sync.WaitGroup
	for i, p := range r.publishers {
		n := uint64(0)
		if count > 0 {
			n = r.plan.share(i)
		}
		senders.Go(func() { p.send(ctx, f, start, span, n) })
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		senders.Wait()
	}()
	select {
	case <-sent:
	case <-ctx.Done():
		select {
		case <-sent:
		case <-time.After(stopPatience):
			r.cut() // one of them waits for a broker that takes nothing
			<-sent
		}
	}
	if f == warming {
		r.flush(ctx, r.plan.Patience)
	}
}

// flush waits until the broker has acknowledged everything.
func (r *run) flush(ctx context.Context, most time.Duration) {
	limited, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for _, p := range r.publishers {
		if p.c.Flush(limited) != nil {
			return
		}
	}
}

// settle waits until all has come that was sent, or nothing more comes.
func (r *run) settle(asked, working context.Context) {
	patience := r.plan.Patience
	if asked.Err() != nil {
		patience = min(patience, stopPatience)
	}
	// What was on its way when the caller had enough is waited for, but not when the run is broken.
	ctx, cancel := context.WithCancel(context.WithoutCancel(working))
	defer cancel()
	defer context.AfterFunc(working, func() {
		if asked.Err() == nil {
			cancel()
		}
	})()
	r.flush(ctx, patience)
	began := r.now()
	tick := time.NewTicker(beat / 10)
	defer tick.Stop()
	for {
		sent, got, last := uint64(0), uint64(0), began
		for _, p := range r.publishers {
			sent += p.sent.Load()
		}
		for _, s := range r.subscribers {
			n, at := s.distinct()
			got += n
			last = max(last, at)
		}
		if asked.Err() != nil {
			patience = min(patience, stopPatience)
		}
		if got >= sent*uint64(len(r.subscribers)) || r.now()-last > patience {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// watch tells Progress, samples what is used, and calls look, until the function that it returns is called, which waits for it.
func (r *run) watch(ctx context.Context, counts func() (sent, received uint64), look func()) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		tick := time.NewTicker(beat)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			if r.start.Load() > 0 {
				r.meter.sample()
			}
			if r.plan.Progress != nil {
				r.plan.Progress(r.progress(counts()))
			}
			look()
		}
	})
	return func() {
		cancel()
		watching.Wait()
	}
}

// stuck ends a run whose broker takes nothing any more.
func (r *run) stuck() {
	for _, p := range r.publishers {
		if since := time.Duration(p.since.Load()); since > 0 && r.now()-since > r.plan.Patience {
			r.fail(fmt.Errorf("%w: one has waited for %s", ErrStuck, r.plan.Patience))
		}
	}
}

// counts returns the messages of the measurement so far.
func (r *run) counts() (sent, received uint64) {
	for _, p := range r.publishers {
		sent += p.sent.Load()
	}
	for _, s := range r.subscribers {
		s.mu.Lock()
		received += s.received
		s.mu.Unlock()
	}
	return sent, received
}

func (r *run) progress(sent, received uint64) Progress {
	p := Progress{Sent: sent, Received: received}
	start, length := time.Duration(r.start.Load()), r.plan.Duration
	if start == 0 {
		p.WarmingUp, start, length = true, time.Duration(r.warmedUp.Load()), r.plan.WarmUp
	}
	p.Elapsed = r.now() - start
	switch {
	case length > 0:
		p.Share = p.Elapsed.Seconds() / length.Seconds()
	case r.plan.Count > 0:
		p.Share = float64(p.Sent) / float64(r.plan.Count)
	}
	p.Share = min(p.Share, 1)
	return p
}

// clear removes what is retained, and returns how many topics it could not clear.
func (r *run) clear() (left int) {
	ctx, cancel := context.WithTimeout(context.Background(), closePatience)
	defer cancel()
	for _, p := range r.publishers {
		if p.c.Publish(ctx, p.topic, message.NewRaw(nil), client.WithQoS(1), client.WithRetain(true), client.Unlimited()) != nil {
			left++
		}
	}
	return left
}

// all calls f for every client at once, and waits.
func (r *run) all(f func(c *client.Client)) {
	var each sync.WaitGroup
	for _, p := range r.publishers {
		each.Go(func() { f(p.c) })
	}
	for _, s := range r.subscribers {
		each.Go(func() { f(s.c) })
	}
	each.Wait()
}

// cut ends all connections without waiting for what is on its way.
func (r *run) cut() {
	r.ending.Store(true)
	over, cancel := context.WithCancel(context.Background())
	cancel()
	r.all(func(c *client.Client) { _ = c.Close(over) })
}

// close ends all connections.
func (r *run) close() {
	r.ending.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), closePatience)
	defer cancel()
	r.all(func(c *client.Client) { _ = c.Close(ctx) }) // what it complains of was measured as lost
	r.meter.close()
}
