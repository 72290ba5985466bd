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

// publishWill publishes w, which was taken from s; nil is a session that a restart has ended.
func (b *Broker) publishWill(s *session, w *will, t *txn) {
	m := w.message
	if s != nil {
		if reason, ok := s.grant.Load().mayPublish(m.topic, m.payload, m.retain && w.expiry.OK); !ok { // not any more
			b.stats.denied.Add(1)
			b.log.Warn("not authorized", "client", s.id, "verb", "publish", "topic", m.topic, "reason", "its Will: "+reason)
			return
		}
	}
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
