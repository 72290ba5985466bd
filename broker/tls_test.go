package broker

import (
	"bytes"
	"crypto/x509"
	"errors"
	"iter"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// testKeyring is certificates that a test changes.
type testKeyring struct {
	mu       sync.Mutex
	looked   int
	expires  time.Time
	problems []error
}

func (k *testKeyring) Reload() ([]string, []error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.looked++
	problems := k.problems
	k.problems = nil
	return nil, problems
}
func (k *testKeyring) Revoked([][]*x509.Certificate) error { return nil }
func (k *testKeyring) Explain(error) (string, string)      { return "", "" }
func (k *testKeyring) Expiries() iter.Seq2[string, time.Time] {
	k.mu.Lock()
	defer k.mu.Unlock()
	at := k.expires
	return func(yield func(string, time.Time) bool) { yield("broker.tls.cert_file: /etc/mower.pem", at) }
}

// lockedBuffer is a log.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

// A certificate that expires is complained about from 14 days before its end on, once a day, and no more once it was renewed; when it
// expires is a figure of the broker.
//
// Seen failing when it is said at each look, and when the second day is forgotten.
func TestExpiryWarning(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	var mu sync.Mutex
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	k := &testKeyring{expires: now.Add(15 * day), problems: []error{errors.New("the key does not fit")}}
	log := &lockedBuffer{}
	b := start(t, Options{Keyring: k, Logger: slog.New(slog.NewTextHandler(log, nil)), SysInterval: 10 * time.Millisecond, tune: func(l *limits) {
		l.keyring = time.Millisecond
		l.wall = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	}})
	looks := func() {
		t.Helper()
		k.mu.Lock()
		first := k.looked
		k.mu.Unlock()
		waitFor(t, "the certificates to be looked at", func() bool { k.mu.Lock(); defer k.mu.Unlock(); return k.looked > first+3 })
	}
	pass := func(d time.Duration) {
		mu.Lock()
		now = now.Add(d)
		mu.Unlock()
		looks()
	}
	const soon, over = `msg="certificate expires soon: renew it" file="broker.tls.cert_file: /etc/mower.pem"`, `msg="certificate has expired: renew it"`
	expect := func(when string, wantSoon, wantOver int) {
		t.Helper()
		if gotSoon, gotOver := log.count(soon), log.count(over); gotSoon != wantSoon || gotOver != wantOver {
			t.Errorf("%s: warned %d times, %d times that it is over, want %d and %d", when, gotSoon, gotOver, wantSoon, wantOver)
		}
	}
	looks()
	expect("15 days before", 0, 0)
	if n := log.count(`error="the key does not fit"`); n != 1 {
		t.Errorf("a problem is told %d times", n)
	}
	pass(day)
	expect("14 days before", 1, 0)
	if log.count("days_left=14") != 1 {
		t.Error("the days that are left are not said")
	}
	pass(23 * time.Hour)
	expect("an hour less than a day later", 1, 0)
	pass(time.Hour)
	expect("a day later", 2, 0)
	if s := b.Stats(); !s.CertificateExpires.Equal(k.expires) {
		t.Errorf("figures: %v", s.CertificateExpires)
	}
	r := connect(t, b, packet.V5, "watcher")
	r.subscribe("$SYS/broker/certificate/expires_in", 0)
	if err := r.collect(func(p *packet.Publish) bool { return string(p.Payload) != "1123200 seconds" }); err != nil {
		t.Error(err)
	}
	k.mu.Lock()
	k.expires = k.expires.Add(365 * day)
	k.mu.Unlock()
	pass(2 * day)
	expect("renewed", 2, 0)
	pass(378 * day)
	expect("expired", 2, 1)
}
