package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/batchrepr"
	"github.com/cockroachdb/pebble/v2/record"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Everything that Pebble writes has a checksum. Open reads all of it once. When some of it is wrong, whatever is intact is read file
// by file, without the files that say how they belong together, and written into a new directory, which takes the
// place of the old one. The old one is kept below the directory "damaged".

const (
	dataDir    = "data"
	rebuiltDir = "rebuilt" // complete when there is no dataDir
	damagedDir = "damaged"
	damagedMax = 3 // directories kept there
)

// check opens the store's files and reads all of them, repairing what is damaged.
func (s *Store) check() (*instance, error) {
	if err := s.finishRepair(); err != nil {
		return nil, err
	}
	if err := s.verify(); err != nil {
		if !damaged(err) {
			return nil, err
		}
		if err := s.repair(err); err != nil {
			return nil, err
		}
	}
	return s.start(false)
}

// verify opens the store's files for reading and reads all of them.
func (s *Store) verify() error {
	names, err := s.fs.List(s.files())
	if errors.Is(err, os.ErrNotExist) || err == nil && len(names) == 0 {
		return nil // a new store
	}
	if err != nil {
		return err
	}
	in, err := s.start(true)
	if err != nil {
		return err
	}
	err = in.verify()
	in.kill(errVerified)
	in.bury()
	return err
}

// errVerified is why an instance ends that was opened for reading.
var errVerified = errors.New("was opened for reading only")

// verify reads everything once, so that its checksums are checked.
func (in *instance) verify() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	if err := in.scan(nil, nil, func(_, _ []byte) error { return nil }); err != nil {
		return err
	}
	if err := in.db.CheckLevels(nil); err != nil {
		return err
	}
	select {
	case <-in.dead:
		return in.err
	default:
		return nil
	}
}

// damaged reports whether err is about what is in the files, and not about the disk being full, read-only or gone.
func damaged(err error) bool {
	var path *os.PathError
	var system interface{ Timeout() bool } // a system call's error
	return !errors.As(err, &path) && !errors.As(err, &system) || errors.Is(err, os.ErrNotExist) || errors.Is(err, io.ErrUnexpectedEOF)
}

// finishRepair goes on where a repair was interrupted.
func (s *Store) finishRepair() error {
	rebuilt := filepath.Join(s.dir, rebuiltDir)
	if _, err := os.Stat(rebuilt); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if _, err := os.Stat(s.files()); errors.Is(err, os.ErrNotExist) {
		return os.Rename(rebuilt, s.files())
	}
	return os.RemoveAll(rebuilt)
}

// repair replaces the store's files by what is intact in them.
func (s *Store) repair(cause error) error {
	r := &salvage{entries: make(map[string]saved)}
	if err := r.read(s.files()); err != nil {
		return err
	}
	rebuilt := filepath.Join(s.dir, rebuiltDir)
	if err := r.write(rebuilt); err != nil {
		return fmt.Errorf("repair: %w", err)
	}
	aside := filepath.Join(s.dir, damagedDir, time.Now().UTC().Format("20060102T150405.000000"))
	if err := os.MkdirAll(filepath.Dir(aside), 0o700); err != nil {
		return fmt.Errorf("repair: %w", err)
	}
	if err := os.Rename(s.files(), aside); err != nil {
		return fmt.Errorf("repair: %w", err)
	}
	if err := os.Rename(rebuilt, s.files()); err != nil {
		return fmt.Errorf("repair: %w", err)
	}
	if err := syncDir(s.dir); err != nil {
		return fmt.Errorf("repair: %w", err)
	}
	for _, name := range r.bad {
		s.setAside = append(s.setAside, filepath.Join(aside, name))
	}
	if len(s.setAside) == 0 { // none of the files that hold records
		s.setAside = append(s.setAside, aside)
	}
	s.log.Error("the store was damaged: what is intact was kept, the damaged files are set aside",
		"damaged", strings.Join(s.setAside, " "), "records", len(r.entries), "cause", cause)
	s.tidyDamaged()
	return nil
}

// tidyDamaged removes what was set aside long ago.
func (s *Store) tidyDamaged() {
	dir := filepath.Join(s.dir, damagedDir)
	entries, err := os.ReadDir(dir) // sorted by name, which is by time
	if err != nil {
		return
	}
	for len(entries) > damagedMax {
		_ = os.RemoveAll(filepath.Join(dir, entries[0].Name()))
		entries = entries[1:]
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// A salvage is what can be read of damaged files. Each record and each deletion has a sequence number; the highest counts.
type salvage struct {
	entries map[string]saved
	ranges  []deletedRange
	bad     []string // files with something wrong
}

type saved struct {
	number  uint64
	value   []byte
	deleted bool
}

type deletedRange struct {
	from, to []byte
	number   uint64
}

func (r *salvage) set(key, value []byte, number uint64, deleted bool) {
	if old, ok := r.entries[string(key)]; ok && old.number > number {
		return
	}
	r.entries[string(key)] = saved{number, slices.Clone(value), deleted}
}

// read reads all files of a directory.
func (r *salvage) read(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("repair: %w", err)
	}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		number, err := strconv.ParseUint(strings.TrimSuffix(e.Name(), filepath.Ext(e.Name())), 10, 64)
		whole := true
		switch filepath.Ext(e.Name()) {
		case ".log":
			if err == nil {
				whole = r.log(name, number)
			}
		case ".sst":
			whole = r.table(name)
		}
		if !whole {
			r.bad = append(r.bad, e.Name())
		}
	}
	for key, e := range r.entries {
		for _, d := range r.ranges {
			if d.number > e.number && bytes.Compare(d.from, []byte(key)) <= 0 && bytes.Compare([]byte(key), d.to) < 0 {
				e.deleted = true
			}
		}
		if e.deleted {
			delete(r.entries, key)
		}
	}
	return nil
}

