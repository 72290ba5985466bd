package fleet

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/message"
)

// A jobBox is where the mower's list of jobs is; see [fleet.JobBox].
type jobBox interface {
	Read(ctx context.Context) (fleet.StoredJobs, error)
	Write(ctx context.Context, body []byte, expect uint64) (uint64, error)
}

// A jobList has the jobs run that are in the mower's list at a NATS engine. It looks at the list when the connection is there, when it is nudged,
// when a job has ended, and about once a minute.
//
// What it reads may be behind: any replica answers. So it marks a job as begun before that runs, which the engine takes only if the list is still
// the one that it was; and what the ledger knows does not run again, whatever the list says.
type jobList struct {
	d      *downlink
	box    jobBox
	again  chan struct{} // holds a token when the list is to be looked at
	nudged chan struct{} // holds a token when somebody else has changed it

	change sync.Mutex // held while the list is being changed

	mu       sync.Mutex // guards the fields below
	known    fleet.JobList
	sequence uint64 // of known
	valid    bool   // known is what was read or written last
	floor    uint64 // what has a lower sequence is old
	floorAt  time.Time
	jobs     map[jobKey]*takenJob
	doubted  doubt
}

// A jobKey is what a job of the list is known by. One with the same id and other content is another.
type jobKey struct {
	id, service string
	digest      [sha256.Size]byte // of its body
}

// A takenJob is a job of the list that the mower has dealt with.
type takenJob struct {
	busy  bool
	later time.Time // not before
	told  bool      // its end is on the disk: it is to be removed from the list

	// Of an emergency stop: one that was engaged is not engaged again by a list that is behind, after somebody may have released it.
	stopped *request
	answer  answer
	removed uint64 // the sequence of a list without it
}

// A doubt is an unreadable list that the emergency stop was engaged for.
type doubt struct {
	sequence uint64
	digest   [sha256.Size]byte
}

const (
	jobsRequest  = 10 * time.Second // that a change of the list may take
	jobsQuestion = 5 * time.Second  // that one question may
	jobsLast     = time.Second      // for what is under way when the downlink ends
	jobsEvery    = time.Minute      // between looks, about
	jobAgain     = 15 * time.Second // after which a job is tried again that could not be taken
	jobsPause    = 50 * time.Millisecond
	jobsSoon     = 100 * time.Millisecond // after which a list is looked at again that should be newer; then four times as long, and so on
	jobsTries    = 4                      // looks for what a nudge has told of
	floorTime    = 10 * time.Second       // that a replica is thought to be behind: beyond it the stream may have been made anew
	mostTaken    = 1024                   // stops that are remembered
)

var (
	errJobGone     = errors.New("the job was taken back")
	errBegunBefore = errors.New("the job was begun with another ledger")
	errBehind      = errors.New("the replica that has answered is behind")
)

func newJobList(d *downlink, box jobBox) *jobList {
	return &jobList{
		d: d, box: box, again: make(chan struct{}, 1), nudged: make(chan struct{}, 1), jobs: map[jobKey]*takenJob{},
	}
}

