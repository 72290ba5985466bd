package cloudlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

const (
	openSuffix  = ".open"  // lines of the batch that grows
	readySuffix = ".lines" // of a complete batch
)

// A spool is a directory with a file per batch, whose names sort by age.
type spool struct {
	dir string
	max int64

	mu    sync.Mutex // guards the fields below
	files []file     // complete batches, the oldest first
	open  *os.File   // nil without
	size  int64      // of open
	total int64      // of all
}

type file struct {
	name string
	size int64
}

// openSpool takes over what an earlier run has left.
func openSpool(dir string, most int64) (*spool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	s := &spool{dir: dir, max: most}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		name := e.Name()
		if base, unfinished := strings.CutSuffix(name, openSuffix); unfinished {
			if err := os.Rename(filepath.Join(dir, name), filepath.Join(dir, base+readySuffix)); err != nil {
				return nil, err
			}
			name = base + readySuffix
		}
		if strings.HasSuffix(name, readySuffix) {
			s.files = append(s.files, file{name, info.Size()})
			s.total += info.Size()
		}
	}
	slices.SortFunc(s.files, func(a, b file) int { return strings.Compare(a.name, b.name) })
	return s, nil
}

// append adds a line to the batch that grows. When there is no room the oldest batches go; dropped is how many lines they had.
func (s *spool) append(line []byte) (dropped int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.files) > 0 && s.total+int64(len(line))+1 > s.max {
		lines, _ := s.read(s.files[0].name)
		dropped += len(lines)
		s.removeLocked(s.files[0].name)
	}
	if s.open == nil {
		// Version 7 sorts by time; the first files of a clock that was set back are sent first, which does no harm.
		id, err := uuid.NewV7()
		if err != nil {
			return dropped, err
		}
		if s.open, err = os.OpenFile(filepath.Join(s.dir, id.String()+openSuffix), os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
			s.open = nil
			return dropped, err
		}
		s.size = 0
	}
	n, err := s.open.Write(append(slices.Clip(line), '\n'))
	s.size += int64(n)
	s.total += int64(n)
	return dropped, err
}

// complete ends the batch that grows.
func (s *spool) complete() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		return nil
	}
	path := s.open.Name()
	err := errors.Join(s.open.Sync(), s.open.Close())
	s.open = nil
	base := strings.TrimSuffix(filepath.Base(path), openSuffix) + readySuffix
	if err = errors.Join(err, os.Rename(path, filepath.Join(s.dir, base))); err != nil {
		s.total -= s.size
		return err
	}
	s.files = append(s.files, file{base, s.size})
	return nil
}

// oldest returns the oldest complete batch, without what is no line.
func (s *spool) oldest() (name string, lines [][]byte, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.files) > 0 {
		name := s.files[0].name
		if lines, err := s.read(name); err == nil && len(lines) > 0 {
			return name, lines, true
		}
		s.removeLocked(name) // empty, or gone
	}
	return "", nil, false
}

// read returns the lines of a batch. The last may be cut, by a crash.
func (s *spool) read(name string) (lines [][]byte, err error) {
	body, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		return nil, err
	}
	for line := range bytes.SplitSeq(body, []byte{'\n'}) {
		if len(line) > 0 && json.Valid(line) {
			lines = append(lines, line)
		}
	}
	return lines, nil
}

func (s *spool) remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removeLocked(name)
}

func (s *spool) removeLocked(name string) {
	i := slices.IndexFunc(s.files, func(f file) bool { return f.name == name })
	if i < 0 {
		return // it made room for others meanwhile
	}
	if err := os.Remove(filepath.Join(s.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		// It would be sent again and again: rather out of the way than in the way.
		_ = os.Rename(filepath.Join(s.dir, name), filepath.Join(s.dir, fmt.Sprint(name, ".stuck-", time.Now().UnixNano())))
	}
	s.total -= s.files[i].size
	s.files = slices.Delete(s.files, i, i+1)
}

func (s *spool) waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.files)
}
