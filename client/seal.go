package client

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/internal/seal"
	"github.com/lawnberry/lawnberry/message"
)

// User properties of a signed or encrypted message.
const (
	signatureKey          = "signature" // base64
	signatureAlgorithmKey = "signature-algorithm"
	signatureKeyKey       = "signature-key" // id of the key
	encryptionKey         = "content-encryption"
	encryptionKeyKey      = "encryption-key" // id of the key

	// A message without an envelope has id and time here.
	signatureIDKey   = "signature-message-id"
	signatureTimeKey = "signature-timestamp"
)

// isProof reports whether a user property belongs to one signature or encryption, and not to a message that is published again.
func isProof(key string) bool {
	switch key {
	case signatureKey, signatureAlgorithmKey, signatureKeyKey, encryptionKey, encryptionKeyKey, signatureIDKey, signatureTimeKey:
		return true
	}
	return false
}

// seal is encode for a topic whose messages are signed or encrypted: signed first, then compressed, then encrypted.
func (c *Client) seal(full string, m *message.Message, will bool, lim message.Limits) (e encoded, err error) {
	plain := lim
	plain.CompressAbove = -1
	if e.body, _, err = message.Encode(m, plain); err != nil {
		return encoded{}, encodeError(err)
	}
	if policy := c.sealer.policy(full); policy != VerifyOff {
		if e.proof, err = c.sign(full, m, e.body, will, policy); err != nil {
			return encoded{}, err
		}
	}
	if !m.Raw && !c.mustStayPlain(full) {
		if small, ok := message.Compress(e.body, lim); ok {
			e.body, e.compressed = small, true
		}
	}
	clears := m.Raw && len(e.body) == 0 // a retained message; nothing but nothing does
	if clears || !c.sealer.encrypts(full) {
		return e, nil
	}
	body, key, err := c.sealer.encryption.Seal(full, e.body)
	if err != nil {
		return encoded{}, &ruleError{reason: ReasonNotEncrypted, cause: ErrNotEncrypted, text: "cannot be encrypted: " + err.Error() + hint(err, seal.AESGCM)}
	}
	c.stats.encrypted.Add(1)
	e.body = body
	e.proof = append(e.proof, [2]string{encryptionKey, seal.AESGCM}, [2]string{encryptionKeyKey, key})
	return e, nil
}

// hint says what to do about a key file that has no key for what is to be done.
func hint(err error, algorithm string) string {
	if errors.Is(err, seal.ErrNoKey) || errors.Is(err, seal.ErrExhausted) {
		return ": make one with \"lawnberry key rotate --algorithm " + algorithm + "\""
	}
	return ""
}

// sign returns the properties that prove a message. Without a key there are none, unless the policy requires them.
func (c *Client) sign(full string, m *message.Message, body []byte, will bool, policy Verification) ([][2]string, error) {
	if policy == VerifyRequired && !will && c.withoutProperties() {
		return nil, errNoProperties
	}
	subject := seal.Subject{Topic: full, ID: m.Metadata.ID, Timestamp: m.Metadata.Timestamp, Payload: body, Will: will}
	if m.Raw {
		subject.ID, subject.Timestamp = message.NewID(), message.Seconds(time.Now())
	}
	sig, err := c.sealer.signing.Sign(c.sealer.algorithm, &subject)
	if err != nil {
		if policy == VerifyRequired {
			err = &ruleError{reason: ReasonNotSigned, cause: ErrNotSigned, text: "cannot be signed: " + err.Error() + hint(err, c.sealer.algorithm)}
		} else {
			err = nil // it goes without
		}
		return nil, err
	}
	c.stats.signed.Add(1)
	out := [][2]string{
		{signatureKey, base64.StdEncoding.EncodeToString(sig.Value)}, {signatureAlgorithmKey, sig.Algorithm}, {signatureKeyKey, sig.Key},
	}
	if m.Raw {
		out = append(out, [2]string{signatureIDKey, subject.ID}, [2]string{signatureTimeKey, strconv.FormatFloat(subject.Timestamp, 'f', -1, 64)})
	}
	return out, nil
}

// withoutProperties reports whether the connection is one of MQTT 3.1.1.
func (c *Client) withoutProperties() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link != nil && c.link.version == packet.V311
}

// unseal returns the body in d as it was signed: decrypted, and inflated if signatures are verified. What it decrypts it leaves in d.
func (c *Client) unseal(d *Delivery, n *name) (body []byte, err error) {
	body = d.Message.Payload
	if c.sealer == nil {
		return body, nil
	}
	if c.sealer.encryption != nil && seal.IsSealed(body) {
		if most := c.opts.Limits.PayloadLimit() + seal.Overhead; len(body) > most {
			return body, &message.Error{Reason: message.ReasonTooLarge, Rule: fmt.Sprintf("is %d bytes long: the limit is %d", len(body), most)}
		}
		if body, err = c.sealer.encryption.Unseal(n.full, body); err != nil {
			return nil, &ruleError{reason: sealReason(err, ReasonDecrypt), text: "cannot be decrypted: " + err.Error(), cause: err}
		}
		c.stats.decrypted.Add(1)
		d.Message = message.NewRaw(body)
	}
	if n.verify != VerifyOff {
		return message.Inflate(body, c.opts.Limits)
	}
	return body, nil
}

