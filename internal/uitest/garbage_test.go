package uitest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
)

// shown are the topics that pages show, with a reading as it should be.
var shown = map[string]string{
	"navigation/position":            `{"x": 3.5, "y": 2.25, "heading": 90, "speed": 0.5, "accuracy": 0.01}`,
	"navigation/path":                `{"points": [{"x": 1, "y": 1}, {"x": 5, "y": 1}], "boundary": [{"x": 0, "y": 0}, {"x": 9, "y": 0}, {"x": 9, "y": 6}], "dock": {"x": 0, "y": 0}}`,
	"navigation/status":              `{"activity": "mowing", "progress": 12.5, "interrupted": ""}`,
	"power/battery":                  `{"level": 73, "voltage": 27.1, "power": -40, "charging": false}`,
	"power/solar":                    `{"power": 12}`,
	"power/consumption":              `{"total": 80}`,
	"weather/current":                `{"temperature": 21}`,
	"vision/detections":              `{"frame": 7, "count": 0}`,
	"sensors/ultrasonic/data":        `{"front_left": 4.5}`,
	"sensors/motors/data":            `{"linear": 0.5, "blade": 1, "permit": true, "driver": "navigation"}`,
	"safety/alerts/test":             `{}`,
	"safety/emergency_stop":          `{}`,
	"system/services/odd/status":     `{}`,
	"system/services/mover/commands": `{}`,
	"system/logs/info":               `{}`,
	"system/events/test":             `{}`,
}

// garbage is what anybody may publish, with %s for a reading that is none.
var garbage = []string{
	``, `nonsense`, "\xff\xfe\x00", `null`, `5`, `"text"`, `[]`, `[[[]]]`, `{}`, `{"payload": null}`, `{"payload": 7}`, `{"payload": {"data": null, "units": 5}}`,
	`{"metadata": 1, "payload": {"data": [], "details": "x", "units": [], "severity": {}, "message": []}}`,
	envelope(`{"data": %s, "sensor_type": "x", "units": {"level": {}, "x": []}}`),
	envelope(`{"data": %s, "sensor_type": 5, "units": null, "severity": 9, "message": {}}`),
	envelope(`{"details": %s, "status": {}, "commands": [1, null, {"name": []}]}`),
	envelope(`{"alert_type": {}, "severity": "critical", "message": ["x"], "data": {}}`),
	envelope(`{"alert_type": "test", "severity": "odd", "message": null}`),
	`{"__proto__": {"payload": 1}, "constructor": null, "toString": 1, "payload": {"data": {"toString": 1, "__proto__": 1, "level": {}}}}`,
}

// readings have what a page reads, of the wrong kinds.
var readings = []string{
	`{"level": "full", "voltage": null, "power": {}, "charging": "yes", "x": "1", "y": [], "heading": {}, "points": {}, "boundary": [1, "a", null, {"x": "1"}, {"y": 2}],` +
		` "dock": 5, "activity": 5, "progress": "half", "interrupted": {}, "linear": "fast", "blade": "on", "permit": 1, "driver": {}, "cause": [], "front_left": null, "count": {}}`,
	`{"level": 1e308, "x": 1e300, "y": -1e300, "heading": 1e300, "points": [{"x": 1e99, "y": 0}], "boundary": [], "dock": {"x": 1e99, "y": 1}, "activity": "", "progress": -5, "blade": -1e9}`,
	`5`, `[]`, `"text"`, `null`, `true`,
}

func envelope(payload string) string {
	return `{"metadata": {"timestamp": 1e9, "message_id": "x", "sender": "odd", "message_type": "sensor_data", "priority": 1}, "payload": ` + payload + `}`
}

