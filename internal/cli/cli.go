// Package cli is the lawnberry command: its verbs, their output and their exit codes.
package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/config"
)

// Run executes the command line args (without the program's name) and returns the code to exit with. environ is
// os.Environ(). The first SIGINT or SIGTERM ends the verb cleanly, the second ends Run at once.
func Run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, environ []string) int {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)

	ended := make(chan int, 1)
	go func() { ended <- execute(ctx, args, stdin, stdout, stderr, environ) }()
	return supervise(ended, signals, func() { cancel(errInterrupted) })
}

// supervise returns the code of a verb once it has ended, or exitKilled at the second signal; the first interrupts it.
func supervise(ended <-chan int, signals <-chan os.Signal, interrupt func()) int {
	select {
	case code := <-ended:
		return code
	case <-signals:
		interrupt()
	}
	select {
	case code := <-ended:
		return code
	case <-signals:
		return exitKilled
	}
}

// A tool is one execution of the command: its streams, its environment and the flags that every verb has.
type tool struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	environ        []string

	configFile string
	dataDir    string
	logLevel   string
	json       bool
	noColour   bool
	verbose    bool

	helpError error // of help that asks the broker
}

func execute(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, environ []string) int {
	out := &output{Writer: stdout}
	t := &tool{stdin: stdin, stdout: out, stderr: stderr, environ: environ}
	root := t.root()
	root.SetArgs(args)
	err := cmp.Or(root.ExecuteContext(ctx), t.helpError)
	if failed := out.failed(); err == nil && failed != nil {
		err = fmt.Errorf("standard output: %w", failed)
	}
	code := exitCode(err)
	if err != nil {
		// A command line that does not parse may have left the flag unread.
		report(stderr, err, code, t.json || wantsJSON(args))
	}
	return code
}

// wantsJSON reports whether --json stands among the arguments before "--".
func wantsJSON(args []string) bool {
	if end := slices.Index(args, "--"); end >= 0 {
		args = args[:end]
	}
	return slices.Contains(args, "--json")
}

const rootLong = `lawnberry is the message bus of an autonomous mower: an MQTT broker and the tools to look into it.

Topics are relative to the namespace (sensors/gps/data) or full (lawnberry/sensors/gps/data); absolute:homeassistant/x is
a topic outside it.

Every verb takes --json and ends with one of these codes:
  0 done    1 failed    2 wrong command line    3 no broker    4 the other side refused    5 timed out

Environment:
  LAWNBERRY_CONFIG      the configuration file, as --config; without either that of the installed package, if it is there, else the defaults
  LAWNBERRY_DATA_DIR    the data directory, as --data-dir
  LAWNBERRY_BROKER_URL  the broker to connect to, as --broker
  LAWNBERRY_PASSWORD    the new password for user add and user passwd
  LAWNBERRY_SECTION_KEY any key of the configuration, such as LAWNBERRY_BROKER_PORT for broker.port
  NO_COLOR              no colours, as --no-color`

const rootExample = `  lawnberry demo                                  a simulated mower, to look at
  lawnberry serve                                 the broker
  lawnberry top                                   the whole bus, live, and a key that stops the mower
  lawnberry sub 'sensors/#'                       what the sensors say
  lawnberry call navigation start_mowing          a command to a service
  lawnberry estop engage                          the emergency stop`

// Command returns the command with all its verbs, for what is written about them. Run runs it.
func Command() *cobra.Command { return (&tool{stdout: io.Discard, stderr: io.Discard}).root() }

func (t *tool) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "lawnberry",
		Short:         "The message bus of an autonomous mower",
		Long:          rootLong,
		Example:       rootExample,
		Version:       buildInfo().String(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetIn(t.stdin)
	root.SetOut(t.stdout)
	root.SetErr(t.stderr)
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(flagError)
	// A command that holds verbs runs only to say so, which is no usage.
	root.SetUsageTemplate(strings.Replace(root.UsageTemplate(), "{{if .Runnable}}", "{{if and .Runnable (not .HasAvailableSubCommands)}}", 1))
	asGroup(root)

	flags := root.PersistentFlags()
	flags.StringVar(&t.configFile, "config", "", "configuration `FILE` (default $LAWNBERRY_CONFIG, else /etc/lawnberry/lawnberry.yaml for root and the group lawnberry, else none)")
	flags.StringVar(&t.dataDir, "data-dir", "", "`DIR` for data and the local socket (default $LAWNBERRY_DATA_DIR, else /var/lib/lawnberry for root and the group lawnberry, else one of the user's)")
	flags.StringVar(&t.logLevel, "log-level", "", "log from this `LEVEL` on: debug, info, warn or error (default: by the verb and the configuration)")
	flags.BoolVarP(&t.verbose, "verbose", "v", false, "log everything, as --log-level debug")
	flags.BoolVar(&t.json, "json", false, "print JSON")
	flags.BoolVar(&t.noColour, "no-color", false, "print without colours, also on a terminal")

	root.AddGroup(&cobra.Group{ID: "run", Title: "Run:"}, &cobra.Group{ID: "use", Title: "Look and talk:"},
		&cobra.Group{ID: "secure", Title: "Secure:"}, &cobra.Group{ID: "about", Title: "About:"})
	add := func(group string, verbs ...*cobra.Command) {
		for _, v := range verbs {
			v.GroupID = group
			root.AddCommand(v)
		}
	}
	add("run", t.serveVerb(), t.demoVerb(), t.initVerb())
	add("use", t.topVerb(), t.pubVerb(), t.subVerb(), t.callVerb(), t.logVerbs(), t.serviceVerbs(), t.eventVerbs(), t.alertVerbs(), t.estopVerbs(), t.topicVerbs(),
		t.haVerbs(), t.fleetVerbs(), t.doctorVerb(), t.supportVerb(), t.benchVerbs())
	add("secure", t.userVerbs(), t.certVerbs(), t.aclVerbs(), t.keyVerbs())
	add("about", t.configVerbs(), t.versionVerb(), t.completionVerb())
	root.SetHelpCommand(helpVerb())
	return root
}

