package cli

import (
	"bytes"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/demo"
)

func sampleView() demo.View {
	v := demo.View{
		Uptime: 83 * time.Second, Published: 4321, Delivered: 4320, Lost: 1, RatePerSecond: 51.25,
		P50: 300 * time.Microsecond, P99: 2 * time.Millisecond, Max: 9 * time.Millisecond,
		RoundTrip:  demo.Latency{Count: 3, P50: time.Millisecond, P99: 3 * time.Millisecond},
		CommandsOK: 12, Position: demo.Position{X: 10, Y: 7.5, Heading: 90, Speed: 0.5},
		Activity: "mowing", Battery: 50, AreaDone: 0.25, LastAlert: "person\x1b[2J seen", LastAlertAt: time.Now(),
		Stop: demo.StopView{Known: true, Wheels: true, Blade: true, Driver: "navigation", Engagements: 2, Last: 210 * time.Millisecond},
	}
	for _, id := range []string{"hardware_interface", "navigation", "power", "safety", "sensor_fusion", "vision", "weather"} {
		v.Services = append(v.Services, demo.ServiceView{ID: id, Type: id, State: "healthy"})
	}
	return v
}

func TestFrameShowsEverything(t *testing.T) {
	frame := newView("tcp://127.0.0.1:1883", false).frame(sampleView(), []string{"level=WARN msg=hello"}, 80, 30)
	all := strings.Join(frame, "\n")
	for _, want := range []string{
		"tcp://127.0.0.1:1883", "1m23s", "hardware_interface  healthy", "weather", "x 10.00 m  y  7.50 m", "mowing, 25% of the lawn done",
		"██████████░░░░░░░░░░  50.0%", "51.2/s  4321 published  4320 delivered  1 lost", "p50 0.30 ms  p99 2.00 ms  max 9.00 ms",
		"12 done  0 failed", "person\\x1b[2J seen", "msg=hello", "→", "+----",
		"stop      released  2 engagements so far, the wheels stood after 210 ms", "motors    wheels turning, blade turning, driven by navigation",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is missing in\n%s", want, all)
		}
	}
}

func TestFrameFits(t *testing.T) {
	v := sampleView()
	for _, colour := range []bool{false, true} {
		for _, size := range [][2]int{{80, 24}, {200, 60}, {79, 24}, {40, 12}, {20, 5}, {1, 1}} {
			frame := newView("tcp://127.0.0.1:1883", colour).frame(v, []string{strings.Repeat("long ", 40)}, size[0], size[1])
			if len(frame) > size[1] {
				t.Errorf("%v: %d lines", size, len(frame))
			}
			for _, line := range frame {
				if n := visible(line); n > size[0] {
					t.Errorf("%v: %d columns: %q", size, n, line)
				}
				if colour && strings.Count(line, "\x1b[0m")*2 != strings.Count(line, "\x1b[") {
					t.Errorf("%v: a colour does not end: %q", size, line)
				}
			}
		}
	}
}

func TestFrameOfNothingKnown(t *testing.T) {
	frame := newView("", false).frame(demo.View{Battery: math.NaN()}, nil, 80, 24)
	all := strings.Join(frame, "\n")
	for _, want := range []string{"battery   unknown", "activity  unknown", "motors    unknown", "alert     none"} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is missing in\n%s", want, all)
		}
	}
	if strings.Contains(all, "·") {
		t.Errorf("a trail without a position:\n%s", all)
	}
}

