package demo

import (
	"time"

	estop "github.com/lawnberry/lawnberry/safety"
)

// A stopWatch knows the emergency stop and the motors from the bus, and measures how long one takes to stop the other.
type stopWatch struct {
	state   estop.State
	known   bool // the motors have reported
	motors  motorReading
	begun   bool      // it was released once
	counted bool      // the engagement that stands
	at      time.Time // when that was published, while it is not known whether the wheels stand; else zero
	last    time.Duration
	total   EmergencyStops
}

// clockTrust is how old an engagement may be by its own time: beyond it the clock of who has engaged is another.
const clockTrust = time.Second

// turn takes note of a state of the emergency stop. One that is only not known is no engagement.
func (w *stopWatch) turn(s estop.State, now time.Time) {
	w.state = s
	switch {
	case !s.Engaged:
		w.begun, w.counted, w.at = true, false, time.Time{}
	case w.begun && !w.counted && s.By != "":
		w.counted, w.at = true, s.Since
		w.total.Engaged++
		if age := now.Sub(s.Since); age < 0 || age > clockTrust {
			w.at = now
		}
	}
}

// read takes note of a reading of the motors.
func (w *stopWatch) read(r motorReading, at time.Time) {
	turned := w.motors.Wheels
	w.known, w.motors = true, r
	if w.at.IsZero() || r.Wheels || at.Before(w.at) {
		return
	}
	stood := at.Add(-time.Duration(r.Stood * float64(time.Second)))
	took := stood.Sub(w.at)
	if took <= 0 && turned { // within the grain of the motors' clock
		took = at.Sub(w.at)
	}
	if took > 0 { // else they stood already
		w.last = took
		w.total.Stopped++
		w.total.SlowestMS = max(w.total.SlowestMS, round(float64(took)/float64(time.Millisecond), 1))
	}
	w.at = time.Time{}
}

func (w *stopWatch) view() StopView {
	return StopView{
		Engaged: w.state.Engaged, Reason: w.state.Reason, By: w.state.By, Since: w.state.Since,
		Known: w.known, Wheels: w.motors.Wheels, Blade: w.motors.Blade > 0, Driver: w.motors.Driver, Cause: w.motors.Cause,
		Engagements: w.total.Engaged, Last: w.last,
	}
}
