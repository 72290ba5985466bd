package web

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/topic"
)

const (
	velocityTopic = "navigation/velocity" // of set points
	takeControl   = "take_control"

	// Bounds of a set point, beyond which it is refused whatever the machine would make of it.
	maxLinear  = 2.0 // m/s
	maxAngular = 5.0 // rad/s

	silentTime   = time.Second            // without a set point, after which control is given back
	setPointLife = 300 * time.Millisecond // after which a set point is worth nothing: it is not sent any more, nor received
	setPointGap  = 20 * time.Millisecond  // between two set points at least; of those that come faster the latest counts
	joinTime     = 5 * time.Second        // to take control: to connect, and the seat has 2 s for itself
	partTime     = time.Second            // to stop the machine and give control back
	maxDrift     = 0.001                  // by which the page's clock and ours may drift apart, of the time that passes
)

// A setPoint is what a page wants the machine to do.
type setPoint struct {
	Linear  float64 `json:"linear"`  // m/s
	Angular float64 `json:"angular"` // rad/s, positive turns left
	Blade   bool    `json:"blade"`
	Token   string  `json:"token"` // of the lease

	came time.Time
}

// A drive is a page that has control of a machine: its lease, and the set points that it sends.
//
// It has a client of its own, with a name of its own. So it is the seat that tells pages apart, as it tells all others: the bridge
// could not, since it does not know which names (ids, types) stand for one seat, and the seat takes a second request of one name
// for its driver's own. And a set point waits behind nothing: there is a place for one, which the next takes, and nothing else
// goes over that connection but the lease. The client is there while the page drives; there are no more of them than there may be pages. Its name begins
// with the bridge's and a hyphen, as access control wants it.
type drive struct {
	c       *conn
	id      json.RawMessage // of the request
	service string
	name    string // of the client

	next chan setPoint // holds the latest that is to be sent
	over chan struct{} // closed when nothing is left

	ending sync.Once
	end    chan struct{} // closed when it is to end
	why    string        // set before end is closed

	clock clock // of the page; used by the goroutine that reads from it
}

// stop ends it, for a reason that the page is told. It does not wait.
func (d *drive) stop(why string) {
	d.ending.Do(func() {
		d.why = why
		close(d.end)
	})
}

func (d *drive) stopping() bool {
	select {
	case <-d.end:
		return true
	default:
		return false
	}
}

// startDrive is the op drive.
func (c *conn) startDrive(r *request) {
	if err := c.b.mayDrive(c.getRights(), r.Service); err != nil {
		code, text := explain(err)
		c.fail(r, code, text)
		return
	}
	d := &drive{
		c: c, id: r.ID, service: r.Service, name: ID + "-" + strings.ToLower(rand.Text()[:10]),
		next: make(chan setPoint, 1), over: make(chan struct{}), end: make(chan struct{}),
	}
	c.mu.Lock()
	other := c.drive
	if other == nil {
		c.drive = d
	}
	c.mu.Unlock()
	if other != nil {
		c.fail(r, client.CodeRefused, "this page drives "+other.service+" already")
		return
	}
	if code, text := c.b.board(d); code != "" {
		c.endDrive(d, answer{Op: "error", Code: code, Message: text})
		return
	}
	go d.run()
}

// board notes who drives; alight is to follow. It returns a code and a text instead when the bridge is stopping, or when so many pages drive, or
// have left and wait for an answer of the machine still, as there may be pages.
func (b *Bridge) board(d *drive) (code, text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.ended:
		return client.CodeInterrupted, "the bridge is stopping"
	case len(b.drivers) >= b.o.MaxConnections:
		return "too_many", fmt.Sprintf("%d pages drive or have asked to already", len(b.drivers))
	}
	b.drivers[d.name] = d.c.user
	b.driving.Add(1)
	return "", ""
}

func (b *Bridge) alight(d *drive) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.drivers, d.name)
}

// endDrive makes room for the next, and tells the page.
func (c *conn) endDrive(d *drive, a answer) {
	c.mu.Lock()
	c.drive = nil
	c.mu.Unlock()
	a.ID = d.id
	c.say(a)
	close(d.over)
}

func (c *conn) driving() *drive {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.drive
}

// stopDrive has a drive end, if there is one.
func (c *conn) stopDrive(why string) {
	if d := c.driving(); d != nil {
		d.stop(why)
	}
}

// undrive is the op undrive.
func (c *conn) undrive(r *request) {
	d := c.driving()
	if d == nil {
		c.fail(r, codeNotDriving, "this page does not drive")
		return
	}
	d.stop("the page has given control back")
	c.later(r, func(ctx context.Context) {
		select {
		case <-d.over:
			c.ok(r)
		case <-ctx.Done():
		}
	})
}

