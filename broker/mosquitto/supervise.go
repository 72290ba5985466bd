package mosquitto

import (
	"context"
	"os"
	"syscall"
	"time"
)

// Stats are the figures of the engine.
type Stats struct {
	Engine   string    `json:"engine"` // "mosquitto"
	Version  string    `json:"version"`
	PID      int       `json:"pid"`      // 0 while it does not run
	Running  bool      `json:"running"`  // it answers, as far as is known
	Since    time.Time `json:"since"`    // of the process; of its end when it does not run
	Adopted  bool      `json:"adopted"`  // an earlier run has started it
	Restarts uint64    `json:"restarts"` // after it ended by itself, or hung
	Hangs    uint64    `json:"hangs"`
	Trouble  string    `json:"trouble"` // why it was started again last; "" when it never was
}

// Stats returns the figures.
func (b *Broker) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.stats
	s.Engine, s.Version = "mosquitto", b.version
	return s
}

// began notes that p runs.
func (b *Broker) began(p process, adopted bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.proc = p
	b.stats.PID, b.stats.Running, b.stats.Since, b.stats.Adopted = p.pid(), true, time.Now(), adopted
}

// over notes that none runs.
func (b *Broker) over() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.proc = nil
	b.stats.PID, b.stats.Running, b.stats.Since, b.stats.Adopted = 0, false, time.Now(), false
}

// supervise watches over p and those that come after it, until the broker is stopped.
func (b *Broker) supervise(p process) {
	defer close(b.done)
	defer b.cleanUp()
	for _, e := range b.endpoints {
		b.log.Info("listening", "network", e.Network, "address", e.Address, "url", e.URL, "engine", "mosquitto")
	}
	failures := 0
	for {
		began := time.Now()
		trouble := b.watch(p)
		b.over()
		if b.ctx.Err() != nil {
			return
		}
		if time.Since(began) > b.times.steady {
			failures = 0
		}
		if trouble != "" {
			b.note(trouble)
			b.log.Error("Mosquitto is started again", "reason", trouble, "pid", p.pid(), "restarts", b.Stats().Restarts)
		}
		for {
			if trouble != "" {
				if failures > 0 && !b.pause(b.wait(failures)) {
					return
				}
				failures++
			}
			next, err := b.launch(b.ctx)
			if err == nil {
				p = next
				break
			}
			if b.ctx.Err() != nil {
				return
			}
			trouble = err.Error()
			b.note(trouble)
			b.log.Error("Mosquitto cannot be started again, trying on", "error", err, "attempt", failures)
		}
		b.log.Info("Mosquitto runs again", "pid", p.pid())
	}
}

func (b *Broker) note(trouble string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stats.Restarts++
	b.stats.Trouble = trouble
}

// wait is how long to wait after so many failures in a row.
func (b *Broker) wait(failures int) time.Duration {
	d := b.times.backoff
	for range min(failures-1, 16) {
		d = min(2*d, b.times.longest)
	}
	return d
}

func (b *Broker) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-b.ctx.Done():
		return false
	}
}

// watch waits until p has ended, by itself, because it hung, or because it was to. It returns what was wrong, "" when nothing was.
func (b *Broker) watch(p process) string {
	probing, quit := context.WithCancel(b.ctx)
	hung := make(chan error, 1)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		if err := b.probe(probing); err != nil {
			hung <- err
		}
	}()
	defer func() {
		quit()
		<-finished
	}()
	select {
	case <-p.ended():
		return "it ended by itself: " + p.err().Error()
	case err := <-hung:
		select { // it may just have ended
		case <-p.ended():
			return "it ended by itself: " + p.err().Error()
		case <-time.After(50 * time.Millisecond):
		}
		b.mu.Lock()
		b.stats.Hangs++
		b.mu.Unlock()
		_ = p.kill()
		<-p.ended()
		return "it gave no sign of life: " + err.Error()
	case why := <-b.again:
		b.log.Info("Mosquitto is started again", "reason", why)
	case <-b.ctx.Done():
	}
	b.end(p)
	return ""
}

// end ends p, cleanly if it does so in time.
func (b *Broker) end(p process) {
	b.mu.Lock()
	grace := or(b.grace, b.times.stop)
	b.mu.Unlock()
	_ = p.signal(syscall.SIGTERM)
	late := time.NewTimer(grace)
	defer late.Stop()
	select {
	case <-p.ended():
		return
	case <-late.C:
	}
	b.log.Warn("Mosquitto does not end in time: killed", "pid", p.pid(), "after", grace)
	_ = p.kill()
	<-p.ended()
}

// cleanUp removes what is of use only while it runs.
func (b *Broker) cleanUp() {
	b.forget()
	if !listening(b.socket) {
		_ = os.Remove(b.socket)
	}
}
