package client

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/store"
	"github.com/lawnberry/lawnberry/message"
)

// commandTo makes a request as another program sends it, to be sent any number of times.
func commandTo(t *testing.T, target, command, correlation string) message.Message {
	t.Helper()
	m, err := message.NewCommand("py", message.Command{Target: target, Command: command, Parameters: []byte(`{"a":1}`)})
	if err != nil {
		t.Fatal(err)
	}
	m.Metadata.CorrelationID = correlation
	return m
}

func send(t *testing.T, c *Client, m message.Message) {
	t.Helper()
	if err := c.Publish(testContext(t), "commands/nav", m); err != nil {
		t.Fatal(err)
	}
}

// What was executed stays known over a restart: the same request is answered from the disk. Seen failing without recordEnd
// (the answer is "interrupted") and without recordBegin (it runs again).
func TestRepeatedAfterRestart(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	dir := t.TempDir()
	other := connect(t, Options{URL: b.URL(), ID: "py"})
	k := newCollector()
	subscribe(t, other, "responses/py", k.handle)
	m, failing := commandTo(t, "nav", "echo", "c1"), commandTo(t, "nav", "fail", "c2")
	for i := range 3 {
		server := connect(t, Options{URL: b.URL(), ID: "nav", Dir: dir})
		ran, _ := serve(t, server, "nav")
		send(t, other, m)
		k.wait(t, 2*i+1)
		send(t, other, failing)
		k.wait(t, 2*i+2)
		want := int32(0)
		if i == 0 {
			want = 2
		}
		if n := ran.Load(); n != want {
			t.Errorf("process %d ran %d commands, want %d", i, n, want)
		}
		if err := server.Close(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
	for i, d := range k.all() {
		if first := k.all()[i%2]; d.Message.Metadata.CorrelationID != fmt.Sprint("c", 1+i%2) || string(d.Message.Payload) != string(first.Message.Payload) {
			t.Errorf("%d: %s", i, d.Message.Payload)
		}
		if code, _ := d.user(codeKey); i%2 == 1 && code != CodeFailed {
			t.Errorf("%d: code %q", i, code)
		}
	}
}

// Repeatable commands leave no record, and are known while the process lives.
func TestRepeatableCommands(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	server := connect(t, Options{URL: b.URL(), ID: "nav", Dir: t.TempDir()})
	var ran atomic.Int32
	_, err := server.ServeCommands(testContext(t), "nav", nil, func(context.Context, *Request) (any, error) {
		ran.Add(1)
		return nil, nil
	}, WithRepeatable(func(command string) bool { return command == "echo" }))
	if err != nil {
		t.Fatal(err)
	}
	other := connect(t, Options{URL: b.URL(), ID: "py"})
	k := newCollector()
	subscribe(t, other, "responses/py", k.handle)
	m := commandTo(t, "nav", "echo", "c1")
	for i := range 2 {
		send(t, other, m)
		k.wait(t, i+1)
	}
	if keys, _ := keysOn(t, server); len(keys) != 0 || ran.Load() != 1 {
		t.Errorf("%d ran, %d on the disk", ran.Load(), len(keys))
	}
	send(t, other, commandTo(t, "nav", "drive", "c2"))
	k.wait(t, 3)
	if keys, _ := keysOn(t, server); len(keys) != 1 {
		t.Errorf("%d on the disk", len(keys))
	}
}

// begunRecord stores what a process leaves that is killed while a request runs.
func begunRecord(t *testing.T, dir, id string, rec requestRecord) {
	t.Helper()
	s, err := store.Open(dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var b store.Batch
	if err := rec.set(&b, requestID{"py", id}); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(&b); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// What a crash has interrupted is not run again. Its caller is told at once when it can still wait, and whenever the
// request comes again. Seen failing without the send in interrupted.
func TestInterruptedRequest(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	dir := t.TempDir()
	other := connect(t, Options{URL: b.URL(), ID: "py"})
	k := newCollector()
	subscribe(t, other, "responses/py", k.handle)
	m := commandTo(t, "nav", "echo", "c")
	begunRecord(t, dir, m.Metadata.ID, requestRecord{Seq: 7, Command: "echo", Deadline: time.Now().Add(time.Minute), Topic: "responses/py", Correlation: "c", Data: []byte("d")})
	begunRecord(t, dir, "old", requestRecord{Seq: 3, Command: "echo", Deadline: time.Now().Add(-time.Minute), Topic: "responses/py", Correlation: "nobody waits"})

	// One that had just ended, whose answer may not have left, and one from long before.
	answer, err := message.NewResponse("nav", message.Response{Success: true})
	if err != nil {
		t.Fatal(err)
	}
	answer.Metadata.CorrelationID = "ended"
	body, err := answer.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	begunRecord(t, dir, "ended", requestRecord{Seq: 200, Ended: 200, Done: true, Command: "echo", Deadline: time.Now().Add(time.Minute), Topic: "responses/late", Answer: body})
	begunRecord(t, dir, "before", requestRecord{Seq: 4, Ended: 5, Done: true, Command: "echo", Deadline: time.Now().Add(time.Minute), Topic: "responses/late", Answer: body})
	late := newCollector()
	subscribe(t, other, "responses/late", late.handle)

	server := connect(t, Options{URL: b.URL(), ID: "nav", Dir: dir})
	ran, _ := serve(t, server, "nav")
	k.wait(t, 1)
	late.wait(t, 1)
	if got := late.settle(t, other); len(got) != 1 || late.all()[0].Message.Metadata.CorrelationID != "ended" {
		t.Errorf("%q", got)
	}
	send(t, other, m)
	k.wait(t, 2)
	for _, d := range k.all() {
		r, err := message.Payload[message.Response](d.Message)
		if err != nil || r.Success || r.Error == nil || *r.Error != "interrupted by a restart: outcome unknown" {
			t.Errorf("%v %s", err, d.Message.Payload)
		}
		if code, _ := d.user(codeKey); code != CodeInterrupted || string(d.CorrelationData) != "d" || d.Message.Metadata.CorrelationID != "c" {
			t.Errorf("%+v", d)
		}
	}
	if n := ran.Load(); n != 0 {
		t.Errorf("run %d times", n)
	}
	// The caller of a Call hears it as an error with that code.
	e := asCommandError(t, other.outcome("nav", "echo", callResult{answer: k.all()[0]}, nil))
	if e.Code != CodeInterrupted || !strings.Contains(e.Error(), "outcome unknown") {
		t.Errorf("%+v", e)
	}
}

// A disk that fails stops no command: it is counted, and said once.
func TestCommandsWithoutDisk(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	log, text := logged()
	server := connect(t, Options{URL: b.URL(), ID: "nav", Dir: t.TempDir(), Logger: log})
	ran, _ := serve(t, server, "nav")
	c := connect(t, Options{URL: b.URL()})
	if err := c.Call(testContext(t), "nav", "echo", nil, nil); err != nil {
		t.Fatal(err)
	}
	if n := server.Stats().Unrecorded; n != 0 {
		t.Errorf("%d unrecorded", n)
	}
	if err := server.disk.Close(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := c.Call(testContext(t), "nav", "echo", nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := server.Stats().Unrecorded; n != 3 || ran.Load() != 4 {
		t.Errorf("%d unrecorded, %d ran", n, ran.Load())
	}
	if n := strings.Count(text(), "commands run without a record on disk"); n != 1 {
		t.Errorf("said %d times", n)
	}
}

// keysOn returns the keys of requests on the disk of a client.
func keysOn(t *testing.T, c *Client) (keys []string, records []requestRecord) {
	t.Helper()
	err := c.disk.Scan([]byte{requestKey}, func(key, value []byte) error {
		var r requestRecord
		keys = append(keys, string(key[1:]))
		err := json.Unmarshal(value, &r)
		records = append(records, r)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys, records
}

// The table is bounded, in memory and on disk: by number, but what may come again before its deadline is kept for longer.
func TestTableIsBounded(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	dir := t.TempDir()
	c := connect(t, Options{URL: b.URL(), ID: "nav", Dir: dir})
	now := time.Now()
	run := func(c *Client, i int, deadline time.Time) {
		r := &Request{Sender: "py", key: requestID{"py", fmt.Sprint(i)}, Deadline: deadline, replyTo: "responses/py", Delivery: &Delivery{}}
		e, first := c.requests.begin(context.Background(), r)
		if !first {
			t.Fatalf("%d has begun before", i)
		}
		c.recordBegin(r, e)
		c.requests.end(e, nil)
		c.recordEnd(e, nil)
	}
	n := 0
	for ; n < 100; n++ { // live: kept beyond the bound
		run(c, n, now.Add(time.Hour))
	}
	for ; n < maxRequests+100; n++ {
		run(c, n, now)
	}
	keys, _ := keysOn(t, c)
	if len(keys) != maxRequests+100 || len(c.requests.seen) != maxRequests+100 {
		t.Errorf("%d on disk, %d in memory", len(keys), len(c.requests.seen))
	}
	c.requests.mu.Lock()
	for _, e := range c.requests.order {
		e.deadline = now
	}
	c.requests.mu.Unlock()
	for end := n + 200; n < end; n++ {
		run(c, n, now)
	}
	keys, records := keysOn(t, c)
	if len(keys) > maxRequests+1 || len(c.requests.seen) > maxRequests {
		t.Errorf("%d on disk, %d in memory", len(keys), len(c.requests.seen))
	}
	for _, r := range records {
		if !r.Done {
			t.Errorf("%+v", r)
		}
	}
	if err := c.Close(testContext(t)); err != nil {
		t.Fatal(err)
	}
	for i := range 50 { // as a process leaves them that was killed before it could delete
		begunRecord(t, dir, fmt.Sprint("old", i), requestRecord{Seq: 1, Done: true, Deadline: now})
	}
	c = connect(t, Options{URL: b.URL(), ID: "nav", Dir: dir})
	keys, _ = keysOn(t, c)
	if len(keys) != maxRequests || len(c.requests.seen) != maxRequests || c.requests.seq < uint64(n) {
		t.Errorf("after a restart: %d on disk, %d in memory, number %d of %d", len(keys), len(c.requests.seen), c.requests.seq, n)
	}
	if e := c.requests.seen[requestID{"py", fmt.Sprint(n - 1)}]; e == nil {
		t.Error("the latest is forgotten")
	}
}
