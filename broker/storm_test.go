package broker

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// Many clients do everything at once under a few client ids: they take each other over, come and go with Wills and
// expiries, subscribe alone and shared, publish retained or not, and acknowledge what they like. Nothing deadlocks, the
// race detector is content, a witness misses nothing, and at the end nothing is left.
func TestStorm(t *testing.T) {
	t.Parallel()
	const clients, rounds, ids = 12, 100, 6
	b := start(t, Options{MaxQueued: 200, MaxRetained: 50, tune: func(l *limits) { l.queue0 = 100; l.farewell = 20 * time.Millisecond }})
	witness, probe := connect(t, b, packet.V5, "witness"), connect(t, b, packet.V5, "probe")
	witness.subscribe("witness", 2)
	address := strings.TrimPrefix(b.URL(), "tcp://")
	topics := []string{"s/a", "s/b", "s/a/b", "lawnberry/safety/x"}
	filters := []string{"s/#", "s/+", "s/a", "+/a/b", "$share/g/s/#", "$share/h/s/+", "lawnberry/#", "#"}
	var wg sync.WaitGroup
	for n := range clients {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(n), 1))
			for range rounds {
				nc, err := net.Dial("tcp", address)
				if err != nil {
					t.Error(err)
					return
				}
				v := []packet.Version{packet.V311, packet.V5}[rnd.IntN(2)]
				hello := &packet.Connect{ClientID: fmt.Append(nil, "storm", rnd.IntN(ids)), CleanStart: rnd.IntN(4) == 0}
				hello.Properties.SessionExpiry = packet.Some(uint32(rnd.IntN(2)))
				hello.Properties.ReceiveMaximum = packet.Some(uint16(1 + rnd.IntN(10)))
				hello.Properties.TopicAliasMaximum = packet.Some(uint16(rnd.IntN(4)))
				hello.Properties.MaximumPacketSize = packet.Some(uint32(60 + rnd.IntN(200)))
				if rnd.IntN(2) == 0 {
					hello.Will = &packet.Will{Topic: []byte("s/will"), Payload: []byte("gone"), QoS: byte(rnd.IntN(3)), Retain: rnd.IntN(2) == 0}
					hello.Will.Properties.WillDelay = packet.Some(uint32(rnd.IntN(2)))
				}
				out, _ := hello.Append(nil, v)
				for id := range uint16(1 + rnd.IntN(40)) {
					var p packet.Packet
					switch rnd.IntN(6) {
					case 0:
						p = &packet.Subscribe{ID: id + 1, Subscriptions: []packet.Subscription{{Filter: []byte(filters[rnd.IntN(len(filters))]), QoS: byte(rnd.IntN(3))}}}
					case 1:
						p = &packet.Unsubscribe{ID: id + 1, Filters: [][]byte{[]byte(filters[rnd.IntN(len(filters))])}}
					case 2:
						p = &packet.Ack{Kind: packet.PUBREL, ID: uint16(1 + rnd.IntN(40))}
					default:
						m := outgoing(topics[rnd.IntN(len(topics))], strings.Repeat("x", rnd.IntN(200)), byte(rnd.IntN(3)), id+1)
						m.Retain = rnd.IntN(4) == 0
						if rnd.IntN(5) == 0 {
							m.Properties.MessageExpiry = packet.Some(uint32(rnd.IntN(2)))
						}
						p = m
					}
					out, _ = p.Append(out, v)
				}
				_ = nc.SetDeadline(time.Now().Add(patient))
				_, _ = nc.Write(out)
				r := packet.NewReader(nc, 0)
				for range rnd.IntN(60) {
					_, _ = nc.Write([]byte{0xC0, 0}) // so that something comes
					first, body, err := r.Next()
					if err != nil {
						break
					}
					if most := int(hello.Properties.MaximumPacketSize.V); v == packet.V5 && len(body)+2 > most {
						t.Errorf("%v with a body of %d bytes for a client that takes %d", packet.Type(first>>4), len(body), most)
					}
					p, err := packet.Decode(first, body, v)
					if err != nil {
						t.Errorf("the broker sent what cannot be decoded: %v", err)
						break
					}
					if m, ok := p.(*packet.Publish); ok && m.QoS > 0 && rnd.IntN(4) > 0 {
						kind := packet.PUBACK
						if m.QoS == 2 {
							kind = packet.PUBREC
						}
						_, _ = nc.Write(packet.AppendAck(nil, kind, v, m.ID, 0))
					}
					if _, ok := p.(*packet.Disconnect); ok || rnd.IntN(40) == 0 {
						break
					}
				}
				if rnd.IntN(2) == 0 {
					_, _ = nc.Write([]byte{0xE0, 0})
				}
				_ = nc.Close()
			}
		})
	}
	ended := make(chan struct{})
	go func() {
		wg.Wait()
		close(ended)
	}()
	for i := 0; ; i++ {
		probe.publish("witness", fmt.Sprint(i), 2)
		witness.gets("witness", fmt.Sprint(i), 2)
		select {
		case <-ended:
		default:
			continue
		}
		break
	}
	for i := range ids { // end the sessions of 3.1.1, which have no expiry
		id := fmt.Sprint("storm", i)
		connect(t, b, packet.V5, id).leave(id)
	}
	witness.nothing()
	waitFor(t, "nothing to be left", func() bool {
		s := b.Stats()
		return s.Connections == 2 && s.Sessions == 2 && s.Subscriptions == 1 && s.Queued == 0
	})
	b.tree.mu.RLock()
	defer b.tree.mu.RUnlock()
	if len(b.tree.root.children) != 1 || b.tree.shared != 0 {
		t.Errorf("%d nodes are left at the root, %d shared", len(b.tree.root.children), b.tree.shared)
	}
}
