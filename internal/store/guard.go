package store

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A guard is the file system that one instance sees. It makes files private (0600), decides when the log is synced, and
// can be killed: then whatever is left of the instance cannot touch a file any more.
type guard struct {
	vfs.FS
	mode Sync
	died atomic.Pointer[error]

	// Pebble panics, holding locks, when it cannot begin a new log, and what it knows of its tables is wrong when it cannot write its
	// manifest: the next flush may panic then. So once it is open, what fails at a vital file or at the directory ends the instance,
	// which refuses every commit from then on and removes nothing any more, and Pebble is told that it succeeded.
	opened atomic.Bool
	failed func(error) // ends the instance

	mu    sync.Mutex // guards everything below
	log   *guardFile // the log that is written to
	timer *time.Timer
}

func newGuard(fs vfs.FS, mode Sync) *guard { return &guard{FS: fs, mode: mode} }

func (g *guard) kill(err error) {
	g.died.CompareAndSwap(nil, &err)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.timer != nil {
		g.timer.Stop()
	}
}

func (g *guard) check() error {
	if err := g.died.Load(); err != nil {
		return *err
	}
	return nil
}

// syncNow syncs the log, whatever the mode.
func (g *guard) syncNow() error {
	g.mu.Lock()
	log := g.log
	g.timer = nil
	g.mu.Unlock()
	if log == nil || !log.dirty.Swap(false) {
		return nil
	}
	return log.File.SyncData()
}

// written is told that the log has bytes that are not synced.
func (g *guard) written(f *guardFile) {
	f.dirty.Store(true)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.log = f
	if g.mode > 0 && g.timer == nil && g.check() == nil {
		g.timer = time.AfterFunc(time.Duration(g.mode), func() {
			if err := g.syncNow(); err != nil {
				g.kill(err)
			}
		})
	}
}

// hide ends the instance for err, which is not returned when Pebble must not see it.
func (g *guard) hide(err error) error {
	if err == nil || !g.opened.Load() {
		return err
	}
	g.failed(err)
	return nil
}

// isLog and isVital tell the files by their names: a log, and what Pebble cannot do without (a log, the manifest, the marker that names it).
func isLog(name string) bool { return strings.HasSuffix(name, ".log") }

func isVital(name string) bool {
	base := filepath.Base(name)
	return isLog(base) || strings.HasPrefix(base, "MANIFEST-") || strings.HasPrefix(base, "marker.")
}

// instead returns what a new file is written to: f, or, when there is none for err and it is vital, a file in memory that nobody reads.
func (g *guard) instead(name string, f vfs.File, err error) (vfs.File, error) {
	if !isVital(name) || err == nil || g.hide(err) != nil {
		return f, err
	}
	if f, err = vfs.NewMem().Create("lost", vfs.WriteCategoryUnspecified); err != nil {
		return nil, err
	}
	return &guardFile{File: f, guard: g, log: isLog(name), vital: true}, nil
}

func (g *guard) made(name string, f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	if f.Fd() != vfs.InvalidFd {
		if err := os.Chmod(name, 0o600); err != nil {
			f.Close()
			return nil, err
		}
	}
	return &guardFile{File: f, guard: g, log: isLog(name), vital: isVital(name)}, nil
}

func (g *guard) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	err := g.check()
	var f vfs.File
	if err == nil {
		f, err = g.FS.Create(name, category)
	}
	f, err = g.made(name, f, err)
	return g.instead(name, f, err)
}

func (g *guard) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	if err := g.check(); err != nil {
		return nil, err
	}
	f, err := g.FS.OpenReadWrite(name, category, opts...)
	return g.made(name, f, err)
}

func (g *guard) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	err := g.check()
	var f vfs.File
	if err == nil {
		f, err = g.FS.ReuseForWrite(oldname, newname, category)
	}
	f, err = g.made(newname, f, err)
	return g.instead(newname, f, err)
}

func (g *guard) OpenDir(name string) (vfs.File, error) {
	f, err := g.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &guardFile{File: f, guard: g, vital: true}, nil
}

func (g *guard) Link(oldname, newname string) error {
	if err := g.check(); err != nil {
		return err
	}
	return g.FS.Link(oldname, newname)
}

func (g *guard) Remove(name string) error {
	if err := g.check(); err != nil {
		return err
	}
	return g.FS.Remove(name)
}

func (g *guard) RemoveAll(name string) error {
	if err := g.check(); err != nil {
		return err
	}
	return g.FS.RemoveAll(name)
}

func (g *guard) Rename(oldname, newname string) error {
	if err := g.check(); err != nil {
		return err
	}
	return g.FS.Rename(oldname, newname)
}

func (g *guard) MkdirAll(dir string, perm os.FileMode) error {
	if err := g.check(); err != nil {
		return err
	}
	return g.FS.MkdirAll(dir, perm&0o700)
}

// Lock does nothing: the store has a lock of its own, which a new instance has no need to take again.
func (g *guard) Lock(string) (io.Closer, error) { return unlocked{}, nil }

// Unwrap returns the file system below.
func (g *guard) Unwrap() vfs.FS { return g.FS }

type unlocked struct{}

func (unlocked) Close() error { return nil }

type guardFile struct {
	vfs.File
	guard *guard
	log   bool
	vital bool // or the directory
	dirty atomic.Bool
}

// hide is guard.hide for what Pebble cannot do without.
func (f *guardFile) hide(err error) error {
	if f.vital {
		return f.guard.hide(err)
	}
	return err
}

func (f *guardFile) Write(p []byte) (int, error) {
	err := f.guard.check()
	n := 0
	if err == nil {
		n, err = f.File.Write(p)
	}
	if err != nil && f.hide(err) == nil {
		return len(p), nil
	}
	return n, err
}

func (f *guardFile) WriteAt(p []byte, at int64) (int, error) {
	if err := f.guard.check(); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, at)
}

func (f *guardFile) Preallocate(offset, length int64) error {
	if err := f.guard.check(); err != nil {
		return f.hide(err)
	}
	return f.hide(f.File.Preallocate(offset, length))
}

func (f *guardFile) Sync() error { return f.sync(f.File.Sync) }

func (f *guardFile) SyncData() error { return f.sync(f.File.SyncData) }

// sync syncs at once, or notes that the log is to be synced later.
func (f *guardFile) sync(now func() error) error {
	if err := f.guard.check(); err != nil {
		return f.hide(err)
	}
	if f.log && f.guard.mode != Always {
		f.guard.written(f)
		return nil
	}
	return f.hide(now())
}

func (f *guardFile) SyncTo(length int64) (bool, error) {
	if err := f.guard.check(); err != nil {
		return false, err
	}
	return f.File.SyncTo(length)
}

// Close syncs a log that is still to be synced: its records may be older than what is synced next.
func (f *guardFile) Close() error {
	if f.dirty.Swap(false) && f.guard.check() == nil {
		if err := f.File.SyncData(); err != nil {
			f.guard.kill(err)
		}
	}
	return f.hide(f.File.Close())
}
