package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/brokertest"
	"github.com/lawnberry/lawnberry/internal/seal"
	"github.com/lawnberry/lawnberry/message"
)

// keyFile makes a key file with one key of each algorithm.
func keyFile(t testing.TB, algorithms ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys")
	for i, a := range algorithms {
		addKey(t, path, a, i == 0)
	}
	return path
}

func addKey(t testing.TB, path, algorithm string, first bool) {
	t.Helper()
	k, err := seal.Generate(algorithm, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	write := seal.Add
	if first {
		write = seal.Create
	}
	if err := write(path, k); err != nil {
		t.Fatal(err)
	}
}

// serveEcho has c answer echo on commands/nav and counts what is executed.
func serveEcho(t testing.TB, c *Client) *atomic.Int64 {
	t.Helper()
	var ran atomic.Int64
	_, err := c.ServeCommands(testContext(t), "nav", nil, func(_ context.Context, r *Request) (any, error) {
		ran.Add(1)
		return r.Parameters, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return &ran
}

func TestSignedCommand(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []string{seal.HMAC, seal.Ed25519} {
		b := startBroker(t)
		g := &Signing{KeyFile: keyFile(t, algorithm), Algorithm: algorithm, Policies: []Policy{{"commands/+", VerifyRequired}, {"responses/+", VerifyRequired}}}
		server := connect(t, Options{Dial: b.Dial, Signing: g})
		caller := connect(t, Options{Dial: b.Dial, Signing: g})
		stranger := connect(t, Options{Dial: b.Dial})
		ran := serveEcho(t, server)
		var out map[string]int
		if err := caller.Call(testContext(t), "nav", "echo", map[string]int{"a": 1}, &out); err != nil || out["a"] != 1 {
			t.Fatalf("%s: %v, %v", algorithm, out, err)
		}
		if s, v := caller.Stats(), server.Stats(); s.Signed != 1 || s.Verified != 1 || v.Signed != 1 || v.Verified != 1 {
			t.Errorf("%s: caller signed %d and verified %d, server %d and %d", algorithm, s.Signed, s.Verified, v.Signed, v.Verified)
		}
		e := asCommandError(t, stranger.Call(testContext(t), "nav", "echo", nil, nil))
		if e.Code != CodeRefused || !strings.Contains(e.Message, "not signed") || ran.Load() != 1 || server.Stats().Rejected[ReasonUnsigned] != 1 {
			t.Errorf("%s: unsigned: %v, ran %d times, rejected %v", algorithm, e, ran.Load(), server.Stats().Rejected)
		}
	}
}

// resend publishes d with what change makes of it.
func resend(t testing.TB, c *Client, d Delivery, change func(topic *string, body *[]byte, user map[string]string)) {
	t.Helper()
	user := map[string]string{}
	for _, kv := range d.User {
		user[kv[0]] = kv[1]
	}
	topic, body := d.Topic, bytes.Clone(d.Message.Payload)
	change(&topic, &body, user)
	opts := []PublishOption{WithRetain(false), WithQoS(2)}
	for k, v := range user {
		opts = append(opts, WithUser(k, v))
	}
	if err := c.Publish(testContext(t), topic, message.NewRaw(body), opts...); err != nil {
		t.Fatal(err)
	}
}

// wiretap returns how m goes out from c: as bytes, with its user properties.
func wiretap(t testing.TB, b brokertest.Broker, c *Client, topic string, m message.Message, opts ...PublishOption) Delivery {
	t.Helper()
	tap := connect(t, Options{Dial: b.Dial})
	got := make(chan Delivery, 1)
	s := subscribe(t, tap, topic, func(_ context.Context, d *Delivery) {
		select {
		case got <- *d:
		default:
		}
	})
	if err := c.Publish(testContext(t), topic, m, opts...); err != nil {
		t.Fatal(err)
	}
	select {
	case d := <-got:
		if err := s.Unsubscribe(testContext(t)); err != nil {
			t.Fatal(err)
		}
		if !d.Message.Raw { // as it was on the wire
			body, err := d.Message.Append(nil)
			if err != nil {
				t.Fatal(err)
			}
			d.Message = message.NewRaw(body)
		}
		return d
	case <-time.After(patience):
		t.Fatal("nothing arrives")
		panic("unreachable")
	}
}

func commandAt(t testing.TB, at time.Time) message.Message {
	t.Helper()
	m, err := message.NewCommand("caller", message.Command{Target: "nav", Command: "echo", RequireAck: new(false)})
	if err != nil {
		t.Fatal(err)
	}
	m.Metadata.Timestamp = message.Seconds(at)
	return m
}

// TestSignatureRefused has a command changed on its way, in each way, and counts. The executor runs what is right and nothing else.
// (With a verify that returns nil all but "as it was" and "replayed" fail; with a replayed that does, "replayed" does.)
func TestSignatureRefused(t *testing.T) {
	t.Parallel()
	swap := func(old, new string) func(*string, *[]byte, map[string]string) {
		return func(_ *string, body *[]byte, _ map[string]string) {
			if !bytes.Contains(*body, []byte(old)) {
				t.Errorf("%s is not in %s", old, *body)
			}
			*body = bytes.Replace(*body, []byte(old), []byte(new), 1)
		}
	}
	property := func(k, v string) func(*string, *[]byte, map[string]string) {
		return func(_ *string, _ *[]byte, user map[string]string) { user[k] = v }
	}
	as := func(*string, *[]byte, map[string]string) {}
	tests := []struct {
		name   string
		age    time.Duration
		change func(topic *string, body *[]byte, user map[string]string)
		times  int
		want   message.Reason
	}{
		{"as it was", 0, as, 1, ""},
		{"payload", 0, swap(`"echo"`, `"halt"`), 1, ReasonSignature},
		{"sender", 0, swap(`"sender":"caller"`, `"sender":"somebody"`), 1, ReasonSignature},
		{"message id", 0, swap(`"message_id":"`, `"message_id":"0`), 1, ReasonSignature},
		{"timestamp", 0, swap(`"timestamp":`, `"timestamp":1`), 1, ReasonSignature},
		{"topic", 0, func(topic *string, _ *[]byte, _ map[string]string) { *topic = "commands/other" }, 1, ReasonSignature},
		{"will", 0, property(willKey, "1"), 1, ReasonSignature},
		{"old", time.Minute, as, 1, ReasonStale},
		{"ahead", -time.Minute, as, 1, ReasonStale},
		{"replayed", 0, as, 3, ReasonReplayed},
		{"unknown key", 0, property(signatureKeyKey, "another"), 1, ReasonUnknownKey},
		{"wrong algorithm", 0, property(signatureAlgorithmKey, seal.Ed25519), 1, ReasonAlgorithm},
		{"no algorithm", 0, property(signatureAlgorithmKey, "none"), 1, ReasonAlgorithm},
		{"no base64", 0, property(signatureKey, "?"), 1, ReasonSignature},
		{"unsigned", 0, func(_ *string, _ *[]byte, user map[string]string) { clear(user) }, 1, ReasonUnsigned},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := startBroker(t)
			g := &Signing{KeyFile: keyFile(t, seal.HMAC)}
			sender := connect(t, Options{Dial: b.Dial, Signing: g})
			raw := connect(t, Options{Dial: b.Dial})
			sent := wiretap(t, b, sender, "commands/nav", commandAt(t, time.Now().Add(-tt.age)))

			server := connect(t, Options{Dial: b.Dial, Signing: g})
			ran := serveEcho(t, server)
			k := newCollector()
			subscribe(t, server, "commands/+", k.handle)
			for range tt.times {
				resend(t, raw, sent, tt.change)
			}
			k.settle(t, server)
			want, good := map[message.Reason]uint64{}, int64(0)
			if tt.want != "" {
				want[tt.want] = 1
			}
			if tt.times > 1 {
				want[tt.want] = uint64(tt.times - 1)
			}
			if tt.want == "" || tt.times > 1 {
				good = 1
			}
			if n, known := want[tt.want]; known && brokertest.IsMosquitto(t) && tt.name != "topic" { // which sends one for each of the two subscriptions that overlap
				want[tt.want] = 2 * n
			}
			eventually(t, "it is handled", func() bool { return ran.Load() == good && int64(len(k.all())) == good })
			if got := server.Stats().Rejected; !maps.Equal(got, want) {
				t.Errorf("rejected %v, want %v", got, want)
			}
		})
	}
}

// TestSignatureThroughBridge sends a command over two brokers by a plain client that knows nothing of signatures, and compresses anew.
func TestSignatureThroughBridge(t *testing.T) {
	t.Parallel()
	near, far := startBroker(t), startBroker(t)
	g := &Signing{KeyFile: keyFile(t, seal.Ed25519), Algorithm: seal.Ed25519}
	sender := connect(t, Options{Dial: near.Dial, Signing: g})
	server := connect(t, Options{Dial: far.Dial, Signing: g})
	from, to := connect(t, Options{Dial: near.Dial}), connect(t, Options{Dial: far.Dial})
	ran := serveEcho(t, server)
	subscribe(t, from, "commands/+", func(ctx context.Context, d *Delivery) {
		opts := []PublishOption{}
		for _, kv := range d.User {
			if kv[0] != encodingKey {
				opts = append(opts, WithUser(kv[0], kv[1]))
			}
		}
		if err := to.Publish(ctx, d.Topic, d.Message, opts...); err != nil {
			t.Error(err)
		}
	})
	for _, size := range []int{10, 3000} { // the second is compressed
		m, err := message.NewCommand("caller", message.Command{Target: "nav", Command: "echo", RequireAck: new(false),
			Parameters: json.RawMessage(`{"text":"` + strings.Repeat("a", size) + `"}`)})
		if err != nil {
			t.Fatal(err)
		}
		if err := sender.Publish(testContext(t), "commands/nav", m); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "both commands are executed", func() bool { return ran.Load() == 2 })
	if s := server.Stats(); s.Verified != 2 || len(s.Rejected) != 0 {
		t.Errorf("verified %d, rejected %v", s.Verified, s.Rejected)
	}
}

// TestKeyRotation rotates both keys while commands are called and encrypted states published. Everything arrives.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	file := keyFile(t, seal.HMAC, seal.AESGCM)
	g, e := &Signing{KeyFile: file}, &Encryption{KeyFile: file, Topics: []string{"commands/#", "responses/#"}}
	server := connect(t, Options{Dial: b.Dial, Signing: g, Encryption: e})
	caller := connect(t, Options{Dial: b.Dial, Signing: g, Encryption: e})
	ran := serveEcho(t, server)
	tap := newCollector()
	subscribe(t, connect(t, Options{Dial: b.Dial}), "commands/nav", tap.handle)
	keys := map[string]bool{}
	calls := 0
	for rotations := 0; len(keys) < 3; calls++ {
		if err := caller.Call(testContext(t), "nav", "echo", nil, nil); err != nil {
			t.Fatal(err)
		}
		for _, d := range tap.all() {
			key, _ := d.user(signatureKeyKey)
			keys[key] = true
		}
		if rotations < len(keys) {
			addKey(t, file, seal.HMAC, false)
			addKey(t, file, seal.AESGCM, false)
			rotations++
		}
	}
	for _, c := range []*Client{server, caller} {
		if r := c.Stats().Rejected; len(r) != 0 {
			t.Errorf("rejected %v", r)
		}
	}
	if ran.Load() != int64(calls) {
		t.Errorf("%d of %d commands ran", ran.Load(), calls)
	}
	t.Logf("%d calls over %d keys", calls, len(keys))
}

