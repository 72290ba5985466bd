package web_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/lawnberry/lawnberry/bridge/web"
	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/brokertest"
	"github.com/lawnberry/lawnberry/internal/faultnet"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

const deadMan = 500 * time.Millisecond // of the machine's motors

// A machine is a service with a guard, a seat and motors, which go by set points.
type machine struct {
	guard *safety.Guard
	seat  *safety.Seat
	latch *safety.Latch

	mu      sync.Mutex // guards the fields below
	took    []velocity // admitted, in their order
	at      time.Time  // of the last
	refused int
	old     int // set points that came older than the dead man allows
	speed   float64
	blade   bool
}

type velocity struct {
	Linear  float64 `json:"linear"`
	Angular float64 `json:"angular"`
	Blade   bool    `json:"blade"`
	Token   string  `json:"token"`
}

// machine starts one called motors, whose emergency stop is released.
func (w *world) machine() *machine {
	w.t.Helper()
	m := &machine{}
	ctx, end := context.WithCancel(context.Background())
	var work sync.WaitGroup
	svc, err := service.Start(testContext(w.t), service.Options{
		ID: "motors", Type: "drive", Safety: true, HeartbeatTimeout: time.Second, Heartbeat: 200 * time.Millisecond,
		Client: client.Options{URL: w.broker.URL()},
		Setup: func(ctx context.Context, s *service.Service) (err error) {
			if m.latch, err = safety.OpenLatch(ctx, s.Client(), safety.LatchOptions{}); err != nil {
				return err
			}
			if m.guard, err = safety.NewGuard(ctx, s, m.latch, safety.GuardOptions{Safety: []string{}}); err != nil {
				return err
			}
			m.seat = safety.NewSeat(m.guard, safety.SeatOptions{})
			_, err = s.Subscribe(ctx, "navigation/velocity", m.take)
			return err
		},
	})
	check(w.t, err)
	work.Go(func() { _ = m.guard.Run(ctx, 10*time.Millisecond, m.drive, m.stop) })
	w.t.Cleanup(func() {
		end()
		work.Wait()
		m.guard.Close()
		bye, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = m.latch.Close(bye)
		_ = svc.Stop(bye)
	})
	w.release(m)
	return m
}

func (w *world) release(m *machine) {
	w.t.Helper()
	ctx := testContext(w.t)
	eventually(w.t, "released", func() bool {
		if s, err := m.latch.Confirm(ctx); err == nil && s.Engaged {
			_ = m.latch.Release(ctx, s.Sequence) // refused as long as something stands against it
		}
		return m.latch.Released()
	})
}

func (m *machine) take(_ context.Context, d *client.Delivery) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, err := message.SensorOf[velocity](d.Message)
	switch {
	case err != nil || d.Retained:
	case time.Since(d.Message.Metadata.Time()) > deadMan:
		m.old++
	case m.seat.Admit(d.Message.Metadata.Sender, v.Token) != nil:
		m.refused++
	default:
		m.took, m.at = append(m.took, v), d.Received
	}
}

func (m *machine) drive(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.speed, m.blade = 0, false
	if time.Since(m.at) < deadMan {
		last := m.took[len(m.took)-1]
		m.speed, m.blade = last.Linear, last.Blade
	}
	return nil
}

func (m *machine) stop(string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.speed, m.blade, m.at = 0, false, time.Time{}
	return nil
}

func (m *machine) now() (speed float64, blade bool, took []velocity) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.speed, m.blade, slices.Clone(m.took)
}

func (m *machine) moves() bool { v, _, _ := m.now(); return v != 0 }

// awaitStop waits until the machine stands and nobody drives, and returns how long that took since a time.
func (m *machine) awaitStop(t testing.TB, since time.Time) time.Duration {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); m.moves(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not stop")
		}
	}
	stood := time.Since(since)
	eventually(t, "nobody drives", func() bool { return m.seat.Driver() == "" && !m.guard.Permit() })
	if m.moves() {
		t.Fatal("it moves with nobody driving it")
	}
	return stood
}

var pageStart = time.Now().Add(-time.Hour) // of the pages' clocks

// drive takes control of the machine and returns the answer.
func (p *page) drive(id any) map[string]any {
	p.t.Helper()
	p.send(map[string]any{"op": "drive", "id": id, "service": "motors"})
	return p.answer(id)
}

