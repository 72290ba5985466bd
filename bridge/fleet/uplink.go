package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/seal"
	"github.com/lawnberry/lawnberry/internal/store"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

// An Uplink is a running one. Its methods may be called concurrently.
type Uplink struct {
	o       Options
	log     *slog.Logger
	svc     *service.Service // on the mower's bus, with the rights of a service
	latch   *safety.Latch
	engine  wholeEngine
	box     *outbox
	batches *batches
	history *history
	latest  *latest
	tap     *tap
	down    *downlink
	keys    *seal.Ring   // of operators; nil without
	aside   *store.Store // of the way down, without a disk of its own
	asideAt string
	session string

	presenceEvery, lossesEvery time.Duration

	end  context.CancelFunc // of what runs
	cut  context.CancelFunc // of what it still waits for
	work sync.WaitGroup

	// Of keepBox.
	toldLosses, lastThere time.Time

	mu    sync.Mutex // guards ended
	ended bool
}

const (
	stopTime   = 5 * time.Second
	finishTime = time.Second // for acknowledgements that are awaited at the end
)

// Start starts an uplink, and returns when it hears the bus. The engine need not be there, and neither need the disk.
func Start(ctx context.Context, o Options) (_ *Uplink, err error) {
	if o, err = o.withDefaults(); err != nil {
		return nil, fmt.Errorf("uplink to the fleet: %w", err)
	}
	u := &Uplink{
		o: o, log: o.Logger, session: uuid.NewString(), batches: newBatches(o.BatchInterval),
		presenceEvery: fleet.PresenceTTL / 3, lossesEvery: time.Minute,
	}
	running, end := context.WithCancel(context.Background())
	finish, cut := context.WithCancel(context.Background())
	u.end, u.cut = end, cut
	defer func() {
		if err != nil {
			err = fmt.Errorf("uplink to the fleet: %w", errors.Join(err, u.Stop(context.WithoutCancel(ctx))))
		}
	}()
	if u.box, err = openOutbox(filepath.Join(o.Dir, o.Mower), o.Outbox, newClock(), nil, o.Logger); err != nil {
		return nil, err
	}
	if o.KeysFile != "" {
		var trouble error
		if u.keys, trouble = seal.Open(o.KeysFile, o.Logger); trouble != nil { // the emergency stop needs none
			u.keys = nil
			u.log.Error("the keys of operators cannot be read: no signature of a command counts until they can and serve is started again", "error", trouble)
		}
	}
	if u.engine, err = connect(o); err != nil {
		return nil, err
	}
	u.history = newHistory(u.box, u.engine, o.Logger)
	u.latest = newLatest(u.engine, o.Logger)
	near := o.Client
	near.CleanStart = true
	if u.svc, err = service.Start(ctx, service.Options{
		ID: ID, Version: o.Version, Client: near, Logger: o.Logger,
		Setup: func(ctx context.Context, s *service.Service) error { u.svc = s; return u.setup(ctx) },
	}); err != nil {
		return nil, err
	}
	if u.tap, err = openTap(ctx, u); err != nil {
		return nil, err
	}
	if err := u.startDown(); err != nil { // before the fleet is told that the mower is there
		return nil, err
	}
	u.serveCondition()
	again := []chan struct{}{make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{}, 1)}
	u.work.Go(func() { u.watch(running, again) })
	u.work.Go(func() { u.history.run(running, finish, again[0]) })
	u.work.Go(func() { u.latest.run(running, again[1]) })
	u.work.Go(func() { u.keepPresence(running, again[2]) })
	u.work.Go(func() { u.keepBox(running) })
	return u, nil
}

// setup is called when the service is connected.
func (u *Uplink) setup(ctx context.Context) (err error) {
	u.latch, err = safety.OpenLatch(ctx, u.svc.Client(), safety.LatchOptions{By: "fleet", Logger: u.log})
	return err
}

// startDown starts the way down.
func (u *Uplink) startDown() (err error) {
	permits, disk := u.o.Down, u.box.disk()
	if disk == nil {
		// That the emergency stop can be engaged from the fleet needs no disk. Commands do, so that none runs twice.
		u.log.Error("the fleet cannot give commands to this mower, but for the emergency stop, until the outbox can be written and serve is started again")
		permits = nil
		dir, err := os.MkdirTemp("", "lawnberry-fleet-")
		if err != nil {
			u.log.Error("the fleet cannot engage the emergency stop of this mower", "error", err)
			return nil
		}
		u.asideAt = dir
		if u.aside, err = store.Open(dir, store.Options{Logger: u.log, Sync: store.Never}); err != nil {
			u.log.Error("the fleet cannot engage the emergency stop of this mower", "error", err)
			return nil
		}
		disk = u.aside
	}
	u.down, err = newDownlink(downlinkOptions{
		mower: u.o.Mower, service: u.svc, latch: u.latch, store: disk, permits: permits, keys: u.keys, unsigned: u.o.Unsigned,
		limits: u.o.Client.Limits, logger: u.log, end: u.jobEnded,
	})
	if err != nil {
		return err
	}
	return u.engine.serve(u.down)
}

// jobEnded puts the end of a job into the history.
func (u *Uplink) jobEnded(_ context.Context, e fleet.JobEnd) error {
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	id := uuid.NewSHA1(uuid.NameSpaceURL, []byte(u.o.Mower+"\x00"+e.Operator+"\x00"+e.Job)).String()
	return u.box.add(&record{topic: fleet.OwnJobs, class: fleet.Event, id: id, body: text, count: 1, arrival: e.Time})
}

// watch tells all parts when the engine has come or gone, until ctx ends.
func (u *Uplink) watch(ctx context.Context, all []chan struct{}) {
	for {
		select {
		case <-u.engine.changed():
		case <-ctx.Done():
			return
		}
		for _, c := range all {
			select {
			case c <- struct{}{}:
			default:
			}
		}
	}
}

// Stop ends the uplink. What the fleet does not have yet is on the disk then. It is idempotent, and takes until ctx ends at most, or 5 s.
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
	var errs []error
	if u.tap != nil {
		errs = append(errs, u.tap.close(ctx))
	}
	if u.down != nil {
		errs = append(errs, u.down.stop(ctx))
	}
	u.end()
	late := time.AfterFunc(finishTime, u.cut)
	u.work.Wait()
	late.Stop()
	u.cut()
	if u.engine != nil {
		if _, there := u.engine.connected(); there {
			bye, cancel := context.WithTimeout(ctx, finishTime)
			_ = u.engine.present(bye, nil) // else it expires
			cancel()
		}
	}
	if u.latch != nil {
		_ = u.latch.Close(ctx)
	}
	if u.svc != nil {
		errs = append(errs, u.svc.Stop(ctx))
	}
	if u.engine != nil {
		u.engine.close()
	}
	if u.box != nil {
		u.seal(true)
		errs = append(errs, u.box.close())
	}
	if u.aside != nil {
		errs = append(errs, u.aside.Close())
	}
	if u.asideAt != "" {
		errs = append(errs, os.RemoveAll(u.asideAt))
	}
	return errors.Join(errs...)
}
