package safety_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/brokertest"
	"github.com/lawnberry/lawnberry/internal/faultnet"
	"github.com/lawnberry/lawnberry/internal/mosquittotest"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			code = 1
		}
	}
	os.Exit(code)
}

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until f is true.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// A bus is a broker with a hub.
type bus struct {
	t         testing.TB
	dir       string
	broker    brokertest.Broker
	mosquitto string // its URL, instead of broker
	hub       *safety.Hub
	tilts     int
}

// newMosquitto is a bus whose broker is Mosquitto.
func newMosquitto(t testing.TB) *bus {
	t.Helper()
	b := &bus{t: t, dir: t.TempDir(), mosquitto: "tcp://" + mosquittotest.Start(t)}
	b.startHub()
	t.Cleanup(func() { b.stopHub() })
	return b
}

func (b *bus) url() string {
	if b.mosquitto != "" {
		return b.mosquitto
	}
	return b.broker.URL()
}

func newBus(t testing.TB) *bus {
	t.Helper()
	b := &bus{t: t, dir: t.TempDir()}
	b.startBroker()
	t.Cleanup(func() { b.stopBroker() })
	b.startHub()
	t.Cleanup(func() { b.stopHub() })
	return b
}

func (b *bus) startBroker() {
	b.t.Helper()
	b.broker = brokertest.StartWith(b.t, broker.Options{
		Listeners: []broker.Listener{{Network: "tcp", Address: "127.0.0.1:0"}}, Dir: filepath.Join(b.dir, "store"),
	})
}

func (b *bus) stopBroker() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := b.broker.Stop(ctx); err != nil {
		b.t.Error(err)
	}
}

func (b *bus) startHub() {
	b.t.Helper()
	var err error
	b.hub, err = safety.StartHub(testContext(b.t), safety.HubOptions{
		Client: client.Options{URL: b.url()}, File: filepath.Join(b.dir, "emergency_stop.json"),
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bus) stopHub() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := b.hub.Stop(ctx); err != nil {
		b.t.Error(err)
	}
}

// client connects a client.
func (b *bus) client(id string) *client.Client {
	b.t.Helper()
	return b.clientAt(id, b.url())
}

func (b *bus) clientAt(id, url string) *client.Client {
	b.t.Helper()
	c, err := client.Connect(testContext(b.t), client.Options{URL: url, ID: id, Safety: true})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = c.Close(ctx)
	})
	return c
}

// proxy stands before the broker.
func (b *bus) proxy() *faultnet.Proxy {
	b.t.Helper()
	p, err := faultnet.Start(strings.TrimPrefix(b.url(), "tcp://"))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(p.Close)
	return p
}

// latch opens a latch on a client of its own.
func (b *bus) latch(id string) *safety.Latch {
	b.t.Helper()
	l, err := safety.OpenLatch(testContext(b.t), b.client(id), safety.LatchOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = l.Close(context.Background()) })
	return l
}

// A machine is a service with a guard that runs.
type machine struct {
	svc   *service.Service
	latch *safety.Latch
	guard *safety.Guard
	seat  *safety.Seat
	end   func() // ends Run, and returns when it has

	mu     sync.Mutex
	drives int
	stops  []string
	stopAt time.Time
}

type machineOptions struct {
	url     string        // "" is the broker's
	require time.Duration // of sensors/tilt/data; 0 is not required
	safety  []string
	seat    bool
	setup   func(m *machine) error

	onChange func(permit bool, cause string)
	drive    func(ctx context.Context) error
	stop     func(cause string) error
}

func (b *bus) machine(id string, o machineOptions) *machine {
	b.t.Helper()
	m := &machine{}
	ctx := testContext(b.t)
	running, end := context.WithCancel(context.Background())
	var work sync.WaitGroup
	if o.safety == nil {
		o.safety = []string{}
	}
	if o.url == "" {
		o.url = b.url()
	}
	_, err := service.Start(ctx, service.Options{
		ID: id, Type: "hardware", Safety: true, HeartbeatTimeout: time.Second, Heartbeat: 200 * time.Millisecond,
		Client: client.Options{URL: o.url},
		Setup: func(ctx context.Context, s *service.Service) (err error) {
			m.svc = s
			if m.latch, err = safety.OpenLatch(ctx, s.Client(), safety.LatchOptions{}); err != nil {
				return err
			}
			if m.guard, err = safety.NewGuard(ctx, s, m.latch, safety.GuardOptions{Safety: o.safety, OnChange: o.onChange}); err != nil {
				return err
			}
			if o.require > 0 {
				if err := m.guard.Require("sensors/tilt/data", o.require); err != nil {
					return err
				}
			}
			if o.seat {
				m.seat = safety.NewSeat(m.guard, safety.SeatOptions{})
			}
			if o.setup != nil {
				return o.setup(m)
			}
			return nil
		},
	})
	if err != nil {
		end()
		b.t.Fatal(err)
	}
	drive := func(ctx context.Context) error {
		m.mu.Lock()
		m.drives++
		m.mu.Unlock()
		if o.drive != nil {
			return o.drive(ctx)
		}
		return nil
	}
	stop := func(cause string) error {
		if o.stop != nil {
			if err := o.stop(cause); err != nil {
				return err
			}
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		m.stops, m.stopAt = append(m.stops, cause), time.Now()
		return nil
	}
	work.Go(func() {
		if err := m.guard.Run(running, 10*time.Millisecond, drive, stop); err != nil {
			b.t.Log(err)
		}
	})
	m.end = func() { end(); work.Wait() }
	b.t.Cleanup(func() {
		m.end()
		m.guard.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = m.latch.Close(ctx)
		_ = m.svc.Stop(ctx)
	})
	return m
}

func (m *machine) counts() (drives, stops int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.drives, len(m.stops)
}

// release releases as the last reason demands it, once nothing stands against it.
func release(t testing.TB, l *safety.Latch) {
	t.Helper()
	ctx := testContext(t)
	eventually(t, "released", func() bool {
		s, err := l.Confirm(ctx)
		if err != nil {
			return false
		}
		return l.Release(ctx, s.Sequence) == nil
	})
}

// tilt publishes readings until the test ends or the returned function is called.
func (b *bus) tilt(every time.Duration) (stop func()) {
	b.tilts++
	c := b.client(fmt.Sprintf("tilt-%d", b.tilts))
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() {
		for ctx.Err() == nil {
			m, _ := message.NewSensorData("tilt", message.SensorData{SensorType: "tilt", Data: map[string]float64{"tilt": 1}, Quality: 1, Status: "healthy"})
			c.PublishAsync("sensors/tilt/data", m, client.Unlimited())
			select {
			case <-time.After(every):
			case <-ctx.Done():
			}
		}
	})
	stop = func() { cancel(); work.Wait() }
	b.t.Cleanup(stop)
	return stop
}
