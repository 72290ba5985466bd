// Package seal signs and encrypts what goes over MQTT, with keys from a file.
//
// It knows neither envelopes nor topics' meaning: topic, message id, timestamp and payload are given to it. What it makes is
// described byte for byte in docs/security.md, so that others can make it too.
package seal

import (
	"encoding/binary"
	"errors"
	"math"
)

// The algorithms, as they are written in files and properties.
const (
	HMAC    = "hmac-sha256"
	Ed25519 = "ed25519"
	AESGCM  = "aes-256-gcm"
)

var (
	ErrUnknownKey = errors.New("no key of that id")
	ErrAlgorithm  = errors.New("the key is for another algorithm")
	ErrSignature  = errors.New("the signature does not fit")
	ErrNoKey      = errors.New("there is no active key")
	ErrExhausted  = errors.New("the key has encrypted as many messages as are safe")
	ErrSealed     = errors.New("the encrypted payload does not fit its key and topic")
)

// A Subject is what is signed.
type Subject struct {
	Topic     string // full
	ID        string // of the message
	Timestamp float64
	Payload   []byte // before compression and encryption
	Will      bool   // it is published by a broker, much later than it was signed
}

// A Signature is what goes beside the message.
type Signature struct {
	Algorithm string
	Key       string // id
	Value     []byte
}

// Domains keep what is made for one purpose from passing for another.
const (
	signatureDomain  = "lawnberry signature 1"
	encryptionDomain = "lawnberry encryption 1"

	kindMessage = "message"
	kindWill    = "will"
)

// append appends what is signed: fields of which each has its length in front, so that no two subjects have the same bytes.
func (s *Subject) append(dst []byte, algorithm, key string) []byte {
	kind := kindMessage
	if s.Will {
		kind = kindWill
	}
	for _, f := range [...]string{signatureDomain, algorithm, key, kind, s.Topic, s.ID} {
		dst = appendField(dst, f)
	}
	dst = binary.BigEndian.AppendUint32(dst, 8)
	dst = binary.BigEndian.AppendUint64(dst, math.Float64bits(s.Timestamp))
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(s.Payload)))
	return append(dst, s.Payload...)
}

func appendField(dst []byte, field string) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(field)))
	return append(dst, field...)
}

// An encrypted payload begins with these bytes: no text and no gzip does. The last is the version.
const magic = "\x8cLE\x01"

const (
	nonceSize = 12 // bytes
	tagSize   = 16
	maxID     = 64

	// Overhead is the most that encryption adds to a payload.
	Overhead = len(magic) + 1 + maxID + nonceSize + tagSize

	// MaxMessages is how many messages one key may encrypt. Nonces are random: with 2^32 of them the chance that two are the same is
	// 2^-33 [NIST SP 800-38D, 8.3].
	MaxMessages = 1 << 32
)

// IsSealed reports whether body begins as an encrypted payload does.
func IsSealed(body []byte) bool { return len(body) >= len(magic) && string(body[:len(magic)]) == magic }

// A sealed payload, taken apart.
type sealed struct {
	key    string
	nonce  []byte
	cipher []byte // with its tag
}

// parse takes body apart.
func parse(body []byte) (s sealed, ok bool) {
	if !IsSealed(body) || len(body) < len(magic)+1 {
		return s, false
	}
	rest := body[len(magic):]
	n := int(rest[0])
	rest = rest[1:]
	if n == 0 || n > maxID || len(rest) < n+nonceSize+tagSize {
		return s, false
	}
	s.key, rest = string(rest[:n]), rest[n:]
	s.nonce, s.cipher = rest[:nonceSize], rest[nonceSize:]
	return s, checkID(s.key) == nil
}

// additional returns the data that is not encrypted but has to be the same at both ends.
func additional(key, topic string) []byte {
	dst := make([]byte, 0, 12+len(encryptionDomain)+len(key)+len(topic))
	for _, f := range [...]string{encryptionDomain, key, topic} {
		dst = appendField(dst, f)
	}
	return dst
}
