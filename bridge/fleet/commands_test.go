package fleet

import (
	"bytes"
	"context"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/natstest"
	"github.com/lawnberry/lawnberry/internal/seal"
	"github.com/lawnberry/lawnberry/message"
)

func encode64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// A command gets to the service, and its result or its error back; each is an event on the mower's bus.
func TestCommands(t *testing.T) {
	t.Parallel()
	y := newYard(t, natstest.Start(t), func(o *downlinkOptions) {
		o.permits = []string{"navigation/*", "nobody/*"}
	})
	y.service("power")
	ctx := testContext(t)
	result, err := y.anna.Call(ctx, yardMower, "navigation", "count", named("a"))
	if err != nil || string(result) != `{"count":1}` {
		t.Errorf("%s, %v", result, err)
	}
	e := y.event("of the command", func(a audit) bool { return a.Outcome == outcomeSucceeded })
	if e.Operator != "anna" || e.Service != "navigation" || e.Command != "count" || e.Key == "" || e.ID == "" || e.Lane != "command" {
		t.Errorf("event %+v", e)
	}
	for _, tt := range []struct{ service, command, code, text string }{
		{"navigation", "fail", "stuck", "the blade is stuck"},
		{"navigation", "nothing", client.CodeUnknownCommand, "nothing"},
		{"nobody", "count", client.CodeNoSuchService, ""},
		{"power", "count", fleet.CodeForbidden, "integration.fleet.down"},
		{"navigation", "$cancel", fleet.CodeForbidden, ""},
	} {
		_, err := y.anna.Call(ctx, yardMower, tt.service, tt.command, nil)
		if code(err) != tt.code || !strings.Contains(err.Error(), tt.text) || !strings.Contains(err.Error(), yardMower) {
			t.Errorf("%s/%s: %q, %v; want %q with %q", tt.service, tt.command, code(err), err, tt.code, tt.text)
		}
		outcome := outcomeFailed
		if tt.code == fleet.CodeForbidden {
			outcome = outcomeRefused
		}
		y.event(tt.command, func(a audit) bool {
			return a.Service == tt.service && a.Command == tt.command && a.Code == tt.code && a.Outcome == outcome
		})
	}
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if _, err := y.anna.Call(short, yardMower, "navigation", "slow", named("late")); code(err) != client.CodeTimeout {
		t.Errorf("what does not end: %v", err)
	}
	if n := y.runs("power "); n != 0 {
		t.Errorf("a forbidden command ran %d times", n)
	}
}

// A mower that is not there is refused at once; one whose engine says that it is there is asked until the deadline.
func TestOffline(t *testing.T) {
	t.Parallel()
	y := newBareYard(t, natstest.Start(t))
	ctx := testContext(t)
	if _, err := y.anna.Call(ctx, yardMower, "navigation", "count", named("a")); code(err) != fleet.CodeOffline {
		t.Errorf("%v", err)
	}
	if _, err := y.anna.Stop(ctx, yardMower, "test"); code(err) != fleet.CodeOffline {
		t.Errorf("%v", err)
	}
	y.present(true)
	begun := make(chan error, 1)
	go func() {
		_, err := y.anna.Call(ctx, yardMower, "navigation", "count", named("b"))
		begun <- err
	}()
	short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	if _, err := y.anna.Call(short, yardMower, "navigation", "count", named("c")); code(err) != fleet.CodeOffline || !strings.Contains(err.Error(), "has not run") {
		t.Errorf("%v", err)
	}
	y.start(nil)
	check(t, <-begun)
	y.stop()
	y.present(false)
	if _, err := y.anna.Call(ctx, yardMower, "navigation", "count", named("d")); code(err) != fleet.CodeOffline {
		t.Errorf("%v", err)
	}
	if y.runs("navigation b") != 1 || y.runs("navigation a")+y.runs("navigation c")+y.runs("navigation d") != 0 {
		t.Errorf("%v", y.ran)
	}
}