// TestEncryptedTopic: a plain subscriber reads nothing of it, ours all; also compressed, also over MQTT 3.1.1.
func TestEncryptedTopic(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	e := &Encryption{KeyFile: keyFile(t, seal.AESGCM), Topics: []string{"navigation/#"}}
	sender := connect(t, Options{Dial: b.Dial, Encryption: e})
	reader := connect(t, Options{Dial: b.Dial, Encryption: e})
	old := connect(t, Options{Dial: onlyV311(b, refusals["return code 1 of 3.1.1"]), Encryption: e})
	other := connect(t, Options{Dial: b.Dial, Encryption: &Encryption{KeyFile: keyFile(t, seal.AESGCM)}})
	plain := connect(t, Options{Dial: b.Dial})
	var got [3]*collector
	for i, c := range []*Client{reader, old, plain} {
		got[i] = newCollector()
		subscribe(t, c, "navigation/+", got[i].handle)
	}
	none := newCollector()
	subscribe(t, other, "navigation/+", none.handle)
	secret := `{"latitude":52.5163,"text":"` + strings.Repeat("berlin", 500) + `"}`
	for _, text := range []string{`{"latitude":52.5163}`, secret} {
		m, err := message.NewHeartbeat("gps", json.RawMessage(text))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []*Client{sender, old} {
			if err := c.Publish(testContext(t), "navigation/position", m, WithRetain(false)); err != nil {
				t.Fatal(err)
			}
			m.Metadata.ID = message.NewID()
		}
	}
	for i := range got {
		for _, text := range got[i].wait(t, 4) {
			if readable := strings.Contains(text, "52.5163"); readable != (i < 2) {
				t.Errorf("subscriber %d reads %.80q", i, text)
			}
		}
	}
	for _, d := range got[2].all() {
		if len(d.Message.Payload) > 1000 || bytes.Contains(d.Message.Payload, []byte{0x1f, 0x8b, 8}) {
			t.Errorf("%d bytes, want them compressed before they are encrypted: %x", len(d.Message.Payload), d.Message.Payload)
		}
	}
	eventually(t, "who has another key refuses them", func() bool { return other.Stats().Rejected[ReasonUnknownKey] == 4 })
	if n := len(none.all()); n != 0 {
		t.Errorf("%d messages without the key", n)
	}
	tampered := *got[2].all()[0]
	resend(t, plain, tampered, func(_ *string, body *[]byte, _ map[string]string) { (*body)[len(*body)-1] ^= 1 })
	resend(t, plain, tampered, func(topic *string, _ *[]byte, _ map[string]string) { *topic = "navigation/path" })
	eventually(t, "what was changed is refused", func() bool { return reader.Stats().Rejected[ReasonDecrypt] == 2 })
	if s := reader.Stats(); s.Decrypted != 4 {
		t.Errorf("decrypted %d", s.Decrypted)
	}
}

