package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/service"
)

// A callDescription is what "call SERVICE --help --json" says.
type callDescription struct {
	ID       string            `json:"id"`
	Type     string            `json:"type"`
	State    string            `json:"state"`
	Commands []service.Command `json:"commands"`
}

// helpWithServices makes the help of a verb that is called with a service (and a command) that of the service.
func (t *tool) helpWithServices(c *cobra.Command, d *dialler) {
	c.SetHelpFunc(func(c *cobra.Command, args []string) {
		if given := c.Flags().Args(); len(given) > 0 && c.Flags().Changed("help") {
			t.helpError = t.callHelp(c.Context(), d, given)
			return
		}
		c.Parent().HelpFunc()(c, args)
	})
}

// callHelp explains a service's commands, or one of them.
func (t *tool) callHelp(ctx context.Context, d *dialler, args []string) error {
	target := args[0]
	if err := checkLevel("service", target); err != nil {
		return err
	}
	if d.timeout == 0 {
		d.timeout = connectTimeout
	}
	r, err := t.commandsOf(ctx, d)
	if err != nil {
		return fmt.Errorf("the commands of %s are known to the broker alone: %w", target, err)
	}
	s, ok := r.serving(target)
	if !ok {
		return unknownService(target, r.list())
	}
	about := callDescription{ID: s.ID, Type: s.Type, State: s.State, Commands: append([]service.Command{}, s.Commands...)}
	if len(args) > 1 {
		all := append(service.Builtins(), s.Commands...)
		i := slices.IndexFunc(all, func(c service.Command) bool { return c.Name == args[1] })
		if i < 0 {
			return unknownCommand(s, args[1])
		}
		about.Commands = all[i : i+1]
	}
	switch {
	case t.json:
		return writeJSON(t.stdout, about)
	case len(args) > 1:
		t.explainCommand(target, about.Commands[0])
	default:
		t.explainCommands(target, about)
	}
	return nil
}

func unknownCommand(s serviceInfo, name string) error {
	if len(s.Commands) == 0 {
		return failf(exitRefused, "%s has described no command %q, nor any other", s.ID, name)
	}
	var names []string
	for _, c := range s.Commands {
		names = append(names, c.Name)
	}
	return failf(exitRefused, "%s has described no command %q: there are %s", s.ID, name, strings.Join(names, ", "))
}

func (t *tool) explainCommands(target string, about callDescription) {
	out, colour := t.stdout, t.colour(t.stdout)
	fmt.Fprintf(out, "%s is a service of the type %s, %s.\n", printable(about.ID), printable(cmp.Or(about.Type, "unknown")),
		paint(colour, stateStyle(about.State), printable(cmp.Or(about.State, "unknown"))))
	if len(about.Commands) == 0 {
		fmt.Fprintf(out, "It has not described its commands.\n")
	}
	for _, c := range about.Commands {
		fmt.Fprintf(out, "\n%s", paint(colour, bold, printable(c.Name)))
		if c.Description != "" {
			fmt.Fprintf(out, "  %s", printable(c.Description))
		}
		fmt.Fprintln(out)
		writeFields(out, colour, c, "  ")
	}
	fmt.Fprintf(out, "\nEvery service answers ping, status and shutdown.\n")
	if len(about.Commands) > 0 {
		fmt.Fprintf(out, "See %q for one of them.\n", "lawnberry call "+target+" COMMAND --help")
	}
}

func writeFields(out io.Writer, colour bool, c service.Command, indent string) {
	s := parseSchema(c.Parameters)
	rows := table{indent: indent}
	s.fields(&rows, "", 0)
	if len(rows.rows) == 0 && s.values() != nil {
		rows.add(text("any fields"), cell{s.values().kind(), cyan})
	}
	rows.write(out, colour)
}

