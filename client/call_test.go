package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/brokertest"
	"github.com/lawnberry/lawnberry/internal/faultnet"
	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

type point struct {
	X float64 `json:"x"`
	Y float64 `json:"y"`
}

// serve answers commands to name: echo, fail, coded, panic, hang, big, nothing.
func serve(t testing.TB, c *Client, name string) (ran *atomic.Int32, cancelled chan error) {
	t.Helper()
	ran, cancelled = new(atomic.Int32), make(chan error, 16)
	_, err := c.ServeCommands(testContext(t), name, func(target string) bool { return target == name }, func(ctx context.Context, r *Request) (any, error) {
		ran.Add(1)
		switch r.Command {
		case "echo":
			return r.Parameters, nil
		case "fail":
			return nil, errors.New("blade is stuck")
		case "coded":
			return nil, &CommandError{Service: name, Command: r.Command, Code: CodeBadParameters, Message: "parameters.speed must be a number"}
		case "panic":
			panic("oops")
		case "hang":
			<-ctx.Done()
			cancelled <- ctx.Err()
			return nil, ctx.Err()
		case "big":
			return strings.Repeat("x", 20_000), nil
		case "unencodable":
			return make(chan int), nil
		case "nothing":
			return nil, nil
		case "deadline":
			d, ok := ctx.Deadline()
			return ok && time.Until(d) < time.Minute && r.Deadline.Sub(d).Abs() < time.Second, nil
		}
		return nil, &CommandError{Code: CodeUnknownCommand, Message: "unknown command " + r.Command}
	})
	if err != nil {
		t.Fatal(err)
	}
	return ran, cancelled
}

func TestCall(t *testing.T) {
	modes(t, func(t *testing.T, b brokertest.Broker, o Options) {
		server := connect(t, Options{URL: b.URL(), ID: "nav"})
		serve(t, server, "nav")
		caller := connect(t, o)
		var got point
		if err := caller.Call(testContext(t), "nav", "echo", point{1, 2}, &got); err != nil || got != (point{1, 2}) {
			t.Error(got, err)
		}
		if err := caller.Call(testContext(t), "nav", "echo", nil, nil); err != nil {
			t.Error(err)
		}
		var inTime bool
		if err := caller.Call(testContext(t), "nav", "deadline", nil, &inTime); err != nil || !inTime {
			t.Error(inTime, err)
		}
		if err := caller.Call(testContext(t), "nav", "nothing", nil, &got); err != nil {
			t.Error(err)
		}
		v5 := caller.Stats().Version == 5
		for _, tt := range []struct{ command, code, text string }{
			{"fail", CodeFailed, "nav fail: blade is stuck"},
			{"coded", CodeBadParameters, "nav coded: parameters.speed must be a number"},
			{"panic", CodeFailed, "nav panic: the handler panicked: oops"},
			{"big", CodeFailed, "the result cannot be sent"},
			{"unencodable", CodeFailed, "chan int"},
			{"nosuch", CodeUnknownCommand, "nav nosuch: unknown command nosuch"},
		} {
			err := caller.Call(testContext(t), "nav", tt.command, map[string]any{"speed": "x"}, nil)
			e := asCommandError(t, err)
			if !v5 {
				tt.code = CodeFailed // the base format has no codes
			}
			if e.Code != tt.code || e.Service != "nav" || e.Command != tt.command || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%+v: %v", e, err)
			}
		}
		var wrong struct{ X string }
		err := caller.Call(testContext(t), "nav", "echo", point{1, 2}, &wrong)
		var unfit *json.UnmarshalTypeError
		if e := asCommandError(t, err); e.Code != CodeFailed || !errors.As(err, &unfit) {
			t.Error(err)
		}
		for _, target := range []string{"", "a/b", "a+", "#"} {
			if err := caller.Call(testContext(t), target, "x", nil, nil); err == nil {
				t.Errorf("target %q was accepted", target)
			}
		}
		if err := caller.Call(testContext(t), "nav", "", nil, nil); err == nil {
			t.Error("an empty command was accepted")
		}
		if err := caller.Call(testContext(t), "nav", "echo", func() {}, nil); err == nil || !strings.Contains(err.Error(), "parameters") {
			t.Error(err)
		}
		if s := caller.Stats(); s.PendingCalls != 0 {
			t.Errorf("%+v", s)
		}
		if s := server.Stats(); s.Panics != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestCallNoSuchService(t *testing.T) {
	brokertest.Embedded(t, "it says at QoS 2 that nobody is subscribed")
	b := startBroker(t)
	c := connect(t, Options{URL: b.URL()})
	begin := time.Now()
	e := asCommandError(t, c.Call(context.Background(), "nobody", "x", nil, nil))
	if e.Code != CodeNoSuchService || !strings.Contains(e.Error(), "nobody serves nobody") {
		t.Errorf("%+v", e)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestCallTimeoutAndCancel(t *testing.T) {
	b := startBroker(t)
	server := connect(t, Options{URL: b.URL(), ID: "nav"})
	ran, cancelled := serve(t, server, "nav")
	c := connect(t, Options{URL: b.URL()})

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := c.Call(ctx, "nav", "hang", nil, nil)
	e := asCommandError(t, err)
	if e.Code != CodeTimeout || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "outcome unknown") {
		t.Error(err)
	}
	if err := <-cancelled; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the handler's context: %v", err)
	}
	if e := asCommandError(t, c.Call(ctx, "nav", "hang", nil, nil)); e.Code != CodeTimeout || !strings.Contains(e.Message, "deadline had passed") {
		t.Error(e)
	}

	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Call(ctx, "nav", "hang", nil, nil) }()
	eventually(t, "it runs", func() bool { return ran.Load() == 2 })
	stop()
	err = <-done
	if e := asCommandError(t, err); e.Code != CodeCancelled || !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "outcome unknown") {
		t.Error(err)
	}
	if err := <-cancelled; !errors.Is(err, context.Canceled) { // the target was told
		t.Errorf("the handler's context: %v", err)
	}
}

