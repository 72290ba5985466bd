package broker

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// The broker tells about itself under $SYS, retained and by Mosquitto's names; # does not bring it.
func TestSysTopics(t *testing.T) {
	t.Parallel()
	b := start(t, Options{SysInterval: 20 * time.Millisecond, Version: "lawnberry 1.2.3"})
	pub := connect(t, b, packet.V5, "pub")
	pub.publish("kept", "x", 1, retain)
	pub.publish("a/b", "12345", 0)
	connect(t, b, packet.V5, "away", keep).leave("away")
	all := connect(t, b, packet.V5, "all")
	all.subscribe("+/+", 0)
	all.subscribe("$share/g/kept", 0)

	c := connect(t, b, packet.V311, "c")
	c.subscribe("$SYS/#", 0)
	latest := map[string]string{}
	want := map[string]string{
		"version": "lawnberry 1.2.3", "clients/connected": "3", "clients/total": "4", "clients/disconnected": "1", "clients/maximum": "3",
		"subscriptions/count": "3", "shared_subscriptions/count": "1", "retained messages/count": "1",
		"publish/messages/received": "2", "publish/bytes/received": "6", "publish/messages/dropped": "0", "messages/stored": "1",
	}
	agree := func() bool {
		for topic, value := range want {
			if latest["$SYS/broker/"+topic] != value {
				return false
			}
		}
		for _, topic := range []string{"bytes/received", "bytes/sent", "messages/received", "messages/sent", "heap/current"} {
			if n, err := strconv.Atoi(latest["$SYS/broker/"+topic]); err != nil || n <= 0 {
				return false
			}
		}
		return strings.HasSuffix(latest["$SYS/broker/uptime"], " seconds") && latest["$SYS/broker/load/sockets/15min"] != ""
	}
	n := 0
	if err := c.collect(func(p *packet.Publish) bool {
		latest[string(p.Topic)] = string(p.Payload)
		n++
		return !agree() && n < 10_000
	}); err != nil || !agree() {
		t.Fatalf("%v: got %v", err, latest)
	}
	all.nothing()
}
