package broker

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// The same works over every kind of connection, plain and TLS: bytes come in their order, each way, and none is lost.
func TestMQTT_4_2_0_1_EveryListener(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{Listeners: everywhere(t)})
		for _, how := range []string{"tcp", "unix", "ws", "pipe", "ssl", "wss"} {
			t.Run(how, func(t *testing.T) {
				t.Parallel()
				c := dial(t, b, how)
				c.connect(v, "c "+how)
				topic := "t/" + how
				c.subscribe(topic, 2)
				pub := dial(t, b, how)
				pub.connect(v, "pub "+how)
				for qos := range byte(3) {
					payload := strings.Repeat("x", 100_000)
					pub.publish(topic, payload, qos)
					c.gets(topic, payload, qos)
				}
				var burst []packet.Packet
				for i := range 300 {
					burst = append(burst, outgoing(topic, fmt.Sprint(i), 0, 0))
				}
				pub.send(burst...)
				for i := range burst {
					c.gets(topic, fmt.Sprint(i), 0)
				}
				c.nothing()
				told := make(chan struct{})
				go func() { // in-process, what nobody reads cannot be written
					defer close(told)
					c.ends(packet.SessionTakenOver)
				}()
				again := dial(t, b, how)
				again.connect(v, "c "+how)
				<-told
				again.write([]byte("\x00\x00"))
				again.ends(packet.MalformedPacket)
			})
		}
	})
}

// Packets and WebSocket frames have nothing to do with each other [MQTT-6.0.0-2].
func TestMQTT_6_0_0_2_FramesAndPackets(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{Listeners: []Listener{{Network: "ws", Address: "127.0.0.1:0"}}})
		c := dial(t, b, "ws")
		c.v = v
		var all []byte
		for _, p := range []packet.Packet{
			&packet.Connect{CleanStart: true, ClientID: []byte("c")},
			&packet.Subscribe{ID: 1, Subscriptions: []packet.Subscription{{Filter: []byte("a"), QoS: 1}}},
			outgoing("a", "one", 1, 2),
		} {
			all, _ = p.Append(all, v)
		}
		c.write(all) // three in one frame
		expect[*packet.Connack](c)
		expect[*packet.Suback](c)
		c.expectAck(packet.PUBACK, 2)
		c.gets("a", "one", 1)
		one, _ := outgoing("a", "two", 1, 3).Append(nil, v)
		two, _ := outgoing("a", "three", 1, 4).Append(nil, v)
		for i, part := range slices.Concat(one, two) { // a frame per byte, and empty ones
			c.write([]byte{part})
			if i%5 == 0 {
				c.write(nil)
			}
			if i == len(one)-1 {
				c.expectAck(packet.PUBACK, 3)
				c.gets("a", "two", 1)
			}
		}
		c.expectAck(packet.PUBACK, 4)
		c.gets("a", "three", 1)
	})
}

