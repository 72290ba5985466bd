package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/faultnet"
	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/mosquittotest"
	"github.com/lawnberry/lawnberry/internal/seal"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

// A meadow is a mower with a service that counts what it is told, and an operator at an MQTT engine.
type meadow struct {
	*mower
	nav  *service.Service
	anna *fleet.MQTTOperator
	let  chan struct{}

	mu  sync.Mutex // guards ran
	ran map[string]int
}

func newMeadow(t testing.TB, engine string) *meadow {
	t.Helper()
	w := &meadow{mower: newMower(t), ran: map[string]int{}, let: make(chan struct{})}
	type named struct {
		Name string `json:"name"`
	}
	count := func(name string) int {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.ran[name]++
		return w.ran[name]
	}
	var err error
	w.nav, err = service.Start(testContext(t), service.Options{
		ID: "navigation", Client: client.Options{URL: w.url, CleanStart: true}, Setup: func(_ context.Context, s *service.Service) error {
			service.Handle(s, "count", func(_ context.Context, p named) (int, error) { return count(p.Name), nil })
			service.Handle(s, "slow", func(ctx context.Context, p named) (string, error) {
				count(p.Name)
				select {
				case <-w.let:
					return "done", nil
				case <-ctx.Done():
					return "", ctx.Err()
				}
			})
			service.Handle(s, "fail", func(context.Context, struct{}) (any, error) {
				return nil, &client.CommandError{Code: "stuck", Message: "the blade is stuck"}
			})
			return nil
		},
	})
	check(t, err)
	later(t, w.nav.Stop)
	private := filepath.Join(t.TempDir(), "anna.keys")
	w.operators = filepath.Join(t.TempDir(), "operators.keys")
	key, err := seal.Generate(seal.Ed25519, "anna", 0)
	check(t, err)
	check(t, seal.Create(private, key))
	check(t, os.WriteFile(w.operators, seal.PublicLines([]*seal.Key{key}, ""), 0o600))
	ring, err := seal.Open(private, slog.New(slog.DiscardHandler))
	check(t, err)
	w.anna, err = fleet.NewMQTTOperator(fleet.Engine{URL: engine}, fleet.OperatorOptions{Name: "anna", Keys: ring})
	check(t, err)
	t.Cleanup(w.anna.Close)
	return w
}

func (w *meadow) runs(name string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ran[name]
}

// there starts an uplink that takes signed commands to navigation.
func (w *meadow) there(engine string) *Uplink {
	w.t.Helper()
	u := w.up(engine, func(o *Options) { o.Down, o.KeysFile = []string{"navigation/*"}, w.operators })
	w.online(true)
	return u
}

// online waits until an operator sees the mower, or sees it no more.
func (w *meadow) online(there bool) {
	w.t.Helper()
	eventually(w.t, "presence", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		_, err := w.anna.Call(ctx, "m-1", "navigation", "nothing", nil)
		return there != (code(err) == fleet.CodeOffline)
	})
}

// Commands over MQTT run once, and are answered; those for a mower that is away are refused at once.
func TestMQTTCommands(t *testing.T) {
	for name, start := range map[string]func(t *testing.T) string{
		"Mosquitto":  func(t *testing.T) string { return "mqtt://" + mosquittotest.Start(t) },
		"our broker": func(t *testing.T) string { return ownBroker(t) },
	} {
		t.Run(name, func(t *testing.T) {
			engine := start(t)
			w := newMeadow(t, engine)
			ctx := testContext(t)
			if _, err := w.anna.Call(ctx, "m-1", "navigation", "count", named("never")); code(err) != fleet.CodeOffline {
				t.Errorf("to a mower that was never there: %v", err)
			}
			if _, err := w.anna.Stop(ctx, "m-1", "test"); code(err) != fleet.CodeOffline {
				t.Errorf("a stop of a mower that was never there: %v", err)
			}
			u := w.there(engine)
			result, err := w.anna.Call(ctx, "m-1", "navigation", "count", named("a"))
			if err != nil || string(result) != "1" {
				t.Errorf("%s, %v", result, err)
			}
			for _, c := range []struct{ service, command, code string }{
				{"navigation", "fail", "stuck"}, {"power", "count", fleet.CodeForbidden}, {fleet.StopService, "release", fleet.CodeForbidden},
			} {
				if _, err := w.anna.Call(ctx, "m-1", c.service, c.command, nil); code(err) != c.code {
					t.Errorf("%s %s: %v, want %s", c.service, c.command, err, c.code)
				}
			}
			w.atMostOnce(engine)

			stopped, err := w.anna.Stop(ctx, "m-1", "a dog")
			if err != nil || !stopped.Engaged || !stopped.Confirmed {
				t.Errorf("%+v, %v", stopped, err)
			}
			if s, err := safety.ReadStatus(ctx, w.nav); err != nil || !s.Engaged ||
				!slices.ContainsFunc(s.Causes, func(c safety.Cause) bool { return c.By == "fleet: anna" && c.Reason == "a dog" }) {
				t.Errorf("%+v, %v", s, err)
			}
			check(t, u.Stop(ctx))
			if _, err := w.anna.Call(ctx, "m-1", "navigation", "count", named("gone")); code(err) != fleet.CodeOffline {
				t.Errorf("to a mower that has gone: %v", err)
			}
			p := w.process(engine)
			w.online(true)
			p.kill()
			w.online(false)
			if n := w.runs("never") + w.runs("gone"); n != 0 {
				t.Errorf("what was refused ran %d times", n)
			}
		})
	}
}

