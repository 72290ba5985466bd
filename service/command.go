package service

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/client"
)

// handler runs a command with its undecoded parameters.
type handler func(ctx context.Context, parameters json.RawMessage) (result any, err error)

// Call sends a command to a service id or type and decodes its result into result, a pointer (nil ignores it). Without a
// deadline in ctx it waits 30 s. Its errors are *[client.CommandError]; a service known to be offline is not asked at all, and one
// that goes offline meanwhile is waited for a second longer.
func (s *Service) Call(ctx context.Context, target, command string, parameters, result any, opts ...client.CallOption) error {
	if lastSeen, offline := s.registry.offline(target); offline {
		text := target + " is offline"
		if !lastSeen.IsZero() {
			text += ", last seen " + readable(time.Since(lastSeen)) + " ago"
		}
		return &client.CommandError{Service: target, Command: command, Code: client.CodeOffline, Message: text}
	}
	if !s.registry.announced(target) {
		opts = append(opts[:len(opts):len(opts)], client.Unannounced())
	}
	return s.client.Call(ctx, target, command, parameters, result, opts...)
}

// Caller returns who has sent the command that a handler runs for: the sender that it names, which the broker answers for where there is
// access control. "" is a plain MQTT 5 client that does not say, or another ctx.
func Caller(ctx context.Context) string {
	r, ok := client.RequestFrom(ctx)
	if !ok {
		return ""
	}
	return r.Sender
}

// ReportProgress tells the caller of a command how far its handler is, if the caller asked for it with
// [client.WithProgress]. ctx is the handler's. It never waits; at most 10 values a second go out, the latest ones.
func ReportProgress(ctx context.Context, value any) { client.Progress(ctx, value) }

// Handle registers a typed handler for a command; registering it again replaces it. Calls run concurrently, each in a
// goroutine of its own, and ctx ends at the caller's deadline.
//
// P is what the parameters decode into: a struct, a map, any, or struct{} for none. Parameters that do not fit are refused
// with the code bad_parameters naming the field, unknown ones are ignored. When P (or *P) has a method Validate() error,
// its error is one of bad_parameters too. R is anything that encodes as JSON. The text of h's error reaches the caller; a
// *[client.CommandError] decides the code as well. A panic in h is an error of the code failed.
//
// A P (or *P) with a method SetDefaults() has it called before the parameters are decoded into it.
//
// The command is described to everyone, see [Commands]: its name, the text of [Description], and the JSON Schema of P and R,
// with the text that struct tags give fields (doc:"metres from the dock") and what SetDefaults sets. Descriptions are published
// when Options.Setup has returned, and 100 ms after later changes.
//
// Handle panics when command is empty, h is nil, or command is ping, status, shutdown or log_level, which every service answers alike.
func Handle[P, R any](s *Service, command string, h func(ctx context.Context, p P) (R, error), opts ...HandleOption) {
	if command == "" || h == nil {
		panic("service.Handle: a command needs a name and a handler")
	}
	s.handle(describe[P, R](command, opts), func(ctx context.Context, raw json.RawMessage) (any, error) {
		p, err := decodeParameters[P](raw)
		if err != nil {
			return nil, &client.CommandError{Service: s.o.ID, Command: command, Code: client.CodeBadParameters, Message: err.Error()}
		}
		return h(ctx, p)
	})
}

func (s *Service) handle(c Command, h handler) {
	if isBuiltin(c.Name) {
		panic(fmt.Sprintf("service.Handle: every service answers %q by itself", c.Name))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handlers[c.Name] = h
	s.described[c.Name] = c
	if s.catalogue.begun {
		s.describeSoon()
	}
}

// decodeParameters decodes raw into a P. Its error names the field.
func decodeParameters[P any](raw json.RawMessage) (p P, err error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || string(raw) == "null" {
		raw = json.RawMessage("{}")
	}
	if d, ok := any(&p).(defaulter); ok {
		d.SetDefaults()
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return p, parameterError(raw, reflect.TypeFor[P](), err)
	}
	if v, ok := any(&p).(interface{ Validate() error }); ok {
		if err := v.Validate(); err != nil {
			return p, err
		}
	}
	return p, nil
}

// parameterError says which field of raw does not fit into a t, and why.
func parameterError(raw json.RawMessage, t reflect.Type, err error) error {
	wrong := (*json.UnmarshalTypeError)(nil)
	if errors.As(err, &wrong) && wrong.Field != "" {
		return fmt.Errorf("parameters.%s must be %s, not %s", wrong.Field, kindName(wrong.Type), wrong.Value)
	}
	// A map, or a type's own decoding (a time, say), does not know the field: try each alone.
	var all map[string]json.RawMessage
	if json.Unmarshal(raw, &all) == nil {
		for _, key := range slices.Sorted(maps.Keys(all)) {
			alone, _ := json.Marshal(map[string]json.RawMessage{key: all[key]})
			e := json.Unmarshal(alone, reflect.New(t).Interface())
			switch {
			case e == nil:
			case errors.As(e, &wrong):
				return fmt.Errorf("parameters.%s must be %s, not %s", key, kindName(wrong.Type), wrong.Value)
			default:
				return fmt.Errorf("parameters.%s: %w", key, e)
			}
		}
	}
	if wrong != nil {
		return fmt.Errorf("parameters must be %s, not %s", kindName(wrong.Type), wrong.Value)
	}
	return fmt.Errorf("parameters: %w", err)
}

// kindName names what JSON must have for a Go type.
func kindName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "a whole number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number, 0 or more"
	case reflect.Slice, reflect.Array:
		return "an array"
	case reflect.Struct, reflect.Map:
		return "an object"
	}
	return "a " + t.String()
}

// dispatch runs the handler of a command. What came before Options.Setup had returned waits for it.
func (s *Service) dispatch(ctx context.Context, r *client.Request) (result any, err error) {
	fail := func(code, text string) error {
		return &client.CommandError{Service: s.o.ID, Command: r.Command, Code: code, Message: text}
	}
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("command handler panicked", "command", r.Command, "panic", p)
			result, err = nil, fail(client.CodeFailed, fmt.Sprintf("its handler panicked: %v", p))
		}
	}()
	if h := s.builtin(r.Command); h != nil {
		return h(r.Parameters)
	}
	select {
	case <-s.ready:
	case <-s.done:
	case <-ctx.Done():
		return nil, fail(client.CodeFailed, "the service is still being set up")
	}
	s.mu.Lock()
	h, leaving := s.handlers[r.Command], s.phase >= stopping
	s.mu.Unlock()
	switch {
	case leaving: // what the functions of OnShutdown have put to rest must not be set going again
		return nil, fail(client.CodeRefused, "the service is stopping, the command was not run")
	case h == nil:
		return nil, fail(client.CodeUnknownCommand, fmt.Sprintf("unknown command %q, known are: %s", r.Command, strings.Join(s.commands(), ", ")))
	}
	return h(ctx, r.Parameters)
}

// commands returns the names of all commands that it offers, sorted.
func (s *Service) commands() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(func(yield func(string) bool) {
		for name := range s.handlers {
			if !yield(name) {
				return
			}
		}
		for _, name := range builtins {
			if s.offers(name) && !yield(name) {
				return
			}
		}
	})
}
