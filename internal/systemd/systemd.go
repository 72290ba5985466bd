// Package systemd tells the service manager that has started this process how it is, if one has: that it is ready, takes its configuration in,
// stops, and, for the watchdog, that it is healthy.
package systemd

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// patience is how long the service manager has to take a message in. It takes them at once; if it hangs, nobody here is to wait for it.
const patience = 200 * time.Millisecond

// A Notifier talks to the service manager by the environment (NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID). Without one it does nothing. Its methods may
// be called concurrently; what they say arrives in their order.
type Notifier struct {
	log *slog.Logger

	mu       sync.Mutex    // guards the fields below
	sending  chan struct{} // closed when the latest message has left
	deaf     bool          // the latest could not be delivered, which was logged
	reported string        // what Ready has said last
}

// New returns a Notifier; a nil log is discarded.
func New(log *slog.Logger) *Notifier {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	left := make(chan struct{})
	close(left)
	return &Notifier{log: log, sending: left}
}

// Ready says that everything works, and a line about it for systemctl status. It also ends what Reloading began.
func (n *Notifier) Ready(status string) { n.say(daemon.SdNotifyReady, "STATUS="+line(status)) }

// Reloading says that the configuration is taken in; Ready or Failed has to follow.
func (n *Notifier) Reloading() {
	n.say(daemon.SdNotifyReloading, strings.TrimSuffix(daemon.SdNotifyMonotonicUsec(), "\n"))
}

// Stopping says that the process is about to end.
func (n *Notifier) Stopping() { n.say(daemon.SdNotifyStopping, "STATUS=stopping") }

// Watch feeds the watchdog as long as check returns nil, until ctx ends. It asks six times in the time after which the watchdog bites, and check has
// a third of it: what hangs for two thirds of that time is not bitten. A check that fails feeds nothing, and its reason is the status, until one succeeds.
// It returns at once when there is no watchdog.
func (n *Notifier) Watch(ctx context.Context, check func(context.Context) error) error {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("watchdog of the service manager: %w", err)
	}
	if limit == 0 {
		return nil
	}
	tick := time.NewTicker(max(limit/6, time.Microsecond))
	defer tick.Stop()
	for failures := 0; ; {
		bounded, cancel := context.WithTimeout(ctx, limit/3)
		err := check(bounded)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		switch {
		case err != nil:
			failures++
			n.log.Error("not healthy: the watchdog is not fed", "error", err, "times", failures, "bites_after", limit)
			n.say(fmt.Sprintf("STATUS=not healthy (%d): %s", failures, line(err.Error())))
		case failures > 0:
			failures = 0
			n.log.Info("healthy again")
			n.say(daemon.SdNotifyWatchdog, "STATUS="+n.status())
		default:
			n.say(daemon.SdNotifyWatchdog)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// status returns what Ready has said last.
func (n *Notifier) status() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.reported
}

// say sends assignments as one message. One that is not taken in holds the caller up for patience, and those after it are lost until it is.
func (n *Notifier) say(assignments ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if assignments[0] == daemon.SdNotifyReady {
		n.reported = strings.TrimPrefix(assignments[1], "STATUS=")
	}
	select {
	case <-n.sending:
	default:
		return // and that was logged
	}
	left := make(chan struct{})
	n.sending = left
	var err error
	go func() {
		defer close(left)
		_, err = daemon.SdNotify(false, strings.Join(assignments, "\n"))
	}()
	late := time.NewTimer(patience)
	defer late.Stop()
	var why string
	select {
	case <-left:
		if err != nil {
			why = err.Error()
		}
	case <-late.C:
		why = "it does not read what it is told"
	}
	if why != "" && !n.deaf {
		n.log.Warn("the service manager cannot be told how this process is", "error", why)
	}
	n.deaf = why != ""
}

// line makes one line of a text: with a second one it would say more than it means to.
func line(text string) string { return strings.Join(strings.Fields(text), " ") }
