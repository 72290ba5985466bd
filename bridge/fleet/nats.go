package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/lawnberry/lawnberry/internal/fleet"
)

// A natsEngine is the connection to NATS. It is there from the beginning, whether or not the engine is: subscriptions may be made at once, and
// are made at the engine each time that it is reached.
type natsEngine struct {
	mower string
	log   *slog.Logger
	nc    *nats.Conn
	note  chan struct{}

	mu      sync.Mutex // guards the fields below
	since   time.Time  // zero without a connection
	current context.Context
	cut     context.CancelCauseFunc            // of current: the connection is lost
	waiting map[string]context.CancelCauseFunc // for an answer, by subject
}

var errCut = errors.New("the connection to the engine was lost")

// connectNATS begins to connect.
func connectNATS(e fleet.Engine, mower string, log *slog.Logger) (*natsEngine, error) {
	n := &natsEngine{mower: mower, log: log, note: make(chan struct{}, 1), waiting: map[string]context.CancelCauseFunc{}}
	n.current, n.cut = context.WithCancelCause(context.Background())
	n.cut(errCut)
	e.Log = log
	var err error
	n.nc, err = e.DialNATS("lawnberry uplink of "+mower,
		nats.CustomInboxPrefix(fleet.InboxPrefix(mower)),
		nats.ConnectHandler(n.up), nats.ReconnectHandler(n.up), nats.DisconnectErrHandler(n.down), nats.ErrorHandler(n.trouble),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { log.Debug("the engine of the fleet cannot be reached", "error", err) }),
	)
	if err != nil {
		return nil, fmt.Errorf("engine of the fleet: %w", err)
	}
	return n, nil
}

func (n *natsEngine) up(nc *nats.Conn) {
	n.mu.Lock()
	n.since = time.Now()
	n.current, n.cut = context.WithCancelCause(context.Background())
	n.mu.Unlock()
	n.log.Info("connected to the engine of the fleet", "server", nc.ConnectedServerName(), "url", nc.ConnectedUrlRedacted())
	n.tell()
}

func (n *natsEngine) down(nc *nats.Conn, err error) {
	n.mu.Lock()
	was := !n.since.IsZero()
	n.since = time.Time{}
	n.cut(errCut)
	n.mu.Unlock()
	if was && !nc.IsClosed() {
		n.log.Warn("the connection to the engine of the fleet is lost", "error", err)
	}
	n.tell()
}

func (n *natsEngine) tell() {
	select {
	case n.note <- struct{}{}:
	default:
	}
}

var violation = regexp.MustCompile(`(?i)permissions violation for publish to "([^"]*)"`)

// trouble is told of errors that no call returns, such as a lack of permission.
func (n *natsEngine) trouble(_ *nats.Conn, sub *nats.Subscription, err error) {
	if m := violation.FindStringSubmatch(err.Error()); m != nil {
		n.mu.Lock()
		cancel := n.waiting[m[1]]
		n.mu.Unlock()
		if cancel != nil {
			cancel(&rejection{kind: forbidden, text: err.Error()})
			return
		}
	}
	attributes := []any{"error", err}
	if sub != nil {
		attributes = append(attributes, "subject", sub.Subject)
	}
	n.log.Warn("engine of the fleet", attributes...)
}

func (n *natsEngine) connected() (time.Time, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.since, !n.since.IsZero()
}

func (n *natsEngine) changed() <-chan struct{} { return n.note }

func (n *natsEngine) serve(d *downlink) error { return d.start(n.nc) }

func (n *natsEngine) close() { n.nc.Close() }

// request publishes a message and returns the answer. Its error is errUnsent, a *rejection, or leaves open what became of the message.
func (n *natsEngine) request(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	n.mu.Lock()
	if n.since.IsZero() {
		n.mu.Unlock()
		return nil, errUnsent
	}
	stop := context.AfterFunc(n.current, func() { cancel(errCut) })
	n.waiting[m.Subject] = cancel
	n.mu.Unlock()
	defer stop()
	defer func() {
		n.mu.Lock()
		delete(n.waiting, m.Subject)
		n.mu.Unlock()
	}()
	answer, err := n.nc.RequestMsgWithContext(ctx, m)
	switch {
	case err == nil:
		return answer, nil
	case errors.Is(err, nats.ErrNoResponders):
		return nil, &rejection{kind: noStream, text: "nobody takes " + m.Subject}
	case errors.Is(err, nats.ErrMaxPayload):
		return nil, &rejection{kind: tooLarge, text: fmt.Sprintf("%d bytes, %d are allowed", len(m.Data), n.nc.MaxPayload())}
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrInvalidConnection):
		return nil, errUnsent
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	return nil, err
}

