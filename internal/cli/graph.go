package cli

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

func (t *tool) serviceGraph() *cobra.Command {
	var d dialler
	var dot bool
	c := &cobra.Command{
		Use:   "graph",
		Short: "Draw which service needs which, and who blocks whom",
		Long: `graph draws the services as trees: below each service those that it depends on. Before them it says what keeps services from
working, the causes first: a service that is not well though nothing that it needs is to blame, and services that wait for each other.

A service that starts is blocked by each dependency that is not healthy; one that runs, by each that is neither healthy nor degraded.
Optional dependencies block nobody.`,
		Example: `  lawnberry service graph
  lawnberry service graph --dot | dot -Tsvg -o services.svg`,
		Args: arguments(0, 0),
		RunE: func(c *cobra.Command, args []string) error {
			if dot && t.json {
				return usagef("want --dot or --json, not both")
			}
			found, err := t.discover(c.Context(), &d, false)
			if err != nil {
				return err
			}
			g := newGraph(found)
			switch {
			case t.json:
				return writeJSON(t.stdout, g)
			case dot:
				_, err := io.WriteString(t.stdout, g.dot())
				return err
			case len(g.Services) == 0:
				_, err := fmt.Fprintln(t.stdout, "no services")
				return err
			}
			g.write(t.stdout, t.colour(t.stdout))
			return nil
		},
	}
	d.flags(c, connectTimeout, "give up after this long")
	c.Flags().BoolVar(&dot, "dot", false, "print the input of Graphviz")
	return c
}

// neverSeen is the state of a service that others depend on, and that has never announced itself.
const neverSeen = "never seen"

// A graph is which service depends on which.
type graph struct {
	Services []*graphNode `json:"services"` // sorted by id
	Causes   []graphCause `json:"causes"`   // of what does not work, those that block the most first
	Cycles   [][]string   `json:"cycles"`   // a, b, a; of required dependencies
	byID     map[string]*graphNode
}

// A graphNode is a service.
type graphNode struct {
	ID     string      `json:"id"`
	State  string      `json:"state"`
	Reason string      `json:"reason,omitempty"`
	Needs  []graphEdge `json:"needs"`
}

// A graphEdge is a dependency.
type graphEdge struct {
	ID       string `json:"id"`
	Optional bool   `json:"optional,omitempty"`
	Blocks   bool   `json:"blocks,omitempty"` // the one that has it cannot become healthy because of it
}

// A graphCause is a service that blocks others, and is itself not blocked.
type graphCause struct {
	ID     string   `json:"id"`
	State  string   `json:"state"`
	Reason string   `json:"reason,omitempty"`
	Blocks []string `json:"blocks"` // also those that it blocks through others
}

