package broker

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// How the tests below talk to a broker: in packets, and in bytes. They wait for packets, never for time: that nothing
// comes is shown by a PINGREQ whose answer is the next packet, since what was queued before it would have come before it.

func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue && flag.Lookup("test.fuzz").Value.String() == "" {
		_ = f.Value.Set("32") // they wait more than they work
	}
	goleak.VerifyTestMain(m)
}

// patient bounds every wait for something that must happen.
const patient = time.Minute

// each runs f once for each version of the protocol.
func each(t *testing.T, f func(t *testing.T, v packet.Version)) {
	t.Helper()
	t.Parallel()
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			f(t, v)
		})
	}
}

// start starts a broker with a TCP listener before those in o, without $SYS topics unless o says how often.
func start(t testing.TB, o Options) *Broker {
	t.Helper()
	o.Listeners = append([]Listener{{Network: "tcp", Address: "127.0.0.1:0"}}, o.Listeners...)
	if o.SysInterval == 0 {
		o.SysInterval = -1
	}
	if os.Getenv("LAWNBERRY_TEST_STORE") != "" && o.Dir == "" { // the same tests, with a store
		o.Dir, o.Sync = t.TempDir(), -1
	}
	b, err := Start(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patient)
		defer cancel()
		if err := b.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return b
}

// url returns the address of b's first listener of a scheme.
func url(t testing.TB, b *Broker, scheme string) string {
	t.Helper()
	for e := range b.Endpoints() {
		if strings.HasPrefix(e.URL, scheme+"://") {
			return e.URL
		}
	}
	t.Fatalf("no listener for %s", scheme)
	return ""
}

// everywhere returns listeners of every kind, but for the TCP one that start adds.
func everywhere(t testing.TB) []Listener {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	return []Listener{
		{Network: "ws", Address: "127.0.0.1:0"}, {Network: "unix", Address: filepath.Join(t.TempDir(), "s")},
		{Network: "tcp", Address: "127.0.0.1:0", TLS: secret}, {Network: "ws", Address: "127.0.0.1:0", TLS: secret},
	}
}

// A raw is a client made of a connection and nothing else.
type raw struct {
	t  testing.TB
	b  *Broker
	nc net.Conn
	r  *packet.Reader
	v  packet.Version
	id uint16 // the packet identifier used last

	released func(id uint16) // what collect does at a PUBREL
}

func newRaw(t testing.TB, b *Broker, nc net.Conn) *raw {
	t.Cleanup(func() { _ = nc.Close() })
	return &raw{t: t, b: b, nc: nc, r: packet.NewReader(nc, 0), v: packet.V5}
}

// dial opens a connection over "tcp", "ssl", "unix", "ws", "wss" or "pipe" (in-process).
func dial(t testing.TB, b *Broker, scheme string) *raw {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	trusting := &tls.Config{InsecureSkipVerify: true} // certificates are not what is tested
	var nc net.Conn
	var err error
	switch scheme {
	case "pipe":
		nc, err = b.Dial(ctx)
	case "ws", "wss":
		web := &http.Transport{TLSClientConfig: trusting}
		t.Cleanup(web.CloseIdleConnections)
		var ws *websocket.Conn
		ws, _, err = websocket.Dial(ctx, url(t, b, scheme), &websocket.DialOptions{Subprotocols: []string{"mqtt"}, HTTPClient: &http.Client{Transport: web}})
		if err == nil {
			nc = websocket.NetConn(context.Background(), ws, websocket.MessageBinary)
		}
	case "ssl":
		nc, err = (&tls.Dialer{Config: trusting}).DialContext(ctx, "tcp", strings.TrimPrefix(url(t, b, scheme), "ssl://"))
	default:
		_, address, _ := strings.Cut(url(t, b, scheme), "://")
		nc, err = (&net.Dialer{}).DialContext(ctx, scheme, address)
	}
	if err != nil {
		t.Fatal(err)
	}
	return newRaw(t, b, nc)
}

// A choice changes a CONNECT.
type choice = func(*packet.Connect)

