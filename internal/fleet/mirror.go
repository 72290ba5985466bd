package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// An entry is what a bucket has, or had, at a key.
type entry struct {
	key        string
	body       []byte // valid during the call
	at         time.Time
	gone       bool // deleted, purged, or expired
	live       bool // it came after what was there already
	generation uint64
}

// A mirror copies a bucket and follows it. Whatever goes wrong, and whenever it cannot tell that nothing has, it copies anew: a lost connection, a
// server that has gone with the consumer that it had, a gap in what comes, silence.
type mirror struct {
	js       jetstream.JetStream
	log      *slog.Logger
	bucket   string
	filters  []string // of keys
	optional bool     // the bucket may not exist

	put    func(e entry)
	sweep  func(generation uint64, exists bool) // everything that is there was put: what is of another generation is gone
	report func(bucket string, current bool, problem error)
}

const (
	firstPause   = 100 * time.Millisecond // before it is tried again
	longestPause = 5 * time.Second
	steadyTime   = 30 * time.Second // after which the first pause is enough again
	missingPause = 15 * time.Second // between looks for a bucket that need not exist
)

func (m *mirror) run(ctx context.Context) {
	pause := firstPause
	for generation := uint64(1); ; generation++ {
		began := time.Now()
		err := m.follow(ctx, generation)
		if ctx.Err() != nil {
			return
		}
		if m.optional && errors.Is(err, jetstream.ErrStreamNotFound) {
			m.sweep(generation, false)
			m.report(m.bucket, true, nil)
			pause = missingPause
		} else {
			m.report(m.bucket, false, m.explain(err))
			m.log.Info("fleet: state is copied anew", "bucket", m.bucket, "error", err)
			if time.Since(began) > steadyTime {
				pause = firstPause
			}
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		pause = min(2*pause, longestPause)
	}
}

// explain says why there is no copy.
func (m *mirror) explain(err error) error {
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return fmt.Errorf("the engine has no bucket %s: it was not set up for a fleet, or these credentials are of another account", m.bucket)
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return fmt.Errorf("the engine keeps no state: JetStream is off: %w", err)
	}
	return fmt.Errorf("bucket %s: %w", m.bucket, err)
}

// follow copies the bucket and follows it until it cannot.
func (m *mirror) follow(ctx context.Context, generation uint64) error {
	prefix := "$KV." + m.bucket + "."
	filters := make([]string, len(m.filters))
	for i, f := range m.filters {
		filters[i] = prefix + f
	}
	c := &consumer{js: m.js, stream: "KV_" + m.bucket, filters: filters, policy: jetstream.DeliverLastPerSubjectPolicy}
	current := false
	c.complete = func() error {
		current = true
		m.sweep(generation, true)
		m.report(m.bucket, true, nil)
		return nil
	}
	return c.run(ctx, func(msg jetstream.Msg, about *jetstream.MsgMetadata) error {
		m.put(entry{
			key: msg.Subject()[len(prefix):], body: msg.Data(), at: about.Timestamp, gone: isGone(msg.Headers()), live: current, generation: generation,
		})
		return nil
	})
}

// isGone reports whether a message of a bucket says that there is none.
func isGone(h nats.Header) bool {
	return h.Get("KV-Operation") != "" || h.Get("Nats-Marker-Reason") != ""
}
