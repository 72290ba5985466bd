package packet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"testing"
	"testing/iotest"
)

// raw is a packet as Next returns it, copied.
type raw struct {
	first byte
	body  string
}

// readAll reads to the error. At each step it holds Buffered against what Next then does.
func readAll(t testing.TB, src io.Reader, max int) (packets []raw, end error) {
	t.Helper()
	counted := &countReads{src: src}
	r := NewReader(counted, max)
	for {
		buffered := r.Buffered()
		before := counted.n
		first, body, err := r.Next()
		if buffered != (counted.n == before) {
			t.Fatalf("Buffered said %v, and Next read %d times (%d packets so far, %v)", buffered, counted.n-before, len(packets), err)
		}
		if err != nil {
			return packets, err
		}
		if cap(body) != len(body) {
			t.Fatalf("appending to the body would overwrite the next packet")
		}
		packets = append(packets, raw{first, string(body)})
	}
}

type countReads struct {
	src io.Reader
	n   int
}

func (c *countReads) Read(p []byte) (int, error) {
	c.n++
	return c.src.Read(p)
}

// stream returns packets of sizes around every border that the Reader knows, and how they come over the wire.
func stream() (want []raw, wire []byte) {
	for i, n := range []int{0, 2, 127, 128, 200, 508, 509, 510, 511, 512, 513, 0, 0, 1024, 4090, 4096, 4097, 16_383, 16_384,
		65_531, 65_532, 65_533, 65_536, 70_000, 3, 262_144, 0, 5, 2_097_151, 2_097_152, 1} {
		body := bytes.Repeat([]byte{byte('a' + i)}, n)
		first := byte(PUBLISH)<<4 | byte(i&1)
		want = append(want, raw{first, string(body)})
		wire = append(appendVarint(append(wire, first), uint32(n)), body...)
	}
	return want, wire
}

func equal(t *testing.T, got, want []raw) {
	t.Helper()
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("packet %d: got 0x%02x and %d bytes, want 0x%02x and %d bytes", i, got[i].first, len(got[i].body), want[i].first, len(want[i].body))
		}
	}
	if len(got) != len(want) {
		t.Fatalf("got %d packets, want %d", len(got), len(want))
	}
}

func TestReader(t *testing.T) {
	want, wire := stream()
	for _, c := range []struct {
		name string
		src  io.Reader
	}{
		{"whole", bytes.NewReader(wire)},
		{"half", iotest.HalfReader(bytes.NewReader(wire))},
		{"error with the last data", iotest.DataErrReader(bytes.NewReader(wire))},
		{"pieces", &pieces{data: wire, rand: rand.New(rand.NewPCG(1, 2))}},
		{"pieces and empty reads", &pieces{data: wire, rand: rand.New(rand.NewPCG(3, 4)), empty: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := readAll(t, c.src, 0)
			if err != io.EOF {
				t.Errorf("ends with %v, want io.EOF", err)
			}
			equal(t, got, want)
		})
	}
	t.Run("byte by byte", func(t *testing.T) {
		n := bytes.IndexByte(wire, 'a'+19) // the 64 KiB ones would take their time
		got, err := readAll(t, iotest.OneByteReader(bytes.NewReader(wire[:n-4])), 0)
		if err != io.EOF {
			t.Errorf("ends with %v, want io.EOF", err)
		}
		equal(t, got, want[:19])
	})
}

// pieces returns data in pieces of random length.
type pieces struct {
	data  []byte
	rand  *rand.Rand
	empty bool // some of the pieces
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.data) == 0 {
		return 0, io.EOF
	}
	if p.empty && p.rand.IntN(3) == 0 {
		return 0, nil
	}
	n := copy(b[:min(len(b), 1+p.rand.IntN(3000))], p.data)
	p.data = p.data[n:]
	return n, nil
}

