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

// WriteMarkdown writes the documentation of all topics: a table in registration order, and the hierarchy as an
// indented list. The error is that of w.
func (r *Registry) WriteMarkdown(w io.Writer) error {
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "# Topics\n\nAll topics live below `%s/`. A rate of - is unlimited.\n\n", r.namespace)
	fmt.Fprint(b, "| Topic | Type | QoS | Retained | Rate, msg/min | Class | What |\n|---|---|---|---|---|---|---|\n")
	for d := range r.All() {
		retained, rate := "no", "-"
		if d.Retain {
			retained = "yes"
		}
		if d.Rate > 0 {
			rate = fmt.Sprint(d.Rate)
		}
		fmt.Fprintf(b, "| `%s` | %s | %d | %s | %s | %s | %s |\n", cell(r.prefix+d.Pattern), cell(d.Type), d.QoS,
			retained, rate, d.Class, cell(d.Description))
	}
	fmt.Fprint(b, "\n## Hierarchy\n\n")
	r.Tree().writeMarkdown(b, 0)
	return b.Flush()
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
