package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/lawnberry/lawnberry/client"
)

// An MQTTOperator is an [Operator] at an MQTT 5 engine. A broker tells nobody what it keeps for whom, so Jobs and CancelJob are refused.
type MQTTOperator struct {
	o      OperatorOptions
	id     string // of the topics on which mowers answer
	engine Engine
	log    *slog.Logger
	end    context.CancelFunc
	work   sync.WaitGroup

	mu      sync.Mutex // guards the fields below
	conn    *MQTTConn
	changed chan struct{} // closed when conn or problem has changed
	problem error         // why there is none
	calls   map[string]mqttCall
}

// A mqttCall waits for an answer of a mower.
type mqttCall struct {
	mower   string
	answers chan<- mqttAnswer
}

// A mqttAnswer is what came to a caller.
type mqttAnswer struct {
	body []byte
	code string
}

var _ Operator = (*MQTTOperator)(nil)

const (
	mqttRetry    = 100 * time.Millisecond // between attempts to connect, of an operator who waits
	mqttRetryMax = 2 * time.Second
)

// NewMQTTOperator begins to connect to the engine. Close it.
func NewMQTTOperator(e Engine, o OperatorOptions) (*MQTTOperator, error) {
	if o.Name == "" {
		return nil, errors.New("an operator needs a name")
	}
	if err := e.Check(); err != nil {
		return nil, err
	}
	op := &MQTTOperator{o: o, id: uuid.NewString(), engine: e, log: e.Log, changed: make(chan struct{}), calls: map[string]mqttCall{}}
	if op.log == nil {
		op.log = slog.New(slog.DiscardHandler)
	}
	ctx, end := context.WithCancel(context.Background())
	op.end = end
	op.work.Go(func() { e.KeepMQTT(ctx, MQTTSession{}, mqttPause, op.up, op.down) })
	return op, nil
}

// mqttPause is between attempts to connect of somebody who waits for it.
func mqttPause(rounds int) time.Duration {
	base := min(mqttRetry<<min(rounds-1, 10), mqttRetryMax)
	return base/2 + rand.N(base)
}

// Close ends the connection.
func (o *MQTTOperator) Close() {
	o.end()
	o.work.Wait()
	o.mu.Lock()
	c := o.conn
	o.conn = nil
	o.mu.Unlock()
	if c != nil {
		ctx, cancel := context.WithTimeout(context.Background(), answerGrace)
		defer cancel()
		c.Close(ctx)
	}
}

func (o *MQTTOperator) up(ctx context.Context, c *MQTTConn) error {
	_, err := c.Hear(ctx, AnswerTopic("+", o.id), o.answered, client.WithQueue(client.Queue{Max: 10_000}))
	if err != nil {
		return fmt.Errorf("answers of mowers cannot be heard: %w", err)
	}
	o.set(c, nil)
	return nil
}

func (o *MQTTOperator) down(err error) {
	o.log.Info("no connection to the engine of the fleet, it is tried again", "error", err)
	o.set(nil, err)
}

func (o *MQTTOperator) set(c *MQTTConn, problem error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.conn, o.problem = c, problem
	close(o.changed)
	o.changed = make(chan struct{})
}

// Wait waits for a connection. Its error is why there is none.
func (o *MQTTOperator) Wait(ctx context.Context) error {
	_, err := o.connection(ctx)
	return err
}

// connection waits for a connection.
func (o *MQTTOperator) connection(ctx context.Context) (*MQTTConn, error) {
	for {
		o.mu.Lock()
		c, changed, problem := o.conn, o.changed, o.problem
		o.mu.Unlock()
		if c != nil {
			select {
			case <-c.Lost():
			default:
				return c, nil
			}
		}
		select {
		case <-changed:
		case <-time.After(mqttRetry): // a connection that is lost is noted a little later
		case <-ctx.Done():
			if problem != nil {
				return nil, problem
			}
			return nil, ctx.Err()
		}
	}
}

// answered gives an answer to the call that waits for it.
func (o *MQTTOperator) answered(_ context.Context, d *client.Delivery) {
	if d.Retained {
		return
	}
	o.mu.Lock()
	call, waits := o.calls[string(d.CorrelationData)]
	o.mu.Unlock()
	if mower, _, _, err := ParseMQTTTopic(d.FullTopic()); !waits || err != nil || mower != call.mower {
		return // a mower answers for itself alone
	}
	select {
	case call.answers <- mqttAnswer{MQTTBody(d), UserProperty(d, HeaderCode)}:
	default: // it has more than one already
	}
}