func TestReaderEnds(t *testing.T) {
	broken := errors.New("cable pulled")
	for _, c := range []struct {
		name  string
		src   io.Reader
		count int
		want  error
	}{
		{"empty", bytes.NewReader(nil), 0, io.EOF},
		{"between packets", bytes.NewReader([]byte{0xc0, 0, 0xc0, 0}), 2, io.EOF},
		{"after the first byte", bytes.NewReader([]byte{0xc0, 0, 0x30}), 1, io.ErrUnexpectedEOF},
		{"in the remaining length", bytes.NewReader([]byte{0x30, 0x80}), 0, io.ErrUnexpectedEOF},
		{"before the body", bytes.NewReader([]byte{0x30, 5}), 0, io.ErrUnexpectedEOF},
		{"in the body", bytes.NewReader([]byte{0x30, 5, 1, 2, 3, 4}), 0, io.ErrUnexpectedEOF},
		{"in the body, with the data", iotest.DataErrReader(bytes.NewReader([]byte{0x30, 5, 1, 2, 3, 4})), 0, io.ErrUnexpectedEOF},
		{"error at once", iotest.ErrReader(broken), 0, broken},
		{"error between packets", io.MultiReader(bytes.NewReader([]byte{0xc0, 0}), iotest.ErrReader(broken)), 1, broken},
		{"error in a packet", io.MultiReader(bytes.NewReader([]byte{0xc0, 0, 0x30, 5, 1}), iotest.ErrReader(broken)), 1, broken},
		{"error with data", iotest.DataErrReader(io.MultiReader(bytes.NewReader([]byte{0xc0, 0}), iotest.ErrReader(broken))), 1, broken},
		{"timeout", iotest.TimeoutReader(iotest.OneByteReader(bytes.NewReader([]byte{0xc0, 0}))), 0, iotest.ErrTimeout},
		{"no progress", nothing{}, 0, io.ErrNoProgress},
	} {
		packets, err := readAll(t, c.src, 0)
		if err != c.want || len(packets) != c.count {
			t.Errorf("%s: %d packets, then %v; want %d, then %v", c.name, len(packets), err, c.count, c.want)
		}
	}
	for _, n := range []int{-1, 10_000} {
		if _, _, err := NewReader(impossible(n), 0).Next(); err == nil {
			t.Errorf("a source that returns a count of %d is believed", n)
		}
	}
}

type nothing struct{}

func (nothing) Read([]byte) (int, error) { return 0, nil }

type impossible int

func (i impossible) Read([]byte) (int, error) { return int(i), nil }

// After an error of the source that passes, such as a deadline, nothing is lost.
func TestReaderGoesOn(t *testing.T) {
	r := NewReader(iotest.TimeoutReader(iotest.OneByteReader(bytes.NewReader([]byte{0x30, 2, 7, 8}))), 0)
	if _, _, err := r.Next(); err != iotest.ErrTimeout {
		t.Fatalf("got %v, want the timeout", err)
	}
	first, body, err := r.Next()
	if first != 0x30 || string(body) != "\x07\x08" || err != nil {
		t.Errorf("got %x, %x, %v", first, body, err)
	}
}

func TestReaderLimit(t *testing.T) {
	want, wire := stream()
	for _, c := range []struct {
		max, count int // of stream's packets that pass
	}{{1, 0}, {2, 1}, {3, 1}, {4, 2}, {128, 2}, {129, 3}, {130, 3}, {131, 4}, {65_534, 19}, {65_535, 20}, {maxPacket, 31}, {0, 31}, {-1, 31}, {math.MaxInt, 31}} {
		got, err := readAll(t, bytes.NewReader(wire), c.max)
		equal(t, got, want[:c.count])
		var e *Error
		if c.count == len(want) {
			if err != io.EOF {
				t.Errorf("max %d: %v", c.max, err)
			}
		} else if !errors.As(err, &e) || e.Code != PacketTooLarge {
			t.Errorf("max %d: %v, want packet too large", c.max, err)
		}
	}

	// The limit holds as soon as the header is complete, and again when asked again.
	r := NewReader(io.MultiReader(bytes.NewReader([]byte{0x30, 0xe4, 0x01}), iotest.ErrReader(errors.New("read on"))), 100)
	for range 2 {
		_, _, err := r.Next()
		var e *Error
		if !errors.As(err, &e) || e.Code != PacketTooLarge || e.Text != "a packet of 231 bytes, the limit is 100" {
			t.Errorf("got %v", err)
		}
		if !r.Buffered() {
			t.Error("the error is certain, and Buffered says no")
		}
	}
	r.SetMax(231)
	if r.Buffered() {
		t.Error("Buffered, before the body has come")
	}
}

