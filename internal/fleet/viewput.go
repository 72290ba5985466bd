package fleet

import (
	"context"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"time"
)

// change replaces a mower by what f makes of it, a new one if it is not known. v.mu is not held.
func (v *View) change(id string, e entry, f func(m *Mower, now time.Time)) {
	now := time.Now()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.messages++
	next := &Mower{ID: id}
	if m := v.mowers[id]; m != nil {
		*next = *m
	} else if e.gone {
		return
	} else if v.enrolment {
		next.Enrolled = new(bool)
	}
	if v.mowers[id] == nil && len(v.mowers) >= v.o.MaxMowers {
		v.leaveOut(id)
		return
	}
	if !e.gone {
		next.Messages++
		heard := now
		if !e.live && e.at.Before(now) {
			heard = e.at
		}
		if heard.After(next.Heard) {
			next.Heard = heard
		}
	}
	f(next, now)
	v.set(id, next.known())
}

// leaveOut notes a mower that there is no room for. v.mu is held.
func (v *View) leaveOut(id string) {
	if len(v.leftOut) < v.o.MaxMowers {
		v.leftOut[id] = struct{}{}
	}
}

// isOdd counts a key or a document that is not by the contract.
func (v *View) isOdd(bad bool) bool {
	if bad {
		v.mu.Lock()
		v.odd++
		v.mu.Unlock()
	}
	return bad
}

// known returns the mower, nil if nobody knows it any more.
func (m *Mower) known() *Mower {
	if m.presence == 0 && m.enrolled == 0 && len(m.topics) == 0 {
		return nil
	}
	return m
}

func (v *View) putPresence(e entry) {
	if v.isOdd(CheckMower(e.key) != nil) {
		return
	}
	p, ok := readPresence(e.body)
	v.isOdd(!ok && !e.gone)
	v.change(e.key, e, func(m *Mower, now time.Time) {
		m.presence = e.generation
		if e.gone {
			if m.Online {
				m.Online, m.Since = false, now
			}
			return
		}
		began := !m.Online
		if ok {
			began = began || m.Presence != nil && m.Presence.Session != p.Session
			m.take(p)
		}
		if began {
			m.Online, m.Since = true, now
			if ok && !p.Since.IsZero() && p.Since.Before(now) {
				m.Since = p.Since
			}
		}
		m.alive = now
	})
}

// readPresence reads what a mower says of its uplink, which may be anything.
func readPresence(body []byte) (*Presence, bool) {
	p := &Presence{}
	if len(body) > maxPresenceBody || json.Unmarshal(body, p) != nil {
		return nil, false
	}
	return p, true
}

// take takes in what a mower says of its uplink.
func (m *Mower) take(p *Presence) {
	m.Presence = p
	m.Version = cut(p.Version, maxStateText)
	m.Backlog = max(p.Backlog.Records, 0)
	m.Oldest = nil
	if p.Backlog.Oldest != nil && m.Backlog > 0 {
		at := *p.Backlog.Oldest
		m.Oldest = &at
	}
	m.Lost = 0
	for _, l := range p.Lost {
		m.Lost += min(l.Count, math.MaxUint64-m.Lost)
	}
}

// interval is how often a mower says that it is there.
func (m *Mower) interval() time.Duration {
	if m.Presence == nil || !(m.Presence.Interval > 0) {
		return defaultInterval
	}
	return time.Duration(min(m.Presence.Interval, longestInterval.Seconds()) * float64(time.Second))
}

func (v *View) putState(e entry) {
	id, topic, err := ParseStateKey(e.key)
	if v.isOdd(err != nil || len(topic) > maxTopicName) {
		return
	}
	topic = strings.ToValidUTF8(topic, "\uFFFD")
	v.change(id, e, func(m *Mower, _ time.Time) {
		msg := newMessage(topic, e.at, e.body)
		msg.generation = e.generation
		*m = *m.with(msg, e.gone || len(e.body) == 0)
	})
}

// An enrolment is what is read of a document in BucketMowers.
type enrolment struct {
	Revoked any `json:"revoked"` // a time, or true
}

func (v *View) putEnrolled(e entry) {
	if v.isOdd(CheckMower(e.key) != nil) {
		return
	}
	var d enrolment
	_ = json.Unmarshal(e.body, &d) // what cannot be read is enrolled by its key
	enrolled := !e.gone && (d.Revoked == nil || d.Revoked == false || d.Revoked == "")
	v.mu.Lock()
	defer v.mu.Unlock()
	m := v.mowers[e.key]
	if m == nil && (!enrolled || len(v.mowers) >= v.o.MaxMowers) {
		if enrolled {
			v.leaveOut(e.key)
		}
		return
	}
	next := &Mower{ID: e.key} // its document is no sign of life
	if m != nil {
		*next = *m
	}
	next.Enrolled, next.enrolled = &enrolled, e.generation
	if e.gone {
		next.enrolled = 0
	}
	v.set(e.key, next.known())
}

// all calls f for every mower, which may replace it or return nil to leave it as it is.
func (v *View) all(f func(m *Mower, now time.Time) *Mower) {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	for id, m := range v.mowers {
		if next := f(m, now); next != nil {
			v.set(id, next.known())
		}
	}
}

// sweepPresence has those be offline that are not in a new copy.
func (v *View) sweepPresence(generation uint64, _ bool) {
	v.all(func(m *Mower, now time.Time) *Mower {
		if m.presence == generation || m.presence == 0 && !m.Online {
			return nil
		}
		next := *m
		next.presence = 0
		if m.Online {
			next.Online, next.Since = false, now
		}
		return &next
	})
}

// sweepState removes messages that are not in a new copy.
func (v *View) sweepState(generation uint64, _ bool) {
	v.all(func(m *Mower, _ time.Time) *Mower {
		if !slices.ContainsFunc(m.topics, func(t *Message) bool { return t.generation != generation }) {
			return nil
		}
		next := m
		for _, t := range m.topics {
			if t.generation != generation {
				next = next.with(t, true)
			}
		}
		return next
	})
}

// sweepEnrolled: who is not in a new copy of the bucket is not enrolled. Where there is none, nothing is known.
func (v *View) sweepEnrolled(generation uint64, exists bool) {
	v.mu.Lock()
	v.enrolment = exists
	v.mu.Unlock()
	v.all(func(m *Mower, _ time.Time) *Mower {
		if m.enrolled == generation || !exists && m.Enrolled == nil || exists && m.enrolled == 0 && m.Enrolled != nil {
			return nil
		}
		next := *m
		next.Enrolled, next.enrolled = nil, 0
		if exists {
			next.Enrolled = new(bool)
		}
		return &next
	})
}

// listen has mowers be offline that have been silent for longer than they said, while the view can hear: their presence should have expired.
func (v *View) listen(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var hearing time.Time // since when
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		v.mu.Lock()
		current := v.buckets[BucketPresence].current
		v.mu.Unlock()
		if _, connected := v.link(); !current || !connected {
			hearing = time.Time{}
			continue
		}
		if hearing.IsZero() {
			hearing = now
		}
		v.all(func(m *Mower, now time.Time) *Mower {
			patience := 4*m.interval() + 5*time.Second
			if !m.Online || now.Sub(m.alive) < patience || now.Sub(hearing) < patience {
				return nil
			}
			next := *m
			next.Online, next.Since = false, now
			return &next
		})
	}
}
