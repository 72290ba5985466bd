package store

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// An instance is one opening of the directory by Pebble. Pebble regards some errors as the end of the process. Here they
// are the end of the instance: whoever meets one inside Pebble stays there or ends, the instance's files do nothing any
// more, and the store goes on with a new instance. So nobody but an instance's own goroutines calls Pebble to write.
type instance struct {
	db    *pebble.DB
	files *guard
	queue chan *request
	quit  chan struct{} // closed to end the committer
	ended chan struct{} // closed when the committer has ended

	once sync.Once
	dead chan struct{} // closed when the instance has failed
	err  error         // why; set before dead is closed

	commits, groups, bytes atomic.Uint64
}

// A request is one Commit.
type request struct {
	changes []byte // of a Batch; read by the committer for as long as it likes, so nobody writes to them
	done    chan error
}

const (
	groupBytes = 1 << 20          // a group takes no more requests beyond so many bytes
	patience   = 20 * time.Second // for a group to be committed; the disk may be slow, but Pebble must not be stuck
)

// start opens an instance, for reading only or for everything.
func (s *Store) start(readOnly bool) (_ *instance, err error) {
	in := &instance{
		queue: make(chan *request, 1024), quit: make(chan struct{}), ended: make(chan struct{}), dead: make(chan struct{}),
	}
	in.files = newGuard(s.fs, s.sync)
	in.files.failed = in.kill
	cache := pebble.NewCache(1 << 20)
	defer cache.Unref()
	o := &pebble.Options{
		ReadOnly:                    readOnly,
		FS:                          in.files,
		Cache:                       cache,
		FormatMajorVersion:          pebble.FormatNewest,
		MemTableSize:                4 << 20,
		MemTableStopWritesThreshold: 3,
		MaxOpenFiles:                64,
		Logger:                      quiet{in},
		EventListener: &pebble.EventListener{
			BackgroundError: in.backgroundError,
			DataCorruption:  func(i pebble.DataCorruptionInfo) { in.kill(i.Details) },
		},
	}
	// Pebble panics on some kinds of damage.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
		if err != nil {
			in.kill(err)
		}
	}()
	opened := make(chan error, 1)
	go func() {
		err := errors.New("gave up")
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("%v", p)
			}
			opened <- err
		}()
		in.db, err = pebble.Open(s.files(), o)
	}()
	select {
	case err := <-opened:
		if err != nil {
			return nil, err
		}
	case <-in.dead: // Pebble may wait for ever for what it has given up elsewhere
		return nil, in.err
	}
	in.files.opened.Store(true)
	go in.run()
	return in, nil
}

// kill marks the instance failed: its files do nothing any more.
func (in *instance) kill(err error) {
	in.once.Do(func() {
		in.err = err
		close(in.dead)
		in.files.kill(err)
	})
}

// bury gives back what a failed instance holds, as far as Pebble still can.
func (in *instance) bury() {
	if in.db == nil {
		return
	}
	<-in.ended
	defer func() { _ = recover() }()
	_ = in.db.Close()
}

// backgroundError is told of flushes and compactions that fail. Pebble tries them again, for ever.
func (in *instance) backgroundError(err error) {
	if !errors.Is(err, pebble.ErrCancelledCompaction) {
		in.kill(err)
	}
}

// quiet is Pebble's logger. What Pebble calls fatal ends the goroutine that says so, and the instance.
type quiet struct{ in *instance }

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (q quiet) Fatalf(format string, args ...any) {
	q.in.kill(fmt.Errorf(format, args...))
	runtime.Goexit()
}

// commit commits b with whatever else is waiting.
func (in *instance) commit(b *Batch) error {
	r := &request{changes: b.data, done: make(chan error, 1)}
	select {
	case in.queue <- r:
	case <-in.dead:
		return in.err
	case <-in.ended:
		return ErrClosed
	}
	answered, err := in.await(r)
	if !answered { // the committer may be reading the changes still, or be about to
		b.data = bytes.Clone(b.data)
	}
	return err
}

// await returns the outcome of r; answered is that the committer has told it, and so is done with r.
func (in *instance) await(r *request) (answered bool, err error) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case err := <-r.done:
		return true, err
	case <-in.dead:
		return false, in.err
	case <-in.ended:
		return false, ErrClosed
	case <-timer.C:
		err := fmt.Errorf("not on the disk after %v", patience)
		in.kill(err)
		return false, err
	}
}

// run commits what is queued, group after group.
func (in *instance) run() {
	defer close(in.ended)
	var group []*request
	for {
		group = group[:0]
		select {
		case r := <-in.queue:
			group = append(group, r)
		case <-in.quit:
			return
		case <-in.dead:
			return
		}
		for size := len(group[0].changes); size < groupBytes; {
			select {
			case r := <-in.queue:
				group = append(group, r)
				size += len(r.changes)
				continue
			default:
			}
			break
		}
		err := in.apply(group)
		for _, r := range group {
			r.done <- err
		}
	}
}

func (in *instance) apply(group []*request) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	b := in.db.NewBatch()
	size := 0
	for _, r := range group {
		if err := applyTo(b, r.changes); err != nil {
			return err
		}
		size += len(r.changes)
	}
	// Pebble is to hand the bytes to the operating system in every mode; the guard decides what a sync is.
	if err := in.db.Apply(b, pebble.Sync); err != nil {
		return err
	}
	select {
	case <-in.dead: // Pebble went on after an error that it called fatal
		return in.err
	default:
	}
	in.commits.Add(uint64(len(group)))
	in.groups.Add(1)
	in.bytes.Add(uint64(size))
	return b.Close()
}

func (in *instance) scan(from, to []byte, f func(key, value []byte) error) (err error) {
	o := &pebble.IterOptions{LowerBound: from, UpperBound: to}
	it, err := in.db.NewIter(o)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return fmt.Errorf("store: %w", err)
		}
		if err := f(it.Key(), value); err != nil {
			return err
		}
	}
	return it.Error()
}

// after returns the first key behind all that begin with prefix, nil when there is none.
func after(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] < 0xff {
			key := append([]byte{}, prefix[:i+1]...)
			key[i]++
			return key
		}
	}
	return nil
}

// close ends the committer and closes Pebble.
func (in *instance) close() error {
	close(in.quit)
	<-in.ended
	select {
	case <-in.dead:
		return in.err
	default:
	}
	err := in.files.syncNow()
	closed := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				closed <- fmt.Errorf("%v", p)
			}
		}()
		// In tables everything has a checksum, while the end of a log may always be one that was cut off.
		err := in.db.Flush()
		closed <- errors.Join(err, in.db.Close())
	}()
	select {
	case e := <-closed:
		err = errors.Join(err, e)
	case <-in.dead:
		err = errors.Join(err, in.err)
	case <-time.After(patience):
		err = errors.Join(err, fmt.Errorf("not closed after %v", patience))
	}
	in.files.kill(ErrClosed)
	return err
}