// A length that is claimed and does not come costs almost nothing, and one that comes is not paid for in advance.
func TestReaderClaims(t *testing.T) {
	var readers [100]*Reader
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range readers {
		readers[i] = NewReader(bytes.NewReader([]byte{0x30, 0xff, 0xff, 0xff, 0x7f, 1, 2, 3, 4, 5}), 0)
		if _, _, err := readers[i].Next(); err != io.ErrUnexpectedEOF {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / uint64(len(readers)); each > 2048 {
		t.Errorf("a claim of 256 MB cost %d bytes", each)
	}
	runtime.KeepAlive(readers)

	claim := []byte{0x30, 0xff, 0xff, 0xff, 0x7f}
	for _, sent := range []int{1, 511, 512, 513, 5_000, 100_000, 1_000_000} {
		r := NewReader(io.MultiReader(bytes.NewReader(claim), bytes.NewReader(make([]byte, sent))), 0)
		if _, _, err := r.Next(); err != io.ErrUnexpectedEOF {
			t.Fatal(err)
		}
		if limit := max(firstStep, 4*(sent+len(claim))); len(r.buf) > limit {
			t.Errorf("%d bytes sent of a claimed 256 MB: the buffer has %d, want at most %d", sent, len(r.buf), limit)
		}
	}
}

// The buffer starts small, grows with the traffic, and is small again afterwards.
func TestReaderBuffer(t *testing.T) {
	src := &scripted{}
	r := NewReader(src, 0)
	if len(r.buf) != 0 {
		t.Errorf("%d bytes before the first Next", len(r.buf))
	}
	ping := []byte{0xc0, 0}
	next := func(data []byte) {
		t.Helper()
		src.data = data
		for {
			if _, _, err := r.Next(); err != nil {
				if err != errDry {
					t.Fatal(err)
				}
				return
			}
		}
	}
	next(ping)
	if len(r.buf) != minBuffer {
		t.Errorf("a ping: buffer of %d bytes, want %d", len(r.buf), minBuffer)
	}
	small := append(appendVarint([]byte{0x30}, 200), make([]byte, 200)...)
	next(bytes.Repeat(small, 5_000))
	if len(r.buf) != maxBuffer {
		t.Errorf("under load: buffer of %d bytes, want %d", len(r.buf), maxBuffer)
	}
	src.reads = 0
	next(bytes.Repeat(small, 5_000))
	if limit := 5_000*len(small)/maxBuffer + 5; src.reads > limit {
		t.Errorf("5,000 packets of 200 bytes took %d reads, want at most %d", src.reads, limit)
	}
	for range 2 * window {
		next(ping)
	}
	if len(r.buf) != minBuffer {
		t.Errorf("pings after the load: buffer of %d bytes, want %d", len(r.buf), minBuffer)
	}

	big := append(appendVarint([]byte{0x30}, 256<<10), make([]byte, 256<<10)...)
	next(big)
	if len(r.buf) > maxBuffer {
		t.Errorf("after a packet of 256 KiB: idle with a buffer of %d bytes", len(r.buf))
	}

	for range 2 * window {
		next(ping)
	}

	// Packets of a few KiB do not make it grow and shrink each time.
	medium := append(appendVarint([]byte{0x30}, 10_000), make([]byte, 10_000)...)
	next(medium)
	if n := testing.AllocsPerRun(200, func() { next(medium) }); n != 0 {
		t.Errorf("packets of 10,000 bytes: %v allocations each", n)
	}
}

// scripted returns its data, then errDry until there is more.
type scripted struct {
	data  []byte
	reads int
}

var errDry = errors.New("no data now")

func (s *scripted) Read(p []byte) (int, error) {
	if len(s.data) == 0 {
		return 0, errDry
	}
	s.reads++
	n := copy(p, s.data)
	s.data = s.data[n:]
	return n, nil
}

// In 3.1.1 a remaining length may be longer than necessary; a client that writes its CONNECT so is believed.
func TestReaderPadded(t *testing.T) {
	padded4 := unhex(t, "10 8d 80 00 "+c4+" 02 0000 0001 'a'")
	plain4 := unhex(t, "10 0d "+c4+" 02 0000 0001 'a'")
	padded5 := unhex(t, "10 8d 80 00 "+c5+" 02 0000 00 0000")
	publish := unhex(t, "30 83 80 00 0001 'a'")
	for _, c := range []struct {
		name  string
		data  []byte
		count int // packets before the stream is malformed
		ok    bool
	}{
		{"3.1.1, all padded", append(padded4, publish...), 2, true},
		{"3.1.1, only later", append(plain4, publish...), 1, false},
		{"5", padded5, 0, false},
		{"a CONNECT too short for a version", []byte{0x10, 0x81, 0x00, 0x00}, 0, false},
		{"not a CONNECT", publish, 0, false},
	} {
		for _, src := range []io.Reader{bytes.NewReader(c.data), iotest.OneByteReader(bytes.NewReader(c.data))} {
			packets, err := readAll(t, src, 0)
			var e *Error
			if len(packets) != c.count || c.ok != (err == io.EOF) || !c.ok && (!errors.As(err, &e) || e.Code != MalformedPacket) {
				t.Errorf("%s: %d packets, then %v", c.name, len(packets), err)
			}
		}
	}
}

func ExampleReader() {
	var wire []byte
	for i, name := range []string{"gps", "imu"} {
		o := Outgoing{Topic: "lawnberry/sensors/" + name + "/data", Payload: []byte("{}"), QoS: 1, ID: uint16(i + 1)}
		wire = o.Append(wire, V5)
	}
	r := NewReader(bytes.NewReader(wire), 64<<10)
	var p Publish
	for {
		first, body, err := r.Next()
		if err != nil {
			break // io.EOF: the other side is done
		}
		if err := p.Decode(first, body, V5); err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%d %s %s\n", p.ID, p.Topic, p.Payload)
	}
	// Output:
	// 1 lawnberry/sensors/gps/data {}
	// 2 lawnberry/sensors/imu/data {}
}
