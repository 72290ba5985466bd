package chaos

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/identity"
	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
)

const (
	stopTopic     = "safety/emergency_stop"
	commandsToHub = "commands/emergency_stop"
	secretOf      = "password of "
)

// TestSafetyRelease tries to release the emergency stop in every way but the right one: with claims that it is released, replayed, forged,
// retained, empty, compressed, in other encodings, as a Will, raw as Home Assistant sends them; with commands to release that are retained, old,
// expired, sent twice, for another, or of somebody without the right; with forged answers of the hub; and by killing the hub over all of
// that. Two latches that are there and one that comes after each attempt never say that it is released, and the driver cannot be armed. In
// the end the right way works.
//
// Without access control anybody may send the command to release; with it only who has the right, which is what those attempts show.
//
// Seen failing with each of these changes: a latch that is released by what the hub says by itself, or that lets anybody who claims to be the
// hub confirm what it has heard; a hub that does not look at the sequence; access control that does not look into commands to the hub.
func TestSafetyRelease(t *testing.T) {
	for _, ruled := range []bool{false, true} {
		t.Run(map[bool]string{false: "open", true: "access control"}[ruled], func(t *testing.T) {
			t.Parallel()
			testSafetyRelease(t, ruled)
		})
	}
}

// A burglary is the attempts to release, and what they know.
type burglary struct {
	t       *testing.T
	ctx     context.Context
	random  *rand.Rand
	m       *mower
	ruled   bool
	thieves []*client.Client // with access control a viewer, an operator and two services; else one that calls itself differently each time

	spy      *peer
	mu       sync.Mutex // guards the fields below
	claims   [][]byte   // of the hub, that it is released: as they came
	requests [][]byte   // to release it: as they came
	epoch    string     // of the hub
	released []string   // what latches have said that they may not

	state    safety.State // as it was engaged before the attempts
	mark     int          // in what the driver says: from there on it says nothing of a release
	attempts int
	refused  int // publications, by the broker
	taken    int
}

// A wrongWay is a kind of attempt.
type wrongWay struct {
	name string
	// open and ruled are where it is tried: without access control it may be the right way.
	open, ruled bool
	try         func(b *burglary, c *client.Client)
}

func testSafetyRelease(t *testing.T, ruled bool) {
	ctx := within(t, 3*time.Minute+time.Duration(pick(0, 20))*time.Minute)
	b := &burglary{t: t, ctx: ctx, random: seeded(t), m: newMower(t), ruled: ruled}
	b.start()
	ways := slices.DeleteFunc(wrongWays(), func(w wrongWay) bool { return ruled && !w.ruled || !ruled && !w.open })
	least := pick(len(ways), 250)
	b.mark = b.m.driver.now()
	for n := 0; n < least || n%len(ways) != 0; n++ {
		w := ways[n%len(ways)]
		c := b.thieves[(n/len(ways)+n)%len(b.thieves)]
		b.attempt(w, c)
		b.attempts++
		for _, e := range b.m.driver.since(b.mark) {
			if e.kind == saidDrive || e.kind == saidPermit || e.kind == saidLatch && strings.HasPrefix(e.text, "released") {
				b.note("the driver", e.String())
			}
		}
		b.mu.Lock()
		released := b.released
		b.released = nil
		b.mu.Unlock()
		if len(released) > 0 {
			t.Errorf("%s, by %s: %q", w.name, c.ID(), released)
		}
		b.mark = b.m.driver.now()
	}
	t.Logf("fault=wrong_ways_to_release,_%s times=%d sent=%d delivered=%d lost=- duplicated=- out_of_order=-",
		map[bool]string{false: "open", true: "access_control"}[ruled], b.attempts, b.taken+b.refused, b.taken)
	t.Logf("%d kinds; %d messages, of which the broker has refused %d", len(ways), b.taken+b.refused, b.refused)

	// The right way.
	b.quiet(func() {
		b.m.release(ctx)
		b.m.arm(ctx)
	})
}

