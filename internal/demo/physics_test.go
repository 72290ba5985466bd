package demo

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestMotorsHaveLimits(t *testing.T) {
	w := newWorld(1, 1)
	random := rand.New(rand.NewPCG(1, 1))
	_, v, turn := w.truth()
	for range 5000 {
		w.Drive(4*random.Float64()-2, 10*random.Float64()-5, false)
		w.Advance(10 * time.Millisecond)
		_, v2, turn2 := w.truth()
		if a := math.Abs(v2-v) / step; a > maxAccel+1e-9 {
			t.Fatalf("accelerated by %.2f m/s²", a)
		}
		if a := math.Abs(turn2-turn) / step; a > maxSpinAccel+1e-9 {
			t.Fatalf("turn rate changed by %.2f rad/s²", a)
		}
		if math.Abs(v2) > maxWheel || math.Abs(turn2) > maxSpin {
			t.Fatalf("%.2f m/s and %.2f rad/s are beyond the motors", v2, turn2)
		}
		v, turn = v2, turn2
	}
}

func TestDeadMan(t *testing.T) {
	for _, speed := range []float64{1, 4} {
		w := newWorld(1, speed)
		for range 50 {
			w.Drive(0.5, 0, true)
			w.Advance(50 * time.Millisecond)
		}
		if _, v, _ := w.truth(); v < 0.49 || w.blade < 1 {
			t.Fatalf("speed %v: it should drive at 0.5 m/s and cut, but v = %.2f, blade %.2f", speed, v, w.blade)
		}
		w.Advance(deadMan - 70*time.Millisecond) // since the last set point: 50 ms more
		if _, v, _ := w.truth(); v < 0.49 {
			t.Errorf("speed %v: it brakes at %.2f m/s before the dead-man time is over", speed, v)
		}
		w.Advance(20*time.Millisecond + time.Duration(float64(time.Second)*(0.5/maxAccel+0.05)/speed))
		if _, v, turn := w.truth(); v != 0 || turn != 0 || w.blade > 0 {
			t.Errorf("speed %v: it still moves after the dead-man time: %.2f m/s, %.2f rad/s, blade %.2f", speed, v, turn, w.blade)
		}
	}
}

func TestStop(t *testing.T) {
	w := newWorld(1, 1)
	drive := func() {
		for range 30 {
			w.Drive(0.5, 0.3, true)
			w.Advance(50 * time.Millisecond)
		}
	}
	drive()
	if m := w.Motors(); !m.Wheels || m.Blade != 1 || m.Linear < 0.4 || m.Stood != 0 {
		t.Errorf("driven, the motors say %+v", m)
	}
	w.Stop() // the last set point is fresh, and counts no more
	w.Advance(250 * time.Millisecond)
	if _, v, turn := w.truth(); v != 0 || turn != 0 {
		t.Fatalf("a quarter of a second after Stop it moves with %.2f m/s, %.2f rad/s", v, turn)
	}
	w.Advance(300 * time.Millisecond)
	if m := w.Motors(); m.Wheels || m.Blade != 0 || m.Stood < 0.3 || m.Stood > 0.4 {
		t.Fatalf("half a second after Stop the motors say %+v", m)
	}
	drive()
	if _, v, _ := w.truth(); v < 0.4 {
		t.Errorf("driven again it makes only %.2f m/s", v)
	}
}

func TestSimulatedMishaps(t *testing.T) {
	w := newWorld(1, 1)
	drive := func() {
		for range 20 {
			w.Drive(-0.3, 0, false)
			w.Advance(50 * time.Millisecond)
		}
	}
	w.Tilt(30)
	if r := w.Read(); r.Tilt.Tilt < 25 || r.IMU.Orientation.Roll < 20 || r.Lift.Lifted {
		t.Errorf("leaning: %+v", r)
	}
	w.Tilt(0)
	w.Lift(true)
	before, _, _ := w.truth()
	drive()
	if after, v, _ := w.truth(); after != before || v == 0 || !w.Read().Lift.Lifted || w.Read().Tilt.Tilt > 10 {
		t.Errorf("lifted it went from %v to %v with the wheels at %.2f m/s: %+v", before, after, v, w.Read())
	}
	w.Lift(false)
	drive()
	if after, _, _ := w.truth(); after == before || w.Read().Lift.Lifted {
		t.Error("on the ground again it does not move")
	}
	w.Visit()
	if c := (&camera{world: w}); len(c.Look().Objects) != 1 {
		t.Error("nobody came")
	}
}

func TestLongPauseOfTheProcess(t *testing.T) {
	w := newWorld(1, 1)
	w.Drive(0.5, 0, false)
	w.Advance(time.Hour)
	if _, v, _ := w.truth(); v != 0 || w.sim > maxGap.Seconds()+step {
		t.Errorf("after a pause of an hour %.1f s are simulated and it drives at %.2f m/s", w.sim, v)
	}
}