// Who does not offer the subprotocol mqtt, comes from a page of elsewhere, or does not speak WebSocket, is refused before
// the upgrade [MQTT-6.0.0-3, MQTT-6.0.0-4].
func TestMQTT_6_0_0_3_WebSocketHandshake(t *testing.T) {
	t.Parallel()
	b := start(t, Options{Listeners: []Listener{{
		Network: "ws", Address: "127.0.0.1:0", Hosts: []string{"mower.home.arpa"}, Origins: []string{"https://mower.example"},
	}}})
	address := strings.TrimPrefix(url(t, b, "ws"), "ws://")
	for _, test := range []struct {
		name, headers string
		status        int
	}{
		{"mqtt", "Sec-WebSocket-Protocol: mqtt\r\n", 101},
		{"mqtt among others", "Sec-WebSocket-Protocol: mqttv3.1, mqtt\r\n", 101},
		{"no subprotocol", "", 400},
		{"another subprotocol", "Sec-WebSocket-Protocol: wamp, mqttv3.1\r\n", 400},
		{"from the same host", "Sec-WebSocket-Protocol: mqtt\r\nOrigin: http://" + address + "\r\n", 101},
		{"from a foreign page", "Sec-WebSocket-Protocol: mqtt\r\nOrigin: http://evil.example\r\n", 403},
		{"from another port", "Sec-WebSocket-Protocol: mqtt\r\nOrigin: http://127.0.0.1:1\r\n", 403},
		{"from an address in the list", "Sec-WebSocket-Protocol: mqtt\r\nOrigin: https://mower.example\r\n", 101},
		{"from there on another port", "Sec-WebSocket-Protocol: mqtt\r\nOrigin: https://mower.example:444\r\n", 403},
		{"from there without TLS", "Sec-WebSocket-Protocol: mqtt\r\nOrigin: http://mower.example\r\n", 403},
		{"from two places", "Sec-WebSocket-Protocol: mqtt\r\nOrigin: https://mower.example\r\nOrigin: http://evil.example\r\n", 403},
		{"a name of somebody else's that points here", "Host: evil.example\r\nSec-WebSocket-Protocol: mqtt\r\nOrigin: http://evil.example\r\n", 403},
		{"with a port", "Host: evil.example:9001\r\nSec-WebSocket-Protocol: mqtt\r\nOrigin: http://evil.example:9001\r\n", 403},
		{"a page in the list, by that name", "Host: evil.example\r\nSec-WebSocket-Protocol: mqtt\r\nOrigin: https://mower.example\r\n", 403},
		{"a name in the list", "Host: Mower.home.arpa:9001\r\nSec-WebSocket-Protocol: mqtt\r\nOrigin: http://mower.home.arpa:9001\r\n", 101},
		{"localhost", "Host: localhost:9001\r\nSec-WebSocket-Protocol: mqtt\r\nOrigin: http://localhost:9001\r\n", 101},
		{"an address", "Host: [fd00::1]:9001\r\nSec-WebSocket-Protocol: mqtt\r\nOrigin: http://[fd00::1]:9001\r\n", 101},
		{"any name, without a page", "Host: other.example\r\nSec-WebSocket-Protocol: mqtt\r\n", 101},
		{"from a file", "Sec-WebSocket-Protocol: mqtt\r\nOrigin: null\r\n", 403},
	} {
		nc, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		_ = nc.SetDeadline(time.Now().Add(patient))
		host := "Host: " + address + "\r\n"
		if strings.HasPrefix(test.headers, "Host: ") {
			host = ""
		}
		_, _ = fmt.Fprintf(nc, "GET /any/path HTTP/1.1\r\n%sConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n", host, test.headers)
		answer, err := http.ReadResponse(bufio.NewReader(nc), nil)
		if err != nil {
			t.Fatal(err)
		}
		if answer.StatusCode != test.status || test.status == 101 && answer.Header.Get("Sec-WebSocket-Protocol") != "mqtt" {
			t.Errorf("%s: %s, subprotocol %q", test.name, answer.Status, answer.Header.Get("Sec-WebSocket-Protocol"))
		}
		_ = answer.Body.Close()
		_ = nc.Close()
	}
	plain, err := http.Get("http://" + address)
	if err != nil {
		t.Fatal(err)
	}
	_ = plain.Body.Close()
	if plain.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("plain HTTP: %s", plain.Status)
	}
	http.DefaultClient.CloseIdleConnections()
}

// A client that offers the subprotocol mqtt, alone or among others, gets mqtt.
func TestMQTT_6_0_0_4_Subprotocol(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{Listeners: everywhere(t)})
		for _, scheme := range []string{"ws", "wss"} {
			for _, offered := range [][]string{{"mqtt"}, {"mqttv3.1", "mqtt"}, {"mqtt", "wamp"}} {
				ctx, cancel := context.WithTimeout(context.Background(), patient)
				web := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // certificates are not what is tested
				ws, _, err := websocket.Dial(ctx, url(t, b, scheme), &websocket.DialOptions{Subprotocols: offered, HTTPClient: &http.Client{Transport: web}})
				if err != nil {
					t.Fatal(err)
				}
				if got := ws.Subprotocol(); got != "mqtt" {
					t.Errorf("offered %q, got %q", offered, got)
				}
				c := newRaw(t, b, websocket.NetConn(context.Background(), ws, websocket.MessageBinary))
				c.connect(v, "c")
				c.leave("c")
				web.CloseIdleConnections()
				cancel()
			}
		}
	})
}

