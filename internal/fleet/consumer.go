package fleet

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A consumer reads a stream, and ends as soon as it cannot be sure that nothing was missed: at a gap in what comes, after silence, with the
// connection, or when the server has forgotten it. Whoever runs it goes on from what came, or begins anew.
type consumer struct {
	js       jetstream.JetStream
	stream   string
	filters  []string // of subjects
	policy   jetstream.DeliverPolicy
	sequence uint64     // to start with
	start    *time.Time // to start at
	// complete is called once everything has come that was there at the start.
	complete func() error
}

const (
	heartbeat   = 3 * time.Second  // after twice which without a word a consumer ends
	auditTime   = 10 * time.Second // how often it asks whether everything has come
	idleTime    = time.Minute      // after which the server forgets one that is gone
	onTheirWay  = 2000             // messages at most
	requestTime = 5 * time.Second
)

var (
	errGap       = errors.New("messages were missed")
	errReconnect = errors.New("the connection to the engine was lost")
)

// run calls f for each message until something fails. Its error is never nil.
func (c *consumer) run(ctx context.Context, f func(msg jetstream.Msg, about *jetstream.MsgMetadata) error) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	reconnects := c.js.Conn().Stats().Reconnects
	request, cancel := context.WithTimeout(ctx, requestTime)
	cons, err := c.js.CreateConsumer(request, c.stream, jetstream.ConsumerConfig{
		DeliverPolicy: c.policy, OptStartSeq: c.sequence, OptStartTime: c.start, AckPolicy: jetstream.AckNonePolicy, FilterSubjects: c.filters,
		MemoryStorage: true, Replicas: 1, InactiveThreshold: idleTime,
	})
	cancel()
	if err != nil {
		return err
	}
	defer func() {
		if c.js.Conn().IsConnected() {
			forget, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_ = c.js.DeleteConsumer(forget, c.stream, cons.CachedInfo().Name) // else the server forgets it
		}
	}()
	messages, err := cons.Messages(jetstream.PullMaxMessages(onTheirWay), jetstream.PullHeartbeat(heartbeat))
	if err != nil {
		return err
	}
	defer messages.Stop()

	waiting, nothing := context.WithCancel(ctx)
	defer nothing()
	a := &audit{cons: cons, js: c.js, reconnects: reconnects, nothing: nothing}
	audited := make(chan struct{})
	defer func() { end(nil); <-audited }()
	go func() {
		defer close(audited)
		if err := a.run(ctx); err != nil {
			end(err)
		}
	}()
	want, complete := cons.CachedInfo().NumPending, false
	for received := uint64(0); ; {
		if !complete && received >= want {
			complete = true
			if err := c.complete(); err != nil {
				return err
			}
		}
		msg, err := messages.Next(jetstream.NextContext(waiting))
		if err != nil && waiting.Err() != nil && ctx.Err() == nil { // what was there was removed meanwhile
			want, waiting = received, ctx
			continue
		}
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return err
		}
		about, err := msg.Metadata()
		if err != nil {
			return err
		}
		if about.Sequence.Consumer != a.heard.Load()+1 {
			return errGap
		}
		if err := f(msg, about); err != nil {
			return err
		}
		a.heard.Store(about.Sequence.Consumer)
		if received++; about.NumPending == 0 {
			want = min(want, received)
		}
	}
}

// An audit asks the server from time to time whether a consumer has everything.
type audit struct {
	cons       jetstream.Consumer
	js         jetstream.JetStream
	reconnects uint64
	heard      atomic.Uint64 // the consumer's number of the last message
	nothing    func()        // is called when nothing is left
}

// run returns why the consumer may have missed something: the connection was another one meanwhile, or the server has sent more than has come.
func (a *audit) run(ctx context.Context) error {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	next := time.Now().Add(auditTime)
	var sent, had uint64 // at the last audit
	failed := 0
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if c := a.js.Conn(); !c.IsConnected() || c.Stats().Reconnects != a.reconnects {
			return errReconnect
		}
		if time.Now().Before(next) {
			continue
		}
		next = time.Now().Add(auditTime)
		before := a.heard.Load()
		request, cancel := context.WithTimeout(ctx, requestTime)
		info, err := a.cons.Info(request)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			if failed++; failed == 3 || errors.Is(err, jetstream.ErrConsumerNotFound) {
				return err
			}
			continue
		case sent > had && before == had: // all of what had been sent then should be here
			return errGap
		}
		if info.NumPending == 0 && info.Delivered.Consumer == before {
			a.nothing()
		}
		failed, sent, had = 0, info.Delivered.Consumer, a.heard.Load()
	}
}
