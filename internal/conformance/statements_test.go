package conformance

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The places of the versions in what parseStatements returns.
const (
	v5 = iota
	v311
)

// A version is one of the two documents.
type version struct {
	name     string // "5.0"
	sections []*section
}

type section struct {
	name       string // "3.1 CONNECT"
	statements []*statement
}

// A statement is one line of statements.txt.
type statement struct {
	id     string   // "3.1.2-22"
	server bool     // it concerns a server, perhaps among others
	equal  []string // of 3.1.1: the statements of 5.0 that ask the same
	asks   string
	why    string // there is no test

	tests       map[string]bool // Markdown
	testsOfBoth map[string]bool // those of tests that run for both versions
}

var number = regexp.MustCompile(`^\d+\.\d+\.\d+-\d+$`)

// parseStatements reads statements.txt.
func parseStatements(text string) ([]*version, error) {
	var versions []*version
	seen := map[string]bool{}
	server := map[string]bool{} // whom the statements of 5.0 bind
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		id, rest, isStatement := strings.Cut(line, " | ")
		name, isVersion := strings.CutPrefix(line, "MQTT ")
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
			continue
		case isVersion && !isStatement:
			versions = append(versions, &version{name: name})
			continue
		case len(versions) == 0:
			return nil, fmt.Errorf("line %d: there is no version before it", n)
		}
		v := versions[len(versions)-1]
		if !isStatement {
			v.sections = append(v.sections, &section{name: line})
			continue
		}
		if len(v.sections) == 0 {
			return nil, fmt.Errorf("line %d: there is no section before it", n)
		}
		s := v.sections[len(v.sections)-1]
		place, _, _ := strings.Cut(s.name, " ")
		if !number.MatchString(id) || !strings.HasPrefix(id, place+".") {
			return nil, fmt.Errorf("line %d: %q is no number of section %s", n, id, place)
		}
		if seen[v.name+id] {
			return nil, fmt.Errorf("line %d: %s is there twice", n, id)
		}
		seen[v.name+id] = true
		st := &statement{id: id, tests: map[string]bool{}, testsOfBoth: map[string]bool{}}
		fields := strings.Split(rest, " | ")
		equal, same := strings.CutPrefix(fields[0], "= ")
		switch {
		case same && len(versions) == 2:
			st.equal = strings.Fields(equal)
			for _, other := range st.equal {
				if !seen[versions[v5].name+other] {
					return nil, fmt.Errorf("line %d: 5.0 has no %s", n, other)
				}
			}
			st.server = len(st.equal) > 1 || len(fields) > 1 || server[st.equal[0]]
		case fields[0] == "server" || fields[0] == "client":
			st.server = fields[0] == "server"
		default:
			return nil, fmt.Errorf("line %d: %q is none of server, client and = with numbers", n, fields[0])
		}
		if len(versions) == 1 {
			server[id] = st.server
		}
		fields = append(fields, "", "")
		st.asks, st.why = fields[1], fields[2]
		if st.asks == "" && !same || len(fields) > 5 || slices.Contains(fields[:len(fields)-2], "") {
			return nil, fmt.Errorf("line %d: want the number, whom it binds, what it asks, and perhaps a reason", n)
		}
		s.statements = append(s.statements, st)
	}
	if len(versions) != 2 {
		return nil, fmt.Errorf("%d versions, want 5.0 and 3.1.1", len(versions))
	}
	return versions, nil
}

// TestParseStatements shows that a list that cannot be relied on is refused.
func TestParseStatements(t *testing.T) {
	const five = "MQTT 5.0\n1.1 One\n1.1.1-1 | server | a\n1.1.1-2 | client | b\n"
	const old = "MQTT 3.1.1\n1.2 Two\n"
	for _, test := range []struct{ name, text, want string }{
		{"good", five + old + "1.2.1-1 | = 1.1.1-1\n1.2.1-2 | = 1.1.1-1 | own words\n1.2.1-3 | server | c | because\n", ""},
		{"no version", "1.1 One\n", "line 1: there is no version"},
		{"no section", "MQTT 5.0\n1.1.1-1 | server | a\n", "line 2: there is no section"},
		{"another section's", five + "1.2.1-1 | server | a\n", `line 5: "1.2.1-1" is no number of section 1.1`},
		{"no number", five + "1.1.1 | server | a\n", `line 5: "1.1.1" is no number`},
		{"twice", five + "1.1.1-1 | server | a\n", "line 5: 1.1.1-1 is there twice"},
		{"nobody's", five + "1.1.1-3 | broker | a\n", `line 5: "broker" is none of`},
		{"equal in 5.0", five + "1.1.1-3 | = 1.1.1-1\n", `line 5: "= 1.1.1-1" is none of`},
		{"equal to nothing", five + old + "1.2.1-1 | = 1.1.1-7\n", "line 7: 5.0 has no 1.1.1-7"},
		{"no words", five + "1.1.1-3 | server\n", "line 5: want the number"},
		{"too many fields", five + "1.1.1-3 | server | a | b | c\n", "line 5: want the number"},
		{"one version", five, "1 versions"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := parseStatements(test.text)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// TestAssign shows that every kind of gap is found.
func TestAssign(t *testing.T) {
	const list = "MQTT 5.0\n1.1 One\n1.1.1-1 | server | a\n1.1.1-2 | server | b | because\n1.1.1-3 | client | c\n" +
		"MQTT 3.1.1\n1.2 Two\n1.2.1-1 | = 1.1.1-1\n1.2.1-2 | server | d\n"
	both := shown{id: "1.1.1-1", name: "TestA", file: "a_test.go", both: true}
	old := shown{id: "1.2.1-2", v311: true, name: "TestOld", file: "a_test.go"}
	for _, test := range []struct {
		name  string
		tests []shown
		want  string
	}{
		{"all", []shown{both, old}, ""},
		{"a client's too", []shown{both, old, {id: "1.1.1-3", name: "TestB"}}, ""},
		{"one version only", []shown{{id: "1.1.1-1", name: "TestA"}, old}, "MQTT-1.2.1-1 of 3.1.1 has neither a test nor a reason for having none: of MQTT-1.1.1-1"},
		{"none of 3.1.1", []shown{both}, "MQTT-1.2.1-2 of 3.1.1 has neither a test nor"},
		{"test and reason", []shown{both, old, {id: "1.1.1-2", name: "TestB"}}, "MQTT-1.1.1-2 of 5.0 has a test ([TestB](../)) and a reason"},
		{"no such number", []shown{both, old, {id: "9.9.9-9", name: "TestB", file: "b_test.go"}}, "TestB of b_test.go names 9.9.9-9, which MQTT 5.0 does not have"},
		{"of the other version", []shown{both, old, {id: "1.1.1-1", v311: true, name: "TestB"}}, "names 1.1.1-1, which MQTT 3.1.1 does not have"},
	} {
		t.Run(test.name, func(t *testing.T) {
			versions, err := parseStatements(list)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(assign(versions, test.tests), "\n")
			if test.want == "" && got != "" || !strings.Contains(got, test.want) || strings.Contains(got, "\n") {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
