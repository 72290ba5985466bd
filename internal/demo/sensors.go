package demo

import (
	"math"
	"time"
)

// The lawn's south-west corner on the globe.
const (
	originLatitude  = 47.3769
	originLongitude = 8.5417
	originAltitude  = 408.0 // m

	metresPerDegree = 111_320.0 // of latitude
)

// geographic turns a place on the lawn into latitude and longitude, degrees.
func geographic(p point) (latitude, longitude float64) {
	return originLatitude + p.Y/metresPerDegree,
		originLongitude + p.X/(metresPerDegree*math.Cos(originLatitude*math.Pi/180))
}

// local is the inverse of geographic.
func local(latitude, longitude float64) point {
	return point{
		X: (longitude - originLongitude) * metresPerDegree * math.Cos(originLatitude*math.Pi/180),
		Y: (latitude - originLatitude) * metresPerDegree,
	}
}

// compass turns a heading counter-clockwise from east, in radians, into degrees clockwise from north, 0 to 360.
func compass(heading float64) float64 {
	return math.Mod(450-degrees(heading), 360)
}

// fromCompass is the inverse of compass.
func fromCompass(deg float64) float64 { return wrap((90 - deg) * math.Pi / 180) }

func degrees(radians float64) float64 { return radians * 180 / math.Pi }

// What the sensors tell: the data of their sensor_data messages, and what read_sensor answers.
type (
	gpsReading struct {
		Latitude   float64 `json:"latitude"`  // degrees
		Longitude  float64 `json:"longitude"` // degrees
		Altitude   float64 `json:"altitude"`  // m
		Speed      float64 `json:"speed"`     // m/s over ground
		Accuracy   float64 `json:"accuracy"`  // m, one standard deviation
		Satellites int     `json:"satellites"`
		Fix        string  `json:"fix"` // rtk_fixed or rtk_float
	}
	imuReading struct {
		Orientation     attitude `json:"orientation"`      // degrees; yaw counter-clockwise from where it was switched on
		AngularVelocity vector   `json:"angular_velocity"` // rad/s
		Acceleration    vector   `json:"acceleration"`     // m/s², gravity included
		Temperature     float64  `json:"temperature"`      // °C
	}
	attitude struct {
		Roll  float64 `json:"roll"`
		Pitch float64 `json:"pitch"`
		Yaw   float64 `json:"yaw"`
	}
	vector struct {
		X float64 `json:"x"`
		Y float64 `json:"y"`
		Z float64 `json:"z"`
	}
	odometryReading struct {
		Left  float64 `json:"left"`  // m that the left wheel has rolled since it was switched on
		Right float64 `json:"right"` // m
		Speed float64 `json:"speed"` // m/s
	}
	ultrasonicReading struct {
		Left   float64 `json:"front_left"`   // m, ultrasonicRange when nothing is nearer
		Centre float64 `json:"front_center"` // m
		Right  float64 `json:"front_right"`  // m
	}
	tiltReading struct {
		Roll  float64 `json:"roll"`  // degrees
		Pitch float64 `json:"pitch"` // degrees
		Tilt  float64 `json:"tilt"`  // degrees from upright
	}
	liftReading struct {
		Lifted bool `json:"lifted"` // the wheels are off the ground
	}
	motorReading struct {
		Linear  float64 `json:"linear"`    // m/s
		Angular float64 `json:"angular"`   // rad/s
		Blade   float64 `json:"blade"`     // of its full speed, 0 to 1
		Wheels  bool    `json:"wheels"`    // they turn
		Stood   float64 `json:"stood_for"` // s for which the wheels stand, 0 while they turn
		Driver  string  `json:"driver"`    // who has control, "" when nobody has
		Permit  bool    `json:"permit"`    // they may turn
		Cause   string  `json:"cause"`     // why they may not
	}
	powerReading struct {
		Voltage     float64 `json:"voltage"`         // V at the battery
		Current     float64 `json:"current"`         // A, positive when it charges
		Charge      float64 `json:"state_of_charge"` // percent, by the fuel gauge
		Temperature float64 `json:"temperature"`     // °C of the battery
		Load        float64 `json:"load"`            // W that the machine draws
		Blade       float64 `json:"blade_load"`      // W of it for the blade
		SolarVolts  float64 `json:"solar_voltage"`   // V
		SolarAmps   float64 `json:"solar_current"`   // A
		Docked      bool    `json:"docked"`          // the charging contacts touch
		Charging    bool    `json:"charging"`
	}
	environmentReading struct {
		Temperature float64 `json:"temperature"` // °C
		Humidity    float64 `json:"humidity"`    // percent
		Pressure    float64 `json:"pressure"`    // hPa
		Light       float64 `json:"light"`       // lux
		Rain        bool    `json:"rain"`
	}
)

const (
	gpsSpread       = 0.015 // m, standard deviation with an RTK fix
	ultrasonicRange = 4.5   // m
)

