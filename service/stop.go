package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// OnShutdown registers f to run in Stop, after the functions registered later. Its context ends somewhat before that of
// Stop, to leave time for saying goodbye. Once Stop has begun, f is not called.
func (s *Service) OnShutdown(f func(ctx context.Context)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shutdown = append(s.shutdown, f)
}

const (
	// lastGrace is what Stop takes at most to say goodbye with a ctx that has ended, such as that of a signal.
	lastGrace = time.Second
	// goodbyeTime bounds everything after the shutdown functions when ctx has no deadline.
	goodbyeTime = 5 * time.Second
	// endingTime is for goroutines to end that have been told so.
	endingTime = 100 * time.Millisecond
)

// Stop ends the service: it announces shutting_down, runs the shutdown functions (the last registered first), waits until
// what it has published has arrived, announces offline, disconnects so that no Will is published, and waits for everything that runs.
//
// It is idempotent and may be called concurrently, and the command shutdown calls it too: every call returns what the
// first one did. It returns when ctx ends, with an error that says what was left undone; what hangs is left behind
// then, and the connection is closed all the same. With a ctx that has ended already, or is cancelled meanwhile, it
// takes up to a second more, so that "defer svc.Stop(ctx)" says goodbye also when ctx is that of a signal. A handler of this
// service that calls it cannot be waited for: let it call Stop in a goroutine.
func (s *Service) Stop(ctx context.Context) error { return s.stop(ctx, "stopped") }

func (s *Service) stop(ctx context.Context, reason string) error {
	if ctx.Err() != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), lastGrace)
		defer cancel()
	}
	s.mu.Lock()
	again := s.phase >= stopping
	if !again {
		s.phase, s.reason = stopping, reason
		close(s.done)
		s.judgeLocked()
	}
	shutdown := slices.Clone(s.shutdown)
	s.mu.Unlock()
	if again {
		select {
		case <-s.stopped:
			return s.stopErr
		case <-ctx.Done():
			return fmt.Errorf("stop %s: still under way: %w", s.o.ID, ctx.Err())
		}
	}
	defer close(s.stopped)
	if err := errors.Join(s.runShutdown(ctx, shutdown), s.leave(ctx)); err != nil {
		s.stopErr = fmt.Errorf("stop %s: %w", s.o.ID, err)
	}
	return s.stopErr
}

// leave says goodbye, disconnects, and waits for everything that runs.
func (s *Service) leave(ctx context.Context) error {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(goodbyeTime)
	}
	cancelled := ctx
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	defer cancel()
	defer context.AfterFunc(cancelled, func() {
		if errors.Is(cancelled.Err(), context.Canceled) {
			time.AfterFunc(lastGrace, cancel)
		}
	})()
	hurry, now := context.WithCancel(ctx)
	now()
	s.cancel() // no heartbeat follows the goodbye
	if s.putOut() == nil {
		s.flush(ctx)
	}
	err := s.sayGoodbye(ctx)
	if ousted := s.putOut(); ousted != nil { // what waits to be said is not this service's to say any more
		err = ousted
		_ = s.client.Close(hurry)
	} else if e := s.client.Close(ctx); e != nil {
		err = errors.Join(err, fmt.Errorf("disconnect: %w", e))
	}
	ended := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		select {
		case <-ended: // of what Close ended, when that took until now
		case <-time.After(endingTime):
			err = errors.Join(err, fmt.Errorf("a health function or a handler has not returned: %w", ctx.Err()))
		}
	}
	return err
}

// putOut returns why this service has lost its place to another process, nil while it has it.
func (s *Service) putOut() *InUseError {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ousted
}

// runShutdown runs the functions of OnShutdown, last first.
func (s *Service) runShutdown(ctx context.Context, functions []func(ctx context.Context)) error {
	if len(functions) == 0 {
		return nil
	}
	ctx, cancel := sooner(ctx)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for _, f := range slices.Backward(functions) {
			s.runOne(ctx, f)
		}
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("a shutdown function has not returned: %w", ctx.Err())
	}
}

// sooner keeps back a fifth of the time that ctx leaves, at most a second, for what is to follow.
func sooner(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, deadline.Add(-min(time.Until(deadline)/5, time.Second)))
}

// flush waits for what the service has published, so that its goodbye comes last: it may overtake what is less important.
func (s *Service) flush(ctx context.Context) {
	ctx, cancel := sooner(ctx)
	defer cancel()
	_ = s.client.Flush(ctx) // what is not sent then is tried again, and counted, when the client is closed
}

func (s *Service) runOne(ctx context.Context, f func(ctx context.Context)) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("shutdown function panicked", "panic", p)
		}
	}()
	f(ctx)
}

// sayGoodbye announces the service as offline, and waits until everything it has announced is safe.
func (s *Service) sayGoodbye(ctx context.Context) error {
	s.mu.Lock()
	s.phase = stopped
	s.judgeLocked()
	if s.announced != "" && s.ousted == nil {
		s.emitOfflineLocked(s.o.ID, time.Now(), "")
	}
	s.mail.close()
	s.mu.Unlock()
	select {
	case <-s.mail.delivered:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the goodbye may not have arrived: %w", ctx.Err())
	}
}
