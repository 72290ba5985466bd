package app

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/identity"
)

// addUsers adds users whose passwords are "password of" and their names.
func addUsers(t testing.TB, dir string, names ...string) {
	t.Helper()
	err := identity.Edit(dir, func(b *identity.Book) error {
		for _, name := range names {
			if err := b.Add(name, "", identity.Hash("password of "+name)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// in connects as a user, and leaves again.
func in(t testing.TB, url, user, password string) error {
	t.Helper()
	for late := time.Now().Add(time.Minute); ; {
		c, err := client.Connect(t.Context(), client.Options{URL: url, FailFast: true, Username: user, Password: client.Secret(password)})
		if err == nil {
			err = c.Close(t.Context())
		}
		if !refused(err, 0x89) || time.Now().After(late) { // on a starved machine there are too many logins at once
			return err
		}
	}
}

// refused is that a connection is refused with that reason code.
func refused(err error, code byte) bool {
	var connect *client.ConnectError
	return errors.As(err, &connect) && connect.Code == code
}

func urls(a *App) map[string]string {
	m := map[string]string{}
	for e := range a.Endpoints() {
		m[e.Network] = e.URL
	}
	return m
}

func TestLogins(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	for name, tt := range map[string]struct {
		users              []string
		set                func(*config.Config)
		nothing, mower, of bool // is let in: who presents nothing, user mower of the file, user c of the configuration
		stranger           bool // is let in, with a name that nobody has
	}{
		"nothing configured": {nil, func(*config.Config) {}, true, true, true, true},
		"users":              {[]string{"mower"}, func(*config.Config) {}, false, true, false, false},
		"users, and others":  {[]string{"mower"}, func(c *config.Config) { c.Broker.AllowAnonymous = &yes }, true, true, false, false},
		"configuration": {nil, func(c *config.Config) {
			c.Broker.Auth = config.Auth{Enabled: true, Username: "c", Password: "password of c"}
		}, false, false, true, false},
		"both": {[]string{"mower"}, func(c *config.Config) {
			c.Broker.Auth = config.Auth{Enabled: true, Username: "c", Password: "password of c"}
		}, false, true, true, false},
		"users only, and WebSocket": {[]string{"mower"}, func(c *config.Config) {
			c.Broker.AllowAnonymous = &no
			c.Broker.WebSockets = config.WebSockets{Enabled: true}
		}, false, true, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if tt.users != nil {
				addUsers(t, dir, tt.users...)
			}
			c := settings()
			c.Monitoring.HealthChecks.Enabled = true // the supervisor logs in by itself
			tt.set(c)
			a := start(t, Options{Config: c, DataDir: dir})
			for network, url := range urls(a) {
				local := network == "unix"
				for who, l := range map[string]struct {
					user, password string
					want           bool
				}{
					"nothing": {"", "", tt.nothing}, "mower": {"mower", "password of mower", tt.mower}, "c": {"c", "password of c", tt.of},
					"stranger": {"stranger", "password of stranger", tt.stranger},
				} {
					err := in(t, url, l.user, l.password)
					if want := l.want || local; (err == nil) != want || err != nil && !refused(err, 0x86) {
						t.Errorf("%s as %s: %v", network, who, err)
					}
				}
			}
		})
	}
}

// What would let everybody in from the network, or nobody at all, does not start, and says what mends it.
func TestOpenIsRefused(t *testing.T) {
	t.Parallel()
	no := false
	for name, set := range map[string]func(*config.Config){
		"everywhere":           func(c *config.Config) { c.Broker.BindAddress = "0.0.0.0" },
		"everywhere by IPv6":   func(c *config.Config) { c.Broker.BindAddress = "::" },
		"a name":               func(c *config.Config) { c.Broker.BindAddress = "mower.local" },
		"with WebSocket":       func(c *config.Config) { c.Broker.BindAddress, c.Broker.WebSockets.Enabled = "0.0.0.0", true },
		"nobody may come in":   func(c *config.Config) { c.Broker.AllowAnonymous = &no },
		"everywhere, for none": func(c *config.Config) { c.Broker.BindAddress, c.Broker.AllowAnonymous = "0.0.0.0", &no },
	} {
		dir := filepath.Join(t.TempDir(), "data")
		if strings.HasPrefix(name, "everywhere,") { // a file without users is as none
			if err := identity.Edit(dir, func(*identity.Book) error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
		c := settings()
		set(c)
		_, err := Start(t.Context(), Options{Config: c, DataDir: dir})
		var open *OpenError
		if !errors.As(err, &open) || !strings.Contains(err.Error(), `"lawnberry user add admin --data-dir `+dir+`"`) ||
			!strings.Contains(err.Error(), "LAWNBERRY_BROKER_BIND_ADDRESS=localhost") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := c.BrokerOptions(dir); err == nil {
			t.Errorf("%s: the configuration alone gives options", name)
		}
	}
}

// A users file that cannot be read keeps the broker from starting: nobody is let in by mistake.
func TestBadUsersFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(identity.Path(dir), []byte("users: ["), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), Options{Config: settings(), DataDir: dir}); err == nil || !strings.Contains(err.Error(), "users.yaml") {
		t.Errorf("%v", err)
	}
}

// What is changed in the users counts within a second: the connections of who is removed, disabled or has another password end, and
// theirs only. Seen failing with a broker that looks at the users at logins only.
func TestUsersChange(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := start(t, Options{Config: settings(), DataDir: dir})
	url, socket := urls(a)["tcp"], urls(a)["unix"]
	type link struct {
		*client.Client
		user string
	}
	connect := func(url, user, password string) link {
		t.Helper()
		c, err := client.Connect(t.Context(), client.Options{
			URL: url, ID: "client of " + user + " by " + url[:4], Username: user, Password: client.Secret(password), FailFast: true,
		})
		if err != nil {
			t.Fatalf("%s: %v", user, err)
		}
		t.Cleanup(func() { _ = c.Close(context.Background()) })
		return link{c, user}
	}
	early := connect(url, "", "") // before there were users
	addUsers(t, dir, "removed", "disabled", "changed", "stays")
	eventually(t, "a login is needed", func() bool { return refused(in(t, url, "", ""), 0x86) })
	if !early.Connected() {
		t.Error("the first user put out who was there")
	}
	var ends, stay []link
	for _, user := range []string{"removed", "disabled", "changed"} {
		ends = append(ends, connect(url, user, "password of "+user))
		stay = append(stay, connect(socket, user, "")) // whoever runs the broker
	}
	stay = append(stay, early, connect(url, "stays", "password of stays"))
	err := identity.Edit(dir, func(b *identity.Book) error {
		return errors.Join(b.Remove("removed"), b.Change("disabled", func(u *identity.User) { u.Disabled = true }),
			b.Change("changed", func(u *identity.User) { u.Hash = identity.Hash("another password") }))
	})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for _, l := range ends {
		eventually(t, "the connection of "+l.user+" ends", func() bool { return !l.Connected() })
		_ = l.Close(t.Context()) // else it comes again, in vain
	}
	if took := time.Since(began); took > time.Second {
		t.Logf("the connections took %v to end", took) // on a busy machine
	}
	for _, l := range stay {
		if !l.Connected() {
			t.Errorf("a connection of %q has ended", l.user)
		}
	}
	for _, user := range []string{"removed", "disabled", "changed"} {
		// The clients may have come again before they were closed, which was a failure too.
		if err := in(t, url, user, "password of "+user); !refused(err, 0x86) && !refused(err, 0x9F) {
			t.Errorf("%s: %v", user, err)
		}
	}
	if err := in(t, url, "changed", "another password"); err != nil {
		t.Error(err)
	}
}

// Who guesses is locked out; a process of the broker's own user on the Unix socket is not, whatever it presents.
func TestLockedOut(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	addUsers(t, dir, "mower")
	a := start(t, Options{Config: settings(), DataDir: dir})
	url, socket := urls(a)["tcp"], urls(a)["unix"]
	locked := false
	for guesses := 0; guesses < 20 && !locked; {
		switch err := in(t, url, "mower", fmt.Sprint("guess", guesses)); {
		case refused(err, 0x9F):
			locked = true
		case refused(err, 0x86):
			guesses++
		case !refused(err, 0x89): // too many log in at once: other tests do, too
			t.Fatal(err)
		}
	}
	if !locked {
		t.Error("20 guesses and no lock")
	}
	if err := in(t, url, "mower", "password of mower"); err != nil && !refused(err, 0x9F) && !refused(err, 0x89) {
		t.Error(err)
	}
	for range 20 {
		if err := in(t, socket, "mower", "guess"); err != nil {
			t.Fatal(err)
		}
	}
}

// The Unix socket is for those that could read the users file anyway; others log in.
func TestPeers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	addUsers(t, dir, "mower")
	l, err := newLogins(settings(), dir, []byte("trusted"), nil)
	if err != nil {
		t.Fatal(err)
	}
	own, other := os.Geteuid(), os.Geteuid()+1
	for name, tt := range map[string]struct {
		who  broker.Login
		want broker.Identity
		in   bool
	}{
		"own":           {broker.Login{Peer: &broker.Peer{UID: own}, ClientID: "c"}, broker.Identity{User: "c", Trusted: true}, true},
		"own, a name":   {broker.Login{Peer: &broker.Peer{UID: own}, ClientID: "c", Username: "u"}, broker.Identity{User: "u", Trusted: true}, true},
		"root":          {broker.Login{Peer: &broker.Peer{UID: 0}, ClientID: "c"}, broker.Identity{User: "c", Trusted: true}, true},
		"another":       {broker.Login{Peer: &broker.Peer{UID: other}, ClientID: "c"}, broker.Identity{}, false},
		"nobody knows":  {broker.Login{ClientID: "c"}, broker.Identity{}, false},
		"this process":  {broker.Login{ClientID: "c", HasPassword: true, Password: []byte("trusted")}, broker.Identity{User: "c", Trusted: true}, true},
		"nearly":        {broker.Login{ClientID: "c", HasPassword: true, Password: []byte("truste")}, broker.Identity{}, false},
		"another, user": {broker.Login{Peer: &broker.Peer{UID: other}, Username: "mower", HasPassword: true, Password: []byte("password of mower")}, broker.Identity{User: "mower"}, true},
		"by address": {broker.Login{Address: netip.MustParseAddr("192.0.2.1"), Username: "mower", HasPassword: true, Password: []byte("password of mower")},
			broker.Identity{User: "mower"}, true},
	} {
		id, err := l.identify(t.Context(), tt.who)
		for errors.Is(err, identity.ErrBusy) { // other tests log in too
			id, err = l.identify(t.Context(), tt.who)
		}
		if (err == nil) != tt.in || id != tt.want {
			t.Errorf("%s: %+v, %v", name, id, err)
		}
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