// holdForPeople does what vision and safety do: it holds the mower while a person is near, and says whether one is.
func (r *rig) holdForPeople(c *camera) (near bool) {
	for _, o := range c.Look().Objects {
		near = near || o.Distance < personRange
	}
	switch {
	case near && !r.paused:
		r.world.Stop()
		r.mission.Interrupt("person")
	case !near && r.paused:
		if err := r.mission.Resume(); err != nil {
			r.t.Fatal(err)
		}
	}
	r.paused = near
	return near
}

func TestFirstPersonComesAndGoes(t *testing.T) {
	for _, speed := range []float64{1, 4, 10} {
		for seed := range uint64(5) {
			r := newRig(t, seed, speed)
			c := &camera{world: r.world}
			if err := r.mission.StartMowing(); err != nil {
				t.Fatal(err)
			}
			var moved, came, left float64
			var away pose
			for range 250 {
				r.tick()
				at, v, turn := r.world.truth()
				if moved == 0 && (v != 0 || turn != 0) {
					moved = r.world.real
				}
				near := r.holdForPeople(c)
				switch {
				case near && came == 0:
					came = r.world.real
				case near:
					if r.world.real > came+0.35 && (v != 0 || turn != 0) {
						t.Fatalf("seed %d: it moves past a person", seed)
					}
				case came > 0 && left == 0:
					left, away = r.world.real, at
				}
				if left > 0 && r.world.real > left+2 {
					break
				}
			}
			if came-moved < 3.8 || came-moved > 4.4 {
				t.Errorf("speed %v seed %d: the first person came %.1f s after the mower moved", speed, seed, came-moved)
			}
			if left-came < 1.5 || left-came > 3.3 {
				t.Errorf("speed %v seed %d: the first person stayed %.1f s", speed, seed, left-came)
			}
			if at, _, _ := r.world.truth(); at.at().distance(away.at()) < 0.1 && math.Abs(wrap(at.Heading-away.Heading)) < 0.5 {
				t.Errorf("speed %v seed %d: it did not go on", speed, seed)
			}
		}
	}
}

func TestMorePeopleComeAtRandom(t *testing.T) {
	visits := func(seed uint64) (times []float64) {
		r := newRig(t, seed, 1)
		c := &camera{world: r.world}
		if err := r.mission.StartMowing(); err != nil {
			t.Fatal(err)
		}
		was := false
		for range 10 * 60 * 10 {
			r.tick()
			near := r.holdForPeople(c)
			if near && !was {
				times = append(times, r.world.real)
			}
			was = near
		}
		return times
	}
	a, again, b := visits(1), visits(1), visits(2)
	if len(a) < 4 || len(a) > 25 {
		t.Errorf("%d people in ten minutes", len(a))
	}
	if !slices.Equal(a, again) {
		t.Errorf("the same seed gives %v and %v", a, again)
	}
	if slices.Equal(a, b) {
		t.Error("two seeds give the same visits")
	}
}

func TestFilterFindsItsHeading(t *testing.T) {
	w := newWorld(3, 1)
	w.at = pose{5, 5, 1}
	f := newFilter(pose{5.4, 4.7, 0.6}) // as wrong as its covariance allows
	for i := range 200 {
		w.Drive(0.4, 0.3*math.Sin(float64(i)/20), false)
		w.Advance(100 * time.Millisecond)
		seen := w.Read()
		f.predict(seen.Odometry.Left, seen.Odometry.Right, seen.IMU.Orientation.Yaw*math.Pi/180)
		f.correct(local(seen.GPS.Latitude, seen.GPS.Longitude), seen.GPS.Accuracy)
	}
	at, _, _ := w.truth()
	if d := at.at().distance(f.at.at()); d > 0.05 {
		t.Errorf("after 20 s the position is off by %.3f m", d)
	}
	if d := math.Abs(wrap(at.Heading - f.at.Heading)); d > 0.05 {
		t.Errorf("after 20 s the heading is off by %.3f rad", d)
	}
	if a := f.accuracy(); a <= 0 || a > gpsSpread {
		t.Errorf("accuracy %.4f m, although it should be better than a single fix", a)
	}
}

func TestFilterStandsStill(t *testing.T) {
	w := newWorld(3, 1)
	f := newFilter(dockPose)
	for range 3600 {
		w.Advance(time.Second)
		seen := w.Read()
		f.predict(seen.Odometry.Left, seen.Odometry.Right, seen.IMU.Orientation.Yaw*math.Pi/180)
	}
	if d := math.Abs(wrap(f.at.Heading - dockPose.Heading)); d > 0.01 {
		t.Errorf("an hour in the dock turned the estimate by %.2f rad", d)
	}
}

