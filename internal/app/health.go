package app

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
)

// A Probe looks whether the system does its work, over a connection of its own to the broker. A broker elsewhere is not ours to judge: starting again
// would not mend it.
type Probe struct {
	a    *App
	c    *client.Client // nil with a broker elsewhere
	back chan string    // what came back on its topic

	mu    sync.Mutex    // guards looks
	looks chan struct{} // closed when the look at the locks that goes on has ended; nil when none does
}

// probeTopic is where a probe publishes what it then receives, when there is no hub to ask.
const probeTopic = "system/watchdog/"

// Probe connects a probe to the broker by the configuration with which the system was started. Close it before Stop.
func (a *App) Probe(ctx context.Context, c *config.Config) (*Probe, error) {
	p := &Probe{a: a, back: make(chan string, 1)}
	if a.engine == nil {
		return p, nil
	}
	o, err := a.within(c, "lawnberry")
	if err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	o.CleanStart, o.SessionExpiry, o.FailFast = true, -1, true
	if p.c, err = client.Connect(ctx, o); err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	_, err = p.c.Subscribe(ctx, probeTopic+p.c.ID(), func(_ context.Context, d *client.Delivery) {
		select {
		case p.back <- string(d.Message.Payload):
		default: // nobody waits for it any more
		}
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("probe: %w", err), p.Close(ctx))
	}
	return p, nil
}

// Close ends the connection.
func (p *Probe) Close(ctx context.Context) error {
	if p.c == nil {
		return nil
	}
	return p.c.Close(ctx)
}

// Check reports why the system does not do its work, nil when it does: a command goes through the broker to the hub of the emergency stop, which
// answers once it has taken in everything before it; without a hub a message goes through the broker and back. And the locks of both can be had. It
// is to be called by one goroutine at a time, with a ctx that ends.
func (p *Probe) Check(ctx context.Context) error {
	if err := p.look(ctx); err != nil {
		return err
	}
	hub := p.a.hub
	if hub != nil {
		select {
		case <-hub.Done():
			return errors.New("the hub of the emergency stop has ended")
		default:
		}
	}
	if p.c == nil {
		return nil
	}
	if hub == nil {
		return p.turn(ctx)
	}
	if _, err := safety.Confirmed(ctx, p.c, ""); err != nil {
		return fmt.Errorf("no answer from the hub of the emergency stop over the broker: %w", err)
	}
	return nil
}

// turn sends a message around.
func (p *Probe) turn(ctx context.Context) error {
	fail := func(err error) error { return fmt.Errorf("no message comes through the broker: %w", err) }
	mark := time.Now().Format(time.RFC3339Nano)
	if err := p.c.Publish(ctx, probeTopic+p.c.ID(), message.NewRaw([]byte(mark)), client.Volatile(), client.Unlimited()); err != nil {
		return fail(err)
	}
	for {
		select {
		case got := <-p.back:
			if got == mark {
				return nil
			}
		case <-ctx.Done():
			return fail(ctx.Err())
		}
	}
}

// look takes the locks of broker and hub once. They cannot be asked for with a bound, so a look that hangs goes on, and the next call waits for
// it.
func (p *Probe) look(ctx context.Context) error {
	p.mu.Lock()
	if p.looks == nil {
		ended := make(chan struct{})
		p.looks = ended
		go func() {
			if p.a.broker != nil {
				p.a.broker.Stats()
			}
			if p.a.hub != nil {
				p.a.hub.Status()
			}
			p.mu.Lock()
			p.looks = nil
			p.mu.Unlock()
			close(ended)
		}()
	}
	ended := p.looks
	p.mu.Unlock()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("broker or emergency stop hold a lock for ever: %w", ctx.Err())
	}
}
