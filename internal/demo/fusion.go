package demo

import "math"

// A filter is an extended Kalman filter of where the mower is: it predicts from odometers and gyroscope, which drift, and
// corrects by the satellites, which are noisy. The heading, which no sensor tells, follows from how the two agree.
// It works in increments, so it does not matter how often it is fed.
type filter struct {
	at    pose
	cov   [3][3]float64 // of X, Y, Heading
	fixed bool          // has seen a satellite fix

	left, right, yaw float64 // of the last prediction
	rolling          bool    // these are set
}

// newFilter starts at a pose that is only roughly known.
func newFilter(at pose) *filter {
	f := &filter{at: at}
	f.cov[0][0], f.cov[1][1], f.cov[2][2] = 0.5*0.5, 0.5*0.5, 0.2*0.2
	return f
}

// predict moves the estimate by what the wheels (m) and the gyroscope (rad) have added up since the last call.
func (f *filter) predict(left, right, yaw float64) {
	if !f.rolling {
		f.left, f.right, f.yaw, f.rolling = left, right, yaw, true
		return
	}
	ds := (left - f.left + right - f.right) / 2
	turn := wrap(yaw - f.yaw)
	if math.Abs(left-f.left)+math.Abs(right-f.right) < 1e-3 {
		turn = 0 // who stands does not turn: it is the gyroscope that drifts, half a radian in an hour in the dock
	}
	f.left, f.right, f.yaw = left, right, yaw

	middle := f.at.Heading + turn/2
	dx, dy := ds*math.Cos(middle), ds*math.Sin(middle)
	f.at = pose{f.at.X + dx, f.at.Y + dy, wrap(f.at.Heading + turn)}

	// P ← F P Fᵀ + Q, with F = [1 0 -dy; 0 1 dx; 0 0 1].
	p := f.cov
	for c := range 3 {
		p[0][c] -= dy * f.cov[2][c]
		p[1][c] += dx * f.cov[2][c]
	}
	f.cov = p
	for r := range 3 {
		f.cov[r][0] -= dy * p[r][2]
		f.cov[r][1] += dx * p[r][2]
	}
	along := 0.02 * math.Abs(ds)
	f.cov[0][0] += along*along + 1e-6
	f.cov[1][1] += along*along + 1e-6
	spread := 0.02*math.Abs(ds) + 0.01*math.Abs(turn) + 2e-4
	f.cov[2][2] += spread * spread
}

// correct takes a satellite fix with its standard deviation, m, into account.
func (f *filter) correct(fix point, accuracy float64) {
	f.fixed = true
	// The two coordinates are measured independently, so they are taken one after the other.
	f.correctAxis(0, fix.X-f.at.X, accuracy)
	f.correctAxis(1, fix.Y-f.at.Y, accuracy)
}

func (f *filter) correctAxis(axis int, innovation, accuracy float64) {
	s := f.cov[axis][axis] + accuracy*accuracy
	k := [3]float64{f.cov[0][axis] / s, f.cov[1][axis] / s, f.cov[2][axis] / s}
	f.at.X += k[0] * innovation
	f.at.Y += k[1] * innovation
	f.at.Heading = wrap(f.at.Heading + k[2]*innovation)
	row := f.cov[axis]
	for r := range 3 {
		for c := range 3 {
			f.cov[r][c] -= k[r] * row[c]
		}
	}
}

// accuracy is the standard deviation of the position, m.
func (f *filter) accuracy() float64 { return math.Sqrt((f.cov[0][0] + f.cov[1][1]) / 2) }
