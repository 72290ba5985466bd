package client

import (
	"fmt"
	"testing"

	"github.com/lawnberry/lawnberry/internal/brokertest"
	"github.com/lawnberry/lawnberry/message"
)

// Who wants it is told of the retain flag of live messages, but not while another handler of the same filter is told of retained ones only. With
// the flag taken out of the SUBSCRIBE this fails.
func TestRetainAsPublished(t *testing.T) {
	b := startBroker(t)
	c, other := connect(t, Options{URL: b.URL()}), connect(t, Options{URL: b.URL()})
	flags := func(k *collector) (all []bool) {
		for _, d := range k.all() {
			all = append(all, d.Retained)
		}
		return all
	}
	publish := func(text string, retain bool) {
		t.Helper()
		if err := other.Publish(testContext(t), "system/note", message.NewRaw([]byte(text)), WithRetain(retain)); err != nil {
			t.Fatal(err)
		}
	}
	brokertest.Embedded(t, "Mosquitto 2.0.11 keeps the options of a subscription when it is made again with others")
	k, plain := newCollector(), newCollector()
	subscribe(t, c, "system/note", k.handle, WithRetainAsPublished())
	publish("a", true)
	publish("b", false)
	k.wait(t, 2)
	if got := fmt.Sprint(flags(k)); got != "[true false]" {
		t.Errorf("flags %s", got)
	}
	s := subscribe(t, c, "system/note", plain.handle)
	plain.wait(t, 1) // what is retained
	publish("c", true)
	k.wait(t, 3)
	plain.wait(t, 2)
	if got := fmt.Sprint(flags(plain)); got != "[true false]" {
		t.Errorf("flags of who does not want it: %s", got)
	}
	if err := s.Unsubscribe(testContext(t)); err != nil {
		t.Fatal(err)
	}
}
