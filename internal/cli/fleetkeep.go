package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/internal/enrol"
	"github.com/lawnberry/lawnberry/internal/fleet"
)

// fleetKeeping are the verbs that make an engine and let mowers in. They work on the directory that init makes.
func (t *tool) fleetKeeping(f *fleetAccess) []*cobra.Command {
	return []*cobra.Command{t.fleetInit(), t.fleetSetup(f), t.fleetEnrol(), t.fleetRevoke(), t.fleetEnrolled()}
}

// A fleetDirectory is the flags of verbs that need the keys of a fleet.
type fleetDirectory struct {
	dir     string
	timeout time.Duration
}

func (d *fleetDirectory) flags(c *cobra.Command) {
	c.Flags().StringVar(&d.dir, "dir", "", "`DIRECTORY` of the fleet, as \"lawnberry fleet init\" has made it (default $LAWNBERRY_FLEET_DIR)")
	c.Flags().DurationVar(&d.timeout, "timeout", 30*time.Second, "how long the engine may take")
}

func (d *fleetDirectory) path(t *tool) string { return cmp.Or(d.dir, t.getenv("LAWNBERRY_FLEET_DIR")) }

// with opens the fleet and calls do. The engine and the login are those of the directory.
func (d *fleetDirectory) with(c *cobra.Command, t *tool, do func(ctx context.Context, f *enrol.Fleet) error) error {
	if d.timeout <= 0 {
		return usagef("--timeout %s: want more than 0", d.timeout)
	}
	for _, name := range []string{"url", "credentials", "ca"} {
		if c.Flags().Changed(name) {
			return usagef("--%s is not for this verb: engine and login are those of the fleet's directory", name)
		}
	}
	dir := d.path(t)
	if dir == "" {
		return usagef("--dir is missing: name the fleet's directory, or set LAWNBERRY_FLEET_DIR")
	}
	f, err := enrol.Open(dir)
	if errors.Is(err, enrol.ErrNoFleet) {
		return &failure{exitFailed, err, fmt.Sprintf("make one with \"lawnberry fleet init %s\"", dir)}
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context(), d.timeout)
	defer cancel()
	return keepingError(f, do(ctx, f))
}

// keepingError gives an error of the engine's its exit code.
func keepingError(f *enrol.Fleet, err error) error {
	switch known := new(failure); {
	case err == nil, errors.As(err, &known):
		return err
	case errors.Is(err, enrol.ErrUnreachable):
		return engineError(f.Engine(), err)
	case errors.Is(err, enrol.ErrEnrolled):
		return &failure{exitRefused, err, "with --again it gets new credentials, and the old ones are locked out"}
	case errors.Is(err, enrol.ErrNotEnrolled):
		return &failure{exitRefused, err, "\"lawnberry fleet enrolled\" lists those that are"}
	case errors.Is(err, context.DeadlineExceeded):
		return &failure{exitTimeout, err, "the engine did not answer in time: does a majority of its nodes run?"}
	}
	return err
}

