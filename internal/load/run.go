package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

const (
	beat          = 100 * time.Millisecond // of progress, and of looking whether all has come
	stopPatience  = time.Second            // for what is on its way when a run is interrupted
	closePatience = 3 * time.Second

	connectPatience = 5 * time.Second      // with a broker that is busy, and of what is of use and not needed
	exactly         = 2 * time.Millisecond // before a message is due, in which a timer of Go's is too coarse
)

// A BrokenError is a run that could not go on.
type BrokenError struct {
	After          time.Duration // since the begin of the measurement; 0 is before
	Sent, Received uint64        // of the measurement
	Err            error
}

func (e *BrokenError) Error() string {
	if e.After == 0 {
		return "before the measurement: " + e.Err.Error()
	}
	return fmt.Sprintf("after %.1fs of the measurement, %d messages sent and %d received: %v", e.After.Seconds(), e.Sent, e.Received, e.Err)
}

func (e *BrokenError) Unwrap() error { return e.Err }

// A LostConnectionError is a connection that the broker, or what is between, has ended.
type LostConnectionError struct{ Err error }

func (e *LostConnectionError) Error() string {
	return fmt.Sprintf("the connection to the broker is lost: %v", e.Err)
}
func (e *LostConnectionError) Unwrap() error { return e.Err }

var (
	// ErrNothingArrives is a broker that takes messages and does not deliver them.
	ErrNothingArrives = errors.New("the broker takes the messages and does not deliver them")
	// ErrStuck is a broker that does not take messages any more.
	ErrStuck = errors.New("the broker takes no more messages")
)

// A run is one execution of a plan.
type run struct {
	plan  Plan
	id    uint32
	began time.Time
	meter *meter

	publishers  []*publisher
	subscribers []*subscriber

	start    atomic.Int64 // of the measurement, since began; 0 is before
	warmedUp atomic.Int64 // when the warm-up began
	ending   atomic.Bool  // connections end because we end them
	fail     context.CancelCauseFunc
}

func (r *run) now() time.Duration { return time.Since(r.began) }

// slice returns the tenth of the measurement that a message belongs to.
func (r *run) slice(s stamp) int {
	var share float64
	if r.plan.Count > 0 {
		share = float64(s.number) / float64(r.plan.share(int(s.publisher)))
	} else {
		share = float64(s.due-time.Duration(r.start.Load())) / float64(r.plan.Duration)
	}
	return min(max(int(share*tenths), 0), tenths-1)
}

// pause waits until due. It returns false when ctx has ended.
func (r *run) pause(ctx context.Context, due time.Duration) bool {
	for {
		left := due - r.now()
		switch {
		case ctx.Err() != nil:
			return false
		case left <= 0:
			return true
		case left <= exactly:
			nap(left)
		default:
			timer := time.NewTimer(left - exactly)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
			}
		}
	}
}

// Run does what the plan says and returns what it has measured. When ctx ends the result is of what was measured until then. The error is
// that of [Plan.Check], a *client.ConnectError, a *client.RefusedError, or a *[BrokenError], which wraps a *[LostConnectionError],
// [ErrNothingArrives], [ErrStuck], a *client.CommandError and what else ends a run. Nothing keeps running.
func Run(ctx context.Context, p Plan) (*Result, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	working, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	r := &run{plan: p, id: rand.Uint32(), began: time.Now().Add(-time.Nanosecond), fail: fail, meter: newMeter(p.BrokerPID)}
	if p.Kind == Command {
		return r.commands(ctx, working)
	}
	return r.messages(ctx, working)
}
