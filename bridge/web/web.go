package web

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

// ID is the bridge's service.
const ID = "web_bridge"

// Options configure a bridge.
type Options struct {
	Client  client.Options // how to reach the broker; ID is set by Start
	Version string         // of the program, announced; "" is "0.0.0"

	Addresses      []string    // to listen on, host:port; nil is localhost:9002. Those after the first may be unavailable
	TLS            *tls.Config // nil is without
	MaxConnections int         // WebSockets at once; 0 is 10
	// Hosts are names, without port, that this machine has for browsers, beside addresses, localhost and its own name. Origins are those of
	// pages from elsewhere that are let in, such as "https://mower.example".
	Hosts, Origins []string

	// Login says who somebody is who gives a name and a password, from an address. nil lets everybody in. While Login.Needed returns false
	// nobody is asked either.
	Login Login
	// Rights returns what a user may do; nil, also returned, is everything.
	Rights func(user string) (Rights, error)

	// Stats, when not nil, adds the broker's figures to /api/stats: anything that encodes as JSON.
	Stats func() any
	// Metrics, when not nil, is served at GET /metrics, to who may read the API.
	Metrics http.Handler
	// Config returns the configuration that applies: a list of ConfigValue. nil is no list.
	Config func() []ConfigValue
	Logger *slog.Logger // nil is discarded
}

// A ConfigValue is a key of the configuration in the API. Secrets are hidden by who makes it.
type ConfigValue struct {
	Key         string `json:"key"`
	Value       any    `json:"value"`
	Description string `json:"description"`
	Type        string `json:"type"`
	Unit        string `json:"unit,omitempty"`
	Default     string `json:"default"` // as YAML
}

// Login says who may come in.
type Login interface {
	Needed() bool
	// Check returns nil if the password is right. Its error is not shown.
	Check(ctx context.Context, name, password, from string) error
	// Known reports whether a user who has logged in may stay.
	Known(name string) bool
	// Role returns a user's role.
	Role(name string) string
}

// Rights are what a user may do. Topics are full.
type Rights interface {
	MayReceive(topic string) bool
	// MaySend returns why a message may not be published on a topic, nil if it may.
	MaySend(topic string, payload []byte) error
}

// A Bridge is a running bridge. Its methods may be called concurrently.
type Bridge struct {
	o        Options
	log      *slog.Logger
	svc      *service.Service
	latch    *safety.Latch
	feed     *feed
	sessions *sessions
	began    time.Time
	stall    time.Duration // stallTime, but in tests

	listeners []net.Listener
	server    *http.Server
	work      sync.WaitGroup
	ctx       context.Context // ends with Stop
	end       context.CancelFunc

	driving sync.WaitGroup // pages that drive; added to with mu held, while not ended

	mu      sync.Mutex // guards the fields below
	conns   map[*conn]struct{}
	drivers map[string]string // the user of each page that drives, by its client's name
	ended   bool
	stats   counters
}

type counters struct {
	opened, refused, stalled, dropped uint64
}

const (
	defaultAddress = "localhost:9002"
	defaultMax     = 10

	readHeaderTime = 5 * time.Second
	idleTime       = 2 * time.Minute
	maxHeader      = 16 << 10 // bytes
)

// Start starts a bridge and returns when it listens.
func Start(ctx context.Context, o Options) (_ *Bridge, err error) {
	if o.Addresses == nil {
		o.Addresses = []string{defaultAddress}
	}
	if o.MaxConnections <= 0 {
		o.MaxConnections = defaultMax
	}
	b := &Bridge{o: o, log: o.Logger, sessions: newSessions(), began: time.Now(), stall: stallTime, conns: map[*conn]struct{}{}, drivers: map[string]string{}}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	b.ctx, b.end = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Stop(context.WithoutCancel(ctx)))
		}
	}()
	for i, address := range o.Addresses {
		l, err := net.Listen("tcp", address)
		if err != nil && i > 0 && !errors.Is(err, syscall.EADDRINUSE) {
			b.log.Info("web bridge", "address", address, "error", err)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("web bridge: %w", err)
		}
		if o.TLS != nil {
			l = tls.NewListener(l, o.TLS)
		}
		b.listeners = append(b.listeners, l)
	}
	co := o.Client
	co.CleanStart = true
	_, err = service.Start(ctx, service.Options{
		ID: ID, Type: "web", Version: o.Version, Client: co, Logger: o.Logger,
		Setup: func(ctx context.Context, s *service.Service) (err error) {
			b.svc = s
			if b.latch, err = safety.OpenLatch(ctx, s.Client(), safety.LatchOptions{Logger: o.Logger}); err != nil {
				return err
			}
			b.feed, err = newFeed(ctx, s.Client(), b.offer)
			return err
		},
	})
	if err != nil {
		return nil, fmt.Errorf("web bridge: %w", err)
	}
	b.server = &http.Server{
		Handler: b.handler(), ReadHeaderTimeout: readHeaderTime, IdleTimeout: idleTime, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(b.log.Handler(), slog.LevelDebug),
	}
	b.work.Go(b.review)
	for _, l := range b.listeners {
		b.work.Go(func() {
			if err := b.server.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
				b.log.Error("web bridge", "address", l.Addr().String(), "error", err)
			}
		})
	}
	return b, nil
}

