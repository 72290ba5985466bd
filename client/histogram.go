package client

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// A histogram counts durations in buckets of fixed number: eight per power of two, so that a quantile is wrong by an
// eighth at most, from microseconds to days. Recording is a few atomic additions; it may be used concurrently.
type histogram struct {
	count   atomic.Uint64
	sum     atomic.Int64 // ns
	max     atomic.Int64
	buckets [octaves * steps]atomic.Uint64
}

const (
	stepBits = 3
	steps    = 1 << stepBits
	octaves  = 38
)

// bucket returns where d belongs: below steps microseconds exactly, then by the leading bits.
func bucket(d time.Duration) int {
	us := uint64(max(d, 0) / time.Microsecond)
	if us < steps {
		return int(us)
	}
	exp := bits.Len64(us) - stepBits - 1
	return min((exp+1)*steps+int(us>>exp)&(steps-1), octaves*steps-1)
}

// upper returns the largest duration of bucket i, to the microsecond.
func upper(i int) time.Duration {
	if i < steps {
		return time.Duration(i) * time.Microsecond
	}
	exp, step := i/steps-1, i%steps
	return time.Duration((uint64(steps+step+1)<<exp)-1) * time.Microsecond
}

func (h *histogram) record(d time.Duration) {
	d = max(d, 0)
	h.count.Add(1)
	h.sum.Add(int64(d))
	h.buckets[bucket(d)].Add(1)
	for {
		old := h.max.Load()
		if int64(d) <= old || h.max.CompareAndSwap(old, int64(d)) {
			return
		}
	}
}

// Quantiles of a latency. P50 and P99 are exact to an eighth.
type Quantiles struct {
	Count         uint64
	Sum           time.Duration
	P50, P99, Max time.Duration
}

func (h *histogram) quantiles() Quantiles {
	var counts [octaves * steps]uint64
	var total uint64
	for i := range counts {
		counts[i] = h.buckets[i].Load()
		total += counts[i]
	}
	q := Quantiles{Count: total, Sum: time.Duration(h.sum.Load()), Max: time.Duration(h.max.Load())}
	if total == 0 {
		return q
	}
	at := func(rank uint64) time.Duration {
		var seen uint64
		for i, n := range counts {
			if seen += n; seen >= rank {
				return min(upper(i), q.Max)
			}
		}
		return q.Max
	}
	q.P50 = at((total + 1) / 2)
	q.P99 = at(total - total/100)
	return q
}
