package identity

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cheap is a hash that costs a test little.
func cheap(password string) string {
	return digest{memory: 1 << 10, time: 1, threads: 1}.of([]byte(password)).String()
}

// edit changes the users of a directory.
func edit(t testing.TB, dir string, change func(*Book) error) {
	t.Helper()
	if err := Edit(dir, change); err != nil {
		t.Fatal(err)
	}
}

// withUsers returns a directory with users whose passwords are "password of" and their names.
func withUsers(t testing.TB, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	edit(t, dir, func(b *Book) error {
		var errs []error
		for _, n := range names {
			errs = append(errs, b.Add(n, "", cheap("password of "+n)))
		}
		return errors.Join(errs...)
	})
	return dir
}

// rewrite replaces the text of the file as an editor does that writes in place.
func rewrite(t testing.TB, dir string, change func(string) string) {
	t.Helper()
	text, err := os.ReadFile(Path(dir))
	if err == nil {
		err = os.WriteFile(Path(dir), []byte(change(string(text))), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	late := time.Now().Add(time.Minute)
	for !condition() {
		if time.Now().After(late) {
			t.Fatalf("not within a minute: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// A journal is a log that can be read while it is written.
type journal struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) count(part string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Count(j.buf.String(), part)
}

func (j *journal) logger() *slog.Logger { return slog.New(slog.NewTextHandler(j, nil)) }

func TestNamesAndPasswords(t *testing.T) {
	for name, good := range map[string]bool{
		"admin": true, "navigation-2": true, "Jürgen": true, "a b": true, "": false, "a/b": false, "+": false, "a#": false, "$SYS": false,
		"a\nb": false, "a\x00": false, "\xff": false, strings.Repeat("n", 64): true, strings.Repeat("n", 65): false,
	} {
		if err := CheckName(name); (err == nil) != good {
			t.Errorf("name %q: %v", name, err)
		}
	}
	for password, good := range map[string]bool{
		"": false, "short": false, "long enough": true, "ÄÖÜäöüßé": true, "with\nbreak": false, strings.Repeat("p", 1025): false,
	} {
		if err := CheckPassword(password); (err == nil) != good {
			t.Errorf("password %q: %v", password, err)
		}
	}
	if CheckRole("") != nil || CheckRole("admin") != nil || CheckRole("a/b") == nil {
		t.Error("roles")
	}
}

func TestHash(t *testing.T) {
	one, other := Hash("right password"), Hash("right password")
	if one == other {
		t.Error("two hashes of a password are the same: no salt")
	}
	if !strings.HasPrefix(one, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("%s", one)
	}
	d, err := parseDigest(one)
	if err != nil || d.String() != one {
		t.Fatalf("%v: %v, want %s", err, d, one)
	}
	if !d.matches([]byte("right password")) || d.matches([]byte("right passwor")) || d.matches(nil) {
		t.Error("what is right does not match, or what is wrong does")
	}
	// Of the reference implementation: echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1 -l 24 -e
	d, err = parseDigest("$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc")
	if err != nil || !d.matches([]byte("password")) {
		t.Errorf("the reference's hash: %v", err)
	}
}

// A hash in the file costs each login what it says, so it may not say everything.
func TestParameterBounds(t *testing.T) {
	salt, sum := "c29tZXNhbHQ", "CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	for _, text := range []string{
		"", "password", "$argon2i$v=19$m=1024,t=1,p=1$" + salt + "$" + sum, "$argon2id$v=16$m=1024,t=1,p=1$" + salt + "$" + sum,
		"$argon2id$v=19$m=1023,t=1,p=1$" + salt + "$" + sum, "$argon2id$v=19$m=65537,t=1,p=1$" + salt + "$" + sum,
		"$argon2id$v=19$m=1024,t=0,p=1$" + salt + "$" + sum, "$argon2id$v=19$m=1024,t=9,p=1$" + salt + "$" + sum,
		"$argon2id$v=19$m=1024,t=1,p=0$" + salt + "$" + sum, "$argon2id$v=19$m=1024,t=1,p=5$" + salt + "$" + sum,
		"$argon2id$v=19$m=1024,t=1,p=257$" + salt + "$" + sum, "$argon2id$v=19$m=01024,t=1,p=1$" + salt + "$" + sum,
		"$argon2id$v=19$m=1024,t=1,p=1 $" + salt + "$" + sum, "$argon2id$v=19$m=1024,t=1,p=1$c2FsdA$" + sum,
		"$argon2id$v=19$m=1024,t=1,p=1$" + salt + "$c2hvcnQ", "$argon2id$v=19$m=1024,t=1,p=1$" + salt + "$" + sum + "$x",
		"$argon2id$v=19$m=1024,t=1,p=1$" + salt + "$" + strings.Repeat("AAAA", 40), "$argon2id$v=19$m=-1,t=1,p=1$" + salt + "$" + sum,
	} {
		if d, err := parseDigest(text); err == nil {
			t.Errorf("%q is taken as %v", text, d)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("users: []\n"))
	f.Add([]byte("users:\n- name: a\n  hash: " + cheap("password") + "\n"))
	f.Add([]byte("users:\n- {name: a, hash: b}\n- &x {name: *x}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := parse(text)
		if err != nil {
			return
		}
		for _, u := range b.Users {
			if _, err := parseDigest(u.Hash); err != nil || CheckName(u.Name) != nil {
				t.Fatalf("%+v: %v", u, err)
			}
		}
	})
}
