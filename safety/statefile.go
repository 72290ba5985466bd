package safety

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// A stateFile keeps the hub's state beside the broker's retained message. One that is missing or damaged says nothing.
type stateFile struct {
	path  string // "" keeps nothing
	state State  // that was read; the zero value when nothing was
}

type stateRecord struct {
	Engaged  *bool     `json:"engaged"`
	Reason   string    `json:"reason"`
	By       string    `json:"by"`
	Since    time.Time `json:"since"`
	Sequence uint64    `json:"sequence"`
}

func openStateFile(path string) (*stateFile, error) {
	f := &stateFile{path: path}
	if path == "" {
		return f, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w; make it readable, or remove it: the emergency stop is engaged then", err)
	}
	var r stateRecord
	if json.Unmarshal(raw, &r) == nil && r.Engaged != nil && r.Sequence < 2*maxSequence {
		f.state = State{Engaged: *r.Engaged, Reason: r.Reason, By: r.By, Since: r.Since, Sequence: r.Sequence}
	}
	return f, nil
}

// forget removes the file, as what it says is not true any more.
func (f *stateFile) forget() error {
	if err := os.Remove(f.path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// write returns when the state is on the disk.
func (f *stateFile) write(s State) (err error) {
	if f.path == "" {
		return nil
	}
	raw, err := json.Marshal(stateRecord{&s.Engaged, s.Reason, s.By, s.Since, s.Sequence})
	if err != nil {
		return err
	}
	dir := filepath.Dir(f.path)
	t, err := os.CreateTemp(dir, filepath.Base(f.path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(t.Name()))
		}
	}()
	_, err = t.Write(append(raw, '\n'))
	err = errors.Join(err, t.Sync(), t.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(t.Name(), f.path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
