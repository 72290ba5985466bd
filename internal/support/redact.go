package support

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// hidden stands where something was left out.
const hidden = "(hidden)"

// The rules by which something is left out, as the manifest counts them.
const (
	ruleKnown   = "a secret of the configuration, the environment or a key file"
	ruleNamed   = "a value whose name says that it is secret"
	ruleURL     = "a login or a key in a URL"
	ruleToken   = "a token, a hash or a private key"
	rulePrivate = "a Wi-Fi name, a place, a hardware or mail address"
)

// A redactor leaves secrets out of texts: those that it was told, wherever they are and however they are encoded, and what looks like one. It is not
// for concurrent use.
type redactor struct {
	known    []string // the longest first
	short    []*regexp.Regexp
	patterns []pattern
	hints    []string
	name     *regexp.Regexp // of a value that is secret, up to the value
	next     *regexp.Regexp // where the value before ends
	endOfKey *regexp.Regexp // of a private key, up to the last one
	count    map[string]int // by rule
}

func newRedactor() *redactor {
	return &redactor{
		patterns: patterns(), hints: nameHints(), count: map[string]int{},
		name:     regexp.MustCompile(`(?i)[\w.-]*(?:` + secretWords + `|` + placeWords + `)[\w.-]*(?:\\*["'])?\s*[:=][ \t]*`),
		next:     regexp.MustCompile(`\s+[A-Za-z_][\w.-]*=`),
		endOfKey: regexp.MustCompile(`(?s)\A.*-----END [A-Z0-9 ]*PRIVATE KEY-----`),
	}
}

const (
	shortest = 4       // bytes; what is shorter is left out only as a word of its own
	maxKnown = 100_000 // secrets, encoded ones counted
)

// know has secrets left out.
func (r *redactor) know(secrets ...string) {
	for _, s := range secrets {
		s = strings.TrimSpace(s)
		if s == "" || s == hidden || len(r.known) > maxKnown {
			continue
		}
		if len(s) < shortest {
			r.short = append(r.short, regexp.MustCompile(`(^|[^\pL\pN])(`+regexp.QuoteMeta(s)+`)($|[^\pL\pN])`))
			continue
		}
		quoted, _ := json.Marshal(s) // a string always encodes
		plain := []byte(s)
		for _, form := range []string{
			s, url.QueryEscape(s), url.PathEscape(s), strings.Trim(string(quoted), `"`),
			base64.StdEncoding.EncodeToString(plain), base64.RawStdEncoding.EncodeToString(plain),
			base64.URLEncoding.EncodeToString(plain), base64.RawURLEncoding.EncodeToString(plain),
		} {
			if !slices.Contains(r.known, form) {
				r.known = append(r.known, form)
			}
		}
	}
	slices.SortFunc(r.known, func(a, b string) int { return len(b) - len(a) })
}

// literals leaves the secrets out that it knows.
func (r *redactor) literals(s string) string {
	for _, k := range r.known {
		if n := strings.Count(s, k); n > 0 {
			r.count[ruleKnown] += n
			s = strings.ReplaceAll(s, k, hidden)
		}
	}
	for _, p := range r.short {
		for before := ""; s != before; { // what stands between two of them is a part of the first match only
			before, s = s, r.replace(ruleKnown, p, s, "${1}"+hidden+"${3}")
		}
	}
	return s
}

func (r *redactor) replace(rule string, p *regexp.Regexp, s, with string) string {
	if n := len(p.FindAllStringIndex(s, -1)); n > 0 {
		r.count[rule] += n
		return p.ReplaceAllString(s, with)
	}
	return s
}

// pattern is what looks like a secret.
type pattern struct {
	rule string
	find *regexp.Regexp
	with string
	hint []string // one of these is in each text that it matches, in small letters: most lines have none, and cost little
}

// secretWords are in names of what is secret, and placeWords in those of what says where somebody lives.
const (
	secretWords = `passw|pasw|passphrase|passcode|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|` +
		`credential|authorization|cookie|psk|bearer|ssid|wi-?fi`
	placeWords = `latitude|longitude`
)

