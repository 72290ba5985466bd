package fleet

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
)

// A NATSOperator is an [Operator] at a NATS engine.
type NATSOperator struct {
	o  OperatorOptions
	nc *nats.Conn
	js jetstream.JetStream
}

// NewNATSOperator returns an operator that uses a connection, which stays the caller's.
func NewNATSOperator(nc *nats.Conn, o OperatorOptions) (*NATSOperator, error) {
	if o.Name == "" {
		return nil, errors.New("an operator needs a name")
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	return &NATSOperator{o: o, nc: nc, js: js}, nil
}

var _ Operator = (*NATSOperator)(nil)

const (
	firstAttempt = time.Second            // for an answer, before the same is sent again
	longAttempt  = 8 * time.Second        // the longest of those
	refusedPause = 100 * time.Millisecond // before what nobody has heard is sent again
	answerGrace  = 2 * time.Second        // for an answer after the deadline: it is the mower that says that it was too late
	stopPatience = 2 * time.Second        // a stop is not given up before, even if the mower seems to be offline
	requestTimes = 5 * time.Second        // for an answer of the engine itself
)

// Call has a service of a mower run a command.
func (o *NATSOperator) Call(ctx context.Context, mower, service, command string, parameters any) (json.RawMessage, error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(defaultCallTime)
	}
	d, err := o.o.newDispatch(mower, service, command, parameters, deadline, 0, false)
	if err != nil {
		return nil, err
	}
	return o.send(ctx, d, 0)
}

// Stop engages the emergency stop of a mower.
func (o *NATSOperator) Stop(ctx context.Context, mower, reason string) (s Stopped, err error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(defaultCallTime)
	}
	d, err := o.o.newDispatch(mower, StopService, StopCommand, map[string]string{"reason": reason}, deadline, 0, false)
	if err != nil && o.o.Keys != nil { // a stop needs no signature
		unsigned := o.o
		unsigned.Keys = nil
		d, err = unsigned.newDispatch(mower, StopService, StopCommand, map[string]string{"reason": reason}, deadline, 0, false)
	}
	if err != nil {
		return s, err
	}
	result, err := o.send(ctx, d, stopPatience)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(result, &s); err != nil || !s.Engaged {
		return s, d.failed(client.CodeFailed, "its answer to the emergency stop cannot be read, so it may still move")
	}
	return s, nil
}

// send sends a command until there is an answer. patience is how long a mower may seem to be offline.
func (o *NATSOperator) send(ctx context.Context, d *dispatch, patience time.Duration) (json.RawMessage, error) {
	inbox := o.nc.NewInbox()
	sub, err := o.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, err
	}
	defer func() { _ = sub.Unsubscribe() }() // the connection may be closed
	// The caller's deadline is that of the command. Who gives up before that is not kept waiting.
	waiting, cancel := context.WithDeadline(context.WithoutCancel(ctx), d.deadline.Add(answerGrace))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			cancel()
		}
	})()
	began, attempt := time.Now(), firstAttempt
	// What was sent more often than the engine has said that nobody hears it may have been handed to the mower.
	sends, unheard := 0, 0
	var why error
	for {
		sent := false
		if time.Now().Before(d.deadline) {
			m := &nats.Msg{Subject: CommandSubject(d.mower, d.service), Reply: inbox, Data: d.body, Header: nats.Header{}}
			for k, v := range d.headers {
				m.Header.Set(k, v)
			}
			if why = o.nc.PublishMsg(m); why == nil {
				sent = true
				sends++
			} else if fatal(why) {
				return nil, d.failed(client.CodeRefused, "the command cannot be sent: %v", why)
			}
		}
		wait := attempt
		if !sent && time.Now().Before(d.deadline) {
			wait = refusedPause
		}
		result, err, answered := o.await(waiting, sub, d, wait)
		switch {
		case answered:
			return result, err
		case errors.Is(err, nats.ErrNoResponders):
			why = err
			unheard++
			// A mower that may have it may also come back before the deadline, and say so.
			if sends == unheard && time.Since(began) >= patience && o.offline(waiting, d.mower) {
				return nil, d.failed(CodeOffline, "offline: no uplink of the mower is there, so the command has not run")
			}
			if !pause(waiting, refusedPause) {
				return nil, o.over(ctx, d, sends > unheard, why)
			}
			continue
		case waiting.Err() != nil:
			return nil, o.over(ctx, d, sends > unheard, why)
		case err != nil && fatal(err):
			return nil, d.failed(client.CodeFailed, "%v", err)
		}
		if sent {
			attempt = min(2*attempt, longAttempt)
		}
	}
}

