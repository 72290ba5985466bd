package identity

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// look is how often the file is looked at.
const look = 250 * time.Millisecond

// Options configure Users.
type Options struct {
	Dir string // the data directory; "" has no file
	// Name and Password are of a user beside those of the file, instead of one of the same name there. Name "" is none.
	Name     string
	Password string
	Logger   *slog.Logger // nil discards
}

// Users are those who may log in. Methods may be called concurrently.
type Users struct {
	dir   string
	log   *slog.Logger
	fixed *entry // of Options.Name; nil without
	key   [32]byte
	dummy digest // what the password of a name that nobody has is compared with

	throttle Throttle
	gate     *gate
	pacer    pacer
	refused  atomic.Uint64 // logins while locked

	known atomic.Pointer[map[string]*entry]

	mu   sync.Mutex  // guards everything below
	info fs.FileInfo // of the file as it was read; nil when there was none
}

// An entry is a user with what has been found out since.
type entry struct {
	User
	digest digest
	right  atomic.Pointer[[sha256.Size]byte] // the keyed digest of the password, once it was right
}

// Open reads the users. It fails when the file is there and cannot be read, so that nobody is let in by mistake.
func Open(o Options) (*Users, error) {
	u := &Users{dir: o.Dir, log: o.Logger, gate: newGate()}
	if u.log == nil {
		u.log = slog.New(slog.DiscardHandler)
	}
	rand.Read(u.key[:]) // never fails
	u.dummy = cost
	u.dummy.salt, u.dummy.sum = u.key[:saltSize], make([]byte, sumSize)
	if o.Name != "" {
		u.fixed = &entry{User: User{Name: o.Name, Role: Admin}, digest: cost.of([]byte(o.Password))}
	}
	book := &Book{}
	if o.Dir != "" {
		var err error
		if book, u.info, err = load(o.Dir); err != nil {
			return nil, err
		}
	}
	u.take(book)
	return u, nil
}

// Any reports whether there is a user.
func (u *Users) Any() bool { return len(*u.known.Load()) > 0 }

// Has reports whether there is a user of that name.
func (u *Users) Has(name string) bool { return (*u.known.Load())[name] != nil }

// Disabled reports whether a user is there and must not come in.
func (u *Users) Disabled(name string) bool {
	e := (*u.known.Load())[name]
	return e != nil && e.Disabled
}

// Role returns the role of a user, "" without one.
func (u *Users) Role(name string) string {
	if e := (*u.known.Load())[name]; e != nil {
		return e.Role
	}
	return ""
}

