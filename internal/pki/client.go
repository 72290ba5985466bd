package pki

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"sync"
)

// ClientFiles are what a client shows and trusts. No path of CA trusts whom the system trusts, no path of Cert shows nothing.
type ClientFiles struct {
	CA        []File // certificates of authorities, or of the broker itself; the first has to be there
	Cert, Key File
	// OwnName is that the broker is expected to have the name that the first certificate of CA is for, whatever the address is.
	OwnName bool
}

// A Client is the TLS of connections to a broker. Its methods may be called concurrently.
type Client struct {
	files ClientFiles

	mu   sync.Mutex // guards everything below
	pair watched[tls.Certificate]
	ca   watched[[]*x509.Certificate]
}

// NewClient reads all files, and fails when one of them cannot be used.
func NewClient(f ClientFiles) (*Client, error) {
	c := &Client{files: f, pair: watchPair(f.Cert, f.Key)}
	c.ca = watched[[]*x509.Certificate]{files: f.CA, load: func() (all []*x509.Certificate, err error) {
		for _, file := range f.CA {
			certs, err := readCertificates(file.Path)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file.Key, err)
			}
			all = append(all, certs...)
		}
		return all, nil
	}}
	if err := c.refresh(func(err error) error { return err }); err != nil {
		return nil, err
	}
	return c, nil
}

// refresh takes over what is new; it ends early with an error of complain.
func (c *Client) refresh(complain func(error) error) error {
	if len(c.files.CA) > 0 {
		if _, err := c.ca.look(); err != nil {
			if err := complain(err); err != nil {
				return err
			}
		}
	}
	if c.files.Cert.Path != "" {
		if _, err := c.pair.look(); err != nil {
			return complain(err)
		}
	}
	return nil
}

// Config returns the TLS of the next connection, with what the files hold now. What cannot be used of new files is logged once, and
// the old is used.
func (c *Client) Config(log *slog.Logger) (*tls.Config, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.refresh(func(err error) error { // never fails then
		log.Error("certificate kept: the new files cannot be used", "error", err)
		return nil
	})
	o := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(c.files.CA) > 0 {
		o.RootCAs = x509.NewCertPool()
		for _, ca := range c.ca.value {
			o.RootCAs.AddCert(ca)
		}
		if names := hosts(c.ca.value[0]); c.files.OwnName && len(names) > 0 {
			o.ServerName = names[0]
		}
	}
	if c.files.Cert.Path != "" {
		pair := c.pair.value
		o.Certificates = []tls.Certificate{pair}
		// It is shown whomever the broker trusts: the broker can say best what is wrong with it.
		o.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	return o, nil
}
