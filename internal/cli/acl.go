package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/internal/access"
	"github.com/lawnberry/lawnberry/internal/app"
	"github.com/lawnberry/lawnberry/topic"
)

func (t *tool) aclVerbs() *cobra.Command {
	c := &cobra.Command{
		Use:   "acl",
		Short: "See who may do what",
		Long: `acl shows who may publish and subscribe what: by the rules of security.access_control, and by those that follow from
service_definitions and from the roles of users. The first rule that fits decides; when none does, it is not allowed.`,
		Example: `  lawnberry acl ls
  lawnberry acl test navigation publish commands/blade`,
	}
	asGroup(c)
	c.AddCommand(t.aclLs(), t.aclTest())
	return c
}

// access returns the rules, and whether the configuration has them checked.
func (t *tool) access() (bus *access.Bus, resolve func(string) (string, error), on bool, err error) {
	loaded, err := t.load()
	if err != nil {
		return nil, nil, false, err
	}
	topics, err := loaded.Config.Registry()
	if err != nil {
		return nil, nil, false, err
	}
	bus, err = app.AccessOf(loaded.Config)
	return bus, topics.Resolve, loaded.Config.Security.AccessControl.Enabled, err
}

const accessIsOff = "access control is off: everyone may do everything, see security.access_control.enabled"

// An accessRule is a rule as JSON.
type accessRule struct {
	Identity string   `json:"identity,omitempty"`
	Role     string   `json:"role,omitempty"`
	Effect   string   `json:"effect"` // allow, deny
	Verbs    []string `json:"verbs"`
	Filter   string   `json:"filter"`
	Source   string   `json:"source"`
}

func newAccessRule(r access.Rule) accessRule {
	a := accessRule{r.Identity, r.Role, "deny", strings.Split(r.Verbs.String(), "+"), r.Filter, r.Source}
	if r.Allow {
		a.Effect = "allow"
	}
	return a
}

func (a accessRule) who() string {
	var who []string
	if a.Identity != "" {
		who = append(who, a.Identity)
	}
	if a.Role != "" {
		who = append(who, "role "+a.Role)
	}
	if len(who) == 0 {
		return "everyone"
	}
	return strings.Join(who, ", ")
}

func (t *tool) aclLs() *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Short:   "List the rules, in the order in which they are read",
		Example: "  lawnberry acl ls --config mower.yaml",
		Args:    arguments(0, 0),
		RunE: func(*cobra.Command, []string) error {
			bus, _, on, err := t.access()
			if err != nil {
				return err
			}
			rules := []accessRule{}
			for _, r := range bus.Policy().Rules() {
				rules = append(rules, newAccessRule(r))
			}
			if t.json {
				return writeJSON(t.stdout, struct {
					Enabled bool         `json:"enabled"`
					Rules   []accessRule `json:"rules"`
				}{on, rules})
			}
			if !on {
				fmt.Fprintln(t.stderr, accessIsOff)
			}
			rows := table{header: []string{"WHO", "EFFECT", "VERBS", "FILTER", "FROM"}}
			for _, r := range rules {
				rows.add(text(r.who()), text(r.Effect), text(strings.Join(r.Verbs, " ")), text(r.Filter), text(r.Source))
			}
			rows.write(t.stdout, t.colour(t.stdout))
			return nil
		},
	}
}

func (t *tool) aclTest() *cobra.Command {
	var roles []string
	var clientID string
	c := &cobra.Command{
		Use:   "test USER VERB TOPIC",
		Short: "Ask whether somebody may do something, and why",
		Long: `test says whether a user may publish or subscribe a topic, and which rule decides. Of a subscription TOPIC may be a filter.
release is the right to end an emergency stop. It ends with 0 when it is allowed, else with 4.`,
		Example: `  lawnberry acl test navigation publish commands/blade
  lawnberry acl test ann subscribe '#' --role viewer
  lawnberry acl test ann release safety/emergency_stop`,
		Args: arguments(3, 3, "USER", "VERB", "TOPIC"),
		RunE: func(_ *cobra.Command, args []string) error {
			bus, resolve, on, err := t.access()
			if err != nil {
				return err
			}
			verb, err := access.ParseVerb(args[1])
			if err != nil || verb == access.All {
				return usagef("unknown verb %q: want publish, subscribe or release", args[1])
			}
			full, err := resolve(args[2])
			if err != nil {
				return err
			}
			wild := topic.CheckName(full) != nil
			if wild && verb != access.Subscribe {
				return usagef("%s: a wildcard can be subscribed only", full)
			}
			if clientID == "" {
				clientID = args[0]
			}
			subject := bus.Subject(args[0], clientID, roles...)
			var d access.Decision
			var reason string
			switch client, err := bus.Client(subject); {
			case err != nil:
				reason = err.Error()
			case wild || strings.HasPrefix(full, "$share/"):
				d = client.ExplainFilter(full)
			default:
				d = client.Explain(verb, full)
			}
			result := struct {
				Allowed bool        `json:"allowed"`
				Enabled bool        `json:"enabled"`
				User    string      `json:"user"`
				Roles   []string    `json:"roles"`
				Verb    string      `json:"verb"`
				Topic   string      `json:"topic"`
				Rule    *accessRule `json:"rule"` // null when none fits
				Reason  string      `json:"reason,omitempty"`
			}{Allowed: d.Allowed, Enabled: on, User: args[0], Roles: append([]string{}, subject.Roles...), Verb: verb.String(), Topic: full, Reason: reason}
			if d.Rule != nil {
				r := newAccessRule(*d.Rule)
				result.Rule = &r
			}
			slices.Sort(result.Roles)
			if t.json {
				if err := writeJSON(t.stdout, result); err != nil {
					return err
				}
			} else if !on {
				fmt.Fprintln(t.stderr, accessIsOff)
			}
			if reason == "" && d.Rule == nil {
				reason = "no rule allows it"
			} else if reason == "" {
				reason = d.Rule.String()
			}
			if !d.Allowed {
				return failf(exitRefused, "%s may not %s %s: %s", args[0], verb, full, reason)
			}
			if !t.json {
				fmt.Fprintf(t.stdout, "%s may %s %s: %s\n", printable(args[0]), verb, printable(full), printable(reason))
				if wild {
					fmt.Fprintln(t.stdout, "what it matches and is not allowed is not delivered")
				}
			}
			return nil
		},
	}
	c.Flags().StringSliceVar(&roles, "role", nil, "with this `ROLE` as well; may be repeated")
	c.Flags().StringVar(&clientID, "client-id", "", "with this client `ID` (default: the user's name)")
	return c
}
