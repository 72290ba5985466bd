//go:build unix

package owner

import (
	"os"
	"path/filepath"
	"testing"
)

// What root makes in a directory of another's is that other's, and what anybody else makes is his own; new directories are for their owner only.
func TestInherit(t *testing.T) {
	dir := t.TempDir()
	want := os.Geteuid()
	if want == 0 {
		want = 4711
		if err := os.Chown(dir, want, want); err != nil {
			t.Fatal(err)
		}
	}
	deep := filepath.Join(dir, "a", "b")
	for range 2 { // the second time it is there
		if err := MkdirAll(deep); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Create(filepath.Join(deep, "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Inherit(f, deep); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, "a"), deep, f.Name()} {
		if got := Of(path); got != want {
			t.Errorf("%s belongs to %d, want %d", path, got, want)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.IsDir() && info.Mode().Perm() != 0o700 {
			t.Errorf("%s has mode %o", path, info.Mode().Perm())
		}
	}
	if err := MkdirAll(filepath.Join(f.Name(), "below")); err == nil {
		t.Error("a directory below a file")
	}
	if Of(filepath.Join(dir, "none")) != -1 || Group(filepath.Join(dir, "none")) != -1 {
		t.Error("nothing has an owner")
	}
}

// What has a second name may be anybody's, and is not given away.
func TestLinksAreNotGivenAway(t *testing.T) {
	dir := t.TempDir()
	if os.Geteuid() == 0 {
		if err := os.Chown(dir, 4711, 4711); err != nil {
			t.Fatal(err)
		}
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Link(secret, link); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(link)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Inherit(f, dir); (err != nil) != (os.Geteuid() == 0) {
		t.Error(err)
	}
	if got := Of(secret); got != os.Geteuid() {
		t.Errorf("now it belongs to %d", got)
	}
	if err := makeIn(dir, "link"); err != nil { // what is in the way is left as it is
		t.Error(err)
	}
	if err := makeIn(dir, "../above"); err == nil {
		t.Error("a directory elsewhere")
	}
}
