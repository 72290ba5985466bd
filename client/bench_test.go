package client

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

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

// BenchmarkPublish is one publisher that pipelines readings of 200 bytes to one handler.
func BenchmarkPublish(b *testing.B) {
	for q := range byte(3) {
		b.Run(fmt.Sprint("QoS", q), func(b *testing.B) {
			br := startBroker(b)
			publisher := connect(b, Options{URL: br.URL(), ID: "hw"})
			subscriber := connect(b, Options{URL: br.URL()})
			var got, last int
			done := make(chan struct{}, 1)
			subscribe(b, subscriber, "sensors/gps/data", func(_ context.Context, d *Delivery) {
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
				publisher.PublishAsync("sensors/gps/data", m, qos)
				n++
			}
			if err := publisher.PublishAsync("sensors/gps/data", end, qos).Wait(testContext(b)); err != nil {
				b.Fatal(err)
			}
			<-done
			b.StopTimer()
			b.ReportMetric(float64(n+1-last), "lost")
		})
	}
}
