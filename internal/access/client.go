package access

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/lawnberry/lawnberry/internal/seal"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

// stopTopic is the topic of the emergency stop. Everyone may engage it; to end it is a right of its own.
const stopTopic = "safety/emergency_stop"

// hubID is the service that keeps the state of the emergency stop. Everyone may send it the commands that release nothing.
const hubID = "emergency_stop"

// harmless are the commands to the hub that need no right to release.
var harmless = []string{"engage", "confirm", "get_status", "ping", "status", "cancel"}

// maxMessage bounds what is inflated to look for the sender, bytes. The limit of the bus may be lower.
const maxMessage = 1 << 20

// A Bus is what the rights of clients are decided with, beside the rules: whose names nobody else may use.
type Bus struct {
	policy   *Policy
	prefix   string // of all topics
	stop     string
	hub      string // topic of the commands to the hub
	services []Service
}

// NewBus returns the access control of a bus: rules go before the ones that are generated from its topics and services.
func NewBus(topics *topic.Registry, services []Service, rules []Rule) (*Bus, error) {
	services = withHub(services)
	generated, err := Generate(topics, services)
	if err != nil {
		return nil, err
	}
	policy, err := New(append(slices.Clone(rules), generated...))
	if err != nil {
		return nil, err
	}
	prefix := topics.Namespace() + "/"
	return &Bus{policy, prefix, prefix + stopTopic, prefix + "commands/" + hubID, services}, nil
}

// withHub returns services with the hub of the emergency stop, which is there without being defined.
func withHub(services []Service) []Service {
	all := slices.DeleteFunc(slices.Clone(services), func(s Service) bool { return s.ID == hubID })
	return append(all, Service{
		ID: hubID, Type: hubID,
		Publish: []string{reports}, Subscribe: []string{reports}, // and the stop, which it may release
	})
}

// Policy returns all rules.
func (b *Bus) Policy() *Policy { return b.policy }

// Subject returns a client with its roles: those it was given, and that of a service if it is one that is defined.
func (b *Bus) Subject(identity, clientID string, roles ...string) Subject {
	s := Subject{Identity: identity, ClientID: clientID, Roles: slices.Clone(roles)}
	if b.IsService(identity) && !slices.Contains(s.Roles, Worker) {
		s.Roles = append(s.Roles, Worker)
	}
	return s
}

// IsService reports whether name is a service that is defined.
func (b *Bus) IsService(name string) bool {
	return slices.ContainsFunc(b.services, func(s Service) bool { return s.ID == name })
}

// A Client is the rights of one client, as the broker asks for them. Its methods may be called concurrently.
type Client struct {
	*Rights
	bus     *Bus
	subject Subject
	worker  bool
}

// Client returns what s may do. The error refuses it: nobody knows who it is, or its client id is the name of a service that
// it is not. That of a service is its name, or begins with it and a hyphen, since what is answered to a client goes by that.
func (b *Bus) Client(s Subject) (*Client, error) {
	worker := slices.Contains(s.Roles, Worker)
	switch {
	case s.Identity == "":
		return nil, fmt.Errorf("access control needs to know who a client is: it has no user name")
	case s.ClientID == s.Identity, s.ClientID == "":
	case worker && !strings.HasPrefix(s.ClientID, s.Identity+"-"):
		return nil, fmt.Errorf("client id %q: that of service %s has to be its name, or to begin with %q", s.ClientID, s.Identity, s.Identity+"-")
	case worker && slices.ContainsFunc(b.services, func(o Service) bool {
		return len(o.ID) > len(s.Identity) && strings.HasPrefix(s.ClientID, o.ID+"-")
	}):
		return nil, fmt.Errorf("client id %q: it begins with the name of another service", s.ClientID)
	case b.IsService(s.ClientID):
		return nil, fmt.Errorf("client id %q is the name of a service", s.ClientID)
	}
	return &Client{b.policy.Rights(s), b, s, worker}, nil
}

// MayPublish reports whether messages may be published on a topic.
func (c *Client) MayPublish(name string) bool { return c.May(Publish, name) }

// MayReceive reports whether messages of a topic may be delivered.
func (c *Client) MayReceive(name string) bool { return c.May(Subscribe, name) }

// MaySubscribe reports whether there is anything in a filter that may be received.
func (c *Client) MaySubscribe(filter string) bool { return c.ExplainFilter(filter).Allowed }

// MaySend looks into a message on a topic on which messages may be published: is its sender who it says, and if it ends an
// emergency stop, does the client have that right? An emergency stop that takes the place of the retained one and then fades ends it too.
func (c *Client) MaySend(name string, payload []byte, fades bool) error {
	if !strings.HasPrefix(name, c.bus.prefix) {
		return nil
	}
	if name == c.bus.hub {
		if err := c.mayCommand(payload); err != nil {
			return err
		}
	}
	if len(payload) == 0 {
		return c.mayRelease(name, true)
	}
	if err := c.mayRelease(name, fades); err != nil {
		return fmt.Errorf("with an expiry interval it ends by itself: %w", err)
	}
	if seal.IsSealed(payload) { // who sent it and what it says is not to be seen here
		return c.mayRelease(name, true)
	}
	m, err := message.Decode(payload, message.Limits{MaxPayload: maxMessage})
	if m.Raw {
		if isDisguised(m.Payload) {
			return errors.New("it is JSON with a byte order mark, or in UTF-16 or UTF-32: want plain UTF-8")
		}
		return c.mayRelease(name, name == c.bus.stop && releasesRaw(m.Payload))
	}
	var broken *message.Error
	if errors.As(err, &broken) && (broken.Reason == message.ReasonTooDeep || broken.Reason == message.ReasonMalformed) {
		return fmt.Errorf("its sender cannot be relied on: %w", err) // a second one may stand where reading has ended
	}
	if err := c.checkSender(name, m.Metadata.Sender, err); err != nil {
		return err
	}
	return c.mayRelease(name, name == c.bus.stop && (err != nil || m.Metadata.ExpiresAt > 0 || releases(m)))
}

