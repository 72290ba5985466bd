package message

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/gzip"
)

func TestValidateBad(t *testing.T) {
	good := func() Message {
		m, err := NewEvent("nav", Event{EventType: "x"})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for _, tt := range []struct {
		name   string
		change func(*Message)
		reason Reason
		field  string
	}{
		{"timestamp 0", func(m *Message) { m.Metadata.Timestamp = 0 }, ReasonOutOfRange, "metadata.timestamp"},
		{"timestamp NaN", func(m *Message) { m.Metadata.Timestamp = math.NaN() }, ReasonNotFinite, "metadata.timestamp"},
		{"timestamp infinite", func(m *Message) { m.Metadata.Timestamp = math.Inf(1) }, ReasonNotFinite, "metadata.timestamp"},
		{"no id", func(m *Message) { m.Metadata.ID = "" }, ReasonMissingField, "metadata.message_id"},
		{"id not UTF-8", func(m *Message) { m.Metadata.ID = "\xff" }, ReasonUTF8, "metadata.message_id"},
		{"no sender", func(m *Message) { m.Metadata.Sender = "" }, ReasonMissingField, "metadata.sender"},
		{"sender not UTF-8", func(m *Message) { m.Metadata.Sender = "a\xc0" }, ReasonUTF8, "metadata.sender"},
		{"no type", func(m *Message) { m.Metadata.Type = "" }, ReasonMissingField, "metadata.message_type"},
		{"unknown type", func(m *Message) { m.Metadata.Type = "x" }, ReasonUnknownType, "metadata.message_type"},
		{"type not UTF-8", func(m *Message) { m.Metadata.Type = "\xff" }, ReasonUTF8, "metadata.message_type"},
		{"priority 4", func(m *Message) { m.Metadata.Priority = 4 }, ReasonOutOfRange, "metadata.priority"},
		{"priority -1", func(m *Message) { m.Metadata.Priority = -1 }, ReasonOutOfRange, "metadata.priority"},
		{"correlation id not UTF-8", func(m *Message) { m.Metadata.CorrelationID = "\xff" }, ReasonUTF8, "metadata.correlation_id"},
		{"expiry NaN", func(m *Message) { m.Metadata.ExpiresAt = math.NaN() }, ReasonNotFinite, "metadata.expires_at"},
		{"expiry negative", func(m *Message) { m.Metadata.ExpiresAt = -1 }, ReasonOutOfRange, "metadata.expires_at"},
		{"retry count negative", func(m *Message) { m.Metadata.RetryCount = -1 }, ReasonOutOfRange, "metadata.retry_count"},
		{"payload malformed", func(m *Message) { m.Payload = []byte(`{"a":[1,}`) }, ReasonMalformed, "payload.a[1]"},
		{"payload array malformed", func(m *Message) { m.Payload = []byte(`[1,}`) }, ReasonMalformed, "payload[1]"},
		{"payload and more", func(m *Message) { m.Payload = []byte(`{},"x":1`) }, ReasonMalformed, "payload"},
		{"payload not UTF-8", func(m *Message) { m.Payload = []byte("{\"a\":\"\xff\"}") }, ReasonUTF8, "payload.a"},
		{"payload NaN", func(m *Message) { m.Payload = []byte(`{"a":NaN}`) }, ReasonNotFinite, "payload.a"},
		{"payload too deep", func(m *Message) { m.Payload = []byte(nest(31)) }, ReasonTooDeep, "payload.a" + strings.Repeat("[0]", 30)},
		{"payload an array", func(m *Message) { m.Payload = []byte(`[]`) }, ReasonWrongType, "payload"},
		{"payload too large", func(m *Message) { m.Payload = []byte(`{"a":"` + strings.Repeat("x", 10_000) + `"}`) }, ReasonTooLarge, ""},
		{"envelope too large", func(m *Message) { m.Payload = []byte(`{"a":"` + strings.Repeat("x", 9_900) + `"}`) }, ReasonTooLarge, ""},
		{"raw too large", func(m *Message) { *m = NewRaw(make([]byte, 10_001)) }, ReasonTooLarge, ""},
	} {
		m := good()
		tt.change(&m)
		body, _, err := Encode(&m, Limits{})
		wantError(t, tt.name, err, tt.reason, tt.field)
		if body != nil {
			t.Errorf("%s: a body comes with the error", tt.name)
		}
	}
}

// TestAppendRefuses: what cannot be JSON is not written, and dst stays what it was.
func TestAppendRefuses(t *testing.T) {
	for _, md := range []Metadata{{Timestamp: math.NaN()}, {ExpiresAt: math.Inf(-1)}, {ID: "\xff"}, {Sender: "\xff"}, {Type: "\xff"}, {CorrelationID: "\xff"}} {
		m := Message{Metadata: md}
		if got, err := m.Append([]byte("x")); err == nil || string(got) != "x" {
			t.Errorf("%+v: %q, %v", md, got, err)
		}
	}
}

func TestAppendSeconds(t *testing.T) {
	for f, want := range map[float64]string{
		1763884800.125: "1763884800.125", 1763884800: "1763884800", 1763884800.000001: "1763884800.000001",
		0.5: "0.5", 1e-6: "0.000001", 1.5e-7: "1.5e-07", 1e21: "1e+21", 1e20: "100000000000000000000", -1.5: "-1.5", 0: "0",
		8589934591.999999: "8589934591.999999", 8820363470.234671: "8820363470.23467", math.MaxFloat64: "1.7976931348623157e+308",
	} {
		if got := string(appendSeconds(nil, f)); got != want {
			t.Errorf("%g is written %s, want %s", f, got, want)
		}
	}
	r := rand.New(rand.NewPCG(3, 4))
	for range 100_000 {
		f := math.Float64frombits(r.Uint64())
		if r.IntN(2) == 0 {
			f = float64(r.Int64N(1<<53)) / 1e6 // as we send them
		}
		if !isFinite(f) {
			continue
		}
		got := string(appendSeconds(nil, f))
		if back, err := strconv.ParseFloat(got, 64); err != nil || back != f || !json.Valid([]byte(got)) {
			t.Fatalf("%v is written %s", f, got)
		}
		if want := strconv.FormatFloat(f, 'f', -1, 64); len(got) > len(want) {
			t.Fatalf("%s is longer than %s", got, want)
		}
	}
}

func TestAppendString(t *testing.T) {
	for c := rune(0); c < 0x3000; c++ {
		if c == 0xd800 {
			break
		}
		want := "a" + string(c) + "b"
		quoted := appendString(nil, want)
		var got string
		if err := json.Unmarshal(quoted, &got); err != nil || got != want {
			t.Fatalf("%q is written %s: %v", want, quoted, err)
		}
	}
	if got := string(appendString(nil, "<&>/é𝄞\n\x00")); got != `"<&>/é𝄞\n\u0000"` {
		t.Errorf("got %s", got)
	}
}

// large returns a message whose envelope has about n bytes and compresses well.
func large(t testing.TB, n int) Message {
	t.Helper()
	m, err := NewHeartbeat("nav", map[string]string{"text": strings.Repeat("All is well. ", n/13)})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestCompression(t *testing.T) {
	m := large(t, 5000)
	plain, err := m.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		above int
		want  bool
	}{{0, true}, {-1, false}, {len(plain), false}, {len(plain) - 1, true}, {1, true}, {100_000, false}} {
		lim := Limits{CompressAbove: tt.above}
		body, compressed, err := Encode(&m, lim)
		if err != nil || compressed != tt.want || IsCompressed(body) != tt.want {
			t.Fatalf("above %d: compressed %v, %v", tt.above, compressed, err)
		}
		if compressed && len(body) >= len(plain)/4 {
			t.Errorf("%d bytes became %d", len(plain), len(body))
		}
		back, err := Decode(body, lim)
		if err != nil || back.Metadata != m.Metadata || !bytes.Equal(back.Payload, m.Payload) {
			t.Errorf("above %d: %v, %+v", tt.above, err, back.Metadata)
		}
	}

	// What gzip makes larger stays as it is.
	small, err := NewHeartbeat("nav", nil)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 1))
	noise := make([]rune, 600)
	for i := range noise {
		noise[i] = rune(0x4e00 + r.IntN(20000))
	}
	small.Metadata.Sender = string(noise)
	if body, compressed, err := Encode(&small, Limits{}); err != nil || len(body) <= 1000 || compressed != (len(body) < len(appended(t, &small))) {
		t.Errorf("noise: %d bytes, compressed %v, %v", len(body), compressed, err)
	}
	if deflate([]byte("x")) != nil {
		t.Error("one byte became smaller")
	}

	// Neither does a raw message, whoever reads it.
	raw := NewRaw(plain)
	if body, compressed, err := Encode(&raw, Limits{}); err != nil || compressed || !bytes.Equal(body, plain) {
		t.Errorf("raw: compressed %v, %v", compressed, err)
	}

	// The limit is that of the message before compression.
	m = large(t, 12_000)
	_, _, err = Encode(&m, Limits{})
	wantError(t, "compresses below the limit", err, ReasonTooLarge, "")
}

