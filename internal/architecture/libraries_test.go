package architecture

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestLibraryTable compares the libraries that the packages and tests import with the document, and their versions with
// go.mod.
func TestLibraryTable(t *testing.T) {
	root := filepath.Join("..", "..")
	page, err := os.ReadFile(filepath.Join(root, document))
	if err != nil {
		t.Fatal(err)
	}
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]string{} // import path: a package that imports it
	walk(t, root, func(pkg, dir string) {
		for _, path := range importsOf(t, dir, true) {
			first, _, _ := strings.Cut(path, "/")
			if strings.Contains(first, ".") && path != module && !strings.HasPrefix(path, module+"/") {
				used[path] = pkg
			}
		}
	})
	if len(used) == 0 {
		t.Error("no library is used: this test does not see the imports")
	}
	for _, problem := range checkLibraries(string(page), string(mod), used) {
		t.Error(problem)
	}
}

func checkLibraries(page, mod string, used map[string]string) []string {
	required := map[string]string{}
	for line := range strings.Lines(mod) {
		fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(fields) >= 2 && strings.HasPrefix(fields[1], "v") {
			required[fields[0]] = fields[1]
		}
	}
	rows, err := tableOf(strings.NewReader(page), "Library")
	if err != nil {
		return []string{err.Error()}
	}
	var problems []string
	needed := map[string]bool{}
	names := map[string]bool{}
	for _, r := range rows {
		name := strings.Trim(r.cells[0], "`")
		names[name] = true
		if required[name] != r.cells[1] {
			problems = append(problems, fmt.Sprintf("%s says %s of %s, go.mod says %q", document, r.cells[1], name, required[name]))
		}
	}
	for _, path := range slices.Sorted(maps.Keys(used)) {
		name := path
		for !names[name] && name != "." {
			name = strings.TrimSuffix(filepath.Dir(name), "/")
		}
		if name == "." {
			problems = append(problems, fmt.Sprintf("package %s imports %s, which is missing in the table of libraries of %s", used[path], path, document))
		}
		needed[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if !needed[name] {
			problems = append(problems, fmt.Sprintf("the table of libraries of %s names %s, which nothing imports", document, name))
		}
	}
	return problems
}

// TestCheckLibraries shows that every kind of violation is found.
func TestCheckLibraries(t *testing.T) {
	const page = "| Library | Version | Why |\n|---|---|---|\n| `example.com/a/v2` | v2.1.0 | a |\n| `example.com/b` | v1.0.0 | b |\n"
	const mod = "module m\n\nrequire example.com/b v1.0.0\n\nrequire (\n\texample.com/a/v2 v2.1.0 // indirect\n)\n"
	tests := []struct {
		name      string
		page, mod string
		used      []string
		want      string
	}{
		{"as the table says", page, mod, []string{"example.com/a/v2/sub/deep", "example.com/b"}, ""},
		{"another version", page, strings.Replace(mod, "v2.1.0", "v2.2.0", 1), []string{"example.com/a/v2", "example.com/b"},
			`says v2.1.0 of example.com/a/v2, go.mod says "v2.2.0"`},
		{"not required", page, "module m\n", nil, `says v2.1.0 of example.com/a/v2, go.mod says ""`},
		{"not in the table", page, mod, []string{"example.com/a/v2", "example.com/b", "example.com/c/sub"},
			"package p imports example.com/c/sub, which is missing"},
		{"not imported", page, mod, []string{"example.com/b"}, "names example.com/a/v2, which nothing imports"},
		{"no table", "# Page\n", mod, nil, "there is no table"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			used := map[string]string{}
			for _, path := range tt.used {
				used[path] = "p"
			}
			got := strings.Join(checkLibraries(tt.page, tt.mod, used), "\n")
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
