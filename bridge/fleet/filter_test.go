package fleet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/message"
)

// TestSelection: the most specific filter counts, whatever the order.
func TestSelection(t *testing.T) {
	for _, filters := range [][]string{{"power/#", "power/+", "power/battery", "+/battery", "power"}, {"power", "+/battery", "power/battery", "power/+", "power/#"}} {
		var s selection
		for _, f := range filters {
			s.filters = append(s.filters, fleet.Filter{Filter: f})
		}
		for name, want := range map[string]string{
			"power/battery": "power/battery", "power/solar": "power/+", "power/a/b": "power/#", "x/battery": "+/battery", "power": "power", "x": "",
		} {
			got := ""
			if i, ok := s.of(name); ok {
				got = filters[i]
			}
			if got != want {
				t.Errorf("%s is of the filter %q, want %q", name, got, want)
			}
		}
	}
	for _, f := range fleet.DefaultFilters() {
		if err := f.Check(); err != nil {
			t.Errorf("%s: %v", f.Filter, err)
		}
	}
}

func TestFromBridge(t *testing.T) {
	for _, tt := range []struct {
		user [][2]string
		want bool
	}{
		{nil, false}, {[][2]string{{"a", "b"}}, false}, {[][2]string{{fleet.HeaderHops, "0"}}, false}, {[][2]string{{fleet.HeaderHops, "1"}}, true},
		{[][2]string{{fleet.HeaderHops, "x"}}, true}, {[][2]string{{"a", "b"}, {fleet.HeaderOrigin, "m-2"}}, true},
	} {
		if got := fromBridge(&client.Delivery{User: tt.user}); got != tt.want {
			t.Errorf("%v: %v, want %v", tt.user, got, tt.want)
		}
	}
}

// TestBatch: a batch has a line for each message, whatever that is.
func TestBatch(t *testing.T) {
	b := newBatches(time.Hour)
	at := time.UnixMicro(1763884800125000)
	bodies := []string{`{"a":1}`, "{\n\"a\": [1,\n2]}", "text", "", "\xff\xfe", `"json"`, "12", strings.Repeat("x", 2000)}
	for _, body := range bodies {
		if full := b.add("t", []byte(body), at); full != nil {
			t.Fatal("it is full")
		}
	}
	if b.waiting() != len(bodies) || len(b.due(false)) > 0 {
		t.Error("it does not wait")
	}
	sealed := b.due(true)
	if len(sealed) != 1 || sealed[0].count != len(bodies) || !sealed[0].gzip || !sealed[0].batch || sealed[0].id == "" || !sealed[0].arrival.Equal(at) {
		t.Fatalf("sealed: %+v", sealed)
	}
	r, err := gzip.NewReader(bytes.NewReader(sealed[0].body))
	check(t, err)
	text, err := io.ReadAll(r)
	check(t, err)
	want := []string{`{"a":1}`, `{"a":[1,2]}`, `"text"`, "null", `{"base64":"//4="}`, `"json"`, "12", `"` + strings.Repeat("x", 2000) + `"`}
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if len(lines) != len(want) {
		t.Fatalf("%d lines: %s", len(lines), text)
	}
	for i, line := range lines {
		var one struct {
			T float64
			M json.RawMessage
		}
		check(t, json.Unmarshal([]byte(line), &one))
		if string(one.M) != want[i] || one.T != 1763884800.125 {
			t.Errorf("line %d is %s, want the message %s", i, line, want[i])
		}
	}
	// It is sealed when it is large.
	n := 0
	for full := (*record)(nil); full == nil; n++ {
		full = b.add("t", []byte(fmt.Sprintf(`{"n":%d}`, n)), at)
	}
	if n != batchCount {
		t.Errorf("it is full with %d messages, want %d", n, batchCount)
	}
}

// TestRecordID: ids that others may have too do not make records equal.
func TestRecordID(t *testing.T) {
	id := func(topic, id, body string) string {
		return recordID(topic, &message.Message{Metadata: message.Metadata{ID: id}}, []byte(body))
	}
	const uuid = "6fa459ea-ee8a-4ca4-894e-db77e160355e"
	if got := id("t", uuid, "x"); got != uuid {
		t.Errorf("a UUID is %q", got)
	}
	if id("t", "1", "x") == id("t", "1", "y") || id("t", "1", "x") == id("u", "1", "x") {
		t.Error("different messages have the same id")
	}
	if first, second := id("t", "1", "x"), id("t", "1", "x"); first != second {
		t.Error("the same message has different ids")
	}
	raw := message.NewRaw([]byte("x"))
	if first, second := recordID("t", &raw, []byte("x")), recordID("t", &raw, []byte("x")); first == second {
		t.Error("messages without an envelope have the same id")
	}
}

// FuzzRecord: what is read from the disk may be anything, and what is written comes back.
func FuzzRecord(f *testing.F) {
	f.Add([]byte{recordVersion, 3, 1, 1, 1, 1, 1, 'a', 'b'}, "id", []byte("body"), uint64(7))
	f.Add(encodeRecord(event("t", "x"), 9, time.Hour), "", []byte{}, uint64(0))
	f.Fuzz(func(t *testing.T, value []byte, id string, body []byte, order uint64) {
		_, _, _ = decodeRecord(value)
		_, _ = parseGap(value)
		in := record{id: id, body: body, count: int(order % 1000), batch: order%2 == 0, gzip: order%3 == 0, arrival: time.UnixMicro(int64(order >> 8))}
		out, e, err := decodeRecord(encodeRecord(&in, order, time.Duration(order>>1)))
		if err != nil || out.id != id || !bytes.Equal(out.body, body) || out.count != in.count || out.batch != in.batch || out.gzip != in.gzip ||
			!out.arrival.Equal(in.arrival) || e.order != order || e.at != time.Duration(order>>1) {
			t.Errorf("%+v is %+v, %+v, %v", in, out, e, err)
		}
	})
}
