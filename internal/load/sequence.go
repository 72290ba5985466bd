package load

// remembered is how many of the last numbers of one publisher are remembered, a power of two. Our client has at most 1,024 messages
// unacknowledged, so what comes later or again comes within that of any broker that keeps to the protocol.
const remembered = 1 << 14

// A sequence judges the numbers of one publisher as they come to one subscriber: each has to come once, and each after the one before.
// Its size is fixed.
type sequence struct {
	next uint64 // one more than the highest that has come
	seen [remembered / 64]uint64

	distinct   uint64 // numbers that have come
	duplicates uint64 // messages whose number had come, or is older than what is remembered
	disordered uint64 // messages that came after a higher number, for the first time
}

// A verdict is what a message is.
type verdict int

const (
	fresh verdict = iota
	late          // after a higher number
	again
)

func (s *sequence) take(n uint64) verdict {
	if n >= s.next {
		if n-s.next >= remembered {
			clear(s.seen[:])
		} else {
			for i := s.next; i < n; i++ {
				s.seen[i%remembered/64] &^= 1 << (i % 64)
			}
		}
		s.seen[n%remembered/64] |= 1 << (n % 64)
		s.next = n + 1
		s.distinct++
		return fresh
	}
	if word, bit := &s.seen[n%remembered/64], uint64(1)<<(n%64); s.next-n <= remembered && *word&bit == 0 {
		*word |= bit
		s.distinct++
		s.disordered++
		return late
	}
	s.duplicates++
	return again
}
