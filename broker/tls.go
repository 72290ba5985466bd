package broker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"iter"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// A Keyring is the certificates behind the TLS of the listeners. The broker looks at it once a second. Its methods are called
// concurrently.
type Keyring interface {
	// Reload takes over what is new. It returns what was taken over since the last call, and why other things were not, each once.
	Reload() (news []string, problems []error)
	// Revoked returns why a client whose certificate was accepted is not to be served any more, nil while it is.
	Revoked(chains [][]*x509.Certificate) error
	// Explain says in a few words why a client's handshake failed, and whom its certificate names. The reason is "" when it was
	// neither the certificate nor the version of TLS.
	Explain(err error) (reason, subject string)
	// Expiries yields when each certificate in use expires, the broker's own first.
	Expiries() iter.Seq2[string, time.Time]
}

const (
	keyringInterval = time.Second
	expiryWarning   = 14 * 24 * time.Hour // before the end of a certificate the log begins to warn of it, once in expiryRepeat
	expiryRepeat    = 24 * time.Hour
	unread          = 64 << 10 // bytes that a client may have sent beyond a failed handshake
)

// A handshakeError is a failed handshake of TLS, which is in the log already.
type handshakeError struct{ err error }

func (e *handshakeError) Error() string { return "TLS: " + e.err.Error() }
func (e *handshakeError) Unwrap() error { return e.err }

// secureListener makes connections TLS. Unlike those of tls.NewListener they look alike to a web server and to us, so that the log
// has the same line for both when a handshake fails.
type secureListener struct {
	net.Listener
	b      *Broker
	config *tls.Config
}

func (l *secureListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &secured{Conn: tls.Server(nc, l.config), b: l.b}, nil
}

// secured is a TLS connection whose first Read does the handshake.
type secured struct {
	*tls.Conn
	b      *Broker
	once   sync.Once
	err    error                                 // of the handshake
	chains atomic.Pointer[[][]*x509.Certificate] // verified, of the client's certificate; nil before the handshake, and without one
}

func (c *secured) Read(p []byte) (int, error) {
	c.once.Do(c.shake)
	if c.err != nil {
		return 0, c.err
	}
	return c.Conn.Read(p)
}

// shake does the handshake, and says why it failed.
func (c *secured) shake() {
	ctx, cancel := context.WithTimeout(c.b.ctx, c.b.limits.handshake)
	defer cancel()
	err := c.HandshakeContext(ctx)
	if err == nil {
		if chains := c.ConnectionState().VerifiedChains; len(chains) > 0 {
			c.chains.Store(&chains)
		}
		return
	}
	c.err = &handshakeError{err}
	reason, subject := "", ""
	if c.b.options.Keyring != nil {
		reason, subject = c.b.options.Keyring.Explain(err)
	}
	c.b.stats.tlsRefused.Add(1)
	level := slog.LevelWarn
	if reason == "" { // somebody who left, or speaks something else
		level, reason = slog.LevelInfo, "handshake failed"
	}
	c.b.log.Log(c.b.ctx, level, "TLS connection refused", "remote", originOf("tcp", c).remote, "reason", reason, "subject", subject, "error", err)
	c.linger()
}

// linger gives the client a moment to read the alert: closing with unread input would throw it away.
func (c *secured) linger() {
	nc, ok := c.NetConn().(*net.TCPConn)
	if !ok || nc.CloseWrite() != nil {
		return
	}
	_ = nc.SetReadDeadline(time.Now().Add(c.b.limits.farewell))
	_, _ = io.CopyN(io.Discard, nc, unread)
}

// securedOf returns the TLS below a connection, nil if there is none.
func securedOf(nc net.Conn) *secured {
	if c, ok := nc.(*wsConn); ok {
		nc = c.Conn
	}
	c, _ := nc.(*secured)
	return c
}

