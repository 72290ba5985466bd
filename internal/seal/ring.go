package seal

import (
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// pollEvery is how often the file is looked at while keys are used.
const pollEvery = time.Second

// A Ring is the keys of a file, as it is now: a changed file is read again within a second, and at once when a message names a key
// that is not known. A file that has become unusable changes nothing. Its methods may be called concurrently.
type Ring struct {
	path   string
	log    *slog.Logger
	looked atomic.Int64 // when the file was last looked at, by clock

	began time.Time
	keys  atomic.Pointer[keys]

	mu   sync.Mutex  // guards info and the reading of the file
	info fs.FileInfo // of the file that was read last, usable or not
}

type keys struct {
	byID map[string]*Key
	all  []*Key
}

// Open reads the file. The log is told of changes of the file.
func Open(path string, log *slog.Logger) (*Ring, error) {
	all, info, err := load(path)
	if err != nil {
		return nil, err
	}
	r := &Ring{path: path, log: log, info: info, began: time.Now()}
	r.keys.Store(index(all))
	return r, nil
}

func index(all []*Key) *keys {
	k := &keys{all: all, byID: make(map[string]*Key, len(all))}
	for _, key := range all {
		k.byID[key.ID] = key
	}
	return k
}

// poll returns the keys after looking at the file, if that is due.
func (r *Ring) poll() *keys {
	now := int64(time.Since(r.began))
	if last := r.looked.Load(); now-last >= int64(pollEvery) && r.looked.CompareAndSwap(last, now) {
		r.look()
	}
	return r.keys.Load()
}

// look reads the file again if it has changed.
func (r *Ring) look() {
	r.mu.Lock()
	defer r.mu.Unlock()
	info, err := os.Stat(r.path)
	if err != nil {
		if r.info != nil {
			r.info = nil
			r.log.Error("key file cannot be read: the keys known until now stay in use", "file", r.path, "error", err)
		}
		return
	}
	if r.info != nil && os.SameFile(info, r.info) && info.ModTime().Equal(r.info.ModTime()) && info.Size() == r.info.Size() && info.Mode() == r.info.Mode() {
		return
	}
	all, read, err := load(r.path)
	if read == nil {
		read = info
	}
	r.info = read
	if err != nil {
		r.log.Error("key file has changed and is of no use: the keys known until now stay in use", "file", r.path, "error", err)
		return
	}
	old := r.keys.Load()
	for i, k := range all {
		if before := old.byID[k.ID]; before != nil && before.same(k) {
			all[i] = before // with what it has counted
		}
	}
	r.keys.Store(index(all))
	r.log.Info("keys read again", "file", r.path, "keys", len(all))
}

// find returns the key of that id.
func (r *Ring) find(id string) *Key {
	if k := r.poll().byID[id]; k != nil {
		return k
	}
	r.look() // whoever signed with it may have read the file a moment before us
	return r.keys.Load().byID[id]
}

// Signs reports whether there is a key to sign with by algorithm.
func (r *Ring) Signs(algorithm string) bool {
	return Newest(r.poll().all, algorithm, time.Now()) != nil
}

// Sign signs s with the newest active key of the algorithm; ErrNoKey without one.
func (r *Ring) Sign(algorithm string, s *Subject) (Signature, error) {
	k := Newest(r.poll().all, algorithm, time.Now())
	if k == nil {
		return Signature{}, ErrNoKey
	}
	return Signature{Algorithm: algorithm, Key: k.ID, Value: k.sign(s)}, nil
}

// Verify returns whose signature sig of s is, "" when the key is nobody's in particular; or ErrUnknownKey, ErrAlgorithm or ErrSignature.
func (r *Ring) Verify(sig Signature, s *Subject) (identity string, err error) {
	if sig.Algorithm != HMAC && sig.Algorithm != Ed25519 {
		return "", ErrAlgorithm
	}
	k := r.find(sig.Key)
	switch {
	case k == nil:
		return "", ErrUnknownKey
	case k.Algorithm != sig.Algorithm:
		return "", ErrAlgorithm
	case !k.verify(s, sig.Value):
		return "", ErrSignature
	}
	return k.Identity, nil
}

// SignsFor reports whether the keys of an identity sign for a sender: for itself, and for further clients of its own, whose names begin with it
// and a hyphen. Where a key here is that sender's, or has a longer identity that its name begins with in that way, it is another's.
func (r *Ring) SignsFor(identity, sender string) bool {
	if sender == identity {
		return true
	}
	if !strings.HasPrefix(sender, identity+"-") {
		return false
	}
	return !slices.ContainsFunc(r.keys.Load().all, func(k *Key) bool {
		return len(k.Identity) > len(identity) && (k.Identity == sender || strings.HasPrefix(sender, k.Identity+"-"))
	})
}

// Seal encrypts plain, a payload for topic, with the newest active key; ErrNoKey without one, ErrExhausted when this process has
// encrypted MaxMessages with it. key is its id.
func (r *Ring) Seal(topic string, plain []byte) (body []byte, key string, err error) {
	k := Newest(r.poll().all, AESGCM, time.Now())
	if k == nil {
		return nil, "", ErrNoKey
	}
	body, used, err := k.seal(topic, plain)
	if used == MaxMessages/2 {
		r.log.Warn("an encryption key is half used up: rotate it", "file", r.path, "key", k.ID, "messages", used)
	}
	return body, k.ID, err
}

// Unseal decrypts a payload that was received on topic; ErrUnknownKey, ErrAlgorithm or ErrSealed when it cannot.
func (r *Ring) Unseal(topic string, body []byte) ([]byte, error) {
	s, ok := parse(body)
	if !ok {
		return nil, ErrSealed
	}
	k := r.find(s.key)
	switch {
	case k == nil:
		return nil, ErrUnknownKey
	case k.aead == nil:
		return nil, ErrAlgorithm
	}
	plain, err := k.aead.Open(nil, s.nonce, s.cipher, additional(s.key, topic))
	if err != nil {
		return nil, ErrSealed
	}
	return plain, nil
}
