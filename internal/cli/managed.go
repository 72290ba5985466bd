package cli

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/app"
	"github.com/lawnberry/lawnberry/internal/systemd"
)

// farewell is how long the probe has to leave a broker that may hang; it has left nothing there.
const farewell = 200 * time.Millisecond

// managed is a running system and the service manager that has started it, if one has.
type managed struct {
	a        *app.App
	config   *config.Config
	log      *slog.Logger
	notifier *systemd.Notifier
	end      context.CancelFunc // of the watchdog's food
	watching sync.WaitGroup
}

// newManaged begins to feed the watchdog, if there is one. stopping has to follow.
func newManaged(a *app.App, c *config.Config, log *slog.Logger) *managed {
	m := &managed{a: a, config: c, log: log, notifier: systemd.New(log)}
	ctx, end := context.WithCancel(context.Background())
	m.end = end
	m.watching.Go(func() { m.watch(ctx) })
	return m
}

// ready says what it listens on; trouble is why a configuration was not taken in.
func (m *managed) ready(trouble error) {
	var urls []string
	for e := range m.a.Endpoints() {
		urls = append(urls, e.URL)
	}
	status := "listening on " + strings.Join(urls, ", ")
	if len(urls) == 0 {
		status = "the broker is at " + withoutLogin(m.a.URL())
	}
	if trouble != nil {
		status = "configuration not taken in: " + trouble.Error()
	}
	m.notifier.Ready(status)
}

func (m *managed) reload(r *reloader) {
	m.notifier.Reloading()
	m.ready(r.reload(m.a))
}

// stopping is to be called before the system is stopped.
func (m *managed) stopping() {
	m.notifier.Stopping()
	m.end()
	m.watching.Wait()
}

func (m *managed) watch(ctx context.Context) {
	var probe *app.Probe
	err := m.notifier.Watch(ctx, func(ctx context.Context) (err error) {
		if probe == nil {
			if probe, err = m.a.Probe(ctx, m.config); err != nil {
				probe = nil
				return err
			}
		}
		return probe.Check(ctx)
	})
	if err != nil {
		m.log.Warn("the watchdog is not fed", "error", err)
	}
	if probe == nil {
		return
	}
	bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	if err := probe.Close(bye); err != nil {
		m.log.Debug("probe", "error", err)
	}
}
