package fleet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/lawnberry/lawnberry/internal/store"
	"github.com/lawnberry/lawnberry/message"
)

// A ledger is what is remembered of the commands and jobs of the fleet, so that none runs twice: not when it comes again, nor after a crash.
// It is on the disk before a command begins.
//
// What is forgotten, because it is long past its deadline and others need the room, is never taken again either: of each lane the latest deadline
// that was forgotten is kept, and what has none later than that is refused. So no clock that was set decides whether something runs twice.
type ledger struct {
	store  *store.Store // nil takes nothing: then nothing is begun
	id     string       // of this ledger: another disk has another
	keep   int          // entries that stay whatever their time
	most   int          // entries at all
	margin time.Duration

	mu        sync.Mutex // guards the fields below
	entries   map[commandKey]*execution
	forgotten [2]float64 // by lane: Unix seconds
}

const (
	ledgerPrefix = "command/"
	ledgerMark   = "forgotten-command"
	ledgerID     = "id-of-the-ledger"

	keepEntries = 2_000
	mostEntries = 20_000
	keepMargin  = 10 * time.Minute // after its deadline
)

// A lane is how something comes.
type lane uint8

const (
	laneCommand lane = iota
	laneJob
)

// String returns "command" or "job".
func (l lane) String() string {
	if l == laneJob {
		return "job"
	}
	return "command"
}

// A commandKey is what a command is known by.
type commandKey struct {
	sender, id string
}

// bytes is where the entry is on the disk.
func (k commandKey) bytes() []byte {
	return fmt.Appendf(nil, "%s%d:%s%s\x00", ledgerPrefix, len(k.sender), k.sender, k.id)
}

// A ledgerRecord is an execution as it is on the disk.
type ledgerRecord struct {
	Sender  string  `json:"sender"`
	ID      string  `json:"id"`
	Lane    lane    `json:"lane"`
	Service string  `json:"service"`
	Command string  `json:"command"`
	Digest  []byte  `json:"digest"` // of the body
	Begun   float64 `json:"begun"`  // Unix seconds
	Expires float64 `json:"expires"`
	Answer  *answer `json:"answer,omitempty"` // nil while it runs
	Told    bool    `json:"told,omitempty"`   // of a job: its end is in the history
}

// An answer is how a command ended.
type answer struct {
	Body    []byte          `json:"body"` // the envelope, as it was sent
	Success bool            `json:"success"`
	Result  json.RawMessage `json:"result,omitempty"`
	Code    string          `json:"code,omitempty"`
	Error   string          `json:"error,omitempty"`
	Time    float64         `json:"time"` // Unix seconds
}

// An execution is a command that was begun. ledger.mu guards what changes.
type execution struct {
	key     commandKey
	lane    lane
	service string
	command string
	digest  []byte
	begun   float64
	expires float64

	done    bool
	told    bool
	answer  *answer        // nil while it runs, and when it is on the disk only
	waiting []func(answer) // who else wants the answer of what runs
}

func (e *execution) toRecord(a *answer) *ledgerRecord {
	return &ledgerRecord{
		Sender: e.key.sender, ID: e.key.id, Lane: e.lane, Service: e.service, Command: e.command, Digest: e.digest,
		Begun: e.begun, Expires: e.expires, Answer: a, Told: e.told,
	}
}

// openLedger reads what the store has; nil is none, and has nothing begun. interrupted is what was running when the process before this one died.
func openLedger(s *store.Store) (l *ledger, interrupted []*execution, err error) {
	l = &ledger{store: s, keep: keepEntries, most: mostEntries, margin: keepMargin, entries: map[commandKey]*execution{}}
	if s == nil {
		return l, nil, nil
	}
	err = s.Scan([]byte(ledgerPrefix), func(_, value []byte) error {
		var r ledgerRecord
		if err := json.Unmarshal(value, &r); err != nil {
			return fmt.Errorf("the ledger of commands has an entry that cannot be read: %w", err)
		}
		e := &execution{
			key: commandKey{r.Sender, r.ID}, lane: min(r.Lane, laneJob), service: r.Service, command: r.Command, digest: r.Digest,
			begun: r.Begun, expires: r.Expires, done: r.Answer != nil, told: r.Told,
		}
		l.entries[e.key] = e
		if !e.done {
			interrupted = append(interrupted, e)
		}
		return nil
	})
	if err == nil {
		err = s.Scan([]byte(ledgerMark), func(_, value []byte) error { return json.Unmarshal(value, &l.forgotten) })
	}
	if err == nil {
		err = s.Scan([]byte(ledgerID), func(_, value []byte) error { l.id = string(value); return nil })
	}
	if err == nil && l.id == "" {
		l.id = uuid.NewString()
		var b store.Batch
		b.Set([]byte(ledgerID), []byte(l.id))
		_ = s.Commit(&b) // a disk that takes nothing takes no command either, and then the next ledger is another
	}
	return l, interrupted, err
}

// The reasons for which a command is not begun.
var (
	errOtherContent = errors.New("its message_id was used for another command: each needs an id of its own")
	errForgotten    = errors.New("its deadline is before one that was forgotten here already, so nobody knows whether it has run: send it anew, with a later deadline")
	errLedgerFull   = errors.New("there are too many commands whose deadlines have not passed")
)

