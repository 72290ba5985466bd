package load

import (
	"encoding/binary"
	"math/rand/v2"
	"time"
)

// A phase is what a message was sent for.
type phase byte

const (
	probing phase = iota + 1
	warming
	measuring
)

// A stamp is what every payload begins with.
type stamp struct {
	run       uint32 // tells the messages of one run from those of others on the same topic
	publisher uint16
	phase     phase
	number    uint64        // of the publisher, from 0 in each phase
	due       time.Duration // when it was to be sent, since the begin of the run
}

const (
	stampMagic = "LBb1" // no JSON, and no gzip: it goes as it is
	stampSize  = 28
)

// put writes s over the begin of b.
func (s stamp) put(b []byte) {
	copy(b, stampMagic)
	binary.BigEndian.PutUint32(b[4:], s.run)
	binary.BigEndian.PutUint16(b[8:], s.publisher)
	b[10], b[11] = byte(s.phase), 0
	binary.BigEndian.PutUint64(b[12:], s.number)
	binary.BigEndian.PutUint64(b[20:], uint64(s.due))
}

// readStamp returns the stamp of a payload; ok is false when it has none.
func readStamp(b []byte) (s stamp, ok bool) {
	if len(b) < stampSize || string(b[:4]) != stampMagic {
		return s, false
	}
	return stamp{
		run: binary.BigEndian.Uint32(b[4:]), publisher: binary.BigEndian.Uint16(b[8:]), phase: phase(b[10]),
		number: binary.BigEndian.Uint64(b[12:]), due: time.Duration(binary.BigEndian.Uint64(b[20:])),
	}, true
}

// filling is what no compression on the way makes smaller: random letters and digits.
func filling(size int) []byte {
	const letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-"
	b := make([]byte, size)
	for i := range b {
		b[i] = letters[rand.IntN(len(letters))]
	}
	return b
}