// [MQTT-6.0.0-1]: packets are in binary messages. A text message ends the connection, without ado.
func TestMQTT_6_0_0_1_TextMessages(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{Listeners: []Listener{{Network: "ws", Address: "127.0.0.1:0"}}})
		ctx, cancel := context.WithTimeout(context.Background(), patient)
		defer cancel()
		ws, _, err := websocket.Dial(ctx, url(t, b, "ws"), &websocket.DialOptions{Subprotocols: []string{"mqtt"}})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = ws.CloseNow() }()
		out, _ := (&packet.Connect{CleanStart: true, ClientID: []byte("c")}).Append(nil, v)
		if err := ws.Write(ctx, websocket.MessageBinary, out); err != nil {
			t.Fatal(err)
		}
		if kind, _, err := ws.Read(ctx); err != nil || kind != websocket.MessageBinary {
			t.Fatalf("%v, %v", kind, err)
		}
		if err := ws.Write(ctx, websocket.MessageText, []byte("\xc0\x00")); err != nil {
			t.Fatal(err)
		}
		if _, _, err := ws.Read(ctx); websocket.CloseStatus(err) != websocket.StatusUnsupportedData {
			t.Errorf("%v", err)
		}
		waitFor(t, "the session to end", func() bool { return b.find("c") == nil })
	})
}

// A WebSocket is left with a goodbye: a browser would else report a failure.
func TestWebSocketGoodbye(t *testing.T) {
	t.Parallel()
	b := start(t, Options{Listeners: []Listener{{Network: "ws", Address: "127.0.0.1:0"}}})
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	for _, last := range []packet.Packet{&packet.Disconnect{}, &packet.Connack{}} {
		ws, _, err := websocket.Dial(ctx, url(t, b, "ws"), &websocket.DialOptions{Subprotocols: []string{"mqtt"}})
		if err != nil {
			t.Fatal(err)
		}
		out, _ := (&packet.Connect{CleanStart: true, ClientID: []byte("c")}).Append(nil, packet.V5)
		out, _ = last.Append(out, packet.V5)
		if err := ws.Write(ctx, websocket.MessageBinary, out); err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, _, err = ws.Read(ctx)
		}
		if websocket.CloseStatus(err) != websocket.StatusNormalClosure {
			t.Errorf("after %v: %v", last.Type(), err)
		}
		_ = ws.CloseNow()
	}
}

// The socket file is for owner and group; a stale one makes way, a live one or another file does not; it is gone at the end.
func TestUnixSocketFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "mqtt.sock")
	// As a killed broker leaves it.
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	_ = ln.Close()

	listeners := []Listener{{Network: "unix", Address: path}}
	b := start(t, Options{Listeners: listeners})
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if u := url(t, b, "unix"); u != "unix://"+path {
		t.Errorf("URL %s", u)
	}
	c := dial(t, b, "unix")
	c.connect(packet.V5, "c")

	_, err = Start(context.Background(), Options{Listeners: listeners})
	var taken *ListenError
	if !errors.As(err, &taken) || !errors.Is(err, syscall.EADDRINUSE) || taken.Address != path {
		t.Errorf("a live socket: %v", err)
	}
	c.nothing()
	if err := b.Stop(context.Background()); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Stop: %v", err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(context.Background(), Options{Listeners: listeners}); !errors.As(err, &taken) {
		t.Errorf("another file: %v", err)
	}
	if content, err := os.ReadFile(path); string(content) != "precious" {
		t.Errorf("the file is lost: %v", err)
	}
}

// A port that is taken is a *ListenError that says so, and nothing of the broker keeps running.
func TestListenErrors(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	taken := ln.Addr().String()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	_ = free.Close()
	_, err = Start(context.Background(), Options{Listeners: []Listener{{Network: "tcp", Address: address}, {Network: "ws", Address: taken}}})
	var failed *ListenError
	if !errors.As(err, &failed) || failed.Network != "ws" || failed.Address != taken || !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "taken") {
		t.Errorf("%v", err)
	}
	if again, err := net.Listen("tcp", address); err != nil {
		t.Errorf("the first listener is still there: %v", err)
	} else {
		_ = again.Close()
	}
	for _, l := range []Listener{{Network: "udp", Address: address}, {Network: "tcp", Address: "127.0.0.1:70000"}, {Network: "unix", Address: t.TempDir() + "/no/such/folder"}} {
		if b, err := Start(context.Background(), Options{Listeners: []Listener{l}}); err == nil {
			_ = b.Stop(context.Background())
			t.Errorf("%+v was accepted", l)
		}
	}
	// An optional one that is not of this host is left out.
	b := start(t, Options{Listeners: []Listener{{Network: "tcp", Address: "192.0.2.1:1883", Optional: true}}})
	for e := range b.Endpoints() {
		if e.URL == "" || e.Address == "" || e.URL != b.URL() {
			t.Errorf("%+v", e)
		}
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Start(ended, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context: %v", err)
	}
}

