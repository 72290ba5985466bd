package fleet

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/natstest"
)

// childEnv has this program be an uplink, in a process that can be killed.
const childEnv = "LAWNBERRY_TEST_UPLINK"

type childOptions struct{ Bus, Engine, Dir, Keys string }

// child is an uplink until its input ends.
func child(text string) int {
	var c childOptions
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		fmt.Println(err)
		return 1
	}
	up := fleet.DefaultFilters()
	for i := range up {
		up[i].Rate = 0
	}
	u, err := Start(context.Background(), Options{
		Mower: "m-1", Client: client.Options{URL: c.Bus}, Engine: fleet.Engine{URL: c.Engine}, Dir: c.Dir, Up: up, BatchInterval: 100 * time.Millisecond,
		Down: []string{"*/*"}, KeysFile: c.Keys,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	s := u.Stats()
	fmt.Fprintf(os.Stderr, "sent %d, resolved %d, repeated %d\n", s.Sent, s.Resolved, s.Repeated)
	if err := u.Stop(context.Background()); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// A process is an uplink in a process of its own.
type process struct {
	cmd *exec.Cmd
	in  io.Closer
}

func (m *mower) process(engine string) *process {
	m.t.Helper()
	text, err := json.Marshal(childOptions{m.url, engine, m.dir, m.operators})
	check(m.t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	cmd.Stderr = m.t.Output()
	in, err := cmd.StdinPipe()
	check(m.t, err)
	out, err := cmd.StdoutPipe()
	check(m.t, err)
	check(m.t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		_ = cmd.Process.Kill()
		m.t.Fatalf("the uplink says %q, %v", line, err)
	}
	return &process{cmd, in}
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // SIGKILL
	_ = p.cmd.Wait()
}

func (p *process) end(t testing.TB) {
	_ = p.in.Close()
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("the uplink: %v", err)
	}
}

// TestChaos kills nodes of the engine and the uplink while events and alerts are said: the fleet gets each once, in its order. Telemetry
// may be lost with the uplink, but comes in order and not twice.
//
// It was seen to fail, though not each time, with records in doubt sent again without asking.
func TestChaos(t *testing.T) {
	rounds := 5
	if os.Getenv("LAWNBERRY_CHAOS") == "long" {
		rounds = 60
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	s := natstest.Cluster(t, 3)
	c := newControl(t, s, 3)
	// The engine itself is to recognise next to nothing.
	for _, name := range fleet.HistoryStreams() {
		stream, err := c.js.Stream(testContext(t), name)
		check(t, err)
		config := stream.CachedInfo().Config
		config.Duplicates = 100 * time.Millisecond
		_, err = c.js.UpdateStream(testContext(t), config)
		check(t, err)
	}
	m := newMower(t)
	p := m.process(s.URLs())
	stop := make(chan struct{})
	var talking sync.WaitGroup
	talking.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
				m.say([]string{"system/events/a", "system/events/b", "safety/alerts/x", "weather/alerts", "power/battery"}[i%5])
			}
		}
	})
	kinds := map[string]int{}
	for round := range rounds {
		time.Sleep(time.Duration(500+random.IntN(1000)) * time.Millisecond) // how long the next fault is away, not what is waited for
		node := round % 3
		kind := []string{"kill the uplink", "kill a node", "stop a node", "kill all nodes", "kill the uplink and a node"}[round%5]
		kinds[kind]++
		switch kind {
		case "kill the uplink":
			for range 3 {
				p.kill()
				p = m.process(s.URLs())
				time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
			}
		case "kill a node":
			s.Kill(node)
			time.Sleep(time.Duration(random.IntN(2000)) * time.Millisecond)
			s.Restart(node)
		case "stop a node":
			s.Stop(node)
			time.Sleep(time.Duration(1000+random.IntN(3000)) * time.Millisecond)
			s.Cont(node)
		case "kill all nodes":
			for i := range 3 {
				s.Kill(i)
			}
			time.Sleep(time.Duration(random.IntN(3000)) * time.Millisecond)
			for i := range 3 {
				s.Restart(i)
			}
		case "kill the uplink and a node":
			s.Kill(node)
			p.kill()
			p = m.process(s.URLs())
			s.Restart(node)
		}
	}
	close(stop)
	talking.Wait()
	s.WaitReady()
	battery := m.said["power/battery"]
	delete(m.said, "power/battery")
	c.sameHistory(m, fleet.StreamAlerts, fleet.StreamEvents)
	p.end(t)
	var got []string
	eventually(t, "the telemetry can be read", func() bool {
		all, err := c.readHistory(fleet.StreamTelemetry)
		got = all["power/battery"]
		return err == nil
	})
	at := map[string]int{}
	for i, id := range battery {
		at[id] = i
	}
	last := -1
	for _, id := range got {
		if i, known := at[id]; !known || i <= last {
			t.Fatalf("telemetry: message %d after %d", i, last)
		} else {
			last = i
		}
	}
	said := 0
	for _, ids := range m.said {
		said += len(ids)
	}
	var faults []string
	for kind, n := range kinds {
		faults = append(faults, fmt.Sprintf("%s: %d", kind, n))
	}
	slices.Sort(faults)
	t.Logf("%s; %d events and alerts were said; the fleet has %d of %d readings", strings.Join(faults, ", "), said, len(got), len(battery))
}

