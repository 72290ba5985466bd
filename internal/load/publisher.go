package load

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
)

// A publisher sends over one connection.
type publisher struct {
	c     *client.Client
	r     *run
	i     int
	topic string
	opts  []client.PublishOption
	body  []byte // to begin each payload with

	sent  atomic.Uint64 // of the measurement
	since atomic.Int64  // when the call that gives a message to the client began, since the begin of the run; 0 while there is none
	late  *hdrhistogram.Histogram

	mu      sync.Mutex // guards what follows
	waitFor stamp      // of the closed loop: the message that is to arrive
	left    int        // at so many subscribers
	arrived chan struct{}
}

func newPublisher(r *run, i int) *publisher {
	p := &r.plan
	return &publisher{r: r, i: i, topic: fmt.Sprintf("%s/%d", p.Topic, i), body: filling(p.Size), arrived: make(chan struct{}, 1),
		late: hdrhistogram.New(1000, int64(longestTime), 2),
		opts: []client.PublishOption{client.WithQoS(byte(p.QoS)), client.WithRetain(p.Retain), client.Unlimited()}}
}

// message makes the payload of s, which the client keeps.
func (p *publisher) message(s stamp) message.Message {
	b := append([]byte(nil), p.body...)
	s.put(b)
	return message.NewRaw(b)
}

func (p *publisher) stamp(f phase, number uint64, due time.Duration) stamp {
	return stamp{run: p.r.id, publisher: uint16(p.i), phase: f, number: number, due: due}
}

// probe sends a message and waits for its acknowledgement, at a QoS at which a broker can say no.
func (p *publisher) probe(ctx context.Context) error {
	m := p.message(p.stamp(probing, 0, p.r.now()))
	return p.c.Publish(ctx, p.topic, m, client.WithQoS(byte(max(1, p.r.plan.QoS))), client.WithRetain(false), client.Unlimited())
}

// send sends what belongs to a phase that begins at start and lasts span, or count messages, until ctx ends.
func (p *publisher) send(ctx context.Context, f phase, start, span time.Duration, count uint64) {
	plan := &p.r.plan
	for n := uint64(0); count == 0 || n < count; n++ {
		due := p.r.now()
		if plan.Rate > 0 {
			nth := float64(n)*float64(plan.Publishers) + float64(p.i)
			due = start + time.Duration(nth/plan.Rate*float64(time.Second))
		}
		if span > 0 && due-start >= span || !p.r.pause(ctx, due) {
			return
		}
		if f == measuring && plan.Rate > 0 {
			_ = p.late.RecordValue(int64(min(max(p.r.now()-due, 0), longestTime)))
		}
		s := p.stamp(f, n, due)
		if plan.Closed {
			p.expect(s)
		}
		p.since.Store(int64(p.r.now()))
		p.c.PublishAsync(p.topic, p.message(s), p.opts...) // what becomes of it is seen at the subscribers, and in the client's figures
		p.since.Store(0)
		if f == measuring {
			p.sent.Add(1)
		}
		if plan.Closed && !p.await(ctx) {
			return
		}
	}
}

func (p *publisher) expect(s stamp) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select { // what came after the patience had ended
	case <-p.arrived:
	default:
	}
	p.waitFor, p.left = s, p.r.plan.Subscribers
}

// heard is told of each message that a subscriber gets for the first time.
func (p *publisher) heard(s stamp) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.phase != p.waitFor.phase || s.number != p.waitFor.number || p.left == 0 {
		return
	}
	if p.left--; p.left == 0 {
		p.arrived <- struct{}{}
	}
}

// await waits until the message has arrived everywhere, or counts as lost. It returns false when ctx has ended.
func (p *publisher) await(ctx context.Context) bool {
	timer := time.NewTimer(p.r.plan.Patience)
	defer timer.Stop()
	select {
	case <-p.arrived:
		return true
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
