package config

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/topic"
)

// Fleet configures the uplink of the mower to a fleet.
type Fleet struct {
	Enabled       bool
	URL           string // of the engine
	MowerID       string
	Credentials   string // a file
	CAFile        string
	Up            []any    // see [Config.FleetFilters]
	Down          []string // patterns of commands
	KeysFile      string   // of operators
	AllowUnsigned bool
	SessionExpiry time.Duration // of jobs at an MQTT engine
	BatchInterval time.Duration
	Outbox        FleetOutbox
}

// FleetOutbox bounds what waits for the engine. Sizes are bytes; those of a class are 0 for as many as there may be in all.
type FleetOutbox struct {
	MaxSize, TelemetrySize, EventSize, AlertSize int
	TelemetryAge, EventAge, AlertAge             time.Duration
}

// FleetFilters returns what goes up to the fleet: integration.fleet.up, or the default filters if that is empty. The error is of type [Problems].
func (c *Config) FleetFilters() ([]fleet.Filter, error) {
	filters, problems := c.fleetFilters()
	if err := problems.Err(); err != nil {
		return nil, err
	}
	return filters, nil
}

const fleetUp = "integration.fleet.up"

func (c *Config) fleetFilters() (filters []fleet.Filter, ps Problems) {
	list := c.Integration.Fleet.Up
	if len(list) == 0 {
		return fleet.DefaultFilters(), nil
	}
	bus, err := topic.New(c.Topics.Namespace)
	if err != nil {
		return nil, Problems{{Severity: SeverityError, Key: "topics.namespace", Text: err.Error()}}
	}
	for i, item := range list {
		if i == maxPatterns {
			return filters, append(ps, Problem{Severity: SeverityError, Key: fleetUp, Text: "more than " + formatInt(maxPatterns) + " filters"})
		}
		f, near, why := fleetFilter(bus, item)
		if why == "" && slices.ContainsFunc(filters, func(other fleet.Filter) bool { return other.Filter == f.Filter }) {
			why = "the filter " + quote(f.Filter) + " is there twice"
		}
		if why != "" {
			ps = append(ps, Problem{Severity: SeverityError, Key: fleetUp, Text: fmt.Sprintf("filter %d: %s", i+1, why), Nearest: near})
			continue
		}
		filters = append(filters, f)
	}
	return filters, ps
}

func fleetFilter(bus *topic.Registry, item any) (f fleet.Filter, near, why string) {
	m, ok := item.(map[string]any)
	if !ok {
		return f, "", "want a mapping, such as {filter: power/battery, class: telemetry, rate: 60}"
	}
	known := []string{"filter", "class", "rate"}
	for _, k := range sortedKeys(m) {
		if !slices.Contains(known, k) {
			return f, nearest(k, slices.Values(known)), "unknown key " + quote(k) + ": a filter has " + words(known)
		}
	}
	text, isText := m["filter"].(string)
	class, hasClass := m["class"].(string)
	switch {
	case !isText || text == "":
		return f, "", "filter is missing, such as power/battery"
	case !hasClass:
		return f, "", "class is missing: state, telemetry, event or alert"
	}
	var err error
	if f.Class, err = fleet.ParseClass(class); err != nil {
		return f, nearest(class, slices.Values(fleetClasses())), "class " + err.Error()
	}
	if rate, set := m["rate"]; set {
		n, ok := parseInt(fmt.Sprint(rate))
		if !ok {
			return f, "", "rate " + quote(fmt.Sprint(rate)) + " does not fit, want a whole number of messages per minute"
		}
		f.Rate = int(n)
	}
	// A filter may be full, as everywhere.
	f.Filter = strings.TrimPrefix(text, bus.Namespace()+"/")
	if err := f.Check(); err != nil {
		return f, "", err.Error()
	}
	return f, "", ""
}

func fleetClasses() (names []string) {
	for _, c := range fleet.Classes() {
		names = append(names, string(c))
	}
	return names
}

// FleetEngine returns where the fleet meets.
func (c *Config) FleetEngine() fleet.Engine {
	f := &c.Integration.Fleet
	return fleet.Engine{URL: f.URL, Credentials: f.Credentials, CAFile: f.CAFile}
}

// checkFleet applies the rules between the keys of the uplink to a fleet.
func (c *Config) checkFleet(report func(sev Severity, key, text string)) {
	f := &c.Integration.Fleet
	const section = "integration.fleet."
	if _, ps := c.fleetFilters(); len(ps) > 0 {
		for _, p := range ps {
			if p.Key == fleetUp { // that of the namespace is told elsewhere
				report(p.Severity, p.Key, p.Text)
			}
		}
	}
	if !f.Enabled {
		return
	}
	if f.URL == "" {
		report(SeverityError, section+"url", "integration.fleet.enabled needs the URL of the engine, such as tls://fleet.example:4222")
	}
	if f.MowerID == "" {
		report(SeverityError, section+"mower_id", "integration.fleet.enabled needs the id that the mower has in the fleet, that which it was enrolled with")
	}
	if f.URL != "" && !c.FleetEngine().Private() {
		report(SeverityWarning, section+"url", "what goes to the fleet and comes from there can be read and changed on the way: use tls:// or mqtts://")
	}
	if len(f.Down) > 0 && f.KeysFile == "" && !f.AllowUnsigned {
		report(SeverityError, section+"keys_file", "integration.fleet.down lets the fleet give commands, and nothing says whose signatures count: name a file with the "+
			"operators' public keys (lawnberry key public), or set integration.fleet.allow_unsigned, to trust everyone whom the engine lets in")
	}
	if f.AllowUnsigned && len(f.Down) > 0 {
		report(SeverityWarning, section+"allow_unsigned", "everyone who may publish at the engine can give this mower the commands of integration.fleet.down")
	}
	if o := &f.Outbox; o.TelemetrySize > o.MaxSize || o.EventSize > o.MaxSize || o.AlertSize > o.MaxSize {
		report(SeverityWarning, section+"outbox.max_size", "is less than what a class may have: this counts")
	}
}

// checkEngineURL says why text is no URL of an engine. The empty text passes.
func checkEngineURL(text string) string {
	if text == "" {
		return ""
	}
	if _, err := (fleet.Engine{URL: text}).Protocol(); err != nil {
		return err.Error()
	}
	return ""
}

// checkMowerID says why text is no id of a mower. The empty text passes.
func checkMowerID(text string) string {
	if text == "" {
		return ""
	}
	if err := fleet.CheckMower(text); err != nil {
		return err.Error()
	}
	return ""
}

// checkDown says why text is no pattern of commands.
func checkDown(text string) string {
	if err := fleet.CheckPermission(text); err != nil {
		return err.Error()
	}
	return ""
}

func fleetFilterSchema() anyObject {
	return anyObject{
		"type": "object", "additionalProperties": false, "required": []string{"filter", "class"},
		"properties": anyObject{
			"filter": anyObject{"type": "string", "minLength": 1}, "class": oneOfTexts(fleetClasses()),
			"rate": anyObject{"type": "integer", "minimum": 0, "maximum": fleet.MaxRate},
		},
	}
}
