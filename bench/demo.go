package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"
)

const (
	demoCPU  = "the demo's load, processor time of serve"
	demoRSS  = "the demo's load, memory of serve"
	demoRate = "the demo's load, messages received by serve"
)

// demo measures for a minute what serve takes while the demo's seven services run at their normal rates on it, in another
// process. The mower mows: if the emergency stop is engaged nevertheless, as when a reading is late, it is released and told to go on.
func (r *report) demo(ours, dir string, scale float64) error {
	s, err := kindNamed("lawnberry").run(ours, dir, false)
	if err != nil {
		return err
	}
	defer s.stop()
	length := time.Duration(scale * float64(time.Minute))
	ctx, cancel := context.WithTimeout(context.Background(), length+2*time.Minute)
	defer cancel()
	d := &watcher{ctx: ctx, ours: ours, url: "tcp://" + s.address}
	if err := d.mow(); err != nil { // a fresh emergency stop is engaged, and the services do not start then
		return err
	}
	services := d.tool("demo", "--seed", "1", "--alone")
	if err := services.Start(); err != nil {
		return err
	}
	defer func() {
		_ = services.Process.Signal(os.Interrupt)
		_ = services.Wait()
	}()
	d.running = true
	if _, err := d.received(); err != nil { // the services start meanwhile
		return err
	}
	before, err := d.received()
	if err != nil {
		return err
	}
	began, cpu := time.Now(), s.cpu()
	for time.Since(began) < length {
		time.Sleep(5 * time.Second)
		if err := d.mow(); err != nil {
			return err
		}
	}
	after, err := d.received()
	if err != nil {
		return err
	}
	took := time.Since(began).Seconds()
	r.add(demoCPU, s.name, "% of a core", 100*(s.cpu()-cpu)/took)
	r.add(demoRSS, s.name, "MB", s.rss())
	r.add(demoRate, s.name, "messages/s", (after-before)/took)
	return nil
}

// A watcher does what a person does who watches over the mower.
type watcher struct {
	ctx       context.Context
	ours, url string
	running   bool // the services are there
}

func (d *watcher) tool(args ...string) *exec.Cmd {
	c := exec.CommandContext(d.ctx, d.ours, append(args, "--broker", d.url, "--json")...)
	c.Env = append(os.Environ(), "LAWNBERRY_MONITORING_LOGGING_LOG_LEVEL=warning")
	return c
}

// ask runs a verb and reads its JSON.
func (d *watcher) ask(into any, args ...string) error {
	out, err := d.tool(args...).Output()
	if err != nil {
		return fmt.Errorf("%q: %w: %s", args, err, out)
	}
	return json.Unmarshal(out, into)
}

// received waits for the broker to say anew how many messages it has received.
func (d *watcher) received() (float64, error) {
	var m struct{ Payload float64 }
	err := d.ask(&m, "sub", "absolute:$SYS/broker/publish/messages/received", "--no-retained", "--count", "1", "--for", "1m")
	return m.Payload, err
}

// mow releases the emergency stop, if it is engaged and nothing stands against it, and then has the mower mow.
func (d *watcher) mow() error {
	var is struct {
		Engaged  bool
		Sequence int
		Against  []any
	}
	if err := d.ask(&is, "estop", "status"); err != nil || !is.Engaged || len(is.Against) > 0 {
		return err
	}
	if err := refusable(d.tool("estop", "release", "--sequence", strconv.Itoa(is.Sequence))); err != nil || !d.running {
		return err
	}
	return refusable(d.tool("call", "navigation", "start_mowing"))
}

// refusable runs a verb that may be refused: somebody may come by in between.
func refusable(c *exec.Cmd) error {
	err := c.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 4 {
		return nil
	}
	return err
}
