package topic

import (
	"fmt"
	"strings"
)

const absolute = "absolute:"

// Absolute marks a topic or filter as outside the namespace for Resolve: "absolute:" + t.
func Absolute(t string) string { return absolute + t }

// Resolve turns what a person or program names into the topic or filter that goes over MQTT:
//
//	sensors/gps/data            lawnberry/sensors/gps/data
//	lawnberry/sensors/gps/data  itself: what begins with the namespace is taken as full
//	#                           lawnberry/#
//	absolute:homeassistant/#    homeassistant/# (see Absolute)
//	$SYS/broker/uptime          itself
//	$share/g/sensors/+/data     $share/g/lawnberry/sensors/+/data: the filter inside is resolved
//
// The result is a valid topic filter, and a valid topic name if it has no wildcard. The error is an *[Error]. A full
// topic is returned without an allocation.
func (r *Registry) Resolve(topicOrFilter string) (string, error) {
	t := topicOrFilter
	fail := func(rule string) (string, error) { return "", &Error{What: "topic", Topic: topicOrFilter, Rule: rule} }
	if t == "" {
		return fail("is empty [MQTT-4.7.3-1]")
	}
	if !strings.HasPrefix(t, sharePrefix) {
		full, rule := r.resolve(t)
		if rule == "" {
			rule = checkFilter(full)
		}
		if rule != "" {
			return fail(rule)
		}
		return full, nil
	}

	group, inner, _ := SplitShared(t)
	if rule := checkFilter(t); rule != "" {
		return fail(rule)
	}
	full, rule := r.resolve(inner)
	if rule != "" {
		return fail(rule)
	}
	if full == inner {
		return t, nil
	}
	shared := sharePrefix + group + "/" + full
	if rule := checkFilter(shared); rule != "" {
		return fail(rule)
	}
	return shared, nil
}

// resolve returns the full form of t, unchecked, or the rule that forbids it.
func (r *Registry) resolve(t string) (full, rule string) {
	if t[0] == '$' {
		if t == "$SYS" || strings.HasPrefix(t, "$SYS/") {
			return t, ""
		}
		if strings.HasPrefix(t, sharePrefix) {
			return "", "is a shared filter inside a shared filter"
		}
		return "", fmt.Sprintf("begins with $, which belongs to the broker: write %q if you mean that", Absolute(t))
	}
	if outside, ok := strings.CutPrefix(t, absolute); ok {
		return outside, ""
	}
	if r.isFull(t) {
		return t, ""
	}
	return r.prefix + t, ""
}

// isFull reports whether t is the namespace or begins with it.
func (r *Registry) isFull(t string) bool {
	return strings.HasPrefix(t, r.prefix) || t == r.namespace
}

// Relative strips the namespace; ok is false when full is not inside it, and full is returned unchanged.
//
// Resolve turns rel back into full. That is why a topic inside the namespace whose rest would read as something else
// (as of "lawnberry/lawnberry/x" or "lawnberry/$x") is returned unchanged, with ok true.
func (r *Registry) Relative(full string) (rel string, ok bool) {
	rel, ok = strings.CutPrefix(full, r.prefix)
	if !ok {
		return full, false
	}
	if rel == "" || rel[0] == '$' || r.isFull(rel) || strings.HasPrefix(rel, absolute) {
		return full, true
	}
	return rel, true
}
