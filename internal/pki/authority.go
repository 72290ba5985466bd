package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/internal/owner"
)

// An Authority signs certificates. Its methods may be called concurrently, also by several processes.
type Authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// ErrNoAuthority is a directory without an authority.
var ErrNoAuthority = errors.New("there is no certificate authority")

// Create makes an authority in dir, which is made when missing, for its owner's eyes only. It is an fs.ErrExist when there is one
// already, unless force is set: then everything that the old one has signed is worth nothing.
func Create(dir, name string, force bool) (*Authority, error) {
	if err := owner.MkdirAll(filepath.Join(dir, issuedDir)); err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, err
	}
	if !force {
		for _, file := range []string{authorityKey, authorityCert} {
			if err := absent(filepath.Join(dir, file)); err != nil {
				return nil, err
			}
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-backdated), NotAfter: now.Add(AuthorityValidity),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	a := &Authority{dir: dir, key: key}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	if err := a.writePair(authorityName, der, key); err != nil {
		return nil, err
	}
	if err := a.writeRevocations(); err != nil {
		return nil, err
	}
	return a, nil
}

// Open opens the authority in dir. It is [ErrNoAuthority] when there is none.
func Open(dir string) (*Authority, error) {
	certs, err := readCertificates(filepath.Join(dir, authorityCert))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s", ErrNoAuthority, dir)
	}
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, authorityKey)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("the key of the authority: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("there is no key in %s, want PEM", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(certs[0].PublicKey) {
		return nil, fmt.Errorf("%s is not the key of %s", path, authorityCert)
	}
	return &Authority{dir: dir, cert: certs[0], key: key}, nil
}

// CertFile is where the authority's own certificate is, RevokedFile the list of what it has taken back.
func (a *Authority) CertFile() string    { return filepath.Join(a.dir, authorityCert) }
func (a *Authority) RevokedFile() string { return filepath.Join(a.dir, revokedFile) }

// A Request asks for a certificate.
type Request struct {
	Name     string        // the identity of a client; the files have this name too
	Server   bool          // for a broker, else for a client
	Peer     bool          // for a server that is the client of its like too, as in a cluster; with Server
	Hosts    []string      // host names and addresses of a broker
	Validity time.Duration // 0 is CertificateValidity
	Force    bool          // replace a certificate of that name
}

