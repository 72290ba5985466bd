package demo

import "math"

// A battery is a pack of seven lithium-ion cells in series with a charger and a small solar panel.
type battery struct {
	charge   float64 // Wh
	current  float64 // A, positive when it charges
	load     float64 // W
	solar    float64 // W
	charging bool
	heat     float64 // °C above the air
}

const (
	batteryCapacity   = 90.0  // Wh
	batteryAtStart    = 0.82  // full is 1
	batteryResistance = 0.06  // ohm
	chargerPower      = 160.0 // W
	solarVoltage      = 18.0  // V, at the panel

	batteryLow    = 20.0 // percent at which the mower goes home
	batteryEnough = 90.0 // percent at which it goes back to work
)

func newBattery() battery { return battery{charge: batteryAtStart * batteryCapacity} }

// tick lets dt seconds pass at a load and a solar power, in W.
func (b *battery) tick(dt, load, solar float64, docked bool) {
	b.load, b.solar = load, solar
	b.charging = docked && b.level() < 0.995
	power := solar - load
	if b.charging {
		// Constant current, then less and less from four fifths on.
		power += chargerPower * min(1, (1.02-b.level())/0.2)
	} else if docked {
		power = max(power, 0) // the dock feeds the machine
	}
	b.current = power / b.openVoltage()
	b.charge = min(batteryCapacity, max(0, b.charge+power*dt/3600))
	b.heat += (0.02*b.current*b.current - b.heat/900) * dt / 20
}

// level is what is left, 0 to 1.
func (b *battery) level() float64 { return b.charge / batteryCapacity }

func (b *battery) openVoltage() float64 {
	l := b.level()
	// Flat in the middle, steep where it is nearly empty.
	return 7 * (3.45 + 0.65*l + 0.10*(1-math.Exp(-15*l)) - 0.45*math.Exp(-25*l))
}

// voltage is what the terminals show, V.
func (b *battery) voltage() float64 { return b.openVoltage() + b.current*batteryResistance }
