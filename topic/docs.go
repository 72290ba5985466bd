package topic

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
)

// A Node is one level of the topic hierarchy.
type Node struct {
	Level      string
	Definition *Definition // nil between levels
	Children   []*Node     // sorted by Level
}

// Tree returns the hierarchy of the definitions. The root's Level is the namespace. The caller owns the nodes.
func (r *Registry) Tree() *Node {
	root := &Node{Level: r.namespace}
	for d := range r.All() {
		n := root
		for level := range strings.SplitSeq(d.Pattern, "/") {
			n = n.child(level)
		}
		n.Definition = &d
	}
	return root
}

// child returns the child of that level, which it adds if need be.
func (n *Node) child(level string) *Node {
	i, found := slices.BinarySearchFunc(n.Children, level, func(c *Node, level string) int {
		return strings.Compare(c.Level, level)
	})
	if !found {
		n.Children = slices.Insert(n.Children, i, &Node{Level: level})
	}
	return n.Children[i]
}

// Named returns the pattern with names in place of its wildcards: Address, if it is the pattern's, else Pattern.
func (d Definition) Named() string {
	levels := strings.Split(d.Address, "/")
	for i, level := range levels {
		if strings.HasPrefix(level, "{") && strings.HasSuffix(level, "}") {
			levels[i] = "+"
		}
	}
	if strings.Join(levels, "/") != d.Pattern { // that of the wider topic which it was copied from
		return d.Pattern
	}
	return d.Address
}

const intro = `# Topics

All topics live below ` + "`%s/`" + `. Whoever subscribes writes them as they stand here, or relative to that; + is one level, whichever it is.
What is in a message is its *message type*; *type* is what ` + "`topics.qos`" + ` of the configuration calls the topic. QoS and *retained* are what our
own services publish with: a critical message goes at QoS 2 everywhere. *Rate* is in messages per minute and topic, - is unlimited. A last value that
is older than *stale after* is old news; - is never. *Class* says what a client does when it holds more than it may: it drops the oldest **sensor**
reading or **event**, keeps the latest **state**, refuses a **command**, and lets **safety** through before all else.

`

// WriteMarkdown writes the documentation of all topics: a table for each first level, in registration order, with the units below it,
// and the hierarchy as an indented list. The error is that of w.
func (r *Registry) WriteMarkdown(w io.Writer) error {
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, intro, r.namespace)
	var groups []string
	members := map[string][]Definition{}
	for d := range r.All() {
		group, _, _ := strings.Cut(d.Pattern, "/")
		if members[group] == nil {
			groups = append(groups, group)
		}
		members[group] = append(members[group], d)
	}
	for _, group := range groups {
		fmt.Fprintf(b, "## %s\n\n", oneLine(group))
		fmt.Fprint(b, "| Topic | What | Published by | Message type | Type | QoS | Retained | Rate | Stale after | Class |\n")
		fmt.Fprint(b, "|---|---|---|---|---|---|---|---|---|---|\n")
		for _, d := range members[group] {
			r.writeRow(b, d)
		}
		fmt.Fprintln(b)
		r.writeUnits(b, members[group])
	}
	fmt.Fprint(b, "## Hierarchy\n\n")
	r.Tree().writeMarkdown(b, 0)
	return b.Flush()
}

func (r *Registry) writeRow(w io.Writer, d Definition) {
	retained, rate, stale, by, kind := "no", "-", "-", "-", "any"
	if d.Retain {
		retained = "yes"
	}
	if d.Rate > 0 {
		rate = fmt.Sprint(d.Rate)
	}
	if d.StaleAfter > 0 {
		stale = d.StaleAfter.String()
	}
	if d.Publisher != "" {
		by = cell(d.Publisher)
	}
	if d.Message != "" {
		kind = cell(d.Message)
	}
	fmt.Fprintf(w, "| `%s` | %s | %s | %s | %s | %d | %s | %s | %s | %s |\n", cell(r.prefix+d.Pattern), cell(d.Description), by, kind, cell(d.Type),
		d.QoS, retained, rate, stale, d.Class)
}

// writeUnits writes the units of those definitions that have any.
func (r *Registry) writeUnits(w io.Writer, ds []Definition) {
	written := false
	for _, d := range ds {
		if d.Units == "" {
			continue
		}
		if !written {
			fmt.Fprint(w, "Units:\n\n")
			written = true
		}
		fmt.Fprintf(w, "- `%s`: %s\n", r.prefix+d.Pattern, oneLine(d.Units))
	}
	if written {
		fmt.Fprintln(w)
	}
}

func (n *Node) writeMarkdown(w io.Writer, depth int) {
	fmt.Fprintf(w, "%s- `%s`", strings.Repeat("  ", depth), oneLine(n.Level))
	if n.Definition != nil && n.Definition.Description != "" {
		fmt.Fprintf(w, ": %s", oneLine(n.Definition.Description))
	}
	fmt.Fprintln(w)
	for _, c := range n.Children {
		c.writeMarkdown(w, depth+1)
	}
}

// cell makes s fit a table's cell.
func cell(s string) string { return strings.ReplaceAll(oneLine(s), "|", `\|`) }

func oneLine(s string) string { return strings.Join(strings.FieldsFunc(s, isBreak), " ") }

func isBreak(c rune) bool { return c == '\n' || c == '\r' }
