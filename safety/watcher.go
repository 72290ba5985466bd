package safety

import (
	"context"
	"slices"
	"sync"
)

// OnChange calls f with the state as it is now, and with each that follows. The calls come one after the other, in order, from a goroutine of
// their own. After cancel returned there is no further call but one that is under way. f must not call Close.
func (l *Latch) OnChange(f func(s State)) (cancel func()) {
	w := &watcher{f: f, signal: make(chan struct{}, 1)}
	w.ctx, w.end = context.WithCancel(l.ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		w.end()
		return func() {}
	}
	l.watchers = append(l.watchers, w)
	w.tell(l.viewLocked())
	l.work.Go(w.run)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.watchers = slices.DeleteFunc(l.watchers, func(x *watcher) bool { return x == w })
		w.end()
	}
}

// A watcher is one registration of OnChange.
type watcher struct {
	f      func(State)
	ctx    context.Context
	end    context.CancelFunc
	signal chan struct{}

	mu    sync.Mutex // guards the fields below
	queue []State
	last  State
	begun bool
}

const maxStates = 4096 // that wait for a slow watcher; beyond it the older ones are left out

func (w *watcher) tell(s State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.begun && s == w.last {
		return
	}
	w.begun, w.last = true, s
	if len(w.queue) >= maxStates {
		w.queue = w.queue[1:]
	}
	w.queue = append(w.queue, s)
	token(w.signal)
}

func (w *watcher) run() {
	for {
		w.mu.Lock()
		var s State
		some := len(w.queue) > 0
		if some {
			s, w.queue = w.queue[0], w.queue[1:]
		}
		w.mu.Unlock()
		if some && w.ctx.Err() == nil {
			w.f(s)
			continue
		}
		select {
		case <-w.signal:
		case <-w.ctx.Done():
			return
		}
	}
}
