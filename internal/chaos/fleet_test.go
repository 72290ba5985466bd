package chaos

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/natstest"
)

// A mowerTopic is a topic of a mower.
type mowerTopic struct{ mower, topic string }

// TestFleet has mowers say what they do at their real rates, in processes of their own, to a cluster of three NATS servers with three replicas, while each
// node is killed in turn, one is cut off, all are away, and processes of mowers are killed. Every event and alert that a bus has
// accepted is in the history once, in the order of its topic; of telemetry it is what was accepted by mowers that were not killed.
//
// To trust it: with an uplink that sends a record again without asking for it, and a window for duplicates of 100 ms, it was seen failing.
func TestFleet(t *testing.T) {
	sizes, mowers := []int{4, 4}, 8
	if long() {
		sizes, mowers = []int{10, 40, 50, 50, 50, 50, 50, 50, 50, 50, 50}, 500
	}
	speed := pick(5.0, 1.0)
	steady, away := pick(3*time.Second, time.Minute), pick(3*time.Second, time.Minute)
	ctx := within(t, pick(8*time.Minute, 50*time.Minute))
	engine := natstest.New(t, natstest.Options{Nodes: 3, Partitions: true})
	nc, err := nats.Connect(engine.URLs(), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	must(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	must(t, err)
	for { // the cluster may change its mind about who leads
		_, err := fleet.Setup(ctx, js, fleet.Limits{Mowers: mowers}, 3)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}

	wait := func(d time.Duration) { // in which mowers talk
		select {
		case <-time.After(d):
		case <-ctx.Done():
			t.Fatal("no time is left")
		}
	}
	dir := t.TempDir()
	if long() {
		bare := startHerd(ctx, t, fleetOrder{First: mowers, Count: 50, Dir: dir, Speed: speed})
		wait(10 * time.Second)
		measureFleet(t, "without an uplink", engine, []*herd{bare}, steady)
		bare.kill()
	}
	var all []*herd
	there := 0
	for _, n := range sizes {
		h := startHerd(ctx, t, fleetOrder{First: there, Count: n, URL: engine.URLs(), Dir: dir, Speed: speed})
		all = append(all, h)
		if there += n; long() && slices.Contains([]int{10, 50, 100, 250, 500}, there) {
			wait(30 * time.Second) // for the first batches
			measureFleet(t, "with an uplink", engine, all, steady)
		}
	}
	wait(steady)

	faults := 0
	for i := range engine.Len() {
		engine.Kill(i)
		wait(steady / 2)
		engine.Restart(i)
		engine.WaitReady()
		faults++
	}
	engine.Partition(1)
	wait(steady)
	engine.Heal(1)
	engine.WaitReady()
	faults++
	killed := map[string]bool{}
	for i, h := range all {
		if i%pick(2, 4) != 0 {
			continue
		}
		h.kill()
		for n := range h.order.Count {
			killed[mowerName(h.order.First+n)] = true
		}
		h.start()
		h.says(ctx)
		faults++
	}
	for i := range engine.Len() {
		engine.Kill(i)
	}
	wait(away)
	for i := range engine.Len() {
		engine.Restart(i)
	}
	engine.WaitReady()
	faults++
	wait(steady)

	for _, h := range all {
		must(t, h.cmd.Process.Signal(syscall.SIGTERM))
	}
	for _, h := range all {
		s := h.finish(ctx)
		t.Logf("%s and %d more: %d messages to the history, %d latest values; %d conflated; %d records in doubt, %d that the engine had",
			mowerName(h.order.First), h.order.Count-1, s.Sent, s.Latest, s.Conflated, s.Resolved, s.Repeated)
	}
	said, stored := whatWasSaid(t, dir, mowers), whatIsStored(ctx, t, js)
	tally(t, fmt.Sprintf("fleet_of_%d,_nodes_and_mowers_killed", mowers), faults, compareFleet(t, said, stored, killed))
}

// whatWasSaid returns the ids that each bus has accepted, in order.
func whatWasSaid(t *testing.T, dir string, mowers int) map[mowerTopic][]string {
	all := map[mowerTopic][]string{}
	for n := range mowers {
		text, err := os.ReadFile(saidFile(dir, n))
		must(t, err)
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) == 2 && strings.HasSuffix(line, "\n") {
				at := mowerTopic{mowerName(n), f[0]}
				all[at] = append(all[at], f[1])
			}
		}
	}
	return all
}