// Stop tells everyone, on every kind of connection, publishes no Wills, and leaves nothing running; it may be called
// again, and at once by many.
func TestStop(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{Listeners: everywhere(t)})
		var clients []*raw
		for _, network := range []string{"tcp", "ssl", "unix", "ws", "wss", "pipe"} {
			for i := range 5 {
				c := dial(t, b, network)
				c.connect(v, fmt.Sprint(network, i), withWill(aWill()), func(p *packet.Connect) {
					if i == 0 {
						keep(p)
					}
				})
				clients = append(clients, c)
			}
			dial(t, b, network) // never says a word
		}
		clients[0].subscribe("will", 1)
		left := connect(t, b, v, "left", keep, withWill(delayed(1)))
		left.hangUp("left")
		if v == packet.V311 {
			clients[0].gets("will", "gone", 1)
		}
		select {
		case <-b.Done():
			t.Fatal("done before Stop")
		default:
		}
		var wg sync.WaitGroup
		for _, c := range clients {
			wg.Go(func() { c.ends(packet.ServerShuttingDown) })
		}
		for range 3 {
			wg.Go(func() {
				if err := b.Stop(context.Background()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		<-b.Done()
		if err := b.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		if _, err := b.Dial(context.Background()); err == nil {
			t.Error("Dial after Stop")
		}
		if n := b.Stats().Connections; n != 0 {
			t.Errorf("%d connections", n)
		}
	})
}

// Stop under load, with clients that do not read, ends soon all the same; with an ended context at once, with its error
// or nil.
func TestStopUnderLoad(t *testing.T) {
	for _, patience := range []string{"patient", "at once"} {
		t.Run(patience, func(t *testing.T) {
			t.Parallel()
			b := start(t, Options{Listeners: everywhere(t), tune: func(l *limits) { l.stall = time.Hour }})
			for _, network := range []string{"tcp", "ssl", "unix", "ws", "wss", "pipe"} {
				deaf := dial(t, b, network)
				deaf.connect(packet.V5, "deaf "+network)
				deaf.subscribe("load", 0)
			}
			var wg sync.WaitGroup
			for i := range 3 {
				pub := connect(t, b, packet.V5, fmt.Sprint("pub", i))
				out, _ := outgoing("load", strings.Repeat("x", 10_000), 0, 0).Append(nil, packet.V5)
				wg.Go(func() {
					for {
						if _, err := pub.nc.Write(out); err != nil {
							return
						}
					}
				})
			}
			waitFor(t, "something to be dropped", func() bool { return b.Stats().Dropped > 0 })
			ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
			defer cancel()
			if patience == "at once" {
				cancel()
			}
			if err := b.Stop(ctx); err != nil {
				t.Errorf("%v", err)
			}
			wg.Wait()
		})
	}
}

// Connections that open while the broker stops do not hold it up.
func TestStopWhileConnecting(t *testing.T) {
	t.Parallel()
	for range 20 {
		b := start(t, Options{tune: func(l *limits) { l.handshake = time.Hour }})
		address := strings.TrimPrefix(b.URL(), "tcp://")
		var wg sync.WaitGroup
		begin := make(chan struct{})
		for i := range 8 {
			wg.Go(func() {
				<-begin
				nc, err := net.Dial("tcp", address)
				if err != nil {
					return
				}
				defer func() { _ = nc.Close() }()
				if i%2 == 0 {
					out, _ := (&packet.Connect{CleanStart: true, ClientID: fmt.Append(nil, i/4)}).Append(nil, packet.V5)
					_, _ = nc.Write(out)
				}
				_ = nc.SetReadDeadline(time.Now().Add(patient))
				buf := make([]byte, 100)
				for err == nil {
					_, err = nc.Read(buf)
				}
				if errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("the connection stays open")
				}
			})
		}
		close(begin)
		if err := b.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		wg.Wait()
	}
}
