package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/service"
)

// An Uplink is a running one. Its methods may be called concurrently.
type Uplink struct {
	o      Options
	log    *slog.Logger
	svc    *service.Service // on the mower's bus, with the rights of a service
	engine *natsEngine

	ctx  context.Context // ends with Stop
	end  context.CancelFunc
	work sync.WaitGroup

	mu    sync.Mutex // guards ended
	ended bool
}

const stopTime = 5 * time.Second

// Start starts an uplink, and returns when it hears the bus. The engine need not be there.
func Start(ctx context.Context, o Options) (_ *Uplink, err error) {
	if o, err = o.withDefaults(); err != nil {
		return nil, fmt.Errorf("uplink to the fleet: %w", err)
	}
	u := &Uplink{o: o, log: o.Logger}
	u.ctx, u.end = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = fmt.Errorf("uplink to the fleet: %w", errors.Join(err, u.Stop(context.WithoutCancel(ctx))))
		}
	}()
	if u.engine, err = connectNATS(o); err != nil {
		return nil, err
	}
	near := o.Client
	near.CleanStart = true
	if u.svc, err = service.Start(ctx, service.Options{
		ID: ID, Version: o.Version, Client: near, Logger: o.Logger, Setup: u.setup,
	}); err != nil {
		return nil, err
	}
	return u, nil
}

// setup is called when the service is connected. The way down registers here what it needs of the bus.
func (u *Uplink) setup(context.Context, *service.Service) error { return nil }

// record has a record of the uplink's own go to the history: it is on the disk when record returns nil. id is what tells repetitions.
func (u *Uplink) record(topic string, class fleet.Class, id string, body []byte) error {
	return errors.New("not there yet")
}

// Stop ends the uplink. It is idempotent, and takes until ctx ends at most, or 5 s.
func (u *Uplink) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopTime)
	defer cancel()
	u.mu.Lock()
	if u.ended {
		u.mu.Unlock()
		return nil
	}
	u.ended = true
	u.mu.Unlock()
	u.end()
	u.work.Wait()
	var errs []error
	if u.svc != nil {
		errs = append(errs, u.svc.Stop(ctx))
	}
	if u.engine != nil {
		u.engine.close()
	}
	return errors.Join(errs...)
}
