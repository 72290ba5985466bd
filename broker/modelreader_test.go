package broker

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/topic"
)

// The subscribers of TestModel: they keep their side of the protocol, and check what comes.

// A reader is a subscriber with its session.
type reader struct {
	m       *model
	id      string
	version packet.Version
	memory  bool // the session does not outlive the broker
	window  uint16
	group   *crew // a member of a shared subscription, and nothing else

	c       *raw
	there   bool // the broker has a session
	filters map[string]byte
	must    map[int]byte // messages that have to come, with their QoS
	may     map[int]byte // those that may come, these included
	got     map[int]bool
	last    map[string]int  // by topic and QoS: the last message
	holds   map[uint16]int  // QoS 2 messages received and not released
	acks    []packet.Packet // yet to be sent
}

// A crew is the members of a shared subscription, any of whom may get a message.
type crew struct {
	must    map[int]byte
	may     map[int]bool
	got     map[int]int
	unsure  map[int]bool // that they were sent may not be known after a kill: another member may get them too
	members []*reader
}

// wants returns the QoS at which r gets p.
func (r *reader) wants(p *publication) (byte, bool) {
	best, ok := byte(0), false
	for f, qos := range r.filters {
		if topic.Match(strings.TrimPrefix(f, "$share/g/"), p.topic) {
			best, ok = max(best, qos), true
		}
	}
	return min(best, p.qos), ok
}

// forget is what the client and the model do when the session has ended.
func (r *reader) forget() {
	if r.there {
		r.m.tally.Ended++
	}
	r.there = false
	r.filters = make(map[string]byte)
	r.must, r.may = make(map[int]byte), make(map[int]byte)
	r.got, r.last, r.holds = make(map[int]bool), make(map[string]int), make(map[uint16]int)
	for _, p := range r.m.publisher.waiting {
		p.was = slices.DeleteFunc(p.was, func(x *reader) bool { return x == r })
	}
	if g := r.group; g != nil {
		for n, qos := range g.must {
			if qos == 2 && g.got[n] == 0 { // it may have been on its way to this one: then nobody else gets it
				delete(g.must, n)
			}
		}
	}
}

// drop cuts the connection. What was not acknowledged never will be, unless it comes again.
func (r *reader) drop() {
	if r.c != nil {
		_ = r.c.nc.Close()
		r.c = nil
	}
	r.acks = nil
}

// leave ends the connection, with a goodbye or without.
func (r *reader) leave(goodbye bool) {
	if r.c == nil {
		return
	}
	r.m.note("%s leaves, goodbye %v", r.id, goodbye)
	if goodbye {
		r.c.send(&packet.Disconnect{})
	}
	r.c.hangUp(r.id)
	r.drop()
}

// connect connects r, which may take over from its own connection.
func (r *reader) connect(anew bool) {
	m := r.m
	m.note("%s connects, anew %v", r.id, anew)
	old := r.c
	r.c = nil
	c, ack := connected(m.t, m.b, r.version, r.id, func(p *packet.Connect) {
		p.CleanStart = anew
		if r.version != packet.V5 {
			p.CleanStart = false
			return
		}
		p.Properties.SessionExpiry = packet.Some(uint32(0xFFFFFFFF))
		if r.window > 0 {
			p.Properties.ReceiveMaximum = packet.Some(r.window)
		}
		if r.memory {
			p.Properties.User = []packet.UserProperty{{Key: []byte("session-durability"), Value: []byte("memory")}}
		}
	})
	if old != nil {
		_ = old.nc.Close()
	}
	r.drop()
	r.c = c
	anew = anew && r.version == packet.V5
	if want := r.there && !anew; ack.SessionPresent != want {
		m.t.Fatalf("%s: session present %v, want %v", r.id, ack.SessionPresent, want)
	}
	if anew {
		r.forget()
	}
	r.there = true
	if r.group != nil && len(r.filters) == 0 {
		r.subscribe("$share/g/t/#", 2)
	}
}

// change subscribes or unsubscribes.
func (r *reader) change() {
	if r.c == nil || r.group != nil {
		return
	}
	f := []string{"t/0", "t/1", "t/+", "t/#", "will"}[r.m.rand.IntN(5)]
	if _, ok := r.filters[f]; ok && r.m.chance(50) {
		r.m.note("%s unsubscribes %s", r.id, f)
		delete(r.filters, f)
		r.request(&packet.Unsubscribe{ID: 1, Filters: [][]byte{[]byte(f)}})
		return
	}
	r.subscribe(f, byte(1+r.m.rand.IntN(2)))
}

