package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/client"
)

func (t *tool) serviceStats() *cobra.Command {
	var d dialler
	c := &cobra.Command{
		Use:   "stats ID",
		Short: "Show what a service counts: its resources and its connection",
		Long:  "stats asks a service for its status, and prints what it answers.",
		Example: `  lawnberry service stats navigation
  lawnberry service stats navigation --json`,
		Args: arguments(1, 1, "ID"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkLevel("service", args[0]); err != nil {
				return err
			}
			return t.withBroker(c.Context(), &d, func(ctx context.Context, c *client.Client) error {
				var result json.RawMessage
				if err := command(ctx, c, args[0], "status", &result); err != nil {
					return err
				}
				return t.printStats(result)
			})
		},
	}
	d.flags(c, 5*time.Second, "wait this long for the answer")
	c.ValidArgsFunction = t.completeService(&d)
	return c
}

// command sends a command without parameters to a service.
func command(ctx context.Context, c *client.Client, id, name string, result any) error {
	known, err := checkAlive(ctx, c, id, name)
	if err != nil {
		return err
	}
	var opts []client.CallOption
	if !known {
		opts = append(opts, client.Unannounced())
	}
	return c.Call(ctx, id, name, nil, result, opts...)
}

// printStats prints an answer to status, a row for each value.
func (t *tool) printStats(result json.RawMessage) error {
	if t.json {
		return writeJSON(t.stdout, result)
	}
	rows := table{}
	for _, r := range flatten(result) {
		rows.add(cell{r[0], bold}, cell{r[1], plain})
	}
	rows.write(t.stdout, t.colour(t.stdout))
	return nil
}

// flatten returns the values in an object and the objects in it, each with the words that lead to it.
func flatten(object json.RawMessage) (rows [][2]string) {
	var add func(name string, value json.RawMessage)
	add = func(name string, value json.RawMessage) {
		var object map[string]json.RawMessage
		if json.Unmarshal(value, &object) == nil && object != nil {
			for _, key := range slices.Sorted(maps.Keys(object)) {
				add(strings.TrimPrefix(name+" "+strings.ReplaceAll(key, "_", " "), " "), object[key])
			}
			return
		}
		var text string
		if json.Unmarshal(value, &text) != nil {
			text = compact(value)
		}
		rows = append(rows, [2]string{name, text})
	}
	add("", object)
	return rows
}

func (t *tool) serviceWait() *cobra.Command {
	var d dialler
	c := &cobra.Command{
		Use:   "wait ID...",
		Short: "Wait until services are healthy",
		Long:  "wait ends as soon as all of these services are healthy at the same time, or with code 5 after --timeout, and then says who is not.",
		Example: `  lawnberry service wait navigation safety
  lawnberry service wait navigation --timeout 10s`,
		Args: arguments(1, -1, "ID"),
		RunE: func(c *cobra.Command, args []string) error {
			for _, id := range args {
				if err := checkLevel("service", id); err != nil {
					return err
				}
			}
			return t.waitForServices(c.Context(), &d, args)
		},
	}
	d.flags(c, time.Minute, "give up, with code 5, after this long")
	c.ValidArgsFunction = t.completeService(&d)
	return c
}

// expiryCheck is how often those who watch look for services that have fallen silent.
const expiryCheck = time.Second

func (t *tool) waitForServices(ctx context.Context, d *dialler, ids []string) error {
	if d.timeout == 0 {
		return usagef("--timeout 0: want more than 0")
	}
	o, cfg, err := d.options(t)
	if err != nil {
		return err
	}
	var states map[string]string
	began := time.Now()
	err = t.connected(ctx, d, o, func(limited context.Context, c *client.Client) error {
		r := newRoll()
		if err := r.take(limited, c, cfg.Services.HeartbeatTimeout); err != nil {
			return err
		}
		tick := time.NewTicker(expiryCheck)
		defer tick.Stop()
		for {
			r.expire(cfg.Services.HeartbeatTimeout)
			states = map[string]string{}
			for _, s := range r.list() {
				states[s.ID] = s.State
			}
			if !slices.ContainsFunc(ids, func(id string) bool { return states[id] != "healthy" }) {
				return nil
			}
			select {
			case <-r.changed:
			case <-tick.C:
			case <-limited.Done():
				return context.Cause(limited)
			}
		}
	})
	if states != nil && exitCode(err) == exitTimeout {
		var missing []string
		for _, id := range ids {
			if states[id] != "healthy" {
				missing = append(missing, id+" is "+cmp.Or(states[id], "not there"))
			}
		}
		return failf(exitTimeout, "not all healthy within %s: %s", d.timeout, strings.Join(missing, ", "))
	}
	if err != nil {
		return err
	}
	took := time.Since(began)
	if t.json {
		return writeJSON(t.stdout, map[string]any{"healthy": ids, "seconds": took.Seconds()})
	}
	verb := "is"
	if len(ids) > 1 {
		verb = "are"
	}
	_, err = fmt.Fprintf(t.stdout, "%s %s healthy after %s\n", strings.Join(ids, ", "), verb, shortDuration(took))
	return err
}