// claim says that a command is about to be begun. When it was before, first is false, and e is that of then.
func (l *ledger) claim(e *execution, now time.Time) (of *execution, first bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if before := l.entries[e.key]; before != nil {
		if !bytes.Equal(before.digest, e.digest) {
			return nil, false, errOtherContent
		}
		return before, false, nil
	}
	if e.expires <= l.forgotten[e.lane] {
		return nil, false, errForgotten
	}
	if len(l.entries) >= l.most && !l.forgetLocked(now) {
		return nil, false, errLedgerFull
	}
	l.entries[e.key] = e
	return e, true, nil
}

// find returns what was begun before under the key of e, nil if nothing was.
func (l *ledger) find(e *execution) (before *execution, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if before = l.entries[e.key]; before != nil && !bytes.Equal(before.digest, e.digest) {
		return nil, errOtherContent
	}
	return before, nil
}

// release takes a claim back: it was not begun. It returns who waits for the answer.
func (l *ledger) release(e *execution) (waiting []func(answer)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	waiting, e.waiting = e.waiting, nil
	if l.entries[e.key] == e {
		delete(l.entries, e.key)
	}
	return waiting
}

// isDone reports whether it has ended.
func (l *ledger) isDone(e *execution) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return e.done
}

// begin has a claim on the disk. It returns an error when it may not be: then it must not run.
func (l *ledger) begin(e *execution) error {
	if l.store == nil {
		return errNoStore
	}
	value, err := json.Marshal(e.toRecord(nil))
	if err != nil {
		return err
	}
	var b store.Batch
	b.Set(e.key.bytes(), value)
	return l.store.Commit(&b)
}

// end keeps how a command ended, and returns who waits for that beside the one who has begun it. The error says that it is not on the disk.
func (l *ledger) end(e *execution, a *answer) (waiting []func(answer), err error) {
	l.mu.Lock()
	e.done, e.answer = true, a
	waiting, e.waiting = e.waiting, nil
	value, err := json.Marshal(e.toRecord(a))
	l.mu.Unlock()
	if err != nil {
		return waiting, err
	}
	var b store.Batch
	b.Set(e.key.bytes(), value)
	if err := l.store.Commit(&b); err != nil {
		return waiting, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e.answer = nil // the disk has it
	return waiting, nil
}

// tell notes that the end of a job is in the history.
func (l *ledger) tell(e *execution) error {
	a, err := l.answerOf(e)
	if err != nil {
		return err
	}
	l.mu.Lock()
	e.told = true
	value, err := json.Marshal(e.toRecord(a))
	l.mu.Unlock()
	if err != nil {
		return err
	}
	var b store.Batch
	b.Set(e.key.bytes(), value)
	return l.store.Commit(&b)
}

// isTold reports whether the end of a job is in the history.
func (l *ledger) isTold(e *execution) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return e.told
}

// mostWaiting is how many may wait for one command beside the one who has begun it.
const mostWaiting = 16

// await has f called with the answer, at once if there is one. Beyond mostWaiting the oldest is forgotten: who asks again has given up on it.
func (l *ledger) await(e *execution, f func(answer)) error {
	l.mu.Lock()
	if !e.done {
		defer l.mu.Unlock()
		if len(e.waiting) >= mostWaiting {
			e.waiting = slices.Delete(e.waiting, 0, 1)
		}
		e.waiting = append(e.waiting, f)
		return nil
	}
	l.mu.Unlock()
	a, err := l.answerOf(e)
	if err != nil {
		return err
	}
	f(*a)
	return nil
}

// answerOf returns the answer of what has ended.
func (l *ledger) answerOf(e *execution) (*answer, error) {
	l.mu.Lock()
	a := e.answer
	l.mu.Unlock()
	if a != nil {
		return a, nil
	}
	err := l.store.Scan(e.key.bytes(), func(_, value []byte) error {
		var r ledgerRecord
		if err := json.Unmarshal(value, &r); err != nil {
			return err
		}
		a = r.Answer
		return nil
	})
	if err == nil && a == nil {
		err = errors.New("the disk has lost how the command ended")
	}
	return a, err
}

// untold returns the jobs that have ended and whose end is not in the history yet.
func (l *ledger) untold() (list []*execution) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.entries {
		if e.lane == laneJob && e.done && !e.told {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b *execution) int {
		switch {
		case a.begun < b.begun:
			return -1
		case a.begun > b.begun:
			return 1
		}
		return 0
	})
	return list
}

// tidy forgets what is long past, beyond what is kept in any case.
func (l *ledger) tidy(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.entries) > l.keep+l.keep/10 {
		l.forgetLocked(now)
	}
}

// forgetLocked makes room, and reports whether there is any. l.mu is held.
func (l *ledger) forgetLocked(now time.Time) bool {
	var past []*execution
	limit := message.Seconds(now.Add(-l.margin))
	for _, e := range l.entries {
		if e.done && e.answer == nil && (e.lane == laneCommand || e.told) && e.expires < limit {
			past = append(past, e)
		}
	}
	slices.SortFunc(past, func(a, b *execution) int {
		if a.expires < b.expires {
			return -1
		}
		return 1
	})
	past = past[:min(len(past), max(0, len(l.entries)-l.keep))]
	if len(past) == 0 {
		return false
	}
	mark := l.forgotten
	var b store.Batch
	for _, e := range past {
		b.Delete(e.key.bytes())
		mark[e.lane] = max(mark[e.lane], e.expires)
	}
	value, _ := json.Marshal(mark) // two numbers
	b.Set([]byte(ledgerMark), value)
	if l.store.Commit(&b) != nil { // it stays
		return false
	}
	l.forgotten = mark
	for _, e := range past {
		delete(l.entries, e.key)
	}
	return true
}
