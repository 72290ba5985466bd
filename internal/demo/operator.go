package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/client"
	estop "github.com/lawnberry/lawnberry/safety"
)

// The operator is the person at the mower, whom the demo plays on a bus of its own: it watches the emergency stop and the mission as
// anybody on the bus can, releases the one and has the other go on.

const (
	operatorPace = 250 * time.Millisecond // between two looks
	resumePace   = time.Second            // between two attempts to go on
	failurePace  = 5 * time.Second        // between two attempts when the hub or the broker does not answer
)

// setGoing has the mower mow for the first time.
func (d *Demo) setGoing(ctx context.Context, operator bool) error {
	for {
		var err error
		if operator {
			err = d.release(ctx)
		}
		if err == nil {
			err = d.order(ctx, "start_mowing")
		}
		if err == nil || answered(err) && !isRefused(err) {
			return err
		}
		if !pause(ctx, operatorPace) { // a source that was late, say
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}

// operate is the operator at work.
func (d *Demo) operate() {
	for pause(d.resting, operatorPace) {
		if err := d.release(d.sending); err != nil {
			if !isRefused(err) {
				d.log.Warn("the emergency stop was not released", "error", err)
				pause(d.resting, failurePace)
			}
			continue
		}
		if !d.observer.interrupted() {
			continue
		}
		if err := d.resume(); err != nil {
			level := slog.LevelDebug // it will be tried again
			if !isRefused(err) {
				level = slog.LevelWarn
			}
			d.log.Log(d.resting, level, "the mower does not go on", "error", err)
			pause(d.resting, resumePace)
		}
	}
}

// release releases the emergency stop if it is engaged, and nothing stands against it. A refusal says what does.
func (d *Demo) release(ctx context.Context) error {
	if d.observer.latch.Released() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	s, err := estop.ReadStatus(ctx, d.observer.client)
	switch {
	case err != nil:
		return err
	case s.Engaged && len(s.Against) > 0:
		return &client.CommandError{Service: estop.HubID, Command: "release", Code: client.CodeRefused, Message: strings.Join(s.Against, "; ")}
	case s.Engaged:
		err = d.observer.latch.Release(ctx, s.Sequence)
	default:
		_, err = d.observer.latch.Confirm(ctx)
	}
	return err
}

// resume has an interrupted mission go on, unless nothing was to move because somebody has said so.
func (d *Demo) resume() error {
	s, err := estop.ReadStatus(d.sending, d.observer.client)
	if err != nil {
		return err
	}
	for _, p := range s.Participants {
		if len(p.Stale) > 0 {
			return nil
		}
	}
	var at positionAnswer
	if err := d.ask(d.sending, "navigation", "get_position", nil, &at); err != nil {
		return err
	}
	if at.Interrupted == "" || strings.Contains(at.Interrupted, "stopped by ") { // see the command stop of a seat
		return nil
	}
	return d.order(d.sending, "resume")
}

// order commands navigation to move the mower. That it refuses to while something stands against moving is as it should be: only the
// other failures count as such.
func (d *Demo) order(ctx context.Context, command string) error {
	ctx, cancel := context.WithTimeout(ctx, orderTime)
	defer cancel()
	done := d.ledger.Calling(observerID, "navigation")
	err := d.observer.client.Call(ctx, "navigation", command, nil, nil)
	if isRefused(err) {
		done(nil)
	} else {
		done(err)
	}
	return err
}

// orderTime is more than arming a guard may take.
const orderTime = 5 * time.Second

func isRefused(err error) bool {
	var said *client.CommandError
	return errors.As(err, &said) && said.Code == client.CodeRefused
}

// pause waits, and reports false when ctx ends meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