func helpVerb() *cobra.Command {
	return &cobra.Command{
		Use:     "help [VERB...]",
		Short:   "Explain a verb",
		Example: "  lawnberry help service ls",
		GroupID: "about",
		RunE: func(c *cobra.Command, args []string) error {
			verb, rest, err := c.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return &failure{exitUsage, fmt.Errorf("unknown verb %q", strings.Join(args, " ")), helpHint(c.Root())}
			}
			verb.InitDefaultHelpFlag()
			return verb.Help()
		},
	}
}

// asGroup makes a command that only holds verbs ask for one, and name the nearest to a wrong one.
func asGroup(c *cobra.Command) {
	c.Args = cobra.ArbitraryArgs
	c.SuggestionsMinimumDistance = 2
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			var verbs []string
			for _, v := range c.Commands() {
				if v.IsAvailableCommand() {
					verbs = append(verbs, v.Name())
				}
			}
			return &failure{exitUsage, fmt.Errorf("%s needs a verb: %s", c.CommandPath(), strings.Join(verbs, ", ")), helpHint(c)}
		}
		if near := c.SuggestionsFor(args[0]); len(near) > 0 {
			return usagef("unknown verb %q; did you mean %q?", args[0], c.CommandPath()+" "+near[0])
		}
		return &failure{exitUsage, fmt.Errorf("unknown verb %q", args[0]), helpHint(c)}
	}
}

func helpHint(c *cobra.Command) string { return fmt.Sprintf("see %q", c.CommandPath()+" --help") }

func flagError(c *cobra.Command, err error) error {
	return &failure{exitUsage, err, helpHint(c)}
}

// arguments requires between least and most arguments (most < 0: any number), named for the error as in Use.
func arguments(least, most int, names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return &failure{exitUsage, fmt.Errorf("%s is missing", names[len(args)]), helpHint(c)}
		case most >= 0 && len(args) > most:
			return &failure{exitUsage, fmt.Errorf("%q is one argument too many", args[most]), helpHint(c)}
		}
		return nil
	}
}

// colour reports whether a stream gets colours: a terminal that nobody asked to spare.
func (t *tool) colour(stream io.Writer) bool {
	return !t.noColour && t.getenv("NO_COLOR") == "" && t.getenv("TERM") != "dumb" && isTerminal(stream)
}

func (t *tool) getenv(name string) string {
	value := ""
	for _, e := range t.environ {
		if k, v, ok := strings.Cut(e, "="); ok && k == name {
			value = v
		}
	}
	return value
}

// configPath returns the file that holds the configuration, "" for none. Who chooses a data directory does not get the machine's own.
func (t *tool) configPath() string {
	if t.configFile != "" {
		return t.configFile
	}
	if file := t.getenv("LAWNBERRY_CONFIG"); file != "" || t.dataDir != "" {
		return file
	}
	return config.DefaultFile(t.environ)
}

// load reads the configuration, and fails when it cannot be used.
func (t *tool) load() (*config.Loaded, error) {
	return config.Load(t.configPath(), t.environ)
}

// dataDirectory returns the absolute path of the data directory.
func (t *tool) dataDirectory() (string, error) {
	if t.dataDir != "" {
		return filepath.Abs(t.dataDir)
	}
	return config.DataDir(t.environ)
}

// logger writes to standard error, or to w when that is not nil: text on a terminal, JSON lines elsewhere. The level is
// fallback unless a flag says otherwise.
func (t *tool) logger(w io.Writer, fallback slog.Leveler) (*slog.Logger, error) {
	flag, err := t.levelFlag()
	if err != nil {
		return nil, err
	}
	if flag != nil {
		fallback = *flag
	}
	return slog.New(t.logHandler(w, fallback)), nil
}

// levelFlag returns the level that a flag says; nil when none does.
func (t *tool) levelFlag() (*slog.Level, error) {
	l := slog.LevelDebug
	switch {
	case t.logLevel != "":
		if err := l.UnmarshalText([]byte(t.logLevel)); err != nil {
			return nil, usagef("--log-level %q: want debug, info, warn or error", t.logLevel)
		}
	case !t.verbose:
		return nil, nil
	}
	return &l, nil
}

// logHandler writes what logger says, from a level on.
func (t *tool) logHandler(w io.Writer, level slog.Leveler) slog.Handler {
	if w == nil {
		w = t.stderr
	}
	o := &slog.HandlerOptions{Level: level}
	if !isTerminal(t.stderr) {
		return slog.NewJSONHandler(w, o)
	}
	o.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey && len(groups) == 0 {
			a.Value = slog.StringValue(a.Value.Time().Format("15:04:05.000"))
		}
		return a
	}
	return slog.NewTextHandler(w, o)
}
