package safety

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/loglevel"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
)

// HubOptions configure a hub.
type HubOptions struct {
	Client  client.Options // ID is set by StartHub
	Version string         // of the program, announced; "" is "0.0.0"
	// File is where the state is kept beside the broker's retained message: released is only what both say. Without one the emergency
	// stop is engaged at each start.
	File   string
	Logger *slog.Logger // nil is discarded
	// LogLevels are those of the program, for the command log_level, which with access control needs the right to release; nil is not to be changed.
	LogLevels *loglevel.Levels
}

// A Hub keeps the state of the emergency stop: it gives each engagement its sequence number, confirms it, decides about releases, and
// sees to it that who has to stop has stopped. There is one on a bus, as the service emergency_stop; a second one is refused.
//
// Its methods may be called concurrently.
type Hub struct {
	svc   *service.Service
	sub   *client.Subscription // to safety/#
	log   *slog.Logger
	file  *stateFile
	epoch string

	mu       sync.Mutex // guards the fields below
	settled  bool       // what the broker had was taken in
	retained heard      // what the broker had of the hub before
	early    []heard    // engagements that came before settled
	state    State
	causes   []Cause             // since it was released last: the first, and the latest
	seen     map[string]struct{} // ids of engagements
	order    []string            // of seen, oldest first
	at       time.Time           // when the engagement with the present sequence was taken in
	stopped  bool

	reports   map[string]*reported
	watch     *time.Timer   // until all must have stopped
	alerted   bool          // stop_not_confirmed should stand
	saidAgain time.Time     // when the state was last said since somebody had said another
	again     *time.Timer   // until it will be; nil if it need not
	alerting  chan struct{} // holds one token while it may have to be raised or cleared
	inherited bool          // of alert, once it runs: it stands from a run before
	end       context.CancelFunc

	cameBack chan struct{} // closed when what the broker had has come
	work     sync.WaitGroup
}

// A Cause is one engagement.
type Cause struct {
	Reason   string    `json:"reason"`
	By       string    `json:"by"`
	Since    time.Time `json:"since"`
	Sequence uint64    `json:"sequence"`
}

const (
	hubHeartbeat = 5 * time.Second
	maxSeen      = 8192 // ids of engagements
	maxCauses    = 16
	settleTime   = 5 * time.Second
	sayGap       = 100 * time.Millisecond // between two times that the state is said since somebody else has said another
)

