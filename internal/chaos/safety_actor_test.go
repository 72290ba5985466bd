package chaos

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/proctest"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

// safetyEnv is what a process of this test binary is told to be a part of the mower: a part, as JSON.
const safetyEnv = "LAWNBERRY_TEST_SAFETY"

// A part is a process of the tests of the emergency stop.
type part struct {
	Role     string // hub, safety, driver, flood, unrelated
	ID       string
	URL      string
	User     string        `json:",omitempty"` // with the password that newServer's users have
	File     string        `json:",omitempty"` // hub: of its state
	Lease    time.Duration `json:",omitempty"` // of its heartbeats; 0 is the safety class's
	Probe    time.Duration `json:",omitempty"`
	Period   time.Duration `json:",omitempty"` // driver: of drive; safety: between readings, 0 is none
	Deadline time.Duration `json:",omitempty"` // driver: of the readings, 0 does not require them
	Alone    bool          `json:",omitempty"` // driver: requires no safety service
	Listen   []string      `json:",omitempty"` // driver: filters whose messages it counts
	Hang     string        `json:",omitempty"` // a topic whose handler never returns
}

// What the parts print, each line with the time since boot in front. It is one write each, so that a kill takes whole lines.
const (
	saidReady    = "ready"
	saidDrive    = "drive"    // drive has a permit, at that time
	saidVain     = "vain"     // drive was called, and had none any more
	saidStop     = "stop"     // stop was called; the cause
	saidPermit   = "permit"   // was given
	saidLoss     = "loss"     // of the permit; the cause
	saidHeard    = "heard"    // the handler of the emergency stop's topic; the reason
	saidLatch    = "latch"    // OnChange; "released" or "engaged", sequence, reason
	saidReading  = "reading"  // is about to be published
	saidFlooding = "flooding" // so many messages so far
)

// say prints a line.
func say(at time.Duration, kind, text string) {
	_, _ = os.Stdout.WriteString(strconv.FormatInt(int64(at), 10) + " " + kind + " " + strings.ReplaceAll(text, "\n", " ") + "\n")
}

// bePart is the process's whole life: until it is killed.
func bePart() {
	var p part
	err := json.Unmarshal([]byte(os.Getenv(safetyEnv)), &p)
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	o := client.Options{URL: p.URL, Logger: log, Probe: p.Probe}
	if p.User != "" {
		o.Username, o.Password = p.User, client.Secret("password of "+p.User)
	}
	ctx := context.Background()
	if err == nil {
		switch p.Role {
		case "hub":
			_, err = safety.StartHub(ctx, safety.HubOptions{Client: o, File: p.File, Logger: log})
			if err == nil {
				say(sinceBoot(), saidReady, "")
			}
		case "safety":
			err = p.beSafetyService(ctx, o, log)
		case "driver":
			err = p.drive(ctx, o, log)
		case "flood":
			err = p.flood(ctx, o)
		case "unrelated":
			err = p.beUnrelated(ctx, o, log)
		default:
			err = fmt.Errorf("no part %q", p.Role)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	select {}
}

// options are those of its service.
func (p *part) options(o client.Options, log *slog.Logger) service.Options {
	so := service.Options{ID: p.ID, Type: p.ID, Safety: true, Client: o, Logger: log, HeartbeatTimeout: p.Lease}
	if p.Lease > 0 {
		so.Heartbeat = 200 * time.Millisecond
	}
	return so
}

// beSafetyService is a service that watches: it has a lease, and publishes readings of the tilt.
func (p *part) beSafetyService(ctx context.Context, o client.Options, log *slog.Logger) error {
	svc, err := service.Start(ctx, p.options(o, log))
	if err != nil {
		return err
	}
	say(sinceBoot(), saidReady, "")
	for p.Period > 0 {
		m, err := message.NewSensorData(p.ID, message.SensorData{SensorType: "tilt", Data: map[string]float64{"tilt": 1}, Quality: 1, Status: "healthy"})
		if err != nil {
			return err
		}
		say(sinceBoot(), saidReading, "")
		svc.Client().PublishAsync("sensors/tilt/data", m, client.Unlimited(), client.Volatile())
		time.Sleep(p.Period)
	}
	return nil
}

// counted is the answer to the driver's command count.
type counted struct {
	Messages int64 `json:"messages"`
}

// drive is a service with a latch and a guard that runs. It tells of each thing that they do.
func (p *part) drive(ctx context.Context, o client.Options, log *slog.Logger) error {
	var guard *safety.Guard
	var latch *safety.Latch
	var count atomic.Int64
	so := p.options(o, log)
	so.Setup = func(ctx context.Context, s *service.Service) (err error) {
		if latch, err = safety.OpenLatch(ctx, s.Client(), safety.LatchOptions{Logger: log}); err != nil {
			return err
		}
		latch.OnChange(sayState)
		g := safety.GuardOptions{Logger: log, SafetyLease: p.Lease, OnChange: func(permit bool, cause string) {
			if permit {
				say(sinceBoot(), saidPermit, "")
				return
			}
			say(sinceBoot(), saidLoss, cause)
		}}
		if p.Alone {
			g.Safety = []string{}
		}
		if guard, err = safety.NewGuard(ctx, s, latch, g); err != nil {
			return err
		}
		if p.Deadline > 0 {
			err = guard.Require("sensors/tilt/data", p.Deadline)
		}
		service.Handle(s, "arm", func(ctx context.Context, _ struct{}) (struct{}, error) { return struct{}{}, guard.Arm(ctx) })
		service.Handle(s, "count", func(context.Context, struct{}) (counted, error) { return counted{count.Load()}, nil })
		service.Handle(s, "state", func(context.Context, struct{}) (safety.State, error) { return latch.State(), nil })
		hear := func(_ context.Context, d *client.Delivery) {
			at := sinceBoot()
			var c struct {
				By     string `json:"by"`
				Reason string `json:"reason"`
			}
			a, err := message.Payload[message.Alert](d.Message)
			if err == nil && json.Unmarshal(a.Context, &c) == nil && d.Message.Metadata.Sender == c.By {
				say(at, saidHeard, c.Reason)
			}
		}
		if err == nil {
			_, err = s.Subscribe(ctx, "safety/emergency_stop", hear)
		}
		for _, f := range p.Listen {
			if err == nil {
				_, err = s.Subscribe(ctx, f, func(context.Context, *client.Delivery) { count.Add(1) })
			}
		}
		if err == nil && p.Hang != "" {
			_, err = s.Subscribe(ctx, p.Hang+"/keeping", hang)
			if err == nil {
				_, err = s.Subscribe(ctx, p.Hang+"/dropping", hang, client.WithQueue(client.Queue{Full: client.DropOldest}))
			}
		}
		return err
	}
	if _, err := service.Start(ctx, so); err != nil {
		return err
	}
	say(sinceBoot(), saidReady, "")
	drive := func(context.Context) error {
		at := sinceBoot()
		if guard.Permit() { // before each command to a motor
			say(at, saidDrive, "")
		} else {
			say(at, saidVain, "")
		}
		return nil
	}
	stop := func(cause string) error {
		say(sinceBoot(), saidStop, cause)
		return nil
	}
	return guard.Run(ctx, p.Period, drive, stop)
}

func sayState(s safety.State) {
	word := "engaged"
	if !s.Engaged {
		word = "released"
	}
	say(sinceBoot(), saidLatch, fmt.Sprint(word, " ", s.Sequence, " ", s.Reason))
}

func hang(context.Context, *client.Delivery) { select {} }

// sender is a client of the test itself.
func sender(t testing.TB, o client.Options) *client.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := client.Connect(ctx, o)
	must(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = c.Close(ctx)
	})
	return c
}