// readings are all sensors at one instant.
type readings struct {
	GPS         gpsReading
	IMU         imuReading
	Odometry    odometryReading
	Ultrasonic  ultrasonicReading
	Tilt        tiltReading
	Lift        liftReading
	Motors      motorReading
	Power       powerReading
	Environment environmentReading
}

// Read reads every sensor.
func (w *world) Read() readings {
	w.mu.Lock()
	defer w.mu.Unlock()
	noise := func(spread float64) float64 { return spread * w.noise.NormFloat64() }

	latitude, longitude := geographic(point{w.at.X + noise(gpsSpread), w.at.Y + noise(gpsSpread)})
	roll, pitch := w.ground()
	roll += w.leaning
	temperature := w.sky.temperature()
	solarAmps := w.battery.solar / solarVoltage
	return readings{
		GPS: gpsReading{
			Latitude: round(latitude, 9), Longitude: round(longitude, 9), Altitude: round(originAltitude+noise(0.03), 3),
			Speed: round(math.Abs(w.v+noise(0.01)), 3), Accuracy: gpsSpread,
			Satellites: 17 + w.noise.IntN(6), Fix: "rtk_fixed",
		},
		IMU: imuReading{
			Orientation:     attitude{Roll: round(roll+noise(0.1), 2), Pitch: round(pitch+noise(0.1), 2), Yaw: round(degrees(wrap(w.gyroYaw+noise(0.0005))), 3)},
			AngularVelocity: vector{round(noise(0.003), 4), round(noise(0.003), 4), round(w.w+gyroBias+noise(0.003), 4)},
			Acceleration: vector{
				round(-9.81*math.Sin(pitch*math.Pi/180)+noise(0.05), 3),
				round(w.v*w.w+9.81*math.Sin(roll*math.Pi/180)+noise(0.05), 3),
				round(9.81+noise(0.05), 3),
			},
			Temperature: round(temperature+8+noise(0.1), 1),
		},
		Odometry:   odometryReading{Left: round(w.leftWheel, 4), Right: round(w.rightWheel, 4), Speed: round(w.v, 3)},
		Ultrasonic: w.ultrasonic(noise),
		Tilt:       tiltReading{Roll: round(roll, 2), Pitch: round(pitch, 2), Tilt: round(math.Hypot(roll, pitch)+math.Abs(noise(0.1)), 2)},
		Lift:       liftReading{Lifted: w.lifted},
		Motors:     w.motors(),
		Power: powerReading{
			Voltage: round(w.battery.voltage()+noise(0.01), 2), Current: round(w.battery.current+noise(0.02), 2),
			Charge: round(100*w.battery.level(), 2), Temperature: round(temperature+w.battery.heat, 1),
			Load: round(w.battery.load+math.Abs(noise(0.5)), 1), Blade: round(80*w.blade, 1),
			SolarVolts: solarVoltage, SolarAmps: round(solarAmps, 3),
			Docked: w.contact(), Charging: w.battery.charging,
		},
		Environment: environmentReading{
			Temperature: round(temperature+noise(0.1), 1), Humidity: round(w.sky.humidity()+noise(0.3), 1),
			Pressure: round(w.sky.pressure+noise(0.1), 1), Light: round(w.sky.sun()*110, 0), Rain: w.sky.rain > 0.1,
		},
	}
}

// Motors reads what the motors do.
func (w *world) Motors() motorReading {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.motors()
}

func (w *world) motors() motorReading {
	r := motorReading{Linear: round(w.v, 3), Angular: round(w.w, 3), Blade: round(w.blade, 2), Wheels: w.stood < 0}
	if !r.Wheels {
		r.Stood = round(w.real-w.stood, 3)
	}
	return r
}

// ground is how the lawn slopes under the mower, as it faces: roll and pitch in degrees.
func (w *world) ground() (roll, pitch float64) {
	// Gentle hills: the gradient of 0.12·sin(x/3)·cos(y/4).
	gx := 0.12 / 3 * math.Cos(w.at.X/3) * math.Cos(w.at.Y/4)
	gy := -0.12 / 4 * math.Sin(w.at.X/3) * math.Sin(w.at.Y/4)
	sin, cos := math.Sincos(w.at.Heading)
	return degrees(math.Atan(-gx*sin + gy*cos)), degrees(math.Atan(gx*cos + gy*sin))
}

// ultrasonic sends three beams forward, which the hedge and people throw back.
func (w *world) ultrasonic(noise func(float64) float64) ultrasonicReading {
	beam := func(angle float64) float64 {
		sin, cos := math.Sincos(w.at.Heading + angle)
		d := min(
			toWall(w.at.X, cos, -hedge, lawnWidth+hedge),
			toWall(w.at.Y, sin, -hedge, lawnHeight+hedge),
			ultrasonicRange)
		if w.visits.here {
			const body = 0.25 // m, radius of a person
			dx, dy := w.visits.person.at.X-w.at.X, w.visits.person.at.Y-w.at.Y
			along, aside := dx*cos+dy*sin, math.Abs(dy*cos-dx*sin)
			if along > 0 && aside < body {
				d = min(d, along-math.Sqrt(body*body-aside*aside))
			}
		}
		return round(max(0.02, min(ultrasonicRange, d+noise(0.01))), 2)
	}
	return ultrasonicReading{Left: beam(0.5), Centre: beam(0), Right: beam(-0.5)}
}

