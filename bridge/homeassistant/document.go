package homeassistant

import (
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/message"
)

// Seen is what the document depends on beside the settings.
type Seen struct {
	Services []string          // ids of the services that have announced themselves
	Sources  map[string]string // which of them publishes a topic of the bus, by topic
	Position bool              // navigation/position has latitude and longitude
}

// maxServices bounds the entities that services have.
const maxServices = 100

// How long a source may be silent until its values are not known any more.
const (
	powerPatience   = 5 * time.Minute
	weatherPatience = 30 * time.Minute
	linkPatience    = 3 * time.Minute
)

// The topics of the bus that entities show.
const (
	batteryTopic     = "power/battery"
	solarTopic       = "power/solar"
	consumptionTopic = "power/consumption"
	weatherTopic     = "weather/current"
	positionTopic    = "navigation/position"
	mowerTopic       = "navigation/status"
)

// sourceTopics are those whose publisher matters.
func sourceTopics() []string {
	return []string{batteryTopic, solarTopic, consumptionTopic, weatherTopic, positionTopic}
}

// The entities, as they are called in topics and identifiers.
const (
	entityMower       = "mower"
	entityActivity    = "activity"
	entityBattery     = "battery"
	entitySolar       = "solar"
	entityConsumption = "consumption"
	entityWeather     = "weather"
	entityLocation    = "location"
	entityStop        = "emergency_stop"
	entityProblem     = "problem"
	entityAlert       = "alert"
	entityCommand     = "command"
	entityPing        = "ping"
	entityAcknowledge = "acknowledge"
	entityEngage      = "engage"
	entityVersion     = "version"
	entityLink        = "link"
)

// unknownActivity is what the sensor of the activity shows of one that is not configured.
const unknownActivity = "unknown"

// alertEvents are what can happen to an alert.
func alertEvents() []string {
	return []string{"raised", "changed", "acknowledged", "resolved", "cleared"}
}

// commandEvents are how a command can end.
func commandEvents() []string { return []string{"succeeded", "failed"} }

// object is a JSON object, whose keys are written in their order.
type object map[string]any

// Document returns the discovery document: one line of JSON.
func (s Settings) Document(seen Seen) ([]byte, error) {
	s, err := s.withDefaults()
	if err != nil {
		return nil, err
	}
	return message.EncodeJSON(s.document(seen))
}

func (s Settings) document(seen Seen) object {
	components := object{}
	for key, c := range s.components(seen) {
		components[key] = c
	}
	return object{
		"device": object{
			"identifiers": []string{s.DeviceID}, "name": s.DeviceName, "manufacturer": "Lawnberry", "model": "Autonomous mower",
			"sw_version": s.Version,
		},
		"origin":            object{"name": "lawnberry", "sw_version": s.Version, "support_url": "https://github.com/lawnberry/lawnberry"},
		"availability":      []object{{"topic": s.availability()}},
		"availability_mode": "all",
		"qos":               1,
		"components":        components,
	}
}

