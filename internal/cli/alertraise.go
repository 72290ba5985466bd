package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
	"github.com/lawnberry/lawnberry/topic"
)

// severities are those of an alert, the worst last.
var severities = []string{"info", "warning", "error", "critical"}

// checkSeverity reports why a text is no severity.
func checkSeverity(text string) error {
	if !slices.Contains(severities, text) {
		return usagef("--severity %q: want %s", text, strings.Join(severities, ", "))
	}
	return nil
}

func (t *tool) alertRaise() *cobra.Command {
	var d dialler
	var by, about string
	var a message.Alert
	c := &cobra.Command{
		Use:   "raise TYPE",
		Short: "Raise an alert, which stands until it is cleared",
		Long: `raise raises an alert: a retained message on safety/alerts/TYPE. One of that type that stands is raised again, which is counted, and keeps its
acknowledgement unless the severity rises; a worse one of another sender stays as it is.`,
		Example: `  lawnberry alert raise fox --severity warning --message 'a fox on the lawn'
  lawnberry alert raise gate_open --severity error --context '{"gate": "south"}'`,
		Args: arguments(1, 1, "TYPE"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := topic.CheckLevel("alert type", args[0]); err != nil {
				return usagef("%v", err)
			}
			if err := checkSeverity(a.Severity); err != nil {
				return err
			}
			if about != "" {
				var object map[string]json.RawMessage
				if err := json.Unmarshal([]byte(about), &object); err != nil || object == nil {
					return usagef("--context %q: want a JSON object", about)
				}
				a.Context = json.RawMessage(about)
			}
			a.AlertType = args[0]
			return t.withAlerts(c.Context(), &d, func(ctx context.Context, c *client.Client, book *service.AlertBook) error {
				m, err := book.Raise(a, t.operator(by))
				if err == nil {
					err = c.Publish(ctx, alertTopic(args[0]), m, client.WithRetain(true))
				}
				if err != nil {
					return err
				}
				return t.saidOfAlert(args[0], "raised")
			})
		},
	}
	d.flags(c, connectTimeout, "give up after this long")
	f := c.Flags()
	f.StringVarP(&a.Severity, "severity", "s", "warning", "`SEVERITY`: info, warning, error or critical")
	f.StringVarP(&a.Message, "message", "m", "", "say `TEXT` to whoever looks")
	f.StringVar(&about, "context", "", "add `JSON`, an object, for programs")
	f.StringVar(&by, "by", "", "in the name of `WHOM` (default $USER, else cli)")
	return c
}

// An alertChange is a line of alert watch with --json.
type alertChange struct {
	Time   time.Time           `json:"time"`
	Action service.AlertAction `json:"action"`
	By     string              `json:"by,omitempty"`
	Alert  service.Alert       `json:"alert"`
}

func (t *tool) alertWatch() *cobra.Command {
	l := &listening{qos: 2}
	c := &cobra.Command{
		Use:   "watch",
		Short: "Print what happens to alerts",
		Long: `watch prints the alerts that stand, and then a line each time one is raised, changed, acknowledged, resolved or cleared; that the same is raised
again is none. It ends when interrupted, after --count lines, or after --for, and then with code 5 when --count is not reached.`,
		Example: `  lawnberry alert watch
  lawnberry alert watch --no-retained --count 1 --json`,
		Args: arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			var book service.AlertBook // one filter: its deliveries come one after the other
			quiet := l.noRetain
			l.noRetain = false // the book has to know what stands
			l.show = func(d *client.Delivery) (bool, error) {
				e, ok := book.Take(d)
				if !ok || quiet && d.Retained {
					return false, nil
				}
				return true, t.printAlert(e)
			}
			return l.run(c.Context(), t, []string{alertTopic("+")})
		},
	}
	l.ending(c, "lines")
	c.Flags().BoolVar(&l.noRetain, "no-retained", false, "leave out the alerts that stand when it begins")
	return c
}

func (t *tool) printAlert(e service.AlertEntry) error {
	if t.json {
		return writeJSONLine(t.stdout, alertChange{e.Time, e.Action, e.By, e.Alert})
	}
	colour := t.colour(t.stdout)
	by := ""
	if e.By != "" {
		by = " by " + printable(e.By)
	}
	_, err := fmt.Fprintf(t.stdout, "%s %s %s %s%s: %s\n", paint(colour, dim, e.Time.Local().Format("15:04:05.000")), paint(colour, bold, printable(e.Alert.AlertType)),
		paint(colour, severityStyle(e.Alert.Severity), fmt.Sprintf("%-8s", printable(e.Alert.Severity))), e.Action, by, printable(cmp.Or(e.Alert.Message, "-")))
	return err
}
