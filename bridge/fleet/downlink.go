package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/seal"
	"github.com/lawnberry/lawnberry/internal/store"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

// downlinkOptions configure a downlink.
type downlinkOptions struct {
	mower    string
	service  *service.Service // of the bridge
	latch    *safety.Latch
	store    *store.Store   // takes the ledger, beside what else is in it; nil takes none, so that no command runs: the emergency stop needs none
	permits  []string       // patterns of commands; see fleet.CheckPermission
	keys     *seal.Ring     // of operators; nil knows none
	unsigned bool           // what is not signed is taken too
	limits   message.Limits // of the bus
	logger   *slog.Logger

	// end puts the end of a job into the history, and returns once it is on the disk. Its record's id must follow from the job's, so that the same
	// end is the same record.
	end func(ctx context.Context, e fleet.JobEnd) error
}

// A downlink takes commands and jobs from the fleet. What may be said to it, and what becomes of that, does not depend on the engine.
type downlink struct {
	o      downlinkOptions
	log    *slog.Logger
	ledger *ledger
	audits *audits

	ctx  context.Context // ends with stop
	end  context.CancelFunc
	work sync.WaitGroup

	malformed atomic.Uint64
	jobBusy   chan struct{} // a token for each job that runs
	stopping  chan struct{} // a token for each emergency stop that is being engaged

	mu     sync.Mutex // guards the fields below
	ended  bool
	busy   int            // commands that run
	busyAt map[string]int // of them, by service
	subs   []*nats.Subscription
}

const (
	maxBusy        = 32 // commands at once
	maxBusyService = 4  // of them to one service, so that a slow one leaves room for others
	maxJobs        = 4  // jobs at once
	maxStops       = 16 // emergency stops at once; further ones wait

	// Deadlines beyond these are mistakes, and would have the ledger remember for as long.
	maxCommandTime = time.Hour
	maxJobTime     = fleet.MaxJobTime

	clockTolerance = 300 * time.Second // how far a sender's clock may be from ours
)

// newDownlink reads what is on the disk, and says of what was interrupted by a crash that nobody knows whether it has run.
func newDownlink(o downlinkOptions) (*downlink, error) {
	for _, p := range o.permits {
		if err := fleet.CheckPermission(p); err != nil {
			return nil, err
		}
	}
	if o.logger == nil {
		o.logger = slog.New(slog.DiscardHandler)
	}
	d := &downlink{
		o: o, log: o.logger, audits: newAudits(o.service, o.logger), busyAt: map[string]int{},
		jobBusy: make(chan struct{}, maxJobs), stopping: make(chan struct{}, maxStops),
	}
	d.ctx, d.end = context.WithCancel(context.Background())
	var interrupted []*execution
	var err error
	if d.ledger, interrupted, err = openLedger(o.store); err != nil {
		d.end()
		return nil, fmt.Errorf("commands from the fleet: %w", err)
	}
	for _, e := range interrupted {
		text := fmt.Sprintf("%s %s may have run: the uplink of the mower ended while it did, at or after %s; ask for the state that it should have led to",
			e.service, e.command, instant(e.begun))
		a := d.answer(e.key, "", nil, &client.CommandError{Code: fleet.CodeUnknown, Message: text}, 0)
		if _, err := d.ledger.end(e, &a); err != nil { // it is known in memory, and said again after the next start
			d.log.Error("how a command from the fleet ended is not on the disk", "service", e.service, "command", e.command, "error", err)
		}
		d.audits.add(audit{Operator: e.key.sender, Service: e.service, Command: e.command, ID: e.key.id, Lane: e.lane.String(), Outcome: outcomeUnknown,
			Code: a.Code, Reason: text})
	}
	return d, nil
}

// start has it hear the fleet at a NATS engine. Whether the connection is up does not matter.
func (d *downlink) start(nc *nats.Conn) error {
	if err := d.hear(nc); err != nil {
		return err
	}
	return d.takeJobs(nc)
}

// stop ends the downlink. What runs is cancelled, and its answer kept. It is idempotent, and takes until ctx ends at most.
func (d *downlink) stop(ctx context.Context) error {
	d.mu.Lock()
	d.ended = true
	subs := d.subs
	d.subs = nil
	d.mu.Unlock()
	for _, s := range subs {
		_ = s.Unsubscribe() // the connection may be closed
	}
	d.end()
	done := make(chan struct{})
	go func() {
		d.work.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return errors.New("commands from the fleet have not ended in time")
	}
}

// goes runs f beside the others, unless the downlink has ended.
func (d *downlink) goes(f func()) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended {
		return false
	}
	d.work.Go(f)
	return true
}

// encodeEnd is the end of a job as it is in the history.
func encodeEnd(e fleet.JobEnd) ([]byte, error) { return json.Marshal(e) }
