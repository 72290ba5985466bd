package service

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/shirou/gopsutil/v4/cpu"
	"github.com/shirou/gopsutil/v4/disk"
	"github.com/shirou/gopsutil/v4/mem"

	"github.com/lawnberry/lawnberry/message"
)

const (
	usageAge    = 2 * time.Second        // a sample this young is not taken again
	usageWindow = 200 * time.Millisecond // shorter periods say nothing about the processor
)

// usage samples what the whole machine uses: processor since the last sample, memory now, and the disk of one path. A
// sample never waits: it reads a few small files.
type usage struct {
	path   string
	latest atomic.Pointer[message.Resources]

	mu          sync.Mutex // guards the fields below
	last        message.Resources
	taken       time.Time
	busy, total float64 // processor time since the machine started, at the start of the window
	window      time.Time
}

func newUsage(path string) *usage {
	u := &usage{path: path}
	u.current()
	return u
}

// known returns the figures of the last sample. It never waits.
func (u *usage) known() message.Resources {
	if r := u.latest.Load(); r != nil {
		return *r
	}
	return message.Resources{}
}

// current returns the figures in percent, 0 to 100, at most usageAge old. One that the system does not tell is 0.
func (u *usage) current() message.Resources {
	u.mu.Lock()
	defer u.mu.Unlock()
	if now := time.Now(); u.taken.IsZero() || now.Sub(u.taken) >= usageAge {
		u.sample(now)
		r := u.last
		u.latest.Store(&r)
	}
	return u.last
}

// sample takes the figures of now. u.mu is held.
func (u *usage) sample(now time.Time) {
	u.taken = now
	if busy, total, ok := cpuTimes(); ok && (u.window.IsZero() || now.Sub(u.window) >= usageWindow) {
		// The first sample covers the time since the machine started.
		if spent := total - u.total; spent > 0 {
			u.last.CPU = percent((busy - u.busy) / spent * 100)
		}
		u.busy, u.total, u.window = busy, total, now
	}
	if vm, err := mem.VirtualMemory(); err == nil {
		u.last.Memory = percent(vm.UsedPercent)
	}
	if d, err := disk.Usage(u.path); err == nil {
		u.last.Disk = percent(d.UsedPercent)
	}
}

// percent keeps v within 0 to 100, to two decimals.
func percent(v float64) float64 { return float64(int(min(max(v, 0), 100)*100+0.5)) / 100 }

// cpuTimes returns the busy and the total time of all processors together, in seconds. ok is false where the system does
// not tell.
func cpuTimes() (busy, total float64, ok bool) {
	all, err := cpu.Times(false)
	if err != nil || len(all) != 1 {
		return 0, 0, false
	}
	t := all[0] // the guests' time is contained in user and nice
	busy = t.User + t.Nice + t.System + t.Irq + t.Softirq + t.Steal
	return busy, busy + t.Idle + t.Iowait, true
}
