package fleet

import (
	"fmt"
	"slices"
	"strings"
)

// CheckPermission returns what is wrong with a pattern of commands: service/command, in both of which each * stands for any characters.
func CheckPermission(pattern string) error {
	service, command, ok := strings.Cut(pattern, "/")
	switch {
	case !ok || service == "" || command == "" || strings.Contains(command, "/"):
		return fmt.Errorf("%q is no pattern of commands: want service/command, such as navigation/dock, navigation/* or */status", pattern)
	case service == StopService && command != StopCommand:
		return fmt.Errorf("%q can never be allowed: the fleet may engage the emergency stop, which needs no permission, and nothing else of it", pattern)
	}
	return nil
}

// Permits reports whether one of the patterns allows a command. Nothing of [StopService] is a matter of patterns, nor is a command that
// begins with $, which are those of the bus itself.
func Permits(patterns []string, service, command string) bool {
	if service == "" || service == StopService || command == "" || command[0] == '$' {
		return false
	}
	return slices.ContainsFunc(patterns, func(p string) bool {
		s, c, ok := strings.Cut(p, "/")
		return ok && wild(s, service) && wild(c, command)
	})
}

// wild reports whether text is as pattern says, in which * is any characters.
func wild(pattern, text string) bool {
	head, rest, ok := strings.Cut(pattern, "*")
	if !ok {
		return pattern == text
	}
	text, found := strings.CutPrefix(text, head)
	if !found {
		return false
	}
	for {
		part, more, again := strings.Cut(rest, "*")
		if !again {
			return strings.HasSuffix(text, part)
		}
		i := strings.Index(text, part)
		if i < 0 {
			return false
		}
		text, rest = text[i+len(part):], more
	}
}
