package store

import (
	"encoding/binary"

	"github.com/cockroachdb/pebble/v2"
)

// A Batch is changes that are committed together: all of them or none. Later ones win. The zero value is empty. It is not
// for concurrent use.
type Batch struct {
	data  []byte // kind, length of the key, key, length of the value, value, and so on
	count int
}

const (
	opSet byte = iota
	opDelete
	opDeleteRange
)

// Set stores value under key. Both are copied.
func (b *Batch) Set(key, value []byte) { b.add(opSet, key, value) }

// Delete removes key.
func (b *Batch) Delete(key []byte) { b.add(opDelete, key, nil) }

// DeleteRange removes the keys from from up to, not including, to.
func (b *Batch) DeleteRange(from, to []byte) { b.add(opDeleteRange, from, to) }

// Len returns the number of changes.
func (b *Batch) Len() int { return b.count }

// Size returns about how many bytes the changes take.
func (b *Batch) Size() int { return len(b.data) }

// Reset empties the batch, for use again.
func (b *Batch) Reset() {
	if cap(b.data) > 1<<20 { // a large one is rare: its memory is given back
		b.data = nil
	}
	b.data, b.count = b.data[:0], 0
}

func (b *Batch) add(kind byte, key, value []byte) {
	b.data = append(b.data, kind)
	b.data = binary.AppendUvarint(b.data, uint64(len(key)))
	b.data = append(b.data, key...)
	b.data = binary.AppendUvarint(b.data, uint64(len(value)))
	b.data = append(b.data, value...)
	b.count++
}

// applyTo adds the changes of a Batch to one of Pebble's.
func applyTo(p *pebble.Batch, changes []byte) error {
	rest := changes
	part := func() []byte {
		n, w := binary.Uvarint(rest)
		p := rest[w : w+int(n)]
		rest = rest[w+int(n):]
		return p
	}
	for len(rest) > 0 {
		kind := rest[0]
		rest = rest[1:]
		key := part()
		value := part()
		var err error
		switch kind {
		case opSet:
			err = p.Set(key, value, nil)
		case opDelete:
			err = p.Delete(key, nil)
		case opDeleteRange:
			err = p.DeleteRange(key, value, nil)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
