package fleet

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/lawnberry/lawnberry/internal/natstest"
	"github.com/lawnberry/lawnberry/internal/pki"
)

func write(t *testing.T, mode os.FileMode, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEngineCheck(t *testing.T) {
	t.Parallel()
	login := write(t, 0o600, "mower\nsecret\n")
	creds := write(t, 0o600, "-----BEGIN NATS USER JWT-----\nx\n------END NATS USER JWT------\n")
	for _, tt := range []struct {
		name string
		e    Engine
		want string // in the error; "" is none
	}{
		{"nats", Engine{URL: "nats://a"}, ""},
		{"a cluster", Engine{URL: "tls://a:4222, tls://b:4222", Credentials: creds, CAFile: login}, ""},
		{"mqtt", Engine{URL: "mqtts://a:8883/", Credentials: login}, ""},
		{"nats with a password", Engine{URL: "nats://a", Credentials: login}, ""},
		{"no URL", Engine{URL: " , "}, "the URL of the engine is missing"},
		{"no scheme", Engine{URL: "a:4222"}, `"a:4222" is no URL of an engine: want nats://, tls://, mqtt:// or mqtts:// and a host`},
		{"another scheme", Engine{URL: "https://a"}, `"https://a" is no URL of an engine`},
		{"no host", Engine{URL: "nats://:4222"}, "has no host"},
		{"a path", Engine{URL: "nats://a/b"}, "has something after host and port"},
		{"two schemes", Engine{URL: "nats://a,tls://b"}, "the URLs of an engine have one scheme, not nats and tls"},
		{"two of MQTT", Engine{URL: "mqtt://a,mqtt://b"}, "an MQTT engine has one URL"},
		{"a login", Engine{URL: "nats://me:geheim@a"}, "the engine's URL has a login in it"},
		{"a login that cannot be read", Engine{URL: "nats://me:gehe%im@a"}, "the engine's URL cannot be read"},
		{"half a certificate", Engine{URL: "tls://a", CertFile: login}, "a certificate for the engine and its key belong together"},
		{"no file", Engine{URL: "tls://a", CAFile: login + "x"}, "no such file"},
		{"no credentials", Engine{URL: "tls://a", Credentials: login + "x"}, "credentials: open"},
		{"a directory", Engine{URL: "tls://a", Credentials: filepath.Dir(login)}, "are no file"},
		{"for all", Engine{URL: "tls://a", Credentials: write(t, 0o644, "a\nb\n")}, "may be used by others than their owner (mode 0644): chmod 600"},
		{"nothing", Engine{URL: "tls://a", Credentials: write(t, 0o600, "\n")}, "are empty"},
		{"one line", Engine{URL: "mqtt://a", Credentials: write(t, 0o600, "geheim\n")}, "are neither a file of NATS nor a user name and a password"},
		{"three lines", Engine{URL: "mqtt://a", Credentials: write(t, 0o600, "a\ngeheim\n\n")}, "are neither a file of NATS nor a user name and a password"},
		{"creds for MQTT", Engine{URL: "mqtt://a", Credentials: creds}, "are for NATS, and the engine is an MQTT broker"},
	} {
		err := tt.e.Check()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: the error shows a password: %v", tt.name, err)
		}
	}
	user, password, err := Engine{URL: "mqtt://a", Credentials: login}.Login()
	if user != "mower" || password != "secret" || err != nil {
		t.Error(user, password, err)
	}
}

func TestEnginePrivate(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		e    Engine
		want bool
	}{
		{Engine{URL: "nats://127.0.0.1:4222,nats://localhost,nats://[::1]:1"}, true},
		{Engine{URL: "nats://localhost,nats://a"}, false},
		{Engine{URL: "nats://a", CAFile: "ca.pem"}, true},
		{Engine{URL: "tls://a"}, true},
		{Engine{URL: "mqtts://a"}, true},
		{Engine{URL: "mqtt://a", CAFile: "ca.pem"}, false},
	} {
		if got := tt.e.Private(); got != tt.want {
			t.Errorf("%+v: %v", tt.e, got)
		}
	}
}