func keep(p *packet.Connect) { // the session, for as long as possible
	p.CleanStart = false
	p.Properties.SessionExpiry = packet.Some(uint32(0xFFFFFFFF))
}

func clean(p *packet.Connect) { p.CleanStart = true }

func expiry(seconds uint32) choice {
	return func(p *packet.Connect) { p.Properties.SessionExpiry = packet.Some(seconds) }
}

func receiveMaximum(n uint16) choice {
	return func(p *packet.Connect) { p.Properties.ReceiveMaximum = packet.Some(n) }
}

func aliasMaximum(n uint16) choice {
	return func(p *packet.Connect) { p.Properties.TopicAliasMaximum = packet.Some(n) }
}

func maximumPacket(n uint32) choice {
	return func(p *packet.Connect) { p.Properties.MaximumPacketSize = packet.Some(n) }
}

func keepAlive(seconds uint16) choice {
	return func(p *packet.Connect) { p.KeepAlive = seconds }
}

func withWill(w *packet.Will) choice {
	return func(p *packet.Connect) { p.Will = w }
}

// connect dials b over TCP and is let in.
func connect(t testing.TB, b *Broker, v packet.Version, id string, choices ...choice) *raw {
	t.Helper()
	c, _ := connected(t, b, v, id, choices...)
	return c
}

// connected is connect that returns the CONNACK too.
func connected(t testing.TB, b *Broker, v packet.Version, id string, choices ...choice) (*raw, *packet.Connack) {
	t.Helper()
	c := dial(t, b, "tcp")
	ack := c.connect(v, id, choices...)
	if ack.Code != packet.Success {
		t.Fatalf("CONNACK: %v %s", ack.Code, ack.Properties.ReasonString)
	}
	return c, ack
}

// connect sends CONNECT and returns the CONNACK.
func (c *raw) connect(v packet.Version, id string, choices ...choice) *packet.Connack {
	c.t.Helper()
	c.v = v
	p := &packet.Connect{Version: v, CleanStart: true, ClientID: []byte(id)}
	for _, choose := range choices {
		choose(p)
	}
	c.send(p)
	return expect[*packet.Connack](c)
}

// write sends bytes.
func (c *raw) write(b []byte) {
	c.t.Helper()
	_ = c.nc.SetWriteDeadline(time.Now().Add(patient))
	if _, err := c.nc.Write(b); err != nil {
		c.t.Fatalf("write: %v", err)
	}
}

// send sends packets in one write.
func (c *raw) send(packets ...packet.Packet) {
	c.t.Helper()
	var out []byte
	for _, p := range packets {
		var err error
		if out, err = p.Append(out, c.v); err != nil {
			c.t.Fatal(err)
		}
	}
	c.write(out)
}

// next returns the next packet, which the caller may keep.
func (c *raw) next() (packet.Packet, error) {
	_ = c.nc.SetReadDeadline(time.Now().Add(patient))
	first, body, err := c.r.Next()
	if err != nil {
		return nil, err
	}
	return packet.Decode(first, slices.Clone(body), c.v)
}

// expect returns the next packet, which must be of type P.
func expect[P packet.Packet](c *raw) P {
	c.t.Helper()
	var want P
	p, err := c.next()
	if err != nil {
		c.t.Fatalf("want %T, got %v", want, err)
	}
	got, ok := p.(P)
	if !ok {
		c.t.Fatalf("want %T, got %s", want, describe(p))
	}
	return got
}

// expectAck returns the next packet, which must be an acknowledgement of that kind and identifier.
func (c *raw) expectAck(kind packet.Type, id uint16) packet.Code {
	c.t.Helper()
	a := expect[*packet.Ack](c)
	if a.Kind != kind || a.ID != id {
		c.t.Fatalf("want %v %d, got %s", kind, id, describe(a))
	}
	return a.Code
}

