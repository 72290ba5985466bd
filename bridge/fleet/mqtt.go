package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/message"
)

// An mqttEngine is the connection to an MQTT 5 broker, or rather two of them.
//
// One carries what goes up, presence with its Will, and commands. Its session ends with it: so a command to a mower that is away has no
// subscriber, and the broker can say so; and what was sent and not acknowledged is not sent again by itself. Whether the broker has it is found out
// as with any engine: by its last record of the topic, which the broker retains.
//
// The other one has a session that outlives it and the process, into which the broker puts jobs.
type mqttEngine struct {
	mower  string
	log    *slog.Logger
	note   chan struct{}
	remote fleet.Engine
	expiry time.Duration // of the session for jobs
	slots  chan struct{} // a token for each record of the history that is on its way

	end  context.CancelFunc
	work sync.WaitGroup
	ctx  context.Context

	mu      sync.Mutex // guards the fields below
	conn    *fleet.MQTTConn
	since   time.Time
	flights map[string]*mqttFlight // of conn: records that are on their way, by topic
	down    *downlink
	heard   *fleet.MQTTConn // that has the subscriptions of down
	jobs    *fleet.MQTTConn
	said    string // the last reason why there is no connection
	blind   bool   // it was said that the last records cannot be read
}

// An mqttFlight is a record of which it is not known whether the broker has it.
type mqttFlight struct {
	id      string
	receipt *client.Receipt
}

const (
	mqttStream = "mqtt" // that all records are in
	// maxMQTTFlying is how many records of the history are on their way, so that the broker's window (of HiveMQ 10, of Mosquitto 20) has room for the
	// latest values.
	maxMQTTFlying = 8

	defaultSessionExpiry = 7 * day

	jobLater = 15 * time.Second // before a job that could not be taken is looked at again
	jobOther = time.Second      // before a job that runs already is
)

// connectMQTT begins to connect.
func connectMQTT(e fleet.Engine, mower string, expiry time.Duration, log *slog.Logger) (*mqttEngine, error) {
	if err := e.Check(); err != nil {
		return nil, fmt.Errorf("engine of the fleet: %w", err)
	}
	if expiry <= 0 {
		expiry = defaultSessionExpiry
	}
	m := &mqttEngine{mower: mower, log: log, note: make(chan struct{}, 1), remote: e, expiry: expiry, slots: make(chan struct{}, maxMQTTFlying)}
	m.ctx, m.end = context.WithCancel(context.Background())
	m.work.Go(func() {
		e.KeepMQTT(m.ctx, fleet.MQTTSession{ID: "lawnberry-" + mower, Will: fleet.PresenceTopic(mower)}, nil, m.up, m.lost)
	})
	return m, nil
}

// up takes in a new connection.
func (m *mqttEngine) up(ctx context.Context, c *fleet.MQTTConn) error {
	m.mu.Lock()
	m.conn, m.flights = c, map[string]*mqttFlight{}
	down := m.down
	m.mu.Unlock()
	if down != nil {
		if err := m.hear(ctx, c, down); err != nil {
			return err
		}
	}
	m.mu.Lock()
	m.since, m.said = time.Now(), ""
	m.mu.Unlock()
	m.log.Info("connected to the engine of the fleet", "url", m.remote.URL)
	m.tell()
	return nil
}

// lost notes that there is no connection.
func (m *mqttEngine) lost(err error) {
	m.mu.Lock()
	was := !m.since.IsZero()
	m.conn, m.since, m.flights = nil, time.Time{}, nil
	news := m.said != err.Error()
	m.said = err.Error()
	m.mu.Unlock()
	var put *client.DisconnectError
	switch {
	case errors.As(err, &put) && put.TakenOver():
		m.log.Error("another client took the place of this mower at the engine of the fleet: is there another uplink with its mower_id?", "mower", m.mower)
	case was:
		m.log.Warn("the connection to the engine of the fleet is lost", "error", err)
	case news:
		m.log.Warn("the engine of the fleet cannot be reached", "error", err)
	}
	m.tell()
}

func (m *mqttEngine) tell() {
	select {
	case m.note <- struct{}{}:
	default:
	}
}

func (m *mqttEngine) connected() (time.Time, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.since, !m.since.IsZero()
}

func (m *mqttEngine) changed() <-chan struct{} { return m.note }

func (m *mqttEngine) current() *fleet.MQTTConn {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.since.IsZero() {
		return nil
	}
	return m.conn
}

func (m *mqttEngine) close() {
	m.end()
	m.work.Wait()
	m.mu.Lock()
	all := []*fleet.MQTTConn{m.conn, m.jobs}
	m.conn, m.jobs, m.since = nil, nil, time.Time{}
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), finishTime)
	defer cancel()
	for _, c := range all {
		if c != nil {
			c.Close(ctx)
		}
	}
}

