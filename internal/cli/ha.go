package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/bridge/homeassistant"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/app"
)

func (t *tool) haVerbs() *cobra.Command {
	c := &cobra.Command{
		Use:   "ha",
		Short: "Show the mower to Home Assistant",
		Long: `ha is about the discovery document by which Home Assistant knows the mower. "lawnberry serve" publishes it and keeps it up to date when
integration.home_assistant.enabled is set; then publish, remove and migrate are done by it. Without they are done from here.`,
		Example: `  lawnberry ha show
  lawnberry ha check --live
  lawnberry ha remove`,
	}
	asGroup(c)
	c.AddCommand(t.haShow(), t.haCheck(), t.haPublish(), t.haRemove(), t.haMigrate())
	return c
}

// A homeDocument is a discovery document and where it is.
type homeDocument struct {
	Topic    string          `json:"topic"`
	Document json.RawMessage `json:"document"`
}

// homeSettings returns how the configuration wants the mower shown, and the document that follows from that and from service_definitions.
func (t *tool) homeSettings(c *config.Config) (homeassistant.Settings, homeassistant.Seen) {
	return app.HomeAssistantSettings(c, buildInfo().Version), homeassistant.Seen{Services: slices.Sorted(maps.Keys(c.ServiceDefinitions))}
}

// withHome calls f with a connection that can carry documents.
func (t *tool) withHome(ctx context.Context, d *dialler, f func(context.Context, *client.Client, *config.Config) error) error {
	o, c, err := d.options(t)
	if err != nil {
		return err
	}
	o.Limits.MaxPayload = max(o.Limits.MaxPayload, homeassistant.MaxPayload)
	conn, err := d.connect(ctx, o)
	if err != nil {
		return err
	}
	ctx, cancel := d.bound(ctx)
	defer cancel()
	err = f(ctx, conn, c)
	return errors.Join(because(ctx, err), disconnect(conn))
}

// liveDocument returns the document that the broker has, and what is retained for the mower beside it.
func liveDocument(ctx context.Context, c *client.Client, s homeassistant.Settings) (homeDocument, error) {
	found, err := homeassistant.Retained(ctx, c, s.Topic())
	if err != nil {
		return homeDocument{}, err
	}
	document := found[s.Topic()]
	if document == nil {
		return homeDocument{}, failf(exitRefused, "nothing is published on %s: set integration.home_assistant.enabled, or see \"lawnberry ha publish\"", s.Topic())
	}
	return homeDocument{s.Topic(), document}, nil
}

func (t *tool) haShow() *cobra.Command {
	var d dialler
	var live bool
	c := &cobra.Command{
		Use:   "show",
		Short: "Print the discovery document",
		Long: `show prints the document that follows from the configuration, with the services of service_definitions. With --live it is the one that
the broker has.`,
		Example: `  lawnberry ha show --config mower.yaml
  lawnberry ha show --live`,
		Args: arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if live {
				return t.withHome(c.Context(), &d, func(ctx context.Context, c *client.Client, conf *config.Config) error {
					s, _ := t.homeSettings(conf)
					doc, err := liveDocument(ctx, c, s)
					if err != nil {
						return err
					}
					return t.showHome(doc)
				})
			}
			doc, err := t.ownDocument()
			if err != nil {
				return err
			}
			return t.showHome(doc)
		},
	}
	c.Flags().BoolVar(&live, "live", false, "the document that the broker has")
	d.flags(c, connectTimeout, "give up after this long")
	return c
}

// ownDocument returns the document that follows from the configuration.
func (t *tool) ownDocument() (homeDocument, error) {
	loaded, err := t.load()
	if err != nil {
		return homeDocument{}, err
	}
	s, seen := t.homeSettings(loaded.Config)
	document, err := s.Document(seen)
	return homeDocument{s.Topic(), document}, err
}

func (t *tool) showHome(doc homeDocument) error {
	if t.json {
		if !json.Valid(doc.Document) {
			return fmt.Errorf("what is on %s is no JSON", doc.Topic)
		}
		return writeJSON(t.stdout, doc)
	}
	var v any
	if err := json.Unmarshal(doc.Document, &v); err != nil {
		return fmt.Errorf("what is on %s is no JSON: %w", doc.Topic, err)
	}
	if _, err := fmt.Fprintf(t.stderr, "%s\n", printable(doc.Topic)); err != nil {
		return err
	}
	return writeJSON(t.stdout, v)
}

