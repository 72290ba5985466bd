package broker

import (
	"fmt"
	"iter"
	"maps"
	"math"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// counters count since Start.
type counters struct {
	opened                       atomic.Uint64 // network connections
	received, sent               atomic.Uint64 // packets of any type; see sysTopics
	publishes, published         atomic.Uint64 // PUBLISH packets in, out
	publishBytes, publishedBytes atomic.Uint64 // their payloads
	bytesReceived, bytesSent     atomic.Uint64
	denied                       atomic.Uint64 // what was refused for want of a right
	dropped, expired             atomic.Uint64 // messages lost at a bound; messages whose expiry passed in a queue
	expiredSessions              atomic.Uint64
	storeFailures                atomic.Uint64 // groups that could not be stored
	tlsRefused                   atomic.Uint64 // failed handshakes, and connections whose certificate was revoked
	maximum                      int           // clients at once; guarded by Broker.mu
	loads                        [7]load
	lastLoad                     int64
}

// Stats are counters since Start and gauges of now.
type Stats struct {
	Started       time.Time
	Connections   int // clients let in
	Sessions      int // connected or kept
	Subscriptions int
	Retained      int
	Queued        int    // QoS 1 and 2 messages that wait to be sent
	Received      uint64 // PUBLISH packets from clients
	Sent          uint64 // PUBLISH packets to clients
	BytesReceived uint64 // on the wire
	BytesSent     uint64
	Dropped       uint64 // messages lost at a bound or refused, each once per session
	Expired       uint64 // messages whose expiry passed before they were sent
	Denied        uint64 // publications, subscriptions, queued messages and Wills refused for want of a right
	StoreFailures uint64 // attempts to make changes durable that failed
	StoreFailing  bool   // messages that need storing are refused at present
	TLSRefused    uint64 // handshakes of TLS that failed, and connections closed because their certificate was revoked

	CertificateExpires time.Time // the broker's own; zero without
}

// SessionStats are one session's figures.
type SessionStats struct {
	ClientID    string
	Connected   bool
	Durable     bool   // it outlives the broker
	Queued      int    // QoS 1 and 2 messages that wait to be sent
	QueuedBytes int    // their size
	InFlight    int    // sent, and not acknowledged to the end
	Dropped     uint64 // messages lost at a bound, since the session began or the broker started
}

// Sessions yields the sessions' present figures, in no order.
func (b *Broker) Sessions() iter.Seq[SessionStats] {
	return func(yield func(SessionStats) bool) {
		b.mu.Lock()
		sessions := slices.Collect(maps.Values(b.sessions))
		b.mu.Unlock()
		for _, s := range sessions {
			s.mu.Lock()
			x := SessionStats{
				ClientID: s.id, Connected: s.conn != nil, Durable: s.durable, Queued: s.queued, QueuedBytes: s.bytes,
				InFlight: s.window.count, Dropped: s.dropped,
			}
			s.mu.Unlock()
			if !yield(x) {
				return
			}
		}
	}
}

// Stats returns the present figures. It costs a lock per session.
func (b *Broker) Stats() Stats {
	b.mu.Lock()
	s := Stats{Started: b.started, Connections: b.clients, Sessions: len(b.sessions)}
	sessions := make([]*session, 0, len(b.sessions))
	for _, x := range b.sessions {
		sessions = append(sessions, x)
	}
	b.mu.Unlock()
	for _, x := range sessions {
		x.mu.Lock()
		s.Queued += x.queued
		x.mu.Unlock()
	}
	b.tree.mu.RLock()
	s.Subscriptions = b.tree.count
	b.tree.mu.RUnlock()
	b.retained.mu.RLock()
	s.Retained = b.retained.count
	b.retained.mu.RUnlock()
	s.Received, s.Sent = b.stats.publishes.Load(), b.stats.published.Load()
	s.BytesReceived, s.BytesSent = b.stats.bytesReceived.Load(), b.stats.bytesSent.Load()
	s.Denied = b.stats.denied.Load()
	s.Dropped, s.Expired = b.stats.dropped.Load(), b.stats.expired.Load()
	s.StoreFailures = b.stats.storeFailures.Load()
	s.StoreFailing = b.journal != nil && b.journal.failing.Load()
	s.TLSRefused = b.stats.tlsRefused.Load()
	s.CertificateExpires, _ = b.certificateExpiry()
	return s
}

// A load is the moving averages of a counter's rate per minute over 1, 5 and 15 minutes.
type load struct {
	name    string
	count   func() uint64
	last    uint64
	average [3]float64
}

var loadMinutes = [3]int{1, 5, 15}

func (c *counters) start(now int64) {
	c.lastLoad = now
	for i, l := range [...]struct {
		name  string
		count *atomic.Uint64
	}{
		{"messages/received", &c.received}, {"messages/sent", &c.sent},
		{"publish/received", &c.publishes}, {"publish/sent", &c.published},
		{"bytes/received", &c.bytesReceived}, {"bytes/sent", &c.bytesSent},
		{"sockets", &c.opened},
	} {
		c.loads[i] = load{name: l.name, count: l.count.Load}
	}
}

// lossTopics returns the topics below $SYS/broker that say how many messages the sessions lost, for those that lost any. A
// client id is written with what has a meaning in topics escaped as in a URL, so that it is one level.
func (b *Broker) lossTopics() map[string]string {
	topics := make(map[string]string)
	for s := range b.Sessions() {
		if s.Dropped > 0 {
			topics["sessions/"+oneLevel.Replace(s.ClientID)+"/dropped"] = strconv.FormatUint(s.Dropped, 10)
		}
	}
	return topics
}

// logLosses has the log say what the sessions have lost since it last did.
func (b *Broker) logLosses() {
	b.mu.Lock()
	sessions := slices.Collect(maps.Values(b.sessions))
	b.mu.Unlock()
	for _, s := range sessions {
		s.mu.Lock()
		s.logLoss()
		s.mu.Unlock()
	}
}

var oneLevel = strings.NewReplacer("%", "%25", "/", "%2F", "+", "%2B", "#", "%23", "\x00", "%00")

// housekeeping publishes the broker's own topics, by Mosquitto's names, logs what was lost, and clears away retained messages
// that have expired.
func (b *Broker) housekeeping() {
	interval := or(b.options.SysInterval, 10*time.Second)
	publish := interval > 0
	if !publish {
		interval = 10 * time.Second
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	previous := make(map[string]string)
	var lost map[string]string // by topic
	for {
		if publish {
			b.sysTopics(func(topic, value string) {
				if previous[topic] != value {
					previous[topic] = value
					b.publishOwn("$SYS/broker/"+topic, value)
				}
			})
			losses := b.lossTopics()
			for topic, value := range losses {
				if lost[topic] != value {
					b.publishOwn("$SYS/broker/"+topic, value)
				}
			}
			for topic := range lost {
				if losses[topic] == "" { // the session has ended
					b.publishOwn("$SYS/broker/"+topic, "")
				}
			}
			lost = losses
		}
		b.logLosses()
		b.clearExpired()
		select {
		case <-ticker.C:
		case <-b.ctx.Done():
			return
		}
	}
}

// clearExpired removes the retained messages that have expired.
func (b *Broker) clearExpired() {
	for _, m := range b.retained.expired(b.now()) {
		var t txn
		b.begin(&t)
		mu := b.retained.stripe(m.topic)
		mu.Lock()
		if b.retained.remove(m.topic, m) {
			t.retain(m.topic, nil)
		}
		mu.Unlock()
		b.finish(&t)
	}
}

// publishOwn publishes a retained message of the broker's own.
func (b *Broker) publishOwn(topic, value string) {
	m := newMessage(topic, &packet.Properties{}, []byte(value))
	m.retain = true
	b.distribute(m, &routeCache{}, &txn{}) // nothing of it is stored
}

func (b *Broker) sysTopics(publish func(topic, value string)) {
	number := func(topic string, n uint64) { publish(topic, strconv.FormatUint(n, 10)) }
	count := func(topic string, n int) { publish(topic, strconv.Itoa(n)) }
	s := b.Stats()
	b.mu.Lock()
	maximum := b.stats.maximum
	b.mu.Unlock()
	b.tree.mu.RLock()
	shared := b.tree.shared
	b.tree.mu.RUnlock()
	b.retained.mu.RLock()
	retainedBytes := b.retained.bytes
	b.retained.mu.RUnlock()

	version := b.options.Version
	if version == "" {
		version = "lawnberry"
	}
	publish("version", version)
	publish("uptime", fmt.Sprintf("%d seconds", int(time.Since(b.started).Seconds())))
	count("clients/connected", s.Connections)
	count("clients/active", s.Connections)
	count("clients/disconnected", max(s.Sessions-s.Connections, 0))
	count("clients/inactive", max(s.Sessions-s.Connections, 0))
	count("clients/total", s.Sessions)
	count("clients/maximum", maximum)
	number("clients/expired", b.stats.expiredSessions.Load())
	number("messages/received", b.stats.received.Load())
	number("messages/sent", b.stats.sent.Load())
	count("messages/stored", s.Retained+s.Queued)
	count("store/messages/count", s.Retained+s.Queued)
	count("store/messages/bytes", retainedBytes)
	count("retained messages/count", s.Retained)
	count("subscriptions/count", s.Subscriptions)
	count("shared_subscriptions/count", shared)
	number("publish/messages/received", s.Received)
	number("publish/messages/sent", s.Sent)
	number("publish/messages/dropped", s.Dropped)
	number("clients/denied", s.Denied)
	number("store/failures", s.StoreFailures)
	if !s.CertificateExpires.IsZero() {
		number("tls/refused", s.TLSRefused)
		publish("certificate/expires_in", fmt.Sprintf("%d seconds", int(s.CertificateExpires.Sub(b.limits.wall()).Seconds())))
	}
	number("publish/bytes/received", b.stats.publishBytes.Load())
	number("publish/bytes/sent", b.stats.publishedBytes.Load())
	number("bytes/received", s.BytesReceived)
	number("bytes/sent", s.BytesSent)
	heap := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(heap)
	number("heap/current", heap[0].Value.Uint64())

	now := b.now()
	elapsed := time.Duration(now - b.stats.lastLoad)
	b.stats.lastLoad = now
	if elapsed <= 0 {
		return
	}
	for i := range b.stats.loads {
		l := &b.stats.loads[i]
		n := l.count()
		rate := float64(n-l.last) / elapsed.Minutes()
		l.last = n
		for j, minutes := range loadMinutes {
			keep := math.Exp(-elapsed.Minutes() / float64(minutes))
			l.average[j] = keep*l.average[j] + (1-keep)*rate
			publish(fmt.Sprintf("load/%s/%dmin", l.name, minutes), strconv.FormatFloat(l.average[j], 'f', 2, 64))
		}
	}
}