// properties say where a message comes from.
func (m *mqttEngine) properties(retain bool, qos byte) []client.PublishOption {
	return []client.PublishOption{
		client.WithQoS(qos), client.WithRetain(retain), client.WithUser(fleet.HeaderOrigin, m.mower), client.WithUser(fleet.HeaderHops, "1"),
		client.WithUser(fleet.HeaderTime, strconv.FormatFloat(message.Seconds(time.Now()), 'f', 3, 64)),
	}
}

// store publishes a record at QoS 2, so that it comes once to consumers that want that, and retained, so that after a lost connection it is known
// whether the broker had it.
func (m *mqttEngine) store(ctx context.Context, r *record, expect *uint64) (stored, error) {
	if expect != nil && *expect == 0 { // nobody has looked at what is there
		return stored{}, &rejection{kind: unequal, stream: mqttStream, text: "the last record is not known"}
	}
	select {
	case m.slots <- struct{}{}:
	case <-ctx.Done():
		return stored{}, errUnsent
	}
	defer func() { <-m.slots }()
	m.mu.Lock()
	c := m.conn
	if m.since.IsZero() {
		m.mu.Unlock()
		return stored{}, errUnsent
	}
	f := m.flights[r.topic]
	if f == nil || f.id != r.id {
		o := append(m.properties(true, 2), client.WithUser(fleet.HeaderID, r.id))
		body, batch := r.body, r.batch
		if len(body) == 0 { // which would have the broker retain nothing, and then nobody could tell whether it has the record: it goes as a batch of one
			body, batch = appendLine(nil, nil, r.arrival), true
		}
		if batch {
			o = append(o, client.WithUser(fleet.HeaderBatch, strconv.Itoa(r.count)))
		}
		if r.gzip {
			o = append(o, client.WithUser(fleet.HeaderEncoding, "gzip"))
		}
		f = &mqttFlight{r.id, c.Say(fleet.HistoryTopic(m.mower, r.topic), body, o...)}
		m.flights[r.topic] = f
	}
	m.mu.Unlock()
	err := m.land(ctx, c, r.topic, f)
	return stored{stream: mqttStream}, err
}

// land waits for what becomes of a record.
func (m *mqttEngine) land(ctx context.Context, c *fleet.MQTTConn, topic string, f *mqttFlight) error {
	_, err := c.Await(ctx, f.receipt)
	if ctx.Err() != nil && err != nil {
		return err // it is still on its way
	}
	m.mu.Lock()
	if m.conn == c && m.flights[topic] == f {
		delete(m.flights, topic)
	}
	m.mu.Unlock()
	return outcome(err)
}

// outcome is the error of a publication as the way up wants it.
func outcome(err error) error {
	var refused *client.RefusedError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fleet.ErrMQTTLost):
		return errCut
	case errors.Is(err, client.ErrTooLarge):
		return &rejection{kind: tooLarge, text: err.Error()}
	case errors.As(err, &refused):
		r := &rejection{kind: another, text: refused.Error()}
		switch refused.Code {
		case 0x87:
			r.kind = forbidden
		case 0x95:
			r.kind = tooLarge
		}
		return r
	}
	return err
}

// last returns the id of the last record of a topic. The sequence means nothing but that somebody has looked.
func (m *mqttEngine) last(ctx context.Context, _, topic string) (id string, sequence uint64, err error) {
	m.mu.Lock()
	c := m.conn
	if m.since.IsZero() {
		m.mu.Unlock()
		return "", 0, errUnsent
	}
	f := m.flights[topic]
	m.mu.Unlock()
	if f != nil { // the broker was slow, and the connection is the same
		switch err := m.land(ctx, c, topic, f); {
		case err == nil:
			return f.id, 1, nil
		case ctx.Err() != nil || errors.Is(err, errCut):
			return "", 0, err
		}
	}
	d, ok, err := c.Retained(ctx, fleet.HistoryTopic(m.mower, topic))
	var refused *client.RefusedError
	switch {
	case errors.As(err, &refused):
		m.mu.Lock()
		first := !m.blind
		m.blind = true
		m.mu.Unlock()
		if first {
			m.log.Warn("the broker does not let the mower read its own history topics: what was on its way when a connection was lost may come twice", "error", err)
		}
		return "", 1, nil
	case err != nil:
		return "", 0, err
	case !ok:
		return "", 1, nil
	}
	return fleet.UserProperty(d, fleet.HeaderID), 1, nil
}

func (m *mqttEngine) keep(ctx context.Context, topic string, body []byte) error {
	return m.put(ctx, fleet.StateTopic(m.mower, topic), body)
}

func (m *mqttEngine) present(ctx context.Context, body []byte) error {
	return m.put(ctx, fleet.PresenceTopic(m.mower), body)
}

// put replaces what the broker retains on a topic, or removes it.
func (m *mqttEngine) put(ctx context.Context, name string, body []byte) error {
	c := m.current()
	if c == nil {
		return errUnsent
	}
	_, err := c.Send(ctx, name, body, m.properties(true, 1)...)
	return outcome(err)
}

