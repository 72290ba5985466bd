package uitest

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"

	"github.com/lawnberry/lawnberry/client"
)

// take takes control of the demo's mower by the page. People walk past it and stop it, so it may take more than one attempt.
func (b *browser) take() {
	b.t.Helper()
	b.until("control", `(() => {
		const take = document.querySelector("#take");
		if (take && !take.disabled && !document.querySelector("#engaged")) take.click();
		return document.querySelector("#joystick:not(.off)");
	})()`)
}

// driveUntil presses something that drives until a condition of the page holds, and lets go. When a drive ends before, it takes control again.
func (b *browser) driveUntil(what string, press, release func(), condition string) {
	b.t.Helper()
	for deadline := time.Now().Add(2 * patience); ; {
		b.take()
		press()
		b.until(what+", or the drive's end", "(%s) || document.querySelector('#take')", condition)
		yes := value[bool](b, "!!(%s)", condition)
		release()
		if yes {
			return
		}
		b.t.Logf("the drive ended: %s", value[string](b, "document.querySelector('#drive-said').innerText"))
		if time.Now().After(deadline) {
			b.t.Fatalf("never: %s", what)
		}
	}
}

// idle waits for the end of a drive, with what is said of it.
func (b *browser) idle(says string) {
	b.t.Helper()
	b.until("the drive's end", "document.querySelector('#take')")
	b.says("#drive-said", says)
}

type motors struct {
	Driver string  `json:"driver"`
	Linear float64 `json:"linear"`
}

// motorsOf asks the demo's hardware who drives, and how fast.
func motorsOf(t *testing.T, c *client.Client) (m motors) {
	t.Helper()
	var answer struct {
		Data json.RawMessage `json:"data"`
	}
	check(t, c.Call(testContext(t), "hardware_interface", "read_sensor", map[string]string{"sensor_id": "motors"}, &answer))
	check(t, json.Unmarshal(answer.Data, &m))
	return m
}

const moved = `Math.hypot(document.querySelector("#mower").dataset.x - window.from.x, document.querySelector("#mower").dataset.y - window.from.y) > 0.3`

func (b *browser) from() {
	b.t.Helper()
	b.until("the mower", "document.querySelector('#mower')")
	b.run("window.from = {...document.querySelector('#mower').dataset}")
}

