package topic

import (
	"slices"
	"time"
)

// standard returns the topics of the wire format, in the order of its table. A value is stale after some three periods of the slowest that publish
// such, or of what the rate allows.
func standard() []Definition {
	return []Definition{
		{Pattern: "sensors/+/data", Type: "sensor_data", QoS: 1, Rate: 100, Class: Sensor, StaleAfter: 15 * time.Second,
			Description: "Readings of one sensor: GPS, IMU, ultrasonic, tilt, power and the like",
			Address:     "sensors/{sensor}/data", Publisher: "the service that reads the sensor", Message: "sensor_data",
			Units: "those that the message names itself, in units"},
		{Pattern: "sensors/+/status", Type: "status", QoS: 1, Retain: true, Rate: 20, Class: State, StaleAfter: 3 * time.Minute,
			Description: "Health of one sensor",
			Address:     "sensors/{sensor}/status", Publisher: "the service that reads the sensor", Message: "status"},

		{Pattern: "commands/+", Type: "commands", QoS: 2, Class: Command,
			Description: "Commands to a service; the last level is the service's id, or a service type",
			Address:     "commands/{service}", Publisher: "anybody, for the service", Message: "command"},
		{Pattern: "responses/+", Type: "responses", QoS: 2, Class: Command,
			Description: "Replies to commands; the last level is the requester's id",
			Address:     "responses/{requester}", Publisher: "the service that was commanded, for the requester", Message: "response",
			Units: "execution_time s"},

		{Pattern: "navigation/position", Type: "navigation", QoS: 1, Retain: true, Rate: 20, Class: State, StaleAfter: 10 * time.Second,
			Description: "Current position and heading",
			Publisher:   "navigation", Message: "sensor_data",
			Units: "x m, y m, latitude deg, longitude deg, heading deg, speed m/s, accuracy m"},
		{Pattern: "navigation/path", Type: "navigation", QoS: 1, Retain: true, Rate: 10, Class: State,
			Description: "The path being followed",
			Publisher:   "navigation", Message: "sensor_data",
			Units: "points m, boundary m, dock m"},
		{Pattern: "navigation/status", Type: "navigation", QoS: 1, Retain: true, Rate: 5, Class: State, StaleAfter: 30 * time.Second,
			Description: "What navigation is doing, and its progress",
			Publisher:   "navigation", Message: "status",
			Units: "progress %"},

		{Pattern: "safety/alerts/+", Type: "alerts", QoS: 2, Retain: true, Class: Safety,
			Description: "Safety alerts; the last level is the type of alert",
			Address:     "safety/alerts/{alert}", Publisher: "the service that has noticed it", Message: "alert"},
		{Pattern: "safety/emergency_stop", Type: "alerts", QoS: 2, Retain: true, Class: Safety,
			Description: "Whether the emergency stop is engaged",
			Publisher:   "anybody, to engage it; emergency_stop, for what holds", Message: "alert"},
		{Pattern: "safety/reports/+", Type: "status", QoS: 2, Retain: true, Class: Safety,
			Description: "What a service has to say on the emergency stop: hazards, and whether it stands; the last level is its id",
			Address:     "safety/reports/{service}", Publisher: "the service", Message: "status",
			Units: "stop_ms ms"},
		{Pattern: "safety/hazards", Type: "alerts", QoS: 2, Rate: 50, Class: Safety,
			Description: "Hazards detected around the mower",
			Publisher:   "the service that has noticed it", Message: "alert"},

		{Pattern: "power/battery", Type: "power", QoS: 1, Retain: true, Rate: 20, Class: State, StaleAfter: 15 * time.Second,
			Description: "Battery charge, voltage and current",
			Publisher:   "power", Message: "sensor_data",
			Units: "voltage V, current A, power W, level %, temperature °C, time_remaining min"},
		{Pattern: "power/solar", Type: "power", QoS: 1, Retain: true, Rate: 20, Class: State, StaleAfter: 20 * time.Second,
			Description: "Solar charging",
			Publisher:   "power", Message: "sensor_data",
			Units: "voltage V, current A, power W"},
		{Pattern: "power/consumption", Type: "power", QoS: 1, Rate: 60, Class: Sensor, StaleAfter: 10 * time.Second,
			Description: "Power drawn by the mower",
			Publisher:   "power", Message: "sensor_data",
			Units: "total W, blade W, drive W"},

		{Pattern: "vision/detections", Type: "vision", QoS: 1, Rate: 30, Class: Sensor, StaleAfter: 10 * time.Second,
			Description: "Objects that the camera sees: people, animals, obstacles",
			Publisher:   "vision", Message: "sensor_data",
			Units: "distance m, bearing deg"},
		{Pattern: "vision/frame_analysis", Type: "vision", QoS: 0, Rate: 10, Class: Sensor, StaleAfter: 30 * time.Second,
			Description: "What the analysis of single camera frames found",
			Publisher:   "vision", Message: "sensor_data",
			Units: "processing_time ms"},

		{Pattern: "weather/current", Type: "weather", QoS: 1, Retain: true, Rate: 12, Class: State, StaleAfter: time.Minute,
			Description: "Current weather",
			Publisher:   "weather", Message: "sensor_data",
			Units: "temperature °C, humidity %, pressure hPa, wind_speed m/s, wind_direction deg, cloud_cover %, precipitation mm/h, irradiance W/m²"},
		{Pattern: "weather/forecast", Type: "weather", QoS: 1, Retain: true, Rate: 1, Class: State, StaleAfter: 15 * time.Minute,
			Description: "Weather forecast",
			Publisher:   "weather", Message: "sensor_data",
			Units: "temperature °C, precipitation_probability %, wind_speed m/s"},
		{Pattern: "weather/alerts", Type: "weather", QoS: 2, Retain: true, Rate: 20, Class: Event, // each alert counts
			Description: "Weather warnings: storm, frost, heavy rain",
			Publisher:   "weather", Message: "alert"},

		{Pattern: "system/health", Type: "status", QoS: 1, Retain: true, Rate: 5, Class: State, StaleAfter: 90 * time.Second,
			Description: "Overall health of the mower",
			Publisher:   "lawnberry serve", Message: "status"},
		{Pattern: "system/health_check", Type: "status", QoS: 1, Class: Event,
			Description: "Asks every service to announce itself now",
			Publisher:   "anybody, for all services", Message: "status"},
		{Pattern: "system/services/+/status", Type: "status", QoS: 1, Retain: true, Rate: 10, Class: State, StaleAfter: 90 * time.Second,
			Description: "State of one service, one retained message per service; the third level is its id",
			Address:     "system/services/{service}/status", Publisher: "the service; the broker, when it vanishes", Message: "status",
			Units: "uptime s, cpu_usage %, memory_usage %, disk_usage %"},
		{Pattern: "system/services/+/commands", Type: "events", QoS: 1, Retain: true, Rate: 10, Class: State,
			Description: "The commands of one service: names, texts, JSON Schema of parameters and results; the third level is its id",
			Address:     "system/services/{service}/commands", Publisher: "the service", Message: "event"},
		{Pattern: "system/services/+/commands/+", Type: "events", QoS: 1, Retain: true, Rate: 10, Class: State,
			Description: "What of a service's commands does not fit into one message; the last level is 2, 3 and so on",
			Address:     "system/services/{service}/commands/{page}", Publisher: "the service", Message: "event"},
		{Pattern: "system/events/+", Type: "events", QoS: 1, Rate: 60, Class: Event,
			Description: "Events; the last level is the type of event",
			Address:     "system/events/{event}", Publisher: "any service", Message: "event"},
		{Pattern: "system/logs/+", Type: "events", QoS: 0, Rate: 100, Class: Event,
			Description: "Log lines; the last level is the log level",
			Address:     "system/logs/{level}", Publisher: "any service", Message: "event"},
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