const codeNotDriving = "not_driving"

// setPoint is the op setpoint. It is answered only when something is wrong with it.
func (c *conn) setPoint(r *request) {
	now := time.Now()
	d := c.driving()
	switch {
	case d == nil || d.stopping():
		c.fail(r, codeNotDriving, "this page does not drive: the set point goes nowhere")
		return
	case r.Linear == nil || r.Angular == nil:
		c.fail(r, "bad_request", "a set point wants linear, in m/s, and angular, in rad/s")
		return
	}
	for _, v := range []struct {
		name       string
		value, max float64
		unit       string
	}{{"linear", *r.Linear, maxLinear, "m/s"}, {"angular", *r.Angular, maxAngular, "rad/s"}} {
		if !(math.Abs(v.value) <= v.max) { // nor is what is no number
			c.fail(r, "bad_request", fmt.Sprintf("%s: want %g to %g %s", v.name, -v.max, v.max, v.unit))
			return
		}
	}
	if r.Time != nil {
		if !(math.Abs(*r.Time) <= maxClock) {
			c.fail(r, "bad_request", fmt.Sprintf("time: want seconds, up to %g", maxClock))
			return
		}
		if late := d.clock.late(*r.Time, now); late > setPointLife {
			c.fail(r, "stale", fmt.Sprintf("the set point has been on its way for %v longer than others: it is worth nothing after %v", late.Round(time.Millisecond), setPointLife))
			return
		}
	}
	select {
	case <-d.next: // it is overtaken
	default:
	}
	select {
	case d.next <- setPoint{Linear: *r.Linear, Angular: *r.Angular, Blade: r.Blade, came: now}:
	default: // there is one place and one who puts
	}
}

// A clock compares a page's clock with ours. Which time it shows is of no matter, if only it goes steadily.
type clock struct {
	began  time.Time     // zero when nothing was compared yet
	least  time.Duration // of what lies between the two
	looked time.Time
}

const maxClock = 4e9 // s, either way: what a time.Duration holds

// late returns how much longer than the quickest something was on its way that was sent at a time of the page's, in s.
func (k *clock) late(sent float64, now time.Time) time.Duration {
	if k.began.IsZero() {
		k.began, k.looked = now, now
		k.least = -time.Duration(sent * float64(time.Second))
	}
	gap := now.Sub(k.began) - time.Duration(sent*float64(time.Second))
	k.least = min(gap, k.least+time.Duration(float64(now.Sub(k.looked))*maxDrift))
	k.looked = now
	return gap - k.least
}

// mayDrive returns why somebody may not drive, nil if they may: send take_control to that service, and set points.
func (b *Bridge) mayDrive(rights Rights, service string) error {
	if err := topic.CheckLevel("service", service); err != nil {
		return &badRequest{err.Error()}
	}
	if rights == nil {
		return nil
	}
	command, err := json.Marshal(map[string]any{"target": service, "command": takeControl, "parameters": map[string]any{}})
	if err != nil {
		return &badRequest{err.Error()}
	}
	for _, what := range []struct {
		name string
		body []byte
	}{{"commands/" + service, command}, {velocityTopic, []byte(`{"linear": 0, "angular": 0, "blade": false}`)}} {
		full, err := b.svc.Client().Topics().Resolve(what.name)
		if err != nil {
			return &badRequest{err.Error()}
		}
		if err := rights.MaySend(full, what.body); err != nil {
			return &forbidden{err}
		}
	}
	return nil
}

// run takes control, sends the set points that come, and gives it back. It ends when the page is gone or says nothing, when the lease is lost,
// and when stop is called.
func (d *drive) run() {
	defer d.c.b.driving.Done()
	cl, lease, drop, err := d.take()
	if err == nil && d.stopping() {
		err = &client.CommandError{Service: d.service, Command: takeControl, Code: client.CodeCancelled, Message: d.why}
		d.leave(cl, lease)
	}
	if err != nil {
		if cl != nil {
			d.part(cl)
		}
		code, text := explain(err)
		text = d.c.b.namePages(text)
		d.c.b.alight(d)
		d.c.endDrive(d, answer{Op: "error", Code: code, Message: text, Reasons: reasons(code, text)})
		return
	}
	defer drop()
	d.c.b.log.Info("a page drives", "user", d.c.user, "service", d.service, "driver", d.name)
	d.c.say(answer{Op: "driving", ID: d.id, Lease: silentTime.Seconds(), Driver: d.name})
	why := d.steer(cl, lease)
	if lease.Err() == nil {
		d.leave(cl, lease)
	}
	d.part(cl)
	d.c.b.log.Info("a page drives no more", "user", d.c.user, "service", d.service, "driver", d.name, "reason", why)
	why = d.c.b.namePages(why)
	d.c.b.alight(d)
	d.c.endDrive(d, answer{Op: "drive_ended", Message: why})
}