func describe(p packet.Packet) string {
	switch p := p.(type) {
	case *packet.Publish:
		return fmt.Sprintf("PUBLISH %d %q %q qos %d dup %t retain %t", p.ID, p.Topic, p.Payload, p.QoS, p.Dup, p.Retain)
	case *packet.Ack:
		return fmt.Sprintf("%v %d %v", p.Kind, p.ID, p.Code)
	case *packet.Disconnect:
		return fmt.Sprintf("DISCONNECT %v %s", p.Code, p.Properties.ReasonString)
	}
	return p.Type().String()
}

// nothing makes sure that nothing is on its way to c.
func (c *raw) nothing() {
	c.t.Helper()
	c.send(&packet.Pingreq{})
	expect[*packet.Pingresp](c)
}

// ends makes sure that the broker closes the connection, having said why in version 5.
func (c *raw) ends(code packet.Code) {
	c.t.Helper()
	if c.v == packet.V5 {
		if d := expect[*packet.Disconnect](c); d.Code != code {
			c.t.Fatalf("DISCONNECT with %v %s, want %v", d.Code, d.Properties.ReasonString, code)
		}
	}
	c.closes()
}

// closes makes sure that the broker closes the connection and sends nothing before.
func (c *raw) closes() {
	c.t.Helper()
	p, err := c.next()
	if err == nil {
		c.t.Fatalf("got %s, want the connection to be closed", describe(p))
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatal("the connection stays open")
	}
}

// hangUp closes the connection without a DISCONNECT, and waits until the broker knows.
func (c *raw) hangUp(id string) {
	c.t.Helper()
	_ = c.nc.Close()
	waitFor(c.t, id+" to be offline", func() bool {
		s := c.b.find(id)
		return s == nil || s.holder() == nil
	})
}

// leave says goodbye, and waits until the broker knows.
func (c *raw) leave(id string) {
	c.t.Helper()
	c.send(&packet.Disconnect{})
	c.hangUp(id)
}

// waitFor waits for a condition inside the broker that no packet tells.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patient)
	for tick := time.NewTicker(time.Millisecond); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// newID returns a packet identifier that c has not used lately.
func (c *raw) newID() uint16 {
	c.id = c.id%65535 + 1
	return c.id
}

// subscribe subscribes to one filter and returns the SUBACK's code.
func (c *raw) subscribe(filter string, qos byte, options ...func(*packet.Subscription)) packet.Code {
	c.t.Helper()
	s := packet.Subscription{Filter: []byte(filter), QoS: qos}
	for _, set := range options {
		set(&s)
	}
	return c.subscribeWith(&packet.Subscribe{Subscriptions: []packet.Subscription{s}})
}

// subscribeID is subscribe with a subscription identifier.
func (c *raw) subscribeID(filter string, qos byte, id uint32) packet.Code {
	c.t.Helper()
	p := &packet.Subscribe{Subscriptions: []packet.Subscription{{Filter: []byte(filter), QoS: qos}}}
	p.Properties.SubscriptionIDs = []uint32{id}
	return c.subscribeWith(p)
}

func (c *raw) subscribeWith(p *packet.Subscribe) packet.Code {
	c.t.Helper()
	p.ID = c.newID()
	c.send(p)
	ack := expect[*packet.Suback](c)
	if ack.ID != p.ID || len(ack.Codes) != len(p.Subscriptions) {
		c.t.Fatalf("SUBACK %d with %d codes, want %d with %d", ack.ID, len(ack.Codes), p.ID, len(p.Subscriptions))
	}
	return ack.Codes[0]
}

func (c *raw) unsubscribe(filters ...string) []packet.Code {
	c.t.Helper()
	p := &packet.Unsubscribe{ID: c.newID()}
	for _, f := range filters {
		p.Filters = append(p.Filters, []byte(f))
	}
	c.send(p)
	ack := expect[*packet.Unsuback](c)
	if ack.ID != p.ID {
		c.t.Fatalf("UNSUBACK %d, want %d", ack.ID, p.ID)
	}
	return ack.Codes
}

func noLocal(s *packet.Subscription)           { s.NoLocal = true }
func retainAsPublished(s *packet.Subscription) { s.RetainAsPublished = true }
func retainHandling(n byte) func(*packet.Subscription) {
	return func(s *packet.Subscription) { s.RetainHandling = n }
}

