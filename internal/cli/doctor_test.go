package cli

import (
	"slices"
	"strings"
	"testing"

	"github.com/lawnberry/lawnberry/internal/doctor"
)

// What doctor says that repairs something is a command that there is, with flags and arguments that it takes.
func TestRepairsParse(t *testing.T) {
	others := []string{"chmod", "df", "ls", "timedatectl"} // of the system
	ours := 0
	for k := range doctor.Kinds() {
		line := k.Example()
		args := words(line)
		if args[0] == "sudo" {
			args = args[1:]
		}
		if args[0] != "lawnberry" {
			if !slices.Contains(others, args[0]) {
				t.Errorf("%s: what is %q?", k.ID, line)
			}
			continue
		}
		ours++
		root := (&tool{}).root()
		verb, rest, err := root.Find(args[1:])
		if err == nil {
			err = verb.ParseFlags(rest)
		}
		if err == nil {
			err = verb.ValidateArgs(verb.Flags().Args())
		}
		if err != nil || verb == root || verb.HasSubCommands() {
			t.Errorf("%s: %q: %v", k.ID, line, err)
		}
		for _, advised := range strings.Split(k.Advice, "lawnberry ")[1:] {
			verb, _, err := root.Find(strings.Fields(advised)[:1])
			if err != nil || verb == root {
				t.Errorf("%s: the advice %q names no verb: %v", k.ID, k.Advice, err)
			}
		}
	}
	if ours < 30 {
		t.Errorf("only %d commands of ours", ours)
	}
}
