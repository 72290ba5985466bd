package uitest

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/bridge/web"
	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
	"github.com/lawnberry/lawnberry/topic"
)

// A world is a broker with an emergency stop, a bridge, and one service. Nobody else is there, and so nobody acts but the test.
type world struct {
	t      *testing.T
	broker *broker.Broker
	hub    *safety.Hub
	bridge *web.Bridge
	mover  *service.Service
	latch  *safety.Latch // the mover's
	ended  chan error    // of each run of the command wait
}

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func stopAtEnd(t testing.TB, stop func(context.Context) error) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := stop(ctx); err != nil {
			t.Error(err)
		}
	})
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := newBareWorld(t)
	w.startBridge()
	return w
}

func (w *world) startBridge() {
	w.t.Helper()
	var err error
	w.bridge, err = web.Start(testContext(w.t), web.Options{Client: client.Options{URL: w.broker.URL()}, Addresses: []string{"127.0.0.1:0"}})
	check(w.t, err)
	stopAtEnd(w.t, w.bridge.Stop)
}

// newBareWorld is one without a bridge.
func newBareWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, ended: make(chan error, 1)}
	ctx := testContext(t)
	var err error
	w.broker, err = broker.Start(ctx, broker.Options{Listeners: []broker.Listener{{Network: "tcp", Address: "127.0.0.1:0"}}})
	check(t, err)
	stopAtEnd(t, w.broker.Stop)
	w.hub, err = safety.StartHub(ctx, safety.HubOptions{Client: client.Options{URL: w.broker.URL()}, File: filepath.Join(t.TempDir(), "stop.json")})
	check(t, err)
	stopAtEnd(t, w.hub.Stop)
	w.mover, err = service.Start(ctx, service.Options{ID: "mover", Type: "mover", Version: "1.2.3", Client: client.Options{URL: w.broker.URL()}, Setup: w.setup})
	check(t, err)
	stopAtEnd(t, w.mover.Stop)
	stopAtEnd(t, w.latch.Close)
	return w
}

func (w *world) setup(ctx context.Context, s *service.Service) (err error) {
	service.Handle(s, "wait", func(ctx context.Context, _ struct{}) (string, error) {
		service.ReportProgress(ctx, 50)
		<-ctx.Done()
		w.ended <- context.Cause(ctx)
		return "", ctx.Err()
	}, service.Description("Waits until it is cancelled."))
	w.latch, err = safety.OpenLatch(ctx, s.Client(), safety.LatchOptions{})
	return err
}

func (w *world) url() string { return w.bridge.URLs()[0] }

// sensor publishes data of a sensor on a topic.
func (w *world) sensor(topic string, data any) {
	w.t.Helper()
	m, err := message.NewSensorData("mover", message.SensorData{SensorType: "test", Data: data, Quality: 1, Status: "healthy"})
	check(w.t, err)
	check(w.t, w.mover.Publish(testContext(w.t), topic, m))
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// publisher connects somebody who publishes without any limit of rate.
func publisher(t *testing.T, url string) *client.Client {
	t.Helper()
	topics, err := topic.New("")
	check(t, err)
	for d := range topics.All() {
		d.Rate = 0
		check(t, topics.Register(d))
	}
	c, err := client.Connect(testContext(t), client.Options{URL: url, Topics: topics})
	check(t, err)
	stopAtEnd(t, c.Close)
	return c
}

func publish(t *testing.T, url, topic string, m message.Message) {
	t.Helper()
	check(t, publisher(t, url).Publish(testContext(t), topic, m))
}
