package homeassistant

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/lawnberry/lawnberry/topic"
)

// Settings say how the mower is shown. The zero value is usable.
type Settings struct {
	Prefix     string // of discovery, as Home Assistant has it; "" is homeassistant
	BirthTopic string // where Home Assistant says that it is there; "" is homeassistant/status
	DeviceID   string // letters, digits, _ and -; "" is lawnberry
	DeviceName string // for people; "" is Lawnberry
	Version    string // of the program; "" is "0.0.0"

	MowerService string // the service that mows, and answers the commands below; "" is navigation
	StartCommand string // "" is start_mowing
	PauseCommand string // "" is pause
	DockCommand  string // "" is dock
	// Activities say what the activities of the mower's service are to Home Assistant: mowing, paused, docked, returning or error; those names
	// stand for themselves unless they are here. nil is [DefaultActivities].
	Activities map[string]string
	// Origin is where x and y of navigation/position are 0; nil is not known, and the position is shown only if it has latitude and
	// longitude.
	Origin *Origin
}

// An Origin is a place on the globe, in degrees.
type Origin struct{ Latitude, Longitude float64 }

// DefaultActivities are those of the simulated mower.
func DefaultActivities() map[string]string {
	return map[string]string{"docked": "docked", "charging": "docked", "mowing": "mowing", "paused": "paused", "docking": "returning", "stopped": "error"}
}

// ActivityNames are what an activity can be to Home Assistant.
func ActivityNames() []string { return []string{"mowing", "paused", "docked", "returning", "error"} }

const (
	defaultPrefix = "homeassistant"
	birthTopic    = "homeassistant/status" // Home Assistant's, whatever the prefix
	maxID         = 64                     // bytes
	maxName       = 100                    // bytes
	maxActivities = 50
)

var idPattern = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,64}$`)

// CheckDeviceID reports why an id cannot be that of a device.
func CheckDeviceID(id string) error {
	if !idPattern.MatchString(id) {
		return fmt.Errorf("device id %q: want 1 to %d letters, digits, _ and -", id, maxID)
	}
	return nil
}

// withDefaults fills in the defaults and checks the rest.
func (s Settings) withDefaults() (Settings, error) {
	for _, d := range []struct {
		value    *string
		standard string
	}{
		{&s.Prefix, defaultPrefix}, {&s.BirthTopic, birthTopic}, {&s.DeviceID, "lawnberry"}, {&s.DeviceName, "Lawnberry"}, {&s.Version, "0.0.0"},
		{&s.MowerService, "navigation"}, {&s.StartCommand, "start_mowing"}, {&s.PauseCommand, "pause"}, {&s.DockCommand, "dock"},
	} {
		*d.value = cmp.Or(*d.value, d.standard)
	}
	if s.Activities == nil {
		s.Activities = DefaultActivities()
	}
	s.Activities = maps.Clone(s.Activities)
	for _, name := range ActivityNames() {
		if _, named := s.Activities[name]; !named {
			s.Activities[name] = name
		}
	}
	errs := []error{CheckDeviceID(s.DeviceID), topic.CheckName(s.Prefix), topic.CheckName(s.BirthTopic), topic.CheckLevel("mower service", s.MowerService)}
	if strings.HasPrefix(s.Prefix, "$") || strings.HasSuffix(s.Prefix, "/") {
		errs = append(errs, fmt.Errorf("discovery prefix %q: must not begin with $ or end with a slash", s.Prefix))
	}
	if len(s.DeviceName) > maxName || !utf8.ValidString(s.DeviceName) {
		errs = append(errs, fmt.Errorf("device name: want at most %d bytes of UTF-8", maxName))
	}
	if len(s.Activities) > maxActivities {
		errs = append(errs, fmt.Errorf("%d activities: want at most %d", len(s.Activities), maxActivities))
	}
	for ours, theirs := range s.Activities {
		if !slices.Contains(ActivityNames(), theirs) {
			errs = append(errs, fmt.Errorf("activity %q: %q is unknown to Home Assistant, want one of %s", ours, theirs, strings.Join(ActivityNames(), ", ")))
		}
	}
	if o := s.Origin; o != nil && !(math.Abs(o.Latitude) <= 90 && math.Abs(o.Longitude) <= 180) {
		errs = append(errs, fmt.Errorf("origin %v, %v: want degrees", o.Latitude, o.Longitude))
	}
	return s, errors.Join(errs...)
}

// Topic returns where the document is, full.
func (s Settings) Topic() string {
	return cmp.Or(s.Prefix, defaultPrefix) + "/device/" + cmp.Or(s.DeviceID, "lawnberry") + "/config"
}

// base is what all other topics begin with.
func (s Settings) base() string { return s.Prefix + "/lawnberry/" + s.DeviceID + "/" }

func (s Settings) stateTopic(entity string) string      { return s.base() + entity + "/state" }
func (s Settings) attributesTopic(entity string) string { return s.base() + entity + "/attributes" }
func (s Settings) commandTopic(entity string) string    { return s.base() + entity + "/set" }
func (s Settings) availability() string                 { return s.base() + "availability" }