// sealReason returns what err is counted as.
func sealReason(err error, other message.Reason) message.Reason {
	switch {
	case errors.Is(err, seal.ErrUnknownKey):
		return ReasonUnknownKey
	case errors.Is(err, seal.ErrAlgorithm):
		return ReasonAlgorithm
	}
	return other
}

// A proof is what a signature that fits says.
type proof struct {
	id        string // of the message
	timestamp float64
	fresh     bool // it is held to the window, and not to be taken twice
}

// verify checks the signature of m, whose body is as it was signed, as the topic's policy says.
func (c *Client) verify(in *inbound, n *name, m *message.Message, body []byte) error {
	if n.verify == VerifyOff {
		return nil
	}
	d := &in.d
	lenient := n.safety && n.verify == VerifySigned
	text, signed := d.user(signatureKey)
	if !signed {
		if n.verify == VerifyRequired {
			return &ruleError{reason: ReasonUnsigned, text: "is not signed, as the policy of its topic requires"}
		}
		return nil
	}
	var sig seal.Signature
	sig.Algorithm, _ = d.user(signatureAlgorithmKey)
	sig.Key, _ = d.user(signatureKeyKey)
	sig.Value, _ = base64.StdEncoding.DecodeString(text)
	_, will := d.user(willKey)
	subject := seal.Subject{Topic: n.full, ID: m.Metadata.ID, Timestamp: m.Metadata.Timestamp, Payload: body, Will: will}
	if m.Raw {
		t, _ := d.user(signatureTimeKey)
		subject.ID, _ = d.user(signatureIDKey)
		subject.Timestamp, _ = strconv.ParseFloat(t, 64)
		if subject.ID == "" || !(subject.Timestamp > 0) {
			return &ruleError{reason: ReasonSignature, text: "is signed without an envelope and without the properties that stand for it"}
		}
	}
	identity, err := c.sealer.signing.Verify(sig, &subject)
	if err == nil && identity != "" && !m.Raw && !c.sealer.signing.SignsFor(identity, m.Metadata.Sender) {
		err = errors.New("the key is that of another sender")
	}
	if err != nil {
		reason := sealReason(err, ReasonSignature)
		if lenient && reason != ReasonSignature {
			return nil
		}
		return &ruleError{reason: reason, text: "is signed, and refused: " + err.Error(), cause: err}
	}
	p := &proof{id: subject.ID, timestamp: subject.Timestamp, fresh: n.command || !d.Retained && !will}
	if off := span(message.Seconds(d.Received) - p.timestamp); p.fresh && !lenient && (off > c.sealer.window || off < -c.sealer.window) {
		return &ruleError{reason: ReasonStale, text: fmt.Sprintf("was signed %s from now: the window is %s", off.Abs().Round(time.Millisecond), c.sealer.window)}
	}
	c.stats.verified.Add(1)
	if !lenient {
		in.proof = p
	}
	return nil
}

// maxReplays is how many signed messages are remembered.
const maxReplays = 1 << 16

// replays remembers which signed messages were taken, until their timestamps are out of the window. When that are too many the window
// ends where the one that is forgotten was.
type replays struct {
	seen  map[replay]struct{}
	order []remembered // a ring, oldest first
	head  int
	floor float64 // what was signed before may have been forgotten
}

// A replay is what a message is known by. A broker may send one copy for each subscription, with its identifier; 0 is all of them.
type replay struct {
	topic, id    string
	subscription uint32
}

type remembered struct {
	replay
	timestamp float64
}

func (r *replays) init() { r.seen = make(map[replay]struct{}) }

// replayed returns an error if in was taken before, and remembers it. Client.mu is held.
func (s *sealer) replayed(in *inbound, subscriptions []uint32) error {
	if !in.proof.fresh {
		return nil
	}
	r := &s.replays
	if len(subscriptions) == 0 {
		subscriptions = []uint32{0}
	}
	if in.proof.timestamp <= r.floor {
		return &ruleError{reason: ReasonStale, text: "was signed before messages that are forgotten already: there were too many within the window"}
	}
	key := replay{topic: in.full, id: in.proof.id}
	taken := func(id uint32) bool {
		key.subscription = id
		_, taken := r.seen[key]
		return taken
	}
	if taken(0) || slices.ContainsFunc(subscriptions, taken) {
		return errReplayed
	}
	oldest := message.Seconds(in.d.Received) - s.window.Seconds()
	for _, id := range subscriptions {
		key.subscription = id
		r.remember(remembered{key, in.proof.timestamp}, oldest)
	}
	return nil
}

// remember adds m and forgets what was signed before oldest, or what is first if there is no room.
func (r *replays) remember(m remembered, oldest float64) {
	for len(r.order)-r.head > 0 {
		first := &r.order[r.head]
		full := len(r.order)-r.head >= maxReplays
		if first.timestamp >= oldest && !full {
			break
		}
		if first.timestamp >= oldest {
			r.floor = max(r.floor, first.timestamp)
		}
		delete(r.seen, first.replay)
		*first = remembered{}
		r.head++
	}
	if r.head > 64 && r.head > len(r.order)/2 {
		n := copy(r.order, r.order[r.head:])
		clear(r.order[n:])
		r.order, r.head = r.order[:n], 0
	}
	r.order = append(r.order, m)
	r.seen[m.replay] = struct{}{}
}