// Call has a service of a mower run a command.
func (o *MQTTOperator) Call(ctx context.Context, mower, service, command string, parameters any) (json.RawMessage, error) {
	d, err := o.o.newDispatch(mower, service, command, parameters, deadlineOf(ctx), 0, false)
	if err != nil {
		return nil, err
	}
	return o.send(ctx, d, 0)
}

func deadlineOf(ctx context.Context) time.Time {
	if at, ok := ctx.Deadline(); ok {
		return at
	}
	return time.Now().Add(defaultCallTime)
}

// Stop engages the emergency stop of a mower.
func (o *MQTTOperator) Stop(ctx context.Context, mower, reason string) (s Stopped, err error) {
	deadline, parameters := deadlineOf(ctx), map[string]string{"reason": reason}
	d, err := o.o.newDispatch(mower, StopService, StopCommand, parameters, deadline, 0, false)
	if err != nil && o.o.Keys != nil { // a stop needs no signature
		unsigned := o.o
		unsigned.Keys = nil
		d, err = unsigned.newDispatch(mower, StopService, StopCommand, parameters, deadline, 0, false)
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

// options are what a command or a job has beside its body.
func (d *dispatch) options() []client.PublishOption {
	o := []client.PublishOption{client.WithQoS(1), client.WithRetain(false), client.WithExpiry(max(time.Until(d.deadline), time.Second))}
	for k, v := range d.headers {
		o = append(o, client.WithUser(k, v))
	}
	return o
}

// send sends a command until there is an answer. patience is how long a mower may seem to be offline; with none it is not sent to a mower that has no presence.
func (o *MQTTOperator) send(ctx context.Context, d *dispatch, patience time.Duration) (json.RawMessage, error) {
	waiting, cancel := context.WithDeadline(context.WithoutCancel(ctx), d.deadline.Add(answerGrace))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			cancel()
		}
	})()
	answers := make(chan mqttAnswer, 4)
	o.mu.Lock()
	o.calls[d.id()] = mqttCall{d.mower, answers}
	o.mu.Unlock()
	defer func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.calls, d.id())
	}()
	began, attempt := time.Now(), firstAttempt
	taken, looked := false, patience > 0
	var why error
	for {
		c, err := o.connection(waiting)
		if err != nil {
			return nil, o.over(ctx, d, taken, err)
		}
		if !looked {
			there, err := o.present(waiting, c, d.mower)
			switch {
			case err != nil:
				why = err
				continue // another connection, or the end
			case !there:
				return nil, d.failed(CodeOffline, "offline: no uplink of the mower is there, so the command was not sent")
			}
			looked = true
		}
		sent := false
		if time.Now().Before(d.deadline) {
			o := append(d.options(), client.WithResponse("absolute:"+AnswerTopic(d.mower, o.id), []byte(d.id())))
			unheard, err := c.Send(waiting, CommandTopic(d.mower, d.service), d.body, o...)
			sent, why = err == nil && !unheard, err
			switch {
			case unheard:
				why = errUnheard
			case errors.Is(err, ErrMQTTLost), waiting.Err() != nil:
				taken = true
			case err != nil:
				return nil, d.failed(client.CodeRefused, "the command cannot be sent: %v", err)
			}
		}
		if errors.Is(why, errUnheard) {
			there, err := o.present(waiting, c, d.mower)
			if err == nil && !there && time.Since(began) >= patience && !taken {
				return nil, d.failed(CodeOffline, "offline: no uplink of the mower is there, so the command has not run")
			}
		}
		taken = taken || sent
		wait := refusedPause
		if sent || !time.Now().Before(d.deadline) {
			wait = attempt
			attempt = min(2*attempt, longAttempt)
		}
		result, err, answered := o.await(waiting, answers, d, wait)
		switch {
		case answered:
			return result, err
		case waiting.Err() != nil:
			return nil, o.over(ctx, d, taken, why)
		}
	}
}

var errUnheard = errors.New("nobody is subscribed")

// await waits for the answer to d.
func (o *MQTTOperator) await(ctx context.Context, answers <-chan mqttAnswer, d *dispatch, wait time.Duration) (result json.RawMessage, err error, answered bool) {
	t := time.NewTimer(wait)
	defer t.Stop()
	for {
		select {
		case a := <-answers:
			if result, err, ok := d.read(a.body, a.code); ok {
				return result, err, true
			}
		case <-t.C:
			return nil, nil, false
		case <-ctx.Done():
			return nil, nil, false
		}
	}
}