// StartHub starts the hub. When it returns it has taken in what the broker has, and answers.
func StartHub(ctx context.Context, o HubOptions) (*Hub, error) {
	h := &Hub{
		log: o.Logger, epoch: uuid.NewString(), cameBack: make(chan struct{}), alerting: make(chan struct{}, 1),
		seen: map[string]struct{}{}, reports: map[string]*reported{},
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if h.file, err = openStateFile(o.File); err != nil {
		return nil, fmt.Errorf("emergency stop: %w", err)
	}
	c := o.Client
	c.DurableSession = true // what engages while we are restarted waits for us
	_, err = service.Start(ctx, service.Options{
		ID: HubID, Type: HubID, Version: o.Version, Client: c, Heartbeat: hubHeartbeat, HeartbeatTimeout: 3 * hubHeartbeat,
		Setup: h.setup, Logger: o.Logger, LogLevels: o.LogLevels,
	})
	if err != nil {
		return nil, fmt.Errorf("emergency stop: %w", err)
	}
	life, end := context.WithCancel(context.Background())
	h.end = end
	h.work.Go(func() { h.alert(life) })
	return h, nil
}

// setup subscribes, and waits until what the broker had has been taken in.
func (h *Hub) setup(ctx context.Context, svc *service.Service) error {
	h.svc = svc
	service.Handle(svc, commandConfirm, h.confirm, service.Repeatable(),
		service.Description("Tells the state of the emergency stop, and which messages the hub has taken in."))
	service.Handle(svc, commandStatus, func(context.Context, struct{}) (Status, error) { return h.Status(), nil }, service.Repeatable(),
		service.Description("Tells the state of the emergency stop, who has stopped, and what stands against releasing it."))
	service.Handle(svc, commandEngage, func(ctx context.Context, q engageQuery) (sequenceAnswer, error) {
		return h.engage(service.Caller(ctx), q.Reason), nil
	}, service.Repeatable(), service.Description("Engages the emergency stop."))
	service.Handle(svc, commandRelease, func(ctx context.Context, q releaseQuery) (sequenceAnswer, error) {
		if err := h.sub.Drain(ctx); err != nil { // what came before the command counts
			return sequenceAnswer{}, err
		}
		a, written, err := h.release(named(q.By, service.Caller(ctx)), q.Sequence)
		if err == nil && written != nil {
			_ = written.Wait(ctx) // then it outlives a crash of the broker too; without it is engaged, which is no harm
		}
		return a, err
	}, service.Description("Releases the emergency stop with that sequence number, unless something stands against it. It starts nothing."))
	service.Handle(svc, commandForget, func(ctx context.Context, q forgetQuery) (struct{}, error) {
		return struct{}{}, h.forget(ctx, service.Caller(ctx), q.Service)
	}, service.Description("Forgets what a service has reported that will not come back."))

	// One subscription for all, so that all comes in the order in which the broker had it.
	sub, err := svc.Subscribe(ctx, "safety/#", h.take, client.WithInvalid(), client.WithQueue(client.Queue{Max: 10_000}))
	if err != nil {
		return err
	}
	h.sub = sub
	// What the broker has for us comes before this comes back.
	mark := Report{Service: HubID, Cause: h.epoch}
	m, err := mark.message(0)
	if err != nil {
		return err
	}
	if err := svc.Publish(ctx, reportTopic+HubID, m, client.WithRetain(false), client.Volatile()); err != nil {
		return err
	}
	patience := time.NewTimer(settleTime)
	defer patience.Stop()
	select {
	case <-h.cameBack:
	case <-patience.C:
		return errors.New("the broker does not send our own messages back")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.settleLocked()
	return nil
}

// settleLocked decides what the state is at the start: released only if file and broker agree on it, and nothing came since. h.mu is held.
func (h *Hub) settleLocked() {
	kept, had := h.file.state, h.retained
	highest := max(kept.Sequence, had.Sequence)
	agree := had.kind == ofHub && kept.Sequence == had.Sequence && kept.Engaged == *had.Engaged && kept.Sequence > 0
	switch {
	case agree:
		h.state = kept
	case had.kind == ofHub && *had.Engaged && had.Sequence >= kept.Sequence: // as after a crash between the two
		h.state = State{Engaged: true, Reason: had.Reason, By: had.By, Since: had.since(), Sequence: had.Sequence}
	case kept.Engaged && kept.Sequence > 0:
		h.state = kept
		h.state.Sequence = highest
	default:
		reason := "it has never been released"
		if highest > 0 {
			reason = "its state was lost"
		}
		h.state = State{Engaged: true, Reason: reason, By: HubID, Since: time.Now(), Sequence: highest + 1}
	}
	h.state.Known = true
	if h.state.Engaged {
		h.causes = []Cause{{h.state.Reason, h.state.By, h.state.Since, h.state.Sequence}}
	}
	h.settled, h.at = true, time.Now()
	for _, a := range h.svc.Alerts() {
		if a.AlertType == alertNotConfirmed {
			h.alerted, h.inherited = true, true
		}
	}
	early := h.early
	h.early = nil
	if len(early) == 0 {
		h.sayLocked()
		h.keepLocked()
	}
	for i := range early {
		h.takeInLocked(&early[i])
	}
	h.judgeLocked()
}

// take takes in a message below safety/.
func (h *Hub) take(_ context.Context, d *client.Delivery) {
	if d.Topic == stopTopic {
		h.takeStop(d)
		return
	}
	id, ok := strings.CutPrefix(d.Topic, reportTopic)
	if !ok || d.Invalid != nil {
		return
	}
	if id != HubID {
		h.takeReport(id, d)
		return
	}
	if r, ok := readReport(d, id); ok && r.Cause == h.epoch {
		h.mu.Lock()
		defer h.mu.Unlock()
		if !h.settled {
			select {
			case <-h.cameBack:
			default:
				close(h.cameBack)
			}
		}
	}
}

// takeStop takes in a message on safety/emergency_stop.
func (h *Hub) takeStop(d *client.Delivery) {
	m := read(d)
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case m.kind == ofHub && m.Epoch == h.epoch && (*m.Engaged || !h.state.Engaged): // our own, or as good
	case m.kind == ofHub && d.Retained && !h.settled:
		h.retained = m
	case m.kind == engages && !h.settled:
		h.early = append(h.early, m)
	case m.kind == engages:
		h.takeInLocked(&m)
	case h.settled: // somebody else has said what only the hub can say, or has removed it
		if !d.Retained || m.kind != nothing {
			h.log.Warn("a message on safety/emergency_stop that releases nothing: the state is said again", "sender", d.Message.Metadata.Sender)
			h.sayAgainLocked()
		}
	}
}

// sayAgainLocked publishes the state since somebody else has said another one. Not at any rate: that may be another hub, which does the same. h.mu
// is held.
func (h *Hub) sayAgainLocked() {
	if h.again != nil {
		return // it will be
	}
	wait := sayGap - time.Since(h.saidAgain)
	if wait <= 0 {
		h.saidAgain = time.Now()
		h.sayLocked()
		return
	}
	h.again = time.AfterFunc(wait, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.again, h.saidAgain = nil, time.Now()
		if !h.stopped {
			h.sayLocked()
		}
	})
}