func (t *tool) explainCommand(target string, c service.Command) {
	out, colour := t.stdout, t.colour(t.stdout)
	fmt.Fprintln(out, paint(colour, bold, printable(c.Name))+strings.TrimSuffix("  "+printable(c.Description), "  "))
	parameters := parseSchema(c.Parameters)
	if len(parameters.Properties) > 0 || parameters.values() != nil {
		fmt.Fprintln(out, "\nParameters:")
		writeFields(out, colour, c, "  ")
	}
	if result := parseSchema(c.Result); len(c.Result) > 0 {
		fmt.Fprintf(out, "\nResult: %s\n", printable(result.kind()))
		rows := table{indent: "  "}
		of, prefix := &result, ""
		if result.Items != nil {
			of, prefix = result.Items, "[]."
		}
		of.fields(&rows, prefix, 0)
		rows.write(out, colour)
	}
	example := ""
	if len(parameters.Properties) > 0 {
		example = " '" + strings.ReplaceAll(printable(string(parameters.example(0))), "'", `'\''`) + "'"
	}
	if c.Repeatable {
		fmt.Fprintln(out, "\nIt may be sent again when its outcome is unknown.")
	}
	fmt.Fprintf(out, "\nExample:\n  lawnberry call %s %s%s\n", printable(target), printable(c.Name), example)
}

// commandsOf asks the broker for all services and what they have described.
func (t *tool) commandsOf(ctx context.Context, d *dialler) (*roll, error) {
	o, _, err := d.options(t)
	if err != nil {
		return nil, err
	}
	c, err := d.connect(ctx, o)
	if err != nil {
		return nil, err
	}
	ctx, cancel := d.bound(ctx)
	defer cancel()
	r := newRoll()
	if _, err = c.Subscribe(ctx, "system/services/+/status", func(_ context.Context, d *client.Delivery) { r.add(d) }); err == nil {
		err = r.takeCommands(ctx, c, "+")
	}
	_ = disconnect(c)
	return r, because(ctx, err)
}

// takeCommands collects the descriptions that the broker retains of a service, or with "+" of all.
func (r *roll) takeCommands(ctx context.Context, c *client.Client, id string) error {
	_, err := c.Subscribe(ctx, "system/services/"+id+"/commands/#", func(_ context.Context, d *client.Delivery) { r.describe(d) })
	if err != nil {
		return err
	}
	if err := roundTrip(ctx, c); err != nil {
		return err
	}
	return r.quiet(ctx)
}

// maxPages bounds the pages of one service; one holds what fits in a message.
const maxPages = 100

// describe takes in a page of descriptions.
func (r *roll) describe(d *client.Delivery) {
	page, ok := service.ReadCommands(d)
	if !ok || page.Page > maxPages {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pages[page.ServiceID] == nil {
		r.pages[page.ServiceID] = make(map[int]service.Commands)
	}
	r.pages[page.ServiceID][page.Page] = page
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// commandsLocked returns what a service has described, sorted by name. Pages that its first one does not count are left from
// before.
func (r *roll) commandsLocked(id string) (all []service.Command) {
	pages := r.pages[id]
	for n := 1; n <= pages[1].Pages; n++ {
		all = append(all, pages[n].Commands...)
	}
	slices.SortFunc(all, func(a, b service.Command) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// serving returns the service of that id or, of those of that type, the one that is there and has described the most.
func (r *roll) serving(target string) (best serviceInfo, ok bool) {
	for _, s := range r.list() {
		switch {
		case s.ID == target:
			return s, true
		case s.Type != target:
		case !ok || better(s, best):
			best, ok = s, true
		}
	}
	return best, ok
}

func better(a, b serviceInfo) bool {
	if a.gone() != b.gone() {
		return b.gone()
	}
	return len(a.Commands) > len(b.Commands)
}

// completionTime is how long a shell waits for what could come next.
const completionTime = time.Second

// completeCall offers services, and then the commands of one.
func (t *tool) completeCall(d *dialler) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) (found []cobra.Completion, _ cobra.ShellCompDirective) {
		if len(args) > 1 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		limited := *d
		limited.timeout = completionTime
		ctx, cancel := context.WithTimeout(c.Context(), completionTime)
		defer cancel()
		r, err := t.commandsOf(ctx, &limited)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		if len(args) == 0 {
			for _, s := range r.list() {
				found = append(found, cobra.CompletionWithDesc(s.ID, printable(s.Type+", "+s.State)))
			}
			return found, cobra.ShellCompDirectiveNoFileComp
		}
		s, _ := r.serving(args[0])
		for _, c := range append(slices.Clone(s.Commands), service.Builtins()...) {
			found = append(found, cobra.CompletionWithDesc(c.Name, printable(c.Description)))
		}
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}