// start starts the mower, and records what a release looks like.
func (b *burglary) start() {
	t, m, s := b.t, b.m, b.m.server
	url := "tcp://" + s.Addr
	b.spy = newPeer(peerOptions{ID: "spy", OnMessage: func(a *arrival) bool { b.record(a); return true }})
	operator := client.Options{URL: url, ID: "operator", Safety: true, Probe: time.Second}
	thief := func(id, user string) {
		o := client.Options{URL: url, ID: id}
		if b.ruled {
			o.Username, o.Password = user, client.Secret(secretOf+user)
		}
		b.thieves = append(b.thieves, sender(t, o))
	}
	if b.ruled {
		file := filepath.Join(t.TempDir(), "mower.yaml")
		must(t, os.WriteFile(file, []byte(`
security: {access_control: {enabled: true}}
safety: {emergency_stop: {enabled: false}}
service_definitions:
  driver: {service_type: driver, dependencies: [safety]}
  safety: {service_type: safety}
  gps: {service_type: sensors, topics: {publish: [sensors/gps/data]}}
`), 0o600))
		s.Env, s.Args = nil, []string{"--config", file}
		users := map[string]string{"emergency_stop": "", "driver": "", "safety": "", "gps": "", "ann": "operator", "vic": "viewer", "root": "admin"}
		must(t, identity.Edit(s.Dir, func(book *identity.Book) error {
			for name, role := range users {
				if err := book.Add(name, role, identity.Hash(secretOf+name)); err != nil {
					return err
				}
			}
			return nil
		}))
		for _, a := range []*actor{m.hub, m.safety, m.driver} {
			a.part.User = a.part.ID
		}
		b.spy.o.Username, b.spy.o.Password = "root", secretOf+"root"
		operator.Username, operator.Password = "root", secretOf+"root"
	}
	s.spawn()
	eventually(t, time.Minute, "the broker answers", func() bool { return b.spy.connect(b.ctx, s.Addr) == nil })
	must(t, b.spy.subscribe(b.ctx, 2, "lawnberry/"+stopTopic, "lawnberry/"+commandsToHub))
	m.hub.start()
	m.safety.start()
	m.driver.start()
	m.operator = sender(t, operator)
	m.latch = latchOf(t, m.operator)
	if b.ruled {
		thief("tablet", "vic")
		thief("web", "ann")
		thief("gps", "gps")
		thief("driver-tool", "driver")
	} else {
		for _, id := range []string{"web", "home-assistant", "gps", "lawnberry"} {
			thief(id, "")
		}
	}
	for i := range 2 {
		m.release(b.ctx)
		must(t, m.latch.Engage(b.ctx, fmt.Sprint("burglar alarm ", i)), m.latch.Settle(b.ctx))
	}
	b.state = m.latch.State()
	m.driver.await(0, "that it is engaged", func(e event) bool {
		return e.kind == saidLatch && strings.HasPrefix(e.text, "engaged") && strings.HasSuffix(e.text, "alarm 1")
	})
	eventually(t, time.Minute, "the spy has seen it", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.claims) >= 2 && len(b.requests) >= 2 && b.epoch != ""
	})
	b.watch("the operator", m.latch)
}

// record keeps what the spy hears.
func (b *burglary) record(a *arrival) {
	body := slices.Clone(a.Payload)
	x, err := message.Decode(body, message.Limits{})
	if err != nil || x.Raw {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case strings.HasSuffix(string(a.Topic), commandsToHub):
		if c, err := message.Payload[message.Command](x); err == nil && c.Command == "release" && x.Metadata.Sender == "operator" && len(b.requests) < 2 {
			b.requests = append(b.requests, body)
		}
	case x.Metadata.Sender == safety.HubID:
		var c struct {
			Engaged bool   `json:"engaged"`
			Epoch   string `json:"epoch"`
		}
		if alert, err := message.Payload[message.Alert](x); err == nil && json.Unmarshal(alert.Context, &c) == nil && c.Epoch != "" && c.Epoch != forgedEpoch {
			b.epoch = c.Epoch
			if !c.Engaged && len(b.claims) < 2 {
				b.claims = append(b.claims, body)
			}
		}
	}
}

const forgedEpoch = "8f14e45f-ceea-467f-a9b3-6d3e0c1c0b0a"

// note says that somebody believes that it is released.
func (b *burglary) note(who, what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.released = append(b.released, who+": "+what)
}

// watch notes when a latch says that it is released.
func (b *burglary) watch(who string, l *safety.Latch) (cancel func()) {
	return l.OnChange(func(s safety.State) {
		if !s.Engaged {
			b.note(who, fmt.Sprintf("%+v", s))
		}
	})
}

