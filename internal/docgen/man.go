package main

import (
	"bytes"
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// manualDate returns the date of SOURCE_DATE_EPOCH, in UTC. Without one manual pages have no date, so that they are the same each time.
func manualDate(epoch string) (string, error) {
	if epoch == "" {
		return "", nil
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil || seconds < 0 {
		return "", fmt.Errorf("SOURCE_DATE_EPOCH is %q: want seconds since 1970", epoch)
	}
	return time.Unix(seconds, 0).UTC().Format(time.DateOnly), nil
}

// manual returns a manual page for each verb, in the macros of man(7).
func manual(root *cobra.Command, version, date string) []document {
	var pages []document
	for _, c := range verbs(root) {
		pages = append(pages, document{manualName(c) + ".1", manualPage(c, version, date)})
	}
	return pages
}

// manualName is lawnberry-service-ls.
func manualName(c *cobra.Command) string {
	if h := hyphened(c); h != "" {
		return c.Root().Name() + "-" + h
	}
	return c.Name()
}

func manualPage(c *cobra.Command, version, date string) []byte {
	var b bytes.Buffer
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	source := strings.TrimSpace(c.Root().Name() + " " + version)
	line(`.TH %s 1 "%s" "%s" "Lawnberry"`, strings.ToUpper(roff(manualName(c))), date, roff(source))
	line(".SH NAME")
	line(`%s \- %s`, roff(manualName(c)), roff(lowerFirst(c.Short)))
	line(".SH SYNOPSIS")
	line(".nf\n.B %s\n.fi", roff(usageLine(c)))
	line(".SH DESCRIPTION")
	text := parts(c.Long)
	if len(text) == 0 {
		text = []part{{text: c.Short + "."}}
	}
	for i, p := range text {
		if i > 0 {
			line(".PP")
		}
		if p.verbatim {
			line(".RS 4\n.nf\n%s\n.fi\n.RE", roffLines(p.text))
		} else {
			line("%s", roffLines(p.text))
		}
	}
	if below := verbs(c)[1:]; len(below) > 0 {
		line(".SH VERBS")
		for _, v := range below {
			line(".TP\n.BR %s (1)\n%s", roff(manualName(v)), roffLines(v.Short))
		}
	}
	if flags := flagsOf(c); len(flags) > 0 {
		line(".SH OPTIONS")
		for _, f := range flags {
			usage := f.usage
			if f.value != "" {
				usage += " (default " + f.value + ")"
			}
			line(".TP\n.B %s\n%s", roff(f.names), roffLines(usage))
		}
	}
	if c.Example != "" {
		line(".SH EXAMPLES\n.nf\n%s\n.fi", roffLines(examples(c)))
	}
	if c.HasParent() {
		line(".SH SEE ALSO")
		line(".BR %s (1)", roff(manualName(c.Parent())))
		if c.Parent().HasParent() {
			line(".br\n.BR %s (1)", roff(manualName(c.Root())))
		}
		line("has the options of every verb, the environment, and the exit codes.")
	}
	return b.Bytes()
}

// lowerFirst begins text with a small letter, unless it begins with an abbreviation.
func lowerFirst(text string) string {
	if len(text) > 1 && text[1] >= 'a' {
		return strings.ToLower(text[:1]) + text[1:]
	}
	return text
}

// roff returns text so that roff shows it as it is, on one line.
func roff(text string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`, `"`, `\(dq`, "'", `\(aq`, "^", `\(ha`, "~", `\(ti`, "`", `\(ga`).Replace(cmp.Or(text, " "))
}

// roffLines is roff for lines of a text, none of which is taken for a request.
func roffLines(text string) string {
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if l = roff(l); strings.HasPrefix(l, ".") {
			l = `\&` + l
		}
		lines[i] = l
	}
	return strings.Join(lines, "\n")
}