// TestSigningOverV311: what requires a signature is refused by name, at once and from the outbox, and not taken in either. (Without
// the check in transmit the last one goes out.)
func TestSigningOverV311(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	g := &Signing{KeyFile: keyFile(t, seal.HMAC), Policies: []Policy{{"commands/+", VerifyRequired}, {"#", VerifySigned}}}
	c := connect(t, Options{Dial: onlyV311(b, refusals["return code 1 of 3.1.1"]), Signing: g})
	ran := serveEcho(t, c)
	err := c.Publish(testContext(t), "commands/nav", commandAt(t, time.Now()))
	if !errors.Is(err, ErrNotSigned) || !strings.Contains(err.Error(), "MQTT 3.1.1") {
		t.Errorf("publish: %v", err)
	}
	if err := c.Publish(testContext(t), "other", raw("x")); err != nil {
		t.Errorf("where none is required: %v", err)
	}
	publish(t, connect(t, Options{Dial: b.Dial}), "commands/nav", "x")
	eventually(t, "it is refused", func() bool { return c.Stats().Rejected[ReasonUnsigned] == 1 })
	if ran.Load() != 0 || c.Stats().Rejected[ReasonNotSigned] != 1 {
		t.Errorf("ran %d, rejected %v", ran.Load(), c.Stats().Rejected)
	}

	p, err := c.prepareOffline("commands/nav", commandAt(t, time.Now())) // as if there had been no connection yet
	if err == nil {
		err = c.submit(testContext(t), p, true)
	}
	if err != nil {
		t.Fatal(err)
	}
	<-p.Delivered()
	if err := p.Err(); !errors.Is(err, ErrNotSigned) {
		t.Errorf("from the outbox: %v", err)
	}
}

