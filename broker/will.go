package broker

import (
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// A will is the message that the broker publishes when a connection ends without a goodbye [MQTT-3.1.2.5].
type will struct {
	message message // without its expiry
	expiry  packet.Opt[uint32]
	delay   time.Duration
}

func newWill(w *packet.Will) *will {
	x := &will{
		message: *newMessage(string(w.Topic), &w.Properties, w.Payload),
		expiry:  w.Properties.MessageExpiry,
		delay:   time.Duration(w.Properties.WillDelay.V) * time.Second,
	}
	x.message.qos = w.QoS
	x.message.retain = w.Retain
	return x
}

// publishWill publishes w, which was taken from s.
func (b *Broker) publishWill(s *session, w *will, t *txn) {
	m := w.message
	m.expires = b.deadline(w.expiry)
	t.owed = true
	b.distribute(&m, &routeCache{from: s}, t)
}

// publishDelayedWill is called when the Will Delay Interval of w has passed.
func (b *Broker) publishDelayedWill(s *session, w *will) {
	mu := b.connecting.of(s.id)
	mu.Lock()
	defer mu.Unlock()
	var t txn
	b.begin(&t)
	defer b.finish(&t)
	if s.takeWill(w, &t) != nil {
		b.publishWill(s, w, &t)
	}
}
