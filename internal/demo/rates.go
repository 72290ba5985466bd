package demo

import (
	"time"

	"github.com/lawnberry/lawnberry/topic"
)

// Rates returns the rate limits, in messages per minute, of the topics on which the demo sends more than the standard
// registry allows, by pattern. They are what it really sends and a tenth more.
func Rates() map[string]int {
	perMinute := func(period time.Duration) int { return int(time.Minute/period) * 11 / 10 }
	rates := map[string]int{
		"sensors/fusion/data": perMinute(sensorPeriod),
		velocityTopic:         perMinute(sensorPeriod),
		"navigation/position": perMinute(positionEvery * sensorPeriod),
		"navigation/path":     20,
		// Every two seconds, and at each change of the activity: a minute with many visitors has some twenty.
		"navigation/status": 60,
		// While somebody is in view all frames are published.
		"vision/detections": perMinute(framePeriod),
		// Heartbeats, and the changes of state when services come and go.
		"system/services/+/status": 60,
	}
	for _, s := range sensors() {
		rates["sensors/"+s.id+"/data"] = perMinute(sensorPeriod * time.Duration(s.every))
	}
	rates["sensors/motors/data"] *= 4 // also when they begin to turn, and when they stand
	return rates
}

// topics returns the registry that the demo uses: r, or when that is nil one with the limits of Rates. The set points of the
// motors, a topic that only the demo has, are added when it does not know them.
func topics(r *topic.Registry) (*topic.Registry, error) {
	rates := map[string]int{}
	if r == nil {
		var err error
		if r, err = topic.New(""); err != nil {
			return nil, err
		}
		rates = Rates()
	}
	if _, ok := r.Lookup(velocityTopic); !ok {
		rates[velocityTopic] = Rates()[velocityTopic]
	}
	for pattern, rate := range rates {
		d, ok := r.Lookup(pattern) // a pattern finds the definition that it narrows
		if !ok {
			d = topic.Definition{Type: "navigation", Description: "Set points of the motors", QoS: 1, Class: topic.Sensor}
		}
		d.Pattern, d.Rate = pattern, rate
		if err := r.Register(d); err != nil {
			return nil, err
		}
	}
	return r, nil
}