// URLs returns where the bridge listens, such as "http://127.0.0.1:9002".
func (b *Bridge) URLs() []string {
	var urls []string
	scheme := "http://"
	if b.o.TLS != nil {
		scheme = "https://"
	}
	for _, l := range b.listeners {
		urls = append(urls, scheme+l.Addr().String())
	}
	return urls
}

// Service returns the bridge's service, to look at: its client, and the services that it knows of. It ends with the bridge.
func (b *Bridge) Service() *service.Service { return b.svc }

// EmergencyStop returns the state of the emergency stop as the bridge's own latch knows it: what is not known counts as engaged.
func (b *Bridge) EmergencyStop() safety.State { return b.latch.State() }

// Stop ends the bridge: browsers are told that it goes away. It is idempotent, and takes until ctx ends at most, or 2 s.
func (b *Bridge) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	b.mu.Lock()
	if b.ended {
		b.mu.Unlock()
		return nil
	}
	b.ended = true
	conns := make([]*conn, 0, len(b.conns))
	for c := range b.conns {
		conns = append(conns, c)
	}
	b.mu.Unlock()
	b.end()
	for _, c := range conns {
		c.close(statusGoingAway, "the bridge is stopping")
	}
	var errs []error
	if b.server != nil {
		errs = append(errs, b.server.Shutdown(ctx), b.server.Close())
	} else {
		for _, l := range b.listeners {
			_ = l.Close()
		}
	}
	b.work.Wait()
	b.driving.Wait() // it takes 2 s at most to stop the machine and give control back
	if b.latch != nil {
		_ = b.latch.Close(ctx)
	}
	if b.svc != nil {
		errs = append(errs, b.svc.Stop(ctx))
	}
	return errors.Join(errs...)
}

// offer hands a message to all browsers.
func (b *Bridge) offer(m *sample) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		c.offer(m)
	}
}

// enter adds a connection, unless there are too many.
func (b *Bridge) enter(c *conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended || len(b.conns) >= b.o.MaxConnections {
		b.stats.refused++
		return false
	}
	b.conns[c] = struct{}{}
	b.stats.opened++
	return true
}

func (b *Bridge) leave(c *conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.conns, c)
	b.stats.dropped += c.queue.droppedTotal()
	if c.stalled.Load() {
		b.stats.stalled++
	}
}

// reviewTime is how long it takes until a user who is removed, or has other rights, is put out or has those.
const reviewTime = time.Second

// review asks again who may stay and do what, until the bridge ends.
func (b *Bridge) review() {
	t := time.NewTicker(reviewTime)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-b.ctx.Done():
			return
		}
		b.mu.Lock()
		conns := slices.Collect(maps.Keys(b.conns))
		b.mu.Unlock()
		for _, c := range conns {
			who, err := b.judge(c.user)
			if err != nil {
				c.close(statusPolicy, "you are not let in any more")
				continue
			}
			c.setRights(who.rights)
			if d := c.driving(); d != nil && b.mayDrive(who.rights, d.service) != nil {
				d.stop("you may not drive any more")
			}
		}
	}
}

// judge says whether who has come in may stay, and with which rights.
func (b *Bridge) judge(user string) (identity, error) {
	if l := b.o.Login; l != nil && l.Needed() && (user == "" || !l.Known(user)) {
		return identity{}, errors.New("not known")
	}
	return b.withRights(user)
}