func patterns() []pattern {
	p := func(rule, find, with string, hint ...string) pattern {
		return pattern{rule, regexp.MustCompile(find), with, hint}
	}
	return []pattern{
		p(ruleToken, `(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)`, hidden, "private key"),
		p(ruleURL, `([A-Za-z][A-Za-z0-9+.-]*://)[^\s"'<>\\]*@`, "${1}"+hidden+"@", "://"),
		p(ruleURL, `([?&;](?i:[\w.%-]*(?:key|token|pass|pwd|secret|sig|auth|code|credential|session)[\w.%-]*)=)[^&\s"'#\\]+`, "${1}"+hidden, "="),
		p(ruleToken, `(?i)\b(bearer|apikey|negotiate)\s+[A-Za-z0-9._~+/=-]{8,}`, "${1} "+hidden, "bearer", "apikey", "negotiate"),
		p(ruleToken, `(?i)(authorization\W+basic)\s+[A-Za-z0-9+/]+=*`, "${1} "+hidden, "basic"),
		p(ruleToken, `\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*`, hidden, "eyj"),
		p(ruleToken, `\$(?:argon2\w*|2[aby]|[1567y])\$[^\s"',\\]+`, hidden, "$"),
		p(ruleToken, `\b(?:AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{20,}|xox[abprs]-[\w-]{10,}|sk-[A-Za-z0-9-]{20,})`, hidden, "akia", "gh", "xox", "sk-"),
		p(ruleNamed, `(?i)(--?[\w-]*(?:`+secretWords+`)[\w-]*\s+)[^\s"'-][^\s"']*`, "${1}"+hidden, "-"),
		p(ruleNamed, `(?i)(\b(?:pass|pin|pw)(?:\\*["'])?\s*[:=]\s*)[^\s,;(][^\s,;]*`, "${1}"+hidden, "pass", "pin", "pw"),
		p(ruleNamed, `(?i)(\b(?:password|passphrase|passwd|secret|token)\s+(?:is|was)\s+)[^\s(]*\d\S*`, "${1}"+hidden, "passw", "passp", "secret", "token"),
		p(ruleURL, `(^|[\s"'=])([\w.-]+):[^\s"'@/:]+@`, "${1}${2}:"+hidden+"@", "@"),
		p(rulePrivate, `(?i)\b(e?ssid\s+)(?:"[^"]*"|'[^']*'|[^\s"':=]\S*)`, "${1}"+hidden, "ssid"),
		p(rulePrivate, `\b(?:[0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}\b`, hidden, ":", "-"),
		p(rulePrivate, `\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b`, hidden, "@"),
	}
}

// nameHints are in the names that the redactor looks for, in small letters.
func nameHints() []string {
	return []string{"passw", "pasw", "passphrase", "passcode", "pwd", "secret", "token", "api", "access", "private", "credential", "authorization",
		"cookie", "psk", "bearer",
		"ssid", "wifi", "wi-fi", "itude"}
}

func hasAny(s string, parts []string) bool {
	return slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(s, p) })
}

// text leaves out of any text what it knows and what looks like a secret.
func (r *redactor) text(s string) string {
	s = strings.ToValidUTF8(r.literals(s), "?")
	small := strings.ToLower(s)
	for _, p := range r.patterns {
		if hasAny(small, p.hint) {
			s = r.replace(p.rule, p.find, s, p.with)
		}
	}
	if hasAny(small, r.hints) {
		s = r.named(s)
	}
	return s
}

// named leaves out values that have a secret's name: name=value, name: value, "name": "value", also inside of another string.
func (r *redactor) named(s string) string {
	var b strings.Builder
	for {
		at := r.name.FindStringIndex(s)
		if at == nil {
			b.WriteString(s)
			return b.String()
		}
		b.WriteString(s[:at[1]])
		s = s[at[1]:]
		n, with := r.valueEnd(s)
		if value := s[:n]; value != "" && !strings.HasPrefix(strings.TrimLeft(s, "\\\"'"), hidden) && !isPlain(value) {
			r.count[ruleNamed]++
			b.WriteString(with)
		} else {
			b.WriteString(value)
		}
		s = s[n:]
	}
}

// isPlain reports whether a value says only whether there is something.
func isPlain(value string) bool {
	return slices.Contains([]string{"true", "false", "null", "none", `""`, "''"}, strings.ToLower(strings.TrimSpace(value)))
}

