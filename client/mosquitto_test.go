package client

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/lawnberry/lawnberry/internal/faultnet"
	"github.com/lawnberry/lawnberry/internal/mosquittotest"
)

func startMosquitto(t *testing.T) string { return mosquittotest.Start(t, "max_queued_messages 0") }

// With Mosquitto, in both versions: overlapping filters (of which it sends copies), retained messages, calls, and
// 20 cuts in a stream of messages.
func TestMosquitto(t *testing.T) {
	address := startMosquitto(t)
	for _, version := range []string{"5", "3.1.1"} {
		t.Run(version, func(t *testing.T) {
			options := func(address, id string) Options {
				o := Options{URL: "tcp://" + address, ID: id + version}
				if version == "3.1.1" {
					o.Dial = viaV311(t, address)
				}
				return o
			}
			p, err := faultnet.Start(address)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(p.Close)
			base := "m" + version
			pub := connect(t, options(address, "pub"))
			sub := connect(t, options(p.Addr(), "sub"))
			if got := fmt.Sprint(sub.Stats().Version); !strings.HasPrefix(version+"4", got) && version == "5" {
				t.Fatalf("version %s", got)
			}
			publish(t, pub, base+"/a", "retained", WithRetain(true))
			var ks []*collector
			for _, f := range []string{"/a", "/#", "/a", "/+"} {
				k := newCollector()
				ks = append(ks, k)
				subscribe(t, sub, base+f, k.handle)
				k.wait(t, 1)
			}
			for q := range byte(3) {
				publish(t, pub, base+"/a", fmt.Sprint(q), WithQoS(q))
			}
			for i, k := range ks {
				k.wait(t, 4)
				if got := k.settle(t, sub); !slices.Equal(got, []string{"retained", "0", "1", "2"}) {
					t.Errorf("handler %d: %q", i, got)
				}
			}

			serve(t, sub, "nav"+version)
			var got point
			if err := pub.Call(testContext(t), "nav"+version, "echo", point{1, 2}, &got); err != nil || got != (point{1, 2}) {
				t.Error(got, err)
			}

			k := newCollector()
			subscribe(t, sub, base+"/stream", k.handle)
			const n = 400
			cuts := 0
			for i := range n {
				if i%20 == 10 {
					p.Cut(i%40 == 10)
					cuts++
				}
				publish(t, pub, base+"/stream", strconv.Itoa(i), WithQoS(2))
				if i%20 == 19 {
					eventually(t, "it is back", sub.Connected)
				}
			}
			k.wait(t, n)
			texts := k.settle(t, sub)
			for i, s := range texts {
				if s != strconv.Itoa(i) {
					t.Fatalf("%d is %s", i, s)
				}
			}
			if len(texts) != n {
				t.Errorf("%d messages of %d", len(texts), n)
			}
			t.Logf("%d cuts, %d sent, %d received, in order, each once", cuts, n, len(texts))
		})
	}
	var refused *RefusedError
	c := connect(t, Options{URL: "tcp://" + address})
	if err := c.Publish(testContext(t), "x", raw("y"), WithQoS(1)); errors.As(err, &refused) {
		t.Error("no subscribers is no error:", err)
	}
}
