package identity

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// opened opens the users of a directory and watches them until the test ends. What changed is called with comes from gone.
func opened(t testing.TB, o Options) (u *Users, gone chan Change) {
	t.Helper()
	u, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	u.dummy.memory, u.dummy.time = 1<<10, 1
	ctx, cancel := context.WithCancel(context.Background())
	gone = make(chan Change, 16)
	var watching sync.WaitGroup
	watching.Go(func() { u.Watch(ctx, func(c Change) { gone <- c }) })
	t.Cleanup(func() {
		cancel()
		watching.Wait()
	})
	return u, gone
}

func login(name, password string) Login {
	return Login{Name: name, Password: []byte(password), From: home}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	dir := withUsers(t, "mower", "off")
	edit(t, dir, func(b *Book) error { return b.Change("off", func(u *User) { u.Disabled = true }) })
	u, _ := opened(t, Options{Dir: dir, Name: "config", Password: "of the config"})
	for range 2 { // hashed, and remembered
		for _, l := range []Login{login("mower", "password of mower"), login("config", "of the config")} {
			if err := u.Check(t.Context(), l); err != nil {
				t.Errorf("%s: %v", l.Name, err)
			}
		}
	}
	for i, l := range []Login{
		login("mower", "password of mowe"), login("mower", ""), login("", ""), login("Mower", "password of mower"), login("off", "password of off"),
		login("mower", "of the config"), login("config", "password of mower"),
	} {
		l.From = office
		if i >= 4 { // not locked yet
			l.From = home
		}
		if err := u.Check(t.Context(), l); err != ErrWrong {
			t.Errorf("%q with %q: %v", l.Name, l.Password, err)
		}
	}
	if !u.Any() || u.Role("config") != Admin || u.Role("nobody") != "" {
		t.Error("roles")
	}
}

// The fifth failure locks, whatever the password is then, and a user who has been there is let in all the same.
func TestCheckLocks(t *testing.T) {
	t.Parallel()
	var log journal
	u, _ := opened(t, Options{Dir: withUsers(t, "mower", "second"), Logger: log.logger()})
	if err := u.Check(t.Context(), login("mower", "password of mower")); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		l := login("mower", fmt.Sprint("guess", i))
		l.From = office
		if err := u.Check(t.Context(), l); err != ErrWrong {
			t.Fatalf("guess %d: %v", i, err)
		}
	}
	for range 5 { // so that it does not end on a busy machine
		u.throttle.Failed("mower", office)
	}
	l := login("mower", "password of mower")
	l.From = office
	var locked *LockedError
	if err := u.Check(t.Context(), l); !errors.As(err, &locked) || locked.Wait <= 0 || locked.Wait > 32*time.Second {
		t.Errorf("the right password in a lock: %v", err)
	}
	if err := u.Check(t.Context(), login("mower", "password of mower")); err != nil {
		t.Errorf("where it was before: %v", err)
	}
	if u.Refused() != 1 || log.count("logins are locked") != 1 {
		t.Errorf("%d refused, the log says it %d times", u.Refused(), log.count("logins are locked"))
	}
}

