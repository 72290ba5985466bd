package config

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// Severity says whether a problem keeps the configuration from being used.
type Severity string

const (
	SeverityError   Severity = "error"
	SeverityWarning Severity = "warning"
)

// A Problem is one thing wrong with a configuration.
type Problem struct {
	Severity Severity `json:"severity"`
	File     string   `json:"file,omitempty"`   // as it was given to Load; "" when the value is not from a file
	Line     int      `json:"line,omitempty"`   // from 1; 0 is the file as a whole
	Column   int      `json:"column,omitempty"` // from 1
	Env      string   `json:"env,omitempty"`    // the environment variable that the value is from
	Key      string   `json:"key,omitempty"`    // "broker.port"; "" when no key is meant
	Text     string   `json:"text"`             // what is wrong and what is allowed; never a secret
	Nearest  string   `json:"nearest,omitempty"`
}

// Error returns one line such as
//
//	mower.yaml:12: broker.port: 70000 is out of range, want 0 to 65535
func (p Problem) Error() string {
	var b strings.Builder
	switch {
	case p.Env != "":
		b.WriteString(p.Env + ": ")
	case p.File != "" && p.Line > 0:
		b.WriteString(p.File + ":" + strconv.Itoa(p.Line) + ": ")
	case p.File != "":
		b.WriteString(p.File + ": ")
	}
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Text)
	if p.Nearest != "" {
		b.WriteString(": did you mean " + p.Nearest + "?")
	}
	return b.String()
}

// Problems are all the problems of a configuration, in the order of the file, those of the environment last. As an error
// it reads as its errors, one per line, without the warnings.
type Problems []Problem

// Error joins the problems of severity error.
func (ps Problems) Error() string {
	var lines []string
	for _, p := range ps {
		if p.Severity == SeverityError {
			lines = append(lines, p.Error())
		}
	}
	return strings.Join(lines, "\n")
}

// Err returns ps when one of them is an error, and nil otherwise.
func (ps Problems) Err() error {
	if slices.ContainsFunc(ps, func(p Problem) bool { return p.Severity == SeverityError }) {
		return ps
	}
	return nil
}

// sort brings the problems into the order of the file.
func (ps Problems) sort() {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(
			cmp.Compare(a.Env, b.Env),
			cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Column, b.Column),
		)
	})
}