// takeInLocked takes in an engagement. h.mu is held.
func (h *Hub) takeInLocked(m *heard) {
	if _, known := h.seen[m.id]; known && h.state.Engaged {
		return
	}
	h.remember(m.id)
	cause := Cause{m.Reason, m.By, m.since(), h.state.Sequence + 1}
	if !h.state.Engaged {
		h.causes = nil
		h.state = State{Engaged: true, Known: true, Reason: cause.Reason, By: cause.By, Since: cause.Since}
	}
	// Also for the same reason there is another number: who asks for a release has not seen that it was engaged again.
	h.state.Sequence = cause.Sequence
	h.at = time.Now()
	h.sayLocked()
	if i := slices.IndexFunc(h.causes, func(c Cause) bool { return c.By == m.By && c.Reason == m.Reason }); i >= 0 {
		h.causes[i].Sequence = cause.Sequence
	} else {
		h.log.Warn("emergency stop engaged", "by", cause.By, "reason", cause.Reason, "sequence", cause.Sequence)
		if len(h.causes) >= maxCauses { // the first, and the latest
			h.causes = slices.Delete(h.causes, 1, 2)
		}
		h.causes = append(h.causes, cause)
	}
	h.keepLocked()
	h.judgeLocked()
}

// remember keeps the id of an engagement. h.mu is held.
func (h *Hub) remember(id string) {
	if _, known := h.seen[id]; known {
		return
	}
	if len(h.order) >= maxSeen {
		delete(h.seen, h.order[0])
		h.order = h.order[1:]
	}
	h.seen[id] = struct{}{}
	h.order = append(h.order, id)
}

// sayLocked publishes the state. h.mu is held.
func (h *Hub) sayLocked() *client.Receipt {
	engaged := h.state.Engaged
	c := stopContext{
		Engaged: &engaged, Reason: h.state.Reason, By: h.state.By, Since: message.Seconds(h.state.Since), Sequence: h.state.Sequence, Epoch: h.epoch,
	}
	m, err := stopMessage(HubID, c)
	if err != nil {
		h.log.Error("the state of the emergency stop cannot be encoded", "error", err)
		return nil
	}
	return h.svc.Client().PublishAsync(stopTopic, m, client.WithRetain(true), client.Unlimited(), client.Volatile())
}