// A mower that may have a command, and goes away, is not said to be one that has not run it.
func TestGone(t *testing.T) {
	t.Parallel()
	y := newBareYard(t, natstest.Start(t))
	heard := make(chan *nats.Msg, 10)
	sub, err := y.nc.ChanSubscribe(fleet.CommandFilter(yardMower), heard)
	check(t, err)
	go func() {
		<-heard
		_ = sub.Unsubscribe()
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if _, err := y.anna.Call(ctx, yardMower, "navigation", "count", nil); code(err) != client.CodeTimeout || !strings.Contains(err.Error(), "outcome unknown") {
		t.Errorf("%v", err)
	}
}

// What is forged, late, unsigned, unreadable or addressed wrongly does not run, and is answered with a code and a reason.
func TestRefused(t *testing.T) {
	t.Parallel()
	y := newYard(t, natstest.Start(t), nil)
	y.service("power")
	mallory := filepath.Join(t.TempDir(), "mallory.keys")
	key, err := seal.Generate(seal.Ed25519, "mallory", 0)
	check(t, err)
	check(t, seal.Create(mallory, key))
	bob := filepath.Join(t.TempDir(), "bob.keys")
	key, err = seal.Generate(seal.Ed25519, "bob", 0)
	check(t, err)
	check(t, seal.Create(bob, key))
	nobody := filepath.Join(t.TempDir(), "nobody.keys")
	unnamed, err := seal.Generate(seal.Ed25519, "", 0)
	check(t, err)
	check(t, seal.Create(nobody, unnamed))
	f, err := os.OpenFile(y.keys, os.O_APPEND|os.O_WRONLY, 0)
	check(t, err)
	_, err = f.Write(seal.PublicLines([]*seal.Key{key, unnamed}, ""))
	check(t, err)
	check(t, f.Close())

	at := func(timestamp, expires time.Duration) func(*message.Message, *message.Command) {
		return func(m *message.Message, _ *message.Command) {
			m.Metadata.Timestamp = message.Seconds(time.Now().Add(timestamp))
			m.Metadata.ExpiresAt = message.Seconds(time.Now().Add(expires))
		}
	}
	for _, tt := range []struct {
		name, code, text string
		r                raw
	}{
		{"unsigned", fleet.CodeSignature, "not signed", raw{}},
		{"by a key that is not known", fleet.CodeSignature, "does not know the key", raw{keys: mallory}},
		{"by the key of another operator", fleet.CodeSignature, "does not sign for anna", raw{keys: bob}},
		{"by a key that is nobody's", fleet.CodeSignature, "without an identity", raw{keys: nobody}},
		{"for another mower", fleet.CodeSignature, "does not fit", raw{keys: y.private, signed: fleet.CommandTopic("m-2", "navigation")}},
		{"for another service", fleet.CodeSignature, "does not fit", raw{keys: y.private, signed: fleet.CommandTopic(yardMower, "power")}},
		{"signed as a job", fleet.CodeSignature, "does not fit", raw{keys: y.private, signed: fleet.JobTopic(yardMower, "navigation")}},
		{"changed on its way", fleet.CodeSignature, "does not fit", raw{keys: y.private, tamper: func(b []byte) []byte { return bytes.Replace(b, []byte(`"raw"`), []byte(`"row"`), 1) }}},
		{"a signature that is no base64", fleet.CodeSignature, "base64", raw{header: nats.Header{fleet.HeaderSignature: {"%"}}}},
		{"another algorithm", fleet.CodeSignature, "refused", raw{keys: y.private, header: nats.Header{fleet.HeaderAlgorithm: {"hmac-sha256"}}}},
		{"past its deadline", client.CodeTimeout, "had passed", raw{keys: y.private, edit: at(-20*time.Second, -10*time.Second)}},
		{"old", client.CodeTimeout, "old", raw{keys: y.private, edit: at(-10*time.Minute, 20*time.Minute)}},
		{"from the future", client.CodeTimeout, "behind", raw{keys: y.private, edit: at(10*time.Minute, 20*time.Minute)}},
		{"with a deadline that is far", client.CodeBadParameters, "at most", raw{keys: y.private, edit: at(0, 2*time.Hour)}},
		{"without a deadline", client.CodeBadParameters, "expires_at", raw{keys: y.private, edit: func(m *message.Message, _ *message.Command) { m.Metadata.ExpiresAt = 0 }}},
		{"with a deadline before it was made", client.CodeBadParameters, "expires_at", raw{keys: y.private, edit: at(10*time.Second, 5*time.Second)}},
		{"for another target", client.CodeBadParameters, "payload.target", raw{keys: y.private, edit: func(_ *message.Message, p *message.Command) { p.Target = "power" }}},
		{"for the emergency stop by another's subject", client.CodeBadParameters, "payload.target", raw{keys: y.private, edit: func(_ *message.Message, p *message.Command) { p.Target = "emergency_stop"; p.Command = "release" }}},
		{"with an id that cannot be printed", client.CodeBadParameters, "message_id", raw{keys: y.private, edit: func(m *message.Message, _ *message.Command) { m.Metadata.ID = "a\x00b" }}},
		{"with a long id", client.CodeBadParameters, "message_id", raw{keys: y.private, edit: func(m *message.Message, _ *message.Command) { m.Metadata.ID = strings.Repeat("x", 200) }}},
		{"with a sender that cannot be printed", client.CodeBadParameters, "sender", raw{keys: y.private, edit: func(m *message.Message, _ *message.Command) { m.Metadata.Sender = "an\nna" }}},
		{"of another type", client.CodeBadParameters, "must be command", raw{edit: func(m *message.Message, _ *message.Command) { m.Metadata.Type = message.TypeEvent }, body: []byte(`{"metadata": {"timestamp": 1763884800, "message_id": "x", "sender": "anna", "message_type": "event", "priority": 1}, "payload": {}}`)}},
		{"garbage", client.CodeBadParameters, "", raw{body: []byte("\x00\xff\x1f\x8b")}},
		{"nothing", client.CodeBadParameters, "no envelope", raw{body: []byte{}}},
		{"a plain command", client.CodeBadParameters, "no envelope", raw{body: []byte(`{"command": "count"}`)}},
		{"half an envelope", client.CodeBadParameters, "", raw{body: []byte(`{"metadata": {"timestamp": 1763884800, "message_id": "x", "sender": "an`)}},
		{"too large", client.CodeBadParameters, "at most", raw{body: bytes.Repeat([]byte(" "), 20_000)}},
		{"a bomb", client.CodeBadParameters, "", raw{body: bomb(t)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.r.service == "" {
				tt.r.service = "navigation"
			}
			code, text, _ := y.ask(y.make(tt.r))
			if code != tt.code || !strings.Contains(text, tt.text) {
				t.Errorf("%q, %q; want %q with %q", code, text, tt.code, tt.text)
			}
		})
	}
	for _, subject := range []string{"lawnberry.m-1.commands.a.b", "lawnberry.m-1.commands.=41", "lawnberry.m-1.commands.a=2Fb", "lawnberry.m-1.commands.=2B", "lawnberry.m-1.commands.="} {
		m := y.make(raw{service: "navigation", keys: y.private})
		m.Subject = subject
		if code, text, _ := y.ask(m); code != client.CodeBadParameters {
			t.Errorf("%s: %q, %q", subject, code, text)
		}
	}
	y.mu.Lock()
	if len(y.ran) != 0 {
		t.Errorf("this ran: %v", y.ran)
	}
	y.mu.Unlock()
	if y.down.malformed.Load() == 0 {
		t.Error("what cannot be read is not counted")
	}
	y.event("of something refused", func(a audit) bool { return a.Outcome == outcomeRefused && a.Code == fleet.CodeSignature })
	if _, err := y.anna.Call(testContext(t), yardMower, "navigation", "count", named("fine")); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

func bomb(t *testing.T) []byte {
	t.Helper()
	small, ok := message.Compress(bytes.Repeat([]byte(" "), 8<<20), message.Limits{MaxPayload: 16 << 20})
	if !ok || len(small) > 10_000 {
		t.Fatalf("the bomb has %d bytes", len(small))
	}
	return small
}

// Without a signature a command runs where the mower says so; one whose signature is wrong does not.
func TestUnsigned(t *testing.T) {
	t.Parallel()
	y := newYard(t, natstest.Start(t), func(o *downlinkOptions) { o.unsigned, o.keys = true, nil })
	if code, text, _ := y.ask(y.make(raw{service: "navigation"})); code != "" {
		t.Errorf("%q, %q", code, text)
	}
	if code, text, _ := y.ask(y.make(raw{service: "navigation", keys: y.private})); code != fleet.CodeSignature {
		t.Errorf("by a key that nobody knows: %q, %q", code, text)
	}
	e := y.event("of the unsigned", func(a audit) bool { return a.Outcome == outcomeSucceeded })
	if e.Key != "" {
		t.Errorf("an unsigned command is said to be signed with %s", e.Key)
	}
}

// The same command again gets the same answer, at the same time, later, after its deadline and after a restart, and does not run again. Another
// command with its id is refused.
func TestRepeated(t *testing.T) {
	t.Parallel()
	y := newYard(t, natstest.Start(t), nil)
	m := y.make(raw{service: "navigation", keys: y.private, edit: func(m *message.Message, p *message.Command) {
		p.Command = "slow"
		m.Metadata.ExpiresAt = message.Seconds(time.Now().Add(allowed))
		p.Timeout = allowed.Seconds()
	}})
	var work sync.WaitGroup
	results := make(chan string, 100)
	ask := func() {
		code, text, result := y.ask(&nats.Msg{Subject: m.Subject, Data: m.Data, Header: m.Header})
		results <- code + text + string(result)
	}
	const times = 10
	for range times {
		work.Go(ask)
	}
	eventually(t, "it runs, and the others wait", func() bool {
		y.down.ledger.mu.Lock()
		defer y.down.ledger.mu.Unlock()
		for _, e := range y.down.ledger.entries {
			return len(e.waiting) == times-1
		}
		return false
	})
	close(y.let)
	work.Wait()
	ask()
	y.stop()
	y.start(nil)
	ask()
	late := make(chan string, 1)
	y.down.takeCommand(inbound{service: "navigation", body: m.Data, header: m.Header.Get, received: time.Now().Add(time.Hour)}, func(body []byte, code string) {
		a, err := message.Decode(bytes.Clone(body), message.Limits{})
		if err != nil {
			t.Error(err)
		}
		p, _ := message.Payload[message.Response](a)
		late <- code + string(p.Result)
	})
	results <- <-late
	for range times + 3 {
		if got := <-results; got != `"done"` {
			t.Errorf("answer %q", got)
		}
	}
	other := y.make(raw{service: "navigation", keys: y.private, edit: func(o *message.Message, _ *message.Command) {
		first, err := message.Decode(bytes.Clone(m.Data), message.Limits{})
		check(t, err)
		o.Metadata.ID = first.Metadata.ID
	}})
	if code, text, _ := y.ask(other); code != client.CodeRefused || !strings.Contains(text, "message_id") {
		t.Errorf("another command with the same id: %q, %q", code, text)
	}
	if n := y.runs("navigation raw"); n != 1 {
		t.Errorf("it ran %d times", n)
	}
}

// A service that does not end keeps others waiting no more than its own share, beyond which it is refused with a reason.
func TestBounds(t *testing.T) {
	t.Parallel()
	y := newYard(t, natstest.Start(t), nil)
	y.service("power")
	y.release()
	ctx := testContext(t)
	var work sync.WaitGroup
	for i := range maxBusyService {
		work.Go(func() {
			if _, err := y.anna.Call(ctx, yardMower, "navigation", "slow", named(name(i))); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "they run", func() bool {
		y.mu.Lock()
		defer y.mu.Unlock()
		return len(y.ran) == maxBusyService
	})
	if _, err := y.anna.Call(ctx, yardMower, "navigation", "count", named("one too many")); code(err) != client.CodeRefused || !strings.Contains(err.Error(), "try again") {
		t.Errorf("%v", err)
	}
	if _, err := y.anna.Call(ctx, yardMower, "power", "count", named("beside")); err != nil {
		t.Errorf("another service: %v", err)
	}
	if s, err := y.anna.Stop(ctx, yardMower, "test"); err != nil || !s.Engaged {
		t.Errorf("the emergency stop: %+v, %v", s, err)
	}
	close(y.let)
	work.Wait()
	if _, err := y.anna.Call(ctx, yardMower, "navigation", "count", named("now")); err != nil {
		t.Error(err)
	}
	if y.runs("navigation one too many") != 0 {
		t.Error("what was refused ran")
	}
}

// A caller cannot make the mower publish anything but an answer to an inbox.
func TestReplySubject(t *testing.T) {
	t.Parallel()
	y := newYard(t, natstest.Start(t), nil)
	heard := make(chan *nats.Msg, 10)
	sub, err := y.nc.ChanSubscribe("lawnberry.>", heard)
	check(t, err)
	defer func() { check(t, sub.Unsubscribe()) }()
	m := y.make(raw{service: "navigation", keys: y.private})
	m.Reply = "lawnberry.m-2.commands.navigation"
	check(t, y.nc.PublishMsg(m))
	eventually(t, "it ran", func() bool { return y.runs("navigation raw") == 1 })
	if code, text, _ := y.ask(y.make(raw{service: "navigation", keys: y.private})); code != "" {
		t.Error(code, text)
	}
	check(t, y.nc.Flush())
	for len(heard) > 0 {
		if m := <-heard; m.Subject == "lawnberry.m-2.commands.navigation" {
			t.Errorf("the mower has sent %s", m.Data)
		}
	}
}
