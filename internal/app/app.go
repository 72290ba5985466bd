// Package app builds a running system from a configuration, and ends it: the only place where the parts are wired.
package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/access"
	"github.com/lawnberry/lawnberry/internal/demo"
	"github.com/lawnberry/lawnberry/internal/identity"
	"github.com/lawnberry/lawnberry/internal/store"
	"github.com/lawnberry/lawnberry/service"
)

// Options say what to run.
type Options struct {
	Config  *config.Config
	DataDir string       // absolute; made when missing. "" is a directory of its own that Stop removes
	Logger  *slog.Logger // nil is discarded
	// BrokerLogger is for the broker's own log; nil is Logger.
	BrokerLogger *slog.Logger

	// AnyPort makes a broker whose port is taken listen on a free one, on this host only, instead of failing.
	AnyPort bool
	// Broker is the URL of a broker that runs already, to be used instead of one of our own.
	Broker string
	// Demo, when not nil, also runs the simulated mower. Its Client is filled in, and the limits of its topics are set to
	// what it sends, except where the configuration names a limit.
	Demo *demo.Options
}

// App is a running system. Its methods may be called concurrently.
type App struct {
	log     *slog.Logger
	url     string
	dataDir string

	ended     context.CancelFunc // of what runs beside the broker
	beside    sync.WaitGroup
	lock      *os.File
	temporary bool                       // dataDir is to be removed
	broker    *broker.Broker             // nil with a broker elsewhere
	trusted   []byte                     // the password of what runs in this process
	access    atomic.Pointer[access.Bus] // nil lets everyone do everything
	users     *identity.Users            // set before the broker starts
	demo      *demo.Demo                 // nil without
	never     chan struct{}              // never closed
}

// A BusyError is a data directory that another process uses.
type BusyError struct {
	Dir    string
	Holder string // such as "process 812 (lawnberry)"
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("data directory %s is in use by %s: stop it, or choose another with --data-dir", e.Dir, e.Holder)
}

// A PortError is a port to listen on that another process has.
type PortError struct {
	Port   int
	Holder string // such as "process 812 (mosquitto)"; "" when it cannot be named
	Key    string // of the configuration, such as "broker.port"
	Err    error
}

func (e *PortError) Error() string {
	holder := e.Holder
	if holder == "" {
		holder = "another process"
	}
	return fmt.Sprintf("port %d is taken by %s: stop it, or set %s", e.Port, holder, e.Key)
}

func (e *PortError) Unwrap() error { return e.Err }

