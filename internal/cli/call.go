package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/client"
)

func (t *tool) callVerb() *cobra.Command {
	var d dialler
	var timed bool
	var r trace
	c := &cobra.Command{
		Use:   "call SERVICE COMMAND [PARAMETERS]",
		Short: "Send a command to a service and print its result",
		Long: `call sends COMMAND with PARAMETERS, a JSON object, to a service (its id or its type) and prints the result as JSON.
Every service answers ping, status and shutdown, and log_level if it offers that. Code 4 is a command that was refused or failed, or a service that nobody
is; code 5 is no answer in time, with which the command may or may not have run. What a command reports about its progress
goes to standard error.

"lawnberry call SERVICE --help" shows the commands of a service, and "lawnberry call SERVICE COMMAND --help" one of them, as
the service has described them to the broker.`,
		Example: `  lawnberry call navigation start_mowing
  lawnberry call hardware_interface read_sensor '{"sensor_id": "gps"}'
  lawnberry call safety ping --time`,
		Args: arguments(2, 3, "SERVICE", "COMMAND"),
		RunE: func(c *cobra.Command, args []string) error {
			return t.call(c.Context(), &d, args, timed, &r)
		},
	}
	d.flags(c, 0, "wait this long for the answer (default the configuration's client.message_timeout, 30s)")
	c.Flags().BoolVar(&timed, "time", false, "also print the round trip, on standard error")
	r.flags(c)
	t.helpWithServices(c, &d)
	c.ValidArgsFunction = t.completeCall(&d)
	return c
}

func (t *tool) call(ctx context.Context, d *dialler, args []string, timed bool, r *trace) error {
	target, command := args[0], args[1]
	if err := checkLevel("service", target); err != nil {
		return err
	}
	parameters := json.RawMessage("{}")
	if len(args) == 3 {
		var object map[string]json.RawMessage
		if err := json.Unmarshal([]byte(args[2]), &object); err != nil || object == nil {
			return usagef("parameters %q: want a JSON object such as '{\"sensor_id\": \"gps\"}'", args[2])
		}
		parameters = json.RawMessage(args[2])
	}
	o, cfg, err := d.options(t)
	if err != nil {
		return err
	}
	if d.timeout == 0 {
		d.timeout = cfg.Client.MessageTimeout
	}
	ctx, end, err := r.begin(ctx, t, &o, cfg)
	if err != nil {
		return err
	}
	defer end()
	c, err := d.connect(ctx, o)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	var result json.RawMessage
	var took time.Duration
	known, err := checkAlive(limited, c, target, command)
	if err == nil {
		began := time.Now()
		opts := []client.CallOption{client.WithProgress(func(v json.RawMessage) {
			if t.json {
				_ = writeJSONLine(t.stderr, map[string]json.RawMessage{"progress": v})
				return
			}
			fmt.Fprintf(t.stderr, "progress %s\n", printable(compact(v)))
		})}
		if !known {
			opts = append(opts, client.Unannounced())
		}
		err = c.Call(limited, target, command, parameters, &result, opts...)
		took = time.Since(began)
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	_ = disconnect(c) // the answer is here, or the error is
	if err != nil {
		return err
	}
	if timed {
		fmt.Fprintf(t.stderr, "round trip %s\n", milliseconds(took))
	}
	var pretty bytes.Buffer
	if len(result) == 0 {
		result = json.RawMessage("null")
	}
	if err := json.Indent(&pretty, result, "", "  "); err != nil {
		return fmt.Errorf("result of %s %s: %w", target, command, err)
	}
	_, err = fmt.Fprintf(t.stdout, "%s\n", harmless(pretty.Bytes()))
	return err
}

// checkAlive reports whether target is a service that has announced itself, or the type of one. It returns an error when target is the id of a service that has said goodbye or died, and no other service of
// that type is there. The broker may still keep such a service's session, in which a command would wait for the next start.
func checkAlive(ctx context.Context, c *client.Client, target, command string) (known bool, err error) {
	r := newRoll()
	s, err := c.Subscribe(ctx, "system/services/+/status", func(_ context.Context, d *client.Delivery) { r.add(d) })
	if err != nil {
		return false, err
	}
	if err := roundTrip(ctx, c); err != nil {
		return false, err
	}
	if err := r.quiet(ctx); err != nil {
		return false, err
	}
	if err := s.Unsubscribe(ctx); err != nil {
		return false, err
	}
	var gone *serviceInfo
	for _, f := range r.list() {
		switch {
		case f.ID == target && f.gone():
			gone = &f
		case f.Type == target && !f.gone():
			return true, nil
		case f.ID == target:
			known = true
		}
	}
	if gone == nil {
		return known, nil
	}
	return true, &client.CommandError{
		Service: target, Command: command, Code: client.CodeOffline,
		Message: fmt.Sprintf("%s is offline, last seen %s ago", target, gone.age()),
	}
}
