package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"
)

// Listener is one address to listen on.
type Listener struct {
	Network  string      // "tcp", "unix", or "ws": MQTT over WebSocket, subprotocol mqtt, any path
	Address  string      // host:port, or the socket's path; port 0 takes a free one
	TLS      *tls.Config // nil is plain; makes tcp TLS and ws wss
	Optional bool        // go on without it when the address does not exist on this host (::1 without IPv6)

	// Hosts and Origins are for "ws", where a browser's page says by Origin where it is from and by Host what it thinks to talk to. The host
	// has to be an address, localhost, this machine's name (also with .local), or one of Hosts (names without port): a name that its owner
	// points here does not make a page one of ours. The origin has to be the same host and port, or one of Origins ("https://mower.example").
	Hosts, Origins []string

	// Through, when not nil, gets the listener of "tcp" and "ws" and returns what is accepted from instead: to try what bad networks do.
	Through func(net.Listener) net.Listener
}

// Endpoint is an address that is being listened on, with the real port.
type Endpoint struct {
	Network, Address string
	URL              string // what a client on this host dials: tcp://, ssl://, ws://, wss://, unix://
}

// endpoint is an Endpoint at work.
type endpoint struct {
	Endpoint
	listener net.Listener
	web      *http.Server // for ws
}

// ListenError says which address could not be listened on; Err is the system's reason (syscall.EADDRINUSE when it is taken).
type ListenError struct {
	Network, Address string
	Err              error
}

func (e *ListenError) Error() string {
	switch {
	case errors.Is(e.Err, syscall.EADDRINUSE):
		return fmt.Sprintf("broker: %s %s is taken by another process", e.Network, e.Address)
	case errors.Is(e.Err, syscall.EACCES):
		return fmt.Sprintf("broker: no permission to listen on %s %s", e.Network, e.Address)
	}
	return fmt.Sprintf("broker: cannot listen on %s %s: %v", e.Network, e.Address, e.Err)
}

func (e *ListenError) Unwrap() error { return e.Err }

// listen binds l. It returns nil when l is optional and its address is not there.
func (b *Broker) listen(ctx context.Context, l Listener) (*endpoint, error) {
	network := "tcp"
	schemes := map[bool]string{false: "tcp", true: "ssl"}
	switch l.Network {
	case "tcp":
	case "ws":
		schemes = map[bool]string{false: "ws", true: "wss"}
	case "unix":
		network = "unix"
		if err := removeStaleSocket(l.Address); err != nil {
			return nil, &ListenError{l.Network, l.Address, err}
		}
	default:
		return nil, fmt.Errorf("broker: unknown network %q: want tcp, ws or unix", l.Network)
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, network, l.Address)
	if err != nil {
		if l.Optional && (errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)) {
			b.log.Debug("address not on this host", "network", l.Network, "address", l.Address)
			return nil, nil
		}
		return nil, &ListenError{l.Network, l.Address, err}
	}
	if l.Through != nil && network == "tcp" {
		ln = l.Through(ln)
	}
	e := &endpoint{listener: ln}
	e.Network, e.Address = l.Network, ln.Addr().String()
	if network == "unix" {
		if err := os.Chmod(l.Address, 0o660); err != nil {
			_ = ln.Close()
			return nil, &ListenError{l.Network, l.Address, err}
		}
		e.URL = "unix://" + l.Address
		return e, nil
	}
	e.URL = schemes[l.TLS != nil] + "://" + reachable(ln.Addr())
	if l.TLS != nil {
		e.listener = &secureListener{ln, b, l.TLS}
	}
	if l.Network == "ws" {
		e.web = b.webServer(l)
	}
	return e, nil
}

// reachable is where a client on this host reaches a listener: an address for all interfaces is loopback.
func reachable(a net.Addr) string {
	t, ok := a.(*net.TCPAddr)
	if ok && t.IP.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", fmt.Sprint(t.Port))
	}
	return a.String()
}

// removeStaleSocket removes a socket file that nobody listens on any more, as a killed broker leaves it.
func removeStaleSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&os.ModeSocket == 0 {
		return errors.New("a file that is no socket is in the way")
	}
	nc, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = nc.Close()
		return syscall.EADDRINUSE
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}

// serve accepts connections until the endpoint is closed.
func (e *endpoint) serve(b *Broker) {
	b.log.Info("listening", "network", e.Network, "address", e.Address, "url", e.URL)
	if e.web != nil {
		if err := e.web.Serve(e.listener); !errors.Is(err, http.ErrServerClosed) {
			b.log.Error("listener failed", "network", e.Network, "address", e.Address, "error", err)
		}
		return
	}
	var pause time.Duration
	for {
		nc, err := e.listener.Accept()
		if err == nil {
			pause = 0
			b.running.Go(func() { b.serve(nc, originOf(e.Network, nc)) })
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		// Out of file descriptors, most likely: others must end before one more can begin.
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		b.log.Error("accept failed", "address", e.Address, "error", err, "retry_in", pause)
		select {
		case <-time.After(pause):
		case <-b.ctx.Done():
		}
	}
}

func (e *endpoint) close() {
	if e.web != nil {
		_ = e.web.Close()
	}
	_ = e.listener.Close()
}
