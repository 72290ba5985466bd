package service

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lawnberry/lawnberry/message"
)

// Info is what is known of a service. What its announcements leave out has the zero value.
type Info struct {
	ID, Type, Version string
	State             State
	Host              string    // where it runs
	PID               int       // of its process there
	Reason            string    // for the state; "" when none was given
	Started           time.Time // by the service's own clock
	// LastSeen is when its last sign of life was received, by this receiver's monotonic clock. A retained status counts
	// from its receipt. For a service that was offline when first heard of it is the last heartbeat it reported, by its
	// own clock, or zero.
	LastSeen     time.Time
	Uptime       time.Duration // as last announced
	Dependencies []string      // ids
	Optional     []string      // ids of dependencies that it can do without
	Endpoints    map[string]string
	Metadata     map[string]any
	Resources    message.Resources
}

func (i Info) clone() Info {
	i.Dependencies = slices.Clone(i.Dependencies)
	i.Optional = slices.Clone(i.Optional)
	i.Endpoints = maps.Clone(i.Endpoints)
	i.Metadata = maps.Clone(i.Metadata)
	return i
}

const (
	// maxServices bounds the registry, since anyone on the bus can announce services.
	maxServices = 4096
	// maxBehind bounds what is kept for a slow observer.
	maxBehind = 4096
	// punctual is how late this process may look at what is due, without having missed anything; catchUp is the time that it
	// needs to take in what has arrived while it did not run.
	punctual = 10 * time.Millisecond
	catchUp  = 100 * time.Millisecond
	// turn is how long each running service waits for the one before it to report a death.
	turn = time.Second
)

// registry knows all services, fed by their statuses. Silence is judged by this process's monotonic clock alone.
type registry struct {
	self    string
	timeout time.Duration
	log     *slog.Logger
	// supervisor is that this one reports first. Otherwise supervised tells whether there is a supervisor, who does. Set before run
	supervisor bool
	supervised atomic.Bool
	lost       func(d death) // reports that a service died; called by run. Set before run
	linked     func() bool   // whether the broker is connected. Set before run
	wake       chan struct{} // tells run that something is due earlier than it knows

	mu        sync.Mutex // guards the fields below
	services  map[string]*entry
	observers map[*observer]struct{}
	changed   chan struct{} // closed and replaced at each change of a state
	seen      bool          // the broker has sent an announcement of ours back that says we are running
	full      bool          // said that the registry is full
	next      time.Time     // when run wakes by itself; zero is never
}

// entry is one service of the registry.
type entry struct {
	info     Info
	last     identity      // of its last status, to tell a sign of life from a repetition
	lease    time.Duration // how long it may be silent
	late     bool          // deadline was put off, because this process did not run when it was due
	deadline time.Time     // when silence makes it offline; zero for one that is, and for this service itself
	before   State         // what it was when it went offline
	owed     time.Time     // when to report its death, unless somebody else does; zero is never
	alive    string        // the message id of the last status that said it was not offline
	reported string        // the same in the last report of its death: deaths are told apart by it
	early    time.Time     // when a report came that does not say which death it is of, before we knew of any
	byItself bool          // it is offline because it said so
	shares   bool          // it has the commands to its type through a shared subscription
}

func newRegistry(self string, timeout time.Duration, log *slog.Logger) *registry {
	return &registry{
		self: self, timeout: timeout, log: log, linked: func() bool { return false }, lost: func(death) {},
		wake: make(chan struct{}, 1), services: make(map[string]*entry),
		observers: make(map[*observer]struct{}), changed: make(chan struct{}),
	}
}

// apply takes a status of another service in.
//
// A retained status that the broker sends again, as after a reconnect, is no sign of life.
func (r *registry) apply(id string, rep report, received time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.services[id]
	if e == nil {
		if len(r.services) >= maxServices {
			if !r.full {
				r.full = true
				r.log.Warn("registry full: further services are ignored", "services", len(r.services), "ignored", id)
			}
			return
		}
		e = &entry{info: Info{ID: id}}
		r.services[id] = e
	} else if rep.again && rep.identity == e.last {
		return
	}
	e.last = rep.identity
	old, reason := e.info.State, e.info.Reason
	rep.merge(&e.info)
	if old == e.info.State && reason != e.info.Reason {
		r.wakeWaiting()
	}
	e.shares = rep.shares
	if e.info.State != Offline {
		e.info.LastSeen = received
		wasSilent := e.deadline.IsZero()
		e.lease = r.timeout
		if rep.lease > 0 {
			e.lease = rep.lease
		}
		sooner := received.Add(e.lease).Before(e.deadline) || r.next.IsZero()
		e.deadline, e.late = received.Add(e.lease), false
		e.alive, e.owed = rep.id, time.Time{}
		if wasSilent || sooner {
			r.rouse()
		}
		r.stateChanged(e, old)
		return
	}
	e.deadline, e.byItself = time.Time{}, rep.byItself()
	switch {
	case old == Offline:
	case old == "": // it was so before we came
		if hb := rep.heartbeat; hb.Before(received) {
			e.info.LastSeen = hb
		}
	default:
		r.goneLocked(e, old, rep.byItself())
	}
	r.stateChanged(e, old)
}

