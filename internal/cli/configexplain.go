package cli

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/config"
)

// An explanation is a key, and what it is now.
type explanation struct {
	config.Key
	Value  any    `json:"value"`
	Origin string `json:"origin"`
}

func (t *tool) configExplain() *cobra.Command {
	return &cobra.Command{
		Use:   "explain KEY",
		Short: "Explain a key of the configuration, or the keys of a section",
		Long: `explain prints what KEY (such as broker.port) means, its type, unit and default, what sets it in the environment, and what it is
now. For a section (such as broker.tls) it prints all keys in it, and for "all" every key.`,
		Example: `  lawnberry config explain broker.port
  lawnberry config explain monitoring`,
		Args:              arguments(1, 1),
		ValidArgsFunction: completeKeys,
		RunE: func(_ *cobra.Command, args []string) error {
			return t.explainKeys(strings.Trim(strings.TrimSpace(args[0]), "."))
		},
	}
}

func completeKeys(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	var names []string
	for k := range config.Keys() {
		names = append(names, k.Path)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (t *tool) explainKeys(name string) error {
	loaded, err := t.load()
	if err != nil {
		return err
	}
	found := explained(loaded, name)
	if len(found) == 0 {
		text := fmt.Sprintf("there is no key %s", printable(name))
		if near := config.Nearest(name); near != "" {
			text += ": did you mean " + near + "?"
		}
		return usagef("%s", text)
	}
	if t.json {
		return writeJSON(t.stdout, found)
	}
	if doc := config.Section(name); doc != "" {
		fmt.Fprintf(t.stdout, "%s: %s\n\n", name, doc)
	}
	for i, e := range found {
		if i > 0 {
			fmt.Fprintln(t.stdout)
		}
		if err := t.printExplanation(e); err != nil {
			return err
		}
	}
	return nil
}

// explained returns the keys that a name means, with what they are.
func explained(loaded *config.Loaded, name string) []explanation {
	now := map[string]config.Effective{}
	for e := range loaded.Effective() {
		now[e.Key] = e
	}
	found := []explanation{}
	for k := range config.Keys() {
		if name == "all" || k.Path == name || strings.HasPrefix(k.Path, name+".") || strings.HasPrefix(name, k.Path+".") && keyed(k) {
			found = append(found, explanation{k, now[k.Path].Value, now[k.Path].Origin})
		}
	}
	return found
}

// change says what it takes for a new value.
func change(k config.Key) string {
	if k.Live {
		return "serve takes a new value in at once"
	}
	return "at the next start"
}

// keyed says whether a key's value has keys of its own, which are the user's.
func keyed(k config.Key) bool { return k.Type == "mapping" }

func (t *tool) printExplanation(e explanation) error {
	fmt.Fprintln(t.stdout, paint(t.colour(t.stdout), bold, e.Path))
	for _, line := range wrapped(e.Description, 100) {
		fmt.Fprintln(t.stdout, "  "+line)
	}
	if e.Unsupported != "" {
		for _, line := range wrapped("Not supported yet: "+e.Unsupported+".", 100) {
			fmt.Fprintln(t.stdout, "  "+line)
		}
	}
	out := tabwriter.NewWriter(t.stdout, 0, 0, 2, ' ', 0)
	kind := e.Type
	if e.Allowed != "" {
		kind += ", " + e.Allowed
	}
	for _, row := range [][2]string{
		{"type", kind}, {"unit", e.Unit}, {"default", e.Default}, {"example", e.Example}, {"environment", e.Env},
		{"change", change(e.Key)}, {"now", fmt.Sprintf("%s (%s)", config.YAML(e.Value), e.Origin)},
	} {
		if row[1] != "" {
			fmt.Fprintf(out, "  %s\t%s\n", row[0], printable(row[1]))
		}
	}
	return out.Flush()
}

// wrapped breaks a text into lines.
func wrapped(text string, width int) (lines []string) {
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

func (t *tool) configSchema() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print a JSON Schema of the configuration file, for editors",
		Long: `schema prints a JSON Schema with which an editor completes keys, shows what they mean and marks mistakes. Editors with
yaml-language-server find it by a first line in the file:
  # yaml-language-server: $schema=lawnberry.schema.json`,
		Example: `  lawnberry config schema > lawnberry.schema.json`,
		Args:    arguments(0, 0),
		RunE:    func(*cobra.Command, []string) error { return config.WriteJSONSchema(t.stdout) },
	}
}
