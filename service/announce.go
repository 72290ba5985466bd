package service

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
)

const (
	// nudgeGap is the least time between two announcements that others ask for: a flood of requests on one topic does
	// not become a flood of answers from every service.
	nudgeGap = 250 * time.Millisecond
	// settle is how long the broker has to send our latest announcement back before it is made again.
	settle = time.Second
	// syncPatience bounds the wait for the first announcement to come back, on brokers that do not send us our own.
	syncPatience = 2 * time.Second
)

// retained is how statuses go out, whatever is configured for their topic.
func retained() []client.PublishOption {
	return []client.PublishOption{client.WithRetain(true), client.Volatile(), client.Unlimited()}
}

func (s *Service) statusTopic() string { return "system/services/" + s.o.ID + "/status" }

// status makes a status message.
func (s *Service) status(v verdict, res message.Resources) (message.Message, error) {
	now := time.Now()
	up := now.Sub(s.started).Round(time.Millisecond).Seconds()
	d := details{
		ServiceID: s.o.ID, ServiceType: s.o.Type, Version: s.o.Version,
		StartTime: message.Seconds(s.started), LastHeartbeat: message.Seconds(now),
		State: v.state, Uptime: up,
		Dependencies: s.o.Dependencies, Endpoints: s.o.Endpoints, Metadata: s.metadata, Reason: v.reason,
		Host: s.host, PID: os.Getpid(),
		Heartbeat: s.o.Heartbeat.Seconds(), Lease: s.o.HeartbeatTimeout.Seconds(), Optional: s.o.Optional, Shares: s.shares.Load(),
	}
	if d.Endpoints == nil {
		d.Endpoints = map[string]string{}
	}
	raw, err := message.EncodeJSON(d)
	if err != nil {
		return message.Message{}, err
	}
	return message.NewStatus(s.o.ID, message.Status{
		Status: string(v.state), Uptime: up, Version: s.o.Version, Details: raw, Resources: res,
	})
}

// will is what the broker announces when this service vanishes. Its timestamp is that of the connection's begin.
func (s *Service) will() (*client.Will, error) {
	m, err := s.status(verdict{Offline, reasonLost}, message.Resources{})
	return &client.Will{Topic: s.statusTopic(), Message: m, QoS: 1, Retain: true}, err
}

// birth announces the service again after each reconnect. At the first connection there is nothing to announce yet:
// Start does it once it hears the others.
func (s *Service) birth(users func(context.Context, *client.Client) error) func(context.Context, *client.Client) error {
	return func(ctx context.Context, c *client.Client) error {
		if m, ok := s.rebirth(); ok {
			if err := c.Publish(ctx, s.statusTopic(), m, retained()...); err != nil {
				return fmt.Errorf("announce %s: %w", s.o.ID, err)
			}
			s.publishCommands(true) // the broker may have lost them
		}
		if users != nil {
			return users(ctx, c)
		}
		return nil
	}
}

// rebirth returns what to announce after a reconnect: nothing for a service that has not begun, has ended, or hangs.
func (s *Service) rebirth() (message.Message, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	hangs := !s.asking.IsZero() && time.Since(s.asking) > s.o.Heartbeat
	if s.announced == "" || s.phase == stopped || hangs || s.ousted != nil {
		return message.Message{}, false
	}
	m, err := s.status(verdict{s.state, s.reason}, s.usage.known())
	if err != nil {
		return m, false
	}
	s.announced, s.settled = m.Metadata.ID, false
	return m, true
}

// announceLocked announces the current state. s.mu is held.
func (s *Service) announceLocked() {
	if s.ousted != nil { // the place is another's
		return
	}
	m, err := s.status(verdict{s.state, s.reason}, s.usage.known())
	if err != nil { // what can fail was tried in Start
		s.log.Error("status cannot be encoded", "error", err)
		return
	}
	s.announced, s.settled = m.Metadata.ID, false
	s.mail.put(letter{s.statusTopic(), m, retained()})
}

// announceFirst announces the service as starting, and waits until that is safe and has come back: what the broker had
// retained about the others arrived before.
func (s *Service) announceFirst(ctx context.Context) error {
	s.mu.Lock()
	m, err := s.status(verdict{s.state, s.reason}, s.usage.known())
	s.announced, s.settled = m.Metadata.ID, false
	s.mu.Unlock()
	if err == nil {
		err = s.client.Publish(ctx, s.statusTopic(), m, retained()...)
	}
	if err != nil {
		return fmt.Errorf("announce: %w", err)
	}
	patience := time.NewTimer(syncPatience)
	defer patience.Stop()
	select {
	case <-s.synced:
		return nil
	case <-patience.C:
		s.log.Warn("the broker does not send our own status back: other services may be missing at first")
		return nil
	case <-s.done:
		return errStopping
	case <-ctx.Done():
		return ctx.Err()
	}
}

// beat sends the heartbeats, until the service ends. While Options.Health hangs, so does it: that is what makes a hung
// service go silent.
func (s *Service) beat() {
	tick := time.NewTicker(s.o.Heartbeat)
	defer tick.Stop()
	check := time.NewTimer(time.Hour)
	defer check.Stop()
	check.Stop()
	var last time.Time // of the last announcement that others asked for
	var told time.Time // when the last heartbeat was retained
	for {
		var first chan struct{}
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
			if time.Since(told) < standardHeartbeat-s.o.Heartbeat/2 {
				s.askHealth(false)
				s.pulse()
				continue
			}
		case <-s.nudge:
			if !s.pause(nudgeGap - time.Since(last)) {
				return
			}
			last = time.Now()
		case first = <-s.first:
		case <-s.foreign:
			check.Reset(settle)
			continue
		case <-check.C:
			if s.isSettled() {
				continue
			}
		}
		told = time.Now()
		s.askHealth(first != nil)
		if first != nil {
			close(first)
			continue // Start announces
		}
		s.heartbeat()
	}
}

