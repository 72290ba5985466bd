package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
)

const (
	healthTopic = "system/health"
	// supervisorID is the client id of a supervisor, and the sender of what it says.
	supervisorID = "lawnberry-supervisor"
	// hearingTime is how long a supervisor listens before it reports deaths: what the broker publishes at its start, and
	// services that are on their way back, are no news.
	hearingTime = 3 * time.Second
	// renewal is how often system/health is published anew when nothing changes.
	renewal = 30 * time.Second
)

// SupervisorOptions configure a supervisor.
type SupervisorOptions struct {
	Client  client.Options // ID is set by Supervise
	Renew   time.Duration  // how often system/health is published when nothing changes; 0 is 30 s
	Version string         // of the program, announced; "" is "0.0.0"
	Logger  *slog.Logger   // nil is discarded
	// Trouble, when not nil, is asked each second what is wrong with the broker; "" is nothing. It makes the whole degraded at least.
	Trouble func() string
}

// Health is what a supervisor says of all services together, the payload's details of system/health.
type Health struct {
	Supervisor bool           `json:"supervisor"` // one is at work; false when it was stopped
	State      State          `json:"state"`
	Reasons    []string       `json:"reasons"`  // why it is not healthy, the worst first
	Services   map[State]int  `json:"services"` // how many are in each state
	Unhealthy  []ServiceState `json:"unhealthy"`
}

// ServiceState is a service that is not healthy.
type ServiceState struct {
	ServiceID string `json:"service_id"`
	State     State  `json:"state"`
	Reason    string `json:"reason,omitempty"`
}

// A Supervisor watches all services of a bus from the side of the broker. It publishes system/health, retained: at once when that
// changes, and as often as its options say. And it reports deaths, once, with the events service_offline and service_state_change;
// while it is there the services leave that to it, and do it themselves a second later if it does not.
//
// It says nothing before it has heard of a service. Its methods may be called concurrently.
type Supervisor struct {
	o        SupervisorOptions
	log      *slog.Logger
	client   *client.Client
	registry *registry
	started  time.Time
	nudge    chan struct{}

	cancel context.CancelFunc
	wg     sync.WaitGroup
	once   sync.Once

	mu     sync.Mutex
	health Health // as last published; guarded by mu
}

// Supervise starts a supervisor. It returns when the broker has confirmed its subscriptions.
func Supervise(ctx context.Context, o SupervisorOptions) (*Supervisor, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Renew <= 0 {
		o.Renew = renewal
	}
	if o.Version == "" {
		o.Version = "0.0.0"
	}
	s := &Supervisor{o: o, log: o.Logger, started: time.Now(), nudge: make(chan struct{}, 1)}
	s.registry = newRegistry("", standardTimeout, o.Logger)
	s.registry.supervisor = true
	s.registry.lost = s.reportLoss
	co := o.Client
	co.ID, co.CleanStart, co.SessionExpiry, co.Dir = supervisorID, true, -1, ""
	var err error
	if s.client, err = client.Connect(ctx, co); err != nil {
		return nil, fmt.Errorf("supervisor: %w", err)
	}
	s.registry.linked = func() bool { return s.client.Connected() && time.Since(s.started) > hearingTime }
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	for filter, h := range map[string]client.Handler{
		"system/services/+/status": s.onStatus,
		"system/health_check":      func(context.Context, *client.Delivery) { s.announceSoon() },
		healthTopic:                s.onHealth,
	} {
		if _, err := s.client.Subscribe(ctx, filter, h); err != nil {
			cancel()
			return nil, errors.Join(fmt.Errorf("supervisor: %w", err), s.client.Close(ctx))
		}
	}
	s.wg.Go(func() { s.registry.run(run) })
	s.wg.Go(func() { s.watch(run) })
	return s, nil
}

// Stop ends the supervisor: system/health says that nobody watches any more. It is idempotent.
func (s *Supervisor) Stop(ctx context.Context) (err error) {
	s.once.Do(func() {
		s.cancel()
		s.wg.Wait()
		if len(s.registry.all("")) > 0 {
			if m, e := s.message(Health{State: Offline, Reasons: []string{"the supervisor was stopped"}}); e == nil {
				err = s.client.Publish(ctx, healthTopic, m, client.WithRetain(true), client.Unlimited())
			}
		}
		err = errors.Join(err, s.client.Close(ctx))
	})
	return err
}

// Health returns what was last published.
func (s *Supervisor) Health() Health {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.health
	h.Reasons, h.Unhealthy, h.Services = slices.Clone(h.Reasons), slices.Clone(h.Unhealthy), maps.Clone(h.Services)
	return h
}

// message makes the status message of system/health.
func (s *Supervisor) message(h Health) (message.Message, error) {
	if h.Reasons == nil {
		h.Reasons = []string{}
	}
	if h.Unhealthy == nil {
		h.Unhealthy = []ServiceState{}
	}
	if h.Services == nil {
		h.Services = map[State]int{}
	}
	raw, err := message.EncodeJSON(h)
	if err != nil {
		return message.Message{}, err
	}
	return message.NewStatus(supervisorID, message.Status{
		Status: string(h.State), Uptime: time.Since(s.started).Round(time.Millisecond).Seconds(), Version: s.o.Version, Details: raw,
	})
}

func (s *Supervisor) announceSoon() {
	select {
	case s.nudge <- struct{}{}:
	default:
	}
}

