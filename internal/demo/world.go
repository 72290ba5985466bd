package demo

import (
	"math"
	"math/rand/v2"
	"sync"
	"time"
)

// The machine and its garden, in metres, seconds, radians and kilograms.
const (
	lawnWidth  = 20.0 // west to east
	lawnHeight = 15.0 // south to north
	hedge      = 1.0  // from the lawn's edge to the hedge around it, which the ultrasonic sensors see

	trackWidth   = 0.40 // between the driven wheels
	bladeWidth   = 0.30
	maxWheel     = 0.70 // m/s that a driven wheel can turn at
	maxAccel     = 0.80 // m/s², also when braking in normal driving
	hardBrake    = 2.50 // m/s², when stopped for safety
	maxSpin      = 1.20 // rad/s
	maxSpinAccel = 3.00 // rad/s²
	hardSpin     = 8.00 // rad/s², when stopped for safety

	deadMan = 500 * time.Millisecond // real time without a set point after which the motors stop

	step     = 0.01            // s of simulated time per step of the physics
	cellSize = 0.05            // m, of the grid that remembers what is cut
	maxGap   = 2 * time.Second // real time that one Advance makes up for at most
)

// Where the dock is, which way a docked mower faces, and where it begins to drive straight into it.
var (
	dockPose     = pose{X: 0.45, Y: 0.16, Heading: math.Pi}
	dockApproach = point{X: 1.45, Y: 0.16}
)

type point struct{ X, Y float64 }

func (p point) distance(q point) float64 { return math.Hypot(q.X-p.X, q.Y-p.Y) }

// A pose is a place on the lawn, from its south-west corner, and a heading, counter-clockwise from east.
type pose struct{ X, Y, Heading float64 }

func (p pose) at() point { return point{p.X, p.Y} }

// A world is the simulated machine on its lawn. It is deterministic: the same seed and the same calls with the same
// times give the same readings. Its methods may be called concurrently.
type world struct {
	speed float64 // simulated seconds per second

	mu   sync.Mutex // guards everything below
	real float64    // s of real time since the start
	sim  float64    // s of simulated time since the start
	owed float64    // s of simulated time that Advance was given and that is less than a step

	at                    pose
	v, w                  float64 // actual speed, m/s, and turn rate, rad/s
	wantV, wantW          float64 // set point
	wantBlade             bool
	setAt                 float64 // real time of the last set point
	braking               bool    // Stop was called since
	stood                 float64 // real time since which the wheels stand, -1 while they turn
	blade                 float64 // speed of the blade, 0 to 1
	slip                  float64 // turn rate that the ground adds, rad/s
	leftWheel, rightWheel float64 // odometers, m
	gyroYaw               float64 // what the inertial unit has integrated, rad

	// What somebody has simulated: see Tilt and Lift.
	leaning float64 // degrees
	lifted  bool

	cut      []bool // per cell
	cutCells int

	battery battery
	sky     sky
	visits  visits

	physics, noise *rand.Rand
}

// newWorld returns a world with the mower in its dock. speed is over 0.
func newWorld(seed uint64, speed float64) *world {
	random := func(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, stream)) }
	return &world{
		speed: speed,
		at:    dockPose,
		setAt: math.Inf(-1),
		cut:   make([]bool, cells(lawnWidth)*cells(lawnHeight)),

		battery: newBattery(),
		sky:     newSky(random(1)),
		visits:  newVisits(random(2)),
		physics: random(3),
		noise:   random(4),
	}
}

func cells(length float64) int { return int(math.Round(length / cellSize)) }

// Drive sets what the motors should do: v in m/s, w in rad/s (positive turns left), and the blade. It holds for the dead-man time.
func (w *world) Drive(v, turn float64, blade bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wantV, w.wantW, w.wantBlade = v, turn, blade
	w.setAt, w.braking = w.real, false
}

// Stop brakes at once, and the blade too: the last set point counts no more. The next one drives again.
func (w *world) Stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wantV, w.wantW, w.wantBlade, w.braking = 0, 0, false, true
	w.setAt = math.Inf(-1)
}

// Tilt leans the mower to a side by so many degrees, as a bank that it drives along would.
func (w *world) Tilt(degrees float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leaning = degrees
}

// Lift takes the wheels off the ground, or puts them back to where they were.
func (w *world) Lift(up bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lifted = up
}

// Visit lets a person walk past the mower now.
func (w *world) Visit() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.visits.come(w.real, w.soon())
}

// Advance lets d of real time pass. After a pause of the whole process it makes up for maxGap only.
func (w *world) Advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.owed += min(d, maxGap).Seconds() * w.speed
	for w.owed >= step {
		w.owed -= step
		w.tick()
	}
}

// tick is one step of everything.
func (w *world) tick() {
	w.real += step / w.speed
	w.sim += step
	w.drive()
	w.mow()
	docked := w.contact()
	w.battery.tick(step, w.load(), w.sky.solarPower(), docked)
	w.sky.tick(step)
	w.visits.tick(w.real, step/w.speed, w.soon(), w.moving())
}

