package homeassistant

import (
	"context"
	"math"
	"sync"
	"time"
)

// pings is how many of the last ones the quality of the link is about.
const pings = 20

// A link is how well the mower's service can be reached.
type link struct {
	mu       sync.Mutex // guards the fields below
	answered []bool     // the last pings
	latency  *float64   // ms, of the last; nil when it was not answered
	rate     *float64   // messages per minute that the broker is sent; nil when it does not say
}

func (l *link) setRate(v float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v = math.Round(v)
	l.rate = &v
}

// add takes in a ping.
func (l *link) add(trip time.Duration, answered bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.answered = append(l.answered, answered); len(l.answered) > pings {
		l.answered = l.answered[1:]
	}
	l.latency = nil
	if answered {
		ms := math.Round(float64(trip)/float64(time.Millisecond)*10) / 10
		l.latency = &ms
	}
}

func (l *link) state() object {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := object{"latency": l.latency, "rate": l.rate, "quality": nil}
	if len(l.answered) > 0 {
		n := 0
		for _, ok := range l.answered {
			if ok {
				n++
			}
		}
		o["quality"] = math.Round(100 * float64(n) / float64(len(l.answered)))
	}
	return o
}

func (b *Bridge) showLink() { b.show(entityLink, b.link.state(), linkPatience/3) }

// ping asks the mower's service for a sign of life, and shows how long that took.
func (b *Bridge) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingTime)
	defer cancel()
	began := time.Now()
	err := b.svc.Call(ctx, b.o.MowerService, "ping", nil, nil)
	if b.ctx.Err() == nil {
		b.link.add(time.Since(began), err == nil)
		b.showLink()
	}
	return err
}

const pingTime = 5 * time.Second // that an answer may take

// lost says that there is nobody to be asked.
func (l *link) lost() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.latency = nil
}

// measure pings while the mower's service says that it is there, until the bridge ends.
func (b *Bridge) measure() {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-b.arrived:
		case <-b.ctx.Done():
			return
		}
		if !b.mowerRuns() {
			b.link.lost()
			b.showLink()
		} else if err := b.ping(b.ctx); err != nil {
			b.log.Debug("the mower's service does not answer", "service", b.o.MowerService, "error", err)
		}
		t.Reset(b.o.PingEvery)
	}
}

// mowerRuns reports whether the mower's service has said that it is there.
func (b *Bridge) mowerRuns() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return available(b.known[b.o.MowerService].State)
}
