package client

import "github.com/lawnberry/lawnberry/internal/packet"

// freeIdentifiers ends what a former process of this session has left half-done. The broker may still hold packet
// identifiers of its QoS 2 messages, and would take a new message with one of them for a repetition and drop it. PUBREL
// frees an identifier, whether it is in use there or not [MQTT-4.3.3-11]. Those that this process has in flight stay.
func (c *Client) freeIdentifiers(l *link) {
	for id := uint16(1); id <= sendMaximum; id++ {
		if c.byID[id] == nil {
			l.out = packet.AppendAck(l.out, packet.PUBREL, l.version, id, packet.Success)
		}
	}
	l.push()
}