// Issue signs a certificate with a new key, both in files of the directory. It is an fs.ErrExist when that name has one, unless
// the request says otherwise.
func (a *Authority) Issue(r Request) (Certificate, error) {
	if err := CheckName(r.Name); err != nil {
		return Certificate{}, err
	}
	if r.Server && len(r.Hosts) == 0 {
		return Certificate{}, errors.New("the certificate of a broker needs the host names or addresses that clients connect to")
	}
	if !r.Force {
		for _, suffix := range []string{keySuffix, certSuffix} {
			if err := absent(filepath.Join(a.dir, r.Name+suffix)); err != nil {
				return Certificate{}, err
			}
		}
	}
	template := &x509.Certificate{Subject: pkix.Name{CommonName: r.Name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if r.Server {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		if r.Peer {
			template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
		}
		for _, host := range r.Hosts {
			if ip := net.ParseIP(strings.Trim(host, "[]")); ip != nil {
				template.IPAddresses = append(template.IPAddresses, ip)
			} else if strings.ContainsAny(host, " /:\\") || host == "" {
				return Certificate{}, fmt.Errorf("host %q: want a host name or an address, without a port", host)
			} else {
				template.DNSNames = append(template.DNSNames, host)
			}
		}
	}
	return a.sign(r.Name, template, r.Validity)
}

// Renew signs a certificate anew, with a new key, for the same names.
func (a *Authority) Renew(name string, validity time.Duration) (Certificate, error) {
	old, err := a.find(name)
	if err != nil {
		return Certificate{}, err
	}
	return a.sign(name, &x509.Certificate{Subject: old.Subject, ExtKeyUsage: old.ExtKeyUsage, DNSNames: old.DNSNames, IPAddresses: old.IPAddresses}, validity)
}

// find returns the certificate of that name.
func (a *Authority) find(name string) (*x509.Certificate, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	certs, err := readCertificates(filepath.Join(a.dir, name+certSuffix))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no certificate %q in %s", name, a.dir)
	}
	if err != nil {
		return nil, err
	}
	return certs[0], nil
}

// sign completes a template and writes the certificate and its key.
func (a *Authority) sign(name string, template *x509.Certificate, validity time.Duration) (Certificate, error) {
	if validity == 0 {
		validity = CertificateValidity
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Certificate{}, err
	}
	now := time.Now()
	template.SerialNumber, template.KeyUsage, template.BasicConstraintsValid = serial(), x509.KeyUsageDigitalSignature, true
	template.NotBefore, template.NotAfter = now.Add(-backdated), now.Add(validity)
	if template.NotAfter.After(a.cert.NotAfter) {
		template.NotAfter = a.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return Certificate{}, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return Certificate{}, err
	}
	// First the copy: what is not there cannot be revoked.
	if err := writeFile(a.issued(cert, certSuffix), encode("CERTIFICATE", der), 0o644); err != nil {
		return Certificate{}, err
	}
	if err := a.writePair(name, der, key); err != nil {
		return Certificate{}, err
	}
	return a.describe(name, cert), nil
}

func (a *Authority) writePair(name string, der []byte, key *ecdsa.PrivateKey) error {
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return writeFiles(
		content{filepath.Join(a.dir, name+keySuffix), encode("PRIVATE KEY", private), 0o600},
		content{filepath.Join(a.dir, name+certSuffix), encode("CERTIFICATE", der), 0o644},
	)
}

// issued is where the copy of a certificate is, or its mark.
func (a *Authority) issued(c *x509.Certificate, suffix string) string {
	return filepath.Join(a.dir, issuedDir, c.SerialNumber.Text(16)+suffix)
}

// Revoke takes back every certificate that was ever issued to that name and has not expired, and returns them.
func (a *Authority) Revoke(name string) ([]Certificate, error) {
	if _, err := a.find(name); err != nil {
		return nil, err
	}
	certs, err := a.all()
	if err != nil {
		return nil, err
	}
	var revoked []Certificate
	for _, c := range certs {
		if c.Subject.CommonName != name || time.Now().After(c.NotAfter) {
			continue
		}
		if !a.isRevoked(c) {
			if err := writeFile(a.issued(c, markSuffix), []byte(time.Now().UTC().Format(time.RFC3339)+"\n"), 0o644); err != nil {
				return nil, err
			}
		}
		revoked = append(revoked, a.describe(name, c))
	}
	if len(revoked) == 0 {
		return nil, fmt.Errorf("there is nothing to revoke: no certificate %q of this authority is valid any more", name)
	}
	return revoked, a.writeRevocations()
}

// writeRevocations writes the list from the marks. Somebody else may do so at the same time with fewer marks, so it looks again until
// the list has all of them.
func (a *Authority) writeRevocations() error {
	for {
		entries, err := a.marks()
		if err != nil {
			return err
		}
		number := big.NewInt(time.Now().UnixMicro())
		der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
			Number: number, ThisUpdate: time.Now().Add(-backdated), NextUpdate: a.cert.NotAfter, RevokedCertificateEntries: entries,
		}, a.cert, a.key)
		if err != nil {
			return err
		}
		if err := writeFile(a.RevokedFile(), encode("X509 CRL", der), 0o644); err != nil {
			return err
		}
		lists, err := readRevocations(a.RevokedFile())
		if err != nil {
			return err
		}
		now, err := a.marks()
		if err != nil {
			return err
		}
		if len(lists[0].RevokedCertificateEntries) >= len(now) {
			return nil
		}
	}
}

