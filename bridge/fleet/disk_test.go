package fleet

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/store"
)

// A fullDisk takes nothing while it is full.
type fullDisk struct{ full atomic.Bool }

func (f *fullDisk) String() string { return "full" }

func (f *fullDisk) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && f.full.Load() {
		return &os.PathError{Op: "inject", Path: op.Path, Err: syscall.ENOSPC}
	}
	return nil
}

// everything takes out all that waits, and returns the ids by topic.
func everything(b *outbox) map[string][]string {
	got := map[string][]string{}
	for {
		s, ok := b.next(func(string, fleet.Class) bool { return true })
		if !ok {
			return got
		}
		got[s.topic] = append(got[s.topic], s.id)
		b.stored(s.order, "S", 1)
	}
}

// TestOutboxFullDisk: while the disk takes nothing, what comes waits in memory and can be sent; it is written when there is room again; and what
// does not fit into memory is counted.
func TestOutboxFullDisk(t *testing.T) {
	t.Parallel()
	disk := &fullDisk{}
	dir := filepath.Join(t.TempDir(), "outbox")
	b, err := openOutbox(dir, Bounds{}, newClock(), errorfs.Wrap(vfs.Default, disk), slog.New(slog.DiscardHandler))
	check(t, err)
	check(t, b.add(event("t", "1"), event("t", "2")))
	disk.full.Store(true)
	if err := b.add(event("t", "3")); err == nil {
		t.Error("a full disk takes a record")
	}
	_ = b.add(event("t", "4"))
	if b.state.Load().failed == nil {
		t.Error("it does not say that the disk is full")
	}
	_ = b.add(event("other", "5"))
	s, ok := b.next(func(string, fleet.Class) bool { return true })
	if !ok || s.id != "5" { // what is on a disk that has failed cannot be read, and what follows it waits
		t.Fatalf("%q is to be sent while the disk is full, want 5", s.id)
	}
	b.stored(s.order, "S", 1)
	disk.full.Store(false)
	eventually(t, "it is written again", func() bool { return b.tick(true) == nil && b.state.Load().failed == nil })
	if n := b.state.Load().inMemory; n != 0 {
		t.Errorf("%d bytes are still in memory", n)
	}
	if s, ok = b.next(func(string, fleet.Class) bool { return true }); !ok || s.id != "1" {
		t.Fatalf("%q is to be sent with the disk there again, want 1", s.id)
	}
	b.stored(s.order, "S", 1)
	check(t, b.add(event("other", "5"), event("t", "6")))
	check(t, b.close())
	b = mustOpen(t, dir, Bounds{}, newClock())
	if got := b.contents(t); !slices.Equal(got["t"], []string{"2", "3", "4", "6"}) || len(got["other"]) > 0 { // the 5th was there already
		t.Errorf("after a restart %v waits, want 2, 3, 4 and 6 of t", got)
	}
	check(t, b.close())

	// Memory is small.
	disk.full.Store(true)
	b, err = openOutbox(filepath.Join(t.TempDir(), "outbox"), Bounds{}, newClock(), errorfs.Wrap(vfs.Default, disk), slog.New(slog.DiscardHandler))
	check(t, err)
	const n, each = 100, 100_000
	for i := range n {
		r := event("t", fmt.Sprint(i))
		r.class, r.body = []fleet.Class{fleet.Telemetry, fleet.Event}[i%2], make([]byte, each)
		r.topic = string(r.class)
		_ = b.add(r)
	}
	st := b.state.Load()
	if st.inMemory > memoryBound || st.losses[fleet.Telemetry].Count != n/2 || st.losses[fleet.Telemetry].Why != "disk" {
		t.Errorf("%d bytes are in memory, lost are %v", st.inMemory, st.losses)
	}
	if got := len(everything(b)["event"]); got+int(st.losses[fleet.Event].Count) != n/2 {
		t.Errorf("%d events are there, %d are lost, want %d together", got, st.losses[fleet.Event].Count, n/2)
	}
	_ = b.close()
}

