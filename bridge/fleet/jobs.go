package fleet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
)

// A fate is what the engine is to do with a job.
type fate uint8

const (
	fateDone  fate = iota // its end is in the history: it goes
	fateLater             // it cannot be taken now, and comes again
	fateOther             // it runs already: who runs it says when it is done
	fateGone              // somebody has taken it back before it began
)

// A keptJob is what a list of jobs knows of one, and can do for it; see jobList.
type keptJob struct {
	id          string // by which the list has it
	begunBefore bool   // it was marked as begun with another ledger than this one
	begin       func() error
	unbegin     func()
}

// takeJob runs a job, unless it has run, and puts its end into the history. It returns when that is on the disk, or cannot be.
func (d *downlink) takeJob(in inbound) fate {
	nobody := func([]byte, string) {}
	if in.service == fleet.StopService {
		r, a := d.stopMower(&in, nobody)
		return d.jobEnded(r, a)
	}
	if d.o.store == nil { // so nobody knows whether it has run
		d.log.Warn("a job from the fleet waits", "service", in.service, "reason", errNoStore)
		return fateLater
	}
	r, err := readRequest(&in, d.o.limits)
	if err != nil {
		d.malformed.Add(1)
		return d.jobEnded(r, d.refuse(r, err, nobody))
	}
	if err := d.verify(r); err != nil {
		return d.jobEnded(r, d.refuse(r, err, nobody))
	}
	e := &execution{
		key: r.key(), lane: r.lane, service: r.service, command: r.p.Command, digest: r.digest[:], begun: message.Seconds(time.Now()), expires: r.m.Metadata.ExpiresAt,
	}
	before, err := d.ledger.find(e)
	var until time.Time
	if err == nil && before == nil && in.kept != nil {
		err = in.kept.check(r)
	}
	if err == nil && before == nil {
		if until, err = deadline(r); err == nil {
			err = d.permit(r)
		}
		if err == nil && d.awaitService(r) {
			r.received = time.Now()
			until, err = deadline(r)
		}
		if d.ctx.Err() != nil {
			return fateLater
		}
		if err == nil {
			before, _, err = d.ledger.claim(e, r.received)
		}
		if before == e && in.kept != nil {
			if f, marked := d.mark(r, e, in.kept); !marked {
				return f
			}
			r.received = time.Now()
			if again, err := deadline(r); err == nil { // else it has passed, and run says so
				until = again
			}
		}
	}
	clock := (*clockError)(nil)
	switch {
	case errors.As(err, &clock), errors.Is(err, errLedgerFull):
		d.log.Warn("a job from the fleet waits", "service", r.service, "command", r.p.Command, "operator", r.m.Metadata.Sender, "reason", err)
		return fateLater
	case err != nil:
		return d.jobEnded(r, d.refuse(r, refusal(r, err), nobody))
	case before == e:
		if d.run(r, e, until, nobody) == nil {
			if in.kept != nil {
				in.kept.unbegin()
			}
			return fateLater
		}
	case !d.ledger.isDone(before):
		return fateOther
	}
	return d.tell(before)
}

// check returns what is wrong with a job of a list before anything else is asked.
func (k *keptJob) check(r *request) error {
	switch {
	case k.id != r.m.Metadata.ID:
		return &client.CommandError{Code: client.CodeBadParameters, Message: fmt.Sprintf("the list of jobs has it as %s: another id than its own", shown(k.id))}
	case k.begunBefore:
		return errNoRecord()
	}
	return nil
}

// errNoRecord is of a job that was marked as begun with another ledger: that of a disk that was lost, or of another uplink of this name.
func errNoRecord() error {
	text := "it may have run: the mower was about to begin it, and has no record of what became of that; ask for the state that it should have led to"
	return &client.CommandError{Code: fleet.CodeUnknown, Message: text}
}

// mark has the engine note that a claimed job is begun. If it cannot be begun then, the claim is given up, and f is its fate.
func (d *downlink) mark(r *request, e *execution, k *keptJob) (f fate, marked bool) {
	err := k.begin()
	if err == nil && d.ctx.Err() != nil {
		k.unbegin()
		err = errStopping
	}
	if err == nil {
		return 0, true
	}
	f = fateLater
	a := d.answer(r.key(), "", nil, refusal(r, fmt.Errorf("not run: %w", err)), 0)
	for _, reply := range d.ledger.release(e) { // who has sent the same as a command
		reply(a)
	}
	switch {
	case errors.Is(err, errJobGone):
		d.log.Info("a job from the fleet was taken back before it began", "service", r.service, "command", r.p.Command, "job", r.m.Metadata.ID)
		f = fateGone
	case errors.Is(err, errBegunBefore):
		f = d.jobEnded(r, d.refuse(r, errNoRecord(), func([]byte, string) {}))
	case d.ctx.Err() == nil:
		d.log.Warn("a job from the fleet waits: the engine does not note that it begins", "service", r.service, "command", r.p.Command, "error", err)
	}
	return f, false
}

