package mosquitto

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/pki"
)

// Passwords are checked, on TCP and WebSocket, and changes count while it runs.
func TestLogins(t *testing.T) {
	t.Parallel()
	b := start(t, Options{
		Listeners: []Listener{{Network: "tcp", Address: "127.0.0.1:0"}, {Network: "ws", Address: "127.0.0.1:0"}},
		Logins:    Logins{Users: []User{{"ann", Verifier("her long password")}, {"Ünal the 2nd", Verifier("his pass phrase")}}},
	})
	for e := range b.Endpoints() {
		for _, tt := range []struct {
			user, password string
			in             bool
		}{
			{"ann", "her long password", true}, {"Ünal the 2nd", "his pass phrase", true},
			{"ann", "his pass phrase", false}, {"bob", "her long password", false}, {"", "", false}, {"ann", "", false},
		} {
			_, err := tryConnect(t, client.Options{URL: e.URL, Username: tt.user, Password: client.Secret(tt.password)})
			if in := err == nil; in != (tt.in || e.Network == "unix") {
				t.Errorf("%s: %q with %q: %v", e.URL, tt.user, tt.password, err)
			}
		}
	}
	c := connect(t, client.Options{URL: b.URL(), Username: "ann", Password: "her long password"})
	stays := connect(t, client.Options{URL: b.URL(), Username: "Ünal the 2nd", Password: "his pass phrase"})
	check(t, b.SetLogins(Logins{Users: []User{{"ann", Verifier("a new password")}, b.logins.Users[1]}}))
	eventually(t, "one with another password is put out", func() bool { return !c.Stats().Connected })
	if s := stays.Stats(); !s.Connected || s.Reconnects != 0 {
		t.Error("somebody else was put out too")
	}
	eventually(t, "the new password", func() bool {
		_, err := tryConnect(t, client.Options{URL: b.URL(), Username: "ann", Password: "a new password"})
		return err == nil
	})
	if s := b.Stats(); s.Restarts != 0 {
		t.Errorf("%+v", s)
	}
	before := b.Stats().PID
	if err := b.SetLogins(Logins{Users: []User{{"a:b", "x"}}}); err == nil {
		t.Error("a name with a colon is accepted")
	}
	connect(t, client.Options{URL: b.URL(), Username: "ann", Password: "a new password"})
	check(t, b.SetLogins(Logins{Anonymous: true}))
	eventually(t, "nobody is asked any more", func() bool {
		_, err := tryConnect(t, client.Options{URL: b.URL()})
		return err == nil
	})
	if s := b.Stats(); s.Restarts != 0 || s.PID == before {
		t.Errorf("%+v", s)
	}
}

// Who may do what: one's own, everyone's, what is denied, and what changes meanwhile. The socket is for who may do everything.
func TestGrants(t *testing.T) {
	t.Parallel()
	users := []User{{"ann", Verifier("her long password")}, {"bob", Verifier("his long password")}}
	b := start(t, Options{Listeners: local(), Logins: Logins{Users: users, Grants: []Grant{
		{"", Write, "lawnberry/everyone"}, {"", Read, "lawnberry/responses/%c"},
		{"ann", Read, "lawnberry/#"}, {"ann", Deny, "lawnberry/secret/#"}, {"ann", Write, "lawnberry/with space/+"},
		{"bob", Write, "lawnberry/a"},
	}}})
	ann := connect(t, client.Options{URL: b.URL(), ID: "ann-1", Username: "ann", Password: "her long password"})
	bob := connect(t, client.Options{URL: b.URL(), ID: "bob-1", Username: "bob", Password: "his long password"})
	all := connect(t, client.Options{Dial: b.Dial})
	hers, his, everything := listen(t, ann, "#"), listen(t, bob, "#"), listen(t, all, "#")
	for _, tt := range []struct {
		who       *client.Client
		topic     string
		may       bool
		hers, his bool
	}{
		{bob, "a", true, true, false}, {bob, "b", false, false, false}, {bob, "everyone", true, true, false}, {bob, "with space/x", false, false, false},
		{ann, "with space/x", true, true, false}, {ann, "everyone", true, true, false}, {ann, "a", false, false, false}, {ann, "secret/x", false, false, false},
		{all, "secret/x", true, false, false}, {all, "responses/bob-1", true, true, true}, {all, "responses/bob-2", true, true, false},
	} {
		text := "lawnberry/" + tt.topic + "=" + tt.topic
		for _, h := range []*heard{hers, his, everything} {
			h.mu.Lock()
			h.seen = nil
			h.mu.Unlock()
		}
		_ = tt.who.Publish(testContext(t), tt.topic, rawMessage(tt.topic), client.WithQoS(1)) // MQTT 5 says it when it is refused
		publish(t, all, "responses/ann-1", "end")
		publish(t, all, "responses/bob-1", "end")
		eventually(t, "what comes after it", func() bool {
			return hers.has("lawnberry/responses/ann-1=end") && his.has("lawnberry/responses/bob-1=end") && everything.has("lawnberry/responses/ann-1=end")
		})
		if everything.has(text) != tt.may || hers.has(text) != tt.hers || his.has(text) != tt.his {
			t.Errorf("%s: went out %t, ann got it %t, bob %t", tt.topic, everything.has(text), hers.has(text), his.has(text))
		}
	}
	check(t, b.SetLogins(Logins{Users: users, Grants: []Grant{{"bob", ReadWrite, "lawnberry/b"}}}))
	eventually(t, "new rights", func() bool {
		publish(t, all, "b", "for bob")
		return his.has("lawnberry/b=for bob")
	})
	check(t, bob.Publish(testContext(t), "b", rawMessage("x"), client.WithQoS(1)))
}

