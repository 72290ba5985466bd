package uitest

import (
	"context"
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/fleettest"
	"github.com/lawnberry/lawnberry/internal/fleetui"
	"github.com/lawnberry/lawnberry/internal/natstest"
)

// A fleetWorld is an engine with thousands of mowers, and the page that shows them.
type fleetWorld struct {
	t       testing.TB
	servers *natstest.Servers
	p       *fleettest.Publisher
	view    *fleet.View
	ui      *fleetui.UI

	mu      sync.Mutex // guards the fields below
	stopped []string
	fails   error // what a stop fails with
}

func newFleetWorld(t testing.TB, mowers int) *fleetWorld {
	t.Helper()
	w := &fleetWorld{t: t, servers: natstest.Start(t)}
	connect := func() jetstream.JetStream {
		nc, err := nats.Connect(w.servers.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
		check(t, err)
		t.Cleanup(nc.Close)
		js, err := jetstream.New(nc)
		check(t, err)
		return js
	}
	js := connect()
	check(t, fleettest.Setup(testContext(t), js, 1, time.Hour))
	w.p = fleettest.New(js)
	for i := range mowers {
		w.say(i)
	}
	check(t, w.p.Flush(testContext(t)))
	w.view = fleet.OpenView(connect(), fleet.ViewOptions{})
	t.Cleanup(w.view.Close)
	check(t, w.view.Wait(testContext(t)))
	var err error
	w.ui, err = fleetui.Start(fleetui.Options{View: w.view, Stop: w.stop})
	check(t, err)
	t.Cleanup(func() { _ = w.ui.Stop(context.Background()) })
	return w
}

func mowerID(i int) string { return fmt.Sprintf("mower-%04d", i) }

// say publishes what there is of a mower: every 200th has an alert, every 50th is offline, and they stand around in a spiral.
func (w *fleetWorld) say(i int) {
	id := mowerID(i)
	angle := float64(i) * 2.39996
	far := 3 * math.Sqrt(float64(i))
	x, y := far*math.Cos(angle), far*math.Sin(angle)
	w.p.State(id, "power/battery", fleettest.Sensor(map[string]any{"level": i % 100, "voltage": 22 + float64(i%50)/10}, map[string]string{"level": "%", "voltage": "V"}))
	w.p.State(id, "navigation/status", fleettest.Status([]string{"mowing", "docked", "charging", "idle"}[i%4]))
	w.p.State(id, "navigation/position", fleettest.Sensor(map[string]any{
		"x": x, "y": y, "heading": 0, "latitude": 52.5 + y*1e-4, "longitude": 13.4 + x*1e-4,
	}, nil))
	w.p.State(id, "safety/emergency_stop", fleettest.Stop(false, ""))
	if i%200 == 7 {
		w.p.State(id, "safety/alerts/tilt", fleettest.Alert("tilt", []string{"warning", "error"}[i/200%2], fmt.Sprint("it leans by ", i%40, " degrees")))
	}
	if i%50 != 0 {
		w.p.Presence(fleet.Presence{Mower: id, Version: "1.4.2", Interval: 600, Session: "s"})
	}
}

func (w *fleetWorld) stop(_ context.Context, mower, _ string) (fleet.Stopped, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = append(w.stopped, mower)
	if w.fails != nil {
		return fleet.Stopped{}, w.fails
	}
	w.p.State(mower, "safety/emergency_stop", fleettest.Stop(true, "from the fleet's page"))
	return fleet.Stopped{Engaged: true, Confirmed: true}, nil
}

func (w *fleetWorld) open() *browser {
	w.t.Helper()
	b := openPage(w.t, w.ui.Address(), w.ui.URL())
	b.until("the page", "document.querySelector('#rows')")
	return b
}

// firstRow is the id of the row at the top of the table.
const firstRow = "[...document.querySelectorAll('#rows [data-mower]')].sort((a, b) => a.ariaRowIndex - b.ariaRowIndex)[0]?.dataset.mower"

// The page shows three thousand mowers, with alerts first, sorted and filtered as asked, and what changes.
func TestFleetPage(t *testing.T) {
	const mowers = 3000
	w := newFleetWorld(t, mowers)
	b := w.open()
	b.until("all", "document.documentElement.dataset.rows === '%d'", mowers)
	b.until("all on the map", "document.querySelector('#map').dataset.shown >= %d", mowers*9/10)
	b.says("#count", "3000 mowers")
	b.says("#online", "2940 online")
	b.says("#alerting", "15 with alerts")
	b.says("#link", "Current")
	if n := value[int](b, "document.querySelectorAll('#rows [data-mower]').length"); n > 60 {
		t.Errorf("%d rows are there, of which few are seen", n)
	}
	// Those with errors are before those with warnings, and these before all others.
	if got := value[string](b, firstRow); got != mowerID(207) {
		t.Errorf("the first is %s", got)
	}
	if got := value[string](b, "document.querySelector('#alerts li').dataset.alert"); got != mowerID(207) {
		t.Errorf("the first alert is of %s", got)
	}
	b.picture("fleet")

	// Sorted otherwise, and scrolled to the end.
	b.click("[data-sort=b]")
	b.until("the least charged", firstRow+" === 'mower-0000'")
	b.click("[data-sort=b]")
	b.until("the most charged", firstRow+" === 'mower-0099'")
	b.click("[data-sort=id]")
	b.until("by id", firstRow+" === 'mower-0000'")
	b.run("const e = document.querySelector('#rows'); e.scrollTop = e.scrollHeight")
	b.until("the last", "document.querySelector('#rows [data-mower=mower-2999]')")
	b.run("document.querySelector('#rows').scrollTop = 0")
	b.click("[data-sort=worst]")

	// A condition, and one that is none.
	b.fill("#where", "battery<2 and state=mowing")
	b.says("#count", "30 of 3000 mowers")
	b.fill("#where", "power/battery:voltage>26.85V and not online")
	b.says("#count", "0 of 3000 mowers")
	b.fill("#where", "batery<2")
	b.says("#problem", `at character 1: "batery" is no field`)
	b.fill("#where", "")
	b.says("#count", "3000 mowers")
	b.until("no problem", "!document.querySelector('#problem')")

	// What changes.
	w.p.State(mowerID(1234), "safety/alerts/fire", fleettest.Alert("fire", "critical", "it burns"))
	b.until("it is first", firstRow+" === 'mower-1234'")
	b.says("#alerts li", "fire: it burns")
	w.p.State(mowerID(1234), "safety/alerts/fire", nil)
	b.until("it is over", firstRow+" === 'mower-0207'")
	w.p.Leave(mowerID(1))
	b.says("#online", "2939 online")
	w.p.State("newcomer", "navigation/status", fleettest.Status("unpacking"))
	b.says("#count", "3001 mowers")

	// The engine goes, and comes back.
	b.expectFailures()
	w.servers.Kill(0)
	b.until("grey", "document.querySelector('.lost')")
	b.says("#link", "Not current")
	w.servers.Restart(0)
	b.until("current", "!document.querySelector('.lost')")
	b.says("#count", "3001 mowers")

	// A phone, and the dark.
	b.size(360, 740)
	b.until("no horizontal scroll", "document.documentElement.scrollWidth <= 360")
	b.picture("fleet-phone")
	b.size(1280, 900)
	b.scheme("dark")
	b.click("[data-alert=mower-0207]")
	b.until("its topics", "document.querySelectorAll('#detail details').length >= 5")
	b.picture("fleet-dark")
}

// STOP reaches the mower that is shown, once for each press, and its failure cannot be overlooked.
func TestFleetStop(t *testing.T) {
	w := newFleetWorld(t, 300)
	b := w.open()
	b.until("all", "document.documentElement.dataset.rows === '300'")
	b.click("[data-alert=mower-0007]")
	b.until("the mower", "document.querySelector('#detail').dataset.of === 'mower-0007'")
	b.says("#detail", "it leans by 7 degrees")
	b.click("#stop")
	b.says("#fate", "Engaged, and confirmed")
	b.until("it shows engaged", "[...document.querySelectorAll('#detail dd')].some((e) => e.innerText === 'engaged')")
	b.says("#alerts li", "emergency_stop")

	b.expectFailures()
	w.mu.Lock()
	w.fails = &client.CommandError{Service: "emergency_stop", Command: "engage", Code: fleet.CodeOffline, Message: "mower-0009 is offline <b>& away</b>"}
	w.mu.Unlock()
	b.click("#rows [data-mower=mower-0009]")
	b.until("the other", "document.querySelector('#detail').dataset.of === 'mower-0009'")
	if value[bool](b, "!!document.querySelector('#fate')") {
		t.Error("what became of one mower's stop is shown for another")
	}
	b.click("#stop")
	b.says("#fate.loud", "NOT STOPPED, IT MAY STILL MOVE")
	b.says("#fate.loud", "mower-0009 is offline <b>& away</b>")
	b.picture("fleet-stop")
	// It cannot be overlooked either when another mower is looked at, until somebody says that they have seen it.
	b.click("#rows [data-mower=mower-0011]")
	b.says(".loud[data-fate=mower-0009]", "NOT STOPPED, IT MAY STILL MOVE")
	b.click("[data-fate] button:last-child")
	b.until("seen", "!document.querySelector('[data-fate]')")
	b.click("#rows [data-mower=mower-0009]")
	b.until("the other again", "document.querySelector('#detail').dataset.of === 'mower-0009'")
	w.mu.Lock()
	if got := fmt.Sprint(w.stopped); got != "[mower-0007 mower-0009]" {
		t.Errorf("stopped: %s", got)
	}
	w.fails = nil
	w.mu.Unlock()

	// Without its server nothing is stopped, and it says so.
	check(t, w.ui.Stop(testContext(t)))
	b.until("grey", "document.querySelector('.lost')")
	b.click("#stop")
	b.says("#fate.loud", "was not reached")
}

// Nothing that a mower says takes the page away or has it throw; what it says is text.
func TestFleetGarbage(t *testing.T) {
	w := newFleetWorld(t, 50)
	b := w.open()
	b.until("all", "document.documentElement.dataset.rows === '50'")
	b.click("[data-mower=mower-0007]")
	b.until("the mower", "document.querySelector('#detail')")
	topics := []string{"power/battery", "navigation/status", "navigation/position", "safety/alerts/odd", "safety/emergency_stop", "weather/alerts", "sensors/odd/data"}
	n := 0
	bodies := append([]string{`{"payload": {"status": "<img src=x onerror=alert(1)>", "severity": "critical", "message": "</script><b>x", "data": {"level": -5, "x": 1e11, "y": -1e11}}}`}, readings...)
	bodies = append(bodies, garbage...)
	for i, body := range bodies {
		for _, topic := range topics {
			w.p.State(mowerID(7+i%3), topic, []byte(body))
			n++
		}
		w.p.Raw("$KV."+fleet.BucketPresence+"."+mowerID(7), []byte(body), nil)
		if i%5 == 0 {
			check(t, w.p.Flush(testContext(t)))
			b.run("return new Promise((done) => requestAnimationFrame(done))")
		}
	}
	w.p.State(mowerID(7), "navigation/status", fleettest.Status("sane again"))
	check(t, w.p.Flush(testContext(t)))
	b.says("#detail dd", "sane again")
	t.Logf("%d odd messages", n)
	if value[bool](b, "[...document.querySelectorAll('[role=alert]')].some((e) => e.innerText.includes('cannot be shown')) || !!document.querySelector('#app img')") {
		t.Error("a part of the page is gone, or a text was taken for more")
	}
	b.click("#stop")
	b.says("#fate", "Engaged, and confirmed")
}

// In both themes everything on the page is seen well enough.
func TestFleetContrast(t *testing.T) {
	w := newFleetWorld(t, 300)
	b := w.open()
	b.expectFailures()
	b.until("all", "document.documentElement.dataset.rows === '300'")
	w.fails = &client.CommandError{Code: fleet.CodeOffline, Message: "it is not there"}
	b.click("[data-alert=mower-0007]")
	b.click("#stop")
	b.says("#fate.loud", "NOT STOPPED")
	b.fill("#where", "nonsense<")
	b.says("#problem", "is no field")
	look := func(what string) {
		t.Helper()
		r := value[struct {
			Found        []string
			Texts, Edges int
		}](b, "%s", contrasts)
		if r.Texts < 50 || r.Edges < 5 {
			t.Errorf("%s: only %d texts and %d edges were looked at", what, r.Texts, r.Edges)
		}
		for _, f := range r.Found {
			t.Errorf("%s: %s", what, f)
		}
	}
	look("light")
	b.scheme("dark")
	b.until("dark", "getComputedStyle(document.body).colorScheme === 'dark'")
	look("dark")
	b.click("#theme")
	b.until("light", "getComputedStyle(document.body).colorScheme === 'light'")
	look("light by the button")
}
