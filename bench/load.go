package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

// The load client: MQTT 3.1.1 on a socket, prepared bytes, no library, so that the client is as little of what is measured as can be.

const (
	window = 100             // QoS 1 and 2 messages of one publisher without their last acknowledgement
	idle   = 3 * time.Second // without a message, after which the rest is lost

	patience = time.Minute // for an answer; others are measured meanwhile
)

type client struct {
	nc  net.Conn
	in  []byte
	a   int // in[a:b] is unread
	b   int
	out []byte
	id  uint16
}

func text(dst []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(dst, uint16(len(s))), s...)
}

func fixed(first byte, body []byte) []byte {
	return append(length([]byte{first}, len(body)), body...)
}

func length(dst []byte, n int) []byte {
	for n >= 128 {
		dst = append(dst, byte(n)|128)
		n >>= 7
	}
	return append(dst, byte(n))
}

// dial connects; with an id it also sends CONNECT and reads CONNACK.
func dial(network, address, id string, clean bool) (*client, error) {
	nc, err := net.Dial(network, address)
	if err != nil {
		return nil, err
	}
	c := &client{nc: nc, in: make([]byte, 256<<10)}
	if id == "" {
		return c, nil
	}
	flags := byte(0)
	if clean {
		flags = 2
	}
	body := text(nil, "MQTT")
	body = append(body, 4, flags, 0, 0) // no keep alive
	if _, err := nc.Write(fixed(0x10, text(body, id))); err != nil {
		return nil, err
	}
	first, ack, err := c.next()
	if err != nil {
		return nil, fmt.Errorf("CONNACK: %w", err)
	}
	if first != 0x20 || ack[1] != 0 {
		return nil, fmt.Errorf("CONNACK %x %x", first, ack)
	}
	return c, nil
}

func (c *client) subscribe(filter string, qos byte) error {
	if _, err := c.nc.Write(fixed(0x82, append(text([]byte{0, 1}, filter), qos))); err != nil {
		return err
	}
	first, ack, err := c.next()
	if err != nil {
		return fmt.Errorf("SUBACK: %w", err)
	}
	if first != 0x90 || ack[2] != qos {
		return fmt.Errorf("SUBACK %x %x", first, ack)
	}
	return nil
}

// whole reports whether a whole packet is buffered.
func (c *client) whole() bool {
	_, _, ok := c.peek()
	return ok
}

// peek returns where the body of the buffered packet begins and ends.
func (c *client) peek() (from, to int, ok bool) {
	n, shift := 0, 0
	for i := c.a + 1; i < c.b; i++ {
		n |= int(c.in[i]&127) << shift
		shift += 7
		if c.in[i] < 128 {
			return i + 1, i + 1 + n, i+1+n <= c.b
		}
	}
	return 0, 0, false
}

// next returns the next packet, valid until the call after.
func (c *client) next() (first byte, body []byte, err error) {
	for {
		if from, to, ok := c.peek(); ok {
			first, body = c.in[c.a], c.in[from:to]
			c.a = to
			return first, body, nil
		}
		if err := c.fill(); err != nil {
			return 0, nil, err
		}
	}
}

func (c *client) fill() error {
	if c.a > 0 {
		copy(c.in, c.in[c.a:c.b])
		c.b -= c.a
		c.a = 0
	}
	n, err := c.nc.Read(c.in[c.b:])
	c.b += n
	if n > 0 {
		return nil
	}
	return err
}

func (c *client) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	_, err := c.nc.Write(c.out)
	c.out = c.out[:0]
	return err
}

// number makes the next packet identifier. They are far from those that brokers begin with for what they send: the two are
// separate by the specification, but mochi confuses them and stalls.
func (c *client) number() {
	c.id = 1<<15 | (c.id+1)%30_000
}

// header returns what a PUBLISH begins with: everything before the packet identifier.
func header(topic string, qos byte, payload int) []byte {
	n := 2 + len(topic) + payload
	if qos > 0 {
		n += 2
	}
	return text(length([]byte{0x30 | qos<<1}, n), topic)
}

