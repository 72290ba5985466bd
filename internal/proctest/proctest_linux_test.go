package proctest

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"
)

const countEnv = "LAWNBERRY_TEST_COUNT"

// With the variable set this is a process whose threads all write to a pipe, as fast as they can.
func TestMain(m *testing.M) {
	if os.Getenv(countEnv) == "" {
		os.Exit(m.Run())
	}
	for range 4 {
		go func() {
			runtime.LockOSThread()
			for {
				fmt.Println("x")
			}
		}()
	}
	select {}
}

// TestStop: nothing is written by a process that stands, and it goes on afterwards.
//
// It was seen to fail without the wait.
func TestStop(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), countEnv+"=1")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	lines := bufio.NewReader(r)
	for range 20 {
		for range 1000 {
			if _, err := lines.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		Stop(t, cmd.Process.Pid)
		if ok, err := stands(cmd.Process.Pid); !ok || err != nil {
			t.Fatalf("it does not stand: %v", err)
		}
		if _, err := lines.Discard(lines.Buffered()); err != nil {
			t.Fatal(err)
		}
		// What is in the pipe was written before. Behind it nothing comes.
		drain(t, r)
		if err := r.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if n, err := r.Read(make([]byte, 1)); err == nil {
			t.Fatalf("a stopped process has written %d bytes", n)
		}
		if err := r.SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
}

// drain reads what a pipe holds, which is 64 KiB at most.
func drain(t *testing.T, r *os.File) {
	t.Helper()
	c, err := r.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	err = c.Read(func(fd uintptr) bool {
		for {
			if n, err := syscall.Read(int(fd), b); n <= 0 || err != nil {
				return true
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}