func TestReconnectDelay(t *testing.T) {
	t.Parallel()
	for rounds, want := range map[int]time.Duration{0: time.Second, 1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 4: 8 * time.Second, 1000: 8 * time.Second} {
		for range 100 {
			if got := reconnectDelay(rounds); got < want || got >= 2*want {
				t.Errorf("after %d rounds %v, want %v and as much again at most", rounds, got, want)
			}
		}
	}
}

// soon is for tests that reconnect.
var soon = nats.CustomReconnectDelay(func(int) time.Duration { return 10 * time.Millisecond })

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what + ": never")
		}
	}
}

// A connection is made once the engine is there, with the password that the file has by then, and what is published before that fails at once.
func TestDialNATS(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, "authorization { users = [ { user: mower, password: right } ] }")
	s.Kill(0)
	e := Engine{URL: s.URL(), Credentials: write(t, 0o600, "mower\nwrong\n"), Log: slog.New(slog.DiscardHandler)}
	c, err := e.DialNATS("test", soon)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Publish("a", nil); err == nil {
		t.Error("something is kept without a connection")
	}
	s.Restart(0)
	until(t, "the password is refused", func() bool { return strings.Contains(s.Log(0), "authentication error") })
	until(t, "and again, beyond what the library gives up at", func() bool { return strings.Count(s.Log(0), "authentication error") > 3 })
	if err := os.WriteFile(e.Credentials, []byte("mower\nright\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, "connected", c.IsConnected)
	s.Kill(0)
	until(t, "it is noticed", func() bool { return !c.IsConnected() })
	if err := c.Publish("a", nil); err == nil {
		t.Error("something is kept without a connection")
	}
	s.Restart(0)
	until(t, "connected again", c.IsConnected)

	if c, err := e.DialNATS("test", nats.RetryOnFailedConnect(false)); err != nil {
		t.Error(err)
	} else {
		c.Close()
		s.Kill(0)
		if _, err := e.DialNATS("test", nats.RetryOnFailedConnect(false)); err == nil {
			t.Error("there is a connection to nobody")
		}
	}
	if _, err := (Engine{URL: "mqtt://localhost"}).DialNATS("test"); err == nil {
		t.Error("an MQTT broker is dialled")
	}
}

// With tls:// or a CA file nothing is said to an engine whose certificate is not right, or that has none.
func TestDialNATSWithTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, err := pki.Create(dir, "test", false)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.Issue(pki.Request{Name: "engine", Server: true, Hosts: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	safe := natstest.Start(t, `tls { cert_file: "`+cert.CertFile+`", key_file: "`+cert.KeyFile+`" }`)
	plain := natstest.Start(t)
	other, err := pki.Create(t.TempDir(), "other", false)
	if err != nil {
		t.Fatal(err)
	}
	tls := func(url string) string { return strings.Replace(url, "nats://", "tls://", 1) }
	for _, tt := range []struct {
		name string
		e    Engine
		ok   bool
	}{
		{"trusted", Engine{URL: tls(safe.URL()), CAFile: a.CertFile()}, true},
		{"trusted, by its file alone", Engine{URL: safe.URL(), CAFile: a.CertFile()}, true},
		{"another authority", Engine{URL: tls(safe.URL()), CAFile: other.CertFile()}, false},
		{"the system's", Engine{URL: tls(safe.URL())}, false},
		{"another name", Engine{URL: strings.Replace(tls(safe.URL()), "127.0.0.1", "127.0.0.2", 1), CAFile: a.CertFile()}, false},
		{"no TLS there", Engine{URL: tls(plain.URL()), CAFile: a.CertFile()}, false},
		{"no TLS there, a file", Engine{URL: plain.URL(), CAFile: a.CertFile()}, false},
		{"no TLS at all", Engine{URL: plain.URL()}, true},
	} {
		c, err := tt.e.DialNATS("test", nats.RetryOnFailedConnect(false))
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
		if err == nil {
			c.Close()
		}
	}
}
