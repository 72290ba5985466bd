package load

import (
	"math"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const (
	longestTime = 10 * time.Minute // of a histogram; longer times count as this

	tenths = 10 // in which a measurement is cut, to see how steady it is
)

// times are durations, to a thousandth of each, in a memory of fixed size. The slices are kept to a hundredth.
type times struct {
	all    *hdrhistogram.Histogram // nanoseconds, as everywhere here
	slices [tenths]*hdrhistogram.Histogram

	slowest time.Duration // exactly
	sum     float64       // seconds
	squares float64
}

func newTimes() *times {
	t := &times{all: hdrhistogram.New(1000, int64(longestTime), 3)}
	for i := range t.slices {
		t.slices[i] = hdrhistogram.New(1000, int64(longestTime), 2)
	}
	return t
}

// add records a time of one slice.
func (t *times) add(slice int, d time.Duration) {
	d = max(d, 0)
	t.slowest = max(t.slowest, d)
	t.sum += d.Seconds()
	t.squares += d.Seconds() * d.Seconds()
	v := int64(min(d, longestTime))
	_ = t.all.RecordValue(v) // it is within the bounds
	_ = t.slices[slice].RecordValue(v)
}

// merge adds what o has.
func (t *times) merge(o *times) {
	t.all.Merge(o.all)
	for i := range t.slices {
		t.slices[i].Merge(o.slices[i])
	}
	t.slowest = max(t.slowest, o.slowest)
	t.sum += o.sum
	t.squares += o.squares
}

// LatencyFigures are the distribution of times, in milliseconds.
type LatencyFigures struct {
	Count  int64   `json:"count"`
	Min    float64 `json:"min"`
	Mean   float64 `json:"mean"`
	StdDev float64 `json:"stddev"`
	P50    float64 `json:"p50"`
	P90    float64 `json:"p90"`
	P99    float64 `json:"p99"`
	P999   float64 `json:"p99_9"`
	Max    float64 `json:"max"`
}

func inMilliseconds(ns float64) float64 { return ns / float64(time.Millisecond) }

// figures returns nil without a time.
func (t *times) figures() *LatencyFigures {
	n := t.all.TotalCount()
	if n == 0 {
		return nil
	}
	mean := t.sum / float64(n)
	at := func(q float64) float64 {
		return inMilliseconds(float64(min(t.all.ValueAtQuantile(q), int64(t.slowest))))
	}
	return &LatencyFigures{
		Count: n, Min: inMilliseconds(float64(min(t.all.Min(), int64(t.slowest)))), Mean: mean * 1000,
		StdDev: math.Sqrt(max(t.squares/float64(n)-mean*mean, 0)) * 1000,
		P50:    at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: inMilliseconds(float64(t.slowest)),
	}
}

// over returns how many times are longer than d, to a thousandth of it.
func (t *times) over(d time.Duration) (n int64) {
	for _, b := range t.all.Distribution() {
		if b.From > int64(d) {
			n += b.Count
		}
	}
	return n
}

// A Bar is one of a histogram's.
type Bar struct {
	UpTo  float64 `json:"up_to_ms"` // and longer than the bar before
	Count int64   `json:"count"`
}

// bars returns a histogram whose bounds are 1, 2 and 5 of each power of ten, from the first that holds a time to the last.
func (t *times) bars() []Bar {
	var out []Bar
	bounds := func(yield func(int64) bool) {
		for power := int64(time.Microsecond); ; power *= 10 {
			for _, by := range []int64{1, 2, 5} {
				if !yield(power * by) {
					return
				}
			}
		}
	}
	all := t.all.Distribution()
	i := 0
	for bound := range bounds {
		var n int64
		for ; i < len(all) && all[i].From <= bound; i++ {
			n += all[i].Count
		}
		if n > 0 || len(out) > 0 {
			out = append(out, Bar{inMilliseconds(float64(bound)), n})
		}
		if i == len(all) {
			break
		}
	}
	for len(out) > 0 && out[len(out)-1].Count == 0 {
		out = out[:len(out)-1]
	}
	return out
}

// A Spread is how much the tenths of a measurement differ: their standard deviation, in percent of their mean. What differs by less
// from one measurement to the next is noise.
type Spread struct {
	PerSecond float64 `json:"messages_per_second"`
	Mean      float64 `json:"mean"`
	P50       float64 `json:"p50"`
	P90       float64 `json:"p90"`
	P99       float64 `json:"p99"`
	P999      float64 `json:"p99_9"`
	Max       float64 `json:"max"`
}

// spread returns that of the times. Slices without any do not count.
func (t *times) spread() (s Spread) {
	of := func(f func(h *hdrhistogram.Histogram) float64) float64 {
		var v []float64
		for _, h := range t.slices {
			if h.TotalCount() > 0 {
				v = append(v, f(h))
			}
		}
		return deviation(v)
	}
	at := func(q float64) func(h *hdrhistogram.Histogram) float64 {
		return func(h *hdrhistogram.Histogram) float64 { return float64(h.ValueAtQuantile(q)) }
	}
	s.Mean = of((*hdrhistogram.Histogram).Mean)
	s.P50, s.P90, s.P99, s.P999 = of(at(50)), of(at(90)), of(at(99)), of(at(99.9))
	s.Max = of(func(h *hdrhistogram.Histogram) float64 { return float64(h.Max()) })
	return s
}

// deviation returns the standard deviation of values in percent of their mean, 0 for fewer than two.
func deviation(values []float64) float64 {
	if len(values) < 2 {
		return 0
	}
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	mean := sum / float64(len(values))
	if mean == 0 {
		return 0
	}
	squares := 0.0
	for _, v := range values {
		squares += (v - mean) * (v - mean)
	}
	return math.Sqrt(squares/float64(len(values)-1)) / mean * 100
}
