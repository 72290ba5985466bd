package fleet

import (
	"cmp"
	"hash/fnv"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// What a mower's emergency stop is to the fleet. It is released when the mower's own hub has said so, and nothing else: what cannot be read counts
// as engaged.
const (
	StopEngaged  = "engaged"
	StopReleased = "released"
)

// The topics that a mower's state is read from.
const (
	topicBattery  = "power/battery"
	topicStatus   = "navigation/status"
	topicPosition = "navigation/position"
	topicGPS      = "sensors/gps/data"
	topicStop     = "safety/emergency_stop"
	topicWeather  = "weather/alerts"
	topicAlerts   = "safety/alerts/" // and the type
)

// StateFilters are the filters of the topics that the fields of a [Mower] are read from.
func StateFilters() []string {
	return []string{topicBattery, topicStatus, topicPosition, topicGPS, topicStop, topicWeather, topicAlerts + "+"}
}

// A Mower is what is known of one. It does not change: a newer state is another Mower. Texts in it are what the mower says, cut to a length, and
// may hold anything that is UTF-8: who prints them makes them harmless first.
type Mower struct {
	ID        string        `json:"id"`
	Online    bool          `json:"online"`
	Since     time.Time     `json:"since,omitzero"` // online or offline as far as is known
	Heard     time.Time     `json:"heard,omitzero"` // anything of it
	Battery   *float64      `json:"battery"`        // percent
	Charging  bool          `json:"charging"`
	State     string        `json:"state"` // what it does; "" is not known
	Stop      string        `json:"stop"`  // StopEngaged, StopReleased, or "" when it has said nothing of it
	Alerts    []RaisedAlert `json:"alerts"`
	Worst     string        `json:"worst"` // severity of the alerts, "" without any
	Version   string        `json:"version"`
	Backlog   int64         `json:"backlog"` // messages
	Oldest    *time.Time    `json:"oldest"`  // of the backlog
	Lost      uint64        `json:"lost"`
	X         *float64      `json:"x"` // m, in its own frame
	Y         *float64      `json:"y"`
	Heading   *float64      `json:"heading"` // degrees, clockwise from north
	Latitude  *float64      `json:"latitude"`
	Longitude *float64      `json:"longitude"`
	Enrolled  *bool         `json:"enrolled"` // null where enrolment is the engine's own

	Presence *Presence `json:"-"` // the last one, also of a mower that is offline; nil without
	Messages uint64    `json:"-"` // how many have been heard of it

	topics   []*Message // sorted
	bytes    int        // of their bodies
	leftOut  []uint64   // topics that it has beyond the bound, by their hashes, sorted; as many as fit
	presence uint64     // generation of the copy of the bucket in which it was seen
	enrolled uint64
	alive    time.Time // when the presence was heard, by our clock
}

// A RaisedAlert is one that stands.
type RaisedAlert struct {
	Topic        string    `json:"topic"`
	Type         string    `json:"type"`
	Severity     string    `json:"severity"`
	Message      string    `json:"message"`
	Acknowledged bool      `json:"acknowledged"`
	Time         time.Time `json:"time"`
}

// Bounds of what is kept of a mower.
const (
	maxTopics       = 64        // messages, one of each topic
	maxTopicName    = 256       // bytes
	maxMessage      = 64 << 10  // bytes of a message, inflated; of a longer one the fact is kept
	maxMowerBytes   = 512 << 10 // of all its messages
	maxCoreTopics   = 64        // more, of those that its fields are read from
	maxCoreBytes    = 512 << 10
	maxLeftOut      = 1000 // that are counted
	maxAlertText    = 500  // bytes
	maxStateText    = 60
	maxPresenceBody = 16 << 10
)

// Topics returns the latest messages, sorted by topic.
func (m *Mower) Topics() []*Message { return slices.Clone(m.topics) }

// LeftOut returns how many topics the mower has beyond the bound, up to a thousand.
func (m *Mower) LeftOut() int { return len(m.leftOut) }

// Topic returns the latest message of a topic, nil if none is known.
func (m *Mower) Topic(name string) *Message {
	if i, found := m.find(name); found {
		return m.topics[i]
	}
	return nil
}

func (m *Mower) find(name string) (int, bool) {
	return slices.BinarySearchFunc(m.topics, name, func(t *Message, name string) int { return cmp.Compare(t.Topic, name) })
}

// Age is how long ago a mower was heard; ok is false if it never was.
func (m *Mower) Age(now time.Time) (age time.Duration, ok bool) {
	return max(now.Sub(m.Heard), 0), !m.Heard.IsZero()
}

// WorstRank is the rank of the worst alert, 0 without any.
func (m *Mower) WorstRank() int { return SeverityRank(m.Worst) }

// mowerAt is a mower for selectors, at a time.
type mowerAt struct {
	*Mower
	now time.Time
}

func (m mowerAt) at(topic, path string) Value {
	if msg := m.Topic(topic); msg != nil {
		return msg.At(path)
	}
	return Value{}
}

func (m mowerAt) field(name string) Value {
	number := func(f *float64) Value {
		if f == nil {
			return Value{}
		}
		return numberValue(*f)
	}
	word := func(s string) Value {
		if s == "" {
			return Value{}
		}
		return textValue(s)
	}
	said := func(f float64) Value { // in its presence
		if m.Presence == nil {
			return Value{}
		}
		return numberValue(f)
	}
	switch name {
	case "id":
		return textValue(m.ID)
	case "online":
		return boolValue(m.Online)
	case "battery":
		return number(m.Battery)
	case "state":
		return word(m.State)
	case "stop":
		return word(m.Stop)
	case "alerts":
		return numberValue(float64(len(m.Alerts)))
	case "worst":
		return word(m.Worst)
	case "version":
		return word(m.Version)
	case "backlog":
		return said(float64(m.Backlog))
	case "lost":
		return said(float64(m.Lost))
	case "age":
		if age, ok := m.Age(m.now); ok {
			return numberValue(age.Seconds())
		}
	case "x":
		return number(m.X)
	case "y":
		return number(m.Y)
	case "latitude":
		return number(m.Latitude)
	case "longitude":
		return number(m.Longitude)
	case "enrolled":
		if m.Enrolled != nil {
			return boolValue(*m.Enrolled)
		}
	}
	return Value{}
}

// Field returns a field of a mower as [WhereFields] names them, at a time.
func (m *Mower) Field(name string, now time.Time) Value { return mowerAt{m, now}.field(name) }

// with returns the mower with a message in place of the one of its topic, or without one when the body is empty.
func (m *Mower) with(msg *Message, empty bool) *Mower {
	next := *m
	i, found := m.find(msg.Topic)
	switch {
	case empty && !found:
		if i, left := slices.BinarySearch(m.leftOut, hashTopic(msg.Topic)); left {
			next.leftOut = slices.Delete(slices.Clone(m.leftOut), i, i+1)
		}
		return &next
	case empty:
		next.bytes -= len(m.topics[i].Body)
		next.topics = slices.Delete(slices.Clone(m.topics), i, i+1)
	case found:
		next.bytes -= len(m.topics[i].Body)
		next.topics = slices.Clone(m.topics)
		next.topics[i] = msg
	case !m.hasRoom(msg.Topic):
		if i, left := slices.BinarySearch(m.leftOut, hashTopic(msg.Topic)); !left && len(m.leftOut) < maxLeftOut {
			next.leftOut = slices.Insert(slices.Clone(m.leftOut), i, hashTopic(msg.Topic))
		}
		return &next
	default:
		if i, left := slices.BinarySearch(m.leftOut, hashTopic(msg.Topic)); left {
			next.leftOut = slices.Delete(slices.Clone(m.leftOut), i, i+1)
		}
		next.topics = make([]*Message, 0, len(m.topics)+1)
		next.topics = append(append(append(next.topics, m.topics[:i]...), msg), m.topics[i:]...)
	}
	if !empty {
		room := maxMowerBytes
		if isCore(msg.Topic) {
			room += maxCoreBytes
		}
		if next.bytes+len(msg.Body) > room {
			msg.Body = nil
		}
		next.bytes += len(msg.Body)
	}
	next.derive(msg, empty)
	return &next
}

// hasRoom reports whether another topic fits: those that there is one of always do, however many alerts there are.
func (m *Mower) hasRoom(topic string) bool {
	switch {
	case isSingle(topic):
		return true
	case isAlert(topic):
		return len(m.topics) < maxTopics+maxCoreTopics
	}
	return len(m.topics) < maxTopics
}

func hashTopic(topic string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(topic)) // it takes everything
	return h.Sum64()
}

