package fleet

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/natstest"
)

// left waits until the engine has so many jobs.
func (y *yard) left(n int) {
	y.t.Helper()
	eventually(y.t, "jobs that have ended are gone", func() bool {
		jobs, err := y.anna.Jobs(testContext(y.t), yardMower)
		check(y.t, err)
		return len(jobs) == n
	})
}

// Jobs are kept while the mower is away, run once when it comes, in their order of a service or not, and have their end in the history.
func TestJobs(t *testing.T) {
	t.Parallel()
	y := newBareYard(t, natstest.Start(t))
	ctx := testContext(t)
	until := time.Now().Add(time.Hour)
	var ids []string
	for i := range 10 {
		id, err := y.anna.AddJob(ctx, yardMower, "navigation", "count", named(name(i)), until, 0)
		check(t, err)
		ids = append(ids, id)
	}
	for _, c := range []struct{ service, command string }{{"navigation", "fail"}, {"power", "count"}, {fleet.StopService, fleet.StopCommand}} {
		id, err := y.anna.AddJob(ctx, yardMower, c.service, c.command, nil, until, 0)
		check(t, err)
		ids = append(ids, id)
	}
	jobs, err := y.anna.Jobs(ctx, "")
	if err != nil || len(jobs) != 13 || jobs[0].ID != ids[0] || jobs[0].Mower != yardMower || jobs[0].Service != "navigation" || jobs[0].Command != "count" ||
		jobs[0].Operator != "anna" || time.Until(jobs[0].Expires) < 50*time.Minute || time.Since(jobs[0].Added) > time.Hour {
		t.Fatalf("%+v, %v", jobs, err)
	}
	if jobs, err := y.anna.Jobs(ctx, "m-2"); err != nil || len(jobs) != 0 {
		t.Errorf("of another mower: %+v, %v", jobs, err)
	}
	begun, err := y.anna.CancelJob(ctx, yardMower, ids[9])
	if begun || err != nil {
		t.Errorf("cancelled: %v, %v", begun, err)
	}
	if _, err := y.anna.CancelJob(ctx, yardMower, ids[9]); !errors.Is(err, fleet.ErrNoJob) {
		t.Errorf("cancelled twice: %v", err)
	}
	y.release() // it is engaged where it was never released
	y.start(func(o *downlinkOptions) { o.permits = []string{"navigation/*"} })
	for i, id := range ids {
		if i == 9 {
			continue
		}
		e := y.end(id)
		if e.Operator != "anna" || e.Time.IsZero() {
			t.Errorf("%+v", e)
		}
		want := map[int]string{10: "stuck", 11: fleet.CodeForbidden}[i]
		if e.Code != want || e.Success != (want == "") {
			t.Errorf("job %d: %+v", i, e)
		}
	}
	y.left(0)
	for i := range 10 {
		if got, want := y.runs("navigation "+name(i)), 1-i/9; got != want {
			t.Errorf("job %d ran %d times", i, got)
		}
	}
	if !y.hub.Status().Engaged {
		t.Error("the emergency stop was not engaged by a job")
	}
	for _, id := range ids {
		if n := len(y.jobEnds(id)); n > 1 {
			t.Errorf("%d ends of a job", n)
		}
	}
}

// A job waits for its service while the mower starts, and not for ever.
func TestJobWaitsForService(t *testing.T) {
	t.Parallel()
	y := newYard(t, natstest.Start(t), nil)
	ctx := testContext(t)
	id, err := y.anna.AddJob(ctx, yardMower, "power", "count", named("x"), time.Now().Add(time.Hour), 2*time.Minute)
	check(t, err)
	never, err := y.anna.AddJob(ctx, yardMower, "nobody", "count", named("x"), time.Now().Add(time.Hour), time.Second)
	check(t, err)
	if e := y.end(never); e.Code != client.CodeNoSuchService {
		t.Errorf("%+v", e)
	}
	y.service("power")
	if e := y.end(id); !e.Success || y.runs("power x") != 1 {
		t.Errorf("%+v", e)
	}
}

