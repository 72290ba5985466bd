// Package broker is the message broker on the mower: the Engine interface, and the embedded MQTT 3.1.1 and 5.0 broker.
//
// # How it works
//
// A connection has a reader and a writer goroutine. The reader decodes, routes and queues; the writer sends what its
// session has queued, many packets in one system call. A publisher never waits for a subscriber: every queue is bounded
// in messages and bytes, and what happens at the bound is written beside it (see Options).
//
// Messages of one topic and QoS keep their order for each subscriber, also in a resumed session. Topics below safety/ of
// the namespace go in a lane of their own that overtakes everything else queued for the same session.
package broker

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"log/slog"
	"math"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/internal/store"
	"github.com/lawnberry/lawnberry/topic"
)

// Engine is a running broker, whichever implements it.
type Engine interface {
	// URL returns the address that clients on this host should use, such as tcp://127.0.0.1:1883.
	URL() string
	// Stop disconnects everyone and returns when everything has ended or ctx is done. It is idempotent.
	Stop(ctx context.Context) error
	// Done is closed when the broker has stopped, for whatever reason.
	Done() <-chan struct{}
}

// Options configure the embedded broker. The zero value is usable: in-process connections only, standard limits.
type Options struct {
	Listeners []Listener

	// Authenticate decides whether a client may come in; nil lets everyone in. An error refuses it with reason code 0x86, or
	// as ErrBusy and ErrLocked say. It may be called concurrently, and should return when ctx is done.
	Authenticate func(ctx context.Context, l Login) error
	// Identify, when not nil, is asked instead of Authenticate, and says who the client is as well. With Authenticate everybody is
	// nobody in particular.
	Identify func(ctx context.Context, l Login) (Identity, error)
	// Authorize decides what a client that was let in may do; its Login is without the password, and nil Rights are all. An error
	// refuses it with reason code 0x87. It is asked at each CONNECT, and by Broker.Reauthorize. nil lets everyone do everything.
	//
	// What is not allowed is refused with 0x87 where MQTT has a way to say so, counted, and logged; of a subscription that is wider than
	// the rights only what is allowed is delivered. MQTT 3.1.1 acknowledges a PUBLISH that is refused [MQTT-3.3.5-2].
	Authorize func(l Login, who Identity) (Rights, error)

	// Keyring watches over the certificates of the listeners' TLS: new ones are taken over, clients whose certificate is revoked are
	// disconnected, the log warns 14 days before one expires. nil leaves Listener.TLS to itself.
	Keyring Keyring

	// Namespace is the first levels of the bus's topics; topics below its safety/ overtake others. "" is
	// topic.DefaultNamespace.
	Namespace string

	MaxConnections int // clients at once; one more is refused with 0x89. 0 is 1,000
	MaxSessions    int // sessions kept, connected ones included; one more is refused with 0x88. 0 is 10,000
	MaxRetained    int // clients' retained messages; one more is delivered but not stored, and answered with 0x97. 0 is 200,000
	// MaxRetainedBytes bounds what clients' retained messages take, reckoned with 256 bytes for each level of their topics.
	// One beyond is delivered but not stored, answered with 0x97, and the topic has none then. Topics below safety/ find room for
	// 1,000 messages more, and a MiB. 0 is 256 MiB.
	MaxRetainedBytes int
	MaxPacketSize    int // bytes, of one packet from a client; a larger one ends the connection with 0x95. 0 is 256 KiB

	// MaxQueued and MaxQueuedBytes bound the QoS 1 and 2 messages that wait for one session, connected or not. At the
	// bound a message is lost for that session: its publisher is told 0x97 (MQTT 5), the loss is counted, and the
	// session's connection, which is too slow, is closed with 0x97; one that has just resumed may first work the queue
	// down to the half. Topics below safety/ find room for 1,000 messages more. 0 is 100,000 messages and 64 MiB.
	MaxQueued      int
	MaxQueuedBytes int

	// Dir is the directory of what outlives the broker, made when missing: sessions with an expiry, their subscriptions and
	// QoS 1 and 2 messages, retained messages, Wills. "" keeps everything in memory.
	Dir string
	// Sync is when that is on the disk. 0 is before it is acknowledged: nothing acknowledged is lost, by a crash of the
	// broker or of the machine. A positive value is that long afterwards at most: a crash of the machine loses what was
	// acknowledged within it. Negative leaves it to the operating system, which may take half a minute.
	Sync time.Duration

	// KeepAlive is the longest keep alive a client may have: MQTT 5 clients that ask for more, or for none, are told this
	// one, in whole seconds [MQTT-3.2.2-21]. 0 leaves it to the clients.
	KeepAlive time.Duration

	// SysInterval is how often $SYS topics are published; 0 is 10 s, negative is never.
	SysInterval time.Duration

	Version string       // shown on $SYS/broker/version; "" is "lawnberry"
	Logger  *slog.Logger // nil discards

	tune func(*limits) // lets tests shorten times and lower bounds
}