// serve has a downlink hear the fleet.
func (m *mqttEngine) serve(d *downlink) error {
	m.mu.Lock()
	m.down = d
	c := m.conn
	m.mu.Unlock()
	if c != nil {
		if err := m.hear(m.ctx, c, d); err != nil {
			m.log.Warn("no commands come from the fleet: the connection is made anew", "error", err)
			over, end := context.WithCancel(context.Background())
			end()
			c.Close(over)
		}
	}
	session := fleet.MQTTSession{ID: "lawnberry-" + m.mower + "-jobs", Expiry: m.expiry}
	d.goes(func() {
		for _, e := range d.ledger.untold() {
			d.tell(e) // what fails is told when the job comes again
		}
	})
	m.work.Go(func() {
		m.remote.KeepMQTT(m.ctx, session, nil, m.hearJobs, func(err error) {
			m.mu.Lock()
			m.jobs = nil
			m.mu.Unlock()
			m.log.Debug("no jobs come from the fleet's engine: it is tried again", "error", err)
		})
	})
	return nil
}

// hear subscribes to commands. The emergency stop has a subscription of its own, so that nothing is before it.
func (m *mqttEngine) hear(ctx context.Context, c *fleet.MQTTConn, d *downlink) error {
	m.mu.Lock()
	again := m.heard == c
	m.heard = c
	m.mu.Unlock()
	if again {
		return nil
	}
	for _, name := range []string{fleet.CommandTopic(m.mower, fleet.StopService), fleet.CommandTopic(m.mower, "+")} {
		stops := name != fleet.CommandTopic(m.mower, "+")
		_, err := c.Hear(ctx, name, func(_ context.Context, in *client.Delivery) {
			_, _, service, err := fleet.ParseMQTTTopic(in.FullTopic())
			if err != nil || in.Retained || !stops && service == fleet.StopService {
				return // what is retained is nothing that anybody has just said
			}
			d.takeCommand(m.inbound(laneCommand, service, in), m.replyTo(c, in))
		}, client.WithQueue(client.Queue{Max: maxWaiting}))
		if err != nil {
			return fmt.Errorf("commands from the fleet: %w", err)
		}
	}
	return nil
}

func (m *mqttEngine) inbound(l lane, service string, in *client.Delivery) inbound {
	return inbound{lane: l, service: service, body: fleet.MQTTBody(in), received: in.Received,
		header: func(name string) string { return fleet.UserProperty(in, name) }}
}

// replyTo returns what answers a command. It does not wait for the broker.
func (m *mqttEngine) replyTo(c *fleet.MQTTConn, in *client.Delivery) replier {
	to, correlation := in.ResponseTopic, slices.Clone(in.CorrelationData)
	return func(body []byte, code string) {
		if !fleet.IsAnswerTopic(m.mower, to) {
			return
		}
		if newer := m.current(); newer != nil {
			c = newer
		}
		o := append(m.properties(false, 1), client.WithResponse("", correlation), client.WithExpiry(time.Minute))
		if code != "" {
			o = append(o, client.WithUser(fleet.HeaderCode, code))
		}
		c.Say(to, body, o...)
	}
}

// hearJobs takes jobs from a session that outlives its connection.
func (m *mqttEngine) hearJobs(ctx context.Context, c *fleet.MQTTConn) error {
	m.mu.Lock()
	m.jobs = c
	d := m.down
	m.mu.Unlock()
	// Of those that wait for their turn none is acknowledged: the queue is never long enough for that.
	_, err := c.Hear(ctx, fleet.JobTopic(m.mower, "+"), func(_ context.Context, in *client.Delivery) {
		release := c.Hold(in)
		if !d.goes(func() { m.doJob(c, d, in, release) }) {
			return // it comes again
		}
	}, client.WithQueue(client.Queue{Max: 1}))
	if err != nil {
		return fmt.Errorf("jobs from the fleet: %w", err)
	}
	return nil
}

// doJob runs a job, and acknowledges it once its end is on the disk.
func (m *mqttEngine) doJob(c *fleet.MQTTConn, d *downlink, in *client.Delivery, release func()) {
	_, _, service, err := fleet.ParseMQTTTopic(in.FullTopic())
	if err != nil || in.Retained {
		d.malformed.Add(1)
		release()
		return
	}
	for {
		select {
		case d.jobBusy <- struct{}{}:
		case <-c.Lost(): // it comes again
			return
		case <-d.ctx.Done():
			return
		}
		job := m.inbound(laneJob, service, in)
		f := d.takeJob(job)
		<-d.jobBusy
		wait := jobLater
		switch f {
		case fateDone:
			release()
			return
		case fateOther:
			wait = jobOther
		}
		select {
		case <-time.After(wait):
		case <-c.Lost():
			return
		case <-d.ctx.Done():
			return
		}
		in.Received = time.Now()
	}
}
