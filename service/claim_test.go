package service_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/brokertest"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
)

// TestSecondProcess starts a service twice, in two processes: the later one is refused and told who has the id, and
// the earlier one does not notice. When that is killed, the next one takes its place at once.
//
// Seen failing without the look before connecting: the two put each other out.
func TestSecondProcess(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	watcher := newPeer(t, b, "watcher", "system/services/victim/status")
	before := time.Now().Add(-time.Second)
	first := startVictim(t, b)
	watcher.awaitStates("victim", "starting", "healthy")

	_, err := tryStart(t, b, service.Options{ID: "victim"})
	var used *service.InUseError
	if !errors.As(err, &used) {
		t.Fatalf("a second start: %v", err)
	}
	host, _ := os.Hostname()
	if used.ID != "victim" || used.PID != first.Process.Pid || used.Host != host || used.Since.Before(before) || used.Since.After(time.Now()) {
		t.Errorf("the holder is %+v", used)
	}
	want := fmt.Sprintf("service victim is already running as process %d on %s since %s: stop that one, or choose another id",
		used.PID, host, used.Since.Local().Format(time.DateTime))
	if err.Error() != want {
		t.Errorf("the error says %q, want %q", err, want)
	}
	var status struct {
		MQTTStats struct{ Reconnects int } `json:"mqtt_stats"`
	}
	if err := watcher.Call(testContext(t), "victim", "status", nil, &status); err != nil || status.MQTTStats.Reconnects != 0 {
		t.Errorf("the first one after that: %v, %+v", err, status)
	}

	_ = first.Process.Kill()
	_ = first.Wait()
	began := time.Now()
	svc := start(t, b, service.Options{ID: "victim"})
	if svc.State() != service.Healthy {
		t.Errorf("the next one is %s", svc.State())
	}
	t.Logf("it had the place of the killed one after %v", time.Since(began).Round(time.Millisecond))
}

func startVictim(t *testing.T, b brokertest.Broker) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victimURL+"="+b.URL())
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

// A status that says that someone is running is no proof: nobody may be there, or someone else.
func TestPlaceOfTheAbsent(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	p := newPeer(t, b, "writer")
	ctx := testContext(t)
	for _, status := range []string{
		`{"status": "healthy", "details": {"service_id": "ghost", "start_time": 1763884800.0}}`,
		`"healthy"`,
		`not a status at all`,
		`{"status": "offline"}`,
	} {
		must(t, p.Publish(ctx, "system/services/ghost/status", message.NewRaw([]byte(status)), client.WithRetain(true)))
		svc := start(t, b, service.Options{ID: "ghost"})
		stop(t, svc)
	}
	// A service whose type is the id in question hears the question, and does not answer for it.
	start(t, b, service.Options{ID: "other", Type: "ghost"})
	must(t, p.Publish(ctx, "system/services/ghost/status", message.NewRaw([]byte(`"healthy"`)), client.WithRetain(true)))
	start(t, b, service.Options{ID: "ghost"})
}

// A peer that is no service of ours, and tells nothing about itself but that it is alive, has its place too.
func TestPlaceOfAPeer(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	ctx := testContext(t)
	p := newPeer(t, b, "old")
	must(t, p.Publish(ctx, "system/services/old/status", message.NewRaw([]byte(`{"status": "healthy"}`)), client.WithRetain(true)))
	_, err := p.ServeCommands(ctx, "old", nil, func(context.Context, *client.Request) (any, error) { return nil, errors.New("no idea") })
	must(t, err)
	_, err = tryStart(t, b, service.Options{ID: "old"})
	var used *service.InUseError
	if !errors.As(err, &used) || err.Error() != "service old is already running: stop that one, or choose another id" {
		t.Fatalf("a second start: %v", err)
	}
}

// TestPutOut lets two processes' services pass the look before connecting, as when they start at the same time or cannot see each
// other: the one that is put out finds the other there, and ends. It does not come back to put that one out in turn, and
// announces nothing more.
//
// Seen failing without the look afterwards: the first one came back and put the second one out.
func TestPutOut(t *testing.T) {
	brokertest.Embedded(t, "it says that a session was taken over, and Mosquitto 2.0.11 does not")
	t.Parallel()
	b := newBroker(t)
	first := start(t, b, service.Options{ID: "twin"})
	watcher := newPeer(t, b, "watcher", "system/services/twin/status", "system/events/+")

	// The second one's look goes to another broker, where nobody is.
	empty := newBroker(t)
	var mu sync.Mutex
	looks := 0
	dial := func(ctx context.Context) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		if looks++; looks == 1 {
			return empty.Dial(ctx)
		}
		return b.Dial(ctx)
	}
	second := start(t, b, service.Options{ID: "twin", Client: client.Options{Dial: dial}})
	select {
	case <-first.Done():
	case <-time.After(patience):
		t.Fatal("the first one goes on")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := first.Stop(ctx)
	var used *service.InUseError
	if !errors.As(err, &used) || used.PID != os.Getpid() || !strings.Contains(err.Error(), "has lost its place") {
		t.Errorf("the first one's end: %v", err)
	}
	eventually(t, "the second one to be announced as healthy at last", func() bool {
		states := watcher.states("twin")
		return states[len(states)-1] == "healthy" && len(states) > 2
	})
	if err := watcher.Call(ctx, "twin", "ping", nil, nil); err != nil {
		t.Errorf("the second one: %v", err)
	}
	if n := second.Client().Stats().Reconnects; n != 0 {
		t.Errorf("the second one was put out %d times", n)
	}
	if all := watcher.events("service_offline"); len(all) != 0 {
		t.Errorf("deaths were reported: %v", all)
	}
}
