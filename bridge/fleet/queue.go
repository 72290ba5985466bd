package fleet

import (
	"errors"
	"slices"
	"time"

	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/store"
)

// A queue holds the records of one topic, in their order: first those on the disk, of which the next few are known, then those that are in
// memory only.
type queue struct {
	number uint32
	topic  string
	class  fleet.Class
	stream string // at the engine, as far as it is known
	saved  bool   // topic and class are on the disk

	// On the disk are the records from kept up to, not including, next. Those before first are sent or dropped, and still to be deleted.
	kept, first, next uint64
	spare, older      uint64   // of those before first, the ones before spare may be deleted; older is what first was at the last tick
	holes             []uint64 // of them, those that are done with before their turn
	maybe             uint64   // records up to it may be on the disk too, though their commit failed
	ahead             []entry  // the next of those on the disk; all of them as long as they are few
	recent            []entry

	records  int   // on the disk from first on, and in memory
	messages int64 // in them
	bytes    int64

	doubt  bool   // whether the first of them was stored by the engine already is not known
	flight uint64 // order of the record that is being sent; 0 when none is
	fate   *entry // the record that is being sent, when it was dropped meanwhile
	why    string // for which it was
}

const (
	lookAhead = 160 // entries of a queue that are read at once
	leastKept = 16  // of those that are done with, the last ones, which stay until the next tick but one
	maxKept   = 64  // records that are done with and not deleted yet; lookAhead exceeds it, so that they are recognised
)

var errEnough = errors.New("enough")

func (q *queue) onDisk() bool { return q.first < q.next }

