package broker

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// What the store refuses, and what must not be lost by it because it was accepted before.

// onDisk is a broker whose disk can be full.
func onDisk(t *testing.T) (*failing, Options) {
	disk := &failing{}
	return disk, Options{Dir: t.TempDir(), tune: func(l *limits) { l.store.FS = errorfs.Wrap(vfs.Default, disk) }}
}

// works waits until the store works again.
func works(t *testing.T, b *Broker, disk *failing) {
	t.Helper()
	disk.full.Store(false)
	waitFor(t, "the store to work", func() bool { return !b.journal.failing.Load() })
}

// A subscription that was refused because it could not be stored is not there after a restart either, and the one that it
// would have replaced is.
func TestRefusedSubscriptionStaysRefused(t *testing.T) {
	t.Parallel()
	disk, o := onDisk(t)
	b := start(t, o)
	s := connect(t, b, packet.V5, "s", keep)
	s.subscribe("old", 1)
	disk.full.Store(true)
	s.send(&packet.Subscribe{ID: 5, Subscriptions: []packet.Subscription{{Filter: []byte("new"), QoS: 1}, {Filter: []byte("old"), QoS: 2}}})
	if a := expect[*packet.Suback](s); a.Codes[0] != packet.QuotaExceeded || a.Codes[1] != packet.QuotaExceeded {
		t.Fatalf("SUBACK %v", a.Codes)
	}
	works(t, b, disk)
	s.disconnect()
	stopNow(t, b)
	b = start(t, o)
	p := connect(t, b, packet.V5, "p")
	p.publish("new", "x", 1)
	p.publish("old", "y", 2)
	s = connect(t, b, packet.V5, "s", keep)
	s.gets("old", "y", 1)
	s.nothing()
}
