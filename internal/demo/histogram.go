package demo

import (
	"math/bits"
	"time"
)

// A histogram counts durations in buckets whose width is an eighth of their value's power of two, so that a quantile is
// at most 12.5 percent too high. The zero value is ready. It is not safe for concurrent use.
type histogram struct {
	count   uint64
	max     time.Duration
	buckets [64 * bucketsPerOctave]uint32
}

const bucketsPerOctave = 8 // a power of two

func (h *histogram) add(d time.Duration) {
	d = max(d, 0)
	h.count++
	h.max = max(h.max, d)
	h.buckets[bucketOf(uint64(d))]++
}

// quantile returns an upper bound of the q quantile, 0 < q <= 1, of what was added; 0 when nothing was.
func (h *histogram) quantile(q float64) time.Duration {
	if h.count == 0 {
		return 0
	}
	rank := uint64(q * float64(h.count))
	var seen uint64
	for i, n := range h.buckets {
		if seen += uint64(n); seen > rank || seen == h.count {
			return min(bucketEnd(i), h.max)
		}
	}
	return h.max
}

func (h *histogram) latency() Latency {
	return Latency{Count: h.count, P50: h.quantile(0.5), P99: h.quantile(0.99), Max: h.max}
}

// bucketOf returns the bucket of v: its position of the leading bit and the three bits that follow it.
func bucketOf(v uint64) int {
	if v < bucketsPerOctave {
		return int(v)
	}
	shift := bits.Len64(v) - bits.Len64(bucketsPerOctave)
	return shift*bucketsPerOctave + int(v>>shift)
}

// bucketEnd returns the largest value of a bucket.
func bucketEnd(i int) time.Duration {
	if i < 2*bucketsPerOctave {
		return time.Duration(i)
	}
	shift := i/bucketsPerOctave - 1
	return time.Duration((uint64(i%bucketsPerOctave+bucketsPerOctave)+1)<<shift - 1)
}
