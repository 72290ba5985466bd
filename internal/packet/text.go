package packet

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"
)

// Eight bytes at a time: for ASCII bytes, x-ones has a top bit set exactly when one of x's bytes is zero.
const (
	ones   = 0x0101010101010101
	tops   = 0x8080808080808080
	pluses = ones * '+'
	hashes = ones * '#'
)

// text is what a UTF-8 string turned out to be.
type text byte

const (
	textPlain    text = iota // well-formed, no U+0000
	textWildcard             // well-formed, with + or #; only classifyTopic says so
	textNUL                  // [MQTT-1.5.4-2]
	textBad                  // ill-formed UTF-8, which includes surrogates [MQTT-1.5.4-1]
)

// classify checks a UTF-8 encoded string.
func classify(b []byte) text {
	if n := len(b); n >= 8 {
		for i := 0; ; i += 8 {
			i = min(i, n-8) // the last word overlaps the one before
			w := binary.LittleEndian.Uint64(b[i:])
			if (w|(w-ones))&tops != 0 {
				return classifySlow(b)
			}
			if i == n-8 {
				return textPlain
			}
		}
	}
	for _, c := range b {
		if c-1 >= 0x7f { // NUL or not ASCII
			return classifySlow(b)
		}
	}
	return textPlain
}

// classifyTopic checks a topic name.
func classifyTopic(b []byte) text {
	if n := len(b); n >= 8 {
		for i := 0; ; i += 8 {
			i = min(i, n-8)
			w := binary.LittleEndian.Uint64(b[i:])
			if (w|(w-ones)|((w^pluses)-ones)|((w^hashes)-ones))&tops != 0 {
				return classifyTopicSlow(b)
			}
			if i == n-8 {
				return textPlain
			}
		}
	}
	for _, c := range b {
		if c-1 >= 0x7f || c == '+' || c == '#' {
			return classifyTopicSlow(b)
		}
	}
	return textPlain
}

func classifySlow(b []byte) text {
	if !utf8.Valid(b) {
		return textBad
	}
	if bytes.IndexByte(b, 0) >= 0 {
		return textNUL
	}
	return textPlain
}

func classifyTopicSlow(b []byte) text {
	t := classifySlow(b)
	if t == textPlain && (bytes.IndexByte(b, '+') >= 0 || bytes.IndexByte(b, '#') >= 0) {
		return textWildcard
	}
	return t
}
