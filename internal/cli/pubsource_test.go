package cli

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/lawnberry/lawnberry/internal/load"
)

// A pipe that nobody writes to is waited for, until somebody does or an interrupt ends the waiting.
func TestOpenFileOfAPipe(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := exec.Command("mkfifo", pipe).Run(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errInterrupted)
	if f, err := openFile(ctx, pipe); f != nil || !errors.Is(err, errInterrupted) {
		t.Errorf("got %v, %v, want an interrupt", f, err)
	}
	b := bench{compare: pipe, plan: load.Plan{Kind: load.Latency}}
	if _, err := b.before(ctx); !errors.Is(err, errInterrupted) {
		t.Errorf("--compare: got %v, want an interrupt", err)
	}
	writer, err := os.OpenFile(pipe, os.O_RDWR, 0) // which waits for nobody; those who have waited until now are let go too
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	f, err := openFile(t.Context(), pipe)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if _, err := openFile(t.Context(), filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want that there is none", err)
	}
}
