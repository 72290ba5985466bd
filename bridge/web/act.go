package web

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/topic"
)

// A forbidden error is something that a user may not do.
type forbidden struct{ err error }

func (f *forbidden) Error() string { return "not allowed: " + f.err.Error() }
func (f *forbidden) Unwrap() error { return f.err }

// A badRequest is something that cannot be done as it was asked for.
type badRequest struct{ text string }

func (e *badRequest) Error() string { return e.text }

// publish publishes what a browser has sent, if its user may.
func (b *Bridge) publish(ctx context.Context, rights Rights, r *request) error {
	full, err := b.svc.Client().Topics().Resolve(r.Topic)
	if err == nil {
		err = topic.CheckName(full)
	}
	if err != nil {
		return &badRequest{"topic: " + err.Error()}
	}
	body := []byte(r.Data)
	var text string
	if json.Unmarshal(r.Data, &text) == nil {
		body = []byte(text)
	} else {
		var compact bytes.Buffer
		if json.Compact(&compact, r.Data) == nil {
			body = compact.Bytes()
		}
	}
	if string(r.Data) == "null" {
		body = nil
	}
	if rights != nil {
		if err := rights.MaySend(full, body); err != nil {
			return &forbidden{err}
		}
	}
	var opts []client.PublishOption
	if r.QoS != nil {
		if *r.QoS > 2 {
			return &badRequest{"qos: want 0, 1 or 2"}
		}
		opts = append(opts, client.WithQoS(*r.QoS))
	}
	if r.Retain != nil {
		opts = append(opts, client.WithRetain(*r.Retain))
	}
	return b.svc.Publish(ctx, topic.Absolute(full), message.NewRaw(body), opts...)
}

// call sends a command for a browser, if its user may. The target sees the bridge as the sender.
func (b *Bridge) call(ctx context.Context, user string, rights Rights, target, command string, parameters json.RawMessage, opts ...client.CallOption) (json.RawMessage, error) {
	if err := topic.CheckLevel("service", target); err != nil {
		return nil, &badRequest{err.Error()}
	}
	switch command {
	case "":
		return nil, &badRequest{"command is missing"}
	case takeControl, "keep_control", "leave_control": // of a lease that would be nobody's, and outlive the page
		return nil, &client.CommandError{Service: target, Command: command, Code: client.CodeRefused,
			Message: "control is for pages that drive, and as long as they do: see the op drive of the WebSocket"}
	}
	if len(parameters) == 0 || string(parameters) == "null" {
		parameters = json.RawMessage("{}")
	}
	var object map[string]json.RawMessage
	if json.Unmarshal(parameters, &object) != nil {
		return nil, &badRequest{"parameters: want an object"}
	}
	if rights != nil {
		full, err := b.svc.Client().Topics().Resolve("commands/" + target)
		if err != nil {
			return nil, &badRequest{err.Error()}
		}
		body, err := json.Marshal(map[string]any{"target": target, "command": command, "parameters": object})
		if err != nil {
			return nil, &badRequest{err.Error()}
		}
		if err := rights.MaySend(full, body); err != nil {
			return nil, &forbidden{err}
		}
	}
	if target == safety.HubID && command == "release" && user != "" { // so that it is known who did
		object["by"], _ = json.Marshal(user)
		parameters, _ = json.Marshal(object)
	}
	var result json.RawMessage
	err := b.svc.Call(ctx, target, command, parameters, &result, opts...)
	return result, err
}

// engage engages the emergency stop. Whoever is let in may.
func (b *Bridge) engage(ctx context.Context, user, reason string) error {
	who := cmp.Or(user, "somebody")
	return b.latch.Engage(ctx, fmt.Sprintf("%s, by %s on the web page", cmp.Or(reason, "STOP"), who))
}

// explain returns a code and a text for an error.
func explain(err error) (code, text string) {
	var command *client.CommandError
	var bad *badRequest
	var no *forbidden
	switch {
	case errors.As(err, &no):
		return "forbidden", err.Error()
	case errors.As(err, &bad):
		return "bad_request", err.Error()
	case errors.As(err, &command):
		return command.Code, cmp.Or(command.Message, err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout", "no answer in time"
	case errors.Is(err, context.Canceled):
		return "cancelled", "cancelled"
	}
	return "failed", err.Error()
}
