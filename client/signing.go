package client

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/internal/seal"
	"github.com/lawnberry/lawnberry/topic"
)

// Signing has messages signed and signatures verified, over MQTT 5: MQTT 3.1.1 has no place for a signature. What is signed, and
// what that protects against, is described in docs/security.md.
type Signing struct {
	// KeyFile holds the keys; see "lawnberry key". The newest active one of Algorithm signs, all of them verify. A changed file
	// is taken up within a second. A file without a key of Algorithm's that is our own verifies only.
	KeyFile   string
	Algorithm string // "hmac-sha256", which "" is, or "ed25519"

	// Policies say what is done on which topics, the most specific filter first; what none matches is VerifyOff. nil is
	// DefaultPolicies. On safety/# VerifyRequired holds only if a filter that begins with safety says so: an emergency stop that
	// does not arrive is worse than one that nobody has signed.
	Policies []Policy

	// Window is how far the timestamp of a signed message may be from our clock, either way. Within it no message is taken twice.
	// Retained state is exempt, commands never are. 0 is 30 s.
	Window time.Duration
}

// A Policy says what is done on the topics of a filter.
type Policy struct {
	Filter string // relative or full
	Verify Verification
}

// Verification is what is done about signatures on a topic.
type Verification uint8

const (
	// VerifyOff neither signs nor verifies.
	VerifyOff Verification = iota
	// VerifySigned signs if it can, takes messages without a signature, and refuses those whose signature is wrong. On safety/# it
	// refuses only a signature that does not fit: one that is late or by an unknown key is as good as none.
	VerifySigned
	// VerifyRequired refuses what is not signed, and to publish what cannot be signed.
	VerifyRequired
)

// String returns "off", "verify" or "require".
func (v Verification) String() string {
	switch v {
	case VerifyOff:
		return "off"
	case VerifySigned:
		return "verify"
	case VerifyRequired:
		return "require"
	}
	return fmt.Sprintf("Verification(%d)", uint8(v))
}

// ParseVerification returns the Verification of that name.
func ParseVerification(name string) (Verification, error) {
	for v := VerifyOff; v <= VerifyRequired; v++ {
		if strings.EqualFold(name, v.String()) {
			return v, nil
		}
	}
	return VerifyOff, fmt.Errorf("%q is unknown, want off, verify or require", printable(name))
}

// DefaultPolicies has commands signed, and responses and what concerns safety verified where they are.
func DefaultPolicies() []Policy {
	return []Policy{{"commands/+", VerifyRequired}, {"responses/+", VerifySigned}, {"safety/#", VerifySigned}}
}

// Encryption has payloads encrypted with AES-256-GCM. What it does over MQTT 5 it does over MQTT 3.1.1 too.
type Encryption struct {
	KeyFile string   // as that of Signing; the newest active key encrypts, all of them decrypt
	Topics  []string // filters, relative or full, of topics whose payloads are encrypted; what is encrypted is decrypted on every topic
}

const defaultWindow = 30 * time.Second

// A sealer signs, verifies, encrypts and decrypts. nil does nothing of it.
type sealer struct {
	signing    *seal.Ring // nil without
	algorithm  string
	policies   []Policy // full filters, the most specific first
	safety     string   // filter of the safety topics
	window     time.Duration
	encryption *seal.Ring // nil without
	encrypted  []string   // full filters

	replays replays // guarded by Client.mu
}

func newSealer(o *Options) (*sealer, error) {
	if o.Signing == nil && o.Encryption == nil {
		return nil, nil
	}
	s := &sealer{}
	if o.Signing != nil {
		if err := s.sign(o.Signing, o); err != nil {
			return nil, fmt.Errorf("signing: %w", err)
		}
	}
	if o.Encryption != nil {
		if err := s.encrypt(o.Encryption, o); err != nil {
			return nil, fmt.Errorf("encryption: %w", err)
		}
	}
	return s, nil
}