// atMostOnce sends the same command again and again: it runs once, and each is answered with the same, but nowhere else than where answers go.
func (w *meadow) atMostOnce(engine string) {
	t := w.t
	t.Helper()
	ctx := testContext(t)
	c, err := fleet.Engine{URL: engine}.DialMQTT(ctx, fleet.MQTTSession{})
	check(t, err)
	t.Cleanup(func() { c.Close(context.Background()) })
	answers := make(chan string, 100)
	hear := func(_ context.Context, d *client.Delivery) {
		answers <- d.FullTopic() + " " + string(d.CorrelationData) + " " + fleet.UserProperty(d, fleet.HeaderCode)
	}
	for _, f := range []string{fleet.AnswerTopic("m-1", "x"), "elsewhere/#", fleet.PresenceTopic("m-2")} {
		_, err = c.Hear(ctx, f, hear)
		check(t, err)
	}
	m, err := message.NewCommand("bob", message.Command{Target: "navigation", Command: "count", Parameters: json.RawMessage(`{"name":"raw"}`)})
	check(t, err)
	m.Metadata.CorrelationID, m.Metadata.ExpiresAt = message.NewID(), message.Seconds(time.Now().Add(time.Minute))
	body, err := m.Append(nil)
	check(t, err)
	send := func(to, correlation string, opts ...client.PublishOption) {
		opts = append([]client.PublishOption{client.WithQoS(1), client.WithRetain(false), client.WithResponse("absolute:"+to, []byte(correlation))}, opts...)
		_, err := c.Send(ctx, fleet.CommandTopic("m-1", "navigation"), body, opts...)
		check(t, err)
	}
	send("elsewhere/x", "a")
	send(fleet.PresenceTopic("m-2"), "b")
	send(fleet.AnswerTopic("m-1", "x")+"/y", "c")
	for _, id := range []string{"d", "e"} { // unsigned
		send(fleet.AnswerTopic("m-1", "x"), id)
		if got, want := <-answers, fleet.AnswerTopic("m-1", "x")+" "+id+" "+fleet.CodeSignature; got != want {
			t.Errorf("answered %q, want %q", got, want)
		}
	}
	if w.runs("raw") != 0 {
		t.Error("what is not signed has run")
	}
	again := make(chan error, 8)
	for range cap(again) {
		go func() {
			_, err := w.anna.Call(ctx, "m-1", "navigation", "count", named("many"))
			again <- err
		}()
	}
	for range cap(again) {
		if err := <-again; err != nil && code(err) != client.CodeRefused { // the bound of a service
			t.Error(err)
		}
	}
	if len(answers) != 0 {
		t.Errorf("answered elsewhere: %q", <-answers)
	}
}

// A command that is sent again while the connections of both sides are cut runs once.
func TestMQTTCommandsOverCuts(t *testing.T) {
	s := mosquittotest.Run(t)
	engine := "mqtt://" + s.Address()
	w := newMeadow(t, engine)
	w.there(engine)
	stop := make(chan struct{})
	var killing sync.WaitGroup
	killing.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(3 * time.Second):
				s.Kill()
				s.Again()
			}
		}
	})
	answered, unknown := 0, 0
	for i := range 30 {
		ctx, cancel := context.WithTimeout(testContext(t), 10*time.Second)
		_, err := w.anna.Call(ctx, "m-1", "navigation", "count", named(name(i)))
		cancel()
		switch n := w.runs(name(i)); {
		case n > 1:
			t.Errorf("%s ran %d times", name(i), n)
		case err == nil && n != 1:
			t.Errorf("%s was answered and ran %d times", name(i), n)
		case code(err) == fleet.CodeOffline && n != 0:
			t.Errorf("%s has run: %v", name(i), err)
		case err == nil:
			answered++
		default:
			unknown++
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-t.Context().Done():
		}
	}
	close(stop)
	killing.Wait()
	t.Logf("%d answered, %d with an error", answered, unknown)
	if answered == 0 {
		t.Error("none was answered")
	}
}