// Limits that are nobody's business to change.
const (
	handshakePacket = 4 << 10       // bytes of one packet before the client is let in
	maxPacketSize   = 1<<28 - 1 + 5 // what MQTT can express, bytes
	maxLevels       = 200           // of a topic; deeper ones are refused
	maxInflight     = 1024          // QoS 1 and 2 messages sent to one client and not yet acknowledged
	receiveMax      = 1024          // QoS 2 messages from one MQTT 5 client that await PUBREL
	inboundAliases  = 64
	outboundAliases = 64
	maxControl      = 256 << 10        // bytes of answers that a client has not read; then it is not read from
	maxHeld         = 32_768           // answers that wait for the store; then the client is not read from
	writeSize       = 64 << 10         // bytes collected for one write
	scattered       = 2 << 10          // bytes of a payload that is written from where it lies
	crowd           = 512              // messages in a connected session's queue at which publishers give way to its writer
	brake           = time.Millisecond // what a publisher is slowed by when a queue is more than half full
	opening         = 1024             // connections at once that have not sent CONNECT, beyond those let in
)

// limits are the options with their defaults, and times that only tests change.
type limits struct {
	connections, queue, queueBytes atomic.Int64 // see SetLimits
	sessions, retained, packet     int
	retainedBytes                  int
	subscriptions                  int // per session
	subscriptionBytes              int // of all sessions, reckoned
	queue0, queue0Bytes            int // QoS 0: the oldest is dropped
	keepAlive                      time.Duration
	handshake                      time.Duration // until CONNECT has come and is answered
	stall                          time.Duration // a write that makes no progress for so long ends the connection
	farewell                       time.Duration // for a client to read why it is disconnected
	keyring                        time.Duration // how often the certificates are looked at
	wall                           func() time.Time
	store                          store.Options
}

func or[T int | time.Duration](v, byDefault T) T {
	if v == 0 {
		return byDefault
	}
	return v
}

// Broker is the embedded broker. Its methods may be called concurrently.
type Broker struct {
	options      Options
	limits       limits
	log          *slog.Logger
	urgentPrefix string
	started      time.Time
	base         int64           // the broker's clock at started
	journal      *journal        // nil when everything is in memory
	ctx          context.Context // ends when the broker stops
	cancel       context.CancelFunc

	tree       tree
	retained   retained
	connecting striped
	stats      counters
	entitled   entitlement
	buffers    sync.Pool

	running   sync.WaitGroup // listeners, connections, housekeeping
	endpoints []*endpoint
	done      chan struct{}
	stopOnce  sync.Once

	mu       sync.Mutex // guards everything below
	sessions map[string]*session
	conns    map[*conn]struct{}
	clients  int // connections let in or about to be
	closing  bool
}

// SetLimits replaces three of the Options, from now on. Nobody who is connected is sent away, and nothing that waits is lost.
func (b *Broker) SetLimits(maxConnections, maxQueued, maxQueuedBytes int) {
	b.limits.connections.Store(int64(or(maxConnections, 1_000)))
	b.limits.queue.Store(int64(or(maxQueued, 100_000)))
	b.limits.queueBytes.Store(int64(or(maxQueuedBytes, 64<<20)))
}

// Start binds all listeners and serves them. On error nothing keeps running. Ending ctx afterwards does not stop the broker.
func Start(ctx context.Context, o Options) (*Broker, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if o.KeepAlive < 0 || o.KeepAlive > math.MaxUint16*time.Second {
		return nil, fmt.Errorf("broker: keep alive %v is out of range: 0 to %d s", o.KeepAlive, math.MaxUint16)
	}
	namespace := o.Namespace
	if namespace == "" {
		namespace = topic.DefaultNamespace
	}
	log := o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	b := &Broker{
		options:      o,
		log:          log,
		urgentPrefix: namespace + "/safety/",
		started:      time.Now(),
		done:         make(chan struct{}),
		sessions:     make(map[string]*session),
		conns:        make(map[*conn]struct{}),
		limits: limits{
			sessions:          or(o.MaxSessions, 10_000),
			retained:          or(o.MaxRetained, 200_000),
			packet:            or(o.MaxPacketSize, 256<<10),
			retainedBytes:     or(o.MaxRetainedBytes, 256<<20),
			subscriptions:     100_000,
			subscriptionBytes: 256 << 20,
			queue0:            32_768,
			queue0Bytes:       16 << 20,
			keepAlive:         (o.KeepAlive + time.Second - 1).Truncate(time.Second),
			handshake:         5 * time.Second,
			stall:             500 * time.Millisecond,
			farewell:          80 * time.Millisecond, // an offender is gone within 100 ms
			keyring:           keyringInterval,
			wall:              time.Now,
			store:             store.Options{Sync: store.Sync(max(o.Sync, -1)), Logger: log},
		},
	}
	b.SetLimits(o.MaxConnections, o.MaxQueued, o.MaxQueuedBytes)
	if o.tune != nil {
		o.tune(&b.limits)
	}
	b.ctx, b.cancel = context.WithCancel(context.WithoutCancel(ctx))
	b.retained.seed = maphash.MakeSeed()
	b.connecting.seed = b.retained.seed
	b.buffers.New = func() any { b := make([]byte, 0, writeSize+4096); return &b }
	b.stats.start(b.now())

	for _, l := range o.Listeners {
		e, err := b.listen(ctx, l)
		if err != nil {
			for _, e := range b.endpoints {
				e.close()
			}
			b.cancel()
			return nil, err
		}
		if e != nil {
			b.endpoints = append(b.endpoints, e)
		}
	}
	if o.Dir != "" {
		if err := b.openJournal(o.Dir); err != nil {
			for _, e := range b.endpoints {
				e.close()
			}
			b.cancel()
			return nil, err
		}
	}
	for _, e := range b.endpoints {
		b.running.Go(func() { e.serve(b) })
	}
	b.running.Go(b.housekeeping)
	if o.Keyring != nil {
		b.running.Go(b.watchKeyring)
	}
	return b, nil
}