// quiet runs f, after which what latches have said is forgotten.
func (b *burglary) quiet(f func()) {
	f()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.released = nil
}

// attempt tries one way, and looks what it has done.
func (b *burglary) attempt(w wrongWay, c *client.Client) {
	w.try(b, c)
	// What was published is with the hub and the latches before these come back.
	fresh := client.Options{URL: "tcp://" + b.m.server.Addr, ID: "fresh", Probe: time.Second}
	if b.ruled {
		fresh.Username, fresh.Password = "root", secretOf+"root"
	}
	visitor, err := client.Connect(b.ctx, fresh)
	must(b.t, err)
	latch, err := safety.OpenLatch(b.ctx, visitor, safety.LatchOptions{})
	must(b.t, err)
	b.watch("one that came later", latch)
	settling, cancel := context.WithTimeout(b.ctx, 30*time.Second)
	defer cancel()
	if err := errors.Join(latch.Settle(settling), b.m.latch.Settle(settling)); err != nil {
		b.t.Fatalf("after %s by %s the state is not known any more: %v", w.name, c.ID(), err)
	}
	for who, l := range map[string]*safety.Latch{"one that came later": latch, "the operator": b.m.latch} {
		if l.Released() {
			b.note(who, "released")
		}
	}
	if err := b.m.operator.Call(settling, "driver", "arm", nil, nil); err == nil {
		b.note("the driver", "it was armed")
	}
	closing, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = latch.Close(closing)
	_ = visitor.Close(closing)
}

// publish publishes bytes as they are.
func (b *burglary) publish(c *client.Client, topic string, body []byte, o ...client.PublishOption) {
	err := c.Publish(b.ctx, topic, message.NewRaw(body), append([]client.PublishOption{client.WithQoS(2), client.Unlimited()}, o...)...)
	var refusal *client.RefusedError
	switch {
	case err == nil:
		b.taken++
	case errors.As(err, &refusal):
		b.refused++
	default:
		b.t.Fatal(err)
	}
}

// liveAndRetained publishes bytes on the topic of the emergency stop.
func (b *burglary) liveAndRetained(c *client.Client, body []byte) {
	b.publish(c, stopTopic, body, client.WithRetain(false))
	b.publish(c, stopTopic, body, client.WithRetain(true))
}

// hubEpoch returns that of the hub that runs.
func (b *burglary) hubEpoch() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.epoch
}

// present returns the sequence that the hub has now.
func (b *burglary) present() uint64 {
	s, err := b.m.latch.Confirm(b.ctx)
	must(b.t, err)
	return s.Sequence
}

// claim is a message that says that it is released.
func (b *burglary) claim(from string, fields map[string]any) []byte {
	about := map[string]any{"engaged": false, "reason": "", "by": "operator", "since": message.Seconds(time.Now()), "sequence": b.state.Sequence + 1}
	for k, v := range fields {
		about[k] = v
	}
	raw, err := json.Marshal(about)
	must(b.t, err)
	return b.envelope(message.NewAlert(from, message.Alert{AlertType: "emergency_stop", Severity: "critical", Message: "Emergency stop released by operator", Context: raw}))
}

func (b *burglary) envelope(m message.Message, err error) []byte {
	must(b.t, err)
	body, _, err := message.Encode(&m, message.Limits{CompressAbove: -1})
	must(b.t, err)
	return body
}

// request is a command to the hub to release.
func (b *burglary) request(from string, sequence any, change func(m *message.Message, c *message.Command)) []byte {
	raw, err := json.Marshal(map[string]any{"sequence": sequence})
	must(b.t, err)
	c := message.Command{Target: safety.HubID, Command: "release", Parameters: raw}
	m, err := message.NewCommand(from, c)
	must(b.t, err)
	if change != nil {
		change(&m, &c)
		m2, err := message.NewCommand(from, c)
		must(b.t, err)
		m.Payload = m2.Payload
	}
	return b.envelope(m, nil)
}

func zip(body []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(body)
	_ = w.Close()
	return out.Bytes()
}

