package cli

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

// A shorthand is the flags of pub that stand for a topic and an envelope.
type shorthand struct {
	sensor, event, alert string // types
	severity             string
	status               bool
}

func (s *shorthand) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&s.sensor, "sensor", "", "publish PAYLOAD as the data of a sensor of this `TYPE`, on sensors/TYPE/data")
	f.StringVar(&s.event, "event", "", "publish PAYLOAD as the data of an event of this `TYPE`, on system/events/TYPE")
	f.StringVar(&s.alert, "alert", "", "publish an alert of this `TYPE`, on safety/alerts/TYPE")
	f.StringVar(&s.severity, "severity", "", "`SEVERITY` of --alert: info, warning, error or critical (default warning)")
	f.BoolVar(&s.status, "status", false, "publish PAYLOAD as the status of the service --sender, on system/services/SENDER/status")
}

// given reports whether a flag names the topic.
func (s *shorthand) given() bool { return s.sensor != "" || s.event != "" || s.alert != "" || s.status }

// expand puts the topic that a flag stands for before the arguments, and sets the type of message.
func (s *shorthand) expand(kind *string, sender string, args []string) ([]string, error) {
	if !s.given() {
		return args, nil
	}
	chosen, name := 0, ""
	for _, k := range []struct {
		flag, value, before, after string
		kind                       message.Type
		optional                   bool // its payload
	}{
		{"--sensor", s.sensor, "sensors/", "/data", message.TypeSensorData, false},
		{"--event", s.event, "system/events/", "", message.TypeEvent, true},
		{"--alert", s.alert, "safety/alerts/", "", message.TypeAlert, true},
	} {
		if k.value == "" {
			continue
		}
		if err := topic.CheckLevel(k.flag, k.value); err != nil {
			return nil, usagef("%v", err)
		}
		if chosen++; chosen == 1 && *kind == "" {
			*kind, name = string(k.kind), k.before+k.value+k.after
		}
		if k.optional && len(args) == 0 {
			args = []string{"{}"}
		}
	}
	if s.status {
		if topic.CheckLevel("--sender", sender) != nil {
			return nil, usagef("--status needs a --sender: the id of the service whose status it is")
		}
		if chosen++; chosen == 1 && *kind == "" {
			*kind, name = string(message.TypeStatus), "system/services/"+sender+"/status"
		}
	}
	switch {
	case chosen > 1:
		return nil, usagef("--sensor, --event, --alert and --status exclude each other")
	case name == "":
		return nil, usagef("--type %s is not needed: --sensor, --event, --alert and --status say it", *kind)
	}
	if s.severity != "" {
		if err := checkSeverity(s.severity); err != nil {
			return nil, err
		}
	}
	return append([]string{name}, args...), nil
}

// fill makes the envelope's payload of what was given.
func (s *shorthand) fill(body []byte) ([]byte, error) {
	var object map[string]json.RawMessage
	if s.sensor == "" && s.event == "" && s.alert == "" {
		return body, nil
	}
	if err := json.Unmarshal(body, &object); err != nil || object == nil {
		return nil, errors.New("want a JSON object")
	}
	switch {
	case s.sensor != "":
		return json.Marshal(map[string]any{"sensor_type": s.sensor, "data": object})
	case s.event != "":
		return json.Marshal(map[string]any{"event_type": s.event, "event_data": object})
	}
	// A valid string always encodes.
	object["alert_type"], _ = encodeJSON(s.alert, "")
	if _, ok := object["severity"]; !ok || s.severity != "" {
		object["severity"], _ = encodeJSON(cmp.Or(s.severity, "warning"), "")
	}
	return json.Marshal(object)
}

// A supply is the flags of pub that make many messages.
type supply struct {
	rate  float64 // a second; 0 is as fast as can be
	count int
	file  string

	countGiven bool
}

func (s *supply) flags(c *cobra.Command) {
	f := c.Flags()
	f.Float64Var(&s.rate, "rate", 0, "publish at most `N` messages a second (default as fast as they are taken)")
	f.IntVarP(&s.count, "count", "n", 1, "publish `N` times, 0 until interrupted; of lines the first N (default all)")
	f.StringVar(&s.file, "file", "", "publish every line of `FILE`, or of standard input with -, as a message of its own; each has to be JSON")
}

