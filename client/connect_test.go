package client

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/internal/brokertest"
	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/message"
)

// certificate returns TLS for a server on this host, and for clients that trust it.
func certificate(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, &tls.Config{RootCAs: pool}
}

func TestTransports(t *testing.T) {
	server, trust := certificate(t)
	b := startBroker(t,
		broker.Listener{Network: "tcp", Address: "127.0.0.1:0"},
		broker.Listener{Network: "unix", Address: filepath.Join(t.TempDir(), "s")},
		broker.Listener{Network: "ws", Address: "127.0.0.1:0"},
		broker.Listener{Network: "tcp", Address: "127.0.0.1:0", TLS: server},
		broker.Listener{Network: "ws", Address: "127.0.0.1:0", TLS: server},
	)
	tests := map[string]Options{"in-process": {Dial: b.Dial}}
	for e := range b.Endpoints() {
		scheme, rest, _ := strings.Cut(e.URL, "://")
		tests[scheme] = Options{URL: e.URL, TLS: trust}
		switch scheme {
		case "tcp":
			tests["mqtt"] = Options{URL: "mqtt://" + rest}
		case "ssl", "mqtts", "tls":
			for _, alias := range []string{"ssl", "tls", "mqtts"} {
				tests[alias] = Options{URL: alias + "://" + rest, TLS: trust}
			}
		}
	}
	for _, scheme := range []string{"tcp", "mqtt", "unix", "ws", "wss", "ssl", "tls", "mqtts", "in-process"} {
		o, ok := tests[scheme]
		if !ok {
			t.Errorf("no endpoint for %s", scheme)
		}
		t.Run(scheme, func(t *testing.T) {
			c := connect(t, o)
			k := newCollector()
			subscribe(t, c, "x", k.handle)
			for q := range byte(3) {
				publish(t, c, "x", fmt.Sprint(q), WithQoS(q))
			}
			if got := k.wait(t, 3); fmt.Sprint(got) != "[0 1 2]" {
				t.Error(got)
			}
			if s := c.Stats(); s.Version != 5 || !s.Connected || !c.Connected() {
				t.Errorf("%+v", s)
			}
			begin := time.Now()
			if err := c.Close(testContext(t)); err != nil {
				t.Error(err)
			}
			if took := time.Since(begin); took >= goodbyeTimeout {
				t.Errorf("Close took %v", took)
			}
			if c.Connected() {
				t.Error("connected after Close")
			}
		})
	}
}

