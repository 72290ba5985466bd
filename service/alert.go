package service

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

const (
	// resolveAfter is how long after it was last raised an alert with AutoResolve ends that says nothing else.
	resolveAfter = 5 * time.Minute
	// resolveCheck is how often the functions of WithResolveWhen are asked.
	resolveCheck = 250 * time.Millisecond
	// resolveTime is how long the service waits for the broker to take in that an alert is over, before it looks after the next one.
	resolveTime = 5 * time.Second
	// maxUnderWay bounds what is remembered of own messages that the broker has not sent back.
	maxUnderWay = 256
)

// alerts are the alerts as a service knows them, and those that are its own.
type alerts struct {
	book  AlertBook
	send  sync.Mutex    // held from the making of a message to its place in the outbox, so that both have one order
	nudge chan struct{} // holds one token when an alert may have to be resolved at another time

	// Guarded by book.mu.
	underWay map[string][]string  // by type: ids of own messages that have not come back, "" for a clearing one
	own      map[string]*ownAlert // raised here, and not ended since
}

// ownAlert is an alert as this service raised it last.
type ownAlert struct {
	alert Alert
	at    time.Time // when, by the monotonic clock
	after time.Duration
	when  func() bool
}

func newAlerts() *alerts {
	return &alerts{nudge: make(chan struct{}, 1), underWay: make(map[string][]string), own: make(map[string]*ownAlert)}
}

// AlertOption changes how an alert ends: WithResolveAfter, WithResolveWhen.
type AlertOption func(*ownAlert)

// WithResolveAfter clears the alert d after it was raised last: raise it again while its reason lasts. It sets AutoResolve. An alert
// with AutoResolve and neither option ends 5 minutes after it was raised last.
func WithResolveAfter(d time.Duration) AlertOption { return func(o *ownAlert) { o.after = max(d, 1) } }

// WithResolveWhen clears the alert as soon as gone returns true. It is asked a few times a second, by one goroutine for all
// alerts of the service: it must not block. It sets AutoResolve, and time alone does not end the alert unless WithResolveAfter is
// given too. A gone that panics has not said that the reason is gone.
func WithResolveWhen(gone func() bool) AlertOption { return func(o *ownAlert) { o.when = gone } }

// EmitAlert raises an alert: a retained message on safety/alerts/{alert_type}, where it stays until it is cleared (see Alerts in the
// package's documentation), over the end of this service. Its priority is critical when its severity is, else high; it goes out at
// QoS 2, before all that is no safety message, and no rate limits it. Raising it again is counted, and keeps an acknowledgement unless the
// severity rises.
//
// Its errors are those of the client's Publish. While there is no connection the alert waits in the outbox. Of several calls
// at once each is sent, in one order.
func (s *Service) EmitAlert(ctx context.Context, a message.Alert, opts ...AlertOption) error {
	if err := topic.CheckLevel("alert type", a.AlertType); err != nil {
		return err
	}
	own := &ownAlert{at: time.Now()}
	for _, o := range opts {
		o(own)
	}
	if own.after > 0 || own.when != nil {
		a.AutoResolve = true
	} else if a.AutoResolve {
		own.after = resolveAfter
	}
	if _, err := message.NewAlert(s.o.ID, a); err != nil {
		return fmt.Errorf("alert %s: %w", a.AlertType, err)
	}
	err := s.sendAlert(ctx, a.AlertType, func(b *AlertBook) (message.Message, error) {
		next := Alert{Alert: a, Sender: s.o.ID, Time: own.at, Count: 1, FirstRaised: own.at}
		own.alert = next
		if old, stands := b.current[a.AlertType]; stands {
			next = again(next, old)
		}
		m, err := next.message(s.o.ID)
		if err != nil {
			return m, err
		}
		next.id = m.Metadata.ID
		b.putLocked(a.AlertType, next, own.at)
		s.alerts.own[a.AlertType] = own
		return m, nil
	}, client.WithRetain(true))
	select {
	case s.alerts.nudge <- struct{}{}:
	default:
	}
	return err
}

// again is what becomes of an alert that stands when next is raised.
func again(next, old Alert) Alert {
	worse := badness(next.Severity) > badness(old.Severity)
	if next.Sender != old.Sender && badness(next.Severity) < badness(old.Severity) {
		next.Alert, next.Sender = old.Alert, old.Sender
	}
	next.Count, next.FirstRaised = old.Count+1, old.FirstRaised
	if old.Acknowledged && !worse {
		next.Acknowledged, next.AcknowledgedBy, next.AcknowledgedAt = true, old.AcknowledgedBy, old.AcknowledgedAt
	}
	return next
}