// deadline returns when a message with that expiry interval, received now, expires.
func (b *Broker) deadline(expiry packet.Opt[uint32]) int64 {
	if !expiry.OK {
		return never
	}
	return b.now() + int64(expiry.V)*int64(time.Second)
}

// Endpoints yields what is listened on, in the order of Options.
func (b *Broker) Endpoints() iter.Seq[Endpoint] {
	return func(yield func(Endpoint) bool) {
		for _, e := range b.endpoints {
			if !yield(e.Endpoint) {
				return
			}
		}
	}
}

// URL returns the first TCP address, else the first address of any kind, or "" with in-process connections only.
func (b *Broker) URL() string {
	i := slices.IndexFunc(b.endpoints, func(e *endpoint) bool { return e.Network == "tcp" })
	switch {
	case i >= 0:
		return b.endpoints[i].URL
	case len(b.endpoints) > 0:
		return b.endpoints[0].URL
	}
	return ""
}

// Dial opens an in-process connection, on which the caller speaks MQTT.
func (b *Broker) Dial(ctx context.Context) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closing {
		return nil, errors.New("broker: stopped")
	}
	near, far := net.Pipe()
	b.running.Go(func() { b.serve(far, origin{remote: "in-process", network: "pipe"}) })
	return near, nil
}

// admit registers c, unless the broker is stopping or too many connections are opening.
func (b *Broker) admit(c *conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closing || len(b.conns) >= int(b.limits.connections.Load())+opening {
		return false
	}
	b.conns[c] = struct{}{}
	b.stats.opened.Add(1)
	return true
}

func (b *Broker) forget(c *conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.conns, c)
}

// claimPlace counts a client in, unless there are too many. One that takes its own session over always has a place.
func (b *Broker) claimPlace(id string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.sessions[id]; b.clients >= int(b.limits.connections.Load()) && (s == nil || !s.online()) {
		return false
	}
	b.clients++
	b.stats.maximum = max(b.stats.maximum, b.clients)
	return true
}

func (b *Broker) releasePlace() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clients--
}

func (b *Broker) getBuffer() []byte { return (*b.buffers.Get().(*[]byte))[:0] }

func (b *Broker) putBuffer(buf []byte) {
	if cap(buf) <= 2*writeSize {
		b.buffers.Put(&buf)
	}
}

// Done is closed when the broker has stopped.
func (b *Broker) Done() <-chan struct{} { return b.done }

// Stop closes the listeners, tells every client that the server is shutting down (0x8B), and returns when everything has
// ended. When ctx is done first, connections are cut and ctx's error is returned. Wills are not published: nobody
// would be there to read them. It is idempotent.
func (b *Broker) Stop(ctx context.Context) error {
	b.stopOnce.Do(func() { go b.shutDown() })
	select {
	case <-b.done:
		return nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	for c := range b.conns {
		cut(c.nc)
	}
	b.mu.Unlock()
	select {
	case <-b.done:
		return nil
	case <-time.After(time.Second):
		return fmt.Errorf("broker: stop: %w", ctx.Err())
	}
}

func (b *Broker) shutDown() {
	defer close(b.done)
	b.mu.Lock()
	b.closing = true
	conns := make([]*conn, 0, len(b.conns))
	for c := range b.conns {
		conns = append(conns, c)
	}
	sessions := make([]*session, 0, len(b.sessions))
	for _, s := range b.sessions {
		sessions = append(sessions, s)
	}
	b.mu.Unlock()
	b.cancel()
	for _, e := range b.endpoints {
		e.close()
	}
	for _, s := range sessions {
		s.takeWill(nil, &txn{}) // what is stored of it stays: the next start publishes it
		if c := s.current(); c != nil {
			c.stop(packet.ServerShuttingDown, "the broker is shutting down")
		}
	}
	for _, c := range conns {
		_ = c.nc.SetReadDeadline(time.Now().Add(b.limits.farewell)) // those still before CONNECT
	}
	b.running.Wait()
	if b.journal != nil { // before the sessions: its last commit asks them how far they have been sent
		if err := b.journal.close(); err != nil {
			b.log.Error("the store could not be closed", "error", err)
		}
	}
	for _, s := range sessions {
		s.close(&txn{})
	}
}
