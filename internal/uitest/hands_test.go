package uitest

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/faultnet"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

// A machine is a service with a guard and a seat that notes the set points of who drives. Nobody walks past it.
type machine struct {
	seat *safety.Seat

	mu   sync.Mutex // guards took
	took []velocity
}

type velocity struct {
	Linear  float64 `json:"linear"`
	Angular float64 `json:"angular"`
	Blade   bool    `json:"blade"`
	Token   string  `json:"token"`
}

// machine starts one, whose emergency stop is released.
func (w *world) machine() *machine {
	w.t.Helper()
	m := &machine{}
	var guard *safety.Guard
	var latch *safety.Latch
	ctx, end := context.WithCancel(context.Background())
	var work sync.WaitGroup
	svc, err := service.Start(testContext(w.t), service.Options{
		ID: "motors", Type: "hardware", Safety: true, Client: client.Options{URL: w.broker.URL()},
		Setup: func(ctx context.Context, s *service.Service) (err error) {
			if latch, err = safety.OpenLatch(ctx, s.Client(), safety.LatchOptions{}); err != nil {
				return err
			}
			if guard, err = safety.NewGuard(ctx, s, latch, safety.GuardOptions{Safety: []string{}}); err != nil {
				return err
			}
			m.seat = safety.NewSeat(guard, safety.SeatOptions{})
			_, err = s.Subscribe(ctx, "navigation/velocity", m.take)
			return err
		},
	})
	check(w.t, err)
	work.Go(func() {
		_ = guard.Run(ctx, 10*time.Millisecond, func(context.Context) error { return nil }, func(string) error { return nil })
	})
	stopAtEnd(w.t, func(ctx context.Context) error {
		end()
		work.Wait()
		guard.Close()
		_ = latch.Close(ctx)
		return svc.Stop(ctx)
	})
	eventually(w.t, "released", func() bool {
		if s, err := latch.Confirm(testContext(w.t)); err == nil && s.Engaged {
			_ = latch.Release(testContext(w.t), s.Sequence) // refused as long as something stands against it
		}
		return latch.Released()
	})
	return m
}

func (m *machine) take(_ context.Context, d *client.Delivery) {
	v, err := message.SensorOf[velocity](d.Message)
	if err != nil || m.seat.Admit(d.Message.Metadata.Sender, v.Token) != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.took = append(m.took, v)
}

// since returns the set points after the first n.
func (m *machine) since(n int) []velocity {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.took[n:])
}

// awaits waits for n set points more, all of which have to be as they should be once one was.
func (m *machine) awaits(t *testing.T, what string, n int, ok func(velocity) bool) {
	t.Helper()
	from := len(m.since(0))
	eventually(t, what, func() bool { return slices.ContainsFunc(m.since(from), ok) })
	from += slices.IndexFunc(m.since(from), ok)
	eventually(t, what+", for a while", func() bool { return len(m.since(from)) > n })
	if i := slices.IndexFunc(m.since(from), func(v velocity) bool { return !ok(v) }); i >= 0 {
		t.Errorf("%s: not any more: %+v", what, m.since(from)[i])
	}
}

func stands(v velocity) bool { return v.Linear == 0 && v.Angular == 0 }
func drives(v velocity) bool { return v.Linear > 0 }

func (b *browser) key(kind input.KeyType, code string, modifiers input.Modifier, repeat bool) {
	b.t.Helper()
	b.do(chromedp.ActionFunc(func(ctx context.Context) error {
		return input.DispatchKeyEvent(kind).WithCode(code).WithKey(strings.TrimSuffix(code, "Left")).WithModifiers(modifiers).WithAutoRepeat(repeat).Do(ctx)
	}))
}

// ready takes control, and waits until the page listens to keys.
func (b *browser) ready() {
	b.t.Helper()
	b.run("document.activeElement.blur()") // it keeps the focus that it had in another drive
	b.take()
	b.until("the joystick has the focus", "document.activeElement.id === 'joystick'")
}