func wrongWays() []wrongWay {
	engaged := func(m map[string]any) map[string]any { m["engaged"] = true; return m }
	ways := []wrongWay{
		{"a claim of its own", true, true, func(b *burglary, c *client.Client) {
			b.liveAndRetained(c, b.claim(c.ID(), nil))
			b.liveAndRetained(c, b.claim(c.ID(), map[string]any{"epoch": b.hubEpoch()}))
		}},
		{"a claim in the name of the hub, without an epoch", true, true, func(b *burglary, c *client.Client) { b.liveAndRetained(c, b.claim(safety.HubID, nil)) }},
		{"a claim of another run of the hub", true, true, func(b *burglary, c *client.Client) {
			b.liveAndRetained(c, b.claim(safety.HubID, map[string]any{"epoch": forgedEpoch, "sequence": b.present() + 1}))
		}},
		{"a claim with other shapes of false", true, true, func(b *burglary, c *client.Client) {
			for _, no := range []any{0, "false", nil, []any{}, map[string]any{}, "off"} {
				b.liveAndRetained(c, b.claim(safety.HubID, map[string]any{"epoch": b.hubEpoch(), "engaged": no}))
			}
			body := string(b.claim(safety.HubID, map[string]any{"epoch": b.hubEpoch()}))
			for _, key := range []string{`"Engaged":false`, `"engaged":true,"engaged":false`, `"\u0065ngaged":false`, `"engaged":true,"ENGAGED":false`} {
				b.liveAndRetained(c, []byte(strings.Replace(body, `"engaged":false`, key, 1)))
			}
		}},
		{"the hub's own claim, replayed", true, true, func(b *burglary, c *client.Client) {
			for _, body := range b.claims {
				b.liveAndRetained(c, body)
			}
		}},
		{"the hub's own claim, compressed", true, true, func(b *burglary, c *client.Client) {
			for _, body := range b.claims {
				b.liveAndRetained(c, zip(body))
				b.publish(c, stopTopic, zip(body), client.WithRetain(true), client.WithUser("content-encoding", "gzip"))
			}
		}},
		{"a forged claim, compressed", true, true, func(b *burglary, c *client.Client) {
			b.liveAndRetained(c, zip(b.claim(safety.HubID, map[string]any{"epoch": b.hubEpoch(), "sequence": b.present() + 1})))
			b.liveAndRetained(c, zip(b.claim(c.ID(), nil)))
		}},
		{"a claim in another encoding", true, true, func(b *burglary, c *client.Client) {
			body := b.claim(safety.HubID, map[string]any{"epoch": b.hubEpoch(), "sequence": b.present() + 1})
			b.liveAndRetained(c, append([]byte("\xef\xbb\xbf"), body...))
			wide := []byte("\xff\xfe")
			for _, x := range string(body) {
				wide = append(wide, byte(x), byte(x>>8))
			}
			b.liveAndRetained(c, wide)
		}},
		{"a claim that is too old, or has expired", true, true, func(b *burglary, c *client.Client) {
			for _, change := range []func(m *message.Metadata){
				func(m *message.Metadata) { m.Timestamp -= 24 * 60 * 60 },
				func(m *message.Metadata) { m.Timestamp += 24 * 60 * 60 },
				func(m *message.Metadata) { m.ExpiresAt = m.Timestamp - 10 },
				func(m *message.Metadata) { m.ExpiresAt = m.Timestamp + 1 },
			} {
				x, err := message.Decode(b.claim(safety.HubID, map[string]any{"epoch": b.hubEpoch(), "sequence": b.present() + 1}), message.Limits{})
				must(b.t, err)
				change(&x.Metadata)
				b.liveAndRetained(c, b.envelope(x, nil))
			}
		}},
		{"an empty retained message", true, true, func(b *burglary, c *client.Client) {
			b.liveAndRetained(c, nil)
			b.liveAndRetained(c, []byte(" "))
		}},
		{"an engagement that fades", true, true, func(b *burglary, c *client.Client) {
			b.publish(c, stopTopic, []byte("stop"), client.WithRetain(true), client.WithExpiry(time.Second))
		}},
		{"a claim by a Will", true, true, func(b *burglary, c *client.Client) {
			for _, body := range [][]byte{b.claim(safety.HubID, map[string]any{"epoch": b.hubEpoch(), "sequence": b.present() + 1}), b.claims[0], nil} {
				o := peerOptions{ID: "dying", Will: &packet.Will{Topic: []byte("lawnberry/" + stopTopic), Payload: body, QoS: 2, Retain: true}}
				if b.ruled {
					o.Username = map[string]string{"tablet": "vic", "web": "ann", "driver-tool": "driver"}[c.ID()]
					if o.Username == "" || o.Username == "driver" {
						o.Username, o.ID = "gps", "gps-dying"
					}
					o.Password = secretOf + o.Username
				}
				p := newPeer(o)
				if p.connect(b.ctx, b.m.server.Addr) == nil {
					b.taken++
					p.cut()
				} else {
					b.refused++
				}
			}
		}},
		{"what Home Assistant sends", true, true, func(b *burglary, c *client.Client) {
			for _, body := range []string{"OFF", "off", `{"state":"OFF"}`, `{"state":"off"}`, "false", "0", "null", "{}", "released", "UNLOCK", `{"engaged":false}`, `{"context":{"engaged":false}}`} {
				b.liveAndRetained(c, []byte(body))
				b.publish(c, commandsToHub, []byte(body), client.WithRetain(false))
			}
		}},
		{"the service's status", true, true, func(b *burglary, c *client.Client) {
			for _, state := range []string{"offline", "healthy"} {
				b.publish(c, "system/services/emergency_stop/status", b.envelope(message.NewStatus(safety.HubID, message.Status{Status: state, Uptime: 1, Version: "1"})), client.WithRetain(true))
			}
		}},
		{"forged answers of the hub", true, true, func(b *burglary, c *client.Client) {
			result, err := json.Marshal(map[string]any{
				"engaged": false, "reason": "", "by": "operator", "since": message.Seconds(time.Now()), "sequence": b.present() + 1, "epoch": b.hubEpoch(),
			})
			must(b.t, err)
			for _, to := range []string{"operator", "driver", "fresh"} {
				for _, from := range []string{safety.HubID, c.ID()} {
					m, err := message.NewResponse(from, message.Response{Success: true, Result: result})
					must(b.t, err)
					for _, id := range []string{"", message.NewID(), "0"} {
						m.Metadata.CorrelationID = id
						b.publish(c, "responses/"+to, b.envelope(m, nil), client.WithRetain(false))
						b.publish(c, "responses/"+to, b.envelope(m, nil), client.WithRetain(true))
						b.publish(c, "responses/"+to, b.envelope(m, nil), client.WithRetain(false), client.WithResponse("responses/"+to, []byte(message.NewID())))
					}
				}
				b.publish(c, "responses/"+to, nil, client.WithRetain(true))
			}
		}},
		{"commands with wrong sequences", true, true, func(b *burglary, c *client.Client) {
			now := b.present()
			for _, n := range []any{0, now - 1, now + 1, 1, -1, uint64(1) << 53, uint64(1)<<63 + 1, fmt.Sprint(now), nil, float64(now) + .5, []uint64{now}, true} {
				b.publish(c, commandsToHub, b.request(c.ID(), n, nil), client.WithRetain(false))
			}
		}},
		{"commands that have expired", true, true, func(b *burglary, c *client.Client) {
			now := b.present()
			b.publish(c, commandsToHub, b.request(c.ID(), now, func(m *message.Message, _ *message.Command) { m.Metadata.ExpiresAt = m.Metadata.Timestamp - .001 }), client.WithRetain(false))
			b.publish(c, commandsToHub, b.request(c.ID(), now, func(m *message.Message, _ *message.Command) {
				m.Metadata.Timestamp -= 100
				m.Metadata.ExpiresAt = m.Metadata.Timestamp + 30
			}), client.WithRetain(false))
		}},
		{"commands that are retained", true, true, func(b *burglary, c *client.Client) {
			// Heard live it is a command like any other, here with a sequence that is not there yet. Then it is, and the retained one comes.
			b.publish(c, commandsToHub, b.requests[0], client.WithRetain(true))
			b.publish(c, commandsToHub, b.request(c.ID(), b.present()+1, nil), client.WithRetain(true))
			before := b.present()
			must(b.t, b.m.latch.Engage(b.ctx, fmt.Sprint("burglar alarm, attempt ", b.attempts)), b.m.latch.Settle(b.ctx))
			if now := b.present(); now != before+1 {
				b.t.Errorf("the sequence is %d after %d", now, before)
			}
			b.m.hub.kill()
			b.m.hub.start()
		}},
		{"commands that were run before", true, true, func(b *burglary, c *client.Client) {
			for _, body := range b.requests {
				b.publish(c, commandsToHub, body, client.WithRetain(false))
				b.publish(c, commandsToHub, zip(body), client.WithRetain(false))
			}
		}},
		{"commands for another", true, true, func(b *burglary, c *client.Client) {
			now := b.present()
			b.publish(c, commandsToHub, b.request(c.ID(), now, func(_ *message.Message, x *message.Command) { x.Target = "driver" }), client.WithRetain(false))
			for _, to := range []string{"driver", "safety"} {
				b.publish(c, "commands/"+to, b.request(c.ID(), now, nil), client.WithRetain(false))
			}
		}},
		{"a command without the right", false, true, func(b *burglary, c *client.Client) {
			now := b.present()
			for _, from := range []string{c.ID(), safety.HubID, "operator", "root", ""} {
				body := b.request(c.ID(), now, nil)
				body = bytes.Replace(body, []byte(`"sender":"`+c.ID()+`"`), []byte(`"sender":"`+from+`"`), 1)
				b.publish(c, commandsToHub, body, client.WithRetain(false))
				b.publish(c, commandsToHub, zip(body), client.WithRetain(false))
			}
			if err := c.Call(b.ctx, safety.HubID, "release", map[string]uint64{"sequence": now}, nil); err == nil {
				b.note("the hub", "released")
			}
		}},
		{"a command without the right, in disguise", false, true, func(b *burglary, c *client.Client) {
			body := string(b.request(c.ID(), b.present(), nil))
			for _, as := range []string{
				`"command":"\u0072elease"`, `"Command":"release"`, `"command":"get_status","command":"release"`, `"command":"release","command":"get_status"`,
				`"command":"get_status","COMMAND":"release"`, `"command":["release"]`, `"command":"release "`,
			} {
				x := []byte(strings.Replace(body, `"command":"release"`, as, 1))
				b.publish(c, commandsToHub, x, client.WithRetain(false))
				b.publish(c, commandsToHub, zip(x), client.WithRetain(false))
			}
			b.publish(c, commandsToHub, append([]byte("\xef\xbb\xbf"), body...), client.WithRetain(false))
		}},
		{"in the hub's place", false, true, func(b *burglary, c *client.Client) {
			for _, user := range []string{"vic", "ann", "gps", "driver"} {
				o := client.Options{URL: "tcp://" + b.m.server.Addr, ID: safety.HubID, Username: user, Password: client.Secret(secretOf + user), FailFast: true}
				thief, err := client.Connect(b.ctx, o)
				if err == nil {
					b.note("the broker", user+" is let in as the hub")
					_ = thief.Close(b.ctx)
				}
				b.refused++
			}
		}},
		{"confirming what the hub has not heard", true, true, confirmUnheard},
		{"killing the hub over a claim", true, true, func(b *burglary, c *client.Client) {
			now := b.present()
			b.m.hub.kill()
			for _, body := range [][]byte{b.claims[b.random.IntN(2)], b.claim(safety.HubID, map[string]any{"epoch": b.hubEpoch(), "sequence": now}), b.claim(safety.HubID, map[string]any{"epoch": forgedEpoch, "sequence": now + 1})} {
				b.publish(c, stopTopic, body, client.WithRetain(true))
			}
			b.publish(c, commandsToHub, b.requests[1], client.WithRetain(true))
			b.m.hub.start()
		}},
		{"killing the hub over nothing", true, true, func(b *burglary, c *client.Client) {
			b.m.hub.kill()
			must(b.t, os.Remove(b.m.hub.part.File))
			b.publish(c, stopTopic, [][]byte{nil, b.claims[1]}[b.random.IntN(2)], client.WithRetain(true))
			b.m.hub.start()
		}},
	}
	for _, engages := range []bool{false, true} {
		for _, n := range []struct {
			name     string
			sequence func(now uint64) any
		}{
			{"0", func(uint64) any { return 0 }},
			{"an old sequence", func(now uint64) any { return now - 1 }},
			{"the present sequence", func(now uint64) any { return now }},
			{"the next sequence", func(now uint64) any { return now + 1 }},
			{"a later sequence", func(now uint64) any { return now + 1000 }},
			{"the highest sequence", func(uint64) any { return uint64(1)<<53 - 1 }},
			{"a sequence that is too high", func(uint64) any { return uint64(1) << 53 }},
			{"a sequence that is none", func(uint64) any { return -1 }},
			{"a sequence beyond all", func(uint64) any { return 1e300 }},
		} {
			if engages && n.name == "the highest sequence" {
				continue // the hub cannot be asked about a later one, and it stays engaged until the hub is started again
			}
			name := "the hub's epoch with " + n.name
			if engages {
				name += ", engaged, and then a claim"
			}
			ways = append(ways, wrongWay{name, true, true, func(b *burglary, c *client.Client) {
				now := b.present()
				about := func() map[string]any { return map[string]any{"epoch": b.hubEpoch(), "sequence": n.sequence(now)} }
				if engages {
					b.liveAndRetained(c, b.claim(safety.HubID, engaged(about())))
				}
				b.liveAndRetained(c, b.claim(safety.HubID, about()))
			}})
		}
	}
	return ways
}