func appended(t *testing.T, m *Message) []byte {
	t.Helper()
	b, err := m.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// gzipped compresses as somebody else may.
func gzipped(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	w.Name = "message.json"
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestInflate(t *testing.T) {
	good := gzipped(t, []byte(env("", "{}")))
	if m, err := Decode(good, Limits{}); err != nil || m.Metadata.Sender != "s" {
		t.Errorf("%+v, %v", m, err)
	}
	if m, err := Decode(gzipped(t, []byte("hello")), Limits{}); err != nil || !m.Raw || string(m.Payload) != "hello" {
		t.Errorf("compressed text: %+v, %v", m, err)
	}
	two := append(gzipped(t, []byte(env("", "{}")[:20])), gzipped(t, []byte(env("", "{}")[20:]))...) // members [RFC 1952]
	if m, err := Decode(two, Limits{}); err != nil || m.Metadata.Sender != "s" {
		t.Errorf("two members: %+v, %v", m, err)
	}

	corrupt := bytes.Clone(good)
	corrupt[len(corrupt)-6] ^= 1 // the checksum
	for name, body := range map[string][]byte{
		"only the magic":   {0x1f, 0x8b},
		"no gzip":          append([]byte{0x1f, 0x8b}, "hello, this is text"...),
		"breaks off":       good[:len(good)-9],
		"no trailer":       good[:len(good)-8],
		"half a trailer":   good[:len(good)-1],
		"checksum":         corrupt,
		"garbage after":    append(bytes.Clone(good), "garbage"...),
		"half a second":    append(bytes.Clone(good), good[:12]...),
		"a second's magic": append(bytes.Clone(good), 0x1f, 0x8b),
	} {
		_, err := Decode(body, Limits{})
		wantError(t, name, err, ReasonInflate, "")
	}

	_, err := Decode(gzipped(t, []byte(env(meta("x"), "{}"))), Limits{})
	wantError(t, "a bad message inside", err, ReasonUnknownType, "metadata.message_type")
	_, err = Decode(gzipped(t, []byte(strings.Repeat("x", 10_001))), Limits{})
	wantError(t, "one byte over the limit", err, ReasonTooLarge, "")
	for name, tt := range map[string]struct{ size, limit int }{
		"at the limit": {10_000, 0}, "at a higher limit": {50_000, 50_000}, "without a limit": {50_000, math.MaxInt},
	} {
		m, err := Decode(gzipped(t, []byte(strings.Repeat("x", tt.size))), Limits{MaxPayload: tt.limit})
		if err != nil || len(m.Payload) != tt.size {
			t.Errorf("%s: %d bytes, %v", name, len(m.Payload), err)
		}
	}
}

// TestBomb: 9 MB in 9 kB cost no more memory than the limit.
func TestBomb(t *testing.T) {
	bomb := gzipped(t, make([]byte, 9_000_000))
	if len(bomb) > 10_000 {
		t.Fatalf("the bomb has %d bytes", len(bomb))
	}
	for name, body := range map[string][]byte{"one member": bomb, "empty members": bytes.Repeat(gzipped(t, nil), 250)} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		const n = 100
		for range n {
			m, err := Decode(body, Limits{})
			if name == "one member" {
				wantError(t, name, err, ReasonTooLarge, "")
			} else if err != nil || len(m.Payload) != 0 {
				t.Errorf("%s: %+v, %v", name, m, err)
			}
		}
		runtime.ReadMemStats(&after)
		if perBomb := (after.TotalAlloc - before.TotalAlloc) / n; perBomb > 100_000 {
			t.Errorf("%s: %d bytes allocated for each", name, perBomb)
		}
	}
}

// TestConcurrent: what Encode and Decode share between goroutines does not show.
func TestConcurrent(t *testing.T) {
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 50 {
				want := fmt.Sprintf(`{"text":%q}`, strings.Repeat(fmt.Sprint(g, i), 400))
				m := large(t, 100)
				m.Payload = []byte(want)
				body, compressed, err := Encode(&m, Limits{})
				if err != nil || !compressed {
					t.Errorf("compressed %v, %v", compressed, err)
				}
				if back, err := Decode(body, Limits{}); err != nil || string(back.Payload) != want {
					t.Errorf("got %.40s, %v; want %.40s", back.Payload, err, want)
				}
			}
		})
	}
	wg.Wait()
}

// TestAllocations holds the goal of 3 allocations for a round trip of a 200-byte reading.
func TestAllocations(t *testing.T) {
	m := reading(t)
	buf := make([]byte, 0, 1024)
	n := testing.AllocsPerRun(100, func() {
		if err := m.Validate(Limits{}); err != nil {
			t.Fatal(err)
		}
		body, err := m.Append(buf[:0])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(body, Limits{}); err != nil {
			t.Fatal(err)
		}
	})
	if n > 1 {
		t.Errorf("%v allocations, want the one that holds the metadata's strings", n)
	}
}
