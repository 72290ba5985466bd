package service_test

import (
	"testing"

	"github.com/lawnberry/lawnberry/service"
)

// The heartbeat of the wire format, in what a service announces of itself: literals, since the numbers are the contract.
func TestWireHeartbeat(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	start(t, b, service.Options{ID: "a"})
	p := newPeer(t, b, "watcher", "system/services/a/status")
	details := object(t, p.next("system/services/a/status").Message.Payload)["details"].(map[string]any)
	if details["heartbeat_interval"] != 30.0 || details["heartbeat_timeout"] != 90.0 {
		t.Errorf("a heartbeat every %v s, offline after %v s; want 30 and 90", details["heartbeat_interval"], details["heartbeat_timeout"])
	}
}
