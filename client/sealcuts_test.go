package client

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/seal"
	"github.com/lawnberry/lawnberry/message"
)

// TestSignedOverCuts cuts the receiver's connection again and again: what the broker sends a second time is no replay that loses a message.
// (Without the check for replays some of QoS 1 are handled twice.)
func TestSignedOverCuts(t *testing.T) {
	t.Parallel()
	const total, cuts = 400, 8
	b := startBroker(t)
	proxy, url := startProxy(t, b)
	g := &Signing{KeyFile: keyFile(t, seal.HMAC), Policies: []Policy{{"#", VerifyRequired}}}
	sender := connect(t, Options{Dial: b.Dial, Signing: g})
	receiver := connect(t, Options{URL: url, ID: "receiver", Signing: g})
	var mu sync.Mutex
	got := map[string]int{}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(got)
	}
	subscribe(t, receiver, "a/+", func(_ context.Context, d *Delivery) {
		mu.Lock()
		defer mu.Unlock()
		got[d.Message.Metadata.ID]++
	})
	for i := range total {
		m, err := message.NewHeartbeat("x", nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := sender.Publish(testContext(t), fmt.Sprintf("a/%d", i%3), m, WithQoS(byte(1+i%2))); err != nil {
			t.Fatal(err)
		}
		if i%(total/cuts) == total/cuts-1 {
			proxy.Cut(i%2 == 0)
		}
	}
	eventually(t, "all arrive", func() bool { return count() == total })
	t.Logf("%d of %d over %d reconnects, rejected %v", count(), total, receiver.Stats().Reconnects, receiver.Stats().Rejected)
	mu.Lock()
	defer mu.Unlock()
	for id, n := range got {
		if n > 1 {
			t.Errorf("%s was handled %d times", id, n)
		}
	}
}

// TestSignedParked has messages of a resumed session come twice before anybody here wants them. Then somebody does, and gets each once. (When
// they are remembered as taken before, none arrives.)
func TestSignedParked(t *testing.T) {
	t.Parallel()
	const total = 10
	b := startBroker(t)
	proxy, url := startProxy(t, b)
	g := &Signing{KeyFile: keyFile(t, seal.HMAC), Policies: []Policy{{"a/+", VerifyRequired}}}
	o := Options{URL: url, ID: "receiver", Signing: g, SessionExpiry: time.Hour}
	former := connect(t, o)
	subscribe(t, former, "a/+", newCollector().handle)
	if err := former.Close(testContext(t)); err != nil {
		t.Fatal(err)
	}
	sender := connect(t, Options{Dial: b.Dial, Signing: g})
	for i := range total {
		publish(t, sender, "a/x", fmt.Sprint(i), WithQoS(byte(1+i%2)))
	}
	receiver := connect(t, o)
	eventually(t, "they come", func() bool { return receiver.Stats().Received >= total })
	proxy.Cut(false)
	eventually(t, "they come again", func() bool { return receiver.Stats().Received >= 2*total })
	k := newCollector()
	subscribe(t, receiver, "a/+", k.handle)
	k.wait(t, total)
	if got := k.settle(t, receiver); len(got) != total {
		t.Errorf("%q", got)
	}
}