// toWall is the distance from x, going dx per metre, to the one of two walls that is ahead.
func toWall(x, dx, low, high float64) float64 {
	switch {
	case dx > 1e-9:
		return (high - x) / dx
	case dx < -1e-9:
		return (low - x) / dx
	}
	return math.Inf(1)
}

// An object is what the cameras, which look all around, make of something in a frame.
type object struct {
	Class      string  `json:"class"`
	Confidence float64 `json:"confidence"` // 0 to 1
	Distance   float64 `json:"distance"`   // m from the mower
	Bearing    float64 `json:"bearing"`    // degrees, positive to the left of where the mower faces
}

// A frame is one look of the cameras.
type frame struct {
	Number     uint64
	Objects    []object
	Brightness float64 // 0 to 1
	Grass      float64 // part of the image that is grass, 0 to 1
}

// A camera looks at a world; it is the vision service's own piece of hardware. It is not safe for concurrent use.
type camera struct {
	world  *world
	frames uint64
}

func (c *camera) Look() frame {
	w := c.world
	w.mu.Lock()
	defer w.mu.Unlock()
	c.frames++
	f := frame{
		Number:     c.frames,
		Objects:    []object{},
		Brightness: round(min(1, 0.25+w.sky.sun()/1300), 2),
		Grass:      round(0.75+0.1*math.Sin(w.at.Heading)+0.02*w.noise.NormFloat64(), 2),
	}
	if d := w.visits.person.at.distance(w.at.at()); w.visits.here && d < sightRange {
		direction := math.Atan2(w.visits.person.at.Y-w.at.Y, w.visits.person.at.X-w.at.X)
		f.Objects = append(f.Objects, object{
			Class:      "person",
			Confidence: round(min(0.99, 0.97-0.03*d+0.02*w.noise.NormFloat64()), 2),
			Distance:   round(max(0, d+0.03*w.noise.NormFloat64()), 2),
			Bearing:    round(degrees(wrap(direction-w.at.Heading)), 1),
		})
	}
	return f
}

// conditions are the weather over the lawn, as a weather service on the net would tell it.
type conditions struct {
	Temperature   float64 `json:"temperature" doc:"°C"`
	Humidity      float64 `json:"humidity" doc:"percent"`
	Pressure      float64 `json:"pressure" doc:"hPa"`
	WindSpeed     float64 `json:"wind_speed" doc:"m/s"`
	WindDirection float64 `json:"wind_direction" doc:"degrees"`
	CloudCover    float64 `json:"cloud_cover" doc:"percent"`
	Precipitation float64 `json:"precipitation" doc:"mm per hour"`
	Irradiance    float64 `json:"irradiance" doc:"W/m²"`
	Condition     string  `json:"condition"`
}

// An outlook is the weather of an hour to come.
type outlook struct {
	InHours         int     `json:"in_hours"`
	Temperature     float64 `json:"temperature" doc:"°C"`
	RainProbability float64 `json:"precipitation_probability" doc:"percent"`
	WindSpeed       float64 `json:"wind_speed" doc:"m/s"`
	Condition       string  `json:"condition"`
}

// Weather returns the conditions now and the outlook for the hours to come.
func (w *world) Weather() (conditions, []outlook) {
	w.mu.Lock()
	s := w.sky // a copy; its random source is not touched below
	w.mu.Unlock()
	now := conditions{
		Temperature: round(s.temperature(), 1), Humidity: round(s.humidity(), 0), Pressure: round(s.pressure, 1),
		WindSpeed: round(s.wind, 1), WindDirection: round(s.windFrom, 0), CloudCover: round(100*s.cloud, 0),
		Precipitation: round(s.rain, 1), Irradiance: round(s.sun(), 0), Condition: s.condition(),
	}
	var hours []outlook
	for _, h := range []int{1, 3, 6, 12} {
		later := s
		later.hour = math.Mod(s.hour+float64(h), 24)
		later.cloud = max(0, min(1, s.cloud-0.2*s.tendency*min(1, float64(h)/3)))
		later.rain = max(0, (later.cloud-0.85)*30)
		hours = append(hours, outlook{
			InHours: h, Temperature: round(later.temperature(), 1),
			RainProbability: round(100*max(0, min(1, (later.cloud-0.4)*1.4)), 0),
			WindSpeed:       round(s.wind, 1), Condition: later.condition(),
		})
	}
	return now, hours
}

// realSince is the real time that the world has seen.
func (w *world) realSince() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Duration(w.real * float64(time.Second))
}

// round keeps so many digits after the point, so that a reading says no more than its sensor knows.
func round(x float64, digits int) float64 {
	p := math.Pow10(digits)
	return math.Round(x*p) / p
}