// expire marks the services offline that say they are there, and have been silent for longer than their lease, timeout if they announce none.
func (r *roll) expire(timeout time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, s := range r.services {
		silence := math.Abs(time.Since(s.LastSeen).Seconds())
		if !r.since.IsZero() {
			silence = min(silence, time.Since(r.since).Seconds())
		}
		if !s.gone() && silence > cmp.Or(s.Lease, timeout.Seconds()) {
			s.State, s.Reported, s.Reason = "offline", s.State, ""
			r.services[id] = s
		}
	}
}

// A watching is the flags of service watch.
type watching struct {
	dialler
	span  time.Duration
	count int
}

func (t *tool) serviceWatch() *cobra.Command {
	w := &watching{}
	c := &cobra.Command{
		Use:   "watch [ID...]",
		Short: "Print each change of the services' states",
		Long: `watch prints the state of all services, or of these, and then each change, a line each. A service that falls silent for longer than its lease
is offline. It ends when interrupted, after --count lines, or after --for, and then with code 5 when --count is not reached.`,
		Example: `  lawnberry service watch
  lawnberry service watch navigation safety --json`,
		Args: arguments(0, -1),
		RunE: func(c *cobra.Command, args []string) error {
			if w.count < 0 || w.span < 0 {
				return usagef("--count and --for cannot be negative")
			}
			for _, id := range args {
				if err := checkLevel("service", id); err != nil {
					return err
				}
			}
			return w.run(c.Context(), t, args)
		},
	}
	w.flags(c, connectTimeout, "give up when the broker takes longer to answer")
	c.Flags().IntVarP(&w.count, "count", "n", 0, "end after `N` lines")
	c.Flags().DurationVar(&w.span, "for", 0, "end after this long")
	c.ValidArgsFunction = t.completeService(&w.dialler)
	return c
}

// A stateChange is a line of service watch with --json.
type stateChange struct {
	Time   time.Time `json:"time"`
	ID     string    `json:"id"`
	Type   string    `json:"type"`
	State  string    `json:"state"`
	Was    string    `json:"was,omitempty"` // absent for the first word of a service
	Reason string    `json:"reason,omitempty"`
}

// A stateWatch prints the states of services as they change.
type stateWatch struct {
	t    *tool
	ids  []string // nil is all
	max  int
	full chan struct{} // closed when max lines are printed, or the output has failed

	mu      sync.Mutex // guards what follows, and the order of the output
	begun   bool
	printed int
	states  map[string]string
	err     error
}

// see prints what is new of a service.
func (w *stateWatch) see(s serviceInfo) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.begun {
		w.seeLocked(s)
	}
}

func (w *stateWatch) seeLocked(s serviceInfo) {
	was, known := w.states[s.ID]
	if known && was == s.State || w.ids != nil && !slices.Contains(w.ids, s.ID) || w.err != nil || w.max > 0 && w.printed == w.max {
		return
	}
	w.states[s.ID] = s.State
	w.err = w.t.printChange(stateChange{time.Now(), s.ID, s.Type, s.State, was, s.Reason})
	if w.printed++; w.printed == w.max || w.err != nil {
		close(w.full)
	}
}

// begin prints what is known, and from then on what see sees.
func (w *stateWatch) begin(r *roll) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range r.list() {
		w.seeLocked(s)
	}
	w.begun = true
}

// expire prints who has fallen silent. What is heard meanwhile waits, and is seen after that.
func (w *stateWatch) expire(r *roll, timeout time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r.expire(timeout)
	for _, s := range r.list() {
		if s.Reported != "" {
			w.seeLocked(s)
		}
	}
}

func (t *tool) printChange(s stateChange) error {
	if t.json {
		return writeJSONLine(t.stdout, s)
	}
	colour := t.colour(t.stdout)
	line := fmt.Sprintf("%s %s %s", paint(colour, dim, s.Time.Local().Format("15:04:05.000")), paint(colour, bold, fmt.Sprintf("%-20s", printable(s.ID))),
		paint(colour, stateStyle(s.State), printable(cmp.Or(s.State, "unknown"))))
	if s.Was != "" {
		line += ", was " + printable(s.Was)
	}
	if s.Reason != "" {
		line += ": " + printable(s.Reason)
	}
	_, err := fmt.Fprintln(t.stdout, line)
	return err
}