// wheel holds the stick: it sends a set point every 100 ms until the returned function is called.
func (p *page) wheel(linear float64) (release func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() {
		for ctx.Err() == nil {
			text := fmt.Sprintf(`{"op":"setpoint","linear":%g,"angular":-0.2,"blade":true,"time":%g}`, linear, time.Since(pageStart).Seconds())
			writing, done := context.WithTimeout(context.Background(), time.Minute) // not ctx: a write that is broken off ends the connection
			_ = p.ws.Write(writing, websocket.MessageText, []byte(text))            // which fails once the test has cut the connection
			done()
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	})
	release = sync.OnceFunc(func() { cancel(); work.Wait() })
	p.t.Cleanup(release)
	return release
}

func (p *page) ended() string {
	p.t.Helper()
	m := p.next(func(m map[string]any) bool { return m["op"] == "drive_ended" })
	text, _ := m["message"].(string)
	return text
}

// TestDrive has a page drive: what it wants is what the machine does, in its order, until it gives control back; and nobody gets to see the token.
func TestDrive(t *testing.T) {
	w := newWorld(t, web.Options{})
	m := w.machine()
	watcher := w.open(v1)
	for i, filter := range []string{"#", "commands/#"} {
		watcher.send(map[string]any{"op": "subscribe", "id": i, "filter": filter})
		watcher.answer(i)
	}
	p := w.open(v1)
	a := p.drive("d")
	driver, _ := a["driver"].(string)
	if a["op"] != "driving" || !equal(a["lease_s"], 1) || !strings.HasPrefix(driver, "web_bridge-") || m.seat.Driver() != driver {
		t.Fatalf("got %v, the seat has %q", a, m.seat.Driver())
	}
	if again := p.drive(2); again["code"] != "refused" || !strings.Contains(again["message"].(string), "drives motors already") {
		t.Errorf("a second time: %v", again)
	}
	const n = 30
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for i := 1; i <= n; i++ {
		p.send(fmt.Sprintf(`{"op":"setpoint","linear":%g,"angular":-0.2,"blade":true,"time":%g}`, float64(i)/100, time.Since(pageStart).Seconds()))
		<-tick.C
	}
	release := p.wheel(float64(n) / 100) // and holds it
	eventually(t, "it does what the last one says", func() bool { v, blade, _ := m.now(); return v == float64(n)/100 && blade })
	release()
	_, _, took := m.now()
	took = slices.CompactFunc(took, func(a, b velocity) bool { return a.Linear == b.Linear })
	t.Logf("%d of %d set points came", len(took), n) // where the machine is busy, one may overtake another
	if len(took) < n*2/3 || !slices.IsSortedFunc(took, func(a, b velocity) int { return cmp.Compare(a.Linear, b.Linear) }) {
		t.Errorf("%d of %d set points came, or not in order: %v", len(took), n, took)
	}
	p.send(map[string]any{"op": "undrive", "id": 3})
	if why := p.ended(); why != "the page has given control back" {
		t.Errorf("ended: %s", why)
	}
	if ok := p.answer(3); ok["op"] != "ok" {
		t.Errorf("undrive: %v", ok)
	}
	m.awaitStop(t, time.Now())
	eventually(t, "a last set point of zero", func() bool { // which is refused if control was given back before it was looked at
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.took[len(m.took)-1] == velocity{Token: took[0].Token} || m.refused == 1
	})
	if m.old > 0 {
		t.Errorf("%d old set points came", m.old)
	}
	for id, q := range map[string]string{"x": `{"op":"setpoint","id":"x","linear":0.1,"angular":0}`, "y": `{"op":"undrive","id":"y"}`} {
		p.send(q)
		if no := p.answer(id); no["code"] != "not_driving" {
			t.Errorf("after that, %s: %v", id, no)
		}
	}

	// What others see: the set points, the command and its answer, without the token.
	token := took[0].Token
	seen := map[string]bool{}
	for len(seen) < 3 {
		f := watcher.next(func(f map[string]any) bool { return f["topic"] != nil })
		raw, err := json.Marshal(f)
		check(t, err)
		if strings.Contains(string(raw), token) || strings.Contains(string(raw), `"token"`) && strings.Contains(string(raw), `"velocity"`) {
			t.Fatalf("the token is shown: %s", raw)
		}
		switch name := f["topic"].(string); {
		case name == "lawnberry/navigation/velocity" && strings.Contains(string(raw), `"linear":0.3`):
			seen["velocity"] = true
		case name == "lawnberry/commands/motors" && strings.Contains(string(raw), "keep_control"):
			seen["command"] = true
		case name == "lawnberry/responses/"+driver && strings.Contains(string(raw), `"lease":1`):
			seen["response"] = true
		}
	}
	if status, body := w.request("GET", "/api/topics/navigation/velocity", nil); status != 200 || !contains(body, `"linear"`) || contains(body, token) {
		t.Errorf("the last value: %d %s", status, body)
	}
	if d := p.drive("again"); d["op"] != "driving" {
		t.Errorf("again: %v", d)
	}
}

