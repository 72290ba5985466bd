package config

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
)

// What is set holds, also when it is what the default says. What is not set is 1 s for the own broker.
func TestReconnectDelays(t *testing.T) {
	t.Parallel()
	const far = "client: {broker_host: other"
	for _, tt := range []struct {
		name, text            string
		environ               []string
		delay, longest, probe time.Duration // 0 is as the client wants it
	}{
		{"own, nothing set", "", nil, 0, time.Second, 0},
		{"own, something else set", "client: {keepalive: 60}", nil, 0, time.Second, 0},
		{"own, nothing but names", "client: {reconnect_delay: , max_reconnect_delay: }", nil, 0, time.Second, 0},
		{"own, the default set", "client: {reconnect_delay: 5, max_reconnect_delay: 300, probe_interval: 1}", nil, 5 * time.Second, 300 * time.Second, time.Second},
		{"own, the default of one set", "client: {reconnect_delay: 5}", nil, 5 * time.Second, 5 * time.Second, 0},
		{"own, the default of the other set", "client: {max_reconnect_delay: 300}", nil, 0, 300 * time.Second, 0},
		{"own, a short one set", "client: {reconnect_delay: 0.2}", nil, 200 * time.Millisecond, time.Second, 0},
		{"own, set by a merge", "x: &x {reconnect_delay: 5}\nclient: {<<: *x}", nil, 5 * time.Second, 5 * time.Second, 0},
		{"own, set in the environment", "", []string{"LAWNBERRY_CLIENT_RECONNECT_DELAY=5", "LAWNBERRY_CLIENT_MAX_RECONNECT_DELAY=300"},
			5 * time.Second, 300 * time.Second, 0},
		{"own, on the network", "broker: {bind_address: 192.0.2.1, allow_anonymous: true}", nil, 0, time.Second, 0},
		{"other, nothing set", far + "}", nil, 5 * time.Second, 300 * time.Second, 0},
		{"other, set", far + ", reconnect_delay: 1, max_reconnect_delay: 2, probe_interval: 0.5}", nil, time.Second, 2 * time.Second, 500 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o, err := mustLoad(t, tt.text, tt.environ...).ClientOptions()
			if err != nil {
				t.Fatal(err)
			}
			if o.ReconnectDelay != tt.delay || o.MaxReconnect != tt.longest || o.Probe != tt.probe {
				t.Errorf("got %v to %v, probe %v; want %v to %v, %v", o.ReconnectDelay, o.MaxReconnect, o.Probe, tt.delay, tt.longest, tt.probe)
			}
		})
	}
	c := Default()
	c.Client.ReconnectDelay = 7 * time.Second // by a program
	if o, err := c.ClientOptions(); err != nil || o.ReconnectDelay != 7*time.Second || o.MaxReconnect != 7*time.Second {
		t.Errorf("got %v to %v, %v", o.ReconnectDelay, o.MaxReconnect, err)
	}
}

// With the file of lawnberry config init, a client has its subscriptions again within 2 s of the return of a broker on this host, however
// long that was away. Seen failing when the client was given the delays for a broker elsewhere, 5 s and more.
func TestBackAfterRestart(t *testing.T) {
	t.Parallel()
	var template strings.Builder
	if err := WriteTemplate(&template); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "mower.yaml")
	if err := os.WriteFile(file, []byte(template.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	loaded, err := Load(file, []string{"LAWNBERRY_BROKER_PORT=0"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	brokerOptions, err := loaded.Config.BrokerOptions("")
	if err != nil {
		t.Fatal(err)
	}
	b, err := broker.Start(ctx, brokerOptions)
	if err != nil {
		t.Fatal(err)
	}
	stop := func(b *broker.Broker) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := b.Stop(ctx); err != nil {
			t.Error(err)
		}
	}
	o, err := loaded.Config.ClientOptions()
	if err != nil {
		t.Fatal(err)
	}
	states := make(chan bool, 100)
	o.URL, o.OnState = b.URL(), func(up bool, _ error) { states <- up }
	wait := func(want bool) {
		t.Helper()
		for {
			select {
			case up := <-states:
				if up == want {
					return
				}
			case <-ctx.Done():
				t.Fatalf("waited in vain: connected %v", want)
			}
		}
	}
	c, err := client.Connect(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(ctx) }()
	arrived := make(chan struct{}, 1)
	if _, err := c.Subscribe(ctx, "x", func(context.Context, *client.Delivery) { arrived <- struct{}{} }); err != nil {
		t.Fatal(err)
	}
	wait(true)
	brokerOptions.Listeners[0].Address = strings.TrimPrefix(b.URL(), "tcp://")
	for range 2 {
		stop(b)
		wait(false)
		time.Sleep(2500 * time.Millisecond) // the fault: long enough for a growing delay to grow
		if b, err = broker.Start(ctx, brokerOptions); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		wait(true)
		if err := c.Publish(ctx, "x", message.NewRaw(nil), client.WithQoS(1)); err != nil {
			t.Fatal(err)
		}
		select {
		case <-arrived:
		case <-ctx.Done():
			t.Fatal("what is published does not arrive")
		}
		took := time.Since(began)
		t.Logf("back after %v", took)
		if took > 2*time.Second {
			t.Errorf("back after %v, want 2s", took)
		}
	}
	stop(b)
}