func (t *tool) haCheck() *cobra.Command {
	var d dialler
	var live bool
	c := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check a discovery document against Home Assistant's rules",
		Long: `check finds what Home Assistant would refuse, ignore or not show in the document of FILE (- is standard input; abbreviated keys are fine),
or in the one that follows from the configuration. With --live it is the one that the broker has, and the attributes that are retained for its
entities are checked too.`,
		Example: `  lawnberry ha check
  lawnberry ha check document.json
  lawnberry ha check --live`,
		Args: arguments(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case live && len(args) > 0:
				return usagef("FILE and --live exclude each other")
			case live:
				return t.withHome(c.Context(), &d, func(ctx context.Context, c *client.Client, conf *config.Config) error {
					s, _ := t.homeSettings(conf)
					doc, err := liveDocument(ctx, c, s)
					if err != nil {
						return err
					}
					problems, err := checkAttributes(ctx, c, doc.Document)
					if err != nil {
						return err
					}
					return t.judgeHome(doc.Topic, append(homeassistant.Check(doc.Document), problems...))
				})
			case len(args) == 1:
				body, err := t.readDocument(args[0])
				if err != nil {
					return err
				}
				return t.judgeHome(args[0], homeassistant.Check(body))
			}
			doc, err := t.ownDocument()
			if err != nil {
				return err
			}
			return t.judgeHome("the document of this configuration", homeassistant.Check(doc.Document))
		},
	}
	c.Flags().BoolVar(&live, "live", false, "the document that the broker has")
	d.flags(c, connectTimeout, "give up after this long")
	return c
}

// readDocument reads a document, or so much of it that it is too long.
func (t *tool) readDocument(path string) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(io.LimitReader(t.stdin, homeassistant.MaxPayload+1))
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, homeassistant.MaxPayload+1))
}

// checkAttributes checks what is retained on the topics of attributes that a document names.
func checkAttributes(ctx context.Context, c *client.Client, document []byte) (problems []string, err error) {
	var d struct {
		Components map[string]struct {
			Platform   string `json:"platform"`
			Attributes string `json:"json_attributes_topic"`
		} `json:"components"`
	}
	_ = json.Unmarshal(document, &d) // Check says what is wrong with it
	var filters []string
	for _, x := range d.Components {
		if x.Attributes != "" {
			filters = append(filters, x.Attributes)
		}
	}
	slices.Sort(filters)
	found, err := homeassistant.Retained(ctx, c, slices.Compact(filters)...)
	if err != nil {
		return nil, err
	}
	for _, key := range slices.Sorted(maps.Keys(d.Components)) {
		x := d.Components[key]
		if payload, there := found[x.Attributes]; there {
			for _, p := range homeassistant.CheckAttributes(x.Platform, payload) {
				problems = append(problems, "components."+key+": "+p)
			}
		}
	}
	return problems, nil
}

// judgeHome prints what is wrong with a document.
func (t *tool) judgeHome(name string, problems []string) error {
	if t.json {
		if err := writeJSON(t.stdout, struct {
			OK       bool     `json:"ok"`
			Problems []string `json:"problems"`
		}{len(problems) == 0, append([]string{}, problems...)}); err != nil {
			return err
		}
	} else {
		for _, p := range problems {
			fmt.Fprintln(t.stdout, paint(t.colour(t.stdout), red, printable(p)))
		}
	}
	if len(problems) > 0 {
		return fmt.Errorf("%s has %s", name, plural(len(problems), "error"))
	}
	if !t.json {
		fmt.Fprintf(t.stdout, "%s is in order\n", printable(name))
	}
	return nil
}

// A homeResult is what became of the document.
type homeResult struct {
	Topic     string   `json:"topic"`
	Published bool     `json:"published"`
	Replaced  []string `json:"replaced,omitempty"` // topics of single components
	By        string   `json:"by"`                 // bridge, cli
}

