package config

import (
	"context"
	"crypto/tls"
	"log/slog"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/internal/pki"
)

// keyring is the broker's TLS, from files that it watches.
func (t *ServerTLS) keyring() (*pki.Server, error) {
	return pki.NewServer(pki.ServerFiles{
		Cert: pki.File{Key: "broker.tls.cert_file", Path: t.CertFile}, Key: pki.File{Key: "broker.tls.key_file", Path: t.KeyFile},
		CA: pki.File{Key: "broker.tls.ca_file", Path: t.CAFile}, CRL: pki.File{Key: "broker.tls.crl_file", Path: t.CRLFile},
		Require: t.RequireCertificate,
	})
}

// certified lets in who has shown a certificate, which is worth more than a password, and leaves everybody else to others.
func certified(others func(context.Context, broker.Login) error) func(context.Context, broker.Login) error {
	if others == nil {
		return nil
	}
	return func(ctx context.Context, l broker.Login) error {
		if l.Certificate != "" {
			return nil
		}
		return others(ctx, l)
	}
}

// lacksCertificate reports whether the own broker requires a certificate and programs have none.
func (c *Config) lacksCertificate() bool {
	return c.Broker.TLS.Enabled && c.Broker.TLS.RequireCertificate && (!c.Client.TLS.Enabled || c.Client.TLS.CertFile == "")
}

// showsCertificate reports whether programs show the own broker a certificate, which it asks for: then their name is the certificate's.
// (With port 0 they use its socket.)
func (c *Config) showsCertificate() bool {
	return c.Client.TLS.Enabled && c.Client.TLS.CertFile != "" && c.Broker.TLS.Enabled && c.Broker.TLS.CAFile != "" && c.Broker.Port != 0
}

// A tlsSource is [client.Options.GetTLS].
type tlsSource = func(*slog.Logger) (*tls.Config, error)

// source is a program's TLS, from files that are looked at before each connection.
func (t *ClientTLS) source() (tlsSource, error) {
	f := pki.ClientFiles{Cert: pki.File{Key: "client.tls.certfile", Path: t.CertFile}, Key: pki.File{Key: "client.tls.keyfile", Path: t.KeyFile}}
	if t.CACerts != "" {
		f.CA = []pki.File{{Key: "client.tls.ca_certs", Path: t.CACerts}}
	}
	return sourceOf(f)
}

// ownBrokerTLS trusts the certificates that this configuration's broker itself has, and who has signed them, under the name that they
// are for: localhost need not be one of theirs.
func (c *Config) ownBrokerTLS() (tlsSource, error) {
	f := pki.ClientFiles{CA: []pki.File{{Key: "broker.tls.cert_file", Path: c.Broker.TLS.CertFile}}, OwnName: true}
	if path := c.Broker.TLS.CAFile; path != "" {
		f.CA = append(f.CA, pki.File{Key: "broker.tls.ca_file", Path: path})
	}
	return sourceOf(f)
}

func sourceOf(f pki.ClientFiles) (tlsSource, error) {
	c, err := pki.NewClient(f)
	if err != nil {
		return nil, err
	}
	return c.Config, nil
}
