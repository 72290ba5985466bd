package web

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

// A sample is one message as browsers get it.
type sample struct {
	name     string // full
	rel      string // relative to the namespace
	safety   bool
	frame    []byte // {"topic": ..., "data": ...}
	data     json.RawMessage
	qos      byte
	retained bool
	invalid  string // the rule that it breaks
	size     int    // bytes of its payload
	received time.Time
	empty    bool // it removed a retained message
	delivery *client.Delivery
}

// A feed hears the bus for all browsers, and keeps the last value of each topic.
type feed struct {
	c       *client.Client
	offer   func(*sample)
	started time.Time

	mu     sync.Mutex // guards the fields below
	topics map[string]*history
	extra  map[string]*extra // filters beyond the usual, by filter
	total  uint64
	unkept uint64 // messages on topics beyond maxTopics
}

// history is what is known of a topic.
type history struct {
	last    *sample
	count   uint64
	bytes   uint64
	invalid uint64
	wrong   string // the last rule that was broken

	second  int64 // of the rate below
	now     int   // messages in this second
	buckets [rateSeconds]int
}

const (
	maxTopics   = 2000
	maxKept     = 64 << 10 // bytes of a payload that is kept as a last value
	rateSeconds = 10       // that rates are measured over
	feedQueue   = 20_000   // messages
)

// extra is a filter that browsers have asked for beyond what is heard anyway.
type extra struct {
	sub   *client.Subscription
	users int
}

// usual are the filters that the bridge always hears. Commands are not among them: to who sends one, the broker says at once that nobody serves it
// only if nobody else listens either.
func usual() []string {
	return []string{"sensors/#", "responses/#", "navigation/#", "safety/#", "power/#", "vision/#", "weather/#", "system/#"}
}

func newFeed(ctx context.Context, c *client.Client, offer func(*sample)) (*feed, error) {
	f := &feed{c: c, offer: offer, started: time.Now(), topics: map[string]*history{}, extra: map[string]*extra{}}
	for _, filter := range usual() {
		if _, err := f.subscribe(ctx, filter); err != nil {
			return nil, err
		}
	}
	return f, nil
}

func (f *feed) subscribe(ctx context.Context, filter string) (*client.Subscription, error) {
	return f.c.Subscribe(ctx, filter, f.take, client.WithInvalid(), client.WithQueue(client.Queue{Max: feedQueue, Full: client.DropOldest}))
}

// covers reports whether all that matches a full filter is heard anyway.
func (f *feed) covers(full string) bool {
	for _, u := range usual() {
		have, err := f.c.Topics().Resolve(u)
		if err != nil {
			continue
		}
		if prefix := strings.TrimSuffix(have, "#"); strings.HasPrefix(full, prefix) {
			return true
		}
	}
	return full == f.c.Topics().Namespace()+"/#" // all but the commands
}

// listen has the bridge hear what a filter matches. The filter is full; what is returned takes it back.
func (f *feed) listen(ctx context.Context, full string) (done func(), err error) {
	if f.covers(full) {
		return func() {}, nil
	}
	f.mu.Lock()
	x := f.extra[full]
	if x != nil {
		x.users++
		f.mu.Unlock()
		return func() { f.unlisten(full, x) }, nil
	}
	f.mu.Unlock()
	sub, err := f.subscribe(ctx, topic.Absolute(full))
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	if other := f.extra[full]; other != nil { // another browser was faster
		other.users++
		f.mu.Unlock()
		f.end(sub)
		return func() { f.unlisten(full, other) }, nil
	}
	x = &extra{sub: sub, users: 1}
	f.extra[full] = x
	f.mu.Unlock()
	return func() { f.unlisten(full, x) }, nil
}

func (f *feed) unlisten(full string, x *extra) {
	f.mu.Lock()
	x.users--
	last := x.users == 0
	if last {
		delete(f.extra, full)
	}
	f.mu.Unlock()
	if last {
		f.end(x.sub)
	}
}

