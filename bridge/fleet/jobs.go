package fleet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

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
)

// takeJob runs a job, unless it has run, and puts its end into the history. It returns when that is on the disk, or cannot be.
func (d *downlink) takeJob(in inbound) fate {
	nobody := func([]byte, string) {}
	if in.service == fleet.StopService {
		r, a := d.stopMower(&in, nobody)
		return d.jobEnded(r, a)
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
			return fateLater
		}
	case !d.ledger.isDone(before):
		return fateOther
	}
	return d.tell(before)
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
	if !printable(r.m.Metadata.ID, maxID) {
		return fateDone
	}
	return d.putEnd(fleet.JobEnd{
		Job: r.m.Metadata.ID, Operator: shown(r.m.Metadata.Sender), Service: shown(r.service), Command: shown(r.p.Command), Time: timeOf(a.Time),
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
	jobAckWait  = 30 * time.Second
	jobPull     = 30 * time.Second // that one request for a job lasts
	jobBeat     = 5 * time.Second  // between signs of life of the engine meanwhile
	jobAgain    = 15 * time.Second // after which a job comes again that could not be taken
	jobsRequest = 10 * time.Second // that the engine may take to answer

	longestService = time.Minute // that a job waits for its service
	servicePause   = 50 * time.Millisecond
)

// pull takes jobs from a NATS engine until the downlink ends.
func (d *downlink) pull(nc *nats.Conn) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	d.goes(func() {
		for _, e := range d.ledger.untold() {
			d.tell(e) // what fails is told when the job comes again
		}
		wait, said := time.Second, ""
		for d.ctx.Err() == nil {
			began := time.Now()
			err := d.pullAll(nc, js)
			if d.ctx.Err() != nil {
				return
			}
			if time.Since(began) > time.Minute {
				wait, said = time.Second, ""
			}
			if text := err.Error(); text != said {
				said = text
				d.log.Warn("no jobs come from the fleet's engine: it is asked again", "stream", fleet.StreamJobs, "error", err)
			}
			select {
			case <-time.After(wait):
			case <-d.ctx.Done():
			}
			wait = min(2*wait, 15*time.Second)
		}
	})
	return nil
}

// errNoConsumer is what the engine says of a consumer that it does not have, and while it has nobody to lead it.
var errNoConsumer = errors.New("the engine does not have the consumer of the mower's jobs, or cannot be asked now")

// pullAll takes jobs until something is wrong. It needs the rights to ask the mower's consumer for messages, and to acknowledge them. When the
// engine has no such consumer it tries to make it, which not every engine lets a mower do: where mowers are enrolled, that makes it.
func (d *downlink) pullAll(nc *nats.Conn, js jetstream.JetStream) error {
	for {
		select {
		case d.jobBusy <- struct{}{}:
		case <-d.ctx.Done():
			return d.ctx.Err()
		}
		m, err := d.nextJob(nc)
		if err == nil && m != nil && d.goes(func() {
			defer func() { <-d.jobBusy }()
			d.doJob(m)
		}) {
			continue
		}
		<-d.jobBusy
		if errors.Is(err, errNoConsumer) {
			ctx, cancel := context.WithTimeout(d.ctx, jobsRequest)
			_, made := js.CreateOrUpdateConsumer(ctx, fleet.StreamJobs, jetstream.ConsumerConfig{
				Durable: d.o.mower, FilterSubject: fleet.JobFilter(d.o.mower),
				AckPolicy: jetstream.AckExplicitPolicy, AckWait: jobAckWait, MaxAckPending: 4 * maxJobs,
			})
			cancel()
			if made == nil {
				continue
			}
			err = fmt.Errorf("%w (%w)", err, made)
		}
		if err != nil {
			return err
		}
	}
}

// nextJob waits for a job, nil is none for now.
func (d *downlink) nextJob(nc *nats.Conn) (*nats.Msg, error) {
	if !nc.IsConnected() {
		return nil, nats.ErrDisconnected
	}
	ctx, cancel := context.WithTimeout(d.ctx, jobPull+jobBeat)
	defer cancel()
	inbox := nc.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return nil, err
	}
	defer func() { _ = sub.Unsubscribe() }() // the connection may be closed
	request := fmt.Appendf(nil, `{"batch":1,"expires":%d,"idle_heartbeat":%d}`, jobPull, jobBeat)
	if err := nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+fleet.StreamJobs+"."+d.o.mower, inbox, request); err != nil {
		return nil, err
	}
	for {
		one, cancel := context.WithTimeout(ctx, 2*jobBeat)
		m, err := sub.NextMsgWithContext(one)
		cancel()
		switch {
		case errors.Is(err, nats.ErrNoResponders):
			return nil, errNoConsumer
		case err != nil && d.ctx.Err() != nil:
			return nil, d.ctx.Err()
		case err != nil && ctx.Err() != nil:
			return nil, nil
		case err != nil:
			return nil, fmt.Errorf("the engine gives no sign of life: %w", err)
		}
		switch status := m.Header.Get("Status"); {
		case status == "" || len(m.Data) > 0:
			return m, nil
		case status == "100": // a sign of life
		case status == "404", status == "408":
			return nil, nil
		case status == "503":
			return nil, errNoConsumer
		default:
			return nil, fmt.Errorf("the engine says %s %s", status, m.Header.Get("Description"))
		}
	}
}

// doJob runs a job that came, and says what is to become of it.
func (d *downlink) doJob(m *nats.Msg) {
	target, err := fleet.ParseJobSubject(d.o.mower, m.Subject)
	if err != nil {
		d.malformed.Add(1)
		_ = m.Term()
		return
	}
	in := inbound{lane: laneJob, service: target, body: m.Data, header: m.Header.Get, received: time.Now()}
	ended := make(chan struct{})
	beating := make(chan struct{})
	go func() { // so that it does not come again while it runs
		defer close(beating)
		tick := time.NewTicker(jobAckWait / 3)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_ = m.InProgress() // else it comes again, and is not run
			case <-ended:
				return
			}
		}
	}()
	f := d.takeJob(in)
	close(ended)
	<-beating
	switch f {
	case fateDone:
		ctx, cancel := context.WithTimeout(context.WithoutCancel(d.ctx), jobsRequest)
		defer cancel()
		err = m.AckSync(nats.Context(ctx))
	case fateLater:
		err = m.NakWithDelay(jobAgain)
	case fateOther:
	}
	if err != nil {
		d.log.Debug("the engine was not told what became of a job: it comes again, and is not run", "error", err)
	}
}

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
