// Package service makes a program a named service of the mower: announced, discovered, supervised by heartbeats, with
// dependencies, commands, events and alerts.
//
//	svc, err := service.Start(ctx, service.Options{ID: "navigation", Dependencies: []string{"hardware_interface"}})
//	if err != nil {
//		return err
//	}
//	defer svc.Stop(ctx)
//	service.Handle(svc, "dock", func(ctx context.Context, p struct{}) (Docked, error) { ... })
//
// # What a service hears
//
// A running service is subscribed to what this package itself acts upon: the commands to its id and to its type, the
// responses to its calls, what was said of its commands before, the status of all services, the request to announce itself (system/health_check), and the event
// service_offline, and the alerts. The other topics that concern a service (system/events/+, system/health, safety/emergency_stop, and
// those of its type; [topic.Registry.ForService] lists them all) are subscribed to by the first handler registered for
// them, with OnEvent, OnAlert or Subscribe: what nobody handles is neither sent to this process nor decoded by it.
//
// # Commands
//
// What the author of a handler and its callers may rely on:
//
//   - A handler never begins after its caller's deadline, nor for a retained message, and at most once for each request: one that
//     comes again (same sender and message id) gets the answer of the first time. With client.Options.Dir that holds over crashes
//     and restarts; without, a restart forgets what was run.
//   - A handler's ctx ends at the deadline, when the caller gives up, and with Stop. Commands run beside each other, in no order.
//   - Once Stop has begun no handler begins: what comes is refused, and can be sent again to the service's next start.
//   - A call returns the result, or a [client.CommandError]. Where nobody can know how far a command came, its text ends with
//     "outcome unknown": at the deadline, when it was cancelled, when the target was restarted (code interrupted) or went offline. It has
//     run then, or not, or in part. No system can promise that each command runs exactly once: ask for the state that it
//     should have led to, or make commands that may be sent twice, "go to" rather than "go on".
//   - Of several services of one type the broker gives each command to the type to one, through a shared subscription. What a service
//     has been given is its own: when it dies the caller hears that the outcome is unknown, and no other runs it [MQTT-4.8.2-5]. New
//     commands go to the others at once. One that hangs and stays connected goes on getting its share, and its callers time out: end it
//     when Health says so. A command on the type's topic that names one service's id is passed on to that service.
//   - Without shared subscriptions (MQTT 3.1.1, or a broker that says it has none) each service of the type hears every command, and the
//     running one with the smallest id runs it; one whose id is the type goes first. While one of them starts or dies they may
//     disagree for a moment, and a command may run twice, or not at all. All services of a type must speak the same version.
//
// # States and who reports them
//
// Each service reports its own changes of state: on its retained status and as an event service_state_change. A service
// that dies cannot: the broker then publishes its Will, or, when it merely hangs, its heartbeats stop and every other service
// notices by its own clock. That is one death with many observers, so the running service with the smallest id reports it,
// with the events service_offline and service_state_change; should these fail to appear, the next one does after a second.
//
// # Alerts
//
// There is one alert of a type, the retained message on safety/alerts/{type}. Any service may raise it, and raises it again while the
// reason lasts; that is counted and told to nobody unless severity, text or raiser have changed.
//
//   - Who raised last is the raiser, except that a worse alert of another stays as it is and is only counted. Give what is not the
//     same thing a type of its own.
//   - Anyone may acknowledge it: the alert stands, and is known to be seen. That ends when the severity rises.
//   - Anyone may clear it, by an empty retained message. With [WithResolveAfter] and [WithResolveWhen] the service that raised it
//     clears it by itself, and only then: when that dies or is stopped the alert stays.
//   - What is counted stands in the alert's context, under alert_record: raised_by, count, first_raised and last_raised (Unix seconds),
//     and acknowledged_by and acknowledged_at. It is there from the second time on, or once acknowledged, and a program that
//     writes none is counted by those who hear it.
//   - A broker that is not told to keep retained messages forgets alerts when it restarts: raise them again while the reason lasts.
//   - A message that makes an alert less severe than a running service has raised it, from a program that knows
//     nothing of these rules or from an acknowledgement that crossed it, is put right by that service.
package service

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/loglevel"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

// State of a service. Services that are not ours may announce other states; these are kept as they are.
type State string

const (
	Starting     State = "starting" // connected, waits for its dependencies
	Healthy      State = "healthy"
	Degraded     State = "degraded" // works with restrictions, or lacks a dependency
	Failing      State = "error"
	Offline      State = "offline"
	ShuttingDown State = "shutting_down"
)

