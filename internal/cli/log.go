package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/loglevel"
	"github.com/lawnberry/lawnberry/safety"
)

func (t *tool) logVerbs() *cobra.Command {
	c := &cobra.Command{
		Use:   "log",
		Short: "What is logged, changed while it runs",
		Long:  `log shows and changes what a running serve, or a service, logs.`,
		Example: `  lawnberry log level
  lawnberry log level client debug --for 10m`,
	}
	asGroup(c)
	c.AddCommand(t.logLevelVerb())
	return c
}

// A levelChange is what log level asks for.
type levelChange struct {
	Package string  `json:"package"`
	Level   string  `json:"level"`
	For     float64 `json:"for"` // seconds
	Reset   bool    `json:"reset"`
}

// logLevels is what it gets, and says with --json.
type logLevels struct {
	Levels []packageLevel `json:"levels"`
}

type packageLevel struct {
	Package string  `json:"package"`
	Level   string  `json:"level"`
	Source  string  `json:"source"`
	Until   float64 `json:"until,omitempty"` // Unix seconds
}

func (t *tool) logLevelVerb() *cobra.Command {
	var d dialler
	var service string
	var limit time.Duration
	var reset bool
	c := &cobra.Command{
		Use:   "level [PACKAGE] [LEVEL]",
		Short: "Show the levels of the log, set one, or take it back",
		Long: `level shows from which level on the parts of a running serve log. With PACKAGE and LEVEL (debug, info, warn or error) it sets
that of one part, with LEVEL alone the general one, which those follow that have none of their own. That lasts until --reset, the end of --for, the next
change of the configuration file, or a restart; the file stays as it is, its key is monitoring.logging.levels.

The service emergency_stop answers for serve. With access control to change or see the levels is a right of those who may release the emergency stop,
which admins have. With --service another service is asked, which may not offer it. Code 4 is a refusal.`,
		Example: `  lawnberry log level
  lawnberry log level client debug --for 10m
  lawnberry log level --service navigation debug
  lawnberry log level --reset`,
		Args: arguments(0, 2),
		RunE: func(c *cobra.Command, args []string) error {
			change, err := levelArguments(args, reset, c.Flags().Changed("for"), limit)
			if err != nil {
				return err
			}
			if err := checkLevel("service", service); err != nil {
				return err
			}
			return t.withBroker(c.Context(), &d, func(ctx context.Context, c *client.Client) error {
				return t.changeLevel(ctx, c, service, change)
			})
		},
	}
	d.flags(c, connectTimeout, "give up after this long")
	c.Flags().StringVar(&service, "service", safety.HubID, "ask this `SERVICE`")
	c.Flags().DurationVar(&limit, "for", 0, "let the level go back by itself after this long (default never)")
	c.Flags().BoolVar(&reset, "reset", false, "take back what was set, of PACKAGE or of all")
	c.ValidArgsFunction = func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		names := append([]string{loglevel.General}, config.LogPackages()...)
		if len(args) > 0 {
			names = []string{"debug", "info", "warn", "error"}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
	return c
}

// levelArguments reads the command line of log level.
func levelArguments(args []string, reset, limited bool, limit time.Duration) (q levelChange, err error) {
	q.Reset = reset
	switch {
	case reset && limited:
		return q, usagef("--reset and --for do not go together: --reset takes back at once")
	case reset && len(args) > 1:
		return q, usagef("--reset takes PACKAGE, or nothing for all, and no LEVEL")
	case reset && len(args) == 1:
		q.Package = args[0]
		return q, nil
	case limited && len(args) == 0:
		return q, usagef("--for: LEVEL is missing")
	case limited && (limit < time.Second || limit > loglevel.MaxTime):
		return q, usagef("--for %s: want from 1s to %s", limit, loglevel.MaxTime)
	case len(args) == 0:
		return q, nil
	}
	q.Package, q.Level, q.For = loglevel.General, args[len(args)-1], limit.Seconds()
	if len(args) == 2 {
		q.Package = args[0]
	}
	if _, err := loglevel.Parse(q.Level); err != nil {
		if len(args) == 1 && (q.Level == loglevel.General || slices.Contains(config.LogPackages(), q.Level)) {
			return q, usagef("LEVEL is missing: want debug, info, warn or error behind %s", q.Level)
		}
		return q, usagef("%w", err)
	}
	return q, nil
}

func (t *tool) changeLevel(ctx context.Context, c *client.Client, service string, q levelChange) error {
	const command = "log_level"
	parameters := any(q)
	if q == (levelChange{}) {
		parameters = struct{}{}
	}
	known, err := checkAlive(ctx, c, service, command)
	var raw json.RawMessage
	if err == nil {
		var opts []client.CallOption
		if !known {
			opts = append(opts, client.Unannounced())
		}
		err = c.Call(ctx, service, command, parameters, &raw, opts...)
	}
	var refused *client.RefusedError
	var failed *client.CommandError
	switch {
	case errors.As(err, &refused):
		text := "the levels of the log of %s are not for this user"
		if service == safety.HubID {
			return &failure{exitRefused, fmt.Errorf(text, "serve"), "it needs the right to release the emergency stop, which admins have, see \"lawnberry acl ls\""}
		}
		return &failure{exitRefused, fmt.Errorf(text, service), "it needs the right to command it, see \"lawnberry acl ls\""}
	case errors.As(err, &failed) && failed.Code == client.CodeBadParameters:
		return failf(exitUsage, "%s", failed.Message)
	case errors.As(err, &failed) && failed.Code == client.CodeUnknownCommand:
		return failf(exitRefused, "%s does not offer to change the levels of its log", service)
	case errors.As(err, &failed) && service == safety.HubID && slices.Contains([]string{client.CodeNoSuchService, client.CodeOffline}, failed.Code):
		return &failure{exitCode(err), fmt.Errorf("nobody answers for serve: %w", err),
			"it is the service emergency_stop that does, in \"lawnberry serve\"; without safety.emergency_stop.enabled set monitoring.logging.levels in the file"}
	case err != nil:
		return err
	}
	var now logLevels
	if err := json.Unmarshal(raw, &now); err != nil || now.Levels == nil {
		return failf(exitRefused, "%s answers %s with something else than levels: it may be no service of this project", service, command)
	}
	if t.json {
		return writeJSON(t.stdout, now)
	}
	rows := table{}
	for _, l := range now.Levels {
		until := ""
		if l.Until > 0 {
			left := time.Until(time.UnixMilli(int64(l.Until * 1000)))
			until = "for another " + shortDuration(max(left, 0))
		}
		rows.add(text(l.Package), text(l.Level), text(l.Source), text(until))
	}
	rows.write(t.stdout, t.colour(t.stdout))
	return nil
}
