package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

func (t *tool) eventVerbs() *cobra.Command {
	c := &cobra.Command{
		Use:   "event",
		Short: "Emit events and watch them",
		Example: `  lawnberry event watch
  lawnberry event emit rain_started '{"mm_per_hour": 2}'`,
	}
	asGroup(c)
	c.AddCommand(t.eventEmit(), t.eventWatch())
	return c
}

func (t *tool) eventEmit() *cobra.Command {
	var d dialler
	var by, category, priority string
	c := &cobra.Command{
		Use:   "emit TYPE [JSON]",
		Short: "Emit an event",
		Long:  "emit publishes an event on system/events/TYPE, with JSON, an object, as its data.",
		Example: `  lawnberry event emit rain_started
  lawnberry event emit rain_started '{"mm_per_hour": 2}' --category weather --priority high`,
		Args: arguments(1, 2, "TYPE"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := topic.CheckLevel("event type", args[0]); err != nil {
				return usagef("%v", err)
			}
			data := json.RawMessage("{}")
			if len(args) == 2 {
				var object map[string]json.RawMessage
				if err := json.Unmarshal([]byte(args[1]), &object); err != nil || object == nil {
					return usagef("data %q: want a JSON object such as '{\"mm_per_hour\": 2}'", args[1])
				}
				data = json.RawMessage(args[1])
			}
			who := t.operator(by)
			m, err := message.NewEvent(who, message.Event{EventType: args[0], EventData: data, Source: who, Category: category})
			if err != nil {
				return usagef("event %s: %w", args[0], err)
			}
			if priority != "" {
				if m.Metadata.Priority, err = parsePriority(priority); err != nil {
					return err
				}
			}
			return t.withBroker(c.Context(), &d, func(ctx context.Context, c *client.Client) error {
				name := "system/events/" + args[0]
				if err := c.Publish(ctx, name, m); err != nil {
					return err
				}
				if t.json {
					return writeJSON(t.stdout, map[string]string{"topic": name, "event_type": args[0], "message_id": m.Metadata.ID})
				}
				_, err := fmt.Fprintf(t.stdout, "event %s emitted\n", args[0])
				return err
			})
		},
	}
	d.flags(c, connectTimeout, "give up after this long")
	c.Flags().StringVar(&by, "by", "", "in the name of `WHOM` (default $USER, else cli)")
	c.Flags().StringVar(&category, "category", "", "the event's `CATEGORY` (default system)")
	c.Flags().StringVar(&priority, "priority", "", "`PRIORITY`: low, normal, high or critical (default normal)")
	return c
}

// An eventLine is an event as JSON.
type eventLine struct {
	Time     time.Time       `json:"time"` // of receipt
	Type     string          `json:"event_type"`
	Source   string          `json:"source"`
	Sender   string          `json:"sender"`
	Category string          `json:"category"`
	Priority string          `json:"priority"`
	Data     json.RawMessage `json:"event_data"`
}

func (t *tool) eventWatch() *cobra.Command {
	l := &listening{qos: 2}
	c := &cobra.Command{
		Use:   "watch [TYPE]",
		Short: "Print events as they come",
		Long: `watch prints the events of all types or of one, a line each: when, the type, who it comes from, and its data. It ends when interrupted, after
--count events, or after --for, and then with code 5 when --count is not reached.`,
		Example: `  lawnberry event watch
  lawnberry event watch service_state_change --count 1 --json`,
		Args: arguments(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			filter := "system/events/+"
			if len(args) == 1 {
				if err := topic.CheckLevel("event type", args[0]); err != nil {
					return usagef("%v", err)
				}
				filter = "system/events/" + args[0]
			}
			l.show = t.showEvent
			return l.run(c.Context(), t, []string{filter})
		},
	}
	l.ending(c, "events")
	return c
}

// newEventLine returns the event that a delivery is.
func newEventLine(d *client.Delivery) (eventLine, bool) {
	e, ok := readEvent(d)
	if !ok {
		return eventLine{}, false
	}
	m := d.Message.Metadata
	if len(e.EventData) == 0 {
		e.EventData = json.RawMessage("{}")
	}
	name := cmp.Or(e.EventType, d.Topic[strings.LastIndexByte(d.Topic, '/')+1:])
	return eventLine{d.Received, name, e.Source, m.Sender, e.Category, m.Priority.String(), e.EventData}, true
}

// showEvent prints an event, and nothing of what is none.
func (t *tool) showEvent(d *client.Delivery) (bool, error) {
	e, ok := newEventLine(d)
	if !ok {
		return false, nil
	}
	if t.json {
		return true, writeJSONLine(t.stdout, e)
	}
	colour := t.colour(t.stdout)
	_, err := fmt.Fprintf(t.stdout, "%s %s %s %s\n", paint(colour, dim, e.Time.Local().Format("15:04:05.000")), paint(colour, bold, fmt.Sprintf("%-24s", printable(e.Type))),
		fmt.Sprintf("%-18s", printable(cmp.Or(e.Source, e.Sender))), printable(compact(e.Data)))
	return true, err
}

// readEvent returns the event that a delivery is.
func readEvent(d *client.Delivery) (e message.Event, ok bool) {
	if d.Invalid != nil || d.Message.Raw || d.Message.Metadata.Type != message.TypeEvent {
		return e, false
	}
	e, err := message.Payload[message.Event](d.Message)
	return e, err == nil
}
