package load

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/brokertest"
	"github.com/lawnberry/lawnberry/internal/faultnet"
	"github.com/lawnberry/lawnberry/internal/mosquittotest"
)

func TestEveryKind(t *testing.T) {
	brokers := map[string]string{"ours": brokertest.Start(t).URL(), "Mosquitto": "tcp://" + mosquittotest.Start(t, "max_queued_messages 0")}
	for name, url := range brokers {
		for _, version := range []byte{4, 5} {
			for qos := range 3 {
				for _, kind := range []Kind{Latency, Throughput, Command} {
					if kind == Command && qos == 0 {
						continue
					}
					t.Run(fmt.Sprintf("%s/MQTT %d/QoS %d/%s", name, version, qos, kind), func(t *testing.T) {
						p := aPlan(kind, url)
						p.Client.Version = version
						p.QoS, p.Publishers, p.Subscribers, p.Count = qos, 3, 2, 301
						r := mustRun(t, p)
						due := uint64(602)
						if kind == Command {
							due = 301
						}
						if r.Sent.Messages != 301 || r.Received.Messages != due || r.Lost+r.Duplicates+r.Disordered+r.Refused+r.LostHere != 0 {
							t.Errorf("sent %d, received %d of %d, lost %d, duplicates %d, out of order %d",
								r.Sent.Messages, r.Received.Messages, due, r.Lost, r.Duplicates, r.Disordered)
						}
						if r.Latency == nil || r.Latency.Count != int64(due) {
							t.Fatalf("latency %+v", r.Latency)
						}
						if l := r.Latency; l.Min > l.P50 || l.P50 > l.P90 || l.P90 > l.P99 || l.P99 > l.P999 || l.P999 > l.Max || l.Max <= 0 {
							t.Errorf("quantiles %+v", l)
						}
						if want := map[byte]string{4: "3.1.1", 5: "5"}[version]; r.Broker.MQTT != want {
							t.Errorf("MQTT %q, want %q", r.Broker.MQTT, want)
						}
						if kind != Command && r.Received.Bytes != due*uint64(p.Size) {
							t.Errorf("%d bytes", r.Received.Bytes)
						}
					})
				}
			}
		}
	}
}

// A peer that loses, repeats and exchanges messages: each is counted, by its name.
func TestBadPeer(t *testing.T) {
	held := map[uint16][]byte{}
	url := startBad(t, &badBroker{deliver: func(s stamp, payload []byte) [][]byte {
		if s.phase != measuring {
			return [][]byte{payload}
		}
		switch s.number % 10 {
		case 3:
			return nil // lost
		case 5:
			return [][]byte{payload, payload} // twice
		case 7:
			held[s.publisher] = payload
			return nil
		case 8:
			return [][]byte{payload, held[s.publisher]} // exchanged
		}
		return [][]byte{payload}
	}})
	for qos := range 2 {
		p := aPlan(Throughput, url)
		p.QoS, p.Publishers, p.Subscribers, p.Count, p.Patience = qos, 2, 2, 1000, 2*time.Second
		r := mustRun(t, p)
		if r.Sent.Messages != 1000 || r.Lost != 200 || r.Duplicates != 200 || r.Disordered != 200 || r.Received.Messages != 2000 || r.LostHere != 0 {
			t.Errorf("QoS %d: sent %d, lost %d, duplicates %d, out of order %d, received %d; want 1000, 200, 200, 200, 2000",
				qos, r.Sent.Messages, r.Lost, r.Duplicates, r.Disordered, r.Received.Messages)
		}
		if r.Latency.Count != 1800 {
			t.Errorf("QoS %d: %d times, want one for each of 1800 messages", qos, r.Latency.Count)
		}
	}
}

