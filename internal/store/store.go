// Package store is a durable, ordered key-value store with group commit, on Pebble: the disk of the broker.
//
// # What may be lost
//
// A Commit that returned nil is found again after the process was killed, whatever Options.Sync says. Sync says what a
// crash of the machine may take:
//
//   - Always: nothing.
//   - a duration: what was committed in the last interval of that length.
//   - Never: what the operating system had not written yet, often the last 30 seconds.
//
// # When the disk fails
//
// A Commit that returns an error may or may not be found again later. The store then gives up what it had open and opens
// its directory anew, at the next Commit and at most four times a second, until that works: so it recovers by itself when
// there is room again, and whatever a Commit had returned nil for is there.
package store

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Sync is how soon committed changes are on the disk. A positive value is an interval.
type Sync time.Duration

const (
	Always Sync = 0  // before Commit returns
	Never  Sync = -1 // when the operating system does it
)

// Options configure a Store. The zero value is usable.
type Options struct {
	Sync   Sync
	Logger *slog.Logger // nil discards
	FS     vfs.FS       // for tests that inject faults; nil is the system's
}

// A LockedError is a directory that another process has taken.
type LockedError struct {
	Dir string
	PID int // 0 when it is not known
}

func (e *LockedError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("%s is in use by another process", e.Dir)
	}
	return fmt.Sprintf("%s is in use by process %d", e.Dir, e.PID)
}

// ErrClosed is returned after Close.
var ErrClosed = errors.New("store: closed")

// reopenPause is between two attempts to open a directory that has failed.
const reopenPause = 250 * time.Millisecond

// Store is an open store. Its methods may be called concurrently.
type Store struct {
	dir  string
	data string // the name of the directory of Pebble's files in it
	sync Sync
	log  *slog.Logger
	fs   vfs.FS
	lock *os.File

	setAside []string
	failures atomic.Uint64

	mu     sync.Mutex // guards everything below
	open   *instance  // nil while the directory cannot be opened
	failed error      // why
	tried  time.Time  // when it was last attempted
	closed bool
	past   Stats // of instances before
}

// Stats are counters since Open.
type Stats struct {
	Commits  uint64 // calls of Commit that succeeded
	Groups   uint64 // what they were grouped in, each one write and one sync
	Bytes    uint64 // of committed changes
	Failures uint64 // groups that failed, and attempts to open the directory again
}

// Open opens the store in dir, which it makes (0700) when missing. Nobody else can open it until Close: that is a
// *LockedError. Damaged files are set aside, see SetAside, and what is intact in them is kept.
func Open(dir string, o Options) (*Store, error) {
	s := &Store{dir: dir, data: dataDir, sync: o.Sync, log: o.Logger, fs: o.FS}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.fs == nil {
		s.fs = vfs.Default
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	var err error
	if s.lock, err = Lock(dir, "lock"); err != nil {
		return nil, err
	}
	if s.open, err = s.check(); err != nil {
		s.lock.Close()
		return nil, fmt.Errorf("store %s: %w", dir, err)
	}
	return s, nil
}

// SetAside returns the files that Open set aside because they were damaged.
func (s *Store) SetAside() []string { return s.setAside }

// Commit makes the changes of b durable, all or none, as Options.Sync says. Concurrent calls share one sync. b may be used
// again when it has returned. An error leaves open whether b is found again later.
func (s *Store) Commit(b *Batch) error {
	if b.Len() == 0 {
		return nil
	}
	in, err := s.current()
	if err != nil {
		return err
	}
	if err := in.commit(b); err != nil {
		s.abandon(in, err)
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

// Scan calls f for every key that begins with prefix, in their order, until f returns an error, which it returns. key and
// value are valid during the call. A nil prefix is all keys.
func (s *Store) Scan(prefix []byte, f func(key, value []byte) error) error {
	in, err := s.current()
	if err != nil {
		return err
	}
	return in.scan(prefix, after(prefix), f)
}

// Range is Scan for the keys from from up to, not including, to; a nil to is up to the end.
func (s *Store) Range(from, to []byte, f func(key, value []byte) error) error {
	in, err := s.current()
	if err != nil {
		return err
	}
	return in.scan(from, to, f)
}

// current returns the open instance, opening one when the last has failed.
func (s *Store) current() (*instance, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, ErrClosed
	case s.open != nil:
		return s.open, nil
	case time.Since(s.tried) < reopenPause:
		return nil, s.failed
	}
	s.tried = time.Now()
	var in *instance
	err := s.probe()
	if err == nil {
		in, err = s.start(false)
	}
	if err != nil {
		s.failures.Add(1)
		s.failed = fmt.Errorf("store %s: %w", s.dir, err)
		return nil, s.failed
	}
	s.log.Info("store opened again", "dir", s.dir)
	s.open = in
	return in, nil
}

// abandon gives up an instance that has failed.
func (s *Store) abandon(in *instance, err error) {
	s.failures.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open != in {
		return
	}
	s.log.Error("store failed", "dir", s.dir, "error", err)
	s.open, s.failed, s.tried = nil, fmt.Errorf("store: %w", err), time.Now()
	s.past = s.stats(in)
	in.kill(err)
	go in.bury()
}

// probe reports whether the directory takes a file, which costs less than to find out by opening all.
func (s *Store) probe() (err error) {
	name := filepath.Join(s.dir, "probe")
	f, err := s.fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, 64<<10))
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close(), s.fs.Remove(name))
}

// Stats returns the present figures.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.stats(s.open)
	x.Failures = s.failures.Load()
	return x
}

// stats adds up all instances. Caller holds mu.
func (s *Store) stats(in *instance) Stats {
	x := s.past
	if in != nil {
		x.Commits += in.commits.Load()
		x.Groups += in.groups.Load()
		x.Bytes += in.bytes.Load()
	}
	return x
}

// Close closes the store. Everything committed is on the disk then, also with Never. It is idempotent.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	err := s.failed
	if s.open != nil {
		err = s.open.close()
		s.past = s.stats(s.open)
		s.open = nil
	}
	s.lock.Close()
	if err != nil {
		return fmt.Errorf("store: close: %w", err)
	}
	return nil
}

// files is the directory of Pebble's files.
func (s *Store) files() string { return filepath.Join(s.dir, s.data) }
