package broker

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// as is the user name of a CONNECT.
func as(user string) choice {
	return func(p *packet.Connect) { p.HasUser, p.Username = true, []byte(user) }
}

// byName lets everybody in under the name that they give, "root" as trusted.
func byName(_ context.Context, l Login) (Identity, error) {
	return Identity{User: l.Username, Trusted: l.Username == "root"}, nil
}

// It is told why a login is refused when that is temporary: a client that gives up at a wrong password does not then.
func TestLoginRefusals(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{Identify: func(_ context.Context, l Login) (Identity, error) {
			return Identity{}, map[string]error{
				"busy": fmt.Errorf("x: %w", ErrBusy), "locked": fmt.Errorf("x: %w", ErrLocked), "wrong": errors.New("secret"),
			}[l.Username]
		}})
		for user, want := range map[string]map[packet.Version]packet.Code{
			"busy":   {packet.V5: packet.ServerBusy, packet.V311: packet.ServerUnavailable},
			"locked": {packet.V5: packet.ConnectionRateExceeded, packet.V311: packet.ServerUnavailable},
			"wrong":  {packet.V5: packet.BadUserNameOrPassword, packet.V311: packet.BadUserNameOrPassword},
		} {
			c := dial(t, b, "tcp")
			ack := c.connect(v, "c", as(user))
			if ack.Code != want[v] || strings.Contains(string(ack.Properties.ReasonString), "secret") {
				t.Errorf("%s: %v %s", user, ack.Code, ack.Properties.ReasonString)
			}
			c.closes()
		}
	})
}

// A login says what it came over, from which address, and at a Unix socket from which process.
func TestLoginOrigin(t *testing.T) {
	t.Parallel()
	seen := make(chan Login, 1)
	b := start(t, Options{Listeners: everywhere(t), Authenticate: func(_ context.Context, l Login) error {
		seen <- l
		return nil
	}})
	for how, network := range map[string]string{"tcp": "tcp", "ssl": "tcp", "ws": "ws", "wss": "ws", "unix": "unix", "pipe": "pipe"} {
		dial(t, b, how).connect(packet.V5, "c "+how)
		l := <-seen
		if l.Network != network || l.Remote == "" {
			t.Errorf("%s: network %q, remote %q", how, l.Network, l.Remote)
		}
		if remote := network == "tcp" || network == "ws"; l.Address.IsLoopback() != remote || l.Address.IsValid() != remote {
			t.Errorf("%s: address %v", how, l.Address)
		}
		if known := how == "unix" && runtime.GOOS == "linux"; (l.Peer != nil) != known {
			t.Errorf("%s: peer %+v", how, l.Peer)
		} else if known && (l.Peer.UID != os.Geteuid() || l.Peer.PID != os.Getpid() || l.Peer.GID != os.Getegid()) {
			t.Errorf("%s: peer %+v", how, l.Peer)
		}
	}
}

// The connections of a user end, with the reason, and those of others go on.
func TestDisconnectUser(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{Identify: byName})
		a1, a2 := connect(t, b, v, "a1", as("alice")), connect(t, b, v, "a2", as("alice"), keep)
		bob, nobody := connect(t, b, v, "b", as("bob")), connect(t, b, v, "n")
		n := b.Disconnect(func(c Client) bool {
			if c.Remote == "" || c.ID == "" {
				t.Errorf("%+v", c)
			}
			return c.User == "alice"
		}, "user alice is disabled", false)
		if n != 2 {
			t.Errorf("%d ended", n)
		}
		a1.ends(packet.AdministrativeAction)
		a2.ends(packet.AdministrativeAction)
		bob.nothing()
		nobody.nothing()
		if _, ack := connected(t, b, v, "a2", as("alice"), keep); !ack.SessionPresent {
			t.Error("the session is gone")
		}
	})
}

// Who is being let in while the user is removed does not stay. Seen failing without the look at what has happened meanwhile.
func TestDisconnectDuringLogin(t *testing.T) {
	t.Parallel()
	asked, goOn := make(chan struct{}), make(chan struct{})
	b := start(t, Options{Identify: func(ctx context.Context, l Login) (Identity, error) {
		close(asked)
		<-goOn
		return byName(ctx, l)
	}})
	c := dial(t, b, "tcp")
	p := packet.Connect{ClientID: []byte("a"), CleanStart: true}
	as("alice")(&p)
	c.v = packet.V5
	c.send(&p)
	<-asked
	b.Disconnect(func(c Client) bool { return c.User == "alice" }, "user alice is no more", true)
	close(goOn)
	if ack := expect[*packet.Connack](c); ack.Code != packet.Success {
		t.Errorf("%v", ack.Code)
	}
	c.ends(packet.AdministrativeAction)
}

