package client

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

// Stats are counters since Connect, and gauges of now.
type Stats struct {
	Connected      bool
	ConnectedSince time.Time // zero while not connected
	Version        byte      // protocol level in use: 4 or 5; 0 while not connected
	Reconnects     uint64
	Sent, Received uint64                    // PUBLISH packets, repetitions not counted when sent
	Failed         uint64                    // publications refused by the broker or impossible with it
	Expired        uint64                    // in the outbox
	Rejected       map[message.Reason]uint64 // messages, received or to be sent, that went no further, but for those counted around here
	Dropped        uint64                    // at a bound of ours
	RateLimited    uint64                    // publications refused for their rate
	Conflated      uint64                    // states over their rate, of which the latest waited
	Superseded     uint64                    // of those, the ones that a newer value overtook
	Delayed        uint64                    // commands and responses that waited for their turn
	Panics         uint64                    // of handlers, recovered
	Unrecorded     uint64                    // commands that ran though Options.Dir did not take their record
	Unstored       uint64                    // changes of the outbox that could not be written to Options.Dir
	Held           int                       // messages over their rate that wait for their turn
	Outbox         int                       // messages waiting to be sent
	OutboxByClass  map[topic.Class]int       // of them
	OutboxOther    int                       // of them, those of topics that nobody defined
	InFlight       int                       // messages sent and not acknowledged
	Overruns       uint64                    // calls of handlers that took longer than their timeout
	Handlers       []HandlerStats            // in the order of Subscribe
	Signed         uint64                    // messages
	Verified       uint64                    // received messages whose signature fits
	Encrypted      uint64                    // messages
	Decrypted      uint64                    // received messages
	PendingCalls   int
	RoundTrip      Quantiles // of QoS 1 and 2 acknowledgements
	OneWay         Quantiles // now minus metadata.timestamp at receipt, but of retained messages and Wills
}

// HandlerStats are the figures of one subscription.
type HandlerStats struct {
	Filter   string
	Queued   int    // messages that wait for the handler
	Handled  uint64 // calls that have returned
	Dropped  uint64 // messages that its full queue lost
	Panics   uint64
	Overruns uint64
	Busy     time.Duration // spent in the handler, in all
	Longest  time.Duration // call
}

// counters are what Stats reports; all may be used concurrently.
type counters struct {
	reconnects, sent, received       atomic.Uint64
	failed, expired, dropped, panics atomic.Uint64
	overruns                         atomic.Uint64
	unrecorded, unstored             atomic.Uint64
	limited, conflated, delayed      atomic.Uint64
	superseded                       atomic.Uint64
	signed, verified                 atomic.Uint64
	encrypted, decrypted             atomic.Uint64
	roundTrip, oneWay                histogram

	mu       sync.Mutex
	rejected map[message.Reason]uint64
}

// Stats returns the counters since Connect and the gauges of now.
func (c *Client) Stats() Stats {
	n := &c.stats
	s := Stats{
		Reconnects: n.reconnects.Load(), Sent: n.sent.Load(), Received: n.received.Load(), Failed: n.failed.Load(),
		Expired: n.expired.Load(), Dropped: n.dropped.Load(), Panics: n.panics.Load(), Overruns: n.overruns.Load(),
		Unrecorded: n.unrecorded.Load(), Unstored: n.unstored.Load(),
		RateLimited: n.limited.Load(), Conflated: n.conflated.Load(), Superseded: n.superseded.Load(), Delayed: n.delayed.Load(),
		Signed: n.signed.Load(), Verified: n.verified.Load(), Encrypted: n.encrypted.Load(), Decrypted: n.decrypted.Load(),
		RoundTrip: n.roundTrip.quantiles(), OneWay: n.oneWay.quantiles(),
		PendingCalls:  c.calls.len(),
		OutboxByClass: make(map[topic.Class]int),
	}
	n.mu.Lock()
	s.Rejected = maps.Clone(n.rejected)
	n.mu.Unlock()
	if s.Rejected == nil {
		s.Rejected = make(map[message.Reason]uint64)
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link != nil {
		s.Version = byte(c.link.version)
		if c.link.ready {
			s.Connected, s.ConnectedSince = true, c.since
		}
	}
	s.Outbox, s.Held = c.box.len(), c.limiter.n
	for class := topic.Sensor; class <= topic.Safety; class++ {
		if k := c.box.count[class]; k > 0 {
			s.OutboxByClass[class] = k
		}
	}
	s.OutboxOther = c.box.count[undefined]
	s.InFlight = c.flight.n
	for _, h := range c.table.handlers {
		if h.sink == nil {
			s.Handlers = append(s.Handlers, HandlerStats{
				Filter: h.filter, Queued: int(h.backlog.Load()), Handled: h.handled.Load(), Dropped: h.dropped.Load(), Panics: h.panics.Load(),
				Overruns: h.overruns.Load(), Busy: time.Duration(h.busy.Load()), Longest: time.Duration(h.longest.Load()),
			})
		}
	}
	return s
}

// A Server is what the broker says of itself, and what that means for this client.
type Server struct {
	URL     string // without credentials
	Version byte   // protocol level: 4 or 5

	// What MQTT 5 brokers say in CONNACK; of MQTT 3.1.1 it is what that protocol has.
	MaximumQoS           byte
	RetainAvailable      bool
	WildcardAvailable    bool
	SharedAvailable      bool
	IdentifiersAvailable bool
	MaximumPacketSize    int           // bytes
	ReceiveMaximum       int           // messages, and no more than this client uses
	KeepAlive            time.Duration // that counts
	SessionExpiry        time.Duration // that the broker has granted instead of what was asked for; negative is what was asked for
	LateAcknowledgements bool          // only our own embedded broker has them
}

// Server returns what the broker of the present connection says of itself; false while there is none.
func (c *Client) Server() (Server, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.link
	if l == nil || !l.ready {
		return Server{}, false
	}
	return Server{
		URL: c.endpoint.Load().name, Version: byte(l.version), MaximumQoS: l.server.maxQoS, RetainAvailable: l.server.retain,
		WildcardAvailable: l.server.wildcard, SharedAvailable: l.version == packet.V5 && l.server.shared, IdentifiersAvailable: l.server.identifiers,
		MaximumPacketSize: l.server.maxPacket, ReceiveMaximum: l.server.receiveMaximum, KeepAlive: l.keepAlive,
		SessionExpiry: l.server.sessionExpiry, LateAcknowledgements: l.late,
	}, true
}