// running reports whether a service in this state takes part in the bus: announced, and neither on its way in nor out.
func (s State) running() bool {
	switch s {
	case "", Starting, Offline, ShuttingDown:
		return false
	}
	return true
}

// Options configure a service. ID is required, the rest has usable zero values.
//
// With Client.Dir, a directory of this service's own, what the service has published and the broker does not have yet, and which
// commands it has executed, outlive the process. Status and heartbeats are not among it: what they say is not true any more then.
type Options struct {
	ID, Type, Version string            // Type "" is ID; Version "" is "0.0.0"
	Client            client.Options    // URL, credentials, ...; ID and Will are set by Start, a Birth of yours runs after ours
	Dependencies      []string          // ids of services that must be healthy before Start returns
	DependencyTimeout time.Duration     // how long Start waits for them; 0 is 60 s
	Optional          []string          // ids of services that this one uses when they are there: neither awaited nor missed. One that Dependencies has too is required
	Endpoints         map[string]string // name: topic
	Metadata          map[string]any    // free, announced with the status
	Heartbeat         time.Duration     // between two announcements; 0 is 30 s
	// HeartbeatTimeout is the silence after which others take this service for offline, its lease, which it announces; 0 is
	// 90 s. Peers that announce none have this one's, or 90 s if this one has the lease of the safety class.
	HeartbeatTimeout time.Duration
	// Safety puts the service into the safety class, as the Type "safety" does: Heartbeat is 200 ms and HeartbeatTimeout 500 ms
	// unless set, and its client is one that notices a dead link in that time (Options.Safety there).
	Safety bool

	// Health is asked before each heartbeat for the state (Healthy, Degraded, Failing; "" is Healthy) and the reason for it;
	// nil is always healthy. It is first asked before the service becomes healthy, so it must not need what Start returns.
	// Its context ends after Heartbeat, or with Stop. While it has not returned no heartbeat is sent: a service whose Health
	// hangs goes silent, and the others see it offline. A panic in it counts as Failing.
	Health func(ctx context.Context) (State, string)

	// Setup, when not nil, runs once in Start as soon as the service is connected and announced as starting, before the
	// dependencies are awaited. Handlers registered here are in place before anyone can see the service healthy; commands
	// that come earlier, such as those sent while the service was restarted, wait for it. An error ends Start.
	Setup func(ctx context.Context, s *Service) error

	// OnDependency, when not nil, is told the states of Dependencies and Optional: from when Setup has returned, first the state of
	// each that is known, then each change; "" is that of one whose status was cleared. A required one that is neither
	// Healthy nor Degraded has made this service Degraded by then, until it is back; an optional one changes nothing but what
	// OnDependency does. The calls are made one after the other, as those of OnService, and delay nothing else. Stop waits for
	// the one that runs.
	OnDependency func(id string, state State)

	peerTimeout time.Duration // silence after which a peer is offline that announces no lease

	DiskPath string       // whose file system disk_usage tells about; "" is the working directory
	Logger   *slog.Logger // nil is discarded
	// LogLevels, when not nil, are those of Logger, which the command log_level shows and sets; without them it is refused. For a log of one level:
	// loglevel.New(&level), of the slog.LevelVar that the handler has.
	LogLevels *loglevel.Levels
}

// Leases: of services in general, and of the safety class.
const (
	standardHeartbeat = 30 * time.Second
	standardTimeout   = 90 * time.Second
	safetyHeartbeat   = 200 * time.Millisecond
	safetyTimeout     = 500 * time.Millisecond
)

