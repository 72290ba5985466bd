package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"
)

// A Refusal is a certificate that is not accepted.
type Refusal struct {
	Reason  string // a few words, always the same for the same cause: expired, revoked, foreign authority
	Subject string // whom the certificate names; "" when there is none
	Err     error
}

func (r *Refusal) Error() string {
	text := r.Reason
	if r.Subject != "" {
		text += " (" + r.Subject + ")"
	}
	return text + ": " + r.Err.Error()
}

func (r *Refusal) Unwrap() error { return r.Err }

func refuse(reason string, c *x509.Certificate, err error) *Refusal {
	return &Refusal{reason, subject(c), err}
}

// subject names a certificate for the log.
func subject(c *x509.Certificate) string {
	if c == nil {
		return ""
	}
	text := strings.ToValidUTF8(c.Subject.String(), "?")
	if runes := []rune(text); len(runes) > 200 {
		text = string(runes[:200]) + "..."
	}
	return text
}

// Explain says why a handshake with a client failed, and whom the client's certificate names. The reason is "" when it was
// neither the certificate nor the version of TLS.
func (s *Server) Explain(err error) (reason, whom string) { return explain(err) }

func explain(err error) (reason, whom string) {
	var known *Refusal
	var verification *tls.CertificateVerificationError
	var invalid x509.CertificateInvalidError
	var foreign x509.UnknownAuthorityError
	if errors.As(err, &known) {
		return known.Reason, known.Subject
	}
	if !errors.As(err, &verification) {
		text := fmt.Sprint(err)
		switch {
		case strings.Contains(text, "didn't provide a certificate"):
			return "no certificate", ""
		case strings.Contains(text, "unsupported versions"), strings.Contains(text, "protocol version not supported"):
			return "TLS version", ""
		case strings.Contains(text, "invalid signature by the client certificate"):
			return "mismatched key", ""
		case strings.Contains(text, "remote error: tls"):
			return "refused by the client", ""
		}
		return "", ""
	}
	var leaf *x509.Certificate
	if len(verification.UnverifiedCertificates) > 0 {
		leaf = verification.UnverifiedCertificates[0]
	}
	whom = subject(leaf)
	switch {
	case errors.As(err, &invalid):
		switch invalid.Reason {
		case x509.Expired:
			if invalid.Cert != nil && time.Now().Before(invalid.Cert.NotBefore) {
				return "not yet valid", whom
			}
			return "expired", whom
		case x509.IncompatibleUsage:
			return "wrong usage", whom
		}
	case errors.As(err, &foreign):
		if leaf != nil && bytes.Equal(leaf.RawIssuer, leaf.RawSubject) {
			return "self-signed", whom
		}
		return "foreign authority", whom
	}
	return "not trusted", whom
}