// prepareOffline is prepare while there is no connection.
func (c *Client) prepareOffline(name string, m message.Message) (*publication, error) {
	c.mu.Lock()
	l := c.link
	c.link = nil
	c.mu.Unlock()
	p, err := c.prepare(name, m, nil)
	c.mu.Lock()
	c.link = l
	c.mu.Unlock()
	return p, err
}

// TestSafetyUnsigned: on safety topics a wide policy requires nothing, and only a signature that does not fit is refused. (With a policy
// that makes no exception for them nothing arrives.)
func TestSafetyUnsigned(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	all := []Policy{{"#", VerifyRequired}, {"+/emergency_stop", VerifyRequired}}
	strict := []Policy{{"safety/emergency_stop", VerifyRequired}, {"settle/+", VerifyOff}}
	file := keyFile(t, seal.HMAC)
	sender := connect(t, Options{Dial: b.Dial, Signing: &Signing{KeyFile: file, Policies: all}})
	m, err := message.NewAlert("button", message.Alert{AlertType: "emergency_stop", Severity: "critical", Message: "stop"})
	if err != nil {
		t.Fatal(err)
	}
	m.Metadata.Timestamp -= 60 // a clock that is wrong
	sent := wiretap(t, b, sender, "safety/emergency_stop", m, WithRetain(false))
	lenient := connect(t, Options{Dial: b.Dial, Signing: &Signing{KeyFile: file, Policies: append(all, Policy{"settle/+", VerifyOff})}})
	explicit := connect(t, Options{Dial: b.Dial, Signing: &Signing{KeyFile: file, Policies: strict}})
	raw := connect(t, Options{Dial: b.Dial})
	var got [2]*collector
	for i, c := range []*Client{lenient, explicit} {
		got[i] = newCollector()
		subscribe(t, c, "safety/emergency_stop", got[i].handle)
	}
	resend(t, raw, sent, func(*string, *[]byte, map[string]string) {})
	resend(t, raw, sent, func(_ *string, _ *[]byte, user map[string]string) { clear(user) })
	resend(t, raw, sent, func(_ *string, _ *[]byte, user map[string]string) { user[signatureKeyKey] = "another" })
	resend(t, raw, sent, func(_ *string, body *[]byte, _ map[string]string) {
		*body = bytes.Replace(*body, []byte(`"stop"`), []byte(`"go"`), 1)
	})
	if n := len(got[0].settle(t, lenient)); n != 3 || lenient.Stats().Rejected[ReasonSignature] != 1 {
		t.Errorf("%d of 3 arrive, rejected %v", n, lenient.Stats().Rejected)
	}
	want := map[message.Reason]uint64{ReasonStale: 1, ReasonUnsigned: 1, ReasonUnknownKey: 1, ReasonSignature: 1}
	if n := len(got[1].settle(t, explicit)); n != 0 || !maps.Equal(explicit.Stats().Rejected, want) {
		t.Errorf("%d of 0 arrive, rejected %v", n, explicit.Stats().Rejected)
	}
}

