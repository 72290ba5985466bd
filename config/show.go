package config

import (
	"bufio"
	"fmt"
	"io"
	"iter"
	"strings"
	"unicode/utf8"
)

// An Effective is the value of one key as it applies.
type Effective struct {
	Key    string `json:"key"`
	Value  any    `json:"value"`  // plain data; a password is "(hidden)"
	Origin string `json:"origin"` // as Origin.String
}

// Effective yields the values of all keys in the order of the file.
func (l *Loaded) Effective() iter.Seq[Effective] {
	return func(yield func(Effective) bool) {
		for _, s := range specs() {
			if !yield(Effective{s.path, s.effective(l.Config, true), l.Origin(s.path).String()}) {
				return
			}
		}
	}
}

// YAML returns plain data, such as the value of an [Effective], as YAML on one line.
func YAML(v any) string { return yamlText(v) }

// WriteEffective writes the values of all keys as YAML, each with its origin as a comment. Passwords are hidden.
func (l *Loaded) WriteEffective(w io.Writer) error {
	return l.writeEffective(w, true)
}

func (l *Loaded) writeEffective(w io.Writer, hide bool) error {
	const column = 44 // where the comments begin, as far as the values leave room
	out := bufio.NewWriter(w)
	h := headings{open: func(indent, name, _ string) { fmt.Fprintf(out, "%s%s:\n", indent, name) }}
	for _, s := range specs() {
		indent, name := h.enter(s.path)
		text := indent + name + ": " + yamlText(s.effective(l.Config, hide))
		pad := max(1, column-utf8.RuneCountInString(text))
		fmt.Fprintf(out, "%s%s# %s\n", text, strings.Repeat(" ", pad), l.Origin(s.path))
	}
	return out.Flush()
}

// WriteTemplate writes a file with every key, its meaning and its default, all of them as comments: it loads as it is and
// changes nothing, and taking the # from before a key sets it.
func WriteTemplate(w io.Writer) error {
	docs := map[string]string{}
	for _, sec := range sections() {
		docs[sec.path] = sec.doc
	}
	out := bufio.NewWriter(w)
	writeComment(out, "", "Lawnberry's configuration. Every key is optional: a line without its leading # changes a default. A variable of "+
		"the environment, named in brackets, wins over the key. To check the file: lawnberry config check")
	first := false // the next key is the first of its section
	h := headings{open: func(indent, name, path string) {
		fmt.Fprintln(out)
		writeComment(out, indent, docs[path])
		fmt.Fprintf(out, "%s%s:\n", indent, name)
		first = true
	}}
	for _, s := range specs() {
		k := s.key()
		indent, name := h.enter(s.path)
		if !first {
			fmt.Fprintln(out)
		}
		first = false
		writeComment(out, indent, k.Description)
		writeComment(out, indent, k.facts())
		if k.Unsupported != "" {
			writeComment(out, indent, "Not supported yet: "+k.Unsupported+".")
		}
		fmt.Fprintf(out, "%s#%s: %s\n", indent, name, k.Default)
	}
	return out.Flush()
}

// facts returns what a comment says of a key beside its description.
func (k Key) facts() string {
	facts := k.Type
	if k.Allowed != "" {
		facts += ", " + k.Allowed
	}
	if k.Unit != "" {
		facts += " " + k.Unit
	}
	if k.Env != "" {
		facts += " (" + k.Env + ")"
	}
	if k.Example != "" {
		facts += "; for example " + k.Example
	}
	return facts
}

// headings calls open for each section that begins on the way through the keys.
type headings struct {
	current []string
	open    func(indent, name, path string)
}

// enter opens the sections of path that are not open yet, and returns the indentation and name of its key.
func (h *headings) enter(path string) (indent, name string) {
	levels := strings.Split(path, ".")
	levels, name = levels[:len(levels)-1], levels[len(levels)-1]
	for i, level := range levels {
		if i < len(h.current) && h.current[i] == level {
			continue
		}
		h.current = append(h.current[:i:i], level)
		h.open(strings.Repeat("  ", i), level, strings.Join(h.current, "."))
	}
	h.current = h.current[:len(levels):len(levels)]
	return strings.Repeat("  ", len(levels)), name
}

// writeComment writes text as comment lines of at most 100 characters.
func writeComment(w io.Writer, indent, text string) {
	line := indent + "#"
	for word := range strings.FieldsSeq(text) {
		if len(line)+1+len(word) > 100 && line != indent+"#" {
			fmt.Fprintln(w, line)
			line = indent + "#"
		}
		line += " " + word
	}
	fmt.Fprintln(w, line)
}