// takeJobs takes jobs from a NATS engine until the downlink ends.
func (d *downlink) takeJobs(nc *nats.Conn) error {
	box, err := fleet.NewJobBox(nc, d.o.mower)
	if err != nil {
		return err
	}
	l := newJobList(d, box)
	sub, err := nc.Subscribe(fleet.JobNudge(d.o.mower), func(*nats.Msg) { wake(l.nudged) })
	if err != nil {
		return fmt.Errorf("jobs from the fleet: %w", err)
	}
	d.mu.Lock()
	d.subs = append(d.subs, sub)
	d.mu.Unlock()
	connected := nc.StatusChanged(nats.CONNECTED)
	if !d.goes(func() {
		defer nc.RemoveStatusListener(connected)
		l.run(nc.IsConnected, connected)
	}) {
		nc.RemoveStatusListener(connected)
	}
	return nil
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run looks at the list until the downlink ends.
func (l *jobList) run(there func() bool, connected <-chan nats.Status) {
	for _, e := range l.d.ledger.untold() {
		l.d.tell(e) // what fails is told when the job is looked at
	}
	var (
		pause = time.Second // after which the engine is asked again that could not be
		said  string        // of that
		tries = 0           // looks for what is to be newer than
		newer uint64
	)
	wait := time.NewTimer(0)
	defer wait.Stop()
	for {
		select {
		case <-wait.C:
		case <-l.again:
		case <-l.nudged:
			l.mu.Lock()
			tries, newer = jobsTries, l.sequence+1
			l.mu.Unlock()
		case <-connected:
			l.mu.Lock()
			l.floor = 0 // it may be another engine
			l.mu.Unlock()
			pause = time.Second
		case <-l.d.ctx.Done():
			return
		}
		if !there() {
			wait.Reset(jobsEvery) // a connection wakes it
			continue
		}
		at, err := l.look()
		next := jobsEvery*3/4 + rand.N(jobsEvery/2)
		switch {
		case l.d.ctx.Err() != nil:
			return
		case errors.Is(err, errBehind):
			next = jobsSoon
		case err != nil:
			if text := err.Error(); text != said {
				said = text
				l.d.log.Warn("the jobs of the mower cannot be read at the fleet's engine: it is asked again", "bucket", fleet.BucketJobs, "error", err)
			}
			next = pause
			pause = min(2*pause, 15*time.Second)
		default:
			pause, said = time.Second, ""
			if tries > 0 && at < newer {
				next = jobsSoon << (2 * (jobsTries - tries))
				tries--
			} else {
				tries = 0
			}
		}
		wait.Reset(min(next, l.earliest()))
	}
}

// earliest returns how long it is until a job may be tried again.
func (l *jobList) earliest() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	least := jobsEvery * 2
	for _, t := range l.jobs {
		if left := time.Until(t.later); left > 0 && !t.busy && t.removed == 0 {
			least = min(least, left)
		}
	}
	return least
}

// look reads the list, and begins what is to be begun. It returns the sequence of what it has read.
func (l *jobList) look() (uint64, error) {
	ctx, cancel := context.WithTimeout(l.d.ctx, jobsQuestion)
	defer cancel()
	s, err := l.box.Read(ctx)
	if err != nil {
		return 0, err
	}
	list, err := fleet.ReadJobs(s.Body)
	if err != nil {
		l.inDoubt(s, err)
		return s.Sequence, nil
	}
	// A stop is engaged whatever comes next, also of a list that is behind.
	for i := range list.Jobs {
		if j := &list.Jobs[i]; j.Service == fleet.StopService {
			l.takeStop(j, s.Sequence)
		}
	}
	if !l.learn(s.Sequence, list) {
		return 0, errBehind
	}
	for i := range list.Jobs {
		if j := &list.Jobs[i]; j.Service != fleet.StopService && !l.takeOne(j, s.Sequence) {
			break // who runs looks again
		}
	}
	return s.Sequence, nil
}

// learn notes what the list is, and reports false if it is an older one.
func (l *jobList) learn(sequence uint64, list fleet.JobList) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if sequence < l.floor && time.Since(l.floorAt) < floorTime {
		return false
	}
	l.noteLocked(sequence, list)
	there := map[jobKey]bool{}
	for i := range list.Jobs {
		there[keyOf(&list.Jobs[i])] = true
	}
	stops := 0
	for k, t := range l.jobs {
		switch {
		case there[k] || t.busy:
		case t.stopped == nil || stops > mostTaken:
			delete(l.jobs, k)
		case t.removed == 0:
			t.removed = sequence
			stops++
		default:
			stops++
		}
	}
	return true
}

// noteLocked notes what the list is. l.mu is held.
func (l *jobList) noteLocked(sequence uint64, list fleet.JobList) {
	l.known, l.sequence, l.valid = list, sequence, true
	l.floor, l.floorAt = sequence, time.Now()
}

func keyOf(j *fleet.KeptJob) jobKey { return jobKey{j.ID, j.Service, sha256.Sum256(j.Body)} }

// claim says that a job is being dealt with. It returns nil if it is already, or is not to be yet.
func (l *jobList) claim(j *fleet.KeptJob, sequence uint64) *takenJob {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := keyOf(j)
	t := l.jobs[k]
	switch {
	case t == nil, t.removed != 0 && sequence > t.removed: // in the latter case somebody has added the same once more
		if t != nil && t.busy {
			return nil
		}
		t = &takenJob{}
		l.jobs[k] = t
	case t.busy, t.removed != 0, time.Now().Before(t.later):
		return nil
	}
	t.busy = true
	return t
}