func (o Options) withDefaults() (Options, error) {
	if o.Type == "" {
		o.Type = o.ID
	}
	if o.Version == "" {
		o.Version = "0.0.0"
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Client.Logger == nil {
		o.Client.Logger = o.Logger
	}
	o.Logger = o.Logger.With("service", o.ID)
	if o.DiskPath == "" {
		o.DiskPath = "."
	}
	o.peerTimeout = o.HeartbeatTimeout
	if o.peerTimeout <= 0 {
		o.peerTimeout = standardTimeout
	}
	heartbeat, timeout := standardHeartbeat, standardTimeout
	if o.Safety = o.Safety || o.Type == "safety"; o.Safety {
		heartbeat, timeout = safetyHeartbeat, safetyTimeout
		o.Client.Safety = true
	}
	if o.HeartbeatTimeout <= 0 && o.Heartbeat > 0 {
		timeout = max(timeout, 3*o.Heartbeat)
	}
	for _, d := range []struct {
		value    *time.Duration
		standard time.Duration
	}{{&o.DependencyTimeout, 60 * time.Second}, {&o.Heartbeat, heartbeat}, {&o.HeartbeatTimeout, timeout}} {
		if *d.value <= 0 {
			*d.value = d.standard
		}
	}
	err := errors.Join(topic.CheckLevel("service id", o.ID), topic.CheckLevel("service type", o.Type))
	deps := make([]string, 0, len(o.Dependencies))
	var optional []string
	for i, id := range slices.Concat(o.Dependencies, o.Optional) {
		err = errors.Join(err, topic.CheckLevel("dependency", id))
		if id == o.ID {
			err = errors.Join(err, fmt.Errorf("the service depends on itself: remove %s from its dependencies", id))
		}
		switch {
		case slices.Contains(deps, id) || slices.Contains(optional, id):
		case i < len(o.Dependencies):
			deps = append(deps, id)
		default:
			optional = append(optional, id)
		}
	}
	o.Dependencies, o.Optional = deps, optional
	o.Endpoints = maps.Clone(o.Endpoints)
	o.Metadata = maps.Clone(o.Metadata)
	return o, err
}

// Service is a running service. Its methods may be called concurrently.
type Service struct {
	o        Options
	log      *slog.Logger
	client   *client.Client
	registry *registry
	usage    *usage
	mail     *mail
	alerts   *alerts
	started  time.Time
	metadata []byte // Options.Metadata as JSON
	host     string

	ctx     context.Context // ends when the goroutines of the service shall
	cancel  context.CancelFunc
	wg      sync.WaitGroup // every goroutine of the service
	ready   chan struct{}  // closed when Options.Setup has returned
	done    chan struct{}  // closed when asked to stop
	stopped chan struct{}  // closed when Stop has finished

	shares atomic.Bool // commands to its type come through a shared subscription

	changed chan struct{}      // holds one token when a command was registered
	nudge   chan struct{}      // asks for an announcement soon
	foreign chan struct{}      // our status topic carried something that is not our latest announcement
	first   chan chan struct{} // asks for the first health check; answered by closing

	mu        sync.Mutex // guards the fields below; taken before registry.mu, never while it is held
	phase     phase
	own       verdict // of SetState
	health    verdict // of Options.Health
	state     State
	reason    string
	asking    time.Time     // since when Options.Health runs; zero when it does not
	announced string        // message id of the latest announcement; "" before the first
	settled   bool          // the broker has sent that one back
	missed    bool          // the others believed, or may have believed, that this service is offline
	synced    chan struct{} // closed when the broker has sent the first announcement back
	handlers  map[string]handler
	described map[string]Command // by name
	catalogue catalogue
	shutdown  []func(ctx context.Context)
	expected  []*expectation
	ousted    *InUseError // another process has this service's id, and its place
	stopErr   error       // of Stop, valid when stopped is closed
}

// phase of a service's life; it only ever grows.
type phase int

const (
	starting phase = iota
	running
	stopping
	stopped
)

// verdict is a state that somebody judged this service to be in, and why.
type verdict struct {
	state  State
	reason string
}

// errStopping ends Start when the service is asked to shut down meanwhile.
var errStopping = errors.New("asked to shut down while starting")

// cleanup is how long a Start that fails takes at most to say goodbye.
const cleanup = 3 * time.Second

// Start connects, announces the service (state starting), waits for its dependencies, and announces it healthy. When it
// returns, the registry holds every service whose status the broker had retained.
//
// It answers ping, status, shutdown and log_level, and what Options.Setup registered, from its first announcement on. A dependency
// that is not healthy after DependencyTimeout, or when ctx ends, gives a *[DependencyError] that names each missing one. Services
// that wait for each other in a circle are told so after a second, by a *[DependencyError] that is [ErrCycle].
// An id that a running process has already gives an *[InUseError].
// On error everything is taken back: the service is announced as offline, and nothing keeps running. ctx bounds Start
// alone; the service lives until Stop.
func Start(ctx context.Context, o Options) (*Service, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("start service %q: %w", o.ID, err)
	}
	s := &Service{
		o: o, log: o.Logger, started: time.Now(), usage: newUsage(o.DiskPath), host: hostname(),
		mail: newMail(), alerts: newAlerts(), ready: make(chan struct{}), done: make(chan struct{}), stopped: make(chan struct{}), synced: make(chan struct{}),
		nudge: make(chan struct{}, 1), foreign: make(chan struct{}, 1), first: make(chan chan struct{}),
		own: verdict{state: Healthy}, health: verdict{state: Healthy}, state: Starting,
		handlers: make(map[string]handler), described: make(map[string]Command), changed: make(chan struct{}, 1),
	}
	if s.metadata, err = message.EncodeJSON(o.Metadata); err != nil {
		return nil, fmt.Errorf("start service %s: its metadata is no JSON: %w", o.ID, err)
	}
	if o.Metadata == nil {
		s.metadata = []byte("{}")
	}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.registry = newRegistry(o.ID, o.peerTimeout, o.Logger)
	s.registry.setSelf(s.infoLocked())
	co := o.Client
	co.ID = o.ID
	if co.Will, err = s.will(); err != nil {
		return nil, fmt.Errorf("start service %s: %w", o.ID, err)
	}
	co.Birth = s.birth(co.Birth)
	co.OnState = s.watchPlace(co.OnState)
	if err := s.claim(ctx); err != nil {
		s.cancel()
		if used := (*InUseError)(nil); errors.As(err, &used) {
			return nil, err // says it all
		}
		return nil, fmt.Errorf("start service %s: %w", o.ID, err)
	}
	if s.client, err = client.Connect(ctx, co); err != nil {
		s.cancel()
		return nil, fmt.Errorf("start service %s: %w", o.ID, err)
	}
	if err := s.begin(ctx); err != nil {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanup)
		defer cancel()
		stopErr := s.stop(grace, "did not start") // the first error is the one to tell
		if used := (*InUseError)(nil); errors.As(stopErr, &used) {
			return nil, used
		}
		if dep := (*DependencyError)(nil); errors.As(err, &dep) {
			return nil, err // says it all
		}
		return nil, fmt.Errorf("start service %s: %w", o.ID, err)
	}
	return s, nil
}

