package pki

import (
	"bytes"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// ServerFiles are what a listener shows and trusts.
type ServerFiles struct {
	Cert, Key File
	CA        File // who may sign clients' certificates; no path is no certificates of clients
	CRL       File // certificates of clients that are revoked; no path is none
	Require   bool // refuse a client without a certificate
}

// A Server is the TLS of listeners. It takes over new files before the next handshake. Its methods may be called concurrently.
type Server struct {
	files ServerFiles

	mu       sync.Mutex // guards everything below
	pair     watched[tls.Certificate]
	ca       watched[[]*x509.Certificate]
	crl      watched[[]*x509.RevocationList]
	config   *tls.Config
	news     []string
	problems []error
}

// NewServer reads all files, and fails when one of them cannot be used.
func NewServer(f ServerFiles) (*Server, error) {
	s := &Server{files: f}
	s.pair = watchPair(f.Cert, f.Key)
	s.ca = watched[[]*x509.Certificate]{files: []File{f.CA}, load: func() ([]*x509.Certificate, error) {
		certs, err := readCertificates(f.CA.Path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.CA.Key, err)
		}
		return certs, nil
	}}
	s.crl = watched[[]*x509.RevocationList]{files: []File{f.CRL}, load: s.revocations}
	s.refresh()
	if len(s.problems) > 0 {
		return nil, s.problems[0]
	}
	s.news = nil
	return s, nil
}

func watchPair(cert, key File) watched[tls.Certificate] {
	return watched[tls.Certificate]{files: []File{cert, key}, load: func() (tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(cert.Path, key.Path)
		if err != nil {
			_, name, _ := cutLast(key.Key)
			return pair, fmt.Errorf("%s and %s: %w", cert.Key, name, err)
		}
		return pair, nil
	}}
}

// cutLast cuts a key before its last level.
func cutLast(key string) (before, last string, found bool) {
	i := strings.LastIndexByte(key, '.')
	if i < 0 {
		return "", key, false
	}
	return key[:i], key[i+1:], true
}

// revocations reads the lists, each of which has to be signed by an authority that is trusted.
func (s *Server) revocations() ([]*x509.RevocationList, error) {
	lists, err := readRevocations(s.files.CRL.Path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.files.CRL.Key, err)
	}
	for _, l := range lists {
		trusted := false
		for _, ca := range s.ca.value {
			trusted = trusted || bytes.Equal(l.RawIssuer, ca.RawSubject) && l.CheckSignatureFrom(ca) == nil
		}
		if !trusted {
			return nil, fmt.Errorf("%s: the list of %s in %s is signed by nobody in %s", s.files.CRL.Key, l.Issuer, s.files.CRL.Path, s.files.CA.Key)
		}
	}
	return lists, nil
}

// refresh takes over what is new. What cannot be used of it leaves the old in place.
func (s *Server) refresh() {
	changed := s.config == nil
	note := func(paths string, is bool, err error) {
		changed = changed || is
		if is {
			s.news = append(s.news, paths)
		}
		if err != nil {
			s.problems = append(s.problems, err)
		}
	}
	is, err := s.pair.look()
	note(s.pair.paths(), is, err)
	if s.files.CA.Path != "" {
		is, err = s.ca.look()
		note(s.ca.paths(), is, err)
		if is {
			s.crl.seen = nil // who may have signed it is new
		}
		if s.files.CRL.Path != "" {
			is, err = s.crl.look()
			note(s.crl.paths(), is, err)
		}
	}
	if !changed || len(s.pair.value.Certificate) == 0 {
		return
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{s.pair.value}}
	if s.files.CA.Path != "" {
		c.ClientAuth = tls.VerifyClientCertIfGiven
		if s.files.Require {
			c.ClientAuth = tls.RequireAndVerifyClientCert
		}
		c.ClientCAs = x509.NewCertPool()
		for _, ca := range s.ca.value {
			c.ClientCAs.AddCert(ca)
		}
		c.VerifyConnection = func(cs tls.ConnectionState) error { return s.examine(cs.VerifiedChains) }
		c.SessionTicketsDisabled = true // every connection is looked at anew
	}
	s.config = c
}

// Config is the TLS of a listener.
func (s *Server) Config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.refresh()
		return s.config, nil
	}}
}

// Reload takes over what is new in the files. It returns which files were taken over since it was called last, and why others
// were not, each once.
func (s *Server) Reload() (news []string, problems []error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refresh()
	news, problems = s.news, s.problems
	s.news, s.problems = nil, nil
	return news, problems
}

// Expiries yields when each certificate that is in use expires, the broker's own first.
func (s *Server) Expiries() iter.Seq2[string, time.Time] {
	s.mu.Lock()
	pair, authorities := s.pair.value, s.ca.value
	s.mu.Unlock()
	return func(yield func(string, time.Time) bool) {
		if pair.Leaf == nil || !yield(s.files.Cert.String(), pair.Leaf.NotAfter) {
			return
		}
		for _, ca := range authorities {
			if !yield(s.files.CA.String(), ca.NotAfter) {
				return
			}
		}
	}
}

// Revoked returns why a client is not to be served any more whose certificate was accepted, nil when it is. It needs one chain
// without anything revoked.
func (s *Server) Revoked(chains [][]*x509.Certificate) error {
	s.mu.Lock()
	lists := s.crl.value
	s.mu.Unlock()
	var found error
	for _, chain := range chains {
		err := revokedBy(lists, chain)
		if err == nil {
			return nil
		}
		found = err
	}
	return found
}

func revokedBy(lists []*x509.RevocationList, chain []*x509.Certificate) error {
	for _, c := range chain {
		for _, l := range lists {
			if !bytes.Equal(l.RawIssuer, c.RawIssuer) {
				continue
			}
			for _, e := range l.RevokedCertificateEntries {
				if e.SerialNumber.Cmp(c.SerialNumber) == 0 {
					return refuse("revoked", c, fmt.Errorf("the certificate with serial number %x was revoked on %s", c.SerialNumber, e.RevocationTime.UTC().Format(time.DateOnly)))
				}
			}
		}
	}
	return nil
}

// examine decides over a certificate that TLS has found in order.
func (s *Server) examine(chains [][]*x509.Certificate) error {
	if len(chains) == 0 {
		return nil // without one, which TLS refuses if one is required
	}
	leaf := chains[0][0]
	if key, ok := leaf.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() < 2048 {
		return refuse("weak key", leaf, fmt.Errorf("RSA with %d bits: want 2048 or more, or ECDSA", key.N.BitLen()))
	}
	name := leaf.Subject.CommonName
	if name == "" {
		return refuse("no name", leaf, errors.New("there is no common name in the certificate, and that is the client's identity"))
	}
	if !utf8.ValidString(name) || strings.ContainsAny(name, "/+#") || strings.ContainsFunc(name, unicode.IsControl) {
		return refuse("bad name", leaf, errors.New("the common name cannot be an identity: it has /, +, # or control characters"))
	}
	return s.Revoked(chains)
}