// done says that a job is not dealt with any more. Unless it is removed it is tried again after a while.
func (l *jobList) done(t *takenJob, removed uint64, after time.Duration) {
	l.mu.Lock()
	t.busy, t.removed = false, removed
	if removed == 0 {
		t.later = time.Now().Add(after)
	}
	l.mu.Unlock()
	wake(l.again)
}

func headersOf(j *fleet.KeptJob) func(string) string {
	return func(name string) string { return j.Headers[name] }
}

// takeOne runs a job, unless it runs, and reports whether there is room for more.
func (l *jobList) takeOne(j *fleet.KeptJob, sequence uint64) bool {
	select {
	case l.d.jobBusy <- struct{}{}:
	default:
		return false
	}
	t := l.claim(j, sequence)
	if t == nil || !l.d.goes(func() {
		removed, after := l.doJob(j, t)
		<-l.d.jobBusy
		l.done(t, removed, after)
	}) {
		<-l.d.jobBusy
	}
	return true
}

// doJob runs a job of the list, and removes it when its end is on the disk. It returns the sequence of the list without it, or 0 and when to try again.
func (l *jobList) doJob(j *fleet.KeptJob, t *takenJob) (removed uint64, after time.Duration) {
	if !t.told {
		in := inbound{
			lane: laneJob, service: j.Service, body: j.Body, header: headersOf(j), received: time.Now(),
			kept: &keptJob{
				id: j.ID, begunBefore: j.Begun != nil && j.Begun.By != l.d.ledger.id, begin: func() error { return l.begin(j) }, unbegin: func() { l.unbegin(j) },
			},
		}
		switch l.d.takeJob(in) {
		case fateLater:
			return 0, jobAgain
		case fateOther:
			return 0, time.Second
		case fateGone:
			return 0, 0
		case fateDone:
		}
		t.told = true
	}
	return l.remove(j)
}

// takeStop engages the emergency stop for a job of the list, unless that was done.
func (l *jobList) takeStop(j *fleet.KeptJob, sequence uint64) {
	t := l.claim(j, sequence)
	if t == nil {
		return
	}
	select {
	case l.d.stopping <- struct{}{}:
	default: // so many are being engaged
		l.done(t, 0, time.Second)
		return
	}
	if !l.d.goes(func() {
		removed, after := l.doStop(j, t)
		<-l.d.stopping
		l.done(t, removed, after)
	}) {
		<-l.d.stopping
	}
}

func (l *jobList) doStop(j *fleet.KeptJob, t *takenJob) (removed uint64, after time.Duration) {
	if t.stopped == nil {
		in := inbound{lane: laneJob, service: j.Service, body: j.Body, header: headersOf(j), received: time.Now(), kept: &keptJob{id: j.ID}}
		t.stopped, t.answer = l.d.stopMower(&in, func([]byte, string) {})
	}
	if !t.told {
		if l.d.jobEnded(t.stopped, t.answer) != fateDone {
			return 0, jobAgain
		}
		t.told = true
	}
	return l.remove(j)
}

// inDoubt engages the emergency stop for a list that cannot be read: there may be a stop in it. The list stays as it is.
func (l *jobList) inDoubt(s fleet.StoredJobs, why error) {
	l.mu.Lock()
	l.valid = false
	is := doubt{s.Sequence, sha256.Sum256(s.Body)}
	if l.doubted == is {
		l.mu.Unlock()
		return
	}
	l.doubted = is
	l.mu.Unlock()
	l.d.malformed.Add(1)
	l.d.log.Error("the mower's list of jobs at the fleet's engine cannot be read: none is run until an operator has removed it, and the emergency stop is "+
		"engaged, since there may be one in it", "bucket", fleet.BucketJobs, "sequence", s.Sequence, "error", why)
	select {
	case l.d.stopping <- struct{}{}:
	case <-l.d.ctx.Done():
		return
	}
	if !l.d.goes(func() {
		defer func() { <-l.d.stopping }()
		l.d.engage(unreadableStop(), func([]byte, string) {})
	}) {
		<-l.d.stopping
	}
}

// unreadableStop is the emergency stop that may be in a list that cannot be read.
func unreadableStop() *request {
	return &request{lane: laneJob, service: fleet.StopService, received: time.Now(), header: func(string) string { return "" }, p: message.Command{
		Target: fleet.StopService, Command: fleet.StopCommand,
		Parameters: []byte(`{"reason":"STOP: the list of jobs from the fleet cannot be read, and there may be one in it"}`),
	}}
}

