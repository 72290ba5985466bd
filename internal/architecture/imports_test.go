// Package architecture checks that the packages import each other as docs/architecture.md says, so that the document
// stays true and the layers stay layers.
package architecture

import (
	"bufio"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	module   = "github.com/lawnberry/lawnberry"
	document = "docs/architecture.md"
)

// TestImportTable compares the imports of every package (tests aside) with the table of the document.
func TestImportTable(t *testing.T) {
	root := filepath.Join("..", "..")
	table := readTable(t, filepath.Join(root, document))
	imports := readImports(t, root)
	for _, problem := range check(table, imports) {
		t.Error(problem)
	}
	t.Logf("%d packages, %d rows", len(imports), len(table))
}

// A row is one line of the table.
type row struct {
	pkg  string   // relative to the module; "examples/*" is every package directly in examples
	may  []string // packages, as pkg; "examples/*" style patterns too
	rule string   // "below", "public" or "": what may be imported beside may
}

// The rules that the third column may name instead of packages.
const (
	below  = "everything below"
	public = "public packages"
)

// check returns what is wrong with the imports by the table, and with the table by the packages.
func check(table []row, imports map[string][]string) []string {
	var problems []string
	used := make([]bool, len(table))
	for _, pkg := range slices.Sorted(maps.Keys(imports)) {
		i := slices.IndexFunc(table, func(r row) bool { return matches(r.pkg, pkg) })
		if i < 0 {
			problems = append(problems, fmt.Sprintf("package %s is missing in the table of %s: add a row that says what it is for and what it may import", pkg, document))
			continue
		}
		used[i] = true
		for _, imported := range imports[pkg] {
			if !allows(table, i, imported) {
				problems = append(problems, fmt.Sprintf("package %s imports %s, but the table of %s allows it: %s", pkg, imported, document, table[i].column()))
			}
		}
	}
	for i, r := range table {
		if !used[i] {
			problems = append(problems, fmt.Sprintf("the table of %s names %s, but there is no such package", document, r.pkg))
		}
		for _, m := range r.may {
			if !slices.ContainsFunc(table, func(other row) bool { return other.pkg == m }) {
				problems = append(problems, fmt.Sprintf("the table of %s lets %s import %s, which has no row", document, r.pkg, m))
			}
		}
	}
	return append(problems, circles(table, imports)...)
}

// circles returns the circles among the packages. The compiler refuses them as well, but the table could allow one
// before anyone builds it.
func circles(table []row, imports map[string][]string) []string {
	next := map[string][]string{}
	maps.Copy(next, imports)
	for _, r := range table {
		next[r.pkg] = append(slices.Clone(next[r.pkg]), r.may...)
	}
	const visiting, done = 1, 2
	state := map[string]int{}
	var path, found []string
	var visit func(pkg string)
	visit = func(pkg string) {
		switch state[pkg] {
		case visiting:
			circle := append(slices.Clone(path[slices.Index(path, pkg):]), pkg)
			found = append(found, "packages may import each other in a circle: "+strings.Join(circle, " -> "))
			return
		case done:
			return
		}
		state[pkg] = visiting
		path = append(path, pkg)
		for _, n := range next[pkg] {
			visit(n)
		}
		path = path[:len(path)-1]
		state[pkg] = done
	}
	for _, pkg := range slices.Sorted(maps.Keys(next)) {
		visit(pkg)
	}
	return found
}

// matches reports whether a row's pattern means a package.
func matches(pattern, pkg string) bool {
	parent, wild := strings.CutSuffix(pattern, "/*")
	if !wild {
		return pattern == pkg
	}
	rest, ok := strings.CutPrefix(pkg, parent+"/")
	return ok && !strings.Contains(rest, "/")
}

// allows reports whether the package of row i may import another.
func allows(table []row, i int, imported string) bool {
	r := table[i]
	if slices.ContainsFunc(r.may, func(m string) bool { return matches(m, imported) }) {
		return true
	}
	switch r.rule {
	case below:
		return slices.ContainsFunc(table[i+1:], func(lower row) bool { return matches(lower.pkg, imported) })
	case public:
		first, _, _ := strings.Cut(imported, "/")
		return !slices.Contains([]string{"internal", "cmd", "examples"}, first)
	}
	return false
}

func (r row) column() string {
	if r.rule != "" {
		return r.rule
	}
	if len(r.may) == 0 {
		return "nothing of ours"
	}
	return strings.Join(r.may, ", ")
}

// readTable reads the table whose header begins with "| Package |".
func readTable(t *testing.T, file string) []row {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only read
	table, err := parseTable(f)
	if err != nil {
		t.Fatalf("%s: %v", document, err)
	}
	return table
}

func parseTable(r io.Reader) ([]row, error) {
	var table []row
	inside := false
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if !strings.HasPrefix(line, "|") {
			if inside {
				break
			}
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		switch {
		case !inside:
			inside = cells[0] == "Package"
			continue
		case strings.Trim(cells[0], "-: ") == "": // the line below the header
			continue
		case len(cells) != 3:
			return nil, fmt.Errorf("line %d: want 3 columns, got %d", n, len(cells))
		case cells[1] == "":
			return nil, fmt.Errorf("line %d: the purpose is missing", n)
		}
		entry := row{pkg: strings.Trim(cells[0], "`")}
		if slices.ContainsFunc(table, func(other row) bool { return other.pkg == entry.pkg }) {
			return nil, fmt.Errorf("line %d: a second row for %s", n, entry.pkg)
		}
		switch cells[2] {
		case below, public:
			entry.rule = cells[2]
		case "nothing of ours":
		default:
			for name := range strings.SplitSeq(cells[2], ",") {
				name = strings.Trim(strings.TrimSpace(name), "`")
				if name == "" {
					return nil, fmt.Errorf("line %d: an empty name in the third column: write %q for none", n, "nothing of ours")
				}
				entry.may = append(entry.may, name)
			}
		}
		table = append(table, entry)
	}
	if len(table) == 0 {
		return nil, errors.New(`there is no table whose header begins with "| Package |"`)
	}
	return table, lines.Err()
}

// readImports returns the packages of the module, each with what it imports of the module, whatever system it is for.
func readImports(t *testing.T, root string) map[string][]string {
	t.Helper()
	imports := map[string][]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if path != root {
			name := d.Name()
			if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata" {
				return fs.SkipDir
			}
			if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil { // a module of its own
				return fs.SkipDir
			}
		}
		pkg, err := importsOf(path)
		if err != nil || pkg == nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		imports[filepath.ToSlash(rel)] = pkg
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return imports
}

// importsOf returns what the package in dir imports of the module, and nil when there is no Go file.
func importsOf(dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		return nil, err
	}
	ours := map[string]bool{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return nil, err
		}
		for _, spec := range f.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			if rel, ok := strings.CutPrefix(path, module+"/"); ok {
				ours[rel] = true
			}
		}
	}
	return slices.AppendSeq([]string{}, maps.Keys(ours)), nil
}