// fatal reports whether it is of no use to send again.
func fatal(err error) bool {
	return errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrBadSubscription) ||
		errors.Is(err, nats.ErrPermissionViolation) || errors.Is(err, nats.ErrHeadersNotSupported)
}

// await waits for the answer to d.
func (o *NATSOperator) await(ctx context.Context, sub *nats.Subscription, d *dispatch, wait time.Duration) (result json.RawMessage, err error, answered bool) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return nil, err, false
		}
		if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
			return nil, nats.ErrNoResponders, false
		}
		if result, err, ok := d.read(m.Data, m.Header.Get(HeaderCode)); ok {
			return result, err, true
		}
	}
}

// over is how it ends without an answer.
func (o *NATSOperator) over(ctx context.Context, d *dispatch, taken bool, why error) error {
	code, text := client.CodeTimeout, "no answer before the deadline"
	if ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		code, text = client.CodeCancelled, "nobody waits for the answer any more"
	}
	switch {
	case taken:
		return d.failed(code, "%s: outcome unknown", text)
	case errors.Is(why, nats.ErrNoResponders):
		return d.failed(CodeOffline, "no uplink of the mower has heard the command before the deadline, so it has not run")
	case why != nil:
		return d.failed(code, "%s: there was no connection to the engine (%v), so the command has not run", text, why)
	}
	return d.failed(code, "%s", text)
}

// offline reports whether the engine says that a mower is not there. When it cannot say, it may be.
func (o *NATSOperator) offline(ctx context.Context, mower string) bool {
	ctx, cancel := context.WithTimeout(ctx, requestTimes)
	defer cancel()
	m, err := o.nc.RequestWithContext(ctx, fmt.Sprintf("$JS.API.DIRECT.GET.KV_%s.$KV.%s.%s", BucketPresence, BucketPresence, mower), nil)
	if err != nil {
		return false
	}
	return m.Header.Get("Status") == "404" || m.Header.Get("KV-Operation") != "" || m.Header.Get("Nats-Marker-Reason") != ""
}

// pause waits, and reports whether ctx goes on.
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

// AddJob has the engine keep a command for a mower. It is refused when the list of the mower is full, or cannot be read. An emergency stop replaces one that
// cannot be read: there is nothing in it that could be run.
func (o *NATSOperator) AddJob(ctx context.Context, mower, service, command string, parameters any, deadline time.Time, limit time.Duration) (string, error) {
	if limit <= 0 {
		limit = defaultCallTime
	}
	d, err := o.o.newDispatch(mower, service, command, parameters, deadline, limit, true)
	if err != nil {
		return "", err
	}
	box, err := NewJobBox(o.nc, mower)
	if err != nil {
		return "", err
	}
	ctx, cancel := withDefault(ctx)
	defer cancel()
	err = box.Change(ctx, func(l *JobList, unreadable error, _ bool) (bool, error) {
		switch {
		case unreadable != nil && service != StopService:
			return false, d.failed(client.CodeRefused, "nothing is added to its jobs: %v; \"lawnberry fleet job cancel %s --unreadable\" removes it", unreadable, mower)
		case l.Index(d.id()) >= 0: // by an attempt whose confirmation was lost
			return false, nil
		}
		now := time.Now()
		err := l.add(KeptJob{ID: d.id(), Service: service, Body: d.body, Headers: d.headers, Added: now.UTC(), Expires: deadline.UTC()}, now)
		if errors.Is(err, errJobsFull) {
			err = d.failed(client.CodeRefused, "its list of jobs is full: it has %d, and %d and %d KiB in all fit; wait until it has ended some, or take some back",
				len(l.Jobs), MaxJobs, MaxJobBytes>>10)
		}
		return true, err
	})
	var refused *jetstream.APIError
	switch said := (*client.CommandError)(nil); {
	case err == nil:
		o.nudge(ctx, mower)
		return d.id(), nil
	case errors.As(err, &said):
		return "", said
	case fatal(err), errors.As(err, &refused) && refused.Code < 500:
		return "", d.failed(client.CodeRefused, "the engine does not take the job: %v", err)
	}
	return "", d.failed(client.CodeTimeout, "the engine has not confirmed that it keeps the job (%v): outcome unknown", err)
}