// TestCatchUp: while a large backlog drains, the latest values are there at once.
func TestCatchUp(t *testing.T) {
	n := 5_000
	if os.Getenv("LAWNBERRY_CHAOS") == "long" {
		n = 100_000
	}
	s := natstest.Cluster(t, 3)
	c := newControl(t, s, 3)
	m := newMower(t)
	u := m.up("nats://127.0.0.1:1", nil)
	check(t, u.Stop(testContext(t)))
	// A mower that was away: what waits is put there as its handlers do it, but many at once.
	box, err := openOutbox(u.box.dir, Bounds{Bytes: 1 << 40}, newClock(), nil, slog.New(slog.DiscardHandler))
	check(t, err)
	var records []*record
	for i := range n {
		records = append(records, &record{
			topic: fmt.Sprint("system/events/e", i%20), class: fleet.Event, id: fmt.Sprint("id", i), count: 1,
			body: fmt.Appendf(nil, `{"metadata":{"message_id":"id%d"},"payload":{"text":"%0200d"}}`, i, i),
		})
		if len(records) == 1000 {
			check(t, box.add(records...))
			records = nil
		}
	}
	check(t, box.close())
	began := time.Now()
	u = m.up(s.URLs(), func(o *Options) { o.Outbox.Bytes = 1 << 40 })
	var watcher jetstream.KeyValue
	eventually(t, "the bucket has a leader", func() bool {
		watcher, err = c.js.KeyValue(testContext(t), fleet.BucketState)
		return err == nil
	})
	watch, err := watcher.Watch(context.Background(), fleet.StateKey("m-1", "power/battery"))
	check(t, err)
	defer func() { check(t, watch.Stop()) }()
	var mu sync.Mutex // guards sent
	sent := map[string]time.Time{}
	var worst time.Duration
	seen := 0
	waits := func() int64 { return u.Stats().Backlog.ByClass[fleet.Event] }
	talking := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(talking)
		for {
			select {
			case <-done:
				return
			case <-time.After(20 * time.Millisecond):
			}
			mu.Lock()
			sent[m.say("power/battery")] = time.Now()
			mu.Unlock()
		}
	}()
	for end := time.Now().Add(10 * time.Minute); waits() > 0 || seen == 0; {
		if time.Now().After(end) {
			t.Fatalf("%d wait still", waits())
		}
		select {
		case e := <-watch.Updates():
			if e == nil {
				continue
			}
			var h heard
			check(t, json.Unmarshal(e.Value(), &h))
			mu.Lock()
			if at, ok := sent[h.Metadata.ID]; ok {
				worst = max(worst, time.Since(at))
				seen++
			}
			mu.Unlock()
		case <-time.After(100 * time.Millisecond):
		}
	}
	took := time.Since(began)
	close(done)
	<-talking
	var got map[string][]string
	eventually(t, "the history can be read", func() bool {
		got, err = c.readHistory(fleet.StreamEvents)
		return err == nil
	})
	total := 0
	for i := range 20 {
		ids := got[fmt.Sprint("system/events/e", i)]
		for j, id := range ids {
			if id != fmt.Sprint("id", i+20*j) {
				t.Fatalf("e%d: %s is at %d", i, id, j)
			}
		}
		total += len(ids)
	}
	if total != n {
		t.Errorf("%d of %d are there", total, n)
	}
	t.Logf("%d records in %v; %d latest values meanwhile, the oldest was %v old when it was there", n, took, seen, worst)
}
