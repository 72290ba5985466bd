package fleet

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/lawnberry/lawnberry/internal/natstest"
)

// mowerRights are what an engine lets a mower do, as far as the way down is concerned. It has no right to ask for a stream, nor for a bucket.
const mowerRights = `
authorization {
  users: [
    { user: operator, password: o }
    { user: mower, password: m, permissions: {
        publish: { allow: [
          "$JS.API.DIRECT.GET.KV_LAWNBERRY_JOBS.$KV.LAWNBERRY_JOBS.m-1"
          "$KV.LAWNBERRY_JOBS.m-1"
        ] }
        subscribe: { allow: [ "lawnberry.m-1.commands.>", "lawnberry.m-1.jobs", "_INBOX_m-1.>" ] }
        allow_responses: { max: 5, expires: "2h" }
    } }
  ]
}`

// The way down needs no more rights than a mower has: commands, stops and jobs work.
func TestRights(t *testing.T) {
	t.Parallel()
	y := newBareYard(t, natstest.Start(t, strings.Split(mowerRights, "\n")...), nats.UserInfo("operator", "o"))
	y.rights = []nats.Option{nats.UserInfo("mower", "m"), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		t.Errorf("the mower's connection: %v", err)
	})}
	y.start(nil)
	ctx := testContext(t)
	if _, err := y.anna.Call(ctx, yardMower, "navigation", "count", named("a")); err != nil {
		t.Error(err)
	}
	if _, err := y.anna.Stop(ctx, yardMower, "test"); err != nil {
		t.Error(err)
	}
	for range 2 {
		id, err := y.anna.AddJob(ctx, yardMower, "navigation", "count", nil, time.Now().Add(time.Hour), 0)
		check(t, err)
		y.end(id)
		y.left(0)
	}
}
