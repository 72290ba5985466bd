package web_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/bridge/web"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
)

// stall opens a WebSocket that is never read.
func (w *world) stall(t *testing.T) net.Conn {
	t.Helper()
	host := strings.TrimPrefix(w.url, "http://")
	nc, err := net.Dial("tcp", host)
	check(t, err)
	check(t, nc.(*net.TCPConn).SetReadBuffer(4096))
	_, err = fmt.Fprintf(nc, "GET /ws HTTP/1.1\r\nHost: %s\r\nOrigin: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", host, w.url)
	check(t, err)
	line, err := bufio.NewReaderSize(nc, 16).ReadString('\n')
	if err != nil || !strings.Contains(line, "101") {
		t.Fatalf("%q, %v", line, err)
	}
	return nc
}

// TestStalledPages has pages that read nothing beside one that does, while much is published: that one gets its messages as fast as ever, and the
// stalled ones cost little. In the long form there are 100 of them for 20 s, and the figures are judged.
//
// To trust it: let the feed wait for each queue, or give the queue no bound of bytes.
func TestStalledPages(t *testing.T) {
	long := os.Getenv("LAWNBERRY_CHAOS") == "long"
	pages, lasts := 20, 2*time.Second
	if long {
		pages, lasts = 100, 20*time.Second
	}
	w := newWorld(t, web.Options{MaxConnections: 200})
	c := w.client("fast")
	p := w.open(v1)
	p.send(map[string]any{"op": "subscribe", "id": 1, "filter": "#"})
	p.answer(1)
	var stalled []net.Conn
	for range pages {
		stalled = append(stalled, w.stall(t))
	}
	defer func() {
		for _, nc := range stalled {
			_ = nc.Close()
		}
	}()
	debug.FreeOSMemory()
	before := heap()

	var publishing sync.WaitGroup
	stop := make(chan struct{})
	sent := 0
	publishing.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond) // 200 a second, and 1 KB each
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-stop:
				return
			}
			data := map[string]any{"sent": time.Now().UnixMicro(), "text": strings.Repeat("x", 1000)}
			m, err := message.NewSensorData("fast", message.SensorData{SensorType: "x", Data: data, Quality: 1, Status: "healthy"})
			if err == nil {
				c.PublishAsync(fmt.Sprintf("sensors/s%d/data", sent%50), m, client.Unlimited())
				sent++
			}
		}
	})
	var delays []time.Duration
	for end := time.Now().Add(lasts); time.Now().Before(end); {
		m := p.next(func(m map[string]any) bool {
			name, _ := m["topic"].(string)
			return strings.HasPrefix(name, "lawnberry/sensors/s")
		})
		raw, err := json.Marshal(m["data"])
		check(t, err)
		var data struct {
			Payload struct {
				Data struct {
					Sent int64 `json:"sent"`
				} `json:"data"`
			} `json:"payload"`
		}
		check(t, json.Unmarshal(raw, &data))
		delays = append(delays, time.Since(time.UnixMicro(data.Payload.Data.Sent)))
	}
	grown := heap() - before
	close(stop)
	publishing.Wait()
	slices.Sort(delays)
	p50, p99, most := delays[len(delays)/2], delays[len(delays)*99/100], delays[len(delays)-1]
	s := w.bridge.Stats()
	t.Logf("%d stalled pages: %d messages sent, %d read, p50 %v p99 %v max %v; memory %+.1f MB, %d left out, %d wait", pages, sent, len(delays), p50, p99, most, float64(grown)/1e6, s.Dropped, s.Queued)
	if len(delays) < 10 || long && len(delays) < sent*9/10 {
		t.Errorf("the page that reads got %d of %d", len(delays), sent)
	}
	if long && (p99 > 100*time.Millisecond || grown > 30e6) {
		t.Errorf("p99 %v, want 100 ms at most; %+d bytes, want 30 MB at most", p99, grown)
	}
}

// TestStalledPageIsCutOff ends the connection of a page that takes nothing, and of no other.
func TestStalledPageIsCutOff(t *testing.T) {
	w := newWorld(t, web.Options{})
	web.SetStall(w.bridge, 300*time.Millisecond)
	c := w.client("fast")
	p := w.open(v1)
	p.send(map[string]any{"op": "ping", "id": 1})
	p.answer(1)
	nc := w.stall(t)
	defer nc.Close()
	eventually(t, "both are there", func() bool { return w.bridge.Stats().Connections == 2 })
	text := strings.Repeat("x", 5000)
	eventually(t, "one is cut off", func() bool {
		m, err := message.NewSensorData("fast", message.SensorData{SensorType: "x", Data: map[string]any{"text": text}, Quality: 1, Status: "healthy"})
		check(t, err)
		check(t, c.Publish(testContext(t), "sensors/x/data", m, client.Unlimited()))
		s := w.bridge.Stats()
		return s.Connections == 1 && s.Stalled == 1
	})
	p.send(map[string]any{"op": "ping", "id": 2})
	p.answer(2)
}

// heap is what this process uses in memory, in bytes.
func heap() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.Sys - m.HeapReleased)
}

// TestLeftOut tells a page what was left out for it, keeps the latest value of each topic, and all that is below safety/.
func TestLeftOut(t *testing.T) {
	w := newWorld(t, web.Options{})
	c := w.client("fast")
	p := w.open(v1)
	p.send(map[string]any{"op": "subscribe", "id": 1, "filter": "#"})
	p.answer(1)
	const n = 4000
	text := strings.Repeat("x", 2000)
	var last *client.Receipt
	for i := range n {
		data := map[string]any{"value": i, "text": text}
		m, err := message.NewSensorData("fast", message.SensorData{SensorType: "x", Data: data, Quality: 1, Status: "healthy"})
		check(t, err)
		last = c.PublishAsync(fmt.Sprintf("sensors/s%d/data", i%10), m, client.Unlimited())
		if i%40 == 0 {
			m, err := message.NewAlert("fast", message.Alert{AlertType: fmt.Sprint("a", i/40), Severity: "warning"})
			check(t, err)
			c.PublishAsync(fmt.Sprintf("safety/alerts/a%d", i/40), m, client.WithRetain(false))
		}
	}
	check(t, last.Wait(testContext(t)))
	eventually(t, "something is left out", func() bool { return w.bridge.Stats().Dropped > 0 })
	values, alerts, told := map[string]float64{}, 0, false
	for len(values) < 10 || alerts < n/40 || !told || slices.ContainsFunc(slices.Collect(func(yield func(float64) bool) {
		for _, v := range values {
			if !yield(v) {
				return
			}
		}
	}), func(v float64) bool { return v < n-10 }) {
		m := p.next(func(map[string]any) bool { return true })
		name, _ := m["topic"].(string)
		switch {
		case m["op"] == "dropped":
			told = m["dropped"].(float64) > 0
		case strings.HasPrefix(name, "lawnberry/safety/alerts/a"):
			alerts++
		case strings.HasPrefix(name, "lawnberry/sensors/s"):
			payload := m["data"].(map[string]any)["payload"].(map[string]any)["data"].(map[string]any)
			v := payload["value"].(float64)
			if v < values[name] {
				t.Fatalf("%s: %v after %v", name, v, values[name])
			}
			values[name] = v
		}
	}
	t.Logf("%d of %d left out, all %d alerts and the latest of 10 topics came", w.bridge.Stats().Dropped, n, alerts)
}