// awaitService waits for the service that a job is for: a mower that was switched on takes its jobs before all its services are there. It waits for
// half the time at most that the job may run, and reports whether it has waited. Who never comes, and who is no service that announces itself, is called then.
func (d *downlink) awaitService(r *request) (waited bool) {
	most := seconds(r.p.Timeout / 2)
	for end := time.Now().Add(min(most, longestService)); time.Now().Before(end); waited = true {
		for i := range d.o.service.Services("") {
			if (i.ID == r.service || i.Type == r.service) && i.State != service.Offline && i.State != service.Starting && i.State != service.ShuttingDown {
				return waited
			}
		}
		select {
		case <-time.After(servicePause):
		case <-d.ctx.Done():
			return waited
		}
	}
	return waited
}

// jobEnded puts the end of a job that was not run into the history. One that names no id has none.
func (d *downlink) jobEnded(r *request, a answer) fate {
	id := r.m.Metadata.ID
	if !printable(id, maxID) {
		id = r.keptAs
	}
	if !printable(id, maxID) {
		return fateDone
	}
	return d.putEnd(fleet.JobEnd{
		Job: id, Operator: shown(r.m.Metadata.Sender), Service: shown(r.service), Command: shown(r.p.Command), Time: timeOf(a.Time),
		Success: a.Success, Result: a.Result, Code: a.Code, Error: a.Error,
	})
}

// tell puts the end of a job that has run into the history, unless it is there.
func (d *downlink) tell(e *execution) fate {
	if d.ledger.isTold(e) {
		return fateDone
	}
	a, err := d.ledger.answerOf(e)
	if err != nil {
		d.log.Error("how a job from the fleet ended cannot be read", "service", e.service, "command", e.command, "error", err)
		a = &answer{Code: fleet.CodeUnknown, Error: "it was begun, and how it ended cannot be read: " + err.Error(), Time: message.Seconds(time.Now())}
	}
	if f := d.putEnd(fleet.JobEnd{
		Job: e.key.id, Operator: e.key.sender, Service: e.service, Command: e.command, Time: timeOf(a.Time),
		Success: a.Success, Result: a.Result, Code: a.Code, Error: a.Error,
	}); f != fateDone {
		return f
	}
	if err := d.ledger.tell(e); err != nil { // then it may be told once more, with the same id
		d.log.Warn("that the end of a job was told is not on the disk", "error", err)
	}
	return fateDone
}

func (d *downlink) putEnd(end fleet.JobEnd) fate {
	if err := d.o.end(context.WithoutCancel(d.ctx), end); err != nil {
		d.log.Error("the end of a job from the fleet is not on the disk: the job comes again, and does not run again", "job", end.Job, "error", err)
		return fateLater
	}
	return fateDone
}

func timeOf(s float64) time.Time { return time.UnixMicro(int64(s * 1e6)).UTC() }

const (
	longestService = time.Minute // that a job waits for its service
	servicePause   = 50 * time.Millisecond
)

// hear takes commands from a NATS engine. The emergency stop has a subscription of its own, so that nothing is before it.
func (d *downlink) hear(nc *nats.Conn) error {
	for _, subject := range []string{fleet.CommandSubject(d.o.mower, fleet.StopService), fleet.CommandFilter(d.o.mower)} {
		stops := subject != fleet.CommandFilter(d.o.mower)
		sub, err := nc.Subscribe(subject, func(m *nats.Msg) {
			target, err := fleet.ParseCommandSubject(d.o.mower, m.Subject)
			if !stops && target == fleet.StopService {
				return // the other subscription has it
			}
			in := inbound{lane: laneCommand, service: target, body: m.Data, header: m.Header.Get, received: time.Now()}
			reply := d.replyTo(nc, m)
			if err != nil {
				d.malformed.Add(1)
				r := &request{service: shown(m.Subject)}
				d.refuse(r, &client.CommandError{Code: client.CodeBadParameters, Message: fmt.Sprintf("the subject names no service: %v", err)}, reply)
				return
			}
			d.takeCommand(in, reply)
		})
		if err != nil {
			return fmt.Errorf("commands from the fleet: %w", err)
		}
		_ = sub.SetPendingLimits(maxWaiting, maxWaitingBytes) // only fails for subscriptions that have ended
		d.mu.Lock()
		d.subs = append(d.subs, sub)
		d.mu.Unlock()
	}
	return nil
}

const (
	maxWaiting      = 1024 // commands that have come and were not looked at; further ones are lost, and their callers ask again
	maxWaitingBytes = 8 << 20
)

// replyTo returns what answers m. An answer goes nowhere but to an inbox: a caller must not make the mower publish what it may not itself.
func (d *downlink) replyTo(nc *nats.Conn, m *nats.Msg) replier {
	return func(body []byte, code string) {
		if !fleet.IsInbox(m.Reply) {
			return
		}
		a := &nats.Msg{Subject: m.Reply, Data: body, Header: nats.Header{}}
		if code != "" {
			a.Header.Set(fleet.HeaderCode, code)
		}
		if err := nc.PublishMsg(a); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			d.log.Warn("the answer to a command from the fleet was not sent", "error", err)
		}
	}
}
