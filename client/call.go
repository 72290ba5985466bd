package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/message"
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
	pending map[string]*call // by correlation id
}

// A call is one of them.
type call struct {
	result          chan callResult      // room for one; the first wins
	progress        chan json.RawMessage // room for one, the latest; nil when nobody wants to know
	target, command string
}

type callResult struct {
	answer *Delivery
	code   packet.Code // instead: why there will be none
	err    error       // instead: why the request is not on its way
}

// coded reports whether r says why it is an error.
func (r *callResult) coded() bool {
	if r.answer == nil {
		return true
	}
	_, ok := r.answer.user(codeKey)
	return ok
}

func (k *call) finish(r callResult) {
	select {
	case k.result <- r:
	default: // a late or second answer
	}
}

// acknowledged is told the reason code of PUBACK or PUBREC. It must not wait.
func (k *call) acknowledged(code packet.Code) {
	if code == packet.NoMatchingSubscribers || code >= packet.UnspecifiedError {
		k.finish(callResult{code: code})
	}
}

func (s *calls) add(id, target, command string) *call {
	k := &call{result: make(chan callResult, 1), target: target, command: command}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending == nil {
		s.pending = make(map[string]*call)
	}
	s.pending[id] = k
	return k
}

func (s *calls) get(id string) *call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pending[id]
}

func (s *calls) remove(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, id)
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
	c.responses = s
	c.table.add(s)
	return nil
}

// answer gives a response to the call that waits for it. It runs in the reader goroutine.
func (c *Client) answer(d *Delivery) {
	m := &d.Message
	progress := !m.Raw && m.Metadata.Type == message.TypeEvent
	if d.Retained || !m.Raw && m.Metadata.Type != message.TypeResponse && !progress {
		return
	}
	id := m.Metadata.CorrelationID
	if id == "" {
		id = string(d.CorrelationData)
	}
	switch k := c.calls.get(id); {
	case k == nil:
	case progress:
		k.progressed(d)
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
	fail := func(err error) error { return fmt.Errorf("call %s %s: %w", target, command, err) }
	if target == "" || strings.Contains(target, "/") {
		return fail(fmt.Errorf("target %q: must be one topic level", target))
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultCallTimeout)
		defer cancel()
		deadline, _ = ctx.Deadline()
	}
	timeout := time.Until(deadline)
	if ctx.Err() != nil || timeout <= 0 {
		return c.gaveUp(ctx, target, command, 0, true)
	}

	id := uuid.NewString()
	m, err := c.commandMessage(target, command, parameters, timeout)
	if err != nil {
		return fail(err)
	}
	m.Metadata.CorrelationID = id
	m.Metadata.ExpiresAt = message.Seconds(deadline)
	var o *calling
	with := []PublishOption{WithResponse(c.responses.full, []byte(id))}
	if len(opts) > 0 {
		o = new(calling)
		for _, set := range opts {
			set(o)
		}
		if o.progress != nil {
			with = append(with, WithUser(progressKey, "1"))
		}
		if o.once {
			with = append(with, WithQoS(1))
		}
	}
	p, err := c.prepare("commands/"+target, m, with)
	if err != nil {
		return fail(err)
	}
	k := c.calls.add(id, target, command)
	if o != nil && o.progress != nil {
		k.progress = make(chan json.RawMessage, 1)
	}
	defer c.calls.remove(id)
	p.call = k
	p.birth = ctx.Value(birthKey{}) == c

	c.mu.Lock()
	refused := c.responses.refused
	c.mu.Unlock()
	if refused != nil {
		return &CommandError{Service: target, Command: command, Code: CodeRefused, cause: refused,
			Message: "no answer could be received: " + refused.Error()}
	}
	if err := c.submit(ctx, p); err != nil {
		if ctx.Err() != nil {
			return c.gaveUp(ctx, target, command, timeout, true)
		}
		return fail(err)
	}
	if o != nil && o.unannounced {
		defer c.askTarget(k)()
	}
	r, ended := c.awaitEnd(ctx, k, o)
	if !ended {
		return fail(ErrClosed)
	}
	var known *CommandError
	switch {
	case r.err == nil:
		err := c.outcome(target, command, r, result)
		if err == nil || ctx.Err() == nil || r.coded() {
			return err
		}
		return c.gaveUp(ctx, target, command, timeout, false) // the target says so too, without a code
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
		c.cancelRequest(target, id)
	}
	return c.gaveUp(ctx, target, command, timeout, unsent)
}

func (c *Client) commandMessage(target, command string, parameters any, timeout time.Duration) (message.Message, error) {
	p := message.Command{Target: target, Command: command, Timeout: timeout.Seconds()}
	if parameters != nil {
		raw, err := message.EncodeJSON(parameters)
		if err != nil {
			return message.Message{}, fmt.Errorf("parameters: %w", err)
		}
		p.Parameters = raw
	}
	return message.NewCommand(c.id, p)
}

// withdraw takes p out of the outbox. It reports false if p has gone out already.
func (c *Client) withdraw(p *publication, why error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !p.queued {
		return p.final && errors.Is(p.err, ErrExpired)
	}
	c.box.remove(p)
	p.settle(why)
	c.roomMade()
	c.settled()
	return true
}

// cancelRequest tells the target that nobody waits any more.
func (c *Client) cancelRequest(target, id string) {
	m, err := message.NewCommand(c.id, message.Command{Target: target, Command: cancelCommand, RequireAck: new(false)})
	if err != nil {
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
	e := &CommandError{Service: target, Command: command}
	if r.answer == nil {
		if r.code == packet.NoMatchingSubscribers {
			e.Code, e.Message = CodeNoSuchService, "no such service: nobody serves "+target
		} else {
			e.Code, e.Message = CodeRefused, (&refusal{code: r.code}).Error()
		}
		return e
	}
	m := r.answer.Message
	if m.Raw { // from a plain MQTT 5 service
		return decodeResult(e, m.Payload, result)
	}
	p, err := message.Payload[message.Response](m)
	if err != nil {
		e.Code, e.Message = CodeFailed, "the answer breaks the wire format: "+err.Error()
		return e
	}
	if p.Success {
		return decodeResult(e, p.Result, result)
	}
	switch e.Code, _ = r.answer.user(codeKey); e.Code {
	case "":
		e.Code = CodeFailed
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

func decodeResult(e *CommandError, raw json.RawMessage, result any) error {
	if result == nil || len(raw) == 0 {
		return nil
	}
	if err := json.Unmarshal(raw, result); err != nil {
		e.Code, e.Message, e.cause = CodeFailed, "the result does not fit: "+err.Error(), err
		return e
	}
	return nil
}
