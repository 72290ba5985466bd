package architecture

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestLinks finds links of the documents that lead nowhere: to a file that there is not, or to a heading that a document does not have.
func TestLinks(t *testing.T) {
	const root = "../.."
	var pages []string
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && path != root && (strings.HasPrefix(e.Name(), ".") || e.Name() == "node_modules" || e.Name() == "dist"):
			return filepath.SkipDir
		case strings.HasSuffix(path, ".md"):
			pages = append(pages, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	links := 0
	for _, page := range pages {
		n, err := checkLinks(page)
		if err != nil {
			t.Error(err)
		}
		links += n
	}
	if links < 500 {
		t.Errorf("the documents have %d links: the pattern that finds them is wrong", links)
	}
}

// The links of the test are found to be dead, so those of the documents are.
func TestDeadLinks(t *testing.T) {
	dir := t.TempDir()
	text := "# A `heading`, twice\n\n```\n# none\n```\n## A heading, twice\n" +
		"[a](#a-heading-twice) [b](page.md#a-heading-twice-1) [c](https://example.com/#none) `[d](none)`\n"
	page := filepath.Join(dir, "page.md")
	for dead, want := range map[string]string{"": "", "[e](none.md)": "none.md", "[f](#none)": "#none", "![g](none.png)": "none.png", "[h](page.md#A)": "page.md#A"} {
		if err := os.WriteFile(page, []byte(text+dead), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := checkLinks(page); (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", dead, err)
		}
	}
}

var (
	linkPattern    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	quotedPattern  = regexp.MustCompile("`[^`]*`")
	headingPattern = regexp.MustCompile(`^#+ +(.*)$`)
	namedPattern   = regexp.MustCompile(`(?:id|name)="([^"]+)"`)
	notInAnchor    = regexp.MustCompile(`[^\p{L}\p{N}\-_ ]`)
)

// checkLinks returns how many links within the repository a page has, and which lead nowhere.
func checkLinks(page string) (n int, err error) {
	text, err := os.ReadFile(page)
	if err != nil {
		return 0, err
	}
	for i, line := range prose(string(text)) {
		for _, m := range linkPattern.FindAllStringSubmatch(quotedPattern.ReplaceAllString(line, "``"), -1) {
			u, parseErr := url.Parse(m[1])
			if parseErr == nil && u.Scheme != "" {
				continue
			}
			n++
			if parseErr == nil {
				parseErr = follow(page, u)
			}
			if parseErr != nil {
				err = errors.Join(err, fmt.Errorf("%s:%d: the link to %s: %w", page, i+1, m[1], parseErr))
			}
		}
	}
	return n, err
}

// follow looks whether there is what a link leads to.
func follow(page string, u *url.URL) error {
	target := page
	if u.Path != "" {
		target = filepath.Join(filepath.Dir(page), filepath.FromSlash(u.Path))
	}
	if _, err := os.Stat(target); err != nil || u.Fragment == "" || !strings.HasSuffix(target, ".md") {
		return err
	}
	text, err := os.ReadFile(target)
	if err != nil {
		return err
	}
	times := make(map[string]int)
	for _, line := range prose(string(text)) {
		for _, m := range namedPattern.FindAllStringSubmatch(line, -1) {
			times[m[1]]++
		}
		m := headingPattern.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		heading := linkPattern.ReplaceAllString(m[1], "")
		anchor := strings.ReplaceAll(notInAnchor.ReplaceAllString(strings.ToLower(strings.TrimSpace(heading)), ""), " ", "-")
		if before := times[anchor]; before > 0 {
			times[fmt.Sprintf("%s-%d", anchor, before)]++
		}
		times[anchor]++
	}
	if times[u.Fragment] == 0 {
		return errors.New("there is no such heading")
	}
	return nil
}

// prose returns the lines of a page, empty those of its blocks of code.
func prose(text string) []string {
	lines := strings.Split(text, "\n")
	code := false
	for i, line := range lines {
		fence := strings.HasPrefix(strings.TrimSpace(line), "```")
		if fence || code {
			lines[i] = ""
		}
		code = code != fence
	}
	return lines
}
