package client

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/brokertest"
	"github.com/lawnberry/lawnberry/message"
)

const year = 365 * 24 * time.Hour

// Each line is a request with a budget of 30 s, made at some time by the sender's clock, which is right or not, and received
// so much later.
func TestRemaining(t *testing.T) {
	t.Parallel()
	s := time.Second
	tests := []struct {
		name    string
		ahead   time.Duration // our clock, of the sender's
		waited  time.Duration // on its way
		budget  time.Duration
		expiry  time.Duration // that came with it; 0 is none
		expires bool
		backlog bool
		left    time.Duration // that may be acted upon; 0 is not at all
		far     bool
	}{
		{"clocks agree, at once", 0, 0, 30 * s, 30 * s, true, false, 30 * s, false},
		{"clocks agree, waited", 0, 10 * s, 30 * s, 20 * s, true, false, 20 * s, false},
		{"clocks agree, waited in a queue that does not count", 0, 40 * s, 30 * s, 30 * s, true, false, 0, false},
		{"clocks agree, no expiry", 0, 10 * s, 30 * s, 0, true, true, 20 * s, false},
		{"clocks agree, dead, no expiry", 0, 31 * s, 30 * s, 0, true, false, 0, false},
		{"clocks agree, short", 0, 200 * time.Millisecond, s / 2, s, true, false, 300 * time.Millisecond, false},
		{"clocks agree, without expires_at", 0, 10 * s, 30 * s, 0, false, false, 30 * s, false},
		{"clocks agree, without expires_at, expiry", 0, 10 * s, 30 * s, 20 * s, false, false, 20 * s, false},
		{"ours a minute ahead: in doubt", 60 * s, 0, 30 * s, 30 * s, true, false, 0, false},
		{"ours a minute behind, at once", -60 * s, 0, 30 * s, 30 * s, true, false, 30 * s, false},
		{"ours a minute behind, waited", -60 * s, 20 * s, 30 * s, 10 * s, true, false, 10 * s, false},
		{"ours a year ahead, at once", year, 0, 30 * s, 30 * s, true, false, 30 * s, true},
		{"ours a year ahead, waited", year, 20*s + s/2, 30 * s, 10 * s, true, false, 9 * s, true},
		{"ours a year ahead, nearly dead", year, 29*s + s/2, 30 * s, s, true, false, 0, true},
		{"ours a year ahead, short", year, 0, s / 2, s, true, false, s / 2, true},
		{"ours a year ahead, no expiry", year, 0, 30 * s, 0, true, false, 0, true},
		{"ours a year behind, at once", -year, 0, 30 * s, 30 * s, true, false, 30 * s, true},
		{"ours a year behind, waited", -year, 20 * s, 30 * s, 10 * s, true, true, 9 * s, true},
		{"ours a year ahead, may have waited for nearly a second", year, 900 * time.Millisecond, s, s, true, true, 0, true},
		{"ours a year behind, may have waited for nearly a second", -year, 900 * time.Millisecond, 30 * s, 30 * s, true, true, 29 * s, true},
		{"ours a year behind, no expiry", -year, 0, 30 * s, 0, true, false, 30 * s, true},
		{"ours a year behind, no expiry, may have waited", -year, 0, 30 * s, 0, true, true, 0, true},
		{"ours a year behind, neither expiry nor expires_at", -year, 0, 30 * s, 0, false, false, 30 * s, true},
	}
	for _, tt := range tests {
		x := timing{age: tt.ahead + tt.waited, budget: tt.budget, expiry: tt.expiry, expires: tt.expires, backlog: tt.backlog, tolerance: 300 * s}
		x.left = tt.budget - x.age
		left, far := x.remaining()
		if max(left, 0) != tt.left || far != tt.far {
			t.Errorf("%s: %v, far %v, want %v, %v", tt.name, left, far, tt.left, tt.far)
		}
		// Whatever the clocks say, nothing is begun after its deadline but by the second that Message Expiry cannot tell.
		if honest := tt.expiry == 0 || tt.expiry <= (tt.budget-tt.waited+s-1).Truncate(s); honest && tt.expires && !(tt.far && tt.expiry == 0) {
			if late := tt.waited + max(left, 0) - tt.budget; left > 0 && late > 0 {
				t.Errorf("%s: may begin %v after its deadline", tt.name, late)
			}
		}
	}
}