// TestOutboxDiskComes: a disk that is not there at the start, and comes later with what it had.
func TestOutboxDiskComes(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "outbox")
	b := mustOpen(t, dir, Bounds{}, newClock())
	check(t, b.add(event("t", "1"), event("t", "2"), event("u", "3")))
	check(t, b.close())
	check(t, os.Rename(dir, dir+".away"))
	check(t, os.WriteFile(dir, nil, 0o600))
	b = mustOpen(t, dir, Bounds{}, newClock())
	if err := b.add(event("t", "4"), event("v", "5"), event("t", "6")); err == nil {
		t.Fatal("a file is taken for a directory")
	}
	s, ok := b.next(func(topic string, _ fleet.Class) bool { return topic == "t" })
	if !ok || s.id != "4" {
		t.Fatal("it is not sent without a disk")
	}
	check(t, os.Remove(dir))
	check(t, os.Rename(dir+".away", dir))
	b.mu.Lock()
	b.tried = time.Time{}
	b.mu.Unlock()
	check(t, b.tick(true))
	b.stored(s.order, "S", 1)
	want := map[string][]string{"t": {"1", "2", "6"}, "u": {"3"}, "v": {"5"}}
	for topic, ids := range b.contents(t) {
		if !slices.Equal(ids, want[topic]) {
			t.Errorf("%s: %v waits, want %v", topic, ids, want[topic])
		}
	}
	if got := everything(b); !slices.Equal(got["t"], want["t"]) || !slices.Equal(got["v"], want["v"]) {
		t.Errorf("sent is %v, want %v", got, want)
	}
}

// TestOutboxHoles: records that the disk has lost, or that cannot be read, are counted once, and what is around them is there.
func TestOutboxHoles(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "outbox")
	b := mustOpen(t, dir, Bounds{}, newClock())
	for i := range 300 {
		check(t, b.add(event("t", fmt.Sprint(i))))
	}
	check(t, b.close())
	s, err := store.Open(dir, store.Options{})
	check(t, err)
	var batch store.Batch
	batch.Delete(recordKey(1, 10))
	batch.DeleteRange(recordKey(1, 20), recordKey(1, 25))
	batch.Set(recordKey(1, 100), []byte("rubbish"))
	batch.Set(recordKey(1, 300), []byte{recordVersion})
	batch.Set(recordKey(7, 1), []byte("nobody's"))
	check(t, s.Commit(&batch))
	check(t, s.Close())
	for range 2 {
		b = mustOpen(t, dir, Bounds{}, newClock())
		if l := b.state.Load().losses[fleet.Event]; l.Count != 8 || l.Why != "disk" {
			t.Errorf("lost: %+v, want 8", l)
		}
		if n := len(b.contents(t)["t"]); n != 292 {
			t.Errorf("%d are there, want 292", n)
		}
		check(t, b.close())
	}
	b = mustOpen(t, dir, Bounds{}, newClock())
	if got := everything(b)["t"]; len(got) != 292 || got[9] != "10" || got[291] != "298" {
		t.Errorf("sent are %d: %v", len(got), got)
	}
	check(t, b.add(event("t", "last")))
	if got := everything(b)["t"]; !slices.Equal(got, []string{"last"}) {
		t.Errorf("sent is %v", got)
	}
}

// TestOutboxRandomFaults has the disk fail at random while records are added and taken out: none is lost and none comes twice as long as the
// process lives, and all that was acknowledged is found by the next.
func TestOutboxRandomFaults(t *testing.T) {
	t.Parallel()
	seeds := 3
	if os.Getenv("LAWNBERRY_CHAOS") == "long" {
		seeds = 100
	}
	faults := 0
	for seed := range seeds {
		r := rand.New(rand.NewPCG(uint64(seed), 2))
		disk := &fullDisk{}
		dir := filepath.Join(t.TempDir(), "outbox")
		b, err := openOutbox(dir, Bounds{}, newClock(), errorfs.Wrap(vfs.Default, disk), slog.New(slog.DiscardHandler))
		check(t, err)
		var said, got []string
		for i := range 400 {
			if r.IntN(40) == 0 {
				disk.full.Store(!disk.full.Load())
				faults++
			}
			id := fmt.Sprint(i)
			said = append(said, id)
			_ = b.add(event("t", id))
			if r.IntN(10) == 0 {
				_ = b.tick(r.IntN(2) == 0)
			}
			for range r.IntN(3) {
				if s, ok := b.next(func(string, fleet.Class) bool { return true }); ok {
					got = append(got, s.id)
					b.stored(s.order, "S", 1)
				}
			}
		}
		disk.full.Store(false)
		eventually(t, "it is written", func() bool { return b.tick(true) == nil && b.state.Load().inMemory == 0 })
		check(t, b.close())
		b = mustOpen(t, dir, Bounds{}, newClock())
		got = append(got, everything(b)["t"]...)
		if !slices.Equal(got, said) {
			t.Fatalf("seed %d: %d were said, %d came: %v", seed, len(said), len(got), got)
		}
		check(t, b.close())
	}
	t.Logf("%d faults begun or ended", faults)
}