func TestConnectErrors(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := l.Addr().String()
	_ = l.Close()
	server, _ := certificate(t)
	b := startBrokerWith(t, broker.Options{
		Listeners: []broker.Listener{{Network: "tcp", Address: "127.0.0.1:0"}, {Network: "tcp", Address: "127.0.0.1:0", TLS: server}},
		Authenticate: func(_ context.Context, l broker.Login) error {
			if l.Username == "mower" && string(l.Password) == "grass" {
				return nil
			}
			return errors.New("no")
		},
	})
	var encrypted string
	for e := range b.Endpoints() {
		if e.URL != b.URL() {
			encrypted = e.URL
		}
	}
	socket := filepath.Join(t.TempDir(), "none")
	tests := []struct {
		name     string
		o        Options
		text     string
		code     packet.Code
		failFast bool // needed, as trying again might help
	}{
		{"nobody listens", Options{URL: "tcp://" + free}, "connect tcp://" + free + `: connection refused: is the broker running? start it with "lawnberry serve"`, 0, true},
		{"no socket", Options{URL: "unix://" + socket}, "connect unix://" + socket + `: no such socket: is the broker running? start it with "lawnberry serve"`, 0, true},
		{"no credentials", Options{URL: b.URL()}, "connect " + b.URL() + ": refused by the broker: Bad User Name or Password: check user name and password (client.auth)", packet.BadUserNameOrPassword, false},
		{"bad credentials in the URL", Options{URL: "tcp://mower:weed@" + strings.TrimPrefix(b.URL(), "tcp://")}, "connect " + b.URL() + ": refused", packet.BadUserNameOrPassword, false},
		{"unknown authority", Options{URL: encrypted}, "set the certificate authority of the broker", 0, false},
		{"TLS to a plain port", Options{URL: strings.Replace(b.URL(), "tcp:", "ssl:", 1)}, "connect ssl://127", 0, true},
		{"scheme", Options{URL: "http://localhost"}, `connect http://localhost: scheme "http" is unknown: use tcp://`, 0, false},
		{"no scheme", Options{URL: "user:secret@localhost:1883"}, "connect localhost:1883: no valid broker URL: it must begin with tcp://", 0, false},
		{"no host", Options{URL: "tcp://:1883"}, "no host in the broker URL", 0, false},
		{"no path", Options{URL: "unix://"}, "no path of a socket", 0, false},
		{"bad URL", Options{URL: "tcp://a b:secret@localhost:x"}, "no valid broker URL", 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.o.FailFast = tt.failFast
			c, err := Connect(testContext(t), tt.o)
			if err == nil {
				_ = c.Close(testContext(t))
				t.Fatal("connected")
			}
			var e *ConnectError
			if !errors.As(err, &e) {
				t.Fatalf("%v is a %T", err, err)
			}
			if packet.Code(e.Code) != tt.code || e.Refused() != (tt.code != 0) {
				t.Errorf("code %#x", e.Code)
			}
			if !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(tt.text)) {
				t.Errorf("%s\nwant %s", err, tt.text)
			}
			if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "weed") {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
	connect(t, Options{URL: b.URL(), Username: "mower", Password: "grass"})
	connect(t, Options{URL: "mqtt://mower:grass@" + strings.TrimPrefix(b.URL(), "tcp://")})
}

func TestConnectOptions(t *testing.T) {
	for name, o := range map[string]Options{
		"id":           {ID: "a+b"},
		"will topic":   {Will: &Will{Topic: "a/#", Message: raw("x")}},
		"will message": {Will: &Will{Topic: "a", Message: message.Message{}}},
		"will QoS":     {Will: &Will{Topic: "a", Message: raw("x"), QoS: 3}},
		"uncompressed": {Uncompressed: []string{"a#"}},
		"factor":       {ReconnectFactor: 0.5},
	} {
		o.Dial = func(context.Context) (net.Conn, error) { return nil, errors.New("should not get so far") }
		if _, err := Connect(testContext(t), o); err == nil || strings.Contains(err.Error(), "so far") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The first connection is tried again until ctx ends, and the error has both causes.
func TestConnectRetriesUntilContextEnds(t *testing.T) {
	var attempts atomic.Int32
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	dial := func(context.Context) (net.Conn, error) {
		if attempts.Add(1) == 5 {
			cancel()
		}
		return nil, errors.New("no cable")
	}
	_, err := Connect(ctx, quick(Options{Dial: dial}))
	var e *ConnectError
	if !errors.As(err, &e) || !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "no cable") {
		t.Errorf("%v", err)
	}
	if n := attempts.Load(); n < 5 {
		t.Errorf("%d attempts", n)
	}
}

// A broker that comes up later is found.
func TestConnectWaitsForBroker(t *testing.T) {
	b := startBroker(t)
	var attempts atomic.Int32
	c := connect(t, Options{Dial: func(ctx context.Context) (net.Conn, error) {
		if attempts.Add(1) < 4 {
			return nil, errors.New("not yet")
		}
		return b.Dial(ctx)
	}})
	publish(t, c, "x", "y", WithQoS(1))
}

// One attempt is bounded, whatever the other side does not do.
func TestConnectTimeout(t *testing.T) {
	dial := scripted(t, func(n int, s *script) {
		s.next()
		if n == 1 { // the second broker accepts but does not confirm the subscription
			s.send(&packet.Connack{})
		}
		s.drain()
	})
	_, err := Connect(testContext(t), quick(Options{Dial: dial, ConnectTimeout: 30 * time.Millisecond, FailFast: true}))
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "timed out") {
		t.Error(err)
	}
	_, err = Connect(testContext(t), quick(Options{Dial: dial, ConnectTimeout: 30 * time.Millisecond, FailFast: true}))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestFallbackToV311(t *testing.T) {
	for name, answer := range refusals {
		t.Run(name, func(t *testing.T) {
			b := startBroker(t)
			c := connect(t, Options{Dial: onlyV311(b, answer), ID: "old"})
			if v := c.Stats().Version; v != 4 {
				t.Fatalf("version %d", v)
			}
			k := newCollector()
			subscribe(t, c, "#", k.handle)
			for q := range byte(3) {
				publish(t, c, "x", fmt.Sprint(q), WithQoS(q))
			}
			if got := k.wait(t, 3); fmt.Sprint(got) != "[0 1 2]" {
				t.Error(got)
			}
			if err := c.Close(testContext(t)); err != nil {
				t.Error(err)
			}
			eventually(t, "the session is gone after Close", func() bool { return brokertest.Holds(b, func(s broker.Stats) bool { return s.Sessions == 0 }) })
		})
	}
}

// A version that is asked for is spoken, and no other is tried.
func TestVersion(t *testing.T) {
	b := startBroker(t)
	for _, version := range []byte{4, 5} {
		if v := connect(t, Options{URL: b.URL(), Version: version}).Stats().Version; v != version {
			t.Errorf("version %d, want %d", v, version)
		}
	}
	for name, answer := range refusals {
		_, err := Connect(testContext(t), quick(Options{Dial: onlyV311(b, answer), Version: 5, FailFast: true}))
		var refused *ConnectError
		if !errors.As(err, &refused) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := Connect(testContext(t), Options{URL: b.URL(), Version: 3}); err == nil || !strings.Contains(err.Error(), "protocol version 3") {
		t.Errorf("version 3: got %v", err)
	}
}

// A connection that is cut in its first moments is no reason to give up MQTT 5 for good.
func TestCutIsNoFallback(t *testing.T) {
	b := startBroker(t)
	var n atomic.Int32
	c := connect(t, Options{Dial: func(ctx context.Context) (net.Conn, error) {
		if n.Add(1) <= 2 {
			near, far := net.Pipe()
			go func() {
				_, _ = far.Read(make([]byte, 1))
				_ = far.Close()
			}()
			return near, nil
		}
		return b.Dial(ctx)
	}})
	if v := c.Stats().Version; v != 5 {
		t.Errorf("version %d", v)
	}
}

func TestCleanStartOverV311(t *testing.T) {
	b := startBroker(t)
	publisher := connect(t, Options{URL: b.URL()})
	dial := onlyV311(b, refusals["return code 1 of 3.1.1"])
	first := connect(t, Options{Dial: dial, ID: "old", SessionExpiry: time.Hour})
	subscribe(t, first, "x", newCollector().handle)
	if err := first.Close(testContext(t)); err != nil {
		t.Fatal(err)
	}
	publish(t, publisher, "x", "missed", WithQoS(1))
	second := connect(t, Options{Dial: dial, ID: "old", SessionExpiry: time.Hour, CleanStart: true})
	k := newCollector()
	subscribe(t, second, "x", k.handle)
	publish(t, publisher, "x", "heard", WithQoS(1))
	if got := k.wait(t, 1); got[0] != "heard" {
		t.Error(got)
	}
}

func TestStates(t *testing.T) {
	b := startBroker(t)
	p, url := startProxy(t, b)
	type event struct {
		up    bool
		cause error
	}
	events := make(chan event, 16)
	c := connect(t, Options{URL: url, OnState: func(up bool, cause error) { events <- event{up, cause} }})
	p.Cut(false)
	var got []string
	for range 3 {
		e := <-events
		got = append(got, fmt.Sprint(e.up, e.cause != nil))
	}
	if want := "true false,false true,true false"; strings.Join(got, ",") != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if n := c.Stats().Reconnects; n != 1 {
		t.Errorf("%d reconnects", n)
	}
	_ = c.Close(testContext(t))
	if e := <-events; e.up || e.cause != nil {
		t.Errorf("after Close: %+v", e)
	}
}

// Two clients of one id do not put each other out without end.
func TestSessionTakenOver(t *testing.T) {
	brokertest.Embedded(t, "it says that a session was taken over, and Mosquitto 2.0.11 does not")
	b := startBroker(t)
	causes := make(chan error, 8)
	log, lines := logged()
	first := connect(t, Options{URL: b.URL(), ID: "twin", Logger: log, ReconnectDelay: time.Hour, OnState: func(up bool, cause error) {
		if !up {
			causes <- cause
		}
	}})
	second := connect(t, Options{URL: b.URL(), ID: "twin"})
	var e *DisconnectError
	if cause := <-causes; !errors.As(cause, &e) || packet.Code(e.Code) != packet.SessionTakenOver {
		t.Errorf("cause %v", cause)
	} else if !strings.Contains(cause.Error(), "another client uses the same client id") {
		t.Error(cause)
	}
	eventually(t, "the log says so", func() bool { return strings.Contains(lines(), "same client id") })
	if d := first.delay(0, e); d < 150*time.Second { // half of 300 s at least
		t.Errorf("the next attempt comes after %v", d)
	}
	publish(t, second, "x", "y", WithQoS(1))
	if n := second.Stats().Reconnects; n != 0 {
		t.Errorf("the second was put out %d times", n)
	}
}

func TestWillAndBirth(t *testing.T) {
	b := startBroker(t)
	watcher := connect(t, Options{URL: b.URL()})
	k := newCollector()
	subscribe(t, watcher, "system/services/nav/status", k.handle)
	status := func(state string) message.Message {
		m, err := message.NewStatus("nav", message.Status{Status: state})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	will := status("offline")
	will.Metadata.Timestamp = 1 // as if made long ago: it is stamped when the connection is made
	p, url := startProxy(t, b)
	var births atomic.Int32
	connect(t, Options{URL: url, ID: "nav",
		Will: &Will{Topic: "system/services/nav/status", Message: will, QoS: 1, Retain: true},
		Birth: func(ctx context.Context, c *Client) error {
			births.Add(1)
			return c.Publish(ctx, "system/services/nav/status", status("healthy"))
		}})
	k.wait(t, 1)
	p.Cut(false)
	k.wait(t, 3)
	states := []string{}
	for _, d := range k.all() {
		s, err := message.Payload[message.Status](d.Message)
		if err != nil {
			t.Fatal(err)
		}
		states = append(states, s.Status)
		if d.Message.Metadata.Timestamp == 1 {
			t.Error("the Will has its old timestamp")
		}
		if _, marked := d.user(willKey); marked != (s.Status == "offline") {
			t.Errorf("%s is marked as a Will: %v", s.Status, marked)
		}
	}
	if fmt.Sprint(states) != "[healthy offline healthy]" || births.Load() != 2 {
		t.Errorf("%v, %d births", states, births.Load())
	}
}

// Birth goes out before the outbox, after a reconnect too.
func TestBirthBeforeOutbox(t *testing.T) {
	b := startBroker(t)
	watcher := connect(t, Options{URL: b.URL()})
	k := newCollector()
	subscribe(t, watcher, "x", k.handle)
	p, url := startProxy(t, b)
	c := connect(t, Options{URL: url, Birth: func(ctx context.Context, c *Client) error {
		return c.Publish(ctx, "x", raw("birth"), WithQoS(1))
	}})
	k.wait(t, 1)
	p.Refuse(true)
	p.Cut(false)
	eventually(t, "the link is down", func() bool { return !c.Connected() })
	publish(t, c, "x", "queued", WithQoS(1))
	p.Refuse(false)
	if got := k.wait(t, 3); fmt.Sprint(got) != "[birth birth queued]" {
		t.Error(got)
	}
}

func TestBirthFails(t *testing.T) {
	b := startBroker(t)
	oops := errors.New("no battery")
	_, err := Connect(testContext(t), Options{URL: b.URL(), Birth: func(context.Context, *Client) error { return oops }})
	if !errors.Is(err, oops) {
		t.Error(err)
	}
	c, err := Connect(testContext(t), Options{URL: b.URL(), Birth: func(ctx context.Context, c *Client) error { return c.Close(ctx) }})
	if err == nil {
		err = c.Close(testContext(t))
	}
	t.Log("Close in Birth:", err)
	eventually(t, "nobody is left", func() bool { return brokertest.Holds(b, func(s broker.Stats) bool { return s.Connections == 0 }) })
}

func TestAssignedIDAndLimits(t *testing.T) {
	hello := make(chan *packet.Connect, 2)
	dial := scripted(t, func(n int, s *script) {
		ack := packet.Connack{}
		ack.Properties.AssignedClientID = []byte("assigned")
		ack.Properties.ServerKeepAlive = packet.Some[uint16](7)
		ack.Properties.MaximumPacketSize = packet.Some[uint32](100)
		ack.Properties.MaximumQoS = packet.Some[byte](1)
		ack.Properties.RetainAvailable = packet.Some[byte](0)
		ack.Properties.WildcardAvailable = packet.Some[byte](0)
		ack.Properties.SharedAvailable = packet.Some[byte](0)
		hello <- s.accept(ack)
		for {
			switch p := s.next().(type) {
			case nil:
				return
			case *packet.Publish:
				if string(p.Payload) == "cut" && n == 0 {
					return
				}
				if p.QoS == 1 {
					s.send(&packet.Ack{Kind: packet.PUBACK, ID: p.ID})
				} else {
					s.t.Errorf("QoS %d to a server that has 1", p.QoS)
				}
			}
		}
	})
	c := connect(t, Options{Dial: dial, ID: "mine"})
	first := <-hello
	if string(first.ClientID) != "mine" || first.Properties.ReceiveMaximum.V != receiveMaximum ||
		first.Properties.SessionExpiry.V != 3600 || first.Properties.TopicAliasMaximum.V != 0 {
		t.Errorf("%+v", first)
	}
	if c.link.keepAlive != 7*time.Second {
		t.Error(c.link.keepAlive)
	}
	publish(t, c, "x", "QoS 2 becomes 1", WithQoS(2))
	err := c.Publish(testContext(t), "x", raw(strings.Repeat("x", 100)), WithQoS(1))
	if !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "the broker's limit is 100") {
		t.Error(err)
	}
	var refused *RefusedError
	if err := c.Publish(testContext(t), "x", raw("y"), WithRetain(true)); !errors.As(err, &refused) || packet.Code(refused.Code) != packet.RetainNotSupported {
		t.Error(err)
	}
	for filter, code := range map[string]packet.Code{"x/+": packet.WildcardSubsNotSupported, "$share/g/x": packet.SharedSubsNotSupported} {
		if _, err := c.Subscribe(testContext(t), filter, newCollector().handle); !errors.As(err, &refused) || packet.Code(refused.Code) != code {
			t.Errorf("%s: %v", filter, err)
		}
	}
	_ = c.PublishAsync("x", raw("cut"), WithQoS(1))
	if second := <-hello; string(second.ClientID) != "assigned" || second.CleanStart {
		t.Errorf("%+v", second)
	}
}

// Half-open links in each direction are noticed, and a slow one is not taken for dead.
func TestProbe(t *testing.T) {
	for name, lose := range map[string][]faultDirection{"up": {up}, "down": {down}, "both": {up, down}} {
		t.Run(name, func(t *testing.T) {
			b := startBroker(t)
			p, url := startProxy(t, b)
			var mu sync.Mutex
			var cause error
			c := connect(t, Options{URL: url, Probe: 100 * time.Millisecond, OnState: func(up bool, err error) {
				if !up {
					mu.Lock()
					defer mu.Unlock()
					cause = err
				}
			}})
			begin := time.Now()
			for _, d := range lose {
				p.Set(d, faultLose)
			}
			eventually(t, "the link is given up", func() bool { return !c.Connected() })
			t.Logf("noticed after %v", time.Since(begin))
			for _, d := range lose {
				p.Set(d, faultNone)
			}
			eventually(t, "it is back", c.Connected)
			eventually(t, "the cause is told", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return errors.Is(cause, errSilent)
			})
		})
	}
}
