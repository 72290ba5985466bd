package cli

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/app"
)

// stopTimeout is how long a clean end may take, in all.
const stopTimeout = 4 * time.Second

func (t *tool) serveVerb() *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Run the broker, and keep the state of the emergency stop",
		Long: `serve runs the broker, and the service emergency_stop (see lawnberry estop), until SIGINT or SIGTERM, after which it ends
cleanly within 5 seconds; a second signal ends it at once. It listens as the configuration says, and on the socket
lawnberry.sock in the data directory. With --json, what it listens on is printed as JSON once all of it works.

A configuration file that has changed is taken in at once, as on SIGHUP, as far as that goes without a restart: who may do what, the
broker's bounds, what is logged (lawnberry config explain KEY says for each key). Users and certificates are taken in too.

Started by systemd (Type=notify), it says when all of it works, when it takes a configuration in, and when it stops. Its watchdog is fed as
long as a command goes through the broker to the emergency stop and back.`,
		Example: `  lawnberry serve
  LAWNBERRY_BROKER_PORT=1884 lawnberry serve --data-dir ./data
  lawnberry serve --config mower.yaml`,
		Args: arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error { return t.serve(c.Context()) },
	}
}

func (t *tool) serve(ctx context.Context) error {
	loaded, err := t.load()
	if err != nil {
		return err
	}
	flag, err := t.levelFlag()
	if err != nil {
		return err
	}
	again := t.newReloader(loaded.Config, flag)
	defer again.close()
	log := slog.New(again.levels.Handler(t.logHandler(nil, nil)))
	again.log = log
	loaded.Problems = t.settleUsers(loaded, loaded.Problems)
	logProblems(log, loaded)
	dir, err := t.dataDirectory()
	if err != nil {
		return err
	}
	a, err := app.Start(ctx, app.Options{Config: loaded.Config, DataDir: dir, Version: buildInfo().Version, Logger: log, LogLevels: again.levels})
	if err != nil && errors.Is(context.Cause(ctx), errInterrupted) {
		log.Info("stopped", "cause", "interrupted while starting")
		return nil
	}
	if err != nil {
		return because(ctx, err)
	}
	if t.json {
		if err := writeJSONLine(t.stdout, newServing(a)); err != nil {
			return errors.Join(err, stop(a.Stop, stopTimeout))
		}
	}
	manager := newManaged(a, loaded.Config, log)
	manager.ready(nil)
	for running := true; running; {
		select {
		case <-again.hangup:
			manager.reload(again)
		case <-again.changed:
			manager.reload(again)
		case <-ctx.Done():
			log.Info("stopping", "cause", context.Cause(ctx))
			running = false
		case <-a.Done():
			manager.stopping()
			return errors.Join(errors.New("the broker ended by itself, see the log"), stop(a.Stop, stopTimeout))
		}
	}
	manager.stopping()
	if err := stop(a.Stop, stopTimeout); err != nil {
		return err
	}
	log.Info("stopped")
	return nil
}

// logProblems logs the warnings of a configuration.
func logProblems(log *slog.Logger, loaded *config.Loaded) {
	for _, p := range loaded.Problems {
		log.Warn("configuration", "problem", p.Error())
	}
}

// serving is what serve says with --json.
type serving struct {
	PID       int       `json:"pid"`
	URL       string    `json:"url"`
	DataDir   string    `json:"data_dir"`
	Listening []address `json:"listening"`
}

type address struct {
	Network string `json:"network"`
	Address string `json:"address"`
	URL     string `json:"url"`
}

func newServing(a *app.App) serving {
	s := serving{PID: os.Getpid(), URL: a.URL(), DataDir: a.DataDir(), Listening: []address{}}
	for e := range a.Endpoints() {
		s.Listening = append(s.Listening, newAddress(e))
	}
	if b := a.Bridge(); b != nil {
		for _, url := range b.URLs() {
			_, host, _ := strings.Cut(url, "://")
			s.Listening = append(s.Listening, address{"http", host, url})
		}
	}
	return s
}

func newAddress(e broker.Endpoint) address { return address{e.Network, e.Address, e.URL} }

// stop ends something within a time, also when it does not listen to its context.
func stop(end func(context.Context) error, within time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- end(ctx) }()
	late := time.NewTimer(within + 500*time.Millisecond)
	defer late.Stop()
	select {
	case err := <-ended:
		return err
	case <-late.C:
		return errors.New("not everything has ended in time")
	}
}