// latchOf opens the latch of a client.
func latchOf(t testing.TB, c *client.Client) *safety.Latch {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	l, err := safety.OpenLatch(ctx, c, safety.LatchOptions{})
	must(t, err)
	t.Cleanup(func() { _ = l.Close(context.Background()) })
	return l
}

// An event is a line that a part has printed.
type event struct {
	at   time.Duration // since boot
	kind string
	text string
}

func (e event) String() string { return fmt.Sprintf("%v %s %s", e.at, e.kind, e.text) }

// An actor is a process that is a part, again and again.
type actor struct {
	t    testing.TB
	part part
	cmd  *exec.Cmd
	log  *logBuffer
	read sync.WaitGroup
	gone chan struct{} // closed when the process has ended, or is about to

	mu     sync.Mutex // guards the fields below
	events []event    // of all its runs
	change chan struct{}
}

// newActor prepares a part that does not run yet. It is killed when the test ends.
func newActor(t testing.TB, p part) *actor {
	a := &actor{t: t, part: p, log: &logBuffer{}, change: make(chan struct{})}
	t.Cleanup(func() {
		a.kill()
		log := a.log.String()
		if t.Failed() {
			t.Logf("the last of %s's log:\n%s", p.ID, log[max(0, len(log)-6000):])
		}
		for _, bad := range []string{"panic: ", "fatal error: ", "WARNING: DATA RACE"} {
			if i := strings.Index(log, bad); i >= 0 {
				t.Errorf("%s: %s", p.ID, log[i:min(len(log), i+6000)])
			}
		}
	})
	return a
}

// spawn starts the process, and does not wait for anything.
func (a *actor) spawn() {
	a.t.Helper()
	raw, err := json.Marshal(a.part)
	must(a.t, err)
	a.cmd = exec.Command(os.Args[0])
	a.cmd.Env = append(environment(), safetyEnv+"="+string(raw), "GORACE=atexit_sleep_ms=0")
	a.cmd.Stderr = a.log
	a.cmd.SysProcAttr = process(0)
	out, err := a.cmd.StdoutPipe()
	must(a.t, err, a.cmd.Start())
	gone := make(chan struct{})
	a.gone = gone
	a.read.Go(func() {
		defer close(gone)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			at, rest, _ := strings.Cut(lines.Text(), " ")
			n, err := strconv.ParseInt(at, 10, 64)
			if err != nil {
				continue
			}
			e := event{at: time.Duration(n)}
			e.kind, e.text, _ = strings.Cut(rest, " ")
			a.mu.Lock()
			a.events = append(a.events, e)
			close(a.change)
			a.change = make(chan struct{})
			a.mu.Unlock()
		}
	})
}

