package fleet

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/seal"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

// An inbound is a command or a job as it comes from an engine.
type inbound struct {
	lane     lane
	service  string // that it is addressed to
	body     []byte
	header   func(name string) string
	received time.Time
	kept     *keptJob // of a job of a list; else nil
}

// A request is one that could be read.
type request struct {
	lane     lane
	service  string
	m        message.Message
	p        message.Command
	body     []byte // as it is signed
	digest   [sha256.Size]byte
	header   func(name string) string
	received time.Time
	signer   string // id of the key; "" is not signed
	keptAs   string // the id by which a list of jobs has it; "" is none
}

func (r *request) key() commandKey { return commandKey{r.m.Metadata.Sender, r.m.Metadata.ID} }

const (
	maxID     = 128
	maxSender = 128
	maxName   = 128
)

// readRequest reads what came. With an error the request has what could be read.
func readRequest(in *inbound, lim message.Limits) (*request, error) {
	r := &request{lane: in.lane, service: in.service, header: in.header, received: in.received}
	if in.kept != nil {
		r.keptAs = in.kept.id
	}
	bad := func(format string, args ...any) (*request, error) {
		return r, &client.CommandError{Service: in.service, Command: r.p.Command, Code: client.CodeBadParameters, Message: fmt.Sprintf(format, args...)}
	}
	if err := topic.CheckLevel("service id", in.service); err != nil {
		return bad("%v", err)
	}
	if len(in.service) > maxName {
		return bad("the service's id is %d bytes long, at most %d fit", len(in.service), maxName)
	}
	if n := len(in.body); n > lim.PayloadLimit() {
		return bad("the command has %d bytes, at most %d fit", n, lim.PayloadLimit())
	}
	body, err := message.Inflate(in.body, lim)
	if err != nil {
		return bad("the command cannot be read: %v", err)
	}
	r.body, r.digest = body, sha256.Sum256(body)
	m, err := message.Decode(bytes.Clone(body), lim)
	if err == nil && m.Raw {
		err = errors.New("it has no envelope")
	}
	r.m = m
	switch {
	case err != nil:
		return bad("the command cannot be read: %v", err)
	case m.Metadata.Type != message.TypeCommand:
		return bad("metadata.message_type must be command, not %s", m.Metadata.Type)
	}
	if r.p, err = message.Payload[message.Command](m); err != nil {
		return bad("the command cannot be read: %v", err)
	}
	switch md := &m.Metadata; {
	case !printable(md.ID, maxID):
		return bad("metadata.message_id must be up to %d printable characters", maxID)
	case !printable(md.Sender, maxSender):
		return bad("metadata.sender must be up to %d printable characters: it names the operator", maxSender)
	case !printable(r.p.Command, maxName):
		return bad("payload.command must be up to %d printable characters", maxName)
	case r.p.Target != in.service:
		return bad("payload.target is %q, but it was sent to %s", r.p.Target, in.service)
	case md.ExpiresAt == 0:
		return bad("metadata.expires_at is missing: what comes from the fleet has a deadline")
	case md.ExpiresAt <= md.Timestamp:
		return bad("metadata.expires_at is not after metadata.timestamp")
	}
	if len(r.p.Parameters) == 0 || string(r.p.Parameters) == "null" {
		r.p.Parameters = json.RawMessage("{}")
	}
	return r, nil
}

// printable reports whether a text can stand in a log, an event and a key.
func printable(s string, most int) bool {
	return s != "" && len(s) <= most && utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsGraphic(r) }) < 0
}

