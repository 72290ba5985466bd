package support

import (
	"strings"
	"testing"
)

// What people and programs write into logs names a secret in few ways.
func TestShortNamesInLogs(t *testing.T) {
	for _, line := range []string{
		"pass: hush99q", "pass=hush99q", `"pin": "hush99q"`, "PIN = hush99q", "pw:hush99q x", `{\"pass\":\"hush99q\"}`,
		"the password is hush99q", "the token was hush99q.",
		"connect anna:hush99q@mower", "url=anna:hush99q@192.168.1.7:1883",
	} {
		if got := newRedactor().line(line); strings.Contains(got, "hush99q") {
			t.Errorf("%q became %q", line, got)
		}
	}
	for _, line := range []string{
		"passed: 12", "pinned: yes", "pin 4 is high", "compass: 12", "at 12:30:45 by anna@", "a password is needed", "spin=3", "token is missing",
	} {
		if got := newRedactor().line(line); line != got {
			t.Errorf("%q became %q", line, got)
		}
	}
}
