//go:build unix

package identity

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/lawnberry/lawnberry/internal/owner"
)

// Whoever owns the data directory cannot have root give him another file, by a link in the place of the lock file.
func TestLockIsNoLink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(dir, 4711, 4711); err != nil {
			t.Fatal(err)
		}
	}
	lock := filepath.Join(dir, lockName)
	if err := os.Symlink(secret, lock); err != nil {
		t.Fatal(err)
	}
	if err := Edit(dir, func(*Book) error { return nil }); err == nil {
		t.Error("the link was followed")
	}
	if got := owner.Of(secret); got != os.Geteuid() {
		t.Errorf("the file that the link leads to belongs to %d now", got)
	}
	if err := os.Remove(lock); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(secret, lock); err != nil {
		t.Fatal(err)
	}
	_ = Edit(dir, func(*Book) error { return nil }) // it may lock it: nothing is written there
	if got := owner.Of(secret); got != os.Geteuid() {
		t.Errorf("the file that the second name is of belongs to %d now", got)
	}
	if err := os.Remove(lock); err != nil {
		t.Fatal(err)
	}
	if err := Edit(dir, func(*Book) error { return nil }); err != nil {
		t.Error(err)
	}
	if owner.Of(lock) != owner.Of(dir) {
		t.Error("a new lock file is not the owner's of the directory")
	}
}