// Logins at once are hashed one after the other, once for a password, and what does not get its turn is told so.
func TestCheckAtOnce(t *testing.T) {
	t.Parallel()
	u, _ := opened(t, Options{Dir: withUsers(t, "mower")})
	var all sync.WaitGroup
	for range 30 {
		all.Go(func() {
			if err := u.Check(t.Context(), login("mower", "password of mower")); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	u.gate.slot <- struct{}{}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := u.Check(ctx, login("nobody", "password")); err != ErrBusy {
		t.Errorf("without a turn: %v", err)
	}
	if err := u.Check(ctx, login("mower", "password of mower")); err != nil {
		t.Errorf("a remembered one waits for a turn: %v", err)
	}
	<-u.gate.slot
}

// Guesses at once do not get more tries than one after the other. Seen failing with the lock looked at before the turn only.
func TestGuessesAtOnce(t *testing.T) {
	t.Parallel()
	u, _ := opened(t, Options{Dir: withUsers(t, "mower")})
	var all sync.WaitGroup
	results := make(chan error, 30)
	u.gate.slot <- struct{}{} // until all wait
	for i := range 30 {
		all.Go(func() { results <- u.Check(t.Context(), login("mower", fmt.Sprint("guess", i))) })
	}
	eventually(t, "all wait", func() bool {
		u.gate.mu.Lock()
		defer u.gate.mu.Unlock()
		return u.gate.waiting == 30
	})
	<-u.gate.slot
	all.Wait()
	close(results)
	wrong := 0
	for err := range results {
		if err == ErrWrong {
			wrong++
		}
	}
	if wrong < 5 || wrong > 6 { // six when it took longer than the first lock
		t.Errorf("%d of 30 guesses were looked at", wrong)
	}
}

// What changes in the file counts within a second, whoever wrote it, and those concerned are named.
func TestWatch(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	u, gone := opened(t, Options{Dir: dir})
	if u.Any() {
		t.Fatal("users without a file")
	}
	edit(t, dir, func(b *Book) error {
		return errors.Join(b.Add("a", "", cheap("password of a")), b.Add("b", "", cheap("password of b")), b.Add("c", "", cheap("password of c")))
	})
	next := func(removed, barred string) {
		t.Helper()
		if got := <-gone; strings.Join(got.Removed, " ") != removed || strings.Join(got.Barred, " ") != barred {
			t.Errorf("%+v, want removed %s, barred %s", got, removed, barred)
		}
	}
	next("", "")
	for _, name := range []string{"a", "b", "c"} {
		if err := u.Check(t.Context(), login(name, "password of "+name)); err != nil {
			t.Error(err)
		}
	}
	edit(t, dir, func(b *Book) error {
		return errors.Join(b.Remove("a"), b.Change("b", func(u *User) { u.Hash = cheap("another password") }))
	})
	next("a", "b")
	for l, want := range map[*Login]error{
		{Name: "a", Password: []byte("password of a")}: ErrWrong, {Name: "b", Password: []byte("password of b")}: ErrWrong,
		{Name: "b", Password: []byte("another password")}: nil, {Name: "c", Password: []byte("password of c")}: nil,
	} {
		if err := u.Check(t.Context(), *l); err != want {
			t.Errorf("%s with %q: %v", l.Name, l.Password, err)
		}
	}
	rewrite(t, dir, func(text string) string {
		return strings.Replace(text, "- name: c", "- name: c\n    disabled: true", 1)
	})
	next("", "c")
	rewrite(t, dir, func(text string) string { return strings.Replace(text, "    disabled: true\n", "", 1) })
	next("", "")
	if err := u.Check(t.Context(), login("c", "password of c")); err != nil {
		t.Error(err)
	}
}

// A file that cannot be read, is readable by others, or is gone, leaves the users as they were, and the log says so once.
func TestWatchKeepsTheLastGoodState(t *testing.T) {
	t.Parallel()
	var log journal
	dir := withUsers(t, "mower")
	good, err := os.ReadFile(Path(dir))
	if err != nil {
		t.Fatal(err)
	}
	u, gone := opened(t, Options{Dir: dir, Logger: log.logger()})
	for i, spoil := range []func(){
		func() { rewrite(t, dir, func(text string) string { return text[:len(text)/2] }) },
		func() { rewrite(t, dir, func(string) string { return "" }) },
		func() { _ = os.Chmod(Path(dir), 0o644) },
		func() { _ = os.Remove(Path(dir)) },
	} {
		spoil()
		eventually(t, "the log says it", func() bool { return log.count("level=ERROR") == i+1 })
		if err := u.Check(t.Context(), login("mower", "password of mower")); err != nil || !u.Any() {
			t.Errorf("%d: %v", i, err)
		}
	}
	time.Sleep(3 * look)
	if n := log.count("level=ERROR"); n != 4 || len(gone) > 0 {
		t.Errorf("%d errors logged for 4, %d changes", n, len(gone))
	}
	if err := os.WriteFile(Path(dir), good, 0o600); err != nil {
		t.Fatal(err)
	}
	if c := <-gone; len(c.Removed)+len(c.Barred) > 0 {
		t.Errorf("%+v", c)
	}
}

// A name that nobody has costs a hash, as one that exists does. It is counted, not timed: a name that is not there is looked for like others.
func TestUnknownNamesCostAHash(t *testing.T) {
	t.Parallel()
	u, err := Open(Options{Dir: withUsers(t, "mower")})
	if err != nil {
		t.Fatal(err)
	}
	if d := u.dummy; d.memory != cost.memory || d.time != cost.time || d.threads != cost.threads || len(d.sum) != sumSize {
		t.Errorf("the hash of a name that nobody has: %v", d)
	}
	u.gate.slot <- struct{}{}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := u.Check(ctx, login("nobody", "password")); err != ErrBusy {
		t.Errorf("a name that nobody has needs no turn: %v", err)
	}
	<-u.gate.slot
}

func BenchmarkCheck(b *testing.B) {
	u, _ := opened(b, Options{Dir: withUsers(b, "mower")})
	b.Run("remembered", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := u.Check(b.Context(), login("mower", "password of mower")); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("hash", func(b *testing.B) {
		b.ReportAllocs()
		d := cost.of([]byte("password"))
		for b.Loop() {
			d.matches([]byte("passwort"))
		}
	})
}