// goneLocked notes that a service went offline, and who reports it: itself, or the running services in the order of their
// ids, each waiting a turn for the one before it.
func (r *registry) goneLocked(e *entry, old State, byItself bool) {
	e.before, e.late = old, false
	known := e.alive != "" && e.alive == e.reported || !e.early.IsZero() && time.Since(e.early) < turn
	if byItself || known || !r.linked() {
		return
	}
	rank := 0
	if r.supervised.Load() {
		rank = 1
	}
	for id, other := range r.services {
		if !r.supervisor && other != e && id != r.self && other.info.State.running() && (id < r.self || !r.seen) {
			rank++
		}
	}
	e.owed = time.Now().Add(time.Duration(rank) * turn)
	r.rouse()
}

// remove forgets a service whose retained status was cleared.
func (r *registry) remove(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.services[id]
	if e == nil {
		return
	}
	delete(r.services, id)
	r.full = false
	old := e.info.State
	e.info.State, e.info.Reason = "", ""
	r.stateChanged(e, old)
}

// setSelf tells the registry about this service.
func (r *registry) setSelf(i Info) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.services[r.self]
	if e == nil {
		e = &entry{}
		r.services[r.self] = e
	}
	old := e.info.State
	e.info = i
	r.stateChanged(e, old)
}

// setSeen notes what the others can know of this service.
func (r *registry) setSeen(st State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = st.running()
}

// wasReported notes that somebody has reported the death of a service, the one after the status with the message id
// lastStatus; "" is that it was not said, as by services of another make. Reports and statuses overtake each other.
func (r *registry) wasReported(id, lastStatus string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.services[id]
	switch {
	case e == nil:
	case lastStatus != "":
		e.reported = lastStatus
		if lastStatus == e.alive {
			e.owed = time.Time{}
		}
	case e.info.State == Offline:
		e.owed = time.Time{}
	default:
		e.early = time.Now()
	}
}

// stateChanged tells everyone who wants to know, when e's state is no longer old. r.mu is held.
func (r *registry) stateChanged(e *entry, old State) {
	if e.info.State == old {
		return
	}
	for o := range r.observers {
		o.add(change{e.info.clone(), old})
	}
	r.wakeWaiting()
}

// wakeWaiting wakes those who wait for a change of any state, or of the reason for it. r.mu is held.
func (r *registry) wakeWaiting() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// rouse makes run look at the deadlines again.
func (r *registry) rouse() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// run declares silent services offline and reports deaths, until ctx ends.
func (r *registry) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		deaths, next := r.due(time.Now())
		for _, d := range deaths {
			r.lost(d)
		}
		timer.Stop()
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-r.wake:
		}
	}
}

// due handles everything due at now: it returns the deaths to report and when to look again (zero is not by itself).
//
// When it is called later than planned this process did not run (stopped, or starved of processor time) and could not hear
// anyone: what has arrived meanwhile is taken in first, and when it was much later everyone has the whole lease again.
func (r *registry) due(now time.Time) (deaths []death, next time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// late is how much later than planned something due at that time is looked at: than it was itself, if it has become due since the plan
	// was made, else than the plan.
	late := func(due time.Time) time.Duration {
		if !r.next.IsZero() && r.next.Before(due) {
			due = r.next
		}
		return now.Sub(due)
	}
	for _, e := range r.services {
		if !e.deadline.IsZero() && !now.Before(e.deadline) {
			switch late := late(e.deadline); {
			case late > e.lease/4:
				e.deadline = now.Add(e.lease)
			case late > punctual && !e.late:
				e.deadline, e.late = now.Add(min(e.lease/4, catchUp)), true
			default:
				old := e.info.State
				e.deadline, e.byItself = time.Time{}, false
				e.info.State, e.info.Reason = Offline, "silent for "+readable(e.lease)
				r.goneLocked(e, old, false)
				r.stateChanged(e, old)
			}
		}
		if !e.owed.IsZero() && !now.Before(e.owed) {
			if late := late(e.owed); late > turn || late > punctual && !e.late {
				e.owed, e.late = now.Add(catchUp), true
			} else {
				e.owed = time.Time{}
				deaths = append(deaths, death{change{e.info.clone(), e.before}, e.alive})
			}
		}
		for _, t := range []time.Time{e.deadline, e.owed} {
			if !t.IsZero() && (next.IsZero() || t.Before(next)) {
				next = t
			}
		}
	}
	r.next = next
	slices.SortFunc(deaths, func(a, b death) int { return cmp.Compare(a.info.ID, b.info.ID) })
	return deaths, next
}

