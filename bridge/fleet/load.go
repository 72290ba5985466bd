package fleet

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"time"

	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/store"
)

// openStore opens the disk, and reads what is there. Caller holds mu.
func (b *outbox) openStore() error {
	b.tried = time.Now()
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return err
	}
	s, err := store.Open(b.dir, store.Options{Logger: b.log, FS: b.fs})
	if err != nil {
		return err
	}
	if aside := s.SetAside(); len(aside) > 0 {
		b.log.Error("the outbox of the fleet was damaged: what could be read is there, the damaged files were set aside", "files", aside)
	}
	l := loading{queues: map[uint32]*queue{}, names: map[uint32]queueName{}, losses: fleet.Losses{}, unreported: fleet.Losses{}, lost: fleet.Losses{}}
	err = l.read(s, b.clock.wall())
	if err == nil && l.repairs.Len() > 0 {
		for c, x := range l.lost {
			l.losses[c], l.unreported[c] = join(l.losses[c], x), join(l.unreported[c], x)
		}
		writeLosses(&l.repairs, keyLoss, l.losses)
		writeLosses(&l.repairs, keyUnreported, l.unreported)
		b.log.Error("records of the outbox of the fleet are lost, the disk had them no more", "losses", l.lost, "nobodys", l.nobodys)
		err = s.Commit(&l.repairs)
	}
	if err != nil {
		return errors.Join(err, s.Close())
	}
	b.take(&l)
	b.store = s
	return nil
}

// A queueName is what is stored of a queue.
type queueName struct {
	Topic  string      `json:"topic"`
	Class  fleet.Class `json:"class"`
	Stream string      `json:"stream,omitempty"`
}

// A seenID is the id of a record, and where it was said.
type seenID struct{ id, topic string }

// A loading is what is read of an outbox.
type loading struct {
	names              map[uint32]queueName
	queues             map[uint32]*queue
	losses, unreported fleet.Losses
	lost               fleet.Losses // found missing now
	clock              []byte
	order              uint64
	ids                []seenID
	nobodys            int         // records of queues without a name
	repairs            store.Batch // gaps are marked, so that each is counted once
}

func (l *loading) read(s *store.Store, now time.Time) error {
	err := s.Scan([]byte{keyQueue}, func(key, value []byte) error {
		var n queueName
		if len(key) == 5 && json.Unmarshal(value, &n) == nil {
			l.names[binary.BigEndian.Uint32(key[1:])] = n
		}
		return nil
	})
	for prefix, into := range map[byte]fleet.Losses{keyLoss: l.losses, keyUnreported: l.unreported} {
		err = errors.Join(err, s.Scan([]byte{prefix}, func(key, value []byte) error {
			var x fleet.Loss
			if json.Unmarshal(value, &x) == nil {
				into[fleet.Class(key[1:])] = x
			}
			return nil
		}))
	}
	return errors.Join(err,
		s.Scan([]byte{keyClock}, func(_, value []byte) error { l.clock = append(l.clock, value...); return nil }),
		s.Scan([]byte{keyRecord}, func(key, value []byte) error { l.record(key, value, now); return nil }))
}

// record takes in one record, or what stands for records that are lost.
func (l *loading) record(key, value []byte, now time.Time) {
	number, seq, ok := parseRecordKey(key)
	name, named := l.names[number]
	if !ok || !named {
		l.nobodys++
		l.repairs.Delete(key)
		if r, _, err := decodeRecord(value); err == nil { // its class is not known, but that readings come in batches
			class := fleet.Event
			if r.batch {
				class = fleet.Telemetry
			}
			l.lost[class] = join(l.lost[class], fleet.Loss{Count: uint64(r.count), First: r.arrival, Last: r.arrival, Why: "disk"})
		}
		return
	}
	q := l.queues[number]
	if q == nil {
		q = &queue{number: number, topic: name.Topic, class: name.Class, stream: name.Stream, saved: true, kept: seq, first: seq, next: seq, doubt: true}
		l.queues[number] = q
	}
	if missing := seq - q.next; missing > 0 {
		l.gap(q, q.next, missing, now)
	}
	q.next = seq + 1
	if n, marked := parseGap(value); marked {
		q.next = seq + n
		return
	}
	_, e, err := decodeRecord(value)
	if err != nil {
		l.gap(q, seq, 1, now)
		return
	}
	e.seq = seq
	q.count(&e, 1)
	l.order = max(l.order, e.order)
	if len(q.ahead) < lookAhead && (len(q.ahead) == 0 || q.ahead[len(q.ahead)-1].seq+1 == seq) {
		q.ahead = append(q.ahead, e)
	}
	if durable(q.class) {
		if l.ids = append(l.ids, seenID{e.id, q.topic}); len(l.ids) > 2*seenIDs {
			l.ids = append(l.ids[:0], l.ids[len(l.ids)-seenIDs:]...)
		}
	}
}

// gap counts n records from seq on as lost, and marks them.
func (l *loading) gap(q *queue, seq, n uint64, now time.Time) {
	l.lost[q.class] = join(l.lost[q.class], fleet.Loss{Count: n, First: now, Last: now, Why: "disk"})
	l.repairs.Set(recordKey(q.number, seq), gapMark(n))
}

const gapVersion = 0

// gapMark stands for n records that are not there, and were counted if they are lost.
func gapMark(n uint64) []byte { return binary.AppendUvarint([]byte{gapVersion}, n) }

func parseGap(value []byte) (n uint64, ok bool) {
	if len(value) < 2 || value[0] != gapVersion {
		return 0, false
	}
	n, w := binary.Uvarint(value[1:])
	return max(n, 1), w > 0
}

// take has the outbox go on with what was read. What came while there was no disk follows it. Caller holds mu.
func (b *outbox) take(l *loading) {
	b.clock.resume(l.clock)
	for c, x := range l.losses {
		b.losses[c] = join(x, b.losses[c])
	}
	for c, x := range l.unreported {
		b.unreported[c] = join(x, b.unreported[c])
	}
	for _, id := range l.ids {
		b.seen.add(id.id, id.topic)
	}
	for number := range l.names {
		b.number = max(b.number, number)
	}
	for _, q := range b.list { // their numbers may be those of queues on the disk
		delete(b.queues, q.number)
	}
	for _, q := range b.list {
		b.number++
		q.number = b.number
		b.queues[q.number] = q
	}
	b.order = max(b.order, l.order)
	for _, q := range l.queues {
		for _, old := range b.byTopic[q.topic] {
			if old.class == q.class && !old.saved {
				q.recent, q.flight, q.fate, q.why = old.recent, old.flight, old.fate, old.why
				if q.flight != 0 {
					b.flights[q.flight] = q
				}
				for i := range q.recent {
					q.count(&q.recent[i], 1)
				}
				b.remove(old)
				break
			}
		}
		b.insert(q)
	}
}
