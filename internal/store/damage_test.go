package store

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDamage flips bits in, cuts short, blanks, extends and removes files of a store that was closed, one at a time, and
// opens it: it opens, no record has a wrong value, and what is missing is said. LAWNBERRY_CHAOS=long does it 1,000 times.
//
// It was seen to fail with the sync offsets of the log ignored (records lost without a word) and without check.
func TestDamage(t *testing.T) {
	t.Parallel()
	const records = 8_000
	runs := 30
	if os.Getenv("LAWNBERRY_CHAOS") == "long" {
		runs = 1000
	}
	value := func(i int) []byte { return fmt.Appendf(nil, "%d %s", i, strings.Repeat(string(rune('a'+i%26)), i%200)) }
	key := func(i int) []byte { return fmt.Appendf(nil, "k%06d", i) }
	fill := func(s *Store, from, to int) {
		var b Batch
		for i := from; i < to; i++ {
			b.Set(key(i), value(i))
			b.Delete(fmt.Appendf(nil, "gone%06d", i))
			if b.Len() >= 200 {
				if err := s.Commit(&b); err != nil {
					t.Fatal(err)
				}
				b.Reset()
			}
		}
		if err := s.Commit(&b); err != nil {
			t.Fatal(err)
		}
	}
	// Two stores to damage: one closed as it should be, one as a kill leaves it, with half of its records in the log.
	closed, killed := t.TempDir(), t.TempDir()
	s := open(t, closed, Options{Sync: Never})
	fill(s, 0, records/2)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, closed, Options{Sync: Never})
	fill(s, records/2, records)
	if err := os.CopyFS(filepath.Join(killed, dataDir), os.DirFS(filepath.Join(closed, dataDir))); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	kept, lost, unsaid, aside := 0, 0, 0, 0
	for run := range runs {
		seed := uint64(run)
		rng := rand.New(rand.NewPCG(seed, 1))
		dir := filepath.Join(t.TempDir(), "store")
		from := closed
		if run%2 == 1 {
			from = killed
		}
		if err := os.CopyFS(filepath.Join(dir, dataDir), os.DirFS(filepath.Join(from, dataDir))); err != nil {
			t.Fatal(err)
		}
		what := damage(t, rng, filepath.Join(dir, dataDir))
		s, err := Open(dir, Options{})
		if err != nil {
			t.Errorf("run %d, %s: %v", run, what, err)
			continue
		}
		missing := 0
		got := content(t, s, "k")
		for i := range records {
			switch v, ok := got[string(key(i))]; {
			case !ok:
				missing++
			case v != string(value(i)):
				t.Fatalf("run %d, %s: record %d is %q", run, what, i, v)
			}
		}
		if len(got)+missing != records {
			t.Fatalf("run %d, %s: %d records came from nowhere", run, what, len(got)+missing-records)
		}
		kept += len(got)
		lost += missing
		if missing > 0 && len(s.SetAside()) == 0 {
			// A log that a crash has cut off ends like this, in what was never acknowledged.
			if from == closed || !strings.Contains(what, ".log") {
				t.Errorf("run %d, %s: %d records are gone without a word", run, what, missing)
			}
			unsaid++
		}
		for _, name := range s.SetAside() {
			if _, err := os.Stat(name); err != nil && !strings.HasPrefix(what, "remove") {
				t.Errorf("run %d, %s: what was set aside is not there: %v", run, what, err)
			}
			aside++
		}
		var b Batch
		b.Set([]byte("after"), []byte("x"))
		if err := s.Commit(&b); err != nil {
			t.Errorf("run %d, %s: the store is not healthy afterwards: %v", run, what, err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("run %d, %s: %v", run, what, err)
		}
		if s, err = Open(dir, Options{}); err != nil || len(s.SetAside()) > 0 || len(content(t, s, "k")) != len(got) {
			t.Errorf("run %d, %s: not healthy when it is opened again: %v", run, what, err)
		}
		if s != nil {
			_ = s.Close()
		}
	}
	t.Logf("%d damaged stores of %d records: %d records kept, %d lost, %d times at the end of a log without a word, %d files set aside",
		runs, records, kept, lost, unsaid, aside)
}

// damage does something bad to one file of dir, and says what.
func damage(t *testing.T, rng *rand.Rand, dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	e := entries[rng.IntN(len(entries))]
	name := filepath.Join(dir, e.Name())
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	at := 0
	if len(data) > 0 {
		at = rng.IntN(len(data))
	}
	var what string
	switch kind := rng.IntN(10); {
	case kind < 5 && len(data) > 0:
		what = "flip a bit of"
		data[at] ^= 1 << rng.IntN(8)
	case kind < 7:
		what = "cut"
		data = data[:at]
	case kind < 8:
		what = "blank a part of"
		clear(data[at:min(at+4096, len(data))])
	case kind < 9:
		what = "append garbage to"
		for range 100 {
			data = append(data, byte(rng.Uint32()))
		}
	default:
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		return "remove " + e.Name()
	}
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s %s at %d", what, e.Name(), at)
}
