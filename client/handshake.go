package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/coder/websocket"
	"github.com/google/uuid"

	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/internal/socket"
	"github.com/lawnberry/lawnberry/message"
)

const (
	// receiveMaximum is how many messages of QoS 1 and 2 we let the broker have unacknowledged.
	receiveMaximum = 1000
	// sendMaximum is how many we have at most, whatever the broker allows.
	sendMaximum = 1024
	// sendMaximum311 is the same over MQTT 3.1.1, where a broker cannot say and may drop what is beyond its own bound.
	sendMaximum311 = 20
	// minPacket is the least size of a packet that we accept. It is far over the payload limit, so that a message
	// over that limit is rejected and counted by us and not withheld by the broker.
	minPacket = 1 << 20
	// maxPacket311 bounds a packet over MQTT 3.1.1, which has no way of telling the broker.
	maxPacket311 = 16 << 20
)

// errSilent ends a half-open connection.
var errSilent = errors.New("the broker has gone silent: no answer to PINGREQ")

// dial makes one attempt to connect, with MQTT 5 first unless the broker is known to refuse it. On success the session
// is present or not at the broker.
func (c *Client) dial(ctx context.Context, first bool, most time.Duration) (l *link, present bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	version := c.version
	l, present, err = c.open(ctx, version, first)
	if err == nil {
		c.v5 = c.v5 || version == packet.V5
		return l, present, nil
	}
	if c.opts.Version != 0 {
		return nil, false, err
	}
	var refused *refusal
	unsupported := errors.As(err, &refused) && refused.code == packet.UnsupportedVersion
	if unsupported && version == packet.V311 { // a broker that had only 3.1.1 was replaced
		c.version = packet.V5
		return nil, false, err
	}
	if !unsupported && (c.v5 || !isClosed(err)) {
		return nil, false, err
	}
	l, present, second := c.open(ctx, packet.V311, first)
	if second != nil {
		if isClosed(second) {
			return nil, false, err
		}
		return nil, false, second
	}
	if unsupported {
		c.version = packet.V311
	}
	return l, present, nil
}

// isClosed reports whether the other side ended the connection, without a word of MQTT.
func isClosed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || websocket.CloseStatus(err) != -1
}

// open connects with one version. A session made with the other version is not continued: its subscriptions are
// not what this version would have made. Neither is one that another broker may have from earlier: it knows nothing of what was sent since.
func (c *Client) open(ctx context.Context, v packet.Version, first bool) (*link, bool, error) {
	clean := first && c.opts.CleanStart || c.opts.SessionExpiry < 0 || c.spoken != 0 && c.spoken != v || c.served != nil && c.served != c.endpoint.Load()
	if v == packet.V311 && clean && c.opts.SessionExpiry >= 0 {
		// In 3.1.1 a session that starts clean ends with its connection, so an extra connection does the cleaning.
		if err := c.wipe(ctx); err != nil {
			return nil, false, err
		}
		clean = false
	}
	l, present, err := c.handshake(ctx, v, clean)
	if err == nil {
		c.spoken, c.served = v, c.endpoint.Load()
	}
	return l, present, err
}

// wipe makes a broker of MQTT 3.1.1 forget the session.
func (c *Client) wipe(ctx context.Context) error {
	l, _, err := c.handshake(ctx, packet.V311, true)
	if err != nil {
		return err
	}
	defer l.close()
	stop := context.AfterFunc(ctx, l.close)
	defer stop()
	if _, err = l.conn.Write([]byte{byte(packet.DISCONNECT) << 4, 0}); err != nil {
		return err
	}
	_, _, _ = l.rd.Next() // until the broker has closed
	return nil
}

// handshake dials, sends CONNECT and reads CONNACK. When ctx ends first the connection is closed.
func (c *Client) handshake(ctx context.Context, v packet.Version, clean bool) (*link, bool, error) {
	hello, err := c.connectPacket(v, clean)
	if err != nil {
		return nil, false, err
	}
	conn, err := c.endpoint.Load().dial(ctx)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, false, err
	}
	limit := maxPacket311
	if v == packet.V5 {
		limit = c.maxPacket()
	}
	l := &link{conn: conn, version: v, rd: packet.NewReader(conn, limit), wake: make(chan struct{}, 1), down: make(chan struct{}),
		attempt: socket.Attempter(conn)}
	l.rests.L = &c.mu
	stop := context.AfterFunc(ctx, l.close)
	present, err := c.exchange(l, hello)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		l.close()
		return nil, false, err
	}
	return l, present, nil
}

