package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

// Request is a command received by ServeCommands.
type Request struct {
	Command    string
	Target     string
	Parameters json.RawMessage // an object
	Sender     string          // "" from a plain MQTT 5 client without an envelope
	Delivery   *Delivery
	Deadline   time.Time

	correlation string // of the envelope
	replyTo     string // as Publish takes it; "" is nowhere
	key         requestID
	late        string // why it came too late; "" if it did not
}

// ServeCommands subscribes to commands/{name} and answers each request with what h returns, over the Response Topic
// when there is one, else on responses/{sender}. The error of h reaches the caller: of a *[CommandError] its Code (over
// MQTT 5) and Message, of others their text.
//
// accept decides by the payload's target whether a request is for this server; nil takes all. Requests that are
// retained, past their deadline or repeated (same sender and message_id) are never handed to h; a repeated one gets the
// stored answer again, as long as it is among the last 1,024, or the last 4,096 while its deadline has not passed. h runs in
// a goroutine per request, at most Options.Commands at once; more wait, and are not run if their deadline passes or their
// caller cancels meanwhile. Its ctx ends at the deadline (expires_at, else the payload's timeout after receipt; see "Commands
// and clocks"), when the caller cancels, and when the client closes. A panic of h is answered with an error.
//
// A request is acknowledged when h has been started, within two milliseconds: what a crash interrupts is not run again. With
// Options.Dir a record of it is on the disk before that, and so is its answer soon after it was sent: the next process
// answers what comes again with it. What a crash has interrupted is answered with the code interrupted, at once if the caller
// can still wait. When the disk takes no record the command runs all the same, which is counted in Stats.Unrecorded and
// logged: that a full disk keeps the mower from obeying is worse than that a crash at that time may run a command twice.
//
// A request that breaks a rule of the wire format is never handed to h either: it is counted, and answered with an error
// that names the field and the rule, wherever an answer can go.
//
// A plain MQTT 5 client needs no envelope: a JSON object {"command": ..., "parameters": {...}} with a Response Topic is
// a request. An envelope without correlation_id is run, and answered without one; an envelope with neither
// correlation_id, Response Topic nor require_ack is not answered.
func (c *Client) ServeCommands(ctx context.Context, name string, accept func(target string) bool,
	h func(ctx context.Context, r *Request) (result any, err error), opts ...ServeOption) (*Subscription, error) {
	s := &commandServer{c: c, name: name, accept: accept, h: h, slots: make(chan struct{}, c.opts.Commands)}
	for _, o := range opts {
		o(s)
	}
	return s.subscribe(ctx)
}

type commandServer struct {
	c      *Client
	name   string
	accept func(target string) bool
	h      func(ctx context.Context, r *Request) (any, error)
	slots  chan struct{}

	replicas *Replicas // nil without AsReplica
	shared   bool      // the subscription is

	repeatable func(command string) bool // nil is never
}

// peek hears at once of a cancellation, for which take is too late while it waits for a slot. What has not begun by then
// is cancelled by take, in its turn.
func (s *commandServer) peek(d *Delivery) {
	if d.Retained || !bytes.Contains(d.Message.Payload, []byte(cancelCommand)) {
		return
	}
	if r, err := s.parse(d); err == nil && r.Command == cancelCommand && (s.accept == nil || s.accept(r.Target)) {
		s.c.requests.cancel(r.Sender, r.correlation)
	}
}

