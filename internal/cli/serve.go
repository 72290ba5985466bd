package cli

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
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
		Short: "Run the broker",
		Long: `serve runs the broker until SIGINT or SIGTERM, after which it ends cleanly within 5 seconds; a second signal ends it at
once. It listens as the configuration says, and on the socket lawnberry.sock in the data directory. With --json, what it
listens on is printed as JSON once it does.

SIGHUP makes it read service_definitions and security.access_control again, and go by them at once. Users and certificates it takes in by
itself; other keys need a restart.`,
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
	log, err := t.logger(nil, loaded.Config.LogLevel())
	if err != nil {
		return err
	}
	brokerLog, err := t.logger(nil, loaded.Config.BrokerLogLevel())
	if err != nil {
		return err
	}
	loaded.Problems = t.settleUsers(loaded, loaded.Problems)
	logProblems(log, loaded)
	dir, err := t.dataDirectory()
	if err != nil {
		return err
	}
	a, err := app.Start(ctx, app.Options{Config: loaded.Config, DataDir: dir, Logger: log, BrokerLogger: brokerLog})
	if err != nil {
		return because(ctx, err)
	}
	if t.json {
		if err := writeJSONLine(t.stdout, newServing(a)); err != nil {
			return errors.Join(err, stop(a.Stop, stopTimeout))
		}
	}
	again := make(chan os.Signal, 1)
	signal.Notify(again, syscall.SIGHUP)
	defer signal.Stop(again)
	for running := true; running; {
		select {
		case <-again:
			t.reload(a, log)
		case <-ctx.Done():
			log.Info("stopping", "cause", context.Cause(ctx))
			running = false
		case <-a.Done():
			return errors.Join(errors.New("the broker ended by itself, see the log"), stop(a.Stop, stopTimeout))
		}
	}
	if err := stop(a.Stop, stopTimeout); err != nil {
		return err
	}
	log.Info("stopped")
	return nil
}

// reload takes in what the configuration says now about who may do what. One that cannot be used changes nothing.
func (t *tool) reload(a *app.App, log *slog.Logger) {
	loaded, err := t.load()
	if err == nil {
		logProblems(log, loaded)
		err = a.SetAccess(loaded.Config)
	}
	if err != nil {
		log.Error("configuration not taken in: who may do what stays as it was", "error", err)
		return
	}
	log.Info("configuration taken in: who may do what; other keys need a restart", "access_control", loaded.Config.Security.AccessControl.Enabled)
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
