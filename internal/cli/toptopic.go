package cli

import (
	"slices"
	"time"

	"github.com/lawnberry/lawnberry/client"
)

// windowSeconds is how many seconds the present rate is of.
const windowSeconds = 10

// A window counts what came in each of the last seconds.
type window struct {
	slots [windowSeconds + 1]struct {
		second          int64
		messages, bytes int
	}
}

func (w *window) add(second int64, size int) {
	s := &w.slots[second%int64(len(w.slots))]
	if s.second != second {
		s.second, s.messages, s.bytes = second, 0, 0
	}
	s.messages++
	s.bytes += size
}

// sum returns what came in the whole seconds before this one.
func (w *window) sum(second int64) (messages, size int) {
	for _, s := range w.slots {
		if s.messages > 0 && s.second < second && s.second >= second-windowSeconds {
			messages += s.messages
			size += s.bytes
		}
	}
	return messages, size
}

// second is the number of a time's second since the feed began, 1 or more.
func (f *feed) second(at time.Time) int64 { return 1 + max(0, int64(at.Sub(f.began)/time.Second)) }

// span is how many seconds a window holds.
func (f *feed) span(second int64) float64 { return float64(min(max(second-1, 1), windowSeconds)) }

// A topicLine is what a topic has carried.
type topicLine struct {
	gaps, sizes, delays measured // as hz, bw and delay measure
	recent              window
	gap                 time.Duration // between the last two messages
	senders             []senderCount
	last                client.Delivery // with a payload of its own, cut at maxTopBody
}

// maxSenders is how many senders of a topic are told apart.
const maxSenders = 8

// A senderCount is who sends, and how many messages came.
type senderCount struct {
	Sender string `json:"sender"`
	Count  int    `json:"count"`
}

// takeTopic takes in a message of whatever topic.
func (f *feed) takeTopic(d *client.Delivery) {
	f.mu.Lock()
	defer f.mu.Unlock()
	second := f.second(d.Received)
	if !d.Retained {
		f.all.add(second, d.Size)
	}
	line := f.topics[d.Topic]
	if line == nil {
		if len(f.topics) >= maxTopTopics || len(d.Topic) > maxTopName {
			f.others++
			return
		}
		line = &topicLine{}
		f.topics[d.Topic] = line
	}
	line.take(d, second)
	if d.Topic != f.watched {
		return
	}
	if len(f.messages) == maxTopMessages {
		f.messages = slices.Delete(f.messages, 0, 1)
	}
	f.messages = append(f.messages, copied(line.last))
}

// take takes in a message. What was retained before is shown, and not measured.
func (l *topicLine) take(d *client.Delivery, second int64) {
	body := append(l.last.Message.Payload[:0], d.Message.Payload[:min(len(d.Message.Payload), maxTopBody)]...)
	l.last = client.Delivery{Topic: d.Topic, Message: d.Message, QoS: d.QoS, Retained: d.Retained, Received: d.Received, Invalid: d.Invalid,
		Size: d.Size}
	l.last.Message.Payload = body
	if d.Retained {
		return
	}
	before := l.gaps.last
	for _, m := range []struct {
		of quantity
		in *measured
	}{{hz(), &l.gaps}, {bandwidth(), &l.sizes}, {delay(), &l.delays}} {
		value, ok := m.of.of(d, before)
		m.in.take(d.Received, value, ok)
	}
	if !before.IsZero() {
		l.gap = d.Received.Sub(before)
	}
	l.recent.add(second, d.Size)
	if d.Message.Raw || d.Message.Metadata.Sender == "" {
		return
	}
	i := slices.IndexFunc(l.senders, func(s senderCount) bool { return s.Sender == d.Message.Metadata.Sender })
	switch {
	case i >= 0:
		l.senders[i].Count++
	case len(l.senders) < maxSenders:
		l.senders = append(l.senders, senderCount{d.Message.Metadata.Sender, 1})
	}
}

// A topicView is a topic at one time, as --json prints it.
type topicView struct {
	Topic    string        `json:"topic"`
	Rate     float64       `json:"per_second"` // of late
	Bytes    float64       `json:"bytes_per_second"`
	Count    int           `json:"count"`
	LastSeen time.Time     `json:"last_seen"` // of a retained message by its sender's clock, zero if it does not say
	Retained bool          `json:"retained"`  // nothing came but what was retained before
	DelayMS  *float64      `json:"delay_ms"`  // mean, of messages that say when they were sent; null without
	Senders  []senderCount `json:"senders"`

	gaps, sizes, delays spread
}

func (l *topicLine) view(name string, now time.Time, second int64, span float64) topicView {
	v := topicView{
		Topic: name, Count: l.gaps.count, LastSeen: l.last.Received, Retained: l.gaps.count == 0, Senders: append([]senderCount{}, l.senders...),
		gaps: l.gaps.values, sizes: l.sizes.values, delays: l.delays.values,
	}
	if v.Retained {
		v.LastSeen = time.Time{}
		if m := l.last.Message; !m.Raw && m.Metadata.Timestamp > 0 {
			v.LastSeen = m.Metadata.Time()
		}
	}
	if l.delays.values.n > 0 {
		v.DelayMS = &v.delays.mean
	}
	messages, size := l.recent.sum(second)
	v.Rate, v.Bytes = float64(messages)/span, float64(size)/span
	if messages < 2 && l.gap > 0 { // of what comes rarely the last time between two says more
		every := max(l.gap, now.Sub(l.gaps.last)).Seconds()
		v.Rate, v.Bytes = 1/every, float64(l.last.Size)/every
	}
	return v
}
