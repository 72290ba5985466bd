package web

import "time"

// Routes returns the patterns of the API.
func Routes(b *Bridge) (patterns []string) {
	for _, r := range b.routes() {
		patterns = append(patterns, r.pattern)
	}
	return patterns
}

// SetStall changes how long a page may take nothing, for pages that connect later.
func SetStall(b *Bridge, d time.Duration) { b.stall = d }
