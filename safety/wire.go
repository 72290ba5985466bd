package safety

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
)

// HubID is the service that keeps the state of the emergency stop, and the target of its commands.
const HubID = "emergency_stop"

const (
	stopTopic   = "safety/emergency_stop"
	reportTopic = "safety/reports/"
	alertType   = "emergency_stop"

	commandConfirm = "confirm"
	commandStatus  = "get_status"
	commandEngage  = "engage"
	commandRelease = "release"
	commandForget  = "forget"

	maxReason   = 1000    // bytes of a reason that goes out
	maxSequence = 1 << 52 // every JSON reader takes it for a whole number, and more after it
	maxID       = 128     // bytes of a message's id; the hub is asked about many at once
)

// A State is what a latch or the hub knows of the emergency stop.
type State struct {
	Engaged  bool      `json:"engaged"` // also while it is not known
	Known    bool      `json:"known"`   // confirmed by the hub, over the present connection
	Reason   string    `json:"reason"`  // for which it is engaged, or why it is not known
	By       string    `json:"by"`      // who engaged or released it; "" while it is not known
	Since    time.Time `json:"since"`   // by the clock of who did
	Sequence uint64    `json:"sequence"`
}

// stopContext is the context of the alert on stopTopic. Beyond sequence it is beside the base format.
type stopContext struct {
	Engaged  *bool   `json:"engaged"`
	Reason   string  `json:"reason"`
	By       string  `json:"by"`
	Since    float64 `json:"since"` // Unix seconds
	Sequence uint64  `json:"sequence"`

	Epoch string `json:"epoch,omitempty"` // of the run of the hub that says so
}

// stopMessage makes the alert for stopTopic.
func stopMessage(sender string, c stopContext) (message.Message, error) {
	raw, err := message.EncodeJSON(c)
	if err != nil {
		return message.Message{}, err
	}
	a := message.Alert{AlertType: alertType, Severity: "critical", Message: "Emergency stop engaged: " + c.Reason, Context: raw}
	if !*c.Engaged {
		a.Message = "Emergency stop released by " + c.By
	}
	return message.NewAlert(sender, a)
}

// engagement makes the alert with which somebody engages.
func engagement(by, reason string, since time.Time, sequence uint64) (message.Message, error) {
	yes := true
	by = speakable(by)
	return stopMessage(by, stopContext{Engaged: &yes, Reason: speakable(reason), By: by, Since: message.Seconds(since), Sequence: sequence})
}

// speakable is a reason that any message can carry. One that is too long is cut, and says so: a stop must not fail for its text.
func speakable(reason string) string {
	reason = strings.ToValidUTF8(reason, "\uFFFD")
	if reason == "" {
		return "no reason given"
	}
	if len(reason) <= maxReason {
		return reason
	}
	const mark = "... (cut)"
	end := maxReason - len(mark)
	for !utf8.RuneStart(reason[end]) {
		end--
	}
	return reason[:end] + mark
}

// A kind is what a message on stopTopic means.
type kind uint8

const (
	engages kind = iota // also what nobody can read
	claims              // says that it is released; not of the hub, or not valid
	nothing             // empty: the retained message was removed
	ofHub               // says that it comes from the hub, and is valid
)

// A heard is a message on stopTopic.
type heard struct {
	kind kind
	id   string // that it is confirmed by
	stopContext
}

// read makes sense of a message on stopTopic. What cannot be read engages.
func read(d *client.Delivery) heard {
	m := d.Message
	if len(m.Payload) == 0 && d.Invalid == nil {
		return heard{kind: nothing}
	}
	h := heard{id: m.Metadata.ID}
	var alert message.Alert
	sender := m.Metadata.Sender
	valid := d.Invalid == nil && !m.Raw
	if valid {
		var err error
		alert, err = message.Payload[message.Alert](m)
		valid = err == nil && alert.AlertType == alertType
	} else {
		// A message that breaks a rule is looked into all the same: an old claim need not engage.
		var envelope struct {
			Metadata struct {
				ID     string `json:"message_id"`
				Sender string `json:"sender"`
			} `json:"metadata"`
			Payload message.Alert `json:"payload"`
		}
		if json.Unmarshal(m.Payload, &envelope) == nil {
			h.id, sender, alert = envelope.Metadata.ID, envelope.Metadata.Sender, envelope.Payload
		}
	}
	if h.id == "" || len(h.id) > maxID || strings.HasPrefix(h.id, "-") { // with which our own begin
		sum := sha256.Sum256(m.Payload)
		h.id = "sha256:" + hex.EncodeToString(sum[:16])
	}
	readable := json.Unmarshal(alert.Context, &h.stopContext) == nil
	if !readable {
		h.stopContext = stopContext{}
	}
	switch {
	case readable && h.Engaged != nil && sender == HubID && valid && h.Epoch != "" && h.Sequence > 0 && h.Sequence < 2*maxSequence:
		h.kind = ofHub
		return h
	case readable && h.Engaged != nil && !*h.Engaged:
		h.kind = claims
	}
	if h.By == "" {
		h.By = sender
	}
	if h.By == "" {
		h.By = "unknown"
	}
	if h.Reason == "" {
		h.Reason = alert.Message
	}
	if h.Reason == "" && m.Raw && d.Invalid == nil && utf8.Valid(m.Payload) {
		h.Reason = string(m.Payload[:min(len(m.Payload), maxReason)])
	}
	h.By, h.Reason = speakable(h.By), speakable(h.Reason)
	return h
}

// since returns the time that a message names, or now if it names none.
func (h *heard) since() time.Time {
	if h.Since <= 0 || h.Since > 1e11 {
		return time.Now()
	}
	return time.UnixMicro(int64(h.Since * 1e6))
}

type (
	confirmQuery struct {
		Heard    []string `json:"heard,omitempty" doc:"ids of messages that the caller has heard on safety/emergency_stop"`
		Sequence uint64   `json:"sequence,omitempty" doc:"the highest sequence number that the caller knows"`
	}
	confirmAnswer struct {
		Engaged  bool     `json:"engaged"`
		Reason   string   `json:"reason"`
		By       string   `json:"by"`
		Since    float64  `json:"since" doc:"Unix seconds"`
		Sequence uint64   `json:"sequence"`
		Known    []string `json:"known,omitempty" doc:"those of the ids that the hub has taken in"`
	}
	engageQuery struct {
		Reason string `json:"reason" doc:"what for"`
	}
	releaseQuery struct {
		Sequence uint64 `json:"sequence" doc:"of the state that the caller has seen; it must be given"`
		By       string `json:"by,omitempty" doc:"the person in whose name the caller acts"`
	}
	forgetQuery struct {
		Service string `json:"service_id" doc:"whose report is to be forgotten; it must be given"`
	}
	sequenceAnswer struct {
		Sequence uint64 `json:"sequence"`
	}
)