func (w *watching) run(ctx context.Context, t *tool, ids []string) error {
	o, cfg, err := w.options(t)
	if err != nil {
		return err
	}
	c, err := w.connect(ctx, o)
	if err != nil {
		return err
	}
	s := &stateWatch{t: t, max: w.count, full: make(chan struct{}), states: map[string]string{}}
	if len(ids) > 0 {
		s.ids = ids
	}
	r := newRoll()
	r.seen = s.see
	limited, cancel := w.bound(ctx)
	err = because(limited, r.take(limited, c, cfg.Services.HeartbeatTimeout))
	cancel()
	if err == nil {
		o.Logger.Info("watching")
		err = w.wait(ctx, s, r, cfg.Services.HeartbeatTimeout)
	}
	if failed := disconnect(c); err == nil {
		err = failed
	}
	return err
}

// wait prints until something ends it.
func (w *watching) wait(ctx context.Context, s *stateWatch, r *roll, timeout time.Duration) error {
	over, stop := after(w.span)
	defer stop()
	tick := time.NewTicker(expiryCheck)
	defer tick.Stop()
	s.begin(r)
	done := func() (int, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.printed, s.err
	}
	for {
		select {
		case <-s.full:
			_, err := done()
			return err
		case <-over:
			n, err := done()
			if err == nil && n < w.count {
				return failf(exitTimeout, "%d of %d lines within %s", n, w.count, w.span)
			}
			return err
		case <-tick.C:
			s.expire(r, timeout)
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(cause, errInterrupted) {
				return cause
			}
			return nil // an interrupt is how watch without an end ends
		}
	}
}

func (t *tool) serviceShutdown() *cobra.Command {
	var d dialler
	var yes bool
	c := &cobra.Command{
		Use:   "shutdown ID",
		Short: "Tell a service to end",
		Long: `shutdown sends a service the command to end, and is done when the service has confirmed that it does. Whoever runs it may start it again. On a
terminal it asks first; elsewhere --yes is needed.`,
		Example: "  lawnberry service shutdown weather --yes",
		Args:    arguments(1, 1, "ID"),
		RunE: func(c *cobra.Command, args []string) error {
			id := args[0]
			if err := checkLevel("service", id); err != nil {
				return err
			}
			if err := t.mayAsk(yes); err != nil {
				return err
			}
			o, cfg, err := d.options(t)
			if err != nil {
				return err
			}
			return t.connected(c.Context(), &d, o, func(ctx context.Context, c *client.Client) error {
				return t.shutDown(ctx, c, id, yes, cfg.Services.HeartbeatTimeout)
			})
		},
	}
	d.flags(c, time.Minute, "give up after this long, also while it asks")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	c.ValidArgsFunction = t.completeService(&d)
	return c
}

// shutDown ends one service: not one of its type, as a command to a type would.
func (t *tool) shutDown(ctx context.Context, c *client.Client, id string, yes bool, timeout time.Duration) error {
	r := newRoll()
	if err := r.take(ctx, c, timeout); err != nil {
		return err
	}
	found := r.list()
	i := slices.IndexFunc(found, func(s serviceInfo) bool { return s.ID == id })
	switch {
	case i < 0:
		return unknownService(id, found)
	case found[i].gone():
		return failf(exitRefused, "%s is offline already, last seen %s ago", id, found[i].age())
	}
	if !yes {
		var needed []string
		for _, s := range found {
			if slices.Contains(s.Dependencies, id) && !s.gone() {
				needed = append(needed, s.ID)
			}
		}
		if len(needed) > 0 {
			fmt.Fprintf(t.stderr, "%s is needed by %s.\n", id, printable(strings.Join(needed, ", ")))
		}
		agreed, err := t.confirm(ctx, fmt.Sprintf("Shut down %s, which is %s?", id, printable(found[i].State)))
		switch {
		case err != nil:
			return err
		case !agreed:
			return failf(exitFailed, "not shut down")
		}
	}
	if err := c.Call(ctx, id, "shutdown", nil, nil); err != nil {
		return err
	}
	if t.json {
		return writeJSON(t.stdout, map[string]string{"id": id, "result": "shuts down"})
	}
	_, err := fmt.Fprintf(t.stdout, "%s shuts down\n", id)
	return err
}

// completeService offers the services' ids.
func (t *tool) completeService(d *dialler) cobra.CompletionFunc {
	services := t.completeCall(d)
	return func(c *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 && c.Args(c, append(slices.Clone(args), "x")) != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return services(c, nil, prefix)
	}
}
