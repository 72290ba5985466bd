package config

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
)

// mustLoad loads a file that has no error.
func mustLoad(t *testing.T, text string, environ ...string) *Config {
	t.Helper()
	l, ps := loadText(text, environ...)
	if err := ps.Err(); err != nil {
		t.Fatal(err)
	}
	return l.Config
}

func TestListeners(t *testing.T) {
	l := func(network, address string, optional bool) broker.Listener {
		return broker.Listener{Network: network, Address: address, Optional: optional}
	}
	tests := []struct {
		name, text, dataDir string
		want                []broker.Listener
	}{
		{"default", "", "/data", []broker.Listener{
			l("tcp", "127.0.0.1:1883", false), l("tcp", "[::1]:1883", true), l("unix", "/data/lawnberry.sock", false)}},
		{"no directory", "broker: {port: 5, bind_address: LOCALHOST}", "", []broker.Listener{
			l("tcp", "127.0.0.1:5", false), l("tcp", "[::1]:5", true)}},
		{"any port", "broker: {port: 0}", "", []broker.Listener{l("tcp", "127.0.0.1:0", false)}},
		{"an address", "broker: {bind_address: '::1', websockets: {enabled: true}}", "", []broker.Listener{
			l("tcp", "[::1]:1883", false), l("ws", "[::1]:9001", false)}},
		{"websockets", "broker: {websockets: {enabled: true, port: 0}}", "", []broker.Listener{
			l("tcp", "127.0.0.1:1883", false), l("tcp", "[::1]:1883", true), l("ws", "127.0.0.1:0", false)}},
		{"everywhere", "broker: {bind_address: 0.0.0.0, allow_anonymous: true}", "/" + strings.Repeat("d", 100), []broker.Listener{
			l("tcp", "0.0.0.0:1883", false)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o, err := mustLoad(t, tt.text).BrokerOptions(tt.dataDir)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(o.Listeners, tt.want) {
				t.Errorf("got %+v, want %+v", o.Listeners, tt.want)
			}
		})
	}
}

func TestWhatIsKept(t *testing.T) {
	for _, tt := range []struct {
		name, text, dir string
		sync            time.Duration
	}{
		{"by default", "", "/data/store", 0},
		{"nothing", "broker: {persistence: false}", "", 0},
		{"elsewhere", "broker: {persistence_location: /var/lib/mosquitto/}", "/var/lib/mosquitto/lawnberry-store", 0},
		{"now and then", "broker: {persistence_sync: {interval: 1s}}", "/data/store", time.Second},
		{"now and then, in short", "broker: {persistence_sync: 250ms}", "/data/store", 250 * time.Millisecond},
		{"some time", "broker: {persistence_sync: off}", "/data/store", -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o, err := mustLoad(t, tt.text).BrokerOptions("/data")
			if err != nil || o.Dir != tt.dir || o.Sync != tt.sync {
				t.Errorf("%q, %v, %v; want %q, %v", o.Dir, o.Sync, err, tt.dir, tt.sync)
			}
		})
	}
	for _, bad := range []string{"yes", "1", "-1s", "{interval: 0s}", "{interval: 2h}", "{every: 1s}", "[1s]"} {
		if _, ps := loadText("broker: {persistence_sync: " + bad + "}"); ps.Err() == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}