// look reads what is ahead on the disk, unless enough of it is known.
func (q *queue) look(s *store.Store, n int) error {
	if !q.onDisk() || len(q.ahead) >= n || len(q.ahead) > 0 && q.ahead[len(q.ahead)-1].seq+1 >= q.next {
		return nil
	}
	if s == nil {
		return errNoStore
	}
	from := q.first
	if len(q.ahead) > 0 {
		from = q.ahead[len(q.ahead)-1].seq + 1
	}
	err := s.Range(recordKey(q.number, from), recordKey(q.number, q.next), func(key, value []byte) error {
		_, seq, ok := parseRecordKey(key)
		_, e, err := decodeRecord(value)
		if !ok || err != nil {
			return nil //nolint:nilerr // it was counted as lost when the outbox was opened
		}
		e.seq = seq
		q.ahead = append(q.ahead, e)
		if len(q.ahead) >= lookAhead {
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return err
	}
	if len(q.ahead) == 0 { // nothing of it can be read
		q.first = q.next
	}
	return nil
}

// head returns the first record, nil when there is none.
func (q *queue) head(s *store.Store) (*entry, error) {
	if err := q.look(s, 1); err != nil {
		return nil, err
	}
	switch {
	case len(q.ahead) > 0:
		return &q.ahead[0], nil
	case len(q.recent) > 0:
		return &q.recent[0], nil
	}
	return nil, nil //nolint:nilnil // there is none
}

// pop removes the head, which was looked at.
func (q *queue) pop() (e entry) {
	if len(q.ahead) > 0 {
		e, q.ahead = q.ahead[0], q.ahead[1:]
		q.first = e.seq + 1
		if len(q.ahead) == 0 {
			q.ahead = nil
		}
	} else {
		e = q.recent[0]
		q.popRecent()
	}
	q.count(&e, -1)
	return e
}

func (q *queue) popRecent() {
	q.recent[0] = entry{}
	if q.recent = q.recent[1:]; len(q.recent) == 0 {
		q.recent = nil
	}
}

func (q *queue) count(e *entry, sign int) {
	q.records += sign
	q.messages += int64(sign * e.count)
	q.bytes += int64(sign) * e.size
}

// body returns the record of its head.
func (q *queue) body(s *store.Store, e *entry) (r record, err error) {
	value := e.value
	if value == nil {
		if s == nil {
			return r, errNoStore
		}
		err := s.Range(recordKey(q.number, e.seq), recordKey(q.number, e.seq+1), func(_, v []byte) error {
			value = append([]byte(nil), v...)
			return nil
		})
		if err != nil {
			return r, err
		}
	}
	if r, _, err = decodeRecord(value); err != nil {
		return r, err
	}
	r.topic, r.class = q.topic, q.class
	return r, nil
}

// deletable is before which record all may be deleted on the disk.
func (q *queue) deletable() uint64 { return max(q.kept, min(q.spare, q.first)) }

// letGo lets go of what was done with before the last tick. Until then it stays, so that after a crash it is known as done with: the bus may not have had its
// acknowledgement yet, and would say it again.
func (q *queue) letGo() { q.spare, q.older = max(q.spare, q.older), q.first }

// write adds to b what is to change on the disk: deletions, and with all the records that are in memory only. done is to be called when it is there.
func (q *queue) write(b *store.Batch, all bool) (done func()) {
	kept := q.deletable()
	if q.kept < kept {
		if kept-q.kept <= 4 {
			for seq := q.kept; seq < kept; seq++ {
				b.Delete(recordKey(q.number, seq))
			}
		} else {
			b.DeleteRange(recordKey(q.number, q.kept), recordKey(q.number, kept))
		}
	}
	for _, seq := range q.holes {
		if seq >= kept {
			b.Set(recordKey(q.number, seq), gapMark(1))
		}
	}
	next, wrote := q.next, 0
	if all && len(q.recent) > 0 || q.maybe > 0 {
		if q.maybe > 0 {
			b.DeleteRange(recordKey(q.number, q.next), recordKey(q.number, q.maybe+1))
		}
		if all {
			for i := range q.recent {
				b.Set(recordKey(q.number, next), q.recent[i].value)
				next++
				wrote++
			}
			if wrote > 0 {
				q.maybe = max(q.maybe, next-1)
			}
		}
	}
	return func() {
		q.kept, q.maybe, q.holes = kept, 0, nil
		complete := !q.onDisk() || len(q.ahead) > 0 && q.ahead[len(q.ahead)-1].seq+1 == q.next
		for i := range wrote {
			e := q.recent[i]
			e.seq, e.value = q.next+uint64(i), nil
			if complete && len(q.ahead) < lookAhead {
				q.ahead = append(q.ahead, e)
			} else {
				complete = false
			}
		}
		q.next = next
		if q.recent = q.recent[wrote:]; len(q.recent) == 0 {
			q.recent = nil
		}
	}
}

// unchanged reports whether nothing of it is to be written, but for records that are in memory only.
func (q *queue) unchanged() bool { return q.kept == q.deletable() && q.maybe == 0 && len(q.holes) == 0 }

// finished reports whether it has nothing, and once all that may be deleted is, also nothing on the disk.
func (q *queue) finished() bool { return q.records == 0 && q.flight == 0 && q.deletable() == q.first }

// skip removes a record that is not the first, and reports whether it was found.
func (q *queue) skip(order uint64) (e entry, found bool) {
	if len(q.recent) > 0 && q.recent[0].order == order {
		e = q.recent[0]
		q.popRecent()
		q.count(&e, -1)
		return e, true
	}
	i := slices.IndexFunc(q.ahead, func(e entry) bool { return e.order == order })
	if i < 0 {
		return e, false
	}
	e = q.ahead[i]
	q.ahead = slices.Delete(q.ahead, i, i+1)
	q.holes = append(q.holes, e.seq)
	q.count(&e, -1)
	return e, true
}

// age is how old the first record is that is known without the disk; 0 when none is.
func (q *queue) age(now time.Duration) time.Duration {
	switch {
	case len(q.ahead) > 0:
		return now - q.ahead[0].at
	case !q.onDisk() && len(q.recent) > 0:
		return now - q.recent[0].at
	}
	return 0
}
