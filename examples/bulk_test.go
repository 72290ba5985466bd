package examples

import (
	"context"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/broker"
)

var mapLine = regexp.MustCompile(`^map (\d+): (\d+) cells, .*; (\d+) bytes came as (\d+), .*; (\d+) left out before it$`)

// TestBulk has a reader that keeps up and one that does not read maps of a megabyte. The one gets each until it has enough; the other's numbers
// rise, and the ones that it missed are told.
func TestBulk(t *testing.T) {
	dir := build(t, "./bulk")
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	b, err := broker.Start(ctx, broker.Options{Listeners: []broker.Listener{{Network: "tcp", Address: "127.0.0.1:0"}}}) // which takes 256 KiB
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Stop(context.WithoutCancel(ctx)) }()
	eager := run(t, dir, "bulk", "-broker", b.URL(), "-count", "5", "read")
	slow := run(t, dir, "bulk", "-broker", b.URL(), "-count", "3", "-slow", "1s", "read")
	eager.expect("reader is ready")
	slow.expect("reader is ready")
	mapper := run(t, dir, "bulk", "-broker", b.URL(), "-every", "100ms", "publish")
	mapper.expect("mapper is healthy")

	read := func(p *program, maps int) (left int) {
		t.Helper()
		last := 0
		for n := 0; n < maps; {
			var line string
			select {
			case line = <-p.lines:
			case <-time.After(patience):
				t.Fatalf("%s: %d maps of %d: %s", p.name, n, maps, p.errors.String())
			}
			if line == "reader is ready" { // a retained map may come before it
				continue
			}
			m := mapLine.FindStringSubmatch(line)
			if m == nil {
				t.Fatalf("it says %q", line)
			}
			var v [6]int
			for i := 1; i < len(v); i++ {
				v[i], _ = strconv.Atoi(m[i]) // digits
			}
			n++
			if v[1] <= last || v[2] != 1_000_000 || v[3] < 1_000_000 || v[4] > v[3]/20 {
				t.Errorf("after map %d: %s", last, line)
			}
			if last != 0 && v[5] != v[1]-last-1 {
				t.Errorf("after map %d so many are not missing: %s", last, line)
			}
			last, left = v[1], left+v[5]
		}
		p.end(0)
		t.Logf("%d maps read, %d left out", maps, left)
		return left
	}
	read(eager, 5)
	if read(slow, 3) == 0 {
		t.Error("who takes a second for a map has all of ten a second")
	}
	// Who comes later has a map at once, though nobody sends any more.
	mapper.interrupt()
	late := run(t, dir, "bulk", "-broker", b.URL(), "-count", "1", "read")
	read(late, 1)
}