// take runs a request. It waits for a slot.
func (s *commandServer) take(sub *Subscription, d *Delivery) {
	c := s.c
	if d.Retained {
		_ = c.reject(receiving, d.Topic, d.Message.Metadata.ID, errRetained)
		return
	}
	if d.Invalid != nil && !s.c.tooLate(d) {
		s.refuse(d)
		return
	}
	r, err := s.parse(d)
	switch {
	case err != nil:
		_ = c.reject(receiving, d.Topic, d.Message.Metadata.ID, err)
		if r.replyTo != "" {
			c.answerRequest(r, nil, &CommandError{Code: CodeBadParameters, Message: err.Error()}, 0)
		}
		return
	case s.accept != nil && !s.accept(r.Target):
		if plain := s.replicas != nil && !s.shared; !s.passOn(r) && !plain { // plainly subscribed replicas hear what is for the others
			_ = c.reject(receiving, d.Topic, d.Message.Metadata.ID, errNotOurs)
		}
		return
	case r.Command == cancelCommand:
		s.passCancel(r)
		c.requests.cancel(r.Sender, r.correlation)
		return
	case s.othersTurn(r):
		return
	case !time.Now().Before(r.Deadline):
		s.expired(r)
		return
	}
	e, first := c.requests.begin(c.life, r)
	if !first {
		c.opts.Logger.Debug("repeated command not run again", "topic", d.Topic, "command", r.Command, "sender", r.Sender)
		if stored := c.requests.answerOf(e); stored != nil {
			_ = stored.send(c) // logged there
		}
		return
	}
	if s.wait(sub, e) {
		d.begun = true
		if c.disk != nil {
			c.keep(d.in)
		}
		sub.proceed()
		s.run(r, e)
		return
	}
	if e.ctx.Err() == nil { // unsubscribed
		c.requests.drop(e)
	} else {
		if !time.Now().Before(r.Deadline) {
			s.expired(r)
		}
		c.requests.end(e, nil)
	}
	e.ctx.stop()
}

// wait takes a slot for e. It returns false if e ends before, or the subscription does.
func (s *commandServer) wait(sub *Subscription, e *execution) bool {
	select {
	case s.slots <- struct{}{}:
	default:
		select {
		case s.slots <- struct{}{}:
		case <-e.ctx.Done():
			return false
		case <-sub.ctx.Done():
			return false
		}
	}
	if e.ctx.Err() != nil {
		<-s.slots
		return false
	}
	return true
}

// expired counts a request that is not run because of its deadline. Only one that was late when it came is answered: its
// caller may wait, with another idea of the time.
func (s *commandServer) expired(r *Request) {
	if r.late != "" {
		s.c.answerRequest(r, nil, &CommandError{Code: CodeTimeout, Message: r.late}, 0)
	}
	if r.Delivery.Invalid == nil { // else counted already
		_ = s.c.reject(receiving, r.Delivery.Topic, r.Delivery.Message.Metadata.ID, errPastDeadline)
	}
}

// refuse answers a request that breaks a rule, which has been counted already. What can be read of it says where to.
func (s *commandServer) refuse(d *Delivery) {
	c := s.c
	code := CodeBadParameters
	m, _ := message.Decode(d.Message.Payload, c.opts.Limits)
	if unproven(d.Invalid) {
		// Whoever repeats or forges a command must not end the call of who has made it.
		if isReplay(d.Invalid) || c.requests.knows(m.Metadata.CorrelationID) {
			return
		}
		code = CodeRefused
	}
	if m.Metadata.Type == message.TypeResponse { // whoever sent it does not wait for an answer
		return
	}
	r := &Request{Delivery: d, Sender: m.Metadata.Sender, correlation: m.Metadata.CorrelationID, replyTo: c.replyTopic(d)}
	if r.replyTo == "" && topic.CheckLevel("sender", r.Sender) == nil {
		r.replyTo = "responses/" + r.Sender
	}
	c.answerRequest(r, nil, &CommandError{Code: code, Message: "invalid message: " + d.Invalid.Error()}, 0)
}

// handledKey is what the context of a handler has its request under.
type handledKey struct{}

// RequestFrom returns the request that a handler of ServeCommands runs for, from the handler's ctx or one
// derived from it, while the handler runs.
func RequestFrom(ctx context.Context) (r *Request, ok bool) {
	r, ok = ctx.Value(handledKey{}).(*Request)
	return r, ok
}

// run calls the handler and answers.
func (s *commandServer) run(r *Request, e *execution) {
	c := s.c
	defer func() { <-s.slots }()
	defer e.ctx.stop()
	if c.disk != nil && e.key.id != "" && (s.repeatable == nil || !s.repeatable(r.Command)) {
		c.recordBegin(r, e)
	}
	c.handled(r.Delivery.in)
	ctx := context.Context(&e.ctx)
	if c.disk != nil {
		if ctx.Err() != nil { // it took too long
			s.expired(r)
			c.requests.end(e, nil)
			return
		}
	}
	begin := time.Now()
	ctx, quiet := c.withReporter(ctx, r)
	result, err := s.call(ctx, r)
	quiet()
	if ended := ctx.Err(); ended != nil && errors.Is(err, ended) {
		if errors.Is(ended, context.DeadlineExceeded) {
			err = errRanOut
		} else {
			err = errStopped
		}
	}
	answer := c.answerRequest(r, result, err, time.Since(begin))
	if repeated := c.requests.end(e, answer); repeated && answer != nil {
		_ = answer.send(c) // logged there
	}
	if e.record != nil {
		c.recordEnd(e, answer)
	}
}