// confirmUnheard has the emergency stop released, in the right way, and engaged while the hub cannot hear it; then it says in the hub's
// name that it was taken in.
func confirmUnheard(b *burglary, c *client.Client) {
	var now uint64
	b.quiet(func() {
		b.m.release(b.ctx)
		eventually(b.t, 20*time.Second, "released everywhere", func() bool {
			var s safety.State
			return b.m.operator.Call(b.ctx, "driver", "state", nil, &s) == nil && s.Known && !s.Engaged && b.m.latch.Released()
		})
		now = b.present()
		b.m.hub.freeze()
		b.mu.Lock()
		epoch := b.epoch
		b.mu.Unlock()
		id := make(chan string, 100)
		sub, err := b.m.operator.Subscribe(b.ctx, stopTopic, func(_ context.Context, d *client.Delivery) {
			if d.Message.Metadata.Sender == "operator" {
				select {
				case id <- d.Message.Metadata.ID:
				default:
				}
			}
		}, client.WithInvalid())
		must(b.t, err)
		for len(id) > 0 {
			<-id // it was retained
		}
		begun := b.m.driver.now()
		must(b.t, b.m.latch.Engage(b.ctx, fmt.Sprint("burglar alarm, attempt ", b.attempts)))
		b.m.driver.await(begun, "that it is engaged", func(e event) bool { return e.kind == saidLatch && strings.HasPrefix(e.text, "engaged") })
		b.mark = b.m.driver.now()
		b.mu.Lock()
		b.released = nil
		b.mu.Unlock()
		var ids []string
		for len(ids) == 0 || len(id) > 0 {
			ids = append(ids, <-id)
		}
		must(b.t, sub.Unsubscribe(b.ctx))
		for _, engaged := range []bool{false, true} {
			for _, n := range []uint64{now, now - 1} {
				b.publish(c, stopTopic, b.claim(safety.HubID, map[string]any{"engaged": engaged, "epoch": epoch, "sequence": n, "confirms": ids}), client.WithRetain(false))
			}
		}
		var s safety.State
		must(b.t, b.m.operator.Call(b.ctx, "driver", "state", nil, &s))
		for _, l := range []safety.State{s, b.m.latch.State()} {
			if !l.Engaged {
				b.t.Errorf("what the hub has not heard was confirmed by %s: %+v", c.ID(), l)
			}
		}
		for _, e := range b.m.driver.since(b.mark) {
			if e.kind == saidLatch && strings.HasPrefix(e.text, "released") {
				b.t.Errorf("what the hub has not heard was confirmed by %s: the driver: %v", c.ID(), e)
			}
		}
		b.mu.Lock()
		if len(b.released) > 0 {
			b.t.Errorf("what the hub has not heard was confirmed by %s: %v", c.ID(), b.released)
		}
		b.mu.Unlock()
		b.m.hub.thaw()
		eventually(b.t, 30*time.Second, "the hub has heard it", func() bool { return b.m.latch.Settle(b.ctx) == nil && b.m.latch.State().Engaged })
	})
}