// outgoing makes a PUBLISH.
func outgoing(topic, payload string, qos byte, id uint16) *packet.Publish {
	return &packet.Publish{Topic: []byte(topic), Payload: []byte(payload), QoS: qos, ID: id}
}

func retain(p *packet.Publish) { p.Retain = true }

func messageExpiry(seconds uint32) func(*packet.Publish) {
	return func(p *packet.Publish) { p.Properties.MessageExpiry = packet.Some(seconds) }
}

// publish publishes, and returns when the broker has taken responsibility: at QoS 1 and 2 with its code.
func (c *raw) publish(topic, payload string, qos byte, options ...func(*packet.Publish)) packet.Code {
	c.t.Helper()
	p := outgoing(topic, payload, qos, 0)
	if qos > 0 {
		p.ID = c.newID()
	}
	for _, set := range options {
		set(p)
	}
	c.send(p)
	switch qos {
	case 1:
		return c.expectAck(packet.PUBACK, p.ID)
	case 2:
		code := c.expectAck(packet.PUBREC, p.ID)
		if code < 0x80 {
			c.release(p.ID)
		}
		return code
	}
	c.nothing()
	return packet.Success
}

// release ends a QoS 2 flow to the broker.
func (c *raw) release(id uint16) {
	c.t.Helper()
	c.send(&packet.Ack{Kind: packet.PUBREL, ID: id})
	if code := c.expectAck(packet.PUBCOMP, id); code != packet.Success {
		c.t.Fatalf("PUBCOMP: %v", code)
	}
}

// gets receives a message that must be that one, and acknowledges it to the end.
func (c *raw) gets(topic, payload string, qos byte) *packet.Publish {
	c.t.Helper()
	p := c.getsFirst(topic, payload, qos)
	c.acknowledge(p)
	return p
}

// getsFirst is gets without acknowledging.
func (c *raw) getsFirst(topic, payload string, qos byte) *packet.Publish {
	c.t.Helper()
	p := expect[*packet.Publish](c)
	if string(p.Topic) != topic || string(p.Payload) != payload || p.QoS != qos || (p.ID == 0) != (qos == 0) {
		c.t.Fatalf("got %s, want %q %q qos %d", describe(p), topic, payload, qos)
	}
	return p
}

// acknowledge sends what p's QoS asks for, to the end.
func (c *raw) acknowledge(p *packet.Publish) {
	c.t.Helper()
	switch p.QoS {
	case 1:
		c.send(&packet.Ack{Kind: packet.PUBACK, ID: p.ID})
	case 2:
		c.send(&packet.Ack{Kind: packet.PUBREC, ID: p.ID})
		c.expectAck(packet.PUBREL, p.ID)
		c.send(&packet.Ack{Kind: packet.PUBCOMP, ID: p.ID})
	}
}

// collect receives PUBLISHes and acknowledges them until stop says so or the connection ends; it answers PUBREL. It may
// run in a goroutine of its own.
func (c *raw) collect(got func(p *packet.Publish) (more bool)) error {
	for {
		p, err := c.next()
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
				return io.EOF
			}
			return err
		}
		var out []byte
		more := true
		switch p := p.(type) {
		case *packet.Publish:
			switch p.QoS {
			case 1:
				out = packet.AppendAck(nil, packet.PUBACK, c.v, p.ID, 0)
			case 2:
				out = packet.AppendAck(nil, packet.PUBREC, c.v, p.ID, 0)
			}
			more = got(p)
		case *packet.Ack:
			if p.Kind == packet.PUBREL {
				out = packet.AppendAck(nil, packet.PUBCOMP, c.v, p.ID, 0)
				if c.released != nil {
					c.released(p.ID)
				}
			}
		}
		_ = c.nc.SetWriteDeadline(time.Now().Add(patient))
		if _, err := c.nc.Write(out); len(out) > 0 && err != nil {
			return err
		}
		if !more {
			return nil
		}
	}
}