func (s *commandServer) call(ctx context.Context, r *Request) (result any, err error) {
	defer func() {
		if v := recover(); v != nil {
			s.c.stats.panics.Add(1)
			s.c.opts.Logger.Error("command handler panicked", "command", r.Command, "panic", v, "stack", string(debug.Stack()))
			result, err = nil, &CommandError{Code: CodeFailed, Message: fmt.Sprintf("the handler panicked: %v", v)}
		}
	}()
	if s.c.opts.Tracer != nil {
		return s.tracedCommand(ctx, r)
	}
	return s.h(ctx, r)
}

// parse reads a request out of d. With an error, the result says at least where to send the answer.
func (s *commandServer) parse(d *Delivery) (*Request, error) {
	r := &Request{Delivery: d, replyTo: s.c.replyTopic(d)}
	m := &d.Message
	var p message.Command
	if m.Raw {
		if r.replyTo == "" {
			return r, &ruleError{reason: message.ReasonMalformed, text: "neither an envelope nor a Response Topic"}
		}
		var err error
		if p, err = parsePlain(m.Payload); err != nil {
			return r, err
		}
		if p.Target == "" {
			p.Target = s.name
		}
	} else {
		if m.Metadata.Type != message.TypeCommand {
			r.replyTo = ""
			return r, &message.Error{Reason: message.ReasonWrongType, Field: "metadata.message_type", Rule: fmt.Sprintf("must be command, not %s", m.Metadata.Type)}
		}
		r.Sender, r.correlation = m.Metadata.Sender, m.Metadata.CorrelationID
		r.key = requestID{r.Sender, m.Metadata.ID}
		var err error
		if p, err = message.Payload[message.Command](*m); err != nil {
			return r, err
		}
		if r.replyTo == "" && (p.WantsAck() || r.correlation != "") && topic.CheckLevel("sender", r.Sender) == nil {
			r.replyTo = "responses/" + r.Sender
		}
	}
	r.Command, r.Target, r.Parameters = p.Command, p.Target, p.Parameters
	if len(r.Parameters) == 0 {
		r.Parameters = json.RawMessage("{}")
	}
	r.Deadline, r.late = s.c.deadline(d, p.Timeout)
	return r, nil
}

// parsePlain reads the form without an envelope.
func parsePlain(body []byte) (p message.Command, err error) {
	if err := json.Unmarshal(body, &p); err != nil {
		text := `the request is no JSON object {"command": ..., "parameters": {...}}: ` + err.Error()
		return p, &ruleError{reason: message.ReasonMalformed, text: text, cause: err}
	}
	if p.Command == "" {
		return p, &ruleError{reason: message.ReasonMissingField, text: `the request has no "command"`}
	}
	return p, nil
}

// replyTopic returns where the answer to d may go, as Publish takes it, or "". A requester must not make us publish on a topic
// that has another meaning.
func (c *Client) replyTopic(d *Delivery) string {
	full := d.ResponseTopic
	if full == "" || topic.CheckName(full) != nil || full[0] == '$' {
		return ""
	}
	if _, inside := c.opts.Topics.Relative(full); inside {
		if def, ok := c.opts.Topics.Lookup(full); ok && def.Type != "responses" {
			return ""
		}
	}
	return d.answerTo
}

// A reply is an answer, kept for a request that comes again.
type reply struct {
	topic       string
	correlation []byte // Correlation Data
	m           message.Message
	code        string
	seconds     float64 // that it took
}

// answerRequest publishes the answer to r and returns it, or nil if there is none to give.
func (c *Client) answerRequest(r *Request, result any, err error, took time.Duration) *reply {
	if r.replyTo == "" {
		return nil
	}
	a := c.newReply(r, result, err, took)
	if err := a.send(c); err != nil { // such as a result over the payload limit
		a = c.newReply(r, nil, fmt.Errorf("the result cannot be sent: %w", err), took)
		_ = a.send(c)
	}
	return a
}

