package load

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
)

// A Difference is one figure of two measurements.
type Difference struct {
	Figure  string   `json:"figure"`
	Unit    string   `json:"unit"`
	Before  float64  `json:"before"`
	Now     float64  `json:"now"`
	Percent *float64 `json:"percent"`       // of the change; null when it was 0 before, or next to it
	Noise   float64  `json:"noise_percent"` // what the larger exceeds the smaller by no more than says nothing
	Verdict string   `json:"verdict"`       // better, worse or within noise
}

// What a Difference is.
const (
	Better      = "better"
	Worse       = "worse"
	WithinNoise = "within noise"
)

const (
	leastNoise = 5.0  // percent, of times and rates
	usageNoise = 10.0 // of what is used, which has no spread of its own
	usageStep  = 0.04 // seconds; the system counts processor time in hundredths, and two figures of two counts each are compared
)

// Parse reads a result that was kept as JSON.
func Parse(text []byte) (*Result, error) {
	var r Result
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("it is no result of bench --json: %w", err)
	}
	switch r.Kind {
	case Latency, Throughput, Command:
		for _, v := range r.figures() {
			if !(v >= 0 && v <= mostFigure) {
				return nil, fmt.Errorf("it is no result of bench --json: %g is no figure of a measurement", v)
			}
		}
		return &r, nil
	case "":
		return nil, errors.New("it is no result of bench --json: bench is missing")
	}
	return nil, fmt.Errorf("it is no result of bench --json: bench is %q", r.Kind)
}

// mostFigure is more than any figure of a measurement.
const mostFigure = 1e15

// figures returns those that are compared, and how much they spread.
func (r *Result) figures() []float64 {
	s := r.Spread
	v := []float64{r.Received.PerSecond, s.PerSecond, s.Mean, s.P50, s.P90, s.P99, s.P999, s.Max}
	if l := r.Latency; l != nil {
		v = append(v, l.P50, l.P90, l.P99, l.P999, l.Max, l.Mean)
	}
	for _, u := range []Usage{r.Load, r.BrokerUsage} {
		if u.CPU != nil {
			v = append(v, *u.CPU)
		}
	}
	return v
}

// Compare returns the figures that both results have. unlike names the settings that differ, which a difference may come from. The error is
// of results that measure different things.
func Compare(before, now *Result) (differences []Difference, unlike []string, err error) {
	if before.Kind != now.Kind || before.Loop != "" && before.Loop != now.Loop {
		return nil, nil, fmt.Errorf("it is of bench %s (loop: %s), which cannot be compared with bench %s (loop: %s)",
			before.Kind, before.Loop, now.Kind, now.Loop)
	}
	add := func(figure, unit string, was, is, noise float64, highIsGood bool) {
		differences = append(differences, difference(figure, unit, was, is, noise, highIsGood))
	}
	spread := func(f func(Spread) float64) float64 {
		return max(leastNoise, 2*math.Hypot(f(before.Spread), f(now.Spread)))
	}
	if a, b := before.Latency, now.Latency; a != nil && b != nil {
		for _, l := range []struct {
			figure  string
			was, is float64
			spread  func(Spread) float64
		}{
			{"p50", a.P50, b.P50, func(s Spread) float64 { return s.P50 }},
			{"p90", a.P90, b.P90, func(s Spread) float64 { return s.P90 }},
			{"p99", a.P99, b.P99, func(s Spread) float64 { return s.P99 }},
			{"p99.9", a.P999, b.P999, func(s Spread) float64 { return s.P999 }},
			{"max", a.Max, b.Max, func(s Spread) float64 { return s.Max }},
			{"mean", a.Mean, b.Mean, func(s Spread) float64 { return s.Mean }},
		} {
			add(l.figure, "ms", l.was, l.is, spread(l.spread), false)
		}
	}
	if before.Settings.Rate == 0 && now.Settings.Rate == 0 { // else the rate is what was asked for
		add("received", "messages/s", before.Received.PerSecond, now.Received.PerSecond, spread(func(s Spread) float64 { return s.PerSecond }), true)
	}
	add("lost", "messages", float64(before.Lost), float64(now.Lost), 0, false)
	add("duplicates", "messages", float64(before.Duplicates), float64(now.Duplicates), 0, false)
	add("out of order", "messages", float64(before.Disordered), float64(now.Disordered), 0, false)
	for _, u := range []struct {
		who     string
		was, is Usage
	}{{"bench", before.Load, now.Load}, {"broker", before.BrokerUsage, now.BrokerUsage}} {
		if u.was.CPU != nil && u.is.CPU != nil && before.Received.Messages > 0 && now.Received.Messages > 0 {
			noise := max(usageNoise, usageStep/max(min(*u.was.CPU, *u.is.CPU), usageStep)*100)
			add(u.who+" CPU", "µs/message", *u.was.CPU*1e6/float64(before.Received.Messages), *u.is.CPU*1e6/float64(now.Received.Messages), noise, false)
			// A measurement too short for the system's count has a figure of 0, from which any other is infinitely far.
			d := &differences[len(differences)-1]
			if fewest := float64(min(before.Received.Messages, now.Received.Messages)); math.Abs(d.Now-d.Before) <= usageStep*1e6/fewest {
				d.Verdict = WithinNoise
			}
		}
		if u.was.Memory != nil && u.is.Memory != nil && u.was.Source == u.is.Source {
			add(u.who+" memory", "MB", float64(*u.was.Memory)/1e6, float64(*u.is.Memory)/1e6, usageNoise, false)
		}
	}
	return differences, unalike(before, now), nil
}

func difference(figure, unit string, was, is, noise float64, highIsGood bool) Difference {
	d := Difference{Figure: figure, Unit: unit, Before: was, Now: is, Noise: noise, Verdict: WithinNoise}
	change := math.Inf(1)
	if was != 0 {
		if percent := (is - was) / was * 100; !math.IsInf(percent, 0) {
			d.Percent = &percent
		}
		// The larger against the smaller: a time that falls to a hundredth has changed as much as one that is a hundred times as long, though
		// nothing falls by more than 100 percent.
		change = (max(was, is)/min(was, is) - 1) * 100
	}
	switch {
	case is == was || change <= noise:
	case is > was == highIsGood:
		d.Verdict = Better
	default:
		d.Verdict = Worse
	}
	return d
}

// unalike names the settings that differ.
func unalike(before, now *Result) (names []string) {
	a, b := before.Settings, now.Settings
	note := func(name string, was, is any) {
		if was != is {
			names = append(names, fmt.Sprintf("%s %v, was %v", name, is, was))
		}
	}
	note("size", a.Size, b.Size)
	note("QoS", a.QoS, b.QoS)
	note("retain", a.Retain, b.Retain)
	note("publishers", a.Publishers, b.Publishers)
	note("subscribers", a.Subscribers, b.Subscribers)
	note("rate", a.Rate, b.Rate)
	note("service", a.Service, b.Service)
	note("command", a.Command, b.Command)
	note("MQTT", before.Broker.MQTT, now.Broker.MQTT)
	return names
}