func (s *supply) check(lines, payload bool) error {
	switch {
	case s.count < 0:
		return usagef("--count %d: want 0 or more", s.count)
	case s.rate < 0 || math.IsNaN(s.rate) || s.rate > 0 && s.rate < 1e-6:
		return usagef("--rate %g: want 0.000001 or more", s.rate)
	case s.file != "" && lines:
		return usagef("--file and --lines exclude each other")
	case s.file != "" && payload:
		return usagef("--file has the payloads: leave out PAYLOAD")
	}
	return nil
}

// many reports whether it says how many messages there were, in place of a line for each.
func (s *supply) many() bool { return s.file != "" || s.countGiven && s.count != 1 }

// endless reports whether an interrupt is what ends it.
func (s *supply) endless() bool { return s.countGiven && s.count == 0 }

// pacer returns what waits until the next message may go.
func (s *supply) pacer() func(ctx context.Context) error {
	var due time.Time
	return func(ctx context.Context) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if s.rate == 0 {
			return nil
		}
		now := time.Now()
		if wait := due.Sub(now); wait > 0 && !pause(ctx, wait) {
			return context.Cause(ctx)
		}
		step := time.Duration(float64(time.Second) / s.rate)
		if due = due.Add(step); due.Before(now) { // what is late is not caught up with
			due = now.Add(step)
		}
		return nil
	}
}

// source returns what makes one message after the other until more is false, and what frees it.
func (p *publication) source(ctx context.Context, t *tool, args []string, limits message.Limits) (next func() (m message.Message, more bool, err error), end func(), err error) {
	if p.lines || p.file != "" {
		return p.lineSource(ctx, t, limits)
	}
	var body []byte
	if len(args) == 1 || args[1] == "-" {
		if body, err = readBounded(ctx, t.stdin, limits); err != nil {
			return nil, nil, err
		}
	} else {
		body = []byte(args[1])
	}
	n := 0
	return func() (message.Message, bool, error) {
		if n++; p.count > 0 && n > p.count {
			return message.Message{}, false, nil
		}
		m, err := p.message(body, limits)
		return m, err == nil, err
	}, func() {}, nil
}

// maxLine bounds what is read of a line, in bytes.
const maxLine = 1 << 20

// openFile opens a file to read. When it is a pipe that nobody writes to it waits, until ctx ends.
func openFile(ctx context.Context, name string) (f *os.File, err error) {
	opened := make(chan *os.File, 1)
	err = await(ctx, func() error {
		f, err := os.Open(name)
		opened <- f
		return err
	})
	select {
	case f = <-opened:
	default: // it is still waited for, and ends with the program
	}
	return f, err
}

// lineSource makes a message of each line.
func (p *publication) lineSource(ctx context.Context, t *tool, limits message.Limits) (next func() (message.Message, bool, error), end func(), err error) {
	in := t.stdin
	name, end := "standard input", func() {}
	if p.file != "" && p.file != "-" {
		f, err := openFile(ctx, p.file)
		if err != nil {
			return nil, nil, failf(exitUsage, "--file: %w", err)
		}
		in, name, end = f, p.file, func() { _ = f.Close() }
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	number, sent := 0, 0
	return func() (message.Message, bool, error) {
		if p.countGiven && p.count > 0 && sent == p.count {
			return message.Message{}, false, nil
		}
		for {
			more := false
			if err := await(ctx, func() error { more = lines.Scan(); return lines.Err() }); errors.Is(err, bufio.ErrTooLong) {
				return message.Message{}, false, failf(exitUsage, "%s, line %d: it is longer than %d bytes, which no message may be", name, number+1, maxLine)
			} else if err != nil {
				return message.Message{}, false, fmt.Errorf("%s: %w", name, err)
			}
			if !more {
				return message.Message{}, false, nil
			}
			number++
			body := bytes.Clone(lines.Bytes())
			switch {
			case p.file == "":
			case len(bytes.TrimSpace(body)) == 0:
				continue
			case !json.Valid(body):
				return message.Message{}, false, failf(exitUsage, "%s, line %d: want JSON", name, number)
			}
			m, err := p.message(body, limits)
			if err != nil {
				return m, false, fmt.Errorf("%s, line %d: %w", name, number, err)
			}
			sent++
			return m, true, nil
		}
	}, end, nil
}
