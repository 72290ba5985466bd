package client

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/lawnberry/lawnberry/message"
)

// When must a request have begun? Its expires_at is a time of the sender's clock, which may be wrong, as may ours. What is
// known besides:
//
//   - expires_at minus timestamp, both of the sender's clock, is the time that the sender gave it. From receipt on
//     there is never more left than that.
//   - Over MQTT 5 Message Expiry is what the broker says is left, in whole seconds, rounded up.
//   - expires_at by our clock, if the two clocks agree: the message seems no older, and no more ahead of us, than the age limit.
//
// The least of these holds. With clocks that disagree, Message Expiry counts for a second less when it has lost some, or when a
// resumed session may have kept the request for us: it may have lost nearly that much more. Without Message Expiry there is
// then nothing to tell a live request from a dead one that seems too old, or from one that a resumed session has kept for
// us: neither is run.

const (
	longestBudget = 24 * time.Hour
	// backlogTime is how long after a session was resumed a message may be one that the broker had kept.
	backlogTime = 10 * time.Second
)

// clockTolerance is how far from our clock a timestamp may be for the sender's clock to count as right.
func (c *Client) clockTolerance() time.Duration {
	if limit := c.opts.Limits.MaxAge; limit > 0 {
		return limit
	}
	return 300 * time.Second
}

// timing is what deadline judges by.
type timing struct {
	age       time.Duration // receipt minus timestamp; 0 without an envelope
	left      time.Duration // expires_at minus receipt
	expires   bool          // there is expires_at
	budget    time.Duration // what the sender gave it
	expiry    time.Duration // remaining Message Expiry; 0 is none
	backlog   bool          // it may have waited in the broker for a session to be resumed
	tolerance time.Duration
}

// remaining is how long after its receipt a request may begin; not at all if that is 0 or less. far is that the clocks
// disagree.
func (t *timing) remaining() (left time.Duration, far bool) {
	left = t.budget
	far = t.age > t.tolerance || t.age < -t.tolerance
	if t.expiry > 0 {
		left = min(left, t.expiry)
		if whole := t.budget.Truncate(time.Second); far && (t.expiry < whole || t.backlog) {
			left = t.expiry - time.Second
		}
	}
	switch {
	case !far && t.expires:
		left = min(left, t.left)
	case far && t.expiry == 0 && (t.age > 0 || t.backlog):
		left = min(left, 0)
	}
	return left, far
}

// timing reads what is known of the time of d. timeout is the payload's, in seconds.
func (c *Client) timing(d *Delivery, timeout float64) timing {
	m := &d.Message.Metadata
	t := timing{expiry: d.Expiry, backlog: d.backlog, tolerance: c.clockTolerance(), expires: m.ExpiresAt != 0}
	if !(timeout > 0) {
		timeout = defaultCallTimeout.Seconds()
	}
	now := message.Seconds(d.Received)
	if m.Timestamp != 0 {
		t.age = span(now - m.Timestamp)
	}
	if t.expires {
		timeout = m.ExpiresAt - m.Timestamp
		t.left = span(m.ExpiresAt - now)
	}
	t.budget = min(span(timeout), longestBudget)
	return t
}

// span returns seconds as a duration, as far as one reaches.
func span(seconds float64) time.Duration {
	const most = float64(1<<62) / float64(time.Second)
	return time.Duration(math.Max(-most, math.Min(seconds, most)) * float64(time.Second))
}

// deadline is when the request in d must have begun. why says what is wrong if that is past.
func (c *Client) deadline(d *Delivery, timeout float64) (at time.Time, why string) {
	t := c.timing(d, timeout)
	left, far := t.remaining()
	switch {
	case left > 0:
	case far:
		side := "ahead of"
		age := t.age
		if age < 0 {
			side, age = "behind", -age
		}
		why = fmt.Sprintf("not run: the clock here is %s %s the sender's, and nothing else tells whether the deadline has passed",
			age.Round(time.Second), side)
	default:
		why = fmt.Sprintf("not run: its deadline had passed %s ago by the clock here", (-left).Round(time.Millisecond))
	}
	return d.Received.Add(left), why
}

// inTime reports whether a message that CheckAge refuses is to be taken all the same, because its timestamp only shows that
// a clock is wrong: a request whose Message Expiry says that it is live, or the answer to a call that waits.
func (c *Client) inTime(d *Delivery, n *name, m *message.Message) bool {
	switch {
	case m.Raw:
		return false
	case n.command:
		probe := *d
		probe.Message = *m
		t := c.timing(&probe, 0)
		left, far := t.remaining()
		return far && left > 0
	case n.full == c.responses.full:
		return c.calls.get(m.Metadata.CorrelationID) != nil
	}
	return false
}

// tooLate reports whether all that is wrong with d is its time, and decodes it then.
func (c *Client) tooLate(d *Delivery) bool {
	var bad *message.Error
	if !errors.As(d.Invalid, &bad) || bad.Reason != message.ReasonExpired && bad.Reason != message.ReasonTooOld {
		return false
	}
	m, err := message.Decode(d.Message.Payload, c.opts.Limits)
	if err != nil {
		return false
	}
	d.Message = m
	return true
}