// TestDriveEnds ends a drive in every way there is. The machine stands within its time, nothing moves it any more, and whoever can still hear it is told why.
//
// To trust it: leave out the end of the page's context in steer, or the timer of silence, and see those cases take their longest.
func TestDriveEnds(t *testing.T) {
	users := accounts{"vera": "viewer", "olga": "operator", "otto": "operator"}
	var mu sync.Mutex
	role := func(user string) string { mu.Lock(); defer mu.Unlock(); return users[user] }
	w := newWorld(t, web.Options{Rights: func(user string) (web.Rights, error) {
		if r := role(user); r != "" {
			return rights{r}, nil
		}
		return nil, nil //nolint:nilnil // everything
	}, Login: lockedAccounts{&mu, users}})
	m := w.machine()
	operator := w.client("operator")
	latch, err := safety.OpenLatch(testContext(t), operator, safety.LatchOptions{})
	check(t, err)
	w.stopped(latch.Close)
	const now, silent = 400 * time.Millisecond, 2500 * time.Millisecond // with a machine that does something else at the same time
	for _, c := range []struct {
		name   string
		harm   func(p *page, proxy *faultnet.Proxy, release func())
		why    string // "" when nobody hears it
		within time.Duration
	}{
		{"tab closed", func(p *page, _ *faultnet.Proxy, _ func()) {
			go func() { _ = p.ws.Close(websocket.StatusGoingAway, "") }()
		}, "", now},
		{"killed, without a close frame", func(p *page, _ *faultnet.Proxy, _ func()) { _ = p.ws.CloseNow() }, "", now},
		{"cut, by a reset", func(_ *page, x *faultnet.Proxy, _ func()) { x.Cut(true) }, "", now},
		{"silent page", func(_ *page, _ *faultnet.Proxy, release func()) { release() }, "no set point came from the page for 1s", silent},
		{"half-open, nothing comes from the page", func(_ *page, x *faultnet.Proxy, _ func()) { x.Set(faultnet.Up, faultnet.Faults{Lose: true}) }, "no set point came from the page for 1s", silent},
		{"half-open, both ways", func(_ *page, x *faultnet.Proxy, _ func()) {
			x.Set(faultnet.Up, faultnet.Faults{Lose: true})
			x.Set(faultnet.Down, faultnet.Faults{Lose: true})
		}, "", silent},
		{"slow link", func(_ *page, x *faultnet.Proxy, _ func()) {
			x.Set(faultnet.Up, faultnet.Faults{Delay: 2 * time.Second})
		}, "no set point came from the page for 1s", silent},
		{"STOP", func(*page, *faultnet.Proxy, func()) { check(t, latch.Engage(testContext(t), "a dog")) }, "emergency stop: a dog (operator)", now},
		{"STOP on the page", func(p *page, _ *faultnet.Proxy, _ func()) {
			p.send(map[string]any{"op": "engage", "reason": "a child"})
		}, "a child, by olga on the web page", now},
		{"stopped by somebody", func(*page, *faultnet.Proxy, func()) {
			check(t, operator.Call(testContext(t), "motors", "stop", map[string]string{"reason": "enough"}, nil))
		}, "stopped by operator: enough", now},
		{"rights lost", func(*page, *faultnet.Proxy, func()) { mu.Lock(); defer mu.Unlock(); users["olga"] = "viewer" }, "you may not drive any more", silent},
		{"user removed", func(*page, *faultnet.Proxy, func()) { mu.Lock(); defer mu.Unlock(); users["olga"] = "gone" }, "", silent}, // but by the reason of the close frame
	} {
		mu.Lock()
		users["olga"] = "operator"
		mu.Unlock()
		w.release(m)
		proxy, err := faultnet.Start(strings.TrimPrefix(w.url, "http://"))
		check(t, err)
		t.Cleanup(proxy.Close)
		p := w.through(proxy, "olga")
		var d map[string]any
		eventually(t, c.name+": it drives", func() bool { d = p.drive(c.name); return d["op"] == "driving" })
		release := p.wheel(0.3)
		eventually(t, c.name+": it moves", m.moves)
		began := time.Now()
		c.harm(p, proxy, release)
		took := m.awaitStop(t, began)
		t.Logf("%s: it stands after %v", c.name, took.Round(time.Millisecond))
		if took > c.within {
			t.Errorf("%s: it stands after %v, want %v", c.name, took, c.within)
		}
		if c.why != "" {
			if why := p.ended(); !strings.Contains(why, c.why) {
				t.Errorf("%s: the page is told %q, want %q", c.name, why, c.why)
			}
		}
		_, _, before := m.now()
		proxy.Set(faultnet.Up, faultnet.Faults{}) // what is late comes now
		eventually(t, c.name+": the seat can be had", func() bool {
			other := w.through(nil, "otto")
			defer func() { _ = other.ws.CloseNow() }()
			w.release(m)
			a := other.drive(1)
			return a["op"] == "driving"
		})
		release()
		m.awaitStop(t, time.Now())
		if _, _, after := m.now(); slices.ContainsFunc(after[len(before):], func(v velocity) bool { return v.Linear != 0 }) {
			t.Errorf("%s: it was moved after its end: %v", c.name, after[len(before):])
		}
		_ = p.ws.CloseNow()
	}
	eventually(t, "no client is left", func() bool {
		return brokertest.Holds(w.broker, func(s broker.Stats) bool { return s.Connections == 5 })
	}) // hub, bridge, mover, motors, operator
}

