package config

import "reflect"

// Changes returns the keys whose values differ between two configurations, in the order of the file: those that serve takes in while it
// runs, and those that need a restart.
func Changes(a, b *Config) (live, restart []string) {
	for _, s := range specs() {
		switch {
		case reflect.DeepEqual(s.effective(a, false), s.effective(b, false)):
		case s.live:
			live = append(live, s.path)
		default:
			restart = append(restart, s.path)
		}
	}
	return live, restart
}
