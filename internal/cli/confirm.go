package cli

import (
	"bufio"
	"context"
	"fmt"
	"strings"
)

// confirm asks a question on standard error, and reports whether the answer on standard input is yes. The error is why ctx ended.
func (t *tool) confirm(ctx context.Context, question string) (bool, error) {
	fmt.Fprintf(t.stderr, "%s [y/N] ", question)
	typed := make(chan string, 1)
	go func() { // may outlive us: nobody can take a read of the terminal back
		line, _ := bufio.NewReader(t.stdin).ReadString('\n')
		typed <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case answer := <-typed:
		return answer == "y" || answer == "yes", nil
	case <-ctx.Done():
		fmt.Fprintln(t.stderr)
		return false, context.Cause(ctx)
	}
}

// mayAsk is the error of a verb that asks before it acts, where nobody is there to be asked.
func (t *tool) mayAsk(yes bool) error {
	if yes || isTerminal(t.stdin) {
		return nil
	}
	return usagef("--yes is missing: without a terminal nobody can be asked")
}
