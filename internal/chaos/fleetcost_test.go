package chaos

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/natstest"
)

// measureFleet prints what mowers cost, at both ends, while nothing is wrong.
func measureFleet(t *testing.T, what string, engine *natstest.Servers, all []*herd, d time.Duration) {
	t.Helper()
	var mowers []int
	n := 0
	for _, h := range all {
		mowers = append(mowers, h.cmd.Process.Pid)
		n += h.order.Count
	}
	var nodes []int
	for i := range engine.Len() {
		nodes = append(nodes, engine.PID(i))
	}
	type counts struct{ mowers, nodes, inMsgs, outMsgs, inBytes, outBytes float64 }
	now := func() (c counts) {
		c.mowers, c.nodes = processorTime(t, mowers), processorTime(t, nodes)
		for i := range engine.Len() {
			var v struct {
				InMsgs   float64 `json:"in_msgs"`
				OutMsgs  float64 `json:"out_msgs"`
				InBytes  float64 `json:"in_bytes"`
				OutBytes float64 `json:"out_bytes"`
			}
			a, err := http.Get(engine.MonitorURL(i) + "/varz")
			must(t, err, json.NewDecoder(a.Body).Decode(&v), a.Body.Close())
			c.inMsgs += v.InMsgs
			c.outMsgs += v.OutMsgs
			c.inBytes += v.InBytes
			c.outBytes += v.OutBytes
		}
		return c
	}
	before, began := now(), time.Now()
	time.Sleep(d) // what is measured is a time
	after, took := now(), time.Since(began).Seconds()
	per := func(a, b float64) float64 { return (b - a) / took / float64(n) }
	t.Logf("fleet: %d mowers, %s, %.0f s; for each at its end %.2f ms of a core a second, %.1f MB; at the three nodes of the engine "+
		"%.2f ms of a core a second, %.2f MB; %.2f messages/s in, %.2f out, %.0f bytes/s in, %.0f out, what the nodes say to each other included",
		n, what, took, 1000*per(before.mowers, after.mowers), memory(t, mowers)/float64(n)/1e6, 1000*per(before.nodes, after.nodes), memory(t, nodes)/float64(n)/1e6,
		per(before.inMsgs, after.inMsgs), per(before.outMsgs, after.outMsgs), per(before.inBytes, after.inBytes), per(before.outBytes, after.outBytes))
}

// processorTime returns the seconds that processes have computed.
func processorTime(t *testing.T, pids []int) (sum float64) {
	t.Helper()
	const perSecond = 100 // ticks, of every Linux that Go runs on
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		must(t, err)
		f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:])) // from the state on, which is field 3 of proc(5)
		for _, ticks := range f[11:13] {
			n, err := strconv.ParseFloat(ticks, 64)
			must(t, err)
			sum += n / perSecond
		}
	}
	return sum
}

// memory returns the bytes that processes have in memory.
func memory(t *testing.T, pids []int) (sum float64) {
	t.Helper()
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		must(t, err)
		_, rest, _ := strings.Cut(string(text), "VmRSS:")
		n, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
		must(t, err)
		sum += n * 1024
	}
	return sum
}