// publish sends n messages, each with its number in its first 8 bytes, and waits for their acknowledgements.
func (c *client) publish(n int, topic string, qos byte, size int) error {
	head, payload := header(topic, qos, size), make([]byte, size)
	open := 0
	for sent := 0; sent < n || open > 0; {
		for sent < n && len(c.out) < 64<<10 && (qos == 0 || open < window) {
			binary.BigEndian.PutUint64(payload, uint64(sent))
			c.out = append(c.out, head...)
			if qos > 0 {
				c.number()
				c.out = binary.BigEndian.AppendUint16(c.out, c.id)
				open++
			}
			c.out = append(c.out, payload...)
			sent++
		}
		if err := c.flush(); err != nil {
			return err
		}
		for qos > 0 && open > 0 {
			first, body, err := c.next()
			if err != nil {
				return fmt.Errorf("%d messages without acknowledgement: %w", open, err)
			}
			switch first >> 4 {
			case 4, 7: // PUBACK, PUBCOMP
				open--
			case 5: // PUBREC
				c.out = append(c.out, 0x62, 2, body[0], body[1])
			}
			if !c.whole() {
				break
			}
		}
	}
	return nil
}

// A tally is what a subscriber has received.
type tally struct {
	got, wrong int       // messages; those out of order or twice
	last       time.Time // when the last one came
}

// receive takes messages until n have come or none has for a while. next is by publisher, which the last byte of a topic
// tells: the number that is to come.
func (c *client) receive(n int) (t tally, err error) {
	var next [256]uint64
	for t.got < n {
		if !c.whole() {
			if err := c.flush(); err != nil {
				return t, err
			}
			_ = c.nc.SetReadDeadline(time.Now().Add(idle))
		}
		first, body, err := c.next()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return t, err
		}
		switch first >> 4 {
		case 3:
			topic := int(binary.BigEndian.Uint16(body)) + 2
			from := body[topic-1]
			switch rest := body[topic:]; first >> 1 & 3 {
			case 1:
				c.out = append(c.out, 0x40, 2, rest[0], rest[1])
				body = rest[2:]
			case 2:
				c.out = append(c.out, 0x50, 2, rest[0], rest[1])
				body = rest[2:]
			default:
				body = rest
			}
			number := binary.BigEndian.Uint64(body)
			if number < next[from] {
				t.wrong++
			} else {
				next[from] = number + 1
				t.got++
			}
			t.last = time.Now()
		case 6: // PUBREL
			c.out = append(c.out, 0x70, 2, body[0], body[1])
		}
	}
	return t, c.flush()
}

// A flow is messages from some publishers to some subscribers, each of whom gets all.
type flow struct {
	publishers, subscribers, each int // each: messages of one publisher
	qos                           byte
	size                          int
}

