package config

import (
	"iter"
	"strings"
)

// longestName bounds what nearest looks at: no key is as long, and the cost grows with the square.
const longestName = 64

// nearest returns the candidate with the fewest edits from name, and "" when none is near: at most a third of its
// characters, and at most three.
func nearest(name string, candidates iter.Seq[string]) string {
	if name == "" || len(name) > longestName {
		return ""
	}
	fold := func(s string) string { return strings.ReplaceAll(strings.ToLower(s), "-", "_") }
	best, bestEdits := "", min(3, max(1, len(name)/3))+1
	for c := range candidates {
		if n := edits(fold(name), fold(c)); n < bestEdits {
			best, bestEdits = c, n
		}
	}
	return best
}

// edits counts the insertions, deletions, replacements and swaps of neighbours that turn a into b.
func edits(a, b string) int {
	x, y := []rune(a), []rune(b)
	before, last, row := make([]int, len(y)+1), make([]int, len(y)+1), make([]int, len(y)+1)
	for j := range last {
		last[j] = j
	}
	for i := range x {
		row[0] = i + 1
		for j := range y {
			cost := 1
			if x[i] == y[j] {
				cost = 0
			}
			row[j+1] = min(row[j]+1, last[j+1]+1, last[j]+cost)
			if i > 0 && j > 0 && x[i] == y[j-1] && x[i-1] == y[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(y)]
}
