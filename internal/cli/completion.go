package cli

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

func (t *tool) completionVerb() *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print the script that completes verbs and flags in a shell",
		Long:  "completion prints the completion script for a shell: " + strings.Join(shells, ", ") + ".",
		Example: `  source <(lawnberry completion bash)
  lawnberry completion fish > ~/.config/fish/completions/lawnberry.fish`,
		Args:      arguments(1, 1, "SHELL"),
		ValidArgs: shells,
		RunE: func(c *cobra.Command, args []string) error {
			if !slices.Contains(shells, args[0]) {
				return usagef("no completion for %q: want %s", args[0], strings.Join(shells, ", "))
			}
			var script bytes.Buffer
			var err error
			switch root := c.Root(); args[0] {
			case "bash":
				err = root.GenBashCompletionV2(&script, true)
			case "zsh":
				err = root.GenZshCompletion(&script)
			case "fish":
				err = root.GenFishCompletion(&script, true)
			case "powershell":
				err = root.GenPowerShellCompletionWithDesc(&script)
			}
			if err != nil {
				return fmt.Errorf("completion for %s: %w", args[0], err)
			}
			if t.json {
				return writeJSON(t.stdout, map[string]string{"shell": args[0], "script": script.String()})
			}
			_, err = t.stdout.Write(script.Bytes())
			return err
		},
	}
}
