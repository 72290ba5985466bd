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

	"github.com/lawnberry/lawnberry/bridge/fleet"
	"github.com/lawnberry/lawnberry/bridge/homeassistant"
	"github.com/lawnberry/lawnberry/bridge/web"
	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/broker/mosquitto"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/access"
	"github.com/lawnberry/lawnberry/internal/cloudlog"
	"github.com/lawnberry/lawnberry/internal/demo"
	"github.com/lawnberry/lawnberry/internal/identity"
	"github.com/lawnberry/lawnberry/internal/owner"
	"github.com/lawnberry/lawnberry/internal/store"
	"github.com/lawnberry/lawnberry/loglevel"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
	"github.com/lawnberry/lawnberry/tracing"
)

// An engine is a broker that this process runs.
type engine interface {
	broker.Engine
	Endpoints() iter.Seq[broker.Endpoint]
}

// Options say what to run.
type Options struct {
	Config  *config.Config
	DataDir string // absolute; made when missing. "" is a directory of its own that Stop removes
	Version string // of the program, announced; "" is "0.0.0"
	// Logger gets what is logged, with the name of the part that says it as the attribute loglevel.Key; see config.LogPackages. nil is discarded.
	Logger *slog.Logger
	// LogLevels are those of Logger, for the command log_level of the emergency stop's hub; nil is not to be changed.
	LogLevels *loglevel.Levels

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
	root    *slog.Logger // of all parts; see part
	log     *slog.Logger // of this one
	url     string
	dataDir string

	ended     context.CancelFunc // of what runs beside the broker
	beside    sync.WaitGroup
	lock      *os.File
	temporary bool                       // dataDir is to be removed
	serves    bool                       // this process keeps the bus, whatever its broker is
	engine    engine                     // nil with a broker elsewhere
	broker    *broker.Broker             // engine, when it is the embedded one
	mosquitto *mosquitto.Broker          // engine, when it is Mosquitto
	relogin   sync.Mutex                 // held while the logins of mosquitto change
	verifier  string                     // for mosquitto, of the password of broker.auth; guarded by relogin
	current   *config.Config             // by which they are made; guarded by relogin
	findings  []Finding                  // about a broker elsewhere
	trusted   []byte                     // the password of what runs in this process
	access    atomic.Pointer[access.Bus] // nil lets everyone do everything
	roles     atomic.Pointer[access.Bus] // what people may do by their roles, also without access control
	users     *identity.Users            // set before the broker starts
	logins    *logins
	bridge    *web.Bridge                  // nil without
	hub       *safety.Hub                  // nil when another process has it
	keepsStop bool                         // this process is to have it; set before the broker starts
	demo      *demo.Demo                   // nil without
	cloud     *cloudlog.Sink               // nil without
	home      *homeassistant.Bridge        // nil without
	fleet     atomic.Pointer[fleet.Uplink] // nil without
	tracer    *tracing.Tracer              // nil without
	never     chan struct{}                // never closed

	supervisor atomic.Pointer[service.Supervisor] // nil without, and until it runs
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
	a := &App{never: make(chan struct{})}
	beside, ended := context.WithCancel(context.WithoutCancel(ctx))
	a.ended = ended
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	a.logTo(o.Logger)
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Stop(context.WithoutCancel(ctx)))
		}
	}()
	if err := a.startTracing(o); err != nil {
		return nil, err
	}
	a.serves = o.Broker == ""
	switch {
	case !a.serves:
		a.url = o.Broker
	case o.Config.Broker.Engine == config.EngineExternal:
		err = a.useExternal(ctx, o)
	case o.Config.Broker.Engine == config.EngineMosquitto:
		err = a.startMosquitto(ctx, beside, o)
	default:
		err = a.startBroker(ctx, beside, o)
	}
	if err != nil {
		return nil, err
	}
	if a.mosquitto != nil && o.LogLevels != nil {
		a.beside.Go(func() { a.watchLevels(beside, o.LogLevels) })
	}
	if a.serves {
		a.beside.Go(func() { saveMemory(beside) })
	}
	if err := a.startHub(ctx, beside, o); err != nil {
		return nil, err
	}
	if a.serves {
		if o.Config.Monitoring.HealthChecks.Enabled {
			a.beside.Go(func() { a.supervise(beside, o.Config) })
		}
		if err := a.startBridge(ctx, o); err != nil {
			return nil, err
		}
		if err := a.startHome(ctx, o); err != nil {
			return nil, err
		}
		a.startFleet(ctx, o)
		a.startTap(beside, o.Config)
		a.startMocks(beside, o.Config)
	}
	if o.Demo != nil {
		if err := a.startDemo(ctx, o); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func (a *App) startBroker(ctx, beside context.Context, o Options) error {
	options, err := a.prepare(o)
	if err != nil {
		return err
	}
	open, err := a.openTo(o.Config.Broker.SocketGroup)
	if err != nil {
		return err
	}
	a.simulateNetwork(o.Config, options.Listeners)
	options.Authenticate, options.Identify, options.Authorize = nil, a.logins.identify, a.authorize
	a.keepsStop = o.Config.Safety.EmergencyStop.Enabled
	if err := a.SetAccess(o.Config); err != nil {
		return err
	}
	err = a.listen(o, &options, func() (err error) {
		a.broker, err = broker.Start(ctx, options)
		return err
	})
	if err == nil {
		err = open()
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
	a.engine, a.url = a.broker, a.broker.URL()
	a.beside.Go(func() { a.logins.watch(beside, a.broker) })
	return nil
}

// logTo has what is logged from now on go to root.
func (a *App) logTo(root *slog.Logger) {
	a.root = root
	a.log = a.part("app")
}

// part returns the logger of a part, one of config.LogPackages.
func (a *App) part(name string) *slog.Logger { return a.root.With(loglevel.Key, name) }

// prepare takes the data directory, reads the users, and returns the options of a broker.
func (a *App) prepare(o Options) (broker.Options, error) {
	if err := a.takeDataDir(o.DataDir); err != nil {
		return broker.Options{}, err
	}
	if err := a.sendLogs(o); err != nil {
		return broker.Options{}, err
	}
	a.trusted = []byte(rand.Text())
	users := a.dataDir
	if a.temporary {
		users = ""
	}
	logins, err := newLogins(o.Config, users, a.trusted, a.log)
	if err != nil {
		return broker.Options{}, err
	}
	a.users, a.logins = logins.users, logins
	c := *o.Config
	if yes := true; c.NeedsUsers() != "" { // and there are some, which the configuration does not know
		c.Broker.AllowAnonymous = &yes
	}
	options, err := c.BrokerOptions(a.dataDir)
	if err != nil {
		return broker.Options{}, err
	}
	if a.temporary {
		options.Dir = "" // nothing is to outlive it
	}
	name := "broker"
	if o.Config.Broker.Engine == config.EngineMosquitto {
		name = "mosquitto"
	}
	options.Logger = a.part(name)
	return options, nil
}

// listen starts a broker, on free ports instead of taken ones if o says so.
func (a *App) listen(o Options, options *broker.Options, start func() error) error {
	err := start()
	for port, taken := takenPort(err); taken && o.AnyPort && port != 0; port, taken = takenPort(err) {
		a.log.Warn("port is taken, listening on a free one", "port", port, "holder", portHolder(port))
		options.Listeners = onFreePort(options.Listeners, port)
		err = start()
	}
	if port, taken := takenPort(err); taken {
		key := "broker.port"
		if port == o.Config.Broker.WebSockets.Port {
			key = "broker.websockets.port"
		}
		err = &PortError{Port: port, Holder: portHolder(port), Key: key, Err: err}
	}
	return err
}

// supervise watches over the services of the broker until ctx ends. Nobody waits for it: a broker is of use without.
func (a *App) supervise(ctx context.Context, c *config.Config) {
	options, err := a.within(c, "lawnberry")
	if err != nil {
		a.log.Error("the services are not watched", "error", err)
		return
	}
	options.Signing, options.Encryption, options.Uncompressed = nil, nil, nil // what it says is for everyone
	s, err := service.Supervise(ctx, service.SupervisorOptions{
		Client: options, Renew: c.Monitoring.HealthChecks.CheckInterval, Logger: a.part("service"), Trouble: a.trouble,
	})
	if err != nil {
		if ctx.Err() == nil {
			a.log.Error("the services are not watched", "error", err)
		}
		return
	}
	a.supervisor.Store(s)
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
	options.Operator = a.hub != nil // what another process keeps is not ours to release
	options.Client.FailFast, options.Client.Dir, options.Client.Tracer = true, "", a.tracerOf()
	if a.engine != nil || !a.serves {
		options.Client.URL, options.Client.Fallback = a.localURL(o), nil
	}
	if a.broker != nil {
		options.Client.Username, options.Client.Password = "demo", client.Secret(a.trusted)
	}
	if options.Logger == nil {
		options.Logger = a.root
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
	if err := owner.MkdirAll(dir); err != nil {
		return fmt.Errorf("data directory: %w; choose another with --data-dir", err)
	}
	if err := checkOwner(dir); err != nil {
		return err
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

// DataDir returns the data directory, "" when there is none because another process keeps the bus.
func (a *App) DataDir() string { return a.dataDir }

// Hub returns the hub of the emergency stop that runs in this process; nil when another process has it, or none does.
func (a *App) Hub() *safety.Hub { return a.hub }

// Bridge returns the bridge for browsers, nil without.
func (a *App) Bridge() *web.Bridge { return a.bridge }

// Demo returns the running demo, nil without.
func (a *App) Demo() *demo.Demo { return a.demo }

// Endpoints yields the addresses that the broker listens on, none when it is elsewhere.
func (a *App) Endpoints() iter.Seq[broker.Endpoint] {
	if a.engine == nil {
		return func(func(broker.Endpoint) bool) {}
	}
	return a.engine.Endpoints()
}

// Done is closed when the broker has ended, whoever ended it; never when it is elsewhere.
func (a *App) Done() <-chan struct{} {
	if a.engine == nil {
		return a.never
	}
	return a.engine.Done()
}

// Stop ends the demo, then the emergency stop's hub, then the broker, and lets go of the data directory. It is idempotent and returns when all has ended
// or ctx is done.
func (a *App) Stop(ctx context.Context) error {
	var errs []error
	if a.demo != nil {
		errs = append(errs, a.demo.Stop(ctx))
	}
	if u := a.fleet.Load(); u != nil {
		errs = append(errs, u.Stop(ctx))
	}
	if a.home != nil {
		errs = append(errs, a.home.Stop(ctx))
	}
	if a.bridge != nil {
		errs = append(errs, a.bridge.Stop(ctx))
	}
	a.ended()
	a.beside.Wait()
	if a.hub != nil {
		errs = append(errs, a.hub.Stop(ctx))
	}
	if a.engine != nil {
		errs = append(errs, a.engine.Stop(ctx))
	}
	if a.tracer != nil {
		errs = append(errs, a.tracer.Stop(ctx))
	}
	if a.cloud != nil {
		errs = append(errs, a.cloud.Stop(ctx))
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