// What nobody holds on to any more, or never meant, does not move the machine.
func TestHands(t *testing.T) {
	w := newWorld(t)
	m := w.machine()
	b := open(t, w.url())
	b.run(`window.looks = 0; window.pad = null; navigator.getGamepads = () => { window.looks++; return [window.pad] }`)
	b.show("drive")
	looked := func() { b.run("window.looks = 0"); b.until("looks at the gamepad", "window.looks > 3") }

	// A gamepad that lies on its stick has to be at rest first, in each drive.
	b.run(`window.pad = {index: 0, connected: true, id: "Test pad", axes: [0, -1], buttons: []}`)
	for range 2 {
		b.take()
		from := len(m.since(0))
		looked()
		m.awaits(t, "a gamepad that is held from the start does not drive", 3, stands)
		if i := slices.IndexFunc(m.since(from), drives); i >= 0 {
			t.Errorf("it drove: %+v", m.since(from)[i])
		}
		b.run("window.pad.axes = [0, 0]")
		looked()
		b.run("window.pad.axes = [0, -1]")
		m.awaits(t, "the gamepad drives", 1, drives)
		b.click("#give")
		b.idle("given back")
	}
	b.run("window.pad = null")

	// Keys that are let go where the page does not hear it: with a key of the system held, or in a menu.
	b.ready()
	for what, away := range map[string]func(){
		"a key of the system": func() {
			b.key(input.KeyRawDown, "MetaLeft", input.ModifierMeta, false)
			b.key(input.KeyUp, "MetaLeft", 0, false)
		},
		"a menu": func() {
			b.do(chromedp.ActionFunc(func(ctx context.Context) error {
				if err := input.DispatchMouseEvent(input.MousePressed, 10, 300).WithButton(input.Right).WithClickCount(1).Do(ctx); err != nil {
					return err
				}
				return input.DispatchMouseEvent(input.MouseReleased, 10, 300).WithButton(input.Right).WithClickCount(1).Do(ctx)
			}))
		},
	} {
		b.key(input.KeyRawDown, "KeyW", 0, false)
		m.awaits(t, "the key drives", 1, drives)
		away()
		m.awaits(t, what+" ends that", 3, stands)
		b.key(input.KeyUp, "KeyW", 0, false)
	}

	// A lower limit holds for what is held already, and a higher one does not.
	b.fill("#limit", "0.5")
	b.key(input.KeyRawDown, "KeyW", 0, false)
	m.awaits(t, "the key drives fast", 1, func(v velocity) bool { return v.Linear == 0.5 })
	b.fill("#limit", "0.2")
	m.awaits(t, "slower", 3, func(v velocity) bool { return v.Linear == 0.2 })
	b.fill("#limit", "0.6")
	m.awaits(t, "still slower", 3, func(v velocity) bool { return v.Linear == 0.2 })
	b.key(input.KeyUp, "KeyW", 0, false)
	m.awaits(t, "the key is let go", 1, stands)

	// Enter held down starts the blade, once.
	b.run("document.querySelector('#blade').focus()")
	b.key(input.KeyRawDown, "Enter", 0, false)
	b.until("the blade", "document.querySelector('#blade-off')")
	for range 3 {
		b.do(chromedp.ActionFunc(func(ctx context.Context) error {
			return input.DispatchKeyEvent(input.KeyDown).WithCode("Enter").WithKey("Enter").WithText("\r").WithWindowsVirtualKeyCode(13).WithAutoRepeat(true).Do(ctx)
		}))
	}
	m.awaits(t, "the blade turns", 3, func(v velocity) bool { return v.Blade })
	b.key(input.KeyUp, "Enter", 0, false)
	b.run("document.querySelector('#blade-off').focus()")
	b.do(chromedp.KeyEvent("\r"))
	m.awaits(t, "the blade stands", 3, func(v velocity) bool { return !v.Blade })

	// Held by a mouse it starts, and that the mouse is let go then does not stop it; the next press does.
	at := func(selector string) (x, y float64) {
		b.run("document.querySelector(%q).scrollIntoView({block: 'center'})", selector)
		r := value[[]float64](b, "(() => { const r = document.querySelector(%q).getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2] })()", selector)
		return r[0], r[1]
	}
	mouse := func(kind input.MouseType, x, y float64) {
		b.do(chromedp.ActionFunc(func(ctx context.Context) error {
			return input.DispatchMouseEvent(kind, x, y).WithButton(input.Left).WithButtons(1).WithClickCount(1).Do(ctx)
		}))
	}
	x, y := 0.0, 0.0
	for tries, on := 0, false; !on; tries++ { // the button may slip away under the mouse when a line above it comes or goes
		x, y = at("#blade")
		mouse(input.MousePressed, x, y)
		for late := time.Now().Add(5 * time.Second); !on && time.Now().Before(late); {
			on = value[bool](b, "!!document.querySelector('#blade-off')")
		}
		mouse(input.MouseReleased, x, y)
		if tries == 10 {
			t.Fatal("the blade never turns")
		}
	}
	m.awaits(t, "the blade turns on", 3, func(v velocity) bool { return v.Blade })
	x, y = at("#blade-off")
	mouse(input.MousePressed, x, y)
	mouse(input.MouseReleased, x, y)
	m.awaits(t, "the blade is stopped by the mouse", 3, func(v velocity) bool { return !v.Blade })

	// Who gives control back with one click too many does not take it again.
	for tries := 0; ; tries++ {
		b.take()
		took := value[float64](b, `(async () => {
			document.querySelector("#give").click();
			const began = performance.now();
			while (!document.querySelector("#take") || performance.now() - began < 200) await new Promise((done) => setTimeout(done, 10));
			document.querySelector("#take").click();
			return performance.now() - began;
		})()`)
		if took < 400 {
			break
		}
		if tries == 20 {
			t.Fatalf("the second click comes %v ms after the first", took)
		}
	}
	eventually(t, "nobody drives", func() bool { return m.seat.Driver() == "" })
	if !value[bool](b, `(async () => { await new Promise((done) => setTimeout(done, 100)); return !document.querySelector("#give") })()`) {
		t.Error("a second click takes control again")
	}
}

// A page that hears nothing of the mower does not drive it, whatever else keeps the page from noticing.
func TestDeaf(t *testing.T) {
	for name, trouble := range map[string]string{
		"its clock is set back": "const now = Date.now; Date.now = () => now() - 3600e3",
		"it is busy":            "setInterval(() => { const end = performance.now() + 650; while (performance.now() < end); }, 660)",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			m := w.machine()
			proxy, err := faultnet.Start(strings.TrimPrefix(w.url(), "http://"))
			check(t, err)
			t.Cleanup(proxy.Close)
			b := open(t, "http://"+proxy.Addr())
			b.expectFailures()
			b.show("drive")
			b.ready()
			b.key(input.KeyRawDown, "KeyW", 0, false)
			m.awaits(t, "it drives", 1, drives)
			proxy.Set(faultnet.Down, faultnet.Faults{Lose: true})
			began := time.Now()
			b.run("%s", trouble)
			eventually(t, "nobody drives", func() bool { return m.seat.Driver() == "" })
			t.Logf("nobody drives %v after the page has last heard of it", time.Since(began).Round(time.Millisecond))
		})
	}
}
