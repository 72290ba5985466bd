package service

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/topic"
)

// Two processes that use one client id put each other's connection out [MQTT-3.1.4-3], for ever if both come back. So a
// service looks, under another client id, whether someone has its id already: before it connects, and when it was put out.

// InUseError is a service id that another running process has.
type InUseError struct {
	ID    string
	Host  string    // where it runs; "" when it does not tell
	PID   int       // its process there; 0 when it does not tell
	Since time.Time // when it was started, by its own clock; zero when it does not tell

	ousted bool // it came later, and has taken the place
}

// Error says who has the id, and what to do: "service navigation is already running as process 812 on mower since
// 2026-05-01 14:03:05: stop that one, or choose another id".
func (e *InUseError) Error() string {
	s := "service " + e.ID + " is already running"
	if e.ousted {
		s = "service " + e.ID + " was started a second time and has lost its place: it is running"
	}
	if e.PID != 0 {
		s += fmt.Sprintf(" as process %d", e.PID)
	}
	if e.Host != "" {
		s += " on " + e.Host
	}
	if !e.Since.IsZero() {
		s += " since " + e.Since.Local().Format(time.DateTime)
	}
	return s + ": stop that one, or choose another id"
}

const (
	// proofTime is how long a service that is said to be running has to prove it. One that hangs is none.
	proofTime = 2 * time.Second
	// lookTime is how long the broker has to tell the status.
	lookTime = 5 * time.Second
)

// claim returns an *InUseError when a running service has this one's id. It takes a few round trips, and proofTime when neither
// an answer comes nor anything that says that none can come: a broker that does not tell (MQTT 3.1.1), or a service that hangs.
//
// A broker that lets no such look happen (a client id of its choice, topics that only this service may use) is no reason not to
// start: then there is no error.
func (s *Service) claim(ctx context.Context) error {
	o := s.o.Client
	o.ID, o.CleanStart, o.SessionExpiry, o.DurableSession, o.Dir = s.o.ID+"-"+rand.Text()[:8], true, -1, false, ""
	o.Will, o.Birth, o.OnState = nil, nil, nil
	o.Logger = slog.New(warnings{o.Logger.Handler()})
	c, err := client.Connect(ctx, o)
	if err != nil {
		if refused := (*client.ConnectError)(nil); errors.As(err, &refused) && refused.Refused() {
			return nil // it is this client id's affair, or the real connection will say it again
		}
		return err
	}
	defer func() {
		bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = c.Close(bye)
	}()
	status := &place{gone: make(chan struct{}), told: make(chan struct{})}
	look, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	if _, err := c.Subscribe(look, s.statusTopic(), status.hear); err != nil {
		return ctx.Err()
	}
	if !s.answers(ctx, c, status.gone) {
		return ctx.Err()
	}
	select { // who it is, is retained: it comes at the same time
	case <-status.told:
	case <-look.Done():
	}
	holder := status.last()
	return &InUseError{ID: s.o.ID, Host: holder.host, PID: holder.pid, Since: holder.started}
}

// A place is what the status topic of a service says.
type place struct {
	gone chan struct{} // closed when it says that the service is away
	told chan struct{} // closed when it says anything

	mu     sync.Mutex
	report report // guarded by mu
}

func (p *place) hear(_ context.Context, d *client.Delivery) {
	rep, ok := readStatus(d)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.report = rep
	closeOnce(p.told)
	if ok && rep.state == Offline {
		closeOnce(p.gone)
	}
}

// closeOnce closes c if it is open. Its callers exclude each other.
func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

func (p *place) last() report {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.report
}

// answers reports whether the service that has the id answers a ping. When the broker says that nobody hears the question,
// or the status that the service is gone, that is known at once.
func (s *Service) answers(ctx context.Context, c *client.Client, gone <-chan struct{}) bool {
	ctx, cancel := context.WithTimeout(ctx, proofTime)
	defer cancel()
	go func() {
		select {
		case <-gone:
			cancel()
		case <-ctx.Done():
		}
	}()
	var p pong
	err := c.Call(ctx, s.o.ID, "ping", nil, &p, client.AtLeastOnce())
	var said *client.CommandError
	var refused *client.RefusedError
	switch {
	case errors.As(err, &refused): // by the broker: nobody was asked
		return false
	case err == nil:
		return p.ServiceID == "" || p.ServiceID == s.o.ID // not one whose type is called so
	case !errors.As(err, &said):
		return false
	}
	switch said.Code {
	case client.CodeUnknownCommand, client.CodeBadParameters, client.CodeFailed, client.CodeRefused:
		return ctx.Err() == nil // an answer all the same
	}
	return false
}

// watchPlace returns what is told of each change of the connection. It looks who put this service out, when that is why
// the connection ended. Over MQTT 3.1.1 a broker does not say so.
func (s *Service) watchPlace(users func(connected bool, cause error)) func(connected bool, cause error) {
	return func(connected bool, cause error) {
		var said *client.DisconnectError
		if !connected && errors.As(cause, &said) && said.TakenOver() {
			s.mu.Lock()
			if s.phase < stopping { // Stop waits for the goroutines that there are
				s.wg.Go(s.reclaim)
			}
			s.mu.Unlock()
		}
		if users != nil {
			users(connected, cause)
		}
	}
}

// looksBack is for how long a service that was put out looks who that was: somewhat less than its client waits to come back.
const looksBack = 12 * time.Second

// reclaim ends this service if another one has taken its place. Who took it may need a moment to announce itself. If
// nobody does, or it has gone again, the client takes the place back.
func (s *Service) reclaim() {
	ctx, cancel := context.WithTimeout(s.ctx, looksBack)
	defer cancel()
	var used *InUseError
	for !errors.As(s.claim(ctx), &used) {
		select {
		case <-time.After(proofTime / 2):
		case <-ctx.Done():
			return
		}
	}
	used.ousted = true
	s.log.Error("put out by another process with the same id", "error", used)
	s.mu.Lock()
	s.ousted = used
	s.mu.Unlock()
	go func() { // it waits for this goroutine
		ctx, cancel := context.WithTimeout(context.Background(), runPatience)
		defer cancel()
		_ = s.stop(ctx, "put out by another process") // whoever calls Stop is told
	}()
}

// hostname is "" when there is none that could be a name.
func hostname() string {
	name, err := os.Hostname()
	if err != nil || topic.CheckLevel("host", name) != nil {
		return ""
	}
	return name
}

// warnings passes on what is at least a warning.
type warnings struct{ slog.Handler }

func (w warnings) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && w.Handler.Enabled(ctx, l)
}
func (w warnings) WithAttrs(a []slog.Attr) slog.Handler { return warnings{w.Handler.WithAttrs(a)} }
func (w warnings) WithGroup(g string) slog.Handler      { return warnings{w.Handler.WithGroup(g)} }
