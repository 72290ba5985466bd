package mosquitto

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/lawnberry/lawnberry/broker"
)

// A record is what is known of the process that was started last.
type record struct {
	PID        int               `json:"pid"`
	Born       string            `json:"born"` // see born
	Generation string            `json:"generation"`
	Endpoints  []broker.Endpoint `json:"endpoints"`
	Ports      []string          `json:"ports"`
}

// remember writes the record of a process that has just been started.
func (b *Broker) remember(pid int) error {
	when, _ := born(pid)
	raw, err := json.Marshal(record{pid, when, b.generation(), b.endpoints, b.ports})
	if err != nil {
		return fmt.Errorf("mosquitto: %w", err)
	}
	return b.writeFile(stateName, string(raw)+"\n")
}

func (b *Broker) forget() { _ = os.Remove(filepath.Join(b.o.Dir, stateName)) }

// findStale looks for the process of an earlier run. One that ends within a moment, as it should, is nothing.
func (b *Broker) findStale(ctx context.Context) (*adopted, error) {
	raw, err := os.ReadFile(filepath.Join(b.o.Dir, stateName))
	if err != nil {
		return nil, nil //nolint:nilnil // there is none
	}
	var r record
	if json.Unmarshal(raw, &r) != nil || r.PID <= 1 || r.Born == "" {
		return nil, nil //nolint:nilnil // nothing that could be relied on
	}
	p, err := adopt(r)
	if err != nil {
		return nil, nil //nolint:nilnil // it is gone, or another process has its number
	}
	// The kernel has told it to end with who started it. It gets the time to.
	ending := time.NewTimer(b.times.stale / 3)
	defer ending.Stop()
	select {
	case <-p.over:
		return nil, nil //nolint:nilnil // it has ended
	case <-ending.C:
	case <-ctx.Done():
		p.release()
		return nil, ctx.Err()
	}
	fit := r.Generation == b.generation() && len(r.Ports) == len(b.o.Listeners)
	patience, cancel := context.WithTimeout(ctx, b.times.stale*2/3)
	defer cancel()
	s, err := b.greet(patience, b.socket)
	if err == nil {
		s.close()
	}
	if p.gone() {
		p.release()
		return nil, nil //nolint:nilnil // it has ended
	}
	if err != nil || !fit {
		p.release()
		return nil, &StaleError{PID: r.PID, Hung: err != nil}
	}
	b.endpoints, b.ports = r.Endpoints, r.Ports
	return p, nil
}

// adopted is a process that an earlier run has started.
type adopted struct {
	record
	process *os.Process
	over    chan struct{}
	quit    chan struct{}
}

// adopt returns the process of a record, if it is still the same.
func adopt(r record) (*adopted, error) {
	p, err := os.FindProcess(r.PID) // on Linux it stays that process, whoever gets its number
	if err != nil {
		return nil, err
	}
	a := &adopted{record: r, process: p, over: make(chan struct{}), quit: make(chan struct{})}
	if a.gone() {
		_ = p.Release()
		return nil, os.ErrProcessDone
	}
	go a.watch()
	return a, nil
}

// gone reports whether it has ended.
func (a *adopted) gone() bool {
	when, ok := born(a.PID)
	return !ok || when != a.Born
}

// watch waits for its end. It is nobody's child here, so it is looked at.
func (a *adopted) watch() {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	defer func() { _ = a.process.Release() }()
	for !a.gone() {
		select {
		case <-tick.C:
		case <-a.quit:
			return
		}
	}
	close(a.over)
}

// release lets go of it.
func (a *adopted) release() { close(a.quit) }

func (a *adopted) pid() int               { return a.PID }
func (a *adopted) ended() <-chan struct{} { return a.over }
func (a *adopted) err() error             { return errors.New("ended") }
func (a *adopted) kill() error            { return a.signal(syscall.SIGKILL) }

func (a *adopted) signal(s os.Signal) error {
	if a.gone() {
		return os.ErrProcessDone
	}
	return a.process.Signal(s)
}
