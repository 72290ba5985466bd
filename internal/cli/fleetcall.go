package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/fleet"
)

const fleetCodes = `Code 4 is a command that the mower or its service refused, or a mower that is offline: it has not run. Code 5 is no answer in time, or a mower
whose uplink was restarted meanwhile: it may or may not have run. With several mowers the code is 5 if it is any mower's, else the first failure's.`

// A mowerResult is what a verb says of a mower with --json.
type mowerResult struct {
	Mower  string          `json:"mower"`
	OK     bool            `json:"ok"`
	Result json.RawMessage `json:"result,omitempty"`
	Code   string          `json:"code,omitempty"`
	Error  string          `json:"error,omitempty"`

	err  error
	text string // for people, instead of the result
}

func newMowerResult(mower string, result json.RawMessage, err error) mowerResult {
	r := mowerResult{Mower: mower, OK: err == nil, Result: result, err: err}
	if err != nil {
		r.Error = strings.TrimPrefix(err.Error(), mower+": ")
		if said := (*client.CommandError)(nil); errors.As(err, &said) {
			r.Code, r.Error = said.Code, strings.TrimPrefix(said.Message, mower+": ")
		}
	}
	return r
}

func (t *tool) fleetCall(f *fleetAccess) *cobra.Command {
	var s mowerSelection
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "call [MOWER[,MOWER...]] SERVICE COMMAND [PARAMETERS]",
		Short: "Send a command to a service of mowers, and print its result",
		Long: `call sends COMMAND with PARAMETERS, a JSON object or name=value pairs, to a service of each mower, and prints the result as JSON, of several
mowers one line each. With --where or --all the mowers are not named. The mower's integration.fleet.down says what it takes. A command is sent again while nodes of the engine fail, and runs once at most.

A value of a pair is JSON if it can be read as such, else text: depth=3 is a number, depth='"3"' a text.

` + fleetCodes,
		Example: `  lawnberry fleet call mower-0042 navigation dock
  lawnberry fleet call mower-0042 hardware_interface read_sensor sensor_id=gps
  lawnberry fleet call mower-0042,mower-0043 navigation pause --timeout 5s
  lawnberry fleet call --where 'battery<20 and state=mowing' navigation dock`,
		Args: arguments(2, -1, "SERVICE", "COMMAND"),
		RunE: func(c *cobra.Command, args []string) error {
			args, err := s.take(args)
			if err != nil {
				return err
			}
			if len(args) < 2 {
				return &failure{exitUsage, errors.New("COMMAND is missing"), helpHint(c)}
			}
			if err := checkLevel("service", args[0]); err != nil {
				return err
			}
			parameters, err := parameterPairs(args[2:])
			if err != nil {
				return err
			}
			if timeout <= 0 {
				return usagef("--timeout %s: want more than 0", timeout)
			}
			return f.withMowers(c.Context(), t, &s, "Send it to", func(ctx context.Context, o fleet.Operator, mowers []string) error {
				return t.eachMower(ctx, mowers, &s, func(ctx context.Context, mower string) mowerResult {
					ctx, cancel := context.WithTimeout(ctx, timeout)
					defer cancel()
					result, err := o.Call(ctx, mower, args[0], args[1], parameters)
					return newMowerResult(mower, result, err)
				})
			})
		},
	}
	c.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "the deadline of the command, for each mower")
	s.flags(c, "send it to", 50)
	return c
}

// mowerList reads a list of mowers.
func mowerList(text string) ([]string, error) {
	mowers := strings.Split(text, ",")
	for _, m := range mowers {
		if err := fleet.CheckMower(m); err != nil {
			return nil, usagef("%v", err)
		}
	}
	slices.Sort(mowers)
	return slices.Compact(mowers), nil
}

