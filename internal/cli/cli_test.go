package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
)

func TestSupervise(t *testing.T) {
	for _, tt := range []struct {
		name    string
		signals int
		ends    bool // at the first signal
		want    int
	}{
		{"ends by itself", 0, true, 7},
		{"ends at the first signal", 1, true, 7},
		{"does not end at the first", 2, false, exitKilled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ended, signals := make(chan int, 1), make(chan os.Signal, 2)
			for range tt.signals {
				signals <- syscall.SIGINT
			}
			if tt.signals == 0 {
				ended <- 7
			}
			interrupted := 0
			got := supervise(ended, signals, func() {
				interrupted++
				if tt.ends {
					ended <- 7
				}
			})
			// A verb that has ended and a second signal may come together; here they do not.
			if got != tt.want || interrupted != min(tt.signals, 1) {
				t.Errorf("code %d after %d interrupts, want %d", got, interrupted, tt.want)
			}
		})
	}
}

// A read that never ends does not keep an interrupt from ending the verb.
func TestInterruptWhileReading(t *testing.T) {
	in, out := io.Pipe()
	t.Cleanup(func() { _ = out.Close() })
	var stdout, stderr bytes.Buffer
	ctx, cancel := context.WithCancelCause(t.Context())
	reading := readerFunc(func(p []byte) (int, error) {
		cancel(errInterrupted)
		return in.Read(p)
	})
	code := Run(ctx, []string{"pub", "x", "-"}, reading, &stdout, &stderr, nil)
	if code != exitFailed || !strings.HasPrefix(stderr.String(), "lawnberry: standard input: interrupted") {
		t.Errorf("code %d: %s", code, stderr.String())
	}
}

func TestRunInProcess(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if code := Run(t.Context(), []string{"topic", "info", "power/battery"}, strings.NewReader(""), &stdout, &stderr, nil); code != exitDone {
		t.Errorf("code %d: %s", code, stderr.String())
	}
	if !strings.Contains(stdout.String(), "lawnberry/power/battery") {
		t.Errorf("got %q", stdout.String())
	}
	stdout.Reset()
	if code := Run(t.Context(), []string{"topic", "ls"}, nil, brokenWriter{}, &stderr, nil); code != exitFailed {
		t.Errorf("code %d with an output that fails", code)
	}
	if !strings.Contains(stderr.String(), "standard output: no room") {
		t.Errorf("got %q", stderr.String())
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("no room") }
