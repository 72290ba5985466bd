//go:build unix

package app

import (
	"io/fs"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/internal/identity"
	"github.com/lawnberry/lawnberry/internal/owner"
)

// aGroup returns a group that this process may give its files to: one of its own, or for root any other than root's.
func aGroup(t *testing.T) *user.Group {
	t.Helper()
	ids, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		ids = []int{1, 2, 12} // daemon, bin, man
	}
	for _, id := range append(ids, os.Getegid()) {
		if g, err := user.LookupGroupId(strconv.Itoa(id)); err == nil {
			return g
		}
	}
	t.Fatal("this user has no group with a name")
	return nil
}

// The socket and the way to it are a group's, and nobody else's; without the key they are the owner's alone.
func TestSocketGroup(t *testing.T) {
	t.Parallel()
	group := aGroup(t)
	gid, _ := strconv.Atoi(group.Gid)
	mode := func(path string) fs.FileMode {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode().Perm()
	}
	for _, before := range []fs.FileMode{0, 0o700, 0o710, 0o755, 0o777} {
		dir := filepath.Join(t.TempDir(), "data")
		if before != 0 {
			if err := os.Mkdir(dir, before); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(dir, before); err != nil {
				t.Fatal(err)
			}
		}
		c := settings()
		c.Broker.SocketGroup = group.Name
		start(t, Options{Config: c, DataDir: dir})
		socket := filepath.Join(dir, "lawnberry.sock")
		if m := mode(dir); m&0o017 != 0o010 || m&0o700 != 0o700 || owner.Group(dir) != gid {
			t.Errorf("from %o: the directory has %o, group %d", before, m, owner.Group(dir))
		}
		if m := mode(socket); m != 0o660 || owner.Group(socket) != gid {
			t.Errorf("from %o: the socket has %o, group %d", before, m, owner.Group(socket))
		}
	}
	plain := filepath.Join(t.TempDir(), "data")
	start(t, Options{Config: settings(), DataDir: plain})
	if m := mode(plain); m != 0o700 {
		t.Errorf("without the key the directory has %o", m)
	}
}

func TestSocketGroupThatIsNone(t *testing.T) {
	t.Parallel()
	c := settings()
	c.Broker.SocketGroup = "no-such-group"
	a, err := Start(t.Context(), Options{Config: c, DataDir: t.TempDir()})
	if a != nil || err == nil || !strings.Contains(err.Error(), `broker.socket_group: there is no group "no-such-group"`) {
		t.Errorf("got %v", err)
	}
}

// Who is another user needs a login on the socket, unless the socket is a group's; over the network everybody does.
func TestWhoNeedsNoLogin(t *testing.T) {
	t.Parallel()
	stranger := &broker.Peer{PID: 1, UID: os.Geteuid() + 4711, GID: 4711}
	for _, group := range []string{"", "mower"} {
		c := settings()
		c.Broker.SocketGroup = group
		dir := t.TempDir()
		if err := identity.Edit(dir, func(b *identity.Book) error { return b.Add("anna", "", identity.Hash("a long password")) }); err != nil {
			t.Fatal(err)
		}
		l, err := newLogins(c, dir, []byte("trusted"), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		for name, peer := range map[string]*broker.Peer{"network": nil, "stranger": stranger, "ours": {UID: os.Geteuid()}} {
			who, err := l.identify(t.Context(), broker.Login{ClientID: "x", Peer: peer})
			want := name == "ours" || name == "stranger" && group != ""
			if in := err == nil; in != want || who.Trusted != want {
				t.Errorf("group %q, %s: %+v, %v", group, name, who, err)
			}
		}
	}
}

// Root does not write into a data directory of somebody else's, who could not start any more.
func TestDirectoryOfAnother(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := checkOwner(dir); err != nil {
		t.Error(err)
	}
	if os.Geteuid() != 0 {
		return // nobody else can give it away
	}
	if err := os.Chown(dir, 4711, 4711); err != nil {
		t.Fatal(err)
	}
	a, err := Start(t.Context(), Options{Config: settings(), DataDir: dir})
	if a != nil || err == nil || !strings.Contains(err.Error(), "belongs to user id 4711") || !strings.Contains(err.Error(), "sudo -u '#4711'") {
		t.Errorf("got %v", err)
	}
	if names, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(names) != 0 {
		t.Errorf("left behind: %v", names)
	}
}
