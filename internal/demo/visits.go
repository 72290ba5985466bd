package demo

import (
	"math"
	"math/rand/v2"
)

// Visits are people who walk over the lawn, past the mower, at a pace in real time however fast the mowing is simulated.
//
// The first comes within personRange of the mower firstVisit seconds after it first moved, and stays so near for about two
// seconds. The others come at random.
type visits struct {
	random *rand.Rand
	next   float64 // real time at which the next person is within range; 0 until the mower has moved
	first  bool    // the next is the first
	person person
	here   bool // a person is
}

type person struct {
	at      point
	dx, dy  float64 // m/s
	leaving float64 // real time at which the person is out of sight
}

const (
	firstVisit  = 4.0 // s of real time after the mower first moved
	personRange = 3.0 // m, a person so near stops the mower
	sightRange  = 6.0 // m, how far the camera knows a person
	appearsAt   = 2.9 // m from the mower, where a person steps out from behind the bushes
	walking     = 1.4 // m/s
	goingAway   = 1.5 // s that a person stays in view after having left the range
	visitEvery  = 60  // s, the mean between two visits
	visitRest   = 15  // s without visits at least
)

func newVisits(random *rand.Rand) visits { return visits{random: random, first: true} }

// tick lets dt seconds of real time pass, with the mower about to be at a place, moving or not.
func (v *visits) tick(now, dt float64, mower point, moving bool) {
	if v.here {
		v.person.at.X += v.person.dx * dt
		v.person.at.Y += v.person.dy * dt
		if now >= v.person.leaving {
			v.here = false
			v.next = now + visitRest + (visitEvery-visitRest)*v.random.ExpFloat64()
		}
		return
	}
	if v.next == 0 && moving {
		v.next = now + firstVisit
	}
	if v.next == 0 || now < v.next {
		return
	}
	if !moving && !v.first { // nobody to stop: look again in a while
		v.next = now + 1
		return
	}
	v.come(now, mower)
}

// come lets a person walk past the mower along a straight line whose nearest point is in the direction of the lawn's middle.
func (v *visits) come(now float64, mower point) {
	nearest, side, spread := 2.5, 1.0, 0.0
	if !v.first {
		nearest = 1.2 + 1.5*v.random.Float64()
		spread = 1.2 * (v.random.Float64() - 0.5)
		if v.random.IntN(2) == 0 {
			side = -1
		}
	}
	v.first, v.here = false, true
	towards := math.Atan2(lawnHeight/2-mower.Y, lawnWidth/2-mower.X) + spread
	walk := towards + side*math.Pi/2
	coming := math.Sqrt(appearsAt*appearsAt-nearest*nearest) / walking    // s to the nearest point
	going := math.Sqrt(personRange*personRange-nearest*nearest) / walking // s from there out of range
	v.person = person{
		dx: walking * math.Cos(walk), dy: walking * math.Sin(walk),
		leaving: now + coming + going + goingAway,
	}
	v.person.at = point{
		X: mower.X + nearest*math.Cos(towards) - v.person.dx*coming,
		Y: mower.Y + nearest*math.Sin(towards) - v.person.dy*coming,
	}
}
