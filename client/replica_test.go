package client

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/topic"
)

// A replicated server counts what each of its replicas runs.
type replicated struct {
	clients   []*Client
	ran       []*atomic.Int32
	cancelled chan string
}

// replicate starts n servers nav-0, nav-1 and so on of the name nav.
func replicate(t *testing.T, n int, options func(id string) Options) *replicated {
	t.Helper()
	r := &replicated{cancelled: make(chan string, 16)}
	var ids []string
	for i := range n {
		ids = append(ids, fmt.Sprint("nav-", i))
	}
	for i, id := range ids {
		c, ran := connect(t, options(id)), new(atomic.Int32)
		r.clients, r.ran = append(r.clients, c), append(r.ran, ran)
		h := func(ctx context.Context, q *Request) (any, error) {
			ran.Add(1)
			if q.Command == "hang" {
				<-ctx.Done()
				r.cancelled <- id
				return nil, ctx.Err()
			}
			return id, nil
		}
		accept := func(target string) bool { return target == "nav" || target == id }
		if _, err := c.ServeCommands(testContext(t), id, accept, h); err != nil {
			t.Fatal(err)
		}
		_, err := c.ServeCommands(testContext(t), "nav", accept, h, AsReplica(Replicas{
			Group: "nav",
			Siblings: func() []string {
				return slices.DeleteFunc(slices.Clone(ids), func(other string) bool { return other == id })
			},
			Turn: func() bool { return i == 0 },
		}))
		if err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func (r *replicated) runs() (n []int32, sum int32) {
	for _, k := range r.ran {
		n = append(n, k.Load())
		sum += k.Load()
	}
	return n, sum
}

// A command to several replicas runs once, whatever the broker can do: ours and Mosquitto, with shared subscriptions and, over
// MQTT 3.1.1 or when they are refused, without. Seen failing with plain subscriptions and no Turn: each runs it.
func TestReplicasAnswerOnce(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	mosquitto := startMosquitto(t)
	tests := map[string]struct {
		options func(id string) Options
		shared  bool
	}{
		"ours, MQTT 5":          {func(id string) Options { return Options{URL: b.URL(), ID: id} }, true},
		"ours, MQTT 3.1.1":      {func(id string) Options { return Options{Dial: onlyV311(b, refusals["close"]), ID: id} }, false},
		"Mosquitto, MQTT 5":     {func(id string) Options { return Options{URL: "tcp://" + mosquitto, ID: id} }, true},
		"Mosquitto, MQTT 3.1.1": {func(id string) Options { return Options{Dial: viaV311(t, mosquitto), ID: id} }, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := replicate(t, 3, tt.options)
			caller := connect(t, tt.options("caller"))
			const n = 30
			var wg sync.WaitGroup
			for range n {
				wg.Go(func() {
					if err := caller.Call(testContext(t), "nav", "x", nil, nil); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			each, sum := r.runs()
			if sum != n || tt.shared != (slices.Min(each) > 0) {
				t.Errorf("%v ran of %d", each, n)
			}
			// By its own id, on its own topic.
			var who string
			if err := caller.Call(testContext(t), "nav-2", "x", nil, &who); err != nil || who != "nav-2" {
				t.Error(who, err)
			}
			// A caller that gives up is heard by the one that runs its command.
			for range 4 {
				_, sum = r.runs()
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour) // the deadline does not end it
				done := make(chan error, 1)
				go func() { done <- caller.Call(ctx, "nav", "hang", nil, nil) }()
				eventually(t, "it runs", func() bool { _, now := r.runs(); return now > sum })
				cancel()
				if e := asCommandError(t, <-done); e.Code != CodeCancelled {
					t.Error(e)
				}
				select {
				case <-r.cancelled:
				case <-time.After(patience):
					t.Fatal("the replica does not hear that its caller has given up")
				}
			}
		})
	}
}

// What comes on the topic of the type for one replica's id is passed on to it by whoever gets it, with all its properties,
// and no further than that. Seen failing without passOn.
func TestPassedOn(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	r := replicate(t, 3, func(id string) Options { return Options{URL: b.URL(), ID: id} })
	watcher := connect(t, Options{URL: b.URL()})
	k, answers := newCollector(), newCollector()
	subscribe(t, watcher, "commands/+", k.handle)
	subscribe(t, watcher, topic.Absolute("reply/here"), answers.handle)
	other := connect(t, Options{URL: b.URL(), ID: "py"})
	const n = 6
	for i := range n {
		m := commandTo(t, "nav-2", "x", fmt.Sprint("c", i))
		m.Metadata.ExpiresAt = m.Metadata.Timestamp + 30
		if err := other.Publish(testContext(t), "commands/nav", m, WithResponse(topic.Absolute("reply/here"), []byte{0, byte(i)}), WithUser("traceparent", "00-1")); err != nil {
			t.Fatal(err)
		}
		answers.wait(t, i+1)
	}
	for i, d := range answers.all() {
		if string(d.CorrelationData) != string([]byte{0, byte(i)}) || d.Message.Metadata.CorrelationID != fmt.Sprint("c", i) || !strings.Contains(string(d.Message.Payload), `"nav-2"`) {
			t.Errorf("%d: %+v %s", i, d, d.Message.Payload)
		}
	}
	if each, _ := r.runs(); !slices.Equal(each, []int32{0, 0, n}) {
		t.Errorf("%v ran", each)
	}
	passed := 0
	for _, d := range k.all() {
		if d.Topic == "commands/nav" {
			continue
		}
		passed++
		trace, _ := d.user("traceparent")
		if by, _ := d.user(passedKey); d.Topic != "commands/nav-2" || by == "" || by == "nav-2" || trace != "00-1" || d.QoS != 2 || d.Message.Metadata.Sender != "py" ||
			d.Expiry < 20*time.Second || d.Expiry > 31*time.Second || d.ResponseTopic != "reply/here" {
			t.Errorf("%+v", d)
		}
	}
	if passed == 0 || passed > n {
		t.Errorf("%d passed on of %d", passed, n)
	}

	// One that was passed on already is not passed on again, nor is one for nobody that the replicas know.
	had := len(k.all())
	for _, target := range []string{"nav-2", "elsewhere"} {
		opts := []PublishOption{WithUser("a", "b")}
		if target == "nav-2" {
			opts = append(opts, WithUser(passedKey, "someone"))
		}
		for range 3 { // one each, except for nav-2's own
			if err := other.Publish(testContext(t), "commands/nav", commandTo(t, target, "y", ""), opts...); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range 3 { // behind them
		if err := other.Call(testContext(t), fmt.Sprint("nav-", i), "x", nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range k.all()[had:] {
		if strings.Contains(string(d.Message.Payload), `"y"`) && d.Topic != "commands/nav" {
			t.Errorf("passed on: %+v", d)
		}
	}
}

// A broker may refuse shared subscriptions, in CONNACK or in SUBACK: then the subscription is a plain one.
func TestSharedSubscriptionRefused(t *testing.T) {
	t.Parallel()
	for _, early := range []bool{true, false} {
		t.Run(fmt.Sprintf("in CONNACK %v", early), func(t *testing.T) {
			t.Parallel()
			filters := make(chan string, 10)
			dial := scripted(t, func(_ int, s *script) {
				ack := packet.Connack{}
				if early {
					ack.Properties.SharedAvailable = packet.Some[byte](0)
				}
				s.accept(ack)
				for p := s.next(); p != nil; p = s.next() {
					switch p := p.(type) {
					case *packet.Subscribe:
						filter := string(p.Subscriptions[0].Filter)
						filters <- filter
						code := packet.GrantedQoS2
						if strings.HasPrefix(filter, "$share/") {
							code = packet.SharedSubsNotSupported
						}
						s.send(&packet.Suback{ID: p.ID, Codes: []packet.Code{code}})
					case *packet.Unsubscribe:
						s.send(&packet.Unsuback{ID: p.ID, Codes: []packet.Code{packet.Success}})
					}
				}
			})
			c := connect(t, Options{Dial: dial})
			sub, err := c.ServeCommands(testContext(t), "nav", nil, func(context.Context, *Request) (any, error) { return nil, nil },
				AsReplica(Replicas{Group: "nav", Turn: func() bool { return true }}))
			if err != nil || sub.Shared() {
				t.Fatal(err)
			}
			if !early {
				if f := <-filters; f != "$share/nav/lawnberry/commands/nav" {
					t.Errorf("%q", f)
				}
			}
			if f := <-filters; f != "lawnberry/commands/nav" {
				t.Errorf("%q", f)
			}
		})
	}
}
