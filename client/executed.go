package client

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/internal/store"
	"github.com/lawnberry/lawnberry/message"
)

// The table of executed requests is on disk when there is a directory. A request's record is durable before its handler
// begins, and before the request is acknowledged; its answer is added when there is one. So a crash runs nothing twice: what
// comes again is answered with what is stored or, when the crash came between, with the code interrupted.
//
// When the disk fails a request runs all the same. Its record serves only if this process crashes and the request
// comes again, while a mower that obeys no "stop" because its disk is full is dangerous at once. It is counted and said in
// the log.

const (
	// maxRequests are remembered in any case, the latest. It is more than a broker can have unacknowledged here
	// (receiveMaximum), which is what comes again after a crash.
	maxRequests = 1024
	// maxLiveRequests bounds those that are remembered beyond that because their deadline has not passed: others can still
	// send them again.
	maxLiveRequests = 4096
)

// What a target answers that cannot know how far its handler came. Without codes, over MQTT 3.1.1, they are known by their words.
var (
	errRanOut  = &CommandError{Code: CodeTimeout, Message: "the deadline passed while it ran: outcome unknown"}
	errStopped = &CommandError{Code: CodeCancelled, Message: "cancelled while it ran: outcome unknown"}
	// errInterrupted is of a request that was running when this process, or the machine, went down.
	errInterrupted = &CommandError{Code: CodeInterrupted, Message: "interrupted by a restart: outcome unknown"}
)

// codeOf returns the code of an error that came without one.
func codeOf(text *string) string {
	if text != nil {
		for _, e := range []*CommandError{errRanOut, errStopped, errInterrupted} {
			if *text == e.Message {
				return e.Code
			}
		}
	}
	return CodeFailed
}

// WithRepeatable names the commands that a crash may run twice, such as those that only tell something: they need not
// wait for the disk, and leave no record on it. f must not wait.
func WithRepeatable(f func(command string) bool) ServeOption {
	return func(s *commandServer) { s.repeatable = f }
}

// A requestRecord is the value stored for a request; see diskKey for the key.
type requestRecord struct {
	Seq         uint64          `json:"seq"`             // in the order of their begin
	Ended       uint64          `json:"ended,omitempty"` // the latest Seq when it ended
	Command     string          `json:"command"`
	Deadline    time.Time       `json:"deadline"`
	Topic       string          `json:"topic,omitempty"` // of the answer, as Publish takes it
	Correlation string          `json:"correlation,omitempty"`
	Data        []byte          `json:"data,omitempty"` // Correlation Data
	Done        bool            `json:"done,omitempty"`
	Code        string          `json:"code,omitempty"`
	Answer      json.RawMessage `json:"answer,omitempty"` // the envelope; none when nobody waits for one
}

func (r *requestRecord) set(b *store.Batch, key requestID) error {
	value, err := json.Marshal(r)
	if err != nil {
		return err
	}
	b.Set(diskKey(key), value)
	return nil
}

// diskKey is requestKey, the sender, a zero byte, and the id. That of no sender and no id, which no request has, is stored by a
// process whose answers have all arrived when it ends.
func diskKey(key requestID) []byte {
	return append(append(append([]byte{requestKey}, key.sender...), 0), key.id...)
}

func fromDiskKey(key []byte) requestID {
	sender, id, _ := strings.Cut(string(key[1:]), "\x00")
	return requestID{sender, id}
}

// recordBegin makes the record of a request durable.
func (c *Client) recordBegin(r *Request, e *execution) {
	e.record = &requestRecord{Command: r.Command, Deadline: r.Deadline.Round(0), Topic: r.replyTo, Correlation: r.correlation, Data: r.Delivery.CorrelationData}
	q := &c.requests
	q.mu.Lock()
	q.seq++
	e.record.Seq = q.seq
	evicted := q.evicted
	q.evicted = nil
	q.mu.Unlock()
	if err := c.record(e, evicted); err != nil {
		c.stats.unrecorded.Add(1)
		q.mu.Lock()
		q.evicted = append(q.evicted, evicted...)
		q.mu.Unlock()
	}
}

// recordEnd stores the answer to a request, nil if there is none. It is called after the answer was sent, for which nobody
// should have to wait.
func (c *Client) recordEnd(e *execution, a *reply) {
	rec := e.record
	c.requests.mu.Lock()
	rec.Ended = c.requests.seq
	c.requests.mu.Unlock()
	rec.Done = true
	if a != nil {
		rec.Topic, rec.Code = a.topic, a.code
		if body, err := a.m.Append(nil); err == nil {
			rec.Answer = body
		}
	}
	_ = c.record(e, nil) // without it the answer to the same request is errInterrupted after a crash
	rec.Answer = nil     // e has it
}