// begin takes a connected service to healthy.
func (s *Service) begin(ctx context.Context) error {
	s.registry.lost = s.reportLoss
	s.registry.linked = s.client.Connected
	s.wg.Go(func() { s.registry.run(s.ctx) })
	s.wg.Go(s.beat)
	s.wg.Go(s.deliver)
	s.wg.Go(s.resolveAlerts)
	s.watchTargets()
	if err := s.listen(ctx); err != nil {
		return err
	}
	if err := s.announceFirst(ctx); err != nil {
		return err
	}
	if s.o.Setup != nil {
		if err := s.o.Setup(ctx, s); err != nil {
			return fmt.Errorf("setup: %w", err)
		}
	}
	close(s.ready)
	s.publishCommands(false)
	s.wg.Go(s.describeChanges)
	if err := s.awaitDependencies(ctx); err != nil {
		return err
	}
	if err := s.firstHealth(ctx); err != nil {
		return err
	}
	s.update(func() { s.phase = max(s.phase, running) })
	if s.isStopping() {
		return errStopping
	}
	return nil
}

// listen subscribes to what the package acts upon.
func (s *Service) listen(ctx context.Context) error {
	if _, err := s.client.Subscribe(ctx, "system/services/+/status", s.onStatus); err != nil {
		return err
	}
	if _, err := s.client.Subscribe(ctx, "system/health_check", s.onHealthCheck); err != nil {
		return err
	}
	if _, err := s.client.Subscribe(ctx, healthTopic, func(_ context.Context, d *client.Delivery) {
		s.registry.supervised.Store(supervised(d))
	}); err != nil {
		return err
	}
	if _, err := s.client.Subscribe(ctx, "system/events/"+eventOffline, s.onOfflineEvent); err != nil {
		return err
	}
	if _, err := s.client.Subscribe(ctx, alertsTopic+"+", s.onAlert); err != nil {
		return err
	}
	if _, err := s.client.Subscribe(ctx, s.commandsTopic(1)+"/#", s.onCommands); err != nil {
		return err
	}
	return s.serveCommands(ctx)
}

// Lease returns how long this service may be silent until others take it for offline: Options.HeartbeatTimeout, or its default.
func (s *Service) Lease() time.Duration { return s.o.HeartbeatTimeout }

// ID returns Options.ID.
func (s *Service) ID() string { return s.o.ID }

// Client returns the client of the service, for what this package does not offer. It is closed by Stop.
func (s *Service) Client() *client.Client { return s.client }

// Done is closed when the service is asked to shut down (by the command shutdown, or by Stop).
func (s *Service) Done() <-chan struct{} { return s.done }