// No nonsense on any topic takes the page away, or has it throw: STOP stays, every page is shown, and what comes right afterwards is shown right.
func TestGarbage(t *testing.T) {
	w := newWorld(t)
	c := publisher(t, w.broker.URL())
	b := open(t, w.url())
	b.expectFailures() // the odd services that are looked for
	b.until("connected", "document.querySelector('#link.good')")
	var all []string
	for _, g := range garbage {
		if !strings.Contains(g, "%s") {
			all = append(all, g)
			continue
		}
		for _, r := range readings {
			all = append(all, fmt.Sprintf(g, r))
		}
	}
	published := 0
	spread := func(text string) {
		t.Helper()
		for name := range shown {
			check(t, c.Publish(testContext(t), name, message.NewRaw([]byte(text)), client.WithRetain(false)))
			published++
		}
	}
	for i, page := range pages {
		b.show(page)
		if page == "services" {
			b.click("[data-choose=mover]")
		}
		if page == "topics" {
			b.until("the topic", "(() => { const x = [...document.querySelectorAll('.tree button')].find((e) => e.innerText === 'navigation/position'); x?.click(); return x })()")
		}
		for j, text := range all {
			if i < 2 || j%3 == i%3 { // all of it on the pages that read it, some on the others
				spread(text)
				b.run("return new Promise((done) => requestAnimationFrame(done))")
			}
		}
		b.until("all of it has been drawn", "document.querySelector('#page-%s h1')", page)
		if s := value[string](b, "[...document.querySelectorAll('[role=alert]')].map((e) => e.innerText).filter((s) => s.includes('cannot be shown')).join()"); s != "" {
			t.Errorf("%s: %s", page, s)
		}
		if !value[bool](b, "document.querySelector('#stop') && !document.querySelector('#stop').disabled") {
			t.Fatalf("%s: STOP is gone", page)
		}
	}
	t.Logf("%d kinds of nonsense, %d messages", len(all), published)

	b.show("overview")
	for name, reading := range shown {
		check(t, c.Publish(testContext(t), name, message.NewRaw([]byte(fmt.Sprintf(envelope(`{"data": %s, "units": {"level": "%%"}}`), reading)))))
	}
	b.says("header", "73 %")
	b.says("#activity", "Mowing")
	b.until("the mower", "document.querySelector('#mower').dataset.x === '3.5'")
	b.until("the lawn", "document.querySelector('#lawn').points.numberOfItems === 3")
	b.says("#sensors-motors-data-driver", "navigation")

	// STOP still works.
	before := w.hub.Status().Sequence
	b.click("#stop")
	eventually(t, "engaged again", func() bool { return w.hub.Status().Sequence > before })
}

// What throws within a page stays there: the header goes on, and STOP works.
func TestBoundary(t *testing.T) {
	w := newWorld(t)
	b := open(t, w.url())
	b.until("connected", "document.querySelector('#link.good')")
	b.run("Number.prototype.toFixed = () => { throw new Error('broken on purpose') }")
	w.sensor("navigation/position", map[string]any{"x": 1.5, "y": 2.5})
	b.says("#page-overview [role=alert]", "broken on purpose")
	w.sensor("power/battery", map[string]any{"level": 40})
	b.says("header [role=alert]", "broken on purpose")
	b.says("#link", "Connected")
	before := w.hub.Status().Sequence
	b.click("#stop")
	eventually(t, "engaged again", func() bool { return w.hub.Status().Sequence > before })
	b.show("logs")
}

// A value is marked when it is older than its topic allows, which the bridge says, and not any more when the next one comes.
func TestStale(t *testing.T) {
	w := newBareWorld(t)
	c := publisher(t, w.broker.URL())
	send := func(age time.Duration) {
		t.Helper()
		for _, name := range []string{"navigation/position", "power/battery"} {
			m, err := message.NewSensorData("test", message.SensorData{SensorType: "test", Data: map[string]any{"x": 1, "y": 2, "level": 50}, Quality: 1, Status: "healthy"})
			check(t, err)
			m.Metadata.Timestamp = message.Seconds(time.Now().Add(-age))
			check(t, c.Publish(testContext(t), name, m, client.WithRetain(true)))
		}
	}
	send(12 * time.Second) // a position is stale after 10 s, the battery's state after 15
	w.startBridge()
	b := open(t, w.url())
	b.until("the position stale", "document.querySelector('[aria-label=Position].stale')")
	b.until("the battery stale", "document.querySelector('[aria-label=Battery].stale')")
	send(0)
	b.until("fresh", "!document.querySelector('.stale')")
	b.says("[aria-label=Position] small", "now")
}
