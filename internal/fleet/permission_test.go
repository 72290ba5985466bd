package fleet

import "testing"

func TestPermits(t *testing.T) {
	for _, tt := range []struct {
		pattern, service, command string
		want                      bool
	}{
		{"navigation/dock", "navigation", "dock", true},
		{"navigation/dock", "navigation", "docks", false},
		{"navigation/dock", "navigation2", "dock", false},
		{"navigation/*", "navigation", "start_mowing", true},
		{"*/status", "power", "status", true},
		{"*/status", "power", "shutdown", false},
		{"*/*", "power", "shutdown", true},
		{"power/read_*", "power", "read_cell", true},
		{"power/read_*", "power", "unread_cell", false},
		{"power/*_*ll", "power", "read_cell", true},
		{"power/*aa", "power", "a", false},
		{"*a*a/x", "a", "x", false},
		{"*/*", "emergency_stop", "release", false},
		{"*/*", "emergency_stop", "engage", false}, // no matter of patterns
		{"emergency_stop/*", "emergency_stop", "release", false},
		{"emergency*/*", "emergency_stop", "forget", false},
		{"*/*", "navigation", "$cancel", false},
		{"*/*", "", "x", false},
		{"*/*", "x", "", false},
	} {
		if got := Permits([]string{"other/x", tt.pattern}, tt.service, tt.command); got != tt.want {
			t.Errorf("%s permits %s/%s: %v, want %v", tt.pattern, tt.service, tt.command, got, tt.want)
		}
	}
	if Permits(nil, "navigation", "dock") {
		t.Error("without patterns something is permitted")
	}
	for _, pattern := range []string{"a/b", "*/*", "emergency_stop/engage", "a*b/c*"} {
		if err := CheckPermission(pattern); err != nil {
			t.Error(err)
		}
	}
	for _, pattern := range []string{"", "a", "/", "a/", "/b", "a/b/c", "emergency_stop/release", "emergency_stop/*"} {
		if CheckPermission(pattern) == nil {
			t.Errorf("%q is taken", pattern)
		}
	}
}
