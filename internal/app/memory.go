package app

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// What lives in a broker that keeps much, queues and retained messages, stays for long. With the usual collector the heap
// would be allowed twice its size, which on a small computer is memory that others need.
const (
	smallHeap  = 16 << 20 // bytes that live, below which the collector is left as it is
	usualGC    = 100      // percent that the heap may grow by until it is collected
	thriftyGC  = 50
	lookAtHeap = time.Second
)

// saveMemory has the garbage collector be thrifty while much is kept, until ctx ends. The environment's GOGC wins.
func saveMemory(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	now := usualGC
	tick := time.NewTicker(lookAtHeap)
	defer tick.Stop()
	for {
		metrics.Read(live)
		want := usualGC
		if live[0].Value.Uint64() > smallHeap {
			want = thriftyGC
		}
		if want != now {
			debug.SetGCPercent(want)
			now = want
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if now != usualGC {
				debug.SetGCPercent(usualGC)
			}
			return
		}
	}
}