// A call that could not be sent is not sent later.
func TestCallWithoutConnection(t *testing.T) {
	b := startBroker(t)
	server := connect(t, Options{URL: b.URL(), ID: "nav"})
	ran, _ := serve(t, server, "nav")
	p, url := startProxy(t, b)
	c := connect(t, Options{URL: url})
	offline(t, p, c)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if e := asCommandError(t, c.Call(ctx, "nav", "echo", nil, nil)); e.Code != CodeTimeout || !strings.Contains(e.Message, "not sent: no connection") {
		t.Error(e)
	}
	ctx, cancel = context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Call(ctx, "nav", "echo", nil, nil) }()
	eventually(t, "it waits", func() bool { return c.Stats().Outbox == 1 && c.Stats().PendingCalls == 1 })
	cancel()
	if e := asCommandError(t, <-done); e.Code != CodeCancelled || !strings.Contains(e.Message, "before it was sent") {
		t.Error(e)
	}
	if n := c.Stats().Outbox; n != 0 {
		t.Errorf("%d messages in the outbox", n)
	}
	go func() { done <- c.Call(testContext(t), "nav", "echo", nil, nil) }()
	eventually(t, "the next waits", func() bool { return c.Stats().Outbox == 1 })
	p.Refuse(false)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := ran.Load(); n != 1 {
		t.Errorf("%d were run", n)
	}
}

// A call goes on across a cut.
func TestCallAcrossCut(t *testing.T) {
	brokertest.Embedded(t, "it passes QoS 2 on before PUBREL")
	b := startBroker(t)
	server := connect(t, Options{URL: b.URL(), ID: "nav"})
	ran, _ := serve(t, server, "nav")
	p, url := startProxy(t, b)
	c := connect(t, Options{URL: url})
	p.Set(faultnet.Down, faultnet.Faults{Stall: true})
	done := make(chan error, 1)
	go func() { done <- c.Call(testContext(t), "nav", "echo", nil, nil) }()
	eventually(t, "it has run", func() bool { return ran.Load() == 1 })
	p.Set(faultnet.Down, faultnet.Faults{})
	p.Cut(true)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := ran.Load(); n != 1 {
		t.Errorf("run %d times", n)
	}
}

func TestCallRefused(t *testing.T) {
	dial := scripted(t, func(_ int, s *script) {
		if s.accept(packet.Connack{}) == nil {
			return
		}
		p, ok := want[*packet.Publish](s)
		if !ok {
			return
		}
		s.send(&packet.Ack{Kind: packet.PUBREC, ID: p.ID, Code: packet.NotAuthorized})
		s.drain()
	})
	c := connect(t, Options{Dial: dial})
	e := asCommandError(t, c.Call(testContext(t), "nav", "x", nil, nil))
	var refused *RefusedError
	if e.Code != CodeRefused || !strings.Contains(e.Message, "Not authorized") || !errors.As(e, &refused) || refused.Code != byte(packet.NotAuthorized) {
		t.Error(e)
	}
	dial = scripted(t, func(_ int, s *script) {
		s.next()
		s.send(&packet.Connack{})
		if sub, ok := want[*packet.Subscribe](s); ok {
			s.send(&packet.Suback{ID: sub.ID, Codes: []packet.Code{packet.NotAuthorized}})
		}
		s.drain()
	})
	c = connect(t, Options{Dial: dial})
	if e := asCommandError(t, c.Call(testContext(t), "nav", "x", nil, nil)); e.Code != CodeRefused || !strings.Contains(e.Message, "no answer could be received") {
		t.Error(e)
	}
}

