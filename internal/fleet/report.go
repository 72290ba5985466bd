package fleet

import (
	"encoding/json"
	"strings"
	"time"
)

// A Report is all that is known of a mower, for JSON.
type Report struct {
	*Mower
	Silence  *float64               `json:"age_s"` // seconds since it was heard; null if it never was
	Presence *Presence              `json:"presence"`
	Topics   map[string]TopicReport `json:"topics"`
	LeftOut  int                    `json:"topics_left_out"`
}

// A TopicReport is the latest message of a topic.
type TopicReport struct {
	Time    time.Time       `json:"time"`
	Size    int             `json:"bytes"`
	Message json.RawMessage `json:"message"` // as a text where it is no JSON; null when it is too large
}

// Report returns all that is known of a mower.
func (m *Mower) Report(now time.Time) Report {
	with := *m
	if with.Alerts == nil {
		with.Alerts = []RaisedAlert{}
	}
	r := Report{Mower: &with, Presence: m.Presence, Topics: make(map[string]TopicReport, len(m.topics)), LeftOut: m.LeftOut()}
	if age, ok := m.Age(now); ok {
		s := age.Seconds()
		r.Silence = &s
	}
	for _, msg := range m.topics {
		r.Topics[msg.Topic] = TopicReport{msg.Time, msg.Size, msg.JSON()}
	}
	return r
}

// JSON returns a message that may be anything as JSON: as a text where it is none, null when it is not kept.
func (m *Message) JSON() json.RawMessage {
	switch {
	case m.Body == nil:
		return json.RawMessage("null")
	case json.Valid(m.Body):
		return m.Body
	}
	body, err := json.Marshal(strings.ToValidUTF8(string(m.Body), "\uFFFD"))
	if err != nil {
		return json.RawMessage("null")
	}
	return body
}
