package safety

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"
)

const (
	// maxDrive is how long one call of drive may take, at least; if it takes longer, and more than 5 periods, it hangs.
	maxDrive = 500 * time.Millisecond
	// lastStop is how long Run waits for stop and drive to return when it ends.
	lastStop = 2 * time.Second
)

// Run drives the machine until ctx ends or the guard is closed. It calls drive every period while there is a permit, and stop as soon as the
// permit is lost.
//
// drive tells the motors what to do for one period, and feeds the dead-man timer of their controller. Its ctx ends when the permit is lost.
// The next call waits for the one before. When one returns an error, panics, or takes longer than 500 ms and 5 periods, the permit is
// lost.
//
// stop brings motors and blade to a stop and returns when they are told to. It is called at the beginning, in the moment in which the permit is
// lost, also while drive hangs, which it therefore must not wait for; again each period until it returns nil; once more when a drive
// returns that was running when it was called; and at the end. Calls of stop never run beside each other. The service is reported as
// stopped once stop has returned nil.
//
// Run returns nil when ctx has ended or the guard is closed and the machine stands, else why it may not stand: stop failed, or drive hangs. There is one Run of a
// guard.
func (g *Guard) Run(ctx context.Context, period time.Duration, drive func(ctx context.Context) error, stop func(cause string) error) error {
	if period <= 0 {
		return fmt.Errorf("guard: a period of %v: want more than 0", period)
	}
	g.mu.Lock()
	if g.running {
		g.mu.Unlock()
		return errors.New("guard: it runs already")
	}
	g.running, g.stopped = true, false
	if g.armed.Load() == nil {
		g.lost = time.Now() // stop is called now, however long there was no permit
	}
	r := &runner{g: g, period: period, drive: drive, stop: stop, drove: make(chan error, 1), halted: make(chan error, 1), owed: true, losses: g.losses}
	g.mu.Unlock()
	err := r.run(ctx)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running = false
	g.latch.reportSoon()
	return err
}

// A runner is one Run. Its fields belong to the goroutine of Run.
type runner struct {
	g      *Guard
	period time.Duration
	drive  func(ctx context.Context) error
	stop   func(cause string) error

	driving time.Time          // when the call of drive began that runs; zero when none does
	release context.CancelFunc // of its ctx
	late    bool               // the permit was lost since it began
	drove   chan error

	losses   uint64 // of the permit, that were seen
	owed     bool   // stop has to be called
	stopping bool   // a call of stop runs
	waiting  bool   // it has failed, and is called again with the next period
	halted   chan error
	err      error // of the last call of stop
}

func (r *runner) run(ctx context.Context) error {
	t := time.NewTicker(r.period)
	defer t.Stop()
	for {
		r.pursue()
		select {
		case <-ctx.Done():
			return r.end()
		case <-r.g.wakeUp:
			if r.g.isClosed() {
				return r.end()
			}
		case err := <-r.drove:
			r.returned(err)
		case err := <-r.halted:
			r.hasHalted(err)
		case <-t.C:
			r.tick(ctx)
		}
	}
}

func (g *Guard) isClosed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed
}

// tick is what is done each period.
func (r *runner) tick(ctx context.Context) {
	r.waiting = false
	permit := r.g.Permit()
	if !permit {
		r.g.look() // its timer may be late
	}
	r.pursue() // a permit that was lost and given anew is not the one from before
	switch {
	case !r.driving.IsZero():
		if took := time.Since(r.driving); permit && took > max(maxDrive, 5*r.period) {
			r.g.Disarm(fmt.Sprintf("drive hangs for %v", took.Round(time.Millisecond)))
		}
	case permit && !r.owed && !r.stopping: // what stops must not stop what begins
		ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		r.driving, r.release, r.late = time.Now(), cancel, false
		go func() { r.drove <- r.callDrive(ctx) }()
	}
}

// pursue calls stop, if that is owed.
func (r *runner) pursue() {
	r.g.mu.Lock()
	losses, cause := r.g.losses, r.g.cause
	r.g.mu.Unlock()
	if losses != r.losses {
		r.losses, r.owed, r.waiting = losses, true, false
		if !r.driving.IsZero() {
			r.late = true
			r.release()
		}
	}
	if !r.owed || r.stopping || r.waiting {
		return
	}
	r.owed, r.stopping = false, true
	go func() { r.halted <- r.callStop(cause) }()
}

// hasHalted takes note of what a call of stop returned.
func (r *runner) hasHalted(err error) {
	r.stopping, r.err = false, err
	if err != nil {
		r.owed, r.waiting = true, true
		r.g.log.Error("stop failed, it is tried again", "error", err)
		return
	}
	r.g.mu.Lock()
	defer r.g.mu.Unlock()
	if !r.owed && r.losses == r.g.losses && r.g.armed.Load() == nil && !r.g.stopped {
		now := time.Now()
		r.g.stopped, r.g.stoppedAt, r.g.stopTook = true, now, now.Sub(r.g.lost)
		r.g.noticeLocked()
	}
}

// returned takes note of what a call of drive returned. What it did after stop was called is undone.
func (r *runner) returned(err error) {
	r.release()
	r.driving, r.release = time.Time{}, nil
	r.owed = r.owed || r.late
	if err != nil && !r.late {
		r.g.Disarm("drive failed: " + err.Error())
	}
}

func (r *runner) callDrive(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			r.g.log.Error("drive panicked", "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("it panicked: %v", p)
		}
	}()
	return r.drive(ctx)
}

func (r *runner) callStop(cause string) (err error) {
	defer func() {
		if p := recover(); p != nil {
			r.g.log.Error("stop panicked", "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("it panicked: %v", p)
		}
	}()
	return r.stop(cause)
}

// end stops for the last time, and waits for what runs.
func (r *runner) end() error {
	patience := time.NewTimer(lastStop)
	defer patience.Stop()
	t := time.NewTicker(r.period)
	defer t.Stop()
	r.g.Disarm("its program ends")
	for r.owed = true; ; {
		r.pursue()
		if !r.owed && !r.stopping && r.driving.IsZero() {
			return nil
		}
		select {
		case err := <-r.halted:
			r.hasHalted(err)
		case err := <-r.drove:
			r.late = true
			r.returned(err)
		case <-t.C:
			r.waiting = false
		case <-patience.C:
			switch {
			case !r.driving.IsZero():
				return errors.New("guard: drive hangs, the machine may move")
			case r.err != nil:
				return fmt.Errorf("guard: stop failed, the machine may move: %w", r.err)
			}
			return errors.New("guard: stop hangs, the machine may move")
		}
	}
}