// Requests and answers of somebody whose clock is wrong by a year, or of somebody whose clock is right to us who are wrong.
// Seen failing with CheckAge alone, which is how other messages are judged.
func TestClocksThatDisagree(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, b brokertest.Broker, o Options) {
		o.ID = "nav"
		server := connect(t, o)
		ran, _ := serve(t, server, "nav")
		other := connect(t, Options{URL: b.URL(), ID: "py"})
		k := newCollector()
		subscribe(t, other, "responses/py", k.handle)
		v5 := server.Stats().Version == 5
		n := 0
		for _, skew := range []time.Duration{-year, year} { // of the sender's clock
			for _, expiry := range []time.Duration{0, 30 * time.Second} {
				t.Run(fmt.Sprintf("%v with expiry %v", skew, expiry), func(t *testing.T) {
					n++
					m := commandTo(t, "nav", "echo", fmt.Sprint("c", n))
					m.Metadata.Timestamp += skew.Seconds()
					m.Metadata.ExpiresAt = m.Metadata.Timestamp + 30
					body, err := m.Append(nil)
					if err != nil {
						t.Fatal(err)
					}
					before := ran.Load()
					publish(t, other, "commands/nav", string(body), WithQoS(2), WithExpiry(expiry))
					k.wait(t, n)
					r, err := message.Payload[message.Response](k.all()[n-1].Message)
					if err != nil {
						t.Fatal(err)
					}
					runs := skew > 0 || v5 && expiry > 0 // a request that seems old may be old
					if (ran.Load() > before) != runs || r.Success != runs {
						t.Errorf("ran %v: %s", ran.Load() > before, k.all()[n-1].Message.Payload)
					}
					if !runs && !strings.Contains(*r.Error, "the clock here is 8760h0m0s ahead of the sender's") {
						t.Errorf("%s", *r.Error)
					}
				})
			}
		}
		// The answers of a target with a wrong clock.
		wrong := connect(t, Options{URL: b.URL(), ID: "wrong"})
		subscribe(t, wrong, "commands/wrong", func(_ context.Context, d *Delivery) {
			a, err := message.NewResponse("wrong", message.Response{Success: true, Result: []byte("7")})
			if err != nil {
				t.Error(err)
			}
			a.Metadata.CorrelationID = d.Message.Metadata.CorrelationID
			a.Metadata.Timestamp -= year.Seconds()
			wrong.PublishAsync("responses/nav", a)
		})
		var got int
		if err := server.Call(testContext(t), "wrong", "x", nil, &got); err != nil || got != 7 {
			t.Error(got, err)
		}
	})
}

// A command that waited in the broker for its target is dead when its time is over, whatever the target's clock: over MQTT 5
// the broker says so, over 3.1.1 what a resumed session brings is not trusted. Seen failing with what it brings trusted, and
// on a busy machine with the second trusted by which Message Expiry may be rounded up.
func TestDeadCommandAndWrongClock(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	for _, version := range []string{"5", "3.1.1"} {
		t.Run(version, func(t *testing.T) {
			o := Options{URL: b.URL(), ID: "nav" + version, SessionExpiry: time.Hour}
			if version == "3.1.1" {
				o.Dial = onlyV311(b, refusals["return code 1 of 3.1.1"])
			}
			server := connect(t, o)
			serve(t, server, "nav")
			if err := server.Close(testContext(t)); err != nil {
				t.Fatal(err)
			}
			other := connect(t, Options{URL: b.URL(), ID: "py"})
			m := commandTo(t, "nav", "echo", "c")
			m.Metadata.Timestamp += year.Seconds() // to the sender our clock is a year behind
			m.Metadata.ExpiresAt = m.Metadata.Timestamp + 1
			body, err := m.Append(nil)
			if err != nil {
				t.Fatal(err)
			}
			var opts []PublishOption
			if version == "5" {
				opts = append(opts, WithExpiry(time.Second))
			}
			publish(t, other, "commands/nav", string(body), append(opts, WithQoS(2))...)
			eventually(t, "its time is over", func() bool { return message.Seconds(time.Now()) > m.Metadata.ExpiresAt-year.Seconds() })
			server = connect(t, o)
			ran, _ := serve(t, server, "nav")
			if err := other.Call(testContext(t), "nav", "echo", nil, nil); err != nil {
				t.Fatal(err)
			}
			if n := ran.Load(); n != 1 {
				t.Errorf("%d ran, want the live one alone", n)
			}
		})
	}
}