// lockedAccounts are accounts that change.
type lockedAccounts struct {
	mu *sync.Mutex
	accounts
}

func (a lockedAccounts) Needed() bool { return true }
func (a lockedAccounts) Check(ctx context.Context, name, password, from string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.accounts.Check(ctx, name, password, from)
}
func (a lockedAccounts) Known(name string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.accounts.Known(name)
}
func (a lockedAccounts) Role(name string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.accounts.Role(name)
}

// through opens a page of a user, who sends a password of their own, through a proxy.
func (w *world) through(proxy *faultnet.Proxy, user string) *page {
	w.t.Helper()
	url := w.url
	if proxy != nil {
		url = "http://" + proxy.Addr()
	}
	q, err := http.NewRequest(http.MethodGet, url, nil)
	check(w.t, err)
	q.SetBasicAuth(user, user+"-password")
	ws, res, err := websocket.Dial(testContext(w.t), url+"/ws", &websocket.DialOptions{HTTPHeader: q.Header, HTTPClient: httpClient, Subprotocols: []string{v1}})
	check(w.t, err)
	if res.Body != nil {
		_ = res.Body.Close()
	}
	ws.SetReadLimit(1 << 20)
	w.t.Cleanup(func() { _ = ws.CloseNow() })
	return &page{w.t, ws}
}

