package fleet

import (
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
)

// eventCommand is the type of the events on the mower's bus that say what the fleet has sent and what became of it.
const eventCommand = "fleet_command"

// Outcomes of what the fleet sends.
const (
	outcomeSucceeded = "succeeded"
	outcomeFailed    = "failed"  // the service said so, or did not answer
	outcomeRefused   = "refused" // not run
	outcomeEngaged   = "engaged" // the emergency stop
	outcomeUnknown   = "unknown" // it may have run: the uplink ended while it did
)

// An audit is the data of such an event. Parameters and results are not in it.
type audit struct {
	Operator string  `json:"operator"`      // as the command says; proven if there is a key
	Key      string  `json:"key,omitempty"` // id of the key that it is signed with
	Service  string  `json:"service"`
	Command  string  `json:"command"`
	ID       string  `json:"id"`
	Lane     string  `json:"lane"` // command, job
	Outcome  string  `json:"outcome"`
	Code     string  `json:"code,omitempty"`
	Reason   string  `json:"reason,omitempty"`
	Seconds  float64 `json:"seconds"`
	Omitted  uint64  `json:"omitted"` // refusals before this one that there is no event of: they came too often
}

// audits says on the bus what became of commands. What ran is always said; refusals up to some rate, and the rest is counted.
type audits struct {
	svc *service.Service
	log *slog.Logger

	mu      sync.Mutex // guards the fields below
	left    float64    // refusals that may be said now
	at      time.Time
	omitted uint64
}

const (
	auditBurst = 30
	auditRate  = 0.5 // refusals per second
)

func newAudits(svc *service.Service, log *slog.Logger) *audits {
	return &audits{svc: svc, log: log, left: auditBurst, at: time.Now()}
}

// add says it. It does not wait.
func (s *audits) add(a audit) {
	s.mu.Lock()
	if a.Outcome == outcomeRefused {
		now := time.Now()
		s.left = min(auditBurst, s.left+auditRate*now.Sub(s.at).Seconds())
		s.at = now
		if s.left < 1 {
			s.omitted++
			s.mu.Unlock()
			return
		}
		s.left--
	}
	a.Omitted, s.omitted = s.omitted, 0
	s.mu.Unlock()
	a.Operator, a.Key, a.Service, a.Command, a.ID, a.Reason = shown(a.Operator), shown(a.Key), shown(a.Service), shown(a.Command), shown(a.ID), cut(a.Reason)
	data, err := message.EncodeJSON(a)
	var m message.Message
	if err == nil {
		m, err = message.NewEvent(s.svc.ID(), message.Event{EventType: eventCommand, EventData: data, Category: "security"})
	}
	if err != nil {
		s.log.Error("a command from the fleet cannot be told of on the bus", "error", err)
		return
	}
	r := s.svc.Client().PublishAsync("system/events/"+eventCommand, m, client.Unlimited())
	select {
	case <-r.Done(): // the outbox has it, or has refused it
		if err := r.Err(); err != nil {
			s.log.Warn("a command from the fleet is not told of on the bus", "error", err)
		}
	default:
	}
}

// maxReason is how much of a reason is said, in bytes.
const maxReason = 512

func cut(s string) string {
	if len(s) <= maxReason {
		return s
	}
	return strings.ToValidUTF8(s[:maxReason], "") + "..."
}

// audit returns what is to be said of r.
func (d *downlink) audit(r *request, outcome, code, reason string, took time.Duration) audit {
	return audit{
		Operator: r.m.Metadata.Sender, Key: r.signer, Service: r.service, Command: r.p.Command, ID: r.m.Metadata.ID, Lane: r.lane.String(),
		Outcome: outcome, Code: code, Reason: reason, Seconds: took.Seconds(),
	}
}
