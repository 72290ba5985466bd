package client

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// What is wrong with a certificate is said with the key to look at, and trying again cannot help.
func TestTLSHint(t *testing.T) {
	t.Parallel()
	alert := func(text string) error {
		return fmt.Errorf("dial: %w", &net.OpError{Op: "remote error", Err: errors.New("tls: " + text)})
	}
	verify := func(err error) error { return fmt.Errorf("dial: %w", &tls.CertificateVerificationError{Err: err}) }
	now := time.Now()
	past := &x509.Certificate{NotBefore: now.Add(-2 * time.Hour), NotAfter: now.Add(-time.Hour)}
	future := &x509.Certificate{NotBefore: now.Add(time.Hour), NotAfter: now.Add(2 * time.Hour)}
	for _, tt := range []struct {
		err       error
		hint      string // "" is none
		permanent bool
	}{
		{alert("bad certificate"), "client.tls.certfile", true},
		{alert("expired certificate"), "client.tls.certfile", true},
		{alert("unknown certificate authority"), "client.tls.certfile", true},
		{alert("certificate required"), "wants a certificate", true},
		{alert("internal error"), "", false},
		{&net.OpError{Op: "read", Err: errors.New("a certificate")}, "", false},
		{verify(x509.HostnameError{Certificate: past, Host: "x"}), "client.broker_host", true},
		{verify(x509.CertificateInvalidError{Cert: past, Reason: x509.Expired}), "has expired", true},
		{verify(x509.CertificateInvalidError{Cert: future, Reason: x509.Expired}), "not valid yet", true},
		{verify(x509.CertificateInvalidError{Cert: past, Reason: x509.IncompatibleUsage}), "broker.tls.cert_file", true},
		{verify(x509.UnknownAuthorityError{Cert: past}), "client.tls.ca_certs", true},
	} {
		e := &ConnectError{URL: "ssl://x", Err: tt.err}
		if got := e.hint(); tt.hint == "" && got != "" || !strings.Contains(got, tt.hint) {
			t.Errorf("%v: hint %q, want %q", tt.err, got, tt.hint)
		}
		if got := e.permanent(); got != tt.permanent {
			t.Errorf("%v: permanent is %v", tt.err, got)
		}
	}
}