// record stores e's record and deletes those that were evicted.
func (c *Client) record(e *execution, evicted []requestID) error {
	var b store.Batch
	err := e.record.set(&b, e.key)
	for _, key := range evicted {
		b.Delete(diskKey(key))
	}
	if err == nil {
		err = c.disk.Commit(&b)
	}
	q := &c.requests
	if failing := err != nil; q.failing.Swap(failing) != failing {
		if failing {
			c.opts.Logger.Error("commands run without a record on disk: a crash may run them twice", "dir", c.opts.Dir, "error", err)
		} else {
			c.opts.Logger.Info("commands are recorded on disk again", "dir", c.opts.Dir)
		}
	}
	return err
}

// recordLeave notes that every answer has arrived, so that the next process need not send the latest again.
func (c *Client) recordLeave() {
	c.requests.mu.Lock()
	seq := c.requests.seq
	c.requests.mu.Unlock()
	if c.disk == nil || seq == 0 {
		return
	}
	var b store.Batch
	b.Set(diskKey(requestID{}), nil)
	_ = c.disk.Commit(&b) // without it some answers come twice
}

// loadRequests reads the table from the disk. Requests that a crash has interrupted are answered if anybody can still wait,
// and so are those that ended just before it, whose answers may not have left: at most as many run at once as Options.Commands.
func (c *Client) loadRequests() error {
	type found struct {
		key requestID
		rec requestRecord
	}
	var all []found
	var b store.Batch
	left := false
	err := c.disk.Scan([]byte{requestKey}, func(key, value []byte) error {
		f := found{key: fromDiskKey(key)}
		if f.key == (requestID{}) {
			left = true
			b.Delete(key)
			return nil
		}
		if err := json.Unmarshal(value, &f.rec); err == nil {
			all = append(all, f)
		} else { // of another version, perhaps
			b.Delete(key)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("commands in %s: %w", c.opts.Dir, err)
	}
	slices.SortFunc(all, func(x, y found) int { return cmp.Compare(x.rec.Seq, y.rec.Seq) })
	q := &c.requests
	if len(all) > 0 {
		q.seq = all[len(all)-1].rec.Seq
	}
	now := time.Now()
	for i := range all {
		f := &all[i]
		live := now.Before(f.rec.Deadline)
		if later := len(all) - 1 - i; later >= maxLiveRequests || later >= maxRequests && !live {
			b.Delete(diskKey(f.key))
			continue
		}
		e := &execution{key: f.key, done: true, deadline: f.rec.Deadline, record: &f.rec}
		if f.rec.Done {
			e.answer = storedReply(&f.rec)
			if recent := f.rec.Ended+uint64(2*c.opts.Commands) > q.seq; recent && live && !left && e.answer != nil {
				_ = e.answer.send(c) // logged there
			}
		} else {
			e.answer = c.interrupted(f.key, e, live)
			if err := f.rec.set(&b, f.key); err != nil {
				return err
			}
		}
		f.rec.Answer = nil // e has it
		q.seen[e.key] = e
		q.order = append(q.order, e)
	}
	if err := c.disk.Commit(&b); err != nil {
		return fmt.Errorf("commands in %s: %w", c.opts.Dir, err)
	}
	return nil
}

// interrupted makes the answer to a request that a crash has interrupted, and puts it into the outbox if its caller may
// still wait.
func (c *Client) interrupted(key requestID, e *execution, live bool) *reply {
	rec := e.record
	c.opts.Logger.Warn("command interrupted by a restart: outcome unknown", "command", rec.Command, "request", printable(key.id))
	rec.Done = true
	if rec.Topic == "" {
		return nil
	}
	r := &Request{Command: rec.Command, replyTo: rec.Topic, correlation: rec.Correlation, Delivery: &Delivery{CorrelationData: rec.Data}}
	a := c.newReply(r, nil, errInterrupted, 0)
	rec.Code = a.code
	rec.Answer, _ = a.m.Append(nil)
	if live {
		_ = a.send(c) // logged there
	}
	return a
}

// storedReply reads the answer in a record.
func storedReply(rec *requestRecord) *reply {
	if len(rec.Answer) == 0 {
		return nil
	}
	m, err := message.Decode(rec.Answer, message.Limits{MaxPayload: len(rec.Answer), MaxDepth: len(rec.Answer)})
	if err != nil || m.Raw {
		return nil
	}
	return &reply{topic: rec.Topic, correlation: rec.Data, m: m, code: rec.Code}
}
