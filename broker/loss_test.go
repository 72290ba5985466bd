package broker

import (
	"fmt"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// TestLossIsSaid fills the queue of a session that is away: what it gets and what its publisher was refused is what was
// published, and the loss shows in the figures and under $SYS until the session ends.
func TestLossIsSaid(t *testing.T) {
	t.Parallel()
	const bound, published = 50, 80
	b := start(t, Options{MaxQueued: bound, SysInterval: 10 * time.Millisecond, Dir: t.TempDir()})
	s := connect(t, b, packet.V5, "a/b+c#", keep)
	s.subscribe("t", 2)
	s.leave("a/b+c#")
	p := connect(t, b, packet.V5, "pub")
	taken, refused := 0, 0
	for i := range published {
		switch code := p.publish("t", fmt.Sprint(i), byte(1+i%2)); code {
		case packet.Success:
			taken++
		case packet.QuotaExceeded:
			refused++
		default:
			t.Fatalf("message %d: %v", i, code)
		}
	}
	t.Logf("%d published, %d taken, %d refused", published, taken, refused)
	if taken != bound || refused != published-bound {
		t.Errorf("%d taken and %d refused, want %d and %d", taken, refused, bound, published-bound)
	}
	for x := range b.Sessions() {
		if x.ClientID == "a/b+c#" && (x.Dropped != published-bound || x.Queued != bound || x.Connected || !x.Durable) {
			t.Errorf("%+v", x)
		}
	}
	watch := connect(t, b, packet.V5, "watch")
	watch.subscribe("$SYS/broker/sessions/#", 0)
	said := expect[*packet.Publish](watch)
	for string(said.Payload) != fmt.Sprint(published-bound) { // it may have been read half-way
		said = expect[*packet.Publish](watch)
	}
	if want := "$SYS/broker/sessions/a%2Fb%2Bc%23/dropped"; string(said.Topic) != want {
		t.Errorf("%s: %s, want %s", said.Topic, said.Payload, want)
	}
	s = connect(t, b, packet.V5, "a/b+c#", keep)
	for i := range bound {
		if m := expect[*packet.Publish](s); string(m.Payload) != fmt.Sprint(i) || m.Dup {
			t.Fatalf("message %d is %q, DUP %v", i, m.Payload, m.Dup)
		}
	}
	s.nothing()
	connect(t, b, packet.V5, "a/b+c#", clean)
	if gone := expect[*packet.Publish](watch); string(gone.Topic) != string(said.Topic) || len(gone.Payload) > 0 {
		t.Errorf("%s: %s, want it to be taken away with the session", gone.Topic, gone.Payload)
	}
}