// An acknowledgement is JetStream's answer to a publication.
type acknowledgement struct {
	Stream    string `json:"stream"`
	Sequence  uint64 `json:"seq"`
	Duplicate bool   `json:"duplicate"`
	Error     *struct {
		Code    int    `json:"code"`
		ErrCode int    `json:"err_code"`
		Text    string `json:"description"`
	} `json:"error"`
}

// Codes of JetStream's errors.
const (
	codeWrongSequence  = 10071 // another record was the last of its subject
	codeSequenceBusy   = 10164 // another is on its way; also a wrong last sequence
	codeDuplicateBusy  = 10158 // the same is on its way
	codeTooLarge       = 10054
	codeHeaderTooLarge = 10097
	codeStoreFailed    = 10077 // the outcome is open
	codeNotLeader      = 10009
	codeInsufficient   = 10023
)

// publish publishes a message to a stream.
func (n *natsEngine) publish(ctx context.Context, m *nats.Msg) (stored, error) {
	answer, err := n.request(ctx, m)
	if err != nil {
		return stored{}, err
	}
	var a acknowledgement
	if err := json.Unmarshal(answer.Data, &a); err != nil {
		return stored{}, fmt.Errorf("the answer of the engine to %s cannot be read: %w", m.Subject, err)
	}
	if a.Error == nil {
		if a.Stream == "" || a.Sequence == 0 {
			return stored{}, fmt.Errorf("somebody who is no stream answers for %s", m.Subject)
		}
		return stored{a.Stream, a.Duplicate}, nil
	}
	text := fmt.Sprintf("stream %s: %s", a.Stream, a.Error.Text)
	switch a.Error.ErrCode {
	case codeWrongSequence:
		return stored{}, &rejection{unequal, a.Stream, text}
	case codeTooLarge, codeHeaderTooLarge:
		return stored{}, &rejection{tooLarge, a.Stream, text}
	case codeSequenceBusy, codeDuplicateBusy, codeStoreFailed, codeNotLeader:
		return stored{}, errors.New(text) // its outcome is open
	}
	return stored{}, &rejection{another, a.Stream, text}
}

func (n *natsEngine) store(ctx context.Context, r *record, expect *uint64) (stored, error) {
	m := n.message(fleet.HistorySubject(n.mower, r.topic), r.body)
	m.Header.Set(nats.MsgIdHdr, r.id)
	if r.batch {
		m.Header.Set(fleet.HeaderBatch, strconv.Itoa(r.count))
	}
	if r.gzip {
		m.Header.Set(fleet.HeaderEncoding, "gzip")
	}
	if expect != nil {
		m.Header.Set(nats.ExpectedLastSubjSeqHdr, strconv.FormatUint(*expect, 10))
	}
	return n.publish(ctx, m)
}

// message returns one that says where it comes from.
func (n *natsEngine) message(subject string, body []byte) *nats.Msg {
	m := nats.NewMsg(subject)
	m.Data = body
	m.Header.Set(fleet.HeaderOrigin, n.mower)
	m.Header.Set(fleet.HeaderHops, "1")
	return m
}

func (n *natsEngine) last(ctx context.Context, stream, topic string) (id string, sequence uint64, err error) {
	answer, err := n.request(ctx, nats.NewMsg("$JS.API.DIRECT.GET."+stream+"."+fleet.HistorySubject(n.mower, topic)))
	var r *rejection
	switch {
	case errors.As(err, &r) && r.kind == noStream:
		return "", 0, fmt.Errorf("stream %s does not tell its last record, or has no leader now: set allow_direct on it", stream)
	case err != nil:
		return "", 0, err
	}
	switch status := answer.Header.Get("Status"); status {
	case "":
	case "404":
		return "", 0, nil
	default:
		return "", 0, fmt.Errorf("stream %s does not tell its last record: %s %s", stream, status, answer.Header.Get("Description"))
	}
	sequence, err = strconv.ParseUint(answer.Header.Get("Nats-Sequence"), 10, 64)
	if err != nil {
		return "", 0, fmt.Errorf("stream %s tells no sequence of its last record: %w", stream, err)
	}
	return answer.Header.Get(nats.MsgIdHdr), sequence, nil
}

func (n *natsEngine) keep(ctx context.Context, topic string, body []byte) error {
	return n.put(ctx, fleet.BucketState, fleet.StateKey(n.mower, topic), body)
}

func (n *natsEngine) present(ctx context.Context, body []byte) error {
	return n.put(ctx, fleet.BucketPresence, n.mower, body)
}

// put writes a key of a bucket, or deletes it.
func (n *natsEngine) put(ctx context.Context, bucket, key string, body []byte) error {
	m := n.message("$KV."+bucket+"."+key, body)
	if body == nil {
		m.Header.Set("KV-Operation", "DEL")
	}
	_, err := n.publish(ctx, m)
	return err
}