func (t *tool) fleetInit() *cobra.Command {
	var config enrol.Config
	var nodes, port, cluster, monitor int
	var hosts []string
	c := &cobra.Command{
		Use:   "init DIR",
		Short: "Make the keys and the configuration of a fleet's engine",
		Long: `init makes a directory with all that an engine of NATS servers needs: keys, a certificate authority, a directory for each node with its
nats.conf, and the credentials of those who look after the fleet, fleet.creds. It is for its owner's eyes only, and nothing in it is ever overwritten. Who
has its directory keys can let mowers in and lock them out; no server needs them.

Without --host the nodes are on this machine and reached from nowhere else: for trying it out. Nodes on one host have ports one after the other.`,
		Example: `  lawnberry fleet init /var/lib/lawnberry/fleet --host n1.example.com --host n2.example.com --host n3.example.com
  lawnberry fleet init fleet --nodes 1`,
		Args: arguments(1, 1, "DIR"),
		RunE: func(c *cobra.Command, args []string) error {
			if c.Flags().Changed("nodes") && len(hosts) > 0 {
				return usagef("--nodes and --host say both how many nodes there are: want one of them")
			}
			if len(hosts) == 0 {
				hosts = slices.Repeat([]string{"127.0.0.1"}, max(nodes, 0))
			}
			config.Nodes = enrol.NodesFrom(hosts, port, cluster, monitor)
			if err := config.Check(); err != nil {
				return usagef("%w", err)
			}
			dir := args[0]
			f, err := enrol.Init(dir, config)
			if errors.Is(err, fs.ErrExist) {
				return failf(exitFailed, "%w", err)
			}
			if err != nil {
				return err
			}
			e, made := f.Engine(), f.Config()
			if t.json {
				return writeJSON(t.stdout, struct {
					Dir         string       `json:"dir"`
					URL         string       `json:"url"`
					CAFile      string       `json:"ca_file"`
					Credentials string       `json:"credentials"`
					Nodes       []enrol.Node `json:"nodes"`
				}{dir, e.URL, e.CAFile, e.Credentials, made.Nodes})
			}
			fmt.Fprintf(t.stdout, "made the fleet %s in %s, with %s\n", printable(made.Name), printable(dir), plural(len(made.Nodes), "node"))
			for _, n := range made.Nodes {
				fmt.Fprintf(t.stdout, "  %s: for %s, port %d\n", printable(filepath.Join(dir, n.Name)), printable(net.JoinHostPort(n.Host, strconv.Itoa(n.Client))), n.Client)
			}
			fmt.Fprintf(t.stdout, "start each with \"nats-server -c nats.conf\" in its directory, then \"lawnberry fleet setup --dir %s\"\n", printable(dir))
			t.printKeys("the mowers", []keyValue{{"integration.fleet.url", e.URL}})
			return nil
		},
	}
	c.Flags().StringVar(&config.Name, "name", "fleet", "`NAME` of the cluster")
	c.Flags().IntVar(&nodes, "nodes", 3, "how many nodes, on this machine: 1, 3 or 5")
	c.Flags().StringArrayVar(&hosts, "host", nil, "`HOST` name or address of a node, as mowers reach it; given once for each node")
	c.Flags().IntVar(&port, "port", 4222, "port for mowers and people")
	c.Flags().IntVar(&cluster, "cluster-port", 6222, "port for the other nodes")
	c.Flags().IntVar(&monitor, "monitor-port", 8222, "port for health and figures, on the loopback interface")
	return c
}

// limits reads --keep.
func limits(l *fleet.Limits, keep []string) error {
	at := map[string]*time.Duration{"alerts": &l.Alerts, "events": &l.Events, "telemetry": &l.Telemetry}
	for _, text := range keep {
		class, age, ok := strings.Cut(text, "=")
		if at[class] == nil || !ok {
			return usagef("--keep %s: want alerts, events or telemetry, = and how long, such as telemetry=14d", text)
		}
		d, err := days(age)
		if err != nil {
			return usagef("--keep %s: %w", text, err)
		}
		*at[class] = d
	}
	return nil
}

// days reads a duration that may be in days.
func days(text string) (time.Duration, error) {
	if number, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.Atoi(number)
		if err != nil || n < 1 || n > 36500 {
			return 0, fmt.Errorf("%q is no number of days", text)
		}
		return time.Duration(n) * day, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("%q is no time: want such as 14d or 36h", text)
	}
	return d, nil
}

