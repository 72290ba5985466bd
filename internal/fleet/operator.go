package fleet

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/seal"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

// An Operator sends commands, jobs and emergency stops to mowers, by way of an engine. Its methods may be called concurrently. An error that comes from
// a mower, or is about one, is a *[client.CommandError].
type Operator interface {
	// Call has a service of a mower run a command, and returns its result. It asks again, with the same message_id, until ctx ends (without a deadline
	// 30 s), whatever happens to the engine's nodes meanwhile; the mower runs it once at most. A mower that is offline is refused at once, with the
	// code offline. With the codes timeout, unknown and cancelled the command may have run, unless the text says that it has not.
	Call(ctx context.Context, mower, service, command string, parameters any) (json.RawMessage, error)

	// Stop engages the emergency stop of a mower. An error means that it may still move. Stopping one that is stopped changes nothing.
	Stop(ctx context.Context, mower, reason string) (Stopped, error)

	// AddJob has the engine keep a command for a mower, until it comes or deadline is there, and returns the job's id. Once begun it may run for limit.
	AddJob(ctx context.Context, mower, service, command string, parameters any, deadline time.Time, limit time.Duration) (id string, err error)

	// Jobs returns the jobs that the engine has, of a mower or, for "", of all; also those that are running, and those whose deadline has passed while
	// their mower was away. With an error that is ErrJobsUnreadable it has those of the mowers whose lists can be read.
	Jobs(ctx context.Context, mower string) ([]Job, error)

	// CancelJob takes a job back, which then has not run and will not. begun is that it was not, or that nobody knows whether it was: the mower has
	// begun it, so that it may run, or have run. The error is ErrNoJob if the engine does not have it: it has ended.
	CancelJob(ctx context.Context, mower, id string) (begun bool, err error)

	// RemoveUnreadableJobs removes the list of jobs of a mower if it cannot be read. The error is ErrNoJob if it can.
	RemoveUnreadableJobs(ctx context.Context, mower string) error

	// WaitJob waits until a job has ended. A job whose deadline passes while the mower is away ends when it comes back; at an MQTT engine it has no end.
	WaitJob(ctx context.Context, mower, id string) (JobEnd, error)
}

// ErrNoJob is a job that the engine does not have.
var ErrNoJob = errors.New("the engine has no such job: it has ended, or was taken back")

// Stopped is what a mower has answered to a stop.
type Stopped struct {
	Engaged   bool     `json:"engaged"`
	Confirmed bool     `json:"confirmed"` // by the hub of the emergency stop
	Sequence  uint64   `json:"sequence"`
	Missing   []string `json:"missing"` // guards that have not confirmed that what they guard stands
}

// A Job is a command that the engine keeps for a mower.
type Job struct {
	ID       string    `json:"id"`
	Mower    string    `json:"mower"`
	Service  string    `json:"service"`
	Command  string    `json:"command"`
	Operator string    `json:"operator"`
	Added    time.Time `json:"added"`
	Expires  time.Time `json:"expires"`
	Begun    bool      `json:"begun"` // the mower has begun it
}

// OperatorOptions say who an operator is.
type OperatorOptions struct {
	Name      string     // sender of its commands; with keys it is whose they are
	Keys      *seal.Ring // to sign with; nil sends what is not signed, which mowers refuse unless they are told otherwise
	Algorithm string     // of Keys; "" is ed25519
}

const (
	defaultCallTime = 30 * time.Second
	maxAnswer       = 1 << 20 // bytes
)

// A dispatch is a command that is ready to go.
type dispatch struct {
	m        message.Message
	body     []byte
	headers  map[string]string
	deadline time.Time
	mower    string
	service  string
	command  string
}

// id is its message_id.
func (d *dispatch) id() string { return d.m.Metadata.ID }

// failed is an error about it.
func (d *dispatch) failed(code, format string, args ...any) error {
	return &client.CommandError{Service: d.service, Command: d.command, Code: code, Message: d.mower + ": " + fmt.Sprintf(format, args...)}
}

