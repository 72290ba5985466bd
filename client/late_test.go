package client

import (
	"context"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// Acknowledgements that may be late come nevertheless, when nothing else does that they could leave with; and a broker that has not
// agreed gets them like any other. To see it fail: let writeSoon do nothing.
func TestLateAcknowledgements(t *testing.T) {
	t.Parallel()
	for name, agrees := range map[string]bool{"agreed": true, "not agreed": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			finished := make(chan struct{})
			dial := scripted(t, func(n int, s *script) {
				if n > 0 {
					return // the client comes again when all is said
				}
				defer close(finished)
				var ack packet.Connack
				if agrees {
					ack.Properties.User = []packet.UserProperty{lateAcknowledgements}
				}
				if s.accept(ack) == nil {
					return
				}
				s.confirm(s.next())
				expect := func(kind packet.Type, id uint16) {
					if a, ok := want[*packet.Ack](s); !ok || a.Kind != kind || a.ID != id || a.Code != packet.Success {
						s.t.Errorf("got %v, want %v %d", a, kind, id)
					}
				}
				for id := range uint16(3) {
					s.send(&packet.Publish{ID: id + 1, QoS: 2, Topic: []byte("lawnberry/a"), Payload: []byte("x")})
					expect(packet.PUBREC, id+1)
					s.send(&packet.Ack{Kind: packet.PUBREL, ID: id + 1})
					expect(packet.PUBCOMP, id+1)
				}
				for id := range uint16(20) { // too many to be kept together
					s.send(&packet.Publish{ID: id + 1, QoS: 1, Topic: []byte("lawnberry/a"), Payload: []byte("x")})
				}
				for id := range uint16(20) {
					expect(packet.PUBACK, id+1)
				}
			})
			c := connect(t, Options{Dial: dial, Probe: time.Minute}) // a PINGREQ would be company
			k := newCollector()
			subscribe(t, c, "a", k.handle)
			k.wait(t, 23)
			<-finished
		})
	}
}

// What a call leaves to be acknowledged ends by itself, at both ends: nothing stays in flight when no other call follows.
func TestCallLeavesNothingInFlight(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	server := connect(t, Options{URL: b.URL(), ID: "nav"})
	serve(t, server, "nav")
	caller := connect(t, Options{URL: b.URL()})
	for range 3 {
		if err := caller.Call(context.Background(), "nav", "echo", map[string]int{"n": 1}, nil); err != nil {
			t.Fatal(err)
		}
		for _, c := range []*Client{caller, server} {
			eventually(t, "all to be acknowledged", func() bool {
				c.mu.Lock()
				defer c.mu.Unlock()
				return c.flight.n == 0 && len(c.exactly) == 0 && c.acks[1].len() == 0
			})
		}
	}
}