// wireRequest is what is on the wire of a request, and of its answer, byte by byte.
func TestCallOnTheWire(t *testing.T) {
	b := startBroker(t)
	server := connect(t, Options{URL: b.URL(), ID: "nav"})
	serve(t, server, "nav")
	watcher := connect(t, Options{URL: b.URL()})
	k := newCollector()
	subscribe(t, watcher, "#", k.handle)
	c := connect(t, Options{URL: b.URL(), ID: "web"})
	ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
	defer cancel()
	if err := c.Call(ctx, "nav", "fail", point{1, 2}, nil); err == nil {
		t.Fatal("no error")
	}
	k.wait(t, 2)
	var request, answer *Delivery
	for _, d := range k.all() {
		if strings.HasPrefix(d.Topic, "commands/") {
			request = d
		} else {
			answer = d
		}
	}
	m := request.Message.Metadata
	cmd, err := message.Payload[message.Command](request.Message)
	if err != nil {
		t.Fatal(err)
	}
	if request.Topic != "commands/nav" || request.QoS != 2 || m.Sender != "web" || m.Type != message.TypeCommand || m.CorrelationID == "" || m.CorrelationID == m.ID ||
		string(request.CorrelationData) != m.CorrelationID || request.ResponseTopic != "lawnberry/responses/web" || request.Expiry != 3*time.Second {
		t.Errorf("%+v", request)
	}
	if left := m.ExpiresAt - m.Timestamp; left < 2.3 || left > 2.6 || cmd.Timeout < 2.3 || cmd.Timeout > 2.5 || cmd.Target != "nav" || cmd.Command != "fail" ||
		string(cmd.Parameters) != `{"x":1,"y":2}` || !cmd.WantsAck() {
		t.Errorf("%v %+v", left, cmd)
	}
	a := answer.Message.Metadata
	r, err := message.Payload[message.Response](answer.Message)
	if err != nil || answer.Topic != "responses/web" || answer.QoS != 2 || a.Sender != "nav" || a.Type != message.TypeResponse || a.CorrelationID != m.CorrelationID ||
		string(answer.CorrelationData) != m.CorrelationID || answer.ContentType != contentType {
		t.Errorf("%v %+v", err, answer)
	}
	if code, _ := answer.user(codeKey); code != CodeFailed || r.Success || *r.Error != "blade is stuck" || *r.ExecutionTime < 0 {
		t.Errorf("%+v", r)
	}
}