// State returns the state that the service announces now.
func (s *Service) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// SetState reports a state of the service's own (Healthy, Degraded or Failing) with a reason; a change is announced at
// once. What others see is the worst of this, of what Options.Health says, and of Degraded while a dependency is lost or a topic of
// [Service.Expect] is stale.
// Before Start has returned it takes effect when the service would become healthy. Other states are the package's to set: they
// are logged and ignored.
func (s *Service) SetState(st State, reason string) {
	if severity(st) < 0 {
		s.log.Warn("state ignored: only healthy, degraded and error can be set", "state", string(st))
		return
	}
	s.update(func() { s.own = verdict{st, reason} })
}

// severity orders the states that a service may report of itself; it is negative for any other.
func severity(st State) int { return slices.Index([]State{Healthy, Degraded, Failing}, st) }

// update applies f, judges the state anew, and announces it when it changed: the status first, then the event.
func (s *Service) update(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	s.judgeLocked()
}

func (s *Service) judgeLocked() {
	v := s.verdictLocked()
	if v.state == s.state && v.reason == s.reason {
		return
	}
	old := s.state
	s.state, s.reason = v.state, v.reason
	s.registry.setSelf(s.infoLocked())
	if s.announced == "" || s.ousted != nil {
		return
	}
	s.announceLocked()
	if old != s.state {
		s.log.Info("state changed", "old", string(old), "new", string(s.state), "reason", s.reason)
		s.emitChangeLocked(s.o.ID, old, s.state)
	}
}

// verdictLocked judges the state from everything known.
func (s *Service) verdictLocked() verdict {
	switch s.phase {
	case starting:
		return verdict{Starting, ""}
	case stopping:
		return verdict{ShuttingDown, s.reason}
	case stopped:
		return verdict{Offline, s.reason}
	}
	worst := s.own
	for _, v := range []verdict{s.health, s.dependencyVerdict(), s.staleVerdictLocked()} {
		if severity(v.state) > severity(worst.state) {
			worst = v
		}
	}
	return worst
}

func (s *Service) isStopping() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// OnService calls f for each change of any service's state, this one's included; old is "" for a service that was
// unknown, and i.State is "" for one that was removed (its retained status was cleared).
//
// The calls are made in the order of the changes, by one goroutine of this registration's own: f delays nobody else. A
// registration that is 4,096 changes behind loses the oldest. After cancel returned no further call begins.
func (s *Service) OnService(f func(i Info, old State)) (cancel func()) {
	return s.observe(f)
}

// observe is OnService, for those of known that there are beginning with what they are.
func (s *Service) observe(f func(i Info, old State), known ...string) (cancel func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase >= stopping { // Stop waits for the goroutines that there are
		return func() {}
	}
	o, cancel := s.registry.observe(f, known...)
	s.wg.Go(func() { o.run(s.ctx) })
	return cancel
}

// Services yields what is known of all services of a type ("" is all), this one included, sorted by id. It is a
// snapshot of the moment the iteration begins.
func (s *Service) Services(serviceType string) iter.Seq[Info] {
	return func(yield func(Info) bool) {
		for _, i := range s.registry.all(serviceType) {
			if !yield(s.fresh(i)) {
				return
			}
		}
	}
}

// Service returns what is known of one.
func (s *Service) Service(id string) (Info, bool) {
	i, ok := s.registry.get(id)
	return s.fresh(i), ok
}

// fresh brings what the service knows of itself up to date.
func (s *Service) fresh(i Info) Info {
	if i.ID == s.o.ID {
		i.Uptime, i.LastSeen, i.Resources = time.Since(s.started), time.Now(), s.usage.current()
	}
	return i
}

// PublishSensor publishes a reading on sensors/{sensorType}/data.
func (s *Service) PublishSensor(ctx context.Context, p message.SensorData) error {
	if err := topic.CheckLevel("sensor type", p.SensorType); err != nil {
		return err
	}
	m, err := message.NewSensorData(s.o.ID, p)
	if err != nil {
		return fmt.Errorf("sensor %s: %w", p.SensorType, err)
	}
	return s.client.Publish(ctx, "sensors/"+p.SensorType+"/data", m)
}

// Publish is the client's: it returns nil once m is safe.
func (s *Service) Publish(ctx context.Context, topic string, m message.Message, opts ...client.PublishOption) error {
	return s.client.Publish(ctx, topic, m, opts...)
}

// Subscribe is the client's: it returns when the broker confirmed.
func (s *Service) Subscribe(ctx context.Context, filter string, h client.Handler, opts ...client.SubscribeOption) (*client.Subscription, error) {
	return s.client.Subscribe(ctx, filter, h, opts...)
}