func TestSensorsSeeTheWorld(t *testing.T) {
	w := newWorld(1, 1)
	w.at = pose{X: lawnWidth - 1, Y: 5, Heading: 0}
	u := w.Read().Ultrasonic
	if want := 1 + hedge; math.Abs(u.Centre-want) > 0.05 {
		t.Errorf("the hedge is %.2f m ahead, the middle beam says %.2f", want, u.Centre)
	}
	if want := (1 + hedge) / math.Cos(0.5); math.Abs(u.Left-want) > 0.05 || math.Abs(u.Right-want) > 0.05 {
		t.Errorf("the slanted beams say %.2f and %.2f, not %.2f", u.Left, u.Right, want)
	}
	w.at = pose{X: 10, Y: 7, Heading: 1}
	if u := w.Read().Ultrasonic; u.Centre < ultrasonicRange-0.05 {
		t.Errorf("nothing is near, the middle beam says %.2f", u.Centre)
	}
	w.visits.here = true
	w.visits.person.at = point{10 + 2*math.Cos(1), 7 + 2*math.Sin(1)}
	if u := w.Read().Ultrasonic; math.Abs(u.Centre-1.75) > 0.05 {
		t.Errorf("a person stands 2 m ahead, the middle beam says %.2f", u.Centre)
	}
	objects := (&camera{world: w}).Look().Objects
	if len(objects) != 1 || math.Abs(objects[0].Distance-2) > 0.2 || math.Abs(objects[0].Bearing) > 1 || objects[0].Class != "person" {
		t.Errorf("a person stands 2 m ahead, the cameras see %+v", objects)
	}
	w.visits.person.at.X += 10
	if objects := (&camera{world: w}).Look().Objects; len(objects) != 0 {
		t.Errorf("the cameras see %+v", objects)
	}
}

func TestGeographic(t *testing.T) {
	for _, p := range []point{{0, 0}, {20, 15}, {3.25, 14.5}} {
		lat, lon := geographic(p)
		if q := local(lat, lon); q.distance(p) > 1e-6 {
			t.Errorf("%v became %v", p, q)
		}
	}
	for heading, want := range map[float64]float64{0: 90, math.Pi / 2: 0, math.Pi: 270, -math.Pi / 2: 180} {
		if got := compass(heading); math.Abs(got-want) > 1e-9 {
			t.Errorf("compass(%v) = %v, want %v", heading, got, want)
		}
		if back := fromCompass(want); math.Abs(wrap(back-heading)) > 1e-9 {
			t.Errorf("fromCompass(%v) = %v, want %v", want, back, heading)
		}
	}
}

func TestBattery(t *testing.T) {
	b := newBattery()
	full := b.voltage()
	for range 1800 {
		b.tick(1, 100, 0, false)
	}
	if used := (batteryAtStart - b.level()) * batteryCapacity; math.Abs(used-50) > 0.1 {
		t.Errorf("half an hour at 100 W took %.1f Wh", used)
	}
	if b.voltage() >= full || b.current >= 0 {
		t.Errorf("discharging: %.2f V after %.2f V, %.1f A", b.voltage(), full, b.current)
	}
	for range 7200 {
		b.tick(1, 10, 0, true)
	}
	if b.level() < 0.98 || b.charging {
		t.Errorf("after two hours in the dock it is at %.3f, charging %v", b.level(), b.charging)
	}
	for range 100_000 {
		b.tick(1, 500, 0, false)
	}
	if b.level() != 0 || math.IsNaN(b.voltage()) || b.voltage() < 7*2.5 {
		t.Errorf("empty: level %v, %.2f V", b.level(), b.voltage())
	}
}

func TestWeatherStaysWeather(t *testing.T) {
	w := newWorld(9, 1)
	for range 3 * 24 * 60 {
		for range 60 {
			w.sky.tick(1)
		}
		now, hours := w.Weather()
		if now.Temperature < -5 || now.Temperature > 45 || now.Humidity < 0 || now.Humidity > 100 || now.CloudCover < 0 || now.CloudCover > 100 ||
			now.WindSpeed < 0 || now.WindSpeed > 30 || now.Irradiance < 0 || now.Pressure < 950 || now.Pressure > 1080 || len(hours) != 4 {
			t.Fatalf("at %.1f h: %+v %+v", w.sky.hour, now, hours)
		}
	}
}

func TestHistogram(t *testing.T) {
	var h histogram
	if l := h.latency(); l != (Latency{}) {
		t.Errorf("an empty histogram says %+v", l)
	}
	for i := 1; i <= 1000; i++ {
		h.add(time.Duration(i) * time.Microsecond)
	}
	l := h.latency()
	if l.Count != 1000 || l.Max != time.Millisecond {
		t.Errorf("%+v", l)
	}
	if l.P50 < 500*time.Microsecond || l.P50 > 563*time.Microsecond || l.P99 < 990*time.Microsecond || l.P99 > time.Millisecond {
		t.Errorf("quantiles %v and %v", l.P50, l.P99)
	}
	for _, v := range []uint64{0, 1, 7, 8, 15, 16, 17, 1 << 20, 1<<40 + 12345, math.MaxInt64} {
		i := bucketOf(v)
		if end := uint64(bucketEnd(i)); v > end || float64(end) > float64(v)*1.125 {
			t.Errorf("%d is in bucket %d, which ends at %d", v, i, end)
		}
		if i > 0 && uint64(bucketEnd(i-1)) >= v {
			t.Errorf("%d belongs to an earlier bucket than %d", v, i)
		}
	}
}
