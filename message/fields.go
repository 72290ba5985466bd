package message

import "strings"

// The keys at the top level of an envelope.
const (
	topMetadata = iota
	topPayload
	topFields
)

func topField(key string) int {
	switch key {
	case "metadata":
		return topMetadata
	case "payload":
		return topPayload
	}
	return -1
}

// The keys of an envelope's metadata.
const (
	metaTimestamp = iota
	metaID
	metaSender
	metaType
	metaPriority
	metaCorrelationID
	metaExpiresAt
	metaRetryCount
	metaFields
)

func metaField(key string) int {
	switch key {
	case "timestamp":
		return metaTimestamp
	case "message_id":
		return metaID
	case "sender":
		return metaSender
	case "message_type":
		return metaType
	case "priority":
		return metaPriority
	case "correlation_id":
		return metaCorrelationID
	case "expires_at":
		return metaExpiresAt
	case "retry_count":
		return metaRetryCount
	}
	return -1
}

// The keys of all payloads that have a rule.
const (
	paySensorType = iota
	payDeviceID
	payData
	payUnits
	payQuality
	payStatus
	payTarget
	payCommand
	payParameters
	payTimeout
	payRequireAck
	paySuccess
	payError
	payExecutionTime
	payResult
	payUptime
	payVersion
	payResources
	payEventType
	paySource
	payCategory
	payAlertType
	paySeverity
	payMessage
	payAcknowledged
	payAutoResolve
	payFields
)

func payField(key string) int {
	switch key {
	case "sensor_type":
		return paySensorType
	case "device_id":
		return payDeviceID
	case "data":
		return payData
	case "units":
		return payUnits
	case "quality":
		return payQuality
	case "status":
		return payStatus
	case "target":
		return payTarget
	case "command":
		return payCommand
	case "parameters":
		return payParameters
	case "timeout":
		return payTimeout
	case "require_ack":
		return payRequireAck
	case "success":
		return paySuccess
	case "error":
		return payError
	case "result":
		return payResult
	case "execution_time":
		return payExecutionTime
	case "uptime":
		return payUptime
	case "version":
		return payVersion
	case "resources":
		return payResources
	case "event_type":
		return payEventType
	case "source":
		return paySource
	case "category":
		return payCategory
	case "alert_type":
		return payAlertType
	case "severity":
		return paySeverity
	case "message":
		return payMessage
	case "acknowledged":
		return payAcknowledged
	case "auto_resolve":
		return payAutoResolve
	}
	return -1
}

// A payloadRule says what a payload's value must be. A value that is not required may also be null.
type payloadRule struct {
	name     string
	field    int
	kind     kind // absent is any
	required bool
}

// payloadRules returns the rules of the wire format's table for a type. A heartbeat has none.
func payloadRules(t Type) []payloadRule {
	switch t {
	case TypeSensorData:
		return sensorDataRules[:]
	case TypeCommand:
		return commandRules[:]
	case TypeResponse:
		return responseRules[:]
	case TypeStatus:
		return statusRules[:]
	case TypeEvent:
		return eventRules[:]
	case TypeAlert:
		return alertRules[:]
	}
	return nil
}

var (
	sensorDataRules = [...]payloadRule{
		{"sensor_type", paySensorType, text, true},
		{"data", payData, absent, true},
		{"device_id", payDeviceID, text, false},
		{"units", payUnits, object, false},
		{"quality", payQuality, number, false},
		{"status", payStatus, text, false},
	}
	commandRules = [...]payloadRule{
		{"target", payTarget, text, true},
		{"command", payCommand, text, true},
		{"parameters", payParameters, object, false},
		{"timeout", payTimeout, number, false},
		{"require_ack", payRequireAck, boolean, false},
	}
	responseRules = [...]payloadRule{
		{"success", paySuccess, boolean, true},
		{"error", payError, text, false},
		{"execution_time", payExecutionTime, number, false},
	}
	statusRules = [...]payloadRule{
		{"status", payStatus, text, false},
		{"uptime", payUptime, number, false},
		{"version", payVersion, text, false},
		{"resources", payResources, object, false},
	}
	eventRules = [...]payloadRule{
		{"event_type", payEventType, text, false},
		{"source", paySource, text, false},
		{"category", payCategory, text, false},
	}
	alertRules = [...]payloadRule{
		{"alert_type", payAlertType, text, false},
		{"severity", paySeverity, text, false},
		{"message", payMessage, text, false},
		{"acknowledged", payAcknowledged, boolean, false},
		{"auto_resolve", payAutoResolve, boolean, false},
	}
)

// checkPayload checks a payload of kind k that s has scanned.
func (s *scanner) checkPayload(t Type, k kind) *Error {
	switch {
	case k == absent:
		return &Error{Reason: ReasonMissingField, Field: "payload", Rule: "is missing"}
	case k != object && t != TypeHeartbeat:
		return wrongType("payload", object, k)
	}
	rules := payloadRules(t)
	for i := range rules {
		r := &rules[i]
		f := &s.pay[r.field]
		switch {
		case f.kind == absent:
			if r.required {
				return &Error{Reason: ReasonMissingField, Field: "payload." + r.name, Rule: "is missing"}
			}
		case f.kind == r.kind || r.kind == absent:
		case f.kind == null && !r.required:
		default:
			return wrongType("payload."+r.name, r.kind, f.kind)
		}
	}
	if t == TypeSensorData && s.pay[payQuality].kind == number {
		if q := s.float(s.pay[payQuality]); q < 0 || q > 1 {
			return &Error{Reason: ReasonOutOfRange, Field: "payload.quality", Rule: "must be 0 to 1, not " + s.excerpt(s.pay[payQuality])}
		}
	}
	if t == TypeAlert && s.pay[paySeverity].kind == text && !isSeverity(s.string(s.pay[paySeverity])) {
		return &Error{Reason: ReasonOutOfRange, Field: "payload.severity",
			Rule: "must be info, warning, error or critical, not " + s.excerpt(s.pay[paySeverity])}
	}
	return nil
}

func isSeverity(t string) bool {
	switch t {
	case "info", "warning", "error", "critical":
		return true
	}
	return false
}

func wrongType(field string, want, got kind) *Error {
	return &Error{Reason: ReasonWrongType, Field: field, Rule: "must be " + want.String() + ", not " + got.String()}
}

// fieldPath joins a scanner's path, which is innermost first.
func fieldPath(path []string) string {
	var b strings.Builder
	for i := len(path) - 1; i >= 0; i-- {
		if b.Len() > 200 {
			b.WriteString("...")
			break
		}
		if b.Len() > 0 && path[i][0] != '[' {
			b.WriteByte('.')
		}
		b.WriteString(path[i])
	}
	return b.String()
}
