package identity

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
)

// A digest is an argon2id hash with all that it takes to compute it again.
type digest struct {
	memory  uint32 // KiB
	time    uint32 // passes
	threads uint8
	salt    []byte
	sum     []byte
}

// cost is what new hashes take: 19 MiB, two passes, one lane, as the OWASP Password Storage Cheat Sheet has it. It fits the smallest
// Raspberry Pi and takes a twentieth of a second of a desktop's core.
var cost = digest{memory: 19 << 10, time: 2, threads: 1}

const (
	saltSize = 16
	sumSize  = 32
)

// of hashes a password with a fresh salt.
func (d digest) of(password []byte) digest {
	d.salt = make([]byte, saltSize)
	rand.Read(d.salt) // never fails
	d.sum = argon2.IDKey(password, d.salt, d.time, d.memory, d.threads, sumSize)
	return d
}

// Hash returns the hash of a password for a [User].
func Hash(password string) string { return cost.of([]byte(password)).String() }

// String returns the PHC string format: $argon2id$v=19$m=19456,t=2,p=1$salt$sum.
func (d digest) String() string {
	text := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, d.memory, d.time, d.threads, text(d.salt), text(d.sum))
}

// matches reports whether the password is the right one. The time it takes does not depend on that.
func (d digest) matches(password []byte) bool {
	sum := argon2.IDKey(password, d.salt, d.time, d.memory, d.threads, uint32(len(d.sum)))
	return subtle.ConstantTimeCompare(sum, d.sum) == 1
}

// parseDigest reads the PHC string format. What would cost a login more than 64 MiB, eight passes and four lanes is refused, and so is
// what protects nothing.
func parseDigest(text string) (digest, error) {
	var d digest
	var version int
	parts := strings.Split(text, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" {
		return d, errors.New("is no argon2id hash in PHC string format ($argon2id$v=19$m=...,t=...,p=...$salt$hash)")
	}
	if n, err := fmt.Sscanf(parts[2], "v=%d", &version); n != 1 || err != nil || version != argon2.Version || parts[2] != fmt.Sprintf("v=%d", version) {
		return d, fmt.Errorf("is of a version of argon2id other than %d", argon2.Version)
	}
	n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &d.memory, &d.time, &d.threads)
	if n != 3 || err != nil || parts[3] != fmt.Sprintf("m=%d,t=%d,p=%d", d.memory, d.time, d.threads) {
		return d, fmt.Errorf("has wrong parameters %q, want m, t and p", parts[3])
	}
	if d.memory < 1<<10 || d.memory > 64<<10 || d.time < 1 || d.time > 8 || d.threads < 1 || d.threads > 4 {
		return d, fmt.Errorf("has parameters out of range: %s, want m of 1024 to 65536, t of 1 to 8, p of 1 to 4", parts[3])
	}
	if d.salt, err = base64.RawStdEncoding.Strict().DecodeString(parts[4]); err != nil || len(d.salt) < 8 || len(d.salt) > 64 {
		return d, errors.New("has no salt of 8 to 64 bytes in base64")
	}
	if d.sum, err = base64.RawStdEncoding.Strict().DecodeString(parts[5]); err != nil || len(d.sum) < 16 || len(d.sum) > 64 {
		return d, errors.New("has no hash of 16 to 64 bytes in base64")
	}
	return d, nil
}
