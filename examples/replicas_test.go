package examples

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/broker"
)

// TestReplicas kills one of three workers while sixty commands come. Each command was done once, or its caller was told that nobody knows; none
// has begun twice, also after the killed one has come back with its directory.
func TestReplicas(t *testing.T) {
	const calls = 60
	dir, data := build(t, "./replicas"), t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	b, err := broker.Start(ctx, broker.Options{Listeners: []broker.Listener{{Network: "tcp", Address: "127.0.0.1:0"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Stop(context.WithoutCancel(ctx)) }()
	start := func(i int, work string) *program {
		t.Helper()
		id := fmt.Sprintf("worker-%d", i)
		p := run(t, dir, "replicas", "-broker", b.URL(), "-id", id, "-work", work, "-dir", filepath.Join(data, id))
		p.expect(id + " is healthy")
		return p
	}
	workers := []*program{start(1, "50ms"), start(2, "5s"), start(3, "50ms")} // the second is still at work when it is killed
	caller := run(t, dir, "replicas", "-broker", b.URL(), "-call", fmt.Sprint(calls))
	begun := map[int]int{} // by command, how often
	count := func(line string) {
		var n int
		if _, err := fmt.Sscanf(line, "begins %d", &n); err == nil {
			begun[n]++
		}
	}
	next := func(p *program) string {
		t.Helper()
		select {
		case line := <-p.lines:
			count(line)
			return line
		case <-time.After(patience):
			t.Fatalf("%s says nothing: %s", p.name, p.errors.String())
			return ""
		}
	}
	// It dies with a command in its hands.
	if line := next(workers[1]); !strings.HasPrefix(line, "begins ") {
		t.Fatalf("it says %q", line)
	}
	if err := workers[1].cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = workers[1].cmd.Wait()
	back := start(2, "50ms")

	by, done, unknown := map[string]int{}, map[int]bool{}, map[int]string{}
	for {
		line := next(caller)
		if strings.Contains(line, " done, ") {
			if want := fmt.Sprintf("%d done, %d unknown", len(done), len(unknown)); line != want {
				t.Errorf("the caller says %q, want %q", line, want)
			}
			break
		}
		var n int
		var who string
		if _, err := fmt.Sscanf(line, "done %d by %s", &n, &who); err == nil {
			done[n] = true
			by[who]++
		} else if _, err := fmt.Sscanf(line, "unknown %d:", &n); err == nil {
			unknown[n] = line
		} else {
			t.Errorf("the caller says %q", line)
		}
	}
	caller.end(0)
	for _, p := range []*program{workers[0], workers[2], back} {
		p.interrupt()
	}
	for _, p := range append(workers, back) {
		for _, line := range p.rest() {
			count(line)
		}
	}
	t.Logf("%d done, by %v, %d unknown: %v", len(done), by, len(unknown), unknown)
	for n := 1; n <= calls; n++ {
		switch {
		case done[n] && unknown[n] != "":
			t.Errorf("command %d is both done and unknown", n)
		case !done[n] && unknown[n] == "":
			t.Errorf("command %d is lost without a word", n)
		case begun[n] > 1:
			t.Errorf("command %d began %d times", n, begun[n])
		case done[n] && begun[n] != 1:
			t.Errorf("command %d is done, and began %d times", n, begun[n])
		}
	}
	if len(unknown) == 0 || len(unknown) > 8 {
		t.Errorf("of a worker that died at work %d commands are unknown: %v", len(unknown), unknown)
	}
	if len(by) < 2 {
		t.Errorf("the work was not shared: %v", by)
	}
}
