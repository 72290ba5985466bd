// Package mosquitto runs Mosquitto as the broker: it writes its configuration, starts it, watches over it, and stops it.
//
// # How it works
//
// Everything that Mosquitto reads and writes is in one directory that only its owner may enter. Programs of that user reach it over a
// Unix socket without a login; everyone else comes over the listeners, with what [Logins] say. The process is asked for a
// sign of life each second. When it ends, or does not answer for three seconds, it is started again, at once the first time and
// after two seconds at most when it goes on. Its log lines become ours.
//
// # What belongs to whom
//
// On Linux the kernel ends Mosquitto (SIGTERM) when the process that started it ends in whatever way. That is tied to the thread that
// started it, so the goroutine that waits for the process keeps its thread to itself. Should Mosquitto outlive us all the same, stopped for
// instance, the next start finds it by a file with its process id and the moment it was started: one that answers and was started with the
// same configuration is taken over, any other is a *[StaleError]. No process is ever signalled that does not fit that file.
package mosquitto

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/broker"
)

// Options configure the engine.
type Options struct {
	// Binary is the program; "" looks for mosquitto on the PATH, then in /usr/sbin and /usr/local/sbin. It has to be version 2.
	Binary string
	// Dir is the directory of its own, absolute; it is made (0700) when missing. Nothing else should be in it.
	Dir string
	// Socket is the path of the Unix socket for programs of this user. "" leaves it in Dir.
	Socket    string
	Listeners []Listener
	Logins    Logins

	MaxConnections int // clients at once and listener; 0 is 1,000
	MaxPacketSize  int // bytes, of one packet; 0 is 256 KiB
	MaxQueued      int // QoS 1 and 2 messages that wait for one client; 0 is 100,000
	MaxQueuedBytes int // the same in bytes; 0 is 64 MiB

	// Persist is the directory of what outlives the process; "" keeps nothing. It is saved at a clean end and after each twenty changes.
	Persist string

	Logger *slog.Logger // nil discards

	tune func(*times) // lets tests shorten times
}

// Listener is one address to listen on.
type Listener struct {
	Network  string // "tcp", or "ws": MQTT over WebSocket
	Address  string // host:port; port 0 takes a free one
	TLS      *TLS   // nil is plain
	Optional bool   // go on without it when the address does not exist on this host
}

// TLS names the PEM files of a listener.
type TLS struct {
	CertFile, KeyFile string
	CAFile            string // who may sign clients' certificates; "" takes none
	CRLFile           string // client certificates that are revoked; "" is none
	// RequireCertificate refuses who shows none. The common name is then the user name.
	RequireCertificate bool
}

// times are what only tests change.
type times struct {
	probe    time.Duration // between signs of life
	patience time.Duration // for one
	start    time.Duration // until it answers
	stop     time.Duration // for a clean end, when the context allows more
	stale    time.Duration // for one that was left behind to end, or to answer
	backoff  time.Duration // before the second attempt in a row
	longest  time.Duration // before the next attempt
	steady   time.Duration // up for so long, it counts as well again
}

const saveEvery = 20 // changes

func or[T int | time.Duration](v, byDefault T) T {
	if v == 0 {
		return byDefault
	}
	return v
}

// Broker is a Mosquitto that is watched over. It is a [broker.Engine]. Its methods may be called concurrently.
type Broker struct {
	o       Options
	times   times
	log     *slog.Logger
	binary  string
	version string
	socket  string // where clients find it
	probeID string

	endpoints []broker.Endpoint
	ports     []string // "port address" of each of Options.Listeners, as its configuration has it; "" is left out

	ctx    context.Context // ends when it is to stop
	cancel context.CancelFunc
	done   chan struct{}
	again  chan string // start it again, and why
	reload sync.Mutex  // held while what Mosquitto reads is written; taken before mu

	mu     sync.Mutex // guards everything below
	logins Logins
	limits limits
	edits  uint64  // how often logins, limits or levels have changed
	proc   process // nil while there is none
	stats  Stats
	grace  time.Duration // for a clean end
}