// throughput runs f, and returns what was delivered a second and what was lost.
func throughput(s *server, f flow) (perSecond float64, lost, wrong int, err error) {
	var subs, pubs []*client
	defer func() {
		for _, c := range slices.Concat(subs, pubs) {
			c.nc.Close()
		}
	}()
	for i := range f.subscribers {
		c, err := s.client(fmt.Sprintf("s%d", i), 'S')
		if err != nil {
			return 0, 0, 0, err
		}
		subs = append(subs, c)
		if !s.bare {
			if err := c.subscribe("b/#", f.qos); err != nil {
				return 0, 0, 0, err
			}
		}
	}
	for i := range f.publishers {
		c, err := s.client(fmt.Sprintf("p%d", i), 'P')
		if err != nil {
			return 0, 0, 0, err
		}
		pubs = append(pubs, c)
	}
	if s.bare {
		time.Sleep(50 * time.Millisecond) // it says nothing when it is ready
	}
	total := f.publishers * f.each
	tallies, errs := make([]tally, len(subs)), make([]error, len(subs)+len(pubs))
	var wg sync.WaitGroup
	for i, c := range subs {
		wg.Go(func() { tallies[i], errs[i] = c.receive(total) })
	}
	began := time.Now()
	for i, c := range pubs {
		wg.Go(func() {
			errs[len(subs)+i] = c.publish(f.each, fmt.Sprintf("b/%d", i), f.qos, f.size)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return 0, 0, 0, err
	}
	delivered, last := 0, began
	for _, t := range tallies {
		delivered += t.got
		wrong += t.wrong
		lost += total - t.got
		if t.last.After(last) {
			last = t.last
		}
	}
	return float64(delivered) / last.Sub(began).Seconds(), lost, wrong, nil
}

// A pair is one client that asks and another that answers, one message at a time.
type pair struct {
	asker, answerer *client
	qos             byte
	done            chan struct{} // the answerer has ended
	times           []time.Duration
}

func newPair(s *server, network, address string, qos byte) (*pair, error) {
	connect := func(id string, role byte) (*client, error) {
		if s.bare {
			c, err := dial(network, address, "", true)
			if err == nil {
				_, err = c.nc.Write([]byte{role})
			}
			return c, err
		}
		return dial(network, address, id, true)
	}
	asker, err := connect("asker"+network, 'R')
	if err != nil {
		return nil, err
	}
	answerer, err := connect("answerer"+network, 'A')
	if err != nil {
		asker.nc.Close()
		return nil, err
	}
	p := &pair{asker: asker, answerer: answerer, qos: qos, done: make(chan struct{})}
	if s.bare {
		time.Sleep(50 * time.Millisecond)
	} else if err := errors.Join(asker.subscribe("r/"+network, qos), answerer.subscribe("q/"+network, qos)); err != nil {
		asker.nc.Close()
		answerer.nc.Close()
		return nil, err
	}
	go func() {
		defer close(p.done)
		for answerer.turn("r/"+network, qos) == nil {
		}
	}()
	return p, nil
}

// run asks for a while.
func (p *pair) run(network string, during time.Duration) error {
	for end := time.Now().Add(during); time.Now().Before(end); {
		began := time.Now()
		p.asker.send("q/"+network, p.qos)
		if err := p.asker.flush(); err != nil {
			return err
		}
		if err := p.asker.await(); err != nil {
			return err
		}
		p.times = append(p.times, time.Since(began))
	}
	return nil
}

func (p *pair) close() {
	p.answerer.nc.Close()
	p.asker.nc.Close()
	<-p.done
}

// send appends one message of 200 bytes.
func (c *client) send(topic string, qos byte) {
	c.out = append(c.out, header(topic, qos, 200)...)
	if qos > 0 {
		c.number()
		c.out = binary.BigEndian.AppendUint16(c.out, c.id)
	}
	c.out = append(c.out, make([]byte, 200)...)
}

// turn answers the next message.
func (c *client) turn(topic string, qos byte) error {
	if err := c.await(); err != nil {
		return err
	}
	c.send(topic, qos)
	return c.flush()
}

// await returns when a message has come, having gone on with every handshake meanwhile.
func (c *client) await() error {
	for {
		_ = c.nc.SetReadDeadline(time.Now().Add(patience))
		first, body, err := c.next()
		if err != nil {
			return err
		}
		switch first >> 4 {
		case 3:
			if first>>1&3 == 0 {
				return nil
			}
			topic := int(binary.BigEndian.Uint16(body)) + 2
			ack := byte(0x40)
			if first>>1&3 == 2 {
				ack = 0x50
			}
			c.out = append(c.out, ack, 2, body[topic], body[topic+1])
			return nil // the acknowledgement leaves with what the caller sends next
		case 5:
			c.out = append(c.out, 0x62, 2, body[0], body[1])
		case 6:
			c.out = append(c.out, 0x70, 2, body[0], body[1])
		}
		if !c.whole() {
			if err := c.flush(); err != nil {
				return err
			}
		}
	}
}
