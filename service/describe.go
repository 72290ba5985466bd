package service

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
)

// Command describes a command of a service.
type Command struct {
	Name        string          `json:"name"`
	Description string          `json:"description,omitempty"`
	Parameters  json.RawMessage `json:"parameters,omitempty"` // JSON Schema; none when it did not fit
	Result      json.RawMessage `json:"result,omitempty"`     // JSON Schema; none when it did not fit
	Repeatable  bool            `json:"repeatable,omitempty"` // it may run twice, so it may be sent again when its outcome is unknown
}

// Commands are descriptions of a service's commands as they are published, retained, on system/services/{id}/commands: an
// event of the type service_commands. What does not fit into one message follows on system/services/{id}/commands/2 and so on.
// They stay there when the service goes offline.
type Commands struct {
	ServiceID   string    `json:"service_id"`
	ServiceType string    `json:"service_type"`
	Page        int       `json:"page"` // from 1
	Pages       int       `json:"pages"`
	Commands    []Command `json:"commands"`
}

// ReadCommands reads a message on system/services/{id}/commands or below. The service is the one in its topic, whatever the
// message says. ok is false for what is no description.
func ReadCommands(d *client.Delivery) (c Commands, ok bool) {
	id, page := commandsTopic(d.Topic)
	if id == "" || d.Message.Raw {
		return c, false
	}
	e, err := message.Payload[message.Event](d.Message)
	if err != nil || e.EventType != eventCommands || json.Unmarshal(e.EventData, &c) != nil {
		return c, false
	}
	c.ServiceID, c.Page = id, page
	c.Commands = slices.DeleteFunc(c.Commands, func(c Command) bool { return c.Name == "" })
	return c, true
}

// commandsTopic returns the service and the page that a topic is for; page is 0 if it is for none.
func commandsTopic(topic string) (id string, page int) {
	levels := strings.Split(topic, "/")
	if len(levels) < 4 || levels[0] != "system" || levels[1] != "services" || levels[3] != "commands" {
		return "", 0
	}
	switch len(levels) {
	case 4:
		return levels[2], 1
	case 5:
		if n, err := strconv.Atoi(levels[4]); err == nil && n > 1 && strconv.Itoa(n) == levels[4] {
			return levels[2], n
		}
	}
	return "", 0
}

const (
	eventCommands = "service_commands"
	// describeAfter is how long nothing more is registered before descriptions are published again.
	describeAfter = 100 * time.Millisecond
	// envelopeRoom is for what surrounds the descriptions in a message.
	envelopeRoom = 1024
)

// A HandleOption changes what Handle registers.
type HandleOption func(*Command)

// Description says what a command does, in a sentence for people.
func Description(text string) HandleOption { return func(c *Command) { c.Description = text } }

// Repeatable says that a command may run twice, as one that only tells something. Its caller may send it again when its outcome is
// unknown. With client.Options.Dir it leaves no record on the disk, for which others wait before they begin.
func Repeatable() HandleOption { return func(c *Command) { c.Repeatable = true } }

// describe makes the description of a command whose parameters are a P and whose result is an R.
func describe[P, R any](command string, opts []HandleOption) Command {
	c := Command{Name: command, Parameters: schemaOf(reflect.TypeFor[P](), false, defaultsOf[P]())}
	if r := reflect.TypeFor[R](); r != reflect.TypeFor[any]() {
		c.Result = schemaOf(r, true, reflect.Value{})
	}
	for _, o := range opts {
		o(&c)
	}
	return c
}

// defaulter is what parameters have that say their defaults.
type defaulter interface{ SetDefaults() }

// defaultsOf returns a P with its defaults, the zero value if it has none.
func defaultsOf[P any]() reflect.Value {
	var p P
	if d, ok := any(&p).(defaulter); ok {
		d.SetDefaults()
		return reflect.ValueOf(p)
	}
	return reflect.Value{}
}