func (t *tool) fleetSetup(f *fleetAccess) *cobra.Command {
	var d fleetDirectory
	var l fleet.Limits
	var keep []string
	var replicas int
	c := &cobra.Command{
		Use:   "setup",
		Short: "Make the engine's streams and buckets, or bring them up to date",
		Long: `setup makes what the engine keeps the fleet's messages in, or changes it to what it should be; it may be called again. Streams have limits by age,
see --keep, and by size, for as many mowers as --mowers says: JetStream sets the space aside on each node.

With --dir the engine is that of "lawnberry fleet init", else that of --url, which may be any NATS server with JetStream.`,
		Example: `  lawnberry fleet setup --dir fleet --mowers 2000 --keep telemetry=3d
  lawnberry fleet setup --url nats://localhost --replicas 1`,
		Args: arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := limits(&l, keep); err != nil {
				return err
			}
			if l.Mowers < 1 {
				return usagef("--mowers %d: want 1 or more", l.Mowers)
			}
			if d.path(t) != "" && !c.Flags().Changed("url") {
				if c.Flags().Changed("replicas") {
					return usagef("--replicas is for --url: an engine of \"lawnberry fleet init\" has as many as fit its nodes")
				}
				return d.with(c, t, func(ctx context.Context, f *enrol.Fleet) error {
					changes, err := f.Setup(ctx, l)
					return t.showSettled(changes, err)
				})
			}
			ctx, cancel := context.WithTimeout(c.Context(), d.timeout)
			defer cancel()
			nc, err := f.dialNATS(ctx, t)
			if err != nil {
				return err
			}
			defer nc.Close()
			js, err := jetstream.New(nc)
			if err != nil {
				return err
			}
			changes, err := fleet.Setup(ctx, js, l, replicas)
			return t.showSettled(changes, err)
		},
	}
	d.flags(c)
	c.Flags().IntVar(&l.Mowers, "mowers", 500, "how many mowers there will be")
	c.Flags().StringArrayVar(&keep, "keep", nil, "`CLASS=AGE`: how long alerts (default 400d), events (90d) or telemetry (7d) are kept")
	c.Flags().IntVar(&replicas, "replicas", 3, "copies of each message with --url: 1, 3 or 5")
	return c
}

// showSettled prints what setup did, also when it did not get to the end.
func (t *tool) showSettled(changes []fleet.Settled, err error) error {
	if t.json {
		if err != nil {
			return err
		}
		return writeJSON(t.stdout, changes)
	}
	if len(changes) > 0 {
		out := &table{header: []string{"NAME", "RESULT", "KEPT FOR", "AT MOST", "COPIES"}}
		for _, s := range changes {
			age := "ever"
			if s.Age > 0 {
				age = (time.Duration(s.Age) * time.Second).String()
				if s.Age >= day.Seconds() {
					age = plural(int(s.Age/day.Seconds()), "day")
				}
			}
			result := s.Result
			if len(s.Keys) > 0 {
				result += " (" + strings.Join(s.Keys, ", ") + ")"
			}
			out.add(text(s.Name), text(cmp.Or(result, "failed")), text(age), text(fmt.Sprintf("%d MiB", s.Bytes>>20)), text(fmt.Sprint(s.Copies)))
		}
		out.write(t.stdout, t.colour(t.stdout))
	}
	return err
}

func (t *tool) fleetEnrol() *cobra.Command {
	var d fleetDirectory
	var file string
	var again bool
	c := &cobra.Command{
		Use:   "enrol MOWER",
		Short: "Give a mower its credentials, once",
		Long: `enrol makes the credentials of a mower, with which it reaches its own subjects at the engine and nothing else, and writes them to a new file.
They are kept nowhere else: take the file to the mower, for integration.fleet.credentials, and remove it here.

A mower that was enrolled is refused, unless --again: the credentials that it had are locked out then, wherever they are.`,
		Example: `  lawnberry fleet enrol mower-0042 --dir fleet --out mower-0042.creds`,
		Args:    arguments(1, 1, "MOWER"),
		RunE: func(c *cobra.Command, args []string) error {
			mower := args[0]
			if err := fleet.CheckMower(mower); err != nil {
				return usagef("%w", err)
			}
			if file == "" {
				return usagef("--out is missing: name a file for the credentials, such as --out %s.creds", mower)
			}
			return d.with(c, t, func(ctx context.Context, f *enrol.Fleet) error {
				done, err := f.Enrol(ctx, mower, file, again)
				if err != nil {
					return err
				}
				e := f.Engine()
				if t.json {
					return writeJSON(t.stdout, struct {
						enrol.Enrolment
						File   string `json:"file"`
						URL    string `json:"url"`
						CAFile string `json:"ca_file"`
					}{*done, file, e.URL, e.CAFile})
				}
				fmt.Fprintf(t.stdout, "enrolled %s: its credentials are in %s and nowhere else\n", mower, printable(file))
				t.printKeys("the mower, which needs this file and "+e.CAFile, []keyValue{{"integration.fleet.url", e.URL}, {"integration.fleet.mower_id", mower}})
				return nil
			})
		},
	}
	d.flags(c)
	c.Flags().StringVar(&file, "out", "", "`FILE` to write the credentials to; it must not be there")
	c.Flags().BoolVar(&again, "again", false, "give new credentials to a mower that was enrolled, and lock out the old ones")
	return c
}

