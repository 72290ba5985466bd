package fleet

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

type tokenKind uint8

const (
	tokenEnd tokenKind = iota
	tokenWord
	tokenText // in quotes
	tokenOp
	tokenOpen
	tokenClose
)

type token struct {
	kind tokenKind
	text string
	at   int // byte
}

func (t token) String() string {
	if t.kind == tokenEnd {
		return "the end"
	}
	return strconv.Quote(t.text)
}

// is reports whether a token is a word of the language.
func (t token) is(word string) bool { return t.kind == tokenWord && strings.EqualFold(t.text, word) }

type whereParser struct {
	text  string
	pos   int // byte after tok
	tok   token
	terms int
}

func (p *whereParser) fail(at int, format string, args ...any) error {
	return &WhereError{Text: p.text, At: min(at, len(p.text)), Problem: fmt.Sprintf(format, args...)}
}

// next reads the next token.
func (p *whereParser) next() error {
	rest := strings.TrimLeftFunc(p.text[p.pos:], unicode.IsSpace)
	p.pos = len(p.text) - len(rest)
	p.tok = token{at: p.pos}
	if rest == "" {
		return nil
	}
	take := func(kind tokenKind, text string, size int) error {
		p.tok.kind, p.tok.text = kind, text
		p.pos += size
		return nil
	}
	switch c := rest[0]; {
	case c == '(':
		return take(tokenOpen, "(", 1)
	case c == ')':
		return take(tokenClose, ")", 1)
	case c == '"' || c == '\'':
		text, size, ok := unquoteText(rest)
		if !ok {
			return p.fail(p.pos, "this quotation mark is never closed")
		}
		return take(tokenText, text, size)
	case strings.IndexByte("<>!=", c) >= 0:
		for _, op := range []string{"<=", ">=", "!=", "==", "<", ">", "="} {
			if strings.HasPrefix(rest, op) {
				name := op
				if op == "==" {
					name = "="
				}
				return take(tokenOp, name, len(op))
			}
		}
		return p.fail(p.pos, `want "not", or != between a field and a value`)
	case c == '~':
		return take(tokenOp, "~", 1)
	case c == '&':
		return p.fail(p.pos, `want "and"`)
	case c == '|':
		return p.fail(p.pos, `want "or"`)
	}
	end := strings.IndexFunc(rest, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune("()<>!=~&|\"'", r) })
	if end < 0 {
		end = len(rest)
	}
	return take(tokenWord, rest[:end], end)
}

// unquoteText reads a text in quotes, in which a backslash takes what follows as it is.
func unquoteText(s string) (text string, size int, ok bool) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == s[0]:
			return b.String(), i + 1, true
		case s[i] == '\\' && i+1 < len(s):
			i++
		}
		b.WriteByte(s[i])
	}
	return "", 0, false
}

// any reads alternatives.
func (p *whereParser) any(depth int) (node, error) {
	return p.list("or", func() (node, error) { return p.all(depth) }, func(l []node) node { return anyOf(l) })
}

// all reads what has to hold together.
func (p *whereParser) all(depth int) (node, error) {
	return p.list("and", func() (node, error) { return p.one(depth) }, func(l []node) node { return allOf(l) })
}

func (p *whereParser) list(word string, read func() (node, error), join func([]node) node) (node, error) {
	var l []node
	for {
		n, err := read()
		if err != nil {
			return nil, err
		}
		l = append(l, n)
		if !p.tok.is(word) {
			break
		}
		if err := p.next(); err != nil {
			return nil, err
		}
	}
	if len(l) == 1 {
		return l[0], nil
	}
	return join(l), nil
}

// one reads a comparison, a negation, or what is in parentheses.
func (p *whereParser) one(depth int) (node, error) {
	if depth >= maxWhereDepth {
		return nil, p.fail(p.tok.at, "it is nested too deeply: at most %d levels", maxWhereDepth)
	}
	switch {
	case p.tok.is("not"):
		if err := p.next(); err != nil {
			return nil, err
		}
		n, err := p.one(depth + 1)
		return noneOf{n}, err
	case p.tok.kind == tokenOpen:
		open := p.tok.at
		if err := p.next(); err != nil {
			return nil, err
		}
		n, err := p.any(depth + 1)
		if err != nil {
			return nil, err
		}
		switch p.tok.kind {
		case tokenClose:
			return n, p.next()
		case tokenEnd:
			return nil, p.fail(open, "this parenthesis is never closed")
		}
		return nil, p.fail(p.tok.at, "want and, or, or a closing parenthesis, not %s", p.tok)
	case p.tok.kind != tokenWord && p.tok.kind != tokenText, p.tok.is("and"), p.tok.is("or"):
		return nil, p.fail(p.tok.at, "want a field such as battery, not %s", p.tok)
	}
	return p.term()
}

