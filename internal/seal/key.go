package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"
)

const keySize = 32 // bytes, of every algorithm

// A Key is one entry of a key file. It shows nothing of its secret, whatever prints it.
type Key struct {
	ID        string
	Algorithm string
	Identity  string // whose key it is: only messages of that sender may be signed with it, see Ring.SignsFor; "" is anybody's
	Created   time.Time
	Active    time.Time // from when on it signs and encrypts; it verifies and decrypts at once

	secret  []byte // nil of somebody else's Ed25519 key
	public  ed25519.PublicKey
	private ed25519.PrivateKey
	aead    cipher.AEAD
	used    atomic.Uint64 // messages encrypted
}

// Format hides the secret from every verb of package fmt.
func (k *Key) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "%s key %s", k.Algorithm, k.ID) }

// Private reports whether k signs or encrypts, rather than only verifying.
func (k *Key) Private() bool { return k.secret != nil }

// An entry is a Key in a file, one line of JSON.
type entry struct {
	ID        string     `json:"id"`
	Algorithm string     `json:"algorithm"`
	Key       string     `json:"key,omitempty"`    // base64: the secret, of Ed25519 the seed
	Public    string     `json:"public,omitempty"` // base64: of Ed25519, when there is no key
	Identity  string     `json:"identity,omitempty"`
	Created   time.Time  `json:"created"`
	Active    *time.Time `json:"active,omitempty"` // unless it is created
}

// Generate makes a key. It is active after delay.
func Generate(algorithm, identity string, delay time.Duration) (*Key, error) {
	now := time.Now().UTC().Truncate(time.Second)
	random := make([]byte, 4)
	secret := make([]byte, keySize)
	_, _ = rand.Read(random) // never fails
	_, _ = rand.Read(secret)
	k := &Key{
		ID: now.Format("20060102") + "-" + hex.EncodeToString(random), Algorithm: algorithm, Identity: identity,
		Created: now, Active: now.Add(delay), secret: secret,
	}
	err := k.init()
	return k, err
}

// init checks k and makes what it works with.
func (k *Key) init() error {
	if err := checkID(k.ID); err != nil {
		return err
	}
	if len(k.Identity) > 256 || strings.ContainsAny(k.Identity, "/+#\x00") {
		return errors.New("its identity is no id of a client")
	}
	if k.Created.IsZero() {
		return errors.New(`it has no time "created"`)
	}
	if k.secret != nil && len(k.secret) != keySize || k.secret == nil && k.Algorithm != Ed25519 {
		return fmt.Errorf("its key is not %d bytes of base64", keySize)
	}
	switch k.Algorithm {
	case HMAC:
	case Ed25519:
		if k.secret != nil {
			k.private = ed25519.NewKeyFromSeed(k.secret)
			k.public = ed25519.PublicKey(k.private[keySize:])
		}
		if len(k.public) != ed25519.PublicKeySize {
			return fmt.Errorf("its public key is not %d bytes of base64", ed25519.PublicKeySize)
		}
	case AESGCM:
		block, err := aes.NewCipher(k.secret)
		if err != nil {
			return err
		}
		if k.aead, err = cipher.NewGCM(block); err != nil {
			return err
		}
	default:
		return fmt.Errorf("its algorithm is unknown, want %s, %s or %s", HMAC, Ed25519, AESGCM)
	}
	return nil
}

// checkID checks that an id can stand in a property, a log and a file.
func checkID(id string) error {
	ok := id != "" && len(id) <= maxID
	for _, r := range id {
		ok = ok && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r))
	}
	if !ok {
		return fmt.Errorf("its id is not 1 to %d letters, digits, dots, hyphens and underscores", maxID)
	}
	return nil
}

// line returns k as it stands in a file; public leaves the secret out.
func (k *Key) line(public bool) ([]byte, error) {
	e := entry{ID: k.ID, Algorithm: k.Algorithm, Identity: k.Identity, Created: k.Created}
	if !k.Active.Equal(k.Created) {
		e.Active = &k.Active
	}
	switch {
	case !public && k.secret != nil:
		e.Key = base64.StdEncoding.EncodeToString(k.secret)
	case k.Algorithm == Ed25519:
		e.Public = base64.StdEncoding.EncodeToString(k.public)
	default:
		return nil, errors.New(k.Algorithm + " has no public keys")
	}
	b, err := json.Marshal(e)
	return append(b, '\n'), err
}

// parseLine reads an entry. Its errors show nothing of it.
func parseLine(line []byte) (*Key, error) {
	var e entry
	d := json.NewDecoder(strings.NewReader(string(line)))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil || d.More() {
		return nil, errors.New(`is no key: want a JSON object with id, algorithm, key (or public) and created`)
	}
	k := &Key{ID: e.ID, Algorithm: strings.ToLower(e.Algorithm), Identity: e.Identity, Created: e.Created, Active: e.Created}
	if e.Active != nil {
		k.Active = *e.Active
	}
	var err error
	if e.Key != "" {
		if k.secret, err = base64.StdEncoding.DecodeString(e.Key); err != nil {
			return nil, errors.New("is no key: its key is not base64")
		}
	}
	if e.Public != "" {
		if k.public, err = base64.StdEncoding.DecodeString(e.Public); err != nil {
			return nil, errors.New("is no key: its public key is not base64")
		}
	}
	if err := k.init(); err != nil {
		return nil, fmt.Errorf("is no key that can be used: %w", err)
	}
	return k, nil
}

// same reports whether k and o are the same key.
func (k *Key) same(o *Key) bool {
	return k.ID == o.ID && k.Algorithm == o.Algorithm && k.Identity == o.Identity && k.Active.Equal(o.Active) && k.Private() == o.Private() &&
		subtle.ConstantTimeCompare(k.secret, o.secret) == 1 && string(k.public) == string(o.public)
}

// sign returns the signature of s.
func (k *Key) sign(s *Subject) []byte {
	b := s.append(make([]byte, 0, 256+len(s.Payload)), k.Algorithm, k.ID)
	if k.Algorithm == Ed25519 {
		return ed25519.Sign(k.private, b)
	}
	h := hmac.New(sha256.New, k.secret)
	h.Write(b)
	return h.Sum(nil)
}

// verify reports whether sig is a signature of s by k.
func (k *Key) verify(s *Subject, sig []byte) bool {
	if k.Algorithm == HMAC {
		return hmac.Equal(k.sign(s), sig)
	}
	b := s.append(make([]byte, 0, 256+len(s.Payload)), k.Algorithm, k.ID)
	return ed25519.Verify(k.public, b, sig)
}

// seal returns plain encrypted for topic, and how many messages k has encrypted with it.
func (k *Key) seal(topic string, plain []byte) ([]byte, uint64, error) {
	used := k.used.Add(1)
	if used > MaxMessages {
		return nil, used, ErrExhausted
	}
	dst := make([]byte, 0, Overhead+len(plain))
	dst = append(dst, magic...)
	dst = append(dst, byte(len(k.ID)))
	dst = append(dst, k.ID...)
	nonce := make([]byte, nonceSize)
	_, _ = rand.Read(nonce) // never fails
	dst = append(dst, nonce...)
	return k.aead.Seal(dst, nonce, plain, additional(k.ID, topic)), used, nil
}