func TestBrokerOptions(t *testing.T) {
	o, err := mustLoad(t, "broker: {max_connections: 7, keepalive: 9}\ntopics: {namespace: garden}").BrokerOptions("")
	if err != nil {
		t.Fatal(err)
	}
	if o.MaxConnections != 7 || o.KeepAlive != 9*time.Second || o.Namespace != "garden" || o.Authenticate != nil {
		t.Errorf("got %+v", o)
	}
	if o.MaxPacketSize != 256<<10 || o.MaxQueued != 100_000 || o.MaxQueuedBytes != 64<<20 {
		t.Errorf("packets of %d bytes, queues of %d messages and %d bytes", o.MaxPacketSize, o.MaxQueued, o.MaxQueuedBytes)
	}
	if o.Dir != "" {
		t.Errorf("kept in %q without a place for it", o.Dir)
	}
	o, err = mustLoad(t, "protocols: {validation: {max_payload_size: 5000000}}").BrokerOptions("")
	if err != nil || o.MaxPacketSize < 5_000_000+2*65_535 {
		t.Errorf("packets of %d bytes, %v: a message of 5,000,000 does not fit", o.MaxPacketSize, err)
	}
	// What a program changes after Load is checked again.
	c := Default()
	c.Broker.BindAddress = "0.0.0.0"
	if _, err := c.BrokerOptions(""); err == nil || !strings.Contains(err.Error(), "lets the network in") {
		t.Errorf("open to the network: %v", err)
	}
}

func TestAuthenticator(t *testing.T) {
	login := func(user, password string) broker.Login {
		return broker.Login{Username: user, Password: []byte(password), HasPassword: true}
	}
	const on = "broker: {auth: {enabled: true, username: mower, password: hunter2}"
	tests := []struct {
		name, text string
		login      broker.Login
		in         bool
	}{
		{"right", on + "}", login("mower", "hunter2"), true},
		{"wrong password", on + "}", login("mower", "hunter3"), false},
		{"beginning of the password", on + "}", login("mower", "hunter"), false},
		{"wrong name", on + "}", login("mowe", "hunter2"), false},
		{"swapped", on + "}", login("hunter2", "mower"), false},
		{"empty password", on + "}", login("mower", ""), false},
		{"no password", on + "}", broker.Login{Username: "mower"}, false},
		{"password only", on + "}", login("", "hunter2"), false},
		{"nobody", on + "}", broker.Login{}, false},
		{"nobody, not allowed", on + ", allow_anonymous: false}", broker.Login{}, false},
		{"nobody, allowed", on + ", allow_anonymous: true}", broker.Login{}, true},
		{"wrong password where nobody is allowed", on + ", allow_anonymous: true}", login("mower", "x"), false},
		{"an empty password where nobody is allowed", on + ", allow_anonymous: true}", login("", ""), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o, err := mustLoad(t, tt.text).BrokerOptions("")
			if err != nil {
				t.Fatal(err)
			}
			err = o.Authenticate(t.Context(), tt.login)
			if (err == nil) != tt.in {
				t.Errorf("got %v", err)
			}
			if err != nil && strings.Contains(err.Error(), "hunter") {
				t.Errorf("the error shows a password: %v", err)
			}
		})
	}
}

func TestClientOptions(t *testing.T) {
	o, err := Default().ClientOptions()
	if err != nil {
		t.Fatal(err)
	}
	want := client.Options{
		URL: "tcp://localhost:1883", Topics: o.Topics, KeepAlive: time.Minute, MaxReconnect: time.Second, ReconnectFactor: 2, Outbox: client.Queue{Max: 1000},
		Limits: message.Limits{MaxPayload: 10_000, MaxAge: 300 * time.Second, CompressAbove: 1000},
	}
	if !reflect.DeepEqual(o, want) {
		t.Errorf("default: got %+v, want %+v", o, want)
	}
	o, err = mustLoad(t, `
client:
  client_id: me
  broker_host: mower.local
  broker_port: 1999
  clean_session: true
  keepalive: 9
  reconnect_delay: 1
  max_reconnect_delay: 2
  reconnect_backoff: 3
  queue_size: 4
  probe_interval: 0.2
  data_dir: /data
  rate_limits: {sensor_data: 1, commands: 2, status: 3, general: 4}
  compression_enabled: false
  auth: {enabled: true, username: u, password: p}
protocols:
  validation: {max_payload_size: 5, max_message_age: 0}
topics: {namespace: garden, compress: {"vision/#": false, "garden/plain": off}}
`).ClientOptions()
	if err != nil {
		t.Fatal(err)
	}
	want = client.Options{
		URL: "tcp://mower.local:1999", ID: "me", Topics: o.Topics, CleanStart: true, KeepAlive: 9 * time.Second,
		ReconnectDelay: time.Second, MaxReconnect: 2 * time.Second, ReconnectFactor: 3, Outbox: client.Queue{Max: 4},
		Limits:   message.Limits{MaxPayload: 5, MaxAge: -1, CompressAbove: -1},
		Username: "u", Password: "p",
		Uncompressed: []string{"garden/plain", "vision/#"},
		Probe:        200 * time.Millisecond, Dir: "/data/me", Rates: client.Rates{SensorData: 1, Commands: 2, Status: 3, General: 4},
	}
	if !reflect.DeepEqual(o, want) || o.Topics.Namespace() != "garden" {
		t.Errorf("got %+v, want %+v", o, want)
	}
}

