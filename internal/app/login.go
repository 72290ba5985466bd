package app

import (
	"cmp"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync/atomic"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/identity"
)

// An OpenError is a configuration that would let in who should not be, or nobody at all.
type OpenError struct {
	Why string
	Dir string // the data directory; "" when it is a temporary one
}

func (e *OpenError) Error() string {
	where := ""
	if e.Dir != "" {
		where = " --data-dir " + e.Dir
	}
	return fmt.Sprintf("%s; add a user with \"lawnberry user add admin%s\", or listen on this host only with "+
		"\"LAWNBERRY_BROKER_BIND_ADDRESS=localhost LAWNBERRY_BROKER_ALLOW_ANONYMOUS= lawnberry serve%s\"", e.Why, where, where)
}

// logins decide who comes in.
type logins struct {
	log       *slog.Logger
	users     *identity.Users
	trusted   []byte      // the password of what runs in this process
	anonymous bool        // let in who presents nothing, also when there are users
	asked     atomic.Bool // a login is needed; it stays so when the last user is removed
	uids      []int       // who is let in over the Unix socket without a login
	group     bool        // so is everyone who can reach the socket: broker.socket_group and those of uids
}

// newLogins reads the users. dir is "" when there can be none but that of the configuration.
func newLogins(c *config.Config, dir string, trusted []byte, log *slog.Logger) (*logins, error) {
	o := identity.Options{Dir: dir, Logger: log}
	if auth := c.Broker.Auth; auth.Enabled {
		o.Name, o.Password = auth.Username, string(auth.Password)
	}
	users, err := identity.Open(o)
	if err != nil {
		return nil, err
	}
	if why := c.NeedsUsers(); why != "" && !users.Any() {
		return nil, &OpenError{why, dir}
	}
	allowed := c.Broker.AllowAnonymous
	l := &logins{log: log, users: users, trusted: trusted, anonymous: allowed != nil && *allowed, uids: []int{0}, group: c.Broker.SocketGroup != ""}
	if uid := os.Geteuid(); uid > 0 {
		l.uids = append(l.uids, uid)
	}
	l.asked.Store(users.Any())
	return l, nil
}

// identify says who a client is. Without users everybody is let in, and nobody is anybody in particular.
//
// A process of our own user's or of root's on the Unix socket needs no password and is never locked out: it could read the users file. Nor does one of
// broker.socket_group's: the system lets nobody else through to the socket (openTo).
func (l *logins) identify(ctx context.Context, who broker.Login) (broker.Identity, error) {
	asked := l.asked.Load()
	if who.HasPassword && subtle.ConstantTimeCompare(who.Password, l.trusted) == 1 || l.near(who.Peer) {
		id := broker.Identity{Trusted: true}
		if asked {
			id.User = cmp.Or(who.Username, who.ClientID)
		}
		return id, nil
	}
	if name := who.Certificate; name != "" { // it proves who it is, and needs no password
		if l.users.Disabled(name) {
			return broker.Identity{}, fmt.Errorf("user %s, whose certificate it is, is disabled", name)
		}
		return broker.Identity{User: name}, nil
	}
	nothing := who.Username == "" && !who.HasPassword
	switch {
	case !asked, nothing && l.anonymous:
		return broker.Identity{}, nil
	case nothing:
		return broker.Identity{}, errors.New("a user name and a password are needed")
	}
	err := l.users.Check(ctx, identity.Login{Name: who.Username, Password: who.Password, From: who.Address})
	var locked *identity.LockedError
	switch {
	case err == nil:
		return broker.Identity{User: who.Username}, nil
	case errors.As(err, &locked):
		err = fmt.Errorf("%w: %w", broker.ErrLocked, err)
	case errors.Is(err, identity.ErrBusy):
		err = fmt.Errorf("%w: %w", broker.ErrBusy, err)
	}
	return broker.Identity{}, err
}

// near reports whether a process at the other end of the Unix socket needs no login.
func (l *logins) near(p *broker.Peer) bool {
	return p != nil && (l.group || slices.Contains(l.uids, p.UID))
}

// watch takes in what changes until ctx ends, and ends the connections that it concerns. When the first user comes, those that are there
// stay: they are asked when they come again.
func (l *logins) watch(ctx context.Context, b *broker.Broker) {
	l.users.Watch(ctx, func(c identity.Change) {
		if l.users.Any() && !l.asked.Swap(true) {
			l.log.Warn("there is a user now: clients have to log in from now on, but for those on the Unix socket", "allow_anonymous", l.anonymous)
		}
		end := func(names []string, reason string, forget bool) {
			for _, name := range names {
				n := b.Disconnect(func(c broker.Client) bool { return c.User == name && !c.Trusted }, "user "+name+" "+reason, forget)
				l.log.Info("connections ended: user "+reason, "user", name, "connections", n)
			}
		}
		end(c.Removed, "is no more", true)
		end(c.Barred, "is disabled or has a new password", false)
		b.Reauthorize() // roles
	})
}
