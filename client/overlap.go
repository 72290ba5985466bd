package client

import "strings"

// cover returns the narrowest filter that matches whatever a or b matches. The two must overlap.
func cover(a, b string) string {
	var levels []string
	for {
		la, resta, morea := strings.Cut(a, "/")
		lb, restb, moreb := strings.Cut(b, "/")
		switch {
		case la == "#" || lb == "#":
			return strings.Join(append(levels, "#"), "/")
		case la == lb:
			levels = append(levels, la)
		default:
			levels = append(levels, "+")
		}
		if !morea && !moreb {
			return strings.Join(levels, "/")
		}
		if !morea || !moreb { // one is "x", the other "x/#"
			return strings.Join(append(levels, "#"), "/")
		}
		a, b = resta, restb
	}
}
