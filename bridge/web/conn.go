package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

const (
	// subprotocol is what a page offers that subscribes to what it wants. One that does not offer it gets everything, as pages always have.
	subprotocol = "lawnberry.v1"

	stallTime   = 30 * time.Second // without progress after which a connection ends
	maxFrame    = 64 << 10         // bytes of a frame from a browser
	maxCalls    = 16               // that one browser waits for at once
	maxFilters  = 100              // of one browser
	maxRate     = 1000             // messages per second of a topic
	longestGap  = 24 * time.Hour   // between two
	callTime    = 30 * time.Second // unless the browser says otherwise
	longestCall = time.Hour

	statusGoingAway   = websocket.StatusGoingAway
	statusTryAgain    = websocket.StatusTryAgainLater
	statusUnsupported = websocket.StatusUnsupportedData
	statusPolicy      = websocket.StatusPolicyViolation
)

// A conn is one browser.
type conn struct {
	b      *Bridge
	ws     *websocket.Conn
	user   string
	queue  *queue
	ctx    context.Context
	cancel context.CancelFunc

	stalled atomic.Bool
	closing sync.Once

	mu      sync.Mutex // guards the fields below
	rights  Rights     // nil is everything
	filters []*filter
	calls   map[string]context.CancelFunc // by the browser's id of the call
	drive   *drive                        // nil while it does not drive
	work    sync.WaitGroup
}

// A filter is what a browser has subscribed to.
type filter struct {
	full string
	gap  time.Duration // between two messages of a topic; 0 is none
	done func()
	all  bool // what a page gets that subscribes to nothing: everything but commands
}

// A request is what a browser says.
type request struct {
	Op      string          `json:"op"`
	ID      json.RawMessage `json:"id,omitempty"` // a string or a number, which answers repeat
	Filter  string          `json:"filter,omitempty"`
	History bool            `json:"history,omitempty"`
	Rate    float64         `json:"rate,omitempty"` // messages per second of a topic

	Topic  string          `json:"topic,omitempty"`
	Data   json.RawMessage `json:"data,omitempty"`
	QoS    *byte           `json:"qos,omitempty"`
	Retain *bool           `json:"retain,omitempty"`

	Service    string          `json:"service,omitempty"`
	Command    string          `json:"command,omitempty"`
	Parameters json.RawMessage `json:"parameters,omitempty"`
	Timeout    float64         `json:"timeout,omitempty"` // s
	Progress   bool            `json:"progress,omitempty"`
	Call       json.RawMessage `json:"call,omitempty"` // of cancel: the id of the call
	Reason     string          `json:"reason,omitempty"`

	Linear  *float64 `json:"linear,omitempty"`  // m/s
	Angular *float64 `json:"angular,omitempty"` // rad/s
	Blade   bool     `json:"blade,omitempty"`
	Time    *float64 `json:"time,omitempty"` // s, by a clock of the page's that goes steadily: when a set point was sent
}

// An answer is what the bridge says beside messages.
type answer struct {
	Op      string          `json:"op"` // ok, error, result, progress, pong, dropped, driving, drive_ended
	ID      json.RawMessage `json:"id,omitempty"`
	Code    string          `json:"code,omitempty"`
	Message string          `json:"message,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"`
	Value   json.RawMessage `json:"value,omitempty"`
	Dropped uint64          `json:"dropped,omitempty"`
	Time    float64         `json:"time,omitempty"`    // Unix seconds
	Reasons []string        `json:"reasons,omitempty"` // of a refusal, one by one
	Lease   float64         `json:"lease_s,omitempty"` // s without a set point, after which a drive ends
	Driver  string          `json:"driver,omitempty"`  // who drives, as others see it
}

// serveWS is GET /ws.
func (b *Bridge) serveWS(w http.ResponseWriter, r *http.Request) {
	who, err := b.identify(r)
	if err != nil {
		problem(w, err)
		return
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols:       []string{subprotocol},
		CompressionMode:    websocket.CompressionDisabled,
		InsecureSkipVerify: true, // the handler has looked at the origin
	})
	if err != nil { // answered by Accept
		b.log.Debug("websocket refused", "remote", r.RemoteAddr, "error", err)
		return
	}
	ws.SetReadLimit(maxFrame)
	c := &conn{b: b, ws: ws, user: who.name, rights: who.rights, queue: newQueue(), calls: map[string]context.CancelFunc{}}
	c.ctx, c.cancel = context.WithCancel(b.ctx)
	if ws.Subprotocol() == "" {
		c.filters = []*filter{{all: true, done: func() {}}}
	}
	if !b.enter(c) {
		_ = ws.Close(statusTryAgain, fmt.Sprintf("too many connections: %d are there, which is the limit (integration.websocket_bridge.max_connections)", b.o.MaxConnections))
		return
	}
	b.log.Debug("browser connected", "remote", r.RemoteAddr, "user", c.user)
	var writing sync.WaitGroup
	writing.Go(c.write)
	c.read()
	c.cancel()
	writing.Wait()
	b.leave(c)
	c.leave()
	_ = ws.CloseNow()
}

