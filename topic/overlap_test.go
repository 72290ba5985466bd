package topic

import (
	"strings"
	"testing"
)

// Overlap and Covers agree with Match on all filters and topics of a small alphabet. One level more than the filters have is
// enough to tell: what comes deeper is matched by # or not at all.
func TestOverlapAndCovers(t *testing.T) {
	t.Parallel()
	var names, filters []string
	var build func(levels []string)
	build = func(levels []string) {
		if n := len(levels); n > 0 {
			joined := strings.Join(levels, "/")
			if joined != "" && !strings.ContainsAny(joined, "+#") {
				names = append(names, joined)
			}
			if n < 4 && CheckFilter(joined) == nil {
				filters = append(filters, joined)
			}
			if n == 4 {
				return
			}
		}
		for _, l := range []string{"a", "b", "", "+", "#", "$s"} {
			if len(levels) == 3 && (l == "b" || l == "$s") {
				continue
			}
			build(append(levels[:len(levels):len(levels)], l))
		}
	}
	build(nil)
	matched := make(map[string]map[string]bool, len(filters))
	for _, f := range filters {
		m := map[string]bool{}
		for _, n := range names {
			if Match(f, n) {
				m[n] = true
			}
		}
		matched[f] = m
	}
	count := 0
	for _, a := range filters {
		for _, b := range filters {
			overlap, covers := false, true
			for n := range matched[b] {
				if matched[a][n] {
					overlap = true
				} else {
					covers = false
				}
				if overlap && !covers {
					break
				}
			}
			if got := Overlap(a, b); got != overlap && !(got && (a == "/#" || b == "/#")) { // which match "", that is no topic
				t.Fatalf("Overlap(%q, %q) is %v", a, b, got)
			}
			// "+" and the levels of the alphabet differ by the topics that are not in it.
			if got := Covers(a, b); got && !covers {
				t.Fatalf("Covers(%q, %q), but it does not", a, b)
			}
			count++
		}
	}
	t.Logf("%d pairs of %d filters, %d topics", count, len(filters), len(names))
	for _, p := range [][2]string{{"#", "a/b"}, {"a/#", "a"}, {"a/#", "a/#"}, {"+/b", "a/b"}, {"+/b", "+/b"}, {"a/+/#", "a/+"}, {"a/#", "a/+/c/#"}, {"$s/#", "$s/a"}} {
		if !Covers(p[0], p[1]) {
			t.Errorf("Covers(%q, %q) is false", p[0], p[1])
		}
	}
	for _, p := range [][2]string{{"a/b", "a/+"}, {"a/+", "a/#"}, {"#", "$s/a"}, {"+/a", "$s/a"}, {"a/+", "a"}, {"a", "a/b"}, {"a/b/#", "a/#"}} {
		if Covers(p[0], p[1]) {
			t.Errorf("Covers(%q, %q) is true", p[0], p[1])
		}
	}
}
