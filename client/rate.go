package client

import (
	"context"
	"fmt"
	"time"

	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

// Rates bound what a client publishes, in messages per minute over all its topics, by category; 0 is no bound. A topic's own rate
// is in its definition ([topic.Definition]). Both are token buckets that hold the allowance of one minute. Topics below
// safety/ are never limited.
//
// What is over a rate, by the class of its topic:
//
//   - Sensor, Event, and topics that nobody defined: Publish returns ErrRateLimited.
//   - State: the latest value of each topic is accepted and sent as soon as the rate allows. A value that a newer one overtakes
//     meanwhile is not sent; its receipt ends with ErrSuperseded.
//   - Command: it waits for its turn. Publish returns when it is safe, or with ErrRateLimited when its ctx ends before its turn comes.
type Rates struct {
	SensorData int // readings
	Commands   int // commands and responses
	Status     int // statuses and heartbeats
	General    int // everything else
}

// Unlimited exempts the message from rate limits.
func Unlimited() PublishOption { return func(p *publishing) { p.unlimited = true } }

// A category of Rates.
type category uint8

const (
	generalRate category = iota
	sensorRate
	commandRate
	statusRate
	rateCategories
)

func categoryOf(m *message.Message) category {
	if m.Raw {
		return generalRate
	}
	switch m.Metadata.Type {
	case message.TypeSensorData:
		return sensorRate
	case message.TypeCommand, message.TypeResponse:
		return commandRate
	case message.TypeStatus, message.TypeHeartbeat:
		return statusRate
	}
	return generalRate
}

func (r *Rates) of(c category) int {
	return [rateCategories]int{r.General, r.SensorData, r.Commands, r.Status}[c]
}

// A tokenBucket holds the tokens of one minute, as time: each costs a minute divided by the rate.
type tokenBucket struct {
	tokens time.Duration
	at     time.Duration // of the last change, by Client.clock
}

func (b *tokenBucket) fill(now time.Duration) {
	b.tokens = min(time.Minute, b.tokens+now-b.at)
	b.at = now
}

func price(rate int) time.Duration { return time.Minute / time.Duration(rate) }

// wait is how long until the bucket, just filled, has a token.
func (b *tokenBucket) wait(rate int) time.Duration { return max(price(rate)-b.tokens, 0) }

// limiter knows what has been published lately, and what waits for its turn. Client.mu guards it.
type limiter struct {
	topics map[string]*tokenBucket // of those with a rate
	kinds  [rateCategories]tokenBucket
	swept  time.Duration // when topics was last cleared of full buckets

	held   map[string]*list // over the rate, by topic: commands in their order, of a state one
	n      int              // held
	timer  *time.Timer      // for the next turn
	byKind [classes]int     // held
}

func (m *limiter) init() {
	m.topics, m.held = make(map[string]*tokenBucket), make(map[string]*list)
	for i := range m.kinds {
		m.kinds[i].tokens = time.Minute
	}
}

// due takes a token of each bucket that p needs, or says how long there is none.
func (c *Client) due(p *publication) time.Duration {
	m := &c.limiter
	now := c.clock()
	var wait time.Duration
	var own *tokenBucket
	if p.rate > 0 {
		if own = m.topics[p.topic]; own == nil {
			m.sweep(now)
			own = &tokenBucket{tokens: time.Minute, at: now}
			m.topics[p.topic] = own
		}
		own.fill(now)
		wait = own.wait(p.rate)
	}
	kind, rate := &m.kinds[p.category], c.opts.Rates.of(p.category)
	if rate > 0 {
		kind.fill(now)
		wait = max(wait, kind.wait(rate))
	}
	if wait > 0 {
		return wait
	}
	if own != nil {
		own.tokens -= price(p.rate)
	}
	if rate > 0 {
		kind.tokens -= price(rate)
	}
	return 0
}

// sweep forgets the topics that were quiet for a minute: their buckets are full. It looks once a minute.
func (m *limiter) sweep(now time.Duration) {
	if now-m.swept < time.Minute {
		return
	}
	m.swept = now
	for name, b := range m.topics {
		if now-b.at >= time.Minute {
			delete(m.topics, name)
		}
	}
}

// admit lets p pass, holds it until its turn, or refuses it.
func (c *Client) admit(p *publication) (pass bool, err error) {
	if held := c.limiter.held[p.topic]; held != nil && p.class == topic.State { // p is newer
		older := held.head
		c.unhold(older)
		older.lose(ErrSuperseded)
	}
	if p.class == topic.Safety || p.birth || p.unlimited || p.rate == 0 && c.opts.Rates.of(p.category) == 0 {
		return true, nil
	}
	m := &c.limiter
	before := m.held[p.topic]
	var wait time.Duration
	if before == nil {
		if wait = c.due(p); wait == 0 {
			return true, nil
		}
	}
	log := c.opts.Logger
	switch {
	case p.class == topic.State:
		c.stats.conflated.Add(1)
		log.Debug("over its rate: the latest value waits", "topic", p.topic, "rate", p.rate, "wait", wait)
		c.hold(p, wait)
		c.secure(p)
		return false, nil
	case p.class == topic.Command && m.byKind[p.class] < c.opts.Outbox.Max:
		c.stats.delayed.Add(1)
		log.Debug("over its rate: it waits", "topic", p.topic, "rate", p.rate, "wait", wait)
		c.hold(p, wait)
		return false, nil
	}
	if p.rate > 0 {
		return false, fmt.Errorf("%w: %d messages a minute", ErrRateLimited, p.rate)
	}
	return false, fmt.Errorf("%w: %d messages a minute of this kind", ErrRateLimited, c.opts.Rates.of(p.category))
}

func (c *Client) hold(p *publication, wait time.Duration) {
	m := &c.limiter
	l := m.held[p.topic]
	if l == nil {
		l = &list{}
		m.held[p.topic] = l
	}
	l.pushBack(p)
	p.held = true
	m.n++
	m.byKind[p.class]++
	if m.timer == nil {
		m.timer = time.AfterFunc(wait, c.turn)
	}
}

func (c *Client) unhold(p *publication) {
	m := &c.limiter
	l := m.held[p.topic]
	l.remove(p)
	if l.n == 0 {
		delete(m.held, p.topic)
	}
	p.held = false
	m.n--
	m.byKind[p.class]--
}

// turn sends what is held and may go now.
func (c *Client) turn() {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := &c.limiter
	m.timer = nil
	var next time.Duration
	for _, l := range m.held {
		for p := l.head; p != nil; p = l.head {
			wait := c.due(p)
			if wait > 0 {
				if next == 0 || wait < next {
					next = wait
				}
				break
			}
			c.unhold(p)
			c.enqueue(p)
		}
	}
	if m.n > 0 {
		m.timer = time.AfterFunc(next, c.turn)
	}
	c.settled()
}

// releaseHeld sends all that is held: the client closes.
func (c *Client) releaseHeld() {
	for _, l := range c.limiter.held {
		for p := l.head; p != nil; p = l.head {
			c.unhold(p)
			c.enqueue(p)
		}
	}
	if c.limiter.timer != nil {
		c.limiter.timer.Stop()
		c.limiter.timer = nil
	}
}

// enqueue is submit for what has been accepted before: it does not wait for room.
func (c *Client) enqueue(p *publication) {
	l := c.link
	if l != nil && c.nothingBefore(p) && c.mayPass(l, p) {
		c.transmit(l, p)
		l.push()
		return
	}
	if l == nil && c.box.full(p) {
		displaced, err := c.box.makeRoom(p)
		if err != nil {
			p.lose(err)
			return
		}
		c.dropped(displaced)
	}
	c.box.add(p)
	if l == nil {
		c.secure(p)
	}
}

// overdue is what a publication that was held ends with when ctx does.
func (c *Client) overdue(ctx context.Context, p *publication) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !p.held || p.safe {
		return ctx.Err()
	}
	c.unhold(p)
	err := fmt.Errorf("%w: its turn has not come: %w", ErrRateLimited, ctx.Err())
	p.lose(err)
	c.settled()
	return err
}