// leave takes back what the browser has had done.
func (c *conn) leave() {
	if d := c.driving(); d != nil { // whose context has ended
		<-d.over
	}
	c.mu.Lock()
	filters := c.filters
	c.filters = nil
	c.mu.Unlock()
	for _, f := range filters {
		f.done()
	}
	c.work.Wait() // calls, whose context has ended
	c.queue.close()
}

// close ends the connection, with a reason that the page can read.
func (c *conn) close(code websocket.StatusCode, reason string) {
	c.stopDrive(reason)
	c.closing.Do(func() {
		go func() { // waits for the browser's answer, 5 s at most
			_ = c.ws.Close(code, reason)
			c.cancel()
		}()
	})
}

// read takes in what the browser says.
func (c *conn) read() {
	for {
		kind, body, err := c.ws.Read(c.ctx)
		switch {
		case err != nil:
			return
		case kind != websocket.MessageText:
			c.say(answer{Op: "error", Code: "binary", Message: "binary frames are not understood: send JSON as text"})
			continue
		}
		var r request
		if err := json.Unmarshal(body, &r); err != nil {
			c.say(answer{Op: "error", Code: "bad_request", Message: "not a request in JSON: " + err.Error()})
			continue
		}
		c.do(&r)
	}
}

// write sends what waits. A browser that takes nothing for stallTime is cut off.
func (c *conn) write() {
	for {
		frame, dropped, over := c.queue.take()
		switch {
		case over != "":
			c.close(statusPolicy, over)
			return
		case dropped > 0:
			frame, _ = json.Marshal(answer{Op: "dropped", Dropped: dropped})
		case frame == nil:
			select {
			case <-c.queue.signal:
				continue
			case <-c.ctx.Done():
				return
			}
		}
		ctx, cancel := context.WithTimeout(c.ctx, c.b.stall)
		err := c.ws.Write(ctx, websocket.MessageText, frame)
		late := errors.Is(ctx.Err(), context.DeadlineExceeded)
		cancel()
		if err != nil {
			if late {
				c.stalled.Store(true)
				c.b.log.Info("a browser does not read, its connection is closed", "user", c.user)
			}
			c.cancel()
			_ = c.ws.CloseNow()
			return
		}
	}
}

func (c *conn) say(a answer) {
	frame, err := json.Marshal(a)
	if err == nil {
		c.queue.reply(frame)
	}
}

// offer queues a message, if the browser wants it and may have it.
func (c *conn) offer(s *sample) {
	wanted := false
	gap := time.Duration(0)
	c.mu.Lock()
	for _, f := range c.filters {
		if f.all && !strings.HasPrefix(s.rel, "commands/") || !f.all && topic.Match(f.full, s.name) {
			if !wanted || f.gap < gap { // the fastest of several filters
				gap = f.gap
			}
			wanted = true
		}
	}
	c.mu.Unlock()
	if wanted && c.mayReceive(s.name) {
		c.queue.put(s, gap)
	}
}

func (c *conn) mayReceive(name string) bool {
	rights := c.getRights()
	return rights == nil || rights.MayReceive(name)
}

func (c *conn) getRights() Rights {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rights
}

func (c *conn) setRights(r Rights) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rights = r
}

func (c *conn) fail(r *request, code, text string) {
	c.say(answer{Op: "error", ID: r.ID, Code: code, Message: text})
}

func (c *conn) ok(r *request) { c.say(answer{Op: "ok", ID: r.ID}) }

// do does what a browser asks for.
func (c *conn) do(r *request) {
	switch r.Op {
	case "subscribe":
		c.subscribe(r)
	case "unsubscribe":
		c.unsubscribe(r)
	case "publish":
		c.later(r, func(ctx context.Context) { c.publish(ctx, r) })
	case "call":
		c.later(r, func(ctx context.Context) { c.call(ctx, r) })
	case "cancel":
		c.mu.Lock()
		cancel := c.calls[string(r.Call)]
		c.mu.Unlock()
		if cancel == nil {
			c.fail(r, "unknown_call", "no call of that id waits")
			return
		}
		cancel()
		c.ok(r)
	case "drive":
		c.startDrive(r)
	case "setpoint":
		c.setPoint(r)
	case "undrive":
		c.undrive(r)
	case "engage":
		c.later(r, func(ctx context.Context) {
			if err := c.b.engage(ctx, c.user, r.Reason); err != nil {
				c.fail(r, "failed", err.Error())
				return
			}
			c.ok(r)
		})
	case "ping":
		c.say(answer{Op: "pong", ID: r.ID, Time: message.Seconds(time.Now())})
	default:
		c.fail(r, "unknown_op", fmt.Sprintf("unknown op %q: want subscribe, unsubscribe, publish, call, cancel, drive, setpoint, undrive, engage or ping", r.Op))
	}
}