// overHome has the running bridge do something, or does it from here when there is none.
func (t *tool) overHome(d *dialler, command string,
	here func(ctx context.Context, c *client.Client, s homeassistant.Settings, document []byte) (homeResult, error), say func(homeResult) string,
) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, _ []string) error {
		return t.withHome(c.Context(), d, func(ctx context.Context, c *client.Client, conf *config.Config) error {
			var r homeResult
			err := c.Call(ctx, homeassistant.ID, command, nil, &r, client.AtLeastOnce(), client.Unannounced())
			r.By = "bridge"
			if said := (*client.CommandError)(nil); errors.As(err, &said) && said.Code == client.CodeNoSuchService {
				s, seen := t.homeSettings(conf)
				services := newRoll()
				if err := services.take(ctx, c, conf.Services.HeartbeatTimeout); err != nil {
					return err
				}
				for _, i := range services.list() {
					if !slices.Contains(seen.Services, i.ID) {
						seen.Services = append(seen.Services, i.ID)
					}
				}
				document, err := s.Document(seen)
				if err != nil {
					return err
				}
				if r, err = here(ctx, c, s, document); err != nil {
					return err
				}
				r.Topic, r.By = s.Topic(), "cli"
			} else if err != nil {
				return err
			}
			if t.json {
				return writeJSON(t.stdout, r)
			}
			_, err = fmt.Fprintln(t.stdout, printable(say(r)))
			return err
		})
	}
}

// alone says what it means that there is no bridge.
func alone(r homeResult) string {
	if r.By == "bridge" {
		return ""
	}
	return "; no bridge runs, so Home Assistant shows it as unavailable: set integration.home_assistant.enabled"
}

func (t *tool) haPublish() *cobra.Command {
	var d dialler
	c := &cobra.Command{
		Use:     "publish",
		Short:   "Publish the discovery document",
		Long:    `publish publishes the document, retained, with all services that are there; also after remove.`,
		Example: "  lawnberry ha publish",
		Args:    arguments(0, 0),
		RunE: t.overHome(&d, "publish", func(ctx context.Context, c *client.Client, s homeassistant.Settings, document []byte) (homeResult, error) {
			return homeResult{Published: true}, homeassistant.Publish(ctx, c, s, document)
		}, func(r homeResult) string { return "published on " + r.Topic + alone(r) }),
	}
	d.flags(c, connectTimeout, "give up after this long")
	return c
}

func (t *tool) haRemove() *cobra.Command {
	var d dialler
	c := &cobra.Command{
		Use:   "remove",
		Short: "Remove the mower from Home Assistant",
		Long: `remove removes the document and all values that are retained for Home Assistant. A running bridge publishes nothing from then on, until
"lawnberry ha publish" or the next start of "lawnberry serve"; to remove it for good, unset integration.home_assistant.enabled.`,
		Example: "  lawnberry ha remove",
		Args:    arguments(0, 0),
		RunE: t.overHome(&d, "remove", func(ctx context.Context, c *client.Client, s homeassistant.Settings, _ []byte) (homeResult, error) {
			return homeResult{}, homeassistant.Remove(ctx, c, s)
		}, func(r homeResult) string {
			if r.By == "bridge" {
				return "removed from " + r.Topic + ", until the next start of serve or lawnberry ha publish"
			}
			return "removed from " + r.Topic
		}),
	}
	d.flags(c, connectTimeout, "give up after this long")
	return c
}

func (t *tool) haMigrate() *cobra.Command {
	var d dialler
	c := &cobra.Command{
		Use:   "migrate",
		Short: "Replace discovery topics of single components by the document",
		Long: `migrate finds discovery topics of single components that describe this mower (by device_id in their topic, device or unique_id), asks Home
Assistant to let go of them without forgetting names and history, publishes the document, and removes them. An entity goes on as it was if
platform and unique_id are the same in both.`,
		Example: "  lawnberry ha migrate",
		Args:    arguments(0, 0),
		RunE: t.overHome(&d, "migrate", func(ctx context.Context, c *client.Client, s homeassistant.Settings, document []byte) (homeResult, error) {
			replaced, err := homeassistant.Migrate(ctx, c, s, document)
			return homeResult{Published: true, Replaced: replaced}, err
		}, func(r homeResult) string {
			if len(r.Replaced) == 0 {
				return "there was nothing to migrate; published on " + r.Topic + alone(r)
			}
			return fmt.Sprintf("replaced %s by %s: %s%s", plural(len(r.Replaced), "topic"), r.Topic, strings.Join(r.Replaced, ", "), alone(r))
		}),
	}
	d.flags(c, connectTimeout, "give up after this long")
	return c
}