// marks returns what is revoked of this authority.
func (a *Authority) marks() ([]x509.RevocationListEntry, error) {
	certs, err := a.all()
	if err != nil {
		return nil, err
	}
	var entries []x509.RevocationListEntry
	for _, c := range certs {
		text, err := os.ReadFile(a.issued(c, markSuffix))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		at, err := time.Parse(time.RFC3339, strings.TrimSpace(string(text)))
		if err != nil {
			at = time.Now()
		}
		entries = append(entries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: at})
	}
	return entries, nil
}

// all returns every certificate that this authority has issued.
func (a *Authority) all() ([]*x509.Certificate, error) {
	files, err := filepath.Glob(filepath.Join(a.dir, issuedDir, "*"+certSuffix))
	if err != nil {
		return nil, err
	}
	var certs []*x509.Certificate
	for _, file := range files {
		if filepath.Base(file)[0] == '.' {
			continue
		}
		c, err := readCertificates(file)
		if err != nil {
			return nil, err
		}
		if a.signed(c[0]) {
			certs = append(certs, c[0])
		}
	}
	return certs, nil
}

func (a *Authority) signed(c *x509.Certificate) bool {
	return bytes.Equal(c.RawIssuer, a.cert.RawSubject) && c.CheckSignatureFrom(a.cert) == nil
}

func (a *Authority) isRevoked(c *x509.Certificate) bool {
	_, err := os.Lstat(a.issued(c, markSuffix))
	return err == nil
}

// States of a certificate.
const (
	StateValid    = "valid"
	StateExpiring = "expiring" // within WarnBefore
	StateExpired  = "expired"
	StateRevoked  = "revoked"
	StateForeign  = "foreign" // another authority has signed it
)

// A Certificate is what is known of one.
type Certificate struct {
	Name     string    `json:"name"`
	Kind     string    `json:"kind"` // authority, server or client
	State    string    `json:"state"`
	Expires  time.Time `json:"expires"`
	Hosts    []string  `json:"hosts,omitempty"`
	Serial   string    `json:"serial"` // hexadecimal
	CertFile string    `json:"cert_file"`
	KeyFile  string    `json:"key_file"`
}

// Left is the time until c expires.
func (c Certificate) Left() time.Duration { return time.Until(c.Expires) }

func (a *Authority) describe(name string, c *x509.Certificate) Certificate {
	d := Certificate{
		Name: name, Kind: "client", State: StateValid, Expires: c.NotAfter, Hosts: hosts(c), Serial: c.SerialNumber.Text(16),
		CertFile: filepath.Join(a.dir, name+certSuffix), KeyFile: filepath.Join(a.dir, name+keySuffix),
	}
	switch {
	case c.IsCA:
		d.Kind = "authority"
	case slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth):
		d.Kind = "server"
	}
	switch left := d.Left(); {
	case !a.signed(c):
		d.State = StateForeign
	case a.isRevoked(c):
		d.State = StateRevoked
	case left <= 0:
		d.State = StateExpired
	case left <= WarnBefore:
		d.State = StateExpiring
	}
	return d
}

// hosts returns the names and addresses that a certificate is for.
func hosts(c *x509.Certificate) []string {
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

// List returns the authority itself and the certificates in its directory, by name.
func (a *Authority) List() ([]Certificate, error) {
	list := []Certificate{a.describe(authorityName, a.cert)}
	files, err := filepath.Glob(filepath.Join(a.dir, "*"+certSuffix)) // sorted
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), certSuffix)
		if CheckName(name) != nil {
			continue // the authority's own, and what is being written
		}
		certs, err := readCertificates(file)
		if err != nil {
			return nil, err
		}
		list = append(list, a.describe(name, certs[0]))
	}
	return list, nil
}

func absent(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s is there already: %w", path, fs.ErrExist)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// serial returns a serial number that nobody else has and nobody can guess.
func serial() *big.Int {
	b := make([]byte, 16)
	rand.Read(b)            // never fails
	b[0] = b[0]&0x7f | 0x40 // positive, and always as long
	return new(big.Int).SetBytes(b)
}