// A job whose deadline passes while the mower is away is not run, and ends when the mower comes.
func TestJobDeadline(t *testing.T) {
	t.Parallel()
	y := newBareYard(t, natstest.Start(t))
	ctx := testContext(t)
	until := time.Now().Add(time.Second)
	id, err := y.anna.AddJob(ctx, yardMower, "navigation", "count", named("gone"), until, 0)
	check(t, err)
	eventually(t, "its deadline has passed", func() bool { return time.Now().After(until) })
	y.left(1)
	y.start(nil)
	if e := y.end(id); e.Success || e.Code != client.CodeTimeout || !strings.Contains(e.Error, "not run") || e.Operator != "anna" || e.Command != "count" {
		t.Errorf("%+v", e)
	}
	y.left(0)
	r := y.make(raw{service: "navigation", keys: y.private, signed: fleet.JobTopic(yardMower, "navigation")})
	late := inbound{lane: laneJob, service: "navigation", body: r.Data, header: r.Header.Get, received: time.Now().Add(time.Minute)}
	if f := y.down.takeJob(late); f != fateDone {
		t.Errorf("fate %d", f)
	}
	eventually(t, "its end", func() bool { y.mu.Lock(); defer y.mu.Unlock(); return len(y.ends) == 2 })
	if e := y.ends[1]; e.Success || e.Code != client.CodeTimeout || !strings.Contains(e.Error, "not run") {
		t.Errorf("%+v", e)
	}
	early := inbound{lane: laneJob, service: "navigation", body: r.Data, header: r.Header.Get, received: time.Now().Add(-time.Hour)}
	if f := y.down.takeJob(early); f != fateLater {
		t.Errorf("by a clock that is behind: fate %d, want that it comes again", f)
	}
	if n := len(y.ran); n != 0 {
		t.Errorf("%d ran", n)
	}
}

// While the disk does not take the end of a job, the job is not acknowledged; it does not run again, and its end is told when the disk takes it.
func TestJobEndNotTaken(t *testing.T) {
	t.Parallel()
	y := newYard(t, natstest.Start(t), nil)
	y.mu.Lock()
	y.endError = errors.New("the disk is full")
	y.mu.Unlock()
	id, err := y.anna.AddJob(testContext(t), yardMower, "navigation", "count", named("once"), time.Now().Add(time.Hour), 0)
	check(t, err)
	eventually(t, "it ran", func() bool { return y.runs("navigation once") == 1 })
	eventually(t, "its end is not told", func() bool { return len(y.down.ledger.untold()) == 1 })
	y.left(1)
	y.stop()
	y.mu.Lock()
	y.endError = nil
	y.mu.Unlock()
	y.start(nil)
	if e := y.end(id); !e.Success {
		t.Errorf("%+v", e)
	}
	y.left(0)
	if n := y.runs("navigation once"); n != 1 {
		t.Errorf("it ran %d times", n)
	}
	if n := len(y.jobEnds(id)); n != 1 {
		t.Errorf("%d ends", n)
	}
}

// The bucket may be lost, and the server be killed: both are found again. No consumer is left.
func TestJobsAfterLoss(t *testing.T) {
	t.Parallel()
	y := newYard(t, natstest.Start(t), nil)
	ctx := testContext(t)
	add := func(what string) {
		t.Helper()
		id, err := y.anna.AddJob(ctx, yardMower, "navigation", "count", named(what), time.Now().Add(time.Hour), 0)
		check(t, err)
		y.end(id)
	}
	for i := range 5 { // so that the next bucket begins with lower sequences
		add(name(i))
	}
	check(t, y.js.DeleteStream(ctx, "KV_"+fleet.BucketJobs))
	y.streams()
	add("after the bucket was deleted")
	y.left(0)
	y.nats.Kill(0)
	y.nats.Restart(0)
	y.nats.WaitReady()
	add("after the server was killed")
	y.left(0)
	y.mu.Lock()
	defer y.mu.Unlock()
	for n, times := range y.ran {
		if times != 1 {
			t.Errorf("%s: %d times", n, times)
		}
	}
	if len(y.ran) != 7 {
		t.Errorf("%d have run", len(y.ran))
	}
}

// An operator waits for the end of a job by its history, also one that came before.
func TestWaitJob(t *testing.T) {
	t.Parallel()
	var y *yard
	y = newYard(t, natstest.Start(t), func(o *downlinkOptions) {
		o.end = func(ctx context.Context, e fleet.JobEnd) error {
			body, err := encodeEnd(e)
			if err == nil {
				_, err = y.js.Publish(ctx, fleet.HistorySubject(yardMower, fleet.OwnJobs), body, jetstream.WithMsgID("end-"+e.Job))
			}
			return err
		}
	})
	ctx := testContext(t)
	id, err := y.anna.AddJob(ctx, yardMower, "navigation", "slow", named("x"), time.Now().Add(time.Hour), time.Hour)
	check(t, err)
	short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	if _, err := y.anna.WaitJob(short, yardMower, id); code(err) != client.CodeTimeout {
		t.Errorf("%v", err)
	}
	eventually(t, "it runs", func() bool { return y.runs("navigation x") == 1 })
	if begun, err := y.anna.CancelJob(ctx, yardMower, id); !begun || err != nil {
		t.Errorf("cancelled while it runs: %v, %v", begun, err)
	}
	close(y.let)
	for range 2 {
		e, err := y.anna.WaitJob(ctx, yardMower, id)
		if err != nil || !e.Success || string(e.Result) != `"done"` || e.Job != id {
			t.Errorf("%+v, %v", e, err)
		}
	}
}
