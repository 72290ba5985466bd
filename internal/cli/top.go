package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

func (t *tool) topVerb() *cobra.Command {
	var d dialler
	var count int
	var by string
	c := &cobra.Command{
		Use:   "top",
		Short: "Watch the whole bus live, look into services and topics, and stop the mower",
		Long: `top shows what happens on the bus, on the whole screen: the emergency stop, the services, the topics (the busiest first), alerts, events, how
late messages are, and what the broker says of itself. Arrow keys or j and k choose, Tab goes to the next part, Enter looks into a service or
a topic, Esc goes back, / filters, o sorts otherwise, ? lists all keys, q ends it.

s or the space bar is STOP: it engages the emergency stop at once, without asking. Releasing it is no key: who releases should have
looked at the mower, and names what they have seen: lawnberry estop release.

A lost connection is shown, and made again. Rates are of the last ten seconds; how late messages are is told by the clock of who sent
them. With --json it prints a line each second of what it knows, and needs no terminal.

It ends with code 0; when STOP was pressed and is not known to have reached the broker with code 3, and with code 5 when the hub has
not confirmed it.`,
		Example: `  lawnberry top
  lawnberry top --json --count 10`,
		Args: arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case count < 0:
				return usagef("--count cannot be negative")
			case count > 0 && !t.json:
				return usagef("--count needs --json: on a screen nothing is counted")
			}
			if err := t.wantsScreen(); err != nil {
				return err
			}
			return t.top(c.Context(), &d, count, by)
		},
	}
	d.flags(c, connectTimeout, "give up connecting after this long")
	c.Flags().IntVarP(&count, "count", "n", 0, "with --json: end after `N` lines")
	c.Flags().StringVar(&by, "by", "", byUsage)
	return c
}

// wantsScreen says why there is no screen to draw on.
func (t *tool) wantsScreen() error {
	return t.wantsScreenFor("top", `"lawnberry top --json", "lawnberry service watch" and "lawnberry topic hz"`)
}

// wantsScreenFor says why there is no screen for a verb to draw on, and what there is without one.
func (t *tool) wantsScreenFor(verb, instead string) error {
	why := ""
	switch {
	case t.json:
	case !isTerminal(t.stdout):
		why = "standard output is none"
	case !isTerminal(t.stdin):
		why = "standard input, where the keys come from, is none"
	case t.getenv("TERM") == "" || t.getenv("TERM") == "dumb":
		why = fmt.Sprintf("this one (TERM=%q) cannot place a cursor", t.getenv("TERM"))
	}
	if why == "" {
		return nil
	}
	return &failure{exitUsage, errors.New(verb + " needs a terminal, and " + why), "without one there are " + instead}
}

func (t *tool) top(ctx context.Context, d *dialler, count int, by string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP) // the terminal goes as it should, and the connection
	defer signal.Stop(hangup)
	stopWaiting := make(chan struct{})
	defer close(stopWaiting)
	go func() {
		select {
		case <-hangup:
			cancel(errInterrupted)
		case <-stopWaiting:
		}
	}()
	o, cfg, err := d.options(t)
	if err != nil {
		return err
	}
	tail := &logTail{out: t.stderr}
	if o.Logger, err = t.logger(tail, slog.LevelWarn); err != nil {
		return err
	}
	f, err := openFeed(ctx, d, o, cfg, cmp.Or(by, cfg.Identity(), t.operator("")))
	if err != nil {
		return err
	}
	if t.json {
		err = t.printViews(ctx, f, count)
	} else {
		if isTerminal(t.stderr) { // the log would write over the screen
			tail.hold()
		}
		err = t.showScreen(ctx, newTopModel(f, t.colour(t.stdout)))
		tail.release()
	}
	if failed := f.close(context.WithoutCancel(ctx)); err == nil {
		err = failed
	}
	return err
}

// framesPerSecond is how often top draws at most, also while keys are held down.
const framesPerSecond = 10

