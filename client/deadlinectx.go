package client

import (
	"context"
	"sync"
	"time"
)

// A deadlineContext is its parent with a deadline that comes before any of the parent's. Commands have one at both ends, and mostly nobody
// waits for its end: so the timer and all else that needs is only made when Done is called. It begins with begin and ends with stop.
type deadlineContext struct {
	parent context.Context
	at     time.Time

	mu      sync.Mutex // guards the fields below
	full    context.Context
	cancel  context.CancelFunc // of full
	err     error
	request *Request // that it is for until stop, nil without; see RequestFrom
}

func (d *deadlineContext) begin(parent context.Context, at time.Time) { d.parent, d.at = parent, at }

// stop ends it, and must be called.
func (d *deadlineContext) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended() == nil {
		d.err = context.Canceled
	}
	if d.cancel != nil {
		d.cancel()
	}
	d.request = nil // which holds its message
}

// ended is Err for a caller that holds mu.
func (d *deadlineContext) ended() error {
	if d.err != nil {
		return d.err
	}
	switch {
	case d.full != nil:
		d.err = d.full.Err()
	case d.parent.Err() != nil:
		d.err = d.parent.Err()
	case !time.Now().Before(d.at):
		d.err = context.DeadlineExceeded
	}
	return d.err
}

// Deadline implements context.Context.
func (d *deadlineContext) Deadline() (time.Time, bool) { return d.at, true }

// Err implements context.Context.
func (d *deadlineContext) Err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ended()
}

// Done implements context.Context.
func (d *deadlineContext) Done() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.full == nil {
		d.full, d.cancel = context.WithDeadline(d.parent, d.at)
		if d.err != nil {
			d.cancel()
		}
	}
	return d.full.Done()
}

// Value implements context.Context. Contexts derived from this one find that it is the library's own by the values of full, and
// then need no goroutine to wait for it.
func (d *deadlineContext) Value(key any) any {
	d.mu.Lock()
	full, request := d.full, d.request
	d.mu.Unlock()
	if _, ok := key.(handledKey); ok && request != nil {
		return request
	}
	if full != nil {
		return full.Value(key)
	}
	return d.parent.Value(key)
}