func (c *Client) newReply(r *Request, result any, err error, took time.Duration) *reply {
	a := &reply{topic: r.replyTo, correlation: r.Delivery.CorrelationData, seconds: took.Seconds()}
	p := message.Response{Success: err == nil, ExecutionTime: &a.seconds}
	if err == nil && result != nil {
		if p.Result, err = message.EncodeJSON(result); err != nil {
			_ = c.reject(sending, a.topic, "", err)
		}
	}
	if err != nil {
		text := err.Error()
		a.code = CodeFailed
		var said *CommandError
		if errors.As(err, &said) {
			a.code = said.Code
			if said.Message != "" {
				text = said.Message
			}
		}
		p.Success, p.Error = false, &text
	}
	a.m, err = message.NewResponse(c.id, p)
	if err != nil {
		c.opts.Logger.Error("response cannot be encoded", "command", r.Command, "error", err)
	}
	a.m.Metadata.CorrelationID = r.correlation
	return a
}

func (a *reply) send(c *Client) error {
	p := &publication{Receipt: Receipt{c: c}, unawaited: true}
	p.setRetain, p.correlation = true, a.correlation // not retained
	if a.code != "" {
		p.user = append(p.user, [2]string{codeKey, a.code})
	}
	m := a.m
	err := c.fill(p, a.topic, &m)
	if err == nil {
		err = c.submit(context.Background(), p, true)
	}
	if err != nil {
		c.opts.Logger.Warn("response not sent", "topic", a.topic, "error", err)
	}
	return err
}

// A requestID is what a request is known by.
type requestID struct {
	sender string
	id     string // of its message; "" if it has none
}

// requests remembers what was executed, so that nothing is executed twice.
type requests struct {
	mu      sync.Mutex
	seen    map[requestID]*execution
	order   []*execution // of seen, oldest first
	seq     uint64       // of the latest record on disk
	evicted []requestID  // keys that are on disk and not in seen any more
	failing atomic.Bool  // the disk takes no records
}

// An execution is a request that was begun. requests.mu guards it.
type execution struct {
	key         requestID // of its Request
	correlation string

	ctx      deadlineContext // of the handler
	done     bool
	repeated bool // it came again before it was done
	answer   *reply
	deadline time.Time
	record   *requestRecord // on disk, else nil
}

func (q *requests) init() { q.seen = make(map[requestID]*execution) }

// begin registers r; first is false if it has begun before.
func (q *requests) begin(life context.Context, r *Request) (e *execution, first bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e := q.seen[r.key]; e != nil && r.key.id != "" {
		return e, false
	}
	e = &execution{key: r.key, correlation: r.correlation, deadline: r.Deadline}
	e.ctx.begin(life, r.Deadline)
	e.ctx.request = r
	if r.key.id == "" {
		return e, true
	}
	q.evict()
	q.seen[e.key] = e
	q.order = append(q.order, e)
	return e, true
}

// evict makes room for one more. Those that run stay, and so do those that may come again before their deadline.
func (q *requests) evict() {
	for range len(q.order) - maxRequests + 1 {
		old := q.order[0]
		if old.done && len(q.order) < maxLiveRequests && time.Now().Before(old.deadline) {
			return
		}
		q.order = q.order[1:]
		switch {
		case !old.done:
			q.order = append(q.order, old)
		case q.seen[old.key] == old:
			delete(q.seen, old.key)
			if old.record != nil {
				q.evicted = append(q.evicted, old.key)
			}
		}
	}
}

// end keeps the answer. It reports whether the request has come again meanwhile.
func (q *requests) end(e *execution, answer *reply) (repeated bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e.done, e.answer = true, answer
	return e.repeated
}

// drop forgets an execution that was not begun after all.
func (q *requests) drop(e *execution) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e.done = true
	delete(q.seen, e.key)
}

// answerOf returns the answer to a request that came again, or nil while there is none: who runs it answers twice then.
func (q *requests) answerOf(e *execution) *reply {
	q.mu.Lock()
	defer q.mu.Unlock()
	e.repeated = !e.done
	return e.answer
}

// knows reports whether a request with that correlation id has begun.
func (q *requests) knows(correlation string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return correlation != "" && slices.ContainsFunc(q.order, func(e *execution) bool { return e.correlation == correlation })
}

// cancel ends the context of the request with that correlation id.
func (q *requests) cancel(sender, correlation string) {
	if correlation == "" {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := len(q.order) - 1; i >= 0; i-- {
		if e := q.order[i]; e.key.sender == sender && e.correlation == correlation && !e.done {
			e.ctx.stop()
		}
	}
}