// Everything is TLS, a certificate is a login where one is required, and a list of revoked ones is read again.
func TestTLS(t *testing.T) {
	t.Parallel()
	authority, err := pki.Create(filepath.Join(t.TempDir(), "pki"), "test", false)
	check(t, err)
	server, err := authority.Issue(pki.Request{Name: "broker", Server: true, Hosts: []string{"127.0.0.1"}})
	check(t, err)
	person, err := authority.Issue(pki.Request{Name: "ann"})
	check(t, err)
	roots := x509.NewCertPool()
	pem, err := os.ReadFile(authority.CertFile())
	check(t, err)
	roots.AppendCertsFromPEM(pem)
	pair, err := tls.LoadX509KeyPair(person.CertFile, person.KeyFile)
	check(t, err)
	trust, shown := &tls.Config{RootCAs: roots}, &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}

	both := func(l TLS) []Listener {
		return []Listener{{Network: "tcp", Address: "127.0.0.1:0", TLS: &l}, {Network: "ws", Address: "127.0.0.1:0", TLS: &l}}
	}
	b := start(t, Options{Listeners: both(TLS{CertFile: server.CertFile, KeyFile: server.KeyFile}), Logins: Logins{Users: []User{{"ann", Verifier("her long password")}}}})
	for e := range b.Endpoints() {
		if e.Network == "unix" {
			continue
		}
		if !strings.HasPrefix(e.URL, "ssl://") && !strings.HasPrefix(e.URL, "wss://") {
			t.Errorf("URL %s", e.URL)
		}
		connect(t, client.Options{URL: e.URL, TLS: trust, Username: "ann", Password: "her long password"})
		if _, err := tryConnect(t, client.Options{URL: e.URL, Username: "ann", Password: "her long password"}); err == nil {
			t.Errorf("%s: a certificate that nobody trusts is taken", e.URL)
		}
		if _, err := tryConnect(t, client.Options{URL: "tcp://" + e.Address, ConnectTimeout: 2 * time.Second}); err == nil {
			t.Errorf("%s: it is plain", e.URL)
		}
	}

	required := TLS{CertFile: server.CertFile, KeyFile: server.KeyFile, CAFile: authority.CertFile(), RequireCertificate: true}
	_, err = authority.Issue(pki.Request{Name: "gone"})
	check(t, err)
	_, err = authority.Revoke("gone") // so that there is a list
	check(t, err)
	required.CRLFile = authority.RevokedFile()
	b = start(t, Options{
		Listeners: []Listener{{Network: "tcp", Address: "127.0.0.1:0", TLS: &required}},
		Logins:    Logins{Grants: []Grant{{"ann", ReadWrite, "lawnberry/hers"}}},
	})
	c := connect(t, client.Options{URL: b.URL(), TLS: shown})
	check(t, c.Publish(testContext(t), "hers", rawMessage("x"), client.WithQoS(1)))
	if err := c.Publish(testContext(t), "his", rawMessage("x"), client.WithQoS(1)); err == nil {
		t.Error("the certificate does not say who she is")
	}
	if _, err := tryConnect(t, client.Options{URL: b.URL(), TLS: trust}); err == nil {
		t.Error("no certificate is needed")
	}
	_, err = authority.Revoke("ann")
	check(t, err)
	check(t, b.Reload())
	eventually(t, "a revoked certificate is refused", func() bool {
		_, err := tryConnect(t, client.Options{URL: b.URL(), TLS: shown})
		return err != nil
	})
}

// What is written of a password says nothing else, and is different each time.
func TestVerifier(t *testing.T) {
	t.Parallel()
	a, b := Verifier("the same password"), Verifier("the same password")
	if a == b || CheckVerifier(a) != nil {
		t.Errorf("%s and %s", a, b)
	}
	for _, bad := range []string{"", "x", "$7$", a + "x", a + "\n", "$6$" + a[3:], strings.Replace(a, "$10000$", "$0$", 1)} {
		if err := CheckVerifier(bad); err == nil || bad != "" && len(bad) > 9 && strings.Contains(err.Error(), bad) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