func TestFrameWhileStopped(t *testing.T) {
	v := sampleView()
	v.Stop = demo.StopView{
		Engaged: true, Reason: "a \x1bdog", By: "anna", Since: time.Now().Add(-70 * time.Second),
		Known: true, Blade: true, Cause: "emergency stop", Engagements: 1, Last: 200 * time.Millisecond,
	}
	for _, test := range []struct {
		change func(s *demo.StopView)
		want   []string
	}{
		{func(*demo.StopView) {}, []string{"stop      ENGAGED by anna for 1m10s: a \\x1bdog", "motors    wheels standing, blade turning, the wheels stood after 200 ms, stopped: emergency stop"}},
		{func(s *demo.StopView) { s.By, s.Reason = "", "not known: the hub is offline" }, []string{"stop      engaged, as long as it is not known: the hub is offline"}},
		{func(s *demo.StopView) { s.Engaged, s.Last, s.Cause = false, 0, "safety is offline" }, []string{"stop      released  1 engagement so far", "motors    wheels standing, blade turning, stopped: safety is offline"}},
	} {
		d := v
		test.change(&d.Stop)
		all := strings.Join(newView("", false).frame(d, nil, 120, 30), "\n") + "\n"
		for _, want := range test.want {
			if !strings.Contains(all, want+"\n") {
				t.Errorf("%q is missing in\n%s", want, all)
			}
		}
	}
	if line := statusLine(v); !strings.Contains(line, `emergency stop: a \x1bdog`) {
		t.Errorf("%q does not say that it is engaged", line)
	}
}

func TestLawnMap(t *testing.T) {
	v := newView("", false)
	d := sampleView()
	for _, step := range []demo.Position{{X: 1, Y: 1}, {X: 4, Y: 1}, {X: 4, Y: 14, Heading: 359}, {X: -3, Y: 40}} {
		d.Position = step
		v.frame(d, nil, 80, 40)
	}
	d.Position = demo.Position{X: 4, Y: 14, Heading: 359}
	lawn := v.lawn(d, mapRows)
	if len(lawn) != mapRows+2 {
		t.Fatalf("%d lines", len(lawn))
	}
	if bottom := lawn[mapRows]; !strings.Contains(bottom, "·······") {
		t.Errorf("the way along the south is not marked: %q", bottom)
	}
	if top := []rune(lawn[1]); slices.Index(top, '↑') != 1+8 {
		t.Errorf("the mower is not in the north: %q", string(top))
	}
}

func TestStatusLine(t *testing.T) {
	d := sampleView()
	d.Services[3].State = "degraded"
	line := statusLine(d)
	for _, want := range []string{"6/7 healthy", "mowing", "battery 50.0%", "51.2 msg/s", "lost 1", "p99 2.00 ms", `alert: person\x1b[2J seen`} {
		if !strings.Contains(line, want) {
			t.Errorf("%q is missing in %q", want, line)
		}
	}
}

func TestScreenDrawsInPlace(t *testing.T) {
	var out bytes.Buffer
	s := newScreen(&tool{stdout: &out}, "tcp://x", &logTail{})
	s.show(sampleView())
	s.close()
	got := out.String()
	if !strings.HasPrefix(got, enterScreen+homeCursor) || !strings.HasSuffix(got, clearBelow+leaveScreen) {
		t.Errorf("got %q", got)
	}
	if strings.Count(got, clearLine) != strings.Count(got, "\r\n")+1 {
		t.Error("a line is not cleared to its end")
	}
}

func TestComplaint(t *testing.T) {
	s := demo.Summary{Lost: 2, Commands: demo.CommandsRun{Failed: 1}, Services: []demo.ServiceView{{ID: "a", State: "healthy"}, {ID: "b", State: "offline"}}}
	if got, want := complaint(s), "b was offline, 2 messages lost, 1 command failed"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestLogTail(t *testing.T) {
	var out bytes.Buffer
	tail := &logTail{out: &out}
	write := func(line string) {
		if _, err := tail.Write([]byte(line + "\n")); err != nil {
			t.Error(err)
		}
	}
	write("before")
	if out.String() != "before\n" {
		t.Errorf("got %q", out.String())
	}
	out.Reset()
	tail.hold()
	for i := range tailLines + 5 {
		write(strings.Repeat("x", i))
	}
	if got := tail.last(2); out.Len() != 0 || len(got) != 2 || len(got[1]) != tailLines+4 {
		t.Errorf("got %q, and %q went out", got, out.String())
	}
	tail.release()
	lines := strings.Split(strings.TrimRight(out.String(), "\n"), "\n")
	if len(lines) != tailLines || len(lines[0]) != 5 || len(lines[tailLines-1]) != tailLines+4 {
		t.Errorf("%d lines, the first %d long", len(lines), len(lines[0]))
	}
	out.Reset()
	write("after")
	if out.String() != "after\n" || len(tail.last(2)) != 0 {
		t.Errorf("got %q", out.String())
	}
}