var _ broker.Engine = (*Broker)(nil)

// Start starts Mosquitto and returns when it answers. On error nothing of ours keeps running. A taken address is a
// *[broker.ListenError], a program that is missing or too old a *[BinaryError], one that does not start a *[StartError], one
// that was left behind a *[StaleError]. Ending ctx afterwards does not stop it.
func Start(ctx context.Context, o Options) (*Broker, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b := &Broker{
		o: o, log: o.Logger, socket: o.Socket, logins: o.Logins, limits: limits{o.MaxConnections, o.MaxQueued, o.MaxQueuedBytes},
		done: make(chan struct{}), again: make(chan string, 1), probeID: probeID(),
		times: times{
			probe: time.Second, patience: 3 * time.Second, start: 10 * time.Second, stop: 3 * time.Second, stale: 3 * time.Second,
			backoff: 100 * time.Millisecond, longest: 2 * time.Second, steady: 30 * time.Second,
		},
	}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	if o.tune != nil {
		o.tune(&b.times)
	}
	if !filepath.IsAbs(o.Dir) {
		return nil, fmt.Errorf("mosquitto: directory %q is not absolute", o.Dir)
	}
	if b.socket == "" {
		b.socket = filepath.Join(o.Dir, socketName)
	}
	var err error
	if b.binary, b.version, err = find(ctx, o.Binary); err != nil {
		return nil, err
	}
	if err := b.makeDirs(); err != nil {
		return nil, err
	}
	b.ctx, b.cancel = context.WithCancel(context.WithoutCancel(ctx))
	p, err := b.first(ctx)
	if err != nil {
		b.cancel()
		return nil, err
	}
	go b.supervise(p)
	return b, nil
}

// makeDirs makes the directories, for this user alone: who may enter is trusted.
func (b *Broker) makeDirs() error {
	dirs := []string{b.o.Dir}
	if b.o.Persist != "" {
		dirs = append(dirs, b.o.Persist)
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("mosquitto: %w; choose another data directory", err)
		}
		info, err := os.Lstat(dir)
		if err != nil {
			return fmt.Errorf("mosquitto: %w", err)
		}
		if err := checkOwner(dir, info); err != nil {
			return err
		}
		if info.Mode().Perm() != 0o700 {
			if err := os.Chmod(dir, 0o700); err != nil {
				return fmt.Errorf("mosquitto: %w", err)
			}
		}
	}
	return nil
}

// first adopts the process that was left behind, or starts one.
func (b *Broker) first(ctx context.Context) (process, error) {
	adopted, err := b.findStale(ctx)
	if err != nil {
		return nil, err
	}
	if adopted != nil {
		err := b.writeLogins()
		if err == nil {
			err = adopted.signal(reloadSignal)
		}
		if err != nil {
			adopted.release()
			return nil, fmt.Errorf("mosquitto: taking over process %d: %w", adopted.pid(), err)
		}
		b.log.Warn("taken over: the Mosquitto of an earlier run, whose log lines are lost", "pid", adopted.pid())
		b.began(adopted, true)
		return adopted, nil
	}
	const attempts = 5 // a free port may be taken before Mosquitto is there
	for n := 1; ; n++ {
		if b.endpoints, b.ports, err = b.choosePorts(ctx, b.o.Listeners); err != nil {
			return nil, err
		}
		b.endpoints = append(b.endpoints, broker.Endpoint{Network: "unix", Address: b.socket, URL: "unix://" + b.socket})
		p, err := b.launch(ctx)
		var listen *broker.ListenError
		if err == nil || n == attempts || !errors.As(err, &listen) || !b.anyPort() {
			return p, err
		}
	}
}

// anyPort reports whether a listener takes a free port.
func (b *Broker) anyPort() bool {
	return slices.ContainsFunc(b.o.Listeners, func(l Listener) bool {
		_, port, err := net.SplitHostPort(l.Address)
		return err == nil && port == "0"
	})
}