// whatIsStored returns the ids that the history has, in order. It begins again when the cluster changes its mind about who leads.
func whatIsStored(ctx context.Context, t *testing.T, js jetstream.JetStream) map[mowerTopic][]string {
	t.Helper()
	for {
		all, err := readHistory(ctx, t, js)
		if err == nil {
			return all
		}
		t.Logf("the history is read again: %v", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			t.Fatal("no time is left")
		}
	}
}

func readHistory(ctx context.Context, t *testing.T, js jetstream.JetStream) (map[mowerTopic][]string, error) {
	t.Helper()
	all := map[mowerTopic][]string{}
	for _, name := range fleet.HistoryStreams() {
		if err := readStream(ctx, t, js, name, all); err != nil {
			return nil, fmt.Errorf("stream %s: %w", name, err)
		}
	}
	return all, nil
}

func readStream(ctx context.Context, t *testing.T, js jetstream.JetStream, name string, all map[mowerTopic][]string) error {
	t.Helper()
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return err
	}
	c, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return err
	}
	messages, err := c.Messages()
	if err != nil {
		return err
	}
	defer messages.Stop()
	for left := stream.CachedInfo().State.Msgs; left > 0; left-- {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("%d messages before its end: %w", left, err)
		}
		mower, topic, err := fleet.ParseHistorySubject(m.Subject())
		must(t, err)
		at := mowerTopic{mower, topic}
		all[at] = append(all[at], idsOf(t, m)...)
	}
	return nil
}

// idsOf returns the ids of the messages in a record.
func idsOf(t *testing.T, m jetstream.Msg) (ids []string) {
	t.Helper()
	body := m.Data()
	if m.Headers().Get(fleet.HeaderEncoding) == "gzip" {
		z, err := gzip.NewReader(bytes.NewReader(body))
		must(t, err)
		body, err = io.ReadAll(z)
		must(t, err)
	}
	type envelope struct {
		Metadata struct {
			ID string `json:"message_id"`
		} `json:"metadata"`
	}
	if m.Headers().Get(fleet.HeaderBatch) == "" {
		var e envelope
		must(t, json.Unmarshal(body, &e))
		return []string{e.Metadata.ID}
	}
	for lines := bufio.NewScanner(bytes.NewReader(body)); lines.Scan(); {
		var line struct {
			Message envelope `json:"m"`
		}
		must(t, json.Unmarshal(lines.Bytes(), &line))
		ids = append(ids, line.Message.Metadata.ID)
	}
	return ids
}

// compareFleet counts what became of what was said. Of mowers that were killed there may be messages that the bus had accepted and nobody had written
// down yet, one of each topic and kill; and telemetry may be missing.
func compareFleet(t *testing.T, said, stored map[mowerTopic][]string, killed map[string]bool) (b balance) {
	t.Helper()
	forgiven, unsaid := 0, 0
	for _, at := range slices.SortedFunc(maps.Keys(said), func(a, b mowerTopic) int { return strings.Compare(a.mower+" "+a.topic, b.mower+" "+b.topic) }) {
		class, _ := inHistory(at.topic)
		place := make(map[string]int, len(said[at]))
		for i, id := range said[at] {
			place[id] = i
		}
		b.Published += len(said[at])
		seen, last := map[string]bool{}, -1
		for _, id := range stored[at] {
			if seen[id] {
				b.Duplicates++
				t.Errorf("%s %s: %s is there twice", at.mower, at.topic, id)
			}
			seen[id] = true
			i, known := place[id]
			switch {
			case !known && killed[at.mower]:
				unsaid++
			case !known:
				t.Errorf("%s %s: nobody has said %s", at.mower, at.topic, id)
			case i < last:
				b.Misordered++
				t.Errorf("%s %s: %s comes late", at.mower, at.topic, id)
			default:
				last = i
			}
		}
		for _, id := range said[at] {
			if seen[id] {
				continue
			}
			if class == fleet.Telemetry && killed[at.mower] {
				forgiven++
				b.Published--
				continue
			}
			b.Lost++
			t.Errorf("%s %s: %s is lost", at.mower, at.topic, id)
		}
	}
	b.Delivered = b.Published - b.Lost
	t.Logf("%d readings of killed mowers were in memory; %d messages were accepted and not written down", forgiven, unsaid)
	if b.Published == 0 {
		t.Error("nothing was said")
	}
	return b
}
