package load

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/shirou/gopsutil/v4/process"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/topic"
)

// A Usage is what one side has used. What is not known is null in JSON.
type Usage struct {
	CPU    *float64 `json:"cpu_seconds"`  // during the measurement
	Memory *uint64  `json:"memory_bytes"` // of the load: the most so far; of the broker: the most that was seen, sampled
	Source string   `json:"source"`       // process, $SYS or unknown
}

// A meter samples what both sides use.
type meter struct {
	broker *process.Process // nil when its process is not known

	began      bool
	ownCPU     time.Duration
	brokerCPU  float64 // seconds
	brokerMost uint64

	listener *client.Client // nil when the broker says nothing to us

	mu  sync.Mutex        // guards sys
	sys map[string]string // what the broker says below $SYS/broker
}

func newMeter(pid int) *meter {
	m := &meter{sys: map[string]string{}}
	if pid > 0 {
		m.broker, _ = process.NewProcess(int32(pid)) // gone meanwhile: not known
	}
	return m
}

// What a broker says of itself, ours and Mosquitto alike.
const (
	sysVersion = "$SYS/broker/version"
	sysHeap    = "$SYS/broker/heap/current"
)

// sysPatience is how long the broker has to say its version, if it says any.
const sysPatience = time.Second

// listen hears what the broker says of itself, over a connection of its own until close. A broker that says nothing, or not to us, is none
// that is known.
func (m *meter) listen(ctx context.Context, o client.Options) {
	o.ID += "-sys"
	o.Logger, o.OnState = nil, nil // nobody needs to know that it is refused
	ctx, cancel := context.WithTimeout(ctx, connectPatience)
	defer cancel()
	c, err := connectWhenFree(ctx, o)
	if err != nil {
		return
	}
	m.listener = c
	named := make(chan struct{})
	var once sync.Once
	for _, name := range []string{sysHeap, sysVersion} {
		_, err = c.Subscribe(ctx, topic.Absolute(name), func(_ context.Context, d *client.Delivery) {
			if len(d.Message.Payload) > 200 {
				return
			}
			m.mu.Lock()
			m.sys[name] = string(d.Message.Payload)
			m.mu.Unlock()
			if name == sysVersion {
				once.Do(func() { close(named) })
			}
		})
	}
	if err != nil {
		return
	}
	timer := time.NewTimer(sysPatience)
	defer timer.Stop()
	select {
	case <-named:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// close ends what listen has begun.
func (m *meter) close() {
	if m.listener == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closePatience)
	defer cancel()
	_ = m.listener.Close(ctx) // it has sent nothing
}

func (m *meter) said(name string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sys[name]
}

// begin is called when the measurement begins.
func (m *meter) begin() {
	m.ownCPU, _, m.began = ownUsage()
	if m.broker != nil {
		t, err := m.broker.Times()
		if err != nil {
			m.broker = nil
			return
		}
		m.brokerCPU = t.User + t.System
	}
	m.sample()
}

// sample is called now and then.
func (m *meter) sample() {
	if m.broker == nil {
		return
	}
	if info, err := m.broker.MemoryInfo(); err == nil {
		m.brokerMost = max(m.brokerMost, info.RSS)
	}
}

// end returns what was used since begin.
func (m *meter) end() (own, broker Usage) {
	own.Source, broker.Source = "unknown", "unknown"
	if cpu, memory, ok := ownUsage(); ok && m.began {
		seconds := (cpu - m.ownCPU).Seconds()
		own = Usage{&seconds, &memory, "process"}
	}
	m.sample()
	if m.broker != nil {
		if t, err := m.broker.Times(); err == nil && m.brokerMost > 0 {
			seconds := max(t.User+t.System-m.brokerCPU, 0)
			return own, Usage{&seconds, &m.brokerMost, "process"}
		}
	}
	if heap, err := strconv.ParseUint(m.said(sysHeap), 10, 64); err == nil {
		broker = Usage{nil, &heap, "$SYS"}
	}
	return own, broker
}
