package demo

import (
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
)

// reasons returns the hazards that a safety sees, after what it received.
func (s *safety) reasons(now time.Time) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := ""
	for _, h := range s.hazardsLocked(now) {
		all += h.Reason + " "
	}
	return all
}

func TestHazards(t *testing.T) {
	reading := func(data any) *client.Delivery {
		m, err := message.NewSensorData("test", message.SensorData{SensorType: "test", Data: data})
		if err != nil {
			t.Fatal(err)
		}
		return &client.Delivery{Message: m}
	}
	type act = func(s *safety)
	frame := func(objects ...object) act {
		return func(s *safety) { s.frame(reading(detectionData{Objects: objects})) }
	}
	person := func(distance float64) object {
		return object{Class: "person", Confidence: 0.9, Distance: distance}
	}
	ahead := func(m float64) act {
		return func(s *safety) { s.ultrasonic(reading(ultrasonicReading{4, m, 4})) }
	}
	lean := func(deg float64) act {
		return func(s *safety) { s.tilting(reading(tiltReading{Tilt: deg})) }
	}
	lift := func(up bool) act {
		return func(s *safety) { s.lifting(reading(liftReading{up})) }
	}
	state := func(id string, state service.State) act {
		return func(s *safety) { s.service(service.Info{ID: id, State: state}, "") }
	}
	turned := func(id string, old, state service.State) act {
		return func(s *safety) { s.service(service.Info{ID: id, State: state}, old) }
	}
	for _, test := range []struct {
		name string
		do   []act
		want string
	}{
		{"nothing", nil, ""},
		{"empty frame", []act{frame()}, ""},
		{"person", []act{frame(person(2.9))}, "person "},
		{"person far away", []act{frame(person(3.1))}, ""},
		{"two people", []act{frame(person(5), person(1))}, "person "},
		{"something else", []act{frame(object{Class: "hedgehog", Distance: 1})}, ""},
		{"person gone for two frames", []act{frame(person(2)), frame(), frame()}, "person "},
		{"person gone for three frames", []act{frame(person(2)), frame(), frame(), frame()}, ""},
		{"person overlooked for a frame", []act{frame(person(2)), frame(), frame(), frame(person(2)), frame(), frame()}, "person "},
		{"person walked off", []act{frame(person(2)), frame(person(3.5)), frame(person(4)), frame(person(5))}, ""},
		{"obstacle", []act{ahead(0.2)}, "obstacle "},
		{"no obstacle", []act{ahead(0.3)}, ""},
		{"obstacle a little farther", []act{ahead(0.2), ahead(0.3)}, "obstacle "},
		{"obstacle gone", []act{ahead(0.2), ahead(0.4)}, ""},
		{"tilt", []act{lean(26)}, "tilt "},
		{"tilt nearly over", []act{lean(26), lean(22)}, "tilt "},
		{"tilt over", []act{lean(26), lean(19)}, ""},
		{"lifted", []act{lift(true)}, "lifted "},
		{"put down", []act{lift(true), lift(false)}, ""},
		{"service not there yet", []act{state("navigation", service.Starting), state("vision", service.Offline)}, ""},
		{"service lost", []act{state("navigation", service.Healthy), state("navigation", service.Offline)}, "service_navigation "},
		{"service lost that was healthy before", []act{turned("vision", service.Healthy, service.ShuttingDown)}, "service_vision "},
		{"service removed", []act{turned("vision", service.Healthy, "")}, "service_vision "},
		{"service fails", []act{state("vision", service.Degraded), state("vision", service.Failing)}, "service_vision "},
		{"service degraded", []act{state("vision", service.Healthy), state("vision", service.Degraded)}, ""},
		{"service back", []act{state("vision", service.Healthy), state("vision", service.Offline), state("vision", service.Starting)}, "service_vision "},
		{"service healthy again", []act{state("vision", service.Healthy), state("vision", service.Offline), state("vision", service.Healthy)}, ""},
		{"another service lost", []act{state("weather", service.Healthy), state("weather", service.Offline)}, ""},
		{"several", []act{frame(person(1)), ahead(0.1), lean(40)}, "obstacle person tilt "},
	} {
		s := newSafety()
		for _, a := range test.do {
			a(s)
		}
		if got := s.reasons(time.Now()); got != test.want {
			t.Errorf("%s: hazards %q, want %q", test.name, got, test.want)
		}
	}

	s := newSafety()
	if got := s.reasons(time.Now().Add(time.Hour)); got != "" {
		t.Errorf("before the first frame: hazards %q", got)
	}
	frame()(s)
	if got := s.reasons(time.Now().Add(framePatience + time.Second)); got != "vision_silent " {
		t.Errorf("when the cameras fall silent: hazards %q", got)
	}
}

func TestMalformedReadingsAreNoHazard(t *testing.T) {
	s := newSafety()
	m, err := message.NewEvent("test", message.Event{EventType: "x"})
	if err != nil {
		t.Fatal(err)
	}
	d := &client.Delivery{Message: m}
	s.frame(d)
	s.ultrasonic(d)
	s.tilting(d)
	s.lifting(d)
	if got := s.reasons(time.Now()); got != "" || !s.frameAt.IsZero() {
		t.Errorf("hazards %q, frame at %v", got, s.frameAt)
	}
}