func (c *Client) maxPacket() int { return max(minPacket, 4*c.opts.Limits.MaxPayload) }

func (c *Client) connectPacket(v packet.Version, clean bool) ([]byte, error) {
	o := &c.opts
	p := packet.Connect{
		Version: v, CleanStart: clean,
		KeepAlive: uint16(min(seconds(o.KeepAlive), 65535)),
		ClientID:  []byte(c.wireID),
	}
	user, pass, hasPass := o.Username, string(o.Password), o.Password != ""
	if u := c.endpoint.Load().user; u != nil && user == "" {
		user = u.Username()
		if pw, ok := u.Password(); ok {
			pass, hasPass = pw, true
		}
	}
	if user != "" {
		p.HasUser, p.Username = true, []byte(user)
	}
	if hasPass && (v == packet.V5 || p.HasUser) { // [MQTT-3.1.2-22]
		p.HasPass, p.Password = true, []byte(pass)
	}
	if v == packet.V5 {
		if o.SessionExpiry >= 0 {
			p.Properties.SessionExpiry = packet.Some(c.sessionExpiry())
		}
		if !o.DurableSession {
			p.Properties.User = append(p.Properties.User, packet.UserProperty{Key: []byte("session-durability"), Value: []byte("memory")})
		}
		p.Properties.User = append(p.Properties.User, lateAcknowledgements)
		p.Properties.ReceiveMaximum = packet.Some[uint16](receiveMaximum)
		p.Properties.MaximumPacketSize = packet.Some(uint32(c.maxPacket()))
	}
	if o.Will != nil {
		w, err := c.will(o.Will, v)
		if err != nil {
			return nil, err
		}
		p.Will = w
	}
	return p.Append(nil, v)
}

// sessionExpiry is in seconds.
func (c *Client) sessionExpiry() uint32 {
	if c.opts.SessionExpiry == 0 {
		return seconds(defaultSessionExpiry)
	}
	return seconds(c.opts.SessionExpiry)
}

// will encodes the Will as of now: a Will is published at most once per connection, and has an age of its own.
func (c *Client) will(w *Will, v packet.Version) (*packet.Will, error) {
	m := w.Message
	full, err := c.resolve(w.Topic)
	if err != nil {
		return nil, fmt.Errorf("will: %w", c.reject(sending, w.Topic, m.Metadata.ID, err))
	}
	if w.QoS > 2 {
		return nil, fmt.Errorf("will on %s: %w", w.Topic, c.reject(sending, full, m.Metadata.ID, badQoS(w.QoS)))
	}
	if !m.Raw {
		m.Metadata.Timestamp = message.Seconds(time.Now())
		m.Metadata.ID = uuid.NewString()
		if m.Metadata.Sender == "" {
			m.Metadata.Sender = c.id
		}
	}
	e, err := c.encode(full, &m, true)
	if err != nil {
		return nil, fmt.Errorf("will on %s: %w", w.Topic, c.reject(sending, full, m.Metadata.ID, err))
	}
	p := &packet.Will{Topic: []byte(full), Payload: e.body, QoS: c.willQoS(full, w), Retain: w.Retain}
	if v == packet.V5 {
		if !m.Raw {
			p.Properties.ContentType = []byte(contentType)
		}
		if e.compressed {
			p.Properties.User = append(p.Properties.User, packet.UserProperty{Key: []byte(encodingKey), Value: []byte(encodingGzip)})
		}
		for _, kv := range e.proof {
			p.Properties.User = append(p.Properties.User, packet.UserProperty{Key: []byte(kv[0]), Value: []byte(kv[1])})
		}
		p.Properties.User = append(p.Properties.User, packet.UserProperty{Key: []byte(willKey), Value: []byte("1")})
		if w.Delay > 0 {
			p.Properties.WillDelay = packet.Some(seconds(w.Delay))
		}
	}
	return p, nil
}

// willQoS is that of the Will or, of one that is enveloped, what the wire format wants of it if that is more.
func (c *Client) willQoS(full string, w *Will) byte {
	if w.Message.Raw {
		return w.QoS
	}
	qos := w.QoS
	if _, inside := c.opts.Topics.Relative(full); inside {
		if def, ok := c.opts.Topics.Lookup(full); ok {
			qos = max(qos, def.QoS)
		}
	}
	return message.QoS(w.Message.Metadata.Priority, qos, true)
}

