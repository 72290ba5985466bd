package topic

// Overlap reports whether there is a topic that both filters match. They are ordinary ones, see [SplitShared].
func Overlap(a, b string) bool {
	if a == "" || b == "" {
		return false
	}
	if wild(a[0]) && b[0] == '$' || wild(b[0]) && a[0] == '$' { // [MQTT-4.7.2-1]
		return false
	}
	for {
		la, resta, morea := cutLevel(a)
		lb, restb, moreb := cutLevel(b)
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

// Covers reports whether wide matches every topic that narrow matches. They are ordinary filters, see [SplitShared].
func Covers(wide, narrow string) bool {
	if wide == "" || narrow == "" {
		return false
	}
	if wild(wide[0]) && narrow[0] == '$' {
		return false
	}
	for {
		w, restw, morew := cutLevel(wide)
		n, restn, moren := cutLevel(narrow)
		switch {
		case w == "#":
			return true
		case n == "#", w != "+" && w != n: // "+" covers any one level, a "+" of narrow too
			return false
		case !morew && !moren:
			return true
		case !morew:
			return false
		case !moren:
			return restw == "#" // "a/#" matches "a"
		}
		wide, narrow = restw, restn
	}
}

func wild(c byte) bool { return c == '+' || c == '#' }
