package cli

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/term"
)

// A style is how a piece of text looks on a terminal.
type style string

const (
	plain  style = ""
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
	cyan   style = "36"
)

// paint returns text in a style, or as it is without colour.
func paint(colour bool, s style, text string) string {
	if !colour || s == plain || text == "" {
		return text
	}
	return "\x1b[" + string(s) + "m" + text + styleEnd
}

// styleEnd ends a style on a terminal.
const styleEnd = "\x1b[0m"

// stateStyle is the style of a service's state.
func stateStyle(state string) style {
	switch state {
	case "healthy":
		return green
	case "starting", "degraded", "shutting_down":
		return yellow
	case "error", "offline":
		return red
	default:
		return plain
	}
}

// An output is a stream that remembers its first failure, so that a verb need not look at every line that it prints.
type output struct {
	io.Writer

	mu  sync.Mutex // guards err
	err error
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.Writer.Write(p)
	if err != nil {
		o.mu.Lock()
		o.err = cmp.Or(o.err, err)
		o.mu.Unlock()
	}
	return n, err
}

// failed returns the first failure.
func (o *output) failed() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// terminal returns the terminal that a stream is.
func terminal(stream any) (fd int, ok bool) {
	if o, wrapped := stream.(*output); wrapped {
		stream = o.Writer
	}
	f, ok := stream.(*os.File)
	if !ok {
		return 0, false
	}
	fd = int(f.Fd())
	return fd, term.IsTerminal(fd)
}

// isTerminal reports whether a stream is a terminal.
func isTerminal(stream any) bool {
	_, ok := terminal(stream)
	return ok
}

// A cell is a piece of a table.
type cell struct {
	text  string
	style style
}

// A table aligns its columns by what they hold.
type table struct {
	header []string
	rows   [][]cell
	indent string
}

func (t *table) add(cells ...cell) { t.rows = append(t.rows, cells) }

func text(s string) cell { return cell{text: s} }

// write prints the header and the rows, two spaces between the columns and none at the end of a line.
func (t *table) write(w io.Writer, colour bool) {
	var all [][]cell
	if t.header != nil {
		head := make([]cell, len(t.header))
		for i, h := range t.header {
			head[i] = cell{h, bold}
		}
		all = append(all, head)
	}
	all = append(all, t.rows...)
	var width []int
	for _, row := range all {
		for i, c := range row {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], utf8.RuneCountInString(printable(c.text)))
		}
	}
	for _, row := range all {
		var line strings.Builder
		line.WriteString(t.indent)
		gap := 0
		for i, c := range row {
			shown := printable(c.text)
			if shown != "" {
				line.WriteString(strings.Repeat(" ", gap))
				line.WriteString(paint(colour, c.style, shown))
				gap = 0
			}
			gap += width[i] - utf8.RuneCountInString(shown) + 2
		}
		fmt.Fprintln(w, line.String())
	}
}

// printable replaces what could move a terminal's cursor or colour its text, and what is not UTF-8, by its escape.
func printable(s string) string {
	clean := true
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) && r != ' ' {
			clean = false
			break
		}
	}
	if clean {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			_, size := utf8.DecodeRuneInString(s[i:])
			quoted := strconv.QuoteToASCII(s[i : i+size])
			b.WriteString(quoted[1 : len(quoted)-1])
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

// writeJSON prints v as one indented JSON document.
func writeJSON(w io.Writer, v any) error {
	body, err := encodeJSON(v, "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(body)
	return err
}

// writeJSONLine prints v as one line of JSON.
func writeJSONLine(w io.Writer, v any) error {
	body, err := encodeJSON(v, "")
	if err != nil {
		return err
	}
	_, err = w.Write(body)
	return err
}

// encodeJSON encodes for people and programs rather than for web pages: < > & stay as they are.
func encodeJSON(v any, indent string) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	err := e.Encode(v)
	return harmless(b.Bytes()), err
}

// harmless escapes in JSON what printable escapes elsewhere. It can only be within texts, so they stay the same to whoever decodes them; bytes that are
// not UTF-8 become the character that stands for such.
func harmless(body []byte) []byte {
	if !slices.ContainsFunc(body, func(c byte) bool { return c >= 0x7f }) {
		return body
	}
	out := make([]byte, 0, len(body)+64)
	for i := 0; i < len(body); {
		r, size := utf8.DecodeRune(body[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			out = append(out, `\ufffd`...)
		case r >= 0x7f && !unicode.IsPrint(r):
			for _, unit := range utf16.Encode([]rune{r}) {
				out = fmt.Appendf(out, `\u%04x`, unit)
			}
		default:
			out = append(out, body[i:i+size]...)
		}
		i += size
	}
	return out
}

// compact returns JSON without white space, and anything else as it is.
func compact(body []byte) string {
	var b bytes.Buffer
	if json.Compact(&b, body) != nil {
		return string(body)
	}
	return b.String()
}

// shortDuration is a duration as people say it: 850ms, 42s, 3m5s, 2h4m, 5d3h.
func shortDuration(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d == 0:
		return "0s"
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return strconv.Itoa(int(d/time.Second)) + "s"
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	default:
		return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	}
}

// milliseconds is a latency as people compare it.
func milliseconds(d time.Duration) string {
	return strconv.FormatFloat(float64(d)/float64(time.Millisecond), 'f', 2, 64) + " ms"
}