// Nothing of a removed user's sessions is left, connected or not, in memory or on disk; another's is.
func TestForgetUser(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		dir := filepath.Join(t.TempDir(), "store")
		b := start(t, Options{Identify: byName, Dir: dir, Sync: -1})
		for id, user := range map[string]string{"a1": "alice", "a2": "alice", "b": "bob"} {
			c := connect(t, b, v, id, as(user), keep)
			c.subscribe("t", 1)
			if id != "a1" {
				c.send(&packet.Disconnect{})
				c.closes()
			}
		}
		waitFor(t, "sessions ended", func() bool { return b.Stats().Connections == 1 })
		again := func(b *Broker) (ids []string) {
			for s := range b.Sessions() {
				ids = append(ids, s.ClientID)
			}
			slices.Sort(ids)
			return ids
		}
		if ids := again(b); len(ids) != 3 {
			t.Fatalf("sessions %v", ids)
		}
		b.Disconnect(func(c Client) bool { return c.User == "alice" }, "user alice is no more", true)
		waitFor(t, "sessions ended", func() bool { return slices.Equal(again(b), []string{"b"}) })
		if err := b.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		b = start(t, Options{Identify: byName, Dir: dir, Sync: -1})
		if ids := again(b); !slices.Equal(ids, []string{"b"}) {
			t.Errorf("after a restart: sessions %v", ids)
		}
		if _, ack := connected(t, b, v, "b", as("bob"), keep); !ack.SessionPresent {
			t.Error("the other user's session is gone")
		}
	})
}

// What is kept for a user is for no other one, also after a restart: who comes with the same client id gets a new session, or is
// refused while the user is connected. Seen failing without the look at the owner, and without the owner on the disk.
func TestSessionsBelongToUsers(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		dir := filepath.Join(t.TempDir(), "store")
		o := Options{Identify: byName, Dir: dir, Sync: -1}
		b := start(t, o)
		hear := func(id string) {
			c := connect(t, b, v, id, as("alice"), keep)
			c.subscribe("secret", 1)
			other := dial(t, b, "tcp")
			if ack := other.connect(v, id, as("bob"), keep); ack.Code != packet.ClientIDNotValid {
				t.Errorf("another user with the id of one who is connected: %v", ack.Code)
			}
			other.closes()
			c.nothing()
			c.send(&packet.Disconnect{})
			c.closes()
		}
		for _, id := range []string{"1", "2", "3", "4"} {
			hear(id)
		}
		connect(t, b, v, "pub").publish("secret", "for alice", 1)
		stranger, ack := connected(t, b, v, "1", as("bob"), keep)
		if ack.SessionPresent {
			t.Error("another user got the session")
		}
		stranger.nothing()
		if err := b.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		b = start(t, o)
		for id, user := range map[string]string{"2": "bob", "3": ""} {
			stranger, ack := connected(t, b, v, id, as(user), keep)
			if ack.SessionPresent {
				t.Errorf("%q got the session after a restart", user)
			}
			stranger.nothing()
		}
		owner, ack := connected(t, b, v, "4", as("alice"), keep)
		if !ack.SessionPresent {
			t.Error("its user did not get it")
		}
		owner.gets("secret", "for alice", 1)
		if _, ack := connected(t, b, v, "4", as("root"), keep); !ack.SessionPresent {
			t.Error("who is trusted did not get it")
		}
		owner.ends(packet.SessionTakenOver)
	})
}

// A session of nobody in particular becomes the first user's.
func TestSessionIsAdopted(t *testing.T) {
	t.Parallel()
	b := start(t, Options{Identify: byName})
	c := connect(t, b, packet.V5, "c", keep)
	c.send(&packet.Disconnect{})
	c.closes()
	for i, user := range []string{"alice", "bob"} {
		c, ack := connected(t, b, packet.V5, "c", as(user), keep)
		if ack.SessionPresent != (i == 0) {
			t.Errorf("%s: session present %v", user, ack.SessionPresent)
		}
		c.send(&packet.Disconnect{})
		c.closes()
	}
}

// A client that shows a certificate and no user name is found by Disconnect while it is examined.
func TestDisconnectFindsCertificateBeforeItIsLetIn(t *testing.T) {
	t.Parallel()
	found := 0
	var b *Broker
	b = start(t, Options{Identify: func(_ context.Context, l Login) (Identity, error) {
		found = b.Disconnect(func(c Client) bool { return c.User == "ann" }, "user ann is disabled", false)
		return Identity{User: l.Certificate}, nil
	}})
	s := &secured{b: b}
	s.chains.Store(&[][]*x509.Certificate{{{Subject: pkix.Name{CommonName: "ann"}}}})
	c := &conn{broker: b, nc: s}
	if !b.admit(c) {
		t.Fatal("not admitted")
	}
	err := b.identify(c, &packet.Connect{})
	b.forget(c)
	if err != nil || found != 1 || c.unwanted == "" {
		t.Errorf("%d found, to end for %q: %v", found, c.unwanted, err)
	}
}
