//go:build unix

package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/lawnberry/lawnberry/internal/owner"
)

// lockPatience is how long Edit waits for another to finish.
const lockPatience = 5 * time.Second

// lock takes the lock file until unlock is called or the process ends.
func lock(path string) (unlock func(), err error) {
	f, err := openLock(path)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(lockPatience); ; time.Sleep(lockPatience / 500) {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) || time.Now().After(end) {
			f.Close()
			return nil, fmt.Errorf("%s is locked by another process: %w", path, err)
		}
	}
}

// openLock opens the lock file, or makes it. The directory may be another's than root's, who calls this: a link that was put there is not followed, and
// only what is new is given to the directory's owner, who shall not be kept out by root's having been first.
func openLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW, 0)
	}
	if err != nil {
		return nil, err
	}
	if err := owner.Inherit(f, filepath.Dir(path)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// checkAccess refuses a file that others may read or change.
func checkAccess(path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("users: %s is no file", path)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("users: others may read or change %s (mode %04o): chmod 600 %s", path, info.Mode().Perm(), path)
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok && s.Uid != 0 && int(s.Uid) != os.Geteuid() && os.Geteuid() != 0 {
		return fmt.Errorf("users: %s belongs to user id %d: chown %d %s", path, s.Uid, os.Geteuid(), path)
	}
	return nil
}

func syncDir(d *os.File) error { return d.Sync() }
