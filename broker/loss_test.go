package broker

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// TestLossIsSaid fills the queue of a session that is away: what it gets and what its publisher was refused is what was
// published, and the loss shows in the figures, in the log, and under $SYS until the session ends.
func TestLossIsSaid(t *testing.T) {
	t.Parallel()
	const bound, published = 50, 80
	log := &lossLog{}
	b := start(t, Options{MaxQueued: bound, SysInterval: 10 * time.Millisecond, Dir: t.TempDir(), Logger: log.logger()})
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
	waitFor(t, "the log to have it", func() bool {
		said := log.dropped(t, "a/b+c#")
		return said[len(said)-1] == published-bound
	})
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

// What a session lost is in the log when the session or the broker ends, and in few lines.
func TestLossIsLoggedAtTheEnd(t *testing.T) {
	t.Parallel()
	const bound, published = 5, 25
	log := &lossLog{}
	b := start(t, Options{MaxQueued: bound, Logger: log.logger()})
	for _, id := range []string{"ended", "kept", "lossless"} {
		s := connect(t, b, packet.V5, id, keep)
		if id != "lossless" {
			s.subscribe("t", 1)
		}
		s.leave(id)
	}
	pour(t, connect(t, b, packet.V5, "pub"), "t", 1, published, 10, 1)
	connect(t, b, packet.V5, "ended", clean)
	stopNow(t, b)
	for _, id := range []string{"ended", "kept"} {
		said := log.dropped(t, id)
		if n := len(said); n == 0 || said[0] != 1 || said[n-1] != published-bound || n > 6 {
			t.Errorf("%s: the log says %v, want 1 at first, %d at last, and few between", id, said, published-bound)
		}
	}
	if said := log.dropped(t, "lossless"); said != nil {
		t.Errorf("the log says that a session without loss lost %v", said)
	}
}

// lossLog is a log of which only losses matter.
type lossLog struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *lossLog) logger() *slog.Logger { return slog.New(slog.NewJSONHandler(l, nil)) }

func (l *lossLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// dropped returns what was said that a client lost, in order.
func (l *lossLog) dropped(t testing.TB, client string) (said []int) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := bufio.NewScanner(bytes.NewReader(l.buf.Bytes()))
	for lines.Scan() {
		var line struct {
			Msg, Client string
			Dropped     int
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		if line.Msg == "messages dropped" && line.Client == client {
			said = append(said, line.Dropped)
		}
	}
	return said
}