// start starts the process and waits until it is ready.
func (a *actor) start() *actor {
	a.t.Helper()
	from := a.now()
	a.spawn()
	a.await(from, "ready", func(e event) bool { return e.kind == saidReady })
	return a
}

// kill ends the process with SIGKILL, if it runs, and returns when all that it said is known.
func (a *actor) kill() {
	if a.cmd == nil {
		return
	}
	_ = a.cmd.Process.Kill()
	a.read.Wait()
	_ = a.cmd.Wait()
	a.cmd = nil
}

// alive reports whether the process runs.
func (a *actor) alive() bool {
	if a.cmd == nil {
		return false
	}
	select {
	case <-a.gone:
		return false
	default:
		return true
	}
}

// freeze stops the process (SIGSTOP) and returns when all its threads stand.
func (a *actor) freeze() { proctest.Stop(a.t, a.cmd.Process.Pid) }

func (a *actor) thaw() { must(a.t, a.cmd.Process.Signal(syscall.SIGCONT)) }

// now is a mark in what it says.
func (a *actor) now() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.events)
}

// since returns what it has said after a mark.
func (a *actor) since(mark int) []event {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.events[mark:])
}

// seek waits for the first event after a mark that f is true of.
func (a *actor) seek(ctx context.Context, mark int, f func(event) bool) (event, error) {
	for {
		a.mu.Lock()
		for ; mark < len(a.events); mark++ {
			if e := a.events[mark]; f(e) {
				a.mu.Unlock()
				return e, nil
			}
		}
		change := a.change
		a.mu.Unlock()
		select {
		case <-change:
		case <-ctx.Done():
			return event{}, context.Cause(ctx)
		}
	}
}

// await is seek with patience.
func (a *actor) await(mark int, what string, f func(event) bool) event {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	e, err := a.seek(ctx, mark, f)
	if err != nil {
		said := a.since(mark)
		a.t.Fatalf("%s never said: %s; it said %v", a.part.ID, what, said[max(0, len(said)-20):])
	}
	return e
}

func is(kind string) func(event) bool { return func(e event) bool { return e.kind == kind } }

// A mower is a broker, the hub of the emergency stop, a safety service and a service that drives, each a process of its own, and somebody
// with a latch who engages and releases.
type mower struct {
	t                   testing.TB
	server              *server
	hub, safety, driver *actor
	operator            *client.Client
	latch               *safety.Latch
}

// leases are those of the safety class where times are judged, and long ones where a machine without time to spare must not show.
func leases() (lease, probe time.Duration) { return pick(2*time.Second, 0), pick(time.Second, 0) }

// newMower prepares a mower that does not run yet.
func newMower(t testing.TB) *mower {
	m := &mower{t: t, server: newServer(t)}
	m.server.Plain = long() // figures
	m.server.Env = []string{"LAWNBERRY_SAFETY_EMERGENCY_STOP_ENABLED=false"}
	url := "tcp://" + m.server.Addr
	lease, probe := leases()
	m.hub = newActor(t, part{Role: "hub", ID: safety.HubID, URL: url, File: m.server.Dir + "-stop.json"})
	m.safety = newActor(t, part{Role: "safety", ID: "safety", URL: url, Lease: lease, Probe: probe})
	m.driver = newActor(t, part{Role: "driver", ID: "driver", URL: url, Lease: lease, Probe: probe, Period: 20 * time.Millisecond})
	return m
}

// start starts all of it.
func (m *mower) start() {
	m.t.Helper()
	m.server.start()
	m.hub.start()
	m.safety.start()
	m.driver.start()
	m.operator = sender(m.t, client.Options{URL: "tcp://" + m.server.Addr, ID: "operator", Safety: true, Probe: m.driver.part.Probe})
	m.latch = latchOf(m.t, m.operator)
}

// release releases the emergency stop, once nothing stands against it.
func (m *mower) release(ctx context.Context) {
	m.t.Helper()
	var err error
	eventually(m.t, time.Minute, "released", func() bool {
		var s safety.State
		if s, err = m.latch.Confirm(ctx); err == nil && s.Engaged {
			err = m.latch.Release(ctx, s.Sequence)
		}
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			time.Sleep(5 * time.Millisecond)
		}
		return err == nil
	})
}

// arm has the driver armed, once that is possible, and returns when it drives.
func (m *mower) arm(ctx context.Context) {
	m.t.Helper()
	var err error
	for tries := 0; ; tries++ {
		mark := m.driver.now()
		trying, cancel := context.WithTimeout(ctx, 5*time.Second)
		if err = m.operator.Call(trying, "driver", "arm", nil, nil); err == nil {
			_, err = m.driver.seek(trying, mark, is(saidDrive))
		}
		cancel()
		if err == nil {
			return
		}
		if tries > 200 || ctx.Err() != nil {
			m.t.Fatalf("not armed: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// quantile returns that of sorted times.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}
