package message

import (
	"bytes"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
)

// IsCompressed reports whether body begins as gzip does.
func IsCompressed(body []byte) bool { return len(body) >= 2 && body[0] == 0x1f && body[1] == 0x8b }

// Compress returns an encoded envelope compressed, as Encode does above lim.CompressAbove; ok is false if it stays as it is.
func Compress(body []byte, lim Limits) (small []byte, ok bool) {
	if !lim.compresses(len(body)) {
		return nil, false
	}
	small = deflate(body)
	return small, small != nil
}

// Inflate returns what body inflates to, or body itself if it is not compressed. The error is an *[Error].
func Inflate(body []byte, lim Limits) ([]byte, error) {
	if err := lim.checkSize(len(body)); err != nil || !IsCompressed(body) {
		return body, err
	}
	return inflate(body, &lim)
}

// A compressor is a gzip writer with the buffer that it writes to. Making one costs far more than using it.
type compressor struct {
	out bytes.Buffer
	zip *gzip.Writer
}

// A decompressor is a gzip reader with its source and the buffer it inflates to.
type decompressor struct {
	in  bytes.Reader
	zip gzip.Reader
	out bytes.Buffer
}

var (
	compressors   = sync.Pool{New: func() any { return newCompressor() }}
	decompressors = sync.Pool{New: func() any { return new(decompressor) }}
)

func newCompressor() *compressor {
	c := &compressor{}
	// For messages of this size it is as fast and as small as BestSpeed, and needs a third of the memory. The call
	// fails for an unknown level only.
	c.zip, _ = gzip.NewWriterLevel(&c.out, gzip.StatelessCompression)
	return c
}

// deflate returns body compressed, or nil if that is not smaller.
func deflate(body []byte) []byte {
	c := compressors.Get().(*compressor)
	defer compressors.Put(c)
	c.out.Reset()
	c.zip.Reset(&c.out)
	_, _ = c.zip.Write(body) // a buffer takes everything
	_ = c.zip.Close()
	if c.out.Len() >= len(body) {
		return nil
	}
	return bytes.Clone(c.out.Bytes())
}

// inflate returns what body inflates to. It stops, and has kept no more, at one byte over lim.MaxPayload.
func inflate(body []byte, lim *Limits) ([]byte, error) {
	d := decompressors.Get().(*decompressor)
	defer decompressors.Put(d)
	d.in.Reset(body)
	defer d.in.Reset(nil)
	d.out.Reset()
	limit := lim.maxPayload()
	for d.in.Len() > 0 { // member by member [RFC 1952, 2.2], so that half of one does not pass for the end
		if err := d.zip.Reset(&d.in); err != nil {
			return nil, inflateError(err)
		}
		d.zip.Multistream(false)
		_, err := d.out.ReadFrom(io.LimitReader(&d.zip, int64(limit-d.out.Len())+1))
		if d.out.Len() > limit {
			return nil, &Error{Reason: ReasonTooLarge, Rule: fmt.Sprintf("inflates to more than %d bytes, the limit", limit)}
		}
		if err != nil {
			return nil, inflateError(err)
		}
	}
	return bytes.Clone(d.out.Bytes()), nil
}

func inflateError(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return &Error{Reason: ReasonInflate, Rule: fmt.Sprintf("begins as gzip (1f 8b) but does not inflate: %v", err)}
}