// over is how it ends without an answer.
func (o *MQTTOperator) over(ctx context.Context, d *dispatch, taken bool, why error) error {
	code, text := client.CodeTimeout, "no answer before the deadline"
	if ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		code, text = client.CodeCancelled, "nobody waits for the answer any more"
	}
	switch {
	case taken:
		return d.failed(code, "%s: outcome unknown", text)
	case errors.Is(why, errUnheard):
		return d.failed(CodeOffline, "no uplink of the mower has heard the command before the deadline, so it has not run")
	case why != nil:
		return d.failed(code, "%s: there was no connection to the engine (%v), so the command has not run", text, why)
	}
	return d.failed(code, "%s", text)
}

// present reports whether a mower's uplink is there, as far as the broker knows. When we may not ask, it may be.
func (o *MQTTOperator) present(ctx context.Context, c *MQTTConn, mower string) (bool, error) {
	d, ok, err := c.Retained(ctx, PresenceTopic(mower))
	var refused *client.RefusedError
	if errors.As(err, &refused) {
		return true, nil
	}
	return ok && len(MQTTBody(d)) > 0, err
}

// AddJob has the engine keep a command for a mower.
func (o *MQTTOperator) AddJob(ctx context.Context, mower, service, command string, parameters any, deadline time.Time, limit time.Duration) (string, error) {
	if limit <= 0 {
		limit = defaultCallTime
	}
	d, err := o.o.newDispatch(mower, service, command, parameters, deadline, limit, true)
	if err != nil {
		return "", err
	}
	ctx, cancel := withDefault(ctx)
	defer cancel()
	for {
		c, err := o.connection(ctx)
		if err == nil {
			var unheard bool
			unheard, err = c.Send(ctx, JobTopic(mower, service), d.body, d.options()...)
			switch {
			case unheard:
				return "", d.failed(CodeOffline, "the broker keeps nothing for this mower, so the job was not taken: its uplink was never there, or is away for longer than "+
					"the broker keeps its session")
			case err == nil:
				return d.id(), nil
			case !errors.Is(err, ErrMQTTLost) && ctx.Err() == nil:
				return "", d.failed(client.CodeRefused, "the engine does not take the job: %v", err)
			}
		}
		if !pause(ctx, refusedPause) { // what was taken already is the same job
			return "", d.failed(client.CodeTimeout, "the engine has not confirmed that it keeps the job (%v): outcome unknown", err)
		}
	}
}

// ErrMQTTKeepsSecret is what a broker cannot be asked for.
var ErrMQTTKeepsSecret = errors.New("an MQTT broker does not tell which jobs it keeps for a mower, and gives none back: a job ends by its deadline, " +
	"and \"fleet job wait\" waits for its end; an engine that speaks NATS can do this")

// Jobs is refused: see ErrMQTTKeepsSecret.
func (o *MQTTOperator) Jobs(context.Context, string) ([]Job, error) { return nil, ErrMQTTKeepsSecret }

// CancelJob is refused: see ErrMQTTKeepsSecret.
func (o *MQTTOperator) CancelJob(context.Context, string, string) (bool, error) {
	return false, ErrMQTTKeepsSecret
}

// RemoveUnreadableJobs is refused: see ErrMQTTKeepsSecret.
func (o *MQTTOperator) RemoveUnreadableJobs(context.Context, string) error { return ErrMQTTKeepsSecret }

// WaitJob waits until a job has ended. Of the ends that were told before it began to wait it hears the last one of the mower alone.
func (o *MQTTOperator) WaitJob(ctx context.Context, mower, id string) (e JobEnd, err error) {
	if err := CheckMower(mower); err != nil {
		return e, err
	}
	found := make(chan JobEnd, 1)
	for ctx.Err() == nil {
		c, err := o.connection(ctx)
		if err != nil {
			break
		}
		sub, err := c.Hear(ctx, HistoryTopic(mower, OwnJobs), func(_ context.Context, d *client.Delivery) {
			if e, err := ReadJobEnd(MQTTBody(d), UserProperty(d, HeaderEncoding)); err == nil && e.Job == id {
				select {
				case found <- e:
				default:
				}
			}
		})
		var refused *client.RefusedError
		if errors.As(err, &refused) {
			return e, err
		}
		if err != nil {
			continue
		}
		select {
		case e := <-found:
			_ = sub.Unsubscribe(ctx) // it is over with the connection
			return e, nil
		case <-c.Lost():
		case <-ctx.Done():
			_ = sub.Unsubscribe(ctx)
		}
	}
	return e, &client.CommandError{Code: client.CodeTimeout, Message: fmt.Sprintf(
		"%s: job %s has not ended in time: the mower has not taken it yet, or its deadline passed while it was away, or it ended earlier than another one", mower, id)}
}
