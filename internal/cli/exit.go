package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/topic"
)

// The exit codes of every verb.
const (
	exitDone     = 0
	exitFailed   = 1
	exitUsage    = 2 // the command line is wrong: a flag, a verb, an argument, a topic
	exitNoBroker = 3 // nobody answers as a broker at the address
	exitRefused  = 4 // the other side said no: bad credentials, an unknown service, a failed command
	exitTimeout  = 5 // no answer in time
)

// exitKilled is what a second interrupt ends with, as a shell reports a process that died of the first.
const exitKilled = 130

// A failure is an error with its exit code and, for people, what to do about it.
type failure struct {
	code int
	err  error
	hint string // "" when the error says all
}

func (f *failure) Error() string {
	if f.hint == "" {
		return f.err.Error()
	}
	return f.err.Error() + "; " + f.hint
}

func (f *failure) Unwrap() error { return f.err }

// A detailed is an error with details, each of which is printed on a line of its own.
type detailed struct {
	text    string
	details []string
}

func (l *detailed) Error() string { return l.text }

func failf(code int, format string, args ...any) error {
	return &failure{code: code, err: fmt.Errorf(format, args...)}
}

func usagef(format string, args ...any) error { return failf(exitUsage, format, args...) }

// errInterrupted is the cause of a context that ended by a signal.
var errInterrupted = errors.New("interrupted")

// exitCode returns the code that err ends the process with.
func exitCode(err error) int {
	var (
		known   *failure
		bad     *topic.Error
		connect *client.ConnectError
		refused *client.RefusedError
		command *client.CommandError
		severed *client.DisconnectError
	)
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &known):
		return known.code
	case errors.As(err, &bad):
		return exitUsage
	case errors.As(err, &connect):
		if connect.Refused() {
			return exitRefused
		}
		return exitNoBroker
	case errors.As(err, &command):
		switch command.Code {
		case client.CodeTimeout, fleet.CodeUnknown:
			return exitTimeout
		case client.CodeCancelled:
			return exitFailed
		}
		return exitRefused
	case errors.As(err, &refused), errors.As(err, &severed):
		return exitRefused
	case errors.Is(err, context.DeadlineExceeded):
		return exitTimeout
	case errors.Is(err, client.ErrNotConnected):
		return exitNoBroker
	default:
		return exitFailed
	}
}

// report writes err for people, one line per problem, or as one JSON object.
func report(w io.Writer, err error, code int, asJSON bool) {
	var problems config.Problems
	if !asJSON && errors.As(err, &problems) {
		for line := range strings.Lines(problems.Error()) {
			fmt.Fprintf(w, "lawnberry: %s\n", oneLine(line))
		}
		return
	}
	text := oneLine(err.Error())
	var list *detailed
	var details []string
	if errors.As(err, &list) {
		details = list.details
	}
	if asJSON {
		_ = writeJSONLine(w, struct { // nobody is left to tell of a failure
			Error   string   `json:"error"`
			Code    int      `json:"code"`
			Details []string `json:"details,omitempty"`
		}{text, code, details})
		return
	}
	if details != nil {
		text += ":"
	}
	fmt.Fprintf(w, "lawnberry: %s\n", text)
	for _, d := range details {
		fmt.Fprintf(w, "  %s\n", oneLine(d))
	}
}

// oneLine makes a line that cannot harm a terminal of a text.
func oneLine(text string) string {
	return printable(strings.Join(strings.Fields(text), " "))
}
