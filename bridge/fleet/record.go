package fleet

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/lawnberry/lawnberry/internal/fleet"
)

// A record is a message of the history, or a batch of messages, as it goes to the engine. Its id never changes.
type record struct {
	topic   string
	class   fleet.Class
	id      string
	body    []byte
	count   int       // messages
	batch   bool      // the body is lines, as fleet.HeaderBatch says, of however many messages
	gzip    bool      // the body is compressed
	arrival time.Time // of its first message
}

// An entry is what is in memory of a record in the outbox.
type entry struct {
	seq     uint64 // among those of its queue on the disk; 0 when it is not there
	order   uint64 // among all that were ever added, by which it is named
	id      string
	size    int64
	count   int
	arrival time.Time
	at      time.Duration // arrival by the outbox's clock
	value   []byte        // encoded; nil when it is on the disk
}

const (
	recordVersion = 1
	flagBatch     = 1
	flagGzip      = 2
)

var errMalformed = errors.New("a record in the outbox cannot be read")

// encodeRecord returns what is stored of r.
func encodeRecord(r *record, order uint64, at time.Duration) []byte {
	b := make([]byte, 0, len(r.body)+len(r.id)+40)
	flags := byte(0)
	if r.batch {
		flags |= flagBatch
	}
	if r.gzip {
		flags |= flagGzip
	}
	b = append(b, recordVersion, flags)
	b = binary.AppendUvarint(b, uint64(r.count))
	b = binary.AppendUvarint(b, order)
	b = binary.AppendUvarint(b, uint64(at))
	b = binary.AppendVarint(b, r.arrival.UnixMicro())
	b = binary.AppendUvarint(b, uint64(len(r.id)))
	b = append(b, r.id...)
	return append(b, r.body...)
}

// decodeRecord is the inverse of encodeRecord, but for topic and class. The body aliases value; the id does not.
func decodeRecord(value []byte) (r record, e entry, err error) {
	if len(value) < 2 || value[0] != recordVersion {
		return r, e, errMalformed
	}
	r.batch, r.gzip = value[1]&flagBatch != 0, value[1]&flagGzip != 0
	rest := value[2:]
	bad := false
	unsigned := func() uint64 {
		x, n := binary.Uvarint(rest)
		if n <= 0 {
			bad = true
			return 0
		}
		rest = rest[n:]
		return x
	}
	count, order, at := unsigned(), unsigned(), unsigned()
	micros, n := binary.Varint(rest)
	if n <= 0 || bad {
		return r, e, errMalformed
	}
	rest = rest[n:]
	length := unsigned()
	if bad || length > uint64(len(rest)) || count > 1<<31 {
		return r, e, errMalformed
	}
	r.id, r.body, r.count, r.arrival = string(rest[:length]), rest[length:], int(count), time.UnixMicro(micros)
	e = entry{order: order, id: r.id, size: sizeOf(value), count: r.count, arrival: r.arrival, at: time.Duration(at)}
	return r, e, nil
}

// sizeOf is what a record counts in the bounds.
func sizeOf(value []byte) int64 { return int64(len(value) + keyLength) }

// The keys of the outbox.
const (
	keyRecord     = 'r' // number of the queue, number of the record
	keyQueue      = 'q' // number of the queue: its topic and class
	keyLoss       = 'l' // class: what was lost, ever
	keyUnreported = 'u' // class: of that, what the fleet was not told
	keyClock      = 'k' // the outbox's clock, and the wall clock then

	keyLength = 1 + 4 + 8
)

func recordKey(queue uint32, seq uint64) []byte {
	k := make([]byte, 0, keyLength)
	k = append(k, keyRecord)
	k = binary.BigEndian.AppendUint32(k, queue)
	return binary.BigEndian.AppendUint64(k, seq)
}

func parseRecordKey(key []byte) (queue uint32, seq uint64, ok bool) {
	if len(key) != keyLength {
		return 0, 0, false
	}
	return binary.BigEndian.Uint32(key[1:]), binary.BigEndian.Uint64(key[5:]), true
}

func queueKey(queue uint32) []byte { return binary.BigEndian.AppendUint32([]byte{keyQueue}, queue) }

// A clock tells ages. Nobody can set it: while the process runs it is monotonic, and across a restart the wall clock only says how long that took.
type clock struct {
	base  time.Duration
	since func() time.Duration // monotonic
	wall  func() time.Time

	savedAt   time.Duration
	savedWall time.Time
}

// plausible is a time that clocks which were never set are before.
var plausible = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

func newClock() *clock {
	began := time.Now()
	return &clock{since: func() time.Duration { return time.Since(began) }, wall: time.Now}
}

func (c *clock) now() time.Duration { return c.base + c.since() }

// resume goes on from what was saved. A clock that was never set, then, or that was set back says nothing about how long it was.
func (c *clock) resume(saved []byte) {
	if len(saved) != 16 {
		return
	}
	at, wall := time.Duration(binary.BigEndian.Uint64(saved)), time.UnixMicro(int64(binary.BigEndian.Uint64(saved[8:])))
	c.base = at - c.since()
	if away := c.wall().Sub(wall); away > 0 && wall.After(plausible) {
		c.base += away
	}
}

func (c *clock) save() []byte {
	c.savedAt, c.savedWall = c.now(), c.wall()
	b := binary.BigEndian.AppendUint64(nil, uint64(c.savedAt))
	return binary.BigEndian.AppendUint64(b, uint64(c.savedWall.UnixMicro()))
}

// wasSet reports whether somebody has set the wall clock since it was saved: after a crash that would be taken for time that has passed.
func (c *clock) wasSet() bool {
	return !c.savedWall.IsZero() && (c.wall().Round(0).Sub(c.savedWall.Round(0))-(c.now()-c.savedAt)).Abs() > time.Minute
}
