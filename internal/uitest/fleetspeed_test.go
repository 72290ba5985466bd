package uitest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/fleettest"
	"github.com/lawnberry/lawnberry/internal/fleetui"
)

// fleetEngine is the URL of the engine whose fleet a process of this test shows.
const fleetEngine = "LAWNBERRY_TEST_FLEET_ENGINE"

func beFleetUI() {
	fail := func(err error) {
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	nc, err := nats.Connect(os.Getenv(fleetEngine))
	fail(err)
	js, err := jetstream.New(nc)
	fail(err)
	v := fleet.OpenView(js, fleet.ViewOptions{})
	fail(v.Wait(context.Background()))
	u, err := fleetui.Start(fleetui.Options{View: v})
	fail(err)
	fmt.Println(u.URL())
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// cpuOf returns the time that a process has had, and its memory in MB.
func cpuOf(b *testing.B, pid int) (cpu time.Duration, memory float64) {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	check(b, err)
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+2:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	pages, _ := strconv.Atoi(f[21])
	return time.Duration(user+system) * 10 * time.Millisecond, float64(pages) * 4096 / 1e6
}

// BenchmarkFleetPage: what the page and its server take with three thousand mowers, of which each says where it is and its charge once a second, and that it is
// there every ten. An operation is a second of that. The rate that is reported is what came through, should the machine not keep up.
func BenchmarkFleetPage(b *testing.B) {
	const mowers = 3000
	w := newFleetWorld(b, mowers)
	cmd := exec.Command(os.Args[0]) //nolint:gosec // it is this test
	cmd.Env, cmd.Stderr = append(os.Environ(), fleetEngine+"="+w.servers.URL()), os.Stderr
	in, err := cmd.StdinPipe()
	check(b, err)
	out, err := cmd.StdoutPipe()
	check(b, err)
	check(b, cmd.Start())
	b.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	line := bufio.NewScanner(out)
	if !line.Scan() {
		b.Fatal("it does not start")
	}
	address, _, _ := strings.Cut(line.Text(), "/?")
	page := openPage(b, address, line.Text())
	page.until("the page", "document.querySelector('#rows')")
	page.until("all", "document.documentElement.dataset.rows === '%d'", mowers)
	page.run("window.frames = 0; const f = () => { window.frames++; requestAnimationFrame(f) }; requestAnimationFrame(f)")
	page.run("window.lawnberryFleet.drawn.count = window.lawnberryFleet.drawn.slowest = 0")

	cpu, _ := cpuOf(b, cmd.Process.Pid)
	engine, _ := cpuOf(b, w.servers.PID(0))
	began := time.Now()
	sent, second := 0, 0
	for b.Loop() {
		next := time.Now().Add(time.Second)
		for part := range 20 { // spread over the second
			for i := part; i < mowers; i += 20 {
				x := float64((i+second)%1000) / 10
				w.p.State(mowerID(i), "navigation/position", fleettest.Sensor(map[string]any{"x": x, "y": 5, "heading": 90, "latitude": 52.5 + float64(i)/1e5, "longitude": 13.4 + x/1e4}, nil))
				w.p.State(mowerID(i), "power/battery", fleettest.Sensor(map[string]any{"level": (i + second) % 100, "voltage": 24.5}, nil))
				sent += 2
				if i%10 == second%10 {
					w.p.Presence(fleet.Presence{Mower: mowerID(i), Version: "1.4.2", Interval: 10})
					sent++
				}
			}
			time.Sleep(time.Until(next) - time.Duration(19-part)*50*time.Millisecond)
		}
		second++
	}
	check(b, w.p.Flush(testContext(b)))
	took := time.Since(began).Seconds()
	after, memory := cpuOf(b, cmd.Process.Pid)
	engineAfter, _ := cpuOf(b, w.servers.PID(0))
	b.ReportMetric(float64(sent)/took, "messages/s")
	b.ReportMetric((after-cpu).Seconds()/took*100, "%cpu")
	b.ReportMetric((engineAfter-engine).Seconds()/took*100, "%cpu-engine")
	b.ReportMetric(memory, "MB")
	b.ReportMetric(float64(value[int](page, "window.frames"))/took, "frames/s")
	b.ReportMetric(float64(value[int](page, "window.lawnberryFleet.drawn.count"))/took, "maps/s")
	b.ReportMetric(value[float64](page, "window.lawnberryFleet.drawn.slowest"), "ms-slowest-map")
	b.ReportMetric(value[float64](page, "performance.memory.usedJSHeapSize")/1e6, "MB-page")
}
