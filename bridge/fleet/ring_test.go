package fleet

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/topic"
)

// TestMQTTRing has two mowers each of which is the other's engine, and at each bus a bridge that says what the other mower's history has on the bus
// itself, as a broker's bridge with changed prefixes does. What has gone round half of the ring goes no further: of each mower the other's bus has what it has said,
// each message once, and nothing that came from elsewhere.
//
// It was seen to fail with a tap that does not look where a message comes from.
func TestMQTTRing(t *testing.T) {
	ids := [2]string{"m-1", "m-2"}
	mowers := [2]*mower{newMower(t), newMower(t)}
	var uplinks [2]*Uplink
	var mu sync.Mutex
	came := [2]map[string][]string{{}, {}} // at the bus of the other one: ids, by the topic of the history
	var bad []string
	for i, m := range mowers {
		other := mowers[1-i]
		_, err := other.c.Subscribe(testContext(t), topic.Absolute("lawnberry/fleet/#"), func(ctx context.Context, d *client.Delivery) {
			id, kind, name, err := fleet.ParseMQTTTopic(d.FullTopic())
			mu.Lock()
			if err != nil || id != ids[i] || fleet.UserProperty(d, fleet.HeaderOrigin) != ids[i] || fleet.UserProperty(d, fleet.HeaderHops) != "1" {
				bad = append(bad, d.FullTopic())
			}
			if kind == "history" && !d.Retained {
				came[i][name] = append(came[i][name], fleet.UserProperty(d, fleet.HeaderID))
			}
			mu.Unlock()
			if kind != "history" || d.Retained {
				return
			}
			var same []client.PublishOption
			for _, p := range d.User {
				same = append(same, client.WithUser(p[0], p[1]))
			}
			same = append(same, client.WithQoS(1), client.WithRetain(false), client.Unlimited())
			if err := other.c.Publish(ctx, name, d.Message, same...); err != nil && ctx.Err() == nil {
				t.Errorf("%s is not said on the bus: %v", name, err)
			}
		}, client.WithQueue(client.Queue{Max: 10_000}))
		check(t, err)
		uplinks[i] = m.up(mqttURL(other.url), func(o *Options) { o.Mower = ids[i] })
	}
	names := []string{"system/events/a", "safety/alerts/x"}
	const each = 25
	for n := range each * len(names) {
		for _, m := range mowers {
			m.say(names[n%len(names)])
		}
	}
	for i := range mowers {
		eventually(t, fmt.Sprintf("what %s has said is at the other bus, and came back to it", ids[i]), func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(came[i][names[0]]) >= each && len(came[i][names[1]]) >= each && uplinks[1-i].Stats().Looped >= uint64(each*len(names))
		})
	}
	for _, m := range mowers { // behind which there is nothing on its way any more
		m.say("system/events/last")
	}
	for i, m := range mowers {
		eventually(t, "the last event has gone round", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(came[i]["system/events/last"]) > 0 && uplinks[1-i].Stats().Looped > uint64(each*len(names))
		})
		mu.Lock()
		for name, got := range came[i] {
			if want := m.said[name]; !slices.Equal(got, want) {
				t.Errorf("of %s the other bus has %d of %s, %d were said\n%s", ids[i], len(got), name, len(want), difference(got, want))
			}
		}
		mu.Unlock()
	}
	mu.Lock()
	defer mu.Unlock()
	if len(bad) > 0 {
		t.Errorf("%d messages of a fleet came from elsewhere, the first one on %s", len(bad), bad[0])
	}
}
