package client

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

// Secret is a string that never shows in logs, errors or JSON. Convert it to string to use it.
type Secret string

const hidden = "[secret]"

func (s Secret) shown() string {
	if s == "" {
		return ""
	}
	return hidden
}

func (s Secret) String() string   { return s.shown() }
func (s Secret) GoString() string { return fmt.Sprintf("client.Secret(%q)", s.shown()) }

// LogValue hides the secret in structured logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.shown()) }

// MarshalJSON and MarshalText hide the secret in whatever is encoded.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + s.shown() + `"`), nil }
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.shown()), nil }

// Format hides the secret from every verb of package fmt, %x included.
func (s Secret) Format(f fmt.State, verb rune) {
	if verb == 'v' && f.Flag('#') {
		_, _ = f.Write([]byte(s.GoString()))
		return
	}
	_, _ = f.Write([]byte(s.shown()))
}

// Overflow says what a full queue does with one more.
type Overflow uint8

const (
	// ByClass is the sensible thing. The outbox: Sensor and Event topics DropOldest, State topics Latest, all
	// others Refuse. A handler's queue: the oldest message of QoS 0 is dropped, QoS 1 and 2 are never.
	ByClass    Overflow = iota
	DropOldest          // the oldest makes room
	Refuse              // the outbox: ErrFull to the caller; a handler's queue: as ByClass, but the newest of QoS 0 is dropped
	Latest              // keep the newest per topic: an older one of the same topic makes room, or the oldest
)

// String returns "by_class", "drop_oldest", "refuse" or "latest".
func (o Overflow) String() string {
	switch o {
	case ByClass:
		return "by_class"
	case DropOldest:
		return "drop_oldest"
	case Refuse:
		return "refuse"
	case Latest:
		return "latest"
	}
	return fmt.Sprintf("Overflow(%d)", uint8(o))
}

// Queue is a bound and what happens at it.
type Queue struct {
	Max  int // messages; 0 is 1,000
	Full Overflow
}

// Will is published by the broker when this client vanishes. An enveloped Message goes out with the time and a new id
// of each connection, and over MQTT 5 with the user property will, which exempts it from the age limit.
type Will struct {
	Topic   string // relative or full
	Message message.Message
	QoS     byte // at least; an enveloped Message has no less than its topic, and 2 when it is critical
	Retain  bool
	Delay   time.Duration // MQTT 5: published so much later, or not at all if the client is back by then
}

// Options configure a client. The zero value connects to tcp://localhost:1883 with a random id.
type Options struct {
	// URL is tcp://, mqtt:// (port 1883 unless named), ssl://, tls://, mqtts:// (8883), ws://, wss:// or unix://PATH.
	// It may carry a user name and a password.
	URL string
	// Fallback are further addresses of the same broker, or of brokers that share what they hold. When URL does not answer, the next one
	// is tried at once, and after a lost connection the one that answered last comes first. A session is not continued at another address:
	// what was not acknowledged is sent again there, so that over such a change QoS 2 may come twice.
	Fallback []string
	Dial     func(ctx context.Context) (net.Conn, error) // instead of URL and Fallback, for in-process connections

	ID         string          // MQTT client id, and the sender of our messages; "" lets one be made
	Topics     *topic.Registry // nil is topic.New("")
	CleanStart bool            // discard a session from before this process

	// SessionExpiry is how long the broker keeps the session while there is no connection, and after Close. 0 is one
	// hour, but nothing after Close, unless Close leaves messages of QoS 2 in Dir that the broker may have; negative ends the session with each connection. MQTT 3.1.1 knows no expiry: there
	// the broker decides how long, or keeps nothing when this is negative.
	SessionExpiry time.Duration
	// DurableSession asks our broker to keep the session on disk, so that it outlives a crash of the broker, at the price that
	// messages for it wait for the disk. Without it the session outlives lost connections only: the CONNECT (MQTT 5) says so
	// by the user property session-durability: memory, which other brokers ignore.
	DurableSession bool

	// Version is the protocol to speak, and no other: 4 (MQTT 3.1.1) or 5. 0 is MQTT 5, or 3.1.1 with a broker that refuses it.
	Version byte

	KeepAlive time.Duration // 0 is 60 s; the broker may impose another
	// Probe is how long nothing has to be received until the client asks the broker for a sign of life. When none comes
	// within as long again, and a half more, the connection is given up: a half-open link is noticed within 3 Probe.
	// While data is on its way to a slow link it waits longer, a second for every 8 KiB, and over a link with a long way twice
	// its round trip. 0 is 1 s.
	Probe time.Duration
	// Safety marks a client whose loss must be noticed at once: Probe is 160 ms unless set, so that a half-open link is noticed
	// within 500 ms, and ReconnectDelay 100 ms.
	Safety bool

	Username string
	Password Secret
	TLS      *tls.Config // of ssl:// and wss://; nil checks the broker against the system's authorities
	// GetTLS, when not nil, is asked for TLS before each attempt to connect, so that certificates may change; TLS is not used then. The
	// logger is the client's.
	GetTLS func(*slog.Logger) (*tls.Config, error)
	Will   *Will

	// Birth, when not nil, is called after each (re)connection once the subscriptions are confirmed, before the outbox
	// drains. What it sends with Publish or Call and the ctx it is given goes out at once. An error ends that connection;
	// Connect returns it.
	Birth func(ctx context.Context, c *Client) error

	// OnState is told of each change, in order, from a goroutine of its own. The cause of a lost connection may be a
	// *DisconnectError; a failed attempt to connect again is no change.
	OnState func(connected bool, cause error)

	FailFast bool // Connect returns the error of the first attempt, whatever it is
	// ConnectTimeout bounds one attempt to connect, and then the restoring of subscriptions. Attempts to reconnect mostly take a
	// second at most, or six round trips of the connection before. 0 is 10 s.
	ConnectTimeout time.Duration

	// The n-th attempt to reconnect comes after a random time between 0 and ReconnectDelay * ReconnectFactor^(n-1),
	// at most MaxReconnect, from the begin of the one before; not before half of that when the broker was too busy to take us.
	ReconnectDelay  time.Duration // 0 is 1 s
	MaxReconnect    time.Duration // 0 is 1 s for a broker on this host (loopback, unix://, Dial), else 300 s, but at least ReconnectDelay
	ReconnectFactor float64       // 0 is 2

	// Outbox bounds the messages that wait for the broker, per class of topics; topics that nobody defined are a class
	// of their own. Safety topics are neither bounded nor dropped, and go first. While connected a full class makes
	// Publish and PublishAsync wait for room; Full says what happens while not.
	Outbox Queue

	Rates Rates // beside those of the topics

	// Dir, when not "", is a directory of this client's own, made (0700) when missing. Two clients cannot share one. In it are
	//   - what the outbox has accepted: Publish returns when it is on the disk. The requests of Call are not among it, since
	//     their caller dies with this process, nor are messages of Birth and those published with Volatile.
	//   - the commands that ServeCommands has executed, with their answers, so that none is executed twice.
	// ID must be set, and be the same in the next process. For exactly once at QoS 2 the broker has to keep the session: without
	// CleanStart, within SessionExpiry, and with DurableSession if it may go down at the same time.
	Dir string
	fs  vfs.FS // of Dir, for tests that inject faults; nil is the system's

	Signing    *Signing    // nil neither signs nor verifies
	Encryption *Encryption // nil neither encrypts nor decrypts

	// Foreign says that the broker is no bus of ours: what comes is delivered as it came, as a raw message whatever is in it, and is not checked.
	// Nothing is subscribed to for answers, so Call does not work.
	Foreign bool

	Commands     int // requests that ServeCommands handles at once, per call of it; 0 is 64
	Limits       message.Limits
	Uncompressed []string     // filters (relative or full) of topics whose messages are never compressed
	Logger       *slog.Logger // nil is discarded

	// Tracer is told of what is published, handled, called and served, and has messages say over MQTT 5 which trace they belong to. nil
	// costs nothing. Messages that this package sends by itself, such as responses, are not told of.
	Tracer Tracer
}