// get returns what is known of one service.
func (r *registry) get(id string) (Info, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.services[id]
	if e == nil {
		return Info{}, false
	}
	return e.info.clone(), true
}

// all returns what is known of the services of a type ("" is all), sorted by id.
func (r *registry) all(serviceType string) []Info {
	r.mu.Lock()
	defer r.mu.Unlock()
	infos := make([]Info, 0, len(r.services))
	for _, e := range r.services {
		if serviceType == "" || e.info.Type == serviceType {
			infos = append(infos, e.info.clone())
		}
	}
	slices.SortFunc(infos, func(a, b Info) int { return cmp.Compare(a.ID, b.ID) })
	return infos
}

// A supervisedService is what judge looks at.
type supervisedService struct {
	info     Info
	byItself bool
}

// entries returns all services, sorted by id.
func (r *registry) entries() []supervisedService {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]supervisedService, 0, len(r.services))
	for _, e := range r.services {
		all = append(all, supervisedService{e.info.clone(), e.byItself})
	}
	slices.SortFunc(all, func(a, b supervisedService) int { return cmp.Compare(a.info.ID, b.info.ID) })
	return all
}

// offline reports whether target is the id of a service that is offline, and not the type of one that is there; and when it
// was last seen.
func (r *registry) offline(target string) (lastSeen time.Time, offline bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.services[target]
	if e == nil || e.info.State != Offline {
		return time.Time{}, false
	}
	for _, other := range r.services {
		if other.info.Type == target && other.info.State != Offline {
			return time.Time{}, false
		}
	}
	return e.info.LastSeen, true
}

// states returns the state of each of ids ("" when unknown), when it was last seen, and a channel that is closed at the next
// change of any state.
func (r *registry) states(ids []string) (found []Missing, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range ids {
		m := Missing{ID: id}
		if e := r.services[id]; e != nil {
			m.State, m.LastSeen = e.info.State, e.info.LastSeen
		}
		found = append(found, m)
	}
	return found, r.changed
}

// change is one change of a service's state.
type change struct {
	info Info
	old  State
}

// death is the change of a service that others have to report.
type death struct {
	change
	lastStatus string // the message id of the last status that said it was not offline
}

// observer is one registration of OnService.
type observer struct {
	f      func(i Info, old State)
	log    *slog.Logger
	signal chan struct{} // holds one token while queue may have something
	quit   chan struct{} // closed by cancel

	mu      sync.Mutex // guards queue and dropped
	queue   []change
	dropped int
}

// observe registers f; run must be started for it. Of those of known that there are it hears first, with what they are now.
func (r *registry) observe(f func(i Info, old State), known ...string) (o *observer, cancel func()) {
	o = &observer{f: f, log: r.log, signal: make(chan struct{}, 1), quit: make(chan struct{})}
	r.mu.Lock()
	for _, id := range known {
		if e := r.services[id]; e != nil {
			o.add(change{info: e.info.clone()})
		}
	}
	r.observers[o] = struct{}{}
	r.mu.Unlock()
	return o, sync.OnceFunc(func() {
		r.mu.Lock()
		delete(r.observers, o)
		r.mu.Unlock()
		close(o.quit)
	})
}

func (o *observer) add(c change) {
	o.mu.Lock()
	if len(o.queue) >= maxBehind {
		o.queue = o.queue[1:]
		o.dropped++
	}
	o.queue = append(o.queue, c)
	o.mu.Unlock()
	select {
	case o.signal <- struct{}{}:
	default:
	}
}

// run calls f for each change in order, until ctx ends or the registration is cancelled.
func (o *observer) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.quit:
			return
		case <-o.signal:
		}
		o.mu.Lock()
		queue, dropped := o.queue, o.dropped
		o.queue, o.dropped = nil, 0
		o.mu.Unlock()
		if dropped > 0 {
			o.log.Warn("handler of service changes too slow: changes dropped", "dropped", dropped)
		}
		for _, c := range queue {
			select {
			case <-ctx.Done():
				return
			case <-o.quit:
				return
			default:
			}
			o.call(c)
		}
	}
}

func (o *observer) call(c change) {
	defer func() {
		if p := recover(); p != nil {
			o.log.Error("handler of service changes panicked", "id", c.info.ID, "panic", p)
		}
	}()
	o.f(c.info, c.old)
}
