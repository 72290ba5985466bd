package enrol

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/lawnberry/lawnberry/internal/fleet"
)

// Files of a fleet's directory.
const (
	fleetFile    = "fleet.json"
	operatorKey  = "keys/operator.nk" // the operator itself: needed to replace the signing key, so it may be moved elsewhere
	signingKey   = "keys/signing.nk"  // signs accounts
	systemKey    = "keys/system.nk"   // of the system account
	accountKey   = "keys/fleet.nk"    // of the account FLEET: signs its users, and tokens for mowers
	operatorJWT  = "operator.jwt"     // what the servers know
	systemCreds  = "system.creds"     // hands accounts to the servers
	fleetCreds   = "fleet.creds"      // for who looks after the fleet
	tlsDirectory = "tls"              // a certificate authority and the certificates of the nodes
	caFile       = tlsDirectory + "/ca.pem"
)

// account is the name of the account that has the streams.
const account = "FLEET"

// ErrNoFleet is a directory without a fleet.
var ErrNoFleet = errors.New("there is no fleet")

// A Fleet is a fleet's directory.
type Fleet struct {
	dir     string
	config  Config
	signing nkeys.KeyPair
	account nkeys.KeyPair
	public  string // of the account
}

// Open reads the directory of a fleet. It is [ErrNoFleet] when none is there.
func Open(dir string) (*Fleet, error) {
	text, err := os.ReadFile(filepath.Join(dir, fleetFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s", ErrNoFleet, dir)
	}
	if err != nil {
		return nil, err
	}
	f := &Fleet{dir: dir}
	if err := json.Unmarshal(text, &f.config); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, fleetFile), err)
	}
	if f.signing, err = f.key(signingKey, nkeys.PrefixByteOperator); err != nil {
		return nil, err
	}
	if f.account, err = f.key(accountKey, nkeys.PrefixByteAccount); err != nil {
		return nil, err
	}
	f.public, err = f.account.PublicKey()
	return f, err
}

func (f *Fleet) path(name string) string { return filepath.Join(f.dir, filepath.FromSlash(name)) }

func (f *Fleet) key(name string, kind nkeys.PrefixByte) (nkeys.KeyPair, error) {
	seed, err := os.ReadFile(f.path(name))
	if err != nil {
		return nil, err
	}
	key, err := nkeys.ParseDecoratedNKey(seed)
	if err == nil {
		var public string
		if public, err = key.PublicKey(); err == nil && nkeys.Prefix(public) != kind {
			err = errors.New("it is the key of something else")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", f.path(name), err)
	}
	return key, nil
}

// Config returns what the fleet was made with.
func (f *Fleet) Config() Config { return f.config }

// Engine is the engine as those who look after the fleet reach it.
func (f *Fleet) Engine() fleet.Engine {
	return fleet.Engine{URL: f.config.URL(), Credentials: f.path(fleetCreds), CAFile: f.path(caFile)}
}

// system is the engine with the rights to hand it accounts.
func (f *Fleet) system() fleet.Engine {
	e := f.Engine()
	e.Credentials = f.path(systemCreds)
	return e
}

// writeNew writes a file that is not there, on the disk when it returns.
func writeNew(path string, text []byte, mode fs.FileMode) error {
	f, err := createNew(path, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		_ = os.Remove(path)
	}
	return err
}

// createNew makes a file that is not there, and the directories above it.
func createNew(path string, mode fs.FileMode) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
}

// syncDirectory has the directory of a file on the disk, so that the file is found there after a power cut.
func syncDirectory(file string) error {
	d, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && runtime.GOOS != "windows" { // which has no such thing
		return err
	}
	return nil
}

// newKey makes a key and writes it to a file.
func (f *Fleet) newKey(name string, create func() (nkeys.KeyPair, error)) (nkeys.KeyPair, string, error) {
	key, err := create()
	if err != nil {
		return nil, "", err
	}
	public, err := key.PublicKey()
	if err != nil {
		return nil, "", err
	}
	seed, err := key.Seed()
	if err != nil {
		return nil, "", err
	}
	return key, public, writeNew(f.path(name), append(seed, '\n'), 0o600)
}

// credentials makes a user of an account and returns its file.
func credentials(of nkeys.KeyPair, name string, rights func(*jwt.UserClaims)) (creds []byte, user string, err error) {
	key, err := nkeys.CreateUser()
	if err != nil {
		return nil, "", err
	}
	if user, err = key.PublicKey(); err != nil {
		return nil, "", err
	}
	claims := jwt.NewUserClaims(user)
	claims.Name = name
	claims.AllowedConnectionTypes = jwt.StringList{jwt.ConnectionTypeStandard}
	if rights != nil {
		rights(claims)
	}
	token, err := claims.Encode(of)
	if err != nil {
		return nil, "", err
	}
	seed, err := key.Seed()
	if err != nil {
		return nil, "", err
	}
	creds, err = jwt.FormatUserConfig(token, seed)
	return creds, user, err
}

// fleetAccount returns the account FLEET: its streams, and what mowers with a token may import.
func (f *Fleet) fleetAccount() (string, error) {
	claims := jwt.NewAccountClaims(f.public)
	claims.Name = account
	claims.Limits.DiskStorage, claims.Limits.MemoryStorage = jwt.NoLimit, jwt.NoLimit // the nodes' own limits hold
	claims.Limits.Streams, claims.Limits.Consumer = jwt.NoLimit, jwt.NoLimit
	claims.Limits.MaxBytesRequired = true // no stream may take all there is
	for _, s := range shared("*") {
		claims.Exports.Add(&jwt.Export{
			Name: s.name, Subject: jwt.Subject(s.subject), Type: s.kind, TokenReq: true, ResponseType: s.response(),
		})
	}
	return claims.Encode(f.signing)
}

// after waits until a claim that is made replaces one that was issued then: a server takes a claim for newer by whole seconds only.
func after(issued int64) {
	for time.Now().Unix() <= issued {
		time.Sleep(time.Until(time.Unix(issued+1, 0)))
	}
}
