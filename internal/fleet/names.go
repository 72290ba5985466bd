package fleet

import (
	"errors"
	"fmt"
	"strings"
)

// The names at a NATS engine. Streams that an operator adds may have any.
const (
	StreamAlerts    = "LAWNBERRY_ALERTS"
	StreamEvents    = "LAWNBERRY_EVENTS"
	StreamTelemetry = "LAWNBERRY_TELEMETRY"

	BucketState    = "LAWNBERRY_STATE"
	BucketPresence = "LAWNBERRY_PRESENCE"
	BucketJobs     = "LAWNBERRY_JOBS"
	BucketMowers   = "LAWNBERRY_MOWERS"
)

// Roots of what the bridge itself says: as topics of a mower they are not of its bus.
const (
	OwnLosses = "fleet/losses" // history: what the outbox had to drop since it said so last, a Losses
	OwnJobs   = "fleet/jobs"   // history: how a job ended, a JobEnd
)

const (
	subjectRoot = "lawnberry"
	topicRoot   = "lawnberry/fleet"
	maxMower    = 63
)

// CheckMower returns what is wrong with the id of a mower: letters, digits, _ and -, the first one of the former two, 63 at most.
func CheckMower(id string) error {
	if id == "" {
		return errors.New("the id of the mower is missing")
	}
	if len(id) > maxMower {
		return fmt.Errorf("the id of the mower has %d characters, at most %d fit", len(id), maxMower)
	}
	for i := range len(id) {
		if !alphanumeric(id[i]) && (i == 0 || id[i] != '-' && id[i] != '_') {
			return fmt.Errorf("%q is no id of a mower: want letters, digits, _ and -, a letter or digit first", id)
		}
	}
	return nil
}

func alphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// Tokens returns a topic as tokens of a subject or key: dots between the levels. Each byte of a level that is no letter, digit, _ or - is = and
// two hexadecimal digits, and an empty level is a lone =, so that [Topic] gives the same topic again and no level can be a wildcard.
func Tokens(topic string) string {
	var b strings.Builder
	b.Grow(len(topic))
	for i, level := range strings.Split(topic, "/") {
		if i > 0 {
			b.WriteByte('.')
		}
		if level == "" {
			b.WriteByte('=')
		}
		for j := range len(level) {
			if c := level[j]; alphanumeric(c) || c == '_' || c == '-' {
				b.WriteByte(c)
			} else {
				fmt.Fprintf(&b, "=%02X", c)
			}
		}
	}
	return b.String()
}

// FilterTokens is [Tokens] for a filter of topics: + is *, and # at its end is >. A filter a/# matches the topic a too; a.> does not match
// a, which matters to nobody here, as no topic of the registry is the parent of another.
func FilterTokens(filter string) string {
	levels := strings.Split(filter, "/")
	for i, level := range levels {
		switch {
		case level == "+":
			levels[i] = "*"
		case level == "#" && i == len(levels)-1:
			levels[i] = ">"
		default:
			levels[i] = Tokens(level)
		}
	}
	return strings.Join(levels, ".")
}

// Topic is the inverse of [Tokens].
func Topic(tokens string) (string, error) {
	var b strings.Builder
	for i, token := range strings.Split(tokens, ".") {
		if i > 0 {
			b.WriteByte('/')
		}
		if token == "=" {
			continue
		}
		if token == "" {
			return "", fmt.Errorf("%q are no tokens of a topic: one is empty", tokens)
		}
		for j := 0; j < len(token); j++ {
			switch c := token[j]; {
			case alphanumeric(c) || c == '_' || c == '-':
				b.WriteByte(c)
			case c == '=' && j+2 < len(token) && upperHex(token[j+1]) >= 0 && upperHex(token[j+2]) >= 0:
				d := byte(upperHex(token[j+1])<<4 | upperHex(token[j+2]))
				if alphanumeric(d) || d == '_' || d == '-' || d == '/' {
					return "", fmt.Errorf("%q are no tokens of a topic: =%02X is never written", tokens, d)
				}
				b.WriteByte(d)
				j += 2
			default:
				return "", fmt.Errorf("%q are no tokens of a topic: %q does not occur in one", tokens, string(c))
			}
		}
	}
	return b.String(), nil
}

func upperHex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// HistorySubject is the subject of a mower's topic.
func HistorySubject(mower, topic string) string {
	return subjectRoot + "." + mower + "." + Tokens(topic)
}

// ParseHistorySubject is the inverse of [HistorySubject].
func ParseHistorySubject(subject string) (mower, topic string, err error) {
	rest, ok := strings.CutPrefix(subject, subjectRoot+".")
	if !ok {
		return "", "", fmt.Errorf("%q is no subject of a mower", subject)
	}
	return ParseStateKey(rest)
}

// StateKey is the key of a mower's topic in [BucketState].
func StateKey(mower, topic string) string { return mower + "." + Tokens(topic) }

// ParseStateKey is the inverse of [StateKey].
func ParseStateKey(key string) (mower, topic string, err error) {
	mower, tokens, ok := strings.Cut(key, ".")
	if !ok {
		return "", "", fmt.Errorf("%q has no topic", key)
	}
	if err := CheckMower(mower); err != nil {
		return "", "", err
	}
	topic, err = Topic(tokens)
	return mower, topic, err
}

// CommandSubject is where a mower takes commands to a service.
func CommandSubject(mower, service string) string {
	return subjectRoot + "." + mower + ".commands." + Tokens(service)
}

// JobNudge is where a mower is told, by a message without content, that its list of jobs has changed. No stream keeps it.
func JobNudge(mower string) string { return subjectRoot + "." + mower + ".jobs" }

// JobListSubject is the key of a mower in [BucketJobs] as a subject, JobListQuestion that on which any replica is asked for what is there.
func JobListSubject(mower string) string { return "$KV." + BucketJobs + "." + mower }
func JobListQuestion(mower string) string {
	return "$JS.API.DIRECT.GET.KV_" + BucketJobs + "." + JobListSubject(mower)
}

// InboxPrefix is the prefix of all inboxes of a mower's connection to NATS, which no other mower may subscribe to.
func InboxPrefix(mower string) string { return "_INBOX_" + mower }

// The topics at an MQTT engine; those of history and state have the topic after them.
func HistoryTopic(mower, topic string) string { return topicRoot + "/" + mower + "/history/" + topic }
func StateTopic(mower, topic string) string   { return topicRoot + "/" + mower + "/state/" + topic }
func PresenceTopic(mower string) string       { return topicRoot + "/" + mower + "/presence" }
func CommandTopic(mower, service string) string {
	return topicRoot + "/" + mower + "/commands/" + service
}
func JobTopic(mower, service string) string { return topicRoot + "/" + mower + "/jobs/" + service }

// CommandFilter is all subjects on which a mower takes commands.
func CommandFilter(mower string) string { return subjectRoot + "." + mower + ".commands.>" }

// ParseCommandSubject returns the service of a [CommandSubject] of the mower.
func ParseCommandSubject(mower, subject string) (service string, err error) {
	filter := CommandFilter(mower)
	tokens, ok := strings.CutPrefix(subject, strings.TrimSuffix(filter, ">"))
	if !ok || strings.Contains(tokens, ".") {
		return "", fmt.Errorf("%q is no subject of %s for one service", subject, filter)
	}
	return Topic(tokens)
}

// IsInbox reports whether a subject is an inbox, to which an answer may go.
func IsInbox(subject string) bool { return strings.HasPrefix(subject, "_INBOX") }
