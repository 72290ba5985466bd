package homeassistant

import (
	"encoding/json"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
)

// fields is a JSON object of somebody else's, whose values may be anything.
type fields map[string]json.RawMessage

// read returns what a message of the bus tells: the data of a reading, the details of a status with it, or the object that it is.
func read(d *client.Delivery) (f fields, sender string) {
	m := &d.Message
	var payload fields
	if json.Unmarshal(m.Payload, &payload) != nil {
		return nil, ""
	}
	if m.Raw {
		return payload, ""
	}
	for _, part := range []string{"data", "details"} {
		var inner fields
		if json.Unmarshal(payload[part], &inner) == nil && inner != nil {
			if s, said := payload["status"]; said && inner["status"] == nil {
				inner["status"] = s
			}
			return inner, m.Metadata.Sender
		}
	}
	return payload, m.Metadata.Sender
}

// number returns the first of the keys that is a number within bounds, rounded; nil when there is none.
func (f fields) number(least, most float64, digits int, keys ...string) *float64 {
	for _, k := range keys {
		var v *float64
		if json.Unmarshal(f[k], &v) != nil || v == nil {
			continue
		}
		if *v < least || *v > most {
			return nil
		}
		scale := math.Pow10(digits)
		r := math.Round(*v*scale) / scale
		return &r
	}
	return nil
}

// text returns the first of the keys that is a text; "" when there is none.
func (f fields) text(keys ...string) string {
	for _, k := range keys {
		var s string
		if json.Unmarshal(f[k], &s) == nil && s != "" {
			return s
		}
	}
	return ""
}

// onOff returns ON or OFF as Home Assistant's binary sensors have it.
func onOff(on bool) string {
	if on {
		return "ON"
	}
	return "OFF"
}

const maxText = 500 // bytes of a text that is passed on

// speakable is a text that any reader can take. One that is too long is cut, and says so.
func speakable(s string) string {
	const mark = "... (cut)"
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= maxText {
		return s
	}
	end := maxText - len(mark)
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + mark
}

// What readings of the bus are to Home Assistant. What is not said, or cannot be, is null, which it shows as unknown.

func batteryState(f fields) object {
	return object{
		"level":       f.number(0, 100, 1, "level", "state_of_charge", "percentage", "soc", "battery_level"),
		"voltage":     f.number(0, 1000, 2, "voltage"),
		"temperature": f.number(-60, 200, 1, "temperature"),
	}
}

func powerState(f fields) object {
	return object{"power": f.number(0, 100_000, 1, "power", "total", "watts")}
}

func weatherState(f fields) object {
	o := object{"temperature": f.number(-60, 80, 1, "temperature"), "rain": nil}
	var raining *bool
	if p := f.number(0, 1000, 3, "precipitation", "rain_rate"); p != nil {
		o["rain"] = onOff(*p > 0)
	} else if json.Unmarshal(f["rain"], &raining) == nil && raining != nil {
		o["rain"] = onOff(*raining)
	}
	return o
}

// mowerState returns the state of the mower and its attributes.
func (s Settings) mowerState(f fields) (state, attributes object) {
	activity := f.text("activity", "status")
	progress := f.number(0, 100, 1, "progress")
	if done := f.number(0, 1, 4, "area_done"); progress == nil && done != nil {
		p := math.Round(*done*1000) / 10
		progress = &p
	}
	theirs, known := s.Activities[activity]
	detail := activity
	if !known {
		theirs, detail = "none", unknownActivity
	}
	state = object{"activity": theirs, "detail": detail, "progress": progress}
	return state, object{"mower_activity": speakable(activity), "progress": progress, "interrupted": speakable(f.text("interrupted"))}
}

const metresPerDegree = 111_320.0 // of latitude

// location returns the attributes of a position, nil if it is not known; geographic reports that it has latitude and longitude itself.
func (s Settings) location(f fields) (attributes object, geographic bool) {
	const digits = 7 // a centimetre
	latitude, longitude := f.number(-90, 90, digits, "latitude", "lat"), f.number(-180, 180, digits, "longitude", "lon", "lng")
	geographic = latitude != nil && longitude != nil
	if !geographic {
		const far = 100_000 // m: beyond it the lawn is not flat
		x, y := f.number(-far, far, 3, "x"), f.number(-far, far, 3, "y")
		if s.Origin == nil || x == nil || y == nil {
			return nil, false
		}
		lat, lon := s.Origin.place(*x, *y)
		latitude, longitude = &lat, &lon
	}
	attributes = object{"latitude": latitude, "longitude": longitude}
	if a := f.number(0, 1e6, 3, "gps_accuracy", "accuracy"); a != nil {
		attributes["gps_accuracy"] = a
	}
	if h := f.number(-360, 360, 1, "heading"); h != nil {
		attributes["heading"] = h
	}
	return attributes, geographic
}

// place returns where a point is that is x metres east and y metres north of o.
func (o Origin) place(x, y float64) (latitude, longitude float64) {
	cos := max(math.Cos(o.Latitude*math.Pi/180), 1e-6)
	round := func(v float64) float64 { return math.Round(v*1e7) / 1e7 }
	return round(o.Latitude + y/metresPerDegree), round(o.Longitude + x/(metresPerDegree*cos))
}

// young reports whether a message of the bus is not older than patience, by its own clock if it is retained.
func young(d *client.Delivery, patience time.Duration) bool {
	if !d.Retained || d.Message.Raw {
		return !d.Retained
	}
	age := time.Since(d.Message.Metadata.Time())
	return age < patience && age > -patience
}

// encode is JSON as it goes to Home Assistant.
func encode(v any) []byte {
	b, err := message.EncodeJSON(v)
	if err != nil { // no value of ours
		return []byte("{}")
	}
	return b
}