func (t *tool) fleetRevoke() *cobra.Command {
	var d fleetDirectory
	var why string
	c := &cobra.Command{
		Use:   "revoke MOWER",
		Short: "Lock a mower out of the engine",
		Long: `revoke locks a mower out: every server closes its connections and lets it in no more. It succeeds when each server that runs has confirmed it;
one that is down hears of it from the others within seconds after it is back. What the mower has sent stays. enrol --again lets it in again.`,
		Example: `  lawnberry fleet revoke mower-0042 --dir fleet --reason stolen`,
		Args:    arguments(1, 1, "MOWER"),
		RunE: func(c *cobra.Command, args []string) error {
			mower := args[0]
			if err := fleet.CheckMower(mower); err != nil {
				return usagef("%w", err)
			}
			return d.with(c, t, func(ctx context.Context, f *enrol.Fleet) error {
				done, err := f.Revoke(ctx, mower, why)
				if err != nil {
					return err
				}
				if t.json {
					return writeJSON(t.stdout, done)
				}
				_, err = fmt.Fprintf(t.stdout, "revoked %s: its connections are closed\n", mower)
				if len(done.Unconfirmed) > 0 {
					fmt.Fprintf(t.stderr, "no answer came from %s: what runs there lets the mower in until it hears of this from the others\n",
						strings.Join(done.Unconfirmed, ", "))
				}
				return err
			})
		},
	}
	d.flags(c)
	c.Flags().StringVar(&why, "reason", "", "`TEXT` that is kept with the enrolment")
	return c
}

func (t *tool) fleetEnrolled() *cobra.Command {
	var d fleetDirectory
	c := &cobra.Command{
		Use:     "enrolled",
		Short:   "List the mowers that were enrolled",
		Long:    "enrolled lists all mowers that have, or had, credentials.",
		Example: `  lawnberry fleet enrolled --dir fleet`,
		Args:    arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return d.with(c, t, func(ctx context.Context, f *enrol.Fleet) error {
				all, err := f.List(ctx)
				if err != nil {
					return err
				}
				if t.json {
					return writeJSON(t.stdout, all)
				}
				if len(all) == 0 {
					_, err := fmt.Fprintln(t.stdout, "no mowers")
					return err
				}
				out := &table{header: []string{"MOWER", "STATE", "ENROLLED", "BY", "REVOKED", "BY", "REASON"}}
				for _, e := range all {
					state, revoked := cell{"enrolled", green}, "-"
					if e.Revoked != nil {
						state, revoked = cell{"revoked", red}, e.Revoked.Local().Format(time.DateTime)
					}
					out.add(text(e.Mower), state, text(e.Enrolled.Local().Format(time.DateTime)), text(e.By), text(revoked),
						text(cmp.Or(e.RevokedBy, "-")), text(cmp.Or(e.Why, "-")))
				}
				out.write(t.stdout, t.colour(t.stdout))
				return nil
			})
		},
	}
	d.flags(c)
	return c
}
