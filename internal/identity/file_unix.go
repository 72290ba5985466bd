//go:build unix

package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// lockPatience is how long Edit waits for another to finish.
const lockPatience = 5 * time.Second

// lock takes the lock file until unlock is called or the process ends.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
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

// inherit gives a file of root's to the owner of its directory, who runs the broker.
func inherit(f *os.File, dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok && s.Uid != 0 {
		return f.Chown(int(s.Uid), int(s.Gid))
	}
	return nil
}

func syncDir(d *os.File) error { return d.Sync() }