// raw requests, as those of others, with what must come back.
func TestRequestsOfOthers(t *testing.T) {
	b := startBroker(t)
	server := connect(t, Options{URL: b.URL(), ID: "nav"})
	ran, _ := serve(t, server, "nav")
	other := connect(t, Options{URL: b.URL(), ID: "other"})
	answers := newCollector()
	subscribe(t, other, "responses/py", answers.handle)
	subscribe(t, other, topic.Absolute("reply/here"), answers.handle)
	subscribe(t, other, "safety/emergency_stop", answers.handle)
	n := 0
	envelope := func(metadata, payload string) string {
		n++
		return fmt.Sprintf(`{"metadata":{"timestamp":%f,"message_id":"id-%d","sender":"py","message_type":"command","priority":1%s},"payload":{"command":"echo","target":"nav"%s}}`,
			message.Seconds(time.Now()), n, metadata, payload)
	}
	past := fmt.Sprintf(`,"expires_at":%f`, message.Seconds(time.Now().Add(-time.Second)))
	plain := `{"command":"echo","parameters":{"a":1}}`
	reply := topic.Absolute("reply/here")
	tests := []struct {
		name    string
		body    string
		opts    []PublishOption
		runs    bool
		topic   string // of the answer; "" is none
		corr    string // correlation_id of the answer
		data    string // its correlation data
		success bool
	}{
		{"base format", envelope(`,"correlation_id":"c1"`, `,"parameters":{"a":1}`), nil, true, "responses/py", "c1", "", true},
		{"without correlation id", envelope("", ""), nil, true, "responses/py", "", "", true},
		{"without wish for an answer", envelope("", `,"require_ack":false`), nil, true, "", "", "", false},
		{"correlated all the same", envelope(`,"correlation_id":"c2"`, `,"require_ack":false`), nil, true, "responses/py", "c2", "", true},
		{"response topic", envelope(`,"correlation_id":"c3"`, ""), []PublishOption{WithResponse(reply, []byte("d"))}, true, "reply/here", "c3", "d", true},
		{"response topic that means something else", envelope(`,"correlation_id":"c4"`, ""), []PublishOption{WithResponse("safety/emergency_stop", nil)}, true, "responses/py", "c4", "", true},
		{"for another target", strings.Replace(envelope(`,"correlation_id":"c5"`, ""), `"nav"`, `"vision"`, 1), nil, false, "", "", "", false},
		{"retained", envelope(`,"correlation_id":"c6"`, ""), []PublishOption{WithRetain(true)}, true, "responses/py", "c6", "", true}, // live once
		{"no command type", strings.Replace(envelope(`,"correlation_id":"c8"`, ""), `"command","priority"`, `"event","priority"`, 1), nil, false, "", "", "", false},
		{"plain", plain, []PublishOption{WithResponse(reply, []byte{0, 255})}, true, "reply/here", "", "\x00\xff", true},
		{"plain, repeated", plain, []PublishOption{WithResponse(reply, []byte{0, 255})}, true, "reply/here", "", "\x00\xff", true},
		{"plain without response topic", plain, nil, false, "", "", "", false},
		{"plain nonsense", "start!", []PublishOption{WithResponse(reply, []byte("x"))}, false, "reply/here", "", "x", false},
		{"plain without command", `{"a":1}`, []PublishOption{WithResponse(reply, []byte("y"))}, false, "reply/here", "", "y", false},
		{"expired", envelope(`,"correlation_id":"c7"`+past, ""), nil, false, "-", "", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before, had := ran.Load(), len(answers.all())
			publish(t, other, "commands/nav", tt.body, append([]PublishOption{WithQoS(2)}, tt.opts...)...)
			if tt.runs {
				eventually(t, "it runs", func() bool { return ran.Load() == before+1 })
			}
			if tt.topic == "" || tt.topic == "-" {
				var pong any
				if err := other.Call(testContext(t), "nav", "echo", nil, &pong); err != nil { // behind it
					t.Fatal(err)
				}
				if !tt.runs && ran.Load() != before+1 {
					t.Error("it was run")
				}
				if got := len(answers.all()); tt.topic == "" && got != had {
					t.Errorf("answered: %+v", answers.all()[had])
				}
				return
			}
			answers.wait(t, had+1)
			d := answers.all()[had]
			r, err := message.Payload[message.Response](d.Message)
			if err != nil {
				t.Fatal(err)
			}
			if d.Topic != tt.topic || d.Message.Metadata.CorrelationID != tt.corr || string(d.CorrelationData) != tt.data || r.Success != tt.success || d.Retained {
				t.Errorf("%+v %+v", d, r)
			}
		})
	}
	// A retained command is there for whoever subscribes: it is not executed.
	late := connect(t, Options{URL: b.URL(), ID: "late"})
	ran, _ = serve(t, late, "nav")
	eventually(t, "it is counted", func() bool { return late.Stats().Rejected[ReasonRetained] == 1 })
	if ran.Load() != 0 {
		t.Error("a retained command was executed")
	}
}

// The same message again, in whatever way, is answered from memory and not run.
func TestRepeatedRequest(t *testing.T) {
	b := startBroker(t)
	server := connect(t, Options{URL: b.URL(), ID: "nav"})
	ran, _ := serve(t, server, "nav")
	other := connect(t, Options{URL: b.URL(), ID: "py"})
	k := newCollector()
	subscribe(t, other, "responses/py", k.handle)
	m, err := message.NewCommand("py", message.Command{Target: "nav", Command: "echo", Parameters: []byte(`{"a":1}`)})
	if err != nil {
		t.Fatal(err)
	}
	m.Metadata.CorrelationID = "c"
	for i := range 3 {
		if err := other.Publish(testContext(t), "commands/nav", m); err != nil {
			t.Fatal(err)
		}
		k.wait(t, i+1)
	}
	if n := ran.Load(); n != 1 {
		t.Errorf("run %d times", n)
	}
	for _, d := range k.all() {
		if d.Message.Metadata.CorrelationID != "c" || string(d.Message.Payload) != string(k.all()[0].Message.Payload) {
			t.Errorf("%s", d.Message.Payload)
		}
	}
	// While it still runs it is not begun again; a different message of the same sender is.
	m.Metadata.ID = "another"
	if err := other.Publish(testContext(t), "commands/nav", m); err != nil {
		t.Fatal(err)
	}
	k.wait(t, 4)
	if n := ran.Load(); n != 2 {
		t.Errorf("run %d times", n)
	}
}

