package demo

import "math"

// A leg is a straight piece of a route.
type leg struct {
	From, To point
	Cut      bool // with the blade on
	Reverse  bool // driven backwards
}

func (l leg) length() float64 { return l.From.distance(l.To) }

// heading is where the machine faces on the leg.
func (l leg) heading() float64 {
	a := math.Atan2(l.To.Y-l.From.Y, l.To.X-l.From.X)
	if l.Reverse {
		a += math.Pi
	}
	return wrap(a)
}

// progress splits a place into how far along the leg it is, from From, and how far to its left.
func (l leg) progress(p point) (along, aside float64) {
	n := l.length()
	if n == 0 {
		return 0, 0
	}
	ux, uy := (l.To.X-l.From.X)/n, (l.To.Y-l.From.Y)/n
	dx, dy := p.X-l.From.X, p.Y-l.From.Y
	return dx*ux + dy*uy, dy*ux - dx*uy
}

// lawnBoundary is the outline of the lawn, counter-clockwise.
func lawnBoundary() []point {
	return []point{{0, 0}, {lawnWidth, 0}, {lawnWidth, lawnHeight}, {0, lawnHeight}}
}

const stripeOverlap = 0.05 // m that a stripe cuts again of its neighbour

// mowingRoute covers the lawn: one lap along its edge, then stripes from west to east and back, with a U-turn of two
// turns on the spot at each end.
func mowingRoute() []leg {
	const inset = bladeWidth / 2
	const spacing = bladeWidth - stripeOverlap
	corners := []point{
		{dockApproach.X, inset}, {lawnWidth - inset, inset}, {lawnWidth - inset, lawnHeight - inset},
		{inset, lawnHeight - inset}, {inset, inset}, {dockApproach.X, inset},
	}
	var route []leg
	for i := 1; i < len(corners); i++ {
		route = append(route, leg{From: corners[i-1], To: corners[i], Cut: true})
	}
	first, last := inset+spacing, lawnHeight-inset-spacing
	stripes := int(math.Ceil((last-first)/spacing)) + 1
	west, east := inset+spacing/2, lawnWidth-inset-spacing/2
	at := corners[len(corners)-1]
	for i := range stripes {
		y := first + (last-first)*float64(i)/float64(stripes-1)
		from, to := point{west, y}, point{east, y}
		if i%2 == 1 {
			from, to = to, from
		}
		// The way to the first stripe leads over what the lap has cut.
		route = append(route, leg{From: at, To: from, Cut: i > 0}, leg{From: from, To: to, Cut: true})
		at = to
	}
	return route
}

// A follower drives the machine along legs, one after the other: on the spot into the direction of the leg, then along
// it by pure pursuit, slower towards its end.
type follower struct {
	delay   float64 // s of simulated time that a set point takes to have its effect, as far as known
	turning bool    // on the spot, before the leg
}

const (
	cruise      = 0.50 // m/s when mowing or on the way
	reverse     = 0.30 // m/s when reversing, and into the dock
	arrived     = 0.03 // m before the end at which a leg is done
	turnBegins  = 0.45 // rad off the leg's direction at which the machine stops to turn
	turnIsDone  = 0.05 // rad
	lookAhead   = 0.45 // m
	gentleBrake = 0.35 // m/s², what the speed towards an end is chosen for
)

// begin prepares for a new leg.
func (f *follower) begin() { f.turning = true }

// follow returns the speed (m/s) and turn rate (rad/s) to drive from p along l, at most at a speed; done when its end is reached.
func (f *follower) follow(p pose, l leg, fastest float64) (v, w float64, done bool) {
	along, aside := l.progress(p.at())
	left := l.length() - along
	if left < arrived {
		return 0, 0, true
	}
	off := wrap(l.heading() - p.Heading)
	if math.Abs(off) > turnBegins {
		f.turning = true
	}
	if f.turning {
		if math.Abs(off) < turnIsDone {
			f.turning = false
		} else {
			// A turn rate that the delay cannot turn into an overshoot, and that still overcomes friction.
			return 0, math.Copysign(max(0.08, min(maxSpin, math.Abs(off)*min(2.5, 0.5/f.delay))), off), false
		}
	}

	v = min(fastest, math.Sqrt(2*gentleBrake*left), max(0.04, left/(2*f.delay)))
	// Pure pursuit: the arc through a point of the leg some way ahead.
	ahead := max(lookAhead, 3*v*f.delay)
	bearing := off - math.Atan2(aside, ahead) // of that point; the same in reverse, seen from behind
	w = 2 * v * math.Sin(bearing) / math.Hypot(ahead, aside)
	w = clamp(w, maxSpin/2)
	if l.Reverse {
		v = -v
	}
	return v, w, false
}
