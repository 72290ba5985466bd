package fleet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lawnberry/lawnberry/internal/fleet"
)

// An engine is where the fleet meets, as the way up needs it. Its methods may be called concurrently.
type engine interface {
	// store has a record stored in the history, under its id: what has an id that was stored shortly before is not stored again. With expect it is
	// stored only if that is the sequence of the last record of its topic. What is not nil is errUnsent, a *rejection, or leaves the outcome open.
	store(ctx context.Context, r *record, expect *uint64) (stored, error)
	// last returns id and sequence of the last record of a topic in a stream, "" and 0 without one.
	last(ctx context.Context, stream, topic string) (id string, sequence uint64, err error)
	// keep replaces the latest value of a topic; nil removes it.
	keep(ctx context.Context, topic string, body []byte) error
	// present replaces what the mower says of its uplink; nil says that it is gone.
	present(ctx context.Context, body []byte) error
	// connected reports whether the engine is there, and since when.
	connected() (since time.Time, ok bool)
	// changed holds a token when that has changed.
	changed() <-chan struct{}
	close()
}

// A wholeEngine is an engine as both ways need it.
type wholeEngine interface {
	engine
	// serve has a downlink hear the fleet, from now on and after each lost connection. Whether the engine is there does not matter.
	serve(d *downlink) error
}

// connect begins to connect to the engine.
func connect(o Options) (wholeEngine, error) {
	e := o.engine()
	p, err := e.Protocol()
	switch {
	case err != nil:
		return nil, err
	case p == fleet.MQTT:
		m, err := connectMQTT(e, o.Mower, o.SessionExpiry, o.Logger)
		if err != nil {
			return nil, err
		}
		return m, nil
	}
	n, err := connectNATS(e, o.Mower, o.Logger)
	if err != nil {
		return nil, err
	}
	return n, nil
}

// A stored is the acknowledgement of a record.
type stored struct {
	stream    string
	duplicate bool // it had been stored before
}

// errUnsent is that there was no connection: nothing has left.
var errUnsent = errors.New("the engine is not there")

// A rejection is that the engine did not take something, and never will as it is or as things are there.
type rejection struct {
	kind   rejectionKind
	stream string // that refused it; "" when it is not known
	text   string
}

type rejectionKind int

const (
	noStream  rejectionKind = iota // nobody takes the topic
	forbidden                      // by the mower's permissions
	unequal                        // it is not what was expected before it
	tooLarge
	another // reason: a limit of the stream, a lack of resources
)

func (r *rejection) Error() string { return r.text }

// advice says what a person can do about what the engine did not take of a topic.
func advice(topic string, err error) string {
	var r *rejection
	if !errors.As(err, &r) {
		return err.Error()
	}
	switch r.kind {
	case noStream:
		return fmt.Sprintf("no stream of the engine takes %s, or its stream has no leader now: make the streams with \"lawnberry fleet setup\", add one of your own "+
			"for the topic, or take it out of integration.fleet.up", topic)
	case forbidden:
		return fmt.Sprintf("the mower's credentials do not allow it to publish %s: enrol it anew, or change its permissions at the engine (%s)", topic, r.text)
	case unequal:
		return fmt.Sprintf("something else publishes %s of this mower at the engine: is there another uplink with its mower_id? (%s)", topic, r.text)
	case tooLarge:
		return fmt.Sprintf("it is too large for the engine, see max_payload there: %s", r.text)
	}
	return r.text
}
