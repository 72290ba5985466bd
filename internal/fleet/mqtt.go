package fleet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

const (
	// HeaderID is the id of a history record at an MQTT engine: who has had it before has it twice.
	HeaderID = "message-id"
	// HeaderTime is when the mower sent a message to an MQTT engine, in Unix seconds by the mower's clock: brokers tell no time.
	HeaderTime = "Lawnberry-Time"
)

// AnswerTopic is where a mower answers a command at an MQTT engine: it answers nowhere else, so that a caller cannot make it publish what the caller may
// not, and it may publish there because it is beneath its own topics.
func AnswerTopic(mower, caller string) string { return topicRoot + "/" + mower + "/answers/" + caller }

// IsAnswerTopic reports whether a mower may answer there.
func IsAnswerTopic(mower, name string) bool {
	caller, ok := strings.CutPrefix(name, AnswerTopic(mower, ""))
	return ok && topic.CheckLevel("caller", caller) == nil
}

// ParseMQTTTopic takes a topic at an MQTT engine apart: kind is what stands after the mower, such as history or presence, and rest what follows it.
func ParseMQTTTopic(name string) (mower, kind, rest string, err error) {
	tail, ok := strings.CutPrefix(name, topicRoot+"/")
	if !ok {
		return "", "", "", fmt.Errorf("%q is no topic of a mower", name)
	}
	mower, tail, _ = strings.Cut(tail, "/")
	if err := CheckMower(mower); err != nil {
		return "", "", "", err
	}
	kind, rest, _ = strings.Cut(tail, "/")
	return mower, kind, rest, nil
}

// Times of a connection to an MQTT engine. A broker says that a mower is gone when it has been silent for one and a half of its keep alive.
const (
	mqttKeepAlive = 20 * time.Second
	mqttProbe     = 10 * time.Second // a dead connection is noticed within three of these
	mqttConfirm   = 10 * time.Second // for the confirmation of a subscription
	mqttTakenOver = 30 * time.Second // before the place of another client with the same id is taken, and as much again at random
)

// MaxMQTTBody bounds a message at an MQTT engine, in bytes.
const MaxMQTTBody = 1 << 20

// An MQTTSession says what a connection to an MQTT engine is.
type MQTTSession struct {
	ID     string        // client id; "" is a new one
	Expiry time.Duration // that the engine keeps the session after the connection; 0 ends it with the connection
	Will   string        // a retained message that is removed when the connection is lost; "" is none
}

// An MQTTConn is one connection to an MQTT engine. When it is lost it is over: nothing is sent again by itself, so that whoever sends knows what
// became of it.
type MQTTConn struct {
	*client.Client

	lost  chan struct{}
	once  sync.Once
	cause error // valid after lost
}

// DialMQTT connects to an engine that speaks MQTT 5, once. The files of e are read anew.
func (e Engine) DialMQTT(ctx context.Context, s MQTTSession) (*MQTTConn, error) {
	if p, err := e.Protocol(); err != nil {
		return nil, err
	} else if p != MQTT {
		return nil, fmt.Errorf("%s is no MQTT", e.URL)
	}
	user, password, err := e.Login()
	if err != nil {
		return nil, err
	}
	registry, err := topic.New("lawnberry-fleet-engine") // whose topics occur nowhere
	if err != nil {
		return nil, err
	}
	c := &MQTTConn{lost: make(chan struct{})}
	var born atomic.Bool
	o := client.Options{
		URL: e.Servers()[0], ID: s.ID, Topics: registry, Version: 5, Foreign: true, FailFast: true,
		CleanStart: s.Expiry <= 0, SessionExpiry: -1, DurableSession: s.Expiry > 0,
		KeepAlive: mqttKeepAlive, Probe: mqttProbe, Username: user, Password: client.Secret(password),
		Limits: message.Limits{MaxPayload: MaxMQTTBody, MaxAge: -1, CompressAbove: -1},
		// It does not come back: what was not acknowledged is not the client's business any more.
		ReconnectDelay: 24 * time.Hour,
		Birth: func(context.Context, *client.Client) error {
			if !born.CompareAndSwap(false, true) {
				return errors.New("the connection is over")
			}
			return nil
		},
		OnState: func(connected bool, cause error) {
			if !connected {
				c.end(cause)
			}
		},
		GetTLS: func(*slog.Logger) (*tls.Config, error) { return e.tls() },
	}
	if s.Expiry > 0 {
		o.SessionExpiry = s.Expiry
	}
	if s.Will != "" {
		o.Will = &client.Will{Topic: topic.Absolute(s.Will), Message: message.NewRaw(nil), QoS: 1, Retain: true}
	}
	if c.Client, err = client.Connect(ctx, o); err != nil {
		return nil, mqttError(e.URL, err)
	}
	return c, nil
}