func (r *reader) subscribe(f string, qos byte) {
	s := packet.Subscription{Filter: []byte(f), QoS: qos}
	if r.version == packet.V5 && r.group == nil {
		s.RetainHandling = 2
	}
	a := r.request(&packet.Subscribe{ID: 1, Subscriptions: []packet.Subscription{s}}).(*packet.Suback)
	r.m.note("%s subscribes %s qos %d: %v", r.id, f, qos, a.Codes)
	switch {
	case a.Codes[0] < 0x80:
		r.filters[f] = qos
	case !r.m.disk.full.Load():
		r.m.t.Fatalf("%s: refused: %v", r.id, a.Codes)
	case r.group != nil:
		r.m.works()
		r.subscribe(f, qos)
	}
}

// request sends p and returns its answer.
func (r *reader) request(p packet.Packet) packet.Packet {
	r.c.send(p)
	for {
		x, err := r.c.next()
		if err != nil {
			r.m.t.Fatalf("%s: %v", r.id, err)
		}
		switch x.Type() {
		case packet.SUBACK, packet.UNSUBACK, packet.PINGRESP:
			return x
		}
		r.receive(x)
	}
}

// pump receives what is there, and acknowledges so many percent of it.
func (r *reader) pump(percent int) (some bool) {
	if r.c == nil {
		return false
	}
	r.m.note("%s reads", r.id)
	before := len(r.acks)
	r.request(&packet.Pingreq{})
	some = len(r.acks) > before
	n := (len(r.acks)*percent + 99) / 100
	for _, a := range r.acks[:n] {
		if _, err := sendTo(r.c, a); err != nil && !errors.Is(err, net.ErrClosed) {
			r.m.t.Fatalf("%s: %v", r.id, err)
		}
	}
	r.acks = slices.Clone(r.acks[n:])
	return some || n > 0
}

func sendTo(c *raw, p packet.Packet) (int, error) {
	out, err := p.Append(nil, c.v)
	if err != nil {
		return 0, err
	}
	return c.nc.Write(out)
}

// receive handles PUBLISH and PUBREL.
func (r *reader) receive(x packet.Packet) {
	m := r.m
	if a, ok := x.(*packet.Ack); ok && a.Kind == packet.PUBREL {
		delete(r.holds, a.ID)
		r.acks = append(r.acks, &packet.Ack{Kind: packet.PUBCOMP, ID: a.ID})
		return
	}
	p, ok := x.(*packet.Publish)
	if !ok {
		m.t.Fatalf("%s got %s", r.id, describe(x))
	}
	if p.Retain || strings.HasPrefix(string(p.Topic), "kept/") {
		m.t.Fatalf("%s got %s", r.id, describe(x))
	}
	n, err := strconv.Atoi(string(p.Payload))
	if err != nil {
		m.t.Fatalf("%s got %s", r.id, describe(x))
	}
	m.note("%s got %s", r.id, describe(x))
	m.tally.Delivered++
	kind := packet.PUBACK
	if p.QoS == 2 {
		kind = packet.PUBREC
	}
	r.acks = append(r.acks, &packet.Ack{Kind: kind, ID: p.ID})
	if held, ok := r.holds[p.ID]; ok && p.QoS == 2 {
		if held != n {
			m.t.Fatalf("%s: message %d has the identifier of %d", r.id, n, held)
		}
		m.tally.Again++
		return
	}
	if _, ok := r.may[n]; !ok && (r.group == nil || !r.group.may[n]) { // what a member leaves goes to the other
		m.t.Fatalf("%s: message %d is not for this session", r.id, n)
	}
	if r.got[n] {
		m.tally.Again++
		if p.QoS == 2 && !m.doubtful[n] {
			m.t.Fatalf("%s: message %d of QoS 2 came twice", r.id, n)
		}
	}
	if p.QoS == 2 {
		r.holds[p.ID] = n
	}
	if g := r.group; g != nil {
		if g.got[n]++; g.got[n] > 1 && p.QoS == 2 && !m.doubtful[n] && !g.unsure[n] {
			m.t.Fatalf("%s: message %d of QoS 2 came to another member too", r.id, n)
		}
		r.got[n] = true
		return
	}
	lane := fmt.Sprint(string(p.Topic), p.QoS)
	if !r.got[n] && n < r.last[lane] {
		m.t.Fatalf("%s: message %d after %d", r.id, n, r.last[lane])
	}
	r.got[n] = true
	r.last[lane] = max(r.last[lane], n)
}