// certificate returns the client's certificate that TLS has verified, with its chains, or nil.
func (c *conn) certificate() (leaf *x509.Certificate, chains [][]*x509.Certificate) {
	s := securedOf(c.nc)
	if s == nil {
		return nil, nil
	}
	p := s.chains.Load()
	if p == nil {
		return nil, nil
	}
	return (*p)[0][0], *p
}

// commonName returns the common name of the client's certificate, "" without one.
func (c *conn) commonName() string {
	if leaf, _ := c.certificate(); leaf != nil {
		return leaf.Subject.CommonName
	}
	return ""
}

// identityAttr is what the log says of it, nothing without one.
func (c *conn) identityAttr() slog.Attr {
	if name := c.commonName(); name != "" {
		return slog.String("certificate", name)
	}
	return slog.Attr{}
}

// contradicts reports whether the user name is another than the certificate's.
func (c *conn) contradicts(p *packet.Connect) bool {
	name := c.commonName()
	return name != "" && p.HasUser && string(p.Username) != name
}

// watchKeyring looks at the certificates until the broker stops.
func (b *Broker) watchKeyring() {
	ticker := time.NewTicker(b.limits.keyring)
	defer ticker.Stop()
	warned := make(map[string]time.Time) // by what expires when
	for {
		news, problems := b.options.Keyring.Reload()
		for _, files := range news {
			b.log.Info("certificates taken over", "files", files)
		}
		for _, err := range problems {
			b.log.Error("certificates kept: the new files cannot be used", "error", err)
		}
		b.closeRevoked()
		b.warnOfExpiry(warned)
		select {
		case <-ticker.C:
		case <-b.ctx.Done():
			return
		}
	}
}

// closeRevoked disconnects clients whose certificate was revoked since they came.
func (b *Broker) closeRevoked() {
	b.mu.Lock()
	sessions := make([]*session, 0, len(b.sessions))
	for _, s := range b.sessions {
		sessions = append(sessions, s)
	}
	b.mu.Unlock()
	for _, s := range sessions {
		c := s.current()
		if c == nil || c.stopped.Load() {
			continue
		}
		leaf, chains := c.certificate()
		if leaf == nil {
			continue
		}
		if err := b.options.Keyring.Revoked(chains); err != nil {
			b.log.Warn("client disconnected: its certificate was revoked", "client", s.id, "remote", c.remote, "subject", leaf.Subject.String(), "error", err)
			b.stats.tlsRefused.Add(1)
			c.stop(packet.NotAuthorized, "the certificate was revoked")
		}
	}
}

func (b *Broker) warnOfExpiry(warned map[string]time.Time) {
	now := b.limits.wall()
	for what, at := range b.options.Keyring.Expiries() {
		left := at.Sub(now)
		key := what + at.String()
		if last, ok := warned[key]; left > expiryWarning || ok && now.Sub(last) < expiryRepeat {
			continue
		}
		warned[key] = now
		if left <= 0 {
			b.log.Error("certificate has expired: renew it", "file", what, "expired", at)
			continue
		}
		b.log.Warn("certificate expires soon: renew it", "file", what, "expires", at, "days_left", int(left/(24*time.Hour)))
	}
}

// certificateExpiry returns when the broker's own certificate expires.
func (b *Broker) certificateExpiry() (time.Time, bool) {
	if b.options.Keyring != nil {
		for _, at := range b.options.Keyring.Expiries() {
			return at, true
		}
	}
	return time.Time{}, false
}

// warnOfClientExpiry says that a client which has just connected needs a new certificate soon.
func (c *conn) warnOfClientExpiry() {
	leaf, _ := c.certificate()
	if leaf == nil {
		return
	}
	if left := leaf.NotAfter.Sub(c.broker.limits.wall()); left <= expiryWarning {
		c.broker.log.Warn("certificate of a client expires soon", "client", c.session.id, "subject", leaf.Subject.String(), "expires", leaf.NotAfter,
			"days_left", int(left/(24*time.Hour)))
	}
}

// wasLogged reports whether an error is in the log already.
func wasLogged(err error) bool {
	var h *handshakeError
	return errors.As(err, &h)
}
