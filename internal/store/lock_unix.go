//go:build unix

package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// lockPatience is how long Lock waits for another's lock. A process that was killed may take a moment to end; and one that starts
// another has its locks twice until the other has begun.
const lockPatience = 300 * time.Millisecond

// Lock takes dir for this process by locking the file of that name in it, until the file is closed or the process ends, however
// it ends. When another process has it that is a *LockedError.
func Lock(dir, name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	for end := time.Now().Add(lockPatience); ; time.Sleep(lockPatience / 30) {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) || time.Now().After(end) {
			break
		}
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		note := make([]byte, 16)
		n, _ := f.ReadAt(note, 0)
		pid, _ := strconv.Atoi(strings.TrimSpace(string(note[:n]))) // 0 when it is not written yet
		f.Close()
		return nil, &LockedError{dir, pid}
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("store: lock %s: %w", dir, err)
	}
	return f, nil
}
