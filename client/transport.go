package client

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/coder/websocket"
)

// An endpoint is where the broker is, and how to reach it.
type endpoint struct {
	name  string // the URL without credentials, for people
	user  *url.Userinfo
	local bool // on this host
	dial  func(ctx context.Context) (net.Conn, error)
}

// urlError is a broker URL that cannot be used.
type urlError struct{ text string }

func (e *urlError) Error() string { return e.text }

const schemes = "tcp://, ssl://, ws://, wss:// or unix://"

// newEndpoints returns all endpoints, in the order in which they are tried.
func newEndpoints(o *Options) ([]*endpoint, error) {
	first, err := newEndpoint(o)
	if err != nil || o.Dial != nil {
		return []*endpoint{first}, err
	}
	all := []*endpoint{first}
	for _, url := range o.Fallback {
		other := *o
		other.URL = url
		ep, err := newEndpoint(&other)
		if err != nil {
			return nil, err
		}
		all = append(all, ep)
	}
	return all, nil
}

func newEndpoint(o *Options) (*endpoint, error) {
	if o.Dial != nil {
		return &endpoint{name: "in-process broker", local: true, dial: o.Dial}, nil
	}
	raw := o.URL
	if raw == "" {
		raw = defaultURL
	}
	scheme, rest, ok := strings.Cut(raw, "://")
	scheme = strings.ToLower(scheme)
	fail := func(text string) (*endpoint, error) {
		return nil, &ConnectError{URL: withoutCredentials(raw), Err: &urlError{text}}
	}
	if !ok {
		return fail("no valid broker URL: it must begin with " + schemes)
	}
	if scheme == "unix" {
		if rest == "" {
			return fail("no path of a socket: write unix:///run/lawnberry.sock")
		}
		return &endpoint{name: raw, local: true, dial: func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", rest)
		}}, nil
	}
	u, err := url.Parse(raw)
	if err != nil {
		return fail("no valid broker URL")
	}
	ep := &endpoint{user: u.User}
	u.User = nil
	ep.name = u.String()
	host := u.Hostname()
	ep.local = isLoopback(host)
	if host == "" {
		return fail("no host in the broker URL: write " + scheme + "://HOST:PORT")
	}
	address := func(port string) string {
		if p := u.Port(); p != "" {
			port = p
		}
		return net.JoinHostPort(host, port)
	}
	switch scheme {
	case "tcp", "mqtt":
		addr := address("1883")
		ep.dial = func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}
	case "ssl", "tls", "mqtts":
		addr := address("8883")
		ep.dial = func(ctx context.Context) (net.Conn, error) {
			config, err := tlsConfig(o)
			if err != nil {
				return nil, err
			}
			c, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", addr)
			if err != nil {
				return nil, err
			}
			return &tlsConn{c.(*tls.Conn)}, nil
		}
	case "ws", "wss":
		u.Scheme = scheme
		if u.Path == "" {
			u.Path = "/mqtt"
		}
		target := u.String()
		ep.dial = func(ctx context.Context) (net.Conn, error) {
			config, err := tlsConfig(o)
			if err != nil {
				return nil, err
			}
			return dialWebSocket(ctx, target, config)
		}
	default:
		return fail(fmt.Sprintf("scheme %q is unknown: use %s", scheme, schemes))
	}
	return ep, nil
}

// withoutCredentials returns raw without what may be a password, even if it is no URL.
func withoutCredentials(raw string) string {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		scheme, rest = "", raw
	} else {
		scheme += "://"
	}
	return scheme + rest[strings.LastIndexByte(rest, '@')+1:]
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// tlsConfig is the TLS of the next connection.
func tlsConfig(o *Options) (*tls.Config, error) {
	c := o.TLS
	if o.GetTLS != nil {
		var err error
		if c, err = o.GetTLS(o.Logger); err != nil {
			return nil, fmt.Errorf("TLS: %w", err)
		}
	}
	if c == nil {
		return &tls.Config{MinVersion: tls.VersionTLS12}, nil
	}
	return c.Clone(), nil
}

// tlsConn closes without the farewell of TLS, which would wait for a stalled peer.
type tlsConn struct{ *tls.Conn }

func (c *tlsConn) Close() error { return c.NetConn().Close() }

// dialWebSocket connects to MQTT over WebSocket: binary messages, subprotocol mqtt [MQTT-6.0.0-1] [MQTT-6.0.0-3].
func dialWebSocket(ctx context.Context, target string, config *tls.Config) (net.Conn, error) {
	var refusal atomic.Pointer[error]
	transport := &http.Transport{TLSClientConfig: config, Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}
	transport.DialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		d := tls.Dialer{Config: config}
		conn, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &alertConn{conn, &refusal}, nil
	}
	ws, resp, err := websocket.Dial(ctx, target, &websocket.DialOptions{
		HTTPClient:   &http.Client{Transport: transport},
		Subprotocols: []string{"mqtt"},
	})
	if err != nil {
		if resp != nil {
			return nil, fmt.Errorf("the server answers with HTTP status %s instead of WebSocket: %w", resp.Status, err)
		}
		if alert := refusal.Load(); alert != nil && !refusedByBroker(err) {
			return nil, fmt.Errorf("%w (%w)", *alert, err)
		}
		return nil, err
	}
	if ws.Subprotocol() != "mqtt" { // [MQTT-6.0.0-4]
		_ = ws.CloseNow()
		return nil, fmt.Errorf("the WebSocket server does not offer the subprotocol mqtt")
	}
	life, cancel := context.WithCancel(context.Background())
	return &wsConn{Conn: websocket.NetConn(life, ws, websocket.MessageBinary), ws: ws, cancel: cancel}, nil
}

// alertConn remembers that the broker has refused a certificate. With TLS 1.3 that comes after the handshake, and what the HTTP client returns may
// be that it could not write then.
type alertConn struct {
	net.Conn
	refusal *atomic.Pointer[error]
}

func (c *alertConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && refusedByBroker(err) {
		c.refusal.Store(&err)
	}
	return n, err
}

// wsConn closes at once, without the closing handshake of WebSocket: MQTT has a farewell of its own.
type wsConn struct {
	net.Conn
	ws     *websocket.Conn
	cancel context.CancelFunc
}

func (c *wsConn) Close() error {
	c.cancel()
	return c.ws.CloseNow()
}
