package topic

import "slices"

// standard returns the topics of the wire format, in the order of its table.
func standard() []Definition {
	return []Definition{
		{Pattern: "sensors/+/data", Type: "sensor_data", QoS: 1, Rate: 100, Class: Sensor,
			Description: "Readings of one sensor: GPS, IMU, ultrasonic, tilt, power and the like"},
		{Pattern: "sensors/+/status", Type: "status", QoS: 1, Retain: true, Rate: 20, Class: State,
			Description: "Health of one sensor"},

		{Pattern: "commands/+", Type: "commands", QoS: 2, Class: Command,
			Description: "Commands to a service; the last level is the service's id, or a service type"},
		{Pattern: "responses/+", Type: "responses", QoS: 2, Class: Command,
			Description: "Replies to commands; the last level is the requester's id"},

		{Pattern: "navigation/position", Type: "navigation", QoS: 1, Retain: true, Rate: 20, Class: State,
			Description: "Current position and heading"},
		{Pattern: "navigation/path", Type: "navigation", QoS: 1, Retain: true, Rate: 10, Class: State,
			Description: "The path being followed"},
		{Pattern: "navigation/status", Type: "navigation", QoS: 1, Retain: true, Rate: 5, Class: State,
			Description: "What navigation is doing, and its progress"},

		{Pattern: "safety/alerts/+", Type: "alerts", QoS: 2, Retain: true, Class: Safety,
			Description: "Safety alerts; the last level is the type of alert"},
		{Pattern: "safety/emergency_stop", Type: "alerts", QoS: 2, Retain: true, Class: Safety,
			Description: "Whether the emergency stop is engaged"},
		{Pattern: "safety/hazards", Type: "alerts", QoS: 2, Rate: 50, Class: Safety,
			Description: "Hazards detected around the mower"},

		{Pattern: "power/battery", Type: "power", QoS: 1, Retain: true, Rate: 20, Class: State,
			Description: "Battery charge, voltage and current"},
		{Pattern: "power/solar", Type: "power", QoS: 1, Retain: true, Rate: 20, Class: State,
			Description: "Solar charging"},
		{Pattern: "power/consumption", Type: "power", QoS: 1, Rate: 60, Class: Sensor,
			Description: "Power drawn by the mower"},

		{Pattern: "vision/detections", Type: "vision", QoS: 1, Rate: 30, Class: Sensor,
			Description: "Objects that the camera sees: people, animals, obstacles"},
		{Pattern: "vision/frame_analysis", Type: "vision", QoS: 0, Rate: 10, Class: Sensor,
			Description: "What the analysis of single camera frames found"},

		{Pattern: "weather/current", Type: "weather", QoS: 1, Retain: true, Rate: 12, Class: State,
			Description: "Current weather"},
		{Pattern: "weather/forecast", Type: "weather", QoS: 1, Retain: true, Rate: 1, Class: State,
			Description: "Weather forecast"},
		{Pattern: "weather/alerts", Type: "weather", QoS: 2, Retain: true, Rate: 20, Class: Event, // each alert counts
			Description: "Weather warnings: storm, frost, heavy rain"},

		{Pattern: "system/health", Type: "status", QoS: 1, Retain: true, Rate: 5, Class: State,
			Description: "Overall health of the mower"},
		{Pattern: "system/health_check", Type: "status", QoS: 1, Class: Event,
			Description: "Asks every service to announce itself now"},
		{Pattern: "system/services/+/status", Type: "status", QoS: 1, Retain: true, Rate: 10, Class: State,
			Description: "State of one service, one retained message per service; the third level is its id"},
		{Pattern: "system/services/+/commands", Type: "events", QoS: 1, Retain: true, Rate: 10, Class: State,
			Description: "The commands of one service: names, texts, JSON Schema of parameters and results; the third level is its id"},
		{Pattern: "system/services/+/commands/+", Type: "events", QoS: 1, Retain: true, Rate: 10, Class: State,
			Description: "What of a service's commands does not fit into one message; the last level is 2, 3 and so on"},
		{Pattern: "system/events/+", Type: "events", QoS: 1, Rate: 60, Class: Event,
			Description: "Events; the last level is the type of event"},
		{Pattern: "system/logs/+", Type: "events", QoS: 0, Rate: 100, Class: Event,
			Description: "Log lines; the last level is the log level"},
	}
}

// ForService returns the relative filters that a service of that id and type always hears, without duplicates:
// the commands to its id and its type, its responses, the status of all services, events, health checks, the
// emergency stop, and the topics of its type (sensors, navigation, safety, power, vision, weather, system; another
// type adds none). Some overlap, as safety/emergency_stop and safety/+ do.
//
// An id or type that cannot be a level of a topic (see CheckLevel) contributes no filter: an id of "+" does not
// hear everyone's commands.
func (r *Registry) ForService(id, serviceType string) []string {
	var filters []string
	add := func(fs ...string) {
		for _, f := range fs {
			if !slices.Contains(filters, f) {
				filters = append(filters, f)
			}
		}
	}
	if CheckLevel("service id", id) == nil {
		add("commands/"+id, "responses/"+id)
	}
	if CheckLevel("service type", serviceType) == nil {
		add("commands/" + serviceType)
	}
	add("system/services/+/status", "system/events/+", "system/health_check", "system/health", "safety/emergency_stop")
	switch serviceType {
	case "sensors":
		add("sensors/+/data", "sensors/+/status")
	case "navigation", "safety", "power", "vision", "weather", "system":
		add(serviceType + "/+")
	}
	return filters
}
