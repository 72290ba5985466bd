package broker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// FuzzBroker plays scripts against a broker: a few connections that send packets, some right, some mangled, some cut, in any
// order, before CONNECT and after. Whatever they do, in the end they are gone; what came to them was a server's, in order;
// a healthy pair of clients has not noticed; and no session, subscription, retained message, connection or goroutine is left but
// those that somebody asked for.
//
// Seen failing with a broker that panics at a topic filter that ends too early, one that keeps sessions without an expiry, and
// one whose connections wait for a peer that has closed.
func FuzzBroker(f *testing.F) {
	for _, s := range scripts() {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		before := runtime.NumGoroutine()
		b, err := Start(context.Background(), Options{
			Listeners: []Listener{{Network: "tcp", Address: "127.0.0.1:0"}}, SysInterval: -1, MaxPacketSize: 64 << 10,
			tune: func(l *limits) { l.stall = 10 * time.Second },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer stopNow(t, b)
		healthy := newPair(t, b)
		p := &play{t: t, b: b}
		p.run(script)
		healthy.talk()
		p.end()
		healthy.talk()
		p.cleanUp()
		healthy.end()
		stopNow(t, b)
		waitFor(t, "all goroutines to end", func() bool { return runtime.NumGoroutine() <= before })
	})
}

// A pair is two clients that talk to each other.
type pair struct{ one, two *raw }

const talking = "a topic that only the healthy pair knows"

func newPair(t *testing.T, b *Broker) *pair {
	p := &pair{one: connect(t, b, packet.V5, talking+", one"), two: connect(t, b, packet.V311, talking+", two")}
	p.one.subscribe(talking+" 1", 2)
	p.two.subscribe(talking+" 2", 2)
	return p
}

// talk has each send to the other.
func (p *pair) talk() {
	for qos := byte(1); qos <= 2; qos++ {
		p.one.publish(talking+" 2", "from one", qos)
		p.two.gets(talking+" 2", "from one", qos)
		p.two.publish(talking+" 1", "from two", qos)
		p.one.gets(talking+" 1", "from two", qos)
	}
	p.one.nothing()
	p.two.nothing()
}

func (p *pair) end() {
	p.one.disconnect()
	p.two.disconnect()
}

// A play is a script that is being played.
type play struct {
	t     *testing.T
	b     *Broker
	cast  [3]*actor
	all   []*actor
	input []byte
}

// An actor is one connection of a script.
type actor struct {
	nc   net.Conn
	v    packet.Version
	sent []byte
	done chan struct{}
	got  []byte // valid once done is closed
	err  error
}

func (p *play) byte() byte {
	if len(p.input) == 0 {
		return 0
	}
	x := p.input[0]
	p.input = p.input[1:]
	return x
}

// run plays the script. Each step is a byte, of which the lower two bits name the connection, and arguments.
func (p *play) run(script []byte) {
	p.input = script[:min(len(script), 2048)]
	for len(p.input) > 0 {
		step := p.byte()
		n := int(step) & 3 % len(p.cast)
		if step>>2&7 <= 1 { // a new connection, with or without CONNECT
			if p.cast[n] != nil {
				p.cast[n].close()
			}
			p.cast[n] = p.open()
			how := p.byte()
			p.cast[n].v = packet.V311 + packet.Version(how&1)
			if step>>2&7 == 0 {
				p.cast[n].send(login(p.cast[n].v, how))
			}
			continue
		}
		a := p.cast[n]
		if a == nil {
			continue
		}
		switch step >> 2 & 7 {
		case 2: // a packet as it should be
			a.send(a.pick(p.byte()))
		case 3: // with a byte changed
			x := a.pick(p.byte())
			x[int(p.byte())%len(x)] = p.byte()
			a.send(x)
		case 4: // that breaks off
			x := a.pick(p.byte())
			a.send(x[:int(p.byte())%len(x)])
		case 5: // with some bytes left out or put in, and its length put right
			x := a.pick(p.byte())
			head := bytes.IndexFunc(x[1:], func(r rune) bool { return r < 0x80 }) + 2
			body := x[min(head, len(x)):]
			at := int(p.byte()) % (len(body) + 1)
			var changed []byte
			if m := p.byte(); m < 0x80 {
				changed = append(append(changed, body[:at]...), body[min(len(body), at+int(m)%8+1):]...)
			} else {
				changed = append(append(append(changed, body[:at]...), p.bytes(int(m)%8)...), body[at:]...)
			}
			a.send(whole(x[0], string(changed)))
		case 6: // any bytes
			a.send(p.bytes(int(p.byte()) % 32))
		case 7:
			switch p.byte() % 3 {
			case 0:
				a.close()
			case 1:
				_ = a.nc.(*net.TCPConn).CloseWrite()
			case 2:
				_ = a.nc.(*net.TCPConn).SetLinger(0)
				a.close()
			}
			p.cast[n] = nil
		}
	}
}

func (p *play) bytes(n int) []byte {
	n = min(n, len(p.input))
	x := p.input[:n]
	p.input = p.input[n:]
	return x
}

func (p *play) open() *actor {
	nc, err := net.Dial("tcp", strings.TrimPrefix(p.b.URL(), "tcp://"))
	if err != nil {
		p.t.Fatal(err)
	}
	a := &actor{nc: nc, done: make(chan struct{})}
	p.all = append(p.all, a)
	go func() {
		defer close(a.done)
		a.got, a.err = io.ReadAll(nc)
	}()
	return a
}

func (a *actor) send(b []byte) {
	a.sent = append(a.sent, b...)
	_ = a.nc.SetWriteDeadline(time.Now().Add(patient))
	_, _ = a.nc.Write(b) // the broker may have closed it
}

func (a *actor) close() { _ = a.nc.Close() }

// login returns a CONNECT with what how says.
func login(v packet.Version, how byte) []byte {
	c := &packet.Connect{CleanStart: how&2 != 0, ClientID: []byte{'f', '0' + how>>5&1}}
	if how&4 != 0 {
		c.Properties.SessionExpiry = packet.Some(uint32(100))
		c.Properties.ReceiveMaximum = packet.Some(uint16(2))
		c.Properties.TopicAliasMaximum = packet.Some(uint16(3))
	}
	if how&8 != 0 {
		c.Will = &packet.Will{Topic: []byte("f/will"), Payload: []byte("gone"), QoS: how >> 3 & 1, Retain: how&16 != 0}
		c.Will.Properties.WillDelay = packet.Some(uint32(how >> 6 & 1))
	}
	if how&64 != 0 {
		c.Properties.MaximumPacketSize = packet.Some(uint32(40))
	}
	if how&128 != 0 {
		c.ClientID, c.HasUser, c.Username = nil, true, []byte("user")
	}
	out, _ := c.Append(nil, v)
	return out
}

// repertoire is what may be picked from, by version.
var repertoire = sync.OnceValue(func() map[packet.Version][][]byte {
	all := map[packet.Version][][]byte{}
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		full := outgoing("f/full", "payload", 2, 5)
		full.Properties = packet.Properties{PayloadFormat: packet.Some(byte(1)), MessageExpiry: packet.Some(uint32(9)), ContentType: []byte("x"), ResponseTopic: []byte("f/r"),
			CorrelationData: []byte("y"), User: []packet.UserProperty{{Key: []byte("k"), Value: []byte("v")}}}
		aliased, by := outgoing("f/alias", "x", 1, 6), outgoing("", "x", 0, 0)
		aliased.Properties.TopicAlias, by.Properties.TopicAlias = packet.Some(uint16(1)), packet.Some(uint16(1))
		kept, cleared, expiring := outgoing("f/kept", "x", 1, 7), outgoing("f/kept", "", 0, 0), outgoing("f/$/", "x", 0, 0)
		kept.Retain, cleared.Retain, expiring.Retain = true, true, true
		expiring.Properties.MessageExpiry = packet.Some(uint32(0))
		again := outgoing("f/full", "payload", 2, 5)
		again.Dup = true
		many := &packet.Subscribe{ID: 1}
		for i, filter := range []string{"f/#", "+/+", "#", "$share/g/f/+", "$share/h/#", "f/alias", "$SYS/#", "a#", ""} {
			many.Subscriptions = append(many.Subscriptions, packet.Subscription{Filter: []byte(filter), QoS: byte(i % 3), RetainHandling: byte(i % 3), RetainAsPublished: i%2 == 0})
		}
		one := &packet.Subscribe{ID: 2, Subscriptions: []packet.Subscription{{Filter: []byte("f/#"), QoS: 2, NoLocal: true}}}
		one.Properties.SubscriptionIDs = []uint32{300}
		end := disconnectWithExpiry(0)
		packets := []packet.Packet{
			full, again, aliased, by, kept, cleared, expiring, many, one, outgoing("f/0", "x", 0, 0), outgoing("f/1", "x", 1, 1), outgoing("f/2", "x", 2, 2),
			outgoing("f/large", strings.Repeat("x", 2000), 1, 3), outgoing("$SYS/x", "", 1, 1), outgoing(strings.Repeat("/", 250), "x", 2, 9), outgoing("lawnberry/safety/x", "x", 2, 8),
			&packet.Unsubscribe{ID: 3, Filters: [][]byte{[]byte("f/#"), []byte("$share/g/f/+"), []byte("")}}, &packet.Pingreq{},
			&packet.Disconnect{}, &packet.Disconnect{Code: packet.DisconnectWithWill}, end, &packet.Connect{ClientID: []byte("f0")},
			&packet.Connack{}, &packet.Suback{ID: 1, Codes: []packet.Code{0}}, &packet.Pingresp{},
		}
		for _, kind := range []packet.Type{packet.PUBACK, packet.PUBREC, packet.PUBREL, packet.PUBCOMP} {
			for _, id := range []uint16{1, 2, 5} {
				packets = append(packets, &packet.Ack{Kind: kind, ID: id})
			}
			packets = append(packets, &packet.Ack{Kind: kind, ID: 1, Code: packet.PacketIDNotFound})
		}
		for _, p := range packets {
			out, err := p.Append(nil, v)
			if err != nil {
				panic(err)
			}
			all[v] = append(all[v], out)
		}
		all[v] = append(all[v], []byte("\xF0\x02\x18\x00"))
	}
	return all
})