// The page drives the demo's mower by joystick, keys and gamepad, as long as somebody holds on to it and can be expected to look.
func TestDrive(t *testing.T) {
	a := startDemo(t)
	c := publisher(t, a.URL())
	b := open(t, a.Bridge().URLs()[0])
	b.show("drive")

	// While navigation drives, nobody else may; the page says so.
	eventually(t, "refused, since navigation drives", func() bool {
		// On a busy machine it may stand for want of readings, and then the page gets what it asks for.
		_ = c.Call(testContext(t), "navigation", "start_mowing", nil, nil)
		time.Sleep(100 * time.Millisecond)
		return value[bool](b, `(() => {
			const take = document.querySelector("#take"), give = document.querySelector("#give");
			if (give && give.innerText === "Give back") give.click();
			if (take && !take.disabled) take.click();
			return document.querySelector("#drive-said").innerText.includes("navigation");
		})()`)
	})
	check(t, c.Call(testContext(t), "navigation", "pause", nil, nil))

	// The joystick, with a real mouse.
	var x, y float64
	mouse := func(kind input.MouseType, dx, dy float64) {
		b.do(chromedp.ActionFunc(func(ctx context.Context) error {
			return input.DispatchMouseEvent(kind, x+dx, y+dy).WithButton(input.Left).WithButtons(1).WithClickCount(1).Do(ctx)
		}))
	}
	release := func() { mouse(input.MouseReleased, 0, 0) }
	drag := func(by float64) { // a hedge is near: what drives forward is followed by what drives back
		b.run("document.querySelector('#joystick').scrollIntoView({block: 'center'})")
		x = value[float64](b, "(() => { const r = document.querySelector('#joystick').getBoundingClientRect(); return r.x + r.width / 2 })()")
		y = value[float64](b, "(() => { const r = document.querySelector('#joystick').getBoundingClientRect(); return r.y + r.height / 2 })()")
		mouse(input.MousePressed, 0, 0)
		mouse(input.MouseMoved, 0, by)
	}
	b.take()
	b.from()
	b.driveUntil("the mower moves", func() { drag(-130) }, release, moved+` && document.querySelector("#commanded").innerText.includes("0.30 m/s")`)
	b.says("#commanded", "0.00 m/s")
	eventually(t, "the mower stands", func() bool { return motorsOf(t, c).Linear == 0 })
	b.take()
	drag(0)
	mouse(input.MouseMoved, 130, 0) // on the spot
	b.says("#commanded", "turning right")
	b.says("#driver", "you")
	b.picture("drive")
	release()

	// The limit can be raised.
	b.fill("#limit", "0.6")
	b.driveUntil("faster", func() { drag(130) }, release, `document.querySelector("#commanded").innerText.includes("0.60 m/s")`)
	b.fill("#limit", "0.3")

	// Keys: held they drive, let go they do not, space gives back.
	key := func(kind input.KeyType, code string) {
		b.do(chromedp.ActionFunc(func(ctx context.Context) error {
			return input.DispatchKeyEvent(kind).WithCode(code).WithKey(code).Do(ctx)
		}))
	}
	b.from()
	b.driveUntil("the mower moves back", func() { key(input.KeyRawDown, "KeyS") }, func() { key(input.KeyUp, "KeyS") },
		moved+` && document.querySelector("#commanded").innerText.includes("backwards")`)
	b.says("#commanded", "0.00 m/s")
	b.take()
	key(input.KeyRawDown, "ArrowUp")
	key(input.KeyRawDown, "Space")
	b.idle("given back")
	eventually(t, "nobody drives", func() bool { return motorsOf(t, c).Driver == "" })
	key(input.KeyUp, "ArrowUp")

	// A gamepad: once it was seen at rest it drives, and the drive ends when it is gone.
	b.run(`window.pad = {index: 0, connected: true, id: "Test pad", axes: [0, 0], buttons: []}; navigator.getGamepads = () => { window.looks++; return [window.pad] }`)
	tilt := func() {
		b.run("window.pad.axes = [0, 0]; window.looks = 0")
		b.until("looks at it", "window.looks > 3")
		b.run("window.pad.axes = [0.05, -1]")
	}
	b.from()
	b.driveUntil("the gamepad drives", tilt, func() {}, moved)
	b.driveUntil("it drives on", tilt, func() { b.run("window.pad = null") }, `document.querySelector("#commanded").innerText.includes("forward")`)
	b.idle("gamepad is gone")

	// The blade wants to be held for a second.
	hold := func(selector string) {
		b.run("document.querySelector(%q)?.scrollIntoView({block: 'center'})", selector)
		x = value[float64](b, "(() => { const r = document.querySelector('#blade, #blade-off').getBoundingClientRect(); return r.x + r.width / 2 })()")
		y = value[float64](b, "(() => { const r = document.querySelector('#blade, #blade-off').getBoundingClientRect(); return r.y + r.height / 2 })()")
		mouse(input.MousePressed, 0, 0)
	}
	b.take()
	hold("#blade")
	release()
	if value[bool](b, "!!document.querySelector('#blade-off')") {
		t.Error("a click starts the blade")
	}
	const turns = `!!document.querySelector("#blade-off") && [...document.querySelectorAll("#page-drive dd")].some((e) => e.innerText.startsWith("turns"))`
	for tries, turning := 0, false; !turning; tries++ { // the button may slip away under the mouse when a line above it comes or goes
		b.take()
		hold("#blade")
		for late := time.Now().Add(5 * time.Second); !turning && time.Now().Before(late) && !value[bool](b, "!!document.querySelector('#take')"); {
			turning = value[bool](b, turns)
		}
		release()
		if tries == 10 {
			t.Fatal("the blade never turns")
		}
	}
	b.until("the button to stop it, or the drive's end", `(() => { document.querySelector("#blade-off")?.click(); return !document.querySelector("#blade-off") })()`)
	b.until("the blade stands", `[...document.querySelectorAll("#page-drive dd")].some((e) => e.innerText === "stands")`)

	// Whoever may no longer look at the page does not drive.
	for script, says := range map[string]string{
		"Object.defineProperty(document, 'hidden', {value: true, configurable: true}); document.dispatchEvent(new Event('visibilitychange')); delete document.hidden": "hidden",
		"dispatchEvent(new Event('blur'))":     "Another window",
		"dispatchEvent(new Event('pagehide'))": "page was left",
	} {
		b.take()
		b.run("%s", script)
		b.idle(says)
	}
	b.take()
	b.show("overview")
	b.show("drive")
	b.idle("page was left")
	eventually(t, "nobody drives", func() bool { return motorsOf(t, c).Driver == "" })
}