// Jobs wait in the broker for a mower that is away, run once, and are acknowledged when their end is on the disk.
func TestMQTTJobs(t *testing.T) {
	for name, start := range map[string]func(t *testing.T) string{
		"Mosquitto":  func(t *testing.T) string { return "mqtt://" + mosquittotest.Start(t) },
		"our broker": func(t *testing.T) string { return ownBroker(t) },
	} {
		t.Run(name, func(t *testing.T) {
			engine := start(t)
			w := newMeadow(t, engine)
			ctx := testContext(t)
			hour := time.Now().Add(time.Hour)
			if _, err := w.anna.AddJob(ctx, "m-1", "navigation", "count", nil, hour, 0); code(err) != fleet.CodeOffline || !strings.Contains(err.Error(), "keeps nothing") {
				t.Errorf("for a mower that was never there: %v", err)
			}
			u := w.there(engine)
			add := func(command, what string, deadline time.Time) string {
				t.Helper()
				var id string
				eventually(t, "the broker keeps jobs", func() (ok bool) {
					var err error
					id, err = w.anna.AddJob(ctx, "m-1", "navigation", command, named(what), deadline, time.Minute)
					if err != nil && code(err) != fleet.CodeOffline { // the session for jobs may come a moment later
						t.Fatal(err)
					}
					return err == nil
				})
				return id
			}
			id := add("count", "there", hour)
			e, err := w.anna.WaitJob(ctx, "m-1", id)
			if err != nil || !e.Success || e.Operator != "anna" || string(e.Result) != "1" {
				t.Errorf("%+v, %v", e, err)
			}
			if e, err := w.anna.WaitJob(ctx, "m-1", id); err != nil || e.Job != id {
				t.Errorf("waited for again: %+v, %v", e, err)
			}
			check(t, u.Stop(ctx))

			expired := time.Now().Add(1500 * time.Millisecond)
			add("count", "expired", expired)
			var ids []string
			for i := range 10 {
				ids = append(ids, add("count", name2(i), hour))
			}
			eventually(t, "a deadline passes", func() bool { return time.Now().After(expired) })
			p := w.childTaking(engine)
			last, err := w.anna.WaitJob(ctx, "m-1", ids[len(ids)-1])
			if err != nil || !last.Success {
				t.Errorf("%+v, %v", last, err)
			}
			eventually(t, "all have run", func() bool {
				for i := range ids {
					if w.runs(name2(i)) == 0 {
						return false
					}
				}
				return true
			})

			slow := add("slow", "slow", hour)
			eventually(t, "a job runs", func() bool { return w.runs("slow") == 1 })
			p.kill()
			w.childTaking(engine)
			e, err = w.anna.WaitJob(ctx, "m-1", slow)
			if err != nil || e.Success || e.Code != fleet.CodeUnknown {
				t.Errorf("a job whose uplink was killed: %+v, %v", e, err)
			}
			after := add("count", "after", hour)
			if e, err := w.anna.WaitJob(ctx, "m-1", after); err != nil || !e.Success {
				t.Errorf("%+v, %v", e, err)
			}
			for i := range ids {
				if n := w.runs(name2(i)); n != 1 {
					t.Errorf("job %d ran %d times", i, n)
				}
			}
			if w.runs("expired") != 0 || w.runs("slow") != 1 {
				t.Errorf("%v", w.ran)
			}
			if _, err := w.anna.Jobs(ctx, ""); !errors.Is(err, fleet.ErrMQTTKeepsSecret) {
				t.Errorf("%v", err)
			}
			if _, err := w.anna.CancelJob(ctx, "m-1", id); !errors.Is(err, fleet.ErrMQTTKeepsSecret) {
				t.Errorf("%v", err)
			}
		})
	}
}

func name2(i int) string { return "job " + name(i) }

// childTaking is an uplink in a process of its own, until the end of the test.
func (w *meadow) childTaking(engine string) *process {
	w.t.Helper()
	p := w.process(engine)
	w.t.Cleanup(p.kill)
	return p
}

