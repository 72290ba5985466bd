package broker

import (
	"encoding/binary"
	"time"
)

// Everything that takes time (expiry, Wills, keep alive) is measured on the broker's own clock, which nobody can set: nanoseconds
// that only go on. It stands still while the broker is not running, and the wall clock tells how long that was.

// now is the time on the broker's clock, in nanoseconds.
func (b *Broker) now() int64 { return b.base + int64(time.Since(b.started)) }

// An anchor ties the broker's clock to the wall clock.
type anchor struct {
	own  int64 // on the broker's clock
	wall int64 // Unix time in nanoseconds
}

const (
	clockStep = int64(20 * time.Millisecond) // how far the wall clock may run off before the anchor is written again
	anchorAge = int64(time.Minute)           // how old an anchor may become when nothing else is written
)

// read returns the present anchor, and whether it is to be written: because the wall clock was set since a was written, or
// because a is old. When the wall clock is behind at the next start, as it is on a computer that does not keep
// the time while it is off, the broker's clock goes on where the last anchor was written. So other changes bring one along.
func (a anchor) read(b *Broker, others bool) (present anchor, due bool) {
	present = anchor{b.now(), b.limits.wall().UnixNano()}
	drift := (present.wall - present.own) - (a.wall - a.own)
	age := present.own - a.own
	return present, drift > clockStep || drift < -clockStep || age > anchorAge || others && age > clockStep
}

// elapsed returns where the broker's clock goes on, at a start.
func (a anchor) elapsed(wall time.Time) int64 {
	return a.own + max(wall.UnixNano()-a.wall, 0)
}

func (a anchor) append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(a.own))
	return binary.BigEndian.AppendUint64(dst, uint64(a.wall))
}

func decodeAnchor(value []byte) (a anchor, ok bool) {
	if len(value) != 16 {
		return anchor{}, false
	}
	a.own = int64(binary.BigEndian.Uint64(value))
	a.wall = int64(binary.BigEndian.Uint64(value[8:]))
	return a, a.own >= 0
}