// pick returns one of the repertoire, which the caller may change.
func (a *actor) pick(n byte) []byte {
	all := repertoire()[a.v]
	return bytes.Clone(all[int(n)%len(all)])
}

// end ends all connections, and looks at what came to them.
func (p *play) end() {
	for _, a := range p.all {
		_ = a.nc.(*net.TCPConn).CloseWrite()
	}
	for _, a := range p.all {
		select {
		case <-a.done:
		case <-time.After(patient):
			p.t.Fatal("a connection whose client has closed stays open")
		}
		_ = a.nc.Close()
		if a.err == nil {
			a.check(p.t)
		}
	}
	waitFor(p.t, "the broker to be rid of them", func() bool {
		return p.b.stats.opened.Load() == uint64(2+len(p.all)) && p.b.open() == 2 // it may not have met them all
	})
}

// check makes sure that what came was a server's: first CONNACK and only once, packets that can be decoded and that a
// server sends, nothing after DISCONNECT.
func (a *actor) check(t *testing.T) {
	t.Helper()
	v := a.v
	if c, _ := a.connect(); c != nil {
		v = c.Version
	} else if len(a.got) > 3 { // refused, in the version that it named
		v = packet.V5
		if a.got[1] == 2 {
			v = packet.V311
		}
	}
	r := packet.NewReader(bytes.NewReader(a.got), 0)
	for n := 0; ; n++ {
		first, body, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if errors.Is(err, io.ErrUnexpectedEOF) && n > 0 {
			return // cut off in the middle by a reset
		}
		if err != nil {
			t.Fatalf("after %d packets: %v, of % x", n, err, a.got)
		}
		x, err := packet.Decode(first, body, v)
		if err != nil {
			t.Fatalf("packet %d: %v: % x % x", n, err, first, body)
		}
		switch kind := x.Type(); {
		case (kind == packet.CONNACK) != (n == 0):
			t.Fatalf("packet %d is %v", n, kind)
		case kind == packet.DISCONNECT:
			if _, _, err := r.Next(); v != packet.V5 || !errors.Is(err, io.EOF) {
				t.Fatalf("DISCONNECT in version %v, then %v", v, err)
			}
		case kind == packet.CONNECT || kind == packet.SUBSCRIBE || kind == packet.UNSUBSCRIBE || kind == packet.PINGREQ || kind == packet.AUTH:
			t.Fatalf("%v from a server", kind)
		}
	}
}