func (f *feed) end(s *client.Subscription) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.Unsubscribe(ctx)
}

// take takes in a message.
func (f *feed) take(_ context.Context, d *client.Delivery) {
	full, err := f.c.Topics().Resolve(d.Topic)
	if err != nil {
		full = d.Topic
	}
	s := &sample{
		name: full, rel: d.Topic, safety: d.Topic == "safety" || strings.HasPrefix(d.Topic, "safety/"),
		qos: d.QoS, retained: d.Retained, received: d.Received, delivery: d,
	}
	s.data, s.size = dataOf(&d.Message)
	if d.Topic == velocityTopic || strings.HasPrefix(d.Topic, "commands/") || strings.HasPrefix(d.Topic, "responses/") {
		s.data = withoutTokens(s.data)
	}
	if d.Invalid != nil {
		s.invalid = d.Invalid.Error()
	}
	s.empty = s.size == 0
	s.frame, err = json.Marshal(struct {
		Topic   string          `json:"topic"`
		Data    json.RawMessage `json:"data"`
		Invalid string          `json:"invalid,omitempty"`
	}{s.name, s.data, s.invalid})
	if err != nil {
		return // not JSON after all
	}
	f.keep(s)
	f.offer(s)
}

// dataOf returns a message as JSON: what is JSON as it is, text as a string, other bytes as {"base64": ...}.
func dataOf(m *message.Message) (data json.RawMessage, size int) {
	if !m.Raw {
		if body, err := json.Marshal(newEnvelope(m)); err == nil {
			return body, len(body)
		}
	}
	switch {
	case len(m.Payload) == 0:
		return json.RawMessage("null"), 0
	case json.Valid(m.Payload):
		return m.Payload, len(m.Payload)
	case utf8.Valid(m.Payload):
		data, _ = json.Marshal(string(m.Payload))
	default:
		data, _ = json.Marshal(map[string][]byte{"base64": m.Payload})
	}
	return data, len(m.Payload)
}

// withoutTokens leaves out what is called token, wherever it is: leases to drive go by it, and no page is to know one.
func withoutTokens(data json.RawMessage) json.RawMessage {
	var v any
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if d.Decode(&v) != nil || !leaveOut(v) {
		return data
	}
	rest, err := json.Marshal(v)
	if err != nil {
		return json.RawMessage("null")
	}
	return rest
}

// leaveOut is withoutTokens for what was decoded. It reports whether there was something.
func leaveOut(v any) (some bool) {
	switch v := v.(type) {
	case map[string]any:
		for k, inner := range v {
			if strings.EqualFold(k, "token") {
				delete(v, k)
				some = true
			} else if leaveOut(inner) {
				some = true
			}
		}
	case []any:
		for _, inner := range v {
			if leaveOut(inner) {
				some = true
			}
		}
	}
	return some
}

// An envelope is a message with an envelope as the wire format has it, but never compressed.
type envelope struct {
	Metadata struct {
		Timestamp     float64      `json:"timestamp"`
		ID            string       `json:"message_id"`
		Sender        string       `json:"sender"`
		Type          message.Type `json:"message_type"`
		Priority      int          `json:"priority"`
		CorrelationID *string      `json:"correlation_id"`
		ExpiresAt     *float64     `json:"expires_at"`
		RetryCount    int          `json:"retry_count"`
	} `json:"metadata"`
	Payload json.RawMessage `json:"payload"`
}

func newEnvelope(m *message.Message) (e envelope) {
	d, h := &m.Metadata, &e.Metadata
	h.Timestamp, h.ID, h.Sender, h.Type, h.Priority, h.RetryCount = d.Timestamp, d.ID, d.Sender, d.Type, int(d.Priority), d.RetryCount
	if d.CorrelationID != "" {
		h.CorrelationID = &d.CorrelationID
	}
	if d.ExpiresAt != 0 {
		h.ExpiresAt = &d.ExpiresAt
	}
	e.Payload = m.Payload
	return e
}

