package main

import (
	"bytes"
	"cmp"
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// cobra has a generator of its own, which takes help for Markdown: it joins the lines of lists and drops what looks like a tag.

// cliDir holds one page for each verb.
const cliDir = "docs/cli"

// verbs returns the command and all verbs below it that help shows, each before those below it.
func verbs(root *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{root}
	for _, c := range root.Commands() {
		if !c.Hidden && c.Deprecated == "" {
			all = append(all, verbs(c)...)
		}
	}
	return all
}

// hyphened is a verb's name with its parents': service-ls; "" for the command itself.
func hyphened(c *cobra.Command) string {
	_, below, _ := strings.Cut(c.CommandPath(), " ")
	return strings.ReplaceAll(below, " ", "-")
}

func pageName(c *cobra.Command) string { return cmp.Or(hyphened(c), "README") + ".md" }

// verbPages returns a page in Markdown for each verb.
func verbPages(root *cobra.Command) []document {
	var pages []document
	for _, c := range verbs(root) {
		pages = append(pages, document{cliDir + "/" + pageName(c), verbPage(c)})
	}
	return pages
}

func verbPage(c *cobra.Command) []byte {
	var b bytes.Buffer
	b.WriteString(made)
	fmt.Fprintf(&b, "# %s\n\n%s.\n\n", c.CommandPath(), markdown(c.Short))
	fmt.Fprintf(&b, "```\n%s\n```\n\n", usageLine(c))
	for _, p := range parts(c.Long) {
		if p.verbatim {
			fmt.Fprintf(&b, "```\n%s\n```\n\n", p.text)
		} else {
			fmt.Fprintf(&b, "%s\n\n", paragraph(p.text))
		}
	}
	if c.Example != "" {
		fmt.Fprintf(&b, "## Examples\n\n```sh\n%s\n```\n\n", examples(c))
	}
	writeVerbList(&b, c)
	title := "Flags"
	if !c.HasParent() {
		title = "Flags of every verb"
	}
	if flags := flagsOf(c); len(flags) > 0 {
		fmt.Fprintf(&b, "## %s\n\n| Flag | Meaning | Default |\n|---|---|---|\n", title)
		for _, f := range flags {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", code(f.names), inTable(markdown(f.usage)), code(f.value))
		}
		b.WriteString("\n")
	}
	if c.HasParent() {
		fmt.Fprintf(&b, "See also [the flags of every verb](README.md#flags-of-every-verb), the environment and the exit codes. ")
		fmt.Fprintf(&b, "Up: [%s](%s).\n", c.Parent().CommandPath(), pageName(c.Parent()))
	}
	return append(bytes.TrimRight(b.Bytes(), "\n"), '\n')
}

func writeVerbList(b *bytes.Buffer, c *cobra.Command) {
	below := verbs(c)[1:]
	if len(below) == 0 {
		return
	}
	b.WriteString("## Verbs\n\n| Verb | What it does |\n|---|---|\n")
	for _, v := range below {
		fmt.Fprintf(b, "| [%s](%s) | %s |\n", strings.TrimPrefix(v.CommandPath(), c.Root().Name()+" "), pageName(v), inTable(markdown(v.Short)))
	}
	b.WriteString("\n")
}

func usageLine(c *cobra.Command) string {
	if c.HasSubCommands() {
		return c.CommandPath() + " VERB"
	}
	return c.UseLine()
}

// examples returns the command lines of a verb's help, and what they say about themselves as comments of a shell.
func examples(c *cobra.Command) string {
	lines := strings.Split(dedent(c.Example), "\n")
	for i, l := range lines {
		if line, text, found := strings.Cut(l, "   "); found && !strings.HasPrefix(strings.TrimSpace(text), "#") {
			spaces := len(text) - len(strings.TrimLeft(text, " ")) + 3
			lines[i] = line + strings.Repeat(" ", spaces) + "# " + strings.TrimSpace(text)
		}
	}
	return strings.Join(lines, "\n")
}

// A flagDoc is what is said of a flag.
type flagDoc struct{ names, usage, value string }

// flagsOf returns the flags that a verb has itself, in the order of their names.
func flagsOf(c *cobra.Command) []flagDoc {
	var docs []flagDoc
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" || f.Name == "version" {
			return
		}
		argument, usage := pflag.UnquoteUsage(f)
		names := "--" + f.Name
		if f.Shorthand != "" {
			names = "-" + f.Shorthand + ", " + names
		}
		if argument != "" {
			names += " " + argument
		}
		docs = append(docs, flagDoc{names, usage, defaultOf(f)})
	})
	return docs
}

// defaultOf returns a flag's default, "" when it says it itself or has none.
func defaultOf(f *pflag.Flag) string {
	switch f.DefValue {
	case "", "false", "0", "0s", "[]":
		return ""
	}
	return f.DefValue
}

// A part is a paragraph of help, or lines that must stay as they are.
type part struct {
	text     string
	verbatim bool
}

// parts splits help: indented lines stay as they are.
func parts(long string) (all []part) {
	for block := range strings.SplitSeq(long, "\n\n") {
		for line := range strings.SplitSeq(strings.Trim(block, "\n"), "\n") {
			if line == "" {
				continue
			}
			indented := strings.HasPrefix(line, "  ")
			if n := len(all); n > 0 && all[n-1].verbatim == indented && all[n-1].text != "" {
				all[n-1].text += "\n" + line
				continue
			}
			all = append(all, part{line, indented})
		}
		all = append(all, part{}) // ends the paragraph
	}
	kept := all[:0]
	for _, p := range all {
		if p.text == "" {
			continue
		}
		if p.verbatim {
			p.text = dedent(p.text)
		}
		kept = append(kept, p)
	}
	return kept
}

// dedent takes the indentation that all lines have from them.
func dedent(text string) string {
	lines := strings.Split(strings.Trim(text, "\n"), "\n")
	least := -1
	for _, l := range lines {
		if n := len(l) - len(strings.TrimLeft(l, " ")); strings.TrimSpace(l) != "" && (least < 0 || n < least) {
			least = n
		}
	}
	for i, l := range lines {
		lines[i] = strings.TrimRight(l[min(max(least, 0), len(l)):], " ")
	}
	return strings.Join(lines, "\n")
}

// startsBlock fits the beginning of a line that Markdown would take for a heading, a list or a quotation.
var startsBlock = regexp.MustCompile(`(?m)^(#+ |[-+] |\d+[.)] |=+$|-+$)`)

// paragraph returns the lines of a paragraph in Markdown.
func paragraph(text string) string {
	return startsBlock.ReplaceAllString(markdown(text), `\$1`)
}
