package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/safety"
)

const (
	engageTime  = 5 * time.Second // until the broker has it
	confirmTime = time.Second     // that the hub and the guards have to confirm it, before the answer says that they have not
)

// takeStop takes what is sent to the emergency stop. It waits while maxStops are being engaged, and for nothing else: no command that
// runs, no ledger, no signature.
//
// It engages, whatever is wrong with what was sent: late, repeated, unsigned, addressed to somebody else in its payload, or not to be read at
// all. Only what can be read, and is another command, does not: that is refused, a release like any other.
func (d *downlink) takeStop(in inbound, reply replier) {
	select {
	case d.stopping <- struct{}{}:
	case <-d.ctx.Done():
		return
	}
	if !d.goes(func() {
		defer func() { <-d.stopping }()
		d.stopMower(&in, reply)
	}) {
		<-d.stopping
	}
}

// stopMower engages the emergency stop if in says so, and answers.
func (d *downlink) stopMower(in *inbound, reply replier) (*request, answer) {
	r, err := readRequest(in, d.o.limits)
	if err != nil {
		d.malformed.Add(1)
	}
	switch {
	case r.p.Command == fleet.StopCommand:
	case r.p.Command != "":
		return r, d.refuse(r, d.permit(r), reply)
	default:
		d.log.Error("what the fleet has sent to the emergency stop cannot be read: it is engaged", "error", err)
		r.p.Command = fleet.StopCommand
	}
	_ = d.verify(r) // for the record only: it leaves the signer there
	return r, d.engage(r, reply)
}

// A stopped is the result of engaging the emergency stop.
type stopped struct {
	Engaged   bool     `json:"engaged"`
	Confirmed bool     `json:"confirmed"` // by the hub
	Sequence  uint64   `json:"sequence"`  // 0 while it is not confirmed
	Missing   []string `json:"missing"`   // guards that have not confirmed that what they guard stands
}

// engage engages the emergency stop, and answers.
func (d *downlink) engage(r *request, reply replier) answer {
	began := time.Now()
	var p struct {
		Reason string `json:"reason"`
	}
	_ = json.Unmarshal(r.p.Parameters, &p)
	if p.Reason == "" {
		p.Reason = "STOP, from the fleet"
	}
	operator := shown(r.m.Metadata.Sender)
	if operator == "" {
		operator = "somebody"
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d.ctx), engageTime) // also while the uplink is being stopped
	defer cancel()
	err := d.o.latch.EngageBy(ctx, "fleet: "+operator, p.Reason)
	var a answer
	if err != nil {
		err = fmt.Errorf("the emergency stop is engaged in the uplink of the mower, but its bus may not have it: it is said again until it has: %w", err)
		d.log.Error("the emergency stop was engaged from the fleet, and may not have reached everybody: it is said again", "operator", operator, "error", err)
		a = d.answer(r.key(), r.m.Metadata.CorrelationID, nil, &client.CommandError{Code: client.CodeFailed, Message: err.Error()}, time.Since(began))
	} else {
		d.log.Warn("the emergency stop was engaged from the fleet", "operator", operator, "reason", shown(p.Reason))
		result, _ := json.Marshal(d.confirmed(ctx)) // numbers and names
		a = d.answer(r.key(), r.m.Metadata.CorrelationID, result, nil, time.Since(began))
	}
	reply(a.Body, a.Code)
	d.audits.add(d.audit(r, outcomeEngaged, a.Code, a.Error, time.Since(began)))
	return a
}

// confirmed waits, for confirmTime at most, until the hub and all guards have confirmed.
func (d *downlink) confirmed(ctx context.Context) stopped {
	ctx, cancel := context.WithTimeout(ctx, confirmTime)
	defer cancel()
	s := stopped{Engaged: true, Missing: []string{}}
	if d.o.latch.Settle(ctx) != nil {
		return s
	}
	for {
		status, err := safety.ReadStatus(ctx, d.o.service)
		if err == nil {
			s.Confirmed, s.Sequence, s.Missing = true, status.Sequence, []string{}
			for _, p := range status.Participants {
				if p.Actuator && !p.Confirmed {
					s.Missing = append(s.Missing, p.Service)
				}
			}
			if len(s.Missing) == 0 {
				return s
			}
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return s
		}
	}
}
