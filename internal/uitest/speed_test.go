package uitest

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
)

// frames counts what the browser draws for some seconds.
const frames = `new Promise((done) => {
	const at = [], long = [];
	const o = new PerformanceObserver((l) => long.push(...l.getEntries().map((e) => e.duration)));
	o.observe({type: "longtask"});
	const end = performance.now() + 5000;
	const frame = (now) => {
		at.push(now);
		if (now < end) { requestAnimationFrame(frame); return; }
		o.disconnect();
		const gaps = at.slice(1).map((t, i) => t - at[i]).sort((a, b) => a - b);
		done({frames: at.length - 1, seconds: (at.at(-1) - at[0]) / 1000, longest: gaps.at(-1), p95: gaps[Math.floor(gaps.length * 0.95)],
			long: long.length, longTime: long.reduce((a, b) => a + b, 0)});
	};
	requestAnimationFrame(frame);
})`

// With 200 messages a second on 40 topics, all that pages draw among them, every message is counted, and the page stays responsive. How
// many frames a second it draws is printed: that depends on the machine, and this browser draws without a GPU.
func TestSpeed(t *testing.T) {
	w := newWorld(t)
	c := publisher(t, w.broker.URL())
	b := open(t, w.url())
	b.show("messages")
	b.until("connected", "document.querySelector('#link.good')")

	// What the bridge has had, and what the page has.
	behind := func() float64 {
		return float64(w.bridge.Stats().Messages) - value[float64](b, "+document.querySelector('#received').dataset.received")
	}
	const rate, topics = 200, 40
	measure := func(page string) {
		b.show("messages")
		var before float64
		settled := func() bool { // nothing is on its way
			d := behind()
			same := d == before
			before = d
			return same
		}
		eventually(t, "nothing on its way", settled)
		b.show(page)
		stop, stopped := make(chan struct{}), make(chan int)
		go func() {
			tick := time.NewTicker(time.Second / rate)
			defer tick.Stop()
			for n := 0; ; n++ {
				select {
				case <-tick.C:
				case <-stop:
					stopped <- n
					return
				}
				name, data := reading(n, topics)
				m, err := message.NewSensorData("test", message.SensorData{SensorType: "test", Data: data, Units: map[string]string{"level": "%"}, Quality: 1, Status: "healthy"})
				if err == nil {
					err = c.Publish(testContext(t), name, m, client.WithRetain(false))
				}
				if err != nil {
					t.Error(err)
				}
			}
		}()
		began := time.Now()
		r := value[struct {
			Frames, Long                    int
			Seconds, Longest, P95, LongTime float64
		}](b, "%s", frames)
		close(stop)
		n := <-stopped
		t.Logf("%s: %.0f messages/s; %.1f frames/s, p95 %.0f ms from one to the next, %.0f ms at most; %d long tasks, %.1f %% of the time",
			page, float64(n)/time.Since(began).Seconds(), float64(r.Frames)/r.Seconds, r.P95, r.Longest, r.Long, r.LongTime/r.Seconds/10)
		b.show("messages")
		if dropped := value[int](b, "+document.querySelector('#received').dataset.dropped"); dropped > 0 {
			t.Errorf("%s: %d messages were left out", page, dropped)
		}
		eventually(t, "all messages are counted", func() bool { return behind() == before })
		if n < 5*rate/4 {
			t.Errorf("%s: only %d messages in 5 s, which shows nothing", page, n)
		}
		if float64(r.Frames)/r.Seconds < 20 {
			t.Errorf("%s: %.1f frames/s", page, float64(r.Frames)/r.Seconds)
		}
	}
	b.show("overview")
	idle := value[struct{ Frames, Seconds float64 }](b, "%s", frames)
	t.Logf("idle: %.1f frames/s", idle.Frames/idle.Seconds)
	measure("overview")
	measure("messages")
}

// reading is the n-th message of the load.
func reading(n, topics int) (name string, data map[string]any) {
	turn := float64(n) / 200
	switch n % topics {
	case 0:
		return "navigation/position", map[string]any{"x": 10 + 5*math.Cos(turn), "y": 7 + 5*math.Sin(turn), "heading": math.Mod(turn*57, 360), "speed": 0.5, "accuracy": 0.01}
	case 1:
		return "power/battery", map[string]any{"level": 50 + 40*math.Sin(turn), "voltage": 27.5, "power": -80 * math.Cos(turn), "temperature": 20.5, "charging": false}
	case 2:
		return "sensors/motors/data", map[string]any{"linear": 0.5, "angular": turn, "blade": 1.0, "driver": "navigation", "permit": true}
	case 3:
		return "sensors/ultrasonic/data", map[string]any{"front_left": turn, "front_center": 4.5, "front_right": 4.5}
	case 4:
		return "weather/current", map[string]any{"temperature": 21 + turn, "humidity": 50.0}
	case 5:
		return "power/solar", map[string]any{"power": turn, "voltage": 18.0, "current": 0.5}
	case 6:
		return "power/consumption", map[string]any{"total": 80 + turn, "blade": 40.0, "drive": 40.0}
	case 7:
		return "vision/detections", map[string]any{"frame": n, "count": 0}
	}
	return fmt.Sprintf("sensors/load%d/data", n%topics), map[string]any{"value": turn, "n": n, "text": "as long as readings usually are"}
}
