package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
	"github.com/lawnberry/lawnberry/topic"
)

func (t *tool) alertVerbs() *cobra.Command {
	c := &cobra.Command{
		Use:   "alert",
		Short: "Look at the alerts, raise, acknowledge and clear them",
		Example: `  lawnberry alert ls
  lawnberry alert watch
  lawnberry alert ack tilt --by anna
  lawnberry alert clear tilt`,
	}
	asGroup(c)
	c.AddCommand(t.alertLs(), t.alertWatch(), t.alertRaise(), t.alertAck(), t.alertClear())
	return c
}

func (t *tool) alertLs() *cobra.Command {
	var d dialler
	c := &cobra.Command{
		Use:   "ls",
		Short: "List the alerts that stand, the worst first",
		Example: `  lawnberry alert ls
  lawnberry alert ls --json`,
		Args: arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return t.withAlerts(c.Context(), &d, func(_ context.Context, _ *client.Client, book *service.AlertBook) error {
				return t.listAlerts(book.Alerts())
			})
		},
	}
	d.flags(c, connectTimeout, "give up after this long")
	return c
}

func (t *tool) listAlerts(alerts []service.Alert) error {
	if t.json {
		return writeJSON(t.stdout, struct {
			Alerts []service.Alert `json:"alerts"`
		}{append([]service.Alert{}, alerts...)})
	}
	if len(alerts) == 0 {
		_, err := fmt.Fprintln(t.stdout, "no alerts")
		return err
	}
	rows := table{header: []string{"TYPE", "SEVERITY", "FROM", "COUNT", "FIRST", "LAST", "ACKNOWLEDGED", "MESSAGE"}}
	for _, a := range alerts {
		acknowledged := "-"
		if a.Acknowledged {
			acknowledged = cmp.Or(a.AcknowledgedBy, "yes")
		}
		rows.add(text(a.AlertType), cell{a.Severity, severityStyle(a.Severity)}, text(a.Sender), text(strconv.Itoa(a.Count)),
			text(shortDuration(time.Since(a.FirstRaised))+" ago"), text(shortDuration(time.Since(a.Time))+" ago"), text(acknowledged), text(cmp.Or(a.Message, "-")))
	}
	rows.write(t.stdout, t.colour(t.stdout))
	return nil
}

func severityStyle(severity string) style {
	switch severity {
	case "critical", "error":
		return red
	case "warning":
		return yellow
	}
	return plain
}

func (t *tool) alertAck() *cobra.Command {
	var d dialler
	var by string
	c := &cobra.Command{
		Use:   "ack TYPE",
		Short: "Acknowledge an alert: it stands, and is known to be seen",
		Example: `  lawnberry alert ack tilt
  lawnberry alert ack tilt --by anna`,
		Args: arguments(1, 1, "TYPE"),
		RunE: func(c *cobra.Command, args []string) error {
			return t.changeAlert(c.Context(), &d, args[0], func(ctx context.Context, c *client.Client, book *service.AlertBook) error {
				for _, a := range book.Alerts() {
					if a.AlertType == args[0] && a.Acknowledged {
						return t.saidOfAlert(args[0], "is acknowledged already")
					}
				}
				m, err := book.Acknowledgement(args[0], t.operator(by))
				if err == nil {
					err = c.Publish(ctx, alertTopic(args[0]), m, client.WithRetain(true))
				}
				if err != nil {
					return err
				}
				return t.saidOfAlert(args[0], "acknowledged")
			})
		},
	}
	d.flags(c, connectTimeout, "give up after this long")
	c.Flags().StringVar(&by, "by", "", "in the name of `WHOM` (default $USER, else cli)")
	return c
}

func (t *tool) alertClear() *cobra.Command {
	var d dialler
	var by string
	c := &cobra.Command{
		Use:     "clear TYPE",
		Short:   "End an alert, whoever raised it",
		Long:    `clear removes the retained message of an alert. The service that raised it raises it again if it finds the reason again.`,
		Example: "  lawnberry alert clear tilt",
		Args:    arguments(1, 1, "TYPE"),
		RunE: func(c *cobra.Command, args []string) error {
			return t.changeAlert(c.Context(), &d, args[0], func(ctx context.Context, c *client.Client, _ *service.AlertBook) error {
				if err := c.Publish(ctx, alertTopic(args[0]), message.NewRaw(nil), service.ClearOptions(t.operator(by))...); err != nil {
					return err
				}
				return t.saidOfAlert(args[0], "cleared")
			})
		},
	}
	d.flags(c, connectTimeout, "give up after this long")
	c.Flags().StringVar(&by, "by", "", "in the name of `WHOM` (default $USER, else cli)")
	return c
}

func alertTopic(alertType string) string { return "safety/alerts/" + alertType }

// operator is who acts.
func (t *tool) operator(by string) string { return cmp.Or(by, t.getenv("USER"), "cli") }

func (t *tool) saidOfAlert(alertType, what string) error {
	if t.json {
		return writeJSON(t.stdout, map[string]string{"alert_type": alertType, "result": what})
	}
	_, err := fmt.Fprintf(t.stdout, "alert %s %s\n", alertType, what)
	return err
}

// changeAlert calls f for an alert that stands.
func (t *tool) changeAlert(ctx context.Context, d *dialler, alertType string, f func(context.Context, *client.Client, *service.AlertBook) error) error {
	if err := topic.CheckLevel("alert type", alertType); err != nil {
		return usagef("%v", err)
	}
	return t.withAlerts(ctx, d, func(ctx context.Context, c *client.Client, book *service.AlertBook) error {
		var known []string
		for _, a := range book.Alerts() {
			if a.AlertType == alertType {
				return f(ctx, c, book)
			}
			known = append(known, a.AlertType)
		}
		if len(known) == 0 {
			return failf(exitRefused, "no alert %q: there is none", alertType)
		}
		return failf(exitRefused, "no alert %q: there are %s", alertType, strings.Join(known, ", "))
	})
}

// withAlerts calls f with a connection and the alerts that the broker retains.
func (t *tool) withAlerts(ctx context.Context, d *dialler, f func(context.Context, *client.Client, *service.AlertBook) error) error {
	o, _, err := d.options(t)
	if err != nil {
		return err
	}
	c, err := d.connect(ctx, o)
	if err != nil {
		return err
	}
	ctx, cancel := d.bound(ctx)
	defer cancel()
	var book service.AlertBook
	r := newRoll()
	if _, err = c.Subscribe(ctx, alertTopic("+"), func(_ context.Context, d *client.Delivery) {
		book.Take(d)
		select {
		case r.changed <- struct{}{}:
		default:
		}
	}); err == nil {
		err = roundTrip(ctx, c)
	}
	if err == nil {
		err = r.quiet(ctx)
	}
	if err == nil {
		err = f(ctx, c, &book)
	}
	return errors.Join(because(ctx, err), disconnect(c))
}
