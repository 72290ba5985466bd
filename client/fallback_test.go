package client

import (
	"context"
	"errors"
	"net"
	"slices"
	"testing"

	"github.com/lawnberry/lawnberry/broker"
)

// nobody is an address that refuses connections.
func nobody(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "tcp://" + l.Addr().String()
}

// The first address that answers is used, and the next one when that is gone, with the subscriptions of before.
func TestFallback(t *testing.T) {
	a, b := startBroker(t), startBroker(t)
	c := connect(t, Options{URL: nobody(t), Fallback: []string{a.URL(), b.URL()}, ID: "c", FailFast: true})
	if s, ok := c.Server(); !ok || s.URL != a.URL() || s.Version != 5 || s.MaximumQoS != 2 || !s.RetainAvailable || !s.SharedAvailable || !s.WildcardAvailable {
		t.Fatalf("%+v, %t", s, ok)
	}
	k := newCollector()
	subscribe(t, c, "x", k.handle)
	publish(t, c, "x", "1", WithQoS(2))
	k.wait(t, 1)
	stopBroker(t, a)
	eventually(t, "the other broker", func() bool { s, ok := c.Server(); return ok && s.URL == b.URL() })
	publish(t, c, "x", "2", WithQoS(2))
	if got := k.settle(t, c); !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("got %q", got)
	}
	if r := c.Stats().Reconnects; r != 1 {
		t.Errorf("%d reconnections", r)
	}
}

// A session that another broker has from earlier is not continued there: its packet identifiers stand for other messages.
func TestFallbackStartsClean(t *testing.T) {
	a, b := startBroker(t), startBroker(t)
	old := connect(t, Options{URL: b.URL(), ID: "c"})
	k := newCollector()
	subscribe(t, old, "old", k.handle)
	_ = old.Close(testContext(t)) // its session stays for an hour
	c := connect(t, Options{URL: a.URL(), Fallback: []string{b.URL()}, ID: "c"})
	news := newCollector()
	subscribe(t, c, "new", news.handle)
	stopBroker(t, a)
	eventually(t, "the other broker", func() bool { s, ok := c.Server(); return ok && s.URL == b.URL() })
	other := connect(t, Options{URL: b.URL()})
	publish(t, other, "old", "nobody's", WithQoS(1))
	publish(t, other, "new", "1", WithQoS(1))
	news.wait(t, 1)
	if got := c.Stats().Received; got != 1 {
		t.Errorf("%d messages came, one of them for a subscription that is another's", got)
	}
}

// When no address answers, the error is one for which trying again may help, and names its address; all of them are refused, that is final.
func TestFallbackErrors(t *testing.T) {
	picky := startBrokerWith(t, broker.Options{
		Listeners:    []broker.Listener{{Network: "tcp", Address: "127.0.0.1:0"}},
		Authenticate: refuseAll,
	})
	gone := nobody(t)
	for _, tt := range []struct {
		urls     []string
		want     string
		failFast bool
	}{
		{[]string{picky.URL(), gone}, gone, true}, {[]string{gone, picky.URL()}, gone, true}, {[]string{picky.URL(), picky.URL()}, picky.URL(), false},
	} {
		_, err := Connect(testContext(t), Options{URL: tt.urls[0], Fallback: tt.urls[1:], FailFast: tt.failFast})
		var failed *ConnectError
		if !errors.As(err, &failed) || failed.URL != tt.want {
			t.Errorf("%q: %v", tt.urls, err)
		}
	}
	if _, err := Connect(testContext(t), Options{URL: gone, Fallback: []string{"nonsense"}}); err == nil {
		t.Error("a fallback that is no URL is accepted")
	}
}

func refuseAll(context.Context, broker.Login) error { return errors.New("no") }
