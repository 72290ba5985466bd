package broker

import (
	"errors"
	"net"
	"net/netip"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// Login is what a connecting client presents.
type Login struct {
	ClientID, Username string
	Password           []byte // valid during the call
	HasPassword        bool
	Remote             string     // where the connection is from, for messages: an address with its port, "unix socket" or "in-process"
	Network            string     // what the connection came over: the listener's network, or "pipe" in-process
	Address            netip.Addr // the peer's; invalid for a Unix socket and in-process
	Certificate        string     // the common name of the certificate that the client has shown and TLS has verified; "" without
	Peer               *Peer      // the process at the other end of a Unix socket, where the system says it (Linux); else nil
}

// A Peer is a process as the kernel names it.
type Peer struct {
	PID, UID, GID int
}

// An Identity is who a client is.
type Identity struct {
	// User is a name that was proved. What is kept of a user's session is for no other user: one that connects with its client id
	// is refused with 0x85 while it is connected, and gets a new session else. "" is nobody in particular, whose session
	// is for everybody.
	User string
	// Trusted is who could read the broker's memory anyway, such as its own user id, and may take any session over.
	Trusted bool
}

// Errors of Authenticate and Identify that are refused with another reason code than 0x86, both temporary.
var (
	ErrBusy   = errors.New("broker: too many logins at once")  // 0x89; in MQTT 3.1.1 the server is unavailable
	ErrLocked = errors.New("broker: too many failed attempts") // 0x9F, and the same
)

const busyLogins = "too many logins at once, try again"

// refusalOf returns what a login that failed is answered with, which says as little as it can.
func refusalOf(err error) (packet.Code, string) {
	switch {
	case errors.Is(err, ErrBusy):
		return packet.ServerBusy, busyLogins
	case errors.Is(err, ErrLocked):
		return packet.ConnectionRateExceeded, "too many failed attempts, try again later"
	}
	return packet.BadUserNameOrPassword, "bad user name or password"
}

// Client is one that is connected, or about to be.
type Client struct {
	ID   string
	User string // that was proved; of one that is about to be connected, what it says
	// Trusted is as in Identity. One that is about to be connected is not.
	Trusted bool
	Remote  string
}

// An origin is where a connection is from.
type origin struct {
	remote, network string
	address         netip.Addr
	peer            *Peer
}

func originOf(network string, nc net.Conn) origin {
	o := origin{network: network, remote: "unix socket"}
	switch a := nc.RemoteAddr().(type) {
	case *net.TCPAddr:
		o.remote, o.address = a.String(), a.AddrPort().Addr().Unmap()
	case *net.UnixAddr:
		o.peer = peerOf(nc)
	}
	return o
}

// claim notes who c says it is, before that is examined: from now on Disconnect finds it.
func (b *Broker) claim(c *conn, who Client) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c.who = who
}

// establish notes who c is, now that it has its session. It returns why Disconnect wants it to end, "" when it does not.
func (b *Broker) establish(c *conn) (unwanted string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c.who = Client{ID: c.session.id, User: c.identity.User, Trusted: c.identity.Trusted, Remote: c.from.remote}
	c.established = true
	return c.unwanted
}

// Disconnect ends the connections that match accepts, with 0x98 and that reason, and returns how many. One that is about to be let in
// is ended as soon as it is. It does not wait until they have ended. With forget, their sessions end too, and so do those that are
// kept without a connection of users that match accepts: for these, match is called with ID and User.
//
// A match must not call the broker.
func (b *Broker) Disconnect(match func(Client) bool, reason string, forget bool) int {
	var ended []*conn
	var left []*session
	n := 0
	b.mu.Lock()
	for c := range b.conns {
		switch {
		case c.who == Client{} || !match(c.who):
			continue
		case c.established:
			ended = append(ended, c)
		default:
			c.unwanted = reason
		}
		n++
	}
	if forget {
		for _, s := range b.sessions {
			left = append(left, s)
		}
	}
	b.mu.Unlock()
	for _, c := range ended {
		s := c.session
		s.mu.Lock()
		if forget && s.conn == c {
			s.expiry = 0
		}
		c.stopLocked(packet.AdministrativeAction, reason)
		s.mu.Unlock()
	}
	for _, s := range left {
		if owner := s.ownerIfAway(); owner != "" && match(Client{ID: s.id, User: owner}) {
			b.endAway(s)
		}
	}
	return n
}

// ownerIfAway returns whose the session is when no connection holds it.
func (s *session) ownerIfAway() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last != nil || s.ended {
		return ""
	}
	return s.owner
}

// endAway ends a session that no connection holds.
func (b *Broker) endAway(s *session) {
	mu := b.connecting.of(s.id)
	mu.Lock()
	defer mu.Unlock()
	if s.ownerIfAway() == "" { // another connection has come
		return
	}
	b.log.Info("session ended: its user is gone", "client", s.id)
	var t txn
	b.begin(&t)
	b.end(s, &t)
	b.finish(&t)
}

// foreign reports whether the session is another user's.
func (s *session) foreign(to Identity) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.owner != "" && s.owner != to.User && !to.Trusted
}