// term reads a field, and what it is compared with.
func (p *whereParser) term() (node, error) {
	if p.terms++; p.terms > maxWhereTerms {
		return nil, p.fail(p.tok.at, "it has too many comparisons: at most %d", maxWhereTerms)
	}
	t := &term{}
	if err := p.name(t); err != nil {
		return nil, err
	}
	if err := p.next(); err != nil {
		return nil, err
	}
	if p.tok.kind != tokenOp {
		return t, nil
	}
	t.op = p.tok.text
	op := p.tok.at
	if err := p.next(); err != nil {
		return nil, err
	}
	if p.tok.kind != tokenWord && p.tok.kind != tokenText || p.tok.is("and") || p.tok.is("or") || p.tok.is("not") {
		return nil, p.fail(p.tok.at, "want a value after %s, not %s", t.op, p.tok)
	}
	if err := p.value(t, op); err != nil {
		return nil, err
	}
	return t, p.next()
}

// name reads the field of a term, which is the present token.
func (p *whereParser) name(t *term) error {
	name := p.tok.text
	if i := strings.LastIndexByte(name, ':'); i >= 0 {
		t.topic, t.path = name[:i], name[i+1:]
		switch {
		case t.topic == "":
			return p.fail(p.tok.at, "the topic before the colon is missing: want such as power/battery:voltage")
		case t.path == "":
			return p.fail(p.tok.at+len(name), "the path after the colon is missing: want such as %s:level", t.topic)
		case strings.ContainsAny(t.topic, "+#"):
			return p.fail(p.tok.at, "want one topic, not a filter")
		}
		return nil
	}
	for _, f := range whereFields {
		if strings.EqualFold(f.Name, name) {
			t.name, t.kind = f.Name, f.Kind
			return nil
		}
	}
	var names []string
	for _, f := range whereFields {
		names = append(names, f.Name)
	}
	if strings.Contains(name, "/") {
		return p.fail(p.tok.at, "want the path of a value after the topic: %s:level", name)
	}
	return p.fail(p.tok.at, "%q is no field: want %s, or topic:path", name, strings.Join(names, ", "))
}

// value reads the present token as what t's field is compared with.
func (p *whereParser) value(t *term, op int) error {
	l := literal{text: p.tok.text, quoted: p.tok.kind == tokenText}
	at := p.tok.at
	if t.op == "~" {
		if t.kind != "" && t.kind != KindText && t.kind != KindVersion {
			return p.fail(op, "~ is for texts, and %s is none: want = != < <= > or >=", t.name)
		}
		l.pattern()
		t.literal = l
		return nil
	}
	ordered := t.op != "=" && t.op != "!="
	switch t.kind {
	case KindText:
		if ordered {
			return p.fail(op, "%s is a text: want = != or ~", t.name)
		}
		if t.name == "stop" && !slices.Contains([]string{StopEngaged, StopReleased}, strings.ToLower(l.text)) {
			return p.fail(at, "want engaged or released, not %q", l.text)
		}
	case KindBool:
		if ordered {
			return p.fail(op, "%s is true or false: want = or !=", t.name)
		}
		if l.bool = strings.EqualFold(l.text, "true"); !l.bool && !strings.EqualFold(l.text, "false") {
			return p.fail(at, "want true or false, not %q", l.text)
		}
	case KindSeverity:
		if l.num = float64(SeverityRank(strings.ToLower(l.text))); l.num == 0 {
			return p.fail(at, "want info, warning, error or critical, not %q", l.text)
		}
	case KindVersion:
		if ordered && versionParts(l.text) == nil {
			return p.fail(at, "want a version such as 1.4.2, not %q", l.text)
		}
	case KindDuration:
		if !l.duration() {
			return p.fail(at, "want seconds, or a time such as 30s, 5m, 2h or 1d, not %q", l.text)
		}
	case KindNumber:
		unit := ""
		for _, f := range whereFields {
			if f.Name == t.name {
				unit = f.Unit
			}
		}
		if !l.number() || l.unit != "" && !sameUnit(l.unit, unit) {
			if unit != "" {
				return p.fail(at, "want a number, also with %s, not %q", unit, l.text)
			}
			return p.fail(at, "want a number, not %q", l.text)
		}
	default: // of a topic: any, and the unit is compared with the message's
		l.number()
		if ordered && !l.isNumber {
			return p.fail(at, "want a number after %s, not %q", t.op, l.text)
		}
	}
	t.literal = l
	return nil
}

// sameUnit compares units; the degrees of an angle have several names.
func sameUnit(a, b string) bool {
	if a == "deg" {
		a = "°"
	}
	if b == "deg" {
		b = "°"
	}
	return a == b
}

// numberEnd returns how much of s is a number.
func numberEnd(s string) int {
	i := 0
	digits := func() bool {
		from := i
		for i < len(s) && s[i] >= '0' && s[i] <= '9' {
			i++
		}
		return i > from
	}
	if i < len(s) && (s[i] == '-' || s[i] == '+') {
		i++
	}
	whole := digits()
	if i < len(s) && s[i] == '.' {
		i++
		if !digits() && !whole {
			return 0
		}
	} else if !whole {
		return 0
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		before := i
		i++
		if i < len(s) && (s[i] == '-' || s[i] == '+') {
			i++
		}
		if !digits() {
			i = before // a unit that begins so
		}
	}
	return i
}

// firstRune returns the first character.
func firstRune(s string) rune { r, _ := utf8.DecodeRuneInString(s); return r }
