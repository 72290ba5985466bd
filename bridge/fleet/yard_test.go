package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/natstest"
	"github.com/lawnberry/lawnberry/internal/seal"
	"github.com/lawnberry/lawnberry/internal/store"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

const yardMower = "m-1"

// A yard is a mower with a bus, a hub of the emergency stop, and services that count what they are told; its way down from the fleet; and a
// real NATS server or cluster with an operator at it.
type yard struct {
	t       testing.TB
	nats    *natstest.Servers
	url     string // of the bus
	hub     *safety.Hub
	nav     *service.Service
	keys    string // file of the mower: the operator's public keys
	private string // the operator's
	dir     string // of the ledger
	down    *downlink
	box     jobBox   // of the mower's jobs, instead of that of the engine
	list    *jobList // with box; nobody looks at it by itself
	stop    func()
	rights  []nats.Option // of the mower's connection
	nc      *nats.Conn    // the operator's
	js      jetstream.JetStream
	anna    *fleet.NATSOperator

	mu       sync.Mutex // guards the fields below
	ran      map[string]int
	released int // calls of commands named release
	let      chan struct{}
	events   []audit
	ends     []fleet.JobEnd
	endError error
}

func yardLogger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
}

// newYard makes one; adjust, if it is not nil, changes the options of the downlink.
func newYard(t testing.TB, servers *natstest.Servers, adjust func(*downlinkOptions)) *yard {
	t.Helper()
	y := newBareYard(t, servers)
	y.start(adjust)
	return y
}

// newBareYard makes one whose way down is not there yet.
func newBareYard(t testing.TB, servers *natstest.Servers, operator ...nats.Option) *yard {
	t.Helper()
	y := &yard{t: t, nats: servers, ran: map[string]int{}, let: make(chan struct{}), dir: t.TempDir()}
	ctx := testContext(t)
	b, err := broker.Start(ctx, broker.Options{Listeners: []broker.Listener{{Network: "tcp", Address: "127.0.0.1:0"}}})
	check(t, err)
	later(t, b.Stop)
	y.url = b.URL()
	y.hub, err = safety.StartHub(ctx, safety.HubOptions{Client: client.Options{URL: y.url}, File: filepath.Join(t.TempDir(), "stop.json")})
	check(t, err)
	later(t, y.hub.Stop)
	y.nav = y.service("navigation")
	_, err = y.nav.OnEvent(ctx, eventCommand, func(_ context.Context, e service.Event) {
		var a audit
		if json.Unmarshal(e.EventData, &a) == nil {
			y.mu.Lock()
			defer y.mu.Unlock()
			y.events = append(y.events, a)
		}
	})
	check(t, err)

	y.private, y.keys = filepath.Join(t.TempDir(), "anna.keys"), filepath.Join(t.TempDir(), "operators.keys")
	key, err := seal.Generate(seal.Ed25519, "anna", 0)
	check(t, err)
	check(t, seal.Create(y.private, key))
	check(t, os.WriteFile(y.keys, seal.PublicLines([]*seal.Key{key}, ""), 0o600))

	y.nc = y.connect("operator", operator...)
	y.js, err = jetstream.New(y.nc)
	check(t, err)
	y.streams()
	y.anna = y.operator("anna", y.private)
	return y
}

// streams makes the streams and the bucket that the way down needs.
func (y *yard) streams() {
	y.t.Helper()
	replicas := 1
	if y.nats.Len() > 1 {
		replicas = 3
	}
	eventually(y.t, "the streams are there", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_, err := y.js.CreateOrUpdateStream(ctx, jobsBucket(y.t, replicas))
		if err == nil {
			_, err = y.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
				Name: fleet.StreamEvents, Subjects: []string{"lawnberry.*.fleet.>"}, AllowDirect: true, Replicas: replicas,
			})
		}
		if err == nil {
			_, err = y.js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
				Bucket: fleet.BucketPresence, TTL: 30 * time.Second, LimitMarkerTTL: time.Minute, Replicas: replicas,
			})
		}
		return err == nil
	})
}

// jobsBucket is the bucket of jobs as an engine has it.
func jobsBucket(t testing.TB, replicas int) jetstream.StreamConfig {
	t.Helper()
	all, err := fleet.Streams(fleet.Limits{Mowers: 200}, replicas)
	check(t, err)
	return all[slices.IndexFunc(all, func(c jetstream.StreamConfig) bool { return c.Name == "KV_"+fleet.BucketJobs })]
}