// verify checks who has sent it.
func (d *downlink) verify(r *request) error {
	no := func(text string) error {
		return &client.CommandError{Service: r.service, Command: r.p.Command, Code: fleet.CodeSignature, Message: text}
	}
	text := r.header(fleet.HeaderSignature)
	if text == "" {
		if d.o.unsigned {
			return nil
		}
		return no("it is not signed: give --key, or set integration.fleet.allow_unsigned on the mower")
	}
	sig := seal.Signature{Algorithm: r.header(fleet.HeaderAlgorithm), Key: r.header(fleet.HeaderKey)}
	var err error
	if sig.Value, err = base64.StdEncoding.DecodeString(text); err != nil {
		return no("its signature is not base64")
	}
	if d.o.keys == nil {
		return no("it is signed, and the mower knows no operator's key: see integration.fleet.keys_file")
	}
	name := fleet.CommandTopic(d.o.mower, r.service)
	if r.lane == laneJob {
		name = fleet.JobTopic(d.o.mower, r.service)
	}
	md := &r.m.Metadata
	identity, err := d.o.keys.Verify(sig, &seal.Subject{Topic: name, ID: md.ID, Timestamp: md.Timestamp, Payload: r.body})
	switch {
	case errors.Is(err, seal.ErrUnknownKey):
		return no("the mower does not know the key that it is signed with")
	case err != nil:
		return no("its signature is refused: " + err.Error())
	case identity == "":
		return no("the key that it is signed with is in the mower's file without an identity, so it is nobody's: add it anew with \"lawnberry key public --identity\"")
	case !d.o.keys.SignsFor(identity, md.Sender):
		return no(fmt.Sprintf("it is signed with the key of %s, which does not sign for %s", identity, md.Sender))
	}
	r.signer = sig.Key
	return nil
}

// A clockError is what cannot be judged because the clock here is behind the sender's.
type clockError struct{ client.CommandError }

// deadline is when r must have begun, and be over. Clocks may differ: by expires_at there is never more time from receipt on than the sender
// gave it, and with clocks that disagree by more than the tolerance nothing tells what is fresh from what is old.
func deadline(r *request) (time.Time, error) {
	md := &r.m.Metadata
	late := func(code, format string, args ...any) (time.Time, error) {
		return time.Time{}, &client.CommandError{Service: r.service, Command: r.p.Command, Code: code, Message: fmt.Sprintf(format, args...)}
	}
	now := message.Seconds(r.received)
	age, given, left := seconds(now-md.Timestamp), seconds(md.ExpiresAt-md.Timestamp), seconds(md.ExpiresAt-now)
	longest := maxCommandTime
	if r.lane == laneJob {
		longest = maxJobTime
	}
	switch {
	case given > longest:
		return late(client.CodeBadParameters, "its deadline is %s after it was made: a %s has %s at most", given, r.lane, longest)
	case age < -clockTolerance:
		text := fmt.Sprintf("not run: the clock of the mower is %s behind the sender's: set it", (-age).Round(time.Second))
		return time.Time{}, &clockError{client.CommandError{Service: r.service, Command: r.p.Command, Code: client.CodeTimeout, Message: text}}
	case age > clockTolerance && r.lane == laneCommand:
		return late(client.CodeTimeout, "not run: it is %s old by the clock of the mower: it came late, or a clock is wrong", age.Round(time.Second))
	case left <= 0:
		return late(client.CodeTimeout, "not run: its deadline had passed %s ago by the clock of the mower", (-left).Round(time.Millisecond))
	}
	left = min(left, given)
	if r.p.Timeout > 0 { // of a job that is how long it may run
		left = min(left, seconds(r.p.Timeout))
	}
	return r.received.Add(left), nil
}

// seconds is a duration, as far as one reaches.
func seconds(s float64) time.Duration {
	const most = float64(1<<62) / float64(time.Second)
	return time.Duration(max(-most, min(s, most)) * float64(time.Second))
}

func instant(s float64) string { return time.UnixMilli(int64(s * 1000)).UTC().Format(time.RFC3339) }

// permit checks whether the fleet may send it.
func (d *downlink) permit(r *request) error {
	if r.service != fleet.StopService && fleet.Permits(d.o.permits, r.service, r.p.Command) && !d.isStop(r.service) {
		return nil
	}
	text := fmt.Sprintf("the mower does not take %s/%s from the fleet: integration.fleet.down lists what it takes", r.service, r.p.Command)
	if r.service == fleet.StopService || d.isStop(r.service) {
		text = fmt.Sprintf("the fleet may engage the emergency stop, and nothing else of it: not %s; whoever releases it stands beside the mower", r.p.Command)
	}
	return &client.CommandError{Service: r.service, Command: r.p.Command, Code: fleet.CodeForbidden, Message: text}
}

