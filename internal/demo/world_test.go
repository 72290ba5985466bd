package demo

import (
	"fmt"
	"math"
	"reflect"
	"testing"
	"time"
)

// A rig closes the loop of world, filter and mission without a bus, at the rates of the services.
type rig struct {
	t       *testing.T
	world   *world
	filter  *filter
	mission *mission
	ticks   int
	paused  bool // safety holds the mower for a person

	worst float64 // m, between the estimated and the true position
	out   float64 // m, how far the mower was off the lawn
}

func newRig(t *testing.T, seed uint64, speed float64) *rig {
	return &rig{
		t: t, world: newWorld(seed, speed), filter: newFilter(dockPose), mission: newMission(controlDelay(speed)),
	}
}

// tick is a tenth of a second of real time.
func (r *rig) tick() {
	for range 5 {
		r.world.Advance(20 * time.Millisecond)
		at, _, _ := r.world.truth()
		r.out = max(r.out, -at.X, -at.Y, at.X-lawnWidth, at.Y-lawnHeight)
	}
	seen := r.world.Read()
	r.filter.predict(seen.Odometry.Left, seen.Odometry.Right, seen.IMU.Orientation.Yaw*math.Pi/180)
	if r.ticks%2 == 0 {
		r.filter.correct(local(seen.GPS.Latitude, seen.GPS.Longitude), seen.GPS.Accuracy)
	}
	at, _, _ := r.world.truth()
	if r.ticks > 20 {
		r.worst = max(r.worst, at.at().distance(r.filter.at.at()))
	}
	r.ticks++
	r.mission.contact, r.mission.charging, r.mission.battery = seen.Power.Docked, seen.Power.Charging, seen.Power.Charge
	if r.mission.due() {
		if err := r.mission.StartMowing(); err != nil {
			r.t.Fatal(err)
		}
	}
	if s, moving := r.mission.drive(r.filter.at); moving {
		r.world.Drive(s.Linear, s.Angular, s.Blade)
	}
}

// until ticks until the condition holds, at most for some simulated time.
func (r *rig) until(what string, within time.Duration, condition func() bool) {
	r.t.Helper()
	for end := r.world.sim + within.Seconds(); !condition(); r.tick() {
		if r.world.sim > end {
			at, _, _ := r.world.truth()
			r.t.Fatalf("%s: not within %v; activity %s, area %.2f, battery %.1f, at %.2f, estimated %.2f, leg %d of %d",
				what, within, r.mission.activity(), r.mission.areaDone(), r.mission.battery, at, r.filter.at, r.mission.next, len(r.mission.route))
		}
	}
}

func TestMowsTheWholeLawn(t *testing.T) {
	for _, speed := range []float64{1, 4, 10} {
		for seed := range uint64(2) {
			t.Run(fmt.Sprintf("speed %v seed %d", speed, seed), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, seed, speed)
				r.world.visits.next = math.Inf(1) // nobody stops it here
				if err := r.mission.StartMowing(); err != nil {
					t.Fatal(err)
				}
				lowest, charges := 100.0, 0
				was := docked
				r.until("mown and back in the dock", 6*time.Hour, func() bool {
					lowest = min(lowest, r.mission.battery)
					is := r.mission.activity()
					if was == docking && is != docking {
						charges++
					}
					was = is
					return r.mission.next == len(r.mission.route) && r.mission.doing == docked
				})
				t.Logf("covered %.4f in %.0f min, lowest battery %.1f %%, %d times docked, estimate off by %.3f m at most, outside by %.3f m",
					r.world.Covered(), r.world.sim/60, lowest, charges, r.worst, r.out)
				if c := r.world.Covered(); c < 0.97 {
					t.Errorf("covered %.3f of the lawn", c)
				}
				if r.out > 0 {
					t.Errorf("left the lawn by %.3f m", r.out)
				}
				if charges < 2 {
					t.Errorf("docked %d times: the battery never sent it home", charges)
				}
				if lowest < 15 {
					t.Errorf("the battery went down to %.1f %%", lowest)
				}
				if r.worst > 0.15 {
					t.Errorf("the estimate was off by %.2f m", r.worst)
				}
			})
		}
	}
}

func TestWorldIsDeterministic(t *testing.T) {
	run := func(seed uint64, slice time.Duration) readings {
		w := newWorld(seed, 1)
		for at := time.Duration(0); at < 30*time.Second; at += slice {
			if at%(100*time.Millisecond) == 0 {
				w.Drive(0.3, 0.2, true)
			}
			w.Advance(slice)
		}
		return w.Read()
	}
	first := run(7, 20*time.Millisecond)
	if again := run(7, 20*time.Millisecond); !reflect.DeepEqual(first, again) {
		t.Errorf("same seed, different readings:\n%+v\n%+v", first, again)
	}
	if finer := run(7, 10*time.Millisecond); !reflect.DeepEqual(first, finer) {
		t.Errorf("the readings depend on how time is sliced:\n%+v\n%+v", first, finer)
	}
	if other := run(8, 20*time.Millisecond); reflect.DeepEqual(first, other) {
		t.Error("another seed gives the same readings")
	}
}