// drive moves the machine.
func (w *world) drive() {
	wantV, wantW, accel, spinAccel := w.wantV, w.wantW, maxAccel, maxSpinAccel
	if w.braking {
		wantV, wantW, accel, spinAccel = 0, 0, hardBrake, hardSpin
	} else if w.real-w.setAt > deadMan.Seconds() {
		wantV, wantW = 0, 0
	}
	// A wheel that should turn faster than it can makes the whole machine slower on the same arc.
	wantW = clamp(wantW, maxSpin)
	if fastest := math.Abs(wantV) + math.Abs(wantW)*trackWidth/2; fastest > maxWheel {
		wantV, wantW = wantV*maxWheel/fastest, wantW*maxWheel/fastest
	}
	w.v = approach(w.v, wantV, accel*step)
	w.w = approach(w.w, wantW, spinAccel*step)

	if w.v != 0 || w.w != 0 {
		w.stood = -1
	} else if w.stood < 0 {
		w.stood = w.real
	}

	// Grass gives way: a turn rate of its own that wanders with a time constant of two seconds, only while driving.
	w.slip += -w.slip*step/2 + 0.012*math.Sqrt(step)*w.physics.NormFloat64()
	turn := w.w
	if w.moving() {
		turn += w.slip * math.Abs(w.v)
	}
	if w.lifted { // the wheels turn in the air
		turn = 0
	} else {
		middle := w.at.Heading + turn*step/2
		w.at.X += w.v * math.Cos(middle) * step
		w.at.Y += w.v * math.Sin(middle) * step
		w.at.Heading = wrap(w.at.Heading + turn*step)
	}

	// The odometers see the wheels, not the ground, and no two wheels are alike.
	w.leftWheel += (w.v - w.w*trackWidth/2) * step * 1.004
	w.rightWheel += (w.v + w.w*trackWidth/2) * step * 0.997
	w.gyroYaw = wrap(w.gyroYaw + (turn+gyroBias)*step)
}

const gyroBias = 0.0003 // rad/s, about a degree a minute

// mow turns the blade and cuts what is under it.
func (w *world) mow() {
	if w.bladeWanted() {
		w.blade = min(1, w.blade+step/1.0)
	} else {
		w.blade = max(0, w.blade-step/0.5)
	}
	if w.blade < 0.9 {
		return
	}
	const r = bladeWidth / 2
	nx, ny := cells(lawnWidth), cells(lawnHeight)
	x0, x1 := max(0, int((w.at.X-r)/cellSize)), min(nx-1, int((w.at.X+r)/cellSize))
	y0, y1 := max(0, int((w.at.Y-r)/cellSize)), min(ny-1, int((w.at.Y+r)/cellSize))
	for y := y0; y <= y1; y++ {
		for x := x0; x <= x1; x++ {
			i := y*nx + x
			if w.cut[i] {
				continue
			}
			if w.at.at().distance(point{(float64(x) + 0.5) * cellSize, (float64(y) + 0.5) * cellSize}) <= r {
				w.cut[i] = true
				w.cutCells++
			}
		}
	}
}

func (w *world) bladeWanted() bool {
	return w.wantBlade && !w.braking && w.real-w.setAt <= deadMan.Seconds()
}

func (w *world) moving() bool { return math.Abs(w.v) > 0.01 || math.Abs(w.w) > 0.02 }

// load is what the machine draws from the battery, in watts.
func (w *world) load() float64 {
	const electronics, rolling = 9.0, 45.0
	turning := 10 * math.Abs(w.w)
	return electronics + rolling*math.Abs(w.v) + turning + 80*w.blade
}

// contact reports whether the mower stands on the dock's contacts.
func (w *world) contact() bool {
	return w.at.at().distance(dockPose.at()) < 0.12 && math.Abs(wrap(w.at.Heading-dockPose.Heading)) < 0.25 && math.Abs(w.v) < 0.05
}

// soon is where the mower will be when somebody who appears now has been seen. A mower that is simulated at ten times the
// speed has left the place where it is now by then.
func (w *world) soon() point {
	const seen = 0.25 // s of real time
	d := w.v * seen * w.speed
	return point{w.at.X + d*math.Cos(w.at.Heading), w.at.Y + d*math.Sin(w.at.Heading)}
}

// Covered returns the part of the lawn that is cut, 0 to 1.
func (w *world) Covered() float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return float64(w.cutCells) / float64(len(w.cut))
}

// truth returns where the mower really is, and its speed and turn rate, which no sensor tells.
func (w *world) truth() (at pose, v, turn float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.at, w.v, w.w
}

// wrap brings an angle into (-π, π].
func wrap(a float64) float64 {
	if a = math.Remainder(a, 2*math.Pi); a <= -math.Pi {
		return a + 2*math.Pi
	}
	return a
}

// clamp bounds x by -limit and limit.
func clamp(x, limit float64) float64 { return max(-limit, min(limit, x)) }

// approach moves from towards to by at most by.
func approach(from, to, by float64) float64 { return from + clamp(to-from, by) }
