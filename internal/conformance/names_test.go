package conformance

import (
	"cmp"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A shown is a statement in the name of a test.
type shown struct {
	id   string // "3.1.2-22"
	v311 bool   // of 3.1.1
	both bool   // the test runs for both versions
	name string // of the test function
	file string // relative to the module
}

var (
	inFunction = regexp.MustCompile(`^TestMQTT(311)?_(\d+)_(\d+)_(\d+)_(\d+)_`)
	inSubtest  = regexp.MustCompile(`^(?:\[MQTT-\d+\.\d+\.\d+-\d+\] ?)+`)
	inBrackets = regexp.MustCompile(`\[MQTT-(\d+\.\d+\.\d+-\d+)\]`)
)

// readTests returns what the names of the tests in a package say.
func readTests(t *testing.T, root, pkg string) []shown {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(root, pkg, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]*ast.File{}
	for _, path := range paths {
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files[pkg+"/"+filepath.Base(path)] = f
	}
	return names(files)
}

// names returns what the names of the tests in the files of one package say, sorted.
func names(files map[string]*ast.File) []shown {
	both := callers(files, "each")
	var all []shown
	for file, f := range files {
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || fn.Body == nil || !strings.HasPrefix(fn.Name.Name, "Test") {
				continue
			}
			add := func(s shown) {
				s.name, s.file = fn.Name.Name, file
				if !slices.Contains(all, s) {
					all = append(all, s)
				}
			}
			if m := inFunction.FindStringSubmatch(fn.Name.Name); m != nil {
				add(shown{id: m[2] + "." + m[3] + "." + m[4] + "-" + m[5], v311: m[1] != "", both: both[fn.Name.Name]})
			}
			subtests(fn.Body, both[fn.Name.Name], both, func(name string, both bool) {
				prefix := inSubtest.FindString(name)
				for _, m := range inBrackets.FindAllStringSubmatch(prefix, -1) {
					add(shown{id: m[1], v311: strings.HasPrefix(name[len(prefix):], "of 3.1.1"), both: both})
				}
			})
		}
	}
	slices.SortFunc(all, func(a, b shown) int {
		return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.name, b.name), cmp.Compare(a.id, b.id))
	})
	return all
}

// subtests calls found with each literal in a function's body that may be the name of a subtest, and whether that runs for
// both versions, as those of the whole function do unless it is written in place, outside of each, and does not call it.
func subtests(body ast.Node, whole bool, both map[string]bool, found func(name string, both bool)) {
	var walk func(n ast.Node, inEach bool)
	walk = func(n ast.Node, inEach bool) {
		ast.Inspect(n, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.BasicLit:
				if s, err := strconv.Unquote(n.Value); n.Kind == token.STRING && err == nil {
					found(s, inEach || whole)
				}
			case *ast.CallExpr:
				switch name := called(n); {
				case name == "each" && !inEach:
					for _, arg := range n.Args {
						walk(arg, true)
					}
					return false
				case strings.HasPrefix(name, "Error") || strings.HasPrefix(name, "Fatal") || strings.HasPrefix(name, "Log"):
					return false // texts, not names
				case name == "Run" && len(n.Args) == 2 && !inEach:
					inPlace, ok := n.Args[1].(*ast.FuncLit)
					if !ok {
						break
					}
					calls := callsAny(inPlace.Body, both)
					subtests(n.Args[0], calls, both, found)
					subtests(inPlace.Body, calls, both, found)
					return false
				}
			}
			return true
		})
	}
	walk(body, false)
}

// callers returns the functions of a package that call one of that name, directly or through others, and the name itself.
func callers(files map[string]*ast.File, name string) map[string]bool {
	known := map[string]bool{name: true}
	for before := 0; before != len(known); {
		before = len(known)
		for _, f := range files {
			for _, d := range f.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Body != nil && callsAny(fn.Body, known) {
					known[fn.Name.Name] = true
				}
			}
		}
	}
	return known
}

func callsAny(n ast.Node, functions map[string]bool) bool {
	calls := false
	ast.Inspect(n, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			if f, plain := call.Fun.(*ast.Ident); plain && functions[f.Name] {
				calls = true
			}
		}
		return !calls
	})
	return calls
}

// called returns the name of a called function or method.
func called(call *ast.CallExpr) string {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	}
	return ""
}

// TestNames shows what counts as a name, and for which version.
func TestNames(t *testing.T) {
	const source = `package p
func TestMQTT_1_2_3_4_One(t *testing.T) { t.Error("[MQTT-9.9.9-1] no name") }
func TestMQTT_1_2_3_5_Both(t *testing.T) { each(t, f) }
func TestMQTT311_1_2_3_6_Old(t *testing.T) { _ = "see [MQTT-9.9.9-2]" }
func TestMQTT_1_2_3_Short(t *testing.T) {}
func helper() { each(t, f) }
func TestSubtests(t *testing.T) {
	t.Run("[MQTT-2.0.0-1] [MQTT-2.0.0-2] two, [MQTT-9.9.9-3]", func(t *testing.T) { t.Parallel() })
	t.Run("[MQTT-2.0.0-3] of 3.1.1: old", func(t *testing.T) {})
	t.Run("[MQTT-2.0.0-4] both", func(t *testing.T) { each(t, f) })
	t.Run("[MQTT-2.0.0-5] both, elsewhere", run(helper()))
	t.Run("[MQTT-2.0.0-6] around it", func(t *testing.T) { helper() })
}
func TestTable(t *testing.T) {
	each(t, func(t *testing.T) {
		for _, test := range []struct{ name string }{{"[MQTT-3.0.0-1] row"}} {
			t.Run(test.name, func(t *testing.T) {})
		}
		t.Run("[MQTT-3.0.0-2] inside", func(t *testing.T) {})
	})
}
func helps(t *testing.T) { t.Run("[MQTT-9.9.9-4] no test function", nil) }
`
	f, err := parser.ParseFile(token.NewFileSet(), "", source, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, s := range names(map[string]*ast.File{"p/a_test.go": f}) {
		got[s.id] += map[bool]string{false: "5.0", true: "3.1.1"}[s.v311] + map[bool]string{true: ", both"}[s.both]
	}
	want := map[string]string{
		"1.2.3-4": "5.0", "1.2.3-5": "5.0, both", "1.2.3-6": "3.1.1",
		"2.0.0-1": "5.0", "2.0.0-2": "5.0", "2.0.0-3": "3.1.1", "2.0.0-4": "5.0, both", "2.0.0-5": "5.0, both", "2.0.0-6": "5.0, both",
		"3.0.0-1": "5.0, both", "3.0.0-2": "5.0, both",
	}
	if !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}