// connect returns the CONNECT that a has sent, nil if there was none, and a reader of what followed.
func (a *actor) connect() (*packet.Connect, *packet.Reader) {
	r := packet.NewReader(bytes.NewReader(a.sent), 0)
	first, body, err := r.Next()
	if err != nil {
		return nil, nil
	}
	c, _ := packet.Decode(first, bytes.Clone(body), 0)
	x, _ := c.(*packet.Connect)
	return x, r
}

// cleanUp makes sure that what is left was asked for, takes it away, and makes sure that nothing else is left then.
func (p *play) cleanUp() {
	t, b := p.t, p.b
	lasting, retained := map[string]bool{}, map[string]bool{}
	for _, a := range p.all {
		c, r := a.connect()
		if c == nil {
			continue
		}
		if c.Version == packet.V311 && !c.CleanStart || c.Version == packet.V5 && c.Properties.SessionExpiry.V > 0 {
			lasting[string(c.ClientID)] = true
		}
		if c.Will != nil && c.Will.Retain {
			retained[string(c.Will.Topic)] = true
		}
		for {
			first, body, err := r.Next()
			if err != nil {
				break
			}
			x, err := packet.Decode(first, bytes.Clone(body), c.Version)
			if err != nil {
				break
			}
			if m, ok := x.(*packet.Publish); ok && (m.Retain || m.Properties.TopicAlias.OK) {
				retained[string(m.Topic)] = true
			}
		}
	}
	var left []string
	for s := range b.Sessions() {
		if strings.HasPrefix(s.ClientID, talking) {
			continue
		}
		left = append(left, s.ClientID)
		if !lasting[s.ClientID] && !(lasting[""] && strings.HasPrefix(s.ClientID, "auto-")) {
			t.Errorf("a session %q is left that nobody asked for", s.ClientID)
		}
	}
	for _, id := range left { // its Will comes with its end
		connect(t, b, packet.V5, id, clean).disconnect()
	}
	for _, m := range b.retained.root.all(nil, false) {
		if !retained[m.topic] {
			t.Errorf("a retained message on %q is left that nobody sent", m.topic)
		}
		b.retained.remove(m.topic, nil)
	}
	waitFor(t, "them to be gone", func() bool { s := b.Stats(); return s.Sessions == 2 && s.Connections == 2 })
	s := b.Stats()
	b.tree.mu.RLock()
	nodes, shared := len(b.tree.root.children), b.tree.shared
	b.tree.mu.RUnlock()
	if s.Subscriptions != 2 || nodes != 2 || shared != 0 || s.Queued != 0 || s.Retained != 0 || b.retained.bytes != 0 || len(b.retained.root.children) != 0 {
		t.Errorf("left behind: %+v, %d nodes and %d shared subscriptions, %d bytes retained", s, nodes, shared, b.retained.bytes)
	}
}