// checkSender decides on a name that a message has for its sender; broken is what is wrong with the message.
func (c *Client) checkSender(name, sender string, broken error) error {
	switch {
	case sender == c.subject.Identity, c.worker && sender == c.subject.ClientID: // which begins with its name
		return nil
	case sender == "" && broken != nil:
		return fmt.Errorf("its sender cannot be read: %w", broken)
	case sender == "":
		return nil
	case !c.worker && !c.bus.IsService(sender):
		return nil // people use programs with names of their own
	case c.worker && c.isTwin(strings.TrimPrefix(name, c.bus.prefix+"commands/")):
		return nil // a command that another of its type is to run, passed on
	}
	return fmt.Errorf("its sender is %q, but it comes from %s", sender, c.subject.Identity)
}

// isTwin reports whether id is a service of the same type.
func (c *Client) isTwin(id string) bool {
	self := slices.IndexFunc(c.bus.services, func(s Service) bool { return s.ID == c.subject.Identity })
	return self >= 0 && slices.ContainsFunc(c.bus.services, func(s Service) bool {
		return s.ID == id && s.Type != "" && s.Type == c.bus.services[self].Type
	})
}

func (c *Client) mayRelease(name string, releases bool) error {
	if name != c.bus.stop || !releases || c.May(Release, name) {
		return nil
	}
	return c.noRelease()
}

func (c *Client) noRelease() error {
	return fmt.Errorf("%s has no right to release an emergency stop", c.subject.Identity)
}

// mayCommand decides on a command to the hub: whatever may be read as one that releases something needs the right to. What cannot be
// read needs it too.
func (c *Client) mayCommand(payload []byte) error {
	if c.May(Release, c.bus.stop) {
		return nil
	}
	if seal.IsSealed(payload) {
		return c.noRelease()
	}
	m, err := message.Decode(payload, message.Limits{MaxPayload: maxMessage})
	var broken *message.Error
	if errors.As(err, &broken) && (broken.Reason == message.ReasonTooDeep || broken.Reason == message.ReasonMalformed || broken.Reason == message.ReasonTooLarge) {
		return c.noRelease()
	}
	bodies := []json.RawMessage{m.Payload}
	if m.Raw {
		bodies = slices.AppendSeq(bodies, members(m.Payload, "payload"))
	}
	named := false
	for _, body := range bodies {
		for command := range members(body, "command") {
			var name string
			if json.Unmarshal(command, &name) != nil || !slices.Contains(harmless, name) {
				return c.noRelease()
			}
			named = true
		}
	}
	if !named {
		return c.noRelease()
	}
	return nil
}

// isDisguised reports whether a raw message is JSON in an encoding that this bus does not read and others guess: Python's json.loads takes
// bytes in UTF-16 and UTF-32, and browsers leave a byte order mark out.
func isDisguised(raw []byte) bool {
	rest := bytes.TrimLeft(raw, "\x00\xef\xbb\xbf\xfe\xff \t\r\n")
	return len(rest) > 0 && (rest[0] == '{' || rest[0] == '[') && slices.ContainsFunc(raw[:min(len(raw), 4)], func(b byte) bool { return b == 0 || b >= 0x80 })
}

// releases reports whether a message on the topic of the emergency stop says, to anyone who reads it, that it is over. Whatever
// says nothing about that engages it, or leaves its receivers in doubt, which they take for engaged.
func releases(m message.Message) bool {
	for context := range members(m.Payload, "context") {
		for engaged := range members(context, "engaged") {
			if string(engaged) != "true" {
				return true
			}
		}
	}
	return false
}

// releasesRaw is releases for a message that is no envelope, for those who read its payload nevertheless.
func releasesRaw(body []byte) bool {
	for payload := range members(body, "payload") {
		if releases(message.Message{Payload: payload}) {
			return true
		}
	}
	if releases(message.Message{Payload: body}) {
		return true
	}
	// Others may read what we cannot, such as NaN; a word that is written in another way could be in it then.
	lower := bytes.ToLower(body)
	return !json.Valid(body) && (bytes.Contains(lower, []byte("engaged")) || bytes.Contains(lower, []byte(`\u`)))
}

// members yields the values of a key of a JSON object, however it is written and however often it is there: who reads a key that is
// repeated may take the first, the last, or parts of both.
func members(object []byte, name string) iter.Seq[json.RawMessage] {
	return func(yield func(json.RawMessage) bool) {
		d := json.NewDecoder(bytes.NewReader(object))
		if t, err := d.Token(); err != nil || t != json.Delim('{') {
			return
		}
		for d.More() {
			key, err := d.Token()
			if err != nil {
				return
			}
			var value json.RawMessage
			if d.Decode(&value) != nil {
				return
			}
			if k, _ := key.(string); strings.EqualFold(k, name) && !yield(value) {
				return
			}
		}
	}
}
