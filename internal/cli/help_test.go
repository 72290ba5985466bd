package cli

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// walk calls f for a command and all below it.
func walk(c *cobra.Command, f func(*cobra.Command)) {
	f(c)
	for _, sub := range c.Commands() {
		walk(sub, f)
	}
}

func TestEveryVerbIsExplained(t *testing.T) {
	walk((&tool{}).root(), func(c *cobra.Command) {
		if c.Short == "" || c.Example == "" || c.RunE == nil {
			t.Errorf("%s: no short text, no example, or nothing to run", c.CommandPath())
		}
		if strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: %q ends with a full stop", c.CommandPath(), c.Short)
		}
	})
}

// The examples in the help are command lines that parse.
func TestExamplesParse(t *testing.T) {
	examples := 0
	walk((&tool{}).root(), func(c *cobra.Command) {
		for line := range strings.Lines(c.Example) {
			_, line, found := strings.Cut(strings.TrimSuffix(line, "\n"), "lawnberry ")
			if !found {
				t.Errorf("%s: %q is no example of lawnberry", c.CommandPath(), line)
				continue
			}
			line, _, _ = strings.Cut(line, "   ") // what follows is a comment
			args := words(line)
			root := (&tool{}).root()
			verb, rest, err := root.Find(args)
			if err == nil {
				err = verb.ParseFlags(rest)
			}
			if err == nil {
				err = verb.ValidateArgs(verb.Flags().Args())
			}
			if err != nil || verb == root {
				t.Errorf("%s: example %q: %v", c.CommandPath(), line, err)
			}
			examples++
		}
	})
	if examples < 20 {
		t.Errorf("found only %d examples", examples)
	}
}

// words splits a command line as a shell does, as far as the examples need, up to what is the shell's.
func words(line string) []string {
	var args []string
	var word strings.Builder
	quoted, begun := false, false
	end := func() {
		if begun {
			args = append(args, word.String())
			word.Reset()
			begun = false
		}
	}
	for _, r := range line {
		switch {
		case r == '\'':
			quoted, begun = !quoted, true
		case quoted:
			word.WriteRune(r)
		case r == ' ':
			end()
		case strings.ContainsRune("|>)", r):
			end()
			return args
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	end()
	return args
}
