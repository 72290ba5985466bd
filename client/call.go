package client

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

const (
	defaultCallTimeout = 30 * time.Second

	// cancelCommand tells a target that the caller has given up: a command envelope with the correlation id of the
	// request, which nobody answers. A name like this is no service's own.
	cancelCommand = "$cancel"

	// codeKey is the user property of a response that carries CommandError.Code, which the base format has no place for.
	codeKey = "code"
)

// calls are the commands that wait for their answers.
type calls struct {
	mu      sync.Mutex
	pending map[string]*call  // by correlation id
	topics  map[string]string // of commands, by target, as Publish takes them

	results sync.Pool // of chan callResult with room for one, empty
	timers  sync.Pool // of *time.Timer, stopped
	scratch sync.Pool // of *[]byte
}

// A call is one of them.
type call struct {
	id              string
	progress        chan json.RawMessage // room for one, the latest; nil when nobody wants to know
	target, command string

	mu     sync.Mutex      // guards what follows
	result chan callResult // room for one; the first wins
	over   bool            // there was one, or nobody waits any more
}

type callResult struct {
	answer *Delivery
	code   packet.Code // instead: why there will be none
	err    error       // instead: why the request is not on its way
}

// finish gives k its result. It does not wait.
func (k *call) finish(r callResult) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.over { // else it is a late or second answer
		k.over = true
		k.result <- r
	}
}

// acknowledged is told the reason code of PUBACK or PUBREC. It must not wait.
func (k *call) acknowledged(code packet.Code) {
	if code == packet.NoMatchingSubscribers || code >= packet.UnspecifiedError {
		k.finish(callResult{code: code})
	}
}

// begin has k, whose id is set, wait for its result.
func (s *calls) begin(k *call) {
	k.result = s.results.Get().(chan callResult)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending[k.id] = k
}

// end has it wait no more.
func (s *calls) end(k *call) {
	s.mu.Lock()
	delete(s.pending, k.id)
	s.mu.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.over = true
	select {
	case <-k.result:
	default:
	}
	s.results.Put(k.result)
	k.result = nil
}

func (s *calls) init() {
	s.pending, s.topics = make(map[string]*call), make(map[string]string)
	s.results.New = func() any { return make(chan callResult, 1) }
	s.scratch.New = func() any { return new([]byte) }
	s.timers.New = func() any {
		t := time.NewTimer(time.Hour)
		t.Stop()
		return t
	}
}

// topicOf returns the topic of commands to target as Publish takes it.
func (c *Client) topicOf(target string) (string, error) {
	s := &c.calls
	s.mu.Lock()
	defer s.mu.Unlock()
	if t, ok := s.topics[target]; ok {
		return t, nil
	}
	full, err := c.resolve("commands/" + target)
	if err != nil {
		return "", c.reject(sending, "commands/"+target, "", err)
	}
	if len(s.topics) >= maxNames {
		clear(s.topics)
	}
	t := topic.Absolute(full)
	s.topics[target] = t
	return t, nil
}

func (s *calls) get(id string) *call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pending[id]
}

func (s *calls) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.pending)
}

// hearResponses subscribes to responses/{id} from the first connection on.
func (c *Client) hearResponses() error {
	s, err := c.newSubscription("responses/"+c.id, nil)
	if err != nil {
		return fmt.Errorf("client id %q: %w", c.id, err)
	}
	s.sink = c.answer
	c.responses, c.responseTopic = s, []byte(s.full)
	if !c.opts.Foreign {
		c.table.add(s)
	}
	return nil
}

// answer gives a response to the call that waits for it. It runs in the reader goroutine.
func (c *Client) answer(d *Delivery) {
	m := &d.Message
	progress := !m.Raw && m.Metadata.Type == message.TypeEvent
	refuse := func(err error) { _ = c.reject(receiving, d.Topic, m.Metadata.ID, err) }
	switch {
	case d.Retained:
		refuse(errRetained)
		return
	case !m.Raw && m.Metadata.Type != message.TypeResponse && !progress:
		refuse(errNoAnswerType)
		return
	}
	id := m.Metadata.CorrelationID
	if id == "" {
		id = string(d.CorrelationData)
	}
	switch k := c.calls.get(id); {
	case k == nil:
		if !d.shared { // else another subscription to our responses has it
			refuse(errUnexpected)
		}
	case progress:
		if err := k.progressed(d); err != nil {
			refuse(err)
		}
	default:
		k.finish(callResult{answer: d})
	}
}

