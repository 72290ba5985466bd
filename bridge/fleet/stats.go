package fleet

import (
	"maps"
	"time"

	"github.com/lawnberry/lawnberry/internal/fleet"
)

// Stats are the figures of an uplink, since its start unless they say something else.
type Stats struct {
	Connected bool
	Since     time.Time // of the connection; zero without one

	Taken     uint64 // messages of the bus that go up
	Looped    uint64 // those that do not, as they came over a bridge
	Thinned   uint64 // those of telemetry that are not in the history, as they came faster than their rate
	Sent      uint64 // messages of the history that the engine has
	Latest    uint64 // latest values that the engine has
	Conflated uint64 // those that a newer one overtook
	Resolved  uint64 // records of which the engine was asked whether it has them
	Repeated  uint64 // records that the engine had already, or that the bus sent again
	Refused   int    // topics that the engine does not take

	Backlog fleet.Backlog // with what is in no batch yet
	Memory  int64         // bytes of it that are not on the disk
	Lost    fleet.Losses  // ever
	Disk    error         // why the outbox cannot be written; nil when it can
}

// Stats returns the figures of now. It waits for nothing.
func (u *Uplink) Stats() Stats {
	box := u.box.state.Load()
	s := Stats{
		Looped: u.tap.looped.Load(), Taken: u.tap.taken.Load(), Thinned: u.tap.thinned.Load(), Sent: u.history.sent.Load(),
		Latest: u.latest.sent.Load(), Conflated: u.latest.conflated.Load(), Resolved: u.history.resolved.Load(),
		Repeated: u.history.repeated.Load() + u.tap.repeated.Load() + box.duplicates, Refused: int(u.history.refused.Load()),
		Backlog: box.backlog, Memory: box.inMemory, Lost: box.losses, Disk: box.failed,
	}
	s.Since, s.Connected = u.engine.connected()
	if n := int64(u.batches.waiting()); n > 0 {
		s.Backlog.Records += n
		s.Backlog.ByClass = maps.Clone(s.Backlog.ByClass)
		s.Backlog.ByClass[fleet.Telemetry] += n
	}
	return s
}
