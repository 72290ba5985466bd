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
	type traffic struct {
		InMsgs   float64 `json:"in_msgs"`
		OutMsgs  float64 `json:"out_msgs"`
		InBytes  float64 `json:"in_bytes"`
		OutBytes float64 `json:"out_bytes"`
	}
	add := func(to *traffic, v traffic) {
		to.InMsgs += v.InMsgs
		to.OutMsgs += v.OutMsgs
		to.InBytes += v.InBytes
		to.OutBytes += v.OutBytes
	}
	type counts struct {
		mowers, nodes float64 // seconds of a core
		lines, all    traffic // of connections of mowers, and of nodes with each other besides
		stored        float64 // bytes, of all copies
	}
	now := func() (c counts) {
		c.mowers, c.nodes = processorTime(t, mowers), processorTime(t, nodes)
		for i := range engine.Len() {
			ask := func(what string, v any) {
				a, err := http.Get(engine.MonitorURL(i) + what)
				must(t, err, json.NewDecoder(a.Body).Decode(v), a.Body.Close())
			}
			var all traffic
			var lines struct {
				Connections []traffic `json:"connections"`
			}
			var stored struct {
				Bytes float64 `json:"bytes"`
			}
			ask("/varz", &all)
			ask("/connz?limit=2000", &lines)
			ask("/jsz", &stored)
			add(&c.all, all)
			for _, v := range lines.Connections {
				add(&c.lines, v)
			}
			c.stored += stored.Bytes
		}
		return c
	}
	before, began := now(), time.Now()
	time.Sleep(d) // what is measured is a time
	after, took := now(), time.Since(began).Seconds()
	per := func(a, b float64) float64 { return (b - a) / took / float64(n) }
	said := func(a, b traffic) string {
		return fmt.Sprintf("%.2f messages/s and %.0f bytes/s in, %.2f and %.0f out", per(a.InMsgs, b.InMsgs), per(a.InBytes, b.InBytes), per(a.OutMsgs, b.OutMsgs), per(a.OutBytes, b.OutBytes))
	}
	t.Logf("fleet: %d mowers, %s, %.0f s; for each at its end %.2f ms of a core a second, %.1f MB; its connection %s; at the three nodes of the engine "+
		"%.2f ms of a core a second, %.2f MB, %s with what they say to each other, %.0f bytes/s more stored in three copies",
		n, what, took, 1000*per(before.mowers, after.mowers), memory(t, mowers)/float64(n)/1e6, said(before.lines, after.lines),
		1000*per(before.nodes, after.nodes), memory(t, nodes)/float64(n)/1e6, said(before.all, after.all), per(before.stored, after.stored))
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