// isStop reports whether a name reaches the hub of the emergency stop: commands may name a type of services too.
func (d *downlink) isStop(name string) bool {
	for i := range d.o.service.Services("") {
		if i.ID == fleet.StopService && (name == i.ID || name == i.Type) {
			return true
		}
	}
	return false
}

// A replier sends the answer to who has asked.
type replier func(body []byte, code string)

// takeCommand takes a command. It does not wait for anything.
func (d *downlink) takeCommand(in inbound, reply replier) {
	if in.service == fleet.StopService {
		d.takeStop(in, reply)
		return
	}
	r, err := readRequest(&in, d.o.limits)
	if err != nil {
		d.malformed.Add(1)
		d.refuse(r, err, reply)
		return
	}
	if err := d.verify(r); err != nil {
		d.refuse(r, err, reply)
		return
	}
	e := &execution{
		key: r.key(), lane: r.lane, service: r.service, command: r.p.Command, digest: r.digest[:], begun: message.Seconds(time.Now()), expires: r.m.Metadata.ExpiresAt,
	}
	before, err := d.ledger.find(e)
	var until time.Time
	if err == nil && before == nil {
		if until, err = deadline(r); err == nil {
			err = d.permit(r)
		}
		if err == nil {
			err = d.occupy(r)
		}
		if err == nil {
			if before, _, err = d.ledger.claim(e, r.received); err != nil || before != e {
				d.vacate(r.service)
			}
		}
	}
	switch {
	case err != nil:
		d.refuse(r, refusal(r, err), reply)
	case before != nil && before != e:
		d.repeat(r, before, reply)
	default:
		if !d.goes(func() {
			defer d.vacate(r.service)
			d.run(r, e, until, reply)
		}) {
			d.vacate(r.service)
			d.notBegun(r, e, errStopping, reply)
		}
	}
}

var errStopping = errors.New("the uplink of the mower is being stopped: try again")

// refusal is an error as a caller gets it.
func refusal(r *request, err error) error {
	var said *client.CommandError
	var clock *clockError
	switch {
	case errors.As(err, &said):
		return said
	case errors.As(err, &clock):
		return &clock.CommandError
	}
	return &client.CommandError{Service: r.service, Command: r.p.Command, Code: client.CodeRefused, Message: err.Error()}
}

func (e *clockError) Error() string { return e.CommandError.Error() }

// occupy takes a place among what runs.
func (d *downlink) occupy(r *request) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.busy >= maxBusy:
		return fmt.Errorf("%d commands from the fleet run already: try again when they have ended", d.busy)
	case d.busyAt[r.service] >= maxBusyService:
		return fmt.Errorf("%d commands from the fleet run at %s already: try again when they have ended", d.busyAt[r.service], r.service)
	}
	d.busy++
	d.busyAt[r.service]++
	return nil
}

func (d *downlink) vacate(service string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.busy--
	if d.busyAt[service]--; d.busyAt[service] == 0 {
		delete(d.busyAt, service)
	}
}

// repeat answers what came again with the answer of the first time, when there is one.
func (d *downlink) repeat(r *request, before *execution, reply replier) {
	err := d.ledger.await(before, func(a answer) { reply(a.Body, a.Code) })
	if err != nil {
		d.log.Error("the answer to a command from the fleet cannot be read", "service", r.service, "command", r.p.Command, "error", err)
		err = &client.CommandError{Code: fleet.CodeUnknown, Message: "the command was begun before, and how it ended cannot be read: " + err.Error()}
		d.refuse(r, err, reply)
		return
	}
	d.log.Debug("a command from the fleet came again", "service", r.service, "command", r.p.Command, "operator", r.m.Metadata.Sender)
}