// A real broker that drops what it cannot queue: four publishers have 500 messages each on their way, and it keeps some 1,000 for a subscriber
// whose acknowledgements take a while.
func TestMosquittoDrops(t *testing.T) {
	proxy, err := faultnet.Start(mosquittotest.Start(t, "max_inflight_messages 500", "max_queued_messages 1"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	proxy.Set(faultnet.Down, faultnet.Faults{Delay: 20 * time.Millisecond})
	p := aPlan(Throughput, "tcp://"+proxy.Addr())
	p.Publishers, p.Count, p.Patience = 4, 8000, 3*time.Second
	r := mustRun(t, p)
	if r.Lost == 0 || r.Received.Messages+r.Lost != 8000 || r.Duplicates != 0 {
		t.Errorf("received %d, lost %d, duplicates %d of 8000", r.Received.Messages, r.Lost, r.Duplicates)
	}
	t.Logf("lost %d of 8000", r.Lost)
}

// In the closed loop a message that does not come holds up the next for the patience, and no longer.
func TestClosedLoopGoesOnAfterALoss(t *testing.T) {
	url := startBad(t, &badBroker{deliver: func(s stamp, payload []byte) [][]byte {
		if s.phase == measuring && s.number == 4 {
			return nil
		}
		return [][]byte{payload}
	}})
	p := aPlan(Latency, url)
	p.Rate, p.Closed, p.Count, p.Patience = 0, true, 10, 3*time.Second
	r := mustRun(t, p)
	if r.Sent.Messages != 10 || r.Lost != 1 || r.Received.Messages != 9 || r.Loop != "closed" {
		t.Errorf("%s loop: sent %d, lost %d, received %d", r.Loop, r.Sent.Messages, r.Lost, r.Received.Messages)
	}
}

// The time of a message counts from when it was to be sent: a peer that stands still for a while shows in all that were due meanwhile, also
// where the client could not send them.
func TestCoordinatedOmission(t *testing.T) {
	const pause = 500 * time.Millisecond
	stopped := false
	url := startBad(t, &badBroker{deliver: func(s stamp, payload []byte) [][]byte {
		if s.phase == measuring && s.number == 200 && !stopped {
			stopped = true
			over := time.NewTimer(pause)
			<-over.C // all of the peer waits for it, and nothing is acknowledged
		}
		return [][]byte{payload}
	}})
	p := aPlan(Latency, url)
	p.Rate, p.Count, p.Size = 1000, 1000, 1000
	r := mustRun(t, p)
	// Of those due in the first 450 ms of the pause each was at least 50 ms late.
	if r.TooLate < 400 || r.Latency.Max < inMilliseconds(float64(pause)) {
		t.Errorf("%d were more than 50 ms late, the slowest %.1f ms; want 400 or more, and %v", r.TooLate, r.Latency.Max, pause)
	}
}

func TestNothingArrives(t *testing.T) {
	url := startBad(t, &badBroker{deliver: func(stamp, []byte) [][]byte { return nil }})
	p := aPlan(Latency, url)
	p.Patience = 500 * time.Millisecond
	if _, err := Run(testContext(t), p); !errors.Is(err, ErrNothingArrives) {
		t.Errorf("got %v", err)
	}
}

func TestStuck(t *testing.T) {
	url := startBad(t, &badBroker{deliver: faithful, mute: func(s stamp) bool { return s.phase == measuring }})
	p := aPlan(Throughput, url)
	p.Count, p.Patience = 100_000, 2*time.Second
	r, err := Run(testContext(t), p)
	var broken *BrokenError
	if !errors.Is(err, ErrStuck) || !errors.As(err, &broken) || broken.Sent == 0 || broken.After == 0 {
		t.Errorf("got %+v, %v", r, err)
	}
}

func TestBrokerGoes(t *testing.T) {
	for _, kind := range []Kind{Latency, Throughput, Command} {
		t.Run(string(kind), func(t *testing.T) {
			b := brokertest.Start(t)
			proxy, err := faultnet.Start(strings.TrimPrefix(b.URL(), "tcp://"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(proxy.Close)
			p := aPlan(kind, "tcp://"+proxy.Addr())
			p.Count, p.Duration = 0, time.Hour
			var cut atomic.Bool
			p.Progress = func(now Progress) {
				if now.Received > 0 && !cut.Swap(true) {
					proxy.Refuse(true)
					proxy.Cut(true)
				}
			}
			_, err = Run(testContext(t), p)
			var broken *BrokenError
			if !isLost(err) || !errors.As(err, &broken) || broken.Sent == 0 || broken.Received == 0 {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestInterrupted(t *testing.T) {
	b := brokertest.Start(t)
	for _, kind := range []Kind{Latency, Throughput, Command} {
		for _, closed := range []bool{false, true} {
			if closed && kind == Throughput {
				continue
			}
			t.Run(fmt.Sprintf("%s/closed %v", kind, closed), func(t *testing.T) {
				p := aPlan(kind, b.URL())
				p.Count, p.Duration, p.Closed = 0, time.Hour, closed
				if closed {
					p.Rate = 0
				}
				ctx, cancel := context.WithCancel(testContext(t))
				defer cancel()
				p.Progress = func(now Progress) {
					if now.Received > 0 {
						cancel()
					}
				}
				r, err := Run(ctx, p)
				if err != nil {
					t.Fatal(err)
				}
				if !r.Interrupted || r.Received.Messages == 0 || r.Lost != 0 || r.Latency == nil {
					t.Errorf("interrupted %v, received %d, lost %d", r.Interrupted, r.Received.Messages, r.Lost)
				}
			})
		}
	}
}

// Interrupted before anything was measured there is no result, but the reason.
func TestInterruptedWarmUp(t *testing.T) {
	why := errors.New("enough")
	p := aPlan(Latency, brokertest.Start(t).URL())
	p.WarmUp = time.Hour
	ctx, cancel := context.WithCancelCause(testContext(t))
	defer cancel(nil)
	p.Progress = func(Progress) { cancel(why) }
	if r, err := Run(ctx, p); !errors.Is(err, why) {
		t.Errorf("got %+v, %v", r, err)
	}
}

// few are the rights to hear answers, and no more.
type few struct{}

func (few) MayPublish(string) bool             { return false }
func (few) MaySend(string, []byte, bool) error { return nil }
func (few) MaySubscribe(filter string) bool    { return strings.Contains(filter, "responses/") }
func (few) MayReceive(string) bool             { return true }

func TestRefused(t *testing.T) {
	b := brokertest.StartWith(t, broker.Options{
		Listeners: []broker.Listener{{Network: "tcp", Address: "127.0.0.1:0"}},
		Authorize: func(broker.Login, broker.Identity) (broker.Rights, error) { return few{}, nil },
	})
	for _, kind := range []Kind{Latency, Command} {
		_, err := Run(testContext(t), aPlan(kind, b.URL()))
		var refused *client.RefusedError
		if !errors.As(err, &refused) {
			t.Errorf("%s: got %v", kind, err)
		}
	}
}

// What was retained is removed.
func TestRetained(t *testing.T) {
	b := brokertest.Start(t)
	p := aPlan(Throughput, b.URL())
	p.Retain, p.Publishers = true, 3
	if r := mustRun(t, p); r.Retained != 0 || r.Lost != 0 {
		t.Errorf("%d left, %d lost", r.Retained, r.Lost)
	}
	if !brokertest.Holds(b, func(s broker.Stats) bool { return s.Retained == 0 }) {
		t.Error("messages are retained")
	}
}
