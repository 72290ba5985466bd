package broker_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"sync"
	"testing"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/internal/packet"
)

// lean is as little of a client as can load a broker: it writes prepared bytes and answers what it must.
type lean struct {
	nc  net.Conn
	r   *packet.Reader
	w   *bufio.Writer
	pub packet.Publish
	ack packet.Ack
}

func dialLean(b *testing.B, url, id string) *lean {
	b.Helper()
	nc, err := net.Dial("tcp", url[len("tcp://"):])
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = nc.Close() })
	l := &lean{nc: nc, r: packet.NewReader(nc, 1<<20), w: bufio.NewWriterSize(nc, 64<<10)}
	out, _ := (&packet.Connect{Version: packet.V5, CleanStart: true, ClientID: []byte(id)}).Append(nil, packet.V5)
	_, _ = l.w.Write(out)
	_ = l.w.Flush()
	if _, _, err := l.r.Next(); err != nil {
		b.Fatal(err)
	}
	return l
}

func (l *lean) subscribe(b *testing.B, filter string, qos byte) {
	b.Helper()
	out, _ := (&packet.Subscribe{ID: 1, Subscriptions: []packet.Subscription{{Filter: []byte(filter), QoS: qos}}}).Append(nil, packet.V5)
	_, _ = l.nc.Write(out)
	if _, _, err := l.r.Next(); err != nil {
		b.Fatal(err)
	}
}

// receive takes n messages, acknowledging what asks for it.
func (l *lean) receive(n int) error {
	var out []byte
	for n > 0 {
		if !l.r.Buffered() && len(out) > 0 {
			if _, err := l.nc.Write(out); err != nil {
				return err
			}
			out = out[:0]
		}
		first, body, err := l.r.Next()
		if err != nil {
			return err
		}
		switch packet.Type(first >> 4) {
		case packet.PUBLISH:
			if err := l.pub.Decode(first, body, packet.V5); err != nil {
				return err
			}
			switch l.pub.QoS {
			case 0:
				n--
			case 1:
				out = packet.AppendAck(out, packet.PUBACK, packet.V5, l.pub.ID, 0)
				n--
			case 2:
				out = packet.AppendAck(out, packet.PUBREC, packet.V5, l.pub.ID, 0)
			}
		case packet.PUBREL:
			if err := l.ack.Decode(first, body, packet.V5); err != nil {
				return err
			}
			out = packet.AppendAck(out, packet.PUBCOMP, packet.V5, l.ack.ID, 0)
			n--
		}
	}
	_, err := l.nc.Write(out)
	return err
}

// send publishes n messages with at most 512 unacknowledged.
func (l *lean) send(n int, topic string, qos byte, payload []byte) error {
	var out []byte
	open, id := 0, uint16(0)
	for sent := 0; sent < n || open > 0; {
		for sent < n && (qos == 0 || open < 512) && len(out) < 32<<10 {
			id = id%60000 + 1
			o := packet.Outgoing{Topic: topic, Payload: payload, QoS: qos}
			if qos > 0 {
				o.ID = id
				open++
			}
			out = o.Append(out, packet.V5)
			sent++
		}
		if len(out) > 0 {
			if _, err := l.nc.Write(out); err != nil {
				return err
			}
			out = out[:0]
		}
		for qos > 0 && open > 0 && (open >= 512 || sent == n || l.r.Buffered()) {
			first, body, err := l.r.Next()
			if err != nil {
				return err
			}
			if err := l.ack.Decode(first, body, packet.V5); err != nil {
				return err
			}
			switch packet.Type(first >> 4) {
			case packet.PUBACK, packet.PUBCOMP:
				open--
			case packet.PUBREC:
				out = packet.AppendAck(out, packet.PUBREL, packet.V5, l.ack.ID, 0)
			}
			if open < 512 && sent < n && !l.r.Buffered() {
				break
			}
			if len(out) > 0 && !l.r.Buffered() {
				break
			}
		}
	}
	return nil
}

// BenchmarkThroughput is four publishers to one subscriber, 200 bytes, over TCP.
func BenchmarkThroughput(b *testing.B) {
	for qos := range byte(3) {
		b.Run(fmt.Sprintf("QoS%d", qos), func(b *testing.B) {
			br, err := broker.Start(context.Background(), broker.Options{Listeners: []broker.Listener{{Network: "tcp", Address: "127.0.0.1:0"}}})
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = br.Stop(context.Background()) }()
			const publishers = 4
			sub := dialLean(b, br.URL(), "sub")
			sub.subscribe(b, "bench/#", qos)
			var pubs []*lean
			for i := range publishers {
				pubs = append(pubs, dialLean(b, br.URL(), fmt.Sprint("pub", i)))
			}
			each := b.N/publishers + 1
			payload := make([]byte, 200)
			b.ReportAllocs()
			b.ResetTimer()
			var wg sync.WaitGroup
			for i, p := range pubs {
				wg.Go(func() {
					if err := p.send(each, fmt.Sprint("bench/", i), qos, payload); err != nil {
						b.Error(err)
					}
				})
			}
			if qos > 0 {
				if err := sub.receive(publishers * each); err != nil {
					b.Error(err)
				}
				wg.Wait()
			} else {
				go func() { _ = sub.receive(publishers * each) }()
				wg.Wait()
			}
			b.StopTimer()
			s := br.Stats()
			b.ReportMetric(float64(s.Sent)/b.Elapsed().Seconds(), "delivered/s")
			b.ReportMetric(100*float64(s.Dropped)/float64(max(s.Received, 1)), "%dropped")
		})
	}
}

// BenchmarkRoundTrip is one message to oneself and back.
func BenchmarkRoundTrip(b *testing.B) {
	for qos := range byte(3) {
		b.Run(fmt.Sprintf("QoS%d", qos), func(b *testing.B) {
			br, err := broker.Start(context.Background(), broker.Options{Listeners: []broker.Listener{{Network: "tcp", Address: "127.0.0.1:0"}}})
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = br.Stop(context.Background()) }()
			sub, pub := dialLean(b, br.URL(), "sub"), dialLean(b, br.URL(), "pub")
			sub.subscribe(b, "bench", qos)
			payload := make([]byte, 200)
			b.ReportAllocs()
			for b.Loop() {
				done := make(chan error, 1)
				go func() { done <- sub.receive(1) }()
				if err := pub.send(1, "bench", qos, payload); err != nil {
					b.Fatal(err)
				}
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
