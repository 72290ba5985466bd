package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func create(t *testing.T) *Authority {
	t.Helper()
	a, err := Create(filepath.Join(t.TempDir(), "tls"), "test CA", false)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func issue(t *testing.T, a *Authority, r Request) Certificate {
	t.Helper()
	c, err := a.Issue(r)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func read(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	certs, err := readCertificates(path)
	if err != nil {
		t.Fatal(err)
	}
	return certs[0]
}

func TestAuthority(t *testing.T) {
	t.Parallel()
	a := create(t)
	issue(t, a, Request{Name: "broker", Server: true, Hosts: []string{"mower.local", "127.0.0.1", "[::1]"}})
	issue(t, a, Request{Name: "navigation"})

	ca, server, client := read(t, a.CertFile()), read(t, filepath.Join(a.dir, "broker.pem")), read(t, filepath.Join(a.dir, "navigation.pem"))
	for _, c := range []*x509.Certificate{ca, server, client} {
		if key, ok := c.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
			t.Errorf("%s: the key is no ECDSA P-256", c.Subject)
		}
	}
	if !ca.IsCA || !ca.MaxPathLenZero || ca.MaxPathLen != 0 {
		t.Error("the authority may have others below it")
	}
	if got := fmt.Sprint(hosts(server)); got != "[mower.local 127.0.0.1 ::1]" {
		t.Errorf("hosts %s", got)
	}
	if client.Subject.CommonName != "navigation" || !slices.Equal(client.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) {
		t.Errorf("client %v %v", client.Subject, client.ExtKeyUsage)
	}
	// An independent reader says the same.
	for file, purpose := range map[string]string{"broker.pem": "sslserver", "navigation.pem": "sslclient"} {
		out, err := exec.Command("openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", a.CertFile(), filepath.Join(a.dir, file)).CombinedOutput()
		if err != nil {
			t.Errorf("openssl: %v\n%s", err, out)
		}
	}

	modes := map[string]fs.FileMode{".": 0o700 | fs.ModeDir, "ca.key": 0o600, "broker.key": 0o600, "navigation.key": 0o600, "ca.pem": 0o644}
	for file, want := range modes {
		info, err := os.Stat(filepath.Join(a.dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", file, info.Mode(), want)
		}
	}

	before, err := os.ReadFile(filepath.Join(a.dir, "navigation.key"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Issue(Request{Name: "navigation"}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second certificate of a name: %v", err)
	}
	if _, err := Create(a.dir, "other", false); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second authority: %v", err)
	}
	if after, _ := os.ReadFile(filepath.Join(a.dir, "navigation.key")); string(after) != string(before) {
		t.Error("the key was overwritten")
	}

	again, err := Open(a.dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.Renew("broker", 0); err != nil {
		t.Fatal(err)
	}
	renewed := read(t, filepath.Join(a.dir, "broker.pem"))
	if renewed.SerialNumber.Cmp(server.SerialNumber) == 0 || renewed.PublicKey.(*ecdsa.PublicKey).Equal(server.PublicKey) {
		t.Error("renewed with the same serial number or key")
	}
	if fmt.Sprint(hosts(renewed), renewed.Subject, renewed.ExtKeyUsage) != fmt.Sprint(hosts(server), server.Subject, server.ExtKeyUsage) {
		t.Errorf("renewed for %v, %s", hosts(renewed), renewed.Subject)
	}
	if left, _ := filepath.Glob(filepath.Join(a.dir, ".new-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	t.Parallel()
	a := create(t)
	for _, r := range []Request{
		{Name: ""}, {Name: "ca"}, {Name: "crl"}, {Name: "../x"}, {Name: ".x"}, {Name: "-x"}, {Name: "a b"}, {Name: "a+"}, {Name: strings.Repeat("x", 65)},
		{Name: "broker", Server: true}, {Name: "broker", Server: true, Hosts: []string{"mower:8883"}}, {Name: "broker", Server: true, Hosts: []string{""}},
	} {
		if c, err := a.Issue(r); err == nil {
			t.Errorf("%+v: issued %+v", r, c)
		}
	}
	if _, err := Open(t.TempDir()); !errors.Is(err, ErrNoAuthority) {
		t.Errorf("an empty directory: %v", err)
	}
	for _, err := range []error{second(a.Renew("nobody", 0)), second(a.Revoke("nobody"))} {
		if err == nil || !strings.Contains(err.Error(), `no certificate "nobody"`) {
			t.Errorf("got %v", err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestList(t *testing.T) {
	t.Parallel()
	a := create(t)
	issue(t, a, Request{Name: "good"})
	issue(t, a, Request{Name: "soon", Validity: 13 * 24 * time.Hour})
	issue(t, a, Request{Name: "over", Validity: -time.Minute})
	issue(t, a, Request{Name: "taken"})
	if _, err := a.Revoke("taken"); err != nil {
		t.Fatal(err)
	}
	other := create(t)
	c := issue(t, other, Request{Name: "elsewhere"})
	for _, path := range []string{c.CertFile, c.KeyFile} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(a.dir, filepath.Base(path)), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list, err := a.List()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range list {
		got = append(got, c.Name+" "+c.Kind+" "+c.State)
	}
	want := []string{"ca authority valid", "elsewhere client foreign", "good client valid", "over client expired", "soon client expiring", "taken client revoked"}
	if !slices.Equal(got, want) {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
	// No certificate outlives its authority.
	long := issue(t, a, Request{Name: "long", Validity: 100 * 365 * 24 * time.Hour})
	if !long.Expires.Equal(a.cert.NotAfter) {
		t.Errorf("valid until %v, the authority until %v", long.Expires, a.cert.NotAfter)
	}
}

// What is revoked is everything that a name ever got, also when many revoke at once.
//
// Seen failing when only the certificate in use is revoked.
func TestRevoke(t *testing.T) {
	t.Parallel()
	a := create(t)
	const names = 20
	var want []string
	for i := range names {
		name := fmt.Sprint("client", i)
		want = append(want, issue(t, a, Request{Name: name}).Serial)
		c, err := a.Renew(name, 0)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, c.Serial)
	}
	issue(t, a, Request{Name: "other"})
	var wg sync.WaitGroup
	for i := range names {
		wg.Go(func() {
			b, err := Open(a.dir)
			if err != nil {
				t.Error(err)
				return
			}
			if certs, err := b.Revoke(fmt.Sprint("client", i)); err != nil || len(certs) != 2 {
				t.Errorf("revoked %d, %v", len(certs), err)
			}
		})
	}
	wg.Wait()
	lists, err := readRevocations(a.RevokedFile())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range lists[0].RevokedCertificateEntries {
		got = append(got, e.SerialNumber.Text(16))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("revoked %d certificates, want %d", len(got), len(want))
	}
	if err := lists[0].CheckSignatureFrom(a.cert); err != nil {
		t.Error(err)
	}
	out, err := exec.Command("openssl", "verify", "-crl_check", "-CRLfile", a.RevokedFile(), "-CAfile", a.CertFile(), filepath.Join(a.dir, "client0.pem")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "certificate revoked") {
		t.Errorf("openssl: %v\n%s", err, out)
	}
	if out, err := exec.Command("openssl", "verify", "-crl_check", "-CRLfile", a.RevokedFile(), "-CAfile", a.CertFile(), filepath.Join(a.dir, "other.pem")).CombinedOutput(); err != nil {
		t.Errorf("openssl: %v\n%s", err, out)
	}
}
