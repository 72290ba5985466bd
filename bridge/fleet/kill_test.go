package fleet

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/natstest"
	"github.com/lawnberry/lawnberry/internal/seal"
	"github.com/lawnberry/lawnberry/internal/store"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

// downlinkProcess has this test binary be a mower's way down, with a ledger in a directory, until it is killed.
const downlinkProcess = "LAWNBERRY_TEST_DOWNLINK"

// TestDownlinkProcess is the process that others kill.
func TestDownlinkProcess(t *testing.T) {
	text := os.Getenv(downlinkProcess)
	if text == "" {
		return // it is one of the others that runs
	}
	part := strings.Split(text, "\n")
	bus, engine, dir, keys := part[0], part[1], part[2], part[3]
	ctx := context.Background()
	s, err := store.Open(dir, store.Options{})
	check(t, err)
	ring, err := seal.Open(keys, yardLogger(t))
	check(t, err)
	o := downlinkOptions{mower: yardMower, permits: []string{"navigation/*"}, store: s, keys: ring, logger: yardLogger(t)}
	o.service, err = service.Start(ctx, service.Options{
		ID: ID, Client: client.Options{URL: bus, CleanStart: true}, Setup: func(ctx context.Context, s *service.Service) (err error) {
			o.latch, err = safety.OpenLatch(ctx, s.Client(), safety.LatchOptions{By: "fleet"})
			return err
		},
	})
	check(t, err)
	nc, err := nats.Connect(engine, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.RetryOnFailedConnect(true),
		nats.CustomInboxPrefix(fleet.InboxPrefix(yardMower)))
	check(t, err)
	js, err := jetstream.New(nc)
	check(t, err)
	o.end = func(ctx context.Context, e fleet.JobEnd) error {
		body, err := encodeEnd(e)
		if err == nil {
			_, err = js.Publish(ctx, fleet.HistorySubject(yardMower, fleet.OwnJobs), body, jetstream.WithMsgID("end-"+e.Job))
		}
		return err
	}
	d, err := newDownlink(o)
	check(t, err)
	check(t, d.start(nc))
	check(t, nc.Flush())
	fmt.Println("ready")
	select {}
}

// spawn starts the process, and returns once it hears the engine.
func (y *yard) spawn() *exec.Cmd {
	y.t.Helper()
	c := exec.Command(os.Args[0], "-test.run=^TestDownlinkProcess$", "-test.timeout=0")
	c.Env = append(os.Environ(), downlinkProcess+"="+strings.Join([]string{y.url, y.nats.URLs(), y.dir, y.keys}, "\n"))
	out, err := c.StdoutPipe()
	check(y.t, err)
	c.Stderr = c.Stdout
	check(y.t, c.Start())
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if lines.Text() == "ready" {
			go func() {
				for lines.Scan() { // or it would wait for a reader
				}
			}()
			return c
		}
		y.t.Log(lines.Text())
	}
	y.t.Fatalf("the process has ended: %v", c.Wait())
	return nil
}

// tally counts how commands ended.
type tally struct {
	mu    sync.Mutex // guards by
	by    map[string]int
	wrong []string
}

func (c *tally) add(what, outcome string, good bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.by[outcome]++
	if !good {
		c.wrong = append(c.wrong, what+": "+outcome)
	}
}

// call sends a command that counts, and tallies how that ended. A clear end is a result that says that it ran once, or an error that says whether it may
// have run.
func (y *yard) call(c *tally, what string) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	result, err := y.anna.Call(ctx, yardMower, "navigation", "count", named(what))
	switch code := code(err); {
	case err == nil:
		c.add(what, "answered", string(result) == `{"count":1}`)
	case code == fleet.CodeOffline, code == client.CodeRefused:
		c.add(what, code, y.runs("navigation "+what) == 0) // which says that it has not run
	case code == fleet.CodeUnknown, code == client.CodeTimeout && strings.Contains(err.Error(), "outcome unknown"):
		c.add(what, code, true)
	default:
		c.add(what, fmt.Sprintf("%q %v", code, err), false)
	}
}

// judge fails the test if a command ran twice, or ended in a way that says nothing, which counts as lost. fault is what was done so many times.
func (y *yard) judge(c *tally, fault string, times, jobs int) {
	y.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	y.mu.Lock()
	defer y.mu.Unlock()
	ran, twice := 0, 0
	for _, n := range y.ran {
		ran++
		if n > 1 {
			twice++
		}
	}
	y.t.Logf("%v; %d commands and jobs ran, %d of them more than once", maps.Clone(c.by), ran, twice)
	sent := jobs
	for _, n := range c.by {
		sent += n
	}
	y.t.Logf("fault=%s times=%d sent=%d delivered=%d lost=%d duplicated=%d out_of_order=0", fault, times, sent, ran, len(c.wrong), twice)
	if twice > 0 || len(c.wrong) > 0 || c.by["answered"] == 0 {
		y.t.Errorf("%d ran more than once, %q ended in a way that says nothing", twice, c.wrong)
	}
}