// present says that the mower is there, as its uplink does.
func (y *yard) present(there bool) {
	y.t.Helper()
	eventually(y.t, "presence", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		kv, err := y.js.KeyValue(ctx, fleet.BucketPresence)
		if err == nil && there {
			_, err = kv.Put(ctx, yardMower, []byte(`{}`))
		} else if err == nil {
			err = kv.Delete(ctx, yardMower)
		}
		return err == nil
	})
}

func (y *yard) connect(name string, opts ...nats.Option) *nats.Conn {
	y.t.Helper()
	nc, err := nats.Connect(y.nats.URLs(), append([]nats.Option{
		nats.Name(name), nats.MaxReconnects(-1), nats.ReconnectWait(20 * time.Millisecond), nats.RetryOnFailedConnect(true), nats.ReconnectBufSize(-1),
	}, opts...)...)
	check(y.t, err)
	y.t.Cleanup(nc.Close)
	return nc
}

func (y *yard) operator(name, keys string) *fleet.NATSOperator {
	y.t.Helper()
	o := fleet.OperatorOptions{Name: name}
	if keys != "" {
		ring, err := seal.Open(keys, yardLogger(y.t))
		check(y.t, err)
		o.Keys = ring
	}
	op, err := fleet.NewNATSOperator(y.nc, o)
	check(y.t, err)
	return op
}

// service starts a service of the mower.
func (y *yard) service(id string) *service.Service {
	y.t.Helper()
	type named struct {
		Name string `json:"name"`
	}
	s, err := service.Start(testContext(y.t), service.Options{
		ID: id, Client: client.Options{URL: y.url, CleanStart: true}, Setup: func(_ context.Context, s *service.Service) error {
			service.Handle(s, "count", func(_ context.Context, p named) (map[string]int, error) {
				return map[string]int{"count": y.count(id + " " + p.Name)}, nil
			})
			service.Handle(s, "slow", func(ctx context.Context, p named) (string, error) {
				y.count(id + " " + p.Name)
				select {
				case <-y.let:
					return "done", nil
				case <-ctx.Done():
					return "", ctx.Err()
				}
			})
			service.Handle(s, "fail", func(context.Context, struct{}) (any, error) {
				return nil, &client.CommandError{Code: "stuck", Message: "the blade is stuck"}
			})
			service.Handle(s, "large", func(context.Context, struct{}) (string, error) { return string(make([]byte, 1000)), nil })
			service.Handle(s, "release", func(context.Context, struct{}) (any, error) {
				y.mu.Lock()
				defer y.mu.Unlock()
				y.released++
				return nil, nil
			})
			return nil
		},
	})
	check(y.t, err)
	y.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = s.Stop(ctx) // it may have been told to end
	})
	return s
}

func (y *yard) count(name string) int {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.ran[name]++
	return y.ran[name]
}

func (y *yard) runs(name string) int {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.ran[name]
}

// start starts the way down.
func (y *yard) start(adjust func(*downlinkOptions)) {
	y.t.Helper()
	ctx := testContext(y.t)
	o := downlinkOptions{mower: yardMower, permits: []string{"*/*"}, logger: yardLogger(y.t)}
	o.end = func(_ context.Context, e fleet.JobEnd) error {
		y.mu.Lock()
		defer y.mu.Unlock()
		if y.endError != nil {
			return y.endError
		}
		y.ends = append(y.ends, e)
		return nil
	}
	var err error
	if o.store, err = store.Open(y.dir, store.Options{Logger: o.logger}); err != nil {
		y.t.Fatal(err)
	}
	if o.keys, err = seal.Open(y.keys, o.logger); err != nil {
		y.t.Fatal(err)
	}
	o.service, err = service.Start(ctx, service.Options{
		ID: ID, Client: client.Options{URL: y.url, CleanStart: true}, Setup: func(ctx context.Context, s *service.Service) (err error) {
			o.latch, err = safety.OpenLatch(ctx, s.Client(), safety.LatchOptions{By: "fleet"})
			return err
		},
	})
	check(y.t, err)
	if adjust != nil {
		adjust(&o)
	}
	nc := y.connect("mower", append([]nats.Option{nats.CustomInboxPrefix(fleet.InboxPrefix(yardMower))}, y.rights...)...)
	y.down, err = newDownlink(o)
	check(y.t, err)
	if y.box == nil {
		check(y.t, y.down.start(nc))
	} else {
		check(y.t, y.down.hear(nc))
		y.list = newJobList(y.down, y.box)
	}
	down, once := y.down, sync.Once{}
	y.stop = func() {
		once.Do(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			err := down.stop(ctx)
			nc.Close()
			if err := errors.Join(err, o.latch.Close(ctx), o.service.Stop(ctx), o.store.Close()); err != nil {
				y.t.Error(err)
			}
		})
	}
	y.t.Cleanup(y.stop)
	eventually(y.t, "it hears the engine", func() bool { return nc.FlushTimeout(time.Second) == nil })
	y.present(true)
}

