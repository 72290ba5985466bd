package broker

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// striped is a lock per client id, shared by the ids that hash alike. It is held while a connection takes a session
// over, and while a session or a delayed Will runs out.
type striped struct {
	seed  maphash.Seed
	locks [256]sync.Mutex
}

func (s *striped) of(id string) *sync.Mutex {
	return &s.locks[maphash.String(s.seed, id)%uint64(len(s.locks))]
}

// serve runs one network connection from CONNECT to its end.
func (b *Broker) serve(nc net.Conn, from origin) {
	remote := from.remote
	c := &conn{broker: b, nc: nc, remote: remote, from: from, done: make(chan struct{}), maxPacket: maxPacketSize, sendMax: math.MaxUint16, problemInfo: true}
	c.prepareWriting()
	if !b.admit(c) {
		cut(nc)
		return
	}
	defer b.forget(c)
	c.reader = packet.NewReader(c, handshakePacket)
	_ = nc.SetDeadline(time.Now().Add(b.limits.handshake))
	if b.ctx.Err() != nil { // Stop came between, and its deadline is overwritten
		cut(nc)
		return
	}
	connect, err := c.readConnect()
	if err != nil {
		if !wasLogged(err) {
			b.log.Info("connection refused", "remote", remote, "error", err)
		}
		b.leave(nc, true, time.Now().Add(b.limits.farewell))
		return
	}
	if !c.welcome(connect) {
		b.leave(nc, true, time.Now().Add(b.limits.farewell))
		return
	}
	c.run()
}

// readConnect reads and checks the first packet; what is answered to a bad one is answered here.
func (c *conn) readConnect() (*packet.Connect, error) {
	first, body, err := c.reader.Next()
	if err != nil {
		var violation *packet.Error
		switch {
		case errors.As(err, &violation) && beginsVersion5(c.reader.Unread()):
			c.version = packet.V5
			c.refuse(violation.Code, violation.Text)
		case errors.Is(err, io.EOF):
			err = errors.New("closed before CONNECT")
		case isTimeout(err):
			err = fmt.Errorf("no CONNECT within %v", c.broker.limits.handshake)
		}
		return nil, err
	}
	if packet.Type(first>>4) != packet.CONNECT {
		return nil, errors.New("first packet is not CONNECT [MQTT-3.1.0-1]")
	}
	var p packet.Connect
	err = p.Decode(first, body)
	// The level decides how a refusal is worded, also when the rest could not be decoded.
	c.version = packet.V311
	if p.Version >= packet.V5 && p.Version < 0x80 { // bridges set the top bit of a 3.1.1 level
		c.version = packet.V5
	}
	if err != nil {
		var violation *packet.Error
		if errors.As(err, &violation) && (c.version == packet.V5 || violation.Code == packet.UnsupportedVersion) {
			c.refuse(violation.Code, violation.Text)
		}
		return nil, err
	}
	return &p, nil
}

// beginsVersion5 reports whether b is the beginning of a CONNECT of version 5 whose length is not to be accepted.
func beginsVersion5(b []byte) bool {
	return len(b) > 0 && b[0] == byte(packet.CONNECT)<<4 && bytes.Contains(b[:min(len(b), 13)], []byte("\x00\x04MQTT\x05"))
}

// refuse answers CONNECT with a failure.
func (c *conn) refuse(code packet.Code, reason string) {
	ack := packet.Connack{Code: code}
	if c.version == packet.V5 && c.problemInfo {
		ack.Properties.ReasonString = []byte(reason)
	}
	if out := c.appendBounded(nil, &ack, &ack.Properties); len(out) > 0 {
		_, _ = c.nc.Write(out)
	}
}