// mqttError says what a person can do about an engine that does not take a connection.
func mqttError(url string, err error) error {
	var failed *client.ConnectError
	if !errors.As(err, &failed) {
		return err
	}
	switch failed.Code {
	case 0x84:
		return fmt.Errorf("the broker at %s refuses MQTT 5, and a fleet needs it: use a broker or a listener that speaks MQTT 5 (%w)", url, err)
	case 0x86, 0x87:
		return fmt.Errorf("the broker at %s does not let us in: see the credentials, and the broker's access rules (%w)", url, err)
	case 0x85:
		return fmt.Errorf("the broker at %s does not take our client id (%w)", url, err)
	}
	return fmt.Errorf("no connection to the broker at %s: %w", url, err)
}

// IsMQTTRefusal reports whether a broker was there and did not let us in.
func IsMQTTRefusal(err error) bool {
	var failed *client.ConnectError
	return errors.As(err, &failed) && failed.Refused()
}

// tls reads the files for TLS.
func (e Engine) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if e.CAFile != "" {
		text, err := os.ReadFile(e.CAFile)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s has no certificate in it", e.CAFile)
		}
	}
	if e.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(e.CertFile, e.KeyFile)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

func (c *MQTTConn) end(cause error) {
	c.once.Do(func() {
		c.cause = cause
		close(c.lost)
	})
}

// Lost is closed when the connection is over.
func (c *MQTTConn) Lost() <-chan struct{} { return c.lost }

// ErrMQTTLost is that a connection was lost; what was sent and not acknowledged may have arrived.
var ErrMQTTLost = errors.New("the connection to the engine was lost")

// Cause says why the connection is over. It is valid after Lost.
func (c *MQTTConn) Cause() error {
	if c.cause == nil {
		return ErrMQTTLost
	}
	return c.cause
}

// Close ends the connection. What is on its way has until ctx ends.
func (c *MQTTConn) Close(ctx context.Context) {
	select {
	case <-c.lost:
		done, cancel := context.WithCancel(ctx)
		cancel()
		ctx = done
	default:
	}
	_ = c.Client.Close(ctx) // what is not acknowledged is known to whoever sent it
	c.end(client.ErrClosed)
}

// Send publishes a message and waits for its acknowledgement. unheard is that the broker has said that nobody is subscribed. With ErrMQTTLost or the error of
// ctx it may have arrived.
func (c *MQTTConn) Send(ctx context.Context, name string, body []byte, opts ...client.PublishOption) (unheard bool, err error) {
	return c.Await(ctx, c.Say(name, body, opts...))
}

// Say publishes a message, and does not wait for anything but room to send.
func (c *MQTTConn) Say(name string, body []byte, opts ...client.PublishOption) *client.Receipt {
	return c.PublishAsync(topic.Absolute(name), message.NewRaw(body), opts...)
}

// Await waits for what was published.
func (c *MQTTConn) Await(ctx context.Context, r *client.Receipt) (unheard bool, err error) {
	select {
	case <-r.Delivered():
		return r.Unheard(), r.Err()
	case <-c.lost:
	case <-ctx.Done():
		err = ctx.Err()
	}
	select {
	case <-r.Delivered(): // it was, before the connection was lost
		if lost := r.Err(); !errors.Is(lost, client.ErrClosed) {
			return r.Unheard(), lost
		}
	default:
	}
	if err == nil {
		err = ErrMQTTLost
	}
	return false, err
}