// isCore reports whether fields of a mower are read from a topic.
func isCore(topic string) bool { return isSingle(topic) || isAlert(topic) }

func isSingle(topic string) bool {
	switch topic {
	case topicBattery, topicStatus, topicPosition, topicGPS, topicStop, topicWeather:
		return true
	}
	return false
}

func isAlert(topic string) bool {
	kind, ok := strings.CutPrefix(topic, topicAlerts)
	return ok && kind != "" && !strings.Contains(kind, "/")
}

// derive reads the fields that a topic tells of anew. msg has been taken in already, or is gone.
func (m *Mower) derive(msg *Message, gone bool) {
	var d document
	if !gone {
		d = msg.read()
	}
	switch topic := msg.Topic; {
	case topic == topicBattery:
		m.Battery, m.Charging = nil, false
		if f, ok := d.number("level"); ok && f >= -1000 && f <= 1000 {
			m.Battery = &f
		}
		m.Charging = d.at("charging").truth()
	case topic == topicStatus:
		m.State = ""
		for _, path := range []string{"activity", "status"} {
			if v := d.at(path); v.kind == valueText && v.text != "" {
				m.State = cut(strings.ToLower(v.text), maxStateText)
				break
			}
		}
	case topic == topicPosition:
		m.X, m.Y, m.Heading = d.pointer("x"), d.pointer("y"), d.pointer("heading")
		if m.placed(d) {
			return
		}
		if gps := m.Topic(topicGPS); gps != nil {
			m.placed(gps.read())
		}
	case topic == topicGPS:
		if position := m.Topic(topicPosition); position == nil || !m.placed(position.read()) {
			m.placed(d)
		}
	case topic == topicStop:
		m.Stop = ""
		if !gone {
			m.Stop = stopOf(d)
		}
		m.findAlerts()
	case topic == topicWeather || isAlert(topic):
		m.findAlerts()
	}
}