// release releases the emergency stop, as somebody beside the mower does.
func (y *yard) release() {
	y.t.Helper()
	eventually(y.t, "released", func() bool {
		s := y.hub.Status()
		return !s.Engaged || safety.Release(testContext(y.t), y.nav, "the test", s.Sequence) == nil
	})
}

// event waits for an audit event.
func (y *yard) event(what string, f func(audit) bool) audit {
	y.t.Helper()
	var found audit
	eventually(y.t, "the event "+what, func() bool {
		y.mu.Lock()
		defer y.mu.Unlock()
		i := slices.IndexFunc(y.events, f)
		if i >= 0 {
			found = y.events[i]
		}
		return i >= 0
	})
	return found
}

// jobEnds returns the ends of a job.
func (y *yard) jobEnds(id string) (list []fleet.JobEnd) {
	y.mu.Lock()
	defer y.mu.Unlock()
	for _, e := range y.ends {
		if e.Job == id {
			list = append(list, e)
		}
	}
	return list
}

// end waits for the end of a job.
func (y *yard) end(id string) fleet.JobEnd {
	y.t.Helper()
	var list []fleet.JobEnd
	eventually(y.t, "the job "+id+" has ended", func() bool { list = y.jobEnds(id); return len(list) > 0 })
	return list[0]
}

func code(err error) string {
	var said *client.CommandError
	if errors.As(err, &said) {
		return said.Code
	}
	return ""
}

// A raw command is one as anybody may make it.
type raw struct {
	service string // of the subject
	edit    func(m *message.Message, p *message.Command)
	body    []byte // instead
	keys    string // to sign with; "" does not
	signed  string // topic in the signature, by default the right one
	tamper  func(body []byte) []byte
	header  nats.Header
}

// make returns the message.
func (y *yard) make(r raw) *nats.Msg {
	y.t.Helper()
	body := r.body
	p := message.Command{Target: r.service, Command: "count", Parameters: json.RawMessage(`{"name":"raw"}`)}
	m, err := message.NewCommand("anna", p)
	check(y.t, err)
	m.Metadata.CorrelationID, m.Metadata.ExpiresAt = message.NewID(), message.Seconds(time.Now().Add(30*time.Second))
	if r.edit != nil {
		r.edit(&m, &p)
		n, err := message.NewCommand("x", p)
		check(y.t, err)
		m.Payload = n.Payload
	}
	if body == nil {
		body, err = m.Append(nil)
		check(y.t, err)
	}
	msg := &nats.Msg{Subject: fleet.CommandSubject(yardMower, r.service), Header: nats.Header{}}
	if r.keys != "" {
		ring, err := seal.Open(r.keys, yardLogger(y.t))
		check(y.t, err)
		name := r.signed
		if name == "" {
			name = fleet.CommandTopic(yardMower, r.service)
		}
		sig, err := ring.Sign(seal.Ed25519, &seal.Subject{Topic: name, ID: m.Metadata.ID, Timestamp: m.Metadata.Timestamp, Payload: body})
		check(y.t, err)
		msg.Header.Set(fleet.HeaderSignature, encode64(sig.Value))
		msg.Header.Set(fleet.HeaderAlgorithm, sig.Algorithm)
		msg.Header.Set(fleet.HeaderKey, sig.Key)
	}
	if r.tamper != nil {
		body = r.tamper(body)
	}
	for k, v := range r.header {
		msg.Header[k] = v
	}
	msg.Data = body
	return msg
}

// ask sends a message, and returns the code and the text of the answer; the code of a success is "".
func (y *yard) ask(m *nats.Msg) (code, text string, result json.RawMessage) {
	y.t.Helper()
	answer, err := y.nc.RequestMsgWithContext(testContext(y.t), m)
	check(y.t, err)
	a, err := message.Decode(answer.Data, message.Limits{MaxPayload: 1 << 20})
	check(y.t, err)
	p, err := message.Payload[message.Response](a)
	check(y.t, err)
	if p.Error != nil {
		text = *p.Error
	}
	code = answer.Header.Get(fleet.HeaderCode)
	if p.Success != (code == "") {
		y.t.Errorf("success %v with the code %q", p.Success, code)
	}
	return code, text, p.Result
}

func named(name string) map[string]string { return map[string]string{"name": name} }

func name(i int) string { return fmt.Sprintf("command-%d", i) }