// keepLocked writes the state to the file. A file that cannot be written does not keep anybody from stopping: it is removed, for which a full
// disk has room, and at the next start file and broker disagree then, which is engaged. h.mu is held.
func (h *Hub) keepLocked() {
	if err := h.file.write(h.state); err != nil {
		h.log.Error("the state of the emergency stop was not written", "file", h.file.path, "error", errors.Join(err, h.file.forget()))
	}
}

// engage is the command.
func (h *Hub) engage(by, reason string) sequenceAnswer {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.takeInLocked(&heard{kind: engages, id: uuid.NewString(), stopContext: stopContext{By: speakable(cmp.Or(by, "unknown")), Reason: speakable(reason)}})
	return sequenceAnswer{h.state.Sequence}
}

func (h *Hub) confirm(ctx context.Context, q confirmQuery) (confirmAnswer, error) {
	if err := h.sub.Drain(ctx); err != nil { // what came before the question counts
		return confirmAnswer{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if q.Sequence > h.state.Sequence && q.Sequence < maxSequence {
		h.state.Sequence = q.Sequence
		h.takeInLocked(&heard{kind: engages, id: uuid.NewString(), stopContext: stopContext{
			By: HubID, Reason: "a program knows a later state than the hub, which has lost it",
		}})
	}
	a := confirmAnswer{
		Engaged: h.state.Engaged, Reason: h.state.Reason, By: h.state.By, Since: message.Seconds(h.state.Since), Sequence: h.state.Sequence,
	}
	for _, id := range q.Heard {
		if _, ok := h.seen[id]; ok {
			a.Known = append(a.Known, id)
		}
	}
	return a, nil
}

// named is who acts: the name that the caller gives, and the caller.
func named(name, caller string) string {
	if name == "" || name == caller || strings.HasPrefix(caller, name+"-") {
		return caller
	}
	return name + " (" + caller + ")"
}

// release is the command. What it returns beside the answer is done when the broker has the new state.
func (h *Hub) release(by string, sequence uint64) (sequenceAnswer, *client.Receipt, error) {
	refuse := func(format string, args ...any) (sequenceAnswer, *client.Receipt, error) {
		return sequenceAnswer{}, nil, &client.CommandError{
			Service: HubID, Command: commandRelease, Code: client.CodeRefused, Message: fmt.Sprintf(format, args...),
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case sequence == 0:
		return sequenceAnswer{}, nil, &client.CommandError{
			Service: HubID, Command: commandRelease, Code: client.CodeBadParameters,
			Message: "parameters.sequence is missing: name the state that you have seen, see get_status",
		}
	case !h.state.Engaged:
		return refuse("the emergency stop is released already, with sequence %d", h.state.Sequence)
	case sequence != h.state.Sequence:
		last := slices.MaxFunc(h.causes, func(a, b Cause) int { return cmp.Compare(a.Sequence, b.Sequence) })
		return refuse("its sequence is %d now, not %d: engaged by %s: %s", h.state.Sequence, sequence, last.By, last.Reason)
	}
	if against := h.againstLocked(); len(against) > 0 {
		return refuse("not released: %s", strings.Join(against, "; "))
	}
	next := State{Known: true, By: speakable(cmp.Or(by, "unknown")), Since: time.Now(), Sequence: sequence + 1}
	if err := h.file.write(next); err != nil {
		return refuse("not released: it cannot be written down: %v", err)
	}
	h.state, h.causes = next, nil
	h.log.Warn("emergency stop released", "by", next.By, "sequence", next.Sequence)
	written := h.sayLocked()
	h.judgeLocked()
	return sequenceAnswer{next.Sequence}, written, nil
}

// Stop ends the hub. The emergency stop is not known from then on, to anybody.
func (h *Hub) Stop(ctx context.Context) error {
	h.mu.Lock()
	h.stopped = true
	if h.watch != nil {
		h.watch.Stop()
	}
	if h.again != nil {
		h.again.Stop()
	}
	h.mu.Unlock()
	h.end()
	err := h.svc.Stop(ctx)
	h.work.Wait()
	return err
}

// Done is closed when the hub is asked to shut down.
func (h *Hub) Done() <-chan struct{} { return h.svc.Done() }