// A view of the fleet is what the broker retains, and follows it over a broken connection.
func TestMQTTView(t *testing.T) {
	s := mosquittotest.Run(t, "max_queued_messages 0")
	engine := "mqtt://" + s.Address()
	w := newMeadow(t, engine)
	w.there(engine)
	check(t, w.c.Publish(testContext(t), "power/battery", battery(t, 63)))
	v := fleet.OpenMQTTView(fleet.Engine{URL: engine}, fleet.ViewOptions{})
	t.Cleanup(v.Close)
	check(t, v.Wait(testContext(t)))
	is := func(online bool, level float64) func() bool {
		return func() bool {
			m, ok := v.Mower("m-1")
			return ok && m.Online == online && m.Battery != nil && *m.Battery == level
		}
	}
	eventually(t, "the battery is seen", is(true, 63))
	check(t, w.c.Publish(testContext(t), "power/battery", battery(t, 62)))
	eventually(t, "the battery is followed", is(true, 62))
	other := fleet.OpenMQTTView(fleet.Engine{URL: engine}, fleet.ViewOptions{Mower: "m-2"})
	t.Cleanup(other.Close)
	check(t, other.Wait(testContext(t)))
	if all := other.Mowers(); len(all) != 0 {
		t.Errorf("of another mower: %+v", all)
	}
	s.Kill()
	eventually(t, "the view says that it is blind", func() bool { l := v.Link(); return !l.Connected && !l.Current && l.Problem != "" })
	s.Again() // with nothing saved
	eventually(t, "the view is back", func() bool { l := v.Link(); return l.Current && l.Copies > 3 })
	check(t, w.c.Publish(testContext(t), "power/battery", battery(t, 61)))
	eventually(t, "the battery is seen anew", is(true, 61))
}

// An uplink at a broker with a certificate of a private authority, which asks for a login: what is wrong is said, and is mended without a new start.
func TestMQTTSUplink(t *testing.T) {
	dir := t.TempDir()
	lines, ca := mosquittotest.TLS(t)
	_, other := mosquittotest.TLS(t)
	passwords := filepath.Join(dir, "passwords")
	for _, user := range []string{"m-1", "anna"} {
		mosquittotest.Password(t, passwords, user, "secret of "+user)
	}
	s := mosquittotest.Run(t, append(lines, "allow_anonymous false", "password_file "+passwords)...)
	url := "mqtts://" + s.Address()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		check(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	copied := func(name, from string) string {
		text, err := os.ReadFile(from)
		check(t, err)
		return file(name, string(text))
	}
	anna := fleet.Engine{URL: url, Credentials: file("anna", "anna\nsecret of anna\n"), CAFile: ca}
	if _, err := (fleet.Engine{URL: url, Credentials: anna.Credentials, CAFile: other}).DialMQTT(testContext(t), fleet.MQTTSession{}); err == nil ||
		!strings.Contains(err.Error(), "certificate") || fleet.IsMQTTRefusal(err) {
		t.Errorf("with another authority: %v", err)
	}
	if _, err := (fleet.Engine{URL: url, Credentials: anna.Credentials}).DialMQTT(testContext(t), fleet.MQTTSession{}); err == nil ||
		!strings.Contains(err.Error(), "certificate") {
		t.Errorf("with the system's authorities: %v", err)
	}
	if _, err := (fleet.Engine{URL: "mqtt://" + s.Address(), Credentials: anna.Credentials}).DialMQTT(testContext(t), fleet.MQTTSession{}); err == nil {
		t.Error("a login was sent without TLS, and taken")
	}
	c, err := anna.DialMQTT(testContext(t), fleet.MQTTSession{})
	check(t, err)
	t.Cleanup(func() { c.Close(context.Background()) })
	var heard sync.Map // by topic
	_, err = c.Hear(testContext(t), "lawnberry/fleet/m-1/#", func(_ context.Context, d *client.Delivery) {
		heard.Store(d.FullTopic(), len(fleet.MQTTBody(d)) > 0)
	})
	check(t, err)
	has := func(name string) func() bool {
		return func() bool {
			there, known := heard.Load(name)
			return known && there == true
		}
	}

	m := newMower(t)
	log := &logged{}
	engine := fleet.Engine{URL: url, Credentials: file("m-1", "m-1\nguessed-secret\n"), CAFile: copied("ca.pem", other)}
	m.up(url, func(o *Options) { o.Engine, o.Logger = engine, slog.New(slog.NewTextHandler(log, nil)) })
	eventually(t, "the certificate is refused", func() bool { return log.has("certificate") })
	if s := log.has("does not let us in"); s {
		t.Error("the login was sent to a server that nobody vouches for")
	}
	m.say("system/events/a")
	copied("ca.pem", ca)
	eventually(t, "the login is refused", func() bool { return log.has("does not let us in") })
	if log.has("guessed-secret") {
		t.Error("the password is in the log")
	}
	if _, known := heard.Load(fleet.PresenceTopic("m-1")); known {
		t.Error("the mower is online without a login")
	}
	file("m-1", "m-1\nsecret of m-1\n")
	eventually(t, "the mower is online", has(fleet.PresenceTopic("m-1")))
	eventually(t, "what it said meanwhile is there", has(fleet.HistoryTopic("m-1", "system/events/a")))
}

// A logged is what was logged.
type logged struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), text)
}