func TestClientURL(t *testing.T) {
	tests := []struct{ name, text, dataDir, want, user string }{
		{"default", "", "/data", "tcp://localhost:1883", ""},
		{"own port", "broker: {port: 5}", "", "tcp://localhost:5", ""},
		{"own address", "broker: {bind_address: '::1'}", "", "tcp://[::1]:1883", ""},
		{"own, everywhere", "broker: {bind_address: 0.0.0.0, auth: {enabled: true, username: b, password: p}}", "", "tcp://localhost:1883", "b"},
		{"own, everywhere, by both", "broker: {bind_address: '::', auth: {enabled: true, username: b, password: p}}", "", "tcp://localhost:1883", "b"},
		{"own, named", "broker: {auth: {enabled: true, username: b, password: p}}\nclient: {broker_host: 127.0.0.1, broker_port: 1883}", "", "tcp://127.0.0.1:1883", "b"},
		{"own, other login", "broker: {auth: {enabled: true, username: b, password: p}}\nclient: {auth: {enabled: true, username: c}}", "", "tcp://localhost:1883", "c"},
		{"own, unknown port", "broker: {port: 0}", "/data", "unix:///data/lawnberry.sock", ""},
		{"other port", "broker: {auth: {enabled: true, username: b, password: p}}\nclient: {broker_port: 5}", "", "tcp://localhost:5", ""},
		{"other host", "broker: {port: 1884, auth: {enabled: true, username: b, password: p}}\nclient: {broker_host: other, broker_port: 1883}", "", "tcp://other:1883", ""},
		{"other host, encrypted", "client: {broker_host: other, broker_port: 8883, tls: {enabled: true}}", "", "ssl://other:8883", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := mustLoad(t, tt.text)
			if got := c.ClientURL(tt.dataDir); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			o, err := c.ClientOptions()
			if err != nil {
				t.Fatal(err)
			}
			if o.Username != tt.user {
				t.Errorf("logs in as %q, want %q", o.Username, tt.user)
			}
		})
	}
}

// How programs reach a broker that asks for certificates, and as whom.
func TestClientOfBrokerWithCertificates(t *testing.T) {
	dir := t.TempDir()
	cert, key := writeCertificate(t, dir, "mower.example")
	broker := fmt.Sprintf("broker: {auth: {enabled: true, username: b, password: p}, tls: {enabled: true, cert_file: %s, key_file: %s", cert, key)
	program := fmt.Sprintf("\nclient: {tls: {enabled: true, ca_certs: %s, certfile: %s, keyfile: %s}}", cert, cert, key)
	for _, tt := range []struct{ name, text, want, user string }{
		{"no certificates of clients", broker + "}}" + program, "ssl://localhost:1883", "b"},
		{"none to show", broker + ", ca_file: " + cert + "}}", "ssl://localhost:1883", "b"},
		{"none to show, and one is required", broker + ", ca_file: " + cert + ", require_certificate: true}}", "unix:///data/lawnberry.sock", "b"},
		{"one to show", broker + ", ca_file: " + cert + "}}" + program, "ssl://localhost:1883", ""},
		{"one to show, and it is required", broker + ", ca_file: " + cert + ", require_certificate: true}}" + program, "ssl://localhost:1883", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := mustLoad(t, tt.text)
			o, err := c.ClientOptions()
			if err != nil {
				t.Fatal(err)
			}
			if url := c.ClientURL("/data"); url != tt.want || o.Username != tt.user {
				t.Errorf("%s as %q, want %s as %q", url, o.Username, tt.want, tt.user)
			}
		})
	}
}