// components returns the entities by their key.
func (s Settings) components(seen Seen) map[string]object {
	services := slices.Sorted(slices.Values(seen.Services))
	services = services[:min(len(services), maxServices)]
	all := map[string]object{}
	// add puts an entity in; service is the one that it depends on, "" for none.
	add := func(key, platform string, name any, service string, rest object) {
		c := object{
			"platform": platform, "name": name, "unique_id": s.DeviceID + "_" + key,
			"default_entity_id": platform + "." + entityID(s.DeviceID+"_"+key),
		}
		maps.Copy(c, rest)
		if service != "" {
			c["availability"] = []object{
				{"topic": s.availability()},
				{"topic": s.stateTopic(serviceEntity(service)), "value_template": "{{ value_json.available }}"},
			}
			c["availability_mode"] = "all"
		}
		all[key] = c
	}
	source := func(name string) string {
		if id := seen.Sources[name]; slices.Contains(services, id) {
			return id
		}
		return ""
	}
	value := func(entity, field string) object {
		return object{"state_topic": s.stateTopic(entity), "value_template": "{{ value_json." + field + " }}"}
	}
	measured := func(entity, field, class, unit string, digits int, patience time.Duration) object {
		o := value(entity, field)
		o["state_class"], o["unit_of_measurement"], o["suggested_display_precision"] = "measurement", unit, digits
		o["expire_after"] = int(patience / time.Second)
		if class != "" {
			o["device_class"] = class
		}
		return o
	}
	diagnostic := func(o object) object { o["entity_category"] = "diagnostic"; return o }
	attributes := func(o object, entity string) object { o["json_attributes_topic"] = s.attributesTopic(entity); return o }

	add(entityMower, "lawn_mower", nil, s.MowerService, attributes(object{
		"default_entity_id":    "lawn_mower." + entityID(s.DeviceID), // it has the name of the device
		"activity_state_topic": s.stateTopic(entityMower), "activity_value_template": "{{ value_json.activity }}",
		"start_mowing_command_topic": s.commandTopic(entityMower), "pause_command_topic": s.commandTopic(entityMower),
		"dock_command_topic": s.commandTopic(entityMower), "retain": false,
	}, entityMower))
	activity := value(entityMower, "detail")
	activity["device_class"], activity["options"] = "enum", append(slices.Sorted(maps.Keys(s.Activities)), unknownActivity)
	add(entityActivity, "sensor", "Activity", s.MowerService, activity)
	progress := value(entityMower, "progress")
	progress["unit_of_measurement"], progress["state_class"] = "%", "measurement"
	add("progress", "sensor", "Progress", s.MowerService, progress)

	power := source(batteryTopic)
	add(entityBattery, "sensor", "Battery", power, measured(entityBattery, "level", "battery", "%", 0, powerPatience))
	add("battery_voltage", "sensor", "Battery voltage", power, measured(entityBattery, "voltage", "voltage", "V", 1, powerPatience))
	add("battery_temperature", "sensor", "Battery temperature", power, measured(entityBattery, "temperature", "temperature", "°C", 0, powerPatience))
	add(entitySolar, "sensor", "Solar power", source(solarTopic), measured(entitySolar, "power", "power", "W", 0, powerPatience))
	add(entityConsumption, "sensor", "Consumption", source(consumptionTopic), measured(entityConsumption, "power", "power", "W", 0, powerPatience))
	add("temperature", "sensor", "Temperature", source(weatherTopic), measured(entityWeather, "temperature", "temperature", "°C", 1, weatherPatience))
	rain := value(entityWeather, "rain")
	rain["device_class"], rain["expire_after"] = "moisture", int(weatherPatience/time.Second)
	add("rain", "binary_sensor", "Rain", source(weatherTopic), rain)
	if s.Origin != nil || seen.Position {
		add(entityLocation, "device_tracker", "Location", source(positionTopic), object{
			"json_attributes_topic": s.attributesTopic(entityLocation), "source_type": "gps",
		})
	}

	stop := value(entityStop, "engaged")
	stop["device_class"] = "safety" // on is unsafe
	add(entityStop, "binary_sensor", "Emergency stop", "", attributes(stop, entityStop))
	problem := value(entityProblem, "problem")
	problem["device_class"] = "problem"
	add(entityProblem, "binary_sensor", "Problem", "", attributes(problem, entityProblem))
	add(entityAlert, "event", "Alert", "", object{"state_topic": s.stateTopic(entityAlert), "event_types": alertEvents()})
	add(entityCommand, "event", "Command", "", diagnostic(object{"state_topic": s.stateTopic(entityCommand), "event_types": commandEvents()}))

	button := func(entity string) object { return object{"command_topic": s.commandTopic(entity), "retain": false} }
	add(entityEngage, "button", "Engage emergency stop", "", button(entityEngage))
	add(entityAcknowledge, "button", "Acknowledge all alerts", "", button(entityAcknowledge))
	add(entityPing, "button", "Ping", "", diagnostic(button(entityPing)))

	add(entityVersion, "update", "Version", "", diagnostic(object{
		"state_topic": s.stateTopic(entityVersion), "device_class": "firmware", "title": "Lawnberry",
	}))
	add("latency", "sensor", "Latency", "", diagnostic(measured(entityLink, "latency", "duration", "ms", 1, linkPatience)))
	add("link_quality", "sensor", "Link quality", "", diagnostic(measured(entityLink, "quality", "", "%", 0, linkPatience)))
	add("message_rate", "sensor", "Message rate", "", diagnostic(measured(entityLink, "rate", "", "msg/min", 0, linkPatience)))

	for _, id := range services {
		key := serviceEntity(id)
		health := value(key, "problem")
		health["device_class"] = "problem"
		add(key, "binary_sensor", "Service "+id, "", attributes(diagnostic(health), key))
	}
	return all
}

// serviceEntity is what a service's entity is called. An id with other signs than an entity may have gets a sum of it, so that two do not become one.
func serviceEntity(id string) string {
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-' {
			return r
		}
		return '_'
	}, id)
	if clean != id || len(id) > maxID {
		h := fnv.New32a()
		h.Write([]byte(id)) // never fails
		clean = fmt.Sprintf("%s_%08x", clean[:min(len(clean), maxID)], h.Sum32())
	}
	return "service_" + clean
}

// entityID is a name as Home Assistant's entities have it: lower case, digits and _.
func entityID(name string) string { return strings.ReplaceAll(strings.ToLower(name), "-", "_") }
