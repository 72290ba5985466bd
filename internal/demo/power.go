package demo

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
)

// Power is power: it makes the state of the battery, the solar panel and the consumption out of the power sensor, and says
// when the battery is low and when it is charged again.
type power struct {
	mu     sync.Mutex // guards everything below
	last   powerReading
	seenAt time.Time // when the last reading came
	smooth float64   // W that the machine draws, averaged over some seconds; 0 before the first reading
	low    bool      // said so, and not yet charged again
	was    bool      // charging, when it was published last

	changed latest[powerReading]
}

type (
	batteryData struct {
		Voltage     float64  `json:"voltage" doc:"V"`
		Current     float64  `json:"current" doc:"A, positive when it charges"`
		Power       float64  `json:"power" doc:"W, positive when it charges"`
		Level       float64  `json:"level" doc:"percent"`
		Temperature float64  `json:"temperature" doc:"°C"`
		Charging    bool     `json:"charging"` //
		Remaining   *float64 `json:"time_remaining" doc:"minutes until it is empty; null when it charges"`
	}
	solarData struct {
		Voltage float64 `json:"voltage"` // V
		Current float64 `json:"current"` // A
		Power   float64 `json:"power"`   // W
	}
	consumptionData struct {
		Total float64 `json:"total"` // W
		Blade float64 `json:"blade"` // W
		Drive float64 `json:"drive"` // W, and the electronics
	}
	batteryEvent struct {
		Level float64 `json:"level"` // percent
	}
)

func newPower() *power { return &power{changed: newLatest[powerReading]()} }

const readingPatience = 5 * time.Second // without the power sensor before the service calls itself degraded

func (p *power) needs() []string { return []string{"hardware_interface"} }

func (p *power) health(context.Context) (service.State, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if since := time.Since(p.seenAt); !p.seenAt.IsZero() && since > readingPatience {
		return service.Degraded, "no reading of the power sensor for " + since.Round(time.Second).String()
	}
	return service.Healthy, ""
}

func (p *power) setup(ctx context.Context, n *node) error {
	service.Handle(n.Service, "get_battery", func(context.Context, struct{}) (batteryData, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.seenAt.IsZero() {
			return batteryData{}, fmt.Errorf("the battery is not known yet: hardware_interface has sent no reading")
		}
		return p.batteryLocked(), nil
	}, service.Description("Tells the charge of the battery, and how long it lasts."), service.Repeatable())
	return n.on(ctx, "sensors/power/data", p.sense)
}

func (p *power) sense(d *client.Delivery) {
	r, err := message.SensorOf[powerReading](d.Message)
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seenAt.IsZero() {
		p.smooth = r.Load
	}
	p.smooth += (r.Load - p.smooth) * 0.1
	first := p.seenAt.IsZero()
	p.last, p.seenAt = r, time.Now()
	if first || r.Charging != p.was || !p.low && r.Charge < batteryLow || p.low && r.Charge >= batteryEnough {
		p.changed.put(r)
	}
}

func (p *power) batteryLocked() batteryData {
	b := batteryData{
		Voltage: p.last.Voltage, Current: p.last.Current, Power: round(p.last.Voltage*p.last.Current, 1),
		Level: round(p.last.Charge, 1), Temperature: p.last.Temperature, Charging: p.last.Charging,
	}
	if draw := p.smooth - p.last.SolarVolts*p.last.SolarAmps; !b.Charging && draw > 1 {
		minutes := round(p.last.Charge/100*batteryCapacity/draw*60, 0)
		b.Remaining = &minutes
	}
	return b
}

func (p *power) begin(n *node) {
	follow(n, p.changed, func(r powerReading) { p.change(n, r) })
	known := func(f func()) func() {
		return func() {
			p.mu.Lock()
			known := !p.seenAt.IsZero()
			p.mu.Unlock()
			if known {
				f()
			}
		}
	}
	n.every(4*time.Second, known(func() { p.battery(n) }))
	n.every(6*time.Second, known(func() { p.solar(n) }))
	n.every(2*time.Second, known(func() { p.consumption(n) }))
}

// change says at once what others act on.
func (p *power) change(n *node, r powerReading) {
	p.mu.Lock()
	low, charged := !p.low && r.Charge < batteryLow, p.low && r.Charge >= batteryEnough
	p.low = p.low && !charged || low
	p.was = r.Charging
	p.mu.Unlock()
	level := batteryEvent{Level: round(r.Charge, 1)}
	p.battery(n)
	switch {
	case low:
		n.event("battery_low", level)
		n.alert("battery_low", "warning", fmt.Sprintf("The battery is at %.0f %%, the mower goes home", r.Charge), level)
	case charged:
		n.event("battery_charged", level)
		n.clear("battery_low")
	}
}

func (p *power) battery(n *node) {
	p.mu.Lock()
	b := p.batteryLocked()
	p.mu.Unlock()
	n.sendData("power/battery", "battery", b,
		map[string]string{"voltage": "V", "current": "A", "power": "W", "level": "%", "temperature": "°C", "time_remaining": "min"})
}

func (p *power) solar(n *node) {
	p.mu.Lock()
	s := solarData{p.last.SolarVolts, p.last.SolarAmps, round(p.last.SolarVolts*p.last.SolarAmps, 1)}
	p.mu.Unlock()
	n.sendData("power/solar", "solar", s, map[string]string{"voltage": "V", "current": "A", "power": "W"})
}

func (p *power) consumption(n *node) {
	p.mu.Lock()
	c := consumptionData{p.last.Load, p.last.Blade, round(p.last.Load-p.last.Blade, 1)}
	p.mu.Unlock()
	n.sendData("power/consumption", "consumption", c, map[string]string{"total": "W", "blade": "W", "drive": "W"})
}