// pause waits for d; false when the service ends.
func (s *Service) pause(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// heartbeat announces the current state, unless the link is down: Birth does it when it is back.
func (s *Service) heartbeat() {
	if !s.client.Connected() {
		return
	}
	s.usage.current()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.announced != "" && s.phase != stopped {
		s.announceLocked()
	}
}

// pulse is a heartbeat between those that are retained, for a lease that is short. It passes by what else the service has to say,
// and costs the broker's disk nothing.
func (s *Service) pulse() {
	s.mu.Lock()
	ok := s.announced != "" && s.phase != stopped && s.ousted == nil && s.client.Connected()
	m, err := s.status(verdict{s.state, s.reason}, s.usage.known())
	s.mu.Unlock()
	if ok && err == nil {
		s.client.PublishAsync(s.statusTopic(), m, client.WithQoS(0), client.WithRetain(false), client.Volatile(), client.Unlimited(),
			client.WithExpiry(s.o.HeartbeatTimeout))
	}
}

func (s *Service) isSettled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.settled
}

// firstHealthTime is what the first answer of Options.Health may take, however short the heartbeat is.
const firstHealthTime = time.Second

// firstHealth asks Options.Health for the first time.
func (s *Service) firstHealth(ctx context.Context) error {
	if s.o.Health == nil {
		return nil
	}
	answered := make(chan struct{})
	hung := time.NewTimer(max(s.o.Heartbeat, firstHealthTime))
	defer hung.Stop()
	request := s.first
	for {
		select {
		case request <- answered:
			request = nil
		case <-answered:
			return nil
		case <-hung.C:
			return fmt.Errorf("its health function did not return within %s", readable(max(s.o.Heartbeat, firstHealthTime)))
		case <-s.done:
			return errStopping
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// askHealth calls Options.Health. A service that is starting is not asked, unless for its first time.
func (s *Service) askHealth(first bool) {
	if s.o.Health == nil {
		return
	}
	s.mu.Lock()
	ask := s.phase == running || first
	if ask {
		s.asking = time.Now()
	}
	s.mu.Unlock()
	if !ask {
		return
	}
	v := s.callHealth()
	s.update(func() { s.asking, s.health = time.Time{}, v })
}

func (s *Service) callHealth() (v verdict) {
	ctx, cancel := context.WithTimeout(s.ctx, s.o.Heartbeat)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("health function panicked", "panic", p)
			v = verdict{Failing, fmt.Sprintf("the health function panicked: %v", p)}
		}
	}()
	st, reason := s.o.Health(ctx)
	switch {
	case st == "":
		st = Healthy
	case severity(st) < 0:
		return verdict{Failing, fmt.Sprintf("the health function returned %q: %s", st, reason)}
	}
	return verdict{st, reason}
}

// onHealthCheck announces the service when somebody asks for it.
func (s *Service) onHealthCheck(context.Context, *client.Delivery) { s.announceSoon() }

func (s *Service) announceSoon() {
	select {
	case s.nudge <- struct{}{}:
	default: // asked for already
	}
}

// onStatus takes in the status of a service. Its identity is the topic's, whatever the payload says.
func (s *Service) onStatus(_ context.Context, d *client.Delivery) {
	levels := strings.Split(d.Topic, "/")
	if len(levels) != 4 || levels[2] == "" {
		return
	}
	id := levels[2]
	if id == s.o.ID {
		s.onOwnStatus(d)
		return
	}
	if len(d.Message.Payload) == 0 {
		s.registry.remove(id)
		return
	}
	rep, ok := readStatus(d)
	if !ok {
		s.log.Debug("status ignored: it tells nothing about a service", "id", id)
		return
	}
	s.registry.apply(id, rep, d.Received)
}

// onOwnStatus sees what the others see of this service. It puts right what is not its latest announcement: the Will of a
// connection that we left, another process's, or nothing because someone cleared it.
func (s *Service) onOwnStatus(d *client.Delivery) {
	rep, ok := readStatus(d)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.announced == "" || s.phase == stopped {
		return
	}
	if ok && rep.id == s.announced {
		if !s.settled {
			s.registry.setSeen(rep.state)
		}
		s.settled = true
		closeOnce(s.synced)
		if s.missed {
			s.missed = false
			s.emitChangeLocked(s.o.ID, Offline, s.state)
		}
		return
	}
	if ok && !d.Retained && rep.state != Offline && rep.pid == os.Getpid() && rep.host == s.host {
		return // a pulse, or an announcement that another follows
	}
	if ok && rep.state == Offline {
		s.missed = true
	}
	s.settled = false
	select {
	case s.foreign <- struct{}{}:
	default:
	}
}

// infoLocked is what this service knows of itself. s.mu is held, or s not yet shared.
func (s *Service) infoLocked() Info {
	i := Info{
		ID: s.o.ID, Type: s.o.Type, Version: s.o.Version, State: s.state, Reason: s.reason, Host: s.host, PID: os.Getpid(),
		Started: s.started, LastSeen: time.Now(), Uptime: time.Since(s.started),
		Dependencies: s.o.Dependencies, Optional: s.o.Optional, Endpoints: s.o.Endpoints, Metadata: s.o.Metadata,
		Resources: s.usage.known(),
	}
	return i.clone()
}
