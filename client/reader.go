package client

import (
	"errors"
	"io"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// A receiver is the state of one reader goroutine. What it decodes into is reused from packet to packet.
type receiver struct {
	c     *Client
	l     *link
	pub   packet.Publish
	ack   packet.Ack
	names map[string]*name
}

// read is the reader goroutine of a link. It never waits for a handler.
func (c *Client) read(l *link) {
	defer l.loops.Done()
	r := &receiver{c: c, l: l, names: make(map[string]*name)}
	for {
		if !l.rd.Buffered() {
			c.writeBehind(l)
		}
		first, body, err := l.rd.Next()
		l.reading.Store(err == nil)
		if err == nil {
			l.heard.Store(true)
			if packet.Type(first>>4) != packet.PUBLISH {
				l.answered.Store(true)
			}
			err = r.take(first, body)
		}
		if err != nil {
			c.broken(l, err)
			return
		}
	}
}

// writeBehind writes what has come together while the reader was at work: mostly acknowledgements.
func (c *Client) writeBehind(l *link) {
	if !l.reading.Load() {
		return
	}
	c.mu.Lock()
	l.reading.Store(false)
	if l.urgent || len(l.out) > lateSize {
		c.writeNow(l)
	} else if len(l.out) > 0 {
		c.writeSoon(l)
	}
	c.mu.Unlock()
}

// broken ends l. A broker that broke the protocol is told so, over MQTT 5 [MQTT-4.13.1-1].
func (c *Client) broken(l *link, err error) {
	l.reading.Store(false)
	var bad *packet.Error
	if errors.As(err, &bad) {
		c.mu.Lock()
		if l.err == nil {
			l.err = &DisconnectError{Code: byte(bad.Code), Text: bad.Text, Ours: true}
		}
		c.disconnect(l, bad.Code, packet.Opt[uint32]{})
		c.mu.Unlock()
		enough := time.AfterFunc(goodbyeTimeout, l.close)
		_, _ = io.Copy(io.Discard, l.conn) // until the broker has read DISCONNECT and closed
		enough.Stop()
		l.close()
		return
	}
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = errClosedByBroker
	}
	c.fail(l, err)
}

// errClosedByBroker ends a connection that the other side closed without a DISCONNECT.
var errClosedByBroker = errors.New("the broker closed the connection")

// take takes in one packet.
func (r *receiver) take(first byte, body []byte) error {
	c, l := r.c, r.l
	switch kind := packet.Type(first >> 4); kind {
	case packet.PUBLISH:
		if err := r.pub.Decode(first, body, l.version); err != nil {
			return err
		}
		return r.publish()
	case packet.PUBACK, packet.PUBREC, packet.PUBCOMP:
		if err := r.ack.Decode(first, body, l.version); err != nil {
			return err
		}
		c.acknowledged(l, &r.ack)
	case packet.PUBREL:
		if err := r.ack.Decode(first, body, l.version); err != nil {
			return err
		}
		c.release(l, r.ack.ID)
	case packet.SUBACK, packet.UNSUBACK, packet.PINGRESP, packet.DISCONNECT:
		p, err := packet.Decode(first, body, l.version)
		if err != nil {
			return err
		}
		switch p := p.(type) {
		case *packet.Suback:
			c.answered(l, p.ID, p.Codes, string(p.Properties.ReasonString))
		case *packet.Unsuback:
			c.answered(l, p.ID, nil, "")
		case *packet.Disconnect:
			text := string(p.Properties.ReasonString)
			if ref := p.Properties.ServerReference; len(ref) > 0 {
				text = "it says to use " + string(ref)
			}
			e := &DisconnectError{Code: byte(p.Code), Text: text}
			e.late = e.TakenOver() && c.wasAbandoned()
			return e
		}
	default:
		return &packet.Error{Code: packet.ProtocolError, Text: "a packet that a server must not send"}
	}
	return nil
}