// Start starts what o asks for and returns when all of it works, or the first error, with nothing left running. A data
// directory in use is a *BusyError.
func Start(ctx context.Context, o Options) (_ *App, err error) {
	a := &App{log: o.Logger, never: make(chan struct{})}
	beside, ended := context.WithCancel(context.WithoutCancel(ctx))
	a.ended = ended
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Stop(context.WithoutCancel(ctx)))
		}
	}()
	if o.Broker != "" {
		a.url = o.Broker
	} else {
		if err := a.startBroker(ctx, beside, o); err != nil {
			return nil, err
		}
		a.beside.Go(func() { saveMemory(beside) })
		if o.Config.Monitoring.HealthChecks.Enabled {
			a.beside.Go(func() { a.supervise(beside, o.Config) })
		}
	}
	if o.Demo != nil {
		if err := a.startDemo(ctx, o); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func (a *App) startBroker(ctx, beside context.Context, o Options) error {
	if err := a.takeDataDir(o.DataDir); err != nil {
		return err
	}
	a.trusted = []byte(rand.Text())
	users := a.dataDir
	if a.temporary {
		users = ""
	}
	logins, err := newLogins(o.Config, users, a.trusted, a.log)
	if err != nil {
		return err
	}
	c := *o.Config
	if yes := true; c.NeedsUsers() != "" { // and there are some, which the configuration does not know
		c.Broker.AllowAnonymous = &yes
	}
	options, err := c.BrokerOptions(a.dataDir)
	if err != nil {
		return err
	}
	if a.temporary {
		options.Dir = "" // nothing is to outlive it
	}
	options.Logger = o.BrokerLogger
	if options.Logger == nil {
		options.Logger = a.log
	}
	options.Authenticate, options.Identify, options.Authorize = nil, logins.identify, a.authorize
	a.users = logins.users
	if err := a.SetAccess(o.Config); err != nil {
		return err
	}
	a.broker, err = broker.Start(ctx, options)
	for port, taken := takenPort(err); taken && o.AnyPort && port != 0; port, taken = takenPort(err) {
		a.log.Warn("port is taken, listening on a free one", "port", port, "holder", portHolder(port))
		options.Listeners = onFreePort(options.Listeners, port)
		a.broker, err = broker.Start(ctx, options)
	}
	if port, taken := takenPort(err); taken {
		key := "broker.port"
		if port == o.Config.Broker.WebSockets.Port {
			key = "broker.websockets.port"
		}
		err = &PortError{Port: port, Holder: portHolder(port), Key: key, Err: err}
	}
	var storing *broker.StoreError
	var locked *store.LockedError
	if errors.As(err, &storing) {
		if errors.As(err, &locked) {
			return &BusyError{storing.Dir, describeProcess(locked.PID)}
		}
		return fmt.Errorf("%w; make room or repair it, choose another directory with --data-dir or broker.persistence_location, "+
			"or set broker.persistence to false", err)
	}
	if err != nil {
		return err
	}
	a.url = a.broker.URL()
	a.beside.Go(func() { logins.watch(beside, a.broker) })
	return nil
}

// supervise watches over the services of the broker until ctx ends. Nobody waits for it: a broker is of use without.
func (a *App) supervise(ctx context.Context, c *config.Config) {
	options, err := c.ClientOptions()
	if err != nil {
		a.log.Error("the services are not watched", "error", err)
		return
	}
	s, err := service.Supervise(ctx, service.SupervisorOptions{
		Client: client.Options{
			Dial: a.broker.Dial, Topics: options.Topics, Limits: options.Limits, Username: "lawnberry", Password: client.Secret(a.trusted),
			Probe: time.Hour, // nothing is between the two
		},
		Renew: c.Monitoring.HealthChecks.CheckInterval, Logger: a.log,
	})
	if err != nil {
		if ctx.Err() == nil {
			a.log.Error("the services are not watched", "error", err)
		}
		return
	}
	<-ctx.Done()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := s.Stop(grace); err != nil {
		a.log.Debug("supervisor", "error", err)
	}
}

func (a *App) startDemo(ctx context.Context, o Options) error {
	c := *o.Config
	c.Topics.RateLimits = demo.Rates()
	maps.Copy(c.Topics.RateLimits, o.Config.Topics.RateLimits)
	options := *o.Demo
	var err error
	if options.Client, err = c.ClientOptions(); err != nil {
		return err
	}
	options.Client.URL, options.Client.FailFast, options.Client.Dir = a.localURL(o), true, ""
	if a.broker != nil {
		options.Client.Username, options.Client.Password = "demo", client.Secret(a.trusted)
	}
	if options.Logger == nil {
		options.Logger = o.BrokerLogger
		if options.Logger == nil {
			options.Logger = a.log
		}
	}
	a.demo, err = demo.Start(ctx, options)
	return err
}

// takeDataDir makes the data directory and locks it.
func (a *App) takeDataDir(dir string) error {
	var err error
	if dir == "" {
		if dir, err = os.MkdirTemp("", "lawnberry-"); err != nil {
			return fmt.Errorf("data directory: %w", err)
		}
		a.temporary = true
	}
	a.dataDir = dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("data directory: %w; choose another with --data-dir", err)
	}
	if a.lock, err = store.Lock(dir, "lawnberry.lock"); err != nil {
		if locked := (*store.LockedError)(nil); errors.As(err, &locked) {
			return &BusyError{dir, describeProcess(locked.PID)}
		}
		return fmt.Errorf("data directory: %w; choose another with --data-dir", err)
	}
	return nil
}

// URL returns the address that programs on this host should use.
func (a *App) URL() string { return a.url }

// DataDir returns the data directory, "" when there is none because the broker is elsewhere.
func (a *App) DataDir() string { return a.dataDir }

// Demo returns the running demo, nil without.
func (a *App) Demo() *demo.Demo { return a.demo }

// Endpoints yields the addresses that the broker listens on, none when it is elsewhere.
func (a *App) Endpoints() iter.Seq[broker.Endpoint] {
	if a.broker == nil {
		return func(func(broker.Endpoint) bool) {}
	}
	return a.broker.Endpoints()
}

// Done is closed when the broker has ended, whoever ended it; never when it is elsewhere.
func (a *App) Done() <-chan struct{} {
	if a.broker == nil {
		return a.never
	}
	return a.broker.Done()
}

// Stop ends the demo, then the broker, and lets go of the data directory. It is idempotent and returns when all has ended
// or ctx is done.
func (a *App) Stop(ctx context.Context) error {
	var errs []error
	if a.demo != nil {
		errs = append(errs, a.demo.Stop(ctx))
	}
	a.ended()
	a.beside.Wait()
	if a.broker != nil {
		errs = append(errs, a.broker.Stop(ctx))
	}
	if a.lock != nil {
		a.lock.Close() // a second time is an error that nobody needs
	}
	if a.temporary {
		errs = append(errs, os.RemoveAll(a.dataDir))
	}
	return errors.Join(errs...)
}

// takenPort returns the port that err says is taken.
func takenPort(err error) (int, bool) {
	var listen *broker.ListenError
	if !errors.As(err, &listen) || !errors.Is(err, syscall.EADDRINUSE) || listen.Network == "unix" {
		return 0, false
	}
	_, port, err := net.SplitHostPort(listen.Address)
	if err != nil {
		return 0, false
	}
	n, err := strconv.Atoi(port)
	return n, err == nil
}

// onFreePort makes the listeners on a port one, on a free port of this host.
func onFreePort(listeners []broker.Listener, port int) []broker.Listener {
	var changed []broker.Listener
	moved := false
	for _, l := range listeners {
		if _, p, err := net.SplitHostPort(l.Address); l.Network == "unix" || err != nil || p != strconv.Itoa(port) {
			changed = append(changed, l)
			continue
		}
		if !moved { // the others are further addresses of the same listener
			l.Address = "127.0.0.1:0"
			changed = append(changed, l)
			moved = true
		}
	}
	return changed
}