// watch publishes the health until ctx ends.
func (s *Supervisor) watch(ctx context.Context) {
	tick := time.NewTicker(s.o.Renew)
	defer tick.Stop()
	var look <-chan time.Time
	if s.o.Trouble != nil {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		look = ticker.C
	}
	for {
		_, changed := s.registry.states(nil)
		h := s.judge()
		s.mu.Lock()
		news := !sameHealth(h, s.health)
		s.mu.Unlock()
		if news && len(h.Services) > 0 {
			s.publish(h)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-look:
		case <-tick.C:
			s.again()
		case <-s.nudge:
			s.again()
			select { // a flood of questions does not become one of answers
			case <-time.After(nudgeGap):
			case <-ctx.Done():
				return
			}
		}
	}
}

// again publishes the health although it has not changed.
func (s *Supervisor) again() {
	if h := s.judge(); len(h.Services) > 0 {
		s.publish(h)
	}
}

// judge says how the services and the broker are together.
func (s *Supervisor) judge() Health {
	h := judge(s.registry.entries())
	if s.o.Trouble == nil {
		return h
	}
	if why := s.o.Trouble(); why != "" {
		h.Reasons = append(h.Reasons, "the broker: "+why)
		if rank(h.State) < rank(Degraded) {
			h.State = Degraded
		}
	}
	return h
}

func (s *Supervisor) publish(h Health) {
	s.mu.Lock()
	worse := rank(h.State) > rank(s.health.State)
	s.health = h
	s.mu.Unlock()
	m, err := s.message(h)
	if err != nil {
		s.log.Error("health cannot be encoded", "error", err)
		return
	}
	opts := []client.PublishOption{client.WithRetain(true)}
	if worse { // at once; otherwise the latest, as often as the topic's rate allows
		opts = append(opts, client.Unlimited())
	}
	s.client.PublishAsync(healthTopic, m, opts...)
}

// onStatus takes in the status of a service.
func (s *Supervisor) onStatus(_ context.Context, d *client.Delivery) {
	levels := strings.Split(d.Topic, "/")
	if len(levels) != 4 || levels[2] == "" {
		return
	}
	if len(d.Message.Payload) == 0 {
		s.registry.remove(levels[2])
		return
	}
	if rep, ok := readStatus(d); ok {
		s.registry.apply(levels[2], rep, d.Received)
	}
}

// onHealth sees what others see of the health: what someone else has put there is put right.
func (s *Supervisor) onHealth(_ context.Context, d *client.Delivery) {
	if len(d.Message.Payload) == 0 || d.Message.Metadata.Sender != supervisorID || !supervised(d) {
		s.announceSoon()
	}
}

// supervised reports whether a message on system/health says that a supervisor is at work.
func supervised(d *client.Delivery) bool {
	var payload, det fields
	if !decodeFields(d.Message.Payload, &payload) || !decodeFields(payload["details"], &det) {
		return false
	}
	return string(det["supervisor"]) == "true"
}

// reportLoss reports that a service died.
func (s *Supervisor) reportLoss(d death) {
	i := d.info
	s.log.Warn("service went offline", "id", i.ID, "was", string(d.old), "reason", i.Reason)
	for eventType, data := range map[string]any{
		eventOffline: offlineData(i.ID, i.LastSeen, d.lastStatus), eventChange: stateChange{i.ID, d.old, Offline},
	} {
		m, err := newEvent(supervisorID, eventType, data)
		if err != nil {
			s.log.Error("event cannot be encoded", "type", eventType, "error", err)
			continue
		}
		s.client.PublishAsync("system/events/"+eventType, m, client.WithExpiry(reportLife))
	}
}

// rank orders states of the whole by how bad they are.
func rank(st State) int { return slices.Index([]State{Healthy, Starting, Degraded, Failing}, st) }

// judge says how all services are together: as the worst of them is. A service that is gone without having said so, or that
// reports an error, makes it an error. One that was stopped makes it degraded as long as a running service depends on it.
// What is not known counts as degraded.
func judge(all []supervisedService) Health {
	h := Health{Supervisor: true, State: Healthy, Services: map[State]int{}}
	needed := map[string][]string{}
	for _, e := range all {
		if e.info.State.running() || e.info.State == Starting {
			for _, d := range e.info.Dependencies {
				needed[d] = append(needed[d], e.info.ID)
			}
		}
	}
	type finding struct {
		bad  State
		text string
	}
	var found []finding
	for _, e := range all {
		i := e.info
		h.Services[i.State]++
		bad, why := Healthy, ""
		switch i.State {
		case Healthy, ShuttingDown:
		case Starting, Degraded, Failing:
			bad = i.State
		case Offline:
			switch {
			case !e.byItself:
				bad = Failing
			case len(needed[i.ID]) > 0:
				bad, why = Degraded, ", needed by "+strings.Join(needed[i.ID], ", ")
			}
		default:
			bad = Degraded
		}
		delete(needed, i.ID)
		if bad == Healthy {
			continue
		}
		text := fmt.Sprintf("%s is %s", i.ID, i.State)
		if i.Reason != "" {
			text += ": " + i.Reason
		}
		found = append(found, finding{bad, text + why})
		h.Unhealthy = append(h.Unhealthy, ServiceState{i.ID, i.State, i.Reason})
	}
	for _, id := range slices.Sorted(maps.Keys(needed)) {
		found = append(found, finding{Degraded, fmt.Sprintf("%s was never seen, needed by %s", id, strings.Join(needed[id], ", "))})
	}
	slices.SortStableFunc(found, func(a, b finding) int { return rank(b.bad) - rank(a.bad) })
	for _, f := range found {
		h.Reasons = append(h.Reasons, f.text)
	}
	if len(found) > 0 {
		h.State = found[0].bad
	}
	return h
}

func sameHealth(a, b Health) bool {
	return a.State == b.State && slices.Equal(a.Reasons, b.Reasons) && slices.Equal(a.Unhealthy, b.Unhealthy) && maps.Equal(a.Services, b.Services)
}
