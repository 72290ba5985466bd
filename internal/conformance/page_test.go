// Package conformance compares the names of the tests with the numbered statements of MQTT, and writes
// docs/conformance.md from them.
//
// # How a test says what it shows
//
// The number of a statement stands in the name of the test. The name of a test function has one:
//
//	func TestMQTT_3_1_2_22_KeepAlive    [MQTT-3.1.2-22] of MQTT 5.0
//	func TestMQTT311_3_2_0_1_FirstIs    [MQTT-3.2.0-1] of MQTT 3.1.1
//
// The name of a subtest may have several, at its beginning. It is written as a literal, in t.Run or in the rows of the
// test's table:
//
//	t.Run("[MQTT-3.9.3-1] [MQTT-3.9.3-2] codes in their order", ...)
//	t.Run("[MQTT-3.1.2-4] of 3.1.1: kept", ...)
//
// A test of a statement of 5.0 shows those of 3.1.1 that ask the same (see statements.txt) when it runs for both
// versions, that is, when each is called in it. It is read, not run: whether it passes is another test's business.
package conformance

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const page = "docs/conformance.md"

var update = flag.Bool("update", false, "write "+page+" anew")

// packages are those whose tests are read.
var packages = []string{"broker", "internal/packet"}

// TestConformance finds a statement that concerns us and has neither a test nor a reason, a test of a statement that
// there is not, and a page that says something else.
func TestConformance(t *testing.T) {
	root := filepath.Join("..", "..")
	content, err := os.ReadFile("statements.txt")
	if err != nil {
		t.Fatal(err)
	}
	versions, err := parseStatements(string(content))
	if err != nil {
		t.Fatal(err)
	}
	var tests []shown
	for _, pkg := range packages {
		tests = append(tests, readTests(t, root, pkg)...)
	}
	if len(tests) == 0 {
		t.Fatal("no test names a statement: this test does not see them")
	}
	for _, problem := range assign(versions, tests) {
		t.Error(problem)
	}
	want := render(versions)
	path := filepath.Join(root, page)
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what the names of the tests say: run make conformance", page)
	}
}

// assign gives each statement the tests that show it, and returns what does not fit.
func assign(versions []*version, tests []shown) []string {
	var problems []string
	find := func(v int, id string) *statement {
		for _, s := range versions[v].sections {
			for _, st := range s.statements {
				if st.id == id {
					return st
				}
			}
		}
		return nil
	}
	for _, test := range tests {
		v := v5
		if test.v311 {
			v = v311
		}
		st := find(v, test.id)
		if st == nil {
			problems = append(problems, fmt.Sprintf("%s of %s names %s, which MQTT %s does not have", test.name, test.file, test.id, versions[v].name))
			continue
		}
		st.tests[link(test)] = true
		if test.both {
			st.testsOfBoth[link(test)] = true
		}
	}
	for _, v := range versions {
		for _, s := range v.sections {
			for _, st := range s.statements {
				missing := st.inherit(func(id string) *statement { return find(v5, id) })
				switch name := fmt.Sprintf("MQTT-%s of %s", st.id, v.name); {
				case len(st.tests) > 0 && st.why != "":
					problems = append(problems, fmt.Sprintf("%s has a test (%s) and a reason for having none: %s", name, slices.Sorted(maps.Keys(st.tests))[0], st.why))
				case len(st.tests) == 0 && st.why == "" && st.server:
					problems = append(problems, fmt.Sprintf("%s has neither a test nor a reason for having none%s", name, missing))
				}
			}
		}
	}
	return problems
}

// inherit gives a statement of 3.1.1 the words and the tests of those of 5.0 that ask the same. Each of these must have
// a test of both versions, else it has none; the first that has not is told.
func (st *statement) inherit(find func(id string) *statement) (missing string) {
	if len(st.equal) == 0 {
		return ""
	}
	tests := map[string]bool{}
	for _, id := range st.equal {
		same := find(id)
		if st.asks == "" {
			st.asks = same.asks
		}
		if len(same.testsOfBoth) == 0 {
			missing = fmt.Sprintf(": of MQTT-%s of 5.0 no test runs for both versions", id)
		}
		maps.Copy(tests, same.testsOfBoth)
	}
	if missing == "" {
		maps.Copy(st.tests, tests)
	}
	return missing
}

// link returns the Markdown of a test.
func link(t shown) string {
	return fmt.Sprintf("[%s](../%s)", t.name, t.file)
}

// render returns the page.
func render(versions []*version) string {
	var b strings.Builder
	b.WriteString(`# Conformance

Which tests show which numbered statement of MQTT 5.0 and 3.1.1. This page is made from the names of the tests by
` + "`make conformance`" + `; what a statement asks is said in our words and in short, so read the standards
([5.0](https://docs.oasis-open.org/mqtt/mqtt/v5.0/os/mqtt-v5.0-os.html),
[3.1.1](https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/os/mqtt-v3.1.1-os.html)) beside it. The tests talk to a running broker
over a socket, in packets and in bytes. Statements that bind clients only are marked so; where a test stands beside one, it
shows how the broker answers a client that does not keep to it.

| | statements | concern a broker | with a test | without, for a reason | bind clients only |
|---|---|---|---|---|---|
`)
	for _, v := range versions {
		var all, server, tested int
		for _, s := range v.sections {
			for _, st := range s.statements {
				all++
				if st.server {
					server++
					if len(st.tests) > 0 {
						tested++
					}
				}
			}
		}
		fmt.Fprintf(&b, "| MQTT %s | %d | %d | %d | %d | %d |\n", v.name, all, server, tested, server-tested, all-server)
	}
	b.WriteString("\n## Without a test\n\nStatements that concern a broker and have no test, and why.\n")
	for _, v := range versions {
		fmt.Fprintf(&b, "\n| MQTT %s | What it asks | Why there is no test |\n|---|---|---|\n", v.name)
		for _, s := range v.sections {
			for _, st := range s.statements {
				if st.server && len(st.tests) == 0 {
					fmt.Fprintf(&b, "| %s | %s | %s |\n", st.id, cell(st.asks), cell(st.why))
				}
			}
		}
	}
	for _, v := range versions {
		fmt.Fprintf(&b, "\n## MQTT %s\n", v.name)
		for _, s := range v.sections {
			fmt.Fprintf(&b, "\n### %s, %s\n\n| Statement | What it asks | Shown by |\n|---|---|---|\n", s.name, v.name)
			for _, st := range s.statements {
				id := st.id
				if !st.server {
					id += ", client"
				}
				fmt.Fprintf(&b, "| %s | %s | %s |\n", id, cell(st.asks), st.shownBy())
			}
		}
	}
	return b.String()
}

func (st *statement) shownBy() string {
	switch {
	case len(st.tests) > 0:
		return strings.Join(slices.Sorted(maps.Keys(st.tests)), ", ")
	case st.server:
		return "no test: " + cell(st.why)
	}
	return cell(st.why)
}

// cell returns text that does no harm in a table.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", "*", `\*`).Replace(text)
}