// A catalogue is what a service has published about its commands.
type catalogue struct {
	pages   [][]byte // event_data, as published
	surplus int      // the last page that a former process has left, or this one had more of
	begun   bool     // Options.Setup has returned
}

func (s *Service) commandsTopic(page int) string {
	if page == 1 {
		return "system/services/" + s.o.ID + "/commands"
	}
	return fmt.Sprintf("system/services/%s/commands/%d", s.o.ID, page)
}

// describeSoon has the descriptions published again once no more change.
func (s *Service) describeSoon() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// describeChanges publishes the descriptions after changes, until the service ends.
func (s *Service) describeChanges() {
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.changed:
		}
		for more := true; more; {
			timer := time.NewTimer(describeAfter)
			select {
			case <-s.ctx.Done():
				timer.Stop()
				return
			case <-s.changed:
				timer.Stop()
			case <-timer.C:
				more = false
			}
		}
		s.publishCommands(false)
	}
}

// publishCommands publishes the descriptions of all commands, if they have changed since the last time or again is set, and
// clears what former ones have left.
func (s *Service) publishCommands(again bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase >= stopping || again && !s.catalogue.begun {
		return
	}
	s.catalogue.begun = true
	pages := s.describeLocked()
	for i, page := range pages {
		if !again && i < len(s.catalogue.pages) && bytes.Equal(page, s.catalogue.pages[i]) {
			continue
		}
		m, err := message.NewEvent(s.o.ID, message.Event{EventType: eventCommands, EventData: page, Source: s.o.ID})
		if err != nil {
			s.log.Error("commands cannot be described", "error", err)
			continue
		}
		s.mail.put(letter{s.commandsTopic(i + 1), m, retained()})
	}
	last := max(s.catalogue.surplus, len(s.catalogue.pages))
	for n := len(pages) + 1; n <= last; n++ {
		s.mail.put(letter{s.commandsTopic(n), message.NewRaw(nil), retained()})
	}
	s.catalogue.pages, s.catalogue.surplus = pages, 0
}

// onCommands clears descriptions that a former process has left and this one does not replace.
func (s *Service) onCommands(_ context.Context, d *client.Delivery) {
	_, page := commandsTopic(d.Topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(d.Message.Payload) == 0 || page <= len(s.catalogue.pages) {
		return
	}
	s.catalogue.surplus = max(s.catalogue.surplus, page)
	if s.catalogue.begun {
		s.describeSoon()
	}
}

// describeLocked returns the pages of descriptions, each the data of an event that fits into a message. s.mu is held.
func (s *Service) describeLocked() [][]byte {
	room := s.client.MaxPayload() - envelopeRoom
	var pages []Commands
	size := 0
	for _, name := range slices.Sorted(maps.Keys(s.described)) {
		c := s.described[name]
		n := jsonSize(c)
		for _, leaveOut := range []*json.RawMessage{&c.Result, &c.Parameters} {
			if n > room { // better without than not at all
				*leaveOut = nil
				n = jsonSize(c)
			}
		}
		if n > room {
			s.log.Warn("command not described: it does not fit into a message", "command", name, "bytes", n, "limit", room)
			continue
		}
		if len(pages) == 0 || size+n > room {
			pages = append(pages, Commands{ServiceID: s.o.ID, ServiceType: s.o.Type, Page: len(pages) + 1})
			size = 0
		}
		size += n + 1
		p := &pages[len(pages)-1]
		p.Commands = append(p.Commands, c)
	}
	var out [][]byte
	for _, p := range pages {
		p.Pages = len(pages)
		raw, err := message.EncodeJSON(p)
		if err != nil {
			s.log.Error("commands cannot be described", "error", err)
			return nil
		}
		out = append(out, raw)
	}
	return out
}

func jsonSize(c Command) int {
	raw, err := message.EncodeJSON(c)
	if err != nil {
		return 1 << 30
	}
	return len(raw)
}
