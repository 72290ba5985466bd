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

// clockStep is how far the wall clock may run off before the anchor is written again.
const clockStep = int64(20 * time.Millisecond)

// read returns the present anchor, and whether the wall clock has been set since a was read.
func (a anchor) read(b *Broker) (present anchor, set bool) {
	present = anchor{b.now(), b.limits.wall().UnixNano()}
	drift := (present.wall - present.own) - (a.wall - a.own)
	return present, drift > clockStep || drift < -clockStep
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
