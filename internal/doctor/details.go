package doctor

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
)

// readStatus reads a status, also one that breaks a rule, such as one whose sender's clock is wrong.
func readStatus(d *client.Delivery) (at time.Time, s message.Status, ok bool) {
	if !d.Message.Raw {
		s, err := message.Payload[message.Status](d.Message)
		return d.Message.Metadata.Time(), s, err == nil
	}
	var m struct {
		Metadata struct {
			Timestamp float64 `json:"timestamp"`
		} `json:"metadata"`
		Payload message.Status `json:"payload"`
	}
	if json.Unmarshal(d.Message.Payload, &m) != nil || m.Metadata.Timestamp <= 0 || m.Payload.Status == "" {
		return time.Time{}, s, false
	}
	return message.Metadata{Timestamp: m.Metadata.Timestamp}.Time(), m.Payload, true
}

// details are what a service says of itself.
type details struct {
	lease        time.Duration // 0 when it does not say
	dependencies []string
	life         string // the same for all that one process says
}

// readDetails reads as much as there is: a stranger's details may be anything.
func readDetails(raw json.RawMessage) (d details) {
	var all map[string]json.RawMessage
	_ = json.Unmarshal(raw, &all)
	var lease float64
	if json.Unmarshal(all["heartbeat_timeout"], &lease) == nil {
		d.lease = seconds(lease)
	}
	var needs []string
	if json.Unmarshal(all["dependencies"], &needs) == nil {
		d.dependencies = needs
	}
	d.life = fmt.Sprintf("%s %s %s", all["host"], all["pid"], all["start_time"])
	return d
}