// notBegun answers what was claimed, and will not run.
func (d *downlink) notBegun(r *request, e *execution, err error, reply replier) {
	said := refusal(r, err)
	waiting := d.ledger.release(e)
	a := d.refuse(r, said, reply)
	for _, f := range waiting {
		f(a)
	}
}

// run runs a command that was claimed, and answers.
func (d *downlink) run(r *request, e *execution, until time.Time, reply replier) *answer {
	if err := d.ledger.begin(e); err != nil {
		d.log.Error("a command from the fleet was not begun: the disk takes no record of it", "service", r.service, "command", r.p.Command, "error", err)
		d.notBegun(r, e, fmt.Errorf("the disk of the mower takes no record of it, so it would not be known whether it has run: %w", err), reply)
		return nil
	}
	began := time.Now()
	result, err := d.call(r, until)
	a := d.answer(e.key, r.m.Metadata.CorrelationID, result, err, time.Since(began))
	waiting, err := d.ledger.end(e, &a)
	if err != nil {
		d.log.Error("how a command from the fleet ended is not on the disk", "service", r.service, "command", r.p.Command, "error", err)
	}
	reply(a.Body, a.Code)
	for _, f := range waiting {
		f(a)
	}
	outcome := outcomeSucceeded
	if !a.Success {
		outcome = outcomeFailed
	}
	d.audits.add(d.audit(r, outcome, a.Code, a.Error, time.Since(began)))
	d.ledger.tidy(time.Now())
	return &a
}

// call hands a command to the service of the mower.
func (d *downlink) call(r *request, until time.Time) (result json.RawMessage, err error) {
	ctx, cancel := context.WithDeadline(d.ctx, until)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return nil, &client.CommandError{Service: r.service, Command: r.p.Command, Code: client.CodeTimeout, Message: "not run: its deadline passed before it could begin"}
	}
	err = d.o.service.Call(ctx, r.service, r.p.Command, r.p.Parameters, &result)
	return result, err
}

// answer makes the answer to a command.
func (d *downlink) answer(k commandKey, correlation string, result json.RawMessage, err error, took time.Duration) answer {
	a := answer{Success: err == nil, Result: result, Time: message.Seconds(time.Now())}
	if err != nil {
		a.Result = nil
		a.Code, a.Error = client.CodeFailed, err.Error()
		if said := (*client.CommandError)(nil); errors.As(err, &said) {
			a.Code, a.Error = said.Code, cmp.Or(said.Message, a.Error)
		}
		a.Error = strings.ToValidUTF8(a.Error, "\uFFFD")
	}
	spent := took.Seconds()
	p := message.Response{Success: a.Success, Result: a.Result, ExecutionTime: &spent}
	if !a.Success {
		p.Error = &a.Error
	}
	lim := d.o.limits
	lim.MaxPayload = lim.PayloadLimit() + 4096 // a result that the bus has carried fits
	m, err := message.NewResponse(d.o.service.ID(), p)
	if err == nil {
		m.Metadata.CorrelationID = correlation
		a.Body, _, err = message.Encode(&m, lim)
	}
	if err != nil && a.Success { // else it is a text of our own
		return d.answer(k, correlation, nil, fmt.Errorf("the command has run, but its result cannot be sent: %w", err), took)
	}
	return a
}

// refuse answers that something was not run.
func (d *downlink) refuse(r *request, err error, reply replier) answer {
	a := d.answer(r.key(), r.m.Metadata.CorrelationID, nil, err, 0)
	reply(a.Body, a.Code)
	d.log.Warn("a command from the fleet was refused", "lane", r.lane.String(), "service", shown(r.service), "command", shown(r.p.Command),
		"operator", shown(r.m.Metadata.Sender), "code", a.Code, "reason", a.Error)
	d.audits.add(d.audit(r, outcomeRefused, a.Code, a.Error, 0))
	return a
}

// shown is a text of a stranger's, bounded.
func shown(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= maxName {
		return s
	}
	return strings.ToValidUTF8(s[:maxName], "") + "..."
}
