package identity

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestEdit(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	edit(t, dir, func(b *Book) error {
		return errors.Join(b.Add("mower", "", cheap("p")), b.Add("admin", Admin, cheap("q")))
	})
	for path, want := range map[string]os.FileMode{dir: 0o700, Path(dir): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	edit(t, dir, func(b *Book) error { return b.Change("mower", func(u *User) { u.Disabled = true }) })
	b, err := Load(dir)
	if err != nil || len(b.Users) != 2 || b.Users[0].Name != "admin" || b.Find("admin").Role != Admin || !b.Find("mower").Disabled {
		t.Fatalf("%+v, %v", b, err)
	}
	before, _ := os.ReadFile(Path(dir))
	for what, change := range map[string]func(*Book) error{
		"twice":    func(b *Book) error { return b.Add("admin", "", cheap("p")) },
		"unknown":  func(b *Book) error { return b.Change("nobody", func(*User) {}) },
		"remove":   func(b *Book) error { return b.Remove("nobody") },
		"bad name": func(b *Book) error { return b.Add("a/b", "", cheap("p")) },
		"bad hash": func(b *Book) error { return b.Add("x", "", "secret") },
	} {
		if err := Edit(dir, change); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if after, _ := os.ReadFile(Path(dir)); string(after) != string(before) {
		t.Errorf("a refused change has changed the file:\n%s", after)
	}
	edit(t, dir, func(b *Book) error { return errors.Join(b.Remove("admin"), b.Remove("mower")) })
	if b, err := Load(dir); err != nil || len(b.Users) != 0 {
		t.Errorf("%+v, %v", b, err)
	}
	left, _ := filepath.Glob(filepath.Join(dir, ".*"))
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// Writers at the same time lose nothing of each other. Seen failing without the lock.
func TestEditsAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	hash := cheap("password")
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			if err := Edit(dir, func(b *Book) error { return b.Add(fmt.Sprint("user", i), "", hash) }); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if b, err := Load(dir); err != nil || len(b.Users) != 20 {
		t.Errorf("%d users, %v", len(b.Users), err)
	}
}

func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	hash := cheap("password")
	for what, c := range map[string]struct{ text, want string }{
		"nothing":       {"", "is empty"},
		"no YAML":       {"users: [", "yaml"},
		"unknown key":   {"users:\n- name: a\n  password: hunter22\n", "line 3"},
		"a bare hash":   {"users:\n- name: a\n  hash: hunter22\n", "is no argon2id hash"},
		"twice":         {"users:\n- {name: a, hash: " + `"` + hash + `"` + "}\n- {name: a, hash: " + `"` + hash + `"` + "}\n", "user a is there twice"},
		"a name":        {"users:\n- {name: a/b, hash: " + `"` + hash + `"` + "}\n", "user 1: user name"},
		"a wrong kind":  {"users: hunter22\n", "line 1"},
		"two documents": {"users: []\n---\nusers: []\n", "more than one"},
		"much":          {"users: []\n#" + strings.Repeat("x", maxFile), "is larger"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(Path(dir), []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Load(dir)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter22") {
			t.Errorf("%s: %v, want %q and no secret", what, err, c.want)
		}
		if _, err := Open(Options{Dir: dir}); err == nil {
			t.Errorf("%s: opened", what)
		}
		if err := Edit(dir, func(*Book) error { return nil }); err == nil {
			t.Errorf("%s: overwritten", what)
		}
	}
}

func TestLoadRefusesWhatOthersRead(t *testing.T) {
	t.Parallel()
	dir := withUsers(t, "admin")
	for _, mode := range []os.FileMode{0o644, 0o640, 0o620, 0o604} {
		if err := os.Chmod(Path(dir), mode); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "chmod 600 "+Path(dir)) {
			t.Errorf("%o: %v", mode, err)
		}
	}
}
