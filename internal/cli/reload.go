package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/app"
	"github.com/lawnberry/lawnberry/loglevel"
)

// watchTime is how often the configuration file is looked at.
const watchTime = 500 * time.Millisecond

// A reloader takes a changed configuration in while serve runs.
type reloader struct {
	t            *tool
	log          *slog.Logger
	started, now *config.Config
	levels       *loglevel.Levels
	flag         *slog.Level // what the command line says is logged, whatever the configuration says; nil when it does not
	hangup       chan os.Signal
	changed      chan struct{}
	stop         context.CancelFunc
	ended        chan struct{}
}

// newReloader begins to watch the file of the configuration, and for SIGHUP.
func (t *tool) newReloader(c *config.Config, flag *slog.Level) *reloader {
	r := &reloader{
		t: t, started: c, now: c, levels: loglevel.New(new(slog.LevelVar), config.LogPackages()...), flag: flag,
		hangup: make(chan os.Signal, 1), changed: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	r.setLevels(c)
	signal.Notify(r.hangup, syscall.SIGHUP) // before there is anybody to send it
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	path, seen := t.configPath(), digest(t.configPath())
	go func() {
		defer close(r.ended)
		r.watch(ctx, path, seen)
	}()
	return r
}

func (r *reloader) close() {
	signal.Stop(r.hangup)
	r.stop()
	<-r.ended
}

func (r *reloader) setLevels(c *config.Config) {
	if r.flag != nil {
		r.levels.Configure(*r.flag, nil)
		return
	}
	r.levels.Configure(c.LogLevel(), c.LogLevels())
}

// digest is of what is in a file; nil when there is none.
func digest(path string) []byte {
	if path == "" {
		return nil
	}
	body, err := os.ReadFile(path)
	if err != nil || len(body) > config.MaxFileSize {
		return nil
	}
	sum := sha256.Sum256(body)
	return sum[:]
}

// watch tells when the file has another content, which stands for a moment: an editor may be writing it.
func (r *reloader) watch(ctx context.Context, path string, seen []byte) {
	if path == "" {
		return
	}
	tick := time.NewTicker(watchTime)
	defer tick.Stop()
	last := seen
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := digest(path)
		if settled := bytes.Equal(now, last); settled && now != nil && !bytes.Equal(now, seen) {
			seen = now
			select {
			case r.changed <- struct{}{}:
			default:
			}
		}
		last = now
	}
}

// reload takes in what the configuration says now, as far as that goes without a restart. One that cannot be used changes nothing; the error was
// logged then.
func (r *reloader) reload(a *app.App) error {
	loaded, err := r.t.load()
	if err == nil {
		logProblems(r.log, loaded)
		err = r.keepsAccess(loaded)
	}
	if err == nil {
		err = a.Reload(loaded.Config)
	}
	if err != nil {
		r.log.Error("configuration not taken in: all stays as it was", "error", err)
		return err
	}
	r.setLevels(loaded.Config)
	live, _ := config.Changes(r.now, loaded.Config)
	_, restart := config.Changes(r.started, loaded.Config)
	r.log.Info("configuration taken in", "changed", strings.Join(live, ", "), "access_control", loaded.Config.Security.AccessControl.Enabled)
	if len(restart) > 0 {
		r.log.Warn("keys have changed that need a restart", "keys", strings.Join(restart, ", "))
	}
	r.now = loaded.Config
	return nil
}

// keepsAccess refuses a file by whose silence everyone could do everything: it may be cut off, or be written right now. Who wants that says so.
func (r *reloader) keepsAccess(loaded *config.Loaded) error {
	const key = "security.access_control.enabled"
	if r.now.Security.AccessControl.Enabled && !loaded.Config.Security.AccessControl.Enabled && loaded.Origin(key) == (config.Origin{}) {
		return errors.New(key + " is true, and the configuration says nothing of it any more: set it to false to let everyone do everything")
	}
	return nil
}