// TestRetainedAndWill are exempt from the window; what is neither is not. (Without the exemption neither arrives.)
func TestRetainedAndWill(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	g := &Signing{KeyFile: keyFile(t, seal.HMAC), Policies: []Policy{{"#", VerifyRequired}}, Window: time.Millisecond * 500}
	old, err := message.NewHeartbeat("x", nil)
	if err != nil {
		t.Fatal(err)
	}
	old.Metadata.Timestamp -= 10
	sender, err := Connect(testContext(t), quick(Options{ID: "sender", Dial: b.Dial, Signing: g, Will: &Will{Topic: "a/will", Message: old, QoS: 1}}))
	if err != nil {
		t.Fatal(err)
	}
	if err := sender.Publish(testContext(t), "a/retained", old, WithRetain(true), WithQoS(1)); err != nil {
		t.Fatal(err)
	}
	reader := connect(t, Options{Dial: b.Dial, Signing: g})
	k := newCollector()
	subscribe(t, reader, "a/#", k.handle)
	k.wait(t, 1)
	live := time.Now()
	eventually(t, "the Will's time is out of the window", func() bool { return time.Since(live) > 600*time.Millisecond })
	sender.mu.Lock()
	conn := sender.link.conn
	sender.mu.Unlock()
	_ = conn.Close() // as if it had died
	k.wait(t, 2)
	if got := reader.Stats().Rejected; len(got) != 0 || k.all()[0].Topic != "a/retained" || k.all()[1].Topic != "a/will" {
		t.Errorf("rejected %v", got)
	}
	if err := sender.Publish(testContext(t), "a/live", old, WithQoS(1)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what is not retained is refused", func() bool { return reader.Stats().Rejected[ReasonStale] == 1 })
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = sender.Close(ctx)
}

// TestReplaysBounded fills the table. What was forgotten is refused for its time. (Without the floor it is taken again.)
func TestReplaysBounded(t *testing.T) {
	t.Parallel()
	s := &sealer{window: time.Hour}
	s.replays.init()
	now := time.Now()
	take := func(i int, ids ...uint32) error {
		in := &inbound{full: "t", proof: &proof{id: fmt.Sprint(i), timestamp: message.Seconds(now) + float64(i)/1000, fresh: true}}
		in.d.Received = now
		return s.replayed(in, ids)
	}
	for i := range maxReplays + 10 {
		if err := take(i, 1, 2); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.replays.seen); n != maxReplays || len(s.replays.order)-s.replays.head != n || len(s.replays.order) > 2*maxReplays+64 {
		t.Errorf("%d remembered, %d in the order", n, len(s.replays.order))
	}
	var rule *ruleError
	if err := take(0, 1); !errors.As(err, &rule) || rule.reason != ReasonStale {
		t.Errorf("forgotten: %v", err)
	}
	if err := take(maxReplays+9, 2); !errors.Is(err, errReplayed) {
		t.Errorf("remembered: %v", err)
	}
	if err := take(maxReplays+9, 3); err != nil {
		t.Errorf("of another subscription: %v", err)
	}
}

// TestRawSigned signs a message without an envelope, and has identity and sender agree.
func TestRawSigned(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	file := keyFile(t, seal.Ed25519)
	keys, err := seal.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	public := filepath.Join(t.TempDir(), "public")
	if err := os.WriteFile(public, seal.PublicLines(keys, "navigation"), 0o600); err != nil {
		t.Fatal(err)
	}
	policies := []Policy{{"a", VerifyRequired}}
	sender := connect(t, Options{Dial: b.Dial, Signing: &Signing{KeyFile: file, Algorithm: "ed25519", Policies: policies}})
	reader := connect(t, Options{Dial: b.Dial, Signing: &Signing{KeyFile: public, Algorithm: "ed25519", Policies: policies}})
	k := newCollector()
	subscribe(t, reader, "a", k.handle)
	publish(t, sender, "a", "raw")
	for _, who := range []string{"navigation", "somebody"} {
		m, err := message.NewHeartbeat(who, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := sender.Publish(testContext(t), "a", m); err != nil {
			t.Fatal(err)
		}
	}
	if got := k.settle(t, reader); len(got) != 2 || got[0] != "raw" || reader.Stats().Rejected[ReasonSignature] != 1 {
		t.Errorf("%q, rejected %v", got, reader.Stats().Rejected)
	}
	if err := reader.Publish(testContext(t), "a", raw("x")); !errors.Is(err, ErrNotSigned) || !strings.Contains(err.Error(), "lawnberry key") {
		t.Errorf("without a key of its own: %v", err)
	}
}

// TestSignedByIdentity has a key with an identity sign for its sender and that one's further clients, but for nobody who has a key of their own.
func TestSignedByIdentity(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	file, public := keyFile(t, seal.Ed25519), filepath.Join(t.TempDir(), "public")
	var lines []byte
	for f, identity := range map[string]string{file: "web_bridge", keyFile(t, seal.Ed25519): "web_bridge-two"} {
		keys, err := seal.Load(f)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, seal.PublicLines(keys, identity)...)
	}
	if err := os.WriteFile(public, lines, 0o600); err != nil {
		t.Fatal(err)
	}
	policies := []Policy{{"a", VerifyRequired}}
	sender := connect(t, Options{Dial: b.Dial, Signing: &Signing{KeyFile: file, Algorithm: "ed25519", Policies: policies}})
	reader := connect(t, Options{Dial: b.Dial, Signing: &Signing{KeyFile: public, Algorithm: "ed25519", Policies: policies}})
	var mu sync.Mutex
	var got []string
	subscribe(t, reader, "a", func(_ context.Context, d *Delivery) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, d.Message.Metadata.Sender)
	})
	for _, who := range []string{"web_bridge-two", "web_bridge-two-page", "web_bridgex", "web", "web_bridge-abc", "web_bridge"} {
		m, err := message.NewHeartbeat(who, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := sender.Publish(testContext(t), "a", m); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the last one", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.Contains(got, "web_bridge")
	})
	mu.Lock()
	defer mu.Unlock()
	if n := reader.Stats().Rejected[ReasonSignature]; !slices.Equal(got, []string{"web_bridge-abc", "web_bridge"}) || n != 4 {
		t.Errorf("taken from %q, %d refused", got, n)
	}
}

