package service

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// SignalContext returns a context that ends with parent, or at the first SIGINT or SIGTERM: time to stop. A second signal ends
// the process at once, whatever still hangs, with 128 plus its number as the exit status, as shells have it. stop ends both.
// It is for the main function of a program, once:
//
//	ctx, stop := service.SignalContext(context.Background())
//	defer stop()
func SignalContext(parent context.Context) (ctx context.Context, stop context.CancelFunc) {
	ctx, cancel := context.WithCancel(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	stopped := make(chan struct{})
	go func() {
		select {
		case <-signals:
			cancel()
		case <-stopped:
			return
		}
		select {
		case s := <-signals:
			status := 1
			if n, ok := s.(syscall.Signal); ok {
				status = 128 + int(n)
			}
			os.Exit(status)
		case <-stopped:
		}
	}()
	return ctx, sync.OnceFunc(func() {
		signal.Stop(signals)
		close(stopped)
		cancel()
	})
}

// runPatience is what Run takes at most to stop, and so does the command shutdown.
const runPatience = 10 * time.Second

// Run is what the main function of a service waits in: it returns when ctx has ended, or the service was asked to shut down
// (see Done), and has stopped. It takes up to 10 s to stop, which is time for the functions of OnShutdown, for what waits to be
// published, and for saying goodbye; its error is that of [Service.Stop] and says what was left undone.
func (s *Service) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
	case <-s.done:
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), runPatience)
	defer cancel()
	return s.Stop(ctx)
}
