// Package proctest stops processes, for tests.
package proctest

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience is how long the threads of a process may take to stand, on a busy machine.
const patience = time.Minute

// Stop stops a process with SIGSTOP, and returns when all its threads stand: the signal is given to one of them, and until that has run, the others
// go on. Elsewhere than on Linux, where this cannot be seen, it does not wait.
func Stop(t testing.TB, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatalf("SIGSTOP to process %d: %v", pid, err)
	}
	if runtime.GOOS != "linux" {
		return
	}
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		stands, err := stands(pid)
		switch {
		case err != nil:
			t.Fatal(err)
		case stands:
			return
		case time.Now().After(end):
			t.Fatalf("process %d does not stand", pid)
		}
	}
}

// stands reports whether all threads of a process are stopped.
func stands(pid int) (bool, error) {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return false, err
	}
	for _, thread := range threads {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/stat", pid, thread.Name()))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) { // that thread has ended, before or after the file was opened
			continue
		}
		if err != nil {
			return false, err
		}
		if _, state, found := strings.Cut(string(b), ") "); !found || !strings.HasPrefix(state, "T") {
			return false, nil
		}
	}
	return len(threads) > 0, nil
}