// begin marks a job as begun. It has to be in the list of the engine, not only in the one that is known here, so this always writes.
func (l *jobList) begin(j *fleet.KeptJob) error {
	_, err := l.rewrite(func(list *fleet.JobList) error {
		at := indexOf(list, j)
		if at < 0 {
			return errJobGone
		}
		if b := list.Jobs[at].Begun; b != nil && b.By != l.d.ledger.id {
			return errBegunBefore
		}
		list.Jobs[at].Begun = &fleet.JobMark{Time: time.Now().UTC(), By: l.d.ledger.id}
		return nil
	})
	return err
}

// unbegin takes a mark back: the job could not be begun, and may be taken back again.
func (l *jobList) unbegin(j *fleet.KeptJob) {
	_, err := l.rewrite(func(list *fleet.JobList) error {
		at := indexOf(list, j)
		if at < 0 || list.Jobs[at].Begun == nil {
			return errJobGone
		}
		list.Jobs[at].Begun = nil
		return nil
	})
	if err != nil && !errors.Is(err, errJobGone) {
		l.d.log.Debug("that a job was not begun is not in the list of the engine", "job", j.ID, "error", err)
	}
}

// remove removes a job whose end is on the disk.
func (l *jobList) remove(j *fleet.KeptJob) (removed uint64, after time.Duration) {
	sequence, err := l.rewrite(func(list *fleet.JobList) error {
		at := indexOf(list, j)
		if at < 0 {
			return errJobGone
		}
		list.Jobs = slices.Delete(list.Jobs, at, at+1)
		return nil
	})
	switch {
	case err == nil:
		return sequence, 0
	case errors.Is(err, errJobGone):
		return max(sequence, 1), 0
	}
	l.d.log.Debug("a job that has ended is still in the list of the engine: it is looked at again, and does not run again", "job", j.ID, "error", err)
	return 0, time.Second
}

func indexOf(list *fleet.JobList, j *fleet.KeptJob) int {
	return slices.IndexFunc(list.Jobs, func(k fleet.KeptJob) bool {
		return k.ID == j.ID && k.Service == j.Service && bytes.Equal(k.Body, j.Body)
	})
}

// rewrite changes the list, as f does it with the newest. It returns the sequence of what it has written, or of what f has seen when it has failed.
func (l *jobList) rewrite(f func(*fleet.JobList) error) (uint64, error) {
	l.change.Lock()
	defer l.change.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.d.ctx), jobsRequest)
	defer cancel()
	defer context.AfterFunc(l.d.ctx, func() { time.AfterFunc(jobsLast, cancel) })()
	for {
		list, sequence, err := l.newest(ctx)
		if err != nil {
			return 0, err
		}
		if err := f(&list); err != nil {
			return sequence, err
		}
		body, err := list.Bytes()
		if err != nil {
			return 0, err
		}
		written, err := l.box.Write(ctx, body, sequence)
		l.mu.Lock()
		var changed *fleet.JobsChangedError
		switch {
		case err == nil:
			l.noteLocked(written, list)
		case errors.As(err, &changed) && changed.Known:
			l.valid, l.floor, l.floorAt = false, changed.Last, time.Now()
		default:
			l.valid = false
		}
		l.mu.Unlock()
		if err == nil || changed == nil {
			return written, err
		}
	}
}

// newest returns a copy of the list as it is known, or reads it.
func (l *jobList) newest(ctx context.Context) (fleet.JobList, uint64, error) {
	for {
		l.mu.Lock()
		list, sequence, valid := l.known, l.sequence, l.valid
		l.mu.Unlock()
		if valid {
			return fleet.JobList{Jobs: slices.Clone(list.Jobs)}, sequence, nil
		}
		s, err := l.box.Read(ctx)
		if err != nil {
			return list, 0, err
		}
		if list, err = fleet.ReadJobs(s.Body); err != nil {
			return list, 0, err // look deals with it
		}
		if l.learn(s.Sequence, list) {
			continue
		}
		select {
		case <-time.After(jobsPause):
		case <-ctx.Done():
			return list, 0, fmt.Errorf("%w: %w", errBehind, ctx.Err())
		}
	}
}
