package safety

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
)

// A Hazard is a reason of a service's not to release the emergency stop.
type Hazard struct {
	Name    string  `json:"name"`
	Message string  `json:"message"`
	Since   float64 `json:"since"` // Unix seconds
}

// A Report is what a service says on the emergency stop: a status message, retained on safety/reports/{service}.
type Report struct {
	Service  string   `json:"service_id"`
	Actuator bool     `json:"actuator"`             // it has a guard that runs
	Stopped  bool     `json:"stopped"`              // all its guards: the stop function has returned since the permit was lost
	Sequence uint64   `json:"sequence"`             // of the state of the emergency stop that it knows of
	StopMS   float64  `json:"stop_ms"`              // from losing the permit to the return of the stop function, the slowest of its guards, ms
	At       float64  `json:"stopped_at,omitempty"` // when that was, by its own clock; Unix seconds
	Cause    string   `json:"cause"`                // why it has no permit; "" with one
	Hazards  []Hazard `json:"hazards"`
	Stale    []string `json:"stale"` // what its guards miss, for people
}

// equal reports whether two reports say the same.
func (r *Report) equal(o *Report) bool {
	return r.Service == o.Service && r.Actuator == o.Actuator && r.Stopped == o.Stopped && r.Sequence == o.Sequence && r.StopMS == o.StopMS && r.At == o.At &&
		r.Cause == o.Cause && slices.Equal(r.Hazards, o.Hazards) && slices.Equal(r.Stale, o.Stale)
}

// status is the state that the message names.
func (r *Report) status() string {
	switch {
	case r.Actuator && r.Stopped:
		return "stopped"
	case r.Actuator && r.Cause == "":
		return "permitted"
	case r.Actuator:
		return "stopping"
	}
	return "watching"
}

func (r *Report) message(up time.Duration) (message.Message, error) {
	raw, err := message.EncodeJSON(r)
	if err != nil {
		return message.Message{}, err
	}
	return message.NewStatus(r.Service, message.Status{Status: r.status(), Uptime: up.Round(time.Millisecond).Seconds(), Version: "1", Details: raw})
}

// readReport reads a message on safety/reports/+. The service is the one in the topic, and nobody else speaks for it.
func readReport(d *client.Delivery, service string) (r Report, ok bool) {
	p, err := message.Payload[message.Status](d.Message)
	if err != nil || d.Message.Metadata.Sender != service || json.Unmarshal(p.Details, &r) != nil {
		return Report{}, false
	}
	r.Service = service
	return r, true
}

// SetHazard says that there is a hazard: it engages the emergency stop, and nobody can release it until ClearHazard. name tells it from
// this service's other hazards; text is for people. Saying it again changes the text, and engages again. Its error is that of Engage.
func (l *Latch) SetHazard(ctx context.Context, name, text string) error {
	l.mu.Lock()
	l.speaks = true
	h := Hazard{Name: name, Message: speakable(text), Since: message.Seconds(time.Now())}
	if i := slices.IndexFunc(l.hazards, func(o Hazard) bool { return o.Name == name }); i >= 0 {
		h.Since = l.hazards[i].Since
		l.hazards[i] = h
	} else {
		l.hazards = append(l.hazards, h)
	}
	l.mu.Unlock()
	l.reportSoon()
	return l.Engage(ctx, text)
}

// ClearHazard says that a hazard is over. That releases nothing: it may be released now.
func (l *Latch) ClearHazard(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.speaks = true // the broker may have one of a run before
	l.hazards = slices.DeleteFunc(l.hazards, func(h Hazard) bool { return h.Name == name })
	l.reportSoon()
}

// reportAll publishes what this program has to report, when it changes. A program without guards that has never had a hazard has nothing
// to report.
func (l *Latch) reportAll() {
	var last time.Time // of a report
	for {
		select {
		case <-l.report:
		case <-l.ctx.Done():
			return
		}
		l.mu.Lock()
		r := l.reportLocked()
		send := l.c.Connected() && (r.Actuator || l.speaks || l.told.Service != "") && !r.equal(&l.told)
		minor := send && r.Stopped == l.told.Stopped && r.Sequence == l.told.Sequence && r.Actuator == l.told.Actuator && len(r.Hazards) == len(l.told.Hazards)
		wait := reportGap - time.Since(last)
		send = send && !(minor && wait > 0)
		if send {
			l.told = r
		}
		l.mu.Unlock()
		if !send {
			if minor {
				time.AfterFunc(wait, l.reportSoon)
			}
			continue
		}
		last = time.Now()
		m, err := r.message(time.Since(l.began))
		if err == nil {
			receipt := l.c.PublishAsync(reportTopic+r.Service, m, client.WithRetain(true), client.Unlimited(), client.Volatile())
			select {
			case <-receipt.Done():
				err = receipt.Err()
			default:
			}
		}
		if err != nil {
			l.log.Warn("a report on the emergency stop was not sent", "error", err)
		}
	}
}

// reportLocked is what there is to report. l.mu is held.
func (l *Latch) reportLocked() Report {
	r := Report{Service: l.c.ID(), Sequence: l.state.Sequence, Hazards: slices.Clone(l.hazards)}
	for _, g := range l.guards {
		g.reportInto(&r)
	}
	return r
}