// take connects and takes the lease, which is renewed until drop is called. The page may leave meanwhile: the lease is given back then, not
// left to run out.
func (d *drive) take() (cl *client.Client, l *safety.Lease, drop context.CancelFunc, err error) {
	ctx, cancel := context.WithTimeout(d.c.b.ctx, joinTime)
	defer cancel()
	o := d.c.b.o.Client
	o.ID, o.CleanStart, o.SessionExpiry, o.FailFast, o.Safety = d.name, true, -1, true, true
	o.Dir, o.Will, o.Birth, o.OnState = "", nil, nil, nil
	if o.Logger == nil {
		o.Logger = d.c.b.log
	}
	if cl, err = client.Connect(ctx, o); err != nil {
		return nil, nil, nil, err
	}
	life, drop := context.WithCancel(context.Background())
	patience := context.AfterFunc(ctx, drop) // for taking it, not for having it
	if l, err = safety.TakeLease(life, cl, d.service); err == nil && !patience() {
		d.leave(cl, l)
		err = ctx.Err()
	}
	if err != nil {
		drop()
		return cl, nil, nil, err
	}
	return cl, l, drop, nil
}

// steer sends the set points that come, and returns why it ends.
func (d *drive) steer(cl *client.Client, l *safety.Lease) string {
	silent := time.NewTimer(silentTime)
	defer silent.Stop()
	gap := time.NewTimer(0)
	defer gap.Stop()
	var next <-chan setPoint // nil until the gap is over
	for {
		select {
		case <-d.end:
			return d.why
		case <-d.c.ctx.Done():
			return "the page is gone"
		case <-l.Done():
			_, why := explain(l.Err())
			return why
		case <-silent.C:
			return fmt.Sprintf("no set point came from the page for %v", silentTime)
		case <-gap.C:
			next = d.next
		case s := <-next:
			if d.stopping() || d.c.ctx.Err() != nil || l.Err() != nil || time.Since(s.came) > setPointLife {
				continue
			}
			s.Token = l.Token()
			ctx, cancel := context.WithTimeout(context.Background(), setPointLife)
			err := d.send(ctx, cl, s)
			cancel()
			if err != nil {
				return "a set point could not be sent: " + err.Error()
			}
			silent.Reset(silentTime)
			next = nil
			gap.Reset(setPointGap)
		}
	}
}

// send publishes a set point: at most once, and not when it is old.
func (d *drive) send(ctx context.Context, cl *client.Client, s setPoint) error {
	if !cl.Connected() {
		return errors.New("the connection to the broker is lost")
	}
	m, err := message.NewSensorData(d.name, message.SensorData{
		SensorType: "velocity", DeviceID: &d.service, Data: s, Units: map[string]string{"linear": "m/s", "angular": "rad/s"}, Quality: 1, Status: "healthy",
	})
	if err != nil {
		return err
	}
	return cl.Publish(ctx, velocityTopic, m, client.WithQoS(0), client.WithRetain(false), client.WithExpiry(setPointLife), client.Unlimited())
}

// leave stops the machine and gives the lease back.
func (d *drive) leave(cl *client.Client, l *safety.Lease) {
	ctx, cancel := context.WithTimeout(context.Background(), partTime)
	defer cancel()
	err := d.send(ctx, cl, setPoint{Token: l.Token()})
	if err = errors.Join(err, l.Leave(ctx)); err != nil {
		d.c.b.log.Warn("control was not given back as it should be, the lease runs out", "service", d.service, "driver", d.name, "error", err)
	}
}

// part closes the client.
func (d *drive) part(cl *client.Client) {
	ctx, cancel := context.WithTimeout(context.Background(), partTime)
	defer cancel()
	if err := cl.Close(ctx); err != nil {
		d.c.b.log.Debug("the client of a driving page was not closed cleanly", "driver", d.name, "error", err)
	}
}

// namePages puts the users of driving pages in the place of their clients' names.
func (b *Bridge) namePages(text string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, user := range b.drivers {
		text = strings.ReplaceAll(text, name, cmp.Or(user, "another page"))
	}
	return text
}

// reasons returns one by one what a service has refused control for.
func reasons(code, text string) []string {
	if code != client.CodeRefused {
		return nil
	}
	return strings.Split(strings.TrimPrefix(text, "not permitted: "), "; ")
}