// logBlock is the unit of a log: a record that begins in a later block can be read whatever is wrong in an earlier one.
const logBlock = 32 << 10

// log reads a log, and reports whether nothing was wrong with it before its end.
func (r *salvage) log(name string, number uint64) (whole bool) {
	data, err := os.ReadFile(name)
	if err != nil {
		return false
	}
	whole = true
	for start := 0; start < len(data); {
		n, err := r.logFrom(data[start:], number)
		if err == nil {
			break
		}
		whole = false
		start += (n/logBlock + 1) * logBlock
	}
	return whole
}

// logFrom reads a log from the beginning of a block to the first thing that is wrong, and returns where that is.
func (r *salvage) logFrom(data []byte, number uint64) (offset int, err error) {
	in := numbered(record.NewReader, bytes.NewReader(data), number)
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	for {
		offset = int(in.Offset())
		rec, err := in.Next()
		if errors.Is(err, io.EOF) {
			return offset, nil
		}
		if err != nil {
			return offset, err
		}
		repr, err := io.ReadAll(rec)
		if err != nil {
			return offset, err
		}
		r.batch(repr)
	}
}

// numbered calls one of Pebble's functions with a number of a type that it does not let others name.
func numbered[N ~uint64](f func(io.Reader, N) *record.Reader, in io.Reader, number uint64) *record.Reader {
	return f(in, N(number))
}

func (r *salvage) batch(repr []byte) {
	h, ok := batchrepr.ReadHeader(repr)
	if !ok {
		return
	}
	number := uint64(h.SeqNum)
	ops := batchrepr.Read(repr)
	for {
		kind, key, value, ok, err := ops.Next()
		if !ok || err != nil {
			return
		}
		switch kind {
		case pebble.InternalKeyKindLogData:
			continue
		case pebble.InternalKeyKindRangeDelete:
			r.ranges = append(r.ranges, deletedRange{slices.Clone(key), slices.Clone(value), number})
		case pebble.InternalKeyKindSet, pebble.InternalKeyKindSetWithDelete:
			r.set(key, value, number, false)
		default:
			r.set(key, nil, number, true)
		}
		number++
	}
}

// table reads a table: from its beginning to the first thing that is wrong, then from its end back.
func (r *salvage) table(name string) (whole bool) {
	defer func() {
		if recover() != nil {
			whole = false
		}
	}()
	f, err := vfs.Default.Open(name)
	if err != nil {
		return false
	}
	readable, err := sstable.NewSimpleReadable(f)
	if err != nil {
		f.Close()
		return false
	}
	t, err := sstable.NewReader(context.Background(), readable, sstable.ReaderOptions{})
	if err != nil {
		return false // the reader has closed the file
	}
	defer t.Close()
	whole = true
	it, err := t.NewIter(sstable.NoTransforms, nil, nil, sstable.AssertNoBlobHandles)
	if err != nil {
		return false
	}
	defer it.Close()
	kv := it.First()
	for ; kv != nil; kv = it.Next() {
		value, _, err := kv.Value(nil)
		if err != nil {
			whole = false
			continue
		}
		r.set(kv.K.UserKey, value, uint64(kv.K.SeqNum()), !isSet(kv.K.Kind()))
	}
	if it.Error() != nil {
		whole = false
		for kv = it.Last(); kv != nil; kv = it.Prev() {
			if value, _, err := kv.Value(nil); err == nil {
				r.set(kv.K.UserKey, value, uint64(kv.K.SeqNum()), !isSet(kv.K.Kind()))
			}
		}
	}
	spans, err := t.NewRawRangeDelIter(context.Background(), sstable.NoFragmentTransforms, sstable.NoReadEnv)
	if err != nil {
		return false
	}
	if spans == nil {
		return whole
	}
	defer spans.Close()
	span, err := spans.First()
	for ; span != nil; span, err = spans.Next() {
		for _, k := range span.Keys {
			r.ranges = append(r.ranges, deletedRange{slices.Clone(span.Start), slices.Clone(span.End), uint64(k.SeqNum())})
		}
	}
	return whole && err == nil
}

func isSet(kind pebble.InternalKeyKind) bool {
	return kind == pebble.InternalKeyKindSet || kind == pebble.InternalKeyKindSetWithDelete
}

// write writes what was read as a store of its own.
func (r *salvage) write(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	s := &Store{dir: filepath.Dir(dir), data: filepath.Base(dir), fs: vfs.Default}
	in, err := s.start(false)
	if err != nil {
		return err
	}
	var b Batch
	for _, key := range slices.Sorted(maps.Keys(r.entries)) {
		b.Set([]byte(key), r.entries[key].value)
		if b.Size() > groupBytes {
			if err := in.commit(&b); err != nil {
				return err
			}
			b.Reset()
		}
	}
	if b.Len() > 0 {
		if err := in.commit(&b); err != nil {
			return err
		}
	}
	return in.close()
}
