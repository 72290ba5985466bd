package app

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

func gcPercent() int {
	percent := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(percent)
	return int(percent[0].Value.Uint64())
}

// TestSaveMemory is not parallel: the collector is everyone's.
func TestSaveMemory(t *testing.T) {
	if os.Getenv("GOGC") != "" {
		t.Setenv("GOGC", "")
	}
	ctx, cancel := context.WithCancel(t.Context())
	kept := make([][]byte, 64)
	for i := range kept {
		kept[i] = make([]byte, 1<<20)
	}
	runtime.GC() // after which it is known what lives
	done := make(chan struct{})
	go func() { defer close(done); saveMemory(ctx) }()
	become := func(least, most int, when string) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); gcPercent() < least || gcPercent() > most; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d percent %s, want %d to %d", gcPercent(), when, least, most)
			}
		}
	}
	become(thriftyGC, usualGC/2, "with 64 MB kept")
	runtime.KeepAlive(kept)
	clear(kept)
	debug.FreeOSMemory()
	become(usualGC+1, laziestGC, "with nothing kept")
	for i := range kept {
		kept[i] = make([]byte, 1<<20)
	}
	runtime.GC()
	become(thriftyGC, usualGC/2, "with 64 MB kept again")
	runtime.KeepAlive(kept)
	cancel()
	<-done
	become(usualGC, usualGC, "in the end")
}