// All returns all users, in the order of their names, with that of Options, who has no hash.
func (u *Users) All() (all []User) {
	for _, e := range *u.known.Load() {
		all = append(all, e.User)
	}
	slices.SortFunc(all, func(a, b User) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Refused returns how many logins were refused unseen: because of failures before them, or because there were too many at once.
func (u *Users) Refused() uint64 { return u.refused.Load() }

// A Change is what has become of users: the names of those who are no more, and of those who are disabled or have another password.
// The connections of both are to end.
type Change struct {
	Removed, Barred []string
}

// take makes the users of a book those that count.
func (u *Users) take(b *Book) (c Change) {
	var before map[string]*entry
	if p := u.known.Load(); p != nil {
		before = *p
	}
	now := make(map[string]*entry, len(b.Users)+1)
	for _, user := range b.Users {
		e := &entry{User: user}
		e.digest, _ = parseDigest(user.Hash) // was checked
		if old := before[user.Name]; old != nil && old.Hash == user.Hash && old.Disabled == user.Disabled {
			e.right.Store(old.right.Load())
		}
		now[user.Name] = e
	}
	if f := u.fixed; f != nil {
		if now[f.Name] != nil && before == nil {
			u.log.Warn("a user of the configuration is also in the users file: the configuration's password counts", "user", f.Name)
		}
		now[f.Name] = f
	}
	u.known.Store(&now)
	for name, old := range before {
		e := now[name]
		switch {
		case e == nil:
			u.throttle.Unlock(name, true)
			c.Removed = append(c.Removed, name)
		case e.Disabled && !old.Disabled, e.Hash != old.Hash:
			u.throttle.Unlock(name, e.Disabled)
			c.Barred = append(c.Barred, name)
		case old.Disabled && !e.Disabled:
			u.throttle.Unlock(name, false)
		}
	}
	slices.Sort(c.Removed)
	slices.Sort(c.Barred)
	return c
}

// Watch takes in what changes in the file until ctx ends. After each change it calls changed. A file that cannot be read, and one that is gone, change nothing and are logged once.
func (u *Users) Watch(ctx context.Context, changed func(Change)) {
	if u.dir == "" {
		return
	}
	tick := time.NewTicker(look)
	defer tick.Stop()
	var seen, bad fs.FileInfo // how the file was at the last look, and when it could not be read
	missing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, err := os.Stat(Path(u.dir))
		if err != nil {
			if u.read() && !missing {
				u.log.Error("the users file cannot be read: the users stay as they were", "error", err)
				missing = true
			}
			continue
		}
		missing = false
		settled := same(now, seen)
		seen = now
		if !settled || same(now, u.last()) || same(now, bad) { // who writes it by hand may not be done
			continue
		}
		book, info, err := load(u.dir)
		if err != nil {
			u.log.Error("the users file cannot be read: the users stay as they were", "error", err)
			bad = now
			continue
		}
		u.mu.Lock()
		u.info = info
		u.mu.Unlock()
		bad = nil
		c := u.take(book)
		u.log.Info("users changed", "users", len(*u.known.Load()), "removed", c.Removed, "barred", c.Barred)
		changed(c)
	}
}

func (u *Users) last() fs.FileInfo {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.info
}

// read reports whether the file has been there.
func (u *Users) read() bool { return u.last() != nil }

// same reports whether a file has not changed.
func same(a, b fs.FileInfo) bool {
	return a != nil && b != nil && os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size() && a.Mode() == b.Mode()
}

// A Login is what somebody presents.
type Login struct {
	Name     string
	Password []byte     // valid during the call
	From     netip.Addr // invalid where there is none
}

// Check returns nil when the user exists, is not disabled, and the password is the right one. Else it is ErrWrong, or, after
// a while, ErrBusy or a *LockedError. It returns soon after ctx is done.
func (u *Users) Check(ctx context.Context, l Login) error {
	ctx, cancel := context.WithTimeout(ctx, inAll)
	defer cancel()
	if wait := u.throttle.Locked(l.Name, l.From); wait > 0 {
		return u.refuse(ctx, wait)
	}
	mark := u.mark(l)
	if u.remembered(l, mark) {
		u.throttle.Succeeded(l.Name, l.From)
		return nil
	}
	if err := u.gate.enter(ctx, network(l.From)); err != nil {
		u.refused.Add(1)
		u.pacer.wait(ctx)
		return err
	}
	// While it waited others may have failed, or have been right.
	if wait := u.throttle.Locked(l.Name, l.From); wait > 0 {
		u.gate.leave(0)
		return u.refuse(ctx, wait)
	}
	if u.remembered(l, mark) {
		u.gate.leave(0)
		u.throttle.Succeeded(l.Name, l.From)
		return nil
	}
	e := (*u.known.Load())[l.Name]
	d := u.dummy
	if e != nil {
		d = e.digest
	}
	began := time.Now()
	right := d.matches(l.Password)
	if !right || e == nil || e.Disabled {
		locked := u.throttle.Failed(l.Name, l.From)
		u.gate.leave(3 * time.Since(began))
		if locked > 0 {
			u.log.Warn("logins are locked after too many failures", "user", l.Name, "address", network(l.From), "for", locked, "refused_so_far", u.Refused())
		}
		return ErrWrong
	}
	e.right.Store(&mark)
	u.gate.leave(0)
	u.throttle.Succeeded(l.Name, l.From)
	return nil
}

// refuse says for how long it is locked, when it is its turn.
func (u *Users) refuse(ctx context.Context, wait time.Duration) error {
	u.refused.Add(1)
	u.pacer.wait(ctx)
	return &LockedError{wait}
}

// mark is what a password is remembered by: of no use to who does not have the key, which is of this process.
func (u *Users) mark(l Login) (sum [sha256.Size]byte) {
	h := hmac.New(sha256.New, u.key[:])
	fmt.Fprintf(h, "%d:%s", len(l.Name), l.Name)
	h.Write(l.Password)
	h.Sum(sum[:0])
	return sum
}

// remembered reports whether the password is the one that was right before.
func (u *Users) remembered(l Login, mark [sha256.Size]byte) bool {
	e := (*u.known.Load())[l.Name]
	if e == nil || e.Disabled {
		return false
	}
	right := e.right.Load()
	return right != nil && hmac.Equal(right[:], mark[:])
}