// parameterPairs reads the parameters of a command: one JSON object, or name=value pairs.
func parameterPairs(args []string) (json.RawMessage, error) {
	object := map[string]json.RawMessage{}
	if len(args) == 1 && strings.HasPrefix(strings.TrimSpace(args[0]), "{") {
		if err := json.Unmarshal([]byte(args[0]), &object); err != nil || object == nil {
			return nil, usagef("parameters %q: want a JSON object such as '{\"sensor_id\": \"gps\"}'", args[0])
		}
		return json.RawMessage(args[0]), nil
	}
	for _, a := range args {
		name, value, ok := strings.Cut(a, "=")
		if _, twice := object[name]; !ok || name == "" || twice {
			return nil, usagef("parameter %q: want name=value, each name once, or one JSON object", a)
		}
		if json.Valid([]byte(value)) {
			object[name] = json.RawMessage(value)
		} else {
			object[name], _ = json.Marshal(value) // a text
		}
	}
	return json.Marshal(object)
}

// eachMower asks mowers, prints what each has answered as it comes, and returns what went wrong. Those that are selected by then as well are asked too, if
// the selection has them.
func (t *tool) eachMower(ctx context.Context, mowers []string, s *mowerSelection, ask func(ctx context.Context, mower string) mowerResult) error {
	var mu sync.Mutex
	var failed []mowerResult
	asked := map[string]bool{}
	several := len(mowers) > 1 || t.json && s.selected() // a program need not know how many there are
	s.begun = true
	round := func(mowers []string) error {
		return fleet.ForEach(ctx, mowers, s.most, func(ctx context.Context, mower string) {
			r := ask(ctx, mower)
			mu.Lock()
			defer mu.Unlock()
			asked[mower] = true
			if r.err != nil {
				failed = append(failed, r)
			}
			t.printMower(r, several)
		})
	}
	err := round(mowers)
	var missing error
	for s.more != nil && err == nil && ctx.Err() == nil {
		var late []string
		if late, missing = s.more(asked); len(late) == 0 {
			break
		}
		mowers = append(mowers, late...)
		err = round(late)
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	for _, m := range mowers {
		if asked[m] {
			continue
		}
		r := mowerResult{Mower: m, Code: client.CodeCancelled, Error: "not asked", err: failf(exitFailed, "%s: not asked", m)}
		if s.stops {
			r.Error = notStopped + r.Error
		}
		failed = append(failed, r)
		t.printMower(r, several)
	}
	if len(failed) == 0 {
		return errors.Join(err, missing)
	}
	if len(mowers) == 1 && err == nil && missing == nil {
		return failed[0].err
	}
	slices.SortFunc(failed, func(a, b mowerResult) int { return strings.Compare(a.Mower, b.Mower) })
	list := &detailed{text: fmt.Sprintf("%d of %s failed", len(failed), plural(len(mowers), "mower"))}
	code := exitCode(failed[0].err)
	for _, r := range failed {
		list.details = append(list.details, r.Mower+": "+r.Error)
		if exitCode(r.err) == exitTimeout {
			code = exitTimeout
		}
	}
	switch {
	case s.stops: // whatever the reason is
		code = exitTimeout
	case err != nil:
		code = exitFailed
	}
	return errors.Join(&failure{code, list, ""}, err, missing)
}

// printMower prints the answer of a mower: of several a line each.
func (t *tool) printMower(r mowerResult, several bool) {
	switch {
	case t.json && several:
		_ = writeJSONLine(t.stdout, r)
	case r.err != nil && (!t.json || r.Result == nil): // it is said at the end
	case r.text != "" && !t.json:
		if several && !strings.HasPrefix(r.text, r.Mower) {
			fmt.Fprintf(t.stdout, "%s ", r.Mower)
		}
		fmt.Fprintln(t.stdout, printable(r.text))
	case several:
		fmt.Fprintf(t.stdout, "%s %s\n", r.Mower, printable(compact(orNull(r.Result))))
	default:
		var pretty bytes.Buffer
		if json.Indent(&pretty, orNull(r.Result), "", "  ") == nil {
			fmt.Fprintf(t.stdout, "%s\n", harmless(pretty.Bytes()))
		}
	}
}

func orNull(result json.RawMessage) json.RawMessage {
	if len(result) == 0 {
		return json.RawMessage("null")
	}
	return result
}
