package demo

import (
	"math"
	"math/rand/v2"
)

// A sky is the weather over the lawn. It begins in the late morning and is mostly fair.
type sky struct {
	random      *rand.Rand
	hour        float64 // of the day, 0 to 24
	cloud       float64 // cover, 0 to 1
	wind        float64 // m/s
	windFrom    float64 // degrees, 0 to 360
	rain        float64 // mm per hour
	pressure    float64 // hPa
	tendency    float64 // hPa per hour, what the forecast goes by
	sinceChange float64 // s
}

func newSky(random *rand.Rand) sky {
	return sky{
		random:   random,
		hour:     10.5,
		cloud:    0.15 + 0.35*random.Float64(),
		wind:     1.5 + 2*random.Float64(),
		windFrom: 360 * random.Float64(),
		pressure: 1012 + 8*random.Float64(),
	}
}

// tick lets dt seconds pass. The weather changes once a second.
func (s *sky) tick(dt float64) {
	s.hour = math.Mod(s.hour+dt/3600, 24)
	if s.sinceChange += dt; s.sinceChange < 1 {
		return
	}
	s.sinceChange--
	wander := func(x *float64, mean, timeConstant, spread float64) {
		*x += (mean-*x)/timeConstant + spread*math.Sqrt(2/timeConstant)*s.random.NormFloat64()
	}
	wander(&s.tendency, 0, 7200, 0.8)
	s.pressure += s.tendency / 3600
	wander(&s.cloud, 0.35-0.2*s.tendency, 1800, 0.2)
	s.cloud = max(0, min(1, s.cloud))
	wander(&s.wind, 2.5+2*s.cloud, 300, 0.8)
	s.wind = max(0, s.wind)
	wander(&s.windFrom, s.windFrom, 600, 20)
	s.windFrom = math.Mod(s.windFrom+360, 360)
	s.rain = max(0, (s.cloud-0.85)*30)
}

// sun is the irradiance on a level surface, W/m².
func (s *sky) sun() float64 {
	elevation := math.Sin((s.hour - 6) / 12 * math.Pi) // up from six to six
	return 950 * max(0, elevation) * (1 - 0.75*s.cloud*s.cloud)
}

// solarPower is what the panel on the mower's back delivers, W.
func (s *sky) solarPower() float64 {
	const area, efficiency = 0.11, 0.2
	return area * efficiency * s.sun()
}

// temperature of the air, °C.
func (s *sky) temperature() float64 {
	return 16 + 6*math.Sin((s.hour-9)/12*math.Pi) + s.sun()/400 - 2*min(1, s.rain)
}

// humidity of the air, percent.
func (s *sky) humidity() float64 {
	return max(25, min(99, 85-1.8*(s.temperature()-10)+15*min(1, s.rain)))
}

func (s *sky) condition() string {
	switch {
	case s.rain > 0.1:
		return "rainy"
	case s.cloud > 0.7:
		return "cloudy"
	case s.cloud > 0.3:
		return "partlycloudy"
	}
	return "sunny"
}