// newDispatch makes a command or a job. limit is how long it may run, 0 is until the deadline.
func (o *OperatorOptions) newDispatch(mower, service, command string, parameters any, deadline time.Time, limit time.Duration, job bool) (*dispatch, error) {
	d := &dispatch{deadline: deadline, mower: mower, service: service, command: command}
	if err := CheckMower(mower); err != nil {
		return nil, d.failed(client.CodeBadParameters, "%v", err)
	}
	if err := topic.CheckLevel("service id", service); err != nil {
		return nil, d.failed(client.CodeBadParameters, "%v", err)
	}
	if parameters == nil {
		parameters = struct{}{}
	}
	raw, err := message.EncodeJSON(parameters)
	if err != nil {
		return nil, d.failed(client.CodeBadParameters, "parameters: %v", err)
	}
	left := time.Until(deadline)
	if left <= 0 {
		return nil, d.failed(client.CodeTimeout, "not sent: its deadline has passed")
	}
	if limit <= 0 || limit > left {
		limit = left
	}
	if d.m, err = message.NewCommand(o.Name, message.Command{Target: service, Command: command, Parameters: raw, Timeout: limit.Seconds()}); err != nil {
		return nil, d.failed(client.CodeBadParameters, "%v", err)
	}
	d.m.Metadata.CorrelationID, d.m.Metadata.ExpiresAt = message.NewID(), message.Seconds(deadline)
	if d.body, _, err = message.Encode(&d.m, message.Limits{CompressAbove: -1, MaxPayload: maxAnswer}); err != nil {
		return nil, d.failed(client.CodeBadParameters, "%v", err)
	}
	d.headers = map[string]string{}
	if o.Keys == nil {
		return d, nil
	}
	name := CommandTopic(mower, service)
	if job {
		name = JobTopic(mower, service)
	}
	algorithm := o.Algorithm
	if algorithm == "" {
		algorithm = seal.Ed25519
	}
	sig, err := o.Keys.Sign(algorithm, &seal.Subject{Topic: name, ID: d.id(), Timestamp: d.m.Metadata.Timestamp, Payload: d.body})
	if err != nil {
		return nil, fmt.Errorf("%s: the command cannot be signed: %w", mower, err)
	}
	d.headers[HeaderSignature] = base64.StdEncoding.EncodeToString(sig.Value)
	d.headers[HeaderAlgorithm], d.headers[HeaderKey] = sig.Algorithm, sig.Key
	return d, nil
}

// read reads an answer to d. ok is false if it is none.
func (d *dispatch) read(body []byte, code string) (result json.RawMessage, err error, ok bool) {
	m, bad := message.Decode(bytes.Clone(body), message.Limits{MaxPayload: maxAnswer})
	if bad != nil || m.Raw || m.Metadata.Type != message.TypeResponse {
		return nil, nil, false //nolint:nilerr // it is no answer
	}
	// What could not be read at the mower is answered without the id, to an inbox of this command alone.
	if id := m.Metadata.CorrelationID; id != "" && id != d.m.Metadata.CorrelationID {
		return nil, nil, false
	}
	p, bad := message.Payload[message.Response](m)
	if bad != nil {
		return nil, nil, false //nolint:nilerr // it is no answer
	}
	if p.Success {
		return p.Result, nil, true
	}
	if code == "" {
		code = client.CodeFailed
	}
	text := "no reason was given"
	if p.Error != nil {
		text = *p.Error
	}
	return nil, d.failed(code, "%s", text), true
}

// ReadJobEnd reads a record of [OwnJobs] as it is in the history.
func ReadJobEnd(body []byte, encoding string) (JobEnd, error) {
	var e JobEnd
	var err error
	if encoding == "gzip" {
		if body, err = message.Inflate(body, message.Limits{MaxPayload: maxAnswer}); err != nil {
			return e, err
		}
	}
	m, err := message.Decode(body, message.Limits{MaxPayload: maxAnswer})
	if err == nil && !m.Raw { // in an envelope
		event, err := message.Payload[message.Event](m)
		if err != nil {
			return e, err
		}
		body = event.EventData
	}
	if err = json.Unmarshal(body, &e); err == nil && e.Job == "" {
		err = errors.New("it names no job")
	}
	return e, err
}

// ForEach calls f for each mower, at most so many at once, and returns when all have returned, or those that had begun when ctx ended.
func ForEach(ctx context.Context, mowers []string, most int, f func(ctx context.Context, mower string)) error {
	var work sync.WaitGroup
	defer work.Wait()
	slots := make(chan struct{}, max(most, 1))
	for _, m := range mowers {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		work.Go(func() {
			defer func() { <-slots }()
			f(ctx, m)
		})
	}
	return nil
}
