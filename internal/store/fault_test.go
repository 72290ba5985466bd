package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// A fault makes the file operations fail from the n-th that changes something on, until it is lifted.
type fault struct {
	from   atomic.Int64 // 0 is never
	count  atomic.Int64
	err    error
	lifted atomic.Bool
	hit    atomic.Bool
	only   func(path string) bool // the files of which it counts operations; nil is all
}

func (f *fault) String() string { return "fault" }

func (f *fault) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() != errorfs.OpIsWrite || f.only != nil && !f.only(op.Path) {
		return nil
	}
	if n, from := f.count.Add(1), f.from.Load(); from > 0 && n >= from && !f.lifted.Load() {
		f.hit.Store(true)
		return &os.PathError{Op: "inject", Path: op.Path, Err: f.err}
	}
	return nil
}

// TestFaults has every operation on files fail once, the first, the second and so on, with those that follow, until the
// next attempt: what was committed is there, and the store goes on.
//
// It was seen to fail with Commit returning nil after an error of the log.
func TestFaults(t *testing.T) {
	t.Parallel()
	step := int64(5)
	if os.Getenv("LAWNBERRY_CHAOS") == "long" {
		step = 1
	}
	runs, refused, acknowledged := 0, 0, 0
	for _, cause := range []error{syscall.ENOSPC, syscall.EIO, syscall.EROFS} {
		for from := int64(1); ; from += step {
			f := &fault{err: cause}
			dir := t.TempDir()
			s := open(t, dir, Options{FS: errorfs.Wrap(vfs.Default, f)})
			f.count.Store(0)
			f.from.Store(from)
			var kept []string
			var b Batch // one for all, as the broker does it
			commit := func(key string) bool {
				b.Reset()
				b.Set([]byte(key), []byte(key))
				err := s.Commit(&b)
				if err == nil {
					kept = append(kept, key)
					acknowledged++
				} else {
					refused++
				}
				return err == nil
			}
			for i := range 40 {
				if commit(fmt.Sprintf("k%d", i)) {
					continue
				}
				if commit(fmt.Sprintf("k%d again", i)) {
					t.Fatalf("%v from operation %d: committed while the fault is there", cause, from)
				}
				f.lifted.Store(true)
				deadline := time.Now().Add(20 * time.Second)
				for !commit(fmt.Sprintf("k%d at last", i)) {
					if time.Now().After(deadline) {
						t.Fatalf("%v from operation %d: not recovered", cause, from)
					}
					time.Sleep(10 * time.Millisecond) // the store waits between attempts
				}
			}
			f.lifted.Store(true)
			if err := s.Close(); err != nil {
				t.Fatalf("%v from operation %d: close: %v", cause, from, err)
			}
			s = open(t, dir, Options{})
			if aside := s.SetAside(); len(aside) > 0 {
				t.Errorf("%v from operation %d: taken for damage: %v", cause, from, aside)
			}
			got := content(t, s, "k")
			for _, key := range kept {
				if got[key] != key {
					t.Fatalf("%v from operation %d: %s was committed and is lost", cause, from, key)
				}
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			runs++
			if !f.hit.Load() {
				break
			}
		}
	}
	t.Logf("%d runs: %d commits acknowledged, all kept; %d refused", runs, acknowledged, refused)
}

// TestManifestFaults has the operations on Pebble's manifest fail, each in turn and those that follow, while flushes and compactions are at work:
// nothing that was committed is lost, and Pebble does not go on with tables of which it has the wrong picture.
//
// It was seen to fail, with a panic in a flush, when Pebble was told that its manifest cannot be written.
func TestManifestFaults(t *testing.T) {
	t.Parallel()
	step := int64(6)
	if os.Getenv("LAWNBERRY_CHAOS") == "long" {
		step = 1
	}
	value := bytes.Repeat([]byte("v"), 64<<10)
	runs, refused, acknowledged := 0, 0, 0
	for from := int64(1); ; from += step {
		f := &fault{err: syscall.ENOSPC, only: func(path string) bool {
			base := filepath.Base(path)
			return strings.HasPrefix(base, "MANIFEST-") || strings.HasPrefix(base, "marker.")
		}}
		dir := t.TempDir()
		s := open(t, dir, Options{FS: errorfs.Wrap(vfs.Default, f), Sync: Never})
		f.count.Store(0)
		f.from.Store(from)
		var mu sync.Mutex // guards kept, refused and acknowledged
		var kept []string
		var writers sync.WaitGroup
		for w := range 4 {
			writers.Go(func() {
				var b Batch
				for i := range 80 {
					key := fmt.Sprintf("k%d-%d", w, i)
					b.Reset()
					b.Set([]byte(key), value)
					if s.Commit(&b) != nil {
						mu.Lock()
						refused++
						mu.Unlock()
						f.lifted.Store(true)
						time.Sleep(time.Millisecond) // the store waits between attempts
						continue
					}
					mu.Lock()
					kept = append(kept, key)
					acknowledged++
					mu.Unlock()
				}
			})
		}
		writers.Wait()
		f.lifted.Store(true)
		var b Batch
		b.Set([]byte("last"), value)
		for deadline := time.Now().Add(20 * time.Second); s.Commit(&b) != nil; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("from operation %d: not recovered", from)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatalf("from operation %d: close: %v", from, err)
		}
		s = open(t, dir, Options{})
		if aside := s.SetAside(); len(aside) > 0 {
			t.Errorf("from operation %d: taken for damage: %v", from, aside)
		}
		got := content(t, s, "k")
		for _, key := range kept {
			if got[key] != string(value) {
				t.Fatalf("from operation %d: %s was committed and is lost", from, key)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		runs++
		if !f.hit.Load() {
			break
		}
	}
	t.Logf("%d runs: %d commits acknowledged, all kept; %d refused", runs, acknowledged, refused)
}

// TestAbandonedBatch is the promise that a batch may be used again once Commit has returned, also when it gave up waiting
// while the committer was at work on it.
func TestAbandonedBatch(t *testing.T) {
	t.Parallel()
	in := &instance{
		queue: make(chan *request), quit: make(chan struct{}), ended: make(chan struct{}), dead: make(chan struct{}),
		files: newGuard(vfs.Default, Always),
	}
	var b Batch
	b.Set([]byte("key"), []byte("first"))
	returned := make(chan error, 1)
	go func() { returned <- in.commit(&b) }()
	r := <-in.queue
	before := bytes.Clone(r.changes)
	in.kill(syscall.EIO)
	if err := <-returned; !errors.Is(err, syscall.EIO) {
		t.Fatalf("Commit returned %v, want the instance's error", err)
	}
	if !bytes.Equal(b.data, before) {
		t.Errorf("the batch holds %q after the failure, want %q: it may be committed again", b.data, before)
	}
	b.Reset()
	b.Set([]byte("key"), []byte("other"))
	if !bytes.Equal(r.changes, before) {
		t.Errorf("the committer reads %q now, want %q", r.changes, before)
	}
}
