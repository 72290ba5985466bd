package config

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/lawnberry/lawnberry/topic"
)

// activities are what Home Assistant calls what a mower does.
func activities() []string { return []string{"mowing", "paused", "docked", "returning", "error"} }

// defaultActivities are those of the simulated mower.
func defaultActivities() map[string]string {
	return map[string]string{"docked": "docked", "charging": "docked", "mowing": "mowing", "paused": "paused", "docking": "returning", "stopped": "error"}
}

// checkHomeAssistant applies the rules between the keys of the bridge to Home Assistant, and others.
func (c *Config) checkHomeAssistant(report func(sev Severity, key, text string)) {
	h := &c.Integration.HomeAssistant
	const section = "integration.home_assistant."
	if latitude, longitude := c.given(section+"origin.latitude"), c.given(section+"origin.longitude"); latitude != longitude {
		key := "origin.latitude"
		if latitude {
			key = "origin.longitude"
		}
		report(SeverityError, section+key, "is missing: latitude and longitude belong together")
	}
	within := func(a, b string) bool { return a == b || strings.HasPrefix(a, b+"/") }
	if n := strings.TrimSuffix(c.Topics.Namespace, "/"); within(h.DiscoveryPrefix, n) || within(n, h.DiscoveryPrefix) {
		report(SeverityError, section+"discovery_prefix", "overlaps with topics.namespace: Home Assistant reads plain JSON, which is not what is there")
	}
	if most := 50; len(h.Activities) > most {
		report(SeverityError, section+"activities", fmt.Sprintf("%d activities, want at most %d", len(h.Activities), most))
	}
}

func checkTopic(text string) string {
	if err := topic.CheckName(text); err != nil {
		return err.Error()
	}
	return ""
}

func checkPrefix(text string) string {
	if strings.HasPrefix(text, "$") || strings.HasSuffix(text, "/") {
		return quote(text) + " does not fit, want levels such as homeassistant, without $ before them or a slash after"
	}
	return checkTopic(text)
}

func checkDeviceID(text string) string {
	const most = 64
	wrong := func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '-' && r != '_'
	}
	if text == "" || len(text) > most || strings.ContainsFunc(text, wrong) {
		return fmt.Sprintf("%s does not fit, want 1 to %d letters, digits, _ and -", quote(text), most)
	}
	return ""
}

func checkDeviceName(text string) string {
	const most = 100
	if text == "" || len(text) > most || !utf8.ValidString(text) {
		return fmt.Sprintf("%s does not fit, want a name of at most %d bytes", quote(text), most)
	}
	return ""
}

func checkCommand(text string) string {
	const most = 64
	if text == "" || len(text) > most {
		return fmt.Sprintf("%s does not fit, want the name of a command of at most %d bytes", quote(text), most)
	}
	return ""
}
