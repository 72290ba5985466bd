package natstest

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func connect(t *testing.T, urls string, opts ...nats.Option) jetstream.JetStream {
	t.Helper()
	c, err := nats.Connect(urls, append(opts, nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.DontRandomize())...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	js, err := jetstream.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// eventually calls try until it succeeds.
func eventually(t *testing.T, try func(context.Context) error) {
	t.Helper()
	deadline := time.Now().Add(ready)
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		err := try(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func stream(t *testing.T, js jetstream.JetStream, replicas int) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		_, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, Replicas: replicas})
		return err
	})
}

func publish(t *testing.T, js jetstream.JetStream, text string) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		_, err := js.Publish(ctx, "s.a", []byte(text), jetstream.WithMsgID(text))
		return err
	})
}

func last(ctx context.Context, js jetstream.JetStream) (string, error) {
	s, err := js.Stream(ctx, "S")
	if err != nil {
		return "", err
	}
	m, err := s.GetLastMsgForSubject(ctx, "s.a")
	if err != nil {
		return "", err
	}
	return string(m.Data), nil
}

func wantLast(t *testing.T, js jetstream.JetStream, want string) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		got, err := last(ctx, js)
		if err == nil && got != want {
			err = fmt.Errorf("the last message is %q, want %q", got, want)
		}
		return err
	})
}

func TestBinary(t *testing.T) {
	t.Parallel()
	paths := make([]string, 8)
	var wg sync.WaitGroup
	for i := range paths {
		wg.Go(func() { paths[i] = Binary(t) })
	}
	wg.Wait()
	for _, p := range paths {
		if p != paths[0] {
			t.Errorf("%q and %q", p, paths[0])
		}
	}
	got, err := version(paths[0])
	if err != nil || !strings.HasSuffix(filepath.Base(paths[0]), got) {
		t.Errorf("%s is %q, %v", paths[0], got, err)
	}
}

// One server that is killed has its messages, its URL and its configuration afterwards.
func TestStart(t *testing.T) {
	t.Parallel()
	s := Start(t, "max_payload: 4242")
	js := connect(t, s.URL())
	stream(t, js, 1)
	publish(t, js, "one")
	pid := s.PID(0)
	s.Kill(0)
	if s.PID(0) != 0 {
		t.Error("it runs")
	}
	s.Restart(0)
	s.WaitReady()
	if s.PID(0) == pid {
		t.Error("it is the same process")
	}
	wantLast(t, js, "one")
	if got := js.Conn().MaxPayload(); got != 4242 {
		t.Errorf("max_payload is %d", got)
	}
	s.Stop(0)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := js.Publish(ctx, "s.a", []byte("two")); err == nil {
		t.Error("a stopped server has answered")
	}
	s.WaitReady() // of those that are not stopped
	s.Cont(0)
	publish(t, js, "three")
	s.Quit(0)
	if !strings.Contains(s.Log(0), "Exiting") {
		t.Errorf("it did not end by itself:\n%s", s.Log(0))
	}
}

// A cluster goes on while one node is dead, hangs, or is cut off from the others, and the node catches up.
func TestCluster(t *testing.T) {
	t.Parallel()
	s := New(t, Options{Nodes: 3, Partitions: true})
	js := connect(t, s.URLs())
	stream(t, js, 3)
	publish(t, js, "first")
	for i, fault := range []struct {
		name         string
		begin, ended func(int)
	}{
		{"kill", s.Kill, s.Restart},
		{"stop", s.Stop, s.Cont},
	} {
		other := connect(t, s.NodeURL((i+1)%3))
		fault.begin(i)
		publish(t, other, fault.name)
		fault.ended(i)
		s.WaitReady()
		wantLast(t, connect(t, s.NodeURL(i)), fault.name)
	}

	alone := connect(t, s.NodeURL(2))
	rest := connect(t, s.NodeURL(0)+","+s.NodeURL(1))
	s.Partition(2)
	publish(t, rest, "without 2")
	eventually(t, func(ctx context.Context) error { // it may still take itself for the leader of the stream for a moment, but stores nothing
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if _, err := alone.Publish(ctx, "s.a", []byte("alone")); err == nil {
			t.Error("a node alone has acknowledged")
		}
		return nil
	})
	s.Heal(2)
	publish(t, alone, "together")
	wantLast(t, rest, "together")
	if s.Leader(0) < 0 || s.Leader(0) != s.Leader(1) {
		eventually(t, func(context.Context) error {
			if a, b := s.Leader(0), s.Leader(1); a < 0 || a != b {
				return fmt.Errorf("the leader is node %d or %d", a, b)
			}
			return nil
		})
	}
}
