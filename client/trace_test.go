package client

import (
	"bytes"
	"context"
	"testing"
	"unsafe"
)

// TestUntraced shows that without a Tracer nothing is added to a message, and nothing is allocated for one: prepareTraced takes what
// prepare takes.
func TestUntraced(t *testing.T) {
	c := connect(t, Options{URL: startBroker(t).URL()})
	m, ctx := raw("x"), context.Background()
	plain := testing.AllocsPerRun(1000, func() { _, _ = c.prepare("test/x", m, nil) })
	off := testing.AllocsPerRun(1000, func() { _, _, _ = c.prepareTraced(ctx, "test/x", m, nil) })
	if off > plain {
		t.Errorf("%g allocations, %g without the question for a tracer", off, plain)
	}
	p, span, err := c.prepareTraced(ctx, "test/x", m, nil)
	if err != nil || span != nil || len(p.user) > 0 || bytes.Contains(p.props, []byte(traceParentKey)) {
		t.Errorf("span %v, user properties %q, encoded %q, error %v", span, p.user, p.props, err)
	}
}

func BenchmarkPrepareUntraced(b *testing.B) {
	c := connect(b, Options{URL: startBroker(b).URL()})
	m := raw("x")
	b.ReportAllocs()
	for b.Loop() {
		_, _, _ = c.prepareTraced(b.Context(), "test/x", m, nil)
	}
}

// What a publication takes in memory is what it took before there were traces: 320 bytes is one of the allocator's sizes, and the next is a tenth more.
func TestPublicationSize(t *testing.T) {
	if size := unsafe.Sizeof(publication{}); unsafe.Sizeof(uintptr(0)) == 8 && size > 320 {
		t.Errorf("%d bytes", size)
	}
}
