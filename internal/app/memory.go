package app

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

// The usual collector lets the heap grow by as much as lives in it, but by 4 MB at least. A broker through which much flows and in which
// little stays would be collected hundreds of times a second; one that keeps much, queues and retained messages, would be allowed
// twice what it needs, which on a small computer is memory that others need. So the heap may grow by about the same, whatever
// lives in it.
const (
	growth     = 20 << 20 // bytes
	laziestGC  = 500      // percent of what lives
	thriftyGC  = 40
	usualGC    = 100
	lookAtHeap = time.Second
	quiet      = 1 << 20 // bytes allocated between two looks at the heap, when little happens
	patience   = 3       // such looks in a row, after which what a busy time has left behind goes back to the system
	worthwhile = 8 << 20 // bytes, if it is as much as that
	afterStart = 2 << 20 // the first time, as the start leaves some that nobody needs again
)

// saveMemory has the garbage collector work by these rules, until ctx ends. The environment's GOGC wins.
func saveMemory(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	var p pacer
	p.afterCollection()
	defer p.stop()
	tick := time.NewTicker(lookAtHeap)
	defer tick.Stop()
	figures := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"}, {Name: "/memory/classes/heap/free:bytes"}, {Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/live:bytes"},
	}
	var allocated uint64
	idle, enough, started := 0, int64(afterStart), false
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		p.adjust()
		metrics.Read(figures)
		before := allocated
		allocated = figures[0].Value.Uint64()
		if idle++; allocated-before > quiet {
			idle = 0
		}
		if idle == patience && !started {
			started = true
			forgetProgram()
		}
		garbage := int64(figures[3].Value.Uint64()) - int64(figures[4].Value.Uint64())
		unused := int64(figures[1].Value.Uint64()) + int64(figures[2].Value.Uint64()) + garbage
		if idle >= patience && unused > enough {
			debug.FreeOSMemory()
			idle, enough = 0, worthwhile
		}
	}
}

// A pacer sets how far the heap may grow after each collection.
type pacer struct {
	mu      sync.Mutex // guards everything below
	percent int
	stopped bool
}

// A mark is garbage from its beginning: the next collection finds it.
type mark struct{ _ *int }

// afterCollection sets the percentage, and is called again after the next collection, or the one after that.
func (p *pacer) afterCollection() {
	if p.adjust() {
		runtime.AddCleanup(new(mark), func(p *pacer) { p.afterCollection() }, p)
	}
}

// adjust sets the percentage by what lived at the last collection, unless p is stopped.
func (p *pacer) adjust() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return false
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	percent := min(max(int(growth*100/(live[0].Value.Uint64()+1)), thriftyGC), laziestGC)
	if d := percent - p.percent; d > p.percent/8 || d < -p.percent/8 { // setting it stops the world for a moment
		debug.SetGCPercent(percent)
		p.percent = percent
	}
	return true
}

func (p *pacer) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	debug.SetGCPercent(usualGC)
}