// Hear subscribes to a filter at QoS 1. Messages of this connection do not come. It returns an error when the connection is lost meanwhile, which the client
// beneath would wait out, and when the broker has not confirmed the subscription in 10 s.
func (c *MQTTConn) Hear(ctx context.Context, filter string, h client.Handler, opts ...client.SubscribeOption) (*client.Subscription, error) {
	opts = append([]client.SubscribeOption{client.WithMaxQoS(1), client.WithNoLocal()}, opts...)
	limited, cancel := context.WithTimeoutCause(ctx, mqttConfirm, fmt.Errorf("the broker has not confirmed the subscription to %s in %s", filter, mqttConfirm))
	defer cancel()
	limited, cut := context.WithCancelCause(limited)
	defer cut(nil)
	waiting := make(chan struct{})
	defer close(waiting)
	go func() {
		select {
		case <-c.lost:
			cut(ErrMQTTLost)
		case <-waiting:
		}
	}()
	s, err := c.Subscribe(limited, topic.Absolute(filter), h, opts...)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		err = context.Cause(limited)
	}
	return s, err
}

// retainedGrace is how long after its confirmation of a subscription a broker has to begin to send what it retains: there is no word for
// "nothing". Brokers send it right behind the confirmation.
const retainedGrace = 2 * time.Second

// Retained returns the message that the broker retains on a topic. ok is false when there is none.
func (c *MQTTConn) Retained(ctx context.Context, name string) (d *client.Delivery, ok bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	found := make(chan *client.Delivery, 1)
	sub, err := c.Hear(ctx, name, func(_ context.Context, d *client.Delivery) {
		if d.Retained {
			select {
			case found <- d:
			default:
			}
		}
	}, client.WithMaxQoS(0))
	if err != nil {
		return nil, false, err
	}
	defer func() { _ = sub.Unsubscribe(ctx) }() // it is over with the connection
	grace := time.NewTimer(retainedGrace)
	defer grace.Stop()
	select {
	case d := <-found:
		return d, true, nil
	case <-grace.C:
		return nil, false, nil
	case <-c.lost:
		return nil, false, ErrMQTTLost
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
}

// UserProperty returns the first user property of that name, "" without one.
func UserProperty(d *client.Delivery, name string) string {
	for _, p := range d.User {
		if p[0] == name {
			return p[1]
		}
	}
	return ""
}

// MQTTBody returns the bytes of a message as they came.
func MQTTBody(d *client.Delivery) []byte { return d.Message.Payload }

// KeepMQTT makes a connection and makes it again until ctx ends. up is called for each one, and the connection is closed when it returns an error; nil keeps
// it until it is lost. Between two attempts it waits as [Engine.DialNATS] does, or as pause says. down is told why there is none, each time.
func (e Engine) KeepMQTT(ctx context.Context, s MQTTSession, pause func(rounds int) time.Duration, up func(ctx context.Context, c *MQTTConn) error, down func(err error)) {
	if pause == nil {
		pause = reconnectDelay
	}
	for rounds := 1; ctx.Err() == nil; rounds++ {
		dialling, cancel := context.WithTimeout(ctx, natsDial)
		c, err := e.DialMQTT(dialling, s)
		cancel()
		if err == nil {
			began := time.Now()
			if err = up(ctx, c); err == nil {
				select {
				case <-c.lost:
					err = c.Cause()
				case <-ctx.Done():
					return // whoever has ended it closes the connection
				}
			}
			over, cancel := context.WithCancel(context.Background())
			cancel()
			c.Close(over)
			if time.Since(began) > natsMax {
				rounds = 1
			}
		}
		if ctx.Err() != nil {
			return
		}
		down(err)
		wait := pause(rounds)
		var said *client.DisconnectError
		if errors.As(err, &said) && said.TakenOver() {
			wait += mqttTakenOver
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}
