package client

import "strings"

// overlap reports whether there is a topic that both filters match.
func overlap(a, b string) bool {
	if a == "" || b == "" {
		return false
	}
	if wild(a[0]) && b[0] == '$' || wild(b[0]) && a[0] == '$' { // [MQTT-4.7.2-1]
		return false
	}
	for {
		la, resta, morea := strings.Cut(a, "/")
		lb, restb, moreb := strings.Cut(b, "/")
		switch {
		case la == "#" || lb == "#":
			return true
		case la != lb && la != "+" && lb != "+":
			return false
		case !morea && !moreb:
			return true
		case !morea:
			return restb == "#" // "a/#" matches "a"
		case !moreb:
			return resta == "#"
		}
		a, b = resta, restb
	}
}

func wild(c byte) bool { return c == '+' || c == '#' }

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