// Call sends a command to target, a service's id or a type of services, and decodes the result into result (nil ignores
// it). Without a deadline in ctx it waits 30 s. The deadline travels with the request: the target does not begin
// after it. A ctx that is cancelled tells the target too.
//
// The error is a *[CommandError], whose Code says why: no_such_service at once over MQTT 5 when nobody subscribes to the
// target's command topic and the broker says so; what the target answered; timeout and cancelled, which say whether
// the request was sent, as the outcome is unknown then. Other errors say that the request could not be
// made: those of Publish.
func (c *Client) Call(ctx context.Context, target, command string, parameters, result any, opts ...CallOption) error {
	if c.opts.Tracer != nil {
		return c.tracedCall(ctx, target, command, parameters, result, opts)
	}
	return c.call(ctx, target, command, parameters, result, opts)
}

func (c *Client) call(ctx context.Context, target, command string, parameters, result any, opts []CallOption) error {
	fail := func(err error) error { return fmt.Errorf("call %s %s: %w", target, command, err) }
	if target == "" || strings.Contains(target, "/") {
		err := &ruleError{reason: ReasonTarget, text: fmt.Sprintf("target %q: must be one topic level", target)}
		return fail(c.reject(sending, "commands/"+target, "", err))
	}
	var x struct { // all that this call needs
		publication
		call
		deadlineContext
		calling
		correlationData [36]byte
	}
	done := ctx.Done()
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(defaultCallTimeout)
		x.deadlineContext.begin(ctx, deadline)
		ctx = &x.deadlineContext
		defer x.stop()
	}
	timeout := time.Until(deadline)
	if ctx.Err() != nil || timeout <= 0 {
		_ = c.reject(sending, "commands/"+target, "", cmp.Or(ctx.Err(), context.DeadlineExceeded))
		return c.gaveUp(ctx, target, command, 0, true)
	}

	m, err := c.commandMessage(target, command, parameters, timeout)
	if err != nil {
		return fail(c.reject(sending, "commands/"+target, "", err))
	}
	k, p := &x.call, &x.publication
	k.id, k.target, k.command = message.NewID(), target, command
	m.Metadata.CorrelationID = k.id
	m.Metadata.ExpiresAt = message.Seconds(deadline)
	p.c, p.call, p.unawaited = c, k, true
	p.response, p.correlation = c.responses.full, append(x.correlationData[:0], k.id...)
	for _, set := range opts {
		set(&x.calling)
	}
	if x.calling.progress != nil {
		k.progress = make(chan json.RawMessage, 1)
		p.user = append(p.user, [2]string{progressKey, "1"})
	}
	if x.calling.span != nil {
		p.carry(x.calling.span)
	}
	if x.calling.once {
		p.qos, p.setQoS = 1, true
	}
	name, err := c.topicOf(target)
	if err == nil {
		err = c.fill(p, name, &m)
	}
	if err != nil {
		return fail(err)
	}
	if x.calling.span != nil {
		p.describe(x.calling.span, &m, target, command)
	}
	c.calls.begin(k)
	defer c.calls.end(k)
	p.birth = ctx.Value(birthKey{}) == c

	c.mu.Lock()
	refused := c.responses.refused
	c.mu.Unlock()
	if refused != nil {
		_ = p.reject(refused)
		return &CommandError{Service: target, Command: command, Code: CodeRefused, cause: refused,
			Message: "no answer could be received: " + refused.Error()}
	}
	if err := c.submit(ctx, p, true); err != nil {
		if ctx.Err() != nil {
			return c.gaveUp(ctx, target, command, timeout, true)
		}
		return fail(err)
	}
	var late <-chan time.Time
	if !ok {
		t := c.calls.timers.Get().(*time.Timer)
		t.Reset(timeout)
		late = t.C
		defer c.calls.timers.Put(t)
		defer t.Stop()
	}
	if x.calling.unannounced {
		defer c.askTarget(k)()
	}
	r, ended := c.awaitEnd(ctx, k, &x.calling, done, late)
	if !ended {
		return fail(ErrClosed)
	}
	if r.err == nil {
		return c.outcome(target, command, r, result)
	}
	var known *CommandError
	switch {
	case errors.Is(r.err, ErrExpired):
		return c.gaveUp(ctx, target, command, timeout, true)
	case errors.As(r.err, &known):
		c.withdraw(p, known)
		return known
	case !errors.Is(r.err, ctx.Err()):
		return fail(r.err)
	}
	unsent := c.withdraw(p, ctx.Err())
	if !unsent && errors.Is(ctx.Err(), context.Canceled) {
		c.cancelRequest(target, k.id)
	}
	return c.gaveUp(ctx, target, command, timeout, unsent)
}