// AckAlert acknowledges the alert of a type: it stands, and is known to be seen. It returns ErrNoAlert if none stands, and nil if
// it is acknowledged already.
func (s *Service) AckAlert(ctx context.Context, alertType string) error {
	if err := topic.CheckLevel("alert type", alertType); err != nil {
		return err
	}
	return s.sendAlert(ctx, alertType, func(b *AlertBook) (message.Message, error) {
		if b.current[alertType].Acknowledged {
			return message.Message{}, errNothingToSay
		}
		a, m, err := b.acknowledgeLocked(alertType, s.o.ID)
		if err != nil {
			return m, err
		}
		b.putLocked(alertType, a, time.Now())
		return m, nil
	}, client.WithRetain(true))
}

// ClearAlert ends the alert of a type, whoever raised it: its retained message is removed.
func (s *Service) ClearAlert(ctx context.Context, alertType string) error {
	if err := topic.CheckLevel("alert type", alertType); err != nil {
		return err
	}
	return s.endAlert(ctx, alertType, AlertCleared, nil)
}

// endAlert ends an alert; if only is not nil, then only as long as that is the last that was heard of it.
func (s *Service) endAlert(ctx context.Context, alertType string, why AlertAction, only *ownAlert) error {
	opts := ClearOptions(s.o.ID)
	if why == AlertResolved {
		opts = append(opts, client.WithUser(clearedWhy, whyResolved))
	}
	return s.sendAlert(ctx, alertType, func(b *AlertBook) (message.Message, error) {
		if only != nil && s.alerts.own[alertType] != only { // raised again
			return message.Message{}, errNothingToSay
		}
		delete(s.alerts.own, alertType)
		if only != nil && b.current[alertType].Sender != s.o.ID { // another one's, worse than ours
			return message.Message{}, errNothingToSay
		}
		b.endLocked(alertType, AlertEntry{Time: time.Now(), Action: why, By: s.o.ID})
		return message.NewRaw(nil), nil
	}, opts...)
}

// errNothingToSay ends sendAlert without an error.
var errNothingToSay = errors.New("nothing to say")

// sendAlert publishes what compose makes of the alerts as they are, and waits until it is safe.
func (s *Service) sendAlert(ctx context.Context, kind string, compose func(b *AlertBook) (message.Message, error), opts ...client.PublishOption) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("publish %s: %w", alertsTopic+kind, err)
	}
	r, id, err := s.postAlert(kind, compose, opts...)
	if errors.Is(err, errNothingToSay) {
		return nil
	}
	if err != nil {
		return err
	}
	select {
	case <-r.Done():
	case <-ctx.Done():
		return fmt.Errorf("publish %s: %w", alertsTopic+kind, ctx.Err())
	}
	if err = r.Err(); err != nil && !errors.Is(err, client.ErrNotStored) { // what is not stored is on its way all the same
		b := &s.alerts.book
		b.mu.Lock()
		s.arrivedLocked(kind, id, false)
		b.mu.Unlock()
	}
	return err
}

// postAlert is sendAlert without waiting. id is the message's.
func (s *Service) postAlert(kind string, compose func(b *AlertBook) (message.Message, error), opts ...client.PublishOption) (r *client.Receipt, id string, err error) {
	s.alerts.send.Lock()
	defer s.alerts.send.Unlock()
	b := &s.alerts.book
	b.mu.Lock()
	m, err := compose(b)
	if id = m.Metadata.ID; err == nil {
		ids := append(s.alerts.underWay[kind], id)
		s.alerts.underWay[kind] = ids[max(0, len(ids)-maxUnderWay):]
	}
	b.mu.Unlock()
	if err != nil {
		return nil, id, err
	}
	return s.client.PublishAsync(alertsTopic+kind, m, opts...), id, nil
}

// arrivedLocked takes an own message off those that are under way, with the ones before it if it came back. mine is false for a
// message of others; more tells that own ones follow. book.mu is held.
func (s *Service) arrivedLocked(kind, id string, back bool) (mine, more bool) {
	ids := s.alerts.underWay[kind]
	i := slices.Index(ids, id)
	switch {
	case i < 0:
		return false, len(ids) > 0
	case back:
		ids = ids[i+1:]
	default:
		ids = slices.Delete(ids, i, i+1)
	}
	if s.alerts.underWay[kind] = ids; len(ids) == 0 {
		delete(s.alerts.underWay, kind)
	}
	return true, len(ids) > 0
}

