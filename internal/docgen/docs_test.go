package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/lawnberry/lawnberry/internal/cli"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestDocs finds a document that is not what the code says, and one that the code does not make any more.
func TestDocs(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), generateTime)
	defer cancel()
	docs, err := documents(ctx)
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join("..", "..")
	var made []string
	for _, d := range docs {
		made = append(made, d.path)
		got, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(d.path)))
		if err != nil || !bytes.Equal(got, d.content) {
			t.Errorf("%s is not what the code says (%v): run make docs", d.path, err)
		}
	}
	for _, dir := range madeDirs {
		err := filepath.WalkDir(filepath.Join(root, filepath.FromSlash(dir)), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			rel, err := filepath.Rel(root, path)
			if name := filepath.ToSlash(rel); !slices.Contains(made, name) {
				t.Errorf("%s is about nothing that there is: run make docs", name)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// What is made here is the same on every machine and at every time, and its links lead to pages that there are.
func TestNothingOfThisMachine(t *testing.T) {
	docs, err := render(nil)
	if err != nil {
		t.Fatal(err)
	}
	docs = append(docs, manual(cli.Command(), "", "")...)
	if len(docs) < 100 {
		t.Errorf("only %d documents", len(docs))
	}
	home, _ := os.UserHomeDir()
	host, _ := os.Hostname()
	here, _ := os.Getwd()
	link := regexp.MustCompile(`\]\(([^)#]+)`)
	for _, d := range docs {
		for _, local := range []string{home, host, here, os.TempDir()} {
			if local = strings.TrimSpace(local); len(local) > 3 && bytes.Contains(d.content, []byte(local)) {
				t.Errorf("%s names %s, which is of this machine", d.path, local)
			}
		}
		for _, m := range link.FindAllSubmatch(d.content, -1) {
			target := filepath.Join("..", "..", filepath.Dir(filepath.FromSlash(d.path)), filepath.FromSlash(string(m[1])))
			if _, err := os.Stat(target); err != nil && strings.HasSuffix(d.path, ".md") {
				t.Errorf("%s links to %s: %v", d.path, m[1], err)
			}
		}
	}
}

func TestMarkdown(t *testing.T) {
	for _, tt := range [][2]string{
		{"broker.max_connections", "broker.max_connections"}, {"_a *b* <c>", `\_a \*b\* \<c\>`}, {"µs_x", "µs_x"},
	} {
		if got := markdown(tt[0]); got != tt[1] {
			t.Errorf("%q becomes %q, want %q", tt[0], got, tt[1])
		}
	}
	if got, want := code("a|`b`"), "`` a\\|`b` ``"; got != want {
		t.Errorf("code: %q, want %q", got, want)
	}
	const help = "One line\nand another.\n\nA list:\n  a  1\n  b  2\nafter it.\n"
	want := []part{{"One line\nand another.", false}, {"A list:", false}, {"a  1\nb  2", true}, {"after it.", false}}
	if got := parts(help); !slices.Equal(got, want) {
		t.Errorf("parts: %+v, want %+v", got, want)
	}
	if got, want := paragraph("# no heading\n- no list"), "\\# no heading\n\\- no list"; got != want {
		t.Errorf("paragraph: %q, want %q", got, want)
	}
}

// TestManual looks for lines that roff would take for requests, and for what it would swallow.
func TestManual(t *testing.T) {
	request := regexp.MustCompile(`^\.(TH|SH|TP|B|BR|PP|RS|RE|nf|fi|br)( |$)`)
	swallowed := regexp.MustCompile(`\\([^e\-(&]|$)`)
	pages := manual(cli.Command(), "1.2.3", "2026-01-02")
	for _, p := range pages {
		text := string(p.content)
		if !strings.HasPrefix(text, `.TH LAWNBERRY`) || !strings.Contains(text, `1 "2026-01-02" "lawnberry 1.2.3"`) {
			t.Errorf("%s begins with %.80q", p.path, text)
		}
		for line := range strings.Lines(text) {
			line = strings.TrimSuffix(line, "\n")
			if (strings.HasPrefix(line, ".") && !request.MatchString(line)) || strings.HasPrefix(line, "'") || swallowed.MatchString(line) {
				t.Errorf("%s: roff does not show %q as it is", p.path, line)
			}
		}
	}
	if got := roffLines(".a\n'b \\c \"-\""); got != "\\&.a\n\\(aqb \\ec \\(dq\\-\\(dq" {
		t.Errorf("roffLines: %q", got)
	}
}

func TestManualDate(t *testing.T) {
	for _, tt := range []struct{ epoch, want string }{{"", ""}, {"0", "1970-01-01"}, {"1700000000", "2023-11-14"}} {
		if got, err := manualDate(tt.epoch); err != nil || got != tt.want {
			t.Errorf("%q is %q, %v; want %q", tt.epoch, got, err, tt.want)
		}
	}
	for _, wrong := range []string{"yesterday", "-1", "99999999999999999999"} {
		if got, err := manualDate(wrong); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", wrong)) {
			t.Errorf("%q is %q, %v", wrong, got, err)
		}
	}
}