// exchange sends CONNECT and takes in CONNACK.
func (c *Client) exchange(l *link, hello []byte) (present bool, err error) {
	asked := time.Now()
	if _, err := l.conn.Write(hello); err != nil {
		return false, err
	}
	first, body, err := l.rd.Next()
	l.roundTrip = time.Since(asked)
	if err != nil {
		return false, err
	}
	if packet.Type(first>>4) != packet.CONNACK {
		return false, errors.New("the other side does not speak MQTT: it answers CONNECT with something else")
	}
	decodeAs := l.version
	if len(body) == 2 {
		decodeAs = packet.V311 // an old broker may refuse version 5 in its own form
	}
	var ack packet.Connack
	if err := ack.Decode(first, body, decodeAs); err != nil {
		return false, err
	}
	if ack.Code != packet.Success {
		r := &refusal{code: ack.Code, text: string(ack.Properties.ReasonString)}
		if ref := ack.Properties.ServerReference; len(ref) > 0 {
			r.text = "it says to use " + string(ref)
		}
		if l.version == packet.V5 && decodeAs == packet.V311 && !isAboutIdentity(ack.Code) {
			r.code = packet.UnsupportedVersion
		}
		return false, r
	}
	if decodeAs != l.version {
		return false, &refusal{code: packet.UnsupportedVersion}
	}
	c.adopt(l, &ack.Properties)
	return ack.SessionPresent, nil
}

func isAboutIdentity(code packet.Code) bool {
	return code == packet.BadUserNameOrPassword || code == packet.NotAuthorized
}

// adopt takes what CONNACK says of the server.
func (c *Client) adopt(l *link, p *packet.Properties) {
	s := server{receiveMaximum: sendMaximum, maxPacket: 268_435_455, maxQoS: 2,
		retain: true, wildcard: true, shared: true, identifiers: l.version == packet.V5}
	l.keepAlive = time.Duration(min(seconds(c.opts.KeepAlive), 65535)) * time.Second
	if l.version == packet.V311 {
		s.receiveMaximum = sendMaximum311
		l.ackAhead, l.ackBlocked = 8, 4 // brokers allow as few as 10 unacknowledged
	} else {
		l.ackAhead, l.ackBlocked = receiveMaximum/2, receiveMaximum/4
	}
	if p.ReceiveMaximum.OK {
		s.receiveMaximum = min(int(p.ReceiveMaximum.V), sendMaximum)
	}
	if p.MaximumPacketSize.OK {
		s.maxPacket = int(p.MaximumPacketSize.V)
	}
	if p.MaximumQoS.OK {
		s.maxQoS = p.MaximumQoS.V
	}
	no := func(o packet.Opt[byte]) bool { return o.OK && o.V == 0 }
	s.retain = !no(p.RetainAvailable)
	s.wildcard = !no(p.WildcardAvailable)
	s.shared = !no(p.SharedAvailable)
	s.identifiers = s.identifiers && !no(p.SubIDAvailable)
	s.sessionExpiry = -1
	if p.SessionExpiry.OK { // [MQTT-3.2.2.3.2]
		s.sessionExpiry = time.Duration(p.SessionExpiry.V) * time.Second
	}
	if p.ServerKeepAlive.OK { // [MQTT-3.2.2-21]
		l.keepAlive = time.Duration(p.ServerKeepAlive.V) * time.Second
	}
	if id := string(p.AssignedClientID); id != "" {
		c.wireID = id
	}
	l.late = slices.ContainsFunc(p.User, func(u packet.UserProperty) bool {
		return bytes.Equal(u.Key, lateAcknowledgements.Key) && bytes.Equal(u.Value, lateAcknowledgements.Value)
	})
	l.server = s
	l.quota = s.receiveMaximum
	l.reserve = min(s.receiveMaximum/8, 8)
}

// lateAcknowledgements is a user property of CONNECT: may acknowledgements come late, for company on the wire? Our broker says yes
// by the same in CONNACK. Others may wait with a message until its PUBREL, or send the next one only after an acknowledgement.
var lateAcknowledgements = packet.UserProperty{Key: []byte("acknowledgements"), Value: []byte("late")}

// newID makes a client id of characters and a length that every server has to accept [MQTT-3.1.3-5].
func newID() string {
	return "lawnberry" + strings.ReplaceAll(uuid.NewString(), "-", "")[:14]
}

// closeWrite half-closes where the transport can, so that the broker reads our DISCONNECT to its end.
func closeWrite(conn net.Conn) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}