func TestPolicies(t *testing.T) {
	t.Parallel()
	o, err := Options{Logger: slog.New(slog.DiscardHandler), Signing: &Signing{KeyFile: keyFile(t, seal.HMAC), Policies: []Policy{
		{"#", VerifySigned}, {"commands/+", VerifyRequired}, {"commands/blade", VerifyOff}, {"+/blade", VerifySigned}, {"safety/hazards", VerifyRequired},
	}}}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	s, err := newSealer(&o)
	if err != nil {
		t.Fatal(err)
	}
	for topic, want := range map[string]Verification{
		"lawnberry/commands/blade": VerifyOff, "lawnberry/commands/nav": VerifyRequired, "lawnberry/x/blade": VerifySigned,
		"lawnberry/x": VerifySigned, "other": VerifyOff, "lawnberry/safety/hazards": VerifyRequired, "lawnberry/safety/emergency_stop": VerifySigned,
	} {
		if got := s.policy(topic); got != want {
			t.Errorf("%s: %s, want %s", topic, got, want)
		}
	}
	for _, bad := range []*Signing{{}, {KeyFile: "/nowhere/keys"}, {KeyFile: o.Signing.KeyFile, Algorithm: "md5"}, {KeyFile: o.Signing.KeyFile, Policies: []Policy{{"a/#/b", VerifyOff}}}} {
		o.Signing = bad
		if _, err := newClient(o); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

func BenchmarkSealed(b *testing.B) {
	for _, tt := range []struct{ name, algorithm string }{{"plain", ""}, {"hmac", seal.HMAC}, {"ed25519", seal.Ed25519}, {"encrypted", seal.AESGCM}} {
		b.Run(tt.name, func(b *testing.B) {
			br := startBroker(b)
			o := Options{Dial: br.Dial}
			switch tt.algorithm {
			case "":
			case seal.AESGCM:
				o.Encryption = &Encryption{KeyFile: keyFile(b, tt.algorithm), Topics: []string{"#"}}
			default:
				o.Signing = &Signing{KeyFile: keyFile(b, tt.algorithm), Algorithm: tt.algorithm}
			}
			server, caller := connect(b, o), connect(b, o)
			serveEcho(b, server)
			b.ReportAllocs()
			for b.Loop() {
				if err := caller.Call(context.Background(), "nav", "echo", nil, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
