// Package architecture checks that the packages import each other as docs/architecture.md says, so that the document
// stays true and the layers stay layers.
package architecture

import (
	"bufio"
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
	below   = "everything below"
	public  = "public packages"
	nothing = "nothing of ours"
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
		return nothing
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
	defer f.Close()
	table, err := parseTable(f)
	if err != nil {
		t.Fatalf("%s: %v", document, err)
	}
	return table
}

func parseTable(r io.Reader) ([]row, error) {
	rows, err := tableOf(r, "Package")
	if err != nil {
		return nil, err
	}
	var table []row
	for _, line := range rows {
		entry := row{pkg: strings.Trim(line.cells[0], "`")}
		if slices.ContainsFunc(table, func(other row) bool { return other.pkg == entry.pkg }) {
			return nil, fmt.Errorf("line %d: a second row for %s", line.number, entry.pkg)
		}
		switch line.cells[2] {
		case below, public:
			entry.rule = line.cells[2]
		case nothing:
		default:
			for name := range strings.SplitSeq(line.cells[2], ",") {
				entry.may = append(entry.may, strings.Trim(strings.TrimSpace(name), "`"))
			}
		}
		table = append(table, entry)
	}
	return table, nil
}

// A line is one row of a Markdown table.
type line struct {
	number int // in the document, from 1
	cells  []string
}

// tableOf returns the rows of the table with three columns whose first heading is title, without its head.
func tableOf(r io.Reader, title string) ([]line, error) {
	var table []line
	inside := false
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		if !strings.HasPrefix(text, "|") {
			if inside {
				break
			}
			continue
		}
		cells := strings.Split(strings.Trim(text, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		switch {
		case !inside:
			inside = cells[0] == title
			continue
		case strings.Trim(cells[0], "-: ") == "": // the line below the head
			continue
		case len(cells) != 3:
			return nil, fmt.Errorf("line %d: want 3 columns, got %d", n, len(cells))
		case slices.Contains(cells, ""):
			return nil, fmt.Errorf("line %d: a cell is empty", n)
		}
		table = append(table, line{n, cells})
	}
	if len(table) == 0 {
		return nil, fmt.Errorf("there is no table that begins with | %s |", title)
	}
	return table, lines.Err()
}

// readImports returns the packages of the module, each with what it imports of the module, whatever system it is for.
func readImports(t *testing.T, root string) map[string][]string {
	t.Helper()
	imports := map[string][]string{}
	walk(t, root, func(pkg, dir string) {
		ours := []string{}
		for _, path := range importsOf(t, dir, false) {
			if rel, ok := strings.CutPrefix(path, module+"/"); ok {
				ours = append(ours, rel)
			}
		}
		imports[pkg] = ours
	})
	return imports
}

// walk calls visit for each package of the module, named relative to it.
func walk(t *testing.T, root string, visit func(pkg, dir string)) {
	t.Helper()
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
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if len(goFiles(t, path)) > 0 {
			visit(filepath.ToSlash(rel), path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func goFiles(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// importsOf returns the import paths in the Go files of dir, each once, sorted.
func importsOf(t *testing.T, dir string, tests bool) []string {
	t.Helper()
	paths := map[string]bool{}
	for _, file := range goFiles(t, dir) {
		if strings.HasSuffix(file, "_test.go") && !tests {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range f.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			paths[path] = true
		}
	}
	return slices.Sorted(maps.Keys(paths))
}
