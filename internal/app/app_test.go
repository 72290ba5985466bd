package app

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// settings returns a configuration with a port of the system's choice.
func settings() *config.Config {
	c := config.Default()
	c.Broker.Port = 0
	return c
}

// start starts an App that ends with the test.
func start(t *testing.T, o Options) *App {
	t.Helper()
	a, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return a
}

// occupy listens on a free port until the test ends.
func occupy(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().(*net.TCPAddr).Port
}

func TestStartServesAndStops(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	a := start(t, Options{Config: settings(), DataDir: dir})
	urls := map[string]string{}
	for e := range a.Endpoints() {
		urls[e.Network] = e.URL
	}
	if urls["tcp"] != a.URL() || urls["unix"] != "unix://"+filepath.Join(dir, "lawnberry.sock") {
		t.Errorf("endpoints %v, URL %s", urls, a.URL())
	}
	for _, url := range urls {
		c, err := client.Connect(t.Context(), client.Options{URL: url, FailFast: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Publish(t.Context(), "system/events/test", message.NewRaw([]byte("x"))); err != nil {
			t.Error(err)
		}
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	select {
	case <-a.Done():
		t.Fatal("done before it was stopped")
	default:
	}
	for range 2 { // it is idempotent
		if err := a.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
	<-a.Done()
	if _, err := os.Stat(filepath.Join(dir, "lawnberry.sock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	start(t, Options{Config: settings(), DataDir: dir}) // the directory is free again
}

func TestStartNeedsTheDirectoryForItself(t *testing.T) {
	dir := t.TempDir()
	start(t, Options{Config: settings(), DataDir: dir})
	_, err := Start(t.Context(), Options{Config: settings(), DataDir: dir})
	var busy *BusyError
	if !errors.As(err, &busy) || busy.Dir != dir || !strings.HasPrefix(busy.Holder, "process "+strconv.Itoa(os.Getpid())) {
		t.Fatalf("got %v", err)
	}
}

func TestStartWithoutADirectoryCleansUp(t *testing.T) {
	a := start(t, Options{Config: settings()})
	if _, err := os.Stat(a.DataDir()); err != nil {
		t.Fatal(err)
	}
	if err := a.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(a.DataDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", a.DataDir(), err)
	}
}

func TestPortTaken(t *testing.T) {
	port := occupy(t)
	c := settings()
	c.Broker.Port = port
	dir := t.TempDir()
	_, err := Start(t.Context(), Options{Config: c, DataDir: dir})
	var taken *PortError
	if !errors.As(err, &taken) || taken.Port != port || taken.Key != "broker.port" || !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("got %v", err)
	}
	if holder := portHolder(port); taken.Holder != holder {
		t.Errorf("holder %q, want %q", taken.Holder, holder)
	}
	// With any port, the rest of the listeners stays as it is. The failed start has left nothing behind.
	c.Broker.WebSockets = config.WebSockets{Enabled: true, Port: 0}
	a := start(t, Options{Config: c, DataDir: dir, AnyPort: true})
	if strings.HasSuffix(a.URL(), ":"+strconv.Itoa(port)) || !strings.HasPrefix(a.URL(), "tcp://127.0.0.1:") {
		t.Errorf("URL %s", a.URL())
	}
	var networks []string
	for e := range a.Endpoints() {
		networks = append(networks, e.Network)
	}
	if want := []string{"tcp", "ws", "unix"}; !reflect.DeepEqual(networks, want) {
		t.Errorf("listens on %v, want %v", networks, want)
	}
}

func TestOnFreePort(t *testing.T) {
	listeners := []broker.Listener{
		{Network: "tcp", Address: "127.0.0.1:1883"}, {Network: "tcp", Address: "[::1]:1883", Optional: true},
		{Network: "ws", Address: "0.0.0.0:9001"}, {Network: "unix", Address: "/tmp/1883:1883"},
	}
	for _, tt := range []struct {
		port int
		want []broker.Listener
	}{
		{1883, []broker.Listener{{Network: "tcp", Address: "127.0.0.1:0"}, listeners[2], listeners[3]}},
		{9001, []broker.Listener{listeners[0], listeners[1], {Network: "ws", Address: "127.0.0.1:0"}, listeners[3]}},
	} {
		if got := onFreePort(listeners, tt.port); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("port %d: got %v, want %v", tt.port, got, tt.want)
		}
	}
}

func TestBrokerElsewhere(t *testing.T) {
	a := start(t, Options{Config: settings(), Broker: "tcp://127.0.0.1:1"})
	if a.URL() != "tcp://127.0.0.1:1" || a.DataDir() != "" || a.Demo() != nil {
		t.Errorf("got %q, %q, %v", a.URL(), a.DataDir(), a.Demo())
	}
	for e := range a.Endpoints() {
		t.Errorf("listens on %v", e)
	}
}