// valueEnd returns how long the value is that s begins with, and what to write in its place.
func (r *redactor) valueEnd(s string) (n int, with string) {
	slashes := len(s) - len(strings.TrimLeft(s, `\`))
	if rest := s[slashes:]; rest != "" && (rest[0] == '"' || rest[0] == '\'') {
		mark := s[:slashes+1] // the same ends it, and more backslashes do not
		for i := len(mark); i < len(s); i++ {
			if s[i] == '\n' {
				return i, hidden
			}
			if strings.HasPrefix(s[i:], mark) && s[i-1] != '\\' {
				return i + len(mark), mark + hidden + mark
			}
		}
		return len(s), hidden
	}
	end := strings.IndexByte(s, '\n')
	if end < 0 {
		end = len(s)
	}
	if s != "" && (s[0] == '{' || s[0] == '[' || s[0] == '|' || s[0] == '>') {
		return end, hidden // something of several parts: the rest of the line
	}
	if i := strings.IndexAny(s[:end], `",;&}])<`); i >= 0 {
		end = i
	}
	if next := r.next.FindStringIndex(s[:end]); next != nil {
		end = next[0]
	}
	return len(strings.TrimRight(s[:end], `\ `)), hidden
}

// isLearned reports whether what a key has is to be left out wherever it is: not what says where somebody lives, as numbers like those are
// everywhere.
func isLearned(key string) bool {
	rule, secret := isSecretName(key)
	return secret && (rule == ruleNamed || strings.Contains(strings.ToLower(key), "ssid"))
}

// isSecretName reports whether a key is the name of a secret.
func isSecretName(key string) (rule string, yes bool) {
	plain := strings.Map(func(r rune) rune {
		if r = unicode.ToLower(r); r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, key)
	for _, word := range []string{"ssid", "wifi", "wlan", "latitude", "longitude"} {
		if strings.Contains(plain, word) {
			return rulePrivate, true
		}
	}
	if slices.Contains([]string{"lat", "lon", "lng", "mac", "email", "gps", "coordinates", "location"}, plain) {
		return rulePrivate, true
	}
	for _, word := range []string{"passw", "pasw", "passphrase", "passcode", "pwd", "secret", "token", "apikey", "accesskey", "privatekey",
		"credential", "authorization",
		"cookie", "psk", "bearer", "hash"} {
		if strings.Contains(plain, word) {
			return ruleNamed, true
		}
	}
	switch {
	case slices.Contains([]string{"pin", "pass", "sessionid", "signature"}, plain):
		return ruleNamed, true
	case strings.HasSuffix(plain, "key") && !strings.HasSuffix(plain, "publickey"):
		return ruleNamed, true
	}
	return "", false
}

// strange leaves secrets out of JSON data that strangers made: what has a secret's name is left out as a whole.
func (r *redactor) strange(v any) any { return r.walk(v, true) }

// own leaves secrets out of JSON data of our own, whose names are known to be none of secrets.
func (r *redactor) own(v any) any { return r.walk(v, false) }

func (r *redactor) walk(v any, names bool) any {
	switch v := v.(type) {
	case string:
		return r.text(v)
	case []any:
		for i := range v {
			v[i] = r.walk(v[i], names)
		}
	case map[string]any:
		clean := make(map[string]any, len(v))
		for k, x := range v {
			rule, secret := isSecretName(k)
			if _, isText := x.(string); isText && strings.EqualFold(k, "auth") { // else it has a login in it, each with its name
				rule, secret = ruleNamed, true
			}
			if names && secret && x != nil && x != "" && x != true && x != false {
				r.count[rule]++
				clean[r.text(k)] = hidden
				continue
			}
			clean[r.text(k)] = r.walk(x, names)
		}
		return clean
	}
	return v
}

// line leaves secrets out of one line of a log, JSON or not.
func (r *redactor) line(s string) string {
	if strings.HasPrefix(strings.TrimSpace(s), "{") && utf8.ValidString(s) {
		if v, err := decode([]byte(s)); err == nil {
			if text, err := json.Marshal(r.strange(v)); err == nil {
				return string(text)
			}
		}
	}
	return r.text(s)
}

// decode reads JSON, with its numbers as they stand.
func decode(text []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if d.Decode(new(any)) != io.EOF {
		return nil, errors.New("more than one value")
	}
	return v, nil
}