func (f *feed) keep(s *sample) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.total++
	h := f.topics[s.name]
	if h == nil {
		if len(f.topics) >= maxTopics {
			f.unkept++
			return
		}
		h = &history{}
		f.topics[s.name] = h
	}
	h.count++
	h.bytes += uint64(s.size)
	h.tick(s.received)
	h.now++
	if s.invalid != "" {
		h.invalid++
		h.wrong = s.invalid
	}
	if s.size <= maxKept {
		h.last = s
	}
}

// tick moves the rate on to a time.
func (h *history) tick(at time.Time) {
	second := at.Unix()
	if gap := second - h.second; gap >= rateSeconds || h.second == 0 {
		h.buckets = [rateSeconds]int{}
	} else {
		for i := range gap {
			n := 0
			if i == 0 {
				n = h.now
			}
			h.buckets[(h.second+i)%rateSeconds] = n
		}
	}
	if second != h.second {
		h.second, h.now = second, 0
	}
}

// rate is messages per second over the last seconds.
func (h *history) rate(at time.Time) float64 {
	h.tick(at)
	n := 0
	for i, c := range h.buckets {
		if int64(i) != h.second%rateSeconds {
			n += c
		}
	}
	return float64(n) / (rateSeconds - 1)
}

// last returns the last values of the topics that a full filter matches, sorted by topic.
func (f *feed) last(full string) (found []*sample) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(f.topics)) {
		if s := f.topics[name].last; s != nil && !s.empty && topic.Match(full, name) {
			found = append(found, s)
		}
	}
	return found
}

// age is how old a value is: since it came, or since it was sent if it was retained when it came.
func (s *sample) age(now time.Time) time.Duration {
	age := now.Sub(s.received)
	if m := &s.delivery.Message; s.retained && !m.Raw {
		age = max(age, now.Sub(m.Metadata.Time()))
	}
	return age
}

// A topicView is a topic in the API.
type topicView struct {
	Topic    string          `json:"topic"`
	Rate     float64         `json:"rate"` // messages per second
	Count    uint64          `json:"count"`
	Bytes    uint64          `json:"bytes"`
	Size     int             `json:"size"` // of the last value
	QoS      byte            `json:"qos"`
	Retained bool            `json:"retained"` // the registry has it retained
	Type     string          `json:"type"`     // of the registry; "" for a topic that nobody defined
	Age      float64         `json:"age_s"`
	Invalid  uint64          `json:"invalid"`                 // messages that broke a rule
	Error    string          `json:"error,omitempty"`         // the last rule that was broken
	Limit    int             `json:"limit_per_min,omitempty"` // the registry's
	About    string          `json:"description,omitempty"`
	Stale    float64         `json:"stale_after_s"` // age at which the last value is old; 0 is never
	Data     json.RawMessage `json:"data,omitempty"`
}

// views returns what is known of the topics that a user may receive, sorted.
func (f *feed) views(may func(string) bool, data bool) []topicView {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	views := []topicView{}
	for _, name := range slices.Sorted(maps.Keys(f.topics)) {
		if may(name) {
			views = append(views, f.view(name, now, data))
		}
	}
	return views
}

// view is one of views; ok is false for a topic that nothing came on.
func (f *feed) viewOf(name string) (v topicView, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.topics[name] == nil {
		return v, false
	}
	return f.view(name, time.Now(), true), true
}

func (f *feed) view(name string, now time.Time, data bool) topicView {
	h := f.topics[name]
	v := topicView{Topic: name, Rate: h.rate(now), Count: h.count, Bytes: h.bytes, Invalid: h.invalid, Error: h.wrong}
	if d, ok := f.c.Topics().Lookup(name); ok {
		v.Type, v.Retained, v.Limit, v.About, v.Stale = d.Type, d.Retain, d.Rate, d.Description, d.StaleAfter.Seconds()
	}
	if s := h.last; s != nil {
		v.Size, v.QoS, v.Age = s.size, s.qos, s.age(now).Seconds()
		if data {
			v.Data = s.data
		}
	}
	return v
}