// The process of the uplink is killed again and again while commands and jobs run: each runs once at most, and each command ends with its answer,
// or with an error that says whether it may have run. Each job ends: it has run, or is said to be unknown.
//
// With the commit of begin taken out, or with the ledger emptied at the start, commands run twice and this fails.
func TestKilledUplink(t *testing.T) {
	t.Parallel()
	y := newBareYard(t, natstest.Start(t))
	y.present(true)
	var process *exec.Cmd
	var started sync.WaitGroup
	end := make(chan struct{})
	kills := 0
	process = y.spawn()
	started.Go(func() {
		for {
			// Once some more have begun, it dies.
			y.mu.Lock()
			goal := len(y.ran) + 5
			y.mu.Unlock()
			for more := true; more; time.Sleep(time.Millisecond) {
				select {
				case <-end:
					return
				default:
				}
				y.mu.Lock()
				more = len(y.ran) < goal
				y.mu.Unlock()
			}
			_ = process.Process.Kill()
			_ = process.Wait()
			kills++
			process = y.spawn()
			y.present(true)
		}
	})
	c := &tally{by: map[string]int{}}
	var jobs []string
	var work sync.WaitGroup
	for worker := range 4 {
		work.Go(func() {
			for i := range 20 {
				y.call(c, fmt.Sprintf("%d-%d", worker, i))
			}
		})
	}
	for i := range 20 {
		id, err := y.anna.AddJob(testContext(t), yardMower, "navigation", "count", named(fmt.Sprintf("job-%d", i)), time.Now().Add(time.Hour), 0)
		check(t, err)
		jobs = append(jobs, id)
	}
	work.Wait()
	close(end)
	started.Wait()
	defer func() {
		_ = process.Process.Kill()
		_ = process.Wait()
	}()
	unknown := 0
	for i, id := range jobs {
		e, err := y.anna.WaitJob(testContext(t), yardMower, id)
		check(t, err)
		switch {
		case e.Success && string(e.Result) == `{"count":1}` && y.runs(fmt.Sprintf("navigation job-%d", i)) == 1:
		case e.Code == fleet.CodeUnknown:
			unknown++
		default:
			t.Errorf("job %d: %+v, it ran %d times", i, e, y.runs(fmt.Sprintf("navigation job-%d", i)))
		}
	}
	y.left(0)
	t.Logf("%d kills; %d jobs, %d of them unknown", kills, len(jobs), unknown)
	if kills < 3 {
		t.Errorf("only %d kills", kills)
	}
	y.judge(c, "uplink_killed,_commands_and_jobs_of_the_fleet", kills, len(jobs))
}

// Nodes of the engine are killed in turn while commands, jobs and stops are on their way: each command and job runs once at most and ends clearly,
// and each stop that is answered is engaged. In the long form these are a thousand commands, and each node is killed four times.
func TestKilledNodes(t *testing.T) {
	t.Parallel()
	y := newYard(t, natstest.Cluster(t, 3), nil)
	c := &tally{by: map[string]int{}}
	each, kills := 20, 3
	if os.Getenv("LAWNBERRY_CHAOS") == "long" {
		each, kills = 334, 12
	}
	end := make(chan struct{})
	var work sync.WaitGroup
	for worker := range 3 {
		work.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-end:
					if i >= each {
						return
					}
				default:
				}
				y.call(c, fmt.Sprintf("%d-%d", worker, i))
			}
		})
	}
	stops, lost := 0, 0
	work.Go(func() {
		for {
			select {
			case <-end:
				return
			default:
			}
			y.release()
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			s, err := y.anna.Stop(ctx, yardMower, "test")
			cancel()
			stops++
			if err != nil {
				lost++
				t.Logf("a stop was not answered: %v", err)
			} else if !s.Engaged || !y.hub.Status().Engaged {
				t.Errorf("%+v, and the hub says %+v", s, y.hub.Status())
			}
		}
	})
	var jobs []string
	work.Go(func() {
		for {
			select {
			case <-end:
				return
			default:
			}
			what := fmt.Sprintf("job-%d", len(jobs))
			id, err := y.anna.AddJob(testContext(t), yardMower, "navigation", "count", named(what), time.Now().Add(time.Hour), 0)
			if err != nil {
				t.Logf("a job was not taken: %v", err)
				continue
			}
			jobs = append(jobs, id)
			y.end(id)
		}
	})
	for kill := range kills {
		i := kill % 3
		y.nats.Kill(i)
		n := func() int { c.mu.Lock(); defer c.mu.Unlock(); return c.by["answered"] }
		seen := n()
		eventually(t, "commands get through with a node less", func() bool { return n() > seen+5 })
		y.nats.Restart(i)
		y.nats.WaitReady()
	}
	close(end)
	work.Wait()
	t.Logf("%d stops, %d of them without an answer; %d jobs", stops, lost, len(jobs))
	if stops == 0 || lost > 0 || len(jobs) == 0 {
		t.Errorf("%d stops, %d of them without an answer; %d jobs", stops, lost, len(jobs))
	}
	y.judge(c, "node_of_the_engine_killed,_commands_of_the_fleet", kills, len(jobs))
}