// welcome answers CONNECT. On success it returns true, and c holds its session.
func (c *conn) welcome(p *packet.Connect) bool {
	b := c.broker
	c.version = p.Version
	if v := p.Properties.RequestProblem; v.OK {
		c.problemInfo = v.V != 0
	}
	if v := p.Properties.MaximumPacketSize; v.OK {
		c.maxPacket = int(min(v.V, maxPacketSize))
	}
	if v := p.Properties.ReceiveMaximum; v.OK {
		c.sendMax = int(v.V)
	}
	c.aliasMax = min(int(p.Properties.TopicAliasMaximum.V), outboundAliases)
	c.keepAlive = time.Duration(p.KeepAlive) * time.Second

	id := string(p.ClientID)
	ack := packet.Connack{}
	code, reason := b.examine(c, p)
	if code == packet.Success && id == "" {
		id = "auto-" + uuid.NewString()
		ack.Properties.AssignedClientID = []byte(id)
	}
	if code == packet.Success && !b.claimPlace(id) {
		code, reason = packet.ServerBusy, fmt.Sprintf("%d connections are open, and that is the limit", b.limits.connections.Load())
	}
	if code != packet.Success {
		level := slog.LevelWarn
		if code == packet.ConnectionRateExceeded || reason == busyLogins { // who guesses is not to fill the log
			level = slog.LevelDebug
		}
		b.log.Log(b.ctx, level, "client refused", "client", id, "remote", c.remote, "user", string(p.Username), "code", code.String(), "reason", reason)
		c.refuse(code, reason)
		return false
	}

	expiry := time.Duration(0)
	switch {
	case c.version == packet.V5:
		expiry = expiryOf(p.Properties.SessionExpiry.V)
	case !p.CleanStart:
		expiry = forever
	}
	c.neverExpire = expiry == 0
	var w *will
	if p.Will != nil {
		w = newWill(p.Will)
	}
	if limit := b.limits.keepAlive; limit > 0 && c.version == packet.V5 && (c.keepAlive == 0 || c.keepAlive > limit) {
		c.keepAlive = limit
		ack.Properties.ServerKeepAlive = packet.Some(uint16(limit / time.Second))
	}

	if c.version == packet.V5 {
		ack.Properties.ReceiveMaximum = packet.Some(uint16(receiveMax))
		ack.Properties.MaximumPacketSize = packet.Some(uint32(b.limits.packet))
		ack.Properties.TopicAliasMaximum = packet.Some(uint16(inboundAliases))
		if c.late = asksForLateness(p); c.late {
			ack.Properties.User = append(ack.Properties.User, lateAcknowledgements)
		}
	}
	if out, err := ack.Append(nil, c.version); err != nil || len(out) > c.maxPacket {
		b.log.Warn("client refused: it does not take its CONNACK", "client", id, "remote", c.remote, "bytes", len(out), "limit", c.maxPacket)
		c.refuse(packet.PacketTooLarge, "your maximum packet size is too small for CONNACK")
		b.releasePlace()
		return false
	}

	durable := b.journal != nil && expiry > 0 && !inMemory(p)
	present, g, err := b.hold(c, id, p.CleanStart, expiry, durable, w)
	if err != nil {
		b.log.Warn("client refused", "client", id, "remote", c.remote, "user", c.identity.User, "error", err)
		code := packet.ServerUnavailable
		if err == errForeign {
			code = packet.ClientIDNotValid
		}
		c.refuse(code, err.Error())
		b.releasePlace()
		return false
	}
	if g != nil { // the session is there from now on, whatever happens; while the store fails it is there in memory
		<-g.done
	}
	c.reader.SetMax(b.limits.packet)
	ack.SessionPresent = present
	_ = c.nc.SetDeadline(time.Time{})
	c.session.mu.Lock()
	// Ahead of everything, also of a farewell that came meanwhile.
	c.control = append(c.appendBounded(nil, &ack, &ack.Properties), c.control...)
	c.session.mu.Unlock()
	b.log.Info("client connected", "client", id, "remote", c.remote, "version", versionName(c.version), "resumed", present, "keepalive", c.keepAlive.String(), c.identityAttr())
	c.warnOfClientExpiry()
	return true
}

