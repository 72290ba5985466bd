package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func content(t testing.TB, s *Store, prefix string) map[string]string {
	t.Helper()
	m := make(map[string]string)
	if err := s.Scan([]byte(prefix), func(k, v []byte) error { m[string(k)] = string(v); return nil }); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestCommitAndScan(t *testing.T) {
	for _, mode := range []Sync{Always, Sync(time.Millisecond), Never} {
		t.Run(fmt.Sprint(int(mode)), func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir, Options{Sync: mode})
			var b Batch
			for i := range 100 {
				b.Set(fmt.Appendf(nil, "k%02d", i), fmt.Appendf(nil, "v%d", i))
			}
			b.Delete([]byte("k07"))
			b.DeleteRange([]byte("k50"), []byte("k60"))
			b.Set([]byte("k55"), []byte("again"))
			if err := s.Commit(&b); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				got := content(t, s, "k")
				if len(got) != 90 || got["k07"] != "" || got["k55"] != "again" || got["k99"] != "v99" {
					t.Fatalf("%d keys: %v", len(got), got)
				}
				if n := len(content(t, s, "k1")); n != 10 {
					t.Fatalf("%d keys with the prefix k1, want 10", n)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = open(t, dir, Options{Sync: mode})
			}
			entries, err := os.ReadDir(dir + "/data")
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				info, err := e.Info()
				if errors.Is(err, os.ErrNotExist) { // tidied away meanwhile
					continue
				}
				if err != nil || info.Mode().Perm() != 0o600 {
					t.Errorf("%s: %v, %v; want 0600", e.Name(), info.Mode(), err)
				}
			}
		})
	}
}

func TestLocked(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	_, err := Open(dir, Options{})
	var locked *LockedError
	if !errors.As(err, &locked) || locked.PID != os.Getpid() {
		t.Fatalf("a second Open: %v, want a LockedError with process %d", err, os.Getpid())
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir, Options{})
}

func BenchmarkCommit(b *testing.B) {
	for _, records := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint(records), func(b *testing.B) {
			s := open(b, b.TempDir(), Options{})
			var batch Batch
			value := make([]byte, 250)
			n := uint64(0)
			for b.Loop() {
				batch.Reset()
				for range records {
					n++
					batch.Set(binary.BigEndian.AppendUint64([]byte("S00000000q"), n), value)
				}
				if err := s.Commit(&batch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkConcurrentCommit(b *testing.B) {
	s := open(b, b.TempDir(), Options{})
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		var batch Batch
		for pb.Next() {
			batch.Reset()
			batch.Set(binary.BigEndian.AppendUint64([]byte("k"), uint64(time.Now().UnixNano())), make([]byte, 250))
			if err := s.Commit(&batch); err != nil {
				b.Error(err)
			}
		}
	})
}

// TestDirectoryStaysBounded passes many records through, as a queue does, of which few are there at a time.
func TestDirectoryStaysBounded(t *testing.T) {
	t.Parallel()
	const records, alive = 300_000, 10_000
	dir := t.TempDir()
	s := open(t, dir, Options{Sync: Never})
	key := func(n int) []byte { return binary.BigEndian.AppendUint64([]byte("S00000000q"), uint64(n)) }
	var b Batch
	value := make([]byte, 250)
	largest := int64(0)
	for n := range records {
		rng := uint64(n)*0x9E3779B97F4A7C15 + 1
		for i := range value { // nothing that compresses
			rng ^= rng << 13
			rng ^= rng >> 7
			value[i] = byte(rng)
		}
		b.Set(key(n), value)
		if n >= alive {
			b.Delete(key(n - alive))
		}
		if b.Len() >= 1000 {
			if err := s.Commit(&b); err != nil {
				t.Fatal(err)
			}
			b.Reset()
		}
		if n%20_000 == 0 {
			largest = max(largest, size(t, dir))
		}
	}
	if err := s.Commit(&b); err != nil {
		t.Fatal(err)
	}
	if n := len(content(t, s, "S")); n != alive {
		t.Errorf("%d records, want %d", n, alive)
	}
	t.Logf("%d MB written; the directory had %d MB at most", records*270>>20, largest>>20)
	if largest > 100<<20 {
		t.Errorf("the directory grew to %d MB", largest>>20)
	}
}

func size(t *testing.T, dir string) (total int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			if info, err := e.Info(); err == nil { // it may be gone meanwhile
				total += info.Size()
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return total
}

// TestManyOpenings opens a store again and again without closing it well, as kills do, each time with more than one table's
// worth of changes: compactions that are due at an opening must begin, or writes would wait for ever.
func TestManyOpenings(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	value := make([]byte, 1000)
	for n := range 15 {
		s := open(t, dir, Options{Sync: Never})
		var b Batch
		for i := range 3000 {
			for j := 0; j < len(value); j += 8 {
				binary.BigEndian.PutUint64(value[j:], uint64(i*j+n)*0x9E3779B97F4A7C15)
			}
			b.Set(fmt.Appendf(nil, "k%d", i), value)
			if b.Len() == 100 {
				if err := s.Commit(&b); err != nil {
					t.Fatalf("opening %d: %v", n, err)
				}
				b.Reset()
			}
		}
		s.mu.Lock()
		in := s.open
		s.open, s.closed = nil, true
		in.kill(ErrClosed) // nothing more reaches the files
		in.bury()
		s.lock.Close()
		s.mu.Unlock()
	}
}