func TestServiceOptions(t *testing.T) {
	c := mustLoad(t, `
client: {client_id: me}
services: {heartbeat_interval: 1, heartbeat_timeout: 3, dependency_timeout: 5}
service_definitions:
  front_camera: {service_type: vision, dependencies: [power]}
  power: {}
`)
	o, err := c.ServiceOptions("front_camera")
	if err != nil {
		t.Fatal(err)
	}
	if o.ID != "front_camera" || o.Type != "vision" || !reflect.DeepEqual(o.Dependencies, []string{"power"}) || o.Client.ID != "" ||
		o.Heartbeat != time.Second || o.HeartbeatTimeout != 3*time.Second || o.DependencyTimeout != 5*time.Second {
		t.Errorf("got %+v", o)
	}
	if o, err = c.ServiceOptions("other"); err != nil || o.ID != "other" || o.Type != "" || len(o.Dependencies) > 0 {
		t.Errorf("got %+v, %v", o, err)
	}
	for text, want := range map[string]time.Duration{"": 0, "services: {heartbeat_interval: 30, heartbeat_timeout: 90}": 30 * time.Second} {
		if o, err = mustLoad(t, text).ServiceOptions("x"); err != nil || o.Heartbeat != want || o.HeartbeatTimeout != 3*want {
			t.Errorf("%q: got %v and %v, %v", text, o.Heartbeat, o.HeartbeatTimeout, err)
		}
	}
}

func TestLogLevels(t *testing.T) {
	tests := []struct {
		text        string
		all, broker slog.Level
	}{
		{"", slog.LevelInfo, slog.LevelInfo},
		{"monitoring: {logging: {log_level: WARNING}}", slog.LevelWarn, slog.LevelInfo},
		{"monitoring: {logging: {log_level: critical}}\nbroker: {log_level: debug}", slog.LevelError, slog.LevelDebug},
		{"monitoring: {logging: {log_level: Debug}}\nbroker: {log_level: notice}", slog.LevelDebug, slog.LevelInfo},
		{"monitoring: {logging: {enabled: false, log_level: debug}}\nbroker: {log_level: debug}", slog.LevelError, slog.LevelError},
		{"development: {debug: {enabled: true}}\nbroker: {log_level: error}", slog.LevelDebug, slog.LevelDebug},
	}
	for _, tt := range tests {
		c := mustLoad(t, tt.text)
		if c.LogLevel() != tt.all || c.BrokerLogLevel() != tt.broker {
			t.Errorf("%q: got %v and %v, want %v and %v", tt.text, c.LogLevel(), c.BrokerLogLevel(), tt.all, tt.broker)
		}
	}
}

