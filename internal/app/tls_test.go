package app

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/pki"
	"github.com/lawnberry/lawnberry/message"
)

// logLines are the lines of a log.
type logLines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// A refusedLine is what the tests look at of a line.
type refusedLine struct{ Level, Msg, Remote, Reason, Subject, Error string }

// after returns the lines about connections that came after the first n bytes.
func (l *logLines) after(t *testing.T, n int) (lines []refusedLine) {
	t.Helper()
	for text := range strings.Lines(l.String()[n:]) {
		var line refusedLine
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatal(err)
		}
		if line.Remote != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// A guarded is a broker that wants certificates, and its authority.
type guarded struct {
	*App
	dir       string
	config    *config.Config
	authority *pki.Authority
	log       *logLines
}

// guard starts a broker with TLS on TCP and WebSocket.
func guard(t *testing.T, require, passwords bool) *guarded {
	t.Helper()
	g := &guarded{dir: filepath.Join(t.TempDir(), "tls"), log: &logLines{}}
	var err error
	if g.authority, err = pki.Create(g.dir, "test CA", false); err != nil {
		t.Fatal(err)
	}
	cert, err := g.authority.Issue(pki.Request{Name: "broker", Server: true, Hosts: []string{"localhost", "127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	c := settings()
	c.Broker.WebSockets.Enabled, c.Broker.WebSockets.Port = true, 0
	c.Broker.TLS.Enabled, c.Broker.TLS.CertFile, c.Broker.TLS.KeyFile = true, cert.CertFile, cert.KeyFile
	c.Broker.TLS.CAFile, c.Broker.TLS.CRLFile, c.Broker.TLS.RequireCertificate = g.authority.CertFile(), g.authority.RevokedFile(), require
	if passwords {
		c.Broker.Auth.Enabled, c.Broker.Auth.Username, c.Broker.Auth.Password = true, "admin", "secret"
	}
	c.Monitoring.HealthChecks.Enabled = false
	g.config = c
	g.App = start(t, Options{Config: c, DataDir: filepath.Join(t.TempDir(), "data"), Logger: slog.New(slog.NewJSONHandler(g.log, nil))})
	return g
}

// url returns the address of a scheme.
func (g *guarded) urlOf(t *testing.T, scheme string) string {
	t.Helper()
	for e := range g.Endpoints() {
		if strings.HasPrefix(e.URL, scheme+"://") {
			return e.URL
		}
	}
	t.Fatalf("no listener for %s", scheme)
	return ""
}

// trust is a client's TLS without a certificate.
func (g *guarded) trust(t *testing.T) *tls.Config {
	t.Helper()
	text, err := os.ReadFile(g.authority.CertFile())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	return &tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS12}
}

// issue returns a certificate of the authority.
func (g *guarded) issue(t *testing.T, r pki.Request) tls.Certificate {
	t.Helper()
	c, err := g.authority.Issue(r)
	if err != nil {
		t.Fatal(err)
	}
	return load(t, c.CertFile, c.KeyFile)
}

func load(t *testing.T, cert, key string) tls.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// forge makes a certificate that the authority's code would not make: a client's, but for what change changes, signed by parent; by
// itself if that has no key.
func forge(t *testing.T, parent tls.Certificate, key crypto.Signer, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	if key == nil {
		var err error
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "navigation"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	if change != nil {
		change(template)
	}
	signer, by := key, template
	if parent.PrivateKey != nil {
		signer, by = parent.PrivateKey.(crypto.Signer), parent.Leaf
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// try connects and disconnects.
func try(t *testing.T, url string, config *tls.Config, o client.Options) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	o.URL, o.TLS, o.FailFast = url, config, true
	c, err := client.Connect(ctx, o)
	if err != nil {
		return err
	}
	if err := c.Publish(ctx, "system/events/test", message.NewRaw([]byte("x"))); err != nil {
		t.Error(err)
	}
	return c.Close(ctx)
}

// Each certificate that is bad in one way is refused, over TLS and WebSocket, by TLS 1.2 and 1.3, with one line in the log that says
// why, who, and from where; and the client says what to look at.
//
// Seen failing when client certificates are asked for and not verified, and when what is revoked is not looked at.
func TestBadCertificates(t *testing.T) {
	t.Parallel()
	g := guard(t, true, false)
	ca := load(t, filepath.Join(g.dir, "ca.pem"), filepath.Join(g.dir, "ca.key"))
	good := g.issue(t, pki.Request{Name: "navigation"})
	revoked := g.issue(t, pki.Request{Name: "stolen"})
	if _, err := g.authority.Revoke("stolen"); err != nil {
		t.Fatal(err)
	}
	other, err := pki.Create(filepath.Join(t.TempDir(), "tls"), "test CA", false) // of the same name
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := other.Issue(pki.Request{Name: "navigation"})
	if err != nil {
		t.Fatal(err)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	mismatched := good
	mismatched.PrivateKey = revoked.PrivateKey
	fromClient := forge(t, good, nil, func(c *x509.Certificate) { c.Subject.CommonName = "safety" })
	fromClient.Certificate = append(fromClient.Certificate, good.Certificate...)

	const hint = "does not accept this client's certificate (client.tls.certfile, client.tls.keyfile)"
	tests := []struct {
		name            string
		cert            tls.Certificate
		old             bool // TLS 1.1 at most
		reason, subject string
		client          string // in the client's error
	}{
		{"expired", forge(t, ca, nil, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), false, "expired", "CN=navigation", hint},
		{"not yet valid", forge(t, ca, nil, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), false, "not yet valid", "CN=navigation", hint},
		{"of another authority", load(t, foreign.CertFile, foreign.KeyFile), false, "foreign authority", "CN=navigation", hint},
		{"self-signed", forge(t, tls.Certificate{}, nil, nil), false, "self-signed", "CN=navigation", hint},
		{"a broker's", g.issue(t, pki.Request{Name: "second", Server: true, Hosts: []string{"x"}}), false, "wrong usage", "CN=second", hint},
		{"revoked", revoked, false, "revoked", "CN=stolen", hint},
		{"without a name", forge(t, ca, nil, func(c *x509.Certificate) { c.Subject = pkix.Name{Organization: []string{"garden"}} }), false, "no name", "O=garden", hint},
		{"a name that is a topic filter", forge(t, ca, nil, func(c *x509.Certificate) { c.Subject.CommonName = "#" }), false, "bad name", "#", hint},
		{"a weak key", forge(t, ca, weak, nil), false, "weak key", "CN=navigation", hint},
		{"another's, without its key", mismatched, false, "mismatched key", "", "remote error: tls"},
		{"signed by a client", fromClient, false, "foreign authority", "CN=safety", hint},
		{"none", tls.Certificate{}, false, "no certificate", "", ""},
		{"TLS 1.1", good, true, "TLS version", "", "protocol version not supported"},
	}
	for _, tt := range tests {
		for _, scheme := range []string{"ssl", "wss"} {
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				if tt.old && version != tls.VersionTLS12 {
					continue
				}
				t.Run(fmt.Sprintf("%s/%s/%s", tt.name, scheme, tls.VersionName(version)), func(t *testing.T) {
					config := g.trust(t)
					config.MaxVersion = version
					if tt.old {
						config.MinVersion, config.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 // what has to be refused
					}
					config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tt.cert, nil }
					before, refused := len(g.log.String()), g.broker.Stats().TLSRefused
					err := try(t, g.urlOf(t, scheme), config, client.Options{})
					if err == nil {
						t.Fatal("it is let in")
					}
					if !strings.Contains(err.Error(), tt.client) {
						t.Errorf("the client says %q, want %q", err, tt.client)
					}
					wait(t, "the line in the log", func() bool { return len(g.log.after(t, before)) > 0 })
					lines := g.log.after(t, before)
					if len(lines) != 1 {
						t.Fatalf("lines %+v", lines)
					}
					line := lines[0]
					host, _, err := net.SplitHostPort(line.Remote)
					if line.Level != "WARN" || line.Msg != "TLS connection refused" || line.Reason != tt.reason || !strings.Contains(line.Subject, tt.subject) || err != nil || host != "127.0.0.1" {
						t.Errorf("line %+v, want reason %q and subject %q", line, tt.reason, tt.subject)
					}
					if n := g.broker.Stats().TLSRefused - refused; n != 1 {
						t.Errorf("counted %d", n)
					}
				})
			}
		}
	}
	for _, scheme := range []string{"ssl", "wss"} { // none of this has hurt the good
		config := g.trust(t)
		config.Certificates = []tls.Certificate{good}
		if err := try(t, g.urlOf(t, scheme), config, client.Options{}); err != nil {
			t.Error(err)
		}
	}
	if strings.Contains(g.log.String(), "PRIVATE") {
		t.Error("there is a key in the log")
	}
}

// wait waits for a condition.
func wait(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	late := time.After(20 * time.Second)
	for !condition() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("not in time: %s", what)
		}
	}
}

// A broker whose certificate is bad is refused by the client, which says which key of which configuration to look at.
func TestBadBrokers(t *testing.T) {
	t.Parallel()
	g := guard(t, false, false)
	ca := load(t, filepath.Join(g.dir, "ca.pem"), filepath.Join(g.dir, "ca.key"))
	for _, tt := range []struct {
		name   string
		change func(*x509.Certificate)
		self   bool
		want   string
	}{
		{"another name", func(c *x509.Certificate) { c.DNSNames = []string{"other.example"} }, false, "issue one for this name (broker.tls.cert_file)"},
		{"expired", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, false, "(broker.tls.cert_file) has expired: renew it"},
		{"not yet valid", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }, false, "not valid yet: check the clock"},
		{"a client's", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, false, "is not one for a broker"},
		{"of nobody", nil, true, "set the certificate authority of the broker (client.tls.ca_certs)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			parent := ca
			if tt.self {
				parent = tls.Certificate{}
			}
			bad := forge(t, parent, nil, func(c *x509.Certificate) {
				c.DNSNames, c.ExtKeyUsage = []string{"localhost"}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
				if tt.change != nil {
					tt.change(c)
				}
			})
			key, err := x509.MarshalPKCS8PrivateKey(bad.PrivateKey)
			if err != nil {
				t.Fatal(err)
			}
			// In any order: until the two fit each other, the broker keeps what it has.
			for file, block := range map[string]*pem.Block{"broker.key": {Type: "PRIVATE KEY", Bytes: key}, "broker.pem": {Type: "CERTIFICATE", Bytes: bad.Certificate[0]}} {
				if err := os.WriteFile(filepath.Join(g.dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for _, scheme := range []string{"ssl", "wss"} {
				err := try(t, g.urlOf(t, scheme), g.trust(t), client.Options{})
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%s: got %v, want %q", scheme, err, tt.want)
				}
			}
		})
	}
}

// The common name is who a client is: it needs no password, and a user name has to be the same.
//
// Seen failing when the user name is not compared.
func TestCertificateIsIdentity(t *testing.T) {
	t.Parallel()
	g := guard(t, false, true)
	shown := g.trust(t)
	shown.Certificates = []tls.Certificate{g.issue(t, pki.Request{Name: "navigation"})}
	refusal := func(err error) byte {
		var e *client.ConnectError
		if !errors.As(err, &e) {
			return 0
		}
		return e.Code
	}
	for _, tt := range []struct {
		name string
		tls  *tls.Config
		o    client.Options
		code byte // 0 is let in
	}{
		{"a certificate", shown, client.Options{}, 0},
		{"a certificate and its name", shown, client.Options{Username: "navigation"}, 0},
		{"a certificate and another name", shown, client.Options{Username: "safety"}, 0x87},
		{"a certificate and another name with its password", shown, client.Options{Username: "admin", Password: "secret"}, 0x87},
		{"a password", g.trust(t), client.Options{Username: "admin", Password: "secret"}, 0},
		{"a wrong password", g.trust(t), client.Options{Username: "admin", Password: "x"}, 0x86},
		{"nothing", g.trust(t), client.Options{}, 0x86},
	} {
		for _, scheme := range []string{"ssl", "wss"} {
			var err error
			wait(t, "the broker to have time for a login", func() bool {
				err = try(t, g.urlOf(t, scheme), tt.tls, tt.o)
				return refusal(err) != 0x89 // too many logins at once
			})
			if got := refusal(err); got != tt.code || got == 0 && err != nil {
				t.Errorf("%s over %s: %v, want code %#x", tt.name, scheme, err, tt.code)
			}
		}
	}
}

// A client whose certificate is revoked loses its connection at once, and the others keep theirs.
//
// Seen failing when only new connections are looked at.
func TestRevokedWhileConnected(t *testing.T) {
	t.Parallel()
	g := guard(t, true, false)
	ends := map[string]chan error{}
	for _, scheme := range []string{"ssl", "wss"} {
		for _, name := range []string{"good", "bad"} {
			id := name + "-" + scheme
			config := g.trust(t)
			config.Certificates = []tls.Certificate{g.issue(t, pki.Request{Name: id})}
			end := make(chan error, 100)
			ends[id] = end
			c, err := client.Connect(t.Context(), client.Options{URL: g.urlOf(t, scheme), TLS: config, ID: id, OnState: func(connected bool, cause error) {
				if !connected {
					end <- cause
				}
			}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				_ = c.Close(ctx)
			})
		}
	}
	for _, id := range []string{"bad-ssl", "bad-wss"} {
		if _, err := g.authority.Revoke(id); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-ends[id]:
			var said *client.DisconnectError
			if !errors.As(err, &said) || said.Code != 0x87 || !strings.Contains(said.Text, "revoked") {
				t.Errorf("%s ended with %v", id, err)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("%s is still connected", id)
		}
	}
	for _, id := range []string{"good-ssl", "good-wss"} {
		select {
		case err := <-ends[id]:
			t.Errorf("%s has lost its connection: %v", id, err)
		default:
		}
	}
}

// Programs that share no code with ours are let in and refused alike.
func TestOtherPeople(t *testing.T) {
	t.Parallel()
	g := guard(t, true, false)
	for _, name := range []string{"navigation", "stolen"} {
		g.issue(t, pki.Request{Name: name})
	}
	if _, err := g.authority.Revoke("stolen"); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(g.urlOf(t, "ssl"))
	if err != nil {
		t.Fatal(err)
	}
	run := func(stdin string, args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		c := exec.CommandContext(ctx, args[0], args[1:]...)
		c.Dir, c.Stdin = g.dir, strings.NewReader(stdin)
		out, err := c.CombinedOutput()
		return string(out), err
	}
	openssl := func(args ...string) (string, error) {
		return run("Q\n", append([]string{"openssl", "s_client", "-connect", u.Host, "-CAfile", "ca.pem", "-verify_return_error", "-verify_hostname", "localhost"}, args...)...)
	}
	for _, version := range []string{"-tls1_2", "-tls1_3"} {
		if out, err := openssl(version, "-cert", "navigation.pem", "-key", "navigation.key"); err != nil || !strings.Contains(out, "Verify return code: 0 (ok)") {
			t.Errorf("openssl %s: %v\n%s", version, err, out)
		}
	}
	if out, err := openssl("-tls1_1", "-cipher", "ALL:@SECLEVEL=0", "-cert", "navigation.pem", "-key", "navigation.key"); err == nil {
		t.Errorf("openssl with TLS 1.1 is let in:\n%s", out)
	}
	if out, err := openssl("-verify_hostname", "other.example"); err == nil || !strings.Contains(strings.ToLower(out), "hostname mismatch") {
		t.Errorf("openssl with another name: %v\n%s", err, out)
	}

	publish := func(version string, args ...string) (string, error) {
		return run("", append([]string{"mosquitto_pub", "-V", version, "-h", "localhost", "-p", u.Port(), "--cafile", "ca.pem", "-t", "a", "-m", "b", "-q", "2"}, args...)...)
	}
	for _, version := range []string{"mqttv311", "mqttv5"} {
		pair := []string{"--cert", "navigation.pem", "--key", "navigation.key"}
		for _, tt := range []struct {
			name string
			args []string
			want string // "" is let in
		}{
			{"its certificate", pair, ""},
			{"its certificate and name", append([]string{"-u", "navigation"}, pair...), ""},
			{"another name", append([]string{"-u", "safety"}, pair...), "not authori"},
			{"a revoked certificate", []string{"--cert", "stolen.pem", "--key", "stolen.key"}, "rror"},
			{"no certificate", nil, "rror"},
		} {
			out, err := publish(version, tt.args...)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(strings.ToLower(out), strings.ToLower(tt.want))) {
				t.Errorf("mosquitto_pub %s with %s: %v: %s", version, tt.name, err, out)
			}
		}
	}
}

// What runs beside the broker gets in, also when everybody on the network needs a certificate.
func TestDemoOfGuardedBroker(t *testing.T) {
	t.Parallel()
	g := guard(t, true, false)
	for _, e := range []struct{ url, want string }{{g.localURL(Options{Config: g.config}), "unix://"}, {g.URL(), "ssl://"}} {
		if !strings.HasPrefix(e.url, e.want) {
			t.Errorf("the address is %s, want %s", e.url, e.want)
		}
	}
	if err := try(t, g.localURL(Options{Config: g.config}), nil, client.Options{}); err != nil {
		t.Error(err)
	}
}
