package safety

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/client"
)

// A Lease is control of a machine, from the driver's side. Its methods may be called concurrently.
type Lease struct {
	c      Caller
	target string
	token  string
	length time.Duration

	stop context.CancelFunc
	done chan struct{} // closed when the lease is over
	work sync.WaitGroup
	err  error // why; set before done is closed
}

// TakeLease takes control of a machine whose service target has a [Seat], and renews it until ctx ends, Leave is called, or it is lost, as
// it is whenever the permit is. It does not take it again by itself. The error is a *[client.CommandError]: refused when somebody else
// drives, or something stands against moving.
func TakeLease(ctx context.Context, c Caller, target string) (*Lease, error) {
	var a takeAnswer
	if err := c.Call(ctx, target, commandTake, nil, &a); err != nil {
		return nil, err
	}
	l := &Lease{c: c, target: target, token: a.Token, length: time.Duration(a.Lease * float64(time.Second)), done: make(chan struct{})}
	if l.token == "" || l.length <= 0 {
		return nil, fmt.Errorf("%s has answered take_control with no token or lease", target)
	}
	ctx, l.stop = context.WithCancel(ctx)
	l.work.Go(func() { l.keep(ctx, time.Now()) })
	return l, nil
}

// Token is what set points and commands carry.
func (l *Lease) Token() string { return l.token }

// Done is closed when the lease is over.
func (l *Lease) Done() <-chan struct{} { return l.done }

// Err returns why the lease is over, nil while it is not.
func (l *Lease) Err() error {
	select {
	case <-l.done:
		return l.err
	default:
		return nil
	}
}

// keep renews the lease. It counts from when the last renewal was sent that was confirmed, and until then from when the lease was given:
// to be given it may have taken longer than it lasts.
func (l *Lease) keep(ctx context.Context, last time.Time) {
	defer close(l.done)
	t := time.NewTicker(l.length / 4)
	defer t.Stop()
	for first := true; ; first = false {
		if !first {
			select {
			case <-t.C:
			case <-ctx.Done():
				l.err = context.Cause(ctx)
				return
			}
		}
		begun := time.Now()
		left := l.length - begun.Sub(last)
		if left <= 0 {
			l.err = fmt.Errorf("the lease ran out: %s did not answer in time", l.target)
			return
		}
		asking, cancel := context.WithTimeout(ctx, min(left, l.length/2))
		err := l.c.Call(asking, l.target, commandKeep, tokenQuery{l.token}, nil)
		cancel()
		switch {
		case err == nil:
			last = begun
		case isCode(err, client.CodeRefused):
			l.err = err
			return
		}
	}
}

// Leave gives control back: the machine stops. It returns when the machine's service has heard it, or ctx ends; without it the lease runs
// out. It is idempotent.
func (l *Lease) Leave(ctx context.Context) error {
	l.stop()
	l.work.Wait()
	if !errors.Is(l.err, context.Canceled) {
		return nil // it was over before
	}
	err := l.c.Call(ctx, l.target, commandLeave, tokenQuery{l.token}, nil)
	if isCode(err, client.CodeRefused) { // somebody has stopped the machine meanwhile
		return nil
	}
	return err
}
