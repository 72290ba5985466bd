package broker

import (
	"testing"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// Who asks whether its acknowledgements may be late is told yes, and gets late answers about requests and responses, if nothing comes
// that they could leave with; all others get them as ever. To see it fail: let wakeLate do nothing.
func TestLateAnswers(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	target := connect(t, b, packet.V5, "target")
	target.subscribe("commands/target", 2)
	asks := func(p *packet.Connect) { p.Properties.User = []packet.UserProperty{lateAcknowledgements} }
	correlated := func(p *packet.Publish) { p.Properties.CorrelationData = []byte("1") }
	for id, choices := range map[string][]choice{"asks": {asks}, "does not": nil} {
		c, ack := connected(t, b, packet.V5, id, choices...)
		if late := len(ack.Properties.User) > 0; late != (choices != nil) {
			t.Errorf("%s: CONNACK has user properties: %v", id, ack.Properties.User)
		}
		if code := c.publish("commands/nobody", "x", 2, correlated); code != packet.NoMatchingSubscribers {
			t.Errorf("%s: to nobody: %v", id, code)
		}
		for range 3 {
			if code := c.publish("commands/target", "x", 2, correlated); code != packet.Success { // to its PUBCOMP
				t.Errorf("%s: %v", id, code)
			}
			target.gets("commands/target", "x", 2)
		}
		c.subscribe("responses/"+id, 2)
		target.publish("responses/"+id, "y", 2, correlated)
		c.gets("responses/"+id, "y", 2)
		c.nothing()
	}
}
