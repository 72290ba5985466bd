package fleet

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"
)

// benchView is a view with so many mowers and topics, as if it had been copied.
func benchView(mowers, topics int) *View {
	v := &View{
		o: ViewOptions{MaxMowers: defaultMaxMowers}, mowers: map[string]*Mower{}, feeds: map[*Feed]struct{}{}, buckets: map[string]*bucketState{},
		leftOut: map[string]struct{}{},
	}
	for m := range mowers {
		id := fmt.Sprintf("mower-%05d", m)
		v.putPresence(entry{key: id, body: []byte(`{"mower": "x", "version": "1.4.2", "interval": 10, "session": "abc", "commands": ["navigation/*"]}`), at: time.Now(), generation: 1})
		for i := range topics {
			v.putState(benchEntry(id, i))
		}
	}
	return v
}

// benchEntry is a message as mowers send them, of 330 bytes or so.
func benchEntry(id string, i int) entry {
	names := []string{topicBattery, topicStatus, topicPosition, topicStop, "system/health", "power/solar", "weather/current"}
	name := fmt.Sprintf("system/services/service_%d/status", i)
	if i < len(names) {
		name = names[i]
	}
	body := fmt.Sprintf(`{"metadata": {"timestamp": 1763884800.125, "message_id": "6f1f2c1e-8b7d-4a57-9f2e-%012d", "sender": "emergency_stop", "message_type": "sensor_data", "priority": 1,`+
		` "correlation_id": null, "expires_at": null, "retry_count": 0}, "payload": {"sensor_type": "x", "device_id": null, "data": {"level": %.2f, "x": %.2f, "y": 3.25, "latitude": 52.5,`+
		` "longitude": 13.4}, "context": {"engaged": false}, "units": {"level": "%%"}, "quality": 1.0, "status": "healthy"}}`, rand.IntN(1e6), rand.Float64()*100, rand.Float64())
	return entry{key: StateKey(id, name), body: []byte(body), at: time.Now(), generation: 1, live: true}
}

// BenchmarkViewMemory: what a view of ten thousand mowers with twelve topics takes, and each of them.
func BenchmarkViewMemory(b *testing.B) {
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		v := benchView(10_000, 12)
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "MB")
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/10_000, "B/mower")
		runtime.KeepAlive(v)
	}
}

// BenchmarkViewPut: taking in a message.
func BenchmarkViewPut(b *testing.B) {
	v := benchView(1000, 12)
	var entries []entry
	for i := range 12_000 {
		entries = append(entries, benchEntry(fmt.Sprintf("mower-%05d", i%1000), i/1000))
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		v.putState(entries[i%len(entries)])
		i++
	}
}

// BenchmarkSelect: a condition on ten thousand mowers, of fields and of a value in a message.
func BenchmarkSelect(b *testing.B) {
	v := benchView(10_000, 6)
	for _, text := range []string{"battery<20 and state~mow", "power/battery:level<20"} {
		w, err := ParseWhere(text)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(text, func(b *testing.B) {
			for b.Loop() {
				v.Select(w)
			}
		})
	}
}
