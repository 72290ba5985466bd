package architecture

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

const sample = `# A page

| Other | table |
|---|---|
| a | b |

| Package | Purpose | May import |
|---|---|---|
| ` + "`cmd/tool`" + ` | main | everything below |
| ` + "`high`" + ` | above | ` + "`low`" + `, ` + "`internal/deep`" + ` |
| ` + "`low`" + ` | below | nothing of ours |
| ` + "`internal/deep`" + ` | hidden | ` + "`low`" + ` |
| ` + "`examples/*`" + ` | to read | public packages |

| not | this |
`

// TestCheck shows that every kind of violation is found: without it the other test could pass for nothing.
func TestCheck(t *testing.T) {
	good := map[string][]string{
		"cmd/tool": {"high", "low", "internal/deep"}, "high": {"low", "internal/deep"}, "low": {}, "internal/deep": {"low"},
		"examples/quick": {"high", "low"},
	}
	tests := []struct {
		name   string
		change func(imports map[string][]string)
		want   []string // one part of each problem
	}{
		{"as the table says", func(map[string][]string) {}, nil},
		{"upwards", func(m map[string][]string) { m["low"] = []string{"high"} },
			[]string{"package low imports high", "circle: high -> low -> high"}},
		{"sideways", func(m map[string][]string) { m["high"] = []string{"cmd/tool"} },
			[]string{"package high imports cmd/tool", "circle: cmd/tool -> high -> cmd/tool"}},
		{"an example that reaches inside", func(m map[string][]string) { m["examples/quick"] = []string{"internal/deep"} },
			[]string{"package examples/quick imports internal/deep, but the table of docs/architecture.md allows it: public packages"}},
		{"a package without a row", func(m map[string][]string) { m["extra"] = nil }, []string{"package extra is missing"}},
		{"deeper than the pattern", func(m map[string][]string) { m["examples/quick/part"] = nil },
			[]string{"package examples/quick/part is missing"}},
		{"a row without a package", func(m map[string][]string) { delete(m, "internal/deep") },
			[]string{"names internal/deep, but there is no such package"}},
		{"a pattern without a package", func(m map[string][]string) { delete(m, "examples/quick") },
			[]string{"names examples/*, but there is no such package"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table, err := parseTable(strings.NewReader(sample))
			if err != nil {
				t.Fatal(err)
			}
			imports := maps.Clone(good)
			tt.change(imports)
			problems := check(table, imports)
			if len(problems) != len(tt.want) {
				t.Fatalf("got %d problems, want %d:\n%s", len(problems), len(tt.want), strings.Join(problems, "\n"))
			}
			for _, want := range tt.want {
				if !slices.ContainsFunc(problems, func(p string) bool { return strings.Contains(p, want) }) {
					t.Errorf("%q is not among\n%s", want, strings.Join(problems, "\n"))
				}
			}
		})
	}
}

// TestTableMistakes shows that a table that cannot be relied on is refused.
func TestTableMistakes(t *testing.T) {
	header := "| Package | Purpose | May import |\n|---|---|---|\n"
	tests := []struct{ name, text, want string }{
		{"no table", "# Architecture\n", "there is no table"},
		{"too few columns", header + "| `a` | b |\n", "line 3: want 3 columns, got 2"},
		{"no purpose", header + "| `a` | | nothing of ours |\n", "line 3: a cell is empty"},
		{"nothing in the third", header + "| `a` | b | |\n", "line 3: a cell is empty"},
		{"twice", header + "| `a` | b | nothing of ours |\n| `a` | c | nothing of ours |\n", "line 4: a second row for a"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseTable(strings.NewReader(tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	t.Run("a name without a row", func(t *testing.T) {
		table, err := parseTable(strings.NewReader(header + "| `a` | b | `c` |\n"))
		if err != nil {
			t.Fatal(err)
		}
		problems := check(table, map[string][]string{"a": nil})
		if len(problems) != 1 || !strings.Contains(problems[0], "lets a import c, which has no row") {
			t.Errorf("got %q", problems)
		}
	})
}