// Another mower cannot answer for one, whatever it knows of the command.
func TestMQTTAnswerOfAnother(t *testing.T) {
	s := mosquittotest.Run(t)
	engine := fleet.Engine{URL: "mqtt://" + s.Address()}
	ctx := testContext(t)
	c, err := engine.DialMQTT(ctx, fleet.MQTTSession{})
	check(t, err)
	defer c.Close(ctx)
	_, err = c.Send(ctx, fleet.PresenceTopic("m-1"), []byte("{}"), client.WithQoS(1), client.WithRetain(true))
	check(t, err)
	var answer atomic.Pointer[string] // the mower in whose name it is
	_, err = c.Hear(ctx, fleet.CommandTopic("m-1", "+"), func(ctx context.Context, d *client.Delivery) {
		m, err := message.NewResponse("liar", message.Response{Success: true, Result: json.RawMessage(`{"engaged":true,"confirmed":true}`)})
		check(t, err)
		body, _, err := message.Encode(&m, message.Limits{})
		check(t, err)
		_, caller, _ := strings.Cut(d.ResponseTopic, "/answers/")
		_, err = c.Send(ctx, fleet.AnswerTopic(*answer.Load(), caller), body, client.WithQoS(1), client.WithResponse("", d.CorrelationData))
		check(t, err)
	})
	check(t, err)
	op, err := fleet.NewMQTTOperator(engine, fleet.OperatorOptions{Name: "anna"})
	check(t, err)
	defer op.Close()
	for mower, want := range map[string]bool{"m-1": true, "m-2": false} {
		answer.Store(&mower)
		limited, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := op.Stop(limited, "m-1", "")
		cancel()
		if (err == nil) != want {
			t.Errorf("an answer of %s to a command to m-1: %v", mower, err)
		}
	}
}

// A broker that has nothing to say for a while, as the line to it is slow, has not said everything.
func TestMQTTViewSlow(t *testing.T) {
	s := mosquittotest.Run(t, "max_queued_messages 0")
	engine := fleet.Engine{URL: "mqtt://" + s.Address()}
	ctx := testContext(t)
	c, err := engine.DialMQTT(ctx, fleet.MQTTSession{})
	check(t, err)
	defer c.Close(ctx)
	large := bytes.Repeat([]byte("x"), 30_000)
	const mowers = 3
	for i := range mowers {
		for _, name := range []string{fleet.StateTopic(fmt.Sprintf("m-%d", i), "camera/frame"), fleet.PresenceTopic(fmt.Sprintf("m-%d", i))} {
			_, err := c.Send(ctx, name, large, client.WithQoS(1), client.WithRetain(true))
			check(t, err)
		}
	}
	p, err := faultnet.Start(s.Address())
	check(t, err)
	defer p.Close()
	p.Set(faultnet.Down, faultnet.Faults{Rate: 15_000}) // two seconds for a message
	v := fleet.OpenMQTTView(fleet.Engine{URL: "mqtt://" + p.Addr()}, fleet.ViewOptions{})
	defer v.Close()
	check(t, v.Wait(ctx))
	all := v.Mowers()
	for _, m := range all {
		if !m.Online || m.Topic("camera/frame") == nil {
			t.Errorf("%s: online %t, topics %v", m.ID, m.Online, m.Topics())
		}
	}
	if len(all) != mowers {
		t.Errorf("the view says that it has everything, and has %d of %d mowers", len(all), mowers)
	}
}

func battery(t testing.TB, level float64) message.Message {
	t.Helper()
	m, err := message.NewSensorData("power", message.SensorData{SensorType: "battery", Data: map[string]any{"level": level}})
	check(t, err)
	return m
}