// writeCertificate writes a certificate for name, signed by itself, and its key.
func writeCertificate(t *testing.T, dir, name string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// shakeHands connects two ends and returns the error of the client, else that of the server.
func shakeHands(t *testing.T, server, client *tls.Config) error {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	served := make(chan error, 1)
	go func() {
		nc, err := ln.Accept()
		if err != nil {
			served <- err
			return
		}
		defer nc.Close()
		tc := tls.Server(nc, server)
		if err = tc.HandshakeContext(ctx); err == nil {
			_, err = tc.Write([]byte("x"))
		}
		served <- err
	}()
	d := tls.Dialer{Config: client}
	nc, err := d.DialContext(ctx, "tcp", ln.Addr().String())
	if err == nil {
		_, err = io.ReadFull(nc, make([]byte, 1)) // TLS 1.3 refuses a client's certificate only after the handshake
		nc.Close()
	}
	if serverErr := <-served; err == nil {
		err = serverErr
	}
	return err
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	writeCertificate(t, dir, "mower.example")
	writeCertificate(t, dir, "other.example")
	load := func(text string) *Config {
		t.Helper()
		l, err := load(filepath.Join(dir, "mower.yaml"), []byte(text), nil)
		if err != nil {
			t.Fatal(err)
		}
		return l.Config
	}
	const server = "broker: {tls: {enabled: true, cert_file: mower.example.pem, key_file: mower.example.key"
	tests := []struct {
		name, text string
		serverName string
		fails      string
	}{
		{"the own broker, whatever its name", server + "}}", "", ""},
		{"a broker named as its own", server + "}}\nclient: {tls: {enabled: true, ca_certs: mower.example.pem}}", "mower.example", ""},
		{"another name", server + "}}\nclient: {tls: {enabled: true, ca_certs: mower.example.pem}}", "localhost", "certificate is valid for mower.example, not localhost"},
		{"an unknown signer", server + "}}\nclient: {tls: {enabled: true, ca_certs: other.example.pem}}", "mower.example", "unknown authority"},
		{"a client's certificate", server + ", ca_file: other.example.pem}}\n" +
			"client: {tls: {enabled: true, ca_certs: mower.example.pem, certfile: other.example.pem, keyfile: other.example.key}}", "mower.example", ""},
		{"a client's certificate from elsewhere", server + ", ca_file: other.example.pem}}\n" +
			"client: {tls: {enabled: true, ca_certs: mower.example.pem, certfile: mower.example.pem, keyfile: mower.example.key}}", "mower.example", "remote error: tls"},
		{"no client's certificate", server + ", ca_file: other.example.pem}}", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := load(tt.text)
			if url := c.ClientURL(""); url != "ssl://localhost:1883" {
				t.Errorf("the URL is %s", url)
			}
			bo, err := c.BrokerOptions("")
			if err != nil {
				t.Fatal(err)
			}
			co, err := c.ClientOptions()
			if err != nil {
				t.Fatal(err)
			}
			if co.TLS, err = co.GetTLS(slog.New(slog.DiscardHandler)); err != nil {
				t.Fatal(err)
			}
			if tt.serverName != "" {
				co.TLS.ServerName = tt.serverName
			}
			if co.TLS.MinVersion < tls.VersionTLS12 || bo.Listeners[0].TLS.MinVersion < tls.VersionTLS12 {
				t.Error("an older TLS than 1.2 is allowed")
			}
			err = shakeHands(t, bo.Listeners[0].TLS, co.TLS)
			if tt.fails == "" && err != nil || tt.fails != "" && (err == nil || !strings.Contains(err.Error(), tt.fails)) {
				t.Errorf("got %v, want %q", err, tt.fails)
			}
		})
	}
	mistakes := []struct{ name, text, want string }{
		{"no file", "broker: {tls: {enabled: true, cert_file: a, key_file: b}}", "broker.tls.cert_file and key_file: open " + dir + "/a: no such file"},
		{"another's key", "broker: {tls: {enabled: true, cert_file: mower.example.pem, key_file: other.example.key}}",
			"broker.tls.cert_file and key_file: tls: private key does not match public key"},
		{"no certificate in it", server + ", ca_file: mower.example.key}}", "broker.tls.ca_file: there is no certificate in " + dir},
	}
	for _, tt := range mistakes {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := load(tt.text).BrokerOptions(""); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	for text, want := range map[string]string{
		"client: {broker_host: x, tls: {enabled: true, ca_certs: a}}":                                       "client.tls.ca_certs: open " + dir + "/a: no such file",
		"client: {broker_host: x, tls: {enabled: true, certfile: a, keyfile: b}}":                           "client.tls.certfile and keyfile: open " + dir + "/a: no such file",
		"broker: {tls: {enabled: true, cert_file: a, key_file: b}}":                                         "broker.tls.cert_file: open " + dir + "/a: no such file",
		"broker: {tls: {enabled: true, cert_file: mower.example.key, key_file: b}}\nclient: {keepalive: 5}": "broker.tls.cert_file: there is no certificate in ",
	} {
		if _, err := load(text).ClientOptions(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}
