package safety

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
)

// stopTime is what all guards have to confirm in that they stand, from when the hub has heard of an engagement.
const stopTime = 500 * time.Millisecond

// alertNotConfirmed is the type of the alert that is raised when one does not.
const alertNotConfirmed = "stop_not_confirmed"

const maxReports = 1000

// reported is what a service has reported.
type reported struct {
	Report
	since    time.Time     // when it reported first
	sequence uint64        // for which it has confirmed last
	after    time.Duration // that the confirmation took, from taking in the engagement
}

// confirms reports whether it says that it stands, for that state of the emergency stop.
func (r *reported) confirms(sequence uint64) bool { return r.Stopped && r.Sequence >= sequence }

// takeReport takes in a report.
func (h *Hub) takeReport(id string, d *client.Delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	defer h.judgeLocked()
	if len(d.Message.Payload) == 0 {
		delete(h.reports, id)
		return
	}
	r, ok := readReport(d, id)
	if !ok {
		h.log.Warn("a report on the emergency stop that cannot be read", "service", id)
		return
	}
	have := h.reports[id]
	if have == nil {
		if len(h.reports) >= maxReports {
			h.log.Error("too many services report on the emergency stop", "service", id)
			return
		}
		have = &reported{since: d.Received}
		h.reports[id] = have
	}
	have.Report = r
	if r.Actuator && have.confirms(h.state.Sequence) && have.sequence < h.state.Sequence {
		have.sequence, have.after = h.state.Sequence, d.Received.Sub(h.at)
	}
}

// missingLocked returns the guards that have not confirmed that they stand. h.mu is held.
func (h *Hub) missingLocked() (ids []string) {
	if !h.state.Engaged {
		return nil
	}
	for _, id := range slices.Sorted(maps.Keys(h.reports)) {
		if r := h.reports[id]; r.Actuator && !r.confirms(h.state.Sequence) {
			ids = append(ids, id)
		}
	}
	return ids
}

// judgeLocked raises the alert when a confirmation is missing for too long, and clears it when none is. h.mu is held.
func (h *Hub) judgeLocked() {
	if h.watch != nil {
		h.watch.Stop()
		h.watch = nil
	}
	if !h.settled || h.stopped {
		return
	}
	missing := h.missingLocked()
	var next time.Duration // until the next one is late
	late := h.alerted && len(missing) > 0
	for _, id := range missing {
		from := h.at
		if r := h.reports[id]; r.since.After(from) {
			from = r.since
		}
		if left := stopTime - time.Since(from); left <= 0 {
			late = true
		} else if next == 0 || left < next {
			next = left
		}
	}
	if next > 0 {
		h.watch = time.AfterFunc(next, func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.judgeLocked()
		})
	}
	if late == h.alerted {
		return
	}
	h.alerted = late
	token(h.alerting)
	if late {
		h.log.Error("not everybody has confirmed the emergency stop", "missing", strings.Join(missing, ", "), "sequence", h.state.Sequence)
	}
}

// alert raises and clears the alert that judgeLocked has decided on, until ctx ends.
func (h *Hub) alert(ctx context.Context) {
	var raised bool
	for {
		select {
		case <-h.alerting:
		case <-ctx.Done():
			return
		}
		h.mu.Lock()
		wanted, missing, sequence := h.alerted, h.missingLocked(), h.state.Sequence
		h.mu.Unlock()
		var err error
		switch {
		case wanted:
			raised = true
			about, _ := message.EncodeJSON(map[string]any{"sequence": sequence, "missing": missing})
			err = h.svc.EmitAlert(ctx, message.Alert{
				AlertType: alertNotConfirmed, Severity: "critical", Context: about,
				Message: "The emergency stop is engaged, and these have not confirmed that they stand: " + strings.Join(missing, ", "),
			})
		case raised || h.inherited:
			raised, h.inherited = false, false
			err = h.svc.ClearAlert(ctx, alertNotConfirmed)
		}
		if err != nil && ctx.Err() == nil {
			h.log.Error("the alert about a missing confirmation was not sent", "error", err)
		}
	}
}