// examine decides whether p may come in.
func (b *Broker) examine(c *conn, p *packet.Connect) (packet.Code, string) {
	if len(p.Properties.AuthMethod) > 0 {
		return packet.BadAuthenticationMethod, "no authentication methods are supported beyond user name and password"
	}
	if len(p.ClientID) == 0 && p.Version == packet.V311 && !p.CleanStart {
		return packet.ClientIDNotValid, "an empty client id needs a clean session [MQTT-3.1.3-8]"
	}
	if c.contradicts(p) {
		return packet.NotAuthorized, fmt.Sprintf("the certificate is for %q: connect with this user name, or without one", c.commonName())
	}
	if err := b.identify(c, p); err != nil {
		code, reason := refusalOf(err)
		if code == packet.BadUserNameOrPassword {
			b.log.Warn("authentication failed", "client", string(p.ClientID), "user", string(p.Username), "remote", c.remote, "error", err)
		}
		return code, reason
	}
	var err error
	c.changes = b.entitled.changes.Load()
	if c.grant, err = b.authorize(c.login(p), c.identity); err != nil {
		return packet.NotAuthorized, err.Error()
	}
	if p.Will != nil {
		topic := string(p.Will.Topic)
		if reason, ok := c.grant.mayPublish(topic, p.Will.Payload, p.Will.Retain && p.Will.Properties.MessageExpiry.OK); !ok {
			return packet.NotAuthorized, "its Will: " + reason
		}
		if reserved(topic) {
			return packet.NotAuthorized, "the Will's topic is the broker's own"
		}
		if strings.Count(topic, "/") >= maxLevels {
			return packet.TopicNameInvalid, fmt.Sprintf("the Will's topic has more than %d levels", maxLevels)
		}
	}
	return packet.Success, ""
}

// login is what c presents.
func (c *conn) login(p *packet.Connect) Login {
	return Login{
		ClientID: string(p.ClientID), Username: string(p.Username), Password: p.Password, HasPassword: p.HasPass,
		Remote: c.remote, Network: c.from.network, Address: c.from.address, Peer: c.from.peer,
		Certificate: c.commonName(),
	}
}

// identify finds out who c is.
func (b *Broker) identify(c *conn, p *packet.Connect) (err error) {
	l := c.login(p)
	b.claim(c, Client{ID: l.ClientID, User: cmp.Or(l.Username, l.Certificate), Remote: c.remote})
	ctx, cancel := context.WithTimeout(b.ctx, b.limits.handshake)
	defer cancel()
	switch {
	case b.options.Identify != nil:
		c.identity, err = b.options.Identify(ctx, l)
	case b.options.Authenticate != nil:
		err = b.options.Authenticate(ctx, l)
	}
	return err
}

// inMemory reports whether the client has asked for a session that need not outlive the broker, by the user property
// session-durability: memory. Nothing of such a session is stored, so no message for it waits for the disk.
func inMemory(p *packet.Connect) bool {
	for _, u := range p.Properties.User {
		if string(u.Key) == "session-durability" && string(u.Value) == "memory" {
			return true
		}
	}
	return false
}

// lateAcknowledgements is the user property of a client that asks whether its acknowledgements may come late, for company on
// the wire. CONNACK has it too: nobody's message waits for them here, as QoS 2 messages are distributed before their PUBREL.
var lateAcknowledgements = packet.UserProperty{Key: []byte("acknowledgements"), Value: []byte("late")}

func asksForLateness(p *packet.Connect) bool {
	return slices.ContainsFunc(p.Properties.User, func(u packet.UserProperty) bool {
		return bytes.Equal(u.Key, lateAcknowledgements.Key) && bytes.Equal(u.Value, lateAcknowledgements.Value)
	})
}

// errForeign is that a client id is in use by another user.
var errForeign = errors.New("another user is connected with this client id")

