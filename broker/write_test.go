package broker

import (
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// Messages that come one at a time are written by the publisher's reader, as far as the socket takes them, and the rest by the
// subscriber's writer. Whatever part of a packet that is, the subscriber gets the same bytes in the same order: here it reads
// little at a time, and the broker's socket is full most of the time. Messages of all sizes and qualities of service come, those
// that are copied and those that are written from where they lie, alone and many at once.
//
// It was seen to fail with what is left forgotten, and with it written behind what came later.
func TestPartialWrites(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"tcp", "unix", "ws", "pipe"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			const n = 600
			b := start(t, Options{Listeners: everywhere(t)})
			sub := dial(t, b, scheme)
			if small, ok := sub.nc.(interface{ SetReadBuffer(int) error }); ok {
				if err := small.SetReadBuffer(128 << 10); err != nil {
					t.Fatal(err)
				}
			}
			sub.connect(packet.V5, "sub")
			sub.subscribe("t/#", 2)
			sub.r = packet.NewReader(slowly{sub.nc, rand.New(rand.NewPCG(1, 2))}, 0)

			pub := connect(t, b, packet.V5, "pub")
			random := rand.New(rand.NewPCG(3, 4))
			payload := func(i, size int) string {
				return fmt.Sprintf("%8d", i) + strings.Repeat(string(rune('a'+i%26)), size)
			}
			sizes := []int{0, 100, scattered - 8, scattered, nowSize, writeSize}
			sent := make([]string, n) // written before it is published, read when it has come
			var done sync.WaitGroup
			defer done.Wait()
			done.Go(func() {
				next := 0
				err := sub.collect(func(p *packet.Publish) bool {
					if string(p.Payload) != sent[next] {
						t.Errorf("message %d is not what was sent: %.20q of %d bytes, want %.20q of %d", next, p.Payload, len(p.Payload), sent[next], len(sent[next]))
						return false
					}
					next++
					return next < n
				})
				if err != nil {
					t.Errorf("%v after %d messages", err, next)
				}
			})
			for i := 0; i < n; {
				burst := 1
				if random.IntN(4) == 0 {
					burst = min(1+random.IntN(30), n-i)
				}
				var packets []packet.Packet
				qos := byte(random.IntN(2)) // of a burst, since the order holds for each
				for range burst {
					sent[i] = payload(i, sizes[random.IntN(len(sizes))])
					id := uint16(0)
					if qos > 0 {
						id = pub.newID()
					}
					packets = append(packets, outgoing("t/x", sent[i], qos, id))
					i++
				}
				pub.send(packets...)
				if qos > 0 {
					for range burst {
						expect[*packet.Ack](pub)
					}
				} else {
					pub.nothing()
				}
			}
		})
	}
}

// slowly reads a few bytes at a time now and then.
type slowly struct {
	io.Reader
	random *rand.Rand
}

func (s slowly) Read(p []byte) (int, error) {
	if n := s.random.IntN(8); n < 3 {
		p = p[:min(len(p), 1+s.random.IntN(2000))]
	}
	return s.Reader.Read(p)
}