// nudge tells a mower that its list has changed. One that does not hear it looks by itself, within a minute or when it is back.
func (o *NATSOperator) nudge(ctx context.Context, mower string) {
	if o.nc.Publish(JobNudge(mower), nil) == nil {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_ = o.nc.FlushWithContext(ctx) // the connection may be closed next
	}
}

func withDefault(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, defaultCallTime)
}

// Jobs returns the jobs that the engine has, in the order in which they were added.
func (o *NATSOperator) Jobs(ctx context.Context, mower string) ([]Job, error) {
	ctx, cancel := withDefault(ctx)
	defer cancel()
	var lists map[string][]byte
	var err error
	if mower == "" {
		lists, err = o.allJobs(ctx)
	} else {
		lists, err = o.jobsOf(ctx, mower)
	}
	if err != nil {
		return nil, fmt.Errorf("jobs: %w", err)
	}
	all := []Job{}
	var bad []error
	for mower, body := range lists {
		l, err := ReadJobs(body)
		if err != nil {
			bad = append(bad, fmt.Errorf("mower %s: %w", mower, err))
		}
		for i := range l.Jobs {
			all = append(all, readJob(mower, &l.Jobs[i]))
		}
	}
	slices.SortStableFunc(all, func(a, b Job) int { return cmp.Or(a.Added.Compare(b.Added), strings.Compare(a.Mower, b.Mower)) })
	slices.SortFunc(bad, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return all, errors.Join(bad...)
}

// jobsOf returns the list of one mower.
func (o *NATSOperator) jobsOf(ctx context.Context, mower string) (map[string][]byte, error) {
	if err := CheckMower(mower); err != nil {
		return nil, err
	}
	box, err := NewJobBox(o.nc, mower)
	if err != nil {
		return nil, err
	}
	for {
		one, cancel := context.WithTimeout(ctx, requestTimes)
		s, err := box.Read(one)
		cancel()
		switch {
		case err == nil:
			return map[string][]byte{mower: s.Body}, nil
		case fatal(err) || !pause(ctx, refusedPause): // a node may be dying, and another take over
			return nil, err
		}
	}
}

// errAllThere ends a copy of the bucket.
var errAllThere = errors.New("everything is there")

// allJobs returns the lists of all mowers.
func (o *NATSOperator) allJobs(ctx context.Context) (map[string][]byte, error) {
	for {
		lists := map[string][]byte{}
		c := &consumer{js: o.js, stream: "KV_" + BucketJobs, filters: []string{JobListSubject("*")}, policy: jetstream.DeliverLastPerSubjectPolicy}
		c.complete = func() error { return errAllThere }
		err := c.run(ctx, func(msg jetstream.Msg, _ *jetstream.MsgMetadata) error {
			mower := strings.TrimPrefix(msg.Subject(), JobListSubject(""))
			delete(lists, mower)
			if !isGone(msg.Headers()) {
				lists[mower] = bytes.Clone(msg.Data())
			}
			return nil
		})
		switch {
		case errors.Is(err, errAllThere):
			return lists, nil
		case fatal(err) || !pause(ctx, refusedPause):
			if errors.Is(err, jetstream.ErrStreamNotFound) {
				err = fmt.Errorf("%w: %w", errNoJobs, err)
			}
			return nil, err
		}
	}
}

// readJob reads a job as the engine has it.
func readJob(mower string, k *KeptJob) Job {
	j := Job{ID: k.ID, Mower: mower, Service: k.Service, Added: k.Added.UTC(), Expires: k.Expires.UTC(), Begun: k.Begun != nil}
	c, err := message.Decode(bytes.Clone(k.Body), message.Limits{MaxPayload: maxAnswer})
	if err != nil || c.Raw {
		return j
	}
	j.Operator = c.Metadata.Sender
	if c.Metadata.ExpiresAt > 0 {
		j.Expires = time.UnixMilli(int64(c.Metadata.ExpiresAt * 1000)).UTC()
	}
	if p, err := message.Payload[message.Command](c); err == nil {
		j.Command = p.Command
	}
	return j
}

// CancelJob takes a job back.
func (o *NATSOperator) CancelJob(ctx context.Context, mower, id string) (begun bool, err error) {
	tried := false
	err = o.changeJobs(ctx, mower, func(l *JobList, unreadable error, open bool) (bool, error) {
		i := l.Index(id)
		switch {
		case unreadable != nil:
			return false, unreadable
		case i < 0 && open:
			begun = true
			return false, fmt.Errorf("job %s is gone, but nobody knows whether it was taken back before the mower has begun it", id)
		case i < 0:
			return false, ErrNoJob
		case l.Jobs[i].Begun != nil:
			begun = true
			return false, nil
		}
		l.Jobs, tried = slices.Delete(l.Jobs, i, i+1), true
		return true, nil
	})
	var refused *jetstream.APIError
	if tried && err != nil && !begun && !errors.Is(err, ErrNoJob) && !errors.Is(err, ErrJobsUnreadable) && !(errors.As(err, &refused) && refused.Code < 500) {
		return true, fmt.Errorf("job %s: the engine does not say whether it was taken back: %w", id, err)
	}
	return begun, err
}

// RemoveUnreadableJobs removes the list of jobs of a mower if it cannot be read.
func (o *NATSOperator) RemoveUnreadableJobs(ctx context.Context, mower string) error {
	return o.changeJobs(ctx, mower, func(_ *JobList, unreadable error, open bool) (bool, error) {
		if unreadable == nil && !open {
			return false, ErrNoJob
		}
		return unreadable != nil, nil
	})
}

// changeJobs changes the list of a mower, and tells it so.
func (o *NATSOperator) changeJobs(ctx context.Context, mower string, f func(l *JobList, unreadable error, open bool) (bool, error)) error {
	if err := CheckMower(mower); err != nil {
		return err
	}
	box, err := NewJobBox(o.nc, mower)
	if err != nil {
		return err
	}
	ctx, cancel := withDefault(ctx)
	defer cancel()
	if err := box.Change(ctx, f); err != nil {
		return err
	}
	o.nudge(ctx, mower)
	return nil
}

// WaitJob waits until a job has ended.
func (o *NATSOperator) WaitJob(ctx context.Context, mower, id string) (e JobEnd, err error) {
	if err := CheckMower(mower); err != nil {
		return e, err
	}
	for ctx.Err() == nil {
		found, err := o.findEnd(ctx, mower, id)
		if err == nil {
			return found, nil
		}
		if ctx.Err() != nil {
			break
		}
		if fatal(err) {
			return e, err
		}
		if !pause(ctx, 5*refusedPause) {
			break
		}
	}
	return e, &client.CommandError{Code: client.CodeTimeout, Message: fmt.Sprintf(
		"%s: job %s has not ended in time: the mower has not come to take it, or has not ended it, or has not told how it ended", mower, id)}
}

// findEnd reads the ends of the jobs of a mower, those that are there and those that come, until it finds one.
func (o *NATSOperator) findEnd(ctx context.Context, mower, id string) (e JobEnd, err error) {
	one, end := context.WithTimeout(ctx, requestTimes)
	consumer, err := o.js.OrderedConsumer(one, StreamEvents, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{HistorySubject(mower, OwnJobs)}, DeliverPolicy: jetstream.DeliverAllPolicy,
	})
	end()
	if err != nil {
		return e, err
	}
	all, err := consumer.Messages()
	if err != nil {
		return e, err
	}
	defer context.AfterFunc(ctx, all.Stop)()
	defer all.Stop()
	for {
		m, err := all.Next()
		if err != nil {
			return e, err
		}
		if found, err := ReadJobEnd(m.Data(), m.Headers().Get(HeaderEncoding)); err == nil && found.Job == id {
			return found, nil
		}
	}
}
