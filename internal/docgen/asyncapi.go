package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
	"github.com/lawnberry/lawnberry/topic"
)

const asyncAPIFile = "docs/asyncapi.yaml"

const asyncAPIText = `What goes over MQTT on the mower, from the view of its services: they send what an operation sends and take in what one receives.
Everything is JSON in UTF-8, in an envelope of metadata and payload. Over 1,000 bytes it may be compressed with gzip, which its first two bytes
show (1f 8b). The commands are those of the services in lawnberry serve and lawnberry demo; others are on system/services/{service}/commands while
the mower runs, and shown by lawnberry call SERVICE --help. The WebSocket of the dashboard is in asyncapi-websocket.yaml, topics for Home Assistant
are in home-assistant.md.`

// bindingVersion is of the bindings for MQTT.
const bindingVersion = "0.2.0"

// An api is the document while it grows.
type api struct {
	channels, operations, schemas, messages *yaml.Node
	commands, responses                     *yaml.Node // the messages of these channels
}

// asyncAPI returns the description of what goes over MQTT, as AsyncAPI 3.0.
func asyncAPI(registry *topic.Registry, services []described) ([]byte, error) {
	a := &api{channels: object(), operations: object(), schemas: object(), messages: object(), commands: object(), responses: object()}
	if err := a.addTypes(); err != nil {
		return nil, err
	}
	for d := range registry.All() {
		a.addTopic(registry, d)
	}
	if err := a.addService(described{id: "service", commands: service.Builtins()}, "commands_service", a.commands); err != nil {
		return nil, err
	}
	for _, s := range services {
		if len(s.commands) == 0 {
			continue
		}
		id, messages := "commands_to_"+identifier(s.id), object()
		if err := a.addService(s, id, messages); err != nil {
			return nil, err
		}
		add(a.channels, id, object(
			"address", registry.Namespace()+"/commands/"+s.id,
			"title", "Commands to the service "+s.id,
			"description", "Beside these it answers those of every service.",
			"messages", messages,
		))
	}
	text := node(asyncAPIText)
	text.Style = yaml.LiteralStyle
	doc, err := encode(object(
		"asyncapi", "3.0.0",
		"info", object(
			"title", "Lawnberry, the bus of a mower", "version", "1", "description", text,
			"externalDocs", object("url", "https://github.com/lawnberry/lawnberry"),
		),
		"defaultContentType", "application/json",
		"servers", servers(config.Default()),
		"channels", a.channels,
		"operations", a.operations,
		"components", object(
			"schemas", a.schemas,
			"messages", a.messages,
			"correlationIds", object("command", object(
				"description", "Fresh for each command, the same in its response", "location", "$message.payload#/metadata/correlation_id",
			)),
			"securitySchemes", object(
				"login", object("type", "userPassword", "description", "A user of the broker, see lawnberry user"),
				"certificate", object("type", "X509", "description", "A client's certificate, see lawnberry cert"),
			),
		),
	))
	return append([]byte("# Made from the code by make docs: change the code, not this file.\n"), doc...), err
}

func servers(c *config.Config) *yaml.Node {
	login := list(ref("components", "securitySchemes", "login"), ref("components", "securitySchemes", "certificate"))
	bindings := object("mqtt", object(
		"keepAlive", int(c.Client.KeepAlive.Seconds()), "maximumPacketSize", c.Broker.MaxPacketSize, "bindingVersion", bindingVersion,
	))
	tcp, ws := fmt.Sprintf("localhost:%d", c.Broker.Port), fmt.Sprintf("localhost:%d", c.Broker.WebSockets.Port)
	return object(
		"tcp", object("host", tcp, "protocol", "mqtt", "protocolVersion", "5.0", "security", login, "bindings", bindings,
			"description", "MQTT 5.0 and 3.1.1. Without users (lawnberry user) nobody is asked for a login, and only this host is let in."),
		"tls", object("host", tcp, "protocol", "mqtts", "protocolVersion", "5.0", "security", login, "bindings", bindings,
			"description", "The same port with broker.tls.enabled."),
		"websocket", object("host", ws, "protocol", "ws", "protocolVersion", "5.0", "security", login, "bindings", bindings,
			"description", "With broker.websockets.enabled; wss with broker.tls.enabled. The subprotocol is mqtt, at any path."),
	)
}

// addTypes adds the seven types of message.
func (a *api) addTypes() error {
	for t := range message.Types() {
		metadata, err := fromJSON(message.MetadataSchema(t))
		if err != nil {
			return err
		}
		payload, err := fromJSON(message.PayloadSchema(t))
		if err != nil {
			return err
		}
		add(a.schemas, string(t), object(
			"type", "object", "required", []string{"metadata", "payload"}, "properties", object("metadata", metadata, "payload", payload),
		))
		m := object("name", string(t), "title", "A message of the type "+string(t))
		if t == message.TypeCommand || t == message.TypeResponse {
			add(m, "correlationId", ref("components", "correlationIds", "command"))
		}
		add(m, "payload", ref("components", "schemas", string(t)))
		add(m, "bindings", messageBindings())
		add(a.messages, string(t), m)
	}
	return nil
}

func messageBindings() *yaml.Node {
	return object("mqtt", object("contentType", "application/json", "bindingVersion", bindingVersion))
}

