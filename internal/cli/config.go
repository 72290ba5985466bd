package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/config"
)

func (t *tool) configVerbs() *cobra.Command {
	c := &cobra.Command{
		Use:   "config",
		Short: "Write, check and show the configuration",
		Example: `  lawnberry config init mower.yaml
  lawnberry config check mower.yaml
  lawnberry config explain broker.port
  lawnberry config show --config mower.yaml`,
	}
	asGroup(c)
	c.AddCommand(t.configInit(), t.configCheck(), t.configShow(), t.configExplain(), t.configSchema())
	return c
}

// defaultFile is what config init writes.
const defaultFile = "lawnberry.yaml"

func (t *tool) configInit() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:   "init [FILE]",
		Short: "Write a configuration file to start from",
		Long: `init writes a file with every key, its meaning and its default, all as comments, to FILE (default ` + defaultFile + `;
- is standard output). It does not overwrite a file without --force.`,
		Example: `  lawnberry config init mower.yaml`,
		Args:    arguments(0, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			path := defaultFile
			if len(args) == 1 {
				path = args[0]
			}
			if path == "-" {
				return config.WriteTemplate(t.stdout)
			}
			if err := writeTemplate(path, force); err != nil {
				return err
			}
			if t.json {
				return writeJSON(t.stdout, map[string]string{"file": path})
			}
			_, err := fmt.Fprintf(t.stdout, "wrote %s; use it with --config %s or LAWNBERRY_CONFIG\n", path, path)
			return err
		},
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "overwrite a file that is there")
	return c
}

// writeTemplate writes the template for its owner's eyes, as passwords may come in.
func writeTemplate(path string, force bool) error {
	var body bytes.Buffer
	if err := config.WriteTemplate(&body); err != nil {
		return err
	}
	mode := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if force {
		mode = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	f, err := os.OpenFile(path, mode, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already: choose another name, or overwrite it with --force", path)
	}
	if err != nil {
		return err
	}
	if _, err := f.Write(body.Bytes()); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

// A verdict is what config check says with --json.
type verdict struct {
	File     string          `json:"file"`
	OK       bool            `json:"ok"`
	Problems config.Problems `json:"problems"`
}

func (t *tool) configCheck() *cobra.Command {
	var strict bool
	c := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check a configuration file and the environment",
		Long: `check prints every problem of FILE (default that of --config or LAWNBERRY_CONFIG, else none) and of the environment's
variables as file:line: key: what is wrong. Warnings, such as unknown and unsupported keys, are fine without --strict.`,
		Example: `  lawnberry config check mower.yaml`,
		Args:    arguments(0, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			path := t.configPath()
			if len(args) == 1 {
				path = args[0]
			}
			return t.checkConfig(path, strict)
		},
	}
	c.Flags().BoolVar(&strict, "strict", false, "count warnings as errors")
	return c
}

func (t *tool) checkConfig(path string, strict bool) error {
	v := verdict{File: path, Problems: config.Problems{}}
	loaded, err := config.Load(path, t.environ)
	switch problems := (config.Problems)(nil); {
	case errors.As(err, &problems):
		v.Problems = problems
	case err != nil:
		return err
	default:
		v.Problems = append(v.Problems, t.settleUsers(loaded, loaded.Problems)...)
		v.Problems = append(v.Problems, loaded.Config.CheckKeys()...)
	}
	wrong, warned := 0, 0
	for _, p := range v.Problems {
		if p.Severity == config.SeverityError || strict {
			wrong++
		} else {
			warned++
		}
	}
	v.OK = wrong == 0
	name := path
	if name == "" {
		name = "configuration without a file"
	}
	if t.json {
		if err := writeJSON(t.stdout, v); err != nil {
			return err
		}
	} else {
		t.printProblems(name, v, warned)
	}
	if !v.OK {
		return fmt.Errorf("%s has %s", name, plural(wrong, "error"))
	}
	return nil
}

func (t *tool) printProblems(name string, v verdict, warned int) {
	colour := t.colour(t.stdout)
	for _, p := range v.Problems {
		line, s := printable(p.Error()), red
		if p.Severity == config.SeverityWarning {
			line, s = line+" (warning)", yellow
		}
		fmt.Fprintln(t.stdout, paint(colour, s, line))
	}
	switch {
	case v.OK && warned == 0:
		fmt.Fprintf(t.stdout, "%s is in order\n", name)
	case v.OK:
		fmt.Fprintf(t.stdout, "%s is usable, with %s\n", name, plural(warned, "warning"))
	}
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (t *tool) configShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Show the configuration that applies, and where each value is from",
		Example: `  lawnberry config show
  LAWNBERRY_BROKER_PORT=1884 lawnberry config show --config mower.yaml --json`,
		Args: arguments(0, 0),
		RunE: func(*cobra.Command, []string) error {
			loaded, err := t.load()
			if err != nil {
				return err
			}
			if !t.json {
				return loaded.WriteEffective(t.stdout)
			}
			values := []config.Effective{}
			for e := range loaded.Effective() {
				values = append(values, e)
			}
			return writeJSON(t.stdout, struct {
				File   string             `json:"file"`
				Values []config.Effective `json:"values"`
			}{loaded.File, values})
		},
	}
}