// There is one driver; the emergency stop ends every drive, wherever it is engaged; and so does closing the tab, within 1.5 s.
func TestDriveEnds(t *testing.T) {
	a := startDemo(t)
	c := publisher(t, a.URL())
	check(t, c.Call(testContext(t), "navigation", "pause", nil, nil))
	b, other := open(t, a.Bridge().URLs()[0]), open(t, a.Bridge().URLs()[0])
	b.show("drive")
	other.show("drive")

	for { // until nobody has walked past meanwhile, and the machine had time for the first page's drive
		b.take()
		other.click("#take")
		other.until("an answer", "document.querySelector('#joystick:not(.off)') || document.querySelector('#drive-said').innerText && !document.querySelector('#give')")
		if value[bool](other, "!!document.querySelector('#joystick:not(.off)')") {
			b.until("the end of the first page's drive", "document.querySelector('#take')") // else two drive
			t.Logf("the first page's drive had ended: %s", value[string](b, "document.querySelector('#drive-said').innerText"))
			other.until("given back", "(document.querySelector('#give')?.click(), document.querySelector('#take'))")
			continue
		}
		said := value[string](other, "document.querySelector('#drive-said').innerText")
		if strings.Contains(said, "another page") && value[bool](other, "document.querySelector('#drive-said').matches('.bad')") {
			break
		}
		t.Logf("the other page is told: %s", said)
	}

	b.take()
	other.click("#stop")
	b.idle("emergency stop")
	eventually(t, "nobody drives", func() bool { return motorsOf(t, c).Driver == "" })
	b.take()
	engaged := make(chan struct{}, 100) // as the bus hears it: on the page it may be over before a look, as the demo's operator releases it at once
	stops, err := c.Subscribe(testContext(t), "safety/emergency_stop", func(_ context.Context, d *client.Delivery) {
		var p struct {
			Context struct {
				Engaged bool   `json:"engaged"`
				Reason  string `json:"reason"`
			} `json:"context"`
		}
		if !d.Retained && json.Unmarshal(d.Message.Payload, &p) == nil && p.Context.Engaged && strings.HasPrefix(p.Context.Reason, "STOP, by") {
			engaged <- struct{}{}
		}
	})
	check(t, err)
	b.click("#stop")
	b.idle("STOP was pressed")
	select {
	case <-engaged:
	case <-testContext(t).Done():
		t.Fatal("STOP engages nothing")
	}
	check(t, stops.Unsubscribe(testContext(t)))

	// The driver as the hardware tells it, whenever that changes.
	type told struct {
		driver string
		at     time.Time
	}
	drivers := make(chan told, 1000)
	_, err = c.Subscribe(testContext(t), "sensors/motors/data", func(_ context.Context, d *client.Delivery) {
		var p struct {
			Data motors `json:"data"`
		}
		if json.Unmarshal(d.Message.Payload, &p) == nil {
			drivers <- told{p.Data.Driver, d.Received}
		}
	})
	check(t, err)
	b.take()
	b.do(chromedp.ActionFunc(func(ctx context.Context) error {
		return input.DispatchKeyEvent(input.KeyRawDown).WithCode("ArrowUp").WithKey("ArrowUp").Do(ctx)
	}))
	ctx := testContext(t)
	for driving := false; !driving; {
		select {
		case d := <-drivers:
			driving = strings.HasPrefix(d.driver, "web_bridge-")
		case <-ctx.Done():
			t.Fatal("the page does not drive")
		}
	}
	closed := time.Now()
	b.do(chromedp.ActionFunc(func(ctx context.Context) error {
		tab := chromedp.FromContext(ctx) // asked of the browser, as a page that closes may be gone before it answers
		return target.CloseTarget(tab.Target.TargetID).Do(cdp.WithExecutor(ctx, tab.Browser))
	}))
	for {
		select {
		case d := <-drivers:
			if d.driver != "" {
				continue
			}
			t.Logf("nobody drives %v after the tab was closed", d.at.Sub(closed))
			if d.at.Sub(closed) > 1500*time.Millisecond {
				t.Error("that is too late")
			}
			return
		case <-ctx.Done():
			t.Fatal("a page that is closed drives still")
		}
	}
}
