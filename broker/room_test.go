package broker

import (
	"fmt"
	"strings"
	"testing"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// What one client can make the broker keep is bounded in bytes, not only in numbers: a megabyte of deep filters once
// took 320 MB.

func TestRoomForRetained(t *testing.T) {
	t.Parallel()
	b := start(t, Options{MaxRetainedBytes: 12_000})
	c := connect(t, b, packet.V5, "c")
	for _, step := range []struct {
		topic string
		size  int
		want  packet.Code
	}{
		{"r/1", 4000, packet.Success}, {"r/2", 4000, packet.Success}, {"r/3", 4000, packet.QuotaExceeded},
		{"r/2", 9000, packet.QuotaExceeded}, // r/2 has none now
		{"r/3", 4000, packet.Success}, {"r/3", 3000, packet.Success},
		{"x" + strings.Repeat("/", 100), 1, packet.Success}, {"y", 1, packet.QuotaExceeded},
		{"x" + strings.Repeat("/", 100), 0, packet.NoMatchingSubscribers}, {"y", 1, packet.Success},
	} {
		if code := c.publish(step.topic, strings.Repeat("x", step.size), 1, retain); code != step.want {
			t.Errorf("%d bytes on %.9q: %v, want %v", step.size, step.topic, code, step.want)
		}
	}
	c.subscribe("#", 0)
	got := map[string]int{}
	for range 3 {
		m := expect[*packet.Publish](c)
		got[string(m.Topic)] = len(m.Payload)
	}
	c.nothing()
	if len(got) != 3 || got["r/1"] != 4000 || got["r/3"] != 3000 || got["y"] != 1 {
		t.Errorf("retained are %v", got)
	}
	for name := range got {
		b.retained.remove(name, nil)
	}
	if b.retained.size != 0 {
		t.Errorf("nothing is reckoned to take %d bytes", b.retained.size)
	}
}

// The emergency stop is a retained message: others leave it room.
func TestRoomForRetainedSafety(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]Options{"messages": {MaxRetained: 1}, "bytes": {MaxRetainedBytes: 2000}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o.Dir = t.TempDir()
			b := start(t, o)
			c := connect(t, b, packet.V5, "c")
			const stop = "lawnberry/safety/emergency_stop"
			if code := c.publish("r", strings.Repeat("x", 1400), 1, retain); code != packet.Success {
				t.Fatalf("the first: %v", code)
			}
			if code := c.publish("r/1", strings.Repeat("x", 200), 1, retain); code != packet.QuotaExceeded {
				t.Fatalf("the second: %v", code)
			}
			for _, engaged := range []string{"engaged", "still engaged"} {
				if code := c.publish(stop, engaged, 1, retain); code != packet.Success {
					t.Errorf("%s: %v", engaged, code)
				}
			}
			stopNow(t, b)
			c = connect(t, start(t, o), packet.V5, "c")
			c.subscribe(stop, 0)
			c.gets(stop, "still engaged", 0)
		})
	}
}

func TestRoomForSubscriptions(t *testing.T) {
	t.Parallel()
	b := start(t, Options{tune: func(l *limits) { l.subscriptionBytes = 200_000 }})
	c := connect(t, b, packet.V5, "c")
	deep := func(i int) string { return fmt.Sprint(i, strings.Repeat("/+", 100)) }
	n := 0
	for ; c.subscribe(deep(n), 1) < 0x80; n++ {
		if n > 100 {
			t.Fatal("no end")
		}
	}
	if n < 5 {
		t.Errorf("%d found room", n)
	}
	if code := c.subscribe(deep(0), 2); code != packet.GrantedQoS2 {
		t.Errorf("one that is there already: %v", code)
	}
	c.unsubscribe(deep(0))
	if code := c.subscribe("a", 1); code != packet.GrantedQoS1 {
		t.Errorf("with room again: %v", code)
	}
	c.leave("c")
	waitFor(t, "nothing to be reckoned to take any bytes", func() bool {
		b.tree.mu.RLock()
		defer b.tree.mu.RUnlock()
		return b.tree.size == 0
	})
}

// Somebody who subscribes again and again, and acknowledges nothing, does not collect all that was ever retained.
func TestRoomForRetainedAgainAndAgain(t *testing.T) {
	t.Parallel()
	b := start(t, Options{MaxRetainedBytes: 20_000, MaxQueuedBytes: 20_000})
	p := connect(t, b, packet.V5, "p")
	c := connect(t, b, packet.V5, "c", receiveMaximum(1))
	for i := 0; ; i++ {
		if i > 20 {
			t.Fatal("no end")
		}
		p.publish("r", strings.Repeat("x", 5000), 1, retain)
		c.send(&packet.Subscribe{ID: 1, Subscriptions: []packet.Subscription{{Filter: []byte("r"), QoS: 1}}})
		x, err := c.next()
		if err == nil && x.Type() == packet.PUBLISH { // the first
			x, err = c.next()
		}
		if d, ok := x.(*packet.Disconnect); ok && d.Code == packet.QuotaExceeded {
			return
		}
		if _, ok := x.(*packet.Suback); !ok {
			t.Fatal(x, err)
		}
		c.send(&packet.Unsubscribe{ID: 2, Filters: [][]byte{[]byte("r")}})
		for x, err = c.next(); err == nil && x.Type() == packet.PUBLISH; {
			x, err = c.next()
		}
		if d, ok := x.(*packet.Disconnect); ok && d.Code == packet.QuotaExceeded {
			return
		}
	}
}
