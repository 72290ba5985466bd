// Package pki is a small certificate authority in a directory, and certificates that are exchanged while they are in use.
//
// An [Authority] issues certificates for brokers and clients and takes them back. A [Server] and a [Client] are the TLS of a
// listener and of a connection, from files that may change at any time: what cannot be used of the new is told once, and the old is kept.
package pki

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/internal/owner"
)

// How long what is issued is valid, unless somebody asks for less or more. A certificate never outlives its authority.
const (
	AuthorityValidity   = 10 * 365 * 24 * time.Hour
	CertificateValidity = 365 * 24 * time.Hour
	// WarnBefore is how long before its end a certificate is complained about.
	WarnBefore = 14 * 24 * time.Hour
	// DueWithin is how long before its end a certificate is to be renewed: well before anybody complains.
	DueWithin = 2 * WarnBefore
	// backdated is how far before its issue a certificate is valid, as clocks differ.
	backdated = time.Hour
)

// Files of an authority's directory, beside those of the certificates it has issued.
const (
	authorityName = "ca"
	authorityCert = "ca.pem"
	authorityKey  = "ca.key"
	revokedFile   = "crl.pem"
	issuedDir     = "issued" // a copy of each certificate by its serial number, and a mark beside those that are revoked
	certSuffix    = ".pem"
	keySuffix     = ".key"
	markSuffix    = ".revoked"
)

// File is a file, and the key of the configuration that names it.
type File struct{ Key, Path string }

func (f File) String() string { return f.Key + ": " + f.Path }

// CheckName reports why a text cannot be the name of a certificate, which is a client's identity and the name of a file.
func CheckName(name string) error {
	switch {
	case name == "":
		return errors.New("a certificate needs a name")
	case len(name) > 64:
		return fmt.Errorf("name %q is longer than 64 bytes", name)
	case name == authorityName || name == "crl":
		return fmt.Errorf("name %q is taken by the authority: choose another", name)
	case name[0] == '.' || name[0] == '-' || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != "":
		return fmt.Errorf("name %q: want letters, digits, -, _ and dots, not beginning with - or a dot", name)
	}
	return nil
}

// writeFile puts data in the place of path, all of it or nothing, also over a power cut.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	return writeFiles(content{path, data, mode})
}

type content struct {
	path string
	data []byte
	mode fs.FileMode
}

// writeFiles writes files of one directory. All of them are on the disk before the first takes its place, so that
// a crash leaves hardly ever some of them new and others old.
func writeFiles(files ...content) (err error) {
	var temporary []string
	defer func() {
		for _, t := range temporary {
			_ = os.Remove(t) // those that were not renamed
		}
	}()
	dir := filepath.Dir(files[0].path)
	for _, c := range files {
		f, err := os.CreateTemp(dir, ".new-*") // 0600
		if err != nil {
			return err
		}
		temporary = append(temporary, f.Name())
		err = owner.Inherit(f, dir)
		if err == nil {
			_, err = f.Write(c.data)
		}
		err = errors.Join(err, f.Chmod(c.mode), f.Sync(), f.Close())
		if err != nil {
			return err
		}
	}
	for i, c := range files {
		if err := os.Rename(temporary[i], c.path); err != nil {
			return err
		}
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// readCertificates returns all certificates of a PEM file.
func readCertificates(path string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var certs []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("there is no certificate in %s, want PEM", path)
	}
	return certs, nil
}

// readRevocations returns all revocation lists of a PEM file. An empty file has none.
func readRevocations(path string) ([]*x509.RevocationList, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var lists []*x509.RevocationList
	rest := text
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "X509 CRL" {
			continue
		}
		l, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		lists = append(lists, l)
	}
	if len(lists) == 0 {
		return nil, fmt.Errorf("there is no revocation list in %s, want PEM", path)
	}
	return lists, nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