// placed reads where a mower is on the earth, and reports whether that is said.
func (m *Mower) placed(d document) bool {
	m.Latitude, m.Longitude = d.pointer("latitude"), d.pointer("longitude")
	if m.Latitude != nil && m.Longitude != nil && math.Abs(*m.Latitude) <= 90 && math.Abs(*m.Longitude) <= 180 {
		return true
	}
	m.Latitude, m.Longitude = nil, nil
	return false
}

// stopOf reads what a message on safety/emergency_stop says.
func stopOf(d document) string {
	engaged, _ := walk(d.root, []string{"payload", "context", "engaged"})
	sender, _ := walk(d.root, []string{"metadata", "sender"})
	if engaged == false && sender == StopService {
		return StopReleased
	}
	return StopEngaged
}

// findAlerts lists the alerts that stand, the worst first.
func (m *Mower) findAlerts() {
	m.Alerts, m.Worst = nil, ""
	for _, msg := range m.topics {
		if msg.Topic != topicStop && msg.Topic != topicWeather && !isAlert(msg.Topic) || msg.Topic == topicStop && m.Stop == StopReleased {
			continue
		}
		m.Alerts = append(m.Alerts, msg.alert())
	}
	slices.SortStableFunc(m.Alerts, func(a, b RaisedAlert) int { return cmp.Compare(SeverityRank(b.Severity), SeverityRank(a.Severity)) })
	if len(m.Alerts) > 0 {
		m.Worst = m.Alerts[0].Severity
	}
}

// cut makes a text valid and no longer than n bytes.
func cut(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	const mark = "…"
	end := n - len(mark)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + mark
}