func TestRequestsAreForgotten(t *testing.T) {
	var q requests
	q.init()
	request := func(i int) *Request { return &Request{Sender: "a", key: requestID{"a", fmt.Sprint(i)}} }
	running, _ := q.begin(context.Background(), request(-1))
	for i := range 2 * maxRequests {
		e, first := q.begin(context.Background(), request(i))
		if !first {
			t.Fatalf("%d has begun before", i)
		}
		q.end(e, nil)
	}
	if len(q.seen) > maxRequests+1 || len(q.order) > maxRequests+1 {
		t.Errorf("%d remembered, %d in order", len(q.seen), len(q.order))
	}
	if e, first := q.begin(context.Background(), request(-1)); first || e != running {
		t.Error("one that runs was forgotten")
	}
	if _, first := q.begin(context.Background(), request(2*maxRequests-1)); first {
		t.Error("the latest was forgotten")
	}
	if _, first := q.begin(context.Background(), request(0)); !first {
		t.Error("the oldest was remembered")
	}
}

// At most Options.Commands at once; the rest waits and is run later.
func TestConcurrencyOfCommands(t *testing.T) {
	b := startBroker(t)
	server := connect(t, Options{URL: b.URL(), ID: "nav", Commands: 3})
	var now, most atomic.Int32
	release := make(chan struct{})
	if _, err := server.ServeCommands(testContext(t), "nav", nil, func(context.Context, *Request) (any, error) {
		n := now.Add(1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		<-release
		now.Add(-1)
		return nil, nil
	}); err != nil {
		t.Fatal(err)
	}
	c := connect(t, Options{URL: b.URL()})
	var wg sync.WaitGroup
	for range 20 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := c.Call(testContext(t), "nav", "x", nil, nil); err != nil {
				t.Error(err)
			}
		}()
	}
	eventually(t, "three run", func() bool { return now.Load() == 3 })
	eventually(t, "all wait", func() bool { return c.Stats().PendingCalls == 20 })
	close(release)
	wg.Wait()
	if most.Load() != 3 {
		t.Errorf("%d at once", most.Load())
	}
}

// Many calls at once, each gets its own answer; late and second answers go nowhere.
func TestConcurrentCalls(t *testing.T) {
	b := startBroker(t)
	server := connect(t, Options{URL: b.URL(), ID: "nav"})
	serve(t, server, "nav")
	again := connect(t, Options{URL: b.URL(), ID: "twin"})
	serve(t, again, "nav") // answers everything too
	c := connect(t, Options{URL: b.URL()})
	var wg sync.WaitGroup
	for g := range 20 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 20 {
				var got point
				if err := c.Call(testContext(t), "nav", "echo", point{float64(g), float64(i)}, &got); err != nil || got != (point{float64(g), float64(i)}) {
					t.Error(got, err)
				}
			}
		}()
	}
	wg.Wait()
}

// A plain MQTT 5 service answers with whatever JSON.
func TestCallPlainService(t *testing.T) {
	b := startBroker(t)
	server := connect(t, Options{URL: b.URL()})
	subscribe(t, server, "commands/plain", func(ctx context.Context, d *Delivery) {
		if err := server.Publish(context.WithoutCancel(ctx), topic.Absolute(d.ResponseTopic), raw(`{"x":7}`), func(p *publishing) { p.correlation = d.CorrelationData }); err != nil {
			t.Error(err)
		}
	})
	c := connect(t, Options{URL: b.URL()})
	var got point
	if err := c.Call(testContext(t), "plain", "x", nil, &got); err != nil || got.X != 7 {
		t.Error(got, err)
	}
}

func TestCallEndsWithClose(t *testing.T) {
	b := startBroker(t)
	server := connect(t, Options{URL: b.URL(), ID: "nav"})
	ran, cancelled := serve(t, server, "nav")
	c := connect(t, Options{URL: b.URL()})
	done := make(chan error, 2)
	go func() { done <- c.Call(testContext(t), "nav", "hang", nil, nil) }()
	other := connect(t, Options{URL: b.URL()})
	go func() { done <- other.Call(testContext(t), "nav", "hang", nil, nil) }()
	eventually(t, "both run", func() bool { return ran.Load() == 2 })
	_ = c.Close(testContext(t))
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if err := server.Close(testContext(t)); err != nil { // what runs is ended, and still answered
		t.Error(err)
	}
	<-cancelled
	<-cancelled
	if e := asCommandError(t, <-done); e.Code != CodeCancelled || !strings.Contains(e.Message, "outcome unknown") {
		t.Error(e)
	}
}