// choosePorts sees whether the addresses can be listened on, which Mosquitto says in no way that a program understands, and takes free
// ones for port 0. ports are what its configuration has of each listener, "" for one that is left out.
func (b *Broker) choosePorts(ctx context.Context, listeners []Listener) (endpoints []broker.Endpoint, ports []string, err error) {
	var held []net.Listener // until all are known, so that no port is taken twice
	defer func() {
		for _, l := range held {
			_ = l.Close()
		}
	}()
	for _, l := range listeners {
		if l.Network != "tcp" && l.Network != "ws" {
			return nil, nil, fmt.Errorf("mosquitto: unknown network %q: want tcp or ws", l.Network)
		}
		host, _, err := net.SplitHostPort(l.Address)
		if err != nil {
			return nil, nil, &broker.ListenError{Network: l.Network, Address: l.Address, Err: err}
		}
		var lc net.ListenConfig
		ln, err := lc.Listen(ctx, "tcp", l.Address)
		if err != nil {
			if l.Optional && isMissingAddress(err) {
				b.log.Debug("address not on this host", "network", l.Network, "address", l.Address)
				ports = append(ports, "")
				continue
			}
			return nil, nil, &broker.ListenError{Network: l.Network, Address: l.Address, Err: err}
		}
		held = append(held, ln)
		at := ln.Addr().(*net.TCPAddr)
		line := fmt.Sprint(at.Port)
		if host != "" && host != "::" { // both mean every address; Mosquitto takes "::" for those of IPv6 only
			line += " " + host
		}
		ports = append(ports, line)
		endpoints = append(endpoints, endpointOf(l, at))
	}
	return endpoints, ports, nil
}

func endpointOf(l Listener, at *net.TCPAddr) broker.Endpoint {
	scheme := map[string]string{"tcp": "tcp", "ws": "ws"}[l.Network]
	if l.TLS != nil {
		scheme = map[string]string{"tcp": "ssl", "ws": "wss"}[l.Network]
	}
	near := at.String()
	if at.IP.IsUnspecified() {
		near = net.JoinHostPort("127.0.0.1", fmt.Sprint(at.Port))
	}
	return broker.Endpoint{Network: l.Network, Address: at.String(), URL: scheme + "://" + near}
}

// Version returns the version of Mosquitto, such as 2.0.21.
func (b *Broker) Version() string { return b.version }

// URL returns the first TCP address, else the Unix socket.
func (b *Broker) URL() string {
	for _, e := range b.endpoints {
		if e.Network == "tcp" {
			return e.URL
		}
	}
	return "unix://" + b.socket
}

// SocketURL returns the address of the Unix socket, on which no login is asked for and everything is allowed.
func (b *Broker) SocketURL() string { return "unix://" + b.socket }

// Endpoints yields what is listened on, in the order of Options, the Unix socket last.
func (b *Broker) Endpoints() iter.Seq[broker.Endpoint] { return slices.Values(b.endpoints) }

// Dial opens a connection over the Unix socket.
func (b *Broker) Dial(ctx context.Context) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "unix", b.socket)
}

// Done is closed when it was stopped. A Mosquitto that ends by itself is started again instead.
func (b *Broker) Done() <-chan struct{} { return b.done }

// Stop ends Mosquitto with SIGTERM, so that it saves what it keeps, and with SIGKILL when ctx is done first or three seconds are
// over. It returns when it has ended, and is idempotent.
func (b *Broker) Stop(ctx context.Context) error {
	if end, ok := ctx.Deadline(); ok {
		b.mu.Lock()
		b.grace = max(min(b.times.stop, time.Until(end)-100*time.Millisecond), time.Millisecond)
		b.mu.Unlock()
	}
	stop := context.AfterFunc(ctx, func() {
		b.mu.Lock()
		p := b.proc
		b.mu.Unlock()
		if p != nil {
			_ = p.kill()
		}
	})
	defer stop()
	b.cancel()
	<-b.done // its end is bounded by grace
	return nil
}