func newGraph(found []serviceInfo) *graph {
	g := &graph{Services: []*graphNode{}, Causes: []graphCause{}, Cycles: [][]string{}, byID: map[string]*graphNode{}}
	for _, s := range found {
		g.byID[s.ID] = &graphNode{ID: s.ID, State: cmp.Or(s.State, "unknown"), Reason: s.Reason, Needs: []graphEdge{}}
	}
	for _, s := range found {
		n := g.byID[s.ID]
		for i, id := range slices.Concat(s.Dependencies, s.Optional) {
			if slices.ContainsFunc(n.Needs, func(e graphEdge) bool { return e.ID == id }) {
				continue // a stranger may say anything
			}
			if g.byID[id] == nil {
				g.byID[id] = &graphNode{ID: id, State: neverSeen, Needs: []graphEdge{}}
			}
			optional := i >= len(s.Dependencies)
			n.Needs = append(n.Needs, graphEdge{ID: id, Optional: optional, Blocks: !optional && n.blockedBy(g.byID[id].State)})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(g.byID)) {
		g.Services = append(g.Services, g.byID[id])
	}
	g.findCauses()
	g.findCycles()
	return g
}

// blockedBy reports whether a dependency in a state keeps n from becoming healthy, as package service judges it. One that has
// given up starting waits no longer, but for the same thing.
func (n *graphNode) blockedBy(state string) bool {
	switch {
	case n.State == "starting" || n.State == "offline" && n.Reason == "did not start":
		return state != "healthy"
	case n.State == "offline" || n.State == "shutting_down" || n.State == neverSeen:
		return false
	}
	return state != "healthy" && state != "degraded"
}

// blockers returns what n is blocked by.
func (n *graphNode) blockers() (ids []string) {
	for _, e := range n.Needs {
		if e.Blocks {
			ids = append(ids, e.ID)
		}
	}
	return ids
}

func (g *graph) findCauses() {
	blocks := map[string][]string{} // directly
	for _, n := range g.Services {
		for _, id := range n.blockers() {
			blocks[id] = append(blocks[id], n.ID)
		}
	}
	for _, n := range g.Services {
		if len(blocks[n.ID]) == 0 || len(n.blockers()) > 0 {
			continue
		}
		victims := map[string]bool{}
		for queue := slices.Clone(blocks[n.ID]); len(queue) > 0; queue = queue[1:] {
			if !victims[queue[0]] {
				victims[queue[0]] = true
				queue = append(queue, blocks[queue[0]]...)
			}
		}
		g.Causes = append(g.Causes, graphCause{n.ID, n.State, n.Reason, slices.Sorted(maps.Keys(victims))})
	}
	slices.SortStableFunc(g.Causes, func(a, b graphCause) int { return cmp.Compare(len(b.Blocks), len(a.Blocks)) })
}

// findCycles finds for each service that is in a cycle, and in none found before, the shortest.
func (g *graph) findCycles() {
	known := map[string]bool{}
	for _, n := range g.Services {
		if known[n.ID] {
			continue
		}
		if path := g.back(n.ID); path != nil {
			for _, id := range path {
				known[id] = true
			}
			g.Cycles = append(g.Cycles, path)
		}
	}
}

// back returns the shortest path over required dependencies from a service to itself, or nil.
func (g *graph) back(from string) []string {
	visited := map[string]bool{}
	for queue := [][]string{{from}}; len(queue) > 0; queue = queue[1:] {
		path := queue[0]
		for _, e := range g.byID[path[len(path)-1]].Needs {
			switch {
			case e.Optional || visited[e.ID]:
			case e.ID == from:
				return append(path, from)
			default:
				visited[e.ID] = true
				queue = append(queue, append(slices.Clone(path), e.ID))
			}
		}
	}
	return nil
}

// roots returns the services that nobody depends on, and enough of the others to reach all.
func (g *graph) roots() []string {
	needed := map[string]bool{}
	for _, n := range g.Services {
		for _, e := range n.Needs {
			needed[e.ID] = needed[e.ID] || e.ID != n.ID
		}
	}
	var roots []string
	reached := map[string]bool{}
	var reach func(id string)
	reach = func(id string) {
		if !reached[id] {
			reached[id] = true
			for _, e := range g.byID[id].Needs {
				reach(e.ID)
			}
		}
	}
	for _, all := range []bool{false, true} {
		for _, n := range g.Services {
			if !reached[n.ID] && (all || !needed[n.ID]) {
				roots = append(roots, n.ID)
				reach(n.ID)
			}
		}
	}
	return roots
}

// write draws g as text.
func (g *graph) write(w io.Writer, colour bool) {
	causes := table{}
	for _, c := range g.Causes {
		state := c.State
		if c.Reason != "" {
			state += " (" + c.Reason + ")"
		}
		causes.add(cell{c.ID, bold}, cell{state, stateOf(c.State)}, text("blocks "+strings.Join(c.Blocks, ", ")))
	}
	for _, cycle := range g.Cycles {
		causes.add(cell{"cycle", bold}, cell{strings.Join(cycle, " -> "), red}, text("remove one of these dependencies"))
	}
	if len(causes.rows) > 0 {
		causes.write(w, colour)
		fmt.Fprintln(w)
	}
	rows := table{header: []string{"SERVICE", "STATE", "WHY"}}
	drawn := map[string]bool{}
	var draw func(id, lead, below string, optional bool)
	draw = func(id, lead, below string, optional bool) {
		n := g.byID[id]
		why := n.why()
		if optional {
			why = append([]string{"optional"}, why...)
		}
		again := drawn[id] && len(n.Needs) > 0
		if again {
			why = append(why, "drawn above")
		}
		rows.add(text(lead+id), cell{n.State, stateOf(n.State)}, text(strings.Join(why, "; ")))
		if again {
			return
		}
		drawn[id] = true
		for i, e := range n.Needs {
			if i < len(n.Needs)-1 {
				draw(e.ID, below+"├─ ", below+"│  ", e.Optional)
			} else {
				draw(e.ID, below+"└─ ", below+"   ", e.Optional)
			}
		}
	}
	for _, id := range g.roots() {
		draw(id, "", "", false)
	}
	rows.write(w, colour)
}

// why explains a state.
func (n *graphNode) why() (reasons []string) {
	if ids := n.blockers(); len(ids) > 0 {
		verb := "lacks "
		if n.State == "starting" {
			verb = "waits for "
		}
		reasons = append(reasons, verb+strings.Join(ids, ", "))
	}
	if n.Reason != "" && !strings.HasPrefix(n.Reason, "dependency ") { // those are said
		reasons = append(reasons, n.Reason)
	}
	return reasons
}

// stateOf is stateStyle, with what only a graph has.
func stateOf(state string) style {
	if state == neverSeen {
		return red
	}
	return stateStyle(state)
}

// dot draws g for Graphviz: an arrow from each service to what it depends on, dashed for optional ones, red for those that block.
func (g *graph) dot() string {
	fill := map[style]string{green: "palegreen", yellow: "khaki", red: "lightsalmon", plain: "white"}
	var b strings.Builder
	b.WriteString("digraph services {\n\trankdir=LR\n\tnode [shape=box, style=filled, fontname=\"sans-serif\"]\n")
	for _, n := range g.Services {
		label := n.ID + "\n" + n.State
		if n.Reason != "" {
			label += "\n" + n.Reason
		}
		fmt.Fprintf(&b, "\t%s [label=%s, fillcolor=%s]\n", dotQuote(n.ID), dotQuote(label), fill[stateOf(n.State)])
	}
	inCycle := map[[2]string]bool{}
	for _, cycle := range g.Cycles {
		for i := range cycle[1:] {
			inCycle[[2]string{cycle[i], cycle[i+1]}] = true
		}
	}
	for _, n := range g.Services {
		for _, e := range n.Needs {
			var look []string
			if e.Optional {
				look = append(look, "style=dashed")
			}
			switch {
			case inCycle[[2]string{n.ID, e.ID}]:
				look = append(look, `color=red, penwidth=2, label="cycle"`)
			case e.Blocks:
				look = append(look, `color=red, penwidth=2, label="blocks", dir=both, arrowtail=tee`)
			}
			fmt.Fprintf(&b, "\t%s -> %s", dotQuote(n.ID), dotQuote(e.ID))
			if look != nil {
				fmt.Fprintf(&b, " [%s]", strings.Join(look, ", "))
			}
			b.WriteString("\n")
		}
	}
	b.WriteString("}\n")
	return b.String()
}

// dotQuote quotes text for Graphviz: a backslash of the text's stays one, and lines are centred.
func dotQuote(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		lines[i] = strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(printable(line))
	}
	return `"` + strings.Join(lines, `\n`) + `"`
}
