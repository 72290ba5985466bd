// Package brokertest runs the broker that tests are to be run with: the embedded one, or a real Mosquitto as broker/mosquitto runs it.
//
// LAWNBERRY_TEST_ENGINE names it: embedded, which is the default, or mosquitto. make test ENGINE=mosquitto sets it. What only the embedded broker
// promises, a test of that says with [Embedded].
package brokertest

import (
	"context"
	"iter"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/broker/mosquitto"
)

// Variable is the environment's variable that names the engine.
const Variable = "LAWNBERRY_TEST_ENGINE"

// A Broker is one that runs, whichever it is.
type Broker interface {
	broker.Engine
	Endpoints() iter.Seq[broker.Endpoint]
	Dial(ctx context.Context) (net.Conn, error)
}

// IsMosquitto reports whether tests run with Mosquitto.
func IsMosquitto(t testing.TB) bool {
	t.Helper()
	switch engine := os.Getenv(Variable); engine {
	case "", "embedded":
		return false
	case "mosquitto":
		return true
	default:
		t.Fatalf("%s is %q: want embedded or mosquitto", Variable, engine)
		return false
	}
}

// Embedded skips a test of what only the embedded broker has or promises, when it is not the one; why says what that is.
func Embedded(t testing.TB, why string) {
	t.Helper()
	if IsMosquitto(t) {
		t.Skip("for the embedded broker only: " + why)
	}
}

// Start runs a broker that listens on a free port, until the test ends.
func Start(t testing.TB) Broker {
	t.Helper()
	return StartWith(t, broker.Options{Listeners: []broker.Listener{{Network: "tcp", Address: "127.0.0.1:0"}}})
}

// StartWith runs a broker with options of the embedded one, until the test ends. With options that Mosquitto does not have the test is skipped for it.
func StartWith(t testing.TB, o broker.Options) Broker {
	t.Helper()
	if IsMosquitto(t) {
		b := startMosquitto(t, o)
		stopAtEnd(t, b)
		return b
	}
	b, err := broker.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	stopAtEnd(t, b)
	return b
}

func stopAtEnd(t testing.TB, b Broker) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := b.Stop(ctx); err != nil {
			t.Errorf("stop broker: %v", err)
		}
	})
}

func startMosquitto(t testing.TB, o broker.Options) *mosquitto.Broker {
	t.Helper()
	if o.Authenticate != nil || o.Identify != nil || o.Authorize != nil || o.MaxRetained != 0 || o.MaxSessions != 0 || o.KeepAlive != 0 {
		Embedded(t, "it has options that Mosquitto has not")
	}
	dir, err := os.MkdirTemp("", "lb") // a socket's path must not be long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	options := mosquitto.Options{
		Dir: filepath.Join(dir, "m"), Persist: o.Dir, Logins: mosquitto.Logins{Anonymous: true}, MaxConnections: o.MaxConnections,
		MaxPacketSize: o.MaxPacketSize, MaxQueued: o.MaxQueued, MaxQueuedBytes: o.MaxQueuedBytes, Logger: o.Logger,
	}
	for _, l := range o.Listeners {
		if l.TLS != nil || l.Network == "unix" {
			Embedded(t, "it takes a TLS configuration of Go, and any Unix socket")
		}
		options.Listeners = append(options.Listeners, mosquitto.Listener{Network: l.Network, Address: l.Address, Optional: l.Optional})
	}
	b, err := mosquitto.Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Holds reports whether something is true of the broker's figures. Of Mosquitto, which has none that are exact, it is always true.
func Holds(b Broker, f func(broker.Stats) bool) bool {
	embedded, ok := b.(*broker.Broker)
	return !ok || f(embedded.Stats())
}
