package app

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"testing"
	"testing/synctest"
	"time"
)

func gcPercent() int {
	p := debug.SetGCPercent(100)
	debug.SetGCPercent(p)
	return p
}

// TestSaveMemory is not parallel: the collector is everyone's.
func TestSaveMemory(t *testing.T) {
	if os.Getenv("GOGC") != "" {
		t.Setenv("GOGC", "")
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		kept := &struct{ parts [64][]byte }{}
		for i := range kept.parts {
			kept.parts[i] = make([]byte, 1<<20)
		}
		debug.FreeOSMemory() // a collection, after which it is known what lives
		go saveMemory(ctx)
		synctest.Wait()
		if p := gcPercent(); p != thriftyGC {
			t.Errorf("%d percent with much kept (%d MB), want %d", p, len(kept.parts), thriftyGC)
		}
		runtime.KeepAlive(kept)
		clear(kept.parts[:])
		debug.FreeOSMemory()
		time.Sleep(2 * lookAtHeap)
		synctest.Wait()
		if p := gcPercent(); p != usualGC {
			t.Errorf("%d percent with little kept, want %d", p, usualGC)
		}
		cancel()
		synctest.Wait()
	})
}
