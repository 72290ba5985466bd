package client

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/message"
)

// BenchmarkCall is a command and its answer, 200 bytes each, at QoS 2: caller, broker and target in one process.
func BenchmarkCall(b *testing.B) {
	br := startBroker(b, broker.Listener{Network: "tcp", Address: "127.0.0.1:0"},
		broker.Listener{Network: "unix", Address: filepath.Join(b.TempDir(), "s")})
	urls := map[string]string{}
	for e := range br.Endpoints() {
		urls[e.Network] = e.URL
	}
	for _, network := range []string{"tcp", "unix"} {
		b.Run(network, func(b *testing.B) {
			server := connect(b, Options{URL: urls[network], ID: "nav"})
			serve(b, server, "nav")
			c := connect(b, Options{URL: urls[network]})
			ctx := context.Background()
			parameters := map[string]string{"path": fmt.Sprintf("%0100d", 1)}
			b.ReportAllocs()
			for b.Loop() {
				var got map[string]string
				if err := c.Call(ctx, "nav", "echo", parameters, &got); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkPublish is one publisher that pipelines readings of 200 bytes, on a topic without a limit, to one handler.
func BenchmarkPublish(b *testing.B) {
	for q := range byte(3) {
		b.Run(fmt.Sprint("QoS", q), func(b *testing.B) {
			br := startBroker(b)
			publisher := connect(b, Options{URL: br.URL(), ID: "hw"})
			subscriber := connect(b, Options{URL: br.URL()})
			var got, last int
			done := make(chan struct{}, 1)
			subscribe(b, subscriber, "bench/data", func(_ context.Context, d *Delivery) {
				if got++; d.Message.Metadata.Priority == message.High {
					last = got
					done <- struct{}{}
				}
			}, WithQueue(Queue{Max: 1 << 20}))
			m, err := message.NewSensorData("hw", message.SensorData{SensorType: "gps", Data: map[string]float64{"lat": 51.5, "lon": -0.12}})
			if err != nil {
				b.Fatal(err)
			}
			end := m
			end.Metadata.Priority = message.High
			qos := WithQoS(q)
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				publisher.PublishAsync("bench/data", m, qos)
				n++
			}
			if err := publisher.PublishAsync("bench/data", end, qos).Wait(testContext(b)); err != nil {
				b.Fatal(err)
			}
			<-done
			b.StopTimer()
			b.ReportMetric(float64(n+1-last), "lost")
		})
	}
}

// BenchmarkPublishStored is Publish without a connection and with a directory: each returns when its message is on the disk.
func BenchmarkPublishStored(b *testing.B) {
	for _, publishers := range []int{1, 16} {
		b.Run(fmt.Sprint(publishers), func(b *testing.B) {
			c := awayWithDir(b)
			m := raw(fmt.Sprintf("%0200d", 1))
			var all sync.WaitGroup
			work := make(chan struct{}, publishers)
			for range publishers {
				all.Go(func() {
					for range work {
						if err := c.Publish(context.Background(), "commands/nav", m); err != nil {
							b.Error(err)
						}
					}
				})
			}
			for b.Loop() {
				work <- struct{}{}
			}
			close(work)
			all.Wait()
		})
	}
}

// BenchmarkDrain is the sending of 10,000 messages of 200 bytes that an earlier process has accepted, and of 10,000 that are in
// memory, as messages per second.
func BenchmarkDrain(b *testing.B) {
	const n = 10_000
	for q := range byte(3) {
		for _, dir := range []bool{false, true} {
			b.Run(fmt.Sprintf("QoS%d/dir=%v", q, dir), func(b *testing.B) {
				var took time.Duration
				for b.Loop() {
					br := startBroker(b)
					p, url := startProxy(b, br)
					o := quick(Options{URL: url, ID: "worker", Outbox: Queue{Max: n}})
					if dir {
						o.Dir = b.TempDir()
					}
					c := connect(b, o)
					p.Refuse(true)
					p.Cut(true)
					eventually(b, "the connection is lost", func() bool { return !c.Connected() })
					receipts := make([]*Receipt, n)
					for i := range receipts {
						receipts[i] = c.PublishAsync("commands/nav", raw(fmt.Sprintf("%0200d", 1)), WithQoS(q))
					}
					for _, r := range receipts {
						<-r.Done()
					}
					p.Refuse(false)
					eventually(b, "the connection", c.Connected)
					begin := time.Now()
					for _, r := range receipts {
						<-r.Delivered()
					}
					took += time.Since(begin)
					if err := receipts[n-1].Err(); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.N)*n/took.Seconds(), "msgs/s")
			})
		}
	}
}

func awayWithDir(b *testing.B) *Client {
	br := startBroker(b)
	p, url := startProxy(b, br)
	c := connect(b, quick(Options{URL: url, ID: "worker", Dir: b.TempDir(), Outbox: Queue{Max: 1 << 30}}))
	p.Refuse(true)
	p.Cut(true)
	eventually(b, "the connection is lost", func() bool { return !c.Connected() })
	return c
}