// onAlert keeps the book. What was sent here is in it already; and what arrives while something of ours is under way was there
// before that, which will replace it.
func (s *Service) onAlert(_ context.Context, d *client.Delivery) {
	kind := lastLevel(d.Topic)
	b := &s.alerts.book
	b.mu.Lock()
	id := d.Message.Metadata.ID
	mine, more := s.arrivedLocked(kind, id, true)
	if cur, stands := b.current[kind]; more || mine && (stands && cur.id == id || !stands && id == "") {
		b.mu.Unlock()
		return
	}
	if len(d.Message.Payload) == 0 {
		delete(s.alerts.own, kind)
	}
	b.mu.Unlock()
	e, changed := b.Take(d)
	if changed && e.Action == AlertChanged {
		s.putRight(kind)
	}
}

// putRight raises an alert of ours again if it was replaced by a less severe one.
func (s *Service) putRight(kind string) {
	_, _, err := s.postAlert(kind, func(b *AlertBook) (message.Message, error) {
		own, cur := s.alerts.own[kind], b.current[kind]
		if own == nil || badness(cur.Severity) >= badness(own.alert.Severity) {
			return message.Message{}, errNothingToSay
		}
		next := own.alert
		next.Count, next.FirstRaised = max(cur.Count, 1), cur.FirstRaised
		m, err := next.message(s.o.ID)
		next.id = m.Metadata.ID
		if err == nil {
			b.putLocked(kind, next, time.Now())
		}
		return m, err
	}, client.WithRetain(true))
	if err == nil {
		s.log.Warn("alert raised again: it was replaced by a less severe one", "type", kind)
	} else if !errors.Is(err, errNothingToSay) {
		s.log.Error("alert cannot be raised again", "type", kind, "error", err)
	}
}

// resolveAlerts ends the alerts of this service whose time or reason has passed, until the service ends.
func (s *Service) resolveAlerts() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Stop()
		if wait := s.resolveDue(); wait > 0 {
			timer.Reset(wait)
		}
		select {
		case <-s.ctx.Done():
			return
		case <-s.alerts.nudge:
		case <-timer.C:
		}
	}
}

// resolveDue ends what is due, and returns when to look again; 0 is not before another is raised.
func (s *Service) resolveDue() (wait time.Duration) {
	s.alerts.book.mu.Lock()
	all := maps.Clone(s.alerts.own)
	s.alerts.book.mu.Unlock()
	next := func(d time.Duration) {
		if d = max(d, time.Millisecond); wait == 0 || d < wait {
			wait = d
		}
	}
	for kind, own := range all {
		left := own.after - time.Since(own.at)
		due := own.after > 0 && left <= 0 || own.when != nil && s.reasonGone(kind, own.when)
		if !due {
			if own.when != nil {
				next(resolveCheck)
			}
			if own.after > 0 {
				next(left)
			}
			continue
		}
		ctx, cancel := context.WithTimeout(s.ctx, resolveTime)
		if err := s.endAlert(ctx, kind, AlertResolved, own); err != nil && s.ctx.Err() == nil {
			s.log.Warn("alert may not have been resolved", "type", kind, "error", err)
		}
		cancel()
	}
	return wait
}

func (s *Service) reasonGone(kind string, gone func() bool) (yes bool) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("the function that says whether an alert is over panicked", "type", kind, "panic", p)
			yes = false
		}
	}()
	return gone()
}

// OnAlert calls h for every alert: those raised before (Retained), and each raised from now on, by this service too; again when
// its severity, its text or its raiser has changed, but not when it is repeated or acknowledged. It returns when the broker
// confirmed. The alerts come one after the other, in order; what is no alert is skipped.
func (s *Service) OnAlert(ctx context.Context, h func(ctx context.Context, a Alert)) (*client.Subscription, error) {
	return s.OnAlertChange(ctx, func(ctx context.Context, e AlertEntry) {
		if e.Action == AlertRaised || e.Action == AlertChanged {
			h(ctx, e.Alert)
		}
	})
}

// OnAlertChange calls h once for everything that happens to an alert: raised (those that stood before come first), changed,
// acknowledged, resolved, cleared. Otherwise it is like OnAlert.
func (s *Service) OnAlertChange(ctx context.Context, h func(ctx context.Context, e AlertEntry)) (*client.Subscription, error) {
	var seen AlertBook
	return s.client.Subscribe(ctx, alertsTopic+"+", func(ctx context.Context, d *client.Delivery) {
		if e, changed := seen.Take(d); changed {
			h(ctx, e)
		}
	})
}

// Alerts returns the alerts that stand, the worst first: those of all services, since Start.
func (s *Service) Alerts() []Alert { return s.alerts.book.Alerts() }

// AlertHistory returns the last 100 things that happened to alerts while this service was there, the oldest first.
func (s *Service) AlertHistory() []AlertEntry { return s.alerts.book.History() }