func (s *sealer) sign(g *Signing, o *Options) (err error) {
	s.algorithm = cmp.Or(strings.ToLower(g.Algorithm), seal.HMAC)
	if s.algorithm != seal.HMAC && s.algorithm != seal.Ed25519 {
		return fmt.Errorf("algorithm %q: want %s or %s", printable(g.Algorithm), seal.HMAC, seal.Ed25519)
	}
	if s.window = cmp.Or(g.Window, defaultWindow); s.window < 0 {
		return fmt.Errorf("window %s: must be over 0", g.Window)
	}
	s.replays.init()
	if s.safety, err = o.Topics.Resolve("safety/#"); err != nil {
		return err
	}
	policies := g.Policies
	if policies == nil {
		policies = DefaultPolicies()
	}
	for _, p := range policies {
		if p.Verify > VerifyRequired {
			return fmt.Errorf("policy of %s: there is no %s", p.Filter, p.Verify)
		}
		if p.Filter, err = o.Topics.Resolve(p.Filter); err != nil {
			return err
		}
		if err := topic.CheckFilter(p.Filter); err != nil {
			return err
		}
		s.policies = append(s.policies, p)
	}
	slices.SortStableFunc(s.policies, func(a, b Policy) int { return moreSpecific(a.Filter, b.Filter) })
	if s.signing, err = seal.Open(g.KeyFile, o.Logger); err != nil {
		return err
	}
	if !s.signing.Signs(s.algorithm) {
		o.Logger.Warn("the key file has no active key to sign with: signatures are verified only", "file", g.KeyFile, "algorithm", s.algorithm)
	}
	return nil
}

func (s *sealer) encrypt(e *Encryption, o *Options) (err error) {
	for _, f := range e.Topics {
		if f, err = o.Topics.Resolve(f); err != nil {
			return err
		}
		if err := topic.CheckFilter(f); err != nil {
			return err
		}
		s.encrypted = append(s.encrypted, f)
	}
	s.encryption, err = seal.Open(e.KeyFile, o.Logger)
	return err
}

// moreSpecific orders filters, level by level: a level of its own before +, that before #.
func moreSpecific(a, b string) int {
	rank := func(level string) int {
		switch level {
		case "+":
			return 1
		case "#":
			return 2
		}
		return 0
	}
	for {
		la, resta, morea := strings.Cut(a, "/")
		lb, restb, moreb := strings.Cut(b, "/")
		if c := cmp.Compare(rank(la), rank(lb)); c != 0 || !morea || !moreb {
			return c
		}
		a, b = resta, restb
	}
}

// policy returns what is done about signatures on a topic.
func (s *sealer) policy(full string) Verification {
	if s == nil || s.signing == nil {
		return VerifyOff
	}
	for i := range s.policies {
		p := &s.policies[i]
		if !topic.Match(p.Filter, full) {
			continue
		}
		if p.Verify == VerifyRequired && topic.Match(s.safety, full) && !strings.HasPrefix(p.Filter, strings.TrimSuffix(s.safety, "#")) {
			return VerifySigned
		}
		return p.Verify
	}
	return VerifyOff
}

// encrypts reports whether payloads for a topic are encrypted.
func (s *sealer) encrypts(full string) bool {
	return s != nil && slices.ContainsFunc(s.encrypted, func(f string) bool { return topic.Match(f, full) })
}

// seals reports whether messages for a topic are signed or encrypted.
func (s *sealer) seals(full string) bool {
	return s != nil && (s.policy(full) != VerifyOff || s.encrypts(full))
}

var (
	errNoProperties = &ruleError{reason: ReasonNotSigned, cause: ErrNotSigned, text: "cannot be signed, as its policy requires: " +
		"the connection is one of MQTT 3.1.1, which has no user properties: use a broker of MQTT 5, or set another policy for the topic"}
	errReplayed = &ruleError{reason: ReasonReplayed, text: "is signed and has been received before"}
)

// unproven reports whether err is about a signature or encryption of a received message.
func unproven(err error) bool {
	rule, ok := errors.AsType[*ruleError](err)
	if !ok {
		return false
	}
	switch rule.reason {
	case ReasonUnsigned, ReasonUnknownKey, ReasonAlgorithm, ReasonSignature, ReasonStale, ReasonReplayed, ReasonDecrypt:
		return true
	}
	return false
}

func isReplay(err error) bool { return errors.Is(err, errReplayed) }
