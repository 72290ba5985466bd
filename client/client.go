package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/internal/store"
	"github.com/lawnberry/lawnberry/topic"
)

// Client is one MQTT session. Its methods may be called concurrently.
//
// One goroutine (run) connects, one pair of goroutines reads and writes each connection, and each handler has its own.
type Client struct {
	opts          Options
	endpoints     []*endpoint              // of Options.URL and Fallback
	endpoint      atomic.Pointer[endpoint] // the one that was tried last
	id            string
	uncompressed  []string // full
	propsJSON     []byte   // of an envelope, encoded
	propsGzip     []byte   // of a compressed one
	started       time.Time
	always        chan struct{} // closed
	lenience      atomic.Int32  // how often the time for a sign of life is doubled; see watch
	stats         counters
	responses     *Subscription
	responseTopic []byte // of responses
	calls         calls
	requests      requests
	disk          *store.Store // of Options.Dir, else nil
	spool         *spool       // the outbox on disk, else nil
	sealer        *sealer      // of Options.Signing and Encryption, else nil
	waits         sync.Pool    // of chan error with room for one, empty

	life   context.Context    // of handlers; ends when Close begins
	kill   context.CancelFunc // ends life
	dying  <-chan struct{}    // of life
	halt   context.CancelFunc // ends run
	halted chan struct{}      // closed when run has returned
	dead   chan struct{}      // closed when Close is over

	// Of run alone.
	wireID  string         // client id in CONNECT: ours, or what the broker assigned instead
	version packet.Version // to try first
	spoken  packet.Version // of the last connection, 0 before
	v5      bool           // the broker has accepted MQTT 5 once
	start   int            // of endpoints, to try first
	served  *endpoint      // of the last connection, nil before

	roundTrip time.Duration // of the last connection
	abandoned abandoned

	mu sync.Mutex
	// Guarded by mu, as are the fields of link and those of embedded types that say so.
	session
	incoming
	box         *outbox
	limiter     limiter
	table       table
	ops         operations
	link        *link         // nil while there is no connection
	since       time.Time     // when link became ready
	connections uint64        // that were ready so far
	room        chan struct{} // closed when the outbox gets more room; nil if nobody waits
	flushed     chan struct{} // closed when nothing waits to be sent or acknowledged; nil if nobody waits
	handlers    int           // goroutines of handlers and requests
	ended       chan struct{} // closed when one of them ends; nil if nobody waits
	closing     bool          // Close has begun
	refusing    bool          // Publish returns ErrClosed
	unsent      bool          // Close gave up messages
	states      []*states     // of OnState and OnConnection

	connection atomic.Uint64 // number of the connection that is up, 0 while there is none
}

// Connect starts a client and waits for its first connection or ctx. It tries again until ctx ends, unless FailFast is
// set or trying again cannot help: the broker refuses the credentials or the client id, its certificate does not
// verify, the URL is wrong, or Birth fails. Then, and when ctx ends, it returns an error that says so and nothing
// keeps running. A *[ConnectError] carries the broker's reason.
func Connect(ctx context.Context, o Options) (*Client, error) {
	c, err := newClient(o)
	if err != nil {
		return nil, err
	}
	run, halt := context.WithCancel(context.Background())
	c.halt = halt
	first, endFirst := context.WithCancel(run) // the first connection's making ends with ctx, what follows does not
	defer endFirst()
	defer context.AfterFunc(ctx, endFirst)()
	result := make(chan error, 1)
	go c.run(run, first, result)

	err = <-result
	if err == nil {
		return c, nil
	}
	if c.startClosing() {
		_ = c.shutDown(context.Background(), nil)
	} else { // Birth has called Close
		<-c.dead
	}
	var failed *ConnectError
	if ctx.Err() != nil && errors.As(err, &failed) {
		failed.ended = ctx.Err()
	}
	return nil, err
}

