package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

// A kept is a topic on which the broker retains a message.
type kept struct {
	Topic string `json:"topic"` // relative, or full outside the namespace
	Bytes int    `json:"bytes"`

	full string
}

// A clearance is what topic clear says.
type clearance struct {
	Removed []kept `json:"removed"`
	Safety  []kept `json:"safety"` // what was left: it lies below safety/
}

func (t *tool) topicClear() *cobra.Command {
	var d dialler
	var yes, force bool
	c := &cobra.Command{
		Use:   "clear FILTER",
		Short: "Remove the messages that the broker retains",
		Long: `clear removes the retained messages of all topics that the filter matches, and prints which. On a terminal it shows them and asks; elsewhere
--yes is needed. What lies below safety/ it leaves alone, unless --force is given: the emergency stop and the alerts are there.

A service that is there retains its state again when that changes.`,
		Example: `  lawnberry topic clear 'weather/#'
  lawnberry topic clear 'absolute:homeassistant/#' --yes`,
		Args: arguments(1, 1, "FILTER"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := t.mayAsk(yes); err != nil {
				return err
			}
			o, _, err := d.options(t)
			if err != nil {
				return err
			}
			full, err := o.Topics.Resolve(args[0])
			if err != nil {
				return err
			}
			if _, _, shared := topic.SplitShared(full); shared {
				return usagef("%s: nothing is retained for a shared filter: leave out $share and the group", args[0])
			}
			return t.connected(c.Context(), &d, o, func(ctx context.Context, c *client.Client) error {
				return t.clearTopics(ctx, c, args[0], yes, force)
			})
		},
		ValidArgsFunction: t.completeTopics(1),
	}
	d.flags(c, time.Minute, "give up after this long, also while it asks")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	c.Flags().BoolVar(&force, "force", false, "also remove what lies below safety/")
	return c
}

func (t *tool) clearTopics(ctx context.Context, c *client.Client, filter string, yes, force bool) error {
	found, err := retained(ctx, c, filter)
	if err != nil {
		return err
	}
	said := clearance{Removed: []kept{}, Safety: []kept{}}
	var doomed []kept
	safety := c.Topics().Namespace() + "/safety/#"
	for _, k := range found {
		if topic.Match(safety, k.full) && !force {
			said.Safety = append(said.Safety, k)
			continue
		}
		doomed = append(doomed, k)
	}
	if len(doomed) > 0 && !yes {
		for _, k := range doomed {
			fmt.Fprintf(t.stderr, "  %s (%d bytes)\n", printable(k.Topic), k.Bytes)
		}
		agreed, err := t.confirm(ctx, fmt.Sprintf("Remove these %d retained messages?", len(doomed)))
		switch {
		case err != nil:
			return err
		case !agreed:
			return failf(exitFailed, "nothing removed")
		}
	}
	for _, k := range doomed {
		if err = c.Publish(ctx, topic.Absolute(k.full), message.NewRaw(nil), client.WithQoS(1), client.WithRetain(true), client.Unlimited()); err != nil {
			break
		}
		said.Removed = append(said.Removed, k)
	}
	return errors.Join(err, t.sayCleared(said))
}

func (t *tool) sayCleared(said clearance) error {
	if t.json {
		return writeJSON(t.stdout, said)
	}
	for _, k := range said.Removed {
		fmt.Fprintf(t.stdout, "removed %s (%d bytes)\n", printable(k.Topic), k.Bytes)
	}
	for _, k := range said.Safety {
		fmt.Fprintf(t.stdout, "left %s: it belongs to the safety, see --force\n", printable(k.Topic))
	}
	if len(said.Removed)+len(said.Safety) == 0 {
		fmt.Fprintln(t.stdout, "nothing is retained")
	}
	return nil
}

// retained returns the topics on which the broker retains a message, sorted.
func retained(ctx context.Context, c *client.Client, filter string) ([]kept, error) {
	var mu sync.Mutex
	found := map[string]kept{}
	r := newRoll()
	s, err := c.Subscribe(ctx, filter, func(_ context.Context, d *client.Delivery) {
		if !d.Retained {
			return
		}
		mu.Lock()
		found[d.FullTopic()] = kept{d.Topic, d.Size, d.FullTopic()}
		mu.Unlock()
		select {
		case r.changed <- struct{}{}:
		default:
		}
	}, client.WithInvalid())
	if err != nil {
		return nil, err
	}
	if err := roundTrip(ctx, c); err != nil {
		return nil, err
	}
	if err := r.quiet(ctx); err != nil {
		return nil, err
	}
	if err := s.Unsubscribe(ctx); err != nil {
		return nil, err
	}
	if n := c.Stats().Dropped; n > 0 {
		return nil, failf(exitFailed, "%d retained messages came faster than they could be listed: name a narrower filter than %s", n, filter)
	}
	mu.Lock()
	defer mu.Unlock()
	return slices.SortedFunc(maps.Values(found), func(a, b kept) int { return cmp.Compare(a.full, b.full) }), nil
}