// showScreen runs a model on the terminal until it ends or ctx does, and leaves the terminal as it was.
func (t *tool) showScreen(ctx context.Context, m tea.Model) error {
	options := []tea.ProgramOption{tea.WithInput(t.stdin), tea.WithEnvironment(t.environ), tea.WithoutSignalHandler(), tea.WithFPS(framesPerSecond)}
	if out, ok := t.stdout.(*output); ok {
		options = append(options, tea.WithOutput(out.Writer))
	}
	p := tea.NewProgram(m, options...)
	ended, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-ctx.Done():
			p.Quit() // a context of the program's own would not wait for its reader
		case <-ended:
		}
	}()
	_, err := p.Run()
	close(ended)
	<-watched
	switch cause := context.Cause(ctx); {
	case errors.Is(err, tea.ErrProgramPanic):
		return errors.New("top has failed, by a fault of its own that is described above; the terminal is as it was")
	case cause != nil && !errors.Is(cause, errInterrupted):
		return cause
	case err != nil && cause == nil:
		return fmt.Errorf("terminal: %w", err)
	}
	return nil // also when the terminal has gone away with the signal that says so
}

// A topLine is a line of top --json.
type topLine struct {
	Time     time.Time         `json:"time"`
	Broker   linkView          `json:"broker"`
	Stop     safety.State      `json:"emergency_stop"`
	Stands   []stopParticipant `json:"participants"`
	Rate     float64           `json:"per_second"`
	Bytes    float64           `json:"bytes_per_second"`
	Latency  topLatency        `json:"latency_ms"`
	Command  *float64          `json:"command_ms"` // the round trip of a command to the hub; null without an answer
	Services []serviceInfo     `json:"services"`
	Topics   []topicView       `json:"topics"` // the busiest first
	Others   int               `json:"other_messages"`
	Unlisted int               `json:"other_statuses"`
	Alerts   []service.Alert   `json:"alerts"`
	Events   []eventLine       `json:"events"` // the newest first
	Figures  map[string]string `json:"broker_figures"`
	Lost     uint64            `json:"not_counted"`
	Missing  []string          `json:"missing,omitempty"`
}

// A topLatency is how late messages are, from their timestamp to their receipt.
type topLatency struct {
	Count uint64  `json:"count"`
	P50   float64 `json:"p50"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

// A stopParticipant is a service that has reported on the emergency stop.
type stopParticipant struct {
	Service   string  `json:"service_id"`
	Actuator  bool    `json:"actuator"`
	Confirmed bool    `json:"confirmed"`
	AfterMS   float64 `json:"confirmed_ms"`
}

func newTopLine(v busView) topLine {
	l := topLine{
		Time: v.at, Broker: v.link, Stop: v.state, Stands: []stopParticipant{}, Rate: v.rate, Bytes: v.bytes, Latency: newTopLatency(v.latency),
		Services: append([]serviceInfo{}, v.services...), Topics: v.topics, Others: v.others, Unlisted: v.unlisted,
		Alerts: append([]service.Alert{}, v.alerts...), Events: append([]eventLine{}, v.events...), Figures: v.figures, Lost: v.lost, Missing: v.missing,
	}
	for _, p := range v.hub.Participants {
		l.Stands = append(l.Stands, stopParticipant{p.Service, p.Actuator, p.Confirmed, p.AfterMS})
	}
	if v.hub.Took > 0 {
		took := inMilliseconds(v.hub.Took)
		l.Command = &took
	}
	slices.SortFunc(l.Topics, busiest)
	return l
}

func newTopLatency(q client.Quantiles) topLatency {
	return topLatency{q.Count, inMilliseconds(q.P50), inMilliseconds(q.P99), inMilliseconds(q.Max)}
}

// printViews prints a line each second.
func (t *tool) printViews(ctx context.Context, f *feed, count int) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	patience := time.NewTimer(5 * time.Second) // for what the broker retains, if it is gone again
	defer patience.Stop()
	select {
	case <-f.ready:
	case <-patience.C:
	case <-ctx.Done():
	}
	for printed := 0; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(cause, errInterrupted) {
				return cause
			}
			return nil
		}
		if err := writeJSONLine(t.stdout, newTopLine(f.view())); err != nil {
			return err
		}
		if printed++; printed == count {
			return nil
		}
	}
}