// againstLocked returns what stands against releasing, for people. h.mu is held.
func (h *Hub) againstLocked() (reasons []string) {
	for _, id := range slices.Sorted(maps.Keys(h.reports)) {
		r := h.reports[id]
		gone := fmt.Sprintf("%s is gone: start it, or forget it if it will not come back", id)
		info, known := h.svc.Service(id)
		switch {
		case !known:
			reasons = append(reasons, gone)
		case info.State == service.Healthy, info.State == service.Degraded:
		case info.State == service.Failing:
			reasons = append(reasons, fmt.Sprintf("%s has an error: %s", id, info.Reason))
		case info.State == service.Starting:
			reasons = append(reasons, id+" is starting")
		default:
			reasons = append(reasons, gone)
		}
		for _, z := range r.Hazards {
			reasons = append(reasons, id+": "+z.Message)
		}
		for _, s := range r.Stale {
			reasons = append(reasons, id+": "+s)
		}
		if r.Actuator && !r.confirms(h.state.Sequence) {
			reasons = append(reasons, id+" has not confirmed that it stands")
		}
	}
	return reasons
}

// forget is the command.
func (h *Hub) forget(ctx context.Context, by, id string) error {
	fail := func(code, text string) error {
		return &client.CommandError{Service: HubID, Command: commandForget, Code: code, Message: text}
	}
	if id == "" {
		return fail(client.CodeBadParameters, "parameters.service_id is missing")
	}
	if info, known := h.svc.Service(id); known && info.State != service.Offline {
		return fail(client.CodeRefused, fmt.Sprintf("%s is %s: only what is gone can be forgotten", id, info.State))
	}
	h.mu.Lock()
	_, has := h.reports[id]
	h.mu.Unlock()
	if !has {
		return fail(client.CodeRefused, id+" has reported nothing")
	}
	h.log.Warn("a service's report on the emergency stop is forgotten", "service", id, "by", by)
	return h.svc.Publish(ctx, reportTopic+id, message.NewRaw(nil), client.WithRetain(true))
}

// A Status is all that the hub knows, the result of its command get_status.
type Status struct {
	State
	Causes       []Cause       `json:"causes"`  // for which it is engaged: the first, and the latest
	Against      []string      `json:"against"` // what stands against releasing it, for people
	Participants []Participant `json:"participants"`
}

// A Participant is a service that has reported.
type Participant struct {
	Report
	State     service.State `json:"state"`        // "" when it is not known as a service
	Confirmed bool          `json:"confirmed"`    // a guard: it stands, for the present engagement
	AfterMS   float64       `json:"confirmed_ms"` // what that took, from the hub's hearing of the engagement to its hearing of the confirmation, ms
}

// Status returns what the hub knows.
func (h *Hub) Status() Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := Status{State: h.state, Causes: slices.Clone(h.causes), Against: []string{}, Participants: []Participant{}}
	if s.Causes == nil {
		s.Causes = []Cause{}
	}
	if h.state.Engaged {
		s.Against = append(s.Against, h.againstLocked()...)
	}
	for _, id := range slices.Sorted(maps.Keys(h.reports)) {
		r := h.reports[id]
		p := Participant{Report: r.Report}
		if info, ok := h.svc.Service(id); ok {
			p.State = info.State
		}
		if p.Confirmed = r.Actuator && h.state.Engaged && r.confirms(h.state.Sequence); p.Confirmed {
			p.AfterMS = milliseconds(r.after)
		}
		s.Participants = append(s.Participants, p)
	}
	return s
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
}

// A Caller sends commands: a service, or a client.
type Caller interface {
	Call(ctx context.Context, target, command string, parameters, result any, opts ...client.CallOption) error
}

// ReadStatus asks the hub for what it knows.
func ReadStatus(ctx context.Context, c Caller) (Status, error) {
	var raw json.RawMessage
	if err := c.Call(ctx, HubID, commandStatus, nil, &raw, client.Unannounced()); err != nil {
		return Status{}, err
	}
	var s Status
	if err := json.Unmarshal(raw, &s); err != nil {
		return Status{}, fmt.Errorf("state of the emergency stop: %w", err)
	}
	return s, nil
}

// Forget has the hub forget what a service has reported that is gone and will not come back.
func Forget(ctx context.Context, c Caller, service string) error {
	return c.Call(ctx, HubID, commandForget, forgetQuery{service}, nil, client.Unannounced())
}