// hold gives c the session of id, made anew on a clean start or when there is none. Another connection that holds it is
// closed first, and has finished everything it had begun when hold goes on [MQTT-3.1.4-3]. What is new or
// gone with the connection is in the store with the group that is returned.
func (b *Broker) hold(c *conn, id string, clean bool, expiry time.Duration, durable bool, w *will) (present bool, g *group, err error) {
	mu := b.connecting.of(id)
	mu.Lock()
	defer mu.Unlock()
	s := b.find(id)
	if s != nil {
		foreign := s.foreign(c.identity)
		clean = clean || foreign
		if last := s.holder(); last != nil {
			if foreign {
				return false, nil, errForeign
			}
			last.stop(packet.SessionTakenOver, "another client connected with this client id")
			<-last.done
		}
		if clean {
			var t txn
			b.begin(&t)
			b.end(s, &t)
			t.wanted = true
			b.finish(&t)
			g = t.durable()
		}
		s = b.find(id)
	}
	present = s != nil
	if s == nil {
		if s, err = b.newSession(id); err != nil {
			return false, nil, err
		}
	}
	c.session = s
	c.wake.L, c.room.L = &s.mu, &s.mu
	c.routes = routeCache{from: s, routes: make(map[string]*route)}
	var t txn
	b.begin(&t)
	kept := s.durable
	s.attach(c, w, expiry, durable, &t)
	if c.durable = s.durable; c.durable && !kept {
		b.tree.store(s, &t)
	}
	b.finish(&t)
	if c.changes != b.entitled.changes.Load() { // Reauthorize did not see c hold its session
		b.reauthorize(s)
	}
	if t.wanted {
		g = t.durable()
	}
	return present, g, nil
}

// current returns the connection that holds the session now, or nil.
func (s *session) current() *conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn
}

// forget lets go of c, which has ended.
func (s *session) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == c {
		s.last = nil
	}
}

// holder returns the connection that holds the session, or is just ending; else nil.
func (s *session) holder() *conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

func (b *Broker) find(id string) *session {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sessions[id]
}

func (b *Broker) newSession(id string) (*session, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closing {
		return nil, errors.New("shutting down")
	}
	if len(b.sessions) >= b.limits.sessions {
		return nil, fmt.Errorf("%d sessions are kept, and that is the limit", b.limits.sessions)
	}
	s := &session{broker: b, id: id, subs: make(map[string]*subscription), inbound: make(map[uint16]inbound), loose: rand.Uint32()}
	if b.journal != nil {
		s.number = b.journal.nextID.Add(1)
	}
	b.sessions[id] = s
	return s, nil
}

// expire ends s when it is still as it was when its expiry began to run.
func (b *Broker) expire(s *session, connects int) {
	mu := b.connecting.of(s.id)
	mu.Lock()
	defer mu.Unlock()
	s.mu.Lock()
	due := s.conn == nil && s.connects == connects && !s.ended
	s.mu.Unlock()
	if due {
		b.log.Info("session expired", "client", s.id)
		b.stats.expiredSessions.Add(1)
		var t txn
		b.begin(&t)
		b.end(s, &t)
		b.finish(&t)
	}
}

// end ends s: its delayed Will is published, its subscriptions are gone, and shared messages go to other members.
// The caller made sure that no connection holds it. It does nothing to a session that has ended.
func (b *Broker) end(s *session, t *txn) {
	b.mu.Lock()
	if b.sessions[s.id] != s {
		b.mu.Unlock()
		return
	}
	delete(b.sessions, s.id)
	b.mu.Unlock()
	if w := s.takeWill(nil, t); w != nil {
		b.publishWill(s, w, t)
	}
	b.tree.removeAll(s)
	t.owed = true
	for _, it := range s.close(t) {
		if g := b.tree.group(it.delivery.group.filter); g != nil {
			b.deliverShared(g, it.message, t)
		}
	}
}

// expiryOf converts a Session Expiry Interval.
func expiryOf(seconds uint32) time.Duration {
	if seconds == math.MaxUint32 {
		return forever
	}
	return time.Duration(seconds) * time.Second
}

func versionName(v packet.Version) string {
	if v == packet.V5 {
		return "5.0"
	}
	return "3.1.1"
}
