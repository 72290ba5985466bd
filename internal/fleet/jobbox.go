package fleet

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/lawnberry/lawnberry/message"
)

// A JobBox is where the list of jobs of a mower is: a key of [BucketJobs]. Its methods may be called concurrently.
type JobBox struct {
	nc    *nats.Conn
	js    jetstream.JetStream
	mower string
}

// NewJobBox returns that of a mower.
func NewJobBox(nc *nats.Conn, mower string) (*JobBox, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	return &JobBox{nc: nc, js: js, mower: mower}, nil
}

// A StoredJobs is a list as the engine has it, or has had it: a replica that answers may be behind.
type StoredJobs struct {
	Body     []byte // see ReadJobs; nil when there is none
	Sequence uint64 // of what was written last; 0 when nothing was

	write string // id of the Write that has written it
}

// A JobsChangedError is that somebody else has written a list meanwhile.
type JobsChangedError struct {
	Last  uint64 // the sequence of what was written last, if Known
	Known bool
	Open  bool // what was to be written may have been there for a while, and been replaced
}

// Error says what has happened.
func (e *JobsChangedError) Error() string { return "the list of jobs was changed meanwhile" }

var errNoJobs = errors.New("the engine has no bucket " + BucketJobs + ", or cannot be asked now")

// Read returns the list.
func (b *JobBox) Read(ctx context.Context) (s StoredJobs, err error) {
	m, err := b.nc.RequestWithContext(ctx, JobListQuestion(b.mower), nil)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return s, fmt.Errorf("%w: %w", errNoJobs, err)
	case err != nil:
		return s, err
	}
	switch status := m.Header.Get("Status"); status {
	case "":
	case "404":
		return s, nil
	default:
		return s, fmt.Errorf("the engine does not tell the list of jobs: %s %s", status, m.Header.Get("Description"))
	}
	if s.Sequence, err = strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64); err != nil {
		return s, fmt.Errorf("the engine does not say which list of jobs it is: %w", err)
	}
	s.write = m.Header.Get(jetstream.MsgIDHeader)
	if !isGone(m.Header) {
		s.Body = m.Data
	}
	return s, nil
}

// Write replaces the list, or for nil removes it, if what is there has the sequence expect. It returns the sequence of the new one. It asks again, until
// ctx ends, while it is not known whether the engine has it. Its error is a *JobsChangedError when it was another list; after
// any other the outcome is open.
func (b *JobBox) Write(ctx context.Context, body []byte, expect uint64) (uint64, error) {
	id := message.NewID()
	open := false
	for {
		m := &nats.Msg{Subject: JobListSubject(b.mower), Data: body, Header: nats.Header{}}
		if body == nil {
			m.Header.Set("KV-Operation", "DEL")
		}
		one, end := context.WithTimeout(ctx, requestTimes)
		ack, err := b.js.PublishMsg(one, m, jetstream.WithMsgID(id), jetstream.WithExpectLastSequencePerSubject(expect),
			jetstream.WithExpectStream("KV_"+BucketJobs), jetstream.WithRetryAttempts(0))
		end()
		var said *jetstream.APIError
		switch {
		case err == nil:
			return ack.Sequence, nil
		case fatal(err):
			return 0, err
		case errors.As(err, &said) && said.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence:
			changed := &JobsChangedError{Open: open}
			if _, bad := fmt.Sscanf(said.Description, "wrong last sequence: %d", &changed.Last); bad == nil {
				changed.Known = true
			}
			if !open {
				return 0, changed
			}
			return b.wasIt(ctx, id, expect, changed)
		case errors.As(err, &said) && (said.ErrorCode == codeSequenceBusy || said.ErrorCode == codeDuplicateBusy): // it was not taken, or is being taken
		case errors.As(err, &said) && said.Code < 500:
			return 0, err
		case errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, nats.ErrNoResponders): // nobody has it
		default:
			open = true
		}
		if !pause(ctx, refusedPause) {
			return 0, fmt.Errorf("the engine does not confirm the list of jobs: %w", err)
		}
	}
}

// Codes of JetStream's errors that are over in a moment.
const (
	codeDuplicateBusy = 10158 // the same is on its way
	codeSequenceBusy  = 10164 // another is on its way
)

// wasIt tells whether the other list that is there is the one that was written, by an attempt without an answer.
func (b *JobBox) wasIt(ctx context.Context, id string, expect uint64, changed *JobsChangedError) (uint64, error) {
	for {
		one, end := context.WithTimeout(ctx, requestTimes)
		s, err := b.Read(one)
		end()
		switch {
		case err == nil && s.write == id:
			return s.Sequence, nil
		case err == nil && s.Sequence != expect && (!changed.Known || s.Sequence >= changed.Last):
			return 0, changed
		}
		if !pause(ctx, refusedPause) { // a replica that is behind, or none
			return 0, changed
		}
	}
}

// Change reads the list and writes what f makes of it, again and again while others write meanwhile, until ctx ends. f returns whether there is
// something to write; open is that an earlier list of its making may have been there for a while. An unreadable list is given to f as an
// empty one, with the error.
func (b *JobBox) Change(ctx context.Context, f func(l *JobList, unreadable error, open bool) (bool, error)) error {
	open := false
	for least := uint64(0); ; {
		one, end := context.WithTimeout(ctx, requestTimes)
		s, err := b.Read(one)
		end()
		if err == nil && s.Sequence >= least {
			l, unreadable := ReadJobs(s.Body)
			write, bad := f(&l, unreadable, open)
			if bad != nil || !write {
				return bad
			}
			body, bad := l.Bytes()
			if bad != nil {
				return bad
			}
			_, err = b.Write(ctx, body, s.Sequence)
			var changed *JobsChangedError
			if err == nil || !errors.As(err, &changed) {
				return err
			}
			open = open || changed.Open
			if least = 0; changed.Known {
				least = changed.Last
			}
		}
		if err != nil && fatal(err) {
			return err
		}
		if !pause(ctx, jitter(refusedPause/4)) {
			if err == nil {
				err = ctx.Err()
			}
			return err
		}
	}
}

// jitter is a time around d, so that those who met do not meet again.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d) }