// addTopic adds a topic of the registry.
func (a *api) addTopic(r *topic.Registry, d topic.Definition) {
	id := identifier(d.Named())
	messages := object()
	switch d.Pattern {
	case "commands/+":
		messages = a.commands
	case "responses/+":
		messages = a.responses
		add(messages, string(message.TypeEvent), ref("components", "messages", string(message.TypeEvent))) // progress
	}
	add(messages, d.Message, ref("components", "messages", d.Message))
	parameters := object()
	for level := range strings.SplitSeq(d.Named(), "/") {
		if name, found := strings.CutPrefix(level, "{"); found {
			name = strings.TrimSuffix(name, "}")
			add(parameters, name, object("description", "One level: "+parameterText(name)))
		}
	}
	c := object(
		"address", r.Namespace()+"/"+d.Named(), "title", d.Description, "description", "Published by: "+d.Publisher+".", "messages", messages,
		"parameters", parameters, "x-priority-class", d.Class.String(),
	)
	if d.Rate > 0 {
		add(c, "x-rate-per-minute", d.Rate)
	}
	if d.StaleAfter > 0 {
		add(c, "x-stale-after-seconds", int(d.StaleAfter.Seconds()))
	}
	add(c, "x-units", d.Units)
	add(a.channels, id, c)

	refs := list(ref("channels", id, "messages", d.Message))
	if d.Pattern == "responses/+" {
		refs.Content = append(refs.Content, ref("channels", id, "messages", string(message.TypeEvent)))
	}
	operation := func(action, summary string) *yaml.Node {
		return object("action", action, "channel", ref("channels", id), "summary", summary, "messages", refs,
			"bindings", operationBindings(d.QoS, d.Retain))
	}
	switch d.Pattern {
	case "commands/+": // those by name have operations of their own
		add(a.operations, "receive_"+id, operation("receive", "Any command"))
		return
	case "safety/emergency_stop", "system/health_check":
		add(a.operations, "receive_"+id, operation("receive", d.Description))
	}
	add(a.operations, "send_"+id, operation("send", d.Description))
}

func operationBindings(qos byte, retain bool) *yaml.Node {
	return object("mqtt", object("qos", int(qos), "retain", retain, "bindingVersion", bindingVersion))
}

// parameterText says what a named level is.
func parameterText(name string) string {
	switch name {
	case "service", "requester":
		return "the id of a service, or its type where commands are for any service of that type"
	case "page":
		return "2, 3 and so on"
	case "level":
		return "the level of the log line, such as info"
	}
	return "the name of the " + name
}

// addService adds the commands of a service to a channel, and their responses.
func (a *api) addService(s described, channel string, messages *yaml.Node) error {
	for _, c := range s.commands {
		name := identifier(s.id) + "_" + identifier(c.Name)
		parameters, err := a.schemaOf(name+"_parameters", c.Parameters)
		if err != nil {
			return fmt.Errorf("%s of %s: %w", c.Name, s.id, err)
		}
		result, err := a.schemaOf(name+"_result", c.Result)
		if err != nil {
			return fmt.Errorf("%s of %s: %w", c.Name, s.id, err)
		}
		in := func(properties *yaml.Node) *yaml.Node {
			return object("properties", object("payload", object("properties", properties)))
		}
		fields := object("command", object("const", c.Name))
		add(fields, "parameters", parameters)
		a.addMessage(name, "Command "+c.Name, c.Description, object("allOf", list(ref("components", "schemas", "command"), in(fields))))
		answer := ref("components", "schemas", "response")
		if result != nil {
			answer = object("allOf", list(answer, object(
				"if", in(object("success", object("const", true))), "then", in(object("result", result)),
			)))
		}
		a.addMessage(name+"_response", "Response to "+c.Name, "", answer)
		add(messages, name, ref("components", "messages", name))
		add(a.responses, name+"_response", ref("components", "messages", name+"_response"))
		o := object(
			"action", "receive", "channel", ref("channels", channel), "summary", c.Description,
			"messages", list(ref("channels", channel, "messages", name)),
			"bindings", operationBindings(2, false),
			"reply", object("channel", ref("channels", "responses_requester"),
				"messages", list(ref("channels", "responses_requester", "messages", name+"_response"))),
		)
		if c.Repeatable {
			add(o, "x-repeatable", true)
		}
		add(a.operations, "call_"+name, o)
	}
	return nil
}

func (a *api) addMessage(name, title, text string, payload *yaml.Node) {
	add(a.messages, name, object("name", name, "title", title, "description", text,
		"correlationId", ref("components", "correlationIds", "command"), "payload", payload, "bindings", messageBindings()))
}

// schemaOf returns a schema of a command as YAML, nil for none. Its definitions come to those of the document, by the name of the command.
func (a *api) schemaOf(name string, raw json.RawMessage) (*yaml.Node, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	s, err := fromJSON(raw)
	if err != nil {
		return nil, err
	}
	if s.Kind != yaml.MappingNode || len(s.Content) == 0 {
		return nil, nil
	}
	for i := 0; i < len(s.Content); i += 2 {
		if s.Content[i].Value != "$defs" {
			continue
		}
		defs := s.Content[i+1]
		s.Content = append(s.Content[:i:i], s.Content[i+2:]...)
		for j := 0; j < len(defs.Content); j += 2 {
			add(a.schemas, name+"_"+identifier(defs.Content[j].Value), defs.Content[j+1])
			redirect(defs.Content[j+1], name)
		}
		break
	}
	redirect(s, name)
	return s, nil
}

// redirect makes references to definitions of a schema refer to those of the document.
func redirect(n *yaml.Node, name string) {
	if r := refTo(n); r != nil {
		if def, found := strings.CutPrefix(r.Value, "#/$defs/"); found {
			r.Value = "#/components/schemas/" + name + "_" + identifier(def)
		}
	}
	for _, c := range n.Content {
		redirect(c, name)
	}
}

// identifier makes a key of a name or a topic.
func identifier(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '{' || r == '}':
			return -1
		case r < 128 && isLetter(r), r >= '0' && r <= '9', r == '-':
			return r
		}
		return '_'
	}, name)
}