func (c *Client) commandMessage(target, command string, parameters any, timeout time.Duration) (message.Message, error) {
	p := message.Command{Target: target, Command: command, Timeout: timeout.Seconds()}
	if parameters != nil {
		b := c.calls.scratch.Get().(*[]byte)
		defer c.calls.scratch.Put(b)
		raw, err := message.AppendJSON((*b)[:0], parameters)
		if err != nil {
			return message.Message{}, fmt.Errorf("parameters: %w", err)
		}
		p.Parameters = raw
		if cap(raw) <= maxSpare {
			*b = raw
		}
	}
	return message.NewCommand(c.id, p)
}

// withdraw takes p out of the outbox. It reports false if p has gone out already.
func (c *Client) withdraw(p *publication, why error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case p.held:
		c.unhold(p)
	case p.queued:
		c.box.remove(p)
	default:
		return p.final && errors.Is(p.err, ErrExpired)
	}
	p.lose(why)
	c.roomMade()
	c.settled()
	return true
}

// cancelRequest tells the target that nobody waits any more.
func (c *Client) cancelRequest(target, id string) {
	m, err := message.NewCommand(c.id, message.Command{Target: target, Command: cancelCommand, RequireAck: new(false)})
	if err != nil {
		_ = c.reject(sending, "commands/"+target, "", err)
		return
	}
	m.Metadata.CorrelationID = id
	_ = c.offer("commands/"+target, m, WithExpiry(defaultCallTimeout))
}

// gaveUp is the error of a call whose ctx ended.
func (c *Client) gaveUp(ctx context.Context, target, command string, timeout time.Duration, unsent bool) error {
	e := &CommandError{Service: target, Command: command, Code: CodeTimeout, cause: context.DeadlineExceeded}
	cancelled := errors.Is(ctx.Err(), context.Canceled)
	timeout = timeout.Round(time.Millisecond)
	if cancelled {
		e.Code, e.cause = CodeCancelled, context.Canceled
	}
	switch {
	case cancelled && unsent:
		e.Message = "cancelled before it was sent"
	case cancelled:
		e.Message = "cancelled: outcome unknown"
	case unsent && timeout > 0:
		e.Message = fmt.Sprintf("not sent: no connection to the broker within %s", timeout)
	case unsent:
		e.Message = "not sent: the deadline had passed"
	default:
		e.Message = fmt.Sprintf("no answer within %s: outcome unknown", timeout)
	}
	return e
}

// outcome is what r means to the caller.
func (c *Client) outcome(target, command string, r callResult, result any) error {
	if r.answer == nil {
		e := &CommandError{Service: target, Command: command, Code: CodeRefused}
		if r.code == packet.NoMatchingSubscribers {
			e.Code, e.Message = CodeNoSuchService, "no such service: nobody serves "+target
		} else {
			e.Message = (&refusal{code: r.code}).Error()
			name, _ := c.topicOf(target) // it was sent there
			e.cause = &RefusedError{Op: "publish", Topic: name, Code: byte(r.code)}
		}
		return e
	}
	failed := func(why string, cause error) error {
		return &CommandError{Service: target, Command: command, Code: CodeFailed, Message: why + cause.Error(), cause: cause}
	}
	m := r.answer.Message
	refuse := func(err error) error { return c.reject(receiving, r.answer.Topic, m.Metadata.ID, err) }
	p := message.Response{Success: true, Result: m.Payload} // of a plain MQTT 5 service
	if !m.Raw {
		var err error
		if p, err = message.Payload[message.Response](m); err != nil {
			return failed("the answer breaks the wire format: ", refuse(err))
		}
	}
	if p.Success {
		if result != nil && len(p.Result) > 0 {
			if err := message.DecodeJSON(p.Result, result); err != nil {
				return failed("the result does not fit: ", refuse(err))
			}
		}
		return nil
	}
	e := &CommandError{Service: target, Command: command}
	if e.Code, _ = r.answer.user(codeKey); e.Code == "" {
		e.Code = codeOf(p.Error)
	}
	switch e.Code {
	case CodeTimeout:
		e.cause = context.DeadlineExceeded
	case CodeCancelled:
		e.cause = context.Canceled
	}
	if p.Error != nil {
		e.Message = *p.Error
	}
	return e
}
