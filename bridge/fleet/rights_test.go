package fleet

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/natstest"
)

// mowerRights are what an engine lets a mower do, as far as the way down is concerned. It has no right to ask for a stream, nor for a bucket.
const mowerRights = `
authorization {
  users: [
    { user: operator, password: o }
    { user: mower, password: m, permissions: {
        publish: { allow: [
          "$JS.API.CONSUMER.MSG.NEXT.LAWNBERRY_JOBS.m-1"
          "$JS.ACK.LAWNBERRY_JOBS.m-1.>"
        ] }
        subscribe: { allow: [ "lawnberry.m-1.commands.>", "lawnberry.m-1.jobs.>", "_INBOX_m-1.>" ] }
        allow_responses: { max: 5, expires: "2h" }
    } }
  ]
}`

// The way down needs no more rights than a mower has: commands, stops and jobs work, also after the consumer was lost and made
// anew, which is not the mower's to do.
func TestRights(t *testing.T) {
	t.Parallel()
	y := newBareYard(t, natstest.Start(t, strings.Split(mowerRights, "\n")...), nats.UserInfo("operator", "o"))
	y.rights = []nats.Option{nats.UserInfo("mower", "m"), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		if !strings.Contains(err.Error(), "CONSUMER.CREATE") { // which it tries while there is none
			t.Errorf("the mower's connection: %v", err)
		}
	})}
	consumer := jetstream.ConsumerConfig{Durable: yardMower, FilterSubject: fleet.JobFilter(yardMower), AckPolicy: jetstream.AckExplicitPolicy}
	_, err := y.js.CreateConsumer(testContext(t), fleet.StreamJobs, consumer)
	check(t, err)
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
		check(t, y.js.DeleteConsumer(ctx, fleet.StreamJobs, yardMower))
		_, err = y.js.CreateConsumer(ctx, fleet.StreamJobs, consumer)
		check(t, err)
	}
}
