package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/topic"
)

func (t *tool) topicVerbs() *cobra.Command {
	c := &cobra.Command{
		Use:   "topic",
		Short: "Look at the topics that the mower defines, and measure what goes over them",
		Example: `  lawnberry topic ls 'safety/#'
  lawnberry topic info sensors/gps/data
  lawnberry topic hz 'sensors/#'
  lawnberry topic docs > topics.md`,
	}
	asGroup(c)
	c.AddCommand(t.topicLs(), t.topicInfo(), t.topicFind(), t.topicDocs(), t.topicMeter(hz()), t.topicMeter(bandwidth()), t.topicMeter(delay()), t.topicClear())
	return c
}

// topics returns the registry that the configuration describes.
func (t *tool) topics() (*topic.Registry, error) {
	loaded, err := t.load()
	if err != nil {
		return nil, err
	}
	return loaded.Config.Registry()
}

// A definition is a topic's as JSON.
type definition struct {
	Pattern     string  `json:"pattern"` // relative to the namespace
	Topic       string  `json:"topic"`   // the pattern in full, or the topic asked for
	Type        string  `json:"type"`
	Description string  `json:"description"`
	QoS         byte    `json:"qos"`
	Retained    bool    `json:"retained"`
	Rate        int     `json:"rate_per_minute"` // per concrete topic; 0 is unlimited
	Class       string  `json:"class"`
	Publisher   string  `json:"publisher,omitempty"`
	Message     string  `json:"message_type,omitempty"` // "" is any
	Units       string  `json:"units,omitempty"`
	StaleAfter  float64 `json:"stale_after_s"` // 0 is never
}

func newDefinition(full string, d topic.Definition) definition {
	return definition{d.Pattern, full, d.Type, d.Description, d.QoS, d.Retain, d.Rate, d.Class.String(),
		d.Publisher, d.Message, d.Units, d.StaleAfter.Seconds()}
}

func (d definition) retained() string {
	if d.Retained {
		return "yes"
	}
	return "no"
}

func (d definition) rate() string {
	if d.Rate == 0 {
		return "-"
	}
	return strconv.Itoa(d.Rate)
}

func (d definition) stale() string {
	if d.StaleAfter == 0 {
		return "-"
	}
	return time.Duration(d.StaleAfter * float64(time.Second)).String()
}

func (t *tool) topicLs() *cobra.Command {
	return &cobra.Command{
		Use:   "ls [FILTER]",
		Short: "List the topics",
		Long:  "ls lists the topics that the mower defines, or those that a filter matches. RATE is in messages per minute and topic; a last value that is older than STALE is old news.",
		Example: `  lawnberry topic ls
  lawnberry topic ls 'weather/#' --json`,
		Args: arguments(0, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			registry, err := t.topics()
			if err != nil {
				return err
			}
			filter := "#"
			if len(args) == 1 {
				filter = args[0]
			}
			full, err := registry.Resolve(filter)
			if err != nil {
				return err
			}
			found := []definition{}
			for d := range registry.All() {
				if name := registry.Namespace() + "/" + d.Pattern; topic.Match(full, name) {
					found = append(found, newDefinition(name, d))
				}
			}
			if t.json {
				return writeJSON(t.stdout, struct {
					Topics []definition `json:"topics"`
				}{found})
			}
			if len(found) == 0 {
				_, err := fmt.Fprintln(t.stdout, "no topics")
				return err
			}
			rows := table{header: []string{"TOPIC", "TYPE", "QOS", "RETAINED", "RATE", "STALE", "CLASS", "DESCRIPTION"}}
			for _, d := range found {
				rows.add(text(d.Pattern), text(d.Type), text(fmt.Sprint(d.QoS)), text(d.retained()), text(d.rate()), text(d.stale()), text(d.Class), text(d.Description))
			}
			rows.write(t.stdout, t.colour(t.stdout))
			return nil
		},
	}
}

func (t *tool) topicInfo() *cobra.Command {
	return &cobra.Command{
		Use:     "info TOPIC",
		Short:   "Show what is defined for a topic",
		Example: "  lawnberry topic info sensors/gps/data",
		Args:    arguments(1, 1, "TOPIC"),
		RunE: func(_ *cobra.Command, args []string) error {
			registry, err := t.topics()
			if err != nil {
				return err
			}
			full, err := registry.Resolve(args[0])
			if err != nil {
				return err
			}
			found, ok := registry.Lookup(full)
			if !ok {
				return failf(exitFailed, "topic %s is not defined: it goes unlimited, with a quality of service by priority", full)
			}
			d := newDefinition(full, found)
			if t.json {
				return writeJSON(t.stdout, d)
			}
			rate := "unlimited"
			if d.Rate > 0 {
				rate = d.rate() + " messages per minute"
			}
			stale := "never"
			if d.StaleAfter > 0 {
				stale = d.stale()
			}
			rows := table{}
			for _, r := range [][2]string{
				{"topic", d.Topic}, {"pattern", d.Pattern}, {"type", d.Type}, {"description", d.Description},
				{"published by", d.Publisher}, {"message type", d.Message}, {"units", d.Units},
				{"qos", fmt.Sprint(d.QoS)}, {"retained", d.retained()}, {"rate", rate}, {"stale after", stale}, {"class", d.Class},
			} {
				if r[1] != "" {
					rows.add(cell{r[0], bold}, text(r[1]))
				}
			}
			rows.write(t.stdout, t.colour(t.stdout))
			return nil
		},
		ValidArgsFunction: t.completeTopics(1),
	}
}

func (t *tool) topicDocs() *cobra.Command {
	return &cobra.Command{
		Use:     "docs",
		Short:   "Print the documentation of all topics as Markdown",
		Long:    "docs prints the documentation of all topics as Markdown, or with --json their hierarchy.",
		Example: "  lawnberry topic docs > topics.md",
		Args:    arguments(0, 0),
		RunE: func(*cobra.Command, []string) error {
			registry, err := t.topics()
			if err != nil {
				return err
			}
			if t.json {
				root := registry.Tree()
				return writeJSON(t.stdout, newLevel(root, root.Level))
			}
			return registry.WriteMarkdown(t.stdout)
		},
	}
}

// A level is a node of the hierarchy as JSON.
type level struct {
	Level      string      `json:"level"`
	Definition *definition `json:"definition,omitempty"`
	Children   []level     `json:"children,omitempty"`
}

func newLevel(n *topic.Node, full string) level {
	l := level{Level: n.Level}
	if n.Definition != nil {
		d := newDefinition(full, *n.Definition)
		l.Definition = &d
	}
	for _, c := range n.Children {
		l.Children = append(l.Children, newLevel(c, full+"/"+c.Level))
	}
	return l
}

// completeTopics completes arguments, the first most of them (most < 0: all), by the defined patterns.
func (t *tool) completeTopics(most int) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		registry, err := t.topics()
		if err != nil || most >= 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var patterns []string
		for d := range registry.All() {
			if strings.HasPrefix(d.Pattern, prefix) {
				patterns = append(patterns, d.Pattern+"\t"+d.Description)
			}
		}
		slices.Sort(patterns)
		return patterns, cobra.ShellCompDirectiveNoFileComp
	}
}
