package seal

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func newKey(t testing.TB, algorithm string) *Key {
	t.Helper()
	k, err := Generate(algorithm, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// newRing returns a ring of a file with one new key of each algorithm, and the file.
func newRing(t testing.TB, algorithms ...string) (*Ring, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys")
	for i, a := range algorithms {
		write := Add
		if i == 0 {
			write = Create
		}
		if err := write(path, newKey(t, a)); err != nil {
			t.Fatal(err)
		}
	}
	return openRing(t, path), path
}

func openRing(t testing.TB, path string) *Ring {
	t.Helper()
	r, err := Open(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestSignature changes everything that is signed, one at a time. (Without the topic in Subject.append the case "topic" fails, and so
// for the others; without the lengths "moved" does.)
func TestSignature(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []string{HMAC, Ed25519} {
		r, _ := newRing(t, algorithm, AESGCM)
		good := Subject{Topic: "lawnberry/commands/blade", ID: "id", Timestamp: 1763884800.125, Payload: []byte("payload")}
		sig, err := r.Sign(algorithm, &good)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Verify(sig, &good); err != nil {
			t.Errorf("%s: %v", algorithm, err)
		}
		other, _ := newRing(t, algorithm)
		encrypting := Newest(r.keys.Load().all, AESGCM, time.Now()).ID
		tests := []struct {
			name   string
			change func(s *Subject, sig *Signature)
			want   error
		}{
			{"topic", func(s *Subject, _ *Signature) { s.Topic += "s" }, ErrSignature},
			{"id", func(s *Subject, _ *Signature) { s.ID = "di" }, ErrSignature},
			{"timestamp", func(s *Subject, _ *Signature) { s.Timestamp += 0.001 }, ErrSignature},
			{"payload", func(s *Subject, _ *Signature) { s.Payload = []byte("Payload") }, ErrSignature},
			{"moved", func(s *Subject, _ *Signature) { s.Topic, s.ID = s.Topic+"i", "d" }, ErrSignature},
			{"will", func(s *Subject, _ *Signature) { s.Will = true }, ErrSignature},
			{"signature", func(_ *Subject, g *Signature) { g.Value = append(bytes.Clone(g.Value[1:]), 0) }, ErrSignature},
			{"short", func(_ *Subject, g *Signature) { g.Value = g.Value[:4] }, ErrSignature},
			{"none", func(_ *Subject, g *Signature) { g.Value = nil }, ErrSignature},
			{"key", func(_ *Subject, g *Signature) { g.Key = "k" }, ErrUnknownKey},
			{"algorithm", func(_ *Subject, g *Signature) {
				g.Algorithm = map[string]string{HMAC: Ed25519, Ed25519: HMAC}[algorithm]
			}, ErrAlgorithm},
			{"no algorithm", func(_ *Subject, g *Signature) { g.Algorithm = "none" }, ErrAlgorithm},
			{"encryption key", func(_ *Subject, g *Signature) { g.Key = encrypting }, ErrAlgorithm},
		}
		for _, tt := range tests {
			s, g := good, sig
			tt.change(&s, &g)
			if _, err := r.Verify(g, &s); !errors.Is(err, tt.want) {
				t.Errorf("%s: %s changed: %v, want %v", algorithm, tt.name, err, tt.want)
			}
		}
		if _, err := other.Verify(sig, &good); !errors.Is(err, ErrUnknownKey) {
			t.Errorf("%s: in another ring: %v", algorithm, err)
		}
	}
}

// TestPublicKeys has who knows only a public key verify, and not sign.
func TestPublicKeys(t *testing.T) {
	t.Parallel()
	r, path := newRing(t, Ed25519)
	keys, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	public := filepath.Join(t.TempDir(), "public")
	if err := os.WriteFile(public, PublicLines(keys, "navigation"), 0o600); err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(public)
	if secret := base64.StdEncoding.EncodeToString(keys[0].secret); strings.Contains(string(text), secret) || !strings.Contains(string(text), "navigation") {
		t.Fatalf("public keys: %s", text)
	}
	v := openRing(t, public)
	s := Subject{Topic: "t", ID: "i", Timestamp: 1, Payload: []byte("p")}
	sig, err := r.Sign(Ed25519, &s)
	if err != nil {
		t.Fatal(err)
	}
	if who, err := v.Verify(sig, &s); err != nil || who != "navigation" {
		t.Errorf("%q, %v", who, err)
	}
	if _, err := v.Sign(Ed25519, &s); !errors.Is(err, ErrNoKey) {
		t.Errorf("signed with a public key: %v", err)
	}
}

func TestEncryption(t *testing.T) {
	t.Parallel()
	r, _ := newRing(t, AESGCM, HMAC)
	plain := []byte("a payload that nobody else reads")
	body, _, err := r.Seal("a/b", plain)
	if err != nil {
		t.Fatal(err)
	}
	again, _, _ := r.Seal("a/b", plain)
	if bytes.Contains(body, plain[:8]) || bytes.Equal(body, again) || !IsSealed(body) || len(body) > len(plain)+Overhead {
		t.Fatalf("sealed: %x", body)
	}
	if got, err := r.Unseal("a/b", body); err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("%q, %v", got, err)
	}
	if _, err := r.Unseal("a/c", body); !errors.Is(err, ErrSealed) {
		t.Errorf("on another topic: %v", err)
	}
	for i := range body { // every bit counts: of the magic, the id, the nonce, the text and the tag
		bad := bytes.Clone(body)
		bad[i] ^= 4
		if _, err := r.Unseal("a/b", bad); err == nil {
			t.Errorf("byte %d changed: decrypted", i)
		}
		if _, err := r.Unseal("a/b", body[:i]); err == nil {
			t.Errorf("cut to %d bytes: decrypted", i)
		}
	}
}

// TestExhausted counts the messages of a key. (Without the counter the last case encrypts.)
func TestExhausted(t *testing.T) {
	t.Parallel()
	r, path := newRing(t, AESGCM)
	r.keys.Load().all[0].used.Store(MaxMessages - 1)
	if _, _, err := r.Seal("t", nil); err != nil {
		t.Errorf("the last message: %v", err)
	}
	if err := Add(path, newKey(t, HMAC)); err != nil { // reading the file again does not begin anew
		t.Fatal(err)
	}
	r.look()
	if _, _, err := r.Seal("t", nil); !errors.Is(err, ErrExhausted) {
		t.Errorf("one more: %v", err)
	}
}

// TestVectors checks against values that other programs have computed: Python's hmac and struct, and its cryptography package for AES-GCM.
func TestVectors(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keys")
	secret := make([]byte, keySize)
	for i := range secret {
		secret[i] = byte(i)
	}
	text := base64.StdEncoding.EncodeToString(secret)
	lines := fmt.Sprintf(`{"id":"k1","algorithm":"hmac-sha256","key":"%s","created":"2026-01-01T00:00:00Z"}
# a comment

{"id":"k2","algorithm":"aes-256-gcm","key":"%s","created":"2026-01-01T00:00:00Z"}`, text, text)
	if err := os.WriteFile(path, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	r := openRing(t, path)
	s := Subject{Topic: "lawnberry/commands/blade", ID: "4f9d", Timestamp: 1763884800.125, Payload: []byte(`{"a":1}`)}
	sig, err := r.Sign(HMAC, &s)
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(sig.Value); got != vectorHMAC {
		t.Errorf("HMAC: %s", got)
	}
	body, _ := hex.DecodeString(vectorAESGCM)
	plain, err := r.Unseal("lawnberry/navigation/position", body)
	if err != nil || string(plain) != `{"a":1}` {
		t.Errorf("AES-GCM: %q, %v", plain, err)
	}
}

// TestVectorsPython computes the first vector again, where there is Python.
func TestVectorsPython(t *testing.T) {
	t.Parallel()
	script := `
import hmac, struct
f = lambda b: struct.pack('>I', len(b)) + b
fields = [b'lawnberry signature 1', b'hmac-sha256', b'k1', b'message', b'lawnberry/commands/blade', b'4f9d', struct.pack('>d', 1763884800.125), b'{"a":1}']
print(hmac.new(bytes(range(32)), b''.join(map(f, fields)), 'sha256').hexdigest())`
	out, err := exec.Command("python3", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("python3 (scripts/test-deps sees to it): %v: %s", err, out)
	}
	if got := strings.TrimSpace(string(out)); got != vectorHMAC {
		t.Errorf("Python: %s", got)
	}
}

const (
	vectorHMAC   = "2d0cea52530a414b8ad9763c8e5afee3b7d314e5498095cb31c9ee921ce43e60"
	vectorAESGCM = "8c4c4501026b326465666768696a6b6c6d6e6f3339bf4443d82b4ec39e62f8c922dc93ce175f58652ab3"
)

func TestFile(t *testing.T) {
	t.Parallel()
	secret := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, keySize))
	line := func(id, algorithm, key string) string {
		return fmt.Sprintf(`{"id":"%s","algorithm":"%s","key":"%s","created":"2026-01-01T00:00:00Z"}`+"\n", id, algorithm, key)
	}
	tests := []struct {
		name, text string
		mode       os.FileMode
		want       string
	}{
		{"others may read it", line("a", HMAC, secret), 0o640, "chmod 600"},
		{"empty", "# nothing\n", 0o600, "has no key"},
		{"twice", line("a", HMAC, secret) + line("a", HMAC, secret), 0o600, "line 2: has the id of line 1"},
		{"short", line("a", HMAC, "c2hvcnQ="), 0o600, "line 1: is no key that can be used: its key is not 32 bytes"},
		{"not base64", line("a", HMAC, "???"), 0o600, "not base64"},
		{"no key", line("a", AESGCM, ""), 0o600, "not 32 bytes"},
		{"algorithm", line("a", "md5", secret), 0o600, "its algorithm is unknown"},
		{"id", line("a b", HMAC, secret), 0o600, "its id is not"},
		{"no JSON", secret, 0o600, "line 1: is no key"},
		{"unknown field", `{"secret":"` + secret + `"}`, 0o600, "line 1: is no key"},
		{"no time", `{"id":"a","algorithm":"hmac-sha256","key":"` + secret + `"}`, 0o600, "no time"},
	}
	for _, tt := range tests {
		path := filepath.Join(t.TempDir(), "keys")
		if err := os.WriteFile(path, []byte(tt.text), tt.mode); err != nil {
			t.Fatal(err)
		}
		_, err := Load(path)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "lawnberry key new") {
		t.Errorf("no file: %v", err)
	}
}

// TestSecretsHidden prints a key in every way.
func TestSecretsHidden(t *testing.T) {
	t.Parallel()
	k := newKey(t, HMAC)
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", k, "keys", []*Key{k})
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
		fmt.Fprintf(&log, verb+"\n", k)
		fmt.Fprintf(&log, verb+"\n", []*Key{k})
	}
	for _, form := range []string{"%v", "%x", "%X", "%d"} {
		shown := strings.Trim(fmt.Sprintf(form, k.secret), "[]")
		if strings.Contains(log.String(), shown) {
			t.Errorf("the secret shows as %s", form)
		}
	}
	if strings.Contains(log.String(), base64.StdEncoding.EncodeToString(k.secret)) || !strings.Contains(log.String(), k.ID) {
		t.Errorf("shown: %s", log.String())
	}
}

// TestRotation signs and encrypts while keys are added, with one ring that reads the file late: nothing may be refused. (Without the look
// in Ring.find it is.)
func TestRotation(t *testing.T) {
	t.Parallel()
	sender, path := newRing(t, HMAC, AESGCM)
	receiver := openRing(t, path)
	used := map[string]bool{}
	for range 50 {
		for _, a := range []string{HMAC, AESGCM} {
			if err := Add(path, newKey(t, a)); err != nil {
				t.Fatal(err)
			}
		}
		sender.look()
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				s := Subject{Topic: "t", ID: "i", Timestamp: 1, Payload: []byte("p")}
				sig, err := sender.Sign(HMAC, &s)
				if err != nil {
					t.Error(err)
				}
				if _, err := receiver.Verify(sig, &s); err != nil {
					t.Error(err)
				}
				body, _, err := sender.Seal("t", s.Payload)
				if err != nil {
					t.Error(err)
				}
				if _, err := receiver.Unseal("t", body); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		sig, _ := sender.Sign(HMAC, &Subject{})
		used[sig.Key] = true
	}
	if len(used) != 50 {
		t.Errorf("%d keys used", len(used))
	}

	// A file that is of no use changes nothing.
	if err := os.WriteFile(path, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	sender.look()
	if _, err := sender.Sign(HMAC, &Subject{}); err != nil {
		t.Error(err)
	}
}

// TestActive has a key that is there before it is used.
func TestActive(t *testing.T) {
	t.Parallel()
	now := newKey(t, HMAC)
	later, err := Generate(HMAC, "", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	keys := []*Key{now, later, newKey(t, AESGCM)}
	if k := Newest(keys, HMAC, time.Now()); k != now {
		t.Errorf("now: %v", k)
	}
	if k := Newest(keys, HMAC, time.Now().Add(2*time.Hour)); k != later {
		t.Errorf("later: %v", k)
	}
	if k := Newest(keys, Ed25519, time.Now()); k != nil {
		t.Errorf("none: %v", k)
	}
}

func FuzzUnseal(f *testing.F) {
	r, _ := newRing(f, AESGCM)
	good, _, err := r.Seal("t", []byte("payload"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(magic))
	f.Add([]byte(magic + "\x00"))
	f.Add([]byte(magic + "\xff"))
	f.Add([]byte(magic + "\x01k" + strings.Repeat("x", nonceSize+tagSize)))
	f.Fuzz(func(t *testing.T, body []byte) {
		plain, err := r.Unseal("t", body)
		if err == nil && !bytes.Equal(body, good) {
			t.Errorf("decrypted: %q", plain)
		}
		if s, ok := parse(body); ok {
			again := append([]byte(magic), byte(len(s.key)))
			again = append(append(append(again, s.key...), s.nonce...), s.cipher...)
			if !bytes.Equal(again, body) {
				t.Errorf("parsed %x as %+v", body, s)
			}
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	r, _ := newRing(b, HMAC, Ed25519, AESGCM)
	s := Subject{Topic: "lawnberry/commands/blade", ID: "4f9d", Timestamp: 1763884800.125, Payload: bytes.Repeat([]byte("x"), 500)}
	for _, a := range []string{HMAC, Ed25519} {
		sig, _ := r.Sign(a, &s)
		b.Run("sign/"+a, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = r.Sign(a, &s)
			}
		})
		b.Run("verify/"+a, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.Verify(sig, &s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	body, _, _ := r.Seal(s.Topic, s.Payload)
	b.Run("encrypt", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _, _ = r.Seal(s.Topic, s.Payload)
		}
	})
	b.Run("decrypt", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := r.Unseal(s.Topic, body); err != nil {
				b.Fatal(err)
			}
		}
	})
}