// later runs f beside what the browser says next.
func (c *conn) later(r *request, f func(ctx context.Context)) {
	id := string(r.ID)
	timeout := callTime
	if r.Timeout > 0 {
		timeout = time.Duration(min(r.Timeout, longestCall.Seconds()) * float64(time.Second))
	}
	ctx, cancel := context.WithTimeout(c.ctx, timeout)
	c.mu.Lock()
	switch {
	case len(c.calls) >= maxCalls && r.Op != "engage":
		c.mu.Unlock()
		cancel()
		c.fail(r, "too_many", fmt.Sprintf("%d requests wait already", maxCalls))
		return
	case id == "" || r.Op == "engage": // a stop waits for no other request, and no other ends it
		id = fmt.Sprintf("#%p", r)
	case c.calls[id] != nil:
		c.mu.Unlock()
		cancel()
		c.fail(r, "bad_request", "a request of that id waits already")
		return
	}
	c.calls[id] = cancel
	c.mu.Unlock()
	c.work.Go(func() {
		defer func() {
			c.mu.Lock()
			delete(c.calls, id)
			c.mu.Unlock()
			cancel()
		}()
		f(ctx)
	})
}

func (c *conn) subscribe(r *request) {
	full, err := c.b.svc.Client().Topics().Resolve(r.Filter)
	if err == nil {
		err = topic.CheckFilter(full)
	}
	switch {
	case err != nil:
		c.fail(r, "bad_request", "filter: "+err.Error())
		return
	case r.Rate < 0 || r.Rate > maxRate:
		c.fail(r, "bad_request", fmt.Sprintf("rate: want messages per second, up to %d", maxRate))
		return
	}
	f := &filter{full: full}
	if r.Rate > 0 {
		f.gap = time.Duration(min(1/r.Rate, longestGap.Seconds()) * float64(time.Second))
	}
	ctx, cancel := context.WithTimeout(c.ctx, 5*time.Second)
	defer cancel()
	if f.done, err = c.b.feed.listen(ctx, full); err != nil {
		c.fail(r, "failed", err.Error())
		return
	}
	c.mu.Lock()
	gone := c.takeOut(func(o *filter) bool { return o.all || o.full == full })
	many := len(c.filters) >= maxFilters
	if !many {
		c.filters = append(c.filters, f)
	}
	c.mu.Unlock()
	for _, o := range gone {
		o.done()
	}
	if many {
		f.done()
		c.fail(r, "too_many", fmt.Sprintf("%d filters are subscribed to already", maxFilters))
		return
	}
	c.ok(r)
	if r.History {
		for _, s := range c.b.feed.last(full) {
			if !c.mayReceive(s.name) {
				continue
			}
			frame, err := json.Marshal(struct {
				Topic   string          `json:"topic"`
				Data    json.RawMessage `json:"data"`
				History bool            `json:"history"`
				Age     float64         `json:"age_s"`
			}{s.name, s.data, true, s.age(time.Now()).Seconds()})
			if err == nil {
				c.queue.reply(frame)
			}
		}
	}
}

func (c *conn) unsubscribe(r *request) {
	full, err := c.b.svc.Client().Topics().Resolve(r.Filter)
	if err != nil {
		c.fail(r, "bad_request", "filter: "+err.Error())
		return
	}
	c.mu.Lock()
	gone := c.takeOut(func(o *filter) bool { return o.full == full })
	c.mu.Unlock()
	for _, o := range gone {
		o.done()
	}
	if len(gone) == 0 {
		c.fail(r, "not_subscribed", "there is no subscription to "+r.Filter)
		return
	}
	c.ok(r)
}

// takeOut removes filters and returns them. c.mu is held.
func (c *conn) takeOut(which func(*filter) bool) (gone []*filter) {
	c.filters = slices.DeleteFunc(c.filters, func(o *filter) bool {
		if !which(o) {
			return false
		}
		gone = append(gone, o)
		return true
	})
	return gone
}

func (c *conn) publish(ctx context.Context, r *request) {
	if err := c.b.publish(ctx, c.getRights(), r); err != nil {
		code, text := explain(err)
		c.fail(r, code, text)
		return
	}
	c.ok(r)
}

func (c *conn) call(ctx context.Context, r *request) {
	var opts []client.CallOption
	if r.Progress {
		opts = append(opts, client.WithProgress(func(v json.RawMessage) { c.say(answer{Op: "progress", ID: r.ID, Value: v}) }))
	}
	result, err := c.b.call(ctx, c.user, c.getRights(), r.Service, r.Command, r.Parameters, opts...)
	if err != nil {
		code, text := explain(err)
		c.fail(r, code, text)
		return
	}
	c.say(answer{Op: "result", ID: r.ID, Result: result})
}