const (
	defaultURL           = "tcp://localhost:1883"
	defaultQueue         = 1000
	defaultKeepAlive     = 60 * time.Second
	defaultProbe         = time.Second
	safetyProbe          = 160 * time.Millisecond
	safetyReconnect      = 100 * time.Millisecond
	defaultSessionExpiry = time.Hour
	closeTimeout         = 5 * time.Second // of Close when its ctx has no deadline
)

// withDefaults returns o with every zero value replaced.
func (o Options) withDefaults() (Options, error) {
	if o.Topics == nil {
		r, err := topic.New("")
		if err != nil {
			return o, err
		}
		o.Topics = r
	}
	if strings.ContainsAny(o.ID, "+#\x00") {
		return o, fmt.Errorf("client id %q: must not contain +, # or NUL, as it is part of the topic responses/ID", o.ID)
	}
	if o.Dir != "" && o.ID == "" {
		return o, fmt.Errorf("client directory %s: the client needs an id (Options.ID), the same in each process", o.Dir)
	}
	if v := packet.Version(o.Version); v != 0 && v != packet.V311 && v != packet.V5 {
		return o, fmt.Errorf("protocol version %d: must be 4 (MQTT 3.1.1), 5, or 0 for either", o.Version)
	}
	if o.ReconnectFactor == 0 {
		o.ReconnectFactor = 2
	}
	if o.ReconnectFactor < 1 {
		return o, fmt.Errorf("reconnect factor %g: must be 1 or more", o.ReconnectFactor)
	}
	setDuration(&o.KeepAlive, defaultKeepAlive)
	if o.Safety {
		setDuration(&o.Probe, safetyProbe)
		setDuration(&o.ReconnectDelay, safetyReconnect)
	}
	setDuration(&o.Probe, defaultProbe)
	setDuration(&o.ConnectTimeout, 10*time.Second)
	setDuration(&o.ReconnectDelay, time.Second)
	if o.Outbox.Max <= 0 {
		o.Outbox.Max = defaultQueue
	}
	if o.Commands <= 0 {
		o.Commands = 64
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

func setDuration(d *time.Duration, value time.Duration) {
	if *d <= 0 {
		*d = value
	}
}

// seconds rounds d up, as the protocol's intervals are whole seconds, and never to less than one.
func seconds(d time.Duration) uint32 {
	const most = 1<<32 - 2 // one more means "for ever" in a session expiry
	s := int64((d + time.Second - 1) / time.Second)
	return uint32(min(max(s, 1), most))
}