func newClient(o Options) (*Client, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	endpoints, err := newEndpoints(&o)
	if err != nil {
		return nil, err
	}
	longest := time.Second
	if slices.ContainsFunc(endpoints, func(e *endpoint) bool { return !e.local }) {
		longest = 300 * time.Second
	}
	setDuration(&o.MaxReconnect, max(longest, o.ReconnectDelay))
	c := &Client{
		opts: o, endpoints: endpoints, id: o.ID, started: time.Now(), version: packet.Version(cmp.Or(o.Version, byte(packet.V5))),
		box: newOutbox(o.Outbox), always: make(chan struct{}), dead: make(chan struct{}), halted: make(chan struct{}),
	}
	c.endpoint.Store(endpoints[0])
	close(c.always)
	c.life, c.kill = context.WithCancel(context.WithValue(context.Background(), handlerKey{}, c))
	c.dying = c.life.Done()
	if c.id == "" {
		c.id = newID()
	}
	c.wireID = c.id
	c.waits.New = func() any { return make(chan error, 1) }
	c.propsJSON, c.propsGzip = commonProperties()
	c.session.init()
	c.limiter.init()
	c.requests.init()
	c.calls.init()
	for _, f := range o.Uncompressed {
		full, err := o.Topics.Resolve(f)
		if err != nil {
			return nil, fmt.Errorf("uncompressed topics: %w", err)
		}
		c.uncompressed = append(c.uncompressed, full)
	}
	if c.sealer, err = newSealer(&o); err != nil {
		return nil, err
	}
	if o.Will != nil { // better said now than at every attempt to connect
		if _, err := c.will(o.Will, packet.V5); err != nil {
			return nil, err
		}
	}
	c.table.reset(true)
	if err := c.hearResponses(); err != nil {
		return nil, err
	}
	if o.OnState != nil {
		c.states = append(c.states, newStates(o.OnState))
	}
	if c.disk, err = openDisk(&o); err != nil {
		return nil, err
	}
	if c.disk == nil {
		return c, nil
	}
	c.spool = newSpool(c.disk)
	if err := c.load(); err != nil {
		return nil, errors.Join(err, c.disk.Close())
	}
	go c.commitSpool()
	return c, nil
}

// ID returns the MQTT client id in use, which is the sender of our messages.
func (c *Client) ID() string { return c.id }

// Topics returns the registry.
func (c *Client) Topics() *topic.Registry { return c.opts.Topics }

// MaxPayload returns the payload limit in bytes, Options.Limits.MaxPayload or its default.
func (c *Client) MaxPayload() int { return c.opts.Limits.PayloadLimit() }

// Connected reports whether the session is up now.
func (c *Client) Connected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link != nil && c.link.ready
}

// Connection returns the number of the connection that is up now, or 0 while there is none: from the moment on in which it is known to be
// lost, which Connected may say somewhat later. Every connection of this client has another
// number, so that what was true on one is not taken for true on the next. It takes no lock.
func (c *Client) Connection() uint64 { return c.connection.Load() }

// OnConnection calls f for each connection that comes up or is lost from now on, as Options.OnState. After cancel returned there is
// no further call but one that is under way.
func (c *Client) OnConnection(f func(connected bool, cause error)) (cancel func()) {
	s := newStates(f)
	c.mu.Lock()
	c.states = append(slices.Clone(c.states), s)
	c.mu.Unlock()
	return func() {
		c.mu.Lock()
		c.states = slices.DeleteFunc(slices.Clone(c.states), func(x *states) bool { return x == s })
		c.mu.Unlock()
		s.stop()
	}
}

// tellStates tells who wants to know that the connection is up, or lost.
func (c *Client) tellStates(connected bool, cause error) {
	c.mu.Lock()
	all := c.states
	c.mu.Unlock()
	for _, s := range all {
		s.tell(connected, cause)
	}
}

// clock is the time since Connect, monotonic.
func (c *Client) clock() time.Duration { return time.Since(c.started) }