// A foundTopic is a line of topic find as JSON.
type foundTopic struct {
	Topic       string `json:"topic"` // relative, or full outside the namespace; a pattern for what is only defined
	Seen        bool   `json:"seen"`
	Retained    bool   `json:"retained"`
	Defined     bool   `json:"defined"`
	Description string `json:"description"`
}

// maxSeen is how many topics find keeps.
const maxSeen = 10_000

func (t *tool) topicFind() *cobra.Command {
	var d dialler
	var defined bool
	var span time.Duration
	filter := "#"
	c := &cobra.Command{
		Use:   "find WORD",
		Short: "Find topics by a word in their names or descriptions",
		Long: `find lists the topics whose name, or the description that they have, holds WORD, in upper or lower case: those that the mower defines, and
those on which something is retained or arrives while it listens.`,
		Example: `  lawnberry topic find battery
  lawnberry topic find position --defined
  lawnberry topic find mower --filter 'absolute:homeassistant/#' --for 5s`,
		Args: arguments(1, 1, "WORD"),
		RunE: func(c *cobra.Command, args []string) error {
			if args[0] == "" || span < 0 {
				return usagef("want a WORD, and no negative --for")
			}
			registry, err := t.topics()
			if err != nil {
				return err
			}
			full, err := registry.Resolve(filter)
			if err != nil {
				return err
			}
			seen := map[string]foundTopic{}
			if !defined {
				if seen, err = t.seen(c.Context(), &d, filter, span); err != nil {
					return err
				}
			}
			return t.listFound(findTopics(registry, full, strings.ToLower(args[0]), seen))
		},
	}
	d.flags(c, connectTimeout, "give up when the broker takes longer to answer")
	c.Flags().BoolVar(&defined, "defined", false, "look only at what the mower defines, without a broker")
	c.Flags().DurationVar(&span, "for", time.Second, "listen this long")
	c.Flags().StringVar(&filter, "filter", filter, "look at the topics that `FILTER` matches")
	return c
}

// seen returns the topics that arrive within a time, retained ones included, by their full names.
func (t *tool) seen(ctx context.Context, d *dialler, filter string, span time.Duration) (map[string]foundTopic, error) {
	var mu sync.Mutex
	found := map[string]foundTopic{}
	err := t.withBroker(ctx, d, func(limited context.Context, c *client.Client) error {
		s, err := c.Subscribe(limited, filter, func(_ context.Context, d *client.Delivery) {
			mu.Lock()
			defer mu.Unlock()
			if f, known := found[d.FullTopic()]; known || len(found) < maxSeen {
				found[d.FullTopic()] = foundTopic{Topic: d.Topic, Seen: true, Retained: f.Retained || d.Retained}
			}
		}, client.WithInvalid())
		if err == nil {
			err = roundTrip(limited, c)
		}
		if err != nil {
			return because(limited, err)
		}
		if !pause(ctx, max(span, settle)) {
			return context.Cause(ctx)
		}
		bye, cancel := context.WithTimeout(ctx, closeTimeout)
		defer cancel()
		return s.Unsubscribe(bye)
	})
	mu.Lock()
	defer mu.Unlock()
	return maps.Clone(found), err
}

// findTopics returns what has word, in lower case, in its name or description, sorted by topic: what was seen, and what is defined below filter.
func findTopics(registry *topic.Registry, filter, word string, seen map[string]foundTopic) []foundTopic {
	has := func(f foundTopic) bool {
		return strings.Contains(strings.ToLower(f.Topic), word) || strings.Contains(strings.ToLower(f.Description), word)
	}
	found := []foundTopic{}
	shown := map[string]bool{}
	for full, f := range seen {
		if d, ok := registry.Lookup(full); ok && strings.HasPrefix(full, registry.Namespace()+"/") {
			f.Defined, f.Description = true, d.Description
		}
		if has(f) {
			found = append(found, f)
			shown[f.Topic] = true
		}
	}
	for d := range registry.All() {
		f := foundTopic{Topic: d.Pattern, Defined: true, Description: d.Description}
		if has(f) && !shown[d.Pattern] && topic.Match(filter, registry.Namespace()+"/"+d.Pattern) {
			found = append(found, f)
		}
	}
	slices.SortFunc(found, func(a, b foundTopic) int { return cmp.Compare(a.Topic, b.Topic) })
	return found
}

func (t *tool) listFound(found []foundTopic) error {
	if t.json {
		return writeJSON(t.stdout, struct {
			Topics []foundTopic `json:"topics"`
		}{found})
	}
	if len(found) == 0 {
		_, err := fmt.Fprintln(t.stdout, "no topics")
		return err
	}
	rows := table{header: []string{"TOPIC", "SEEN", "DEFINED", "DESCRIPTION"}}
	for _, f := range found {
		seen, defined := "-", "no"
		switch {
		case f.Retained:
			seen = "retained"
		case f.Seen:
			seen = "yes"
		}
		if f.Defined {
			defined = "yes"
		}
		rows.add(text(f.Topic), text(seen), text(defined), text(cmp.Or(f.Description, "-")))
	}
	rows.write(t.stdout, t.colour(t.stdout))
	return nil
}