// TestDriveRefused lets nobody drive who may not, beside somebody else, what is no seat, or while something stands against it; and takes no numbers that are
// out of bounds.
func TestDriveRefused(t *testing.T) {
	users := accounts{"vera": "viewer", "olga": "operator", "otto": "operator"}
	w := newWorld(t, web.Options{Login: users, Rights: func(user string) (web.Rights, error) { return rights{users[user]}, nil }})
	m := w.machine()
	olga, otto, vera := w.through(nil, "olga"), w.through(nil, "otto"), w.through(nil, "vera")
	if a := vera.drive(1); a["code"] != "forbidden" {
		t.Errorf("a viewer: %v", a)
	}
	for want, target := range map[string]string{"unknown_command": "mover", "no_such_service": "nobody", "bad_request": "a/b"} {
		olga.send(map[string]any{"op": "drive", "id": target, "service": target})
		a := olga.answer(target)
		if want == "no_such_service" && brokertest.IsMosquitto(t) { // which does not say that nobody hears
			want = "cancelled"
		}
		if a["code"] != want {
			t.Errorf("%s: %v", target, a)
		}
	}
	if a := olga.drive(1); a["op"] != "driving" {
		t.Fatalf("olga: %v", a)
	}
	release := olga.wheel(0.3)
	eventually(t, "it moves", m.moves)
	if a := otto.drive(2); a["code"] != "refused" || !strings.HasPrefix(a["message"].(string), "olga drives") || !equal(a["reasons"], []any{a["message"]}) {
		t.Errorf("a second page: %v", a)
	}
	if a := w.through(nil, "olga").drive(2); a["code"] != "refused" || !strings.HasPrefix(a["message"].(string), "olga drives") {
		t.Errorf("another page of hers: %v", a)
	}
	otto.send(map[string]any{"op": "drive", "id": "type", "service": "drive"}) // the same seat by another name
	if a := otto.answer("type"); a["code"] != "refused" || !strings.HasPrefix(a["message"].(string), "olga drives") {
		t.Errorf("by its type: %v", a)
	}
	// Nor is there another way.
	for _, command := range []string{"take_control", "keep_control", "leave_control"} {
		otto.send(map[string]any{"op": "call", "id": command, "service": "motors", "command": command})
		if a := otto.answer(command); a["code"] != "refused" || !strings.Contains(a["message"].(string), "op drive") {
			t.Errorf("a call of %s: %v", command, a)
		}
	}
	if !m.moves() {
		t.Error("she was disturbed")
	}
	release()

	_, _, before := m.now()
	for _, bad := range []string{
		`"linear":2.1,"angular":0`, `"linear":-2.1,"angular":0`, `"linear":0,"angular":5.1`, `"linear":0,"angular":-1e300`, `"linear":0.1`, `"angular":0.1`, ``,
		`"linear":null,"angular":0`, `"linear":0.1,"angular":0,"time":1e300`,
	} {
		olga.send(`{"op":"setpoint","id":"bad",` + strings.TrimSuffix(`"blade":false,`+bad, ",") + `}`)
		if a := olga.answer("bad"); a["op"] != "error" || a["code"] != "bad_request" {
			t.Errorf("%s: %v", bad, a)
		}
	}
	for _, bad := range []string{`"linear":1e999,"angular":0`, `"linear":"1","angular":0`, `"linear":NaN,"angular":0`} {
		olga.send(`{"op":"setpoint",` + bad + `}`)
		olga.next(func(m map[string]any) bool { return m["op"] == "error" && m["code"] == "bad_request" })
	}
	if why := olga.ended(); !strings.Contains(why, "no set point") {
		t.Errorf("nothing but nonsense: %s", why)
	}
	if _, _, after := m.now(); slices.ContainsFunc(after[len(before):], func(v velocity) bool { return v.Linear != 0 && v.Linear != 0.3 }) {
		t.Errorf("it took %v", after[len(before):])
	}

	// One that is late by the page's own clock.
	if a := olga.drive("late"); a["op"] != "driving" {
		t.Fatalf("again: %v", a)
	}
	olga.send(`{"op":"setpoint","linear":0.1,"angular":0,"time":10}`)
	olga.send(`{"op":"setpoint","id":"stale","linear":0.2,"angular":0,"time":9}`)
	if a := olga.answer("stale"); a["code"] != "stale" {
		t.Errorf("late: %v", a)
	}

	check(t, m.latch.Engage(testContext(t), "a dog"))
	olga.ended()
	if a := otto.drive(3); a["code"] != "refused" || !strings.Contains(a["message"].(string), "emergency stop: a dog") {
		t.Errorf("with an emergency stop: %v", a)
	}
}

// TestDriveStopsWithTheBridge has the bridge end while a page drives: the machine is stopped, not left to its dead man.
func TestDriveStopsWithTheBridge(t *testing.T) {
	w := newWorld(t, web.Options{})
	m := w.machine()
	p := w.open(v1)
	if a := p.drive(1); a["op"] != "driving" {
		t.Fatal(a)
	}
	p.wheel(0.3)
	eventually(t, "it moves", m.moves)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	check(t, w.bridge.Stop(ctx))
	if d := m.seat.Driver(); d != "" {
		t.Errorf("%s still drives", d)
	}
	m.awaitStop(t, time.Now())
}

// TestDrivers has pages that leave while a machine does not answer leave no more clients behind than there may be pages.
func TestDrivers(t *testing.T) {
	const most = 3
	w := newWorld(t, web.Options{MaxConnections: most})
	asked := make(chan struct{}, 2*most)
	slow, err := service.Start(testContext(t), service.Options{ID: "slow", Type: "drive", Client: client.Options{URL: w.broker.URL()}, Setup: func(_ context.Context, s *service.Service) error {
		service.Handle(s, "take_control", func(ctx context.Context, _ struct{}) (struct{}, error) {
			asked <- struct{}{}
			<-ctx.Done()
			return struct{}{}, ctx.Err()
		})
		return nil
	}})
	check(t, err)
	w.stopped(slow.Stop)
	ask := func() *page {
		p := w.open(v1)
		p.send(`{"op":"drive","id":1,"service":"slow"}`)
		return p
	}
	for range most {
		p := ask()
		<-asked
		_ = p.ws.CloseNow()
	}
	var p *page
	eventually(t, "there is room for a page", func() bool { return w.bridge.Stats().Connections == 0 })
	if p = ask(); p.answer(1)["code"] != "too_many" {
		t.Error("one more has a client too")
	}
	eventually(t, "the others are gone", func() bool {
		p.send(`{"op":"drive","id":2,"service":"nobody"}`)
		return p.answer(2)["code"] != "too_many" // Mosquitto does not say that nobody hears
	})
}