// scripts returns scripts to begin with.
func scripts() (all [][]byte) {
	n := byte(len(repertoire()[packet.V5]))
	for how := range byte(16) {
		v := how & 1
		login := []byte{0, how<<1 | v, 1, how<<4 | v, 2 << 2, 7, 2 << 2, 8} // two connections, of which one subscribes
		var right, changed, cut, resized []byte
		for i := range n {
			right = append(right, 2<<2|i&1, i)
			changed = append(changed, 3<<2|1, i, i+how, how*17, 0|1, how<<4|v)
			cut = append(cut, 4<<2|1, i, i+how, 7<<2|1, i%3, 0|1, how<<4|v)
			resized = append(resized, 5<<2|1, i, how, i*16, 0|1, how<<4|v)
		}
		for _, rest := range [][]byte{right, changed, cut, resized} {
			all = append(all, append(bytes.Clone(login), rest...))
		}
	}
	for _, text := range []string{"GET / HTTP/1.1\r\n\r\n", "\x82\x06\x00\x01\x00\x00\x01\x61", "\x10\xff\xff\xff\x7f\x00\x04MQTT\x05", "\xff\xff\xff\xff\xff"} {
		all = append(all, append([]byte{1 << 2, 1, 6 << 2, byte(len(text))}, text...), append([]byte{0, 1, 6 << 2, byte(len(text))}, text...))
	}
	return all
}
